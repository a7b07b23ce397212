# How much of the reads that arrive is taken on, so that those which are do not wait for long.

from libc.stdint cimport int64_t

from hotfeast.hotpath.batch cimport Batch
from hotfeast.hotpath.hpack cimport RepeatedBlock

cdef enum:
    # Reads that there may be in any case: so many clients that ask for one thing after another are
    # served, however much that is.
    LEAST_IN_FLIGHT = 32


cdef class Admission:
    cdef readonly object paths    # of the methods whose calls may be refused
    cdef readonly int64_t in_flight
    cdef readonly int64_t work    # what the reads in flight weigh together
    cdef readonly double limit    # of that; reads are refused at it
    cdef readonly int64_t most_in_flight
    cdef readonly double delay    # seconds that a read may wait for others; 0 for no such limit
    cdef readonly double base     # seconds that a read takes which waits for no other
    cdef readonly int64_t refused_work    # calls that were refused because of `limit`
    cdef readonly int64_t refused_count   # because of `most_in_flight`
    cdef list refusals            # answers to those that are refused, in turn
    cdef int64_t refused
    cdef bint was_full            # in this window
    cdef double window            # seconds of this window in which a read was in flight
    cdef double busy_since        # when the first of those in flight arrived
    cdef double quickest          # seconds of a read in this window
    cdef int64_t done
    cdef int64_t done_work

    cdef RepeatedBlock refuse(self)
    cdef int begin_read(self, Batch batch, double arrived) except -1
    cdef int end_read(self, Batch batch, double arrived, double now, bint answered) except -1
    cdef void adapt(self) noexcept


cdef inline bint is_full(Admission admission) noexcept nogil:
    """Whether a read that arrives now is to be refused."""
    return admission.in_flight >= admission.most_in_flight or (
        admission.work >= admission.limit and admission.in_flight >= LEAST_IN_FLIGHT
    )
