"""Compiled transforms: decoded columns in, encoded feature vectors out, no object per value.

A program is a list of instructions over registers, each a column of C values. Arithmetic, and every
function of NumPy's, is done by NumPy's own loops, so that a result has NumPy's bits whatever the
processor. Where pandas' types depend on the data, a kernel has one program for each case: the
columns' nulls say where to begin, and a check within a program can say that another one is needed.
Data that no program is for is left to pandas.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.math cimport isfinite, isnan
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport INT64_MIN, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memcmp, memcpy, memset

cimport numpy as cnp

from hotfeast.hotpath.batch cimport Batch
from hotfeast.hotpath.plan cimport Plan
from hotfeast.hotpath.reply cimport Reply, Span
from hotfeast.hotpath.request cimport Column as RequestColumn
from hotfeast.hotpath.values cimport (
    BOOL_VAL,
    DOUBLE_VAL,
    FLOAT_VAL,
    INT32_VAL,
    INT64_VAL,
    STRING_VAL,
    UNIX_TIMESTAMP_VAL,
)
from hotfeast.hotpath.wire cimport (
    WIRE_FIXED32,
    WIRE_FIXED64,
    WIRE_LEN,
    WIRE_VARINT,
    Cursor,
    is_utf8,
    left,
    put_varint,
    read_span,
    read_tag,
    read_varint,
    varint_size,
)

# Types of registers.
cpdef enum Kind:
    BOOL = 0
    INT32 = 1
    INT64 = 2
    FLOAT32 = 3
    FLOAT64 = 4
    TEXT = 5
    TIME = 6                  # ticks since 1970, or between two times; the unit is the compiler's

cpdef enum Op:
    LOAD = 0                  # param: the input
    LOAD_MISSING = 1          # BOOL: where the input is null; param: the input
    LOOP = 2                  # NumPy's loop over one or two sources
    CAST = 3                  # to the target's type
    SELECT = 4                # the second source where the first is true, else the third
    MISSING = 5               # BOOL: where the source is NaN, NaT or null
    TEXT_EQUAL = 6            # BOOL: null equals nothing; param 1: not equal
    FIND = 7                  # INT64: place among the table's keys, or -1
    TAKE = 8                  # the table's value at each place; its last where it is -1
    DATE_FIELD = 9            # INT32; param: the field, and ticks per second above it
    TEXT_LENGTH = 10          # INT64: characters
    TEXT_FIND = 11            # BOOL; param: 0 starts with, 1 ends with, 2 contains
    TEXT_CASE = 12            # param: 0 lower, 1 upper; gives up on what is not ASCII
    UNLESS = 13               # where any of the source is true, goes to program `param`
    MULTIPLY_TIME = 14        # ticks times `param`; gives up past 64 bits

cpdef enum DateField:
    YEAR = 0
    MONTH = 1
    DAY = 2
    HOUR = 3
    MINUTE = 4
    SECOND = 5
    QUARTER = 6
    DAY_OF_WEEK = 7
    DAY_OF_YEAR = 8
    DAYS = 9                  # of a difference, INT64
    SECONDS = 10              # of a difference within its day

# What the nulls of an input column are, where its type in pandas depends on them.
cpdef enum State:
    FULL = 0
    SOME_NULL = 1

cdef enum Outcome:
    DONE = -1
    GIVE_UP = -2
    NO_MEMORY = -3

cdef enum:
    FIRST_SECOND = -62135596800   # of the year 1
    LAST_SECOND = 253402300799    # of the year 9999
    DAY_SECONDS = 86400
    TICKS = 1000000               # a second's in a decoded time
    FIELD_BITS = 8
    PRESENT = 1
    NULL_VALUE = 2
    TAG_RESULTS = 0x12
    TAG_NAMES = 0x0A
    TAG_VALUE = 0x0A
    TAG_STATUSES = 0x12
    TAG_TIME = 0x1A
    # Rows from which on the GIL is let go.
    RELEASE_FROM = 2000
    LINE = 64

cdef struct Text:
    const uint8_t* at         # NULL for a null
    size_t size

cdef int WIDTHS[7]
WIDTHS[:] = [1, 4, 8, 4, 8, sizeof(Text), 8]

cdef extern from *:
    """
    static inline int hotfeast_wide_multiply(int64_t a, int64_t b, int64_t *out)
    {
        return __builtin_mul_overflow(a, b, out);
    }
    """
    int wide_multiply "hotfeast_wide_multiply"(int64_t a, int64_t b, int64_t* out) nogil


# ---- decoding

cdef int scan_value(const Cursor* span, int kind, int64_t* out, Text* text) noexcept nogil:
    """Reads a serialized `Value`. Returns 1, 0 for a null, or GIVE_UP where it is of another type
    than `kind`, or in a form that no writer gives it.

    A number goes to `out`, a double as its bits.
    """
    cdef Cursor c = span[0]
    cdef Cursor payload
    cdef uint32_t field = 0, wire = 0
    cdef uint64_t number = 0
    cdef float single
    cdef double wide
    if c.at == c.end:
        return 0
    if read_tag(&c, &field, &wire) != 0:
        return GIVE_UP
    if wire == WIRE_VARINT:
        if read_varint(&c, &number) != 0 or c.at != c.end:
            return GIVE_UP
        if kind == INT64 and field == INT64_VAL:
            out[0] = <int64_t>number
        elif kind == INT64 and field == INT32_VAL:
            out[0] = <int32_t><uint32_t>number
        elif kind == BOOL and field == BOOL_VAL:
            out[0] = number != 0
        elif kind == TIME and field == UNIX_TIMESTAMP_VAL:
            out[0] = <int64_t>number
            if out[0] == INT64_MIN:
                return 0
            if out[0] < FIRST_SECOND or out[0] > LAST_SECOND:
                return GIVE_UP
            out[0] *= TICKS
        else:
            return GIVE_UP
        return 1
    if wire == WIRE_FIXED64 and field == DOUBLE_VAL and kind == FLOAT64 and left(&c) == 8:
        memcpy(out, c.at, 8)
        return 1
    if wire == WIRE_FIXED32 and field == FLOAT_VAL and kind == FLOAT64 and left(&c) == 4:
        memcpy(&single, c.at, 4)
        wide = single
        memcpy(out, &wide, 8)
        return 1
    if wire == WIRE_LEN and field == STRING_VAL and kind == TEXT:
        if read_span(&c, &payload) != 0 or c.at != c.end:
            return GIVE_UP
        if not is_utf8(payload.at, payload.end):
            return GIVE_UP
        text.at = payload.at
        text.size = left(&payload)
        return 1
    return GIVE_UP


cdef int column_state(const Cursor* column, Py_ssize_t rows, int kind) noexcept nogil:
    """The State of an input column, or GIVE_UP. Nulls of the other types are NaN, NaT and None,
    which change no type."""
    cdef Py_ssize_t row
    cdef int state = FULL
    cdef int64_t number = 0
    cdef Text text
    cdef int found
    for row in range(rows):
        found = scan_value(&column[row], kind, &number, &text)
        if found == GIVE_UP:
            return GIVE_UP
        if found == 0 and (kind == INT64 or kind == BOOL):
            state = SOME_NULL
    return state


cdef void load(
    const Cursor* column, Py_ssize_t rows, int kind, int target_kind, char* to
) noexcept nogil:
    """Decodes an input column that `column_state` has accepted; nulls become NaN, NaT or null,
    and False where there is no such value."""
    cdef Py_ssize_t row
    cdef int64_t number
    cdef Text text
    cdef int found
    for row in range(rows):
        number = 0
        text.at = NULL
        text.size = 0
        found = scan_value(&column[row], kind, &number, &text)
        if kind == TEXT:
            (<Text*>to)[row] = text
        elif kind == BOOL:
            (<uint8_t*>to)[row] = <uint8_t>number
        elif kind == FLOAT64:
            if found == 0:
                (<double*>to)[row] = NOT_A_NUMBER
            else:
                memcpy(to + row * 8, &number, 8)
        elif kind == TIME:
            (<int64_t*>to)[row] = number if found else INT64_MIN
        elif target_kind == FLOAT64:
            (<double*>to)[row] = <double>number if found else NOT_A_NUMBER
        else:
            (<int64_t*>to)[row] = number


cdef double NOT_A_NUMBER = float("nan")


# ---- instructions

cdef inline double as_double(const char* at, int kind) noexcept nogil:
    if kind == FLOAT64:
        return (<const double*>at)[0]
    if kind == FLOAT32:
        return (<const float*>at)[0]
    if kind == INT64:
        return <double>(<const int64_t*>at)[0]
    if kind == INT32:
        return (<const int32_t*>at)[0]
    return (<const uint8_t*>at)[0]


cdef inline int64_t as_integer(const char* at, int kind) noexcept nogil:
    if kind == INT64:
        return (<const int64_t*>at)[0]
    if kind == INT32:
        return (<const int32_t*>at)[0]
    return (<const uint8_t*>at)[0]


cdef int cast(
    const Register* source, int kind, char* to, int target, Py_ssize_t rows
) noexcept nogil:
    """Converts a column as `astype` does. Returns DONE, or GIVE_UP where pandas would raise or the
    result depends on the processor."""
    cdef Py_ssize_t row
    cdef const char* at = source.at
    cdef double number
    cdef int64_t integer
    for row in range(rows):
        if target == FLOAT64:
            (<double*>to)[row] = as_double(at, kind)
        elif target == FLOAT32:
            if kind == INT64:
                (<float*>to)[row] = <float>(<const int64_t*>at)[0]
            elif kind == INT32:
                (<float*>to)[row] = <float>(<const int32_t*>at)[0]
            else:
                number = as_double(at, kind)
                if isfinite(number) and (number > 3.4e38 or number < -3.4e38):
                    return GIVE_UP
                (<float*>to)[row] = <float>number
        elif target == BOOL:
            if kind == FLOAT64 or kind == FLOAT32:
                (<uint8_t*>to)[row] = as_double(at, kind) != 0
            else:
                (<uint8_t*>to)[row] = as_integer(at, kind) != 0
        else:
            if kind == FLOAT64 or kind == FLOAT32:
                number = as_double(at, kind)
                if not (number > -9223372036854775808.0 and number < 9223372036854775808.0):
                    return GIVE_UP
                if target == INT32 and not (number > -2147483649.0 and number < 2147483648.0):
                    return GIVE_UP
                integer = <int64_t>number
            else:
                integer = as_integer(at, kind)
            if target == INT64:
                (<int64_t*>to)[row] = integer
            else:
                (<int32_t*>to)[row] = <int32_t><uint32_t><uint64_t>integer
        at += source.stride
    return DONE


cdef void select(
    const Register* condition, const Register* yes, const Register* no, char* to, int kind,
    Py_ssize_t rows,
) noexcept nogil:
    cdef Py_ssize_t row
    cdef int width = WIDTHS[kind]
    cdef const char* at
    for row in range(rows):
        if condition.at[row * condition.stride]:
            at = yes.at + row * yes.stride
        else:
            at = no.at + row * no.stride
        if width == 8:
            (<int64_t*>to)[row] = (<const int64_t*>at)[0]
        else:
            memcpy(to + row * width, at, width)


cdef void missing(const Register* source, int kind, uint8_t* to, Py_ssize_t rows) noexcept nogil:
    cdef Py_ssize_t row
    cdef const char* at = source.at
    for row in range(rows):
        if kind == FLOAT64:
            to[row] = isnan((<const double*>at)[0])
        elif kind == FLOAT32:
            to[row] = isnan(<double>(<const float*>at)[0])
        elif kind == TIME:
            to[row] = (<const int64_t*>at)[0] == INT64_MIN
        elif kind == TEXT:
            to[row] = (<const Text*>at).at == NULL
        else:
            to[row] = 0
        at += source.stride


cdef inline bint same_text(const Text* a, const Text* b) noexcept nogil:
    return a.size == b.size and memcmp(a.at, b.at, a.size) == 0


cdef inline int order_text(const Text* a, const Text* b) noexcept nogil:
    if a.size != b.size:
        return -1 if a.size < b.size else 1
    return memcmp(a.at, b.at, a.size)


cdef void text_equal(
    const Register* a, const Register* b, bint unequal, uint8_t* to, Py_ssize_t rows
) noexcept nogil:
    cdef Py_ssize_t row
    cdef const Text* x
    cdef const Text* y
    for row in range(rows):
        x = <const Text*>(a.at + row * a.stride)
        y = <const Text*>(b.at + row * b.stride)
        to[row] = (x.at != NULL and y.at != NULL and same_text(x, y)) != unequal


cdef void find(
    const Register* source, int kind, const void* table, uint32_t size, int64_t* to,
    Py_ssize_t rows,
) noexcept nogil:
    """Looks each value up among sorted keys; a text's null and a number's NaN are not found."""
    cdef Py_ssize_t row
    cdef uint32_t low, high, middle
    cdef const char* at = source.at
    cdef const Text* texts = <const Text*>table
    cdef const int64_t* integers = <const int64_t*>table
    cdef const double* numbers = <const double*>table
    cdef int order
    for row in range(rows):
        to[row] = -1
        low = 0
        high = size
        if kind == TEXT and (<const Text*>at).at == NULL:
            high = 0
        while low < high:
            middle = (low + high) // 2
            if kind == TEXT:
                order = order_text(&texts[middle], <const Text*>at)
            elif kind == INT64:
                order = (integers[middle] > (<const int64_t*>at)[0]) - (
                    integers[middle] < (<const int64_t*>at)[0]
                )
            else:
                order = (numbers[middle] > (<const double*>at)[0]) - (
                    numbers[middle] < (<const double*>at)[0]
                )
                if order == 0 and isnan((<const double*>at)[0]):
                    break
            if order == 0:
                to[row] = middle
                break
            if order < 0:
                low = middle + 1
            else:
                high = middle
        at += source.stride


cdef void take(
    const Register* places, const char* table, uint32_t size, int kind, char* to, Py_ssize_t rows
) noexcept nogil:
    cdef Py_ssize_t row
    cdef int64_t place
    cdef int width = WIDTHS[kind]
    for row in range(rows):
        place = (<const int64_t*>(places.at + row * places.stride))[0]
        if place < 0:
            place = size - 1
        memcpy(to + row * width, table + place * width, width)


cdef inline int64_t floor_divide(int64_t a, int64_t b) noexcept nogil:
    """Toward minus infinity; `b` is positive."""
    return a // b if a >= 0 else -((-(a + 1)) // b) - 1


cdef void date_field(
    const Register* source, int field, int64_t ticks, char* to, Py_ssize_t rows
) noexcept nogil:
    """Reads a field of times; the caller has checked that there is no NaT."""
    cdef Py_ssize_t row
    cdef int64_t time, days, seconds, year, era, of_era, of_year, shifted, month, day, leap
    cdef int64_t value
    for row in range(rows):
        time = (<const int64_t*>(source.at + row * source.stride))[0]
        seconds = floor_divide(time, ticks)
        days = floor_divide(seconds, DAY_SECONDS)
        seconds -= days * DAY_SECONDS
        if field == DAYS:
            (<int64_t*>to)[row] = days
            continue
        value = 0
        if field == HOUR:
            value = seconds // 3600
        elif field == MINUTE:
            value = seconds // 60 % 60
        elif field == SECOND:
            value = seconds % 60
        elif field == SECONDS:
            value = seconds
        elif field == DAY_OF_WEEK:
            # 1970-01-01 was a Thursday.
            value = days + 3 - floor_divide(days + 3, 7) * 7
        else:
            # Years from March on, in eras of 400 years.
            shifted = days + 719468
            era = floor_divide(shifted, 146097)
            of_era = shifted - era * 146097
            year = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
            of_year = of_era - (365 * year + year // 4 - year // 100)
            month = (5 * of_year + 2) // 153
            day = of_year - (153 * month + 2) // 5 + 1
            month = month + 3 if month < 10 else month - 9
            year += era * 400 + (month <= 2)
            if field == YEAR:
                value = year
            elif field == MONTH:
                value = month
            elif field == DAY:
                value = day
            elif field == QUARTER:
                value = (month - 1) // 3 + 1
            else:
                leap = (year % 4 == 0 and year % 100 != 0) or year % 400 == 0
                value = of_year - 305 if month <= 2 else of_year + 60 + leap
        (<int32_t*>to)[row] = <int32_t>value


cdef void text_length(const Register* source, int64_t* to, Py_ssize_t rows) noexcept nogil:
    cdef Py_ssize_t row
    cdef const Text* text
    cdef size_t i
    for row in range(rows):
        text = <const Text*>(source.at + row * source.stride)
        to[row] = 0
        for i in range(text.size):
            to[row] += (text.at[i] & 0xC0) != 0x80


cdef bint contains(const Text* text, const Text* pattern) noexcept nogil:
    cdef const uint8_t* at = text.at
    cdef size_t rest = text.size
    cdef const uint8_t* found
    if pattern.size == 0:
        return True
    while rest >= pattern.size:
        found = <const uint8_t*>memchr(at, pattern.at[0], rest - pattern.size + 1)
        if found == NULL:
            return False
        if memcmp(found, pattern.at, pattern.size) == 0:
            return True
        rest -= <size_t>(found - at) + 1
        at = found + 1
    return False


cdef void text_find(
    const Register* source, int how, const Text* pattern, uint8_t* to, Py_ssize_t rows
) noexcept nogil:
    """A null is taken for an empty text; the compiler has seen to nulls."""
    cdef Py_ssize_t row
    cdef const Text* text
    for row in range(rows):
        text = <const Text*>(source.at + row * source.stride)
        if text.at == NULL or text.size < pattern.size:
            to[row] = 0
        elif how == 0:
            to[row] = memcmp(text.at, pattern.at, pattern.size) == 0
        elif how == 1:
            to[row] = memcmp(
                text.at + text.size - pattern.size, pattern.at, pattern.size
            ) == 0
        else:
            to[row] = contains(text, pattern)


cdef int text_case(
    const Register* source, bint upper, Text* to, void** memory, Py_ssize_t rows
) noexcept nogil:
    """Changes the case of ASCII texts into `memory`, which is the caller's to free."""
    cdef Py_ssize_t row
    cdef const Text* text
    cdef size_t total = 0, i
    cdef uint8_t* at
    cdef uint8_t byte
    for row in range(rows):
        total += (<const Text*>(source.at + row * source.stride)).size
    memory[0] = malloc(total + 1)
    if memory[0] == NULL:
        return NO_MEMORY
    at = <uint8_t*>memory[0]
    for row in range(rows):
        text = <const Text*>(source.at + row * source.stride)
        to[row].size = text.size
        to[row].at = at if text.at != NULL else NULL
        for i in range(text.size):
            byte = text.at[i]
            if byte >= 0x80:
                return GIVE_UP
            if upper and 97 <= byte <= 122:
                byte -= 32
            elif not upper and 65 <= byte <= 90:
                byte += 32
            at[0] = byte
            at += 1
    return DONE


cdef int multiply_time(
    const Register* source, int64_t factor, int64_t* to, Py_ssize_t rows
) noexcept nogil:
    cdef Py_ssize_t row
    cdef int64_t value
    for row in range(rows):
        value = (<const int64_t*>(source.at + row * source.stride))[0]
        if value == INT64_MIN:
            to[row] = INT64_MIN
        elif wide_multiply(value, factor, &to[row]) or to[row] == INT64_MIN:
            return GIVE_UP
    return DONE


cdef class Program:
    """One typed program; see `hotfeast.server.lowering`, which makes them."""

    def __cinit__(self, definition):
        """
        Args:
            definition: A `ProgramDefinition`.
        """
        cdef Instruction* instruction
        cdef cnp.ufunc ufunc
        cdef uint32_t i
        self.definition = definition
        self.owned = []
        self.register_count = len(definition.kinds)
        self.instruction_count = len(definition.instructions)
        self.output_count = len(definition.outputs)
        self.kinds = <uint8_t*>calloc(self.register_count + 1, 1)
        self.constants = <char**>calloc(self.register_count + 1, sizeof(char*))
        self.instructions = <Instruction*>calloc(
            self.instruction_count + 1, sizeof(Instruction)
        )
        self.outputs = <Output*>calloc(self.output_count + 1, sizeof(Output))
        if not (self.kinds and self.constants and self.instructions and self.outputs):
            raise MemoryError
        for i, kind in enumerate(definition.kinds):
            self.kinds[i] = kind
        for register, value in definition.constants.items():
            self.constants[<uint32_t>register] = self.pack([value], self.kinds[<uint32_t>register])
        for i, step in enumerate(definition.instructions):
            instruction = &self.instructions[i]
            instruction.op = step.op
            instruction.target = step.target
            for place, source in enumerate(step.sources):
                instruction.sources[<int>place] = source
            if step.sources:
                instruction.kind = self.kinds[<uint32_t>step.sources[0]]
            instruction.param = step.param
            if step.op == LOOP:
                ufunc = step.extra[0]
                self.owned.append(ufunc)
                instruction.loop = <Loop><void*>ufunc.functions[<int>step.extra[1]]
                instruction.data = ufunc.data[<int>step.extra[1]] if ufunc.data else NULL
            elif step.op == LOAD:
                instruction.kind = step.extra
            elif step.op == CAST and instruction.kind == TIME:
                instruction.kind = INT64
            elif step.op == FIND:
                instruction.table = self.pack(step.extra, instruction.kind)
                instruction.table_size = len(step.extra)
            elif step.op == TAKE:
                instruction.table = self.pack(
                    step.extra, self.kinds[<uint32_t>step.target]
                )
                instruction.table_size = len(step.extra)
            elif step.op == TEXT_FIND:
                instruction.table = self.pack([step.extra], TEXT)
        for i, output in enumerate(definition.outputs):
            self.outputs[i].register_ = output.register
            self.outputs[i].kind = self.kinds[<uint32_t>output.register]
            self.outputs[i].value_type = output.value_type

    def __dealloc__(self):
        free(self.kinds)
        free(self.constants)
        free(self.instructions)
        free(self.outputs)

    cdef char* pack(self, values, int kind) except NULL:
        """Constants as C values, in memory that lives as long as the program."""
        cdef bytes memory = PyBytes_FromStringAndSize(NULL, len(values) * WIDTHS[kind] + 16)
        cdef char* at = PyBytes_AS_STRING(memory)
        cdef Text* text
        cdef bytes data
        at += (16 - <size_t>at % 16) % 16
        self.owned.append(memory)
        first = <size_t>at
        for value in values:
            if kind == BOOL:
                (<uint8_t*>at)[0] = bool(value)
            elif kind == INT32:
                (<int32_t*>at)[0] = value
            elif kind == INT64 or kind == TIME:
                (<int64_t*>at)[0] = value
            elif kind == FLOAT32:
                (<float*>at)[0] = value
            elif kind == FLOAT64:
                (<double*>at)[0] = value
            else:
                text = <Text*>at
                text.at = NULL
                text.size = 0
                if value is not None:
                    data = value.encode()
                    self.owned.append(data)
                    text.at = <const uint8_t*>PyBytes_AS_STRING(data)
                    text.size = len(data)
            at += WIDTHS[kind]
        return <char*>first

    cdef int run(
        self, const Cursor* const* columns, Py_ssize_t rows, Register* registers, void** texts
    ) noexcept nogil:
        """Runs over `rows` > 0 rows. Returns DONE, GIVE_UP, NO_MEMORY, or the number of the program
        to run instead.

        Args:
            columns: The inputs' values.
            registers: With their memory, all strides set.
            texts: For each instruction the memory of texts that it made; the caller frees it.
        """
        cdef Instruction* step
        cdef Register* target
        cdef Register* a
        cdef Register* b
        cdef char* args[3]
        cdef ptrdiff_t strides[3]
        cdef ptrdiff_t dimension = rows
        cdef Py_ssize_t row
        cdef uint32_t i
        cdef int outcome
        for i in range(self.instruction_count):
            step = &self.instructions[i]
            target = &registers[step.target]
            a = &registers[step.sources[0]]
            b = &registers[step.sources[1]]
            outcome = DONE
            if step.op == LOOP:
                args[0] = a.at
                strides[0] = a.stride
                args[1] = target.at
                strides[1] = target.stride
                if step.param == 2:
                    args[1] = b.at
                    strides[1] = b.stride
                    args[2] = target.at
                    strides[2] = target.stride
                step.loop(args, &dimension, strides, step.data)
            elif step.op == LOAD:
                load(columns[step.param], rows, step.kind, self.kinds[step.target], target.at)
            elif step.op == LOAD_MISSING:
                for row in range(rows):
                    target.at[row] = columns[step.param][row].at == columns[step.param][row].end
            elif step.op == CAST:
                outcome = cast(a, step.kind, target.at, self.kinds[step.target], rows)
            elif step.op == SELECT:
                select(
                    a, b, &registers[step.sources[2]], target.at, self.kinds[step.target], rows
                )
            elif step.op == MISSING:
                missing(a, step.kind, <uint8_t*>target.at, rows)
            elif step.op == TEXT_EQUAL:
                text_equal(a, b, step.param != 0, <uint8_t*>target.at, rows)
            elif step.op == FIND:
                find(a, step.kind, step.table, step.table_size, <int64_t*>target.at, rows)
            elif step.op == TAKE:
                take(
                    a, <const char*>step.table, step.table_size, self.kinds[step.target],
                    target.at, rows,
                )
            elif step.op == DATE_FIELD:
                date_field(
                    a, <int>(step.param & ((1 << FIELD_BITS) - 1)), step.param >> FIELD_BITS,
                    target.at, rows,
                )
            elif step.op == TEXT_LENGTH:
                text_length(a, <int64_t*>target.at, rows)
            elif step.op == TEXT_FIND:
                text_find(
                    a, <int>step.param, <const Text*>step.table, <uint8_t*>target.at, rows
                )
            elif step.op == TEXT_CASE:
                outcome = text_case(a, step.param != 0, <Text*>target.at, &texts[i], rows)
            elif step.op == UNLESS:
                for row in range(rows):
                    if a.at[row * a.stride]:
                        outcome = <int>step.param
                        break
            elif step.op == MULTIPLY_TIME:
                outcome = multiply_time(a, step.param, <int64_t*>target.at, rows)
            if outcome != DONE:
                return outcome
        return DONE


# ---- encoding

cdef Py_ssize_t value_size(const Output* output, const char* at) noexcept nogil:
    """Bytes of a result as a serialized `Value`, 0 for a null, or GIVE_UP."""
    cdef double number
    cdef int64_t integer
    cdef const Text* text
    if output.kind == TEXT:
        text = <const Text*>at
        return 0 if text.at == NULL else <Py_ssize_t>(1 + varint_size(text.size) + text.size)
    if output.kind == FLOAT64 or output.kind == FLOAT32:
        number = as_double(at, output.kind)
        if isnan(number):
            return 0
        if output.value_type == DOUBLE_VAL:
            return 9
        if output.value_type == FLOAT_VAL:
            if isfinite(number) and (number > 3.4e38 or number < -3.4e38):
                return GIVE_UP
            return 5
        if not (number > -9223372036854775808.0 and number < 9223372036854775808.0):
            return GIVE_UP
        integer = <int64_t>number
    elif output.value_type == DOUBLE_VAL:
        return 9
    elif output.value_type == FLOAT_VAL:
        return 5
    elif output.value_type == BOOL_VAL:
        return 2
    else:
        integer = as_integer(at, output.kind)
    if output.value_type == INT32_VAL and not -2147483648 <= integer <= 2147483647:
        return GIVE_UP
    return 1 + varint_size(<uint64_t>integer)


cdef uint8_t* put_value(uint8_t* to, const Output* output, const char* at) noexcept nogil:
    """Writes a result that is no null."""
    cdef double number
    cdef float single
    cdef int64_t integer
    cdef const Text* text
    if output.kind == TEXT:
        text = <const Text*>at
        to[0] = STRING_VAL << 3 | WIRE_LEN
        to = put_varint(to + 1, text.size)
        memcpy(to, text.at, text.size)
        return to + text.size
    if output.value_type == DOUBLE_VAL:
        number = as_double(at, output.kind)
        to[0] = DOUBLE_VAL << 3 | WIRE_FIXED64
        memcpy(to + 1, &number, 8)
        return to + 9
    if output.value_type == FLOAT_VAL:
        single = <float>as_double(at, output.kind)
        to[0] = FLOAT_VAL << 3 | WIRE_FIXED32
        memcpy(to + 1, &single, 4)
        return to + 5
    if output.value_type == BOOL_VAL:
        to[0] = BOOL_VAL << 3
        to[1] = (<const uint8_t*>at)[0]
        return to + 2
    if output.kind == FLOAT64 or output.kind == FLOAT32:
        integer = <int64_t>as_double(at, output.kind)
    else:
        integer = as_integer(at, output.kind)
    to[0] = <uint8_t>(output.value_type << 3)
    return put_varint(to + 1, <uint64_t>integer)


cdef Py_ssize_t column_size(
    const Output* output, const Register* register, Py_ssize_t rows
) noexcept nogil:
    """Bytes of a result's values with tags and lengths, or GIVE_UP."""
    cdef Py_ssize_t row, size, total = 0
    for row in range(rows):
        size = value_size(output, register.at + row * register.stride)
        if size < 0:
            return GIVE_UP
        total += 1 + varint_size(<uint64_t>size) + size
    return total


cdef uint8_t* put_column(
    uint8_t* to, const Output* output, const Register* register, Py_ssize_t rows,
    Py_ssize_t values, bint strict,
) noexcept nogil:
    """Writes a result as one more of a response's columns."""
    cdef Py_ssize_t row, size, _
    cdef uint8_t* statuses
    to[0] = TAG_RESULTS
    to = put_varint(to + 1, vector_size(values, rows))
    statuses = to + values
    statuses[0] = TAG_STATUSES
    statuses = put_varint(statuses + 1, <uint64_t>rows)
    for row in range(rows):
        size = value_size(output, register.at + row * register.stride)
        to[0] = TAG_VALUE
        to = put_varint(to + 1, <uint64_t>size)
        statuses[row] = PRESENT
        if size > 0:
            to = put_value(to, output, register.at + row * register.stride)
        elif strict:
            statuses[row] = NULL_VALUE
    to = statuses + rows
    for _ in range(rows):
        to[0] = TAG_TIME
        to[1] = 0
        to += 2
    return to


cdef size_t vector_size(Py_ssize_t values, Py_ssize_t rows) noexcept nogil:
    return <size_t>(values + 1 + varint_size(<uint64_t>rows) + rows + 2 * rows)


cdef class Kernel:
    """The programs of one transform."""

    def __cinit__(self, inputs, programs, by_states):
        """
        Args:
            inputs: For each input its name and Kind.
            programs: What can be run; their checks go by places in this list, -2 gives up.
            by_states: For the State of every input, one byte each, the program to begin with.
        """
        cdef uint32_t i
        self.inputs = tuple(inputs)
        self.programs = [Program(p) for p in programs]
        self.by_states = dict(by_states)
        self.input_count = len(self.inputs)
        self.kinds = <uint8_t*>calloc(self.input_count + 1, 1)
        if self.kinds == NULL:
            raise MemoryError
        for i, (_, kind) in enumerate(self.inputs):
            self.kinds[i] = kind

    def __dealloc__(self):
        free(self.kinds)

    @property
    def case_count(self) -> int:
        """The number of programs."""
        return len(self.programs)

    cdef bytes run(self, const Cursor* const* columns, Py_ssize_t rows, bint strict):
        """The results as fields of a response, in the order of the programs' outputs; None where
        this data is to be left to pandas."""
        cdef uint8_t states[256]
        cdef uint32_t i
        cdef int outcome = 0
        cdef int state
        if rows <= 0 or self.input_count > 256:
            return None
        for i in range(self.input_count):
            state = column_state(columns[i], rows, self.kinds[i])
            if state < 0:
                return None
            states[i] = <uint8_t>state
        begin = self.by_states.get((<char*>states)[: self.input_count])
        if begin is None:
            return None
        outcome = begin
        while outcome >= 0:
            self.last_program = outcome
            results = self.run_program(
                <Program>self.programs[outcome], columns, rows, strict, &outcome
            )
        return results

    cdef bytes run_program(
        self, Program program, const Cursor* const* columns, Py_ssize_t rows, bint strict,
        int* outcome,
    ):
        cdef size_t total = LINE, width, heads
        cdef uint32_t i
        cdef char* memory
        cdef char* at
        cdef Register* registers
        cdef void** texts
        cdef Py_ssize_t* sizes
        cdef uint8_t* to
        cdef bint large = rows >= RELEASE_FROM
        heads = (
            program.register_count * sizeof(Register)
            + program.instruction_count * sizeof(void*)
            + program.output_count * sizeof(Py_ssize_t)
        )
        for i in range(program.register_count):
            if program.constants[i] == NULL:
                width = <size_t>WIDTHS[program.kinds[i]] * <size_t>rows
                total += (width + LINE - 1) // LINE * LINE
        memory = <char*>malloc(heads + total)
        if memory == NULL:
            raise MemoryError
        registers = <Register*>memory
        texts = <void**>(registers + program.register_count)
        sizes = <Py_ssize_t*>(texts + program.instruction_count)
        memset(texts, 0, program.instruction_count * sizeof(void*))
        at = memory + heads
        at += (LINE - <size_t>at % LINE) % LINE
        for i in range(program.register_count):
            if program.constants[i] != NULL:
                registers[i].at = program.constants[i]
                registers[i].stride = 0
            else:
                width = <size_t>WIDTHS[program.kinds[i]]
                registers[i].at = at
                registers[i].stride = <ptrdiff_t>width
                at += (width * <size_t>rows + LINE - 1) // LINE * LINE
        try:
            if large:
                with nogil:
                    outcome[0] = program.run(columns, rows, registers, texts)
            else:
                outcome[0] = program.run(columns, rows, registers, texts)
            if outcome[0] == NO_MEMORY:
                raise MemoryError
            if outcome[0] != DONE:
                return None
            total = 0
            for i in range(program.output_count):
                sizes[i] = column_size(
                    &program.outputs[i], &registers[program.outputs[i].register_], rows
                )
                if sizes[i] < 0:
                    outcome[0] = GIVE_UP
                    return None
                width = vector_size(sizes[i], rows)
                total += 1 + varint_size(width) + width
            results = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>total)
            to = <uint8_t*>PyBytes_AS_STRING(results)
            for i in range(program.output_count):
                to = put_column(
                    to, &program.outputs[i], &registers[program.outputs[i].register_], rows,
                    sizes[i], strict,
                )
            assert to == <uint8_t*>PyBytes_AS_STRING(results) + total
            return results
        finally:
            for i in range(program.instruction_count):
                free(texts[i])
            free(memory)

    def run_columns(self, columns, bint strict) -> bytes | None:
        """Runs over serialized values.

        Args:
            columns: For each input a list of serialized `Value`s; all lists are equally long.
            strict: Whether null results have the status NULL_VALUE.

        Returns:
            `results` fields of a `GetOnlineFeaturesResponse`; None where the data is left to
            pandas.
        """
        cdef Py_ssize_t rows, row
        cdef uint32_t i
        cdef Cursor* memory
        cdef const Cursor** starts
        cdef bytes value
        if len(columns) != self.input_count:
            raise ValueError(f"{len(columns)} columns for {self.input_count} inputs")
        rows = len(columns[0]) if columns else 0
        memory = <Cursor*>calloc(self.input_count * rows + 1, sizeof(Cursor))
        starts = <const Cursor**>calloc(self.input_count + 1, sizeof(Cursor*))
        try:
            if memory == NULL or starts == NULL:
                raise MemoryError
            for i in range(self.input_count):
                starts[i] = memory + i * rows
                if len(columns[i]) != rows:
                    raise ValueError("columns of different lengths")
                for row in range(rows):
                    value = columns[i][row]
                    memory[i * rows + row].at = <const uint8_t*>PyBytes_AS_STRING(value)
                    memory[i * rows + row].end = memory[i * rows + row].at + len(value)
            return self.run(starts, rows, strict)
        finally:
            free(memory)
            free(<void*>starts)


cdef class Computation:
    """What a plan computes with kernels, and what it sends of what it reads."""

    def __cinit__(self, Plan plan not None, kernels, request_fields, sent, computed_names):
        """
        Args:
            plan: What is read.
            kernels: For every computed view its kernel with, for every input, the
                `(view, feature)` of the plan that it is, or the name of a join key or request
                field; None for a view without a kernel.
            request_fields: Name, number in `ValueType.Enum` and Kind of all that the request
                context must have; -1 for a Kind whose values are not looked at here.
            sent: For every feature of the plan whether it is sent.
            computed_names: Names of the computed features, in the order of the views.
        """
        cdef Binding* binding
        cdef RequestField* field
        cdef uint32_t i
        self.plan = plan
        self.kernels = []
        self.owned = []
        self.field_count = len(request_fields)
        self.fields = <RequestField*>calloc(self.field_count + 1, sizeof(RequestField))
        self.binding_count = sum(len(bound[1]) for bound in kernels if bound is not None)
        self.bindings = <Binding*>calloc(self.binding_count + 1, sizeof(Binding))
        self.sent = <uint8_t*>calloc(plan.feature_count + 1, 1)
        if self.fields == NULL or self.bindings == NULL or self.sent == NULL:
            raise MemoryError
        for i, (name, value_type, kind) in enumerate(request_fields):
            field = &self.fields[i]
            field.name = self.own(name.encode())
            field.value_type = value_type
            field.kind = kind
        if len(sent) != plan.feature_count:
            raise ValueError("one flag for each feature of the plan")
        i = 0
        for bound in kernels:
            if bound is None:
                self.kernels.append(None)
                continue
            kernel, inputs = bound
            if len(inputs) != (<Kernel?>kernel).input_count:
                raise ValueError("one binding for each input of the kernel")
            self.kernels.append(kernel)
            for source in inputs:
                binding = &self.bindings[i]
                if isinstance(source, str):
                    binding.view = -1
                    binding.name = self.own(source.encode())
                else:
                    binding.view, binding.feature = source
                    if binding.view < 0 or binding.view >= <int>plan.view_count:
                        raise ValueError("a binding to a view that is not read")
                    if binding.feature >= plan.views[binding.view].feature_count:
                        raise ValueError("a binding to a feature that is not read")
                i += 1
        names = []
        for i, (flag, name) in enumerate(
            zip(
                sent,
                (f.output_name for v in plan.definition.views for f in v.features),
                strict=True,
            )
        ):
            self.sent[i] = bool(flag)
            if flag:
                names.append(name)
        message = bytearray()
        for name in [*names, *computed_names]:
            encoded = name.encode()
            message += bytes([TAG_NAMES]) + encode_varint(len(encoded)) + encoded
        self.names = self.own(bytes(message))

    def __dealloc__(self):
        free(self.fields)
        free(self.bindings)
        free(self.sent)

    cdef Cursor own(self, bytes data):
        cdef Cursor cursor
        self.owned.append(data)
        cursor.at = <const uint8_t*>PyBytes_AS_STRING(data)
        cursor.end = cursor.at + len(data)
        return cursor

    cdef list compute(self, Batch batch, Reply reply, bint strict):
        """The computed features of each view as fields of the response; None for a view that
        Python has to compute, and instead of the list where that is all of them.

        The rows of the reply have been judged: spans that must not be sent are empty.
        """
        cdef Py_ssize_t rows = batch.rows
        cdef Cursor* memory
        cdef const Cursor** starts
        cdef uint32_t i
        if rows == 0 or batch.request.context_count != self.field_count:
            return None
        for i in range(self.field_count):
            if not is_as_declared(batch, &self.fields[i]):
                return None
        memory = <Cursor*>malloc((self.binding_count * <size_t>rows + 1) * sizeof(Cursor))
        starts = <const Cursor**>malloc((self.binding_count + 1) * sizeof(Cursor*))
        try:
            if memory == NULL or starts == NULL:
                raise MemoryError
            for i in range(self.binding_count):
                starts[i] = memory + i * rows
                if not gather(batch, reply, &self.bindings[i], memory + i * rows):
                    return None
            parts = []
            i = 0
            for kernel in self.kernels:
                if kernel is None:
                    parts.append(None)
                    continue
                parts.append((<Kernel>kernel).run(starts + i, rows, strict))
                i += (<Kernel>kernel).input_count
            return parts
        finally:
            free(memory)
            free(<void*>starts)


cdef bint is_as_declared(Batch batch, const RequestField* field) noexcept nogil:
    """Whether the request context has a field, with a value of its type, or null, in each row.

    What can be converted, and what has to be refused, is left to Python; but an integer may have
    either size where it fits the declared one, and a floating-point number, too.
    """
    cdef RequestColumn* column
    cdef Cursor c, span
    cdef Text text
    cdef uint32_t tag_field = 0, wire = 0, i, _
    cdef int64_t number = 0
    cdef int found
    for i in range(batch.request.context_count):
        column = &batch.request.columns[batch.request.entity_count + i]
        if left(&column.name) != left(&field.name):
            continue
        if memcmp(column.name.at, field.name.at, left(&field.name)) != 0:
            continue
        if column.rows != batch.rows:
            return False
        if field.kind < 0:
            return True
        c = column.values
        for _ in range(batch.rows):
            if read_tag(&c, &tag_field, &wire) != 0 or read_span(&c, &span) != 0:
                return False
            found = scan_value(&span, field.kind, &number, &text)
            if found == GIVE_UP:
                return False
            if found and field.value_type == INT32_VAL and number != <int32_t>number:
                return False
        return True
    return False


cdef bint gather(
    Batch batch, Reply reply, const Binding* binding, Cursor* to
) noexcept nogil:
    """Finds an input's values. Returns whether they are all there."""
    cdef uint32_t row, i
    cdef size_t base
    cdef Span* span
    cdef RequestColumn* column
    cdef Cursor c
    cdef uint32_t field = 0, wire = 0, count
    if binding.view >= 0:
        view = &batch.plan.views[binding.view]
        recipe = &batch.plan.recipes[view.recipe]
        lookup = &batch.lookups[view.recipe]
        for row in range(batch.rows):
            base = lookup.first_span + <size_t>lookup.entity_of_row[row] * recipe.field_count
            span = &reply.spans[base + view.first_field + binding.feature]
            to[row].at = reply.buffer + span.at
            to[row].end = to[row].at + (span.size if span.size > 0 else 0)
        return True
    count = batch.request.entity_count + batch.request.context_count
    for i in range(count):
        column = &batch.request.columns[i]
        if left(&column.name) != left(&binding.name):
            continue
        if memcmp(column.name.at, binding.name.at, left(&binding.name)) != 0:
            continue
        if column.rows != batch.rows:
            return False
        c = column.values
        for row in range(batch.rows):
            if read_tag(&c, &field, &wire) != 0 or read_span(&c, &to[row]) != 0:
                return False
        return True
    return False


def encode_varint(uint64_t number) -> bytes:
    """A number as protobuf writes it."""
    cdef uint8_t room[10]
    return (<char*>room)[: put_varint(room, number) - room]
