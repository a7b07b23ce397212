"""Which rows of a stream of batches are the latest of their entity.

A table remembers for each entity the newest event time so far, in 40 bytes an entity, and takes a
bounded number of them. So rows that an earlier or later row of the run supersedes need not be
sent; what the table cannot hold, or cannot decide, is left to the comparison inside Redis.

Entities are told apart by 128 bits of their key's hash under a random seed.
"""

import os

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from hotfeast.hotpath.wire cimport mix
from hotfeast.hotpath.writes cimport PENDING, SUPERSEDED, WriteBatch

cdef struct Entry:
    uint64_t low, high        # the key's hash; both 0 in an empty entry
    int64_t seconds
    int32_t nanos
    uint32_t batch            # of the row, counted from 1
    uint32_t row

cdef enum:
    FIRST_CAPACITY = 4096


cdef inline uint64_t rotate(uint64_t x, int bits) noexcept nogil:
    return x << bits | x >> (64 - bits)


cdef void hash128(
    const uint8_t* at, size_t size, uint64_t seed, uint64_t* low, uint64_t* high
) noexcept nogil:
    """Two 64-bit hashes of the bytes, in the manner of MurmurHash3's 128-bit form."""
    cdef uint64_t a = seed ^ size, b = mix(seed + size), word
    cdef size_t rest
    while size > 0:
        word = 0
        rest = min(size, <size_t>8)
        memcpy(&word, at, rest)
        a = rotate(a ^ mix(word + b), 27) * 5 + 0x52dce729u
        b = rotate(b + mix(word ^ a), 31) * 5 + 0x38495ab5u
        at += rest
        size -= rest
    low[0] = mix(a + b)
    high[0] = mix(b ^ rotate(a, 17))
    if low[0] == 0 and high[0] == 0:
        low[0] = 1


cdef class LatestRows:
    """The newest event time of each entity in a run of batches of one view."""

    cdef Entry* entries
    cdef size_t capacity          # a power of two
    cdef size_t used
    cdef readonly size_t limit
    cdef uint64_t seed
    cdef uint32_t batches
    cdef uint8_t* key
    cdef size_t key_capacity

    def __cinit__(self, size_t limit=1000000):
        """
        Args:
            limit: Entities that are remembered at most.
        """
        self.limit = limit
        self.seed = int.from_bytes(os.urandom(8), "little")
        self.capacity = FIRST_CAPACITY
        self.entries = <Entry*>calloc(self.capacity, sizeof(Entry))
        if self.entries == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.entries)
        free(self.key)

    def __len__(self) -> int:
        """Entities that are remembered."""
        return self.used

    cdef Entry* find(self, uint64_t low, uint64_t high) noexcept nogil:
        """The entry of a key, or the empty one where it belongs."""
        cdef size_t at = low & (self.capacity - 1)
        cdef Entry* entry
        while True:
            entry = &self.entries[at]
            if entry.low == low and entry.high == high or entry.low == 0 and entry.high == 0:
                return entry
            at = (at + 1) & (self.capacity - 1)

    cdef int grow(self) noexcept nogil:
        cdef Entry* old = self.entries
        cdef size_t capacity = self.capacity, i
        self.entries = <Entry*>calloc(capacity * 2, sizeof(Entry))
        if self.entries == NULL:
            self.entries = old
            return -1
        self.capacity = capacity * 2
        for i in range(capacity):
            if old[i].low or old[i].high:
                self.find(old[i].low, old[i].high)[0] = old[i]
        free(old)
        return 0

    def sift(self, WriteBatch batch not None) -> int:
        """Takes the rows out of a batch that another row of their entity supersedes.

        Rows of equal event time within the batch: the later one stays, unless created times decide.
        Where the batch's rows are not compared in Redis, those that only Redis can judge are marked
        to be compared all the same.

        Returns:
            How many rows were taken out.

        Raises:
            MemoryError: The table cannot grow.
        """
        cdef uint32_t row, superseded = 0
        cdef int order
        cdef size_t size
        cdef uint64_t low = 0, high = 0
        cdef Entry* entry
        cdef uint8_t* grown
        self.batches += 1
        for row in range(batch.rows):
            if batch.states[row] != PENDING:
                continue
            size = batch.key_size(row)
            if size > self.key_capacity:
                grown = <uint8_t*>malloc(2 * size)
                if grown == NULL:
                    raise MemoryError
                free(self.key)
                self.key = grown
                self.key_capacity = 2 * size
            batch.put_key(self.key, row)
            hash128(self.key, size, self.seed, &low, &high)
            entry = self.find(low, high)
            if entry.low == 0 and entry.high == 0:
                if self.used >= self.limit:
                    self.leave_to_redis(batch, row)
                    continue
                entry.low = low
                entry.high = high
                self.used += 1
                self.note(entry, batch, row)
                if 2 * self.used > self.capacity and self.grow() != 0:
                    raise MemoryError
                continue
            order = compare(batch, row, entry)
            if order < 0:
                batch.states[row] = SUPERSEDED
                superseded += 1
            elif entry.batch != self.batches:
                # The entity's earlier row has been sent; Redis knows its created time.
                if order == 0 and batch.plan.has_created:
                    self.leave_to_redis(batch, row)
                self.note(entry, batch, row)
            else:
                if order == 0 and created_before(batch, row, entry.row):
                    batch.states[row] = SUPERSEDED
                elif order == 0 and only_created(batch, row, entry.row):
                    # The row before wins over whatever is stored with its event time, and this one
                    # only through it.
                    self.leave_to_redis(batch, row)
                    self.note(entry, batch, row)
                    continue
                else:
                    batch.states[entry.row] = SUPERSEDED
                    if batch.by_script != NULL and batch.by_script[entry.row]:
                        batch.by_script[row] = 1
                    self.note(entry, batch, row)
                superseded += 1
        return superseded

    cdef int leave_to_redis(self, WriteBatch batch, uint32_t row) except -1:
        if batch.by_script == NULL:
            batch.by_script = <uint8_t*>calloc(<size_t>batch.rows + 1, 1)
            if batch.by_script == NULL:
                raise MemoryError
        batch.by_script[row] = 1
        return 0

    cdef void note(self, Entry* entry, WriteBatch batch, uint32_t row) noexcept nogil:
        entry.seconds = batch.seconds[row]
        entry.nanos = batch.nanos[row]
        entry.batch = self.batches
        entry.row = row


cdef int compare(WriteBatch batch, uint32_t row, const Entry* entry) noexcept nogil:
    """The order of a row's event time and an entry's: -1, 0 or 1."""
    if batch.seconds[row] != entry.seconds:
        return -1 if batch.seconds[row] < entry.seconds else 1
    if batch.nanos[row] != entry.nanos:
        return -1 if batch.nanos[row] < entry.nanos else 1
    return 0


cdef bint only_created(WriteBatch batch, uint32_t row, uint32_t other) noexcept nogil:
    """Whether a row has a created time and another has none."""
    if batch.created_nanos == NULL:
        return False
    return batch.created_nanos[row] >= 0 and batch.created_nanos[other] < 0


cdef bint created_before(WriteBatch batch, uint32_t row, uint32_t other) noexcept nogil:
    """Whether a row was created before another of the same event time; no where one has no time."""
    if batch.created_nanos == NULL:
        return False
    if batch.created_nanos[row] < 0 or batch.created_nanos[other] < 0:
        return False
    if batch.created_seconds[row] != batch.created_seconds[other]:
        return batch.created_seconds[row] < batch.created_seconds[other]
    return batch.created_nanos[row] < batch.created_nanos[other]
