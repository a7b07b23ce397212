"""A shutdown that no client notices but by its connection's going away.

gRPC core (1.85) tells clients to go elsewhere (GOAWAY) in the step in which it stops taking calls,
and a call that is on its way at that moment ends with CANCELLED, which clients rightly do not
retry. So the calls that arrive just before are held, unanswered, over that moment: callers who wait
for an answer send nothing more, and once they have been told to go elsewhere, the held calls are
answered in the ordinary way.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import grpc

# Seconds without a new call after which none is on its way, and how long to wait for that at most.
_QUIET = 0.02
_LONGEST = 0.2


class DrainGate:
    """Lets calls pass, until it holds them for the length of a shutdown's first step."""

    def __init__(self) -> None:
        self._holding = False
        self._last_arrival = 0.0
        self._open = threading.Event()

    def guard(self, method: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """A handler that does the same as `method`, and can be held."""

        def guarded(request: Any, context: Any) -> Any:
            if self._holding:
                self._last_arrival = time.monotonic()
                self._open.wait()
            return method(request, context)

        return guarded

    def stop(self, server: grpc.Server, grace: float) -> threading.Event:
        """Begins a server's shutdown.

        Args:
            server: The server; its handlers are guarded by this gate.
            grace: Seconds that calls in flight have to finish.

        Returns:
            What is set when the last call is finished.
        """
        begun = self._last_arrival = time.monotonic()
        self._holding = True
        while (now := time.monotonic()) < min(self._last_arrival + _QUIET, begun + _LONGEST):
            time.sleep(self._last_arrival + _QUIET - now)
        try:
            stopped: threading.Event = server.stop(grace)
        finally:
            self._holding = False
            self._open.set()
        return stopped
