"""What handlers of the native server are given in place of grpcio's context."""

import threading
import time
from collections.abc import Callable
from typing import NoReturn

import grpc

from hotfeast.hotpath.http2 import Stream
from hotfeast.server.peers import peer_of


class Aborted(Exception):
    """Ends a handler whose call has been given a status."""


class CallContext:
    """What a unary handler is given in place of grpcio's context."""

    def __init__(self, deadline: float | None, call: Stream | None = None) -> None:
        """
        Args:
            deadline: Monotonic seconds; None for none.
            call: The call, which has the caller's credentials, too.
        """
        self._deadline = deadline
        self.credentials = call
        self._code: grpc.StatusCode | None = None
        self.message = ""

    def time_remaining(self) -> float | None:
        """Seconds until the deadline; None where there is none."""
        return None if self._deadline is None else self._deadline - time.monotonic()

    def invocation_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """Who calls, as `x-caller`."""
        caller = None if self.credentials is None else self.credentials.caller
        return () if caller is None else (("x-caller", caller),)

    def peer(self) -> str:
        """The address of who calls, as gRPC writes it."""
        return "" if self.credentials is None else peer_of(self.credentials.address)

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """Ends the call with a status."""
        self._code = code
        self.message = details
        raise Aborted

    def set_code(self, code: grpc.StatusCode) -> None:
        """Sets the status that the call ends with."""
        self._code = code

    def code(self) -> grpc.StatusCode | None:
        """The status that the call was ended with."""
        return self._code


class StreamContext(CallContext):
    """The same for a call with many messages, which may be over before its handler is."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream.deadline_seconds, stream)
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self.over = False

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Has a function called when the call is over; False where it is already."""
        with self._lock:
            if not self.over:
                self._callbacks.append(callback)
            return not self.over

    def end(self) -> None:
        """The call is over."""
        with self._lock:
            self.over = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
