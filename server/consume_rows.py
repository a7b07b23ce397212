"""What streams bring, stored: their entries as rows of a push source, tried until it is done."""

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from hotfeast.hotpath.writes import OUTCOMES
from hotfeast.server.clock import Clock
from hotfeast.server.cluster_io import open_servers, writer_of
from hotfeast.server.errors import RedisUnavailable, RequestFailure, not_servable
from hotfeast.server.feast_api import FeatureStore, ValueType
from hotfeast.server.forms import parse_time
from hotfeast.server.offline import OfflineWriter
from hotfeast.server.push_plan import Destination, Destinations
from hotfeast.server.push_rows import ONLINE, Pushed, PushedRows, RowPusher
from hotfeast.server.redis_pools import connection_pool
from hotfeast.server.registry import Definitions, RegistryReader

logger = logging.getLogger(__name__)

_TIMEOUT = 5.0
# Seconds between two tries to store what could not be.
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
_REJECTED, _FAILED = OUTCOMES.index("rejected"), OUTCOMES.index("failed")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def _time(text: str) -> datetime:
    """A time in ISO 8601, or in seconds since 1970."""
    try:
        return datetime.fromtimestamp(float(text), UTC)
    except ValueError:
        return parse_time(text)


_SCALARS: dict[int, tuple[pa.DataType, Callable[[str], Any]]] = {
    ValueType.STRING.value: (pa.string(), str),
    ValueType.BYTES.value: (pa.binary(), lambda text: text.encode("utf-8", "surrogateescape")),
    ValueType.INT32.value: (pa.int32(), int),
    ValueType.INT64.value: (pa.int64(), int),
    ValueType.DOUBLE.value: (pa.float64(), float),
    ValueType.FLOAT.value: (pa.float64(), float),
    ValueType.BOOL.value: (pa.bool_(), lambda text: _BOOLEANS[text.lower()]),
    ValueType.UNIX_TIMESTAMP.value: (pa.timestamp("us", "UTC"), _time),
}


Types = dict[str, tuple[pa.DataType, Callable[[str], Any]]]
"""The columns that entries have: their types, and how texts are read."""

Entry = tuple[Any, Any]
"""What its source knows an entry by, and what is in it."""

Done = tuple[Any, Any, str]
"""An entry that is done with, and why it was rejected if it was."""


class BadEntry(ValueError):
    """An entry that says nothing that can be stored; the message names the field."""


@dataclass
class Consumed:
    """What has become of entries so far.

    Attributes:
        outcomes: How many have each outcome: those of pushed rows; `unreadable` are rejected too.
        claimed: How many were taken over from other consumers of a Redis stream.
        lag: Entries that have not been read: by the group, or in this consumer's partitions; None
            where that is not known.
        pending: Those that were read and not acknowledged.
        partition_lags: Of a topic, the lag of each of this consumer's partitions.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    claimed: int = 0
    lag: int | None = None
    pending: int = 0
    partition_lags: dict[int, int] = field(default_factory=dict)


class Stopped(Exception):
    """The consumer was asked to stop before a batch could be stored."""


class EntryStore:
    """Stores entries in a push source. It belongs to one thread."""

    def __init__(
        self,
        store: FeatureStore,
        push_source: str,
        target: int,
        read: Callable[[Any, Types], dict[str, Any]],
        redis_url: str | None,
        registry_interval: float,
    ) -> None:
        """
        Args:
            store: The repository.
            push_source: Where entries go.
            target: As of a push: `ONLINE`, `OFFLINE` or `BOTH`.
            read: Reads a row from an entry; raises BadEntry if there is none in it.
            redis_url: Where rows go, instead of the repository's.
            registry_interval: Seconds between two looks at the registry.

        Raises:
            StartFailure: The repository's online store is no Redis server.
            RequestFailure: There is no such push source.
            Exception: Whatever Feast raises where the registry cannot be read.
        """
        self._push_source = push_source
        self._target = target
        self._read = read
        self._registry_interval = registry_interval
        self._reader = RegistryReader(store)
        self._definitions: Definitions = self._reader.define(self._reader.read())
        self._looked = time.monotonic()
        self._destinations = Destinations(store.config.online_store.key_ttl_seconds or 0)
        self._pusher = RowPusher(
            writer_of(open_servers(connection_pool(store.config, redis_url, _TIMEOUT)), _TIMEOUT),
            OfflineWriter(store),
            Clock(),
            future_limit=86400,
        )
        self._destination()
        self.outcomes: Counter[str] = Counter()

    def store(
        self,
        entries: Sequence[Entry],
        acknowledge: Callable[[list[Done]], None],
        stop: threading.Event,
    ) -> None:
        """Stores entries; goes on until it is done.

        Args:
            entries: They.
            acknowledge: Is told, after each try, what needs no other.
            stop: Ends it.

        Raises:
            Stopped: It was asked to stop; what is not acknowledged has to come again.
        """
        left, pause = list(entries), FIRST_PAUSE
        while left:
            done, left, why = self._try(left)
            if done:
                acknowledge(done)
            if left:
                logger.warning("%d entries are not stored: %s; trying again", len(left), why)
                if stop.wait(pause):
                    raise Stopped
                pause = min(2 * pause, LONGEST_PAUSE)

    def look(self) -> None:
        """Takes definitions that have changed, if it is time to look."""
        if time.monotonic() - self._looked < self._registry_interval:
            return
        self._looked = time.monotonic()
        try:
            stored = self._reader.read()
            if stored.fingerprint != self._definitions.fingerprint:
                self._definitions = self._reader.define(stored)
        except Exception as error:
            logger.warning("the registry cannot be read: %s; definitions stay", error)

    def _destination(self) -> Destination:
        return self._destinations.find(
            self._definitions, True, self._push_source, self._target == ONLINE
        )

    def _try(self, entries: list[Entry]) -> tuple[list[Done], list[Entry], str]:
        """Stores entries once: what is done, with the reason if it was rejected; what is left, and
        why."""
        done: list[Done] = []
        readable = []
        try:
            destination = self._destination()
            types = column_types(destination)
            rows = []
            for number, content in entries:
                try:
                    rows.append(self._read(content, types))
                    readable.append((number, content))
                except BadEntry as error:
                    self.outcomes["unreadable"] += 1
                    done.append((number, content, str(error)))
            if not rows:
                return done, [], ""
            columns = {
                name: pa.array([row.get(name) for row in rows], kind)
                for name, (kind, _) in types.items()
            }
            pushed = self._pusher.push(destination, self._target, PushedRows(columns), lambda: None)
        except (RequestFailure, RedisUnavailable, pa.ArrowException) as error:
            return done, readable or entries, str(error)
        return self._sort(readable, pushed, done)

    def _sort(
        self, entries: list[Entry], pushed: Pushed, done: list[Done]
    ) -> tuple[list[Done], list[Entry], str]:
        reasons = {rejection.row: rejection.message for rejection in pushed.rejections}
        left = []
        for row, (entry, outcome) in enumerate(zip(entries, pushed.outcomes, strict=True)):
            if outcome == _FAILED:
                left.append(entry)
                continue
            self.outcomes[OUTCOMES[outcome]] += 1
            done.append((*entry, reasons.get(row, "") if outcome == _REJECTED else ""))
        return done, left, "; ".join(sorted({f.message for f in pushed.failures}))


def column_types(destination: Destination) -> Types:
    """The columns that entries have for a destination: their types, and how texts are read.

    Raises:
        RequestFailure: A column is of a type that no text stands for.
    """
    types: Types = {}
    for write in destination.writes:
        old = {new: name for name, new in write.field_mapping.items()}
        definition = write.compiled.definition
        fields = [*definition.join_keys, *((f.name, f.value_type) for f in definition.features)]
        for name, value_type in fields:
            if value_type and value_type not in _SCALARS:
                raise not_servable(
                    f"feature view {write.name!r}: {name!r} is {ValueType(value_type).name}, which "
                    "no entry of a stream can have; push it"
                )
            # What is not declared, such as an event's id, is a text.
            types[old.get(name, name)] = _SCALARS[value_type or ValueType.STRING.value]
        for name in filter(None, (write.timestamp_column, write.created_column)):
            types[old.get(name, name)] = _SCALARS[ValueType.UNIX_TIMESTAMP.value]
    return types


def read_object(text: str | bytes, what: str) -> dict[str, Any]:
    """A JSON object.

    Args:
        text: It.
        what: What it is called in errors.

    Raises:
        BadEntry: It is none.
    """
    try:
        read = json.loads(text)
    except ValueError as error:
        raise BadEntry(f"{what} is no JSON: {error}") from None
    if not isinstance(read, dict):
        raise BadEntry(f"{what} is no JSON object")
    return read


def read_row(values: dict[str, Any], types: Types) -> dict[str, Any]:
    """The values of an entry, by column; columns that nothing takes are left out.

    Args:
        values: Those that the entry has: texts, or what is in JSON.
        types: The columns.

    Raises:
        BadEntry: A value is not of its column's type.
    """
    row: dict[str, Any] = {}
    for name, (kind, read) in types.items():
        value = values.get(name)
        if isinstance(value, dict | list):
            raise BadEntry(f"field {name!r} is no single value but JSON's {type(value).__name__}")
        may_be_empty = pa.types.is_string(kind) or pa.types.is_binary(kind)
        if value is None or (value == "" and not may_be_empty):
            row[name] = None
            continue
        try:
            row[name] = pa.scalar(read(str(value)), kind).as_py()
        except (ValueError, KeyError, OverflowError, pa.ArrowException):
            raise BadEntry(f"field {name!r} is {value!r}, which is no {kind}") from None
    return row
