# Judging the wire bytes of a Feast `Value` and of a row's `Timestamp`.

from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef enum ValueState:
    VALUE_CORRUPT = -1
    VALUE_NULL = 0
    VALUE_SET = 1

# Field numbers in `Value`, which are also the numbers of `ValueType.Enum` up to 48.
cdef enum ValueField:
    BYTES_VAL = 1
    STRING_VAL = 2
    INT32_VAL = 3
    INT64_VAL = 4
    DOUBLE_VAL = 5
    FLOAT_VAL = 6
    BOOL_VAL = 7
    UNIX_TIMESTAMP_VAL = 8
    NULL_VAL = 19
    LAST_MEMBER = 48

cdef struct RowTime:
    int64_t seconds
    int64_t nanos

cdef ValueState check_any_value(const uint8_t* at, const uint8_t* end) noexcept nogil
cdef bint is_member(uint32_t field, uint32_t wire) noexcept nogil
cdef int parse_row_time(const uint8_t* at, size_t size, RowTime* out) noexcept nogil


cdef inline ValueState check_value(const uint8_t* at, uint32_t size) noexcept nogil:
    """Whether stored bytes are a parseable `Value`, and whether it is null.

    The common scalars are judged here; everything else goes through the schema walk.
    """
    cdef uint8_t tag
    cdef uint32_t i
    if size == 0:
        return VALUE_NULL
    tag = at[0]
    if tag == 0x29:
        if size == 9:
            return VALUE_SET
    elif tag == 0x20 or tag == 0x18 or tag == 0x40 or tag == 0x38:
        i = 1
        while i < size and at[i] >= 0x80:
            i += 1
        if i == size - 1 and (size <= 10 or (size == 11 and at[10] <= 1)):
            return VALUE_SET
    elif tag == 0x35:
        if size == 5:
            return VALUE_SET
    return check_any_value(at, at + size)
