"""What a field's values must be, judged on their serialized `Value`s.

A rule returns the rows that break it. Nulls break `not_null` and nothing else.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from hotfeast.hotpath.columns cimport ValueColumn
from hotfeast.hotpath.wire cimport (
    WIRE_LEN,
    Cursor,
    left,
    read_span,
    read_tag,
    read_varint,
    skip_field,
)

cdef enum:
    # Lists and sets whose numbers are packed, by their member: 13 to 18 and 24 to 29.
    FIRST_PACKED_LIST = 13
    LAST_PACKED_LIST = 18
    FIRST_PACKED_SET = 24
    LAST_PACKED_SET = 29


cdef inline bint is_missing(const Cursor* c) noexcept nogil:
    return c.at == c.end


def not_null(ValueColumn column not None) -> list[int]:
    """Rows without a value."""
    return column.null_rows


def outside_integers(ValueColumn column not None, int64_t low, int64_t high) -> list[int]:
    """Rows whose number, in a column of whole numbers or times, is not within `low` to `high`."""
    cdef uint32_t row, field = 0, wire = 0
    cdef uint64_t number = 0
    cdef Cursor c
    broken = []
    for row in range(column.rows):
        c = column.cells[row]
        if is_missing(&c):
            continue
        read_tag(&c, &field, &wire)
        read_varint(&c, &number)
        if not low <= <int64_t>number <= high:
            broken.append(row)
    return broken


def outside_reals(ValueColumn column not None, double low, double high) -> list[int]:
    """Rows whose number, in a column of FLOAT or DOUBLE, is not within `low` to `high`."""
    cdef uint32_t row
    cdef double real
    cdef float single
    cdef Cursor c
    broken = []
    for row in range(column.rows):
        c = column.cells[row]
        if is_missing(&c):
            continue
        if left(&c) == 9:
            memcpy(&real, c.at + 1, 8)
        else:
            memcpy(&single, c.at + 1, 4)
            real = single
        if not low <= real <= high:
            broken.append(row)
    return broken


def not_among(ValueColumn column not None, allowed: frozenset[bytes]) -> list[int]:
    """Rows whose serialized `Value` is none of those allowed."""
    cdef uint32_t row
    cdef const Cursor* c
    broken = []
    for row in range(column.rows):
        c = &column.cells[row]
        if not is_missing(c) and c.at[: left(c)] not in allowed:
            broken.append(row)
    return broken


cdef uint64_t count_characters(const Cursor* text) noexcept nogil:
    """Characters of UTF-8: bytes that do not go on with one."""
    cdef uint64_t count = 0
    cdef const uint8_t* at = text.at
    while at < text.end:
        count += (at[0] & 0xC0) != 0x80
        at += 1
    return count


cdef uint64_t count_elements(uint32_t member, Cursor value) noexcept nogil:
    """Elements of a list's message."""
    cdef uint32_t field = 0, wire = 0
    cdef uint64_t count = 0, number = 0
    cdef Cursor packed
    cdef bint numbers = (
        FIRST_PACKED_LIST <= member <= LAST_PACKED_LIST
        or FIRST_PACKED_SET <= member <= LAST_PACKED_SET
    )
    while value.at < value.end:
        if read_tag(&value, &field, &wire) != 0:
            break
        if numbers and wire == WIRE_LEN:
            if read_span(&value, &packed) != 0:
                break
            if member in (15, 26):  # DOUBLE
                count += left(&packed) // 8
            elif member in (16, 27):  # FLOAT
                count += left(&packed) // 4
            else:
                while packed.at < packed.end and read_varint(&packed, &number) == 0:
                    count += 1
            continue
        count += 1
        if skip_field(&value, field, wire, 1) != 0:
            break
    return count


cdef uint64_t length_of(const Cursor* cell) noexcept nogil:
    cdef Cursor c = cell[0], span
    cdef uint32_t field = 0, wire = 0
    if read_tag(&c, &field, &wire) != 0 or wire != WIRE_LEN or read_span(&c, &span) != 0:
        return 0
    if field == 1:
        return left(&span)
    if field in (2, 32, 36, 37, 44):
        return count_characters(&span)
    return count_elements(field, span)


def not_of_length(ValueColumn column not None, uint64_t low, uint64_t high) -> list[int]:
    """Rows whose length is not within `low` to `high`: characters of a text, bytes of bytes,
    elements of a list or set."""
    cdef uint32_t row
    broken = []
    for row in range(column.rows):
        if is_missing(&column.cells[row]):
            continue
        if not low <= length_of(&column.cells[row]) <= high:
            broken.append(row)
    return broken


def larger_than(ValueColumn column not None, uint64_t most) -> list[int]:
    """Rows whose text or bytes take more than `most` bytes."""
    cdef uint32_t row, field = 0, wire = 0
    cdef Cursor c, span
    broken = []
    for row in range(column.rows):
        c = span = column.cells[row]
        if is_missing(&c):
            continue
        read_tag(&c, &field, &wire)
        read_span(&c, &span)
        if left(&span) > most:
            broken.append(row)
    return broken


def not_matching(ValueColumn column not None, matches) -> list[int]:
    """Rows whose text `matches`, called with a `str`, says no to."""
    cdef uint32_t row, field = 0, wire = 0
    cdef Cursor c, span
    broken = []
    for row in range(column.rows):
        c = span = column.cells[row]
        if is_missing(&c):
            continue
        read_tag(&c, &field, &wire)
        read_span(&c, &span)
        if not matches(span.at[: left(&span)].decode("utf-8")):
            broken.append(row)
    return broken
