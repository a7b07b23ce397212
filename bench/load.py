"""Requests at a fixed rate, each at its time whether the last one has been answered or not.

Latency counts from the time a request was due, so that a server that falls behind cannot hide it by
slowing the clients down. The requests are sent by processes of their own.
"""

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]

# Seconds that one call may take.
_CALL_LIMIT = 10.0
# Seconds from the order to start to the first request, for all processes to be there.
_LEAD = 0.2


@dataclass(frozen=True)
class Load:
    """All requests, in the order of their times.

    Attributes:
        due: When each had to be sent, in seconds since the start.
        latency: Milliseconds from then to its answer.
    """

    due: Times
    latency: Times


@dataclass(frozen=True)
class Clients:
    """Who sends.

    Attributes:
        rate: Requests a second, of all together.
        processes: How many there are.
        threads: Requests that each of them has under way at most.
    """

    rate: float
    processes: int
    threads: int


class RunningLoad:
    """Clients that are ready to send."""

    def __init__(self, pipes: Sequence[Connection]) -> None:
        self._pipes = pipes
        self.start = 0.0

    def begin(self, length: float) -> float:
        """Has the clients send for `length` seconds.

        Returns:
            The time of the first request, as of `time.time()`.
        """
        self.start = time.time() + _LEAD
        for pipe in self._pipes:
            pipe.send((self.start, length))
        return self.start

    def finish(self) -> Load:
        """Waits for all answers.

        Raises:
            RuntimeError: A request failed.
        """
        received = [pipe.recv() for pipe in self._pipes]
        for item in received:
            if isinstance(item, str):
                raise RuntimeError(item)
        parts = np.concatenate(received)
        parts = parts[np.argsort(parts[:, 0])]
        return Load(parts[:, 0], parts[:, 1])


@contextmanager
def open_clients(
    port: int, method: str, requests: Sequence[bytes], clients: Clients
) -> Iterator[RunningLoad]:
    """Starts the clients, and has each of them send all requests once to be warm."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for number in range(clients.processes):
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_send, args=(port, method, requests, clients, number, theirs), daemon=True
        )
        process.start()
        processes.append(process)
        pipes.append(ours)
    try:
        for pipe in pipes:
            pipe.recv()
        yield RunningLoad(pipes)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _send(
    port: int,
    method: str,
    requests: Sequence[bytes],
    clients: Clients,
    number: int,
    pipe: Connection,
) -> None:
    """A process that sends its share of the requests, each at its time."""
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    call: Callable[..., Any] = channel.unary_unary(method)
    for request in requests:
        call(request, timeout=_CALL_LIMIT)
    pipe.send("ready")
    start, length = pipe.recv()
    streams = clients.processes * clients.threads
    period = streams / clients.rate
    taken: list[tuple[float, float]] = []
    failures: list[str] = []

    def send(stream: int) -> None:
        at = stream * period / streams
        turn = stream
        while at < length:
            wait = start + at - time.time()
            if wait > 0:
                time.sleep(wait)
            try:
                call(requests[turn % len(requests)], timeout=_CALL_LIMIT)
            except grpc.RpcError as error:
                failures.append(f"a request failed: {error}")
                return
            taken.append((at, (time.time() - start - at) * 1e3))
            at += period
            turn += streams

    threads = [
        threading.Thread(target=send, args=(number + clients.processes * i,))
        for i in range(clients.threads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.send(failures[0] if failures else np.array(taken))
    channel.close()
