"""The repository of `tests/server/market.py`, for gateways that are watched."""

from collections.abc import Iterator

import market
import pytest
from alerting import Hook
from feast import FeatureStore

from hotfeast.server.local_redis import LocalRedis


@pytest.fixture(scope="session")
def market_store(
    redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory
) -> FeatureStore:
    """Applied and filled, under a project of its own."""
    folder = tmp_path_factory.mktemp("watched")
    market.write_repository(folder, "watched", redis_server.address)
    store = market.apply(folder)
    market.fill(store)
    return store


@pytest.fixture
def hook() -> Iterator[Hook]:
    """A local HTTP server that takes notifications."""
    hook = Hook()
    yield hook
    hook.let_go.set()
    hook.server.shutdown()
    hook.server.server_close()
