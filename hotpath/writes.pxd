# Rows of one feature view as the commands that store them, and what became of each.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

from hotfeast.hotpath.columns cimport TimeColumn, ValueColumn
from hotfeast.hotpath.packed cimport Mark
from hotfeast.hotpath.slots cimport SlotMap
from hotfeast.hotpath.wire cimport Cursor

# What has become of a row.
cdef enum Outcome:
    PENDING = 0
    WRITTEN = 1
    STALE = 2             # older than what is stored
    REJECTED = 3          # invalid, never sent
    FAILED = 4            # Redis refused it
    DUPLICATE = 5         # an event that had been counted before
    SUPERSEDED = 6        # another row of the same entity is newer, never sent

cdef enum:
    # Rows of one script call at most: more save little, and Redis serves nobody else meanwhile.
    MOST_ROWS_PER_CALL = 16
    # Bytes of a script call after which it takes no further row.
    CALL_BYTES = 65536
    # Bytes of commands after which a portion is sent.
    PORTION_BYTES = 131072


cdef class WritePlan:
    cdef list owned
    cdef readonly object definition
    cdef Cursor key_prefix
    cdef Cursor key_end           # the project, and what makes it another key if it is of tiles
    cdef Cursor hset_head         # `*N\r\n$4\r\nHSET\r\n`
    cdef Cursor call_names        # arguments of a script call behind its keys, up to the first row
    cdef uint32_t call_name_count
    cdef Cursor time_name         # hash fields as RESP bulk strings
    cdef Cursor* feature_names
    cdef Cursor row_name
    cdef Cursor created_name
    cdef uint32_t value_count     # hash fields of a row
    cdef Mark mark                # of the event time: what is written, too
    cdef bint has_features        # whether Feast's fields are written
    cdef bint has_row             # whether a packed row is
    cdef uint32_t schema          # its schema's number
    cdef uint32_t feature_count
    cdef uint32_t key_count
    cdef bint has_created
    cdef bint expires             # whether keys have a time to live

    cdef Cursor own(self, bytes data)


cdef class WriteBatch:
    cdef readonly WritePlan plan
    cdef readonly uint32_t rows
    cdef list columns             # keeps what the cells point into
    cdef Cursor** keys            # [join key][row], as serialized Values
    cdef Cursor** features        # [feature][row]
    cdef int64_t* seconds
    cdef int32_t* nanos
    cdef int64_t* created_seconds  # NULL where the view has no created time
    cdef int32_t* created_nanos
    cdef uint8_t* states          # an Outcome for each row
    cdef uint32_t rows_per_call
    cdef uint8_t* by_script       # whether a row is compared although `check` is off; may be NULL
    cdef readonly bint check      # whether event times are compared in Redis
    cdef readonly bint no_script  # Redis did not know the script: load it and send again
    cdef char error_text[256]     # the first refusal, as Redis worded it
    cdef uint32_t error_size
    cdef readonly list put_off    # rows that the server did not look at, each with what it said
    cdef WriteBatch whole         # of a part: the batch whose rows they are
    cdef bint is_part
    cdef uint16_t* owners         # for each row the number of its target; NULL without a cluster
    cdef uint16_t target          # of a part: whose rows it sends
    cdef bint asking              # whether each call is announced with ASKING
    cdef bint announced           # whether the reply to that has been taken

    # Sending: rows go out in order, in calls of one or more.
    cdef uint32_t next_row
    cdef uint32_t* order          # rows in the order in which they were sent
    cdef uint16_t* calls          # rows of each call
    cdef uint32_t sent_rows, sent_calls, done_rows, done_calls
    cdef uint8_t* out
    cdef size_t out_size, out_capacity
    # Receiving.
    cdef uint8_t* pending_in
    cdef size_t in_size, in_capacity

    cdef reject_faults(self, ValueColumn column)
    cdef int share(self, WriteBatch whole) except -1
    cdef bint sends(self, uint32_t row) noexcept nogil
    cdef int announce(self) noexcept nogil
    cdef void note_put_off(self, uint32_t row, const uint8_t* at, size_t size) noexcept with gil
    cdef int make_room(self, size_t wanted) noexcept nogil
    cdef int make_out(self, size_t wanted) noexcept nogil
    cdef size_t key_size(self, uint32_t row) noexcept nogil
    cdef uint8_t* put_key(self, uint8_t* at, uint32_t row) noexcept nogil
    cdef size_t bulk_size(self, uint32_t row) noexcept nogil
    cdef size_t stored_time_size(self, uint32_t row) noexcept nogil
    cdef uint8_t* put_stored_time(self, uint8_t* at, uint32_t row) noexcept nogil
    cdef size_t row_size(self, uint32_t row) noexcept nogil
    cdef uint8_t* put_row(self, uint8_t* at, uint32_t row) noexcept nogil
    cdef size_t created_size(self, uint32_t row) noexcept nogil
    cdef uint8_t* put_created(self, uint8_t* at, uint32_t row) noexcept nogil
    cdef bint compares(self, uint32_t row) noexcept nogil
    cdef int put_hset(self, uint32_t row) noexcept nogil
    cdef size_t argument_size(self, uint32_t row) noexcept nogil
    cdef int put_call(self, const uint32_t* rows, uint32_t count, bint check) noexcept nogil
    cdef int fill(self) noexcept nogil
    cdef int take_replies(self) noexcept nogil
    cdef int finish_call(self, const uint8_t* at, size_t size, uint8_t kind) noexcept nogil
    cdef void keep_error(self, const uint8_t* at, size_t size) noexcept nogil
    cdef void rewind(self) noexcept nogil
