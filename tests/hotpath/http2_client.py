"""A gRPC client on `h2`, and a server's end that keeps no socket, for tests of HTTP/2."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings

from hotfeast.hotpath.http2 import Connection, Stream, Unreadable

ECHO = b"/test.Echo/Unary"
LATER = b"/test.Echo/Later"
STREAMED = b"/test.Echo/Stream"


class Handler:
    """Answers each message of a stream with itself, at once or when told to."""

    def __init__(self, server: "Server", stream: Stream, headers: list[tuple[bytes, bytes]]):
        self.server = server
        self.stream = stream
        self.headers = headers
        self.messages: list[tuple[bytes, int]] = []
        self.closed = False
        self.cancelled = 0

    def message(self, data: bytes, taken: int) -> None:
        self.messages.append((data, taken))
        if self.server.takes:
            self.take()

    def packed_message(self, data: bytes, taken: int) -> None:
        try:
            self.message(self.stream.unpack(data), taken)
        except Unreadable as error:
            self.stream.refuse(error.code, str(error))

    def take(self) -> None:
        """Answers what has come."""
        messages, self.messages = self.messages, []
        for data, taken in messages:
            self.stream.send_message(data)
            self.stream.took(taken)

    def half_close(self) -> None:
        self.closed = True
        if self.server.takes:
            self.stream.finish(0, "", ((b"messages", b"all"),))

    def cancel(self) -> None:
        self.cancelled += 1


class Server:
    """What a connection tells of its calls."""

    at_once = frozenset([ECHO, LATER])

    def __init__(self) -> None:
        self.time = 1000.0
        self.takes = True
        self.touches = 0
        self.kept: list[tuple[Stream, bytes]] = []
        self.handlers: list[Handler] = []
        self.deadlines: list[float | None] = []

    def clock(self) -> float:
        return self.time

    def touched(self, connection: Connection) -> None:
        self.touches += 1

    def answer(self, stream: Stream, message: bytes) -> None:
        self.deadlines.append(stream.deadline_seconds)
        if stream.path == ECHO:
            stream.answer(message)
        else:
            self.kept.append((stream, message))

    def answer_packed(self, stream: Stream, message: bytes) -> None:
        try:
            self.answer(stream, stream.unpack(message))
        except Unreadable as error:
            stream.finish(error.code, str(error), ())

    def open(self, stream: Stream, headers: list[tuple[bytes, bytes]]) -> Handler:
        self.handlers.append(Handler(self, stream, headers))
        return self.handlers[-1]


@dataclass
class Call:
    """What a client has seen of a call."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    trailers: dict[bytes, bytes] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: int | None = None
    to_send: bytearray = field(default_factory=bytearray)
    ends: bool = True
    frame: int = 1 << 20
    padding: int | None = None

    @property
    def status(self) -> int | None:
        """The gRPC status; None where there is none."""
        text = (self.headers | self.trailers).get(b"grpc-status")
        return None if text is None else int(text)

    @property
    def message(self) -> bytes:
        """The `grpc-message`."""
        return (self.headers | self.trailers).get(b"grpc-message", b"")

    @property
    def messages(self) -> list[bytes]:
        """The messages, all of which must be complete."""
        made, data = [], bytes(self.data)
        while data:
            assert data[0] == 0
            size = int.from_bytes(data[1:5], "big")
            assert len(data) >= 5 + size
            made.append(data[5 : 5 + size])
            data = data[5 + size :]
        return made


def framed(*messages: bytes, flag: int = 0) -> bytes:
    """Messages as they go into DATA."""
    return b"".join(bytes([flag]) + len(m).to_bytes(4, "big") + m for m in messages)


def request_headers(path: bytes, *extra: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """The headers of a call."""
    return [
        *((b":method", b"POST"), (b":scheme", b"http"), (b":path", path)),
        *((b":authority", b"test"), (b"te", b"trailers")),
        (b"content-type", b"application/grpc"),
        *extra,
    ]


class Client:
    """A connection and both its ends. Bytes move in `pump` only.

    Attributes:
        reads: Whether it takes what is sent to it.
        acknowledges: Whether it lets the server send as much again as has come.
        ended: The error code of a GOAWAY.
        sent: All bytes that the client has sent.
    """

    def __init__(
        self, chunks: random.Random | None = None, server: Server | None = None, **settings: int
    ) -> None:
        self.server = server or Server()
        self.connection = Connection(self.server, 7)
        config = h2.config.H2Configuration(
            client_side=True, header_encoding=None,
            validate_outbound_headers=False, normalize_outbound_headers=False,
        )  # fmt: skip
        self.h2 = h2.connection.H2Connection(config)
        codes = {h2.settings.SettingCodes[name]: value for name, value in settings.items()}
        self.h2.local_settings = h2.settings.Settings(client=True, initial_values=codes)
        self.h2.initiate_connection()
        self.calls: dict[int, Call] = {}
        self.chunks = chunks
        self.reads = True
        self.acknowledges = True
        self.ended: int | None = None
        self.ended_because = b""
        self.pings = 0
        self.acknowledged = 0
        self.sent = bytearray()
        self.seen = 0

    def start(
        self, path: bytes, data: bytes = b"", *, ends: bool = True,
        headers: Iterable[tuple[bytes, bytes]] = (), all_headers: Any = None, **more: Any,
    ) -> int:  # fmt: skip
        """Begins a call, whose data goes as windows allow."""
        number = self.h2.get_next_available_stream_id()
        made = request_headers(path, *headers) if all_headers is None else all_headers
        alone = ends and not data
        self.h2.send_headers(number, made, end_stream=alone)
        self.calls[number] = Call(to_send=bytearray(data), ends=ends, **more)
        if alone:
            self.calls[number].ends = False
        return number

    def call(self, path: bytes, data: bytes = b"", **more: Any) -> Call:
        """A whole call."""
        number = self.start(path, data, **more)
        self.pump()
        return self.calls[number]

    def _write(self) -> bool:
        progress = False
        for number, call in self.calls.items():
            while (call.to_send or call.ends) and not call.ended and call.reset is None:
                room = self.h2.local_flow_control_window(number)
                room = min(room, self.h2.max_outbound_frame_size, call.frame)
                if call.padding is not None:
                    room -= call.padding + 1
                if room <= 0 and call.to_send:
                    break
                data = bytes(call.to_send[:room])
                del call.to_send[:room]
                last = call.ends and not call.to_send
                self.h2.send_data(number, data, end_stream=last, pad_length=call.padding)
                progress = True
                if last:
                    call.ends = False
        return progress

    def pump(self) -> None:
        """Moves bytes until nothing is left to move."""
        while True:
            progress = self._write()
            data = self.h2.data_to_send()
            if data:
                self.feed(data)
                progress = True
            # As the loop does: sent is what it was told of.
            if self.reads and self.server.touches > self.seen:
                self.seen = self.server.touches
                self.take(self.connection.to_send())
                progress = True
            if not progress:
                return

    def feed(self, data: bytes) -> None:
        """Hands bytes to the server's end, in random pieces where there is a random source."""
        self.sent += data
        while data:
            size = self.chunks.randint(1, 3000) if self.chunks else len(data)
            self.connection.receive(data[:size])
            data = data[size:]

    def take(self, data: bytes) -> None:
        """Reads what the server's end has sent."""
        for event in self.h2.receive_data(data):
            self._see(event)

    def _see(self, event: Any) -> None:
        call = self.calls.get(getattr(event, "stream_id", None) or 0, Call())
        match event:
            case h2.events.ResponseReceived():
                call.headers = dict(event.headers)
            case h2.events.TrailersReceived():
                call.trailers = dict(event.headers)
            case h2.events.DataReceived():
                call.data += event.data
                if self.acknowledges:
                    size = event.flow_controlled_length
                    self.h2.acknowledge_received_data(size, event.stream_id)
            case h2.events.StreamEnded():
                call.ended = True
            case h2.events.StreamReset():
                call.reset = event.error_code
            case h2.events.ConnectionTerminated():
                self.ended = event.error_code
                self.ended_because = event.additional_data or b""
            case h2.events.PingAckReceived():
                self.pings += 1
            case h2.events.SettingsAcknowledged():
                self.acknowledged += 1
