"""The bytes of a `GetOnlineFeaturesResponse` as columns in Arrow's layout; no message is made.

Only an outline of an answer is read at first: names, and where each column is. A column is decoded
when it is asked for, and what is wrong in a column that nobody asks for is not told. What is read
is what protobuf's own parser reads: in whatever order, in pieces, packed or not.

Feast's own answers have the same bytes. Nothing here needs NumPy or pyarrow: buffers are `bytes`.

    layout      what the buffers are, beside `validity`
    none        no value in any row
    scalar      `values`: one number a row (INT32 and FLOAT in 4 bytes, INT64, DOUBLE and seconds of
                UNIX_TIMESTAMP in 8), or one bit a row for BOOL
    text        `offsets`: rows + 1 int32, `values`: the bytes one after the other; UTF-8 but for
                BYTES
    list        `offsets`: rows + 1 int32, counting elements; `values`: elements as in `scalar`
    text_list   `offsets`: the same; `element_offsets` and `values`: the elements as in `text`
    message     `offsets` and `values` as in `text`: serialized `Value`s, of types that are none of
                those (maps, structs, nested lists), that are not known, or that differ by row

`validity` has one bit a row, the first in the lowest, 1 where there is a value. All numbers are in
the machine's byte order. Source: https://arrow.apache.org/docs/format/Columnar.html
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport INT32_MAX, INT64_MIN, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from hotfeast.hotpath.columns cimport TimeColumn, ValueColumn
from hotfeast.hotpath.values cimport (
    BOOL_VAL,
    DOUBLE_VAL,
    FLOAT_VAL,
    INT32_VAL,
    NULL_VAL,
    STRING_VAL,
    UNIX_TIMESTAMP_VAL,
    VALUE_CORRUPT,
    RowTime,
    check_value,
    is_member,
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
    put_cursor,
    read_span,
    read_tag,
    read_varint,
    skip_field,
)

from hotfeast.hotpath.errors import MalformedAnswer

cdef enum:
    # Stands for a member that a newer Feast may have added.
    UNKNOWN = 0xFFFFFFFF
    # Numbers of FieldStatus, and what stands for none.
    PRESENT = 1
    NULL_VALUE = 2
    NO_STATUS = 255
    MICROSECONDS = 1000000

NO_TIME = INT64_MIN
"""Stands for an event time that is not there, in microseconds; NumPy's NaT."""


cdef inline bint is_text(uint32_t member) noexcept nogil:
    """Whether a member is bytes or a text."""
    return member in (1, 2, 32, 36, 37, 44)


cdef inline bint is_scalar(uint32_t member) noexcept nogil:
    """Whether a member is a number, a boolean or a time."""
    return 3 <= member <= 8


cdef inline uint32_t element_of(uint32_t member) noexcept nogil:
    """What a list's or set's elements are, as a scalar's member; 0 for all that is neither."""
    if 11 <= member <= 18:
        return member - 10
    if 22 <= member <= 29:
        return member - 21
    if member in (33, 38, 39, 40, 41, 45, 46):
        return STRING_VAL
    return 0


cdef inline uint32_t wire_of(uint32_t member) noexcept nogil:
    """The wire type of a scalar."""
    if member == DOUBLE_VAL:
        return WIRE_FIXED64
    if member == FLOAT_VAL:
        return WIRE_FIXED32
    return WIRE_LEN if is_text(member) else WIRE_VARINT


cdef inline size_t room_for(uint32_t member, size_t count) noexcept nogil:
    """Bytes that `count` numbers take."""
    if member == BOOL_VAL:
        return (count + 7) >> 3
    if member == INT32_VAL or member == FLOAT_VAL:
        return count * 4
    return count * 8


# ------------------------------------------------------------ one Value

cdef inline uint32_t quick_member(const uint8_t* at, size_t size) noexcept nogil:
    """The member of a `Value` of the usual form, one number or text and nothing else; else 0."""
    cdef uint8_t tag
    cdef size_t i = 1
    if size < 2:
        return 0
    tag = at[0]
    if tag == 0x29:
        return <uint32_t>DOUBLE_VAL if size == 9 else 0
    if tag == 0x35:
        return <uint32_t>FLOAT_VAL if size == 5 else 0
    if tag == 0x20 or tag == 0x18 or tag == 0x40 or tag == 0x38:
        while i < size and at[i] >= 0x80:
            i += 1
        if i == size - 1 and (size <= 10 or (size == 11 and at[10] <= 1)):
            return tag >> 3
        return 0
    if tag == 0x12 and at[1] < 0x80 and at[1] == size - 2 and is_utf8(at + 2, at + size):
        return STRING_VAL
    return 0


cdef int find_member(Cursor c, Found* out) noexcept nogil:
    """Judges a serialized `Value`. Returns 0, or -1 where protobuf would refuse it.

    In a oneof the last member counts; where that is a message, in pieces, all pieces since another
    member came last.
    """
    cdef uint32_t field = 0, wire = 0
    cdef bint unknown = False
    cdef const uint8_t* at
    out.run = c
    out.member = quick_member(c.at, left(&c))
    if out.member != 0 or c.at == c.end:
        return 0
    if check_value(c.at, <uint32_t>left(&c)) == VALUE_CORRUPT:
        return -1
    while c.at < c.end:
        at = c.at
        if read_tag(&c, &field, &wire) != 0 or skip_field(&c, field, wire, 0) != 0:
            return -1
        if not is_member(field, wire):
            unknown = True
        elif field != out.member:
            out.member = field
            out.run.at = at
    if out.member == NULL_VAL:
        out.member = 0
    elif out.member == 0 and unknown:
        out.member = UNKNOWN
    return 0


cdef inline void put_integer(Sink* s, uint64_t value) noexcept nogil:
    if s.values != NULL:
        if s.member == INT32_VAL:
            (<int32_t*>s.values)[s.count] = <int32_t>value
        elif s.member == BOOL_VAL:
            s.values[s.count >> 3] |= <uint8_t>((value != 0) << (s.count & 7))
        else:
            (<int64_t*>s.values)[s.count] = <int64_t>value
    s.count += 1


cdef inline void put_fixed(Sink* s, const uint8_t* at, size_t width) noexcept nogil:
    if s.values != NULL:
        memcpy(s.values + s.count * width, at, width)
    s.count += 1


cdef inline void put_text(Sink* s, const Cursor* span) noexcept nogil:
    if s.values != NULL:
        put_cursor(s.values + s.size, span)
        s.offsets[s.count] = <int32_t>s.size
    s.size += left(span)
    s.count += 1


cdef inline int put_number(Sink* s, Cursor* c) noexcept nogil:
    """Reads one number in the wire type of its kind."""
    cdef uint64_t value = 0
    cdef size_t width
    if s.member == DOUBLE_VAL or s.member == FLOAT_VAL:
        width = 8 if s.member == DOUBLE_VAL else 4
        if left(c) < width:
            return -1
        put_fixed(s, c.at, width)
        c.at += width
        return 0
    if read_varint(c, &value) != 0:
        return -1
    put_integer(s, value)
    return 0


cdef int put_elements(Sink* s, Cursor list_) noexcept nogil:
    """Reads the elements of a serialized list: of `repeated ... val = 1`."""
    cdef uint32_t field = 0, wire = 0, wanted = wire_of(s.member)
    cdef Cursor span
    while list_.at < list_.end:
        if read_tag(&list_, &field, &wire) != 0:
            return -1
        if field == 1 and wire == WIRE_LEN:
            if read_span(&list_, &span) != 0:
                return -1
            if wanted == WIRE_LEN:
                put_text(s, &span)
                continue
            while span.at < span.end:
                if put_number(s, &span) != 0:
                    return -1
        elif field == 1 and wire == wanted:
            if put_number(s, &list_) != 0:
                return -1
        elif skip_field(&list_, field, wire, 0) != 0:
            return -1
    return 0


cdef int put_list(Sink* s, const Found* found) noexcept nogil:
    """Reads the elements of a list value, which may come in pieces."""
    cdef Cursor c = found.run, span
    cdef uint32_t field = 0, wire = 0
    while c.at < c.end:
        if read_tag(&c, &field, &wire) != 0:
            return -1
        if field == found.member and wire == WIRE_LEN:
            if read_span(&c, &span) != 0 or put_elements(s, span) != 0:
                return -1
        elif skip_field(&c, field, wire, 0) != 0:
            return -1
    return 0


cdef int last_scalar(const Found* found, Cursor* out) noexcept nogil:
    """Where the scalar that counts is: a text's bytes, or from its number on."""
    cdef Cursor c = found.run, span
    cdef uint32_t field = 0, wire = 0, wanted = wire_of(found.member)
    out.at = out.end = c.at
    while c.at < c.end:
        if read_tag(&c, &field, &wire) != 0:
            return -1
        if field == found.member and wire == wanted:
            out[0] = c
            if wire == WIRE_LEN:
                if read_span(&c, &span) != 0:
                    return -1
                out[0] = span
                continue
        if skip_field(&c, field, wire, 0) != 0:
            return -1
    return 0


# ------------------------------------------------------------ columns

cdef bytes zeros(size_t size):
    """Bytes to be filled in; new ones, which those that are made of something need not be."""
    cdef bytes made = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    memset(PyBytes_AS_STRING(made), 0, size)
    return made


cdef inline uint8_t* start_of(bytes data):
    return <uint8_t*>PyBytes_AS_STRING(data)


cdef class AnswerColumn:
    """One column.

    Attributes:
        name: As the answer has it.
        rows: How many there are.
        value_type: Number in `ValueType.Enum`; 0 where there is no value, and in a `message` whose
            values are of several types or of one that is not known.
        layout: What the buffers are; see the module.
        null_count: Rows without a value.
        validity: None where every row has a value.
        values: The values.
        offsets: None in the layouts `none` and `scalar`.
        element_offsets: None but in the layout `text_list`.
        statuses: One byte a row, the number in `FieldStatus`; where the bytes have none, PRESENT
            and NULL_VALUE by whether there is a value.
        event_timestamps: One int64 a row, microseconds since 1970, cut, or NO_TIME.
    """

    @staticmethod
    def of_values(str name not None, list payloads not None, uint32_t step=1):
        """Makes a column of serialized `RepeatedValue`s, one after the other.

        Args:
            name: Its name.
            payloads: The serialized messages.
            step: One of how many rows is taken, from the first on.

        Raises:
            MalformedAnswer: They are none.
        """
        cdef Cells cells = Cells(name, step)
        cdef AnswerColumn made = AnswerColumn.__new__(AnswerColumn)
        cdef bytes payload
        for payload in payloads:
            cells.take(cursor_of(payload), -1)
        made.name = name
        made.decode(cells.cells, cells.count)
        made.statuses = cells.statuses_or(made)
        made.event_timestamps = cells.times()
        return made

    @staticmethod
    def of_cells(str name not None, list columns not None, uint32_t step=1):
        """Makes a column of `ValueColumn`s, one after the other; rows with a fault are null.

        Args:
            name: Its name.
            columns: What it is made of.
            step: One of how many rows is taken, from the first on.
        """
        cdef Cells cells = Cells(name, step)
        cdef AnswerColumn made = AnswerColumn.__new__(AnswerColumn)
        cdef ValueColumn column
        cdef uint32_t row
        for column in columns:
            cells.reserve(column.rows)
            for row in range(column.rows):
                cells.add(column.cells[row])
        made.name = name
        made.decode(cells.cells, cells.count)
        made.statuses = cells.statuses_or(made)
        made.event_timestamps = cells.times()
        return made

    cdef int decode(self, const Cursor* cells, uint32_t rows) except -1:
        """Makes the buffers of serialized `Value`s."""
        cdef Found* found = <Found*>malloc(max(rows, 1) * sizeof(Found))
        cdef uint32_t row, member = 0
        cdef bint mixed = False
        cdef uint8_t* bits
        if found == NULL:
            raise MemoryError
        try:
            for row in range(rows):
                if find_member(cells[row], &found[row]) != 0:
                    raise MalformedAnswer(f"column {self.name!r}, row {row}: this is no Value")
                if found[row].member == 0:
                    self.null_count += 1
                elif member == 0:
                    member = found[row].member
                elif member != found[row].member:
                    mixed = True
            self.rows = rows
            self.values = b""
            if self.null_count:
                self.validity = zeros((rows + 7) >> 3)
                bits = start_of(self.validity)
                for row in range(rows):
                    bits[row >> 3] |= <uint8_t>((found[row].member != 0) << (row & 7))
            if member == 0:
                self.layout = "none"
            elif mixed or member == UNKNOWN or not (
                is_scalar(member) or is_text(member) or element_of(member)
            ):
                self.layout = "message"
                self.value_type = 0 if mixed or member == UNKNOWN else member
                for row in range(rows):
                    # The message whole, with whatever else is in it.
                    found[row].run = cells[row]
                self.fill_texts(found)
            else:
                self.value_type = member
                if is_scalar(member):
                    self.layout = "scalar"
                    self.fill_scalars(found)
                elif is_text(member):
                    self.layout = "text"
                    for row in range(rows):
                        if found[row].member and last_scalar(&found[row], &found[row].run) != 0:
                            raise MalformedAnswer(f"column {self.name!r}: this is no Value")
                    self.fill_texts(found)
                else:
                    self.layout = "text_list" if is_text(element_of(member)) else "list"
                    self.fill_lists(found)
        finally:
            free(found)
        return 0

    cdef int fill_scalars(self, const Found* found) except -1:
        cdef Sink s
        cdef Cursor c
        cdef uint32_t row
        self.values = zeros(room_for(self.value_type, self.rows))
        s.member = self.value_type
        s.values = start_of(self.values)
        s.offsets = NULL
        s.count = s.size = 0
        for row in range(self.rows):
            if found[row].member == 0:
                s.count += 1
            elif last_scalar(&found[row], &c) != 0 or put_number(&s, &c) != 0:
                raise MalformedAnswer(f"column {self.name!r}: this is no Value")
        return 0

    cdef int fill_texts(self, const Found* found) except -1:
        cdef Sink s
        cdef uint32_t row
        cdef size_t size = 0
        for row in range(self.rows):
            if found[row].member:
                size += left(&found[row].run)
        refuse_beyond(size, self.name)
        self.offsets = zeros((<size_t>self.rows + 1) * 4)
        self.values = zeros(size)
        s.values = start_of(self.values)
        s.offsets = <int32_t*>start_of(self.offsets)
        s.count = s.size = 0
        s.member = self.value_type
        for row in range(self.rows):
            if found[row].member:
                put_text(&s, &found[row].run)
            else:
                s.offsets[s.count] = <int32_t>s.size
                s.count += 1
        s.offsets[s.count] = <int32_t>s.size
        return 0

    cdef int fill_lists(self, const Found* found) except -1:
        cdef Sink s
        cdef uint32_t row
        cdef uint32_t element = element_of(self.value_type)
        cdef int32_t* offsets
        s.member = element
        s.values = NULL
        s.offsets = NULL
        s.count = s.size = 0
        for row in range(self.rows):
            if found[row].member and put_list(&s, &found[row]) != 0:
                raise MalformedAnswer(f"column {self.name!r}: this is no Value")
        refuse_beyond(s.count, self.name)
        refuse_beyond(s.size, self.name)
        self.offsets = zeros((<size_t>self.rows + 1) * 4)
        offsets = <int32_t*>start_of(self.offsets)
        if is_text(element):
            self.element_offsets = zeros((s.count + 1) * 4)
            self.values = zeros(s.size)
            s.offsets = <int32_t*>start_of(self.element_offsets)
        else:
            self.values = zeros(room_for(element, s.count))
        s.values = start_of(self.values)
        s.count = s.size = 0
        for row in range(self.rows):
            offsets[row] = <int32_t>s.count
            if found[row].member:
                put_list(&s, &found[row])
        offsets[self.rows] = <int32_t>s.count
        if s.offsets != NULL:
            s.offsets[s.count] = <int32_t>s.size
        return 0


cdef int refuse_beyond(size_t size, str name) except -1:
    if size > INT32_MAX:
        raise MalformedAnswer(f"column {name!r} is larger than 2 GiB")
    return 0


cdef Cursor cursor_of(bytes data):
    cdef Cursor c
    c.at = <const uint8_t*>PyBytes_AS_STRING(data)
    c.end = c.at + PyBytes_GET_SIZE(data)
    return c


cdef class Cells:
    """Serialized values, statuses and times of one column, gathered from one or more messages."""

    cdef str name
    cdef uint32_t step
    cdef uint64_t seen            # rows, of which one in `step` is taken
    cdef Cursor* cells
    cdef uint32_t count, capacity
    cdef uint8_t* codes           # status of each row; NO_STATUS where the bytes have none
    cdef int64_t* moments         # event time of each row

    def __cinit__(self, str name, uint32_t step):
        if step == 0:
            raise ValueError("step must be at least 1")
        self.name = name
        self.step = step

    def __dealloc__(self):
        free(self.cells)
        free(self.codes)
        free(self.moments)

    cdef int reserve(self, size_t rows) except -1:
        """Makes room for more rows."""
        cdef size_t wanted = self.count + rows // self.step + 1
        if wanted <= self.capacity:
            return 0
        wanted = max(wanted, 2 * <size_t>self.capacity)
        if wanted > INT32_MAX:
            raise MalformedAnswer(f"column {self.name!r} has too many rows")
        self.cells = <Cursor*>grown(self.cells, wanted * sizeof(Cursor))
        self.codes = <uint8_t*>grown(self.codes, wanted)
        self.moments = <int64_t*>grown(self.moments, wanted * sizeof(int64_t))
        self.capacity = <uint32_t>wanted
        return 0

    cdef inline bint takes(self, uint64_t row) noexcept:
        return self.step == 1 or row % self.step == 0

    cdef inline uint32_t place_of(self, uint64_t row) noexcept:
        """How many rows before this one are taken."""
        return <uint32_t>(row if self.step == 1 else (row + self.step - 1) // self.step)

    cdef int add(self, Cursor cell) except -1:
        """Takes one value, for which room has been made."""
        if self.takes(self.seen):
            self.cells[self.count] = cell
            self.codes[self.count] = NO_STATUS
            self.moments[self.count] = NO_TIME
            self.count += 1
        self.seen += 1
        return 0

    cdef int refuse(self, str why) except -1:
        raise MalformedAnswer(f"column {self.name!r}: {why}")

    cdef int take(self, Cursor vector, int64_t rows) except -1:
        """Takes a serialized `FeatureVector`, or a `RepeatedValue`, which is one without statuses.

        Args:
            vector: The message.
            rows: How many rows it must have; less than 0 for any number.
        """
        cdef uint32_t i
        cdef uint64_t values = 0, statuses = 0, times = 0
        count_vector(vector, &values, &statuses, &times, self.name)
        if rows >= 0 and values != <uint64_t>rows:
            self.refuse(f"it has {values} values, and the first column has {rows}")
        if statuses != 0 and statuses != values:
            self.refuse(f"it has {values} values and {statuses} statuses")
        if times != 0 and times != values:
            self.refuse(f"it has {values} values and {times} event timestamps")
        self.reserve(values)
        for i in range(self.count, self.place_of(self.seen + values)):
            self.codes[i] = NO_STATUS
            self.moments[i] = NO_TIME
        self.read_vector(vector)
        self.count = self.place_of(self.seen + values)
        self.seen += values
        return 0

    cdef int read_vector(self, Cursor c) except -1:
        cdef uint32_t field = 0, wire = 0
        cdef uint64_t value = self.seen, status = self.seen, time = self.seen, number = 0
        cdef Cursor span
        while c.at < c.end:
            read_tag(&c, &field, &wire)
            if field == 1 and wire == WIRE_LEN:
                read_span(&c, &span)
                if self.takes(value):
                    self.cells[self.place_of(value)] = span
                value += 1
            elif field == 2 and wire == WIRE_VARINT:
                read_varint(&c, &number)
                self.put_status(status, number)
                status += 1
            elif field == 2 and wire == WIRE_LEN:
                read_span(&c, &span)
                while span.at < span.end:
                    read_varint(&span, &number)
                    self.put_status(status, number)
                    status += 1
            elif field == 3 and wire == WIRE_LEN:
                read_span(&c, &span)
                self.put_time(time, span)
                time += 1
            else:
                skip_field(&c, field, wire, 2)
        return 0

    cdef int put_status(self, uint64_t row, uint64_t number) except -1:
        if number >= NO_STATUS:
            self.refuse(f"{<int32_t>number} is no status")
        if self.takes(row):
            self.codes[self.place_of(row)] = <uint8_t>number
        return 0

    cdef int put_time(self, uint64_t row, Cursor span) except -1:
        cdef RowTime time
        if not self.takes(row) or span.at == span.end:
            return 0
        if parse_row_time(span.at, left(&span), &time) != 0:
            self.refuse("an event timestamp is none, or not of the years 1 to 9999")
        # As it stands for no time in an answer.
        if time.seconds != 0 or time.nanos != 0:
            self.moments[self.place_of(row)] = (
                time.seconds * MICROSECONDS + time.nanos // 1000
            )
        return 0

    cdef bytes statuses_or(self, AnswerColumn column):
        """The statuses, or what can be told of a column without any."""
        cdef const uint8_t* bits = NULL
        cdef uint32_t row
        if column.validity is not None:
            bits = start_of(column.validity)
        for row in range(self.count):
            if self.codes[row] == NO_STATUS:
                if bits == NULL or bits[row >> 3] >> (row & 7) & 1:
                    self.codes[row] = PRESENT
                else:
                    self.codes[row] = NULL_VALUE
        return PyBytes_FromStringAndSize(<const char*>self.codes, self.count)

    cdef bytes times(self):
        return PyBytes_FromStringAndSize(
            <const char*>self.moments, <Py_ssize_t>(self.count * sizeof(int64_t))
        )


cdef void* grown(void* block, size_t size) except NULL:
    cdef void* made = realloc(block, size)
    if made == NULL:
        raise MemoryError
    return made


cdef int count_vector(
    Cursor c, uint64_t* values, uint64_t* statuses, uint64_t* times, str name
) except -1:
    """Counts what a serialized `FeatureVector` has, and judges its outline."""
    cdef uint32_t field = 0, wire = 0
    cdef uint64_t number = 0
    cdef Cursor span
    cdef bint fine = True
    while c.at < c.end and fine:
        if read_tag(&c, &field, &wire) != 0:
            fine = False
        elif field == 1 and wire == WIRE_LEN:
            fine = read_span(&c, &span) == 0
            values[0] += 1
        elif field == 2 and wire == WIRE_VARINT:
            fine = read_varint(&c, &number) == 0
            statuses[0] += 1
        elif field == 2 and wire == WIRE_LEN:
            fine = read_span(&c, &span) == 0
            while fine and span.at < span.end:
                fine = read_varint(&span, &number) == 0
                statuses[0] += 1
        elif field == 3 and wire == WIRE_LEN:
            fine = read_span(&c, &span) == 0
            times[0] += 1
        else:
            fine = skip_field(&c, field, wire, 2) == 0
    if not fine:
        raise MalformedAnswer(f"column {name!r} is malformed")
    return 0


def times_of(list columns not None, uint32_t step=1) -> bytes:
    """Times of `TimeColumn`s, one after the other, as an `AnswerColumn` has its event timestamps.

    Args:
        columns: The columns.
        step: One of how many rows is taken, from the first on.
    """
    cdef Cells cells = Cells("times", step)
    cdef TimeColumn column
    cdef Cursor none
    cdef uint32_t row, place
    none.at = none.end = NULL
    for column in columns:
        cells.reserve(column.rows)
        for row in range(column.rows):
            place = cells.count
            cells.add(none)
            if cells.count > place and column.nanos[row] >= 0:
                cells.moments[place] = (
                    column.seconds[row] * MICROSECONDS + column.nanos[row] // 1000
                )
    return cells.times()


# ------------------------------------------------------------ answers

cdef class Outline:
    """Where the columns of one serialized answer are."""

    def __cinit__(self, bytes data not None):
        cdef uint64_t values = 0, statuses = 0, times = 0
        self.data = data
        self.metadata = joined(cursor_of(data), 1)
        self.head = joined(cursor_of(self.metadata), 1)
        self.read_vectors()
        if self.count:
            count_vector(self.vectors[0], &values, &statuses, &times, "the first")
            if values > INT32_MAX:
                raise MalformedAnswer("the answer has too many rows")
            self.rows = <uint32_t>values

    def __dealloc__(self):
        free(self.vectors)

    cdef int read_vectors(self) except -1:
        cdef Cursor c = cursor_of(self.data), span
        cdef uint32_t field = 0, wire = 0
        cdef size_t capacity = 0
        while c.at < c.end:
            # The outline has been judged by `joined`.
            read_tag(&c, &field, &wire)
            if field != 2 or wire != WIRE_LEN:
                skip_field(&c, field, wire, 0)
                continue
            read_span(&c, &span)
            if self.count == capacity:
                capacity = 2 * capacity if capacity else 64
                self.vectors = <Cursor*>grown(self.vectors, capacity * sizeof(Cursor))
            self.vectors[self.count] = span
            self.count += 1
        return 0


cdef bytes joined(Cursor c, uint32_t wanted):
    """The bytes of a field of a message that is a message itself: of all its pieces."""
    cdef uint32_t field = 0, wire = 0
    cdef Cursor span
    cdef bytes made = b"", piece
    while c.at < c.end:
        if read_tag(&c, &field, &wire) != 0:
            raise MalformedAnswer("the answer is malformed")
        if field != wanted or wire != WIRE_LEN:
            if skip_field(&c, field, wire, 1) != 0:
                raise MalformedAnswer("the answer is malformed")
            continue
        if read_span(&c, &span) != 0:
            raise MalformedAnswer("the answer is malformed")
        piece = PyBytes_FromStringAndSize(<const char*>span.at, <Py_ssize_t>left(&span))
        made = made + piece if made else piece
    return made


cdef list names_in(bytes head):
    """The texts of a serialized `FeatureList`."""
    cdef Cursor c = cursor_of(head), span
    cdef uint32_t field = 0, wire = 0
    names = []
    while c.at < c.end:
        if read_tag(&c, &field, &wire) != 0:
            raise MalformedAnswer("the answer's names are malformed")
        if field != 1 or wire != WIRE_LEN:
            if skip_field(&c, field, wire, 2) != 0:
                raise MalformedAnswer("the answer's names are malformed")
            continue
        if read_span(&c, &span) != 0 or not is_utf8(span.at, span.end):
            raise MalformedAnswer("the answer's names are malformed")
        names.append(
            PyBytes_FromStringAndSize(
                <const char*>span.at, <Py_ssize_t>left(&span)
            ).decode()
        )
    return names


cdef int read_real(Cursor cell, double null, double* out) noexcept nogil:
    """Reads a serialized `Value` as a number.

    Returns:
        0; -1 where it is no `Value`; 1 where it is one, and no number.
    """
    cdef Found found
    cdef Cursor c
    cdef uint64_t number = 0
    cdef float single
    if find_member(cell, &found) != 0:
        return -1
    out[0] = null
    if found.member == 0:
        return 0
    if not is_scalar(found.member):
        return 1
    if last_scalar(&found, &c) != 0:
        return -1
    if found.member == DOUBLE_VAL:
        if left(&c) < 8:
            return -1
        memcpy(out, c.at, 8)
    elif found.member == FLOAT_VAL:
        if left(&c) < 4:
            return -1
        memcpy(&single, c.at, 4)
        out[0] = single
    elif read_varint(&c, &number) != 0:
        return -1
    elif found.member == INT32_VAL:
        out[0] = <int32_t>number
    elif found.member == BOOL_VAL:
        out[0] = number != 0
    elif found.member != UNIX_TIMESTAMP_VAL or <int64_t>number != INT64_MIN:
        out[0] = <double><int64_t>number
    return 0


cdef int fill_reals(
    double[:, :] out, Py_ssize_t place, uint32_t first, uint32_t rows, Cursor c, double null,
    str name,
) except -1:
    """Reads the values of a serialized `FeatureVector` into a column of a matrix."""
    cdef uint32_t field = 0, wire = 0
    cdef uint64_t row = 0
    cdef int verdict = 0
    cdef Cursor span
    while c.at < c.end and verdict == 0:
        if read_tag(&c, &field, &wire) != 0:
            verdict = -1
        elif field != 1 or wire != WIRE_LEN:
            verdict = skip_field(&c, field, wire, 2)
        elif read_span(&c, &span) != 0:
            verdict = -1
        else:
            if row < rows:
                verdict = read_real(span, null, &out[first + row, place])
            row += 1
    if verdict == 1:
        raise TypeError(f"column {name!r} is not of numbers")
    if verdict != 0:
        raise MalformedAnswer(f"column {name!r} is malformed")
    if row != rows:
        raise MalformedAnswer(
            f"column {name!r}: it has {row} values, and the first column has {rows}"
        )
    return 0


cdef class Answer:
    """An answer, or several with the same columns, one below the other.

    Attributes:
        rows: How many there are.
        head: The column names as the answer has them, a serialized `FeatureList`: what answers can
            be told apart by.
    """

    def __init__(self, *payloads):
        """
        Args:
            payloads: Serialized `GetOnlineFeaturesResponse`s.

        Raises:
            MalformedAnswer: One is none, has not as many names as columns, or has other names than
                the first.
            TypeError: There is none.
        """
        cdef Outline outline, first
        cdef uint64_t rows = 0
        if not payloads:
            raise TypeError("at least one answer is needed")
        self.outlines = [Outline(data) for data in payloads]
        first = self.outlines[0]
        self.head = first.head
        self.names_read = names_in(first.head)
        for outline in self.outlines:
            if outline.head != first.head:
                raise MalformedAnswer("the answers do not have the same names")
            if outline.count != <size_t>len(self.names_read):
                raise MalformedAnswer(
                    f"the answer has {len(self.names_read)} names and {outline.count} columns"
                )
            rows += outline.rows
        if rows > INT32_MAX:
            raise MalformedAnswer("the answers have too many rows")
        self.rows = <uint32_t>rows

    @property
    def names(self) -> list[str]:
        """The names of the columns: the join keys, then the features."""
        return list(self.names_read)

    @property
    def rows_of_each(self) -> list[int]:
        """How many rows each answer has."""
        return [(<Outline>outline).rows for outline in self.outlines]

    @property
    def metadata(self) -> bytes:
        """The first answer's metadata, a serialized `GetOnlineFeaturesResponseMetadata`."""
        return (<Outline>self.outlines[0]).metadata

    def fill_matrix(self, double[:, :] out, list indexes not None, double null):
        """Decodes columns of numbers into a matrix, without making anything else of them.

        Booleans are 0 and 1, times are seconds since 1970. Integers beyond 2**53 are rounded.

        Args:
            out: A row for each row, a column for each index; all of it is written.
            indexes: Positions of the columns.
            null: Stands for what has no value.

        Raises:
            IndexError: There is no such column.
            MalformedAnswer: One is malformed, or has another number of rows than the first.
            TypeError: One has values that are no numbers; it is named.
            ValueError: The matrix has another shape.
        """
        cdef Outline outline
        cdef Py_ssize_t place
        cdef uint32_t index, first
        if out.shape[0] != self.rows or out.shape[1] != len(indexes):
            raise ValueError(f"the matrix must have {self.rows} rows and {len(indexes)} columns")
        for place in range(out.shape[1]):
            index = indexes[place]
            if index >= <size_t>len(self.names_read):
                raise IndexError(f"there is no column {index}")
            first = 0
            for outline in self.outlines:
                fill_reals(
                    out, place, first, outline.rows, outline.vectors[index], null,
                    self.names_read[index],
                )
                first += outline.rows

    def column(self, uint32_t index, uint32_t step=1) -> AnswerColumn:
        """Decodes a column.

        Args:
            index: Its position.
            step: One of how many rows is taken, from the first on.

        Raises:
            IndexError: There is no such column.
            MalformedAnswer: It is malformed, has another number of rows than the first column, or
                neither none nor one status (event timestamp) for each of its rows.
        """
        cdef AnswerColumn made = AnswerColumn.__new__(AnswerColumn)
        cdef Outline outline
        cdef Cells cells
        if index >= <size_t>len(self.names_read):
            raise IndexError(f"there is no column {index}")
        made.name = self.names_read[index]
        cells = Cells(made.name, step)
        for outline in self.outlines:
            cells.take(outline.vectors[index], outline.rows)
        made.decode(cells.cells, cells.count)
        made.statuses = cells.statuses_or(made)
        made.event_timestamps = cells.times()
        return made
