"""Calls of the native server that may have many messages: each has a thread, which reads what the
loop has received.

Streams of our own services are answered by their handlers; all other calls, such as those of gRPC
reflection, by the grpcio server behind.
"""

import base64
import binascii
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc

from hotfeast.hotpath.http2 import Stream, Unreadable
from hotfeast.server.call_context import Aborted, StreamContext
from hotfeast.server.peers import peer_of
from hotfeast.server.security.credentials import PASSED_ON, passed_on

logger = logging.getLogger(__name__)

Call = Callable[[Callable[[], object]], None]
"""Has a function called by the loop."""
Metadata = Sequence[tuple[bytes, bytes]]

# Headers that are HTTP/2's or gRPC's own, and no metadata of a call.
_NOT_METADATA = {
    b"te", b"content-type", b"user-agent", b"grpc-timeout", b"grpc-encoding",
    b"grpc-accept-encoding", b"host",
}  # fmt: skip


class StreamedCall:
    """The messages of a call, from the loop to a thread."""

    def __init__(self, call: Call, stream: Stream) -> None:
        self._call = call
        self._stream = stream
        # Messages, each with the bytes that it took of the client's window and whether it is
        # compressed; None is the end.
        self._messages: queue.SimpleQueue[tuple[bytes, int, bool] | None] = queue.SimpleQueue()

    def message(self, data: bytes, taken: int) -> None:
        """The client has sent a message."""
        self._messages.put((data, taken, False))

    def packed_message(self, data: bytes, taken: int) -> None:
        """The client has sent a compressed message."""
        self._messages.put((data, taken, True))

    def half_close(self) -> None:
        """The client has sent its last message."""
        self._messages.put(None)

    def cancel(self) -> None:
        """The client has given up."""
        self._messages.put(None)

    def _requests(self) -> Iterator[bytes]:
        """The messages. The client may send more once the next one is asked for."""
        while (item := self._messages.get()) is not None:
            data, taken, packed = item
            if packed:
                try:
                    data = self._stream.unpack(data)
                except Unreadable as error:
                    self._call(partial(self._stream.refuse, error.code, str(error)))
                    return
            yield data
            self._call(partial(self._stream.took, taken))


class Handled(StreamedCall):
    """A stream that is answered by a handler of grpcio's kind, of bytes."""

    def __init__(
        self,
        call: Call,
        stream: Stream,
        handler: Callable[[Iterator[bytes], Any], Iterator[bytes]],
        threads: ThreadPoolExecutor,
        over: Callable[[], object],
    ) -> None:
        """
        Args:
            call: Has a function called by the loop.
            stream: The call.
            handler: Answers it.
            threads: Where it does.
            over: Is called by the loop when it has.
        """
        super().__init__(call, stream)
        self._context = StreamContext(stream)
        self._sent = threading.Event()
        threads.submit(self._run, handler, over)

    def cancel(self) -> None:
        """The client has given up."""
        super().cancel()
        self._context.end()
        self._sent.set()

    def room(self) -> None:
        """The client has taken enough of the answers."""
        self._sent.set()

    def _run(
        self,
        handler: Callable[[Iterator[bytes], Any], Iterator[bytes]],
        over: Callable[[], object],
    ) -> None:
        code, message = grpc.StatusCode.OK, ""
        try:
            for answer in handler(self._requests(), self._context):
                self._send(answer)
        except Aborted:
            code = self._context.code() or grpc.StatusCode.UNKNOWN
            message = self._context.message
        except Exception as error:
            logger.error("a call of %s failed", self._stream.path.decode(), exc_info=error)
            # As grpcio says it.
            code, message = grpc.StatusCode.UNKNOWN, f"Exception calling application: {error}"
        finally:
            # Whoever waits for the client's next message is let go.
            self._messages.put(None)
            self._context.end()
            self._call(over)
        self._call(partial(self._stream.finish, code.value[0], message, ()))

    def _send(self, answer: bytes) -> None:
        """Sends an answer, and waits until the client has taken enough of those before."""
        self._sent.clear()
        if not self._context.over:
            self._call(partial(self._deliver, answer))
            self._sent.wait()

    def _deliver(self, answer: bytes) -> None:
        self._stream.send_message(answer)
        if not self._stream.wants_room():
            self._sent.set()


class PassedOn(StreamedCall):
    """A call that grpcio answers: messages and metadata go through as they are."""

    def __init__(
        self,
        call: Call,
        stream: Stream,
        headers: Metadata,
        channel: grpc.Channel,
        threads: ThreadPoolExecutor,
        over: Callable[[], object],
    ) -> None:
        """
        Args:
            call: Has a function called by the loop.
            stream: The call.
            headers: Its headers.
            channel: To grpcio.
            threads: Where answers are waited for.
            over: Is called by the loop when all are there.
        """
        super().__init__(call, stream)
        self._over = over
        self._lock = threading.Lock()
        self._cancelled = False
        self._rpc: Any = None
        deadline = stream.deadline_seconds
        timeout = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        threads.submit(self._run, channel, list(headers), timeout)

    def cancel(self) -> None:
        """The client has given up."""
        super().cancel()
        with self._lock:
            self._cancelled = True
            rpc = self._rpc
        if rpc is not None:
            rpc.cancel()

    def _run(self, channel: grpc.Channel, headers: Metadata, timeout: float | None) -> None:
        stream, call = self._stream, self._call
        try:
            method: Any = channel.stream_stream(stream.path.decode("utf-8", "replace"))
            with self._lock:
                if self._cancelled:
                    return
                self._rpc = rpc = method(
                    self._requests(),
                    timeout=timeout,
                    metadata=[
                        *_metadata(headers),
                        *passed_on(stream.identity, peer_of(stream.address)),
                    ],
                )
            call(partial(stream.send_headers, _headers(rpc.initial_metadata())))
            for message in rpc:
                call(partial(stream.send_message, message))
            code, details, trailing = rpc.code(), rpc.details(), rpc.trailing_metadata()
        except grpc.RpcError as error:
            failed: Any = error
            code, details, trailing = failed.code(), failed.details(), failed.trailing_metadata()
        except Exception as error:
            logger.error("a call of %r was not passed on", stream.path, exc_info=error)
            code, details, trailing = grpc.StatusCode.INTERNAL, f"not passed on: {error}", ()
        finally:
            # Whoever waits for the client's next message is let go.
            self._messages.put(None)
            call(self._over)
        call(partial(stream.finish, code.value[0], details or "", _headers(trailing)))


def _metadata(headers: Metadata) -> list[tuple[str, str | bytes]]:
    """A call's headers as grpcio wants its metadata."""
    made: list[tuple[str, str | bytes]] = []
    for name, value in headers:
        if name.startswith(b":") or name in _NOT_METADATA or name in PASSED_ON:
            continue
        if name.endswith(b"-bin"):
            try:
                made.append((name.decode(), base64.b64decode(value + b"=" * (-len(value) % 4))))
            except binascii.Error:
                continue
        else:
            made.append((name.decode("latin-1"), value.decode("latin-1")))
    return made


def _headers(metadata: Any) -> list[tuple[bytes, bytes]]:
    """grpcio's metadata as headers."""
    made = []
    for name, value in metadata or ():
        data = value if isinstance(value, bytes) else value.encode("latin-1")
        if name.endswith("-bin"):
            data = base64.b64encode(data).rstrip(b"=")
        if name.encode() not in _NOT_METADATA:
            made.append((name.encode(), data))
    return made
