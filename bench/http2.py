"""A gRPC client that costs next to nothing: HTTP/2 frames made beforehand, on plain sockets.

The Python client of gRPC takes more processor time than the call that it makes, and where client
and server share two cores, that is what would be measured. This one sends unary calls of one method
and notes when each has been answered; of the answers at most one value of the trailing metadata is
looked at.

Source: RFC 9113 (HTTP/2), RFC 7541 (HPACK), and gRPC's own mapping onto them.
"""

import socket
import struct
from collections.abc import Callable

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 0x1, 0x1, 0x4
_HEADER_TABLE_SIZE, _INITIAL_WINDOW_SIZE = 1, 4
# What a peer may send before it is told to go on: as good as no limit.
_WINDOW = (1 << 31) - 1
_FIRST_WINDOW = 65535
_HALF = 1 << 30
_RECEIVE_SIZE = 1 << 18


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """An HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(
        ">I", stream
    ) + payload  # fmt: skip


def _literal(name: str, value: str) -> bytes:
    """A header field, not indexed; names and values are shorter than 127 bytes."""
    return b"\x00%c%b%c%b" % (len(name), name.encode(), len(value), value.encode())


class Call:
    """One method's requests as frames, but for their streams' numbers."""

    def __init__(self, method: str, requests: list[bytes]) -> None:
        """
        Args:
            method: `/package.Service/Method`.
            requests: Serialized messages.
        """
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": method,
            ":authority": "127.0.0.1",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        self._headers = b"".join(_literal(name, value) for name, value in fields.items())
        self._bodies = [b"\x00" + struct.pack(">I", len(r)) + r for r in requests]

    def frames(self, turn: int, stream: int) -> tuple[bytes, int]:
        """A request's frames on a stream, and how much of the peer's window they take."""
        body = self._bodies[turn % len(self._bodies)]
        return (
            frame(_HEADERS, _END_HEADERS, stream, self._headers)
            + frame(_DATA, _END_STREAM, stream, body),
            len(body),
        )


class Connection:
    """One connection, with any number of calls under way."""

    def __init__(
        self, port: int, answered: Callable[[int, str, bytes], None], tag: bytes = b""
    ) -> None:
        """
        Args:
            port: Of a gRPC server on 127.0.0.1.
            answered: Is called with each call's ticket, why it failed ("" if it did not), and the
                field that is wanted.
            tag: Of a field of the answer that is wanted: of up to 127 bytes, in the first frame of
                data, and nothing before it looks like its tag.
        """
        self._answered = answered
        self._tag = tag
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = 1
        self._tickets: dict[int, int] = {}
        self._with_data: dict[int, bytes] = {}
        self._buffer = bytearray()
        self._window = _FIRST_WINDOW
        self._received = 0
        # Without a table of headers a peer cannot refer to earlier ones, so they need no decoding.
        settings = struct.pack(">HIHI", _HEADER_TABLE_SIZE, 0, _INITIAL_WINDOW_SIZE, _WINDOW)
        self._socket.sendall(
            _PREFACE
            + frame(_SETTINGS, 0, 0, settings)
            + frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _WINDOW - _FIRST_WINDOW))
        )

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    def send(self, call: Call, turn: int, ticket: int) -> None:
        """Sends a request; waits only where the server has not taken what was sent before."""
        data, size = call.frames(turn, self._stream)
        while self._window < size:
            self.receive()
        self._window -= size
        self._tickets[self._stream] = ticket
        self._stream += 2
        self._socket.sendall(data)

    def receive(self) -> None:
        """Takes what has come.

        Raises:
            ConnectionError: The server has ended the connection.
        """
        data = self._socket.recv(_RECEIVE_SIZE)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= 9:
            size = int.from_bytes(self._buffer[at : at + 3], "big")
            if len(self._buffer) - at < 9 + size:
                break
            kind, flags = self._buffer[at + 3], self._buffer[at + 4]
            stream = int.from_bytes(self._buffer[at + 5 : at + 9], "big")
            self._take(kind, flags, stream, bytes(self._buffer[at + 9 : at + 9 + size]))
            at += 9 + size
        del self._buffer[:at]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA:
            if stream not in self._with_data:
                self._with_data[stream] = self._value(payload)
            self._received += len(payload)
            if self._received > _HALF:
                update = frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received))
                self._received = 0
                self._socket.sendall(update)
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
        elif kind == _SETTINGS and not flags & _ACK:
            self._socket.sendall(frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._socket.sendall(frame(_PING, _ACK, 0, payload))
        elif kind == _GOAWAY:
            raise ConnectionError(f"the server goes away: {payload[8:]!r}")
        ended = kind == _RESET or (kind in (_DATA, _HEADERS) and flags & _END_STREAM)
        if ended and stream in self._tickets:
            failure = ""
            if kind == _RESET:
                failure = f"reset with code {int.from_bytes(payload, 'big')}"
            elif stream not in self._with_data:
                failure = "a status in place of an answer"
            value = self._with_data.pop(stream, b"")
            self._answered(self._tickets.pop(stream), failure, value)

    def _value(self, data: bytes) -> bytes:
        """The wanted field of an answer; empty where it is not there."""
        at = data.find(self._tag) if self._tag else -1
        if at < 0:
            return b""
        at += len(self._tag)
        return data[at + 1 : at + 1 + data[at]]

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()
