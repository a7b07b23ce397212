"""The one gateway that all blocks are run against."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from doc_world import World, open_world

from hotfeast.server.local_redis import LocalRedis


@pytest.fixture(scope="session")
def world(
    checkout: Path, redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """A gateway that serves what pages speak of."""
    with open_world(checkout, tmp_path_factory.mktemp("docs"), redis_server) as opened:
        yield opened
