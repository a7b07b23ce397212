"""One HTTP/2 connection of a gRPC server (RFC 9113, and gRPC over HTTP/2), without its socket.

Bytes that came from a client go in, `server` is told of the calls in them, and what it answers
becomes bytes to send. Two kinds of methods are told of differently:

- those in `server.at_once`: unary ones, told of once their message is complete, with
  `server.answer(stream, message)`, or `server.answer_packed` where it is compressed;
- all others: with `server.open(stream, headers)` as they begin. What that returns is then given
  each message (`message(bytes, taken)`, or `packed_message` if it is compressed), the end of them
  (`half_close()`) and, where the client gives up, `cancel()`. Its `Stream` takes `send_headers`,
  `send_message` and `finish`, and is told with `took(taken)` that a message is not kept any more.
  Where `wants_room()` says so, `room()` is called once the client has taken enough of the answers.

Everything runs in the one thread that has the connection. What a client can make it keep is
bounded: streams, header lists, messages, and what it does not read.
"""

import zlib
from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memmove

from hotfeast.hotpath.admission cimport is_full
from hotfeast.hotpath.hpack cimport (
    HPACK_MALFORMED,
    HPACK_NO_MEMORY,
    HPACK_TOO_LARGE,
    Header,
    RepeatedBlock,
    clear_headers,
    free_headers,
    literal_room,
    put_literal,
)

from hotfeast.hotpath.hpack import encode_table_size

cdef enum FrameKind:
    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9

cdef enum Flag:
    END_STREAM = 1
    ACK = 1
    END_HEADERS = 4
    PADDED = 8
    WITH_PRIORITY = 32

cdef enum Setting:
    SETTINGS_HEADER_TABLE_SIZE = 1
    SETTINGS_ENABLE_PUSH = 2
    SETTINGS_MAX_CONCURRENT_STREAMS = 3
    SETTINGS_INITIAL_WINDOW_SIZE = 4
    SETTINGS_MAX_FRAME_SIZE = 5
    SETTINGS_MAX_HEADER_LIST_SIZE = 6

cdef enum:
    FRAME_HEAD = 9
    MESSAGE_HEAD = 5
    LARGEST_FRAME = 16384         # that we take: HTTP/2's default
    MOST_STREAMS = 1024           # at once on a connection, where the server does not say
    LARGEST_HEADERS = 16384       # bytes of a header list
    MOST_TABLE = 4096             # bytes of a client's table of headers that are used: the default
    DEFAULT_WINDOW = 65535
    STREAM_WINDOW = 4194304       # that we give each stream
    CONNECTION_WINDOW = 67108864
    LARGEST_MESSAGE = 67108864
    # Bytes of a compressed message that are unpacked at once.
    UNPACKED_AT_ONCE = 1048576
    # Bytes of messages that a client can have us keep until they are complete and taken.
    MOST_HELD = 268435456
    # Bytes of a call's answers that wait for the client's windows, above which it may not send
    # more messages.
    MOST_UNREAD = 1048576
    # Bytes of answers that a client can have us keep until it takes them.
    MOST_QUEUED = 67108864
    # The same of all clients together: with more, messages of one frame are taken, and calls of
    # those that read their answers.
    MOST_HELD_BY_ALL = 536870912
    MOST_QUEUED_BY_ALL = 536870912
    # Bytes that wait to be sent above which no more requests are read from the client.
    MOST_WAITING = 16777216
    # Bytes of a connection's buffer that are kept between answers.
    KEEP_CAPACITY = 1048576
    # Calls that a client gave up, less those it let finish, above which it is told to go; and how
    # many of them are forgotten in a second.
    MOST_RESETS = 2000
    RESETS_FORGOTTEN = 200
    # gRPC's status codes.
    DEADLINE_EXCEEDED = 4
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14

    # Whether it has been asked if the caller may send a message of more than one frame; until that
    # is known it may send no more than it has been told.
    UNJUDGED = 0
    JUDGING = 1
    LET_IN = 2

    # What a stream's number never exceeds.
    LAST_STREAM = 0x7FFFFFFF

# Bytes of all connections' messages that are not complete or not taken, and of answers that wait
# for their windows.
cdef size_t all_held = 0, all_queued = 0

# Of the PING behind a warning to go elsewhere: whoever answers it has had the warning.
cdef bytes WARNED = b"goodbye\0"
# Of the PING that asks whether anybody is there.
cdef bytes THERE = b"hotfeast"
cdef bytes PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# `:status: 200` is entry 8 of the static table, the name `content-type` entry 31.
cdef bytes STATUS_200 = b"\x88"
cdef bytes RESPONSE_HEADERS = STATUS_200 + b"\x0f\x10\x10application/grpc"
cdef bytes OK_TRAILERS = b"\x00\x0bgrpc-status\x010"
cdef object UNITS = {72: 3600.0, 77: 60.0, 83: 1.0, 109: 1e-3, 117: 1e-6, 110: 1e-9}


cdef inline uint8_t* put_big(uint8_t* at, uint32_t value, int size) noexcept nogil:
    cdef int i
    for i in range(size):
        at[i] = <uint8_t>(value >> (8 * (size - 1 - i)))
    return at + size


cdef inline uint32_t get_big(const uint8_t* at, int size) noexcept nogil:
    cdef uint32_t value = 0
    cdef int i
    for i in range(size):
        value = value << 8 | at[i]
    return value


cdef inline uint8_t* put_frame_head(
    uint8_t* at, size_t size, uint32_t kind, uint32_t flags, uint32_t number
) noexcept nogil:
    at = put_big(at, <uint32_t>size, 3)
    at[0] = <uint8_t>kind
    at[1] = <uint8_t>flags
    return put_big(at + 2, number, 4)


def parse_timeout(bytes text not None) -> float:
    """Seconds of a `grpc-timeout`.

    Raises:
        ValueError: It is none.
    """
    cdef Py_ssize_t digits = len(text) - 1
    if not 1 <= digits <= 8 or not text[:digits].isdigit() or text[digits] not in UNITS:
        raise ValueError(f"grpc-timeout is {text!r}: not up to 8 digits and one of HMSmun")
    return int(text[:digits]) * UNITS[text[digits]]


def percent_encoded(str message not None) -> bytes:
    """A `grpc-message` as it goes over the wire."""
    return b"".join(
        bytes([c]) if 0x20 <= c <= 0x7E and c != 0x25 else b"%%%02X" % c
        for c in message.encode("utf-8", "replace")
    )


class Unreadable(Exception):
    """A message that cannot be read, and the gRPC status that says so."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def header_block(headers) -> bytes:
    """Names and values as a header block, none of them entered into the client's table."""
    cdef bytes name, value
    cdef uint8_t* at
    blocks = []
    for name, value in headers:
        block = PyBytes_FromStringAndSize(NULL, literal_room(len(name), len(value)))
        at = <uint8_t*>PyBytes_AS_STRING(block)
        at = put_literal(
            at, <const uint8_t*>PyBytes_AS_STRING(name), len(name),
            <const uint8_t*>PyBytes_AS_STRING(value), len(value),
        )
        blocks.append(block[: at - <uint8_t*>PyBytes_AS_STRING(block)])
    return b"".join(blocks)


def status_block(int code, str message not None, metadata) -> bytes:
    """A status as a header block: `finish` of a stream has its arguments."""
    block = OK_TRAILERS if code == 0 else header_block(
        ((b"grpc-status", b"%d" % code), (b"grpc-message", percent_encoded(message)))
    )
    return block + header_block(metadata) if metadata else block


def refusal_block(int code, str message not None, metadata) -> RepeatedBlock:
    """The header block that is the whole answer to a call which is refused."""
    return RepeatedBlock(STATUS_200, [
        (b"content-type", b"application/grpc"), (b"grpc-status", b"%d" % code),
        (b"grpc-message", percent_encoded(message)), *metadata,
    ])


cdef class Stream:
    """One call.

    Attributes:
        connection: Where it came from.
        number: The stream's.
        path: The method, as `/package.Service/Method`.
        caller: The caller's `x-caller`, else its `user-agent`; None where it sent neither, or the
            server does not want to know.
        request_id: Its `x-request-id`; None likewise.
        traceparent: Its `traceparent`, as W3C Trace Context has it; None likewise.
        record: What is kept of the call for traces and logs; None for most.
        figures: What counts the call beside others of its plan; None where nothing does.
        authorization: Its `authorization`, and several of them with commas between; None where it
            sent none, or the server does not want to know.
        note: What the server has to say of the call beside its answer; None for most. Its
            `trailers`, a header block, go behind the status OK, its `failure_trailers` behind
            others.
    """

    def __cinit__(self, Connection connection not None, uint32_t number, bytes path not None):
        self.connection = connection
        self.number = number
        self.path = path
        self.outgoing = deque()

    @property
    def deadline_seconds(self) -> float | None:
        """The call's deadline on `server.clock`'s time; None where it has none."""
        return self.deadline if self.deadline else None

    @property
    def closed(self) -> bool:
        """Whether nothing can be answered any more."""
        return self.local_closed

    @property
    def complete(self) -> bool:
        """Whether the client has sent all that it will."""
        return self.remote_closed

    @property
    def identity(self) -> object:
        """Who the certificate of its connection says that the client is; None for nobody."""
        return self.connection.identity

    @property
    def address(self) -> bytes:
        """The client's, as its connection has it."""
        return self.connection.address

    cdef inline int64_t window(self) noexcept:
        """Bytes that the client takes on this stream; less than none where it has changed its mind.
        """
        return self.send_window + self.connection.initial_window

    def answer(self, bytes message not None):
        """Sends a unary call's answer with status OK. Does nothing if the client has given up."""
        cdef Connection connection = self.connection
        cdef size_t size = PyBytes_GET_SIZE(message), data = size + MESSAGE_HEAD
        cdef bytes trailers = OK_TRAILERS
        cdef uint8_t* at
        if self.local_closed:
            return
        if self.note is not None:
            trailers += self.note.trailers
        if (
            self.headers_sent or self.outgoing or data > connection.largest_frame
            or <int64_t>data > self.window() or <int64_t>data > connection.send_window
            or <size_t>len(trailers) > connection.largest_frame or connection.table_changed
        ):
            self.send_message(message)
            self.finish(0, "", ())
            return
        connection.make_room(
            3 * FRAME_HEAD + len(RESPONSE_HEADERS) + data + len(trailers)
        )
        at = connection.out + connection.out_size
        at = put_frame_head(at, len(RESPONSE_HEADERS), HEADERS, END_HEADERS, self.number)
        memcpy(at, PyBytes_AS_STRING(RESPONSE_HEADERS), len(RESPONSE_HEADERS))
        at += len(RESPONSE_HEADERS)
        at = put_frame_head(at, data, DATA, 0, self.number)
        at[0] = 0
        at = put_big(at + 1, <uint32_t>size, 4)
        memcpy(at, PyBytes_AS_STRING(message), size)
        at = put_frame_head(
            at + size, len(trailers), HEADERS, END_HEADERS | END_STREAM, self.number
        )
        memcpy(at, PyBytes_AS_STRING(trailers), len(trailers))
        connection.out_size = <size_t>(at - connection.out) + len(trailers)
        connection.sent += 1
        connection.ended += 1
        connection.send_window -= <int64_t>data
        self.headers_sent = self.local_closed = True
        connection.forget(self)
        connection.touch()

    def send_headers(self, metadata):
        """Sends the answer's headers: `(name, value)` pairs of bytes behind gRPC's own."""
        cdef bytes block
        if self.local_closed or self.headers_sent:
            return
        block = RESPONSE_HEADERS + header_block(metadata)
        self.connection.put_block(self.number, block, False)
        self.headers_sent = True
        self.connection.touch()

    def send_message(self, bytes message not None):
        """Sends a message, as the client's windows allow."""
        cdef uint8_t head[MESSAGE_HEAD]
        if self.local_closed or self.trailers is not None:
            return
        self.send_headers(())
        head[0] = 0
        put_big(head + 1, <uint32_t>PyBytes_GET_SIZE(message), 4)
        self.outgoing.append(PyBytes_FromStringAndSize(<const char*>head, MESSAGE_HEAD))
        self.outgoing.append(message)
        self.connection.queue(MESSAGE_HEAD + PyBytes_GET_SIZE(message))
        self.queued += MESSAGE_HEAD + PyBytes_GET_SIZE(message)
        self.connection.sent += 1
        self.write_waiting()
        self.connection.touch()

    cdef int begin_message(self, bytes message) except -1:
        """Sends a message of whose bytes none are known yet. No other may follow until `wrote` has
        been told that all are."""
        self.unwritten = PyBytes_GET_SIZE(message)
        self.send_message(message)
        return 0

    cdef int wrote(self, size_t unwritten) except -1:
        """Sends more of that message, all but `unwritten` bytes at its end."""
        self.unwritten = unwritten
        if not self.local_closed:
            self.write_waiting()
            self.connection.touch()
        return 0

    def finish(self, int code, str message not None, metadata):
        """Ends the call with a gRPC status, once all messages are sent.

        Args:
            code: The status code.
            message: What is wrong, for those but 0.
            metadata: `(name, value)` pairs of bytes, sent behind the status.
        """
        if self.local_closed or self.trailers is not None:
            return
        block = status_block(code, message, metadata)
        if self.note is not None:
            block += self.note.trailers if code == 0 else self.note.failure_trailers
        if not self.headers_sent:
            block = RESPONSE_HEADERS + block
        self.trailers = block
        self.write_waiting()
        self.connection.touch()

    @property
    def waiting(self) -> int:
        """Bytes of messages that wait for the client's windows."""
        return self.queued

    def wants_room(self) -> bool:
        """Whether so much waits for the client's windows that no more messages should be sent.

        Where it does, `room()` of whoever handles the call is called as soon as it does not, unless
        the call is over before.
        """
        self.crowded = self.queued > MOST_UNREAD and not self.local_closed
        return self.crowded

    def let_in(self):
        """The caller may send what it began to; `judge` of the server has asked."""
        self.standing = LET_IN
        if not self.local_closed:
            self.let_send()
            self.connection.touch()

    def took(self, size_t count):
        """Lets the client send as many more bytes as have been taken of its messages."""
        cdef int64_t lent
        if self.call is None:
            # The call is over, and all of it let go of.
            return
        self.held -= count
        self.connection.hold(-<int64_t>count)
        lent = min(self.lent, <int64_t>count)
        self.lent -= lent
        self.unacknowledged -= lent
        self.owed += <int64_t>count - lent
        self.let_send()

    cdef int let_send(self) except -1:
        """Lets the client send what it is owed, if it reads its answers."""
        cdef int64_t owed
        if self.remote_closed or self.queued > MOST_UNREAD or self.standing == JUDGING:
            return 0
        owed, self.owed = self.owed, 0
        self.give_back(owed)
        return self.lend()

    cdef int give_back(self, int64_t count) except -1:
        """Lets the client send more on this stream, in steps that are worth a frame."""
        self.returned += count
        if self.returned >= STREAM_WINDOW // 4:
            self.connection.put_window_update(self.number, <uint32_t>self.returned)
            self.unacknowledged -= self.returned
            self.returned = 0
        return 0

    cdef int lend(self) except -1:
        """Lets the client send a message that the window is too small for, once those before it
        are taken."""
        cdef size_t have, size
        if self.incoming is None or self.lent or self.standing == JUDGING:
            return 0
        have = len(self.incoming)
        if have < MESSAGE_HEAD or self.held > have:
            return 0
        size = MESSAGE_HEAD + <size_t>get_big(<const uint8_t*><const char*>self.incoming + 1, 4)
        if have >= size or size > MESSAGE_HEAD + LARGEST_MESSAGE:
            # It is there, or will be refused, as soon as it is looked at.
            return 0
        # A quarter of the window may be withheld as not worth a frame.
        if size > STREAM_WINDOW - STREAM_WINDOW // 4:
            self.lent = <int64_t>size - (STREAM_WINDOW - STREAM_WINDOW // 4)
            self.connection.put_window_update(self.number, <uint32_t>self.lent)
        return 0

    cdef int write_waiting(self) except -1:
        """Writes what the windows allow of what waits, and the trailers behind the last of it."""
        cdef Connection connection = self.connection
        cdef int64_t window
        cdef bytes part
        cdef size_t size, room
        while self.outgoing:
            part = self.outgoing[0]
            size = PyBytes_GET_SIZE(part) - self.outgoing_at
            if self.unwritten and len(self.outgoing) == 1:
                size -= self.unwritten
                if size == 0:
                    return 0
            if size == 0:
                self.outgoing.popleft()
                self.outgoing_at = 0
                continue
            window = min(self.window(), connection.send_window)
            if window <= 0:
                return self.tell_of_room()
            room = <size_t>window
            size = min(size, room, <size_t>connection.largest_frame)
            connection.put_frame(
                DATA, 0, self.number,
                <const uint8_t*>PyBytes_AS_STRING(part) + self.outgoing_at, size,
            )
            self.outgoing_at += size
            self.queued -= size
            connection.queue(-<int64_t>size)
            self.send_window -= <int64_t>size
            connection.send_window -= <int64_t>size
        if self.trailers is not None:
            self.local_closed = True
            connection.ended += 1
            connection.put_block(self.number, self.trailers, True)
            if not self.remote_closed:
                # What the client may still send is not read.
                connection.reset(self.number, NO_ERROR)
            connection.forget(self)
            return 0
        if self.owed:
            self.let_send()
        return self.tell_of_room()

    cdef int tell_of_room(self) except -1:
        """Tells whoever waits for it that more messages may be sent."""
        if self.crowded and self.queued <= MOST_UNREAD:
            self.crowded = False
            if self.call is not None:
                self.call.room()
        return 0

    cdef int take_data(self, const uint8_t* at, size_t size) except -1:
        """Takes bytes of messages."""
        cdef uint32_t length
        cdef const uint8_t* data
        cdef size_t have
        if self.trailers is not None:
            # The answer ends already; what the client may still send is not read.
            return 0
        if self.incoming is None:
            self.incoming = bytearray()
        self.incoming += at[:size]
        self.held += size
        self.connection.hold(<int64_t>size)
        if self.connection.held > MOST_HELD:
            return self.give_up(
                RESOURCE_EXHAUSTED, f"a connection's messages are more than {MOST_HELD} bytes"
            )
        while len(self.incoming) >= MESSAGE_HEAD:
            data = <const uint8_t*><const char*>self.incoming
            have = len(self.incoming)
            length = get_big(data + 1, 4)
            if length > LARGEST_MESSAGE:
                return self.give_up(
                    RESOURCE_EXHAUSTED, f"a message is larger than {LARGEST_MESSAGE} bytes"
                )
            if have < MESSAGE_HEAD + <size_t>length and all_held > MOST_HELD_BY_ALL:
                return self.give_up(
                    RESOURCE_EXHAUSTED,
                    f"all clients' messages are more than {MOST_HELD_BY_ALL} bytes: try again",
                )
            if have < MESSAGE_HEAD + <size_t>length and (
                self.standing == UNJUDGED and self.connection.authenticates
            ):
                self.standing = JUDGING
                self.connection.server.judge(self)
                if self.incoming is None:
                    return 0
            if self.call is None:
                if have > MESSAGE_HEAD + <size_t>length:
                    return self.give_up(INTERNAL, "a unary call has one message; this has more")
                return 0
            if have < MESSAGE_HEAD + <size_t>length:
                return self.lend()
            message = bytes(self.incoming[MESSAGE_HEAD : MESSAGE_HEAD + length])
            flag = data[0]
            del self.incoming[: MESSAGE_HEAD + length]
            try:
                self.check_packing(flag)
            except Unreadable as error:
                return self.give_up(error.code, str(error))
            self.connection.received += 1
            if flag:
                self.call.packed_message(message, MESSAGE_HEAD + length)
            else:
                self.call.message(message, MESSAGE_HEAD + length)
            if self.incoming is None:
                # Whoever was told of the message has ended the call.
                return 0
        return 0

    cdef int give_up(self, int code, str message) except -1:
        """Ends a call because of what the client sent."""
        call, self.call = self.call, None
        self.release()
        if call is not None:
            call.cancel()
        self.finish(code, message, ())
        return 0

    def refuse(self, int code, str message not None):
        """Ends a call because of what the client sent: gives its handler up, and tells the client.
        """
        self.give_up(code, message)

    cdef int check_packing(self, int flag) except -1:
        """Raises Unreadable for a message that is compressed in no way that is known."""
        if flag == 0:
            return 0
        if flag != 1 or self.encoding is None:
            raise Unreadable(
                INTERNAL, f"a message has the compression flag {flag}, without a grpc-encoding"
            )
        if self.encoding not in (b"gzip", b"deflate"):
            raise Unreadable(
                UNIMPLEMENTED,
                f"grpc-encoding is {self.encoding.decode('latin-1')!r}: "
                "use gzip, deflate or identity",
            )
        return 0

    def unpack(self, bytes message not None) -> bytes:
        """A compressed message as it was before; in any thread, since it may take long.

        Raises:
            Unreadable: It is not compressed as its call says, or too large.
        """
        window = 31 if self.encoding == b"gzip" else 15
        unpacker = zlib.decompressobj(window)
        try:
            data = unpacker.decompress(message, UNPACKED_AT_ONCE)
            size = len(data)
            # A long one is counted before it is kept: what is too long takes no more memory than
            # this.
            piece = data
            while piece and not unpacker.eof and size <= LARGEST_MESSAGE:
                piece = unpacker.decompress(unpacker.unconsumed_tail, UNPACKED_AT_ONCE)
                size += len(piece)
            if size > LARGEST_MESSAGE:
                raise Unreadable(
                    RESOURCE_EXHAUSTED,
                    f"a message is larger than {LARGEST_MESSAGE} bytes, unpacked",
                )
            if size > len(data):
                unpacker = zlib.decompressobj(window)
                data = unpacker.decompress(message)
        except zlib.error as error:
            raise Unreadable(
                INTERNAL, f"a message is not what its grpc-encoding says: {error}"
            ) from None
        if not unpacker.eof:
            raise Unreadable(INTERNAL, "a compressed message is cut")
        return data

    cdef int release(self) except -1:
        """Lets go of what has come and is not taken."""
        self.connection.hold(-<int64_t>self.held)
        self.held = 0
        self.incoming = None
        return 0

    cdef int end_of_request(self) except -1:
        """The client has sent its last byte."""
        cdef bytearray incoming = self.incoming
        self.remote_closed = True
        if self.local_closed or self.trailers is not None:
            return 0
        if self.call is not None:
            if incoming is not None and len(incoming) > 0:
                return self.give_up(INTERNAL, "the last message is cut")
            self.call.half_close()
            return 0
        self.release()
        if incoming is None or len(incoming) < MESSAGE_HEAD:
            self.finish(INTERNAL, "a unary call has one message, and this one has none", ())
            return 0
        length = int.from_bytes(incoming[1:MESSAGE_HEAD], "big")
        if length != len(incoming) - MESSAGE_HEAD:
            self.finish(INTERNAL, "a unary call has one message; this is another length", ())
            return 0
        try:
            self.check_packing(incoming[0])
        except Unreadable as error:
            self.finish(error.code, str(error), ())
            return 0
        self.connection.received += 1
        if incoming[0]:
            self.connection.server.answer_packed(self, bytes(incoming[MESSAGE_HEAD:]))
        else:
            self.connection.server.answer(self, bytes(incoming[MESSAGE_HEAD:]))
        return 0


cdef class Connection:
    """One client.

    Attributes:
        descriptor: The socket's.
        failed: Whether nothing more is read from it, and it is to be closed once all is sent.
        leaving: Whether the client has been warned to go elsewhere.
        left: Whether no more calls are taken.
        begun, ended: Calls that the client has begun, and those of them that were answered.
        received, sent: Messages.
        pings: Times that the client was asked whether it is there.
        address: The client's, as the kernel has it (`sockaddr`); empty where it is not known.
        identity: Who the client's certificate says that it is; None for nobody. The server's.
    """

    def __cinit__(self, object server not None, int descriptor):
        """
        Args:
            server: What answers: `at_once` (a set of paths), `answer(stream, message)`,
                `answer_packed(stream, message)`, `open(stream, headers)`, `clock()` and
                `touched(connection)`; and where it has them `keeps_callers` and `authenticates`,
                whether it wants to know who calls, and with which token, `admission`, which says
                whether reads are taken on, and `most_streams`, the calls that a client may have at
                once. One that `authenticates` is also told with `meet(stream)` of each call that
                begins without credentials, and with `judge(stream)` of each whose message is
                longer than its first frame: it may `refuse` the call, and of the others lets in
                those that `judge` has told it of, then or later.
            descriptor: The socket's, for whoever sends and receives.
        """
        cdef uint8_t data[6 * 3]
        cdef uint8_t* at = data
        self.server = server
        self.keeps_callers = getattr(server, "keeps_callers", False)
        self.authenticates = getattr(server, "authenticates", False)
        self.address = b""
        self.admission = getattr(server, "admission", None)
        self.most_streams = getattr(server, "most_streams", MOST_STREAMS)
        self.descriptor = descriptor
        self.decoder = HeaderDecoder(4096, LARGEST_HEADERS)
        self.streams = {}
        self.send_window = self.initial_window = DEFAULT_WINDOW
        self.largest_frame = LARGEST_FRAME
        self.table_room = MOST_TABLE
        at = put_big(put_big(at, SETTINGS_MAX_CONCURRENT_STREAMS, 2), self.most_streams, 4)
        at = put_big(put_big(at, SETTINGS_INITIAL_WINDOW_SIZE, 2), STREAM_WINDOW, 4)
        at = put_big(put_big(at, SETTINGS_MAX_HEADER_LIST_SIZE, 2), LARGEST_HEADERS, 4)
        self.put_frame(SETTINGS, 0, 0, data, at - data)
        put_big(data, CONNECTION_WINDOW - DEFAULT_WINDOW, 4)
        self.put_frame(WINDOW_UPDATE, 0, 0, data, 4)

    def __dealloc__(self):
        self.hold(-<int64_t>self.held)
        self.queue(-<int64_t>self.queued)
        free_headers(&self.headers)
        free(self.input)
        free(self.out)

    cdef void hold(self, int64_t count) noexcept:
        """Counts bytes of messages that are kept, or are not any more."""
        global all_held
        self.held += <size_t>count
        all_held += <size_t>count

    cdef void queue(self, int64_t count) noexcept:
        """Counts bytes of answers that wait, or do not any more."""
        global all_queued
        self.queued += <size_t>count
        all_queued += <size_t>count

    # ------------------------------------------------------------ what the loop uses

    def receive(self, bytes data not None):
        """Takes bytes that came from the client; for callers that read them themselves."""
        cdef size_t size = PyBytes_GET_SIZE(data)
        self.make_input(size)
        memcpy(self.input + self.input_size, PyBytes_AS_STRING(data), size)
        self.input_size += size
        self.parse()

    def to_send(self) -> bytes:
        """Takes all bytes that are to be sent; for callers that send them themselves."""
        data = PyBytes_FromStringAndSize(
            <const char*>self.out + self.out_at, self.out_size - self.out_at
        )
        self.out_at = self.out_size = 0
        self.dirty = False
        return data

    @property
    def open_calls(self) -> int:
        """Calls that are not answered."""
        return len(self.streams)

    @property
    def unsent(self) -> int:
        """Bytes of frames that are to be sent."""
        return self.out_size - self.out_at

    @property
    def congested(self) -> bool:
        """Whether so much waits to be sent that nothing should be read."""
        return self.out_size - self.out_at > MOST_WAITING

    def leave(self):
        """Warns the client to take new calls elsewhere. Those that it has begun by the time it has
        had the warning are taken."""
        if not self.leaving and not self.failed:
            self.leaving = True
            self.put_goaway(LAST_STREAM)
            self.put_frame(PING, 0, 0, <const uint8_t*>PyBytes_AS_STRING(WARNED), 8)

    def depart(self):
        """Takes no more calls, and says so."""
        if not self.left and not self.failed:
            self.leaving = self.left = True
            self.put_goaway(self.last_number)

    def end_late(self, double now):
        """Ends unary calls whose message has not come by their deadline."""
        cdef Stream stream
        for stream in list(self.streams.values()):
            if (
                stream.deadline and stream.deadline <= now and stream.call is None
                and not stream.remote_closed
            ):
                stream.finish(
                    DEADLINE_EXCEEDED, "the message had not come by the call's deadline", ()
                )

    def ping(self):
        """Asks whether the client is still there."""
        self.pings += 1
        self.put_frame(PING, 0, 0, <const uint8_t*>PyBytes_AS_STRING(THERE), 8)
        self.touch()

    def lost(self):
        """The client is gone: everybody who handles one of its calls is told."""
        cdef Stream stream
        streams, self.streams = self.streams, {}
        self.failed = True
        calls = []
        for stream in streams.values():
            stream.local_closed = True
            if stream.call is not None:
                calls.append(stream.call)
            stream.release()
            stream.outgoing.clear()
            stream.queued = 0
            stream.call = None
        self.queue(-<int64_t>self.queued)
        failure = None
        for call in calls:
            try:
                call.cancel()
            except Exception as error:
                # The others are told all the same.
                failure = error
        if failure is not None:
            raise failure

    def make_input(self, size_t wanted):
        """Makes room for `wanted` more bytes of input."""
        cdef uint8_t* grown
        cdef size_t capacity = self.input_capacity if self.input_capacity else 32768
        while capacity < self.input_size + wanted:
            capacity *= 2
        if capacity != self.input_capacity:
            grown = <uint8_t*>realloc(self.input, capacity)
            if grown == NULL:
                raise MemoryError
            self.input = grown
            self.input_capacity = capacity

    # ------------------------------------------------------------ frames in

    cdef int parse(self) except -1:
        """Takes the whole frames of what has been received."""
        cdef const uint8_t* at = self.input
        cdef const uint8_t* end = at + self.input_size
        cdef size_t size
        if self.failed:
            self.input_size = 0
            return 0
        if not self.greeted:
            size = min(self.input_size, <size_t>len(PREFACE))
            if memcmp(at, PyBytes_AS_STRING(PREFACE), size) != 0:
                self.input_size = 0
                return self.fail(PROTOCOL_ERROR, "no HTTP/2 preface")
            if size < <size_t>len(PREFACE):
                return 0
            self.greeted = True
            at += size
        while end - at >= FRAME_HEAD and not self.failed:
            size = get_big(at, 3)
            if size > LARGEST_FRAME:
                self.fail(FRAME_SIZE_ERROR, "frame too large")
                break
            if <size_t>(end - at) < FRAME_HEAD + size:
                break
            self.take_frame(
                at[3], at[4], get_big(at + 5, 4) & 0x7FFFFFFF, at + FRAME_HEAD, size
            )
            at += FRAME_HEAD + size
        if self.failed:
            self.input_size = 0
            return 0
        self.end_refused()
        if self.widened:
            self.widened = False
            self.write_all_waiting()
        self.input_size = <size_t>(end - at)
        memmove(self.input, at, self.input_size)
        return 0

    cdef int take_frame(
        self, uint32_t kind, uint32_t flags, uint32_t number, const uint8_t* at, size_t size
    ) except -1:
        cdef Stream stream
        cdef size_t padding = 0
        if self.continued != 0 and (kind != CONTINUATION or number != self.continued):
            return self.fail(PROTOCOL_ERROR, "a header block is interrupted")
        if kind == DATA:
            if number == 0 or number > self.last_number:
                return self.fail(PROTOCOL_ERROR, "DATA on a stream that is not open")
            # What is kept of it is bounded by `held`, and by the stream's window.
            self.returned += <int64_t>size
            if self.returned >= CONNECTION_WINDOW // 4:
                self.put_window_update(0, <uint32_t>self.returned)
                self.returned = 0
            if number == self.unread:
                if flags & END_STREAM:
                    self.unread = 0
                return 0
            stream = self.streams.get(number)
            if stream is None:
                # Answered, or given up, before all had come.
                return 0
            if stream.remote_closed:
                return self.fail(STREAM_CLOSED, "DATA behind the end of a stream")
            if flags & PADDED:
                if size < 1 or at[0] >= size:
                    return self.fail(PROTOCOL_ERROR, "padding longer than its frame")
                padding = 1 + <size_t>at[0]
                at += 1
            stream.unacknowledged += <int64_t>size
            if stream.unacknowledged > STREAM_WINDOW + stream.lent:
                return self.fail(FLOW_CONTROL_ERROR, "more than the stream's window")
            if flags & END_STREAM == 0:
                if stream.standing == JUDGING:
                    stream.owed += <int64_t>(size if stream.call is None else padding)
                else:
                    stream.give_back(<int64_t>(size if stream.call is None else padding))
            if size > padding:
                stream.take_data(at, size - padding)
            if flags & END_STREAM and number in self.streams:
                stream.end_of_request()
            return 0
        if kind == HEADERS:
            return self.take_headers(flags, number, at, size)
        if kind == CONTINUATION:
            if self.continued == 0:
                return self.fail(PROTOCOL_ERROR, "CONTINUATION of nothing")
            self.block += at[:size]
            if len(self.block) > 4 * LARGEST_HEADERS:
                return self.fail(ENHANCE_YOUR_CALM, "header block too large")
            if flags & END_HEADERS:
                number, self.continued = self.continued, 0
                block = bytes(self.block)
                self.block = None
                return self.end_of_headers(
                    number, <const uint8_t*>PyBytes_AS_STRING(block), len(block),
                    self.continued_ends,
                )
            return 0
        if kind == RST_STREAM:
            if number == 0 or number > self.last_number or size != 4:
                return self.fail(PROTOCOL_ERROR, "RST_STREAM of no stream")
            stream = self.streams.get(number)
            return 0 if stream is None else self.abandon(stream)
        if kind == SETTINGS:
            if number != 0:
                return self.fail(PROTOCOL_ERROR, "SETTINGS on a stream")
            return self.take_settings(flags, at, size)
        if kind == PING:
            if number != 0 or size != 8:
                return self.fail(PROTOCOL_ERROR, "malformed PING")
            if not flags & ACK:
                self.put_frame(PING, ACK, 0, at, 8)
                self.touch()
            elif self.leaving and memcmp(at, PyBytes_AS_STRING(WARNED), 8) == 0:
                self.depart()
            return 0
        if kind == WINDOW_UPDATE:
            return self.take_window_update(number, at, size)
        if kind == PUSH_PROMISE:
            return self.fail(PROTOCOL_ERROR, "PUSH_PROMISE of a client")
        if kind == PRIORITY and (number == 0 or size != 5):
            return self.fail(PROTOCOL_ERROR, "malformed PRIORITY")
        # GOAWAY of a client says nothing that concerns a server; unknown frames are ignored.
        return 0

    cdef int take_headers(
        self, uint32_t flags, uint32_t number, const uint8_t* at, size_t size
    ) except -1:
        cdef size_t padding = 0
        if number == 0 or number % 2 == 0:
            return self.fail(PROTOCOL_ERROR, "HEADERS of no client's stream")
        if flags & PADDED:
            if size < 1:
                return self.fail(PROTOCOL_ERROR, "padding longer than its frame")
            padding = at[0]
            at += 1
            size -= 1
        if flags & WITH_PRIORITY:
            if size < 5:
                return self.fail(PROTOCOL_ERROR, "HEADERS too short for their priority")
            at += 5
            size -= 5
        if padding > size:
            return self.fail(PROTOCOL_ERROR, "padding longer than its frame")
        size -= padding
        if not flags & END_HEADERS:
            self.continued = number
            self.continued_ends = flags & END_STREAM != 0
            self.block = bytearray(at[:size])
            return 0
        return self.end_of_headers(number, at, size, flags & END_STREAM != 0)

    cdef int end_of_headers(
        self, uint32_t number, const uint8_t* at, size_t size, bint ends
    ) except -1:
        """Takes a whole header block."""
        cdef Stream stream
        cdef int outcome
        clear_headers(&self.headers)
        outcome = self.decoder.decode(at, size, &self.headers)
        if outcome == HPACK_NO_MEMORY:
            raise MemoryError
        if outcome == HPACK_MALFORMED:
            return self.fail(COMPRESSION_ERROR, "malformed header block")
        if number <= self.last_number:
            stream = self.streams.get(number)
            if stream is not None:
                # A client's trailers, which gRPC has not; what they say is not read.
                if ends and not stream.remote_closed:
                    return stream.end_of_request()
                self.reset(number, STREAM_CLOSED if stream.remote_closed else PROTOCOL_ERROR)
                return self.abandon(stream)
            # Trailers, too, of a call that was answered before they had come.
            return 0 if ends else self.fail(
                STREAM_CLOSED, "HEADERS on a stream that was closed"
            )
        self.last_number = number
        self.begun += 1
        if self.refusal is not None:
            self.streams[number] = stream = Stream(self, number, b"")
            stream.remote_closed = ends
            stream.finish(UNAVAILABLE, self.refusal, ())
            return 0
        if outcome == HPACK_TOO_LARGE:
            self.streams[number] = stream = Stream(self, number, b"")
            stream.remote_closed = ends
            stream.finish(
                RESOURCE_EXHAUSTED, f"metadata of more than {LARGEST_HEADERS} bytes", ()
            )
            return 0
        if (
            self.left or <uint32_t>len(self.streams) >= self.most_streams
            # Who does not take its answers is given no more of them.
            or self.queued > MOST_QUEUED
            or (self.queued > MOST_UNREAD and all_queued > MOST_QUEUED_BY_ALL)
        ):
            return self.reset(number, REFUSED_STREAM)
        return self.open_stream(number, ends)

    cdef int open_stream(self, uint32_t number, bint ends) except -1:
        """Begins a call, whose headers have just been decoded."""
        cdef Header* header
        cdef const uint8_t* name
        cdef const uint8_t* value
        cdef uint32_t i
        cdef bytes path = b"", timeout = None, encoding = None, caller = None, request_id = None
        cdef bytes traceparent = None
        cdef bytes authorization = None
        cdef bint grpc = False, post = False, named = False
        cdef Stream stream
        for i in range(self.headers.count):
            header = &self.headers.headers[i]
            name = self.headers.bytes + header.name_at
            value = self.headers.bytes + header.value_at
            if header.name_size == 5 and memcmp(name, b":path", 5) == 0:
                path = self.known_path(value, header.value_size)
            elif header.name_size == 7 and memcmp(name, b":method", 7) == 0:
                post = header.value_size == 4 and memcmp(value, b"POST", 4) == 0
            elif header.name_size == 12:
                if memcmp(name, b"content-type", 12) == 0:
                    grpc = header.value_size >= 16 and (
                        memcmp(value, b"application/grpc", 16) == 0
                        and (header.value_size == 16 or value[16] == 43 or value[16] == 59)
                    )
                elif memcmp(name, b"grpc-timeout", 12) == 0:
                    timeout = value[: header.value_size]
                elif self.keeps_callers and memcmp(name, b"x-request-id", 12) == 0:
                    request_id = value[: header.value_size]
            elif header.name_size == 13:
                if memcmp(name, b"grpc-encoding", 13) == 0:
                    encoding = value[: header.value_size]
                elif self.authenticates and memcmp(name, b"authorization", 13) == 0:
                    if authorization is None:
                        authorization = self.known_authorization(value, header.value_size)
                    else:
                        # As HTTP joins them: no token has a comma.
                        authorization += b"," + value[: header.value_size]
            elif self.keeps_callers:
                if header.name_size == 11 and memcmp(name, b"traceparent", 11) == 0:
                    traceparent = value[: header.value_size]
                elif header.name_size == 8 and memcmp(name, b"x-caller", 8) == 0:
                    caller = value[: header.value_size]
                    named = True
                elif header.name_size == 10 and not named and memcmp(name, b"user-agent", 10) == 0:
                    caller = value[: header.value_size]
        if not path:
            return self.reset(number, PROTOCOL_ERROR)
        if (
            self.admission is not None and is_full(self.admission) and grpc and post
            and path in self.admission.paths
        ):
            return self.turn_away(number, ends)
        stream = Stream(self, number, path)
        stream.remote_closed = ends
        stream.caller = caller
        stream.request_id = request_id
        stream.traceparent = traceparent
        stream.authorization = authorization
        self.streams[number] = stream
        if not grpc or not post:
            # As gRPC has it: a caller that does not speak gRPC is answered in HTTP.
            stream.trailers = header_block(((b":status", b"415" if post else b"405"),))
            stream.write_waiting()
            return self.touch()
        if self.authenticates and authorization is None and self.identity is None:
            self.server.meet(stream)
            if number not in self.streams:
                return 0
        if encoding is not None and encoding != b"identity":
            stream.encoding = encoding
        if timeout is not None:
            try:
                stream.deadline = parse_timeout(timeout) + (self.arrived or self.server.clock())
            except ValueError as error:
                stream.finish(INTERNAL, str(error), ())
                return 0
        if path not in self.server.at_once:
            call = self.server.open(stream, self.header_list())
            if number in self.streams:
                stream.call = call
        if ends and number in self.streams:
            stream.end_of_request()
        return 0

    cdef bytes known_path(self, const uint8_t* value, size_t size):
        """A path as bytes, the same object as before where it is the same, as it mostly is: its
        hash is known by then."""
        cdef bytes known = self.path
        if known is None or <size_t>PyBytes_GET_SIZE(known) != size or (
            memcmp(PyBytes_AS_STRING(known), value, size) != 0
        ):
            self.path = known = value[:size]
        return known

    cdef bytes known_authorization(self, const uint8_t* value, size_t size):
        """A token as bytes, the same object as before where it is the same: a client sends one
        token with all of its calls, and who looks it up has hashed it already."""
        cdef bytes known = self.authorization
        if known is None or <size_t>PyBytes_GET_SIZE(known) != size or (
            memcmp(PyBytes_AS_STRING(known), value, size) != 0
        ):
            self.authorization = known = value[:size]
        return known

    cdef int turn_away(self, uint32_t number, bint ends) except -1:
        """Refuses a call that has just begun, before anything is kept of it."""
        cdef RepeatedBlock block = self.admission.refuse()
        if self.refusal_entered:
            self.put_block(number, block.referring, True)
        elif block.room <= self.table_room:
            self.put_block(number, block.entering, True)
            self.refusal_entered = True
        else:
            self.put_block(number, block.literal, True)
        self.end_refused()
        if not ends:
            self.unread = number
        return self.touch()

    cdef int end_refused(self) except -1:
        """Has the client stop sending what is not read. The request of most calls ends in the next
        frame, and then there is nothing to stop."""
        if self.unread:
            self.reset(self.unread, NO_ERROR)
            self.unread = 0
        return 0

    def header_list(self) -> list[tuple[bytes, bytes]]:
        """The headers that were decoded last."""
        cdef Header* header
        cdef uint32_t i
        made = []
        for i in range(self.headers.count):
            header = &self.headers.headers[i]
            made.append((
                self.headers.bytes[header.name_at : header.name_at + header.name_size],
                self.headers.bytes[header.value_at : header.value_at + header.value_size],
            ))
        return made

    cdef int take_settings(self, uint32_t flags, const uint8_t* at, size_t size) except -1:
        cdef uint32_t setting, value
        if flags & ACK:
            return 0 if size == 0 else self.fail(FRAME_SIZE_ERROR, "malformed SETTINGS")
        if size % 6 != 0:
            return self.fail(FRAME_SIZE_ERROR, "malformed SETTINGS")
        while size:
            setting = get_big(at, 2)
            value = get_big(at + 2, 4)
            at += 6
            size -= 6
            if setting == SETTINGS_HEADER_TABLE_SIZE:
                if min(value, <uint32_t>MOST_TABLE) != self.table_room:
                    self.table_room = min(value, <uint32_t>MOST_TABLE)
                    self.table_changed = True
                    self.refusal_entered = False
            elif setting == SETTINGS_INITIAL_WINDOW_SIZE:
                if value > 0x7FFFFFFF:
                    return self.fail(FLOW_CONTROL_ERROR, "window too large")
                # Of open streams, too: theirs are counted from here.
                self.initial_window = value
            elif setting == SETTINGS_MAX_FRAME_SIZE:
                if not 16384 <= value <= 16777215:
                    return self.fail(PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE out of range")
                self.largest_frame = value
            elif setting == SETTINGS_ENABLE_PUSH and value > 1:
                return self.fail(PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH out of range")
        self.put_frame(SETTINGS, ACK, 0, at, 0)
        self.widened = self.met = True
        return self.touch()

    cdef int take_window_update(self, uint32_t number, const uint8_t* at, size_t size) except -1:
        cdef uint32_t count
        cdef Stream stream
        if size != 4:
            return self.fail(FRAME_SIZE_ERROR, "malformed WINDOW_UPDATE")
        count = get_big(at, 4) & 0x7FFFFFFF
        if number == 0:
            self.send_window += count
            if count == 0 or self.send_window > 0x7FFFFFFF:
                return self.fail(
                    FLOW_CONTROL_ERROR if count else PROTOCOL_ERROR, "window out of range"
                )
            self.widened = True
            return 0
        if number > self.last_number:
            return self.fail(PROTOCOL_ERROR, "WINDOW_UPDATE on a stream that is not open")
        stream = self.streams.get(number)
        if stream is None:
            return 0
        stream.send_window += count
        if count == 0 or stream.window() > 0x7FFFFFFF:
            self.reset(number, FLOW_CONTROL_ERROR if count else PROTOCOL_ERROR)
            return self.abandon(stream)
        stream.write_waiting()
        return self.touch()

    cdef int write_all_waiting(self) except -1:
        cdef Stream stream
        for stream in list(self.streams.values()):
            if self.send_window <= 0:
                break
            stream.write_waiting()
        return self.touch()

    # ------------------------------------------------------------ frames out

    cdef int touch(self) except -1:
        """Has what waits sent at the end of the loop's turn."""
        if not self.dirty:
            self.dirty = True
            self.server.touched(self)
        return 0

    cdef int make_room(self, size_t wanted) except -1:
        cdef uint8_t* grown
        cdef size_t capacity = self.out_capacity if self.out_capacity else 32768
        if self.out_at == self.out_size:
            self.out_at = self.out_size = 0
        elif self.out_at > self.out_size // 2 and self.out_size + wanted > capacity:
            # What is sent is let go of even where something always waits.
            memmove(self.out, self.out + self.out_at, self.out_size - self.out_at)
            self.out_size -= self.out_at
            self.out_at = 0
        while capacity < self.out_size + wanted:
            capacity *= 2
        if capacity != self.out_capacity:
            grown = <uint8_t*>realloc(self.out, capacity)
            if grown == NULL:
                raise MemoryError
            self.out = grown
            self.out_capacity = capacity
        return 0

    cdef void shrink(self) noexcept:
        """Gives back memory that one large answer has taken, when nothing waits to be sent."""
        self.out_at = self.out_size = 0
        if self.out_capacity > KEEP_CAPACITY:
            free(self.out)
            self.out = NULL
            self.out_capacity = 0

    cdef int put_frame(
        self, uint32_t kind, uint32_t flags, uint32_t number, const uint8_t* at, size_t size
    ) except -1:
        cdef uint8_t* to
        self.make_room(FRAME_HEAD + size)
        to = put_frame_head(self.out + self.out_size, size, kind, flags, number)
        if size:
            memcpy(to, at, size)
        self.out_size += FRAME_HEAD + size
        return 0

    cdef int put_block(self, uint32_t number, bytes block, bint ends) except -1:
        """Writes a header block, in as many frames as it needs."""
        cdef size_t at = 0, size
        cdef uint32_t kind = HEADERS, flags
        if self.table_changed:
            # One that has become smaller must be told, and what it had is gone in any case.
            self.table_changed = False
            block = encode_table_size(self.table_room) + block
        while True:
            size = min(<size_t>len(block) - at, <size_t>self.largest_frame)
            flags = END_HEADERS if at + size == <size_t>len(block) else 0
            if kind == HEADERS and ends:
                flags |= END_STREAM
            self.put_frame(
                kind, flags, number, <const uint8_t*>PyBytes_AS_STRING(block) + at, size
            )
            at += size
            kind = CONTINUATION
            if at == <size_t>len(block):
                return 0

    cdef int reset(self, uint32_t number, uint32_t code) except -1:
        cdef uint8_t data[4]
        put_big(data, code, 4)
        self.put_frame(RST_STREAM, 0, number, data, 4)
        return self.touch()

    cdef int put_goaway(self, uint32_t last) except -1:
        """Says up to which stream calls are taken."""
        cdef uint8_t data[8]
        put_big(put_big(data, last, 4), NO_ERROR, 4)
        self.put_frame(GOAWAY, 0, 0, data, 8)
        return self.touch()

    cdef int fail(self, uint32_t code, str why) except -1:
        """Ends the connection: nothing more is read, and the client is told why."""
        cdef uint8_t data[8]
        if self.failed:
            return 0
        put_big(put_big(data, self.last_number, 4), code, 4)
        debug = why.encode()
        message = data[:8] + debug
        self.put_frame(
            GOAWAY, 0, 0, <const uint8_t*>PyBytes_AS_STRING(message), len(message)
        )
        self.lost()
        return self.touch()

    cdef int put_window_update(self, uint32_t number, uint32_t count) except -1:
        cdef uint8_t data[4]
        put_big(data, count, 4)
        self.put_frame(WINDOW_UPDATE, 0, number, data, 4)
        return self.touch()

    cdef int abandon(self, Stream stream) except -1:
        """The client has given a call up, or made us reset it."""
        cdef double now = self.server.clock()
        call = stream.call
        stream.local_closed = True
        self.forget(stream)
        self.resets = max(0.0, self.resets - RESETS_FORGOTTEN * (now - self.last_reset))
        # `forget` has counted it as one that was let finish.
        self.resets += 2
        self.last_reset = now
        if call is not None:
            call.cancel()
        if self.resets > MOST_RESETS:
            return self.fail(ENHANCE_YOUR_CALM, "too many calls given up")
        return 0

    cdef int forget(self, Stream stream) except -1:
        """The call is over."""
        if self.streams.pop(stream.number, None) is not None:
            self.resets = max(0.0, self.resets - 1)
            stream.release()
            self.queue(-<int64_t>stream.queued)
            stream.queued = 0
            stream.outgoing.clear()
            stream.outgoing_at = 0
        stream.call = None
        return 0
