"""The parser of pushes against protobuf's own, from whole requests to noise."""

from random import Random
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from hotfeast.hotpath.errors import InvalidRequest
from hotfeast.hotpath.push import PushBatch
from hotfeast.serving.v1 import push_pb2, value_pb2
from tests.hotpath.helpers import (
    RANDOMS,
    TEXTS,
    delimited,
    fill_message,
    mutant,
    tag,
    varint,
    wire_soup,
)

Message = push_pb2.PushRequest
FIELDS = [1, 2, 3, 4, 5, 5, 5, 6]


def parse(data: bytes) -> PushBatch | None:
    try:
        return PushBatch(data)
    except InvalidRequest:
        return None


def protobuf_parse(data: bytes) -> Any | None:
    try:
        return Message.FromString(data)
    except DecodeError:
        return None


def values_are_whole(batch: PushBatch) -> bool:
    """Whether every column's elements are Values: what is left to `ValueColumn`."""
    try:
        for column in (batch.columns or {}).values():
            value_pb2.RepeatedValue.FromString(column)
    except DecodeError:
        return False
    return True


def times(messages: Any) -> list[tuple[int, int] | None] | None:
    """Explicit times as the parser has them; None in the place of one that is no time."""
    return [
        (t.seconds, t.nanos)
        if -62135596800 <= t.seconds <= 253402300799 and 0 <= t.nanos < 10**9
        else None
        for t in messages
    ] or None


def check_same(batch: PushBatch, message: Any) -> None:
    """That a canonical batch and a message say the same, unknown fields apart."""
    message.DiscardUnknownFields()
    assert batch.canonical
    assert batch.batch_id == message.batch_id
    named = message.WhichOneof("destination")
    assert batch.destination == (getattr(message, named) if named else None)
    assert batch.by_push_source == (named == "push_source")
    assert batch.target == message.target
    payload = message.WhichOneof("payload")
    assert (batch.arrow_ipc is not None) == (payload == "arrow_ipc")
    assert (batch.columns is not None) == (payload == "columns")
    if payload == "arrow_ipc":
        assert batch.arrow_ipc == message.arrow_ipc
    for ours, theirs in (
        (batch.event_timestamps, message.columns.event_timestamps),
        (batch.created_timestamps, message.columns.created_timestamps),
    ):
        assert (None if ours is None else ours.times) == times(theirs)
    columns = batch.columns or {}
    assert columns.keys() == message.columns.columns.keys()
    for name, column in columns.items():
        # Compared as bytes: NaNs are unequal to themselves.
        mine = value_pb2.RepeatedValue.FromString(column)
        mine.DiscardUnknownFields()
        theirs = message.columns.columns[name]
        assert mine.SerializeToString(deterministic=True) == theirs.SerializeToString(
            deterministic=True
        )


def has_unknown_in_entry(data: bytes) -> bool:
    """Whether upb has put a column aside: it takes a map entry with an unknown field for an unknown
    field as a whole. Other protobuf libraries read the column, and so does the hot path."""
    columns = Message.FromString(data).columns
    bare = push_pb2.ColumnBatch.FromString(columns.SerializeToString())
    bare.DiscardUnknownFields()
    return bool(columns.ByteSize() != bare.ByteSize())


def check_against_protobuf(data: bytes) -> None:
    """Ours accepts exactly what protobuf accepts."""
    batch, message = parse(data), protobuf_parse(data)
    if message is None:
        # What is inside of Values is looked at when columns are made, hence only here.
        assert batch is None or not batch.canonical or not values_are_whole(batch)
        return
    assert batch is not None
    if not batch.canonical:
        batch = PushBatch(message.SerializeToString())
        if not batch.canonical:
            assert has_unknown_in_entry(data)
            return
    if (batch.columns or {}).keys() == message.columns.columns.keys():
        check_same(batch, message)
    else:
        assert has_unknown_in_entry(data)


@st.composite
def messages(draw: st.DrawFn, depth: int = 5) -> Any:
    message = Message()
    fill_message(draw, message, depth)
    return message


@given(messages())
def test_whole_messages(message: Any) -> None:
    data = message.SerializeToString()
    batch = PushBatch(data)
    check_same(batch, message)


@given(messages(depth=4), messages(depth=4))
def test_messages_in_pieces(one: Any, other: Any) -> None:
    check_against_protobuf(one.SerializeToString() + other.SerializeToString())


@given(messages(depth=4), RANDOMS)
def test_damaged_messages(message: Any, random: Random) -> None:
    data = message.SerializeToString()
    for _ in range(20):
        check_against_protobuf(mutant(random, data))


@given(RANDOMS)
@settings(max_examples=500)
def test_well_formed_nonsense(random: Random) -> None:
    check_against_protobuf(wire_soup(random, FIELDS))


@given(st.binary(max_size=200))
@settings(max_examples=500)
def test_noise(data: bytes) -> None:
    check_against_protobuf(data)


def example() -> Any:
    message = Message(batch_id="7", push_source="clicks", target="PUSH_TARGET_ONLINE_AND_OFFLINE")
    for name, value in (("user_id", {"int64_val": 2**40}), ("ß", {"string_val": "x" * 200})):
        for _ in range(3):
            message.columns.columns[name].val.add(**value)
    for i in range(3):
        message.columns.event_timestamps.add(seconds=1_700_000_000 + i, nanos=i)
        message.columns.created_timestamps.add(seconds=-i)
    return message


def test_every_prefix() -> None:
    data = example().SerializeToString()
    check_against_protobuf(data)
    for size in range(len(data)):
        check_against_protobuf(data[:size])


def test_every_damaged_byte() -> None:
    data = example().SerializeToString()
    for position in range(len(data)):
        for byte in (0x00, 0x01, 0x0A, 0x7F, 0x80, 0xFF):
            check_against_protobuf(data[:position] + bytes([byte]) + data[position + 1 :])


@given(TEXTS)
def test_a_column_twice_is_rewritten(name: str) -> None:
    def column(number: int) -> bytes:
        value = value_pb2.RepeatedValue(val=[value_pb2.Value(int64_val=number)])
        entry = delimited(1, name.encode()) + delimited(2, value.SerializeToString())
        return delimited(1, entry)

    data = delimited(5, column(1) + column(2))
    assert not PushBatch(data).canonical
    check_against_protobuf(data)


def test_of_two_payloads_the_last_counts() -> None:
    columns = delimited(5, b"")
    arrow = delimited(6, b"stream")
    assert PushBatch(columns + arrow).arrow_ipc == b"stream"
    assert PushBatch(columns + arrow).columns is None
    assert PushBatch(arrow + columns).arrow_ipc is None
    assert PushBatch(arrow + columns).columns == {}
    for data in (columns + arrow, arrow + columns, columns + arrow + columns):
        check_against_protobuf(data)


def test_times_that_are_none_are_told_by_row() -> None:
    message = Message()
    for seconds, nanos in ((1, 0), (253402300800, 0), (1, -1), (1, 10**9), (-62135596800, 1)):
        message.columns.event_timestamps.add(seconds=seconds, nanos=nanos)
    batch = PushBatch(message.SerializeToString())
    assert batch.event_timestamps is not None
    assert batch.event_timestamps.times == [(1, 0), None, None, None, (-62135596800, 1)]
    assert [row for row, _ in batch.event_timestamps.faults] == [1, 2, 3]


def test_too_many_columns_are_refused() -> None:
    entries = b"".join(delimited(1, delimited(1, b"%d" % i)) for i in range(16385))
    with pytest.raises(InvalidRequest, match="more than 16384 columns"):
        PushBatch(delimited(5, entries))


def test_groups_nest_as_deep_as_protobuf_allows() -> None:
    for depth in (95, 96, 97, 98, 99, 100, 101):
        for wrap in (lambda b: b, lambda b: delimited(5, b)):
            data = wrap(tag(9, 3) * depth + tag(9, 4) * depth)
            check_against_protobuf(data)


def test_long_varints() -> None:
    for extra in range(12):
        check_against_protobuf(tag(4, 0) + b"\x80" * extra + b"\x01")
    check_against_protobuf(tag(4, 0) + varint(2**64 - 1))
    check_against_protobuf(tag(4, 0) + varint(2**35))
