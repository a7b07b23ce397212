"""A batch split by the nodes of a Redis Cluster, and the replies put together again.

Each node is sent one part: the commands of the keys that it has, in one go. Once a part's replies
are complete, its values are copied behind those of the others, into the one buffer that the
response is written from, and its cells go where the batch has them.

A node may put a command off: its slot is elsewhere (MOVED), its key is on the way elsewhere (ASK),
or nobody can answer at the moment (TRYAGAIN, CLUSTERDOWN, LOADING, MASTERDOWN). Only these commands
are sent again. So are those of a node that did not answer, for as long as the caller likes; then
their rows are unread.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy

from hotfeast.hotpath.batch cimport Ask, Batch
from hotfeast.hotpath.link cimport (
    BROKEN,
    DONE,
    PENDING,
    POLLIN,
    POLLOUT,
    TIMED_OUT,
    Outcome,
    allow_more,
    begin_transfer,
    failure_of,
    monotonic_ns,
    poll,
    pollfd,
    receive_some,
    send_more,
)
from hotfeast.hotpath.packed cimport SETTLE_NO_MEMORY, SETTLED, SPAN_UNREAD, settle
from hotfeast.hotpath.reply cimport Reply, Span
from hotfeast.hotpath.slots cimport NO_NODE, SlotMap, puts_off, slot_of

cdef enum:
    # Spans hold 32-bit offsets.
    MOST_GATHERED = 0xFFFFFFF0


cdef class Part:
    """The commands of a batch that one node is sent.

    Attributes:
        node: Its address.
        asking: Whether each command is announced with ASKING.
        count: How many commands there are.
    """

    def __dealloc__(self):
        free(self.asks)
        free(self.entities)
        free(self.commands)
        free(self.out.commands)
        free(self.out.chunks)

    cdef int begin(self, Reply reply) except -1:
        """Starts reading the replies into a connection's buffer."""
        if reply.begin_part(self.batch, self.asks, self.out.span_count, self.asking) != 0:
            raise MemoryError
        begin_transfer(&self.transfer, &self.out)
        return 0

    def start(self, Reply reply not None) -> bytes:
        """Starts reading the replies into a connection's buffer, for callers that feed it
        themselves.

        Returns:
            The commands to send.
        """
        self.begin(reply)
        return PyBytes_FromStringAndSize(<const char*>self.out.commands, self.out.size)


cdef class Scatter:
    """A batch on its way through a cluster. One thread at a time may use it.

    Attributes:
        batch: The batch.
        reply: What its cells are gathered in; complete once `settle` says so.
        parts: What is to be exchanged next; see `taken_up`.
        put_off: Commands that were not answered: each one's number, the node, and what it said or
            why it did not. To be sent again with `ask_again`, or given up.
        deadline: Monotonic seconds until which the loop reads it; 0 where it does not.
    """

    def __cinit__(self, Batch batch not None, Reply reply not None):
        """
        Args:
            batch: Made with `scattered`.
            reply: Buffers that nobody else uses.

        Raises:
            ValueError: The batch is for one server.
        """
        if not batch.scattered:
            raise ValueError("this batch is for one server")
        self.batch = batch
        self.reply = reply
        self.parts = []
        self.put_off = []
        self.first_command = <uint32_t*>malloc((batch.plan.recipe_count + 1) * sizeof(uint32_t))
        self.first_span = <size_t*>malloc((batch.plan.recipe_count + 1) * sizeof(size_t))
        if self.first_command == NULL or self.first_span == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.owners)
        free(self.first_command)
        free(self.first_span)

    def begin(self, SlotMap slots not None) -> None:
        """Starts on the batch's commands; also once more from the start."""
        self.batch.unread = {}
        if self.reply.begin(self.batch) != 0:
            raise MemoryError
        self.count_commands()
        self.own_by_slot(slots)
        self.make_parts()

    def take(self, Part part not None, Reply reply not None) -> None:
        """Takes the complete replies to a part, which are used up.

        Raises:
            ValueError: They are not complete, or another part's.
        """
        cdef Reply whole = self.reply
        cdef size_t base = whole.received, at = 0, to
        cdef uint32_t r, f, width, command = 0, number, refusal = 0, _
        cdef Span* source
        cdef Span* target
        if reply.asks != part.asks or reply.recipe != self.batch.plan.recipe_count:
            raise ValueError("these are not the complete replies to this part")
        if base + reply.received > MOST_GATHERED or whole.make_room(reply.received) != 0:
            raise MemoryError
        memcpy(whole.buffer + base, reply.buffer, reply.received)
        whole.received += reply.received
        for r in range(self.batch.plan.recipe_count):
            width = part.asks[r].field_count
            for _ in range(part.asks[r].entity_count):
                number = part.commands[command]
                source = reply.wire + at
                at += width
                if refusal < reply.refusal_count and (
                    reply.refusals[refusal].command == command
                ):
                    if puts_off(
                        reply.buffer + reply.refusals[refusal].at, reply.refusals[refusal].size
                    ):
                        self.owners[number] = PUT_OFF
                        said = reply.buffer[
                            reply.refusals[refusal].at :
                            reply.refusals[refusal].at + reply.refusals[refusal].size
                        ]
                        self.put_off.append((number, part.node, said.decode("utf-8", "replace")))
                        refusal += 1
                        command += 1
                        continue
                    if whole.error_size == 0:
                        whole.error_at = base + reply.refusals[refusal].at
                        whole.error_size = reply.refusals[refusal].size
                    refusal += 1
                to = self.first_span[r] + <size_t>(number - self.first_command[r]) * width
                target = whole.wire + to
                for f in range(width):
                    target[f].size = source[f].size
                    target[f].at = source[f].at + <uint32_t>base if source[f].size >= 0 else 0
                self.owners[number] = ANSWERED
                command += 1

    def fail(self, Part part not None, str why not None) -> None:
        """Takes note of a part that was not answered, or not all of it."""
        cdef uint32_t i
        for i in range(part.count):
            self.owners[part.commands[i]] = PUT_OFF
            self.put_off.append((part.commands[i], part.node, why))

    def ask_again(self, SlotMap slots not None, dict redirected not None) -> None:
        """Makes parts of the commands that were put off.

        Args:
            slots: Which node has which slot, now.
            redirected: By number those commands whose node is known otherwise: its address, and
                whether it wants ASKING.
        """
        cdef uint32_t number
        waiting, self.put_off = self.put_off, []
        for number, _, _ in waiting:
            self.owners[number] = UNOWNED
        self.own_by_slot(slots)
        for number, target in redirected.items():
            if target not in self.targets:
                self.targets.append(target)
            self.owners[number] = <uint16_t>self.targets.index(target)
        self.put_off = [each for each in self.put_off if each[0] not in redirected]
        self.make_parts()

    def give_up(self, dict reasons not None) -> None:
        """Makes rows unread whose commands were put off.

        Args:
            reasons: By the commands' numbers, why.
        """
        cdef uint32_t number, r, f, width, place
        cdef Span* cells
        waiting, self.put_off = self.put_off, []
        for each in waiting:
            number = each[0]
            why = reasons.get(number)
            if why is None:
                self.put_off.append(each)
                continue
            r = self.recipe_of(number)
            width = self.batch.asks[r].field_count
            place = number - self.first_command[r]
            cells = self.reply.wire + self.first_span[r] + <size_t>place * width
            for f in range(width):
                cells[f].at = 0
                cells[f].size = SPAN_UNREAD
            self.owners[number] = ANSWERED
            self.batch.unread[r, self.entity_of(r, place)] = why

    def settle(self, SlotMap slots not None) -> bool:
        """Works out the cells once every command has been answered or given up.

        Returns:
            Whether that was all. If not, there are further commands in `parts`.
        """
        cdef Reply reply = self.reply
        if self.parts or self.put_off:
            raise ValueError("there are commands that have not been answered")
        reply.recipe = self.batch.plan.recipe_count
        reply.scanned = reply.received
        if reply.settled or reply.error_size > 0:
            return True
        settled = settle(self.batch, reply)
        if settled == SETTLE_NO_MEMORY:
            raise MemoryError
        if settled == SETTLED:
            return True
        self.count_commands()
        self.own_by_slot(slots)
        self.make_parts()
        return False

    def slot(self, uint32_t number) -> int:
        """The slot of a command's key."""
        cdef uint32_t r = self.recipe_of(number)
        cdef uint32_t e = self.entity_of(r, number - self.first_command[r])
        key = bytearray(self.batch.key_size(r, e))
        self.batch.put_key(key, r, e)
        return slot_of(key, len(key))

    cdef uint32_t recipe_of(self, uint32_t command) noexcept:
        cdef uint32_t r = self.batch.plan.recipe_count - 1
        while self.first_command[r] > command:
            r -= 1
        return r

    cdef uint32_t entity_of(self, uint32_t recipe, uint32_t place) noexcept:
        cdef const Ask* ask = &self.batch.asks[recipe]
        return place if ask.entities == NULL else ask.entities[place]

    cdef int count_commands(self) except -1:
        """Numbers the commands at hand; none has a node yet."""
        cdef uint32_t r, number
        cdef size_t span = 0
        cdef uint16_t* grown
        self.total = 0
        for r in range(self.batch.plan.recipe_count):
            self.first_command[r] = self.total
            self.first_span[r] = span
            self.total += self.batch.asks[r].entity_count
            span += <size_t>self.batch.asks[r].entity_count * self.batch.asks[r].field_count
        grown = <uint16_t*>realloc(self.owners, (self.total + 1) * sizeof(uint16_t))
        if grown == NULL:
            raise MemoryError
        self.owners = grown
        for number in range(self.total):
            self.owners[number] = UNOWNED
        self.put_off = []
        return 0

    cdef int own_by_slot(self, SlotMap slots) except -1:
        """Gives the commands without a node to those that have their slots; puts those off whose
        slot nobody serves."""
        cdef uint32_t r, n, e, number, node
        cdef size_t size, room = 0
        cdef uint8_t* key = NULL
        cdef uint8_t* grown
        self.targets = [(node_name, False) for node_name in slots.nodes]
        for r in range(self.batch.plan.recipe_count):
            for n in range(self.batch.asks[r].entity_count):
                number = self.first_command[r] + n
                if self.owners[number] != UNOWNED:
                    continue
                e = self.entity_of(r, n)
                size = self.batch.key_size(r, e)
                if size > room:
                    grown = <uint8_t*>realloc(key, 2 * size)
                    if grown == NULL:
                        free(key)
                        raise MemoryError
                    key, room = grown, 2 * size
                self.batch.put_key(key, r, e)
                node = slots.node_of_key(key, size)
                self.owners[number] = <uint16_t>node
                if node == NO_NODE:
                    self.owners[number] = PUT_OFF
                    why = f"no node serves slot {slot_of(key, size)}"
                    self.put_off.append((number, "", why))
        free(key)
        return 0

    cdef int make_parts(self) except -1:
        """Makes a part of what each node is to be sent."""
        cdef uint32_t targets = <uint32_t>len(self.targets)
        cdef uint32_t r, n, number, target, at
        cdef uint32_t* counts = <uint32_t*>calloc(targets + 1, sizeof(uint32_t))
        cdef Part part
        if counts == NULL:
            raise MemoryError
        for number in range(self.total):
            if self.owners[number] < targets:
                counts[self.owners[number]] += 1
        self.parts = []
        try:
            for target in range(targets):
                if counts[target] == 0:
                    continue
                part = Part.__new__(Part)
                part.batch = self.batch
                part.node, part.asking = self.targets[target]
                part.count = counts[target]
                part.asks = <Ask*>malloc((self.batch.plan.recipe_count + 1) * sizeof(Ask))
                part.entities = <uint32_t*>malloc(part.count * sizeof(uint32_t))
                part.commands = <uint32_t*>malloc(part.count * sizeof(uint32_t))
                if part.asks == NULL or part.entities == NULL or part.commands == NULL:
                    raise MemoryError
                at = 0
                for r in range(self.batch.plan.recipe_count):
                    part.asks[r] = self.batch.asks[r]
                    part.asks[r].entities = part.entities + at
                    part.asks[r].entity_count = 0
                    for n in range(self.batch.asks[r].entity_count):
                        number = self.first_command[r] + n
                        if self.owners[number] == target:
                            part.entities[at] = self.entity_of(r, n)
                            part.commands[at] = number
                            part.asks[r].entity_count += 1
                            at += 1
                if self.batch.write_commands(&part.out, part.asks, part.asking) != 0:
                    raise MemoryError
                self.parts.append(part)
        finally:
            free(counts)
        return 0

    def taken_up(self) -> list[Part]:
        """The parts, to be exchanged by whoever calls this, and told of with `take` or `fail`."""
        parts, self.parts = self.parts, []
        return parts


cdef Outcome step_part(int fd, Part part, Reply reply, bint readable) noexcept nogil:
    """Takes what has come, if there is something, and sends what may be sent. Returns DONE once the
    replies are complete, or why they cannot be had, or PENDING."""
    cdef Outcome outcome
    if readable:
        outcome = receive_some(fd, reply)
        if outcome == DONE:
            # A reply that is complete before its commands are sent is somebody else's.
            return DONE if part.transfer.sent == part.out.size else BROKEN
        if outcome != PENDING:
            return outcome
        allow_more(&part.out, reply, &part.transfer)
    return send_more(fd, &part.out, &part.transfer)


def exchange_parts(list links not None, double timeout) -> list[Exception | None]:
    """Sends parts to their nodes and reads the replies, all at once.

    Args:
        links: For each part a triple: the part; a connected stream socket's descriptor, not
            encrypted; and the `Reply` that its replies are read into.
        timeout: Seconds for all of it.

    Returns:
        For each part None once its replies are complete, or why they are not: errors as of
        `hotfeast.hotpath.link.exchange`. Such a connection is out of step and must be closed.
    """
    cdef int64_t deadline = monotonic_ns() + <int64_t>(timeout * 1e9), remaining
    cdef uint32_t count = <uint32_t>len(links), i, left = 0
    cdef pollfd* waits = <pollfd*>calloc(count + 1, sizeof(pollfd))
    cdef Outcome outcome
    cdef Part part
    cdef Reply reply
    cdef int ready, error
    if waits == NULL:
        raise MemoryError
    failures = [None] * count
    try:
        for i in range(count):
            part, descriptor, reply = links[i]
            part.begin(reply)
            waits[i].fd = descriptor
            outcome = step_part(descriptor, part, reply, False)
            if outcome == PENDING:
                left += 1
            else:
                failures[i] = failure_of(outcome, errno, timeout)
                waits[i].fd = -1
        while left > 0:
            remaining = (deadline - monotonic_ns() + 999999) // 1000000
            for i in range(count):
                if waits[i].fd >= 0:
                    if remaining <= 0:
                        failures[i] = failure_of(TIMED_OUT, 0, timeout)
                        continue
                    part = links[i][0]
                    waits[i].events = POLLIN
                    if part.transfer.sent < part.transfer.limit:
                        waits[i].events |= POLLOUT
                    waits[i].revents = 0
            if remaining <= 0:
                break
            with nogil:
                ready = poll(waits, count, <int>min(remaining, <int64_t>0x7FFFFFFF))
                error = errno
            if ready < 0 and error != EINTR:
                raise OSError(error, "cannot wait for Redis")
            if ready <= 0:
                continue
            for i in range(count):
                if waits[i].fd < 0 or waits[i].revents == 0:
                    continue
                part, _, reply = links[i]
                outcome = step_part(
                    waits[i].fd, part, reply, (waits[i].revents & ~POLLOUT) != 0
                )
                if outcome != PENDING:
                    if outcome != DONE:
                        failures[i] = failure_of(outcome, errno, timeout)
                    waits[i].fd = -1
                    left -= 1
    finally:
        free(waits)
    return failures
