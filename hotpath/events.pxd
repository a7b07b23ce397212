# Events of one windowed view as the commands that count them.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from hotfeast.hotpath.wire cimport Cursor
from hotfeast.hotpath.writes cimport WriteBatch, WritePlan

# An input of an event: which column, in which form.
cdef struct EventInput:
    uint32_t column
    uint32_t form
    uint32_t value_type

# A row, as calls are put together from: those of one key are neighbours, and in order of time.
cdef struct Place:
    uint64_t key_hash
    int64_t time
    uint32_t row


cdef class EventPlan(WritePlan):
    cdef EventInput* inputs
    cdef uint32_t input_count
    cdef uint32_t event_size
    cdef bint has_texts           # whether any input is in the form of a text
    cdef Cursor shape             # what the script is told of the layout


cdef class EventBatch(WriteBatch):
    cdef Place* sequence          # NULL until the first call is made
    cdef uint8_t* keys_made       # room for two keys
    cdef size_t longest_key

    cdef int make_sequence(self) noexcept nogil
    cdef size_t texts_size(self, uint32_t row) noexcept nogil
    cdef uint8_t* put_texts(self, uint8_t* at, uint32_t row) noexcept nogil
    cdef uint8_t* put_event(self, uint8_t* at, uint32_t row, size_t* text_at) noexcept nogil
    cdef int put_events(self, const uint32_t* rows, uint32_t count) noexcept nogil
    cdef bint has_key(self, uint32_t row, size_t size) noexcept nogil
