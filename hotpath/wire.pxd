# The protobuf wire format: a bounded cursor, varints and UTF-8. And what else several stages write:
# the numbers of entity keys and of RESP, and the mixing of their hashes.
#
# Limits follow protobuf's own parser (upb), which the tests hold this against: a tag has at most 5
# bytes, a varint at most 10 with what does not fit 64 bits cut off, a length is at most 2^31 - 1,
# messages and groups nest 100 deep.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    WIRE_VARINT = 0
    WIRE_FIXED64 = 1
    WIRE_LEN = 2
    WIRE_SGROUP = 3
    WIRE_EGROUP = 4
    WIRE_FIXED32 = 5

    MAX_DEPTH = 100


cdef struct Cursor:
    const uint8_t* at
    const uint8_t* end


cdef inline size_t left(const Cursor* c) noexcept nogil:
    return <size_t>(c.end - c.at)


cdef inline int read_varint(Cursor* c, uint64_t* out) noexcept nogil:
    """Reads a varint of at most 10 bytes. Returns 0, or -1 where it is cut or overlong."""
    cdef uint64_t value = 0
    cdef int shift = 0
    cdef uint8_t byte
    while c.at < c.end and shift < 70:
        byte = c.at[0]
        c.at += 1
        value |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            out[0] = value
            return 0
        shift += 7
    return -1


cdef inline int read_varint32(Cursor* c, uint32_t* out) noexcept nogil:
    """Reads a varint of at most 5 bytes that fits 32 bits: a tag. Returns 0 or -1."""
    cdef uint64_t value = 0
    cdef int shift = 0
    cdef uint8_t byte
    if c.at < c.end and c.at[0] < 0x80:
        out[0] = c.at[0]
        c.at += 1
        return 0
    while c.at < c.end and shift < 35:
        byte = c.at[0]
        c.at += 1
        value |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            if value > 0xFFFFFFFFu:
                return -1
            out[0] = <uint32_t>value
            return 0
        shift += 7
    return -1


cdef inline int read_tag(Cursor* c, uint32_t* field, uint32_t* wire) noexcept nogil:
    """Reads a field's tag. Returns 0, or -1 where it is malformed or the field number is 0."""
    cdef uint32_t tag = 0
    if read_varint32(c, &tag) != 0:
        return -1
    field[0] = tag >> 3
    wire[0] = tag & 7
    return 0 if field[0] != 0 else -1


cdef inline int read_span(Cursor* c, Cursor* out) noexcept nogil:
    """Reads a length and the bytes it announces. Returns 0, or -1 where they are not all there."""
    cdef uint64_t size = 0
    if c.at < c.end and c.at[0] < 0x80:
        size = c.at[0]
        c.at += 1
    elif read_varint(c, &size) != 0:
        return -1
    if size > 0x7FFFFFFFu or size > left(c):
        return -1
    out.at = c.at
    out.end = c.at + size
    c.at = out.end
    return 0


cdef inline int skip_scalar(Cursor* c, uint32_t wire) noexcept nogil:
    """Skips the value of a field that is no group. Returns 0 or -1."""
    cdef uint64_t number = 0
    cdef Cursor span
    if wire == WIRE_VARINT:
        return read_varint(c, &number)
    if wire == WIRE_LEN:
        return read_span(c, &span)
    if wire == WIRE_FIXED64:
        if left(c) < 8:
            return -1
        c.at += 8
        return 0
    if wire == WIRE_FIXED32:
        if left(c) < 4:
            return -1
        c.at += 4
        return 0
    return -1


cdef inline int skip_field(Cursor* c, uint32_t field, uint32_t wire, int depth) noexcept nogil:
    """Skips the value of any field, a group with all that is in it. Returns 0 or -1.

    `depth` is how many messages the field is inside of.
    """
    cdef uint32_t open_groups[MAX_DEPTH]
    cdef int groups = 0
    if wire != WIRE_SGROUP:
        return skip_scalar(c, wire)
    if depth >= MAX_DEPTH:
        return -1
    open_groups[0] = field
    groups = 1
    while groups > 0:
        if read_tag(c, &field, &wire) != 0:
            return -1
        if wire == WIRE_SGROUP:
            if depth + groups >= MAX_DEPTH:
                return -1
            open_groups[groups] = field
            groups += 1
        elif wire == WIRE_EGROUP:
            groups -= 1
            if open_groups[groups] != field:
                return -1
        elif skip_scalar(c, wire) != 0:
            return -1
    return 0


cdef inline int varint_size(uint64_t value) noexcept nogil:
    """The number of bytes of `value` as a varint, 1 to 10."""
    cdef int size = 1
    while value >= 0x80:
        value >>= 7
        size += 1
    return size


cdef inline size_t field_size(size_t payload) noexcept nogil:
    """Bytes of a length-delimited field with a one-byte tag."""
    return 1 + varint_size(payload) + payload


cdef inline uint8_t* put_varint(uint8_t* at, uint64_t value) noexcept nogil:
    """Writes `value` as a varint and returns the byte after it. The caller has made room."""
    while value >= 0x80:
        at[0] = <uint8_t>(value | 0x80)
        at += 1
        value >>= 7
    at[0] = <uint8_t>value
    return at + 1


cdef inline bint is_utf8(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Whether the bytes are UTF-8 as protobuf wants it: shortest form, no surrogates."""
    cdef uint64_t word
    cdef uint8_t lead, second
    while at < end:
        while end - at >= 8:
            memcpy(&word, at, 8)
            if word & 0x8080808080808080u:
                break
            at += 8
        if at == end:
            return True
        lead = at[0]
        if lead < 0x80:
            at += 1
        elif lead < 0xE0:
            if lead < 0xC2 or end - at < 2 or (at[1] & 0xC0) != 0x80:
                return False
            at += 2
        elif lead < 0xF0:
            if end - at < 3 or (at[1] & 0xC0) != 0x80 or (at[2] & 0xC0) != 0x80:
                return False
            second = at[1]
            if (lead == 0xE0 and second < 0xA0) or (lead == 0xED and second > 0x9F):
                return False
            at += 3
        else:
            if lead > 0xF4 or end - at < 4:
                return False
            second = at[1]
            if (second & 0xC0) != 0x80 or (at[2] & 0xC0) != 0x80 or (at[3] & 0xC0) != 0x80:
                return False
            if (lead == 0xF0 and second < 0x90) or (lead == 0xF4 and second > 0x8F):
                return False
            at += 4
    return True


cdef inline uint8_t* put_cursor(uint8_t* at, const Cursor* c) noexcept nogil:
    """Copies the bytes of a cursor and returns the byte after them. The caller has made room."""
    if c.at == c.end:
        # memcpy wants real addresses even for nothing.
        return at
    memcpy(at, c.at, left(c))
    return at + left(c)


cdef inline uint8_t* put_u32(uint8_t* at, uint32_t value) noexcept nogil:
    """Writes 4 bytes, little-endian, and returns the byte after them."""
    at[0] = <uint8_t>value
    at[1] = <uint8_t>(value >> 8)
    at[2] = <uint8_t>(value >> 16)
    at[3] = <uint8_t>(value >> 24)
    return at + 4


cdef inline uint32_t get_u32(const uint8_t* at) noexcept nogil:
    """Reads 4 bytes, little-endian."""
    return at[0] | <uint32_t>at[1] << 8 | <uint32_t>at[2] << 16 | <uint32_t>at[3] << 24


cdef inline size_t decimal_size(size_t value) noexcept nogil:
    """The number of decimal digits of `value`."""
    cdef size_t size = 1
    while value >= 10:
        value //= 10
        size += 1
    return size


cdef inline uint8_t* put_decimal(uint8_t* at, size_t value) noexcept nogil:
    """Writes decimal digits and returns the byte after them. The caller has made room."""
    cdef size_t size = decimal_size(value)
    cdef uint8_t* end = at + size
    cdef uint8_t* digit = end
    while size:
        digit -= 1
        digit[0] = <uint8_t>(48 + value % 10)
        value //= 10
        size -= 1
    return end


cdef inline uint64_t mix(uint64_t h) noexcept nogil:
    """The finalizer of MurmurHash3: every bit of the input moves every bit of the result."""
    h ^= h >> 33
    h *= 0xff51afd7ed558ccdu
    h ^= h >> 33
    h *= 0xc4ceb9fe1a85ec53u
    h ^= h >> 33
    return h
