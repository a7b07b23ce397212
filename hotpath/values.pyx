"""Judging the wire bytes of a Feast `Value` and of a row's `Timestamp`, without decoding them.

A stored value goes into the response as the bytes that Redis held. One malformed value would make
the whole response unparseable for its client, so each one is walked against the schema of
`feast.types.Value` first. The walk accepts exactly what protobuf's own parser accepts.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from hotfeast.hotpath.wire cimport (
    MAX_DEPTH,
    WIRE_FIXED32,
    WIRE_FIXED64,
    WIRE_LEN,
    WIRE_VARINT,
    Cursor,
    is_utf8,
    left,
    read_span,
    read_tag,
    read_varint,
    skip_field,
)

# The message types that a `Value` can contain.
cdef enum Message:
    M_VALUE
    M_STRINGS         # repeated string val = 1
    M_BYTES           # repeated bytes val = 1
    M_VARINTS         # repeated int32, int64 or bool val = 1
    M_FIXED64S        # repeated double val = 1
    M_FIXED32S        # repeated float val = 1
    M_MAP             # map<string, Value> val = 1
    M_MAP_ENTRY
    M_MAPS            # repeated Map val = 1
    M_VALUES          # repeated Value val = 1
    M_SCALAR_MAP      # repeated ScalarMapEntry val = 1
    M_SCALAR_ENTRY
    M_MAP_KEY
    M_ZONED_TIME
    M_OPAQUE          # no field is known: structure only

# What a field holds. A field whose wire type does not fit is an unknown field, as in protobuf.
cdef enum Kind:
    K_UNKNOWN
    K_VARINT
    K_FIXED64
    K_FIXED32
    K_BYTES
    K_STRING
    K_VARINTS         # repeated, packed or not
    K_FIXED64S
    K_FIXED32S
    K_MESSAGE

cdef enum:
    # Stands for fields that a newer Feast may have put where this one has none.
    UNKNOWN_MEMBER = 0xFFFFFFFF

cdef struct FieldType:
    Kind kind
    Message message


cdef FieldType value_field(uint32_t field) noexcept nogil:
    cdef FieldType t
    t.kind = K_MESSAGE
    t.message = M_OPAQUE
    if field in (2, 32, 36, 37, 44):
        t.kind = K_STRING
    elif field == 1:
        t.kind = K_BYTES
    elif field in (3, 4, 7, 8, 19):
        t.kind = K_VARINT
    elif field == 5:
        t.kind = K_FIXED64
    elif field == 6:
        t.kind = K_FIXED32
    elif field in (11, 22):
        t.message = M_BYTES
    elif field in (12, 23, 33, 38, 39, 40, 41, 45, 46):
        t.message = M_STRINGS
    elif field in (13, 14, 17, 18, 24, 25, 28, 29):
        t.message = M_VARINTS
    elif field in (15, 26):
        t.message = M_FIXED64S
    elif field in (16, 27):
        t.message = M_FIXED32S
    elif field in (20, 34):
        t.message = M_MAP
    elif field in (21, 35):
        t.message = M_MAPS
    elif field in (42, 43):
        t.message = M_VALUES
    elif field == 47:
        t.message = M_SCALAR_MAP
    elif field == 48:
        t.message = M_ZONED_TIME
    else:
        t.kind = K_UNKNOWN
    return t


cdef FieldType field_type(Message message, uint32_t field) noexcept nogil:
    """What `field` holds in `message`; the schema of value.proto."""
    cdef FieldType t
    t.kind = K_UNKNOWN
    t.message = M_OPAQUE
    if message == M_VALUE:
        return value_field(field)
    if message == M_MAP_KEY:
        if field in (1, 2, 5, 6):
            t.kind = K_VARINT
        elif field == 3:
            t.kind = K_FIXED32
        elif field == 4:
            t.kind = K_FIXED64
        elif field == 7:
            t.kind = K_BYTES
        elif field in (8, 9, 10):
            t.kind = K_STRING
        return t
    if field == 1:
        if message == M_STRINGS or message == M_MAP_ENTRY:
            t.kind = K_STRING
        elif message == M_BYTES:
            t.kind = K_BYTES
        elif message == M_VARINTS:
            t.kind = K_VARINTS
        elif message == M_FIXED64S:
            t.kind = K_FIXED64S
        elif message == M_FIXED32S:
            t.kind = K_FIXED32S
        elif message == M_ZONED_TIME:
            t.kind = K_VARINT
        elif message != M_OPAQUE:
            t.kind = K_MESSAGE
            if message == M_MAP:
                t.message = M_MAP_ENTRY
            elif message == M_MAPS:
                t.message = M_MAP
            elif message == M_VALUES:
                t.message = M_VALUE
            elif message == M_SCALAR_MAP:
                t.message = M_SCALAR_ENTRY
            else:
                t.message = M_MAP_KEY
    elif field == 2:
        if message == M_MAP_ENTRY or message == M_SCALAR_ENTRY:
            t.kind = K_MESSAGE
            t.message = M_VALUE
        elif message == M_ZONED_TIME:
            t.kind = K_STRING
    return t


cdef bint packed_is_whole(Cursor span, Kind kind) noexcept nogil:
    cdef uint64_t number = 0
    if kind == K_FIXED64S:
        return left(&span) % 8 == 0
    if kind == K_FIXED32S:
        return left(&span) % 4 == 0
    while span.at < span.end:
        if read_varint(&span, &number) != 0:
            return False
    return True


cdef uint32_t wire_of(Kind kind) noexcept nogil:
    """The wire type of a field that is not repeated; for unknown fields one that there is not."""
    if kind == K_VARINT:
        return WIRE_VARINT
    if kind == K_FIXED64:
        return WIRE_FIXED64
    if kind == K_FIXED32:
        return WIRE_FIXED32
    return 8 if kind == K_UNKNOWN else WIRE_LEN


cdef bint is_member(uint32_t field, uint32_t wire) noexcept nogil:
    """Whether a field of `Value` is a member that is known and comes in its wire type."""
    return wire == wire_of(value_field(field).kind)


cdef int walk(Cursor c, Message message, int depth, uint32_t* last_field) noexcept nogil:
    """Checks one message and all inside it. Returns 0, or -1 where protobuf would refuse it.

    `last_field`, where asked for, becomes the number of the last known field, since in a oneof the
    last member wins, or UNKNOWN_MEMBER where there are only unknown ones.
    """
    cdef uint32_t field = 0, wire = 0
    cdef FieldType t
    cdef Cursor span
    if depth > MAX_DEPTH:
        return -1
    while c.at < c.end:
        if read_tag(&c, &field, &wire) != 0:
            return -1
        t = field_type(message, field)
        if wire == WIRE_LEN:
            if read_span(&c, &span) != 0:
                return -1
            if t.kind == K_STRING:
                if not is_utf8(span.at, span.end):
                    return -1
            elif t.kind == K_MESSAGE:
                if walk(span, t.message, depth + 1, NULL) != 0:
                    return -1
            elif t.kind in (K_VARINTS, K_FIXED64S, K_FIXED32S):
                if not packed_is_whole(span, t.kind):
                    return -1
        elif skip_field(&c, field, wire, depth) != 0:
            return -1
        if last_field != NULL:
            if wire == wire_of(t.kind):
                last_field[0] = field
            elif last_field[0] == 0:
                last_field[0] = UNKNOWN_MEMBER
    return 0


cdef ValueState check_any_value(const uint8_t* at, const uint8_t* end) noexcept nogil:
    cdef Cursor c
    cdef uint32_t last_field = 0
    c.at = at
    c.end = end
    if walk(c, M_VALUE, 0, &last_field) != 0:
        return VALUE_CORRUPT
    if last_field == 0 or last_field == NULL_VAL:
        return VALUE_NULL
    return VALUE_SET


cdef int parse_row_time(const uint8_t* at, size_t size, RowTime* out) noexcept nogil:
    """Reads a serialized `google.protobuf.Timestamp`. Returns 0, or -1 where it is none.

    None means: not parseable, or outside the years 1 to 9999 that protobuf allows.
    """
    cdef Cursor c
    cdef uint32_t field = 0, wire = 0
    cdef uint64_t number = 0
    c.at = at
    c.end = at + size
    out.seconds = 0
    out.nanos = 0
    while c.at < c.end:
        if read_tag(&c, &field, &wire) != 0:
            return -1
        if wire == WIRE_VARINT and (field == 1 or field == 2):
            if read_varint(&c, &number) != 0:
                return -1
            if field == 1:
                out.seconds = <int64_t>number
            else:
                out.nanos = <int32_t>number
        elif skip_field(&c, field, wire, 0) != 0:
            return -1
    if out.seconds < -62135596800LL or out.seconds > 253402300799LL:
        return -1
    if out.nanos < 0 or out.nanos > 999999999:
        return -1
    return 0


def value_state(bytes value not None) -> str:
    """Says what the wire bytes of a `Value` are: `"set"`, `"null"` or `"corrupt"`.

    Null is a value with no member set or with `null_val`; corrupt is what protobuf refuses.
    """
    cdef const uint8_t* at = <const uint8_t*><const char*>value
    cdef ValueState state = check_value(at, <uint32_t>len(value))
    if state == VALUE_CORRUPT:
        return "corrupt"
    return "null" if state == VALUE_NULL else "set"


def row_time(bytes timestamp not None) -> tuple[int, int]:
    """Reads a serialized `Timestamp` as `(seconds, nanos)`.

    Raises:
        ValueError: The bytes are no timestamp, or one outside the years 1 to 9999.
    """
    cdef RowTime time
    if parse_row_time(<const uint8_t*><const char*>timestamp, len(timestamp), &time) != 0:
        raise ValueError(f"not a google.protobuf.Timestamp: {timestamp!r}")
    return time.seconds, time.nanos
