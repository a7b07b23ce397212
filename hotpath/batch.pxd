# A request bound to its plan: decoded keys, unique entities, and the commands that read them.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from hotfeast.hotpath.plan cimport Plan
from hotfeast.hotpath.request cimport Request

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
    size_t first_span         # where its reply starts among the batch's spans
    bint read_all             # as the recipe said when the commands were written

# A portion of the commands, which ends behind a whole command.
cdef struct Chunk:
    size_t end                # within the commands' bytes
    uint32_t commands         # how many commands there are up to its end


cdef class Batch:
    cdef readonly Plan plan
    cdef readonly Request request
    cdef readonly uint32_t rows
    cdef Cell* cells              # [slot][row]
    cdef int* column_of_slot      # index into request.columns, or -1
    cdef uint32_t* key_types      # for each slot the ValueType it is stored with
    cdef uint32_t* index_memory
    cdef Lookup* lookups          # one per recipe
    cdef uint8_t* commands
    cdef Chunk* chunks            # the commands in portions; see write_commands
    cdef uint32_t chunk_count
    cdef size_t command_size
    cdef size_t span_count

    cdef bind_columns(self)
    cdef int decode_column(self, uint32_t slot, uint32_t* bad_row, uint32_t* found) noexcept nogil
    cdef int find_entities(self) noexcept nogil
    cdef int write_commands(self) noexcept nogil
    cdef void end_chunk(self, const uint8_t* at, uint32_t commands) noexcept nogil
