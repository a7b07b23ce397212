# The replies to a batch: bytes as they came, and where in them each hash field's value is.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from hotfeast.hotpath.batch cimport Ask, Batch
from hotfeast.hotpath.plan cimport Recipe

cdef enum:
    # Room behind the received bytes, so that a short value can be copied in whole words.
    READ_SLACK = 16

cdef enum ScanState:
    SCAN_MORE = 0         # all received bytes are consumed, and more must come
    SCAN_DONE = 1
    SCAN_BROKEN = -1      # not RESP, or not the reply to what was asked
    SCAN_NO_MEMORY = -2

# A hash field's value within the reply; size -1 where the field is not there.
cdef struct Span:
    uint32_t at
    int32_t size


cdef enum:
    # Pairs of a whole hash whose names are remembered from one entity to the next.
    MEMO_SIZE = 1024

# What the name at one place of the last hash was. Hashes that were written alike list their fields
# alike, so the next one mostly has the same name there.
cdef struct Memo:
    uint32_t size
    uint32_t word             # the name, where it is 4 bytes long as Feast's features are
    uint32_t at               # the name's place in the buffer
    uint32_t field


# A command that was answered with an error.
cdef struct Refusal:
    uint32_t command          # its number among those whose replies are read
    uint32_t size
    size_t at                 # what the server said, within the buffer


cdef class Reply:
    cdef uint8_t* buffer
    cdef size_t capacity
    cdef size_t received
    cdef size_t scanned
    cdef Span* spans              # the cells of all rows: what is read in the end
    cdef size_t span_capacity
    cdef Span* raw                # the replies as they came, where they are not the cells
    cdef size_t raw_capacity
    cdef Span* wire               # where the scan notes values: `spans` or `raw`
    cdef size_t span_at           # next span to fill
    cdef Batch batch
    cdef const Ask* asks          # what was asked for: the batch's, or a part's of it
    cdef Refusal* refusals        # all of them, where a part's replies are read
    cdef uint32_t refusal_count
    cdef uint32_t refusal_capacity
    cdef bint of_part
    cdef bint asking              # whether each command was announced with ASKING
    cdef bint announced           # whether the reply to that has been read
    cdef uint32_t recipe          # the command whose reply is being read
    cdef uint32_t entity
    cdef uint32_t field           # next field of that reply
    cdef uint32_t commands_done   # replies that are complete
    cdef bint in_array
    cdef uint32_t items_left      # of a whole hash: names and values that are still to come
    cdef uint32_t place           # the field whose value comes next, or NO_FIELD to skip it
    cdef uint32_t pair            # of a whole hash: the number of the pair that comes next
    cdef uint32_t memo_count
    cdef Memo memo[MEMO_SIZE]
    cdef size_t error_at          # first error reply, if error_size > 0
    cdef size_t error_size
    cdef bint settled             # whether the cells are what is stored; see `packed.settle`
    cdef int64_t unknown_view     # of a packed row whose schema is not known, or -1
    cdef readonly uint32_t unknown_schema

    cdef int begin(self, Batch batch) noexcept
    cdef int clear(self, Batch batch) noexcept
    cdef int expect_first(self) noexcept
    cdef int begin_again(self) noexcept nogil
    cdef int begin_part(
        self, Batch batch, const Ask* asks, size_t span_count, bint asking
    ) noexcept
    cdef int make_raw(self, size_t count) noexcept nogil
    cdef void shrink(self) noexcept nogil
    cdef int note_refusal(self) noexcept nogil
    cdef void find_first(self) noexcept nogil
    cdef int make_room(self, size_t wanted) noexcept nogil
    cdef ScanState scan(self) noexcept nogil
    cdef bint next_command(self) noexcept nogil
    cdef void begin_hash(self, uint32_t items) noexcept nogil
    cdef bint take_item(self, const uint8_t* at, uint32_t size) noexcept nogil
    cdef uint32_t recall(
        self, const Recipe* recipe, const uint8_t* name, uint32_t size
    ) noexcept nogil
    cdef const uint8_t* take_pairs(self, const uint8_t* at, const uint8_t* end) noexcept nogil
    cdef const uint8_t* take_fields(
        self, const uint8_t* at, const uint8_t* end, uint32_t fields
    ) noexcept nogil
