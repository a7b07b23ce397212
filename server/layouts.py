"""How a project's rows are stored: whose layout is which, and the schemas of packed rows.

The layout of a view is that of its tag `hotfeast.layout`; without one that of the command line; and
without that the one under `hotfeast` in feature_store.yaml, which Feast leaves alone:

    hotfeast:
      layout: packed

Packed rows name the features that they hold by number (`schema_number`). Which features a number
stands for is known from the view's definition, and for rows of earlier definitions from a hash in
Redis, `hotfeast:schemas:<project>`, that every writer keeps up.
"""

import logging
import threading
import time
from functools import cached_property
from typing import Any

from hotfeast.hotpath.definition import LAYOUTS, WriteDefinition, schema_number
from hotfeast.hotpath.plan import Plan
from hotfeast.server.errors import StartFailure, not_servable
from hotfeast.server.feast_api import RepoConfig
from hotfeast.server.redis_clients import Pool, client_of

logger = logging.getLogger(__name__)

LAYOUT_TAG = "hotfeast.layout"
"""The tag of a view that says how its rows are stored."""

# Seconds after which a writer records a schema again, in case Redis has lost it, and after which
# a schema that was recorded nowhere is looked for again.
_RECORD_AGAIN = 30.0
_LOOK_AGAIN = 5.0
_FIELD_SIZE = 4
_PREFIX = "_ts:"
_KEY = "hotfeast:schemas:{}"


def repository_layout(config: RepoConfig) -> str:
    """The layout that feature_store.yaml names; Feast's if it names none.

    Raises:
        StartFailure: It names one that there is not.
    """
    settings: Any = getattr(config, "hotfeast", None)
    if settings is None:
        return LAYOUTS[0]
    layout = settings.get("layout", LAYOUTS[0]) if isinstance(settings, dict) else settings
    if layout not in LAYOUTS:
        raise StartFailure(
            f"hotfeast.layout in feature_store.yaml is {layout!r}; use one of {', '.join(LAYOUTS)}"
        )
    return str(layout)


def view_layout(view: str, tags: dict[str, str], default: str) -> str:
    """The layout of a view's rows.

    Args:
        view: Its name.
        tags: Its tags.
        default: The layout of views without the tag.

    Raises:
        RequestFailure: Its tag names none that there is.
    """
    layout = tags.get(LAYOUT_TAG, default)
    if layout not in LAYOUTS:
        raise not_servable(
            f"feature view {view!r}: tag {LAYOUT_TAG}={layout!r} names no layout; "
            f"use one of {', '.join(LAYOUTS)}"
        )
    return layout


class Schemas:
    """Which features packed rows hold, as recorded in Redis. For any number of threads."""

    def __init__(self, pool: Pool) -> None:
        """
        Args:
            pool: Connections.
        """
        self._pool = pool
        self._lock = threading.Lock()
        self._recorded: dict[tuple[str, str], float] = {}
        self._lost: dict[tuple[str, str], float] = {}

    @cached_property
    def _client(self) -> Any:
        return client_of(self._pool)

    def record(self, definition: WriteDefinition) -> None:
        """Records what rows that are going to be written hold. Does nothing if it just has.

        Raises:
            redis.RedisError: Redis did not answer, or does not allow it.
        """
        fields = [feature.hash_field for feature in definition.features]
        name = _place(definition.project, definition.time_field, schema_number(fields))
        now = time.monotonic()
        if now - self._recorded.get(name, -_RECORD_AGAIN) < _RECORD_AGAIN:
            return
        self._client.hset(*name, b"".join(fields))
        self._recorded[name] = now

    def learn(self, plan: Plan, view: int, number: int) -> bool:
        """Makes a schema known to a plan.

        Args:
            plan: The plan.
            view: The view's index in it.
            number: The schema's number.

        Returns:
            Whether it is recorded.

        Raises:
            redis.RedisError: Redis did not answer, or does not allow it.
        """
        of = plan.definition
        name = _place(of.project, of.views[view].time_field, number)
        now = time.monotonic()
        with self._lock:
            if now - self._lost.get(name, -_LOOK_AGAIN) < _LOOK_AGAIN:
                return False
            recorded = self._client.hget(*name)
            if recorded is None:
                self._lost[name] = now
                logger.warning(
                    "there are packed rows of the features %s, which %s has not", *reversed(name)
                )
                return False
        fields = [recorded[i : i + _FIELD_SIZE] for i in range(0, len(recorded), _FIELD_SIZE)]
        plan.add_schema(view, tuple(fields))
        return True

    def recorded(self, project: str) -> dict[str, dict[int, bytes]]:
        """All schemas of a project: for each view's name in the store, and each schema's number,
        the hash fields of its features, in their order.

        Raises:
            redis.RedisError: Redis did not answer, or does not allow it.
        """
        schemas: dict[str, dict[int, bytes]] = {}
        stored = self._client.hgetall(_KEY.format(project))
        for place, fields in stored.items():
            view, _, number = place.decode().rpartition(":")
            schemas.setdefault(view, {})[int(number, 16)] = fields
        return schemas


def schemas_key(project: str) -> str:
    """The Redis key of the hash that a project's schemas are recorded in."""
    return _KEY.format(project)


def _place(project: str, time_field: bytes, number: int) -> tuple[str, str]:
    """Where a schema is recorded: the Redis key and the field of its hash."""
    view = time_field.decode().removeprefix(_PREFIX)
    return schemas_key(project), f"{view}:{number:08x}"
