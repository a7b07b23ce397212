"""Columns of an answer whose type is known before: in one pass, where they are in the usual form.

`hotfeast.hotpath.answer` finds out what a column's values are, and takes whatever protobuf takes;
that costs several passes. Here a column is what its feature is declared as, and its bytes are those
that the hot path writes: values first, each with one member or none, then statuses, then times. Of
a column that is anything else nothing is read.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from hotfeast.hotpath.answer cimport Answer, AnswerColumn, Outline
from hotfeast.hotpath.values cimport (
    BOOL_VAL,
    BYTES_VAL,
    DOUBLE_VAL,
    FLOAT_VAL,
    INT32_VAL,
    STRING_VAL,
    UNIX_TIMESTAMP_VAL,
    RowTime,
    parse_row_time,
)
from hotfeast.hotpath.wire cimport (
    WIRE_FIXED32,
    WIRE_FIXED64,
    WIRE_LEN,
    WIRE_VARINT,
    Cursor,
    is_utf8,
    left,
    read_span,
    read_varint,
)

from hotfeast.hotpath.answer import NO_TIME

cdef enum:
    TAG_VALUE = 0x0A
    TAG_STATUSES = 0x12
    TAG_TIME = 0x1A
    MICROSECONDS = 1000000
    # Bytes of a column's texts, less than which its offsets can tell apart.
    MOST_BYTES = 0x7FFFFFFF

cdef int64_t NONE = NO_TIME


cdef bytes empty(size_t size):
    """Bytes to be filled in."""
    cdef bytes made = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    memset(PyBytes_AS_STRING(made), 0, size)
    return made


cdef inline uint8_t* start_of(bytes data) noexcept:
    return <uint8_t*>PyBytes_AS_STRING(data)


cdef int64_t read_numbers(
    Cursor* c, uint32_t rows, uint32_t member, uint8_t* values, uint8_t* valid
) noexcept nogil:
    """Reads the values of a column of numbers. Returns how many are null, or -1 where the column is
    in another form."""
    cdef uint32_t row, width = 8, nulls = 0
    cdef uint8_t wire = WIRE_VARINT
    cdef uint64_t number = 0
    cdef Cursor value
    if member == DOUBLE_VAL:
        wire = WIRE_FIXED64
    elif member == FLOAT_VAL:
        wire = WIRE_FIXED32
        width = 4
    for row in range(rows):
        if left(c) < 2 or c.at[0] != TAG_VALUE or c.at[1] > left(c) - 2 or c.at[1] >= 0x80:
            return -1
        value.at = c.at + 2
        value.end = value.at + c.at[1]
        c.at = value.end
        if value.at == value.end:
            nulls += 1
            continue
        if value.at[0] != (member << 3 | wire):
            return -1
        value.at += 1
        if wire != WIRE_VARINT:
            if left(&value) != width:
                return -1
            memcpy(values + <size_t>row * width, value.at, width)
        else:
            if read_varint(&value, &number) != 0 or value.at != value.end:
                return -1
            if member == INT32_VAL:
                (<int32_t*>values)[row] = <int32_t>number
            elif member == BOOL_VAL:
                values[row >> 3] |= <uint8_t>((number != 0) << (row & 7))
            else:
                (<int64_t*>values)[row] = <int64_t>number
        valid[row >> 3] |= <uint8_t>(1 << (row & 7))
    return nulls


cdef int64_t read_texts(
    Cursor* c, uint32_t rows, uint32_t member, uint8_t* values, int32_t* offsets, uint8_t* valid
) noexcept nogil:
    """The same for texts or bytes of one length byte in their tag."""
    cdef uint32_t row, nulls = 0
    cdef size_t size = 0
    cdef Cursor value, text
    for row in range(rows):
        offsets[row] = <int32_t>size
        if c.at == c.end or c.at[0] != TAG_VALUE:
            return -1
        c.at += 1
        if read_span(c, &value) != 0:
            return -1
        if value.at == value.end:
            nulls += 1
            continue
        if value.at[0] != (member << 3 | WIRE_LEN):
            return -1
        value.at += 1
        if read_span(&value, &text) != 0 or value.at != value.end:
            return -1
        if member == STRING_VAL and not is_utf8(text.at, text.end):
            return -1
        memcpy(values + size, text.at, left(&text))
        size += left(&text)
        valid[row >> 3] |= <uint8_t>(1 << (row & 7))
    offsets[rows] = <int32_t>size
    return nulls


cdef int read_statuses(Cursor* c, uint32_t rows, uint8_t* out) noexcept nogil:
    """Reads the statuses, a byte each. Returns 0, or -1 where they are in another form."""
    cdef Cursor span
    cdef uint32_t row
    if rows == 0:
        return 0
    if c.at == c.end or c.at[0] != TAG_STATUSES:
        return -1
    c.at += 1
    if read_span(c, &span) != 0 or left(&span) != rows:
        return -1
    for row in range(rows):
        if span.at[row] >= 0x80:
            return -1
    memcpy(out, span.at, rows)
    return 0


cdef int read_times(Cursor* c, uint32_t rows, int64_t* out) noexcept nogil:
    """Reads the event times. Returns 0, or -1 where they are in another form."""
    cdef Cursor span
    cdef RowTime time
    cdef uint32_t row
    for row in range(rows):
        out[row] = NONE
        if c.at == c.end or c.at[0] != TAG_TIME:
            return -1
        c.at += 1
        if read_span(c, &span) != 0:
            return -1
        if span.at == span.end:
            continue
        if parse_row_time(span.at, left(&span), &time) != 0:
            return -1
        # As it stands for no time in an answer.
        if time.seconds != 0 or time.nanos != 0:
            out[row] = time.seconds * MICROSECONDS + time.nanos // 1000
    return 0 if c.at == c.end else -1


def declared_column(
    Answer answer not None, uint32_t index, uint32_t member, bint beside
) -> AnswerColumn | None:
    """Decodes a column of numbers, texts or bytes.

    Args:
        answer: One answer.
        index: The column's position.
        member: The field number in `Value` of what it is declared as.
        beside: Whether statuses and event times are decoded too; they are empty otherwise.

    Returns:
        The column, as `Answer.column` has it; None where it is of another type, or in another form,
        for which that is to be asked.

    Raises:
        IndexError: There is no such column.
    """
    cdef AnswerColumn made = AnswerColumn.__new__(AnswerColumn)
    cdef Outline outline = answer.outlines[0]
    cdef bytes valid, values, offsets = None, statuses = b"", times = b""
    cdef Cursor c
    cdef uint32_t rows = answer.rows
    cdef int64_t nulls
    cdef bint is_text = member == BYTES_VAL or member == STRING_VAL
    cdef int outcome = 0
    if index >= outline.count:
        raise IndexError(f"there is no column {index}")
    c = outline.vectors[index]
    if len(answer.outlines) != 1 or not (is_text or INT32_VAL <= member <= UNIX_TIMESTAMP_VAL):
        return None
    if left(&c) > MOST_BYTES:
        return None
    valid = empty((rows + 7) >> 3)
    if is_text:
        # More than they can be: they are in what there is.
        values = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>left(&c))
        offsets = empty((<size_t>rows + 1) * 4)
        nulls = read_texts(
            &c, rows, member, start_of(values), <int32_t*>start_of(offsets), start_of(valid)
        )
    else:
        if member == BOOL_VAL:
            values = empty((rows + 7) >> 3)
        else:
            values = empty(<size_t>rows * (4 if member in (INT32_VAL, FLOAT_VAL) else 8))
        nulls = read_numbers(&c, rows, member, start_of(values), start_of(valid))
    if nulls < 0:
        return None
    if beside:
        statuses = empty(rows)
        times = empty(<size_t>rows * 8)
        outcome = read_statuses(&c, rows, start_of(statuses))
        if outcome == 0:
            outcome = read_times(&c, rows, <int64_t*>start_of(times))
        if outcome != 0:
            return None
    if is_text:
        values = values[: (<int32_t*>start_of(offsets))[rows]]
    made.name = answer.names_read[index]
    made.rows = rows
    made.null_count = <uint32_t>nulls
    made.statuses = statuses
    made.event_timestamps = times
    if nulls == rows:
        made.layout = "none"
        made.values = b""
        made.validity = valid if nulls else None
        return made
    made.layout = "text" if is_text else "scalar"
    made.value_type = member
    made.validity = valid if nulls else None
    made.values = values
    made.offsets = offsets
    return made


cdef uint32_t first_member(const Cursor* vector, uint32_t rows) noexcept nogil:
    """The field number of the first value that is there; 0 where there is none, or it is in another
    form."""
    cdef Cursor c = vector[0], value
    cdef uint32_t _
    for _ in range(rows):
        if c.at == c.end or c.at[0] != TAG_VALUE:
            return 0
        c.at += 1
        if read_span(&c, &value) != 0:
            return 0
        if value.at != value.end:
            return value.at[0] >> 3 if value.at[0] < 0x80 else 0
    return 0


def usual_column(Answer answer not None, uint32_t index) -> AnswerColumn | None:
    """The same with statuses and event times, of a column of whatever its first value is.

    Args:
        answer: One answer.
        index: The column's position.

    Raises:
        IndexError: There is no such column.
    """
    cdef Outline outline = answer.outlines[0]
    if index >= outline.count:
        raise IndexError(f"there is no column {index}")
    return declared_column(
        answer, index, first_member(&outline.vectors[index], answer.rows), True
    )
