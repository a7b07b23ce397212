# One HTTP/2 connection of a gRPC server, without its socket: bytes in, calls out, and back.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from hotfeast.hotpath.admission cimport Admission
from hotfeast.hotpath.hpack cimport HeaderDecoder, HeaderList, RepeatedBlock
from hotfeast.hotpath.tls cimport Tls

cdef enum ErrorCode:        # why a stream or a connection ends (RFC 9113, section 7)
    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12


cdef class Stream:
    cdef readonly Connection connection
    cdef readonly uint32_t number
    cdef readonly bytes path
    cdef object call              # of a method that is not answered at once: who handles it
    cdef bytearray incoming       # bytes of messages that are not complete
    cdef bint remote_closed       # the client has sent its last message
    cdef bint local_closed        # the last byte of the answer is on its way, or there is none
    cdef bint headers_sent
    cdef bytes encoding           # `grpc-encoding` of the request; None for identity
    cdef double deadline          # of the loop's clock, in seconds; 0 for none
    cdef readonly bytes caller    # who calls, where the connection keeps that
    cdef readonly bytes request_id
    cdef readonly bytes traceparent
    cdef public object record     # what is kept of the call for traces and logs; None for most
    cdef public object figures    # what counts the call beside others of its plan
    cdef readonly bytes authorization   # where the connection keeps that
    cdef int64_t send_window      # less the connection's `initial_window`
    cdef int64_t unacknowledged   # bytes received that no WINDOW_UPDATE has named
    cdef int64_t returned         # those of them that a next one will
    cdef int64_t owed             # bytes that the client may send once it reads its answers
    cdef int64_t lent             # bytes beyond the window, for a message that is larger
    cdef size_t held              # bytes of messages that are not complete, or not taken
    cdef object outgoing          # deque of parts of DATA that wait for the client's window
    cdef size_t outgoing_at       # bytes of the first part that are sent
    cdef size_t queued            # bytes of all parts that are not sent
    cdef bint crowded             # whoever handles the call waits until they are few
    cdef int standing             # whether the caller may send more than one frame of a message
    cdef size_t unwritten         # bytes at the end of the last part that are not known yet
    cdef bytes trailers           # header block that follows them
    cdef public object note       # what the server has to say of the call; see the class

    cdef int64_t window(self) noexcept
    cdef int let_send(self) except -1
    cdef int give_back(self, int64_t count) except -1
    cdef int lend(self) except -1
    cdef int give_up(self, int code, str message) except -1
    cdef int check_packing(self, int flag) except -1
    cdef int write_waiting(self) except -1
    cdef int tell_of_room(self) except -1
    cdef int begin_message(self, bytes message) except -1
    cdef int wrote(self, size_t unwritten) except -1
    cdef int take_data(self, const uint8_t* at, size_t size) except -1
    cdef int release(self) except -1
    cdef int end_of_request(self) except -1


cdef class Connection:
    cdef readonly int descriptor
    cdef readonly bint failed     # nothing more is read; what is to be sent is the end
    cdef readonly bint leaving    # the client has been warned to go elsewhere
    cdef readonly bint left       # no more calls are taken
    cdef bint met                 # the client's preface and first SETTINGS have been read
    # What the loop notes when it looks after its clients; monotonic seconds.
    cdef bint spoke               # something has come since it last looked
    cdef uint32_t seen_number     # the last call by then
    cdef readonly double opened
    cdef double drained           # when it last took all that had come
    cdef readonly double heard             # when it noticed that something had come
    cdef double quiet             # when it last saw a call, or something to send
    cdef double pinged            # when it asked whether anybody is there; 0 if it does not wait
    cdef double leave_at          # when the client is to be sent elsewhere; 0 for never
    cdef double warned            # when it was
    cdef double leave_by          # when its connection ends in any case; 0 for never
    # Counts of calls, messages and keepalives, for channelz.
    cdef readonly uint64_t begun, ended, received, sent, pings
    cdef object server
    cdef Tls tls                  # None where nothing is encrypted
    cdef readonly bytes address   # the client's, as the kernel has it; empty where it is not known
    cdef str refusal              # why no call is answered; None where they are
    cdef public object identity   # who the client's certificate says it is; None for nobody
    cdef bint keeps_callers       # whether streams are told who calls
    cdef bint authenticates       # whether they are told with which token
    cdef bytes authorization      # of the last call that had one
    cdef Admission admission      # whether reads are taken on; None where all are
    cdef uint32_t most_streams    # calls at once
    cdef double arrived           # of the loop's clock: no later than what is read; 0 for now
    cdef HeaderDecoder decoder
    cdef HeaderList headers
    cdef uint8_t* input
    cdef size_t input_size, input_capacity
    cdef uint8_t* out
    cdef size_t out_at, out_size, out_capacity
    cdef bint greeted             # the client's preface has been read
    cdef dict streams
    cdef uint32_t last_number
    cdef uint32_t unread          # stream that was refused and still sends its request, or 0
    cdef bytes path               # of the last call
    cdef readonly int64_t send_window
    cdef int64_t initial_window   # the client's, for new streams
    cdef uint32_t largest_frame
    cdef uint32_t table_room      # bytes of the client's table of headers that are used
    cdef bint table_changed       # which the client is told ahead of the next header block
    cdef bint refusal_entered     # the table has the fields of refusals
    cdef int64_t returned         # bytes received that a next WINDOW_UPDATE will name
    cdef bint widened             # whether more may be sent than was tried
    cdef size_t queued            # bytes of answers that wait for the client's windows
    cdef size_t held              # bytes of messages that are not complete, or not taken
    cdef uint32_t continued       # stream whose header block goes on in the next frame, or 0
    cdef bint continued_ends
    cdef bytearray block
    cdef double resets
    cdef double last_reset        # of the loop's clock, in seconds
    cdef bint dirty               # there is something to send that `server.touched` was told of
    cdef bint waits               # what is to be sent does not fit the socket's buffer

    cdef void hold(self, int64_t count) noexcept
    cdef void queue(self, int64_t count) noexcept
    cdef int make_room(self, size_t wanted) except -1
    cdef void shrink(self) noexcept
    cdef int parse(self) except -1
    cdef int take_frame(
        self, uint32_t kind, uint32_t flags, uint32_t number, const uint8_t* at, size_t size
    ) except -1
    cdef int take_headers(
        self, uint32_t flags, uint32_t number, const uint8_t* at, size_t size
    ) except -1
    cdef int end_of_headers(
        self, uint32_t number, const uint8_t* at, size_t size, bint ends
    ) except -1
    cdef int open_stream(self, uint32_t number, bint ends) except -1
    cdef bytes known_path(self, const uint8_t* value, size_t size)
    cdef bytes known_authorization(self, const uint8_t* value, size_t size)
    cdef int turn_away(self, uint32_t number, bint ends) except -1
    cdef int end_refused(self) except -1
    cdef int take_settings(self, uint32_t flags, const uint8_t* at, size_t size) except -1
    cdef int take_window_update(self, uint32_t number, const uint8_t* at, size_t size) except -1
    cdef int put_frame(
        self, uint32_t kind, uint32_t flags, uint32_t number, const uint8_t* at, size_t size
    ) except -1
    cdef int put_block(self, uint32_t number, bytes block, bint ends) except -1
    cdef int write_all_waiting(self) except -1
    cdef int reset(self, uint32_t number, uint32_t code) except -1
    cdef int put_goaway(self, uint32_t last) except -1
    cdef int fail(self, uint32_t code, str why) except -1
    cdef int put_window_update(self, uint32_t number, uint32_t count) except -1
    cdef int abandon(self, Stream stream) except -1
    cdef int forget(self, Stream stream) except -1
    cdef int touch(self) except -1
