"""`value_state` and `row_time` against protobuf's own parser."""

from collections import Counter
from random import Random
from typing import Any

import pytest
from feast.protos.feast.types.Value_pb2 import Value as FeastValue
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from hotfeast.hotpath.values import row_time, value_state
from hotfeast.serving.v1.value_pb2 import Value
from tests.hotpath.helpers import (
    RANDOMS,
    delimited,
    mutant,
    nested,
    tag,
    values,
    varint,
    wire_soup,
)

MEMBERS = [field.number for field in Value.DESCRIPTOR.fields]
FIELDS = sorted({*MEMBERS, 1, 2, 3, 9, 30, 49})

NEW_MEMBERS = {"zoned_timestamp_val"}
"""Members that the oldest Feast that is supported does not have; this one came with 0.65."""


def differences(ours: Any, feasts: Any, seen: set[str]) -> set[str]:
    """Names of the fields that only one of two messages has, or that they have differently."""
    if feasts.full_name in seen:
        return set()
    seen.add(feasts.full_name)
    mine, theirs = ours.fields_by_name, feasts.fields_by_name
    found = set(mine.keys()) ^ set(theirs.keys())
    for name in set(mine.keys()) & set(theirs.keys()):
        a, b = mine[name], theirs[name]
        if (a.number, a.type, a.is_repeated) != (b.number, b.type, b.is_repeated):
            found.add(name)
        elif a.message_type is not None and b.message_type is not None:
            found |= differences(a.message_type, b.message_type, seen)
    return found


def test_the_oracles_schema_is_feasts() -> None:
    """An older Feast's own message would not do as the oracle: it takes anything in new members."""
    known = {f.name for f in FeastValue.DESCRIPTOR.fields}
    assert differences(Value.DESCRIPTOR, FeastValue.DESCRIPTOR, set()) == NEW_MEMBERS - known


def oracle(data: bytes) -> str:
    """What protobuf makes of the bytes of a `Value`.

    A value that has only fields protobuf does not know is set: a newer Feast wrote a member that
    this one has no name for, and the client may have one.
    """
    try:
        value = Value.FromString(data)
    except DecodeError:
        return "corrupt"
    member = value.WhichOneof("val")
    if member is None:
        return "set" if value.ByteSize() else "null"
    return "null" if member == "null_val" else "set"


@settings(max_examples=250)
@given(values())
def test_every_kind_of_value(value: Value) -> None:
    data = value.SerializeToString()
    expected = "null" if value.WhichOneof("val") in (None, "null_val") else "set"
    assert value_state(data) == expected == oracle(data)


@pytest.mark.parametrize("name", [field.name for field in Value.DESCRIPTOR.fields])
def test_every_member_at_its_default(name: str) -> None:
    value = Value()
    member = getattr(value, name)
    if hasattr(member, "SetInParent"):
        member.SetInParent()
    else:
        setattr(value, name, member)
    assert value.WhichOneof("val") == name
    data = value.SerializeToString()
    assert value_state(data) == ("null" if name == "null_val" else "set") == oracle(data)


@settings(max_examples=120)
@given(values())
def test_every_cut(value: Value) -> None:
    data = value.SerializeToString()
    for size in range(len(data)):
        assert value_state(data[:size]) == oracle(data[:size])


@settings(max_examples=200)
@given(values(), RANDOMS)
def test_mutations(value: Value, random: Random) -> None:
    original = value.SerializeToString()
    for _ in range(30):
        data = mutant(random, original)
        assert value_state(data) == oracle(data)


@settings(max_examples=100)
@given(RANDOMS)
def test_almost_messages(random: Random) -> None:
    for _ in range(200):
        data = wire_soup(random, FIELDS)
        assert value_state(data) == oracle(data)


def test_the_noise_is_of_every_kind() -> None:
    """Noise that protobuf always refuses would test little."""
    random = Random(1)
    states = Counter(oracle(wire_soup(random, FIELDS)) for _ in range(2_000))
    assert min(states["set"], states["corrupt"], states["null"]) > 100


@settings(max_examples=300)
@given(st.binary(max_size=40))
def test_random_bytes(data: bytes) -> None:
    assert value_state(data) == oracle(data)


@settings(max_examples=300)
@given(st.sampled_from([0x20, 0x18, 0x40, 0x38, 0x29, 0x35]), st.binary(max_size=12))
def test_common_scalars_have_a_path_of_their_own(first: int, rest: bytes) -> None:
    for size in range(len(rest) + 1):
        data = bytes([first]) + rest[:size]
        assert value_state(data) == oracle(data)


TEN_BYTES = b"\x80" * 9


@pytest.mark.parametrize(
    ("data", "state"),
    [
        (b"", "null"),
        (b"\x20" + TEN_BYTES + b"\x01", "set"),
        (b"\x20" + TEN_BYTES + b"\x02", "set"),
        (b"\x20" + TEN_BYTES + b"\x7f", "set"),
        (b"\x20" + TEN_BYTES + b"\x80\x00", "corrupt"),
        (b"\x38" + TEN_BYTES + b"\x80\x00", "corrupt"),
        (tag(4, 0, 5) + b"\x01", "set"),
        (tag(4, 0, 6) + b"\x01", "corrupt"),
        (b"\xa0\x80\x80\x80\x1f\x01", "corrupt"),  # a tag of more than 32 bits
        (b"\x12" + varint(1, 10) + b"a", "set"),
        (b"\x12" + varint(1, 11) + b"a", "corrupt"),
        (b"\x12" + varint(2**31) + b"a", "corrupt"),
        (b"\x12" + varint(2**64 - 1) + b"a", "corrupt"),
        (b"\x12\x02a", "corrupt"),
        (b"\x00\x01", "corrupt"),  # field number 0
        (b"\x24", "corrupt"),  # the end of a group that was not begun
        (b"\x26", "corrupt"),  # wire type 6
        (b"\x12\x03\xed\xa0\x80", "corrupt"),  # a surrogate
        (b"\x0a\x03\xed\xa0\x80", "set"),  # the same as bytes
        (delimited(12, delimited(1, b"\xff")), "corrupt"),
        (delimited(11, delimited(1, b"\xff")), "set"),
        (delimited(15, delimited(1, b"\0" * 9)), "corrupt"),
        (delimited(15, delimited(1, b"\0" * 16)), "set"),
        (delimited(16, delimited(1, b"\0" * 6)), "corrupt"),
        (delimited(14, delimited(1, b"\x01\x80")), "corrupt"),
        (tag(99, 3) + tag(99, 4), "set"),
        (tag(99, 3) + tag(98, 4), "corrupt"),
        (tag(99, 3), "corrupt"),
        (b"\x98\x01\x00" + tag(99, 0) + b"\x01", "null"),  # null_val, then an unknown field
        (b"\x9a\x01\x02\x08\x00", "set"),  # null_val's number with a length: unknown
        (b"\x20\x05" + b"\x9a\x01\x00", "set"),
    ],
)
def test_limits(data: bytes, state: str) -> None:
    assert value_state(data) == state == oracle(data)


def _list(inner: bytes) -> bytes:
    return delimited(42, delimited(1, inner))


def _map(inner: bytes) -> bytes:
    return delimited(20, delimited(1, delimited(2, inner)))


def _scalar_map(inner: bytes) -> bytes:
    return delimited(47, delimited(1, delimited(2, inner)))


def _group(inner: bytes) -> bytes:
    return tag(99, 3) + inner + tag(99, 4)


def test_nesting_limit_is_protobufs() -> None:
    states = set()
    for wrap, per_level in ((_list, 2), (_map, 3), (_scalar_map, 3), (_group, 1)):
        for depth in range(100 // per_level - 2, 100 // per_level + 3):
            for groups in range(4):
                data = nested(depth, wrap, nested(groups, _group))
                states.add(value_state(data))
                assert value_state(data) == oracle(data), (wrap.__name__, depth, groups)
                data = nested(groups, _group, nested(depth, _group))
                assert value_state(data) == oracle(data)
    assert states == {"set", "corrupt"}


def test_deep_nesting_does_not_exhaust_the_stack() -> None:
    assert value_state(nested(2_000, _list)) == "corrupt"
    assert value_state(tag(99, 3) * 1_000_000) == "corrupt"


def time_oracle(data: bytes) -> tuple[int, int] | None:
    """Seconds and nanos, or None where the bytes are no time that protobuf's rules allow."""
    try:
        time = Timestamp.FromString(data)
    except DecodeError:
        return None
    if not -62135596800 <= time.seconds <= 253402300799 or not 0 <= time.nanos < 10**9:
        return None
    return time.seconds, time.nanos


def check_time(data: bytes) -> None:
    expected = time_oracle(data)
    if expected is None:
        with pytest.raises(ValueError, match="Timestamp"):
            row_time(data)
    else:
        assert row_time(data) == expected


_SECONDS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(
    [0, 1, -1, -62135596800, -62135596801, 253402300799, 253402300800]
)
_NANOS = st.integers(-(2**31), 2**31 - 1) | st.sampled_from([0, -1, 1, 999_999_999, 10**9])


@settings(max_examples=300)
@given(_SECONDS, _NANOS)
def test_row_time(seconds: int, nanos: int) -> None:
    data = Timestamp(seconds=seconds, nanos=nanos).SerializeToString()
    for size in range(len(data) + 1):
        check_time(data[:size])


@settings(max_examples=50)
@given(RANDOMS)
def test_row_time_of_almost_times(random: Random) -> None:
    for _ in range(100):
        check_time(wire_soup(random, [1, 1, 1, 2, 2, 3], depth=2))


def test_row_time_of_nothing_is_1970() -> None:
    assert row_time(b"") == (0, 0)


def test_last_one_wins() -> None:
    assert row_time(b"\x08\x01\x10\x02\x08\x03\x10\x04") == (3, 4)
    assert value_state(b"\x20\x05\x98\x01\x00") == "null"
    assert value_state(b"\x98\x01\x00\x20\x05") == "set"
