"""Packed rows: the bytes, and one store that writers of every layout and Feast's SDK share."""

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.definition import LAYOUTS, JoinKey, KeyRecipe, ReadDefinition, schema_number
from hotfeast.hotpath.errors import CorruptRow
from hotfeast.hotpath.packed import layout_of, marked_time, settle_reply, unpack_row
from hotfeast.hotpath.plan import Plan
from hotfeast.hotpath.reply import Reply
from hotfeast.hotpath.request import Request
from hotfeast.hotpath.splice import build_response
from hotfeast.hotpath.values import row_time
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.redis_io import Lanes, RedisReader, RedisWriter
from hotfeast.serving.v1 import serving_pb2
from tests.hotpath.helpers import request_bytes
from tests.hotpath.packed_helpers import (
    FEAST_VIEWS,
    PRESENT,
    ROW_FIELD,
    SCHEMAS,
    SECOND,
    PackedRow,
    Shared,
    answers,
    batch_of,
    expected,
    hash_fields,
    read_plan,
    repack,
    view,
)
from tests.hotpath.write_helpers import INT64


@pytest.fixture(scope="module")
def lanes(server: LocalRedis) -> Lanes:
    return Lanes(redis.ConnectionPool.from_url(server.url))


@pytest.fixture(autouse=True)
def empty(client: Any) -> None:
    client.flushall()


# ---------------------------------------------------------------- the bytes


def test_packed_row_bytes(lanes: Lanes, client: Any) -> None:
    """The format, put together here by hand."""
    row = PackedRow(7, 1_700_000_000 * SECOND, {"f": 300, "g": None, "h": -1})
    RedisWriter(lanes, 30).write(batch := batch_of("packed", "new", [row]))
    time = Timestamp(seconds=1_700_000_000).SerializeToString()
    values = b""
    for number in (300, None, -1):
        data = b"" if number is None else Value(int64_val=number).SerializeToString()
        values += bytes([len(data)]) + data
    number = schema_number(hash_fields(SCHEMAS["new"]))
    head = b"\x01" + struct.pack("<I", number) + bytes([len(time)]) + time
    assert client.hgetall(batch.key(0)) == {
        b"_ts:view": time[:-1] + bytes([time[-1] | 0x80]) + b"\x80\x00",
        ROW_FIELD: head + values,
    }


def test_a_packed_row_is_unpacked_by_the_schema_that_it_names(lanes: Lanes, client: Any) -> None:
    """Features of the plan that the row does not have are None, nulls are empty."""
    row = PackedRow(7, 1_700_000_000 * SECOND, {"h": 3, "f": None})
    RedisWriter(lanes, 30).write(batch := batch_of("packed", "less", [row]))
    stored = client.hgetall(batch.key(0))
    time, packed = stored[b"_ts:view"], stored[ROW_FIELD]
    plan = read_plan(False, "new")
    assert unpack_row(plan, 0, time, packed) == schema_number(hash_fields(SCHEMAS["less"]))
    plan.add_schema(0, hash_fields(SCHEMAS["less"]))
    h = Value(int64_val=3).SerializeToString()
    assert unpack_row(plan, 0, time, packed) == [b"", None, h]
    later = marked_time(Timestamp(seconds=1_700_000_001).SerializeToString(), "packed")
    with pytest.raises(ValueError, match="of another time"):
        unpack_row(plan, 0, later, packed)
    broken = [packed[:end] for end in range(len(packed))]
    broken += [packed + b"\0", b"\2" + packed[1:], packed[:-1] + b"\x7f" * 3]
    for data in broken:
        with pytest.raises(ValueError, match="packed row"):
            unpack_row(plan, 0, time, data)
    with pytest.raises(IndexError):
        unpack_row(plan, 1, time, packed)


@given(
    st.integers(-62135596800, 253402300799),
    st.sampled_from([0, 1, 127, 128, 10**6, 999_999_999]),
    st.sampled_from(LAYOUTS),
)
def test_marked_time_is_the_same_time(seconds: int, nanos: int, layout: str) -> None:
    plain = Timestamp(seconds=seconds, nanos=nanos)
    marked = marked_time(plain.SerializeToString(), layout)
    assert Timestamp.FromString(marked) == plain
    assert row_time(marked) == (seconds, nanos)
    assert layout_of(marked) == layout
    assert (marked == plain.SerializeToString()) == (layout == "feast")


@given(st.integers(-62135596800, 253402300799), st.integers(0, 999_999_999))
def test_no_time_of_protobuf_is_marked(seconds: int, nanos: int) -> None:
    assert layout_of(Timestamp(seconds=seconds, nanos=nanos).SerializeToString()) == "feast"


def varint(number: int) -> bytes:
    data = b""
    while number > 127:
        data += bytes([number & 127 | 128])
        number >>= 7
    return data + bytes([number])


@st.composite
def other_times(draw: st.DrawFn) -> bytes:
    """Times as other writers may put them: fields in any order, more than once, although zero."""
    seconds = st.tuples(st.just(b"\x08"), st.sampled_from([0, 1, 5, 128, 1_700_000_000]))
    nanos = st.tuples(st.just(b"\x10"), st.sampled_from([0, 1, 127, 128, 999_999_999]))
    fields = draw(st.lists(seconds | nanos, min_size=1, max_size=3))
    return b"".join(tag + varint(number) for tag, number in fields)


@settings(max_examples=60, deadline=None)
@given(other_times(), st.sampled_from(LAYOUTS))
def test_times_of_other_writers(lanes: Lanes, client: Any, time: bytes, layout: str) -> None:
    """They have no mark, whatever they end with; and stay the same through all layouts."""
    assert layout_of(time) == "feast"
    assert Timestamp.FromString(marked_time(time, layout)) == Timestamp.FromString(time)
    assert layout_of(marked_time(time, layout)) == layout
    batch = batch_of("feast", "old", [PackedRow(1, SECOND, {"f": 1, "g": None})])
    RedisWriter(lanes, 30).write(batch)
    client.hset(batch.key(0), "_ts:view", time)
    said = Timestamp.FromString(time)
    for to in ("feast", layout, "feast"):
        repack(lanes, to)
        assert layout_of(client.hget(batch.key(0), "_ts:view")) == to
        for packed in (False, True):
            [(read, answer)] = answers(lanes, read_plan(packed, "old"), [1])
            assert read == (said.seconds * SECOND + said.nanos or None)
            assert answer == expected({"f": 1, "g": None}, "old")
    client.flushall()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("read_all", [False, True])
def test_views_that_share_a_time(lanes: Lanes, layout: str, read_all: bool) -> None:
    """One reply's bytes are two views' time, of which either takes the mark off; some rows are
    asked for again behind them."""
    rows = [PackedRow(i, i * SECOND, {"f": i, "g": None}) for i in range(1, 30)]
    writer = RedisWriter(lanes, 30)
    writer.write(batch_of(layout, "old", rows))
    writer.write(batch_of("packed", "old", [PackedRow(7, 90 * SECOND, {"f": 8, "g": 9})]))
    twice = tuple(replace(view(False, "old"), name=name) for name in ("one", "two"))
    recipe = KeyRecipe((("id", 0),))
    plan = Plan(ReadDefinition("demo", (JoinKey("id", INT64),), (recipe,), twice))
    plan.set_read_all(0, read_all)
    for view_number in (0, 1):
        plan.add_schema(view_number, hash_fields(SCHEMAS["old"]))
    request = request_bytes({"id": [Value(int64_val=row.id) for row in rows]})
    batch = Batch(plan, Request(request))
    lane = (reader := RedisReader(lanes, 30)).read(batch, None)
    data = build_response(batch, lane.reply, 0, 0, True)
    reader.release(lane)
    response = serving_pb2.GetOnlineFeaturesResponse.FromString(data)
    assert response.SerializeToString() == data
    for vector in response.results[1:]:
        assert [t.seconds for t in vector.event_timestamps] == [
            90 if row.id == 7 else row.id for row in rows
        ]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("nanoseconds", [0, 1, -1, -SECOND, 10**9, 1_700_000_000_123_456_789])
def test_time_is_sent_without_mark(
    lanes: Lanes, layout: str, packed: bool, nanoseconds: int
) -> None:
    row = PackedRow(1, nanoseconds, {"f": 1, "g": 2})
    RedisWriter(lanes, 30).write(batch_of(layout, "old", [row]))
    request = Request(request_bytes({"id": [Value(int64_val=1)]}))
    batch = Batch(read_plan(packed, "old"), request)
    reader = RedisReader(lanes, 30)
    lane = reader.read(batch, None)
    data = build_response(batch, lane.reply, 0, 0, True)
    reader.release(lane)
    message = serving_pb2.GetOnlineFeaturesResponse.FromString(data)
    # Not only the same time: the bytes that protobuf writes.
    assert message.SerializeToString() == data
    for vector in message.results[1:]:
        time = vector.event_timestamps[0]
        assert time.seconds * SECOND + time.nanos == nanoseconds


# ---------------------------------------------------------------- one store, many writers

ids = st.integers(0, 2)
times = st.integers(1, 6).map(lambda second: second * SECOND)
schemas = st.sampled_from(sorted(SCHEMAS))


@st.composite
def steps(draw: st.DrawFn) -> tuple[Any, ...]:
    kinds = ["ours", "ours", "ours", "feast", "feast-unchecked", "delete", "repack", "repack"]
    kind = draw(st.sampled_from(kinds))
    if kind == "delete":
        return (kind,)
    schema = draw(schemas)
    if kind == "repack":
        return kind, draw(st.sampled_from(LAYOUTS)), schema
    rows = [
        PackedRow(
            draw(ids), draw(times),
            {n: draw(st.none() | st.integers(0, 10**6)) for n in SCHEMAS[schema]},
        )
        for _ in range(draw(st.integers(1, 3)))
    ]  # fmt: skip
    if kind != "ours":
        return kind, schema, rows[:1]
    # Feast's views have no created times; ours sometimes have.
    return kind, schema, rows, draw(st.sampled_from(LAYOUTS)), draw(st.booleans())


@settings(max_examples=150, deadline=None)
@given(st.lists(steps(), min_size=1, max_size=8))
def test_all_writers_share_one_store(lanes: Lanes, client: Any, taken: list[Any]) -> None:
    """Whoever writes, in whatever layout and with whatever definition: readers that look for
    either form first are told the newest row, whole."""
    shared = Shared(lanes, client)
    for step in taken:
        shared.take(step)
        for packed in (False, True):
            for schema in SCHEMAS:
                shared.check(packed, schema)


@pytest.mark.parametrize("before", LAYOUTS)
@pytest.mark.parametrize("after", LAYOUTS)
def test_created_times_decide_across_layouts(lanes: Lanes, before: str, after: str) -> None:
    writer = RedisWriter(lanes, 30)
    first = PackedRow(1, SECOND, {"f": 1, "g": 1}, created=20)
    writer.write(batch_of(before, "old", [first], created=True))
    for created, written in ((10, False), (20, True), (30, True), (None, True)):
        row = PackedRow(1, SECOND, {"f": created, "g": 2}, created=created)
        writer.write(batch := batch_of(after, "old", [row], created=True))
        assert batch.counts["written" if written else "stale"] == 1, created
        [(_, answer)] = answers(lanes, read_plan(after != "feast", "old"), [1])
        assert (answer["f"] == expected(row.values, "old")["f"]) == written


def test_migration_leaves_nothing_behind(lanes: Lanes, client: Any) -> None:
    """A checked write of another layout takes away what it replaces."""
    writer = RedisWriter(lanes, 30)
    names = {
        "feast": {b"_ts:view", *hash_fields(("f", "g"))},
        "dual": {b"_ts:view", ROW_FIELD, *hash_fields(("f", "g"))},
        "packed": {b"_ts:view", ROW_FIELD},
    }
    second = 1
    for before in LAYOUTS:
        for after in LAYOUTS:
            for layout in (before, after):
                row = PackedRow(1, second * SECOND, {"f": second, "g": None})
                writer.write(batch := batch_of(layout, "old", [row]))
                second += 1
            assert set(client.hkeys(batch.key(0))) == names[after], (before, after)


def test_feast_reads_dual_rows(lanes: Lanes, client: Any) -> None:
    shared = Shared(lanes, client)
    row = PackedRow(1, 1_700_000_000 * SECOND, {"f": 5, "g": None})
    RedisWriter(lanes, 30).write(batch_of("dual", "old", [row]))
    key = EntityKey(join_keys=["id"], entity_values=[Value(int64_val=1)])
    [(time, values)] = RedisOnlineStore().online_read(
        shared.configs[False], FEAST_VIEWS["old"], [key], ["f", "g"]
    )
    assert time is not None
    assert time.timestamp() == 1_700_000_000
    assert values == {"f": Value(int64_val=5), "g": Value()}


# ---------------------------------------------------------------- schemas


def test_schema_of_another_definition_is_looked_up(lanes: Lanes, client: Any) -> None:
    shared = Shared(lanes, client)
    shared.take(("ours", "new", [PackedRow(1, SECOND, {"f": 1, "g": 2, "h": 3})], "packed", True))
    shared.take(("ours", "less", [PackedRow(2, SECOND, {"h": 3, "f": 1})], "packed", True))
    plan = read_plan(True, "old")
    first, second = answers(lanes, plan, [1, 2])
    assert first == (SECOND, expected({"f": 1, "g": 2}, "old"))
    assert second == (SECOND, expected({"f": 1}, "old"))


def test_schema_that_is_recorded_nowhere(lanes: Lanes, client: Any) -> None:
    shared = Shared(lanes, client)
    shared.take(("ours", "new", [PackedRow(1, SECOND, {"f": 1, "g": 2, "h": 3})], "packed", True))
    client.delete("hotfeast:schemas:demo")
    with pytest.raises(CorruptRow, match=r"'view', id=1.*features that are recorded nowhere"):
        answers(lanes, read_plan(True, "old"), [1])
    [(_, answer)] = answers(lanes, read_plan(True, "old"), [1], partial=True)
    assert {status for status, _ in answer.values()} == {0}
    # Whoever has the definition reads it all the same.
    [(_, answer)] = answers(lanes, read_plan(True, "new"), [1])
    assert answer == expected({"f": 1, "g": 2, "h": 3}, "new")


def test_dual_rows_need_no_schema(lanes: Lanes, client: Any) -> None:
    shared = Shared(lanes, client)
    shared.take(("ours", "new", [PackedRow(1, SECOND, {"f": 1, "g": 2, "h": 3})], "dual", True))
    client.delete("hotfeast:schemas:demo")
    [(_, answer)] = answers(lanes, read_plan(True, "old"), [1])
    assert answer == expected({"f": 1, "g": 2}, "old")


# ---------------------------------------------------------------- hostile rows


def hostile(packed: bytes) -> Iterator[bytes]:
    for size in range(len(packed)):
        yield packed[:size]
    yield packed + b"\0"
    yield b"\x02" + packed[1:]
    for at in range(5, len(packed)):
        yield packed[:at] + b"\xff" + packed[at + 1 :]


@pytest.mark.parametrize("packed", [False, True])
def test_broken_packed_rows(lanes: Lanes, client: Any, packed: bool) -> None:
    """A row is served as it was written, or it is told to be broken."""
    row = PackedRow(1, SECOND, {"f": 1, "g": 2})
    RedisWriter(lanes, 30).write(batch := batch_of("packed", "old", [row]))
    whole = client.hget(batch.key(0), ROW_FIELD)
    plan = read_plan(packed, "old")
    count = 0
    for data in hostile(whole):
        if data == whole:
            continue
        client.hset(batch.key(0), ROW_FIELD, data)
        try:
            [(_, answer)] = answers(lanes, plan, [1])
        except CorruptRow:
            count += 1
        else:
            assert set(answer) == {"f", "g"}
            # A byte within a value makes it another value.
            assert sum(answer[n] != (PRESENT, row.values[n]) for n in answer) == 1
    assert count > len(whole)


def test_row_of_another_time_is_broken(lanes: Lanes, client: Any) -> None:
    writer = RedisWriter(lanes, 30)
    writer.write(batch := batch_of("packed", "old", [PackedRow(1, SECOND, {"f": 1, "g": 1})]))
    old = client.hget(batch.key(0), ROW_FIELD)
    writer.write(batch_of("packed", "old", [PackedRow(1, 2 * SECOND, {"f": 2, "g": 2})]))
    client.hset(batch.key(0), ROW_FIELD, old)
    with pytest.raises(CorruptRow, match="packed row cannot be read"):
        answers(lanes, read_plan(True, "old"), [1])


# ---------------------------------------------------------------- the second command


def test_second_command_asks_only_for_what_is_missing(lanes: Lanes, client: Any) -> None:
    writer = RedisWriter(lanes, 30)
    rows = [PackedRow(i, SECOND, {"f": i, "g": i}) for i in range(10)]
    writer.write(batch_of("packed", "old", rows))
    writer.write(written := batch_of("feast", "old", [PackedRow(4, 2 * SECOND, {"f": 0, "g": 9})]))
    batch = Batch(
        read_plan(True, "old"),
        Request(request_bytes({"id": [Value(int64_val=i) for i in range(10)]})),
    )
    reply = Reply()
    reply.start(batch)
    commands = []
    while True:
        commands.append(batch.command_bytes)
        connection = client.connection_pool.make_connection()
        connection.connect()
        connection._sock.sendall(batch.command_bytes)
        while not reply.feed(connection._sock.recv(7)):
            pass
        connection.disconnect()
        if settle_reply(batch, reply):
            break
    assert len(commands) == 2
    assert commands[0].count(b"HMGET") == 10
    assert commands[1].count(b"HMGET") == 1
    assert written.key(0) in commands[1]
    data = build_response(batch, reply, 0, 0, True)
    response = serving_pb2.GetOnlineFeaturesResponse.FromString(data)
    values = [[v.int64_val for v in vector.values] for vector in response.results[1:]]
    assert values == [[i if i != 4 else 0 for i in range(10)], [i if i != 4 else 9 for i in
                                                                range(10)]]  # fmt: skip


def test_response_needs_settled_replies(lanes: Lanes) -> None:
    batch = Batch(read_plan(True, "old"), Request(request_bytes({"id": [Value(int64_val=1)]})))
    reply = Reply()
    reply.start(batch)
    assert reply.feed(b"*2\r\n$-1\r\n$-1\r\n")
    with pytest.raises(ValueError, match="not the complete replies"):
        build_response(batch, reply, 0, 0, True)
    assert settle_reply(batch, reply)
    assert build_response(batch, reply, 0, 0, True)
