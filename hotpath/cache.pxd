# Rows that have been read, kept in bounded memory.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from hotfeast.hotpath.batch cimport Batch
from hotfeast.hotpath.reply cimport Reply

# The settled cells of one entity for one key recipe of one plan. Behind it lie their sizes (int32,
# -1 for absent), the entity's Redis key, and the cells' bytes one after another.
cdef struct Entry:
    Entry* next               # in its bucket
    Entry* newer              # in order of arrival
    Entry* older
    uint64_t hash             # of the key
    uint64_t token            # the plan's
    int64_t read_ns           # when Redis was asked for it, by the monotonic clock
    uint32_t recipe
    uint32_t field_count
    uint32_t key_size
    uint32_t value_size
    bint visited              # whether it has been found since eviction last passed it

cdef struct Bucket:
    Entry* first
    uint64_t epoch            # grows when a key of this bucket is invalidated


cdef enum:
    # Longer keys are not cached.
    LONGEST_KEY = 4096


cdef class RowCache:
    cdef readonly size_t capacity
    cdef readonly size_t used
    cdef readonly size_t entries
    cdef readonly uint64_t hits
    cdef readonly uint64_t misses
    cdef readonly uint64_t evictions
    cdef readonly uint64_t invalidations
    cdef readonly bint live
    cdef uint64_t generation      # grows when all is forgotten
    cdef Bucket* buckets
    cdef size_t mask
    cdef size_t largest           # bytes of an entry at most
    cdef uint64_t seed[2]
    cdef Entry* newest
    cdef Entry* oldest
    cdef Entry* hand              # where eviction goes on
    cdef uint8_t key[LONGEST_KEY]  # of the entity at hand
    cdef size_t key_size

    cdef int begin(self, Batch batch, Reply reply) noexcept
    cdef void keep(self, Batch batch, Reply reply) noexcept
    cdef int recall(self, Batch batch, Reply reply) noexcept
    cdef void count_misses(self, Batch batch) noexcept
    cdef void restore(self, Entry* entry, Batch batch, Reply reply, uint32_t entity) noexcept
    cdef void insert(
        self, Batch batch, Reply reply, uint32_t recipe, uint32_t entity, uint64_t hash
    ) noexcept
    cdef Bucket* bucket_of(self, uint64_t hash) noexcept
    cdef bint is_of_key(self, const Entry* entry, uint64_t hash) noexcept
    cdef Entry* find(self, uint64_t hash, uint64_t token, uint32_t recipe) noexcept
    cdef void make_room_beside(self, uint64_t hash) noexcept
    cdef void forget(self) noexcept
    cdef void evict(self) noexcept
    cdef void remove(self, Entry* entry) noexcept
