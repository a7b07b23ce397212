"""The repository as it was at a time: in a Redis of its own, and served from there.

Nothing of the repository itself is changed. The data comes from prepare.py and the registry from
`feast apply`.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

# Feast first, by its quick import.
import hotfeast.server.feast_api  # isort: skip  # noqa: F401
from feast import FeatureStore
from prepare import KEYS, WEEK

from bench.processes import Server
from hotfeast.clients import FeatureClient
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.materialize import materialize

REDIS_VARIABLE = "HOTFEAST_REDIS"
REGISTRY = "data/registry.db"
# Rows this much older than their TTL are materialized too, so that there is something too old.
BEYOND_TTL = WEEK


@contextmanager
def copied_repository(repo: Path) -> Iterator[Path]:
    """A repository of the same definitions and data, with a registry and logs of its own, and an
    empty Redis that its feature_store.yaml names.

    Raises:
        ValueError: The data is not prepared, or `feast apply` was not run.
    """
    missing = [name for name in KEYS if not (repo / "data" / f"{name}.parquet").is_file()]
    if missing:
        raise ValueError(f"{repo / 'data'} has no {missing[0]}.parquet; run prepare.py first")
    if not (repo / REGISTRY).is_file():
        raise ValueError(f"{repo / REGISTRY} is not there; run `feast apply` in {repo} first")
    before = os.environ.get(REDIS_VARIABLE)
    with tempfile.TemporaryDirectory(prefix="hotfeast-copy-") as folder, LocalRedis() as redis:
        copy = Path(folder)
        (copy / "data").mkdir()
        shutil.copy(repo / "feature_store.yaml", copy)
        shutil.copy(repo / REGISTRY, copy / REGISTRY)
        for name in KEYS:
            file = f"data/{name}.parquet"
            (copy / file).symlink_to((repo / file).resolve())
        os.environ[REDIS_VARIABLE] = redis.address
        try:
            yield copy
        finally:
            if before is None:
                del os.environ[REDIS_VARIABLE]
            else:
                os.environ[REDIS_VARIABLE] = before


def fill(store: FeatureStore, service: str, until: datetime) -> None:
    """Materialize the views of a service up to and including `until`.

    Raises:
        FeatureServiceNotFoundException: The registry has no such service.
        RuntimeError: A view could not be materialized.
    """
    for view in store.get_feature_service(service).feature_view_projections:
        ttl = store.get_feature_view(view.name).ttl or timedelta(0)
        summary = materialize(store, until - ttl - BEYOND_TTL, until, [view.name])
        if summary.exit_code != 0:
            raise RuntimeError(f"{view.name} was not materialized: {summary.views[0].error}")


@contextmanager
def served(repo: Path, as_of: datetime, *options: str) -> Iterator[FeatureClient]:
    """A gateway for a repository at a time, and a client of it; it has ended when this returns.

    Args:
        repo: The repository.
        as_of: What TTLs are judged against.
        options: More of `hotfeast serve`.
    """
    gateway = Server(
        "hotfeast.server", "serve", "--repo", str(repo), "--bind", "127.0.0.1:0",
        "--as-of", as_of.isoformat(), *options,
        ready=r"(?m)^Hotfeast serves .* on .*:(\d+) .*$",
    )  # fmt: skip
    with gateway, FeatureClient(f"127.0.0.1:{gateway.port()}", timeout=30) as client:
        yield client
