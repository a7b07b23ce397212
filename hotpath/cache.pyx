"""Rows that have been read, kept in bounded memory, so that those asked for most are not asked for
again.

What is kept of an entity are its settled cells for one key recipe of one plan: sizes and bytes, row
times among them. Statuses are not: every answer judges them anew from the cells, so that a row that
passes its TTL is OUTSIDE_MAX_AGE from the cache too. Cells are copied before they are judged, since
judging changes them. A plan's token is its own, so entries of plans that were replaced are found by
nobody and make way in time.

An entry counts for as long as its recipe allows since Redis was asked for it, and no longer than
until its Redis key is invalidated: by a write through this gateway (`forget_rows`), or because
Redis tells of a write by anybody (`invalidate`). Without word from Redis (`shut`) nothing is kept
or found.

A row that is written while it is being read must not be kept as it was before. So each bucket of
the table has an epoch, which grows with every invalidation of a key that belongs there. The epochs
are noted before Redis is asked, and what has been read is kept only where they are still the same.
A write invalidates its keys after Redis has answered it and before its caller is answered: whoever
reads from then on is not given the old row, and whoever had read it before does not keep it.

Keys are found through SipHash-1-3 under a secret seed, so that nobody can choose keys which fall on
one place, and compared in full. One key may have entries of many plans; as of a number, the oldest
of them makes way, since they share a bucket.

Eviction is SIEVE: entries queue in order of arrival, a hand goes from the oldest to the newest,
passes over those that were found since it last came by, and takes the first other one. Being found
costs no more than setting a mark, and a scan over many entities once does not displace those that
are asked for again and again. The hand passes over a bounded number at a time.

Bytes are counted as glibc's malloc takes them from the heap, the table included, and never exceed
the capacity. The global interpreter lock is what keeps threads apart: nothing here runs without it,
and nothing gives it away in the middle.
"""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from hotfeast.hotpath.batch cimport Batch, Sought
from hotfeast.hotpath.packed cimport SPAN_ABSENT
from hotfeast.hotpath.plan cimport Plan, View
from hotfeast.hotpath.reply cimport Reply, Span
from hotfeast.hotpath.writes cimport REJECTED, WriteBatch

cdef enum:
    # Bytes of capacity for each bucket, and the least number of buckets.
    BYTES_PER_BUCKET = 512
    LEAST_BUCKETS = 64
    # An entry may take an eighth of the room at most, so that one does not displace all others.
    LARGEST_SHARE = 8
    MOST_PER_KEY = 32
    # Marked entries that the hand passes over before it takes one all the same.
    MOST_PASSED = 64
    # Bytes that are copied into one reply at most; spans hold 32-bit offsets.
    MOST_RESTORED = 1073741824


cdef inline int64_t monotonic_ns() noexcept:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


cdef inline uint64_t rotate(uint64_t x, int bits) noexcept:
    return x << bits | x >> (64 - bits)


cdef inline void sip_round(uint64_t* v) noexcept:
    v[0] += v[1]
    v[1] = rotate(v[1], 13) ^ v[0]
    v[0] = rotate(v[0], 32)
    v[2] += v[3]
    v[3] = rotate(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = rotate(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = rotate(v[1], 17) ^ v[2]
    v[2] = rotate(v[2], 32)


cdef uint64_t sip_hash(const uint64_t* seed, const uint8_t* at, size_t size) noexcept:
    """SipHash-1-3 (Aumasson and Bernstein, 2012): one round a word, three at the end."""
    cdef uint64_t v[4]
    cdef uint64_t word, last = <uint64_t>size << 56
    v[0] = seed[0] ^ <uint64_t>0x736f6d6570736575u
    v[1] = seed[1] ^ <uint64_t>0x646f72616e646f6du
    v[2] = seed[0] ^ <uint64_t>0x6c7967656e657261u
    v[3] = seed[1] ^ <uint64_t>0x7465646279746573u
    while size >= 8:
        memcpy(&word, at, 8)
        v[3] ^= word
        sip_round(v)
        v[0] ^= word
        at += 8
        size -= 8
    word = 0
    memcpy(&word, at, size)
    last |= word
    v[3] ^= last
    sip_round(v)
    v[0] ^= last
    v[2] ^= 0xFF
    sip_round(v)
    sip_round(v)
    sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


cdef inline size_t block_size(size_t size) noexcept:
    """Bytes that glibc's malloc takes for a block: 8 in front, in steps of 16."""
    return (size + 8 + 15) & ~<size_t>15


cdef inline int32_t* sizes_of(Entry* entry) noexcept:
    return <int32_t*>(entry + 1)


cdef inline uint8_t* key_of(Entry* entry) noexcept:
    return <uint8_t*>(sizes_of(entry) + entry.field_count)


cdef inline size_t size_of(const Entry* entry) noexcept:
    return (
        sizeof(Entry) + entry.field_count * sizeof(int32_t) + entry.key_size
        + <size_t>entry.value_size
    )


cdef class RowCache:
    """A cache of rows, for any number of threads.

    Attributes:
        capacity: Bytes at most.
        used: Bytes that are taken, the table included.
        entries: How many entities are in it, once for each plan and key recipe.
        hits, misses: Entities that were found, and that were not, of those that may be cached.
        evictions: Entries that made way for others.
        invalidations: Entries that were dropped because their keys were written.
        live: Whether it is in use; see `open`.
    """

    def __cinit__(self, size_t capacity):
        """
        Args:
            capacity: Bytes at most, 65,536 or more.

        Raises:
            ValueError: It is less.
        """
        cdef size_t count = LEAST_BUCKETS
        cdef const uint8_t* at
        if capacity < 65536:
            raise ValueError(f"a cache of {capacity} bytes; it must have at least 65536")
        while 2 * count * BYTES_PER_BUCKET <= capacity:
            count *= 2
        self.buckets = <Bucket*>calloc(count, sizeof(Bucket))
        if self.buckets == NULL:
            raise MemoryError
        self.mask = count - 1
        self.capacity = capacity
        self.used = block_size(count * sizeof(Bucket))
        self.largest = (capacity - self.used) // LARGEST_SHARE
        seed = os.urandom(16)
        at = <const uint8_t*>PyBytes_AS_STRING(seed)
        memcpy(self.seed, at, 16)

    def __dealloc__(self):
        while self.oldest != NULL:
            self.remove(self.oldest)
        free(self.buckets)

    def open(self) -> None:
        """Takes the cache into use: from now on it is told of every write to what is read."""
        self.clear()
        self.live = True

    def shut(self) -> None:
        """Takes the cache out of use: it is no longer told of writes. All is forgotten."""
        self.live = False
        self.clear()

    def clear(self) -> None:
        """Forgets all, and what is being read at the moment, too."""
        self.generation += 1
        self.invalidations += self.entries
        while self.oldest != NULL:
            self.remove(self.oldest)

    def invalidate(self, list keys) -> None:
        """Forgets what is kept of Redis keys, and what of them is being read at the moment.

        Args:
            keys: The keys, as bytes; None for all there are.
        """
        if keys is None:
            self.clear()
            return
        for key in keys:
            self.key_size = <size_t>PyBytes_GET_SIZE(<bytes?>key)
            if self.key_size <= LONGEST_KEY:
                memcpy(self.key, PyBytes_AS_STRING(key), self.key_size)
                self.forget()

    def forget_rows(self, WriteBatch batch not None) -> None:
        """Forgets what is kept of the keys of rows that have been written."""
        cdef uint32_t row
        for row in range(batch.rows):
            if batch.states[row] == REJECTED:
                continue
            self.key_size = batch.key_size(row)
            if self.key_size <= LONGEST_KEY:
                batch.put_key(self.key, row)
                self.forget()

    def start(self, Batch batch not None, Reply reply not None) -> None:
        """Starts reading the replies to `batch`, as `Reply.start`, with what the cache has of it in
        place; for callers that feed bytes themselves."""
        if self.begin(batch, reply) != 0:
            raise MemoryError

    def store(self, Batch batch not None, Reply reply not None) -> None:
        """Keeps what has been read for a batch; for callers that feed bytes themselves.

        Args:
            batch: Was started with `start`.
            reply: Its settled cells, which nobody has judged yet.

        Raises:
            ValueError: The reply is another batch's, or not complete.
        """
        if reply.batch is not batch or not reply.settled or (
            reply.recipe != batch.plan.recipe_count
        ):
            raise ValueError("these are not the complete replies to this batch")
        self.keep(batch, reply)

    cdef int begin(self, Batch batch, Reply reply) noexcept:
        """As `start`. Returns 0, or -1 where there is no memory."""
        if reply.clear(batch) != 0 or self.recall(batch, reply) != 0:
            return -1
        return reply.expect_first()

    cdef int recall(self, Batch batch, Reply reply) noexcept:
        """Makes cells of what is kept, and takes it out of what is asked for. Returns 0 or -1."""
        cdef Plan plan = batch.plan
        cdef int64_t limit, now
        cdef uint32_t r, e
        cdef uint64_t found = 0
        cdef Sought* sought
        cdef Entry* entry
        batch.seeking = False
        if not plan.cacheable or batch.entity_total == 0:
            return 0
        if not (self.live and plan.followed):
            self.count_misses(batch)
            return 0
        if batch.sought == NULL:
            batch.sought = <Sought*>malloc(batch.entity_total * sizeof(Sought))
            if batch.sought == NULL:
                return -1
        now = monotonic_ns()
        batch.sought_ns = now
        batch.sought_in = self.generation
        sought = batch.sought
        for r in range(plan.recipe_count):
            limit = plan.recipes[r].cache_ns
            for e in range(batch.lookups[r].entity_count):
                sought.known = sought.wanted = False
                self.key_size = batch.key_size(r, e)
                if limit > 0 and self.key_size <= LONGEST_KEY:
                    batch.put_key(self.key, r, e)
                    sought.hash = sip_hash(self.seed, self.key, self.key_size)
                    sought.epoch = self.bucket_of(sought.hash).epoch
                    entry = self.find(sought.hash, plan.token, r)
                    if entry != NULL and now - entry.read_ns >= limit:
                        self.remove(entry)
                        entry = NULL
                    if entry != NULL and reply.received + entry.value_size > MOST_RESTORED:
                        entry = NULL
                    if entry == NULL:
                        sought.wanted = True
                        self.misses += 1
                    # Cells without bytes are copied in whole words, too: there must be a buffer.
                    elif reply.make_room(<size_t>entry.value_size + 1) != 0:
                        return -1
                    else:
                        self.restore(entry, batch, reply, e)
                        sought.known = True
                        found += 1
                sought += 1
        self.hits += found
        batch.seeking = True
        return batch.ask_rest() if found else 0

    cdef void count_misses(self, Batch batch) noexcept:
        cdef uint32_t r
        for r in range(batch.plan.recipe_count):
            if batch.plan.recipes[r].cache_ns > 0:
                self.misses += batch.lookups[r].entity_count

    cdef void restore(self, Entry* entry, Batch batch, Reply reply, uint32_t entity) noexcept:
        """Makes the cells of an entity those of an entry. The buffer has room for them."""
        cdef const int32_t* sizes = sizes_of(entry)
        cdef Span* cells = reply.spans + batch.lookups[entry.recipe].first_span
        cdef uint32_t f, at = <uint32_t>reply.received
        cells += <size_t>entity * entry.field_count
        memcpy(reply.buffer + at, key_of(entry) + entry.key_size, entry.value_size)
        for f in range(entry.field_count):
            cells[f].size = sizes[f]
            cells[f].at = 0
            if sizes[f] >= 0:
                cells[f].at = at
                at += <uint32_t>sizes[f]
        reply.received = at
        entry.visited = True

    cdef void keep(self, Batch batch, Reply reply) noexcept:
        """Keeps what has been read since `begin`, but for rows that were written meanwhile, and for
        those that cannot be sent; nothing where Redis answered with an error."""
        cdef Plan plan = batch.plan
        cdef const Sought* sought = batch.sought
        cdef uint32_t r, e
        if not batch.seeking or not reply.settled or reply.error_size > 0:
            return
        batch.seeking = False
        # Rows of a schema that nobody knows yet are about to be read again.
        if not self.live or self.generation != batch.sought_in or reply.unknown_view >= 0:
            return
        for r in range(plan.recipe_count):
            for e in range(batch.lookups[r].entity_count):
                if sought.wanted and self.bucket_of(sought.hash).epoch == sought.epoch:
                    self.insert(batch, reply, r, e, sought.hash)
                sought += 1

    cdef void insert(
        self, Batch batch, Reply reply, uint32_t recipe, uint32_t entity, uint64_t hash
    ) noexcept:
        """Makes an entry of an entity's cells. Leaves it out where there is no memory for it."""
        cdef Plan plan = batch.plan
        cdef uint32_t count = plan.recipes[recipe].field_count
        cdef const Span* cells = reply.spans + batch.lookups[recipe].first_span
        cdef size_t size = 0
        cdef Bucket* bucket = self.bucket_of(hash)
        cdef View* view
        cdef Entry* entry
        cdef uint8_t* to
        cdef uint32_t f, v
        cells += <size_t>entity * count
        for v in range(plan.view_count):
            view = &plan.views[v]
            if view.recipe == recipe:
                if cells[view.first_field + view.feature_count].size < SPAN_ABSENT:
                    return
        for f in range(count):
            if cells[f].size > 0:
                size += <size_t>cells[f].size
        self.key_size = batch.key_size(recipe, entity)
        batch.put_key(self.key, recipe, entity)
        entry = self.find(hash, plan.token, recipe)
        if entry != NULL:
            self.remove(entry)
        size += sizeof(Entry) + count * sizeof(int32_t) + self.key_size
        if block_size(size) > self.largest:
            return
        self.make_room_beside(hash)
        while self.used + block_size(size) > self.capacity:
            self.evict()
        entry = <Entry*>malloc(size)
        if entry == NULL:
            return
        entry.hash = hash
        entry.token = plan.token
        entry.read_ns = batch.sought_ns
        entry.recipe = recipe
        entry.field_count = count
        entry.key_size = <uint32_t>self.key_size
        entry.visited = False
        memcpy(key_of(entry), self.key, self.key_size)
        to = key_of(entry) + self.key_size
        for f in range(count):
            sizes_of(entry)[f] = cells[f].size
            if cells[f].size > 0:
                memcpy(to, reply.buffer + cells[f].at, <size_t>cells[f].size)
                to += cells[f].size
        entry.value_size = <uint32_t>(to - key_of(entry) - self.key_size)
        entry.next = bucket.first
        bucket.first = entry
        entry.newer = NULL
        entry.older = self.newest
        if self.newest != NULL:
            self.newest.newer = entry
        else:
            self.oldest = entry
        self.newest = entry
        self.entries += 1
        self.used += block_size(size)

    cdef Bucket* bucket_of(self, uint64_t hash) noexcept:
        return &self.buckets[hash & self.mask]

    cdef bint is_of_key(self, const Entry* entry, uint64_t hash) noexcept:
        """Whether an entry is of the key in `key`, whose hash this is."""
        return entry.hash == hash and entry.key_size == self.key_size and (
            memcmp(key_of(<Entry*>entry), self.key, self.key_size) == 0
        )

    cdef Entry* find(self, uint64_t hash, uint64_t token, uint32_t recipe) noexcept:
        """The entry of a plan's recipe for the key in `key`, or NULL."""
        cdef Entry* entry = self.bucket_of(hash).first
        while entry != NULL:
            if entry.token == token and entry.recipe == recipe and self.is_of_key(entry, hash):
                return entry
            entry = entry.next
        return NULL

    cdef void make_room_beside(self, uint64_t hash) noexcept:
        """Takes away the entry of the key in `key` that was read first, if there are too many."""
        cdef Entry* entry = self.bucket_of(hash).first
        cdef Entry* first = NULL
        cdef uint32_t count = 0
        while entry != NULL:
            if self.is_of_key(entry, hash):
                count += 1
                if first == NULL or entry.read_ns < first.read_ns:
                    first = entry
            entry = entry.next
        if count >= MOST_PER_KEY:
            self.remove(first)
            self.evictions += 1

    cdef void forget(self) noexcept:
        """Drops the entries of the key in `key`, and keeps those from being made that are being
        read."""
        cdef uint64_t hash = sip_hash(self.seed, self.key, self.key_size)
        cdef Bucket* bucket = self.bucket_of(hash)
        cdef Entry* entry = bucket.first
        cdef Entry* following
        bucket.epoch += 1
        while entry != NULL:
            following = entry.next
            if self.is_of_key(entry, hash):
                self.remove(entry)
                self.invalidations += 1
            entry = following

    cdef void evict(self) noexcept:
        """Takes away one entry, of which there must be one."""
        cdef Entry* at = self.hand if self.hand != NULL else self.oldest
        cdef int passed = 0
        while at.visited and passed < MOST_PASSED:
            at.visited = False
            at = at.newer if at.newer != NULL else self.oldest
            passed += 1
        self.hand = at
        self.remove(at)
        self.evictions += 1

    cdef void remove(self, Entry* entry) noexcept:
        """Takes an entry away."""
        cdef Entry** link = &self.bucket_of(entry.hash).first
        while link[0] != entry:
            link = &link[0].next
        link[0] = entry.next
        if self.hand == entry:
            self.hand = entry.newer
        if entry.newer != NULL:
            entry.newer.older = entry.older
        else:
            self.newest = entry.older
        if entry.older != NULL:
            entry.older.newer = entry.newer
        else:
            self.oldest = entry.newer
        self.entries -= 1
        self.used -= block_size(size_of(entry))
        free(entry)
