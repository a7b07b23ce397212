# The parsed request: where in its bytes everything is.

from libc.stdint cimport uint8_t, uint32_t

from hotfeast.hotpath.wire cimport Cursor

cdef enum:
    MAX_COLUMNS = 256

# One entry of `entities` or `request_context`.
cdef struct Column:
    Cursor name
    Cursor values     # the payload of the RepeatedValue: `0A length Value` for each row
    uint32_t rows


cdef class Request:
    cdef bytes data
    cdef Cursor selection
    cdef Column* columns          # entities first, then request context
    cdef uint32_t entity_count
    cdef uint32_t context_count
    cdef readonly bint by_service
    cdef readonly bint full_feature_names
    cdef readonly bint version_metadata
    cdef readonly bint stale_values
    cdef readonly bint partial
    cdef readonly bint canonical

    cdef int parse(self, int* allocated) noexcept
    cdef int add_column(self, Cursor entry, bint context, int* allocated) noexcept
