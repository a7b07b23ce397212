"""Events to try windows with, and the comparison of what they hold."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import events as ev
import pyarrow as pa
import pytest
import redis
from events import Event
from feast import FeatureStore

from hotfeast.hotpath.tiles import Tiles
from hotfeast.hotpath.writes import OUTCOMES
from hotfeast.server.redis_io import Lanes, RedisWriter
from hotfeast.server.redis_pools import connection_pool
from hotfeast.server.rows import EncodedRows, encode, map_fields
from hotfeast.server.view_writer import plan_view
from hotfeast.serving.v1 import value_pb2


def some_events(generator: random.Random, count: int, span: timedelta) -> list[Event]:
    """Events in order of time, of which many come at the edges of tiles."""
    day = timedelta(days=1)
    edges = [timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=6), day]
    made = []
    for i in range(count):
        at = generator.random() * span
        if generator.random() < 0.5:
            edge = generator.choice(edges)
            at = at // edge * edge + timedelta(microseconds=generator.choice([-1, 0, 0, 1]))
        made.append(
            Event(
                ev.START + day + at,
                f"{generator.random()}-{i}",
                generator.choice([None, 0.1, -0.3, 1e15, generator.uniform(-9, 9)]),
                generator.choice([None, generator.randrange(-(2**62), 2**62), 3, -4]),
                generator.choice([None, "", "a", "ä", f"page {generator.randrange(400)}"]),
                generator.choice([None, b"", b"\0\xff", generator.randbytes(255)]),
                generator.choice([None, True, False]),
                generator.choice([None, ev.START - timedelta(seconds=generator.randrange(9**9))]),
            )
        )
    return sorted(made, key=lambda event: event.time)


def close(made: dict[str, Any] | None, wanted: dict[str, Any] | None) -> None:
    """Fails unless all is equal; fractions may differ in the last bits of what was added up."""
    if made is None or wanted is None:
        assert made is wanted
        return
    assert list(made) == list(wanted)
    for name, value in wanted.items():
        if isinstance(value, float):
            # Numbers of up to 1e15 are added up.
            assert made[name] == pytest.approx(value, rel=1e-15, abs=1e-9), name
        else:
            assert made[name] == value, name


class Direct:
    """Pushes events of a view as the gateway does, and reads its tiles, without gRPC."""

    def __init__(self, store: FeatureStore, view: str = "activity") -> None:
        self.write = plan_view(store, view)
        assert self.write.windows is not None
        self.tiles = Tiles(self.write.windows.layout)
        pool = connection_pool(store.config, None, 5)
        assert isinstance(pool, redis.ConnectionPool)
        self._writer = RedisWriter(Lanes(pool), 5)
        self.client: Any = redis.Redis(connection_pool=pool)
        self.names = [reading.feature for reading in self.write.windows.layout.readings]

    def encode(self, user_id: int, events: list[Event]) -> EncodedRows:
        table = pa.Table.from_pandas(ev.frame({user_id: events}), preserve_index=False)
        columns = dict(zip(table.column_names, table.columns, strict=True))
        return encode(self.write, map_fields(self.write, columns))

    def push(self, user_id: int, events: list[Event]) -> list[str]:
        """The outcome of each event, or what Redis said where it failed."""
        encoded = self.encode(user_id, events)
        self._writer.write(encoded.batch)
        names = [encoded.batch.error if name == "failed" else name for name in OUTCOMES]
        return [names[outcome] for outcome in encoded.batch.outcomes]

    def key(self, user_id: int) -> bytes:
        event = Event(ev.START, "any")
        return self.encode(user_id, [event]).batch.key(0)

    def read(self, user_id: int, at: datetime) -> dict[str, Any] | None:
        """What the windows hold; None where there is no row."""
        blob = self.client.hget(self.key(user_id), "t")
        values = None if blob is None else self.tiles.read(blob, int(at.timestamp() * 10**6))
        if values is None:
            return None
        return {
            name: plain(value_pb2.Value.FromString(value))
            for name, value in zip(self.names, values, strict=True)
        }


def plain(value: value_pb2.Value) -> Any:
    member = value.WhichOneof("val")
    if member == "unix_timestamp_val":
        return datetime.fromtimestamp(value.unix_timestamp_val, UTC)
    return None if member is None else getattr(value, member)
