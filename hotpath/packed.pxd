# Packed rows: all values of one row of a view in one hash field, beside the row's time.
#
# A packed row is, in this order:
#
#   1 byte    the format, PACKED_FORMAT
#   4 bytes   the schema's number, little-endian: which features it holds, and in which order
#   1 byte    the length of the event time
#   n bytes   the event time, a serialized Timestamp
#   for each feature of the schema its length as a varint, and its bytes: a serialized Value,
#   empty for null
#
# Whether a packed row counts is told by the view's `_ts:` field. Who writes a packed row writes
# that time with a mark in the same step: its last varint is longer than it need be, which all
# readers of protobuf take for the same number. Who knows nothing of packed rows writes the time
# without a mark, whatever the time is. So a marked time says who wrote last, and what:
#
#   one byte longer    DUAL: Feast's fields and the packed row, of one content
#   two bytes longer   PACKED: the packed row alone; Feast's fields, if there are any, are of old

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from hotfeast.hotpath.batch cimport Batch
from hotfeast.hotpath.reply cimport Reply

cdef enum:
    PACKED_FORMAT = 1
    # Bytes in front of the event time.
    PACKED_HEAD = 6
    # Sizes of a time's span that stand for a row which cannot be sent.
    SPAN_ABSENT = -1
    SPAN_BROKEN = -2          # a packed row that is none
    SPAN_UNKNOWN = -3         # a packed row of a schema that the plan does not know
    SPAN_UNREAD = -5          # a row whose node of a cluster did not answer

cdef enum Mark:
    UNMARKED = 0
    DUAL = 1
    PACKED = 2

# What is next, once all replies to what was asked are there.
cdef enum Settled:
    SETTLED = 0
    ASK_AGAIN = 1             # the batch has more commands to send
    SETTLE_NO_MEMORY = -1


cdef inline Mark mark_of(const uint8_t* at, uint32_t size) noexcept nogil:
    """The mark of a serialized Timestamp: its last varint ends with a zero behind a byte which says
    that more follow. A field that is there although it is zero is none: before its zero is a tag.
    """
    if size < 3 or at[size - 1] != 0 or at[size - 2] < 0x80:
        return UNMARKED
    if at[size - 2] == 0x80 and at[size - 3] >= 0x80:
        return PACKED
    return DUAL


cdef uint32_t copy_unmarked(const uint8_t* time, uint32_t size, uint8_t* to) noexcept nogil


cdef inline uint8_t* put_mark(
    uint8_t* start, uint8_t* at, int64_t seconds, int32_t nanos, Mark mark
) noexcept nogil:
    """Marks the Timestamp that has been written from `start` to `at`. Returns the byte after it.
    The caller has made room for `MARK_ROOM` more bytes."""
    cdef int _
    if mark == UNMARKED:
        return at
    if at == start:
        at[0] = 0x08
        at[1] = 0
        at += 2
    elif seconds < 0 and nanos <= 0:
        # A varint has 10 bytes at most, which a negative number takes up.
        at[0] = 0x10
        at[1] = 0
        at += 2
    for _ in range(<int>mark):
        (at - 1)[0] |= 0x80
        at[0] = 0
        at += 1
    return at


cdef enum:
    MARK_ROOM = 4


cdef Settled settle_arrived(
    Batch batch, Reply reply, uint32_t r, uint32_t e, size_t raw_first
) noexcept nogil
cdef Settled settle(Batch batch, Reply reply) noexcept nogil
