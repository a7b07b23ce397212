# A request bound to its plan: decoded keys, unique entities, and the commands that read them.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from hotfeast.hotpath.plan cimport Plan
from hotfeast.hotpath.request cimport Request
from hotfeast.hotpath.wire cimport Cursor

# An entity value: a number, or bytes within the request.
cdef struct Cell:
    const uint8_t* at
    int64_t number
    uint32_t size

# The entities of one key recipe.
cdef struct Lookup:
    uint32_t* entity_of_row   # for each row its entity, 0 to entity_count - 1
    uint32_t* row_of_entity   # for each entity the first row it is in
    uint32_t entity_count
    size_t first_span         # where its cells start among the batch's
    bint read_all             # as the recipe said when the commands were written

# What is asked for with one key recipe.
cdef struct Ask:
    Cursor command            # what stands before the key
    Cursor fields             # what stands behind it
    uint32_t field_count      # of each reply
    uint32_t entity_count
    bint read_all
    const uint32_t* entities  # which ones; NULL for all of the recipe's

# A portion of the commands, which ends behind a whole command.
cdef struct Chunk:
    size_t end                # within the commands' bytes
    uint32_t commands         # how many commands there are up to its end

# Commands as they go to Redis.
cdef struct Outgoing:
    uint8_t* commands
    size_t size
    Chunk* chunks             # the commands in portions; see write_commands
    uint32_t chunk_count
    size_t span_count         # of all replies

# An entity that has been looked for in a cache; see `cache.pyx`.
cdef struct Sought:
    uint64_t hash             # of its Redis key
    uint64_t epoch            # of that hash's place, before Redis was asked
    bint known                # whether it was there, so that Redis need not be asked
    bint wanted               # whether it may be kept once Redis has answered

# A stored row that cannot be sent; `feature` is an Outcome of `judge.pxd` where no feature of it is
# what is wrong.
cdef struct BadRow:
    uint32_t view
    uint32_t entity
    int feature

# What is known of a feature's column.
cdef struct Column:
    size_t size               # bytes of its values, tags and lengths included
    bint uneven               # whether a status is not PRESENT

# What has been made of the cells of a reply; see `judge.pyx`.
cdef struct Judging:
    int64_t now_seconds       # what rows are aged against
    int64_t now_nanos
    bint strict
    bint early                # whether rows are judged as they arrive
    uint32_t recipe           # the first entity that has not been looked at on arrival
    uint32_t entity
    size_t raw_first          # where the spans of that recipe's replies start
    size_t entity_first       # how many entities the recipes before it have
    uint8_t* statuses         # one per span of the reply
    Column* columns           # one per feature
    size_t* time_sizes        # for each view the bytes of its event timestamps
    uint32_t* copies          # for each entity, recipe after recipe, the rows that ask for it
    uint8_t* taken            # likewise, whether its rows have been judged
    size_t zeroed             # bytes from the columns on that are zero at first
    BadRow* bad_rows
    uint32_t bad_count
    bint counted              # whether `copies` are there
    bint exhausted            # whether memory was wanting on arrival


cdef class Batch:
    cdef readonly Plan plan
    cdef readonly Request request
    cdef readonly uint32_t rows
    cdef public bytes said        # fields that the response's metadata are to have; None for none
    cdef public int64_t now_us    # what windows end at, in microseconds since 1970
    cdef Cell* cells              # [slot][row]
    cdef int* column_of_slot      # index into request.columns, or -1
    cdef uint32_t* key_types      # for each slot the ValueType it is stored with
    cdef uint32_t* index_memory
    cdef Lookup* lookups          # one per recipe
    cdef size_t span_count        # spans of all cells, times included
    cdef Ask* asks                # one per recipe, of the commands at hand
    cdef Outgoing* out            # the commands at hand: the first or the second ones
    cdef Outgoing first
    cdef Outgoing second
    cdef bint partial             # whether the first commands leave out what a cache had
    cdef bint first_partial       # whether they did when they were written
    cdef uint32_t* again          # entities that not all commands ask for, recipe after recipe
    cdef size_t entity_total
    cdef Sought* sought           # one per entity, recipe after recipe; NULL without a cache
    cdef bint seeking             # whether they are of the exchange that is under way
    cdef uint64_t sought_in       # the cache's generation then
    cdef int64_t sought_ns        # and when it was
    cdef Judging* judging         # NULL until it begins
    cdef public size_t most_bytes  # of the answer; 0 for no limit
    cdef readonly bint scattered  # whether commands are written for each node of a cluster apart
    cdef dict unread              # why entities could not be read, by recipe and entity; or None

    cdef bind_columns(self)
    cdef int decode_column(self, uint32_t slot, uint32_t* bad_row, uint32_t* found) noexcept nogil
    cdef int find_entities(self) noexcept nogil
    cdef void ask_first(self) noexcept nogil
    cdef void forget_judged(self) noexcept nogil
    cdef int ask_rest(self) noexcept nogil
    cdef int write_first(self) noexcept nogil
    cdef int ask_again(self, const uint8_t* wanted) noexcept nogil
    cdef size_t key_size(self, uint32_t recipe, uint32_t entity) noexcept nogil
    cdef uint8_t* put_key(self, uint8_t* at, uint32_t recipe, uint32_t entity) noexcept nogil
    cdef int write_all(self, Outgoing* out) noexcept nogil
    cdef int write_commands(self, Outgoing* out, const Ask* asks, bint asking) noexcept nogil
    cdef void end_chunk(self, Outgoing* out, const uint8_t* at, uint32_t commands) noexcept nogil
