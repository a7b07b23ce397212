"""Requests in flight: a connection to Redis each, or all of them in one pipeline?

The gateway's loop sends a request's commands where it arrived, on a connection that nothing else
uses. The other way would be to gather those that arrive in one turn of the loop and to send them in
one write, on one connection. What that could gain at most is measured here by the loop itself,
without clients: some requests at once, each on its own connection; and one request that has all of
their entities, on one. Nothing is spent on gathering or on telling the replies apart.
"""

import socket
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from rich.table import Table

from bench.data import Layout, Rows, make_requests
from bench.measure import no_garbage_collection
from bench.peers import Plans
from bench.stores import Encoding, Store, open_store
from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.reactor import LoopLane, Reactor
from hotfeast.hotpath.reply import Reply

IN_FLIGHT = (1, 4, 16)
"""Requests at once."""
ROWS = (1, 10, 100)
"""Rows in each."""
_RING = 32
_ROUNDS = 600
_WARM_UP = 50
_TIMEOUT = 10.0


@dataclass(frozen=True)
class Shared:
    """Both ways for so many requests.

    Attributes:
        store: Layout and encoding.
        rows: In each request.
        in_flight: Requests at once.
        apart_us: Microseconds, p50, until all of them are read on connections of their own.
        together_us: The same in one pipeline.
    """

    store: str
    rows: int
    in_flight: int
    apart_us: float
    together_us: float


class _Loop(Reactor):
    """Reads groups of batches again and again, and says how long each group took."""

    def __init__(
        self, at_once: frozenset[bytes], make: Callable[[int], list[Batch]], rounds: int
    ) -> None:
        """
        Args:
            at_once: No methods; there are no clients.
            make: The batches of a round.
            rounds: How many there are.
        """
        self.taken: list[int] = []
        self._make = make
        self._rounds = rounds
        self._left = 0
        self._began = 0
        self._failure: Exception | None = None

    def measure(self) -> list[int]:
        """Nanoseconds by round.

        Raises:
            OSError, TimeoutError: A batch was not read.
        """
        self.call(self._round)
        self.run()
        self.remove_lanes()
        if self._failure is not None:
            raise self._failure
        return self.taken

    def lane_lost(self, lane: LoopLane) -> None:
        """A connection broke; its batch fails as well."""

    def report(self, error: Exception) -> None:
        """A fault of this benchmark: it ends with it."""
        self._failure = error
        self.stop()

    def _round(self) -> None:
        if len(self.taken) == self._rounds:
            self.stop()
            return
        batches = self._make(len(self.taken))
        self._left = len(batches)
        self._began = time.perf_counter_ns()
        for batch in batches:
            if not self.exchange(batch, _TIMEOUT, self._read):
                raise RuntimeError("there is no idle connection")

    def _read(self, reply: Reply | None, error: Exception | None) -> None:
        if reply is None:
            assert error is not None
            self.report(error)
            return
        reply.raise_error()
        self._left -= 1
        if self._left == 0:
            self.taken.append(time.perf_counter_ns() - self._began)
            self.call(self._round)


def run(entities: int, say: Callable[[str], None] = print) -> list[Shared]:
    """Measures packed rows and Feast's, in hashes that are lists.

    Args:
        entities: How many there are in Redis.
        say: Is told what is going on.
    """
    rows = Rows.make(entities)
    results = []
    for layout in (Layout.PACKED, Layout.FEAST):
        say(f"{layout}: loading, reading")
        with open_store(rows, Encoding.LISTPACK, layout) as store:
            plans = Plans(store.feast, layout)
            results += [
                _compare(store, plans, size, together) for size in ROWS for together in IN_FLIGHT
            ]
    return results


def table(results: list[Shared]) -> Table:
    """The results as a table."""
    shown = Table(title="Requests in flight, p50 until all are read, microseconds")
    for heading in ("rows in Redis", "rows", "in flight", "a connection each", "one pipeline", ""):
        shown.add_column(heading, justify="left" if heading == "rows in Redis" else "right")
    for r in results:
        shown.add_row(
            r.store, str(r.rows), str(r.in_flight),
            f"{r.apart_us:.0f}", f"{r.together_us:.0f}", f"{r.apart_us / r.together_us:.2f} x",
        )  # fmt: skip
    return shown


def _compare(store: Store, plans: Plans, size: int, in_flight: int) -> Shared:
    apart = make_requests(store.rows, size, _RING * in_flight)
    together = make_requests(store.rows, size * in_flight, _RING)
    plans.follow(apart[0], store.client)

    def each(number: int) -> list[Batch]:
        start = number % _RING * in_flight
        return [plans.batch(request) for request in apart[start : start + in_flight]]

    def all_in_one(number: int) -> list[Batch]:
        return [plans.batch(together[number % _RING])]

    with no_garbage_collection():
        taken: dict[bool, list[int]] = {True: [], False: []}
        # In turns, so that what drifts drifts for both.
        for _ in range(4):
            for shared, make in ((False, each), (True, all_in_one)):
                lanes = 1 if shared else in_flight
                measured = _read(store.server.port, lanes, make, _ROUNDS // 4 + _WARM_UP)
                taken[shared] += measured[_WARM_UP:]
    return Shared(
        store.label,
        size,
        in_flight,
        statistics.median(taken[False]) / 1e3,
        statistics.median(taken[True]) / 1e3,
    )


def _read(port: int, lanes: int, make: Callable[[int], list[Batch]], rounds: int) -> list[int]:
    with ExitStack() as stack:
        loop = _Loop(frozenset(), make, rounds)
        for _ in range(lanes):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            loop.add_lane(LoopLane(connection, connection.fileno(), Reply()))
        return loop.measure()
