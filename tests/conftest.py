"""What the tests share: a real Redis on a free port, and a Feast repository to serve from it."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything else imports Feast: this is its quick import.
import hotfeast.server.feast_api  # noqa: F401
from hotfeast.server.local_redis import LocalRedis

logging.getLogger("feast").setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[LocalRedis]:
    """A Redis server for the whole run; tests keep apart by Feast project."""
    with LocalRedis() as server:
        yield server


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent
