"""What several test modules share: builders, an independent RESP codec, and wire-level strategies.

Nothing here uses the code under test except to build its inputs.
"""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any

from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from hypothesis import strategies as st

from hotfeast.hotpath.definition import (
    FeatureRead,
    JoinKey,
    KeyRecipe,
    ReadDefinition,
    ViewRead,
)
from hotfeast.serving.v1 import serving_pb2

BYTES, STRING, INT32, INT64, UNIX_TIMESTAMP = 1, 2, 3, 4, 8

MEMBER_OF_TYPE = {
    BYTES: "bytes_val",
    STRING: "string_val",
    INT32: "int32_val",
    INT64: "int64_val",
    UNIX_TIMESTAMP: "unix_timestamp_val",
}

# ---------------------------------------------------------------- builders


def view_read(
    name: str, features: Iterable[str] = ("f",), recipe: int = 0, ttl: int = 0, full: bool = False
) -> ViewRead:
    """A view whose hash fields Feast itself computes."""
    return ViewRead(
        name=name,
        recipe=recipe,
        time_field=f"_ts:{name}".encode(),
        ttl_seconds=ttl,
        features=tuple(
            FeatureRead(f"{name}__{f}" if full else f, _mmh3(f"{name}:{f}")) for f in features
        ),
    )


def one_view(
    value_type: int = INT64, features: Iterable[str] = ("f",), ttl: int = 0, name: str = "view"
) -> ReadDefinition:
    """One view of one entity, `id`."""
    return ReadDefinition(
        project="demo",
        join_keys=(JoinKey("id", value_type),),
        recipes=(KeyRecipe((("id", 0),)),),
        views=(view_read(name, features, 0, ttl),),
    )


def request_bytes(
    entities: Mapping[str, Sequence[Any]],
    service: str = "service",
    full_feature_names: bool = False,
    version_metadata: bool = False,
) -> bytes:
    """A serialized request. Columns are given as Feast `Value` messages."""
    message = serving_pb2.GetOnlineFeaturesRequest(
        feature_service=service,
        full_feature_names=full_feature_names,
        include_feature_view_version_metadata=version_metadata,
    )
    for name, values in entities.items():
        column = message.entities[name]
        for value in values:
            column.val.add().ParseFromString(value.SerializeToString())
    return message.SerializeToString()


def int64_request(*ids: int) -> bytes:
    return request_bytes({"id": [Value(int64_val=i) for i in ids]})


def parses(message_class: Callable[[], Message], data: bytes) -> bool:
    """Whether protobuf's own parser takes the bytes."""
    try:
        message_class().ParseFromString(data)
    except DecodeError:
        return False
    return True


# ---------------------------------------------------------------- RESP, written anew


def parse_commands(data: bytes) -> list[list[bytes]]:
    """Commands as a Redis server reads them; anything else is an assertion failure."""
    commands = []
    at = 0

    def line(kind: bytes) -> int:
        nonlocal at
        end = data.index(b"\r\n", at)
        text = data[at:end]
        assert text[:1] == kind, (kind, text)
        assert text[1:].isdigit(), text
        assert str(int(text[1:])).encode() == text[1:]
        at = end + 2
        return int(text[1:])

    while at < len(data):
        command = []
        for _ in range(line(b"*")):
            size = line(b"$")
            command.append(data[at : at + size])
            assert len(command[-1]) == size
            assert data[at + size : at + size + 2] == b"\r\n"
            at += size + 2
        commands.append(command)
    return commands


def array_reply(values: Sequence[bytes | None], resp3: bool = False) -> bytes:
    """The reply to one HMGET."""
    nil = b"_\r\n" if resp3 else b"$-1\r\n"
    parts = [nil if v is None else b"$%d\r\n%s\r\n" % (len(v), v) for v in values]
    return b"*%d\r\n%s" % (len(values), b"".join(parts))


Store = dict[bytes, dict[bytes, bytes]]


def answer(commands: bytes, store: Store, resp3: bool = False) -> bytes:
    """What Redis answers to HMGET commands over `store`."""
    replies = []
    for name, key, *fields in parse_commands(commands):
        assert name == b"HMGET"
        row = store.get(key, {})
        replies.append(array_reply([row.get(f) for f in fields], resp3))
    return b"".join(replies)


# ---------------------------------------------------------------- wire bytes


def varint(value: int, size: int = 0) -> bytes:
    """A varint, padded to `size` bytes where that is longer than needed."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    while len(out) < size:
        out[-1] |= 0x80
        out.append(0)
    return bytes(out)


def tag(field: int, wire: int, size: int = 0) -> bytes:
    return varint(field << 3 | wire, size)


def delimited(field: int, payload: bytes) -> bytes:
    return tag(field, 2) + varint(len(payload)) + payload


def nested(depth: int, wrap: Callable[[bytes], bytes], inner: bytes = b"") -> bytes:
    """`inner` wrapped `depth` times."""
    for _ in range(depth):
        inner = wrap(inner)
    return inner


TEXTS = st.text(max_size=12)
INTS64 = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, -1, 127, 128, 2**63 - 1])

RANDOMS = st.integers(0, 2**64 - 1).map(Random)
"""For the noise below: drawing it byte by byte through hypothesis is fifty times slower, and what
is found this way is short anyway."""

_BAD_TEXTS = [
    b"\xc0\x80",  # an overlong NUL
    b"\xed\xa0\x80",  # a surrogate
    b"\xf4\x90\x80\x80",  # behind U+10FFFF
    b"\xe0\x9f\xbf",
    b"\xf0\x8f\xbf\xbf",
    b"\xe2\x82",
    b"abcdefgh\xff",
    "12345678ü".encode(),
    "12345678\U0010ffff".encode(),
]

_BAD_LENGTHS = [1, 5, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 2, 2**63, 2**64 - 1, 2**64 + 1]


def _loose_varint(random: Random) -> bytes:
    """A varint as a careless or hostile peer writes it: padded, overlong, or without an end."""
    kind = random.randrange(8)
    if kind < 4:
        return varint(random.getrandbits(random.randint(1, 64)))
    if kind < 6:
        return varint(random.getrandbits(random.randint(1, 64)), random.randint(1, 12))
    if kind < 7:
        return varint(random.getrandbits(72))
    return random.randbytes(random.randint(1, 11))


def wire_soup(random: Random, fields: Sequence[int], depth: int = 4) -> bytes:
    """Bytes that mostly look like a message, with every way of being almost one."""
    out = b""
    for _ in range(random.choice((0, 1, 1, 2, 3))):
        field = random.choice(fields)
        if random.randrange(8) == 0:
            field = random.choice((0, 1, 30, 100, 2**29 - 1))
        # Mostly tags in shortest form: mostly-broken bytes would hide what lies behind the first.
        size = random.choice((2, 3, 5, 6)) if random.randrange(16) == 0 else 0
        wire = random.choice((0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 2, 2, 3, 5, 5))
        if random.randrange(40) == 0:
            wire = random.choice((4, 6, 7))
        payload = b""
        if wire == 0:
            payload = _loose_varint(random)
        elif wire in (1, 5):
            payload = random.randbytes(8 if wire == 1 else 4)
        elif wire == 3:
            payload = wire_soup(random, fields, depth - 1) if depth else b""
            payload += tag(field if random.randrange(8) else field + 1, 4, size)
        elif wire == 2:
            kind = random.randrange(12)
            if kind < 6 and depth:
                payload = wire_soup(random, fields, depth - 1)
            elif kind < 8:
                payload = b"".join(_loose_varint(random) for _ in range(random.randrange(4)))
            elif kind < 9:
                payload = random.choice(_BAD_TEXTS)
            elif kind < 10:
                payload = random.randbytes(random.randrange(20))
            else:
                payload = b"text"[: random.randrange(5)]
            length = len(payload)
            if random.randrange(30) == 0:
                length = random.choice(_BAD_LENGTHS)
            pad = random.randint(1, 11) if random.randrange(12) == 0 else 0
            payload = varint(length, pad) + payload
        out += tag(field, wire, size) + payload
    return out


def mutant(random: Random, original: bytes) -> bytes:
    """Valid bytes with a few of them changed, dropped, put in or repeated."""
    data = bytearray(original)
    for _ in range(random.choice((1, 1, 2, 3))):
        at = random.randint(0, len(data))
        kind = random.randrange(5)
        if kind == 0 and at < len(data):
            data[at] = random.randrange(256)
        elif kind == 1:
            del data[at : at + random.randint(1, 4)]
        elif kind == 2:
            data[at:at] = random.randbytes(random.randint(1, 4))
        elif kind == 3 and at < len(data):
            data[at] ^= 1 << random.randrange(8)
        else:
            data[at:at] = data[at : random.randint(at, len(data))]
    return bytes(data)


# ---------------------------------------------------------------- messages of any type

_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=20),
    FieldDescriptor.TYPE_STRING: TEXTS,
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: INTS64,
    FieldDescriptor.TYPE_DOUBLE: st.floats(),
    FieldDescriptor.TYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_ENUM: st.just(0),
}


def _fill(draw: st.DrawFn, message: Any, field: FieldDescriptor, depth: int) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        target = getattr(message, field.name)
        value = field.message_type.fields_by_name["value"]
        for key in draw(st.lists(TEXTS, max_size=2, unique=True)):
            if value.message_type is not None:
                fill_message(draw, target[key], depth - 1)
            else:
                target[key] = draw(_SCALARS[value.type])
    elif field.message_type is not None:
        if field.is_repeated:
            for _ in range(draw(st.integers(0, 2))):
                fill_message(draw, getattr(message, field.name).add(), depth - 1)
        else:
            getattr(message, field.name).SetInParent()
            fill_message(draw, getattr(message, field.name), depth - 1)
    elif field.is_repeated:
        getattr(message, field.name).extend(draw(st.lists(_SCALARS[field.type], max_size=3)))
    else:
        setattr(message, field.name, draw(_SCALARS[field.type]))


def fill_message(draw: st.DrawFn, message: Any, depth: int) -> None:
    """Sets at most one member of each oneof, and some of the other fields."""
    if depth <= 0:
        return
    descriptor: Descriptor = message.DESCRIPTOR
    for oneof in descriptor.oneofs:
        member = draw(st.sampled_from([None, *oneof.fields]))
        if member is not None:
            _fill(draw, message, member, depth)
    for field in descriptor.fields:
        if field.containing_oneof is None and draw(st.booleans()):
            _fill(draw, message, field, depth)


@st.composite
def values(draw: st.DrawFn, depth: int = 4) -> Any:
    """A Feast `Value` with any member set, or none."""
    value = Value()
    fill_message(draw, value, depth)
    return value


def entity_values(value_type: int) -> st.SearchStrategy[Any]:
    """A Feast `Value` of an entity's type, the extremes among them."""
    if value_type == STRING:
        return TEXTS.map(lambda v: Value(string_val=v))
    if value_type == BYTES:
        return st.binary(max_size=12).map(lambda v: Value(bytes_val=v))
    bits = 31 if value_type == INT32 else 63
    numbers = st.sampled_from([0, 1, -1, 2**bits - 1, -(2**bits)]) | st.integers(
        -(2**bits), 2**bits - 1
    )
    make: Callable[..., Any] = Value
    return numbers.map(lambda v: make(**{MEMBER_OF_TYPE[value_type]: v}))


def golden_value(value_type: int, value: Any) -> bytes:
    """An entity value as it lies in a key: type, length, bytes."""
    if value_type == INT32:
        payload = struct.pack("<i", value)
    elif value_type in (INT64, UNIX_TIMESTAMP):
        payload = struct.pack("<q", value)
    else:
        payload = value.encode() if isinstance(value, str) else value
    return struct.pack("<II", value_type, len(payload)) + payload
