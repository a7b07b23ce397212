"""Rows of one feature view to Redis commands, and Redis' replies to what became of each row.

Where event times are compared, rows go through a script that Redis runs as one step: it reads the
stored time, compares, and replaces the view's whole row. An entity is one hash and its rows in a
view are compared with nothing else. Several rows share a call, which sends the field names once.
Without comparison a row is one HSET.

What is written is up to the layout: Feast's fields, those and a packed row, or a packed row alone
(see `packed.pxd`). Views whose source has a created timestamp have one more field, `_ct:view`: the
event time it belongs to, behind its length, and the created time. It decides between rows of equal
event time, and counts only as long as the stored event time is the one it was written with, so that
a row that Feast writes with another event time is never judged by the created time of its
predecessor.
"""

import hashlib

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memmove

from hotfeast.hotpath.columns cimport FINE, TimeColumn, ValueColumn
from hotfeast.hotpath.packed cimport (
    MARK_ROOM,
    PACKED,
    PACKED_FORMAT,
    PACKED_HEAD,
    UNMARKED,
    Mark,
    put_mark,
)
from hotfeast.hotpath.slots cimport NO_NODE, SlotMap, puts_off
from hotfeast.hotpath.values cimport (
    BYTES_VAL,
    INT32_VAL,
    INT64_VAL,
    STRING_VAL,
    UNIX_TIMESTAMP_VAL,
)
from hotfeast.hotpath.wire cimport (
    Cursor,
    decimal_size,
    left,
    put_cursor,
    put_decimal,
    put_u32,
    put_varint,
    read_span,
    read_varint,
    varint_size,
)

from hotfeast.hotpath.definition import LAYOUTS, WriteDefinition, schema_number
from hotfeast.hotpath.errors import ProtocolError
from hotfeast.hotpath.plan import bulk_string, key_prefix
from hotfeast.hotpath.scripts import load_script

OUTCOMES = ("pending", "written", "stale", "rejected", "failed", "duplicate", "superseded")
"""Names of the outcomes, by number."""

KEY_TYPES = (BYTES_VAL, STRING_VAL, INT32_VAL, INT64_VAL, UNIX_TIMESTAMP_VAL)
"""Value types that a join key can have."""

SCRIPT = load_script("write_rows.lua")
"""The script that compares and writes, as SCRIPT LOAD wants it."""

SCRIPT_SHA = hashlib.sha1(SCRIPT).hexdigest().encode()
"""What EVALSHA calls the script by."""

cdef char SHA[40]
memcpy(SHA, PyBytes_AS_STRING(SCRIPT_SHA), 40)

cdef enum:
    # Bytes of a serialized Timestamp at most: two tags and two varints of 10 bytes.
    TIME_ROOM = 22
    # Bytes of `$` and a length and two line ends at most, around a bulk string.
    BULK_ROOM = 16
    # Bytes of a reply at most: an error's line, or the outcomes of one call.
    MAX_LINE = 65536
    # Bytes of `ASKING` as a command.
    ASKING_SIZE = 16


cdef class WritePlan:
    """How rows of one view are stored. Immutable, shared by all threads.

    Attributes:
        definition: What it was made from.
    """

    def __cinit__(self, definition not None: WriteDefinition):
        if list(definition.join_keys) != sorted(definition.join_keys):
            raise ValueError("join keys must be sorted by name")
        cdef int mark = LAYOUTS.index(definition.layout)
        self.mark = <Mark>mark
        self.has_features = self.mark != PACKED
        self.has_row = self.mark != UNMARKED
        if self.has_row and not definition.row_field:
            raise ValueError(f"layout {definition.layout!r} needs a field for packed rows")
        features = [f.hash_field for f in definition.features]
        names = [definition.time_field]
        # What a row of another layout has left behind, and would only take up memory.
        leftovers = []
        if self.has_features:
            names += features
        else:
            leftovers += features
        if self.has_row:
            names.append(definition.row_field)
        elif definition.row_field:
            leftovers.append(definition.row_field)
        self.definition = definition
        self.owned = []
        self.schema = schema_number(features)
        self.expires = definition.key_ttl_seconds > 0
        self.key_end = self.own(definition.project.encode("utf-8") + definition.key_suffix)
        self.key_prefix = self.own(key_prefix(tuple(name for name, _ in definition.join_keys)))
        self.key_count = len(definition.join_keys)
        self.feature_count = len(definition.features)
        self.has_created = bool(definition.created_field)
        for name, value_type in definition.join_keys:
            if value_type not in (0, *KEY_TYPES):
                raise ValueError(f"join key {name!r} has value type {value_type}: no key's")
        head = [
            b"%d" % definition.key_ttl_seconds,
            definition.created_field,
            b"%d" % len(leftovers),
            *leftovers,
            b"%d" % len(names),
        ]
        self.call_names = self.own(b"".join(map(bulk_string, head + names)))
        self.call_name_count = len(head) + len(names)
        self.value_count = len(names) + (1 if self.has_created else 0)
        self.hset_head = self.own(b"*%d\r\n$4\r\nHSET\r\n" % (2 + 2 * self.value_count))
        self.time_name = self.own(bulk_string(definition.time_field))
        self.row_name = self.own(bulk_string(definition.row_field))
        self.created_name = self.own(bulk_string(definition.created_field))
        self.feature_names = <Cursor*>calloc(self.feature_count + 1, sizeof(Cursor))
        if self.feature_names == NULL:
            raise MemoryError
        for i, name in enumerate(features):
            self.feature_names[<uint32_t>i] = self.own(bulk_string(name))

    def __dealloc__(self):
        free(self.feature_names)

    cdef Cursor own(self, bytes data):
        cdef Cursor c
        self.owned.append(data)
        c.at = <const uint8_t*>PyBytes_AS_STRING(data)
        c.end = c.at + PyBytes_GET_SIZE(data)
        return c


cdef inline uint8_t* put_line_end(uint8_t* at) noexcept nogil:
    at[0] = 13
    at[1] = 10
    return at + 2


cdef inline uint8_t* put_head(uint8_t* at, uint8_t kind, size_t value) noexcept nogil:
    """Writes `*value` or `$value` and a line end."""
    at[0] = kind
    return put_line_end(put_decimal(at + 1, value))


cdef inline uint8_t* put_bulk(uint8_t* at, const Cursor* c) noexcept nogil:
    return put_line_end(put_cursor(put_head(at, 36, left(c)), c))


cdef inline size_t packed_size(size_t size) noexcept nogil:
    """Bytes of a MessagePack string of `size` bytes."""
    if size < 32:
        return size + 1
    return size + 3 if size < 65536 else size + 5


cdef inline uint8_t* put_big_endian(uint8_t* at, uint64_t value, int size) noexcept nogil:
    cdef int i
    for i in range(size):
        at[i] = <uint8_t>(value >> (8 * (size - 1 - i)))
    return at + size


cdef inline uint8_t* put_packed_head(uint8_t* at, size_t size) noexcept nogil:
    """Writes what stands before a MessagePack string's bytes."""
    if size < 32:
        at[0] = <uint8_t>(0xA0 | size)
        return at + 1
    if size < 65536:
        at[0] = 0xDA
        return put_big_endian(at + 1, size, 2)
    at[0] = 0xDB
    return put_big_endian(at + 1, size, 4)


cdef inline size_t time_size(int64_t seconds, int32_t nanos) noexcept nogil:
    """Bytes of a serialized Timestamp, which leaves out zeros."""
    cdef size_t size = 0
    if seconds != 0:
        size += 1 + varint_size(<uint64_t>seconds)
    if nanos > 0:
        size += 1 + varint_size(<uint64_t>nanos)
    return size


cdef inline uint8_t* put_time(uint8_t* at, int64_t seconds, int32_t nanos) noexcept nogil:
    if seconds != 0:
        at[0] = 0x08
        at = put_varint(at + 1, <uint64_t>seconds)
    if nanos > 0:
        at[0] = 0x10
        at = put_varint(at + 1, <uint64_t>nanos)
    return at


cdef class WriteBatch:
    """Rows of one view, ready to be sent. One thread at a time may use it.

    Attributes:
        plan: How they are stored.
        rows: How many there are.
        check: Whether event times are compared.
        no_script: Whether Redis did not know the script at the last exchange.
        put_off: Rows that Redis did not look at in the last exchange and that are still pending,
            each with what it said: MOVED, READONLY, LOADING and the like.
    """

    def __cinit__(
        self,
        WritePlan plan not None,
        list keys not None,
        list features not None,
        TimeColumn times not None,
        TimeColumn created=None,
        bint check=True,
        uint32_t rows_per_call=MOST_ROWS_PER_CALL,
        WriteBatch whole=None,
    ):
        """
        Args:
            plan: How rows are stored.
            keys: A `ValueColumn` for each join key, in the order of the definition; none for a view
                without entities.
            features: A `ValueColumn` for each feature, in the order of the definition.
            times: The event times.
            created: The created times; needed where the definition has a created field.
            check: Whether event times are compared in Redis, so that a newer row stays.
            rows_per_call: Rows of one script call at most; 1 on a cluster, where the keys of a call
                must be of one slot.
            whole: Of a part, the batch that it is a part of; see `part`.

        Raises:
            ValueError: The columns are not those of the plan, or differ in length.
        """
        cdef uint32_t row, i
        cdef ValueColumn column
        self.plan = plan
        self.rows = times.rows
        self.check = check
        self.rows_per_call = max(1, min(rows_per_call, <uint32_t>MOST_ROWS_PER_CALL))
        self.put_off = []
        self.order = <uint32_t*>malloc((<size_t>self.rows + 1) * sizeof(uint32_t))
        self.calls = <uint16_t*>malloc((<size_t>self.rows + 1) * sizeof(uint16_t))
        if not (self.order and self.calls):
            raise MemoryError
        if whole is not None:
            self.share(whole)
            return
        # Copies: the caller's lists may change, and cells point into the columns.
        keys = [<ValueColumn?>each for each in keys]
        features = [<ValueColumn?>each for each in features]
        self.columns = [keys, features, times, created]
        if len(keys) != plan.key_count or len(features) != plan.feature_count:
            raise ValueError("the columns are not those of the plan")
        if plan.has_created != (created is not None):
            raise ValueError("created times are for views with a created field, and only for those")
        self.keys = <Cursor**>calloc(plan.key_count + 1, sizeof(Cursor*))
        self.features = <Cursor**>calloc(plan.feature_count + 1, sizeof(Cursor*))
        self.states = <uint8_t*>calloc(<size_t>self.rows + 1, 1)
        if not (self.keys and self.features and self.states):
            raise MemoryError
        for i, (column, (name, value_type)) in enumerate(
            zip(keys, plan.definition.join_keys, strict=True)
        ):
            if column.rows != self.rows:
                raise ValueError(f"column {name!r} has {column.rows} rows, not {self.rows}")
            if column.value_type not in KEY_TYPES or value_type not in (0, column.value_type):
                raise ValueError(f"join key {name!r} cannot be of value type {column.value_type}")
            self.keys[i] = column.cells
            self.reject_faults(column)
            for row in range(self.rows):
                if column.cells[row].at == column.cells[row].end:
                    self.states[row] = REJECTED
        for i, (column, feature) in enumerate(zip(features, plan.definition.features, strict=True)):
            if column.rows != self.rows:
                raise ValueError(f"column {feature.name!r} has {column.rows} rows, not {self.rows}")
            self.features[i] = column.cells
            self.reject_faults(column)
        self.seconds = times.seconds
        self.nanos = times.nanos
        for row in range(self.rows):
            if times.faults[row] != FINE or times.nanos[row] < 0:
                self.states[row] = REJECTED
        if created is not None:
            if created.rows != self.rows:
                raise ValueError(f"there are {created.rows} created times for {self.rows} rows")
            self.created_seconds = created.seconds
            self.created_nanos = created.nanos
            for row in range(self.rows):
                if created.faults[row] != FINE:
                    self.states[row] = REJECTED

    def __dealloc__(self):
        # Not by `whole`, which the garbage collector may have taken away.
        if not self.is_part:
            free(self.keys)
            free(self.features)
            free(self.states)
            free(self.by_script)
            free(self.owners)
        free(self.order)
        free(self.calls)
        free(self.out)
        free(self.pending_in)

    cdef int share(self, WriteBatch whole) except -1:
        """Makes this a part of a batch: the rows are the batch's."""
        self.whole = whole
        self.is_part = True
        self.columns = whole.columns
        self.keys, self.features = whole.keys, whole.features
        self.seconds, self.nanos = whole.seconds, whole.nanos
        self.created_seconds, self.created_nanos = whole.created_seconds, whole.created_nanos
        self.states, self.by_script = whole.states, whole.by_script
        self.owners = whole.owners
        return 0

    cdef reject_faults(self, ValueColumn column):
        cdef uint32_t row
        if column.faults != NULL:
            for row in range(self.rows):
                if column.faults[row] != FINE:
                    self.states[row] = REJECTED

    def reject(self, uint32_t row) -> None:
        """Takes a row out of what is sent, because it is invalid."""
        if row >= self.rows:
            raise IndexError(row)
        self.states[row] = REJECTED

    @property
    def outcomes(self) -> bytes:
        """The outcome of each row, as the numbers of `OUTCOMES`."""
        return PyBytes_FromStringAndSize(<const char*>self.states, self.rows)

    @property
    def script(self) -> bytes:
        """The script that the rows go through, as SCRIPT LOAD wants it."""
        return SCRIPT

    @property
    def counts(self) -> dict[str, int]:
        """How many rows have each outcome."""
        cdef uint32_t counted[SUPERSEDED + 1]
        cdef uint32_t row
        cdef int i
        for i in range(<int>SUPERSEDED + 1):
            counted[i] = 0
        for row in range(self.rows):
            counted[self.states[row]] += 1
        return {name: counted[i] for i, name in enumerate(OUTCOMES)}

    @property
    def unfinished(self) -> bool:
        """Whether rows are left to be sent."""
        cdef uint32_t row
        for row in range(self.rows):
            if self.sends(row):
                return True
        return False

    @property
    def pending(self) -> list[int]:
        """The rows that are left to be sent."""
        cdef uint32_t row
        return [row for row in range(self.rows) if self.sends(row)]

    def key(self, uint32_t row) -> bytes:
        """The Redis key of a row that is not rejected."""
        cdef size_t size
        if row >= self.rows or self.states[row] == REJECTED:
            raise IndexError(row)
        size = self.key_size(row)
        data = PyBytes_FromStringAndSize(NULL, size)
        self.put_key(<uint8_t*>PyBytes_AS_STRING(data), row)
        return data

    def assign(self, SlotMap slots not None) -> list[int]:
        """Gives each pending row to the node that has its key, for `part`.

        Returns:
            The places of these nodes in `slots.nodes`. Rows of slots that nobody serves are of
            none.
        """
        cdef uint32_t row
        cdef size_t size, room = 0
        cdef uint8_t* key = NULL
        cdef uint8_t* grown
        if self.owners == NULL:
            self.owners = <uint16_t*>malloc((<size_t>self.rows + 1) * sizeof(uint16_t))
            if self.owners == NULL:
                raise MemoryError
        targets = set()
        for row in range(self.rows):
            self.owners[row] = NO_NODE
            if self.states[row] != PENDING:
                continue
            size = self.key_size(row)
            if size > room:
                grown = <uint8_t*>realloc(key, 2 * size)
                if grown == NULL:
                    free(key)
                    raise MemoryError
                key, room = grown, 2 * size
            self.put_key(key, row)
            self.owners[row] = <uint16_t>slots.node_of_key(key, size)
            if self.owners[row] != NO_NODE:
                targets.add(self.owners[row])
        free(key)
        return sorted(targets)

    def part(self, uint16_t target, bint asking=False) -> WriteBatch:
        """The pending rows that one node has, to be sent to it beside other parts; the outcomes are
        in this batch.

        Args:
            target: The node's place, as `assign` has it.
            asking: Whether it has yet to take the rows' slots over, as ASK says.

        Raises:
            ValueError: `assign` has not been called.
        """
        if self.owners == NULL:
            raise ValueError("assign() has not been called")
        part = <WriteBatch>type(self)(self.plan, *self.columns, self.check, 1, self)
        part.target = target
        part.asking = asking
        return part

    def give(self, list rows not None, uint16_t target) -> None:
        """Gives rows to a node of this number, instead of the one that `assign` found."""
        cdef uint32_t row
        for row in rows:
            if row >= self.rows:
                raise IndexError(row)
            self.owners[row] = target

    def take_back(self) -> None:
        """Makes rows pending again that the last exchange has written."""
        cdef uint32_t i
        for i in range(self.done_rows):
            # What had been counted before may have been lost with the rest.
            if self.states[self.order[i]] in (WRITTEN, DUPLICATE):
                self.states[self.order[i]] = PENDING

    def take_error(self, WriteBatch part not None) -> None:
        """Takes over the first refusal of a row of a part, unless there has been one."""
        if self.error_size == 0:
            self.error_size = part.error_size
            memcpy(self.error_text, part.error_text, part.error_size)

    cdef inline bint sends(self, uint32_t row) noexcept nogil:
        """Whether a row is to be sent."""
        return self.states[row] == PENDING and (
            not self.is_part or self.owners[row] == self.target
        )

    def begin(self) -> None:
        """Starts sending what is pending, from the first row; also after a broken connection."""
        self.rewind()
        self.no_script = False
        self.put_off = []

    def next_portion(self) -> bytes:
        """The next commands to send, for callers that send them themselves; empty at the end."""
        self.out_size = 0
        if self.fill() != 0:
            raise MemoryError
        return PyBytes_FromStringAndSize(<const char*>self.out, self.out_size)

    def feed(self, bytes data not None) -> bool:
        """Takes bytes that came from Redis, for callers that receive them themselves.

        Returns:
            Whether all that was sent has been answered.

        Raises:
            ProtocolError: They are no replies to what was sent.
        """
        cdef size_t size = PyBytes_GET_SIZE(data)
        if self.make_room(size) != 0:
            raise MemoryError
        memcpy(self.pending_in + self.in_size, PyBytes_AS_STRING(data), size)
        self.in_size += size
        if self.take_replies() != 0:
            raise ProtocolError("Redis' reply is not the RESP reply to what was sent")
        return self.done_calls == self.sent_calls

    cdef int make_room(self, size_t wanted) noexcept nogil:
        cdef size_t capacity = self.in_capacity if self.in_capacity else 65536
        cdef uint8_t* grown
        while capacity < self.in_size + wanted:
            capacity *= 2
        if capacity != self.in_capacity:
            grown = <uint8_t*>realloc(self.pending_in, capacity)
            if grown == NULL:
                return -1
            self.pending_in = grown
            self.in_capacity = capacity
        return 0

    cdef void rewind(self) noexcept nogil:
        self.next_row = 0
        self.sent_rows = self.sent_calls = self.done_rows = self.done_calls = 0
        self.out_size = self.in_size = 0
        self.announced = False

    cdef int make_out(self, size_t wanted) noexcept nogil:
        """Makes room for `wanted` more bytes of commands. Returns 0, or -1 without memory."""
        cdef size_t capacity = self.out_capacity if self.out_capacity else 2 * PORTION_BYTES
        cdef uint8_t* grown
        while capacity < self.out_size + wanted:
            capacity *= 2
        if capacity != self.out_capacity:
            grown = <uint8_t*>realloc(self.out, capacity)
            if grown == NULL:
                return -1
            self.out = grown
            self.out_capacity = capacity
        return 0

    cdef size_t key_size(self, uint32_t row) noexcept nogil:
        cdef size_t size = left(&self.plan.key_prefix) + left(&self.plan.key_end)
        cdef uint32_t i
        cdef uint8_t tag
        cdef Cursor c, span
        for i in range(self.plan.key_count):
            c = span = self.keys[i][row]
            tag = c.at[0]
            c.at += 1
            if tag == (INT32_VAL << 3):
                size += 12
            elif tag == (INT64_VAL << 3) or tag == (UNIX_TIMESTAMP_VAL << 3):
                size += 16
            else:
                read_span(&c, &span)
                size += 8 + left(&span)
        return size

    cdef uint8_t* put_key(self, uint8_t* at, uint32_t row) noexcept nogil:
        """Writes a row's Redis key: the serialized entity key, version 3, and the project."""
        cdef uint32_t i, value_type, size, j
        cdef uint64_t number = 0
        cdef Cursor c, span
        at = put_cursor(at, &self.plan.key_prefix)
        for i in range(self.plan.key_count):
            c = span = self.keys[i][row]
            value_type = c.at[0] >> 3
            c.at += 1
            if value_type == BYTES_VAL or value_type == STRING_VAL:
                read_span(&c, &span)
                at = put_u32(put_u32(at, value_type), <uint32_t>left(&span))
                at = put_cursor(at, &span)
            else:
                size = 4 if value_type == INT32_VAL else 8
                read_varint(&c, &number)
                at = put_u32(put_u32(at, value_type), size)
                for j in range(size):
                    at[j] = <uint8_t>(number >> (8 * j))
                at += size
        return put_cursor(at, &self.plan.key_end)

    cdef size_t bulk_size(self, uint32_t row) noexcept nogil:
        """Bytes of a row's values as bulk strings, at most."""
        cdef size_t size = TIME_ROOM + MARK_ROOM + BULK_ROOM
        cdef uint32_t i
        if self.plan.has_features:
            for i in range(self.plan.feature_count):
                size += BULK_ROOM + left(&self.features[i][row])
        if self.plan.has_row:
            size += BULK_ROOM + self.row_size(row)
        if self.plan.has_created:
            size += BULK_ROOM + self.created_size(row)
        return size

    cdef size_t stored_time_size(self, uint32_t row) noexcept nogil:
        """Bytes of a row's event time as it is stored, mark included."""
        cdef uint8_t time[TIME_ROOM + MARK_ROOM]
        if self.plan.mark == UNMARKED:
            return time_size(self.seconds[row], self.nanos[row])
        return <size_t>(self.put_stored_time(time, row) - time)

    cdef uint8_t* put_stored_time(self, uint8_t* at, uint32_t row) noexcept nogil:
        """Writes a row's event time as it is stored."""
        cdef uint8_t* end = put_time(at, self.seconds[row], self.nanos[row])
        return put_mark(at, end, self.seconds[row], self.nanos[row], self.plan.mark)

    cdef size_t row_size(self, uint32_t row) noexcept nogil:
        """Bytes of a packed row."""
        cdef size_t size = PACKED_HEAD + time_size(self.seconds[row], self.nanos[row]), value
        cdef uint32_t i
        for i in range(self.plan.feature_count):
            value = left(&self.features[i][row])
            size += varint_size(value) + value
        return size

    cdef uint8_t* put_row(self, uint8_t* at, uint32_t row) noexcept nogil:
        """Writes a packed row."""
        cdef uint32_t i
        at[0] = PACKED_FORMAT
        at = put_u32(at + 1, self.plan.schema)
        at[0] = <uint8_t>time_size(self.seconds[row], self.nanos[row])
        at = put_time(at + 1, self.seconds[row], self.nanos[row])
        for i in range(self.plan.feature_count):
            at = put_varint(at, left(&self.features[i][row]))
            at = put_cursor(at, &self.features[i][row])
        return at

    cdef int put_hset(self, uint32_t row) noexcept nogil:
        """Writes a row as one HSET. Returns 0, or -1 without memory."""
        cdef size_t size = self.key_size(row), names
        cdef uint32_t i
        cdef uint8_t* at
        names = left(&self.plan.time_name) + left(&self.plan.row_name)
        names += left(&self.plan.created_name)
        for i in range(self.plan.feature_count):
            names += left(&self.plan.feature_names[i])
        if self.make_out(
            left(&self.plan.hset_head) + BULK_ROOM + size + names + self.bulk_size(row)
        ) != 0:
            return -1
        at = put_cursor(self.out + self.out_size, &self.plan.hset_head)
        at = put_line_end(self.put_key(put_head(at, 36, size), row))
        at = put_head(put_cursor(at, &self.plan.time_name), 36, self.stored_time_size(row))
        at = put_line_end(self.put_stored_time(at, row))
        if self.plan.has_features:
            for i in range(self.plan.feature_count):
                at = put_cursor(at, &self.plan.feature_names[i])
                at = put_bulk(at, &self.features[i][row])
        if self.plan.has_row:
            at = put_head(put_cursor(at, &self.plan.row_name), 36, self.row_size(row))
            at = put_line_end(self.put_row(at, row))
        if self.plan.has_created:
            at = put_head(put_cursor(at, &self.plan.created_name), 36, self.created_size(row))
            at = put_line_end(self.put_created(at, row))
        self.out_size = <size_t>(at - self.out)
        return 0

    cdef size_t argument_size(self, uint32_t row) noexcept nogil:
        """Bytes of a row's values, as `put_call` packs them."""
        cdef size_t size = packed_size(self.stored_time_size(row))
        cdef uint32_t i
        if self.plan.has_features:
            for i in range(self.plan.feature_count):
                size += packed_size(left(&self.features[i][row]))
        if self.plan.has_row:
            size += packed_size(self.row_size(row))
        if self.plan.has_created:
            size += packed_size(self.created_size(row))
        return size

    cdef int put_call(self, const uint32_t* rows, uint32_t count, bint check) noexcept nogil:
        """Writes rows as one script call. Returns 0, or -1 without memory.

        All values are one argument, packed as MessagePack: what an argument costs Redis, and once
        more Lua, is a sixth of a call.
        """
        cdef size_t wanted, packed = 5
        cdef uint32_t i, j, row
        cdef uint8_t* at
        for j in range(count):
            packed += self.argument_size(rows[j])
        wanted = 128 + left(&self.plan.call_names) + BULK_ROOM + packed
        for j in range(count):
            wanted += BULK_ROOM + self.key_size(rows[j])
        if self.make_out(wanted) != 0:
            return -1
        at = put_head(
            self.out + self.out_size, 42, 5 + self.plan.call_name_count + <size_t>count
        )
        memcpy(at, b"$7\r\nEVALSHA\r\n$40\r\n", 18)
        memcpy(at + 18, SHA, 40)
        at = put_line_end(at + 58)
        at = put_head(at, 36, decimal_size(count))
        at = put_line_end(put_decimal(at, count))
        for j in range(count):
            at = put_head(at, 36, self.key_size(rows[j]))
            at = put_line_end(self.put_key(at, rows[j]))
        memcpy(at, b"$1\r\n1\r\n" if check else b"$1\r\n0\r\n", 7)
        at = put_cursor(at + 7, &self.plan.call_names)
        at = put_head(at, 36, packed)
        at[0] = 0xDD  # an array with a length of 32 bits
        at = put_big_endian(at + 1, <uint64_t>count * self.plan.value_count, 4)
        for j in range(count):
            row = rows[j]
            at = self.put_stored_time(put_packed_head(at, self.stored_time_size(row)), row)
            if self.plan.has_features:
                for i in range(self.plan.feature_count):
                    at = put_packed_head(at, left(&self.features[i][row]))
                    at = put_cursor(at, &self.features[i][row])
            if self.plan.has_row:
                at = self.put_row(put_packed_head(at, self.row_size(row)), row)
            if self.plan.has_created:
                at = self.put_created(put_packed_head(at, self.created_size(row)), row)
        at = put_line_end(at)
        self.out_size = <size_t>(at - self.out)
        return 0

    cdef size_t created_size(self, uint32_t row) noexcept nogil:
        """Bytes of a row's created time, and the event time that it belongs to."""
        cdef size_t size = 1 + time_size(self.seconds[row], self.nanos[row])
        if self.created_nanos[row] < 0:
            return size
        # The start of 1970 has no bytes of its own, which would be no time at all.
        return size + (time_size(self.created_seconds[row], self.created_nanos[row]) or 2)

    cdef uint8_t* put_created(self, uint8_t* at, uint32_t row) noexcept nogil:
        """Writes the event time without a mark, behind its length, and the created time if there
        is one."""
        at[0] = <uint8_t>time_size(self.seconds[row], self.nanos[row])
        at = put_time(at + 1, self.seconds[row], self.nanos[row])
        if self.created_nanos[row] < 0:
            return at
        if self.created_seconds[row] == 0 and self.created_nanos[row] == 0:
            at[0] = 0x08
            at[1] = 0
            return at + 2
        return put_time(at, self.created_seconds[row], self.created_nanos[row])

    cdef inline bint compares(self, uint32_t row) noexcept nogil:
        return self.check or (self.by_script != NULL and self.by_script[row] != 0)

    cdef int fill(self) noexcept nogil:
        """Appends about a portion of commands for pending rows. 0, or -1 without memory."""
        cdef size_t limit = self.out_size + PORTION_BYTES, bytes_in_call
        cdef uint32_t group[MOST_ROWS_PER_CALL]
        cdef uint32_t count, row
        cdef bint compares
        while self.next_row < self.rows and self.out_size < limit:
            row = self.next_row
            if not self.sends(row):
                self.next_row += 1
                continue
            if self.asking and self.announce() != 0:
                return -1
            compares = self.compares(row)
            count = 0
            if not compares and not self.plan.expires:
                if self.put_hset(row) != 0:
                    return -1
                self.next_row += 1
                self.order[self.sent_rows] = row
                count = 1
            else:
                bytes_in_call = 0
                while self.next_row < self.rows and count < self.rows_per_call:
                    row = self.next_row
                    if self.sends(row):
                        if bytes_in_call > CALL_BYTES or self.compares(row) != compares:
                            break
                        bytes_in_call += self.bulk_size(row)
                        group[count] = row
                        self.order[self.sent_rows + count] = row
                        count += 1
                    self.next_row += 1
                if self.put_call(group, count, compares) != 0:
                    return -1
            self.calls[self.sent_calls] = <uint16_t>count
            self.sent_calls += 1
            self.sent_rows += count
        return 0

    cdef int announce(self) noexcept nogil:
        """Writes ASKING, which the next command needs. Returns 0, or -1 without memory."""
        if self.make_out(ASKING_SIZE) != 0:
            return -1
        memcpy(self.out + self.out_size, b"*1\r\n$6\r\nASKING\r\n", ASKING_SIZE)
        self.out_size += ASKING_SIZE
        return 0

    cdef int take_replies(self) noexcept nogil:
        """Takes the whole replies that have come in. Returns 0, or -1 where they are no replies."""
        cdef const uint8_t* at = self.pending_in
        cdef const uint8_t* end = at + self.in_size
        cdef const uint8_t* line
        cdef size_t size
        cdef uint8_t kind
        while at < end:
            line = <const uint8_t*>memchr(at, 10, <size_t>(end - at))
            if line == NULL:
                if end - at > MAX_LINE:
                    return -1
                break
            kind = at[0]
            if line - at < 3 or (line - 1)[0] != 13 or self.done_calls == self.sent_calls:
                return -1
            if self.asking and not self.announced:
                if line - at != 4 or memcmp(at, b"+OK", 3) != 0:
                    return -1
                self.announced = True
                at = line + 1
                continue
            if kind == 36:  # `$`, the script's answer
                size = 0
                at += 1
                while 48 <= at[0] <= 57 and size <= MAX_LINE:
                    size = size * 10 + (at[0] - 48)
                    at += 1
                if at != line - 1 or size > MAX_LINE:
                    return -1
                if <size_t>(end - line) < size + 3:
                    at = line - 1
                    while at[0] != 36:
                        at -= 1
                    break
                if line[size + 1] != 13 or line[size + 2] != 10:
                    return -1
                if self.finish_call(line + 1, size, kind) != 0:
                    return -1
                at = line + size + 3
            elif kind == 58 or kind == 45:  # `:` the number of new fields, `-` an error
                if self.finish_call(at + 1, <size_t>(line - at - 2), kind) != 0:
                    return -1
                at = line + 1
            else:
                return -1
        self.in_size = <size_t>(end - at)
        memmove(self.pending_in, at, self.in_size)
        return 0

    cdef int finish_call(self, const uint8_t* at, size_t size, uint8_t kind) noexcept nogil:
        """Notes the outcome of the oldest call without one. Returns 0, or -1 for no such reply."""
        cdef uint32_t count = self.calls[self.done_calls], i, row
        cdef uint8_t state
        cdef const uint8_t* said = at
        cdef size_t said_size = size
        cdef bint put_off
        cdef bint script = self.plan.expires or self.compares(self.order[self.done_rows])
        # Scripts answer with a string, HSETs with a number.
        if kind == (58 if script else 36) or kind == 36 and size < count:
            return -1
        if kind == 36:
            for i in range(count):
                if at[i] not in (48, 49, 50, 70):
                    return -1
        if kind == 45 and size >= 8 and memcmp(at, b"NOSCRIPT", 8) == 0:
            self.no_script = True
            self.announced = False
            self.done_rows += count
            self.done_calls += 1
            return 0
        self.announced = False
        if kind == 36:
            said += count
            said_size -= count
        put_off = kind != 58 and said_size > 0 and puts_off(said, said_size)
        for i in range(count):
            row = self.order[self.done_rows + i]
            if put_off and (kind == 45 or at[i] == 70):
                self.note_put_off(row, said, said_size)
                continue
            if kind == 58:
                state = WRITTEN
            elif kind == 45:
                state = FAILED
            elif at[i] == 49:
                state = WRITTEN
            elif at[i] == 48:
                state = STALE
            elif at[i] == 50:
                state = DUPLICATE
            else:
                state = FAILED
            self.states[row] = state
        if self.error_size == 0 and kind != 58 and said_size > 0 and not put_off:
            self.keep_error(said, said_size)
        self.done_rows += count
        self.done_calls += 1
        return 0

    cdef void note_put_off(self, uint32_t row, const uint8_t* at, size_t size) noexcept with gil:
        self.put_off.append((row, at[:size].decode("utf-8", "replace")))

    cdef void keep_error(self, const uint8_t* at, size_t size) noexcept nogil:
        self.error_size = <uint32_t>min(size, <size_t>sizeof(self.error_text))
        memcpy(self.error_text, at, self.error_size)

    @property
    def error(self) -> str:
        """The first refusal of a row, as Redis worded it; empty where there is none."""
        return self.error_text[: self.error_size].decode("utf-8", "replace")
