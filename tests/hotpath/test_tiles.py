"""Windows on the hot path without Redis: tiles to answers, events to commands, and memory."""

from random import Random
from struct import pack, unpack_from

import pyarrow as pa
import pytest
from feast.protos.feast.types.Value_pb2 import RepeatedValue, StringList, Value
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

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
from hotfeast.hotpath.tile_layout import EXACT_TILE, FUNCTIONS, Aggregate, tile_layout
from hotfeast.hotpath.tiles import Tiles
from hotfeast.serving.v1 import serving_pb2
from tests.hotpath.helpers import RANDOMS, array_reply, int64_request, parse_commands
from tests.hotpath.test_leaks import growth, under_asan
from tests.hotpath.tile_model import DENSE, REGISTERS, TileModel, same

MINUTE = 60 * 10**6
_KINDS = {"count": 4, "sum": 5, "mean": 6, "min": 3, "max": 5, "last": 4, "distinct": 4}
EVERY_AGGREGATE = [
    Aggregate("events", "count", "", 4, 60 * MINUTE, MINUTE),
    *(
        Aggregate(f"{f}_{c}_{tile}", f, "text" if f == "distinct" else c, kind, 99 * tile, tile)
        for f in FUNCTIONS
        for c, kind in (("real", 6 if f == "min" else 5), ("whole", _KINDS[f]))
        for tile in (MINUTE, EXACT_TILE)
    ),
]
EVERY_LAYOUT = tile_layout(EVERY_AGGREGATE, {"real": 5, "whole": 4, "text": 2}, 60 * MINUTE, 10, 10)
"""Each function of fractions and of whole numbers, in tiles of a minute and in exact ones."""
EVERY_TILES = Tiles(EVERY_LAYOUT)
AGGREGATES = [
    Aggregate("n", "count", "", 4, 60 * MINUTE, MINUTE),
    Aggregate("total", "sum", "x", 5, 60 * MINUTE, MINUTE),
    Aggregate("kinds", "distinct", "kind", 4, 60 * MINUTE, MINUTE),
]
LAYOUT = tile_layout(AGGREGATES, {"x": 5, "kind": 2}, 60 * MINUTE, 10, 10)
TILES = Tiles(LAYOUT)
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


def serve(tiles: list[bytes | None], now: int = NOW) -> bytes:
    batch = Batch(PLAN, Request(int64_request(*range(len(tiles)))))
    batch.now_us = now
    reply = Reply()
    reply.start(batch)
    assert reply.feed(b"".join(array_reply([each]) for each in tiles))
    reply.raise_error()
    assert settle_reply(batch, reply)
    return build_response(batch, reply, now // 10**6, 0, True)


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


def check_tiles(data: bytes, now: int) -> None:
    """Any bytes are the tiles that the model reads, or none for both."""
    for tiles in (EVERY_TILES, TILES):
        wanted, refused = None, False
        try:
            wanted = TileModel(tiles.layout, data).read(now)
        except ValueError:
            refused = True
        try:
            made = tiles.read(data, now)
        except ValueError:
            assert refused
            continue
        assert not refused
        assert same(made, wanted), (made, wanted)
        for value in made or ():
            Value.FromString(value)


def some_tiles(generator: Random, wrong: bool, most: int = 6) -> bytes:
    """Tiles of `EVERY_LAYOUT`; where they are wrong in no order, and of any numbers.

    Args:
        generator: What is drawn from.
        wrong: Whether they are.
        most: Records of a level, and entries of a sketch, at most.
    """
    at = NOW - generator.randrange(3) * MINUTE
    made = b"\1" + pack("<QQQ", at, 0, 2**64 - 1) + b"\0"
    ids = generator.randrange(3)
    made += pack("<H", ids) + generator.randbytes(12 * ids)
    numbers: dict[int, list[bytes]] = {}
    for n, level in enumerate(EVERY_LAYOUT.levels):
        around = NOW // level.tile
        found = [around - generator.randrange(110) for _ in range(generator.randrange(most + 1))]
        if wrong:
            found += [generator.choice([0, around + 2]) for _ in range(generator.randrange(3))]
            generator.shuffle(found)
        else:
            found = sorted(set(found))
        numbers[n] = [each.to_bytes(8, "little")[: level.index_size] for each in found]
        made += pack("<H", len(found))
        for each in numbers[n]:
            record = bytearray(generator.randbytes(level.record_size))
            record[: level.index_size] = each
            for slot in level.slots:
                if slot.kind == 0:
                    record[slot.offset : slot.offset + 4] = pack("<I", generator.randrange(3))
                elif slot.kind in (2, 5, 6) and generator.random() < 0.9:
                    record[slot.offset : slot.offset + 8] = pack("<d", generator.gauss(0, 9))
            made += record
    for sketch in EVERY_LAYOUT.sketches:
        entries = b""
        for each in numbers[sketch.level]:
            if generator.random() < 0.2:
                largest = 255 if wrong else 21
                registers = bytes(generator.randrange(largest + 1) for _ in range(REGISTERS))
                entries += each + pack("<H", DENSE) + registers
            else:
                hashes = [generator.randrange(2**32) % 40 for _ in range(generator.randrange(60))]
                entries += each + pack(f"<H{len(hashes)}I", len(hashes), *hashes)
        made += pack("<I", len(entries)) + entries
    return made


@settings(max_examples=60)
@given(RANDOMS, st.booleans(), st.sampled_from([NOW, NOW + 1, NOW + 50 * MINUTE, 0, -5]))
def test_tiles_are_read_as_the_model_reads_them(generator: Random, wrong: bool, now: int) -> None:
    data = some_tiles(generator, wrong)
    check_tiles(data, now)
    broken = bytearray(data)
    for _ in range(generator.randrange(3)):
        broken[generator.randrange(len(broken))] = generator.randrange(256)
    check_tiles(bytes(broken), now)
    check_tiles(bytes(broken)[: generator.randrange(len(broken))], now)


@pytest.mark.parametrize("dense", [False, True])
def test_distinct_values_in_no_order_are_counted_within_their_bytes(dense: bool) -> None:
    """Old entries behind one that is in the window: as many hashes as fill any table of those that
    are, and registers that are no hashes."""
    old = b"\1\0\0\0" + (pack("<H", DENSE) + bytes(REGISTERS) if dense else (
        pack("<H1000I", 1000, *range(1, 1001))
    ))  # fmt: skip
    entries = pack("<IHI", NOW // MINUTE - 3, 1, 7) + old
    entries += pack("<IHI", NOW // MINUTE - 2, 1, 7 << 21)
    head = blob()[:28] + bytes(2)
    data = head + pack("<I", len(entries)) + entries
    check_tiles(data, NOW)
    values = TILES.read(data, NOW)
    assert values is not None
    assert Value.FromString(values[2]).int64_val == (2 if dense else 1001)


def test_registers_that_no_hashes_make_are_a_number() -> None:
    entries = pack("<IH", NOW // MINUTE - 3, DENSE) + b"\xff" * REGISTERS
    data = blob()[:28] + bytes(2) + pack("<I", len(entries)) + entries
    check_tiles(data, NOW)
    values = TILES.read(data, NOW)
    assert values is not None
    assert Value.FromString(values[2]).int64_val == 2**32


def hash_of(data: bytes, kind: int) -> int:
    """The hash that events and distinct values are told apart by."""

    def mix(h: int) -> int:
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            h = (h ^ h >> 33) * factor % 2**64
        return h ^ h >> 33

    golden = 0x9E3779B97F4A7C15
    h = mix((kind + golden) % 2**64) ^ len(data)
    words = len(data) // 8
    for word in unpack_from(f"<{words}Q", data):
        h = (mix(h ^ word) + golden) % 2**64
    return mix(h ^ int.from_bytes(data[8 * words :], "little"))


def hash_of_value(value: Value) -> int:
    member = value.WhichOneof("val")
    assert member is not None
    number = Value.DESCRIPTOR.fields_by_name[member].number
    content = getattr(value, member)
    if member in ("string_val", "bytes_val"):
        return hash_of(content.encode() if member == "string_val" else content, number)
    if member in ("double_val", "float_val"):
        return hash_of(pack("<d", content + 0.0), number)
    return hash_of(pack("<q", content), 4 if number == 3 else number)


def send_events(
    ids: bytes, kinds: bytes, numbers: bytes
) -> tuple[list[ValueColumn], dict[int, bytes]]:
    """Has events sent of columns as a push has them. Returns the columns and, by row, what is
    sent of those that are."""
    columns = [ValueColumn.from_values(t, c) for t, c in ((2, kinds), (5, numbers), (0, ids))]
    rows = min(column.rows for column in columns)
    if {column.rows for column in columns} != {rows}:
        return columns, {}
    keys = [ValueColumn.from_arrow(4, pa.array(range(rows), pa.int64()))]
    times = TimeColumn.from_arrow(pa.array([NOW + i for i in range(rows)], pa.timestamp("us")))
    batch = EventBatch(WRITES, keys, columns, times)
    batch.begin()
    sent = b""
    while portion := batch.next_portion():
        sent += portion
    found = {}
    for command in parse_commands(sent):
        # Behind the events stand texts that are kept, of which this layout has none.
        event, texts = command[-2:]
        assert (len(event), texts) == (LAYOUT.event_size, b"")
        found[unpack_from("<Q", event)[0] - NOW] = event[8:]
    return columns, found


def check_events(ids: bytes, kinds: bytes, numbers: bytes) -> None:
    """Each event that can be told from others is sent, with what protobuf's own parser finds in
    it."""
    columns, found = send_events(ids, kinds, numbers)
    rows = columns[0].rows
    if {column.rows for column in columns} != {rows}:
        return
    faulty = {row for column in columns for row, _ in column.faults}
    # The column is of what its first value is.
    scalar = 1 <= columns[2].value_type <= 8
    nameless = faulty.union(columns[2].null_rows)
    assert found.keys() == {row for row in range(rows) if scalar and row not in nameless}
    try:
        parsed = [RepeatedValue.FromString(column).val for column in (kinds, numbers, ids)]
    except DecodeError:
        # Rows that are wrong have kept it from parsing the others.
        assert faulty
        return
    for row, event in found.items():
        kind, number, event_id = (column[row] for column in parsed)
        member = event_id.WhichOneof("val")
        assert member is not None
        if Value.DESCRIPTOR.fields_by_name[member].number == columns[2].value_type:
            assert unpack_from("<Q", event)[0] == hash_of_value(event_id)
        assert event[8:17] == (
            bytes(9) if row in columns[0].null_rows
            else pack("<BQ", 1, hash_of_value(kind) & 0xFFFFFFFF)
        )  # fmt: skip
        assert event[17:] == (
            bytes(9) if row in columns[1].null_rows
            else pack("<Bd", 1, float(getattr(number, number.WhichOneof("val") or "")))
        )  # fmt: skip


IDS = [
    Value(string_val="e1"), Value(string_val="a longer one"), Value(bytes_val=b"\xff"),
    Value(int32_val=-1), Value(int64_val=2**40), Value(double_val=-0.0), Value(float_val=0.5),
    Value(bool_val=True), Value(unix_timestamp_val=5), Value(string_list_val=StringList(val=["a"])),
    Value(),
]  # fmt: skip


@pytest.mark.parametrize("first", range(len(IDS)))
def test_events_are_sent_with_what_is_in_their_columns(first: int) -> None:
    ids = IDS[first:] + IDS[:first]
    rows = len(ids)
    kinds = [Value(string_val="x" * i) if i % 3 else Value() for i in range(rows)]
    numbers = [Value(double_val=i / 3) if i % 2 else Value(int64_val=i) for i in range(rows)]
    numbers[4] = Value()
    check_events(*(RepeatedValue(val=each).SerializeToString() for each in (ids, kinds, numbers)))


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
