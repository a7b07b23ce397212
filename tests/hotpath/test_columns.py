"""Columns against Feast's own conversion (Arrow) and against protobuf (serialized values)."""

import math
import struct
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from feast.protos.feast.types.Value_pb2 import Null, RepeatedValue, Value
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from hotfeast.hotpath.columns import NoEncoder, TimeColumn, ValueColumn
from hotfeast.hotpath.errors import InvalidRequest
from hotfeast.server.rows import unpack

INT32_RANGE = (-(2**31), 2**31 - 1)
INT64_RANGE = (-(2**63), 2**63 - 1)

# ---------------------------------------------------------------- Arrow against Feast


def by_feast(value_type: int, array: Any) -> list[bytes]:
    values = array.to_numpy(zero_copy_only=False)
    made = python_values_to_proto_values(list(values), ValueType(value_type))
    return [value.SerializeToString() for value in made]


def encoded(value_type: int, array: Any) -> list[bytes]:
    column = ValueColumn.from_arrow(value_type, unpack(array))
    assert column.faults == []
    assert column.rows == len(array)
    return column.values


NUMBERS = {
    pa.int8(): [0, 1, -128, 127, None],
    pa.int16(): [0, 1, -(2**15), 2**15 - 1, None],
    pa.int32(): [0, 1, *INT32_RANGE, None],
    pa.int64(): [0, 1, *INT32_RANGE, None],
    pa.uint8(): [0, 255, None],
    pa.uint16(): [0, 65535, None],
    pa.uint32(): [0, 2**31 - 1, None],
    pa.uint64(): [0, 2**31 - 1, None],
}
TEXTS = [pa.string(), pa.large_string(), pa.string_view()]
BLOBS = [pa.binary(), pa.large_binary(), pa.binary_view()]
CASES: list[tuple[int, Any]] = [
    *[
        (t.value, pa.array(values, kind))
        for kind, values in NUMBERS.items()
        for t in (ValueType.INT32, ValueType.INT64)
    ],
    *[
        (t.value, pa.array([v for v in values if v is not None], kind))
        for kind, values in NUMBERS.items()
        for t in (ValueType.FLOAT, ValueType.UNIX_TIMESTAMP)
    ],
    (4, pa.array([*INT64_RANGE], pa.int64())),
    *[
        (t, pa.array([0.0, -0.0, 1.5, math.inf, -math.inf, 1e-30, None], kind))
        for t, kind in (
            (5, pa.float64()),
            (6, pa.float16()),
            (6, pa.float32()),
            (6, pa.float64()),
        )
    ],
    (5, pa.array([math.nan, 1.0], pa.float64())),
    (6, pa.array([math.nan, 1.0], pa.float32())),
    (3, pa.array([1.0, math.nan, -5.0], pa.float64())),
    (4, pa.array([1.0, math.nan, -5.0, 2.0**53], pa.float64())),
    (7, pa.array([True, False, None] * 7)),
    *[(2, pa.array(["", "a", "ÿ𐍈", None, "long" * 40], kind)) for kind in TEXTS],
    *[
        (t, pa.array([b"", b"\xff\0", None, b"x" * 200], kind))
        for kind in BLOBS
        for t in (1, 30, 31)
    ],
    (1, pa.array([b"abc", None, b"\0\0\0"], pa.binary(3))),
    (36, pa.array(["b7ba2cf0-3a2e-4f36-9b0e-3d2cf7a8a5d1", None])),
    (37, pa.array(["b7ba2cf0-3a2e-11ee-9b0e-3d2cf7a8a5d1", None])),
    (44, pa.array(["1.10", "-3", None])),
    (11, pa.array([[b"a", b""], [], [b"\xff"]], pa.list_(pa.binary()))),
    (12, pa.array([["a", "é"], [], None, ["x"]], pa.list_(pa.string()))),
    (12, pa.array([["a", "é"], [], None], pa.large_list(pa.large_string()))),
    (13, pa.array([[1, -1], [], None, [5]], pa.list_(pa.int32()))),
    (14, pa.array([[1, -1], [], None, [*INT64_RANGE]], pa.list_(pa.int64()))),
    (15, pa.array([[1.5, math.inf], [], None], pa.list_(pa.float64()))),
    (16, pa.array([[1.5, -0.0], [], None], pa.list_(pa.float32()))),
    (16, pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2))),
    (17, pa.array([[True, False], [], None], pa.list_(pa.bool_()))),
    (38, pa.array([["b7ba2cf0-3a2e-4f36-9b0e-3d2cf7a8a5d1"], None])),
    (45, pa.array([["1.10"], [], None])),
]


@pytest.mark.parametrize(("value_type", "array"), CASES, ids=lambda x: str(getattr(x, "type", x)))
def test_arrow_becomes_what_feast_makes_of_it(value_type: int, array: Any) -> None:
    # An empty list in a scalar position of a null is Feast's null list, which has no bytes either.
    assert encoded(value_type, array) == by_feast(value_type, array)


def folded_forms(fold: Callable[[Any], Any]) -> Iterator[tuple[int, Any, Any]]:
    """The cases that Arrow has in another form, in which NaN is not found again, beside it."""
    for value_type, array in CASES:
        if any(a is not None and a != a for a in array.to_pylist()):
            continue
        try:
            yield value_type, array, fold(array)
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
            continue


FOLDED = [
    *folded_forms(lambda array: array.dictionary_encode()),
    *folded_forms(pa.compute.run_end_encode),
]


def test_arrow_has_the_forms() -> None:
    assert len(FOLDED) > len(CASES)


@pytest.mark.parametrize(
    ("value_type", "array", "folded"), FOLDED, ids=lambda x: str(getattr(x, "type", x))
)
def test_folded_arrays_become_the_same(value_type: int, array: Any, folded: Any) -> None:
    plain = encoded(value_type, array)
    assert encoded(value_type, folded) == plain
    assert encoded(value_type, folded[1:]) == plain[1:]


@pytest.mark.parametrize("form", ["sliced", "chunked", "empty", "nulls"])
@pytest.mark.parametrize(("value_type", "array"), CASES, ids=lambda x: str(getattr(x, "type", x)))
def test_forms_of_an_array_do_not_matter(form: str, value_type: int, array: Any) -> None:
    plain = encoded(value_type, array)
    if form == "sliced":
        for start in range(len(array)):
            for stop in range(start, len(array) + 1):
                assert encoded(value_type, array[start:stop]) == plain[start:stop]
        doubled = pa.concat_arrays([array, array])
        assert encoded(value_type, doubled[1:-1]) == (plain * 2)[1:-1]
    elif form == "chunked":
        chunks = pa.chunked_array([array[:1], array[1:1], array[1:]])
        assert encoded(value_type, chunks) == plain
        assert encoded(value_type, chunks[1:]) == plain[1:]
    elif form == "empty":
        assert encoded(value_type, pa.array([], array.type)) == []
    else:
        assert encoded(value_type, pa.nulls(3, array.type)) == [b""] * 3
        assert encoded(value_type, pa.nulls(3)) == [b""] * 3


@pytest.mark.parametrize("kind", [*NUMBERS, pa.float16(), pa.float32()])
def test_doubles_are_made_of_all_numbers(kind: Any) -> None:
    """Feast takes 64 bits only, and fails for a column of others."""
    array = pa.array([1, 0, 100], kind)
    with pytest.raises(AssertionError) if kind != pa.int64() else nullcontext():
        by_feast(5, array)
    assert encoded(5, array) == by_feast(5, array.cast(pa.float64()))


def test_nothing_but_empty_bytes() -> None:
    """Feast makes nulls of them, though it keeps empty bytes beside others."""
    array = pa.array([b"", None])
    assert by_feast(1, array) == [b"", b""]
    assert encoded(1, array) == [Value(bytes_val=b"").SerializeToString(), b""]


TIMES = [
    datetime(1970, 1, 1),
    datetime(1969, 12, 31, 23, 59, 58),
    datetime(2024, 2, 29, 12, 34, 56),
    datetime(1900, 1, 1, 0, 0, 1),
]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York", "+05:30"])
@pytest.mark.parametrize("fraction", [0, 1, 500_000, 999_999])
def test_timestamps_become_seconds_as_in_feast(unit: str, zone: str | None, fraction: int) -> None:
    times = [t.replace(microsecond=fraction) for t in TIMES]
    array = pa.array(times, pa.timestamp("us")).cast(pa.timestamp(unit), safe=False)
    array = array.cast(pa.timestamp(unit, zone))
    assert encoded(8, array) == by_feast(8, array)


def test_dates_become_seconds_as_in_feast() -> None:
    days = [date(1970, 1, 1), date(1969, 12, 31), date(9999, 12, 31), date(1, 1, 1)]
    for kind in (pa.date32(), pa.date64()):
        seconds = [int((d - date(1970, 1, 1)).total_seconds()) for d in days]
        wanted = [Value(unix_timestamp_val=s).SerializeToString() for s in seconds]
        assert encoded(8, pa.array(days, kind)) == wanted
        # Feast makes midnight of a date through NumPy, too.
        assert by_feast(8, pa.array(days, kind).cast(pa.timestamp("s"))) == wanted


def test_a_list_of_times() -> None:
    array = pa.array([[TIMES[1], TIMES[2]], [], None], pa.list_(pa.timestamp("us")))
    seconds = [int((t - TIMES[0]).total_seconds()) for t in TIMES[1:3]]
    wanted = Value()
    wanted.unix_timestamp_list_val.val.extend(seconds)
    empty = Value()
    empty.unix_timestamp_list_val.SetInParent()
    assert encoded(18, array) == [wanted.SerializeToString(), empty.SerializeToString(), b""]


def test_null_timestamps_are_null() -> None:
    """Feast writes its smallest integer, which it reads back as None; readers of other makes would
    take it for a time of the year -292277022657."""
    array = pa.array([None, TIMES[2]], pa.timestamp("us"))
    ours, feasts = encoded(8, array), by_feast(8, array)
    assert ours[1] == feasts[1]
    assert ours[0] == b""
    assert Value.FromString(feasts[0]).unix_timestamp_val == -(2**63)


REFUSED: list[tuple[int, Any, str]] = [
    (3, pa.array([2**31]), "it does not fit the type"),
    (3, pa.array([-(2**31) - 1]), "it does not fit the type"),
    (4, pa.array([2**63], pa.uint64()), "it does not fit the type"),
    (3, pa.array([1.5]), "it is no whole number"),
    (4, pa.array([math.inf]), "it is no whole number"),
    (4, pa.array([2.0**53 + 2]), "it does not fit the type"),
    (5, pa.array([2**53 + 1]), "a DOUBLE cannot hold it exactly"),
    (5, pa.array([2**63 - 1]), "a DOUBLE cannot hold it exactly"),
    (6, pa.array([1e300]), "it does not fit the type"),
    (12, pa.array([["a", None]]), "a list must not contain nulls"),
    (14, pa.array([[1, None]]), "a list must not contain nulls"),
    (14, pa.array([[1.5]]), "it is no whole number"),
    (13, pa.array([[2**31]]), "it does not fit the type"),
    (2, pa.array([b"\xff"]).view(pa.string()), "it is not UTF-8"),
    (
        12,
        pa.ListArray.from_arrays([0, 1], pa.array([b"\xc0"]).view(pa.string())),
        "it is not UTF-8",
    ),
]


@pytest.mark.parametrize(("value_type", "array", "why"), REFUSED)
def test_what_would_lose_something_is_a_fault(value_type: int, array: Any, why: str) -> None:
    fine = pa.nulls(1, array.type)
    column = ValueColumn.from_arrow(value_type, pa.concat_arrays([fine, array, fine]))
    assert column.faults == [(1, why)]
    assert column.fault_count == 1
    assert column.values == [b"", b"", b""]


def test_whole_numbers_that_a_double_holds_are_taken() -> None:
    numbers = [2**53, -(2**53), 2**60, -(2**63)]
    wanted = [Value(double_val=float(n)).SerializeToString() for n in numbers]
    assert encoded(5, pa.array(numbers)) == wanted


NO_ENCODER = [
    (2, pa.array([1])),
    (4, pa.array(["1"])),
    (7, pa.array([1])),
    (4, pa.array([True])),
    (2, pa.array([b"x"])),
    (1, pa.array(["x"])),
    (4, pa.array([datetime(2020, 1, 1)])),
    (8, pa.array([1.0])),
    (5, pa.array([Decimal("1.5")])),
    (8, pa.array([timedelta(1)])),
    (8, pa.array([1], pa.time64("us"))),
    (14, pa.array([1])),
    (14, pa.array([["1"]])),
    (12, pa.array([[[1]]])),
    (4, pa.array([[1]])),
    (14, pa.array([{"a": 1}])),
    # The format of a dictionary is that of its indices.
    (4, pa.array([7, 7]).dictionary_encode()),
    (14, pa.ListArray.from_arrays([0, 2], pa.array([7, 7]).dictionary_encode())),
    (99, pa.array([1])),
]


@pytest.mark.parametrize(("value_type", "array"), NO_ENCODER)
def test_types_that_do_not_go_together_are_refused(value_type: int, array: Any) -> None:
    with pytest.raises(NoEncoder):
        ValueColumn.from_arrow(value_type, array)


@st.composite
def arrays(draw: st.DrawFn) -> tuple[int, Any]:
    """A value type and an array that may become it, in one of many forms."""
    value_type, kind, elements = draw(
        st.sampled_from(
            [
                (3, pa.int32(), st.integers(*INT32_RANGE)),
                (4, pa.int64(), st.integers(*INT64_RANGE)),
                (4, pa.uint16(), st.integers(0, 65535)),
                (5, pa.float64(), st.floats(allow_nan=False)),
                (6, pa.float32(), st.floats(width=32, allow_nan=False)),
                (7, pa.bool_(), st.booleans()),
                (2, pa.string(), st.text(max_size=30)),
                (2, pa.large_string(), st.text(max_size=200)),
                (1, pa.binary(), st.binary(max_size=200)),
                (1, pa.binary(4), st.binary(min_size=4, max_size=4)),
            ]
        )
    )
    nested = draw(st.sampled_from(["", "", "list", "large list", "fixed"]))
    if nested and kind != pa.uint16() and not pa.types.is_fixed_size_binary(kind):
        value_type += 10
        size = draw(st.integers(0, 3))
        elements = st.lists(elements, min_size=size, max_size=size if nested == "fixed" else 5)
        # NumPy cannot say what empty lists of Feast's fixed sizes are.
        if nested == "fixed":
            kind = pa.list_(kind, size)
        else:
            kind = pa.list_(kind) if nested == "list" else pa.large_list(kind)
    # Feast makes a column of integers with nulls a column of floats, and loses what they cannot.
    values = draw(st.lists(st.none() | elements, max_size=12))
    array = pa.array(values, kind)
    start = draw(st.integers(0, len(values)))
    array = array[start : draw(st.integers(start, len(values)))]
    if draw(st.booleans()) and len(array):
        cut = draw(st.integers(0, len(array)))
        return value_type, pa.chunked_array([array[:cut], array[cut:]], array.type)
    return value_type, array


@given(arrays())
@settings(max_examples=400)
def test_generated_arrays(case: tuple[int, Any]) -> None:
    value_type, array = case
    values = array.to_pylist()
    if value_type in (3, 4) or value_type > 10:
        # Python's own values: NumPy would round large integers beside nulls.
        wanted = [
            b""
            if v is None
            else python_values_to_proto_values([v], ValueType(value_type))[0].SerializeToString()
            for v in values
        ]
    elif value_type == 1 and not any(values):
        wanted = [b"" if v is None else Value(bytes_val=v).SerializeToString() for v in values]
    else:
        wanted = by_feast(value_type, array)
    assert encoded(value_type, array) == wanted


# ---------------------------------------------------------------- malformed Arrow


def list_array(offsets: list[int], child: Any, kind: Any) -> Any:
    """A list array whose offsets are made wrong behind pyarrow's back, which looks at some."""
    memory = bytearray(4 * len(offsets))
    array = pa.Array.from_buffers(
        kind, len(offsets) - 1, [None, pa.py_buffer(memory)], children=[child]
    )
    memory[:] = struct.pack(f"<{len(offsets)}i", *offsets)
    return array


@pytest.mark.parametrize("child", [pa.array([1.0] * 10), pa.array(["abc"] * 10)])
def test_lists_whose_offsets_run_backwards(child: Any) -> None:
    """Without a check each second list would be written again, far behind the room for all."""
    rows = 1001
    array = list_array([0, 10] * (rows // 2) + [0, 10], child, pa.list_(child.type))
    with pytest.raises(pa.ArrowInvalid):
        array.validate(full=True)
    column = ValueColumn.from_arrow(15 if child.type == pa.float64() else 12, array)
    assert [row for row, _ in column.faults] == list(range(1, rows))


@pytest.mark.parametrize("offsets", [[0, 11], [-1, 2], [5, 2]])
def test_lists_beyond_their_elements(offsets: list[int]) -> None:
    array = list_array(offsets, pa.array([1.0] * 10), pa.list_(pa.float64()))
    with pytest.raises(ValueError, match="offsets"):
        ValueColumn.from_arrow(15, array)


def test_texts_whose_offsets_run_backwards() -> None:
    buffer = pa.py_buffer(struct.pack("<1002i", *[0, 10] * 501))
    array = pa.Array.from_buffers(pa.string(), 1001, [None, buffer, pa.py_buffer(b"0123456789")])
    column = ValueColumn.from_arrow(2, array)
    assert [row for row, _ in column.faults] == list(range(1, 1001))
    nested = list_array([0, 1001], array, pa.list_(pa.string()))
    assert len(ValueColumn.from_arrow(12, nested).faults) == 1


# ---------------------------------------------------------------- serialized values


def repeated(*values: bytes) -> bytes:
    out = RepeatedValue()
    for value in values:
        out.val.add().ParseFromString(value)
    return out.SerializeToString()


def raw(*values: bytes) -> bytes:
    """A RepeatedValue of bytes that protobuf would not write."""
    return b"".join(b"\x0a" + bytes([len(value)]) + value for value in values)


SAMPLES: dict[int, Value] = {
    1: Value(bytes_val=b"\xff"), 2: Value(string_val="é"), 3: Value(int32_val=-5),
    4: Value(int64_val=2**40), 5: Value(double_val=1.5), 6: Value(float_val=2.5),
    7: Value(bool_val=True), 8: Value(unix_timestamp_val=1_700_000_000),
}  # fmt: skip
for _field in Value.DESCRIPTOR.fields:
    if _field.number not in SAMPLES and _field.name != "null_val":
        _made = Value()
        if _field.message_type is not None:
            getattr(_made, _field.name).SetInParent()
        else:
            setattr(_made, _field.name, "x")
        SAMPLES[_field.number] = _made

# Pairs of different types that go together, and what comes out.
CONVERTED: dict[tuple[int, int], Value] = {
    (4, 3): Value(int64_val=-5), (5, 3): Value(double_val=-5), (6, 3): Value(float_val=-5),
    (8, 3): Value(unix_timestamp_val=-5), (5, 4): Value(double_val=2**40),
    (6, 4): Value(float_val=2**40), (8, 4): Value(unix_timestamp_val=2**40),
    (6, 5): Value(float_val=1.5), (5, 6): Value(double_val=2.5),
}  # fmt: skip


@pytest.mark.parametrize("member", SAMPLES)
def test_each_member_as_each_type(member: int) -> None:
    data = SAMPLES[member].SerializeToString()
    for wanted in SAMPLES:
        column = ValueColumn.from_values(wanted, repeated(b"", data))
        if wanted == member:
            assert (column.values, column.faults) == ([b"", data], [])
        elif (wanted, member) in CONVERTED:
            converted = CONVERTED[wanted, member].SerializeToString()
            assert (column.values, column.faults) == ([b"", converted], [])
        else:
            assert column.values == [b"", b""]
            assert [row for row, _ in column.faults] == [1]
    assert ValueColumn.from_values(0, repeated(b"", data)).value_type == member


NUMERIC: list[tuple[int, Value, Value | str]] = [
    (3, Value(int64_val=2**31 - 1), Value(int32_val=2**31 - 1)),
    (3, Value(int64_val=2**31), "it does not fit the type"),
    (3, Value(double_val=7.0), Value(int32_val=7)),
    (3, Value(double_val=7.5), "it is no whole number"),
    (4, Value(float_val=-3.0), Value(int64_val=-3)),
    (4, Value(double_val=1e300), "it does not fit the type"),
    (5, Value(int64_val=2**53 + 1), "a DOUBLE cannot hold it exactly"),
    (5, Value(int64_val=2**54), Value(double_val=2.0**54)),
    (6, Value(double_val=1e300), "it does not fit the type"),
    (6, Value(double_val=math.inf), Value(float_val=math.inf)),
    (6, Value(double_val=0.1), Value(float_val=0.1)),
]


@pytest.mark.parametrize(("wanted", "given_value", "result"), NUMERIC)
def test_numbers_are_exact_or_refused(wanted: int, given_value: Value, result: Value | str) -> None:
    column = ValueColumn.from_values(wanted, repeated(given_value.SerializeToString()))
    if isinstance(result, str):
        assert column.faults == [(0, result)]
    else:
        assert (column.values, column.faults) == ([result.SerializeToString()], [])


@pytest.mark.parametrize("wanted", [3, 4, 5, 6])
def test_nan_is_null(wanted: int) -> None:
    for value in (Value(double_val=math.nan), Value(float_val=math.nan), Value(null_val=Null.NULL)):
        column = ValueColumn.from_values(wanted, repeated(value.SerializeToString()))
        assert (column.values, column.faults, column.null_rows) == ([b""], [], [0])


LONG_FORMS = [
    (4, b"\xa0\x00\x05", Value(int64_val=5)),
    (4, b"\x20\x85\x80\x00", Value(int64_val=5)),
    (3, b"\x18\xff\xff\xff\xff\x0f", Value(int32_val=-1)),
    (7, b"\x38\x02", Value(bool_val=True)),
    (5, b"\xa9\x00" + struct.pack("<d", 2.5), Value(double_val=2.5)),
    (6, b"\xb5\x00" + struct.pack("<f", 2.5), Value(float_val=2.5)),
    (8, b"\xc0\x00\x05", Value(unix_timestamp_val=5)),
    (4, b"\x18\x01\x20\x05", Value(int64_val=5)),
    (4, b"\x20\x05\x20\x06", Value(int64_val=6)),
]


@pytest.mark.parametrize(("wanted", "data", "value"), LONG_FORMS)
def test_long_forms_of_numbers_are_made_short(wanted: int, data: bytes, value: Value) -> None:
    assert Value.FromString(data) == value
    column = ValueColumn.from_values(wanted, raw(data))
    assert (column.values, column.faults) == ([value.SerializeToString()], [])
    if wanted == 8:
        assert TimeColumn.from_values(raw(data)).times == [(5, 0)]


@pytest.mark.parametrize(
    "data",
    [b"\x92\x00\x01x", b"\x12\x81\x00x", b"\x12\x01x\x12\x01y", b"\x12\x02x", b"\x12\x01\xff",
     b"\x98\x06\x01", b"\x1b\x1c", b"\x12", b"\x00\x00", b"\x20" + b"\x80" * 10 + b"\x01"],
)  # fmt: skip
def test_other_long_forms_and_broken_values_are_faults(data: bytes) -> None:
    column = ValueColumn.from_values(2, raw(b"\x12\x01a", data, b"\x12\x01b"))
    assert column.values == [b"\x12\x01a", b"", b"\x12\x01b"]
    assert [row for row, _ in column.faults] == [1]


@given(st.binary(max_size=40))
@settings(max_examples=500)
def test_any_bytes_as_a_payload(data: bytes) -> None:
    for wanted in (0, 2, 4, 5, 14):
        try:
            column = ValueColumn.from_values(wanted, data)
        except InvalidRequest:
            continue
        for value in column.values:
            parsed = Value.FromString(value)
            assert value == b"" or parsed.WhichOneof("val") is not None


@given(st.lists(st.binary(max_size=20), max_size=6), st.sampled_from([2, 3, 4, 5, 6, 7, 8, 12, 14]))
@settings(max_examples=500)
def test_any_bytes_as_values(values: list[bytes], wanted: int) -> None:
    column = ValueColumn.from_values(wanted, raw(*values))
    faults = dict(column.faults)
    for row, (ours, theirs) in enumerate(zip(column.values, values, strict=True)):
        if row in faults:
            assert ours == b""
        elif ours:
            member = Value.FromString(ours)
            assert [field.number for field, _ in member.ListFields()] == [wanted]
            Value.FromString(theirs)


# ---------------------------------------------------------------- the rest


def test_columns_own_what_they_point_into() -> None:
    array = pa.array(["text" * 10] * 100)
    column = ValueColumn.from_arrow(2, array)
    values = [b"\x12\x01" + bytes([65 + i]) for i in range(20)]
    serialized = ValueColumn.from_serialized(2, values, [], None)
    wanted = list(values)
    del array
    values.clear()
    rubbish = [bytes([i % 250]) * 60 for i in range(5000)]
    assert column.values == [Value(string_val="text" * 10).SerializeToString()] * 100
    assert serialized.values == wanted
    assert len(rubbish) == 5000


def test_from_serialized_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(IndexError):
        ValueColumn.from_serialized(2, [b""], [1], None)
    with pytest.raises(IndexError):
        ValueColumn.from_serialized(2, [b""], [-1], None)
    with pytest.raises(TypeError):
        ValueColumn.from_serialized(2, [None], [], None)  # type: ignore[list-item]
    with pytest.raises(TypeError):
        TimeColumn.from_timestamps([None])  # type: ignore[list-item]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_keep_their_fractions(unit: str) -> None:
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    ticks = [0, 1, -1, per_second, -per_second, 5 * per_second - 1, -5 * per_second - 1, None]
    column = TimeColumn.from_arrow(pa.array(ticks, pa.timestamp(unit, "UTC"))[:])
    assert column.times == [
        None if t is None else (t // per_second, t % per_second * (10**9 // per_second))
        for t in ticks
    ]
    assert column.null_rows == [7]
    assert column.faults == []
    assert column.later_than(0) == [r for r, t in enumerate(ticks) if t and t // per_second > 0]
    assert (
        TimeColumn.from_arrow(pa.array(ticks, pa.timestamp(unit))[2:4]).times == column.times[2:4]
    )


def test_times_of_other_kinds() -> None:
    assert TimeColumn.from_arrow(pa.array([date(1969, 12, 31)])).times == [(-86400, 0)]
    assert TimeColumn.from_arrow(pa.array([date(1969, 12, 31)], pa.date64())).times == [(-86400, 0)]
    assert TimeColumn.from_arrow(pa.nulls(2)).times == [None, None]
    assert TimeColumn.none(2).null_rows == [0, 1]
    extreme = TimeColumn.from_arrow(pa.array([-(2**63), 2**63 - 1], pa.timestamp("us")))
    assert [row for row, _ in extreme.faults] == [0, 1]
    nanos = TimeColumn.from_arrow(pa.array([-(2**63)], pa.timestamp("ns")))
    assert nanos.times == [((-(2**63)) // 10**9, (-(2**63)) % 10**9)]
    for array in (pa.array([1]), pa.array(["2020-01-01"]), pa.array([1.0])):
        with pytest.raises(NoEncoder):
            TimeColumn.from_arrow(array)


@pytest.mark.parametrize(
    "moment", [datetime(1, 1, 1), datetime(1969, 12, 31, 23, 59, 59, 999_999),
               datetime(1970, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 1)],
)  # fmt: skip
def test_times_from_timestamps(moment: datetime) -> None:
    stamp = Timestamp()
    stamp.FromDatetime(moment.replace(tzinfo=UTC))
    column = TimeColumn.from_timestamps([stamp.SerializeToString(), b"\xff"])
    assert column.times[0] == (stamp.seconds, stamp.nanos)
    assert [row for row, _ in column.faults] == [1]


@pytest.mark.parametrize("seconds", [-62135596801, 253402300800, 2**63 - 1])
def test_times_that_no_timestamp_can_be(seconds: int) -> None:
    column = TimeColumn.from_values(repeated(Value(int64_val=seconds).SerializeToString()))
    assert [row for row, _ in column.faults] == [0]
    assert column.later_than(0) == []


def test_payloads_that_are_none() -> None:
    makers: list[Callable[[bytes], object]] = [
        TimeColumn.from_values, lambda data: ValueColumn.from_values(4, data)
    ]  # fmt: skip
    for data in (b"\x0a\x05x", b"\x0a", b"\xff", b"\x07"):
        for make in makers:
            with pytest.raises(InvalidRequest):
                make(data)
