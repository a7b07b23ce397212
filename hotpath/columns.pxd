# One column of a write: for each row the serialized `Value`, or a row's time.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from hotfeast.hotpath.wire cimport Cursor

# Why a row's value cannot be written.
cdef enum Fault:
    FINE = 0
    WRONG_TYPE = 1
    OUT_OF_RANGE = 2
    NOT_WHOLE = 3         # a fraction where a whole number is wanted
    NOT_EXACT = 4         # a whole number that a double cannot hold
    NULL_ELEMENT = 5
    NOT_UTF8 = 6
    MALFORMED = 7


cdef class ValueColumn:
    cdef readonly uint32_t rows
    cdef readonly uint32_t value_type
    cdef readonly object source
    cdef object kept              # what cells point into, where that is not `source`
    cdef Cursor* cells            # empty where the value is null
    cdef uint8_t* owned           # bytes that cells point into, unless they point into `source`
    cdef uint8_t* faults          # a Fault for each row; NULL while there is none
    cdef readonly uint32_t fault_count

    cdef int begin(self, uint32_t rows, size_t room) except -1
    cdef int mark(self, uint32_t row, Fault fault) except -1 nogil


cdef class TimeColumn:
    cdef readonly uint32_t rows
    cdef readonly object source
    cdef int64_t* seconds
    cdef int32_t* nanos           # negative where there is no time
    cdef uint8_t* faults

    cdef int begin(self, uint32_t rows) except -1
