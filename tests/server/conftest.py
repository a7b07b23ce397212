"""Gateways for the repository of `market.py`."""

from collections.abc import Iterator
from pathlib import Path

import guarded
import market
import pytest
import trustme
from feast import FeatureStore
from served import Served, serving

from hotfeast.server.local_redis import LocalRedis


@pytest.fixture(scope="session")
def market_store(
    redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory
) -> FeatureStore:
    """The repository of `market.py`, applied and filled."""
    folder = tmp_path_factory.mktemp("market")
    market.write_repository(folder, "market", redis_server.address)
    store = market.apply(folder)
    market.fill(store)
    return store


@pytest.fixture(scope="session")
def strict(market_store: FeatureStore) -> Iterator[Served]:
    """A gateway with statuses that tell the truth."""
    with serving(market_store) as served:
        yield served


@pytest.fixture(scope="session")
def lenient(market_store: FeatureStore) -> Iterator[Served]:
    """A gateway with the statuses of Feast's Python server."""
    with serving(market_store, "feast") as served:
        yield served


@pytest.fixture(scope="session")
def private(redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """The repository of `guarded.py`, applied and filled."""
    folder = tmp_path_factory.mktemp("private")
    return guarded.make_repository(folder, "private", redis_server.address)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    """A certificate authority, and the file with its certificate."""
    ca = trustme.CA()
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return ca, path
