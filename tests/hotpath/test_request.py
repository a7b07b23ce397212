"""The request parser against protobuf's own, from whole requests to noise."""

from random import Random
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.definition import JoinKey, ReadDefinition
from hotfeast.hotpath.errors import InvalidRequest
from hotfeast.hotpath.plan import Plan
from hotfeast.hotpath.request import Request
from hotfeast.serving.v1 import serving_pb2, value_pb2
from tests.hotpath.helpers import (
    RANDOMS,
    TEXTS,
    delimited,
    fill_message,
    int64_request,
    mutant,
    nested,
    one_view,
    tag,
    varint,
    wire_soup,
)

Message = serving_pb2.GetOnlineFeaturesRequest
MAX_COLUMNS = 256
FIELDS = [1, 2, 3, 3, 4, 5, 6]


def parse(data: bytes) -> Request | None:
    try:
        return Request(data)
    except InvalidRequest:
        return None


def protobuf_parse(data: bytes) -> Any | None:
    try:
        return Message.FromString(data)
    except DecodeError:
        return None


def canonical(data: bytes) -> bytes:
    """The rewrite that the parser asks for where it says `canonical = False`."""
    message = Message.FromString(data)
    message.DiscardUnknownFields()
    return bytes(message.SerializeToString())


def columns_are_values(request: Request) -> bool:
    """Whether every column's elements are Values: what is left to `Batch` and the transforms."""
    columns = [*request.entity_columns.values(), *request.context_columns.values()]
    try:
        for column in columns:
            value_pb2.RepeatedValue.FromString(column)
    except DecodeError:
        return False
    return True


def check_same(request: Request, message: Any) -> None:
    """That a canonical request and a message say the same, unknown fields apart."""
    message.DiscardUnknownFields()
    assert request.canonical
    assert request.full_feature_names == message.full_feature_names
    assert request.version_metadata == message.include_feature_view_version_metadata
    if message.WhichOneof("kind") == "feature_service":
        assert request.by_service
        assert request.selection_bytes.decode() == message.feature_service
        assert request.features == []
    else:
        assert not request.by_service
        assert request.features == list(message.features.val)
        assert serving_pb2.FeatureList.FromString(request.selection_bytes) == message.features
    for columns, expected in (
        (request.entity_columns, message.entities),
        (request.context_columns, message.request_context),
    ):
        assert columns.keys() == expected.keys()
        for name, column in columns.items():
            # Compared as bytes: NaNs are unequal to themselves.
            ours = value_pb2.RepeatedValue.FromString(column)
            ours.DiscardUnknownFields()
            assert ours.SerializeToString(deterministic=True) == expected[name].SerializeToString(
                deterministic=True
            )
    assert set(request.column_names) == set(message.entities)


def has_unknown_in_entry(data: bytes) -> bool:
    """Whether upb has put a column aside: it takes a map entry with an unknown field for an unknown
    field as a whole. Other protobuf libraries read the column, and so does the hot path."""
    message = Message.FromString(data)
    bare = Message.FromString(data)
    bare.DiscardUnknownFields()
    del bare.features.val[:]
    del message.features.val[:]
    return bool(message.ByteSize() != bare.ByteSize())


def check_against_protobuf(data: bytes) -> None:
    """Ours accepts exactly what protobuf accepts, as far as something is asked for."""
    request, message = parse(data), protobuf_parse(data)
    if message is None:
        # Values inside columns are looked at when they are bound, hence only here.
        assert request is None or not columns_are_values(request) or not request.canonical
        if request is not None and not request.canonical:
            # A column that a later one has replaced is not ours to show; the rewrite refuses it.
            with pytest.raises(DecodeError):
                canonical(data)
        return
    if message.WhichOneof("kind") is None:
        assert request is None
        return
    assert request is not None
    if not request.canonical:
        request = Request(canonical(data))
        check_same(request, message)
    elif len(request.entity_columns) + len(request.context_columns) == (
        len(message.entities) + len(message.request_context)
    ):
        check_same(request, message)
    else:
        assert has_unknown_in_entry(data)


@st.composite
def messages(draw: st.DrawFn, depth: int = 5) -> Any:
    message = Message()
    fill_message(draw, message, depth)
    return message


@st.composite
def whole_requests(draw: st.DrawFn) -> Any:
    message = draw(messages())
    if message.WhichOneof("kind") is None:
        if draw(st.booleans()):
            message.feature_service = draw(TEXTS)
        else:
            message.features.val.extend(draw(st.lists(TEXTS)))
            message.features.SetInParent()
    return message


@settings(max_examples=300)
@given(whole_requests())
def test_every_request(message: Any) -> None:
    data = message.SerializeToString()
    check_same(Request(data), message)


@settings(max_examples=80)
@given(whole_requests())
def test_every_cut(message: Any) -> None:
    data = message.SerializeToString()
    for size in range(len(data)):
        check_against_protobuf(data[:size])


@settings(max_examples=150)
@given(whole_requests(), RANDOMS)
def test_mutations(message: Any, random: Random) -> None:
    original = message.SerializeToString()
    for _ in range(25):
        check_against_protobuf(mutant(random, original))


@settings(max_examples=300)
@given(st.binary(max_size=40))
def test_random_bytes(data: bytes) -> None:
    check_against_protobuf(data)


@settings(max_examples=100)
@given(RANDOMS)
def test_almost_requests(random: Random) -> None:
    for _ in range(100):
        check_against_protobuf(wire_soup(random, FIELDS))
        check_against_protobuf(SERVICE + wire_soup(random, FIELDS))


@settings(max_examples=100)
@given(whole_requests(), RANDOMS)
def test_almost_requests_behind_a_whole_one(message: Any, random: Random) -> None:
    for _ in range(20):
        check_against_protobuf(message.SerializeToString() + wire_soup(random, FIELDS))


def entry(name: bytes, *values: bytes) -> bytes:
    column = b"".join(delimited(1, value) for value in values)
    return delimited(1, name) + delimited(2, column)


SERVICE = delimited(1, b"s")
COLUMN = delimited(3, entry(b"id", b"\x20\x07"))
UNKNOWN = tag(99, 0) + b"\x01"
GROUP = tag(99, 3) + UNKNOWN + tag(99, 4)

NOT_CANONICAL = {
    "key twice": SERVICE + COLUMN + delimited(3, entry(b"id", b"\x20\x08")),
    "context key twice": SERVICE + delimited(5, entry(b"a")) + delimited(5, entry(b"a", b"")),
    "service twice": SERVICE + delimited(1, b"t") + COLUMN,
    "service, then list": SERVICE + delimited(2, delimited(1, b"v:f")) + COLUMN,
    "list, then service": delimited(2, delimited(1, b"v:f")) + SERVICE + COLUMN,
    "list in two pieces": delimited(2, delimited(1, b"v:f")) + delimited(2, delimited(1, b"v:g")),
    "unknown in list": delimited(2, delimited(1, b"v:f") + UNKNOWN + delimited(1, b"v:g")),
    "group in list": delimited(2, GROUP + delimited(1, b"v:f")),
    "unknown in column": SERVICE
    + delimited(3, delimited(1, b"id") + delimited(2, UNKNOWN + delimited(1, b"\x20\x07"))),
    "group in column": SERVICE
    + delimited(3, delimited(1, b"id") + delimited(2, delimited(1, b"\x20\x07") + GROUP)),
    "name twice in an entry": SERVICE
    + delimited(3, delimited(1, b"x") + entry(b"id", b"\x20\x07")),
    "column in two pieces": SERVICE
    + delimited(3, entry(b"id", b"\x20\x07") + delimited(2, delimited(1, b"\x20\x08"))),
}


@pytest.mark.parametrize("data", NOT_CANONICAL.values(), ids=NOT_CANONICAL)
def test_other_encodings_are_flagged(data: bytes) -> None:
    assert not Request(data).canonical
    check_same(Request(canonical(data)), Message.FromString(data))


@pytest.mark.parametrize(
    "data",
    [
        SERVICE + COLUMN,
        COLUMN + SERVICE,
        SERVICE + UNKNOWN + COLUMN + GROUP,
        SERVICE + delimited(3, delimited(2, b"") + delimited(1, b"id")),
        SERVICE + delimited(3, b""),
        SERVICE + b"\x20\x00\x20\x01\x30\x01\x30\x00",
        SERVICE + b"\x20" + b"\x80" * 9 + b"\x02",  # a bool cut down to 64 bits: false
        SERVICE + COLUMN + delimited(5, entry(b"id", b"")),
        delimited(2, b""),
        delimited(1, b""),
        tag(1, 2, 5) + varint(1, 10) + b"s",
    ],
)
def test_odd_but_canonical(data: bytes) -> None:
    check_same(Request(data), Message.FromString(data))


def test_unknown_field_in_a_map_entry_does_not_hide_the_column() -> None:
    data = SERVICE + delimited(3, entry(b"id", b"\x20\x07") + UNKNOWN)
    request = Request(data)
    assert request.canonical
    assert request.entity_columns == {"id": delimited(1, b"\x20\x07")}


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",
        b"\x0a\x05s",
        b"\x0a" + varint(2**31) + b"s",
        b"\x0a" + varint(2**32 + 1) + b"s",
        b"\x0a" + varint(2**64 - 1) + b"s",
        b"\x0a" + varint(1, 11) + b"s",
        tag(1, 2, 6) + b"\x01s",
        b"\x8a\x80\x80\x80\x10\x01s",  # a tag of more than 32 bits
        SERVICE + b"\x00\x01",  # field number 0
        SERVICE + b"\x24",
        SERVICE + b"\x26",
        SERVICE + b"\x27",
        SERVICE + tag(9, 3),
        SERVICE + tag(9, 3) + tag(8, 4),
        SERVICE + b"\x20" + b"\x80" * 10 + b"\x01",
        SERVICE + b"\x21\0\0\0\0\0\0\0",
        SERVICE + b"\x25\0\0\0",
        SERVICE + nested(101, lambda inner: tag(9, 3) + inner + tag(9, 4)),
        SERVICE + tag(9, 3) * 500_000,
        SERVICE + delimited(3, b"\x0a\x05id"),
        SERVICE + delimited(3, delimited(2, b"\x0a\x7f")),
        delimited(1, b"\xff"),
        delimited(1, b"\xed\xa0\x80"),
        delimited(2, delimited(1, b"\xc0\x80")),
        SERVICE + delimited(3, entry(b"\xf5\x80\x80\x80")),
        SERVICE + delimited(5, entry(b"12345678\x80")),
    ],
)
def test_malformed(data: bytes) -> None:
    assert protobuf_parse(data) is None
    with pytest.raises(InvalidRequest, match=r"not a serialized|not UTF-8"):
        Request(data)


@pytest.mark.parametrize("groups", range(95, 103))
def test_nesting_limit_is_protobufs(groups: int) -> None:
    def wrap(inner: bytes) -> bytes:
        return tag(99, 3) + inner + tag(99, 4)

    for place in (
        lambda g: SERVICE + g,
        lambda g: delimited(2, g),
        lambda g: SERVICE + delimited(3, delimited(1, b"id") + g),
        lambda g: SERVICE + delimited(3, delimited(2, g)),
    ):
        data = place(nested(groups, wrap))
        assert (parse(data) is None) == (protobuf_parse(data) is None)


@pytest.mark.parametrize("data", [b"", COLUMN, b"\x20\x01", b"\x08\x01", b"\x10\x01", UNKNOWN])
def test_asking_for_nothing(data: bytes) -> None:
    assert protobuf_parse(data) is not None
    with pytest.raises(InvalidRequest, match="asks for nothing"):
        Request(data)


def test_many_columns() -> None:
    def request(entities: int, context: int) -> bytes:
        return SERVICE + b"".join(
            [delimited(3, entry(b"e%d" % i, b"\x20\x01")) for i in range(entities)]
            + [delimited(5, entry(b"c%d" % i)) for i in range(context)]
        )

    data = request(200, MAX_COLUMNS - 200)
    parsed = Request(data)
    check_same(parsed, Message.FromString(data))
    assert parsed.column_names == [f"e{i}" for i in range(200)]
    for too_many in (request(200, MAX_COLUMNS - 199), request(MAX_COLUMNS + 1, 0)):
        with pytest.raises(InvalidRequest, match="more than 256"):
            Request(too_many)


@given(st.permutations(["3a", "3b", "3c", "5a", "5b"]))
def test_entities_and_context_keep_their_order(order: list[str]) -> None:
    data = SERVICE + b"".join(delimited(int(o[0]), entry(o[1].encode())) for o in order)
    request = Request(data)
    assert request.column_names == [o[1] for o in order if o[0] == "3"]
    assert list(request.context_columns) == [o[1] for o in order if o[0] == "5"]


PLAN = Plan(one_view())


@settings(max_examples=200)
@given(st.lists(st.integers(0, 300), max_size=3), RANDOMS)
def test_bound_requests_against_protobuf(ids: list[int], random: Random) -> None:
    for _ in range(25):
        check_bound(mutant(random, int64_request(*ids)))


def check_bound(data: bytes) -> None:
    """With the values looked at too, ours takes what protobuf takes and what fits the plan."""
    message, request = protobuf_parse(data), parse(data)
    if request is not None and not request.canonical:
        if message is None:
            return
        request = Request(canonical(data))
    bound = None
    if request is not None:
        try:
            bound = Batch(PLAN, request)
        except InvalidRequest:
            bound = None
    if message is None or message.WhichOneof("kind") is None:
        # A request context is not bound, hence not looked at.
        assert bound is None or (request is not None and bool(request.context_columns))
        return
    assert request is not None
    if set(message.entities) != {"id"} or message.request_context:
        return
    if len(request.entity_columns) + len(request.context_columns) != 1:
        assert has_unknown_in_entry(data)
        return
    kinds = {value.WhichOneof("val") for value in message.entities["id"].val}
    if kinds <= {"int64_val"} or kinds <= {"int32_val"}:
        assert bound is not None
        assert bound.rows == len(message.entities["id"].val)
        numbers = [v.int64_val + v.int32_val for v in message.entities["id"].val]
        assert bound.entity_rows == [[numbers.index(n) for n in dict.fromkeys(numbers)]]
        assert [bound.describe_entity(0, i) for i in range(bound.rows)] == [
            f"id={n}" for n in numbers
        ]
    elif None not in kinds:
        assert bound is None


def test_no_columns_is_one_row() -> None:
    plan = Plan(ReadDefinition("p", (), (), ()))
    assert Batch(plan, Request(SERVICE)).rows == 1
    optional = ReadDefinition("p", (JoinKey("x", 2, required=False),), (), ())
    assert Batch(Plan(optional), Request(SERVICE)).rows == 1


def test_wrong_arguments() -> None:
    for bad in (None, "text", bytearray(b"")):
        with pytest.raises(TypeError):
            Request(bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Batch(PLAN, None)  # type: ignore[arg-type]
