"""Requests at a fixed rate, each at its time whether the last one has been answered or not.

Latency counts from the time a request was due, so that a server that falls behind cannot hide it by
slowing the clients down. The requests are sent by a process of its own.
"""

import multiprocessing
import select
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.http2 import Call, Connection

Times = npt.NDArray[np.float64]

# Seconds that the last answers may take.
_LAST_ANSWERS = 10.0
# Requests at most that are sent at once to be warm; a server takes so many on one connection.
_WARM_UP = 1000
# Seconds from the order to start to the first request, for the process to be there.
_LEAD = 0.2


@dataclass(frozen=True)
class Load:
    """All requests, in the order of their times.

    Attributes:
        due: When each had to be sent, in seconds since the start.
        latency: Milliseconds from then to its answer.
        failures: Requests that failed, by why.
        said: For each request the field that was asked for; empty for none.
    """

    due: Times
    latency: Times
    failures: Mapping[str, int]
    said: Sequence[bytes]


class RunningLoad:
    """A client that is ready to send."""

    def __init__(self, pipe: Any, rate: float) -> None:
        self._pipe = pipe
        self._rate = rate

    def begin(self, length: float, rate: float | None = None) -> float:
        """Has the client send for `length` seconds; again once `finish` has returned.

        Args:
            length: Seconds.
            rate: Requests a second; those of `open_load` if None.

        Returns:
            The time of the first request, as of `time.time()`.
        """
        start = time.time() + _LEAD
        self._pipe.send((start, length, self._rate if rate is None else rate))
        return start

    def finish(self, may_fail: bool = False) -> Load:
        """Waits for all answers.

        Args:
            may_fail: Whether requests may, as those of a server beyond its limits.

        Raises:
            RuntimeError: Requests failed that may not, or were not answered.
        """
        received = self._pipe.recv()
        if isinstance(received, str):
            raise RuntimeError(received)
        due, latency, failures, said = received
        if failures and not may_fail:
            raise RuntimeError(f"requests failed: {failures}")
        return Load(due, latency, failures, said)


@contextmanager
def open_load(
    port: int,
    method: str,
    requests: Sequence[bytes],
    rate: float,
    connections: int,
    tag: bytes = b"",
) -> Iterator[RunningLoad]:
    """Starts the client, which sends the first requests once to be warm.

    Args:
        port: Of the server, on 127.0.0.1.
        method: `/package.Service/Method`.
        requests: Serialized messages, sent in turn.
        rate: Requests a second.
        connections: What they are spread over.
        tag: Of a field of the answer that is kept, as for `Connection`.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_send,
        args=(port, method, list(requests), connections, tag, theirs),
        daemon=True,
    )
    process.start()
    # Then a process that ends without a word ends the wait for it, too.
    theirs.close()
    try:
        if (said := ours.recv()) != "ready":
            raise RuntimeError(said)
        yield RunningLoad(ours, rate)
    finally:
        process.terminate()
        process.join()


def _send(
    port: int, method: str, requests: list[bytes], connections: int, tag: bytes, pipe: Pipe
) -> None:
    """The process that sends."""
    try:
        client = _Client(port, Call(method, requests), connections, tag)
        _, failures, _ = client.run([0.0] * min(len(requests), _WARM_UP), time.time())
        if failures:
            raise RuntimeError(f"requests failed: {failures}")
        pipe.send("ready")
        while True:
            start, length, rate = pipe.recv()
            due = np.arange(0, length, 1 / rate)
            pipe.send((due, *client.run(due.tolist(), start)))
    except Exception as error:
        pipe.send(f"the load ended: {type(error).__name__}: {error}")


class _Client:
    def __init__(self, port: int, call: Call, connections: int, tag: bytes) -> None:
        self._call = call
        self._taken: list[float] = []
        self._said: list[bytes] = []
        self._left = 0
        self._failures: Counter[str] = Counter()
        self._connections = [Connection(port, self._answered, tag) for _ in range(connections)]

    def _answered(self, ticket: int, failure: str, said: bytes) -> None:
        self._taken[ticket] = time.time()
        self._said[ticket] = said
        self._left -= 1
        if failure:
            self._failures[failure] += 1

    def run(self, due: Sequence[float], start: float) -> tuple[Times, dict[str, int], list[bytes]]:
        """Sends one request at each time, in seconds since `start`.

        Returns:
            Milliseconds from its time to its answer, how many failed, by why, and what each said.

        Raises:
            RuntimeError: A request was not answered.
        """
        self._taken = [0.0] * len(due)
        self._said = [b""] * len(due)
        self._left = len(due)
        self._failures.clear()
        at = 0
        while self._left:
            now = time.time()
            while at < len(due) and start + due[at] <= now:
                self._connections[at % len(self._connections)].send(self._call, at, at)
                at += 1
            if at < len(due):
                wait = max(start + due[at] - time.time(), 0.0)
            else:
                wait = start + due[-1] + _LAST_ANSWERS - now
                if wait < 0:
                    raise RuntimeError(f"{self._left} requests were not answered")
            # Not poll, whose time is in whole milliseconds.
            for connection in select.select(self._connections, [], [], wait)[0]:
                connection.receive()
        latency: Times = (np.array(self._taken) - start - np.array(due)) * 1e3
        return latency, dict(self._failures), self._said
