# The bytes of an answer as columns in Arrow's layout.

from libc.stdint cimport int32_t, uint8_t, uint32_t

from hotfeast.hotpath.wire cimport Cursor


# A serialized `Value` that has been judged.
cdef struct Found:
    Cursor run            # from the first field of its member on; the last one counts
    uint32_t member       # field number in `Value`; 0 for null, UNKNOWN for one that is not known


# What is read of one kind of `Value`, and where it goes. While `values` is NULL it is only counted.
cdef struct Sink:
    uint32_t member       # of a scalar, or of a list's elements
    uint8_t* values
    int32_t* offsets      # of texts: where each begins in `values`
    size_t count
    size_t size           # bytes of texts


cdef class AnswerColumn:
    cdef readonly str name
    cdef readonly uint32_t rows
    cdef readonly uint32_t value_type
    cdef readonly str layout
    cdef readonly uint32_t null_count
    cdef readonly bytes validity
    cdef readonly bytes values
    cdef readonly bytes offsets
    cdef readonly bytes element_offsets
    cdef readonly bytes statuses
    cdef readonly bytes event_timestamps

    cdef int decode(self, const Cursor* cells, uint32_t rows) except -1
    cdef int fill_scalars(self, const Found* found) except -1
    cdef int fill_texts(self, const Found* found) except -1
    cdef int fill_lists(self, const Found* found) except -1


# Where the columns of one serialized answer are.
cdef class Outline:
    cdef bytes data               # keeps what the cursors point into
    cdef bytes metadata           # all of it, where it comes in pieces
    cdef bytes head
    cdef Cursor* vectors
    cdef uint32_t count
    cdef uint32_t rows

    cdef int read_vectors(self) except -1


cdef class Answer:
    cdef readonly uint32_t rows
    cdef readonly bytes head
    cdef list names_read
    cdef list outlines
