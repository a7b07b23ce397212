# What becomes of each cell of an answer: its status, and whether its value is sent.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from hotfeast.hotpath.batch cimport Batch, Judging
from hotfeast.hotpath.reply cimport Reply

cdef enum FieldStatus:
    INVALID = 0
    PRESENT = 1
    NULL_VALUE = 2
    NOT_FOUND = 3
    OUTSIDE_MAX_AGE = 4

# What the outcome of judging can be; of a single row also the number of its corrupt feature.
cdef enum Outcome:
    JUDGED = -1
    CORRUPT_TIME = -2
    CORRUPT = -3
    NO_MEMORY = -4
    CORRUPT_PACKED = -5       # a packed row that cannot be read
    UNKNOWN_SCHEMA = -6       # one that nobody knows the features of
    UNREAD = -7               # a row whose node of a cluster did not answer


cdef int start_judging(
    Batch batch, int64_t now_seconds, int64_t now_nanos, bint strict
) noexcept nogil
cdef void judge_ready(Batch batch, Reply reply) noexcept nogil
cdef int judge_rest(Batch batch, Reply reply) noexcept nogil
