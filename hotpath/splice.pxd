# A response as it is written.

from libc.stdint cimport uint8_t, uint32_t

from hotfeast.hotpath.batch cimport Batch
from hotfeast.hotpath.reply cimport Reply
from hotfeast.hotpath.wire cimport Cursor

# What a response is made of, besides its cells.
cdef struct Layout:
    size_t names_size
    size_t metadata_size
    size_t size               # of the whole response
    Cursor row_errors         # the bad rows as fields of the response's metadata
    Cursor said               # the batch's, likewise
    Cursor names              # of all features that are sent
    const uint8_t* sent       # one per feature; NULL where all are sent
    Cursor computed           # columns that follow the stored ones


cdef class Response:
    cdef Batch batch
    cdef Reply reply
    cdef bytes row_errors         # what `layout.row_errors` points into
    cdef Layout layout
    cdef uint8_t** cursors        # room for where the columns of a view are
    cdef readonly bytes data
    cdef uint8_t* at              # the first byte that is not written
    cdef uint32_t view            # the view that is next, and its first feature
    cdef size_t feature

    cdef int check_size(self) except -1
    cdef int begin(self) except -1
    cdef int write_more(self, size_t least) noexcept nogil
    cdef bytes write_all(self)
    cdef size_t ready(self) noexcept
