"""Makes `tests.hotpath.helpers` importable however pytest is started; sets hypothesis up; a Redis
for each module that wants one."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from hotfeast.server.local_redis import LocalRedis

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

# No deadline: two cores, shared with whatever else runs, make single examples slow at times.
settings.register_profile(
    "hotpath",
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("hotpath")


@pytest.fixture(scope="module")
def server() -> Iterator[LocalRedis]:
    """A Redis server of the module's own, which it may empty."""
    with LocalRedis() as running:
        yield running


@pytest.fixture(scope="module")
def client(server: LocalRedis) -> Iterator[Any]:
    """A client of it."""
    with server.client() as made:
        yield made
