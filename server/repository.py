"""A Feast repository, opened; and what goes wrong with that, for people."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from pydantic import ValidationError

from hotfeast.server.errors import StartFailure
from hotfeast.server.feast_api import FeatureStore, RepoConfig
from hotfeast.server.security.faults import faults_of


def open_repository(repo: Path) -> FeatureStore:
    """Opens a Feast repository.

    Raises:
        StartFailure: There is none, its configuration is invalid, or its keys are of a version that
            cannot be served.
    """
    if not (repo / "feature_store.yaml").is_file():
        raise StartFailure(
            f"{repo} has no feature_store.yaml; --repo names the folder of a Feast repository"
        )
    try:
        store = FeatureStore(repo_path=str(repo))
    except Exception as error:
        file = repo / "feature_store.yaml"
        raise StartFailure(f"{file} is not valid: {_words(error, file)}") from None
    version = store.config.entity_key_serialization_version
    if version != 3:
        raise StartFailure(
            f"entity_key_serialization_version is {version}; only version 3 is served: set it in "
            "feature_store.yaml and materialize again (Feast's guide to re-serialization says how)"
        )
    return store


def _words(error: BaseException, file: Path) -> str:
    """Why a configuration is not valid, without what stands in it: it may have passwords."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ValidationError):
            return "; ".join(f"{_section_of(fault, file)}{fault}" for fault in faults_of(cause))
        if isinstance(cause, yaml.MarkedYAMLError):
            line = 0 if cause.problem_mark is None else cause.problem_mark.line + 1
            return f"line {line}: {cause.problem}"
        cause = cause.__cause__ or cause.__context__
    return str(error)


def _section_of(fault: str, file: Path) -> str:
    """The part of the file that a fault is in, with a dot, where the fault does not name it: Feast
    hands a part such as `online_store` to a class of its own, which does not know what it is."""
    field = fault.partition(":")[0].partition(".")[0].partition("[")[0]
    if field in RepoConfig.model_fields:
        return ""
    try:
        said = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return ""
    parts = [name for name, part in said.items() if isinstance(part, dict) and field in part]
    return f"{parts[0]}." if len(parts) == 1 else ""


@contextmanager
def reading_registry(repo: Path | FeatureStore) -> Iterator[None]:
    """Has whatever goes wrong in reading a registry end as a `StartFailure`.

    Args:
        repo: Whose it is.
    """
    try:
        yield
    except StartFailure:
        raise
    except Exception as error:
        of = repo.repo_path if isinstance(repo, FeatureStore) else repo
        raise StartFailure(f"the registry of {of} cannot be read: {error}") from error
