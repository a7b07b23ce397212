# The loop that clients' connections and reads from Redis share.

from libc.stdint cimport uint8_t, uint32_t

from hotfeast.hotpath.admission cimport Admission
from hotfeast.hotpath.batch cimport Batch
from hotfeast.hotpath.cache cimport RowCache
from hotfeast.hotpath.http2 cimport Connection
from hotfeast.hotpath.link cimport Outcome, Transfer
from hotfeast.hotpath.reply cimport Reply
from hotfeast.hotpath.scatter cimport Part, Scatter
from hotfeast.hotpath.slots cimport SlotMap


cdef class LoopLane:
    cdef readonly object lane     # of `hotfeast.server.redis_io`, which owns the socket
    cdef readonly int descriptor
    cdef readonly Reply reply
    cdef readonly str node        # of a cluster, that it leads to; None where there is one server
    cdef Batch batch              # what is being read; None while idle
    cdef Scatter scatter          # likewise where this is only a part of it
    cdef Part part
    cdef object done              # is told when it is read, or why it is not
    cdef Transfer transfer
    cdef double deadline          # monotonic seconds
    cdef double timeout           # seconds, as it was asked for
    cdef bint sending             # whether the loop waits until more can be sent


cdef class Reactor:
    cdef readonly object at_once
    cdef public RowCache cache
    cdef public SlotMap slots
    cdef public bint keeps_callers
    cdef public bint authenticates
    cdef public object tls_context
    cdef uint8_t* arrived         # bytes of an encrypted connection, until they are read
    cdef public Admission admission
    cdef public uint32_t most_streams
    cdef readonly double arrived_at  # monotonic seconds: no later than the bytes at hand
    cdef double looked            # when the loop last knew of all events, as it still does
    cdef public bint wants_lane   # whether somebody waits for an idle lane
    cdef public size_t piece_size
    cdef int poller
    cdef int waker
    cdef object wake_pending
    cdef dict watched             # by descriptor: a Connection, a LoopLane, or a listening socket
    cdef object calls             # functions that other threads want called here
    cdef list dirty               # connections with something to send
    cdef public list afterwards   # what is done once they have been sent that
    cdef list idle                # lanes
    cdef dict idle_at             # the same of a cluster, by node
    cdef list busy
    cdef list paused              # listening sockets, while there are no descriptors left
    cdef double accept_again      # monotonic seconds
    cdef bint stopping
    cdef readonly Py_ssize_t client_count
    cdef bint draining
    # Seconds; 0 for no limit.
    cdef double handshake_limit
    cdef double idle_limit
    cdef double age_limit
    cdef double age_grace
    cdef double keepalive
    cdef double keepalive_limit
    cdef double look_every        # seconds between two looks at clients
    cdef double next_look         # monotonic seconds

    cdef int watch(self, int descriptor, object what, uint32_t events) except -1
    cdef int rewatch(self, int descriptor, uint32_t events) except -1
    cdef int take_safely(self, int descriptor, uint32_t events) except -1
    cdef int take(self, int descriptor, uint32_t events) except -1
    cdef int accept_all(self, int descriptor) except -1
    cdef int resume_accepting(self) except -1
    cdef int read_connection(self, Connection connection) except -1
    cdef void note_arrival(self, Connection connection, bint drained) noexcept
    cdef int read_encrypted(self, Connection connection) except -1
    cdef int refuse_plain(self, Connection connection, size_t count) except -1
    cdef int open_encrypted(self, Connection connection) except -1
    cdef int flush(self, Connection connection) except -1
    cdef int flushed(self, Connection connection, bint waits) except -1
    cdef int flush_encrypted(self, Connection connection) except -1
    cdef int drop_connection(self, Connection connection) except -1
    cdef int step_lane(self, LoopLane lane, uint32_t events) except -1
    cdef int finish_lane(self, LoopLane lane, Outcome outcome, int error) except -1
    cdef int finish_part(self, LoopLane lane, Outcome outcome, int error) except -1
    cdef int begin_parts(self, Scatter scatter, list lanes) except -1
    cdef list idle_lanes(self, LoopLane lane)
    cdef int check_deadlines(self) except -1
    cdef int wait_ms(self) except -2
    cdef int do_afterwards(self) except -1
    cdef int dismiss(self, Connection client, double time, double leave_by) except -1
    cdef int look_after(self, double time) except -1
    cdef int look_at(self, Connection client, double time) except -1
