"""Streams on which each message is answered: how many are open, how far they are read ahead, and
their end at a shutdown."""

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import grpc

from hotfeast.server.errors import RequestFailure, failure_of

logger = logging.getLogger(__name__)

Message = TypeVar("Message")


class OpenStreams:
    """The open streams of one method."""

    def __init__(self, name: str, limit: int) -> None:
        """
        Args:
            name: What they do, as in the option `--NAME-streams`.
            limit: How many may be open at once.
        """
        self._name = name
        self._limit = limit
        self._lock = threading.Lock()
        self._open: set[_Answered[Any]] = set()
        self._stopping = False

    def answers(
        self,
        messages: Iterator[Message],
        context: grpc.ServicerContext,
        answer: Callable[[Message], bytes],
        at_once: int = 1,
    ) -> Iterator[bytes]:
        """Answers messages in their order, while the stream is open.

        Args:
            messages: What the client sends; is read by one thread at a time.
            context: The call's.
            answer: Answers one message, in a thread of the stream's.
            at_once: How many messages are worked on at once. So many at most are read and their
                answers not sent; with one, the next is read when the answer to the last is sent.
        """
        stream = _Answered(messages, answer, at_once)
        refusal = self._enter(stream)
        if refusal is not None:
            context.abort(*refusal)
        context.add_callback(stream.close)
        try:
            stream.start(f"{self._name}-stream")
            while (made := stream.next()) is not None:
                yield made
            if self._stopping and stream.interrupted:
                context.abort(grpc.StatusCode.UNAVAILABLE, "shutting down")
        finally:
            stream.close()
            with self._lock:
                self._open.discard(stream)

    def stop(self) -> None:
        """Ends all streams once the messages that they are working on are answered."""
        with self._lock:
            self._stopping = True
            streams = list(self._open)
        for stream in streams:
            stream.close()

    def _enter(self, stream: "_Answered[Any]") -> tuple[grpc.StatusCode, str] | None:
        """Counts a stream; why it is refused where it is."""
        with self._lock:
            if self._stopping:
                return grpc.StatusCode.UNAVAILABLE, "shutting down"
            if len(self._open) >= self._limit:
                return (
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"{self._limit} streams are open, which is the limit (--{self._name}-streams)",
                )
            self._open.add(stream)
        return None


class _Answered(Generic[Message]):
    """The messages of a stream and their answers, until somebody closes it.

    gRPC's iterator waits for the client, however long; so other threads do, and this can end.

    Attributes:
        interrupted: Whether it was closed before the client had sent its last message.
    """

    def __init__(
        self, messages: Iterator[Message], answer: Callable[[Message], bytes], at_once: int
    ) -> None:
        self._messages = messages
        self._answer = answer
        self._at_once = at_once
        self._reading = threading.Lock()
        self._changed = threading.Condition()
        # Messages that may be read, have been read, and whose answers have been taken.
        self._free = 0
        self._read = 0
        self._taken = 0
        self._made: dict[int, bytes] = {}
        self._ended = False
        self._closed = False
        self._error: Exception | None = None
        self.interrupted = False

    def start(self, name: str) -> None:
        """Starts reading and answering."""
        self._free = self._at_once - 1
        for _ in range(self._at_once):
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def next(self) -> bytes | None:
        """The next answer; the one before it counts as sent. None where there is none."""
        with self._changed:
            self._free += 1
            self._changed.notify_all()
            self._changed.wait_for(self._has_next_or_ends)
            if self._error is not None:
                raise self._error
            made = self._made.pop(self._taken, None)
            if made is None:
                self.interrupted = self._closed and not self._ended
            else:
                self._taken += 1
            return made

    def close(self) -> None:
        """Ends the stream: no more messages are read."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _has_next_or_ends(self) -> bool:
        if self._taken in self._made or self._error is not None:
            return True
        return self._taken == self._read and (self._ended or self._closed)

    def _work(self) -> None:
        while (item := self._take()) is not None:
            number, message = item
            try:
                made = self._answer(message)
            except Exception as error:
                with self._changed:
                    self._error, self._closed = error, True
                    self._changed.notify_all()
                return
            with self._changed:
                self._made[number] = made
                self._changed.notify_all()

    def _take(self) -> tuple[int, Message] | None:
        """The next message and its number; None where there is none."""
        with self._reading:
            with self._changed:
                self._changed.wait_for(lambda: self._free or self._ended or self._closed)
                if self._ended or self._closed:
                    return None
                self._free -= 1
            try:
                message = next(self._messages, None)
            except Exception:
                # The call is over: cancelled, or its connection is gone.
                message = None
            with self._changed:
                if message is None:
                    self._ended = True
                    self._changed.notify_all()
                if message is None or self._closed:
                    return None
                number = self._read
                self._read += 1
                return number, message


def message_failure(error: Exception, what: str, time_left: float | None = None) -> RequestFailure:
    """The status of an error that a message as a whole has.

    Args:
        error: What was raised.
        what: What failed, for the log, where that should not happen.
        time_left: Seconds until the caller's deadline; None where it has none.
    """
    failure = failure_of(error, time_left)
    if failure is None:
        logger.error("%s failed", what, exc_info=error)
        failure = RequestFailure(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
    return failure
