"""Events and rows from a Redis stream into a push source: at least once, by a consumer group.

An entry is acknowledged after it is stored. What a consumer had when it died is claimed by the
others once it has been idle for long enough; an event that two of them write is counted once by its
id, and of a row event times decide. What cannot be stored goes to a stream of its own, with the
reason.
"""

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import redis

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

JSON_FIELD = "json"
"""An entry's only field, where it has all columns as a JSON object."""

_TIMEOUT = 5.0
# Seconds between two tries to store what could not be.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
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


class BadEntry(ValueError):
    """An entry that says nothing that can be stored; the message names the field."""


@dataclass(frozen=True)
class StreamOptions:
    """Which stream is read, and how.

    Attributes:
        stream: Its key.
        group: The consumer group; it is made if it is not there.
        consumer: This one's name in it, which no other may have at the same time.
        push_source: Where the entries go.
        target: As of a push: `ONLINE`, `OFFLINE` or `BOTH`.
        begin: Where a new group begins: `0`, with all entries, or `$`, with those to come.
        batch: Entries that are stored at once at most.
        claim_after: Seconds for which another consumer must not have acknowledged an entry that is
            taken over from it.
        rejected: Key of the stream that takes what cannot be stored.
    """

    stream: str
    group: str
    consumer: str
    push_source: str
    target: int = ONLINE
    begin: str = "0"
    batch: int = 500
    claim_after: float = 60.0
    rejected: str = ""


@dataclass
class Consumed:
    """What has become of entries so far.

    Attributes:
        outcomes: How many have each outcome: those of pushed rows; `unreadable` are rejected too.
        claimed: How many were taken over from other consumers.
        lag: Entries of the stream that the group has not read; None where Redis does not know.
        pending: Those that were read and not acknowledged.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    claimed: int = 0
    lag: int | None = None
    pending: int = 0


class Stopped(Exception):
    """The consumer was asked to stop before a batch could be stored."""


class StreamConsumer:
    """One consumer of a group. It belongs to one thread."""

    def __init__(
        self,
        store: FeatureStore,
        options: StreamOptions,
        source: Any,
        redis_url: str | None = None,
        registry_interval: float = 30.0,
        tell: Callable[[Consumed], None] = lambda _: None,
    ) -> None:
        """
        Args:
            store: The repository.
            options: What is read.
            source: redis-py's client of the stream's server.
            redis_url: Where rows go, instead of the repository's.
            registry_interval: Seconds between two looks at the registry.
            tell: Is told after each batch, and while there is none, how it stands.

        Raises:
            StartFailure: The repository's online store is no Redis server.
            RequestFailure: There is no such push source.
            Exception: Whatever Feast raises where the registry cannot be read.
        """
        self._options = options
        self._source = source
        self._tell = tell
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
        self.consumed = Consumed()

    def run(self, stop: threading.Event) -> None:
        """Consumes until it is told to stop.

        Raises:
            redis.RedisError: The stream's server refuses; while it cannot be reached it is tried
                again.
        """
        self._make_group()
        read = self._read_own
        claimed = 0.0
        while not stop.is_set():
            try:
                if time.monotonic() - claimed > self._options.claim_after / 2:
                    claimed = time.monotonic()
                    self._claim(stop)
                entries = read()
                if not entries:
                    # What it had not acknowledged before it was started again comes first.
                    read = self._read_new
                self._store(entries, stop)
                self._look()
                self._measure()
            except (redis.ConnectionError, redis.TimeoutError) as error:
                logger.warning("the stream cannot be read: %s; trying again", error)
                stop.wait(_LONGEST_PAUSE)
            except Stopped:
                return
            self._tell(self.consumed)

    def _make_group(self) -> None:
        options = self._options
        try:
            self._source.xgroup_create(
                options.stream, options.group, id=options.begin, mkstream=True
            )
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def _read_own(self) -> list[tuple[bytes, Any]]:
        return self._read("0", None)

    def _read_new(self) -> list[tuple[bytes, Any]]:
        return self._read(">", 500)

    def _read(self, after: str, block: int | None) -> list[tuple[bytes, Any]]:
        options = self._options
        answer = self._source.xreadgroup(
            options.group, options.consumer, {options.stream: after}, options.batch, block
        )
        streams = answer.items() if isinstance(answer, dict) else answer or ()
        found: list[tuple[bytes, Any]] = []
        for _, entries in streams:
            for each in entries:
                # By RESP3 each stream's entries are in a list of their own.
                found += each if isinstance(each, list) else [each]
        return found

    def _claim(self, stop: threading.Event) -> None:
        """Takes over what other consumers have not acknowledged for long."""
        options, start = self._options, b"0-0"
        while not stop.is_set():
            start, entries, *_ = self._source.xautoclaim(
                options.stream, options.group, options.consumer,
                int(options.claim_after * 1000), start, options.batch,
            )  # fmt: skip
            self.consumed.claimed += len(entries)
            self._store(entries, stop)
            if start == b"0-0":
                return

    def _destination(self) -> Destination:
        return self._destinations.find(
            self._definitions, True, self._options.push_source, self._options.target == ONLINE
        )

    def _look(self) -> None:
        """Takes definitions that have changed."""
        if time.monotonic() - self._looked < self._registry_interval:
            return
        self._looked = time.monotonic()
        try:
            stored = self._reader.read()
            if stored.fingerprint != self._definitions.fingerprint:
                self._definitions = self._reader.define(stored)
        except Exception as error:
            logger.warning("the registry cannot be read: %s; definitions stay", error)

    def _measure(self) -> None:
        for group in self._source.xinfo_groups(self._options.stream):
            name = group["name"]
            if (name.decode() if isinstance(name, bytes) else name) == self._options.group:
                self.consumed.lag = group.get("lag")
                self.consumed.pending = group["pending"]

    def _store(self, entries: list[tuple[bytes, Any]], stop: threading.Event) -> None:
        """Stores entries and acknowledges them; goes on until it is done.

        Raises:
            Stopped: It was asked to stop; what is not acknowledged comes again.
        """
        # An entry that was trimmed from the stream has nothing left.
        gone = [number for number, content in entries if not content]
        left = [(number, content) for number, content in entries if content]
        if gone:
            self._source.xack(self._options.stream, self._options.group, *gone)
        pause = _FIRST_PAUSE
        while left:
            done, left, why = self._try(left)
            self._acknowledge(done)
            if left:
                logger.warning("%d entries are not stored: %s; trying again", len(left), why)
                if stop.wait(pause):
                    raise Stopped
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _acknowledge(self, done: list[tuple[bytes, Any, str]]) -> None:
        """Acknowledges entries; those with a reason go to the stream of rejected ones."""
        if not done:
            return
        options = self._options
        pipeline = self._source.pipeline(transaction=True)
        for number, content, why in done:
            if why and options.rejected:
                pipeline.xadd(options.rejected, {**content, "_id": number, "_reason": why})
        pipeline.xack(options.stream, options.group, *(number for number, _, _ in done))
        pipeline.execute()

    def _try(
        self, entries: list[tuple[bytes, Any]]
    ) -> tuple[list[tuple[bytes, Any, str]], list[tuple[bytes, Any]], str]:
        """Stores entries once: what is done, with the reason if it was rejected; what is left, and
        why."""
        done: list[tuple[bytes, Any, str]] = []
        readable = []
        try:
            destination = self._destination()
            types = column_types(destination)
            rows = []
            for number, content in entries:
                try:
                    rows.append(read_entry(content, types))
                    readable.append((number, content))
                except BadEntry as error:
                    self.consumed.outcomes["unreadable"] += 1
                    done.append((number, content, str(error)))
            if not rows:
                return done, [], ""
            columns = {
                name: pa.array([row.get(name) for row in rows], kind)
                for name, (kind, _) in types.items()
            }
            pushed = self._pusher.push(
                destination, self._options.target, PushedRows(columns), lambda: None
            )
        except (RequestFailure, RedisUnavailable, pa.ArrowException) as error:
            return done, readable or entries, str(error)
        return self._sort(readable, pushed, done)

    def _sort(
        self, entries: list[tuple[bytes, Any]], pushed: Pushed, done: list[tuple[bytes, Any, str]]
    ) -> tuple[list[tuple[bytes, Any, str]], list[tuple[bytes, Any]], str]:
        reasons = {rejection.row: rejection.message for rejection in pushed.rejections}
        left = []
        for row, (entry, outcome) in enumerate(zip(entries, pushed.outcomes, strict=True)):
            if outcome == _FAILED:
                left.append(entry)
                continue
            self.consumed.outcomes[OUTCOMES[outcome]] += 1
            done.append((*entry, reasons.get(row, "") if outcome == _REJECTED else ""))
        return done, left, "; ".join(sorted({f.message for f in pushed.failures}))


def column_types(destination: Destination) -> dict[str, tuple[pa.DataType, Callable[[str], Any]]]:
    """The columns that entries have for a destination: their types, and how texts are read.

    Raises:
        RequestFailure: A column is of a type that no text stands for.
    """
    types: dict[str, tuple[pa.DataType, Callable[[str], Any]]] = {}
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


def read_entry(
    content: dict[bytes, bytes], types: dict[str, tuple[pa.DataType, Callable[[str], Any]]]
) -> dict[str, Any]:
    """The values of an entry, by column; columns that nothing takes are left out.

    Raises:
        BadEntry: It is no JSON object, or a value is not of its column's type.
    """
    texts: dict[str, Any] = {
        name.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape")
        for name, value in content.items()
    }
    if set(texts) == {JSON_FIELD}:
        try:
            texts = json.loads(texts[JSON_FIELD])
        except ValueError as error:
            raise BadEntry(f"field {JSON_FIELD!r} is no JSON: {error}") from None
        if not isinstance(texts, dict):
            raise BadEntry(f"field {JSON_FIELD!r} is no JSON object")
    row: dict[str, Any] = {}
    for name, (kind, read) in types.items():
        value = texts.get(name)
        if value is None or (value == "" and not pa.types.is_string(kind)):
            row[name] = None
            continue
        try:
            row[name] = pa.scalar(read(str(value)), kind).as_py()
        except (ValueError, KeyError, OverflowError, pa.ArrowException):
            raise BadEntry(f"field {name!r} is {value!r}, which is no {kind}") from None
    return row
