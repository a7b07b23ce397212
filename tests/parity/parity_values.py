"""Feast's types, and stored values for each of them, drawn from the protobuf schema itself."""

import math
from typing import Any

from feast import types as feast_types
from feast.protos.feast.types.Value_pb2 import Null, Value
from feast.types import Array, Set, Struct
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

FLOATS = (0.0, -0.0, 1.5, math.nan, math.inf, -math.inf, 5e-324, 3.4028234663852886e38)
TEXTS = ("", "a", "ß", "\U0001f600", "line\nbreak", "\x00", "x" * 300, '{"k": [1, null]}')

MEMBERS = tuple(f.name for f in Value.DESCRIPTOR.oneofs_by_name["val"].fields)
"""Every member of the `Value` oneof in the installed Feast."""

_BASE_TYPES = {
    "bytes": feast_types.Bytes,
    "string": feast_types.String,
    "int32": feast_types.Int32,
    "int64": feast_types.Int64,
    "double": feast_types.Float64,
    "float": feast_types.Float32,
    "bool": feast_types.Bool,
    "unix_timestamp": feast_types.UnixTimestamp,
    "map": feast_types.Map,
    "json": feast_types.Json,
    "struct": Struct({"x": feast_types.Int64, "y": Array(feast_types.String)}),
    "uuid": feast_types.Uuid,
    "time_uuid": feast_types.TimeUuid,
    "decimal": feast_types.Decimal,
    "scalar_map": feast_types.ScalarMap,
    # Came with Feast 0.65; before, no member asks for it.
    "zoned_timestamp": getattr(feast_types, "ZonedTimestamp", None),
}


def _feast_type(member: str) -> Any:
    name = member.removesuffix("_val")
    if name in _BASE_TYPES:
        return _BASE_TYPES[name]
    if name == "list":
        return Array(Array(feast_types.Int64))
    if name == "set":
        return Set(Set(feast_types.String))
    base, _, shape = name.rpartition("_")
    return (Array if shape == "list" else Set)(_BASE_TYPES[base])


_STORED_AS = {"pdf_bytes": "bytes_val", "image_bytes": "bytes_val"}
"""Types that have no member of their own."""

TYPES: dict[str, Any] = {m: _feast_type(m) for m in MEMBERS if m != "null_val"}
TYPES |= {"pdf_bytes": feast_types.PdfBytes, "image_bytes": feast_types.ImageBytes}
"""The types that features are declared with, by the member of their values."""

SIMPLE = ("int64_val", "double_val", "string_val", "bool_val", "int64_list_val", "string_list_val")
"""Members that Feast writes from a data frame without changing them."""


def _scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    kind = field.type
    if kind == FieldDescriptor.TYPE_BYTES:
        return st.sampled_from((b"", b"\x00\xff", b"abc", b"q" * 200)) | st.binary(max_size=8)
    if kind == FieldDescriptor.TYPE_STRING:
        return st.sampled_from(TEXTS) | st.text(max_size=6)
    if kind == FieldDescriptor.TYPE_INT32:
        return st.sampled_from((0, -1, -(2**31), 2**31 - 1)) | st.integers(-300, 300)
    if kind == FieldDescriptor.TYPE_INT64:
        return st.sampled_from((0, -1, -(2**63), 2**63 - 1)) | st.integers(-(2**40), 2**40)
    if kind == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if kind == FieldDescriptor.TYPE_ENUM:
        return st.just(0)
    if kind == FieldDescriptor.TYPE_FLOAT:
        return st.sampled_from(FLOATS) | st.floats(width=32)
    assert kind == FieldDescriptor.TYPE_DOUBLE, field.full_name
    return st.sampled_from(FLOATS) | st.floats()


@st.composite
def _messages(draw: st.DrawFn, descriptor: Descriptor, depth: int) -> Message:
    """Any message of the schema; a `Value` inside is a scalar or, up to a depth, a collection."""
    message: Any = GetMessageClass(descriptor)()
    oneof = next(iter(descriptor.oneofs_by_name.values()), None)
    fields: list[Any] = list(descriptor.fields)
    if oneof is not None:
        members = [f for f in oneof.fields if depth > 0 or f.message_type is None]
        fields = [draw(st.sampled_from(members))]
        if descriptor is Value.DESCRIPTOR and draw(st.integers(0, 9)) == 0:
            return message  # type: ignore[no-any-return]
    for field in fields:
        _fill(draw, message, field, depth)
    return message  # type: ignore[no-any-return]


def _fill(draw: st.DrawFn, message: Any, field: FieldDescriptor, depth: int) -> None:
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        key, nested_type = inner.fields_by_name["key"], inner.fields_by_name["value"].message_type
        assert nested_type is not None
        for name in draw(st.lists(_scalars(key), max_size=3, unique=True)):
            nested = draw(_messages(nested_type, depth - 1))
            getattr(message, field.name)[name].CopyFrom(nested)
    elif field.is_repeated and inner is not None:
        for _ in range(draw(st.integers(0, 2))):
            getattr(message, field.name).add().CopyFrom(draw(_messages(inner, depth - 1)))
    elif field.is_repeated:
        getattr(message, field.name).extend(draw(st.lists(_scalars(field), max_size=4)))
    elif inner is not None:
        getattr(message, field.name).CopyFrom(draw(_messages(inner, depth - 1)))
        getattr(message, field.name).SetInParent()
    else:
        setattr(message, field.name, draw(_scalars(field)))


@st.composite
def stored_values(draw: st.DrawFn, member: str) -> bytes:
    """A serialized `Value` of a type, one of the keys of `TYPES`."""
    value = Value()
    _fill(draw, value, Value.DESCRIPTOR.fields_by_name[_STORED_AS.get(member, member)], 3)
    return value.SerializeToString(deterministic=True)


def member_of(stored: bytes) -> str | None:
    """The member that a serialized `Value` has set."""
    return Value.FromString(stored).WhichOneof("val")


def normal(stored: bytes) -> bytes:
    """A serialized `Value` in protobuf's deterministic form."""
    return Value.FromString(stored).SerializeToString(deterministic=True)


NULL = Value(null_val=Null.NULL).SerializeToString()
UNSET = b""
