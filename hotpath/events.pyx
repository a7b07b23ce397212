"""Events of one windowed view to Redis commands: a script counts each entity's in its tiles.

A call has one key, so that it runs on a cluster, and up to MOST_EVENTS events of it, by time.
Events are told apart by the hashes of their ids, so that one which is sent again is counted once.
"""

import hashlib

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memcmp, memcpy, memset
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from hotfeast.hotpath.columns cimport ValueColumn
from hotfeast.hotpath.tiles cimport hash_bytes
from hotfeast.hotpath.values cimport (
    BYTES_VAL,
    DOUBLE_VAL,
    FLOAT_VAL,
    INT32_VAL,
    INT64_VAL,
    STRING_VAL,
    UNIX_TIMESTAMP_VAL,
)
from hotfeast.hotpath.wire cimport (
    WIRE_LEN,
    WIRE_VARINT,
    Cursor,
    decimal_size,
    left,
    put_cursor,
    put_decimal,
    put_u32,
    read_span,
    read_tag,
    read_varint,
    skip_field,
)
from hotfeast.hotpath.writes cimport PENDING, PORTION_BYTES, REJECTED

from hotfeast.hotpath.scripts import load_script

COUNT_SCRIPT = load_script("count_events.lua")
"""The script that counts events, as SCRIPT LOAD wants it."""

cdef char SHA[40]
memcpy(SHA, PyBytes_AS_STRING(hashlib.sha1(COUNT_SCRIPT).hexdigest().encode()), 40)

cdef enum:
    # Events of one call at most: Redis serves nobody else meanwhile.
    MOST_EVENTS = 64
    # Forms of inputs, as `tile_layout` numbers them.
    PRESENCE = 0
    INTEGER = 1
    REAL = 2
    HASH = 3
    TEXT = 4
    MICROSECONDS = 1000000
    # Bytes of `$` and a length and two line ends at most, around a bulk string.
    BULK_ROOM = 24


cdef class EventPlan(WritePlan):
    """How events of one view are counted. Immutable, shared by all threads."""

    def __cinit__(self, definition not None):
        cdef uint32_t i
        layout = definition.tiles
        if layout is None:
            raise ValueError("the definition has no tiles")
        names = [feature.name for feature in definition.features]
        self.input_count = len(layout.inputs)
        self.event_size = layout.event_size
        self.shape = self.own(layout.for_script())
        self.inputs = <EventInput*>calloc(self.input_count + 1, sizeof(EventInput))
        if self.inputs == NULL:
            raise MemoryError
        for i, each in enumerate(layout.inputs):
            self.inputs[i].column = names.index(each.column)
            self.inputs[i].form = each.form
            self.inputs[i].value_type = each.value_type
            self.has_texts = self.has_texts or each.form == TEXT

    def __dealloc__(self):
        free(self.inputs)


cdef struct Number:
    uint64_t whole
    double real
    Cursor text


cdef int read_value(Cursor c, uint32_t wanted, Number* out) noexcept nogil:
    """Reads a serialized `Value` of one type; of several members the last counts. Returns 0, or -1
    where it has none."""
    cdef uint32_t field = 0, wire = 0
    cdef uint64_t number = 0
    cdef float single
    cdef int found = -1
    while c.at < c.end:
        if read_tag(&c, &field, &wire) != 0:
            return -1
        if field != wanted:
            if skip_field(&c, field, wire, 0) != 0:
                return -1
        elif wire == WIRE_LEN:
            if read_span(&c, &out.text) != 0:
                return -1
            found = 0
        elif wire == WIRE_VARINT:
            if read_varint(&c, &number) != 0:
                return -1
            out.whole = <uint64_t><int64_t><int32_t>number if wanted == INT32_VAL else number
            found = 0
        elif wanted == DOUBLE_VAL and left(&c) >= 8:
            memcpy(&out.real, c.at, 8)
            c.at += 8
            found = 0
        elif wanted == FLOAT_VAL and left(&c) >= 4:
            memcpy(&single, c.at, 4)
            out.real = single
            c.at += 4
            found = 0
        else:
            return -1
    return found


cdef uint64_t hash_value(const Number* value, uint32_t value_type) noexcept nogil:
    """A hash of a value of its type."""
    cdef uint8_t word[8]
    cdef uint64_t bits = value.whole
    cdef double real
    if value_type == STRING_VAL or value_type == BYTES_VAL:
        return hash_bytes(value.text.at, left(&value.text), value_type)
    if value_type == DOUBLE_VAL or value_type == FLOAT_VAL:
        # Of the two zeros one.
        real = value.real + 0.0
        memcpy(&bits, &real, 8)
    put_u32(put_u32(word, <uint32_t>bits), <uint32_t>(bits >> 32))
    return hash_bytes(word, 8, INT64_VAL if value_type == INT32_VAL else value_type)


cdef inline uint8_t* put_u64(uint8_t* at, uint64_t value) noexcept nogil:
    return put_u32(put_u32(at, <uint32_t>value), <uint32_t>(value >> 32))


def hash_column(ValueColumn column not None) -> list[int | None]:
    """The hashes that the distinct values of a column are told apart by; None for null."""
    cdef Number value
    cdef uint32_t row
    hashes = []
    for row in range(column.rows):
        if read_value(column.cells[row], column.value_type, &value) == 0:
            hashes.append(hash_value(&value, column.value_type) & 0xFFFFFFFF)
        else:
            hashes.append(None)
    return hashes


cdef int compare_places(const void* a, const void* b) noexcept nogil:
    cdef const Place* first = <const Place*>a
    cdef const Place* second = <const Place*>b
    if first.key_hash != second.key_hash:
        return -1 if first.key_hash < second.key_hash else 1
    if first.time != second.time:
        return -1 if first.time < second.time else 1
    return -1 if first.row < second.row else 1


cdef inline uint8_t* put_head(uint8_t* at, uint8_t kind, size_t value) noexcept nogil:
    """Writes `*value` or `$value` and a line end."""
    at[0] = kind
    at = put_decimal(at + 1, value)
    at[0] = 13
    at[1] = 10
    return at + 2


cdef class EventBatch(WriteBatch):
    """Events of one view, ready to be sent. One thread at a time may use it.

    Its outcome for an event is `duplicate` where it had been counted before, and `stale` where it
    is too late: older than the newest of its entity by more than the view's lateness, or of a time
    that was filled in.
    """

    def __cinit__(self, EventPlan plan not None, *args, **kwargs):
        """
        Args:
            plan: How events are counted.
            args, kwargs: As of `WriteBatch`; there are no created times.
        """
        cdef uint32_t row
        cdef const Cursor* id_
        for row in range(self.rows):
            id_ = &self.features[plan.feature_count - 1][row]
            # Without an id, a single value, it could not be told from itself.
            if left(id_) == 0 or not BYTES_VAL <= id_.at[0] >> 3 <= UNIX_TIMESTAMP_VAL:
                self.states[row] = REJECTED
            elif self.seconds[row] <= 0:
                self.states[row] = REJECTED

    def __dealloc__(self):
        free(self.sequence)
        free(self.keys_made)

    @property
    def script(self) -> bytes:
        """The script that the events go through, as SCRIPT LOAD wants it."""
        return COUNT_SCRIPT

    cdef int make_sequence(self) noexcept nogil:
        """Puts the rows in order. Returns 0, or -1 without memory."""
        cdef uint32_t row
        cdef size_t size
        self.sequence = <Place*>malloc((<size_t>self.rows + 1) * sizeof(Place))
        if self.sequence == NULL:
            return -1
        for row in range(self.rows):
            if self.states[row] == PENDING:
                size = self.key_size(row)
                if size > self.longest_key:
                    self.longest_key = size
        self.keys_made = <uint8_t*>malloc(2 * self.longest_key + 1)
        if self.keys_made == NULL:
            return -1
        for row in range(self.rows):
            self.sequence[row].row = row
            self.sequence[row].time = self.seconds[row] * MICROSECONDS + self.nanos[row] // 1000
            self.sequence[row].key_hash = 0
            if self.states[row] == PENDING:
                size = <size_t>(self.put_key(self.keys_made, row) - self.keys_made)
                self.sequence[row].key_hash = hash_bytes(self.keys_made, size, 0)
        qsort(self.sequence, self.rows, sizeof(Place), compare_places)
        return 0

    cdef size_t texts_size(self, uint32_t row) noexcept nogil:
        """Bytes of an event's texts."""
        cdef const EventInput* each
        cdef Number value
        cdef uint32_t i
        cdef size_t size = 0
        for i in range((<EventPlan>self.plan).input_count):
            each = &(<EventPlan>self.plan).inputs[i]
            if each.form == TEXT and read_value(
                self.features[each.column][row], each.value_type, &value
            ) == 0:
                size += left(&value.text)
        return size

    cdef uint8_t* put_texts(self, uint8_t* at, uint32_t row) noexcept nogil:
        """Writes an event's texts, one behind the other."""
        cdef const EventInput* each
        cdef Number value
        cdef uint32_t i
        for i in range((<EventPlan>self.plan).input_count):
            each = &(<EventPlan>self.plan).inputs[i]
            if each.form == TEXT and read_value(
                self.features[each.column][row], each.value_type, &value
            ) == 0:
                at = put_cursor(at, &value.text)
        return at

    cdef uint8_t* put_event(self, uint8_t* at, uint32_t row, size_t* text_at) noexcept nogil:
        """Writes an event as the script reads it, but for its texts: where they are among the
        call's, `text_at` of them, stands in their place."""
        cdef const EventInput* each
        cdef Number value
        cdef uint32_t i, id_column = self.plan.feature_count - 1
        cdef uint64_t bits
        at = put_u64(at, <uint64_t>(self.seconds[row] * MICROSECONDS + self.nanos[row] // 1000))
        read_value(
            self.features[id_column][row], self.features[id_column][row].at[0] >> 3, &value
        )
        at = put_u64(at, hash_value(&value, self.features[id_column][row].at[0] >> 3))
        for i in range((<EventPlan>self.plan).input_count):
            each = &(<EventPlan>self.plan).inputs[i]
            memset(at, 0, 9)
            if read_value(self.features[each.column][row], each.value_type, &value) == 0:
                at[0] = 1
                if each.form == INTEGER:
                    put_u64(at + 1, value.whole)
                elif each.form == REAL:
                    memcpy(&bits, &value.real, 8)
                    put_u64(at + 1, bits)
                elif each.form == HASH:
                    put_u64(at + 1, hash_value(&value, each.value_type) & 0xFFFFFFFFu)
                elif each.form == TEXT:
                    put_u32(put_u32(at + 1, <uint32_t>text_at[0]), <uint32_t>left(&value.text))
                    text_at[0] += left(&value.text)
            at += 9
        return at

    cdef int put_events(self, const uint32_t* rows, uint32_t count) noexcept nogil:
        """Writes events of one entity as one script call. Returns 0, or -1 without memory."""
        cdef const Cursor* shape = &(<EventPlan>self.plan).shape
        cdef size_t key_size = self.key_size(rows[0])
        cdef size_t events_size = <size_t>count * (<EventPlan>self.plan).event_size
        cdef timespec now
        cdef size_t time, texts_size = 0, text_at = 0
        cdef uint32_t i
        cdef uint8_t* at
        if (<EventPlan>self.plan).has_texts:
            for i in range(count):
                texts_size += self.texts_size(rows[i])
        if self.make_out(
            128 + 5 * BULK_ROOM + key_size + left(shape) + events_size + texts_size
        ) != 0:
            return -1
        clock_gettime(CLOCK_REALTIME, &now)
        time = <size_t>now.tv_sec * MICROSECONDS + <size_t>now.tv_nsec // 1000
        at = self.out + self.out_size
        memcpy(at, b"*8\r\n$7\r\nEVALSHA\r\n$40\r\n", 22)
        memcpy(at + 22, SHA, 40)
        memcpy(at + 62, b"\r\n$1\r\n1\r\n", 9)
        at = self.put_key(put_head(at + 71, 36, key_size), rows[0])
        memcpy(at, b"\r\n", 2)
        at = put_cursor(put_head(at + 2, 36, left(shape)), shape)
        memcpy(at, b"\r\n", 2)
        at = put_head(at + 2, 36, decimal_size(time))
        at = put_decimal(at, time)
        memcpy(at, b"\r\n", 2)
        at = put_head(at + 2, 36, events_size)
        for i in range(count):
            at = self.put_event(at, rows[i], &text_at)
        memcpy(at, b"\r\n", 2)
        at = put_head(at + 2, 36, texts_size)
        if texts_size > 0:
            for i in range(count):
                at = self.put_texts(at, rows[i])
        memcpy(at, b"\r\n", 2)
        self.out_size = <size_t>(at + 2 - self.out)
        return 0

    cdef int fill(self) noexcept nogil:
        """Appends about a portion of commands for pending events. 0, or -1 without memory."""
        cdef size_t limit = self.out_size + PORTION_BYTES
        cdef uint32_t group[MOST_EVENTS]
        cdef uint32_t count, row, first
        cdef size_t size = 0
        cdef uint64_t key_hash
        if self.sequence == NULL and self.make_sequence() != 0:
            return -1
        while self.next_row < self.rows and self.out_size < limit:
            if not self.sends(self.sequence[self.next_row].row):
                self.next_row += 1
                continue
            if self.asking and self.announce() != 0:
                return -1
            count = 0
            key_hash = self.sequence[self.next_row].key_hash
            first = self.sequence[self.next_row].row
            size = <size_t>(self.put_key(self.keys_made, first) - self.keys_made)
            while self.next_row < self.rows and count < MOST_EVENTS:
                row = self.sequence[self.next_row].row
                if self.sends(row):
                    if self.sequence[self.next_row].key_hash != key_hash:
                        break
                    if count > 0 and not self.has_key(row, size):
                        break
                    group[count] = row
                    self.order[self.sent_rows + count] = row
                    count += 1
                self.next_row += 1
            if self.put_events(group, count) != 0:
                return -1
            self.calls[self.sent_calls] = <uint16_t>count
            self.sent_calls += 1
            self.sent_rows += count
        return 0

    cdef bint has_key(self, uint32_t row, size_t size) noexcept nogil:
        """Whether a row has the key that was made last, of this size."""
        cdef uint8_t* made = self.keys_made + self.longest_key
        if self.key_size(row) != size:
            return False
        self.put_key(made, row)
        return memcmp(made, self.keys_made, size) == 0
