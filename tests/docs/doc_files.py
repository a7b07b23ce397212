"""Gives blocks that are files to what reads such files."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from doc_world import World
from feast.repo_config import load_repo_config
from grpc_tools import protoc

from hotfeast.protos import PROTO_ROOT
from hotfeast.server.config import read_configuration
from hotfeast.server.layouts import repository_layout
from hotfeast.server.lint.rules import RULES
from hotfeast.server.lint.settings import read_settings
from hotfeast.server.monitoring.open_alerts import open_rules
from hotfeast.server.redis_pools import connection_pool
from hotfeast.server.security.policy import JwtRules, read_policy
from hotfeast.server.traffic.aliases import read_aliases


def read_yaml(text: str, kind: str, world: World) -> None:
    """Reads a YAML file.

    Args:
        text: What is in it.
        kind: What it is for.
        world: Where it is read.

    Raises:
        ValueError: It is not known what such files are for.
    """
    reader = _READERS.get(kind)
    if reader is None:
        raise ValueError(f'for="{kind}": there are {", ".join(_READERS)}')
    reader(text, world)


def compile_proto(text: str, world: World) -> None:
    """Compiles a .proto file, which may import those of the protocol."""
    path = world.folder / "block.proto"
    path.write_text(text, encoding="utf-8")
    code = protoc.main(
        [
            "protoc",
            f"--proto_path={world.folder}",
            f"--proto_path={PROTO_ROOT}",
            f"--proto_path={files('grpc_tools') / '_proto'}",
            f"--descriptor_set_out={world.folder / 'block.descriptor'}",
            str(path),
        ]
    )
    assert code == 0, text


def _alerts(text: str, world: World) -> None:
    path = world.folder / "alerts.yaml"
    path.write_text(text, encoding="utf-8")
    rules, _, _ = open_rules(world.repo, path)
    assert rules.rules


def _aliases(text: str, world: World) -> None:
    assert read_aliases(text)


def _feature_store(text: str, world: World) -> None:
    """A part of a repository's file, in place of the same part of the one that is served."""
    said: dict[str, Any] = yaml.safe_load((world.repo / "feature_store.yaml").read_text())
    path = world.folder / "feature_store.yaml"
    path.write_text(yaml.safe_dump({**said, **yaml.safe_load(text)}), encoding="utf-8")
    config = load_repo_config(Path(world.folder), path)
    repository_layout(config)
    read_settings(config, RULES)
    connection_pool(config, None, 1.0).disconnect()


def _settings(text: str, world: World) -> None:
    path = world.folder / "hotfeast.yaml"
    path.write_text(text, encoding="utf-8")
    found = read_configuration({}, {}, path)
    assert found.warnings == ()
    found.settings()


def _policy(text: str, world: World) -> None:
    path = world.folder / "access.yaml"
    path.write_text(text, encoding="utf-8")
    assert read_policy(path).grants


def _jwt(text: str, world: World) -> None:
    JwtRules.model_validate(yaml.safe_load(text))


_READERS: dict[str, Callable[[str, World], None]] = {
    "alerts": _alerts,
    "aliases": _aliases,
    "feature_store": _feature_store,
    "settings": _settings,
    "jwt": _jwt,
    "policy": _policy,
}
