"""The threads that requests are worked on in, and how those that run slow Python leave them.

A request that reads features holds its thread for a fraction of a millisecond. One that runs a
Python transform may hold it for as long as the transform likes, and as many of them as there are
threads would keep all others waiting. So before such a request waits for its turn to run a
transform, it gives up its place among the threads: another thread takes the next request.
"""

import math
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any

import grpc

from hotfeast.server.errors import RequestFailure

# Seconds after which a thread that computes in Python lets others have the interpreter's lock, for
# the time that transforms run. With Python's own 5 ms, a plain request, which takes the lock more
# than once, waited 150 ms beside four transforms that compute.
_SWITCH_INTERVAL = 0.0001
# Seconds of there always being requests that wait, and of their waiting, above which there are too
# many.
_STANDING = 0.1
_LONG_WAIT = 0.1
MOST_WAITING = 256
"""Requests that wait for their turn to run a Python transform; each of them is a thread."""


class RequestThreads(Executor):
    """A pool of threads, each of which can leave its place to another one.

    Threads are started as they are needed, as by `ThreadPoolExecutor`.
    """

    def __init__(self, places: int) -> None:
        """
        Args:
            places: How many threads take requests at once.
        """
        self._places = places
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any], float] | None]
        self._work = queue.SimpleQueue()
        self._queued = 0
        # Since when there have always been some that wait, and since when the one has waited that
        # was begun with last.
        self._standing_since = math.inf
        self._last_queued = 0.0
        self._idle = 0
        self._taken = 0
        self._started = 0
        self._threads: set[threading.Thread] = set()
        self._shut = False
        self._mine = threading.local()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Runs a function in one of the threads.

        Raises:
            RuntimeError: The pool is shut down.
        """
        future: Future[Any] = Future()
        with self._lock:
            if self._shut:
                raise RuntimeError("the threads for requests are shut down")
            now = time.monotonic()
            self._work.put((future, lambda: fn(*args, **kwargs), now))
            if self._queued == 0:
                self._standing_since = now
            self._queued += 1
            self._start_thread_if_needed()
        return future

    @property
    def waiting(self) -> int:
        """Functions that no thread has begun with."""
        return self._queued

    @property
    def overdue(self) -> bool:
        """Whether there are too many: for a while there have always been some, and the one that
        comes next has waited for long."""
        now = time.monotonic()
        # It came behind the one before it.
        waited = now - max(self._standing_since, self._last_queued)
        return (
            # Threads that are idle take what there is, when they come to it.
            self._queued > self._idle
            and waited > _LONG_WAIT
            and now - self._standing_since > _STANDING
        )

    @property
    def has_waited_too_long(self) -> bool:
        """Whether what the calling thread runs has, while others were always waiting."""
        return bool(getattr(self._mine, "waited_too_long", False))

    def leave(self) -> None:
        """Gives up the calling thread's place, until it is done with its request."""
        if not getattr(self._mine, "has_place", False):
            return
        self._mine.has_place = False
        with self._lock:
            self._taken -= 1
            self._start_thread_if_needed()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the threads when what was submitted is done."""
        with self._lock:
            self._shut = True
            threads = list(self._threads)
            for _ in threads:
                self._work.put(None)
        if wait:
            for thread in threads:
                thread.join()

    def _start_thread_if_needed(self) -> None:
        if self._queued <= self._idle or self._taken == self._places:
            return
        self._taken += 1
        self._started += 1
        thread = threading.Thread(target=self._run, name=f"request_{self._started}", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _run(self) -> None:
        self._mine.has_place = True
        while self._mine.has_place or self._take_place():
            with self._lock:
                self._idle += 1
            item = self._work.get()
            now = time.monotonic()
            with self._lock:
                self._idle -= 1
                if item is None:
                    break
                future, call, queued = item
                self._queued -= 1
                self._last_queued = queued
                self._mine.waited_too_long = (
                    # The last one keeps nobody waiting.
                    self._queued > 0
                    and now - queued > _LONG_WAIT
                    and now - self._standing_since > _STANDING
                )
                if self._queued == 0:
                    self._standing_since = math.inf
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:
                    future.set_exception(error)
            # Neither the request nor its answer is kept until the next one comes.
            del item, future, call
        with self._lock:
            self._threads.discard(threading.current_thread())

    def _take_place(self) -> bool:
        """Whether the thread, which has left its place, finds another one free."""
        with self._lock:
            if self._taken == self._places or self._shut:
                return False
            self._taken += 1
        self._mine.has_place = True
        return True


class TransformTurns:
    """Lets a few requests at once run Python transforms; others wait, without a place."""

    def __init__(self, threads: RequestThreads, at_once: int) -> None:
        """
        Args:
            threads: Whose places are given up.
            at_once: How many requests run transforms at once.
        """
        self._threads = threads
        self._at_once = at_once
        self._turns = threading.BoundedSemaphore(at_once)
        self._lock = threading.Lock()
        self._waiting = 0
        self._running = 0
        self._usual_interval = sys.getswitchinterval()

    @contextmanager
    def turn(self, time_left: float | None) -> Iterator[None]:
        """Waits for a turn, and has it for the length of the block.

        Args:
            time_left: Seconds until the caller's deadline; None where it has none.

        Raises:
            RequestFailure: The deadline came first, or too many wait already.
        """
        self._threads.leave()
        if not self._turns.acquire(blocking=False):
            self._wait(time_left)
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)
            self._turns.release()

    @contextmanager
    def beside(self, _: float | None) -> Iterator[None]:
        """Lets a thread that no request waits for run transforms, without a turn; meanwhile plain
        requests have the interpreter as beside others."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._lock:
            self._running += change
            sys.setswitchinterval(_SWITCH_INTERVAL if self._running else self._usual_interval)

    def _wait(self, time_left: float | None) -> None:
        with self._lock:
            if self._waiting == MOST_WAITING:
                raise RequestFailure(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"{MOST_WAITING} requests wait for their turn to run a Python transform, "
                    f"{self._at_once} at once; see --transform-threads",
                )
            self._waiting += 1
        try:
            if not self._turns.acquire(timeout=time_left):
                raise RequestFailure(
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    "the deadline came before the request's turn to run a Python transform",
                )
        finally:
            with self._lock:
                self._waiting -= 1
