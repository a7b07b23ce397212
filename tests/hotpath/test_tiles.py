"""Windows on the hot path without Redis: tiles to answers, events to commands, and memory."""

import pyarrow as pa
import pytest

from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.columns import TimeColumn, ValueColumn
from hotfeast.hotpath.definition import (
    FeatureRead,
    FeatureWrite,
    JoinKey,
    KeyRecipe,
    ReadDefinition,
    ViewRead,
    WriteDefinition,
)
from hotfeast.hotpath.errors import CorruptRow
from hotfeast.hotpath.events import EventBatch, EventPlan
from hotfeast.hotpath.packed import settle_reply
from hotfeast.hotpath.plan import Plan
from hotfeast.hotpath.reply import Reply
from hotfeast.hotpath.request import Request
from hotfeast.hotpath.splice import build_response
from hotfeast.hotpath.tile_layout import Aggregate, tile_layout
from hotfeast.serving.v1 import serving_pb2
from tests.hotpath.helpers import array_reply, int64_request
from tests.hotpath.test_leaks import growth, under_asan

MINUTE = 60 * 10**6
AGGREGATES = [
    Aggregate("n", "count", "", 4, 60 * MINUTE, MINUTE),
    Aggregate("total", "sum", "x", 5, 60 * MINUTE, MINUTE),
    Aggregate("kinds", "distinct", "kind", 4, 60 * MINUTE, MINUTE),
]
LAYOUT = tile_layout(AGGREGATES, {"x": 5, "kind": 2}, 60 * MINUTE, 10, 10)
SUFFIX = LAYOUT.suffix("view")
PLAN = Plan(
    ReadDefinition(
        project="demo",
        join_keys=(JoinKey("id", 4),),
        recipes=(KeyRecipe((("id", 0),), SUFFIX),),
        views=(
            ViewRead(
                name="view",
                recipe=0,
                time_field=b"_ts:view",
                ttl_seconds=0,
                features=tuple(FeatureRead(a.feature, a.feature.encode()) for a in AGGREGATES),
                tiles=LAYOUT,
            ),
        ),
    )
)
WRITES = EventPlan(
    WriteDefinition(
        project="demo",
        join_keys=(("id", 4),),
        features=(
            FeatureWrite("kind", 2, b""), FeatureWrite("x", 5, b""), FeatureWrite("event", 0, b""),
        ),
        time_field=b"_ts:view",
        created_field=b"",
        key_ttl_seconds=0,
        key_suffix=SUFFIX,
        tiles=LAYOUT,
    )
)  # fmt: skip
NOW = 1_000_000 * MINUTE
LOOPS = 2000


def blob() -> bytes:
    """Tiles with three events in two minutes, byte by byte as the module says."""
    head = b"\1" + (NOW - MINUTE).to_bytes(8, "little") + bytes(8) + b"\xff" * 8 + b"\0" + bytes(2)
    records = b""
    for tile, count, total in ((NOW // MINUTE - 3, 2, 1.5), (NOW // MINUTE - 2, 1, 2.25)):
        # The count of all events; the count of values, their sum, and what was rounded off it.
        records += tile.to_bytes(4, "little") + count.to_bytes(4, "little")
        records += count.to_bytes(4, "little") + pa.array([total, 0.0]).buffers()[1].to_pybytes()
    entry = (NOW // MINUTE - 3).to_bytes(4, "little") + b"\2\0" + b"abcd" + b"efgh"
    return head + b"\2\0" + records + len(entry).to_bytes(4, "little") + entry


def serve(tiles: list[bytes | None]) -> bytes:
    batch = Batch(PLAN, Request(int64_request(*range(len(tiles)))))
    batch.now_us = NOW
    reply = Reply()
    reply.start(batch)
    assert reply.feed(b"".join(array_reply([each]) for each in tiles))
    reply.raise_error()
    assert settle_reply(batch, reply)
    return build_response(batch, reply, NOW // 10**6, 0, True)


def test_tiles_become_an_answer() -> None:
    answer = serving_pb2.GetOnlineFeaturesResponse.FromString(serve([blob(), None]))
    n, total, kinds = answer.results[1:]
    assert (n.values[0].int64_val, total.values[0].double_val, kinds.values[0].int64_val) == (
        3, 3.75, 2,
    )  # fmt: skip
    assert [list(each.statuses) for each in (n, total, kinds)] == [[1, 3]] * 3
    assert n.event_timestamps[0].ToMicroseconds() == NOW - MINUTE


def test_tiles_that_are_none_are_a_corrupt_row() -> None:
    with pytest.raises(CorruptRow, match="tiles cannot be read"):
        serve([blob()[:-1]])


def count() -> None:
    keys = [ValueColumn.from_arrow(4, pa.array([2, 1, 2]))]
    columns = [
        ValueColumn.from_arrow(2, pa.array(["a", None, "b"])),
        ValueColumn.from_arrow(5, pa.array([1.0, None, 2.0])),
        ValueColumn.from_arrow(2, pa.array(["e1", "e2", "e3"])),
    ]
    times = TimeColumn.from_arrow(pa.array([5 * MINUTE, 5 * MINUTE, MINUTE], pa.timestamp("us")))
    batch = EventBatch(WRITES, keys, columns, times)
    batch.begin()
    assert batch.next_portion().count(b"EVALSHA") == 2
    # Of the keys whichever comes first in the order of their hashes.
    assert (
        batch.feed(b"$2\r\n10\r\n$1\r\n1\r\n")
        if two_first(batch)
        else batch.feed(b"$1\r\n1\r\n$2\r\n10\r\n")
    )
    # The older of the two events of one entity goes first.
    assert batch.outcomes == bytes([2, 1, 1])


def two_first(batch: EventBatch) -> bool:
    batch.begin()
    commands = batch.next_portion()
    return commands.index(batch.key(0)) < commands.index(batch.key(1))


def test_events_of_an_entity_are_one_call() -> None:
    count()


@pytest.mark.skipif(under_asan, reason="AddressSanitizer keeps freed memory for a while")
def test_memory_is_flat() -> None:
    tiles: list[bytes | None] = [blob(), None, blob()]

    def both() -> None:
        serve(tiles)
        count()

    assert growth(both, LOOPS) < LOOPS * 8
