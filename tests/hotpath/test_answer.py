"""Answers as columns, beside protobuf's own reading of the same bytes."""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast.protos.feast.serving.ServingService_pb2 import (
    GetOnlineFeaturesResponse as FeastResponse,
)
from feast.protos.feast.types.Value_pb2 import Null, RepeatedValue, StringList, Value
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from hotfeast.hotpath.answer import NO_TIME, Answer, AnswerColumn, times_of
from hotfeast.hotpath.answer_arrow import arrow_array
from hotfeast.hotpath.columns import TimeColumn, ValueColumn
from hotfeast.hotpath.errors import MalformedAnswer
from hotfeast.serving.v1 import serving_pb2
from tests.hotpath.helpers import (
    INT64,
    INTS64,
    RANDOMS,
    STRING,
    TEXTS,
    delimited,
    mutant,
    tag,
    values,
    varint,
    wire_soup,
)

Response = serving_pb2.GetOnlineFeaturesResponse
_FIRST, _LAST = -62135596800, 253402300799

_ELEMENTS: dict[str, st.SearchStrategy[Any]] = {
    "bytes": st.binary(max_size=20),
    "string": TEXTS | st.just("x" * 300),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": INTS64,
    "double": st.floats(),
    "float": st.floats(width=32),
    "bool": st.booleans(),
    "unix_timestamp": st.integers(_FIRST, _LAST),
    "json": TEXTS,
    "uuid": TEXTS,
    "time_uuid": TEXTS,
    "decimal": TEXTS,
}


def plain_values(member: str) -> st.SearchStrategy[Any]:
    """`Value`s with one member set, a scalar, list or set."""
    kind = member.removesuffix("_val").removesuffix("_list").removesuffix("_set")
    if member == f"{kind}_val":
        return _ELEMENTS[kind].map(lambda v: Value(**{member: v}))

    def listed(elements: list[Any]) -> Any:
        value = Value()
        getattr(value, member).SetInParent()
        getattr(value, member).val.extend(elements)
        return value

    return st.lists(_ELEMENTS[kind], max_size=12).map(listed)


PLAIN = [
    f"{kind}{form}_val"
    for kind in _ELEMENTS
    for form in ("", "_list", "_set")
    if f"{kind}{form}_val" in Value.DESCRIPTOR.fields_by_name
]


@st.composite
def cells(draw: st.DrawFn, rows: int) -> list[Any]:
    """A column of a plain type, with nulls of both kinds, or of anything."""
    if draw(st.integers(0, 3)) == 0:
        cell = values()
    else:
        nulls = st.sampled_from([Value(), Value(null_val=Null.NULL)])
        cell = plain_values(draw(st.sampled_from(PLAIN))) | nulls
    return draw(st.lists(cell, min_size=rows, max_size=rows))


@st.composite
def responses(draw: st.DrawFn) -> Any:
    """Answers of Feast's own class: hotfeast's is the same on the wire."""
    rows = draw(st.integers(0, 9))
    response: Any = FeastResponse()
    response.metadata.feature_names.SetInParent()
    for _ in range(draw(st.integers(0, 4))):
        response.metadata.feature_names.val.append(draw(TEXTS))
        vector = response.results.add()
        vector.values.extend(draw(cells(rows)))
        if draw(st.integers(0, 4)):
            vector.statuses.extend(draw(st.lists(st.integers(0, 4), min_size=rows, max_size=rows)))
        if draw(st.integers(0, 4)):
            for _ in range(rows):
                vector.event_timestamps.add(
                    seconds=draw(st.just(0) | st.integers(_FIRST, _LAST)),
                    nanos=draw(st.sampled_from([0, 0, 999, 1000, 999_999_999])),
                )
    return response


# ---------------------------------------------------------------- the oracle


def plain(value: Any) -> Any:
    """What a `Value` holds, floats by their bits; a serialized `Value` for maps and the like."""
    member = value.WhichOneof("val")
    if member is None or member == "null_val":
        return None
    if member not in PLAIN:
        return value.SerializeToString(deterministic=True)
    content = getattr(value, member)
    return [_bits(v) for v in content.val] if hasattr(content, "val") else _bits(content)


def _bits(value: Any) -> Any:
    return struct.pack("=d", value) if isinstance(value, float) else value


def read(column: AnswerColumn) -> list[Any]:
    """The same of a decoded column, by Arrow."""
    array = arrow_array(column)
    array.validate(full=True)
    assert len(array) == column.rows
    assert array.null_count == column.null_count
    if column.layout == "message":
        return [
            None if v is None else Value.FromString(v).SerializeToString(deterministic=True)
            for v in array.to_pylist()
        ]
    times = pa.timestamp("s", "UTC")
    if array.type == times:
        array = array.cast(pa.int64())
    elif array.type == pa.list_(times):
        array = array.cast(pa.list_(pa.int64()))
    return [[_bits(e) for e in v] if isinstance(v, list) else _bits(v) for v in array.to_pylist()]


def sound(message: Any) -> bool:
    """Whether an answer's columns fit each other."""
    names = message.metadata.feature_names.val
    rows = len(message.results[0].values) if message.results else 0
    return len(names) == len(message.results) and all(
        len(v.values) == rows
        and len(v.statuses) in (0, rows)
        and len(v.event_timestamps) in (0, rows)
        and all(0 <= s < 255 for s in v.statuses)
        and all(_FIRST <= t.seconds <= _LAST and 0 <= t.nanos < 10**9 for t in v.event_timestamps)
        for v in message.results
    )


def decode(data: bytes) -> tuple[Answer, list[AnswerColumn]]:
    answer = Answer(data)
    return answer, [answer.column(i) for i in range(len(answer.names))]


def assert_same(message: Any, answer: Answer, columns: Sequence[AnswerColumn]) -> None:
    assert answer.names == list(message.metadata.feature_names.val)
    assert answer.rows == (len(message.results[0].values) if message.results else 0)
    for name, vector, column in zip(answer.names, message.results, columns, strict=True):
        assert_vector(vector, column)
        assert column.name == name


def assert_vector(vector: Any, column: AnswerColumn) -> None:
    # Feast's class, since what is not known to one of the two is not known to the other.
    theirs: list[Any] = [Value.FromString(v.SerializeToString()) for v in vector.values]
    whole = column.layout == "message"
    wanted = []
    for value in theirs:
        null = plain(value) is None and not (whole and _has_unknown(value))
        bare = value.SerializeToString(deterministic=True) if whole else plain(value)
        wanted.append(None if null else bare)
    assert read(column) == wanted
    kinds = {v.WhichOneof("val") for v in theirs if plain(v) is not None}
    unknown = any(map(_has_unknown, theirs))
    if not kinds and not unknown:
        assert (column.layout, column.value_type) == ("none", 0)
    elif len(kinds) == 1 and kinds <= set(PLAIN) and not unknown:
        assert not whole
        assert column.value_type == Value.DESCRIPTOR.fields_by_name[kinds.pop()].number
    else:
        assert whole
    derived = [1 if w is not None else 2 for w in wanted]
    assert list(column.statuses) == (list(vector.statuses) or derived)
    times = [
        NO_TIME if t.seconds == t.nanos == 0 else t.seconds * 10**6 + t.nanos // 1000
        for t in vector.event_timestamps
    ] or [NO_TIME] * len(wanted)
    assert np.frombuffer(column.event_timestamps, np.int64).tolist() == times


def _has_unknown(value: Any) -> bool:
    return value.WhichOneof("val") is None and value.ByteSize() > 0


# ---------------------------------------------------------------- tests


@given(responses())
def test_columns_are_what_protobuf_reads(response: Any) -> None:
    assert_same(response, *decode(response.SerializeToString()))


@given(RANDOMS, responses())
def test_hostile_answers(random: Any, response: Any) -> None:
    data = mutant(random, response.SerializeToString())
    if random.randrange(4) == 0:
        data = wire_soup(random, (1, 2, 3))
    check_hostile(data)


def check_hostile(data: bytes) -> None:
    """What protobuf reads is read the same, and the rest is an error at worst."""
    try:
        message = FeastResponse.FromString(data)
    except DecodeError:
        message = None
    try:
        answer, columns = decode(data)
    except MalformedAnswer:
        assert message is None or not sound(message)
        return
    # What is wrong with metadata that is not looked at is not told.
    if message is not None:
        assert sound(message)
        assert_same(message, answer, columns)


@given(RANDOMS, st.integers(0, 4).flatmap(cells))
def test_hostile_matrices(random: Any, column: list[Any]) -> None:
    """What protobuf reads as numbers is read the same, and the rest is an error at worst."""
    response = answer_of(f=column)
    data = mutant(random, response.SerializeToString()) if random.randrange(3) else None
    data = response.SerializeToString() if data is None else data
    try:
        message = FeastResponse.FromString(data)
    except DecodeError:
        message = None
    try:
        answer = Answer(data)
        matrix = np.zeros((answer.rows, len(answer.names)))
        answer.fill_matrix(matrix, list(range(len(answer.names))), -0.5)
    except MalformedAnswer:
        assert message is None or not sound(message)
        return
    except TypeError:
        found = [v for vector in message.results for v in vector.values] if message else []
        assert message is None or not all(_is_number(v) or _is_null(v) for v in found)
        return
    if message is None or not sound(message):
        return
    wanted = [[_as_number(v) for v in vector.values] for vector in message.results]
    assert [_bits(v) for v in matrix.T.ravel()] == [_bits(v) for each in wanted for v in each]


NUMBERS = ("int32_val", "int64_val", "double_val", "float_val", "bool_val", "unix_timestamp_val")


def _is_number(value: Any) -> bool:
    return value.WhichOneof("val") in NUMBERS


def _is_null(value: Any) -> bool:
    return plain(value) is None and not _has_unknown(value)


def _as_number(value: Any) -> float:
    member = value.WhichOneof("val")
    if member not in NUMBERS:
        return -0.5
    content = getattr(value, member)
    null = member == "unix_timestamp_val" and content == NO_TIME
    return -0.5 if null else float(content)


@given(RANDOMS, st.integers(0, 4).flatmap(cells))
def test_hostile_columns(random: Any, column: list[Any]) -> None:
    """A column that protobuf refuses is refused."""
    vector: Any = FeastResponse.FeatureVector(values=column)
    vector.statuses.extend([1] * len(column))
    data = mutant(random, vector.SerializeToString())
    if random.randrange(2) == 0:
        fields = (1, *range(1, 9), *range(11, 30), 33, 42, 47)
        data = b"".join(delimited(1, wire_soup(random, fields, 3)) for _ in range(2))
    try:
        message = FeastResponse.FeatureVector.FromString(data)
    except DecodeError:
        message = None
    whole = delimited(1, delimited(1, delimited(1, b"f"))) + delimited(2, data)
    try:
        (read_column,) = decode(whole)[1]
    except MalformedAnswer:
        if message is not None:
            complete = FeastResponse(results=[message])
            complete.metadata.feature_names.val.append("f")
            assert not sound(complete)
        return
    assert message is not None
    assert_vector(message, read_column)


LISTED = delimited(14, delimited(1, b"\x01"))


@pytest.mark.parametrize(
    "value",
    [
        b"\x20\x01\x20\x02",
        b"\x20\x01" + delimited(2, b"abc"),
        delimited(2, b"abc") + b"\x98\x01\x00",
        LISTED + delimited(14, b"\x08\x05" + delimited(1, b"\x06\x07") + b"\x08\x08"),
        LISTED + b"\x20\x01" + LISTED,
        LISTED + tag(100, 2) + b"\x01x" + LISTED,
        delimited(17, b"\x08\x01\x08\x00" + delimited(1, varint(2**40) + b"\x00")),
        delimited(16, tag(1, 5) + struct.pack("<f", 1.5) + delimited(1, struct.pack("<2f", 2, 3))),
        delimited(13, delimited(1, varint(2**64 - 1) + varint(2**35 + 7))),
        tag(3, 0) + varint(2**64 - 5),
        tag(7, 0) + varint(2**63),
        tag(4, 0) + varint(3, 10),
        tag(60, 0) + b"\x01",
        tag(3, 2) + b"\x01\x05",
    ],
)
def test_values_in_unusual_forms(value: bytes) -> None:
    vector = delimited(1, value) + delimited(1, b"")
    whole = delimited(1, delimited(1, delimited(1, b"f"))) + delimited(2, vector)
    message = FeastResponse.FromString(whole)
    assert_same(message, *decode(whole))


def test_metadata_and_columns_in_pieces() -> None:
    def named(name: bytes) -> bytes:
        return delimited(1, delimited(1, delimited(1, name)))

    def column(number: int) -> bytes:
        return delimited(2, b"\x10\x01" + delimited(1, b"\x20" + varint(number)))

    data = column(1) + named(b"a") + b"\x18\x01" + column(2) + named(b"b")
    answer, columns = decode(data)
    assert_same(Response.FromString(data), answer, columns)
    assert answer.names == ["a", "b"]
    assert [c.values for c in columns] == [struct.pack("=q", 1), struct.pack("=q", 2)]
    metadata = serving_pb2.GetOnlineFeaturesResponseMetadata.FromString(answer.metadata)
    assert list(metadata.feature_names.val) == ["a", "b"]


def answer_of(**columns: list[Any]) -> Any:
    response: Any = FeastResponse()
    response.metadata.feature_names.SetInParent()
    for name, column in columns.items():
        response.metadata.feature_names.val.append(name)
        vector = response.results.add(values=column, statuses=[1] * len(column))
        for row in range(len(column)):
            vector.event_timestamps.add(seconds=row + 1)
    return response


@given(st.lists(st.integers(0, 7).flatmap(cells), min_size=1, max_size=4), st.integers(1, 5))
def test_answers_below_each_other_and_one_row_in_several(parts: list[list[Any]], step: int) -> None:
    answers = [answer_of(f=part, g=list(reversed(part))) for part in parts]
    joined = Answer(*(a.SerializeToString() for a in answers))
    assert joined.rows_of_each == [len(part) for part in parts]
    assert joined.rows == sum(map(len, parts))
    for index in range(2):
        every = FeastResponse.FeatureVector()
        for answer in answers:
            every.MergeFrom(answer.results[index])
        taken = FeastResponse.FeatureVector(
            values=every.values[::step],
            statuses=every.statuses[::step],
            event_timestamps=every.event_timestamps[::step],
        )
        assert_vector(taken, joined.column(index, step))
    payloads = [RepeatedValue(val=part).SerializeToString() for part in parts]
    vector = FeastResponse.FeatureVector(values=[v for part in parts for v in part][::step])
    assert_vector(vector, AnswerColumn.of_values("f", payloads, step))


def test_answers_that_do_not_fit_each_other() -> None:
    one, other = answer_of(f=[Value()]), answer_of(g=[Value()])
    with pytest.raises(MalformedAnswer, match="the same names"):
        Answer(one.SerializeToString(), other.SerializeToString())
    with pytest.raises(TypeError):
        Answer()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.results.pop(), "2 names and 1 columns"),
        (lambda a: a.results[1].values.add(), "'b': it has 3 values, and the first column has 2"),
        (lambda a: a.results[1].statuses.pop(), "'b': it has 2 values and 1 statuses"),
        (lambda a: a.results[1].event_timestamps.add(), "2 values and 3 event timestamps"),
        (lambda a: a.results[1].statuses.__setitem__(0, 255), "255 is no status"),
        (lambda a: a.results[1].statuses.__setitem__(0, -1), "-1 is no status"),
        (
            lambda a: setattr(a.results[1].event_timestamps[0], "seconds", 2**60),
            "an event timestamp is none",
        ),
    ],
)
def test_answers_whose_columns_do_not_fit(change: Any, words: str) -> None:
    answer = answer_of(a=[Value(), Value()], b=[Value(), Value()])
    change(answer)
    with pytest.raises(MalformedAnswer, match=words):
        decode(answer.SerializeToString())


def test_a_column_is_decoded_when_it_is_asked_for() -> None:
    response = answer_of(a=[Value(int64_val=1)], b=[Value(int64_val=2)])
    data = response.SerializeToString().replace(b"\x20\x02", b"\x20\xff")
    answer = Answer(data)
    assert read(answer.column(0)) == [1]
    with pytest.raises(MalformedAnswer, match="'b'"):
        answer.column(1)
    with pytest.raises(IndexError):
        answer.column(2)


def test_arrow_shares_the_memory() -> None:
    column = Answer(
        answer_of(
            f=[Value(string_list_val=StringList(val=["a", "bc"])), Value()]
        ).SerializeToString()
    ).column(0)
    array = arrow_array(column)
    assert array.to_pylist() == [["a", "bc"], None]
    for buffer, data in (
        (array.buffers()[0], column.validity),
        (array.buffers()[1], column.offsets),
        (array.values.buffers()[1], column.element_offsets),
        (array.values.buffers()[2], column.values),
    ):
        assert data is not None
        assert buffer.address == np.frombuffer(data, np.uint8).ctypes.data


def test_columns_of_a_write() -> None:
    first = ValueColumn.from_arrow(INT64, pa.array([1, None, 3, 4, 5]))
    second = ValueColumn.from_arrow(STRING, pa.array(["a", "b"]))
    faulty = ValueColumn.from_arrow(INT64, pa.array([1.5, 2.0]))
    assert read(AnswerColumn.of_cells("f", [first])) == [1, None, 3, 4, 5]
    assert read(AnswerColumn.of_cells("f", [first, first], 3)) == [1, 4, None, 5]
    assert read(AnswerColumn.of_cells("f", [faulty])) == [None, 2]
    assert AnswerColumn.of_cells("f", [first, second]).layout == "message"
    assert AnswerColumn.of_cells("f", []).layout == "none"
    times = TimeColumn.from_arrow(pa.array([1, None, -5_000_001], pa.timestamp("us", "UTC")))
    assert np.frombuffer(times_of([times, times], 2), np.int64).tolist() == [
        1, -5_000_001, NO_TIME,
    ]  # fmt: skip
