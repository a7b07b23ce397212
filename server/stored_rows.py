"""A sample of the rows that are stored already, which kernels are proved on.

Keys are found with SCAN, a bounded number of steps of a few hundred keys each, and told apart from
those of other projects and other entities by their bytes. It is never done for a request. A store
that cannot be asked, or has nothing yet, only means that there is no sample.

Rows count whatever their layout: the mark of a row's time says whether its values are in Feast's
fields or in a packed row, of the view's present definition or of an earlier one.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis
from google.protobuf.message import DecodeError

from hotfeast.hotpath.definition import (
    LAYOUTS,
    FeatureRead,
    KeyRecipe,
    ReadDefinition,
    ViewRead,
)
from hotfeast.hotpath.packed import layout_of, unpack_row
from hotfeast.hotpath.plan import Plan, key_prefix
from hotfeast.server.entity_keys import EntityKeys
from hotfeast.server.feast_api import Value
from hotfeast.server.key_samples import sample_keys
from hotfeast.server.layouts import Schemas
from hotfeast.server.plan import row_hash_field
from hotfeast.server.redis_clients import REDIS_ERRORS, Pool, client_of, node_clients_of

SAMPLE_ROWS = 64
"""How many rows of a view are taken at most."""

# Seconds that a sample may take.
_SCAN_SECONDS = 0.25
# Seconds that found keys, or a failure, are remembered: the proofs of many kernels come together.
_REMEMBERED = 60.0
# The layout whose rows are not in Feast's fields.
_PACKED = LAYOUTS[-1]
_TIME_PREFIX = "_ts:"


class StoreUnreadable(Exception):
    """Redis cannot be asked for a sample; the message says why."""


@dataclass(frozen=True, slots=True)
class StoredView:
    """What is read of a view.

    Attributes:
        join_keys: Their names in the store; none for an entityless view.
        time_field: Hash field of the row's time, which every row has.
        fields: Hash fields of the features that are wanted.
    """

    join_keys: tuple[str, ...]
    time_field: bytes
    fields: tuple[bytes, ...]


class StoredRows:
    """Samples one Redis."""

    def __init__(self, pool: Pool) -> None:
        """
        Args:
            pool: Connections to it.
        """
        self._pool = pool
        self._schemas = Schemas(pool)
        self._keys: dict[tuple[str, tuple[str, ...], bytes], tuple[float, list[bytes]]] = {}
        self._failure: tuple[float, str] | None = None

    def sample(self, project: str, view: StoredView) -> list[list[bytes]]:
        """Rows of a view, each with the serialized `Value` of every wanted feature.

        Null is empty. Rows that have none of the features, hold bytes that are no `Value`, or are
        packed in a way that cannot be read, are left out.

        Raises:
            StoreUnreadable: Redis did not answer, or does not allow it.
        """
        if self._failure is not None and time.monotonic() < self._failure[0]:
            raise StoreUnreadable(self._failure[1])
        try:
            stored = self._values(project, view, self._find(project, view))
        except (*REDIS_ERRORS, OSError) as error:
            words = f"Redis: {(str(error) or type(error).__name__).splitlines()[0]}"
            self._failure = time.monotonic() + _REMEMBERED, words
            raise StoreUnreadable(words) from error
        rows = []
        for values in stored:
            row = [value or b"" for value in values]
            if any(value is not None for value in values) and all(map(_is_value, row)):
                rows.append(row)
        return rows

    def _values(
        self, project: str, view: StoredView, keys: Sequence[bytes]
    ) -> list[Sequence[bytes | None]]:
        """The wanted features of the rows that can be read."""
        plan = _plan(project, view)
        (read,) = plan.definition.views
        found: list[Sequence[bytes | None]] = []
        fields = (read.time_field, read.row_field, *view.fields)
        for at, packed, *values in self._read(keys, fields):
            if at is None or layout_of(at) != _PACKED:
                found.append(values)
            elif packed is not None and (unpacked := self._unpacked(plan, at, packed)) is not None:
                found.append(unpacked)
        return found

    def _unpacked(self, plan: Plan, at: bytes, packed: bytes) -> list[bytes | None] | None:
        """The values of a packed row; None where it cannot be read."""
        try:
            values = unpack_row(plan, 0, at, packed)
            if isinstance(values, int) and self._schemas.learn(plan, 0, values):
                values = unpack_row(plan, 0, at, packed)
        except ValueError:
            return None
        return None if isinstance(values, int) else values

    def _find(self, project: str, view: StoredView) -> list[bytes]:
        """Keys of hashes that have a row of a view."""
        known = self._keys.get((project, view.join_keys, view.time_field))
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        prefix, suffix = key_prefix(view.join_keys), project.encode()
        entities = EntityKeys(view.join_keys, project)
        pattern = escaped(prefix) + b"*" + escaped(suffix)

        def having_rows(keys: list[bytes]) -> list[bytes]:
            mine = [k for k in keys if entities.read(k) is not None]
            times = self._read(mine, (view.time_field,))
            return [k for k, (t,) in zip(mine, times, strict=True) if t is not None]

        sample = sample_keys(
            node_clients_of(self._pool), having_rows, SAMPLE_ROWS, _SCAN_SECONDS, match=pattern
        )
        self._keys[project, view.join_keys, view.time_field] = (
            time.monotonic() + _REMEMBERED,
            sample,
        )
        return sample

    def _read(self, keys: Sequence[bytes], fields: Sequence[bytes]) -> list[list[bytes | None]]:
        """Hash fields of keys; nothing of a key that is no hash."""
        if not keys:
            return []
        pipeline = client_of(self._pool).pipeline(transaction=False)
        for key in keys:
            pipeline.hmget(key, fields)
        nothing: list[bytes | None] = [None] * len(fields)
        answers: list[Any] = pipeline.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, redis.exceptions.NoPermissionError):
                raise answer
        return [nothing if isinstance(a, Exception) else a for a in answers]


def _plan(project: str, view: StoredView) -> Plan:
    """Reads what is wanted of a view. Which features its packed rows hold, it has yet to learn."""
    storage_name = view.time_field.decode().removeprefix(_TIME_PREFIX)
    read = ViewRead(
        name=storage_name,
        recipe=0,
        time_field=view.time_field,
        ttl_seconds=0,
        features=tuple(FeatureRead(field.hex(), field) for field in view.fields),
        row_field=row_hash_field(storage_name),
    )
    return Plan(ReadDefinition(project, (), (KeyRecipe(()),), (read,)))


def escaped(text: bytes) -> bytes:
    """Bytes that stand for themselves in a pattern of Redis."""
    return b"".join(b"\\" + bytes([c]) if c in b"*?[]^-\\" else bytes([c]) for c in text)


def _is_value(data: bytes) -> bool:
    try:
        Value.FromString(data)
    except DecodeError:
        return False
    return True
