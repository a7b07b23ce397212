"""Rows of a request to Redis keys and commands: one HMGET for each distinct entity.

Key bytes are those of `serialize_entity_key` version 3 followed by the project name. Views that are
read by the same entities share one command, since they are fields of one hash. The command is HMGET
for the fields that are asked for, or HGETALL where the plan says so. Entities whose packed rows
turn out not to be the last word are asked for once more, then for all fields of all views at once.
"""

import difflib
import os
import time

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from hotfeast.hotpath.errors import InvalidRequest
from hotfeast.hotpath.plan cimport Plan, Recipe
from hotfeast.hotpath.request cimport Column, Request
from hotfeast.hotpath.values cimport (
    BOOL_VAL,
    BYTES_VAL,
    INT32_VAL,
    INT64_VAL,
    LAST_MEMBER,
    NULL_VAL,
    STRING_VAL,
    UNIX_TIMESTAMP_VAL,
    VALUE_CORRUPT,
    check_value,
    is_member,
)
from hotfeast.hotpath.wire cimport (
    WIRE_LEN,
    WIRE_VARINT,
    Cursor,
    left,
    mix,
    put_cursor,
    put_decimal,
    put_u32,
    read_span,
    read_tag,
    read_varint,
    skip_field,
)

TYPE_NAMES = {
    1: "BYTES", 2: "STRING", 3: "INT32", 4: "INT64", 5: "DOUBLE", 6: "FLOAT", 7: "BOOL",
    8: "UNIX_TIMESTAMP", 11: "BYTES_LIST", 12: "STRING_LIST", 13: "INT32_LIST", 14: "INT64_LIST",
    15: "DOUBLE_LIST", 16: "FLOAT_LIST", 17: "BOOL_LIST", 18: "UNIX_TIMESTAMP_LIST",
}

cdef enum ColumnFault:
    COLUMN_FINE = 0
    COLUMN_NULL = 1
    COLUMN_MIXED = 2
    COLUMN_TYPE = 3
    COLUMN_RANGE = 4
    COLUMN_MALFORMED = 5

cdef enum:
    # What the spans of a reply can count without overflow, with room for every field of a hash.
    MAX_ROWS = 1000000

cdef const char* READ_ALL = b"*2\r\n$7\r\nHGETALL\r\n"
cdef const char* ASKING = b"*1\r\n$6\r\nASKING\r\n"
cdef enum:
    READ_ALL_SIZE = 17
    ASKING_SIZE = 16
    # Whole hashes that are asked for at once: of a hash of 275 fields, 100 kB of replies.
    CHUNK_HASHES = 16

# Entities are told apart through a hash table; a seed nobody knows keeps callers from choosing
# entities that all fall on one place of it.
cdef uint64_t HASH_SEED = int.from_bytes(os.urandom(8), "little")


cdef inline uint64_t hash_cell(const Cell* cell, uint64_t h) noexcept nogil:
    cdef const uint8_t* at = cell.at
    cdef uint32_t size = cell.size
    cdef uint64_t word
    if at == NULL:
        return mix(h ^ <uint64_t>cell.number)
    h = mix(h ^ size)
    while size >= 8:
        memcpy(&word, at, 8)
        h = mix(h ^ word)
        at += 8
        size -= 8
    word = 0
    memcpy(&word, at, size)
    return mix(h ^ word)


cdef inline bint same_cell(const Cell* a, const Cell* b) noexcept nogil:
    if a.at == NULL:
        return a.number == b.number
    return a.size == b.size and memcmp(a.at, b.at, a.size) == 0


cdef inline uint32_t stored_size(uint32_t value_type, const Cell* cell) noexcept nogil:
    """Bytes of an entity value in the serialized key."""
    if value_type == INT32_VAL:
        return 4
    if value_type == INT64_VAL or value_type == UNIX_TIMESTAMP_VAL:
        return 8
    return cell.size


cdef inline uint8_t* put_cell(uint8_t* at, uint32_t value_type, const Cell* cell) noexcept nogil:
    """Writes an entity value as the key has it: type, length, bytes, all little-endian."""
    cdef uint32_t size = stored_size(value_type, cell)
    cdef uint32_t i
    at = put_u32(put_u32(at, value_type), size)
    if cell.at != NULL:
        memcpy(at, cell.at, size)
    else:
        for i in range(size):
            at[i] = <uint8_t>(<uint64_t>cell.number >> (8 * i))
    return at + size


cdef inline size_t constant_size(Batch batch, uint32_t r) noexcept nogil:
    """Bytes of a recipe's Redis keys that all of them have."""
    cdef Recipe* recipe = &batch.plan.recipes[r]
    return left(&recipe.key_prefix) + left(&recipe.key_end) + 8 * <size_t>recipe.slot_count


cdef inline size_t values_size(Batch batch, uint32_t r, uint32_t entity) noexcept nogil:
    """Bytes of the values in an entity's Redis key."""
    cdef Recipe* recipe = &batch.plan.recipes[r]
    cdef size_t row = batch.lookups[r].row_of_entity[entity], size = 0
    cdef uint32_t i, slot
    for i in range(recipe.slot_count):
        slot = recipe.slots[i]
        size += stored_size(batch.key_types[slot], &batch.cells[<size_t>slot * batch.rows + row])
    return size


cdef inline uint8_t* put_redis_key(
    Batch batch, uint8_t* at, uint32_t r, uint32_t entity
) noexcept nogil:
    """Writes an entity's Redis key. Returns the byte behind it."""
    cdef Recipe* recipe = &batch.plan.recipes[r]
    cdef size_t row = batch.lookups[r].row_of_entity[entity]
    cdef uint32_t i, slot
    at = put_cursor(at, &recipe.key_prefix)
    for i in range(recipe.slot_count):
        slot = recipe.slots[i]
        at = put_cell(at, batch.key_types[slot], &batch.cells[<size_t>slot * batch.rows + row])
    return put_cursor(at, &recipe.key_end)


cdef class Batch:
    """A request bound to a plan.

    Attributes:
        plan, request: What it was made from.
        rows: Rows of the answer.
        said: Fields that the answer's metadata are to have beside its own, serialized; None, as at
            first, for none.
        most_bytes: Bytes that the answer may have; 0, for any, at first.
        now_us: What windows end at, in microseconds since 1970; the system's time at first.
    """

    def __cinit__(
        self, Plan plan not None, Request request not None, bint later=False, bint scattered=False
    ):
        """
        Args:
            plan, request: What it is made from.
            later: Whether the commands are written only when they are needed; a cache may have
                what they would ask for.
            scattered: Whether they are written for each node of a cluster apart, by
                `hotfeast.hotpath.scatter`.

        Raises:
            InvalidRequest: A join key is missing, extra or given twice, columns differ in length,
                or a value is null, of the wrong type or does not fit; the message names it.
        """
        cdef uint32_t i, row = 0, found = 0
        cdef int fault
        cdef size_t cells
        self.plan = plan
        self.request = request
        self.now_us = time.time_ns() // 1000 if plan.tiled else 0
        self.scattered = scattered
        self.column_of_slot = <int*>malloc((plan.slot_count + 1) * sizeof(int))
        self.key_types = <uint32_t*>calloc(plan.slot_count + 1, sizeof(uint32_t))
        if self.column_of_slot == NULL or self.key_types == NULL:
            raise MemoryError
        for i in range(plan.slot_count):
            self.column_of_slot[i] = -1
        self.bind_columns()
        cells = <size_t>plan.slot_count * self.rows + 1
        self.cells = <Cell*>malloc(cells * sizeof(Cell))
        self.lookups = <Lookup*>calloc(plan.recipe_count + 1, sizeof(Lookup))
        self.index_memory = <uint32_t*>malloc(
            (<size_t>plan.recipe_count * self.rows * 2 + 1) * sizeof(uint32_t)
        )
        if self.cells == NULL or self.lookups == NULL or self.index_memory == NULL:
            raise MemoryError
        for i in range(plan.slot_count):
            if self.column_of_slot[i] >= 0:
                fault = self.decode_column(i, &row, &found)
                if fault != COLUMN_FINE:
                    raise InvalidRequest(self._describe_fault(i, fault, row, found))
        if self.find_entities() != 0:
            raise MemoryError
        for i in range(plan.recipe_count):
            self.lookups[i].read_all = plan.recipes[i].read_all
        self.asks = <Ask*>calloc(plan.recipe_count + 1, sizeof(Ask))
        if self.asks == NULL:
            raise MemoryError
        self.ask_first()
        if not later and self.write_first() != 0:
            raise MemoryError

    def __dealloc__(self):
        free(self.column_of_slot)
        free(self.key_types)
        free(self.cells)
        free(self.lookups)
        free(self.index_memory)
        free(self.asks)
        free(self.first.commands)
        free(self.first.chunks)
        free(self.second.commands)
        free(self.second.chunks)
        free(self.again)
        free(self.sought)
        if self.judging != NULL:
            free(self.judging.bad_rows)
            free(self.judging)

    cdef bind_columns(self):
        """Matches the request's columns to the plan's join keys, and counts the rows."""
        cdef Request request = self.request
        cdef Plan plan = self.plan
        cdef uint32_t i, total = request.entity_count + request.context_count
        cdef int slot
        if total == 0:
            self.rows = 1
        else:
            self.rows = request.columns[0].rows
        for i in range(total):
            if request.columns[i].rows != self.rows:
                raise InvalidRequest(
                    "all columns must have the same length: "
                    + ", ".join(
                        f"{self._column_name(j)!r} has {request.columns[j].rows}"
                        for j in range(total)
                    )
                )
        if self.rows > MAX_ROWS:
            raise InvalidRequest(f"{self.rows} rows in one request; at most {MAX_ROWS} are served")
        for i in range(request.entity_count):
            slot = plan.find_slot(&request.columns[i].name)
            if slot < 0:
                raise InvalidRequest(self._unknown_key(self._column_name(i)))
            if self.column_of_slot[slot] >= 0:
                raise InvalidRequest(
                    f"join key {plan.definition.join_keys[slot].name!r} is given twice: as "
                    f"{self._column_name(self.column_of_slot[slot])!r} and as "
                    f"{self._column_name(i)!r}"
                )
            self.column_of_slot[slot] = i
        for i in range(plan.slot_count):
            if self.column_of_slot[i] < 0 and plan.slots[i].required:
                raise InvalidRequest(
                    f"missing join key {plan.definition.join_keys[i].name!r}; "
                    f"this request needs {self._needed()}"
                )

    def _column_name(self, uint32_t i):
        cdef Column* column = &self.request.columns[i]
        return column.name.at[: left(&column.name)].decode("utf-8")

    def _needed(self):
        names = [repr(k.name) for k in self.plan.definition.join_keys if k.required]
        return ", ".join(names) if names else "no join key"

    def _unknown_key(self, name):
        known = [k.name for k in self.plan.definition.join_keys]
        near = difflib.get_close_matches(name, known, 1, 0.6)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{name!r} is no join key of this request, which needs {self._needed()}{hint}"

    def _describe_fault(self, uint32_t slot, int fault, uint32_t row, uint32_t found):
        name = self.plan.definition.join_keys[slot].name
        declared = TYPE_NAMES.get(self.plan.slots[slot].value_type, "INT32, INT64, STRING or BYTES")
        if fault == COLUMN_NULL:
            return f"join key {name!r} is null in row {row}"
        if fault == COLUMN_MALFORMED:
            return f"join key {name!r}, row {row}: not a serialized Value"
        sent = TYPE_NAMES.get(found, f"of Value member {found}")
        if fault == COLUMN_MIXED:
            return f"join key {name!r} has mixed types: row {row} is {sent}, those before are not"
        if fault == COLUMN_RANGE:
            return f"join key {name!r}, row {row}: the value does not fit its type {declared}"
        return f"join key {name!r}, row {row}: expected {declared}, got {sent}"

    cdef int decode_column(self, uint32_t slot, uint32_t* bad_row, uint32_t* found) noexcept nogil:
        """Decodes one entity column into cells. Returns a ColumnFault; sets row and type found."""
        cdef Column* column = &self.request.columns[self.column_of_slot[slot]]
        cdef Cell* cell = self.cells + <size_t>slot * self.rows
        cdef uint32_t declared = self.plan.slots[slot].value_type
        cdef Cursor c = column.values
        cdef Cursor value, text, span
        cdef uint32_t field = 0, wire = 0, member = 0, first = 0, newer = 0
        cdef uint64_t number = 0, varint = 0
        text.at = text.end = NULL
        self.key_types[slot] = declared
        for bad_row[0] in range(column.rows):
            # The request's parser has seen that the column is nothing but Values.
            if read_tag(&c, &field, &wire) != 0 or read_span(&c, &value) != 0:
                return COLUMN_MALFORMED
            if check_value(value.at, <uint32_t>left(&value)) == VALUE_CORRUPT:
                return COLUMN_MALFORMED
            member = newer = 0
            while value.at < value.end:
                if read_tag(&value, &field, &wire) != 0:
                    return COLUMN_MALFORMED
                # A field whose wire type does not fit its number is unknown, hence ignored.
                if wire == WIRE_VARINT:
                    if read_varint(&value, &varint) != 0:
                        return COLUMN_MALFORMED
                    if field in (INT32_VAL, INT64_VAL, UNIX_TIMESTAMP_VAL, BOOL_VAL, NULL_VAL):
                        member = field
                        number = varint
                elif wire == WIRE_LEN:
                    if read_span(&value, &span) != 0:
                        return COLUMN_MALFORMED
                    if field in (BYTES_VAL, STRING_VAL) or is_member(field, wire):
                        member = field
                        text = span
                else:
                    if skip_field(&value, field, wire, 0) != 0:
                        return COLUMN_MALFORMED
                    if is_member(field, wire):
                        member = field
                if field > LAST_MEMBER:
                    newer = field
            found[0] = member
            if member == 0 and newer != 0:
                found[0] = newer
                return COLUMN_TYPE
            if member == 0 or member == NULL_VAL:
                return COLUMN_NULL
            if first == 0:
                first = member
                if declared == 0:
                    self.key_types[slot] = member
            elif member != first:
                return COLUMN_MIXED
            cell.at = NULL
            cell.size = 0
            if member == INT64_VAL or member == INT32_VAL:
                if declared != INT64_VAL and declared != INT32_VAL and declared != 0:
                    return COLUMN_TYPE
                cell.number = <int32_t>number if member == INT32_VAL else <int64_t>number
                if declared == INT32_VAL and cell.number != <int32_t>cell.number:
                    return COLUMN_RANGE
            elif member == STRING_VAL or member == BYTES_VAL:
                if declared != member and declared != 0:
                    return COLUMN_TYPE
                cell.at = text.at
                cell.size = <uint32_t>left(&text)
            elif member == UNIX_TIMESTAMP_VAL:
                if declared != member and declared != 0:
                    return COLUMN_TYPE
                cell.number = <int64_t>number
            else:
                return COLUMN_TYPE
            cell += 1
        return COLUMN_FINE

    cdef int find_entities(self) noexcept nogil:
        """Gives each recipe its distinct entities, in order of first appearance."""
        cdef uint32_t* memory = self.index_memory
        cdef uint32_t* table = NULL
        cdef uint32_t r, row, place, mask, i, seen
        cdef uint64_t h
        cdef Recipe* recipe
        cdef Lookup* lookup
        cdef bint same
        for r in range(self.plan.recipe_count):
            recipe = &self.plan.recipes[r]
            lookup = &self.lookups[r]
            lookup.entity_of_row = memory
            lookup.row_of_entity = memory + self.rows
            memory += 2 * <size_t>self.rows
            lookup.first_span = self.span_count
            if self.rows == 0:
                continue
            if recipe.slot_count == 0 or self.rows == 1:
                lookup.entity_count = 1
                lookup.row_of_entity[0] = 0
                for row in range(self.rows):
                    lookup.entity_of_row[row] = 0
            else:
                mask = 1
                while mask < 2 * self.rows:
                    mask *= 2
                if table == NULL:
                    table = <uint32_t*>malloc(mask * sizeof(uint32_t))
                    if table == NULL:
                        return -1
                for i in range(mask):
                    table[i] = 0
                mask -= 1
                for row in range(self.rows):
                    h = HASH_SEED
                    for i in range(recipe.slot_count):
                        h = hash_cell(
                            &self.cells[<size_t>recipe.slots[i] * self.rows + row], h
                        )
                    place = <uint32_t>h & mask
                    while table[place] != 0:
                        seen = lookup.row_of_entity[table[place] - 1]
                        same = True
                        for i in range(recipe.slot_count):
                            if not same_cell(
                                &self.cells[<size_t>recipe.slots[i] * self.rows + row],
                                &self.cells[<size_t>recipe.slots[i] * self.rows + seen],
                            ):
                                same = False
                                break
                        if same:
                            break
                        place = (place + 1) & mask
                    if table[place] == 0:
                        lookup.row_of_entity[lookup.entity_count] = row
                        lookup.entity_count += 1
                        table[place] = lookup.entity_count
                    lookup.entity_of_row[row] = table[place] - 1
            self.span_count += <size_t>lookup.entity_count * recipe.field_count
            self.entity_total += lookup.entity_count
        free(table)
        return 0

    cdef void ask_first(self) noexcept nogil:
        """Makes the first commands those at hand, for all entities."""
        cdef uint32_t r
        cdef Recipe* recipe
        self.out = &self.first
        self.partial = False
        for r in range(self.plan.recipe_count):
            recipe = &self.plan.recipes[r]
            self.asks[r].command = recipe.command
            self.asks[r].fields = recipe.fields
            self.asks[r].field_count = recipe.ask_count
            self.asks[r].entity_count = self.lookups[r].entity_count
            self.asks[r].read_all = self.lookups[r].read_all
            self.asks[r].entities = NULL

    cdef void forget_judged(self) noexcept nogil:
        """Makes all rows ones that have not been judged. Only for batches with a `judging`."""
        cdef Judging* judging = self.judging
        memset(judging.columns, 0, judging.zeroed)
        judging.recipe = judging.entity = 0
        judging.raw_first = judging.entity_first = 0
        judging.bad_count = 0
        judging.counted = judging.exhausted = False

    cdef int ask_rest(self) noexcept nogil:
        """Leaves what a cache has out of the first commands. Returns 0, or -1 where there is no
        memory."""
        cdef const Sought* sought = self.sought
        cdef uint32_t r, e
        cdef uint32_t* to
        if self.again == NULL:
            self.again = <uint32_t*>malloc((self.entity_total + 1) * sizeof(uint32_t))
            if self.again == NULL:
                return -1
        to = self.again
        for r in range(self.plan.recipe_count):
            self.asks[r].entities = to
            for e in range(self.lookups[r].entity_count):
                if not sought[e].known:
                    to[0] = e
                    to += 1
            self.asks[r].entity_count = <uint32_t>(to - self.asks[r].entities)
            sought += self.lookups[r].entity_count
        self.partial = True
        return 0

    cdef int write_first(self) noexcept nogil:
        """Writes the first commands, unless they are there. Returns 0, or -1 where there is no
        memory."""
        if self.first.commands != NULL:
            if not (self.partial or self.first_partial):
                return 0
            free(self.first.commands)
            free(self.first.chunks)
            memset(&self.first, 0, sizeof(Outgoing))
        self.first_partial = self.partial
        return self.write_all(&self.first)

    cdef int ask_again(self, const uint8_t* wanted) noexcept nogil:
        """Writes further commands: all fields of some entities. They are those at hand then.

        Args:
            wanted: For each entity, recipe after recipe, whether it is asked for.

        Returns 0, or -1 where there is no memory.
        """
        cdef Recipe* recipe
        cdef uint32_t r, e
        cdef uint32_t* to
        if self.again == NULL:
            self.again = <uint32_t*>malloc((self.entity_total + 1) * sizeof(uint32_t))
            if self.again == NULL:
                return -1
        to = self.again
        for r in range(self.plan.recipe_count):
            recipe = &self.plan.recipes[r]
            self.asks[r].command = recipe.full_command
            self.asks[r].fields = recipe.full_fields
            self.asks[r].field_count = recipe.full_count
            self.asks[r].read_all = False
            self.asks[r].entities = to
            for e in range(self.lookups[r].entity_count):
                if wanted[e]:
                    to[0] = e
                    to += 1
            self.asks[r].entity_count = <uint32_t>(to - self.asks[r].entities)
            wanted += self.lookups[r].entity_count
        free(self.second.commands)
        free(self.second.chunks)
        memset(&self.second, 0, sizeof(Outgoing))
        self.out = &self.second
        return self.write_all(&self.second)

    cdef size_t key_size(self, uint32_t recipe, uint32_t entity) noexcept nogil:
        """Bytes of an entity's Redis key."""
        return constant_size(self, recipe) + values_size(self, recipe, entity)

    cdef uint8_t* put_key(self, uint8_t* at, uint32_t recipe, uint32_t entity) noexcept nogil:
        """Writes an entity's Redis key. Returns the byte behind it; the caller has made room."""
        return put_redis_key(self, at, recipe, entity)

    cdef int write_all(self, Outgoing* out) noexcept nogil:
        """Writes all commands at hand, unless that is done for each node apart. Returns -1 where
        there is no memory for it."""
        cdef uint32_t r
        if not self.scattered:
            return self.write_commands(out, self.asks, False)
        out.span_count = 0
        for r in range(self.plan.recipe_count):
            out.span_count += <size_t>self.asks[r].entity_count * self.asks[r].field_count
        return 0

    cdef int write_commands(self, Outgoing* out, const Ask* asks, bint asking) noexcept nogil:
        """Writes commands into one buffer. Returns -1 where there is no memory for it.

        Args:
            out: Where they go.
            asks: What is asked for, one for each recipe.
            asking: Whether each is announced with ASKING, as a node of a cluster wants it for slots
                that it has yet to take over.

        Redis answers nothing until it has worked through all that it has read. Whole hashes are
        asked for in so few bytes that it would read the lot at once, and leave the parsing of its
        replies to the end; so they are divided into chunks, for the sender to send one by one. The
        long commands of HMGET reach Redis in pieces anyway, and are one chunk.
        """
        cdef const Ask* ask
        cdef uint32_t r, n, e
        cdef size_t size = 0, fixed
        cdef uint32_t total = 0
        cdef uint8_t* at
        for r in range(self.plan.recipe_count):
            ask = &asks[r]
            # `$` and CRLF around a length of up to 20 digits, CRLF behind the key.
            fixed = 25 + constant_size(self, r)
            if ask.read_all:
                fixed += READ_ALL_SIZE
            else:
                fixed += left(&ask.command) + left(&ask.fields)
            if asking:
                fixed += ASKING_SIZE
            size += fixed * ask.entity_count
            for n in range(ask.entity_count):
                e = n if ask.entities == NULL else ask.entities[n]
                size += values_size(self, r, e)
            total += ask.entity_count
            out.span_count += <size_t>ask.entity_count * ask.field_count
        out.commands = <uint8_t*>malloc(size + 1)
        out.chunks = <Chunk*>malloc(
            (total // CHUNK_HASHES + self.plan.recipe_count + 2) * sizeof(Chunk)
        )
        if out.commands == NULL or out.chunks == NULL:
            return -1
        total = 0
        at = out.commands
        for r in range(self.plan.recipe_count):
            ask = &asks[r]
            fixed = constant_size(self, r)
            for n in range(ask.entity_count):
                e = n if ask.entities == NULL else ask.entities[n]
                if asking:
                    memcpy(at, ASKING, ASKING_SIZE)
                    at += ASKING_SIZE
                if ask.read_all:
                    memcpy(at, READ_ALL, READ_ALL_SIZE)
                    at += READ_ALL_SIZE
                else:
                    at = put_cursor(at, &ask.command)
                at[0] = 36  # $
                at = put_decimal(at + 1, fixed + values_size(self, r, e))
                at[0] = 13
                at[1] = 10
                at = put_redis_key(self, at + 2, r, e)
                at[0] = 13
                at[1] = 10
                at += 2
                if not ask.read_all:
                    at = put_cursor(at, &ask.fields)
                total += 1
                if ask.read_all and (n + 1) % CHUNK_HASHES == 0:
                    self.end_chunk(out, at, total)
            if ask.read_all:
                self.end_chunk(out, at, total)
        self.end_chunk(out, at, total)
        out.size = <size_t>(at - out.commands)
        return 0

    cdef void end_chunk(self, Outgoing* out, const uint8_t* at, uint32_t commands) noexcept nogil:
        """Ends a chunk, unless there is nothing in it."""
        cdef size_t end = <size_t>(at - out.commands)
        if out.chunk_count > 0 and out.chunks[out.chunk_count - 1].end == end:
            return
        out.chunks[out.chunk_count].end = end
        out.chunks[out.chunk_count].commands = commands
        out.chunk_count += 1

    @property
    def command_bytes(self) -> bytes:
        """The commands at hand, as they go to Redis."""
        if self.out == &self.first and self.write_first() != 0:
            raise MemoryError
        return PyBytes_FromStringAndSize(<const char*>self.out.commands, self.out.size)

    @property
    def cell_count(self) -> int:
        """Stored values and times of all rows."""
        return self.span_count

    @property
    def entity_counts(self) -> list[int]:
        """The number of distinct entities of each key recipe."""
        return [self.lookups[i].entity_count for i in range(self.plan.recipe_count)]

    @property
    def entity_rows(self) -> list[list[int]]:
        """For each key recipe and distinct entity the first row that asks for it."""
        return [
            [self.lookups[r].row_of_entity[e] for e in range(self.lookups[r].entity_count)]
            for r in range(self.plan.recipe_count)
        ]

    def sample_keys(self, uint32_t recipe, uint32_t limit) -> list[bytes]:
        """The Redis keys of a key recipe's first entities, `limit` of them at most."""
        cdef uint32_t e
        keys = []
        for e in range(min(limit, self.lookups[recipe].entity_count)):
            key = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>self.key_size(recipe, e))
            self.put_key(<uint8_t*>PyBytes_AS_STRING(key), recipe, e)
            keys.append(key)
        return keys

    def describe_entity(self, uint32_t recipe, uint32_t row) -> str:
        """The entity of a row, for messages: its join keys and values."""
        parts = []
        for i in range(self.plan.recipes[recipe].slot_count):
            slot = self.plan.recipes[recipe].slots[i]
            name = self.plan.definition.join_keys[slot].name
            parts.append(f"{name}={self._cell_value(slot, row)!r}")
        return ", ".join(parts) if parts else "without entities"

    def _cell_value(self, uint32_t slot, uint32_t row):
        cdef Cell* cell = &self.cells[<size_t>slot * self.rows + row]
        if cell.at == NULL:
            return cell.number
        data = cell.at[: cell.size]
        return data.decode("utf-8") if self.key_types[slot] == STRING_VAL else data
