"""Leaves a Redis alone that does not answer: whoever wants something from it is told so at once.

Closed, all exchanges are made, and how they end is counted over a window. Open, none are: requests
fail at once, and a thread asks every while whether Redis answers a PING. Once it does, a few
exchanges are let through (half open), and how they end decides.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from enum import IntEnum

from hotfeast.server.errors import RedisUnavailable
from hotfeast.server.settings import BreakerSettings

# Exchanges in a window, of which fewer say nothing; and buckets that a window is counted in.
_LEAST = 20
_BUCKETS = 10
# Exchanges that are let through half open, all of which must succeed.
_PROBES = 5
# An exchange that the caller's deadline has cut short counts as failed if it had this share of the
# time limit.
_FAIR_SHARE = 0.1


class State(IntEnum):
    """Of a breaker."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class _Bucket:
    """A part of the window."""

    __slots__ = ("ends", "failed", "succeeded")

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.succeeded = self.failed = 0


class Breaker:
    """Counts how exchanges with one Redis end; for any number of threads.

    Attributes:
        state: Whether they are made.
        opened: How often it has opened.
        refused: Exchanges that were not made.
    """

    def __init__(
        self,
        settings: BreakerSettings,
        limit: float,
        ping: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            settings: When it opens, and for how long.
            limit: Seconds that Redis has to answer.
            ping: Asks Redis whether it is there; raises RedisUnavailable where it does not answer.
            clock: Monotonic seconds.
        """
        self.state = State.CLOSED
        self.opened = 0
        self.refused = 0
        self._settings = settings
        self._limit = limit
        self._ping = ping
        self._clock = clock
        self._lock = threading.Lock()
        self._length = settings.window / _BUCKETS
        self._buckets = deque([_Bucket(0.0)], maxlen=_BUCKETS)
        self._until = 0.0
        self._probes = 0
        self._passed = 0
        self._why = ""
        self._closing = threading.Event()

    def check(self) -> None:
        """Lets an exchange be made; its end is to be told.

        Raises:
            RedisUnavailable: Not now.
        """
        if self.state is State.CLOSED:
            return
        with self._lock:
            now = self._clock()
            if self.state is State.HALF_OPEN:
                if self._probes - self._passed >= _PROBES and now >= self._until:
                    # Nobody has said what has become of them.
                    self._let_through(now)
                if self._probes - self._passed < _PROBES:
                    self._probes += 1
                    return
            self.refused += 1
            left = max(self._until - now, self._settings.pause / 10)
        raise RedisUnavailable(
            f"Redis has not answered most requests lately ({self._why}); none is sent to it until "
            f"it answers a PING, which is tried every {self._settings.pause:g} s",
            left,
        )

    def succeeded(self) -> None:
        """Redis has answered."""
        self._bucket().succeeded += 1
        if self.state is State.HALF_OPEN:
            with self._lock:
                self._passed += 1
                if self._passed >= _PROBES:
                    self.state = State.CLOSED

    def failed(self, why: object, waited: float | None = None) -> None:
        """Redis has not answered.

        Args:
            why: What was wrong.
            waited: Seconds for which it has not; None where it is plain that it will not.
        """
        if self._settings.share <= 0 or (waited is not None and waited < self._limit * _FAIR_SHARE):
            return
        self._bucket().failed += 1
        with self._lock:
            if self.state is State.HALF_OPEN or (self.state is State.CLOSED and self._is_bad()):
                self._open(why)

    def stop(self) -> None:
        """Ends the thread that asks for Redis."""
        self._closing.set()

    def _bucket(self) -> _Bucket:
        """What counts now."""
        now = self._clock()
        last = self._buckets[-1]
        if now >= last.ends:
            last = _Bucket(now + self._length)
            self._buckets.append(last)
        return last

    def _is_bad(self) -> bool:
        since = self._clock() - self._settings.window
        buckets = [bucket for bucket in list(self._buckets) if bucket.ends > since]
        failed = sum(bucket.failed for bucket in buckets)
        total = failed + sum(bucket.succeeded for bucket in buckets)
        return total >= _LEAST and failed >= self._settings.share * total

    def _let_through(self, now: float) -> None:
        self._probes = self._passed = 0
        self._until = now + self._settings.pause

    def _open(self, why: object) -> None:
        self._why = str(why)
        self.state = State.OPEN
        self.opened += 1
        self._until = self._clock() + self._settings.pause
        self._buckets.clear()
        self._buckets.append(_Bucket(0.0))
        threading.Thread(target=self._ask, name="redis-breaker", daemon=True).start()

    def _ask(self) -> None:
        """Asks until Redis answers."""
        while not self._closing.wait(self._settings.pause):
            try:
                self._ping()
            except RedisUnavailable as error:
                self._why = str(error)
                self._until = self._clock() + self._settings.pause
                continue
            with self._lock:
                self._let_through(self._clock())
                self.state = State.HALF_OPEN
            return
