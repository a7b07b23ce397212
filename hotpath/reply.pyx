"""Redis' replies to spans: an incremental RESP scan that copies nothing and makes no objects.

The scan takes up where it stopped whenever more bytes have come. An error reply takes the place of
its command's array; it is kept, the scan goes on, and it is raised at the end, so that the
connection stays in step with the server.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcmp, memcpy

from hotfeast.hotpath.batch cimport Ask, Batch
from hotfeast.hotpath.errors import ProtocolError, ReplyError
from hotfeast.hotpath.plan cimport NO_FIELD, Recipe, find_field

cdef enum:
    FIRST_CAPACITY = 65536
    # Spans hold 32-bit offsets.
    MAX_REPLY = 0xFFFFFFF0
    # Redis' own limit on the length of a bulk string is 512 MB.
    MAX_BULK = 536870912
    MAX_DIGITS = 9
    MAX_LINE = 65536

# A connection keeps its buffers between requests, unless one request has made them this large.
cdef enum:
    KEEP_CAPACITY = 4194304


cdef inline const uint8_t* short_bulk(
    const uint8_t* at, const uint8_t* end, uint32_t* size
) noexcept nogil:
    """Reads a bulk string of at most 99 bytes, as nearly all are. Returns its first byte; NULL
    where it is none, or not all there."""
    cdef const uint8_t* data
    cdef uint32_t first, second
    if end - at < 6 or at[0] != 36:
        return NULL
    first = <uint32_t>at[1] - 48
    if first > 9:
        return NULL
    if at[2] == 13:
        if at[3] != 10:
            return NULL
        data = at + 4
    else:
        second = <uint32_t>at[2] - 48
        if second > 9 or at[3] != 13 or at[4] != 10:
            return NULL
        first = first * 10 + second
        data = at + 5
    if end - data < <ptrdiff_t>first + 2 or data[first] != 13 or data[first + 1] != 10:
        return NULL
    size[0] = first
    return data


cdef class Reply:
    """The buffers that one connection reads replies into. Used by one request at a time."""

    def __dealloc__(self):
        free(self.buffer)
        free(self.spans)
        free(self.raw)
        free(self.refusals)

    cdef int begin(self, Batch batch) noexcept:
        """Starts reading the replies to `batch`. Returns 0, or -1 where there is no memory."""
        return self.expect_first() if self.clear(batch) == 0 else -1

    cdef int clear(self, Batch batch) noexcept:
        """Makes room for the cells of `batch`. Returns 0, or -1 where there is no memory."""
        cdef Span* grown
        self.batch = batch
        self.asks = batch.asks
        self.of_part = self.asking = False
        batch.ask_first()
        if batch.judging != NULL:
            batch.forget_judged()
        self.received = self.scanned = 0
        self.error_at = self.error_size = 0
        self.unknown_view = -1
        self.shrink()
        if batch.span_count > self.span_capacity or (
            self.span_capacity * sizeof(Span) > KEEP_CAPACITY
        ):
            grown = <Span*>realloc(self.spans, (batch.span_count + 1) * sizeof(Span))
            if grown == NULL:
                return -1
            self.spans = grown
            self.span_capacity = batch.span_count
        return 0

    cdef void shrink(self) noexcept nogil:
        """Lets most of a large buffer go."""
        cdef uint8_t* shrunk
        if self.capacity > KEEP_CAPACITY:
            shrunk = <uint8_t*>realloc(self.buffer, FIRST_CAPACITY + READ_SLACK)
            if shrunk != NULL:
                self.buffer = shrunk
                self.capacity = FIRST_CAPACITY

    cdef int make_raw(self, size_t count) noexcept nogil:
        """Makes room for replies that are not the cells. Returns 0, or -1 without memory."""
        cdef Span* grown
        if count > self.raw_capacity or self.raw_capacity * sizeof(Span) > KEEP_CAPACITY:
            grown = <Span*>realloc(self.raw, (count + 1) * sizeof(Span))
            if grown == NULL:
                return -1
            self.raw = grown
            self.raw_capacity = count
        return 0

    cdef int begin_part(
        self, Batch batch, const Ask* asks, size_t span_count, bint asking
    ) noexcept:
        """Starts reading the replies to a part of a batch's commands; errors among them are all
        kept. Returns 0, or -1 where there is no memory.

        Args:
            batch: The batch.
            asks: The part, which must live as long as it is read.
            span_count: Values of all its replies.
            asking: Whether each command was announced with ASKING.
        """
        self.batch = batch
        self.asks = asks
        self.of_part = True
        self.asking = asking
        self.refusal_count = 0
        self.received = self.scanned = 0
        self.error_at = self.error_size = 0
        self.shrink()
        if self.make_raw(span_count) != 0:
            return -1
        self.wire = self.raw
        self.find_first()
        return 0

    cdef int note_refusal(self) noexcept nogil:
        """Makes room for an error reply, and notes which command it is to. 0, or -1 without memory.
        """
        cdef Refusal* grown
        cdef uint32_t capacity = 2 * self.refusal_capacity + 8
        if self.refusal_count == self.refusal_capacity:
            grown = <Refusal*>realloc(self.refusals, capacity * sizeof(Refusal))
            if grown == NULL:
                return -1
            self.refusals = grown
            self.refusal_capacity = capacity
        self.refusals[self.refusal_count].command = self.commands_done
        self.refusal_count += 1
        return 0

    cdef int expect_first(self) noexcept:
        """Starts reading the replies to the first commands, behind what is in the buffer. Returns
        0, or -1 where there is no memory."""
        if self.batch.write_first() != 0:
            return -1
        self.settled = not (self.batch.plan.packable or self.batch.partial)
        self.wire = self.spans
        if self.batch.plan.packed or self.batch.partial:
            return self.begin_again()
        self.scanned = self.received
        self.find_first()
        return 0

    cdef int begin_again(self) noexcept nogil:
        """Starts reading the replies to the commands at hand, behind what has been received.
        Returns 0, or -1 where there is no memory."""
        if self.make_raw(self.batch.out.span_count) != 0:
            return -1
        # What has been made of the first replies is behind them.
        self.scanned = self.received
        self.wire = self.raw
        self.find_first()
        return 0

    cdef void find_first(self) noexcept nogil:
        """Moves to the first command's reply."""
        self.span_at = 0
        self.recipe = self.entity = self.field = self.commands_done = 0
        self.in_array = self.announced = False
        self.memo_count = 0
        while self.recipe < self.batch.plan.recipe_count:
            if self.asks[self.recipe].entity_count > 0:
                break
            self.recipe += 1

    cdef int make_room(self, size_t wanted) noexcept nogil:
        """Makes room for `wanted` more bytes. Returns 0, or -1 where there is no memory."""
        cdef size_t capacity = self.capacity if self.capacity else FIRST_CAPACITY
        cdef uint8_t* grown
        if self.received + wanted <= self.capacity:
            return 0
        while capacity < self.received + wanted:
            capacity *= 2
        grown = <uint8_t*>realloc(self.buffer, capacity + READ_SLACK)
        if grown == NULL:
            return -1
        self.buffer = grown
        self.capacity = capacity
        return 0

    cdef bint next_command(self) noexcept nogil:
        """Moves to the next command's reply. Returns whether there is one."""
        self.in_array = self.announced = False
        self.field = 0
        self.commands_done += 1
        self.entity += 1
        while self.entity >= self.asks[self.recipe].entity_count:
            self.entity = 0
            self.recipe += 1
            self.memo_count = 0
            if self.recipe == self.batch.plan.recipe_count:
                return False
            if self.asks[self.recipe].entity_count > 0:
                break
        return True

    cdef void begin_hash(self, uint32_t items) noexcept nogil:
        """Starts on the reply to an HGETALL: all fields count as absent until they come."""
        cdef uint32_t fields = self.asks[self.recipe].field_count
        cdef Span* span = &self.wire[self.span_at]
        cdef uint32_t i
        self.items_left = items
        self.pair = 0
        for i in range(fields):
            span[i].at = 0
            span[i].size = -1

    cdef bint take_item(self, const uint8_t* at, uint32_t size) noexcept nogil:
        """Takes a name or a value of a whole hash. Returns whether it was the last."""
        cdef Recipe* recipe = &self.batch.plan.recipes[self.recipe]
        cdef uint32_t place
        if self.items_left % 2 == 0:
            self.place = find_field(recipe, at, size)
        else:
            place = self.place
            while place != NO_FIELD:
                self.wire[self.span_at + place].at = <uint32_t>(at - self.buffer)
                self.wire[self.span_at + place].size = <int32_t>size
                place = recipe.same_field[place]
            self.pair += 1
        self.items_left -= 1
        if self.items_left == 0:
            self.span_at += recipe.ask_count
            return True
        return False

    cdef uint32_t recall(
        self, const Recipe* recipe, const uint8_t* name, uint32_t size
    ) noexcept nogil:
        """The field of this name, as `find_field`; first looks at what the last hash had here."""
        cdef Memo* memo = &self.memo[self.pair]
        cdef uint32_t word = 0
        if self.pair >= MEMO_SIZE:
            return find_field(recipe, name, size)
        if size == 4:
            memcpy(&word, name, 4)
        if self.pair < self.memo_count and memo.size == size and memo.word == word:
            if size == 4 or memcmp(self.buffer + memo.at, name, size) == 0:
                return memo.field
        memo.field = find_field(recipe, name, size)
        memo.size = size
        memo.word = word
        memo.at = <uint32_t>(name - self.buffer)
        if self.pair == self.memo_count:
            self.memo_count += 1
        return memo.field

    cdef const uint8_t* take_pairs(self, const uint8_t* at, const uint8_t* end) noexcept nogil:
        """Takes names and short values of a whole hash while both are there. Returns where the
        careful scan goes on."""
        cdef Recipe* recipe = &self.batch.plan.recipes[self.recipe]
        cdef Span* spans = self.wire + self.span_at
        cdef const uint8_t* name
        cdef const uint8_t* value
        cdef uint32_t name_size = 0, size = 0, place
        if self.items_left % 2 != 0:
            return at
        while self.items_left != 0:
            name = short_bulk(at, end, &name_size)
            if name == NULL:
                return at
            value = short_bulk(name + name_size + 2, end, &size)
            if value == NULL:
                return at
            place = self.recall(recipe, name, name_size)
            while place != NO_FIELD:
                spans[place].at = <uint32_t>(value - self.buffer)
                spans[place].size = <int32_t>size
                place = recipe.same_field[place]
            at = value + size + 2
            self.pair += 1
            self.items_left -= 2
        self.span_at += recipe.ask_count
        return at

    cdef const uint8_t* take_fields(
        self, const uint8_t* at, const uint8_t* end, uint32_t fields
    ) noexcept nogil:
        """Takes short values of an HMGET while they are there. Returns where the careful scan goes
        on."""
        cdef Span* span = self.wire + self.span_at
        cdef const uint8_t* value
        cdef uint32_t size = 0, before = self.field
        while self.field < fields:
            value = short_bulk(at, end, &size)
            if value == NULL:
                break
            span.at = <uint32_t>(value - self.buffer)
            span.size = <int32_t>size
            span += 1
            self.field += 1
            at = value + size + 2
        self.span_at += self.field - before
        return at

    cdef ScanState scan(self) noexcept nogil:
        """Reads on through the received bytes."""
        cdef const uint8_t* base = self.buffer
        cdef const uint8_t* at = base + self.scanned
        cdef const uint8_t* end = base + self.received
        cdef const uint8_t* p
        cdef uint32_t fields, _
        cdef int64_t number
        cdef Span* span
        cdef uint8_t kind
        cdef bint whole
        if self.recipe == self.batch.plan.recipe_count:
            return SCAN_DONE if at == end else SCAN_BROKEN
        if self.received > MAX_REPLY:
            return SCAN_BROKEN
        fields = self.asks[self.recipe].field_count
        whole = self.asks[self.recipe].read_all
        while True:
            if self.in_array:
                if whole:
                    at = self.take_pairs(at, end)
                else:
                    at = self.take_fields(at, end, fields)
                if (self.items_left == 0) if whole else (self.field == fields):
                    if not self.next_command():
                        self.scanned = <size_t>(at - base)
                        return SCAN_DONE if at == end else SCAN_BROKEN
                    fields = self.asks[self.recipe].field_count
                    whole = self.asks[self.recipe].read_all
                    continue
            if at == end:
                self.scanned = <size_t>(at - base)
                return SCAN_MORE
            kind = at[0]
            if self.asking and not self.announced:
                if end - at < 5 and memcmp(at, b"+OK\r\n", end - at) == 0:
                    self.scanned = <size_t>(at - base)
                    return SCAN_MORE
                if end - at < 5 or memcmp(at, b"+OK\r\n", 5) != 0:
                    return SCAN_BROKEN
                at += 5
                self.announced = True
                continue
            if kind == 45 or kind == 33:  # `-` and RESP3's `!`: an error
                if self.in_array or kind == 33:
                    return SCAN_BROKEN
                p = <const uint8_t*>memchr(at, 10, end - at)
                if p == NULL:
                    self.scanned = <size_t>(at - base)
                    return SCAN_BROKEN if end - at > MAX_LINE else SCAN_MORE
                if p - at < 3 or (p - 1)[0] != 13:
                    return SCAN_BROKEN
                if self.of_part:
                    if self.note_refusal() != 0:
                        return SCAN_NO_MEMORY
                    self.refusals[self.refusal_count - 1].at = <size_t>(at + 1 - base)
                    self.refusals[self.refusal_count - 1].size = <uint32_t>(p - at - 2)
                elif self.error_size == 0:
                    self.error_at = <size_t>(at + 1 - base)
                    self.error_size = <size_t>(p - at - 2)
                at = p + 1
                for _ in range(fields):
                    self.wire[self.span_at].size = -1
                    self.wire[self.span_at].at = 0
                    self.span_at += 1
            elif kind == 95 and self.in_array and not whole:  # `_`: RESP3's null
                if end - at < 3:
                    self.scanned = <size_t>(at - base)
                    return SCAN_MORE
                if at[1] != 13 or at[2] != 10:
                    return SCAN_BROKEN
                at += 3
                span = &self.wire[self.span_at]
                span.at = 0
                span.size = -1
                self.span_at += 1
                self.field += 1
                if self.field < fields:
                    continue
            elif (kind == 36 and self.in_array) or (
                not self.in_array and (kind == 42 or (kind == 37 and whole))
            ):
                # `$` a bulk string, `*` an array, `%` RESP3's map; all with a decimal length.
                p = at + 1
                number = 0
                if p < end and p[0] == 45:
                    if end - p < 4:
                        self.scanned = <size_t>(at - base)
                        return SCAN_MORE
                    if kind != 36 or whole or p[1] != 49 or p[2] != 13 or p[3] != 10:
                        return SCAN_BROKEN
                    at = p + 4
                    number = -1
                else:
                    while p < end and 48 <= p[0] <= 57 and p - at <= MAX_DIGITS:
                        number = number * 10 + (p[0] - 48)
                        p += 1
                    if number > MAX_BULK or p < end and (p[0] != 13 or p == at + 1):
                        return SCAN_BROKEN
                    if end - p < 2:
                        self.scanned = <size_t>(at - base)
                        return SCAN_MORE
                    if p[1] != 10:
                        return SCAN_BROKEN
                    p += 2
                    if kind != 36 and whole:
                        if kind == 37:
                            number *= 2
                        if number % 2 != 0:
                            return SCAN_BROKEN
                        self.begin_hash(<uint32_t>number)
                        at = p
                        if number > 0:
                            self.in_array = True
                            continue
                        self.span_at += fields
                    elif kind != 36:
                        if number != fields:
                            return SCAN_BROKEN
                        self.in_array = True
                        at = p
                        continue
                    elif end - p < number + 2:
                        self.scanned = <size_t>(at - base)
                        return SCAN_MORE
                    elif p[number] != 13 or p[number + 1] != 10:
                        return SCAN_BROKEN
                    else:
                        at = p + number + 2
                        if whole and not self.take_item(p, <uint32_t>number):
                            continue
                if not whole:
                    span = &self.wire[self.span_at]
                    span.at = 0 if number < 0 else <uint32_t>(p - base)
                    span.size = <int32_t>number
                    self.span_at += 1
                    self.field += 1
                    if self.field < fields:
                        continue
            else:
                return SCAN_BROKEN
            if not self.next_command():
                self.scanned = <size_t>(at - base)
                return SCAN_DONE if at == end else SCAN_BROKEN
            fields = self.asks[self.recipe].field_count
            whole = self.asks[self.recipe].read_all

    @property
    def unknown(self) -> tuple[int, int] | None:
        """A packed row that cannot be read yet: its view's index in the plan and its schema's
        number; None where there is none."""
        return None if self.unknown_view < 0 else (self.unknown_view, self.unknown_schema)

    def raise_error(self):
        """Raises the first error reply, if there was one.

        Raises:
            ReplyError: With the server's message.
        """
        if self.error_size:
            message = PyBytes_FromStringAndSize(
                <const char*>self.buffer + self.error_at, <Py_ssize_t>self.error_size
            )
            raise ReplyError(message.decode("utf-8", "replace"))

    def start(self, Batch batch not None):
        """Starts reading the replies to `batch`; for callers that feed bytes themselves."""
        if self.begin(batch) != 0:
            raise MemoryError

    def feed(self, data: bytes) -> bool:
        """Takes bytes that came from the server.

        Returns:
            Whether the replies are complete.

        Raises:
            ProtocolError: The bytes are no replies to the batch's commands.
        """
        cdef size_t size = PyBytes_GET_SIZE(data)
        if self.batch is None:
            raise ValueError("start() has not been called")
        if self.make_room(size) != 0:
            raise MemoryError
        if size:
            memcpy(self.buffer + self.received, PyBytes_AS_STRING(data), size)
        self.received += size
        state = self.scan()
        if state == SCAN_BROKEN:
            raise ProtocolError("the server's reply is not the RESP reply to what was asked")
        return state == SCAN_DONE

    @property
    def field_values(self) -> list[bytes | None]:
        """Every hash field's value, in the order of the commands; None where there is none."""
        return [
            None if self.wire[i].size < 0 else PyBytes_FromStringAndSize(
                <const char*>self.buffer + self.wire[i].at, self.wire[i].size
            )
            for i in range(self.span_at)
        ]
