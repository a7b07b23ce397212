"""The year of real purchases, event by event in order of time: what is served at any time beside
the point-in-time values of the training set.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import redis
from feast import FeatureStore

from bench.window_views import FEATURES, SERVICES, WINDOWS
from hotfeast.hotpath.answer import Answer
from hotfeast.hotpath.answer_arrow import arrow_array
from hotfeast.server.plan import PlanBook
from hotfeast.server.read_modes import ReadModes
from hotfeast.server.redis_io import Lanes, RedisReader, RedisWriter
from hotfeast.server.redis_pools import connection_pool
from hotfeast.server.registry import read_definitions
from hotfeast.server.rows import encode, map_fields
from hotfeast.server.servicer import FeatureServicer
from hotfeast.server.view_writer import plan_view
from hotfeast.server.windows.training import TIMESTAMP, training_set
from hotfeast.server.write_plan import ViewWrite
from hotfeast.serving.v1 import serving_pb2

TOLERANCE = 1e-12
"""Parts by which sums and means of fractions may differ: they are added up in another order."""

_TIMEOUT = 30.0
# Events that are sent at once.
_BATCH = 5000


@dataclass(frozen=True)
class Replay:
    """What came of a replay.

    Attributes:
        events: How many were pushed.
        seconds: What pushing them took.
        pairs: Households and times that both sides were asked about.
        present: Those for which there was a row.
        values: Values that were compared.
        different: Those that differ, with both sides, at most a few.
        largest: The largest difference of fractions, in parts.
    """

    events: int
    seconds: float
    pairs: int
    present: int
    values: int
    different: list[tuple[int, datetime, str, Any, Any]]
    largest: float


class Clock:
    """A clock that somebody sets."""

    def __init__(self) -> None:
        self.microseconds = 0

    def now(self) -> tuple[int, int]:
        """Seconds and nanoseconds since 1970."""
        return self.microseconds // 10**6, self.microseconds % 10**6 * 1000


class Plans:
    """The plans of one state of a registry."""

    def __init__(self, store: FeatureStore) -> None:
        self.book = PlanBook(read_definitions(store), 1)


class Online:
    """Both ways of a gateway without gRPC: rows in, answers out, as of any time."""

    def __init__(self, store: FeatureStore) -> None:
        pool = connection_pool(store.config, None, _TIMEOUT)
        assert isinstance(pool, redis.ConnectionPool)
        lanes = Lanes(pool)
        self.clock = Clock()
        self.client: Any = redis.Redis(connection_pool=pool)
        self._writer = RedisWriter(lanes, _TIMEOUT)
        clock: Any = self.clock
        self._servicer = FeatureServicer(
            Plans(store), RedisReader(lanes, _TIMEOUT), ReadModes(pool), clock
        )

    def push(self, write: ViewWrite, rows: pa.Table) -> float:
        """Writes rows. Returns the seconds that it took, encoding included."""
        started = time.perf_counter()
        columns = dict(zip(rows.column_names, rows.columns, strict=True))
        encoded = encode(write, map_fields(write, columns))
        self._writer.write(encoded.batch)
        taken = time.perf_counter() - started
        counts = encoded.batch.counts
        if counts["written"] != rows.num_rows:
            raise RuntimeError(f"not all events were counted: {counts} {encoded.batch.error}")
        return taken

    def keys(self, write: ViewWrite, entities: list[int]) -> list[bytes]:
        """The Redis keys of households in a view."""
        kinds = {
            "user_id": pa.array(entities, pa.int64()),
            write.timestamp_column: pa.array([10**6] * len(entities), pa.timestamp("us", "UTC")),
        }
        nulls = {name: pa.nulls(len(entities)) for name in write.columns - kinds.keys()}
        if write.windows is not None:
            nulls[write.windows.event_id] = pa.array(entities)
        batch = encode(write, kinds | nulls).batch
        return [batch.key(row) for row in range(len(entities))]

    def read(self, service: str, keys: list[int], at: datetime) -> dict[str, list[Any]]:
        """The features of a service at a time."""
        self.clock.microseconds = int(at.timestamp()) * 10**6 + at.microsecond
        request = serving_pb2.GetOnlineFeaturesRequest(feature_service=service)
        for key in keys:
            request.entities["user_id"].val.add(int64_val=key)
        answer = Answer(self._servicer.answer(request.SerializeToString()))
        return {
            name: arrow_array(answer.column(i)).to_pylist() for i, name in enumerate(answer.names)
        }


def replay(
    store: FeatureStore,
    lines: pl.DataFrame,
    times: int,
    users: int,
    seed: int,
    say: Callable[[str], None] = lambda _: None,
) -> Replay:
    """Pushes all lines in order of time, and at sampled times asks for sampled households.

    Args:
        store: The repository of `window_views`, with the lines as its batch source.
        lines: The events, in order of time.
        times: How many times; half of them are those of events.
        users: Households at each of them.
        seed: Of the sample.
        say: Is told how far it is.
    """
    online, write = Online(store), plan_view(store, WINDOWS)
    generator = np.random.default_rng(seed)
    stamps = lines["event_timestamp"]
    first, last = stamps[0], stamps[-1]
    chosen = [stamps[int(i)] for i in generator.integers(0, len(stamps), times // 2)]
    span = (last - first + timedelta(days=40)) // timedelta(microseconds=1)
    chosen += [
        first + timedelta(microseconds=int(m))
        for m in generator.integers(0, span, times - len(chosen))
    ]
    known = lines["user_id"].unique().sort().to_numpy()
    table = lines.to_arrow()
    ends = stamps.search_sorted(pl.Series(sorted(chosen), dtype=stamps.dtype), side="right")
    sent, seconds = 0, 0.0
    asked_keys: list[int] = []
    asked_times: list[datetime] = []
    served: dict[str, list[Any]] = {name: [] for name in FEATURES}
    for number, (at, end) in enumerate(zip(sorted(chosen), ends, strict=True)):
        while sent < end:
            size = min(_BATCH, int(end) - sent)
            seconds += online.push(write, table.slice(sent, size))
            sent += size
        keys = [int(key) for key in generator.choice(known, users)]
        answer = online.read(SERVICES[WINDOWS], keys, at)
        asked_keys += keys
        asked_times += [at] * users
        for name in served:
            served[name] += answer[name]
        if number % 100 == 0:
            say(f"{sent:,} events pushed, {len(asked_keys):,} pairs asked for")
    say("computing the training set")
    rows = pa.table(
        {"user_id": asked_keys, TIMESTAMP: pa.array(asked_times, pa.timestamp("us", "UTC"))}
    )
    trained = training_set(store, rows, SERVICES[WINDOWS])
    return _compare(rows, served, trained, sent, seconds)


def _compare(
    rows: pa.Table, served: dict[str, list[Any]], trained: pa.Table, events: int, seconds: float
) -> Replay:
    keys, times = rows["user_id"].to_pylist(), rows[TIMESTAMP].to_pylist()
    different = []
    values, largest = 0, 0.0
    for name, online in served.items():
        for row, (mine, theirs) in enumerate(zip(online, trained[name].to_pylist(), strict=True)):
            values += 1
            if mine == theirs:
                continue
            if isinstance(mine, float) and isinstance(theirs, float):
                apart = abs(mine - theirs) / max(abs(mine), abs(theirs))
                largest = max(largest, apart)
                if apart <= TOLERANCE:
                    continue
            different.append((keys[row], times[row], name, mine, theirs))
    present = sum(value is not None for value in served[next(iter(FEATURES))])
    return Replay(events, seconds, len(keys), present, values, different, largest)
