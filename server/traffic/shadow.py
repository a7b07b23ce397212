"""Reads of another version beside the answer, off the request path.

A request that is chosen costs an entry in a bounded queue, once its answer is made. One thread a
process reads the other version over a connection of its own and compares. What finds the queue full
is dropped and counted.

A row may be written between the two reads. So where the answers differ, the first version is read
once more: unless it is still what was answered, nothing is counted.
"""

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from hotfeast.hotpath.request import Request
from hotfeast.server.errors import failure_of
from hotfeast.server.pace import Pace
from hotfeast.server.plan import PlanBook, ServingPlan
from hotfeast.server.traffic.comparison import (
    CHANGED,
    COMPARED,
    DROPPED,
    EQUAL,
    FAILED,
    Comparison,
    Comparisons,
    FeatureCounts,
    Key,
    compare,
)
from hotfeast.server.traffic.figures import AliasFigures
from hotfeast.server.traffic.personal import personal_columns
from hotfeast.server.traffic.routes import Side

logger = logging.getLogger(__name__)

# Requests that wait at most, and bytes of their answers.
_MOST_WAITING = 256
_MOST_BYTES = 16 * 2**20
# Seconds between two writes of the counts.
_WRITE_EVERY = 0.5


class Reader(Protocol):
    """Answers a request by a plan."""

    def answer_by(self, book: PlanBook, plan: ServingPlan, request: Request) -> bytes: ...


class _Waiting(NamedTuple):
    side: Side
    request: Request
    answer: bytes


class ShadowReads:
    """Reads and compares, in one process."""

    def __init__(
        self,
        reader: Reader,
        comparisons: Comparisons,
        wanted: Callable[[], Iterable[tuple[str, str, int]]],
        figures: AliasFigures | None = None,
    ) -> None:
        """
        Args:
            reader: Reads; nobody else is kept waiting for it.
            comparisons: Takes what is found.
            wanted: Says what is still compared: alias, shadow, and since when.
            figures: Counts for Prometheus; nobody if None.
        """
        self._reader = reader
        self._comparisons = comparisons
        self._wanted = wanted
        self._figures = figures
        self._lock = threading.Lock()
        self._bytes = 0
        self._dropped: Counter[Key] = Counter()
        self._queue: queue.Queue[_Waiting | None] = queue.Queue()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="shadow-reads", daemon=True)

    def offer(self, side: Side, request: Request, answer: bytes) -> None:
        """Takes an answer to compare with; waits for nothing."""
        with self._lock:
            full = self._queue.qsize() >= _MOST_WAITING or self._bytes + len(answer) > _MOST_BYTES
            if full:
                self._dropped[_key(side)] += 1
                return
            self._bytes += len(answer)
        self._queue.put(_Waiting(side, request, answer))

    def start(self) -> None:
        """Starts."""
        self._thread.start()

    def stop(self) -> None:
        """Ends; what waits is not read any more."""
        self._stopping = True
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        pace = Pace()
        due = time.monotonic()
        while not self._stopping:
            try:
                waiting = self._queue.get(timeout=max(due - time.monotonic(), 0.0))
            except queue.Empty:
                waiting = None
            try:
                if waiting is not None:
                    with self._lock:
                        self._bytes -= len(waiting.answer)
                    self._read(waiting)
                if time.monotonic() >= due:
                    due = time.monotonic() + _WRITE_EVERY
                    self._write()
            except Exception:
                # Serving does not depend on it.
                logger.exception("a shadow read has failed")
            pace()

    def _write(self) -> None:
        with self._lock:
            dropped, self._dropped = self._dropped, Counter()
        for key, count in dropped.items():
            self._count(key, Comparison(Counter({DROPPED: count})))
        self._comparisons.keep(self._wanted())
        self._comparisons.write()

    def _read(self, waiting: _Waiting) -> None:
        side, request, answer = waiting
        key = _key(side)
        shadow = side.shadow
        assert shadow is not None
        try:
            theirs = self._reader.answer_by(side.book, shadow, request)
            found = compare(answer, theirs, _join_keys(side.plan), _hidden(side))
            if not _same(found):
                again = self._reader.answer_by(side.book, side.plan, request)
                if not _same(compare(answer, again, _join_keys(side.plan))):
                    self._count(key, Comparison(Counter({CHANGED: 1})))
                    return
        except Exception as error:
            failure = failure_of(error)
            words = f"{failure.code.name}: {failure.message}" if failure else repr(error)
            self._count(key, Comparison(Counter({FAILED: 1}), {}, words))
            return
        self._count(key, Comparison(Counter({COMPARED: 1}), found))

    def _count(self, key: Key, comparison: Comparison) -> None:
        self._comparisons.add(key, comparison)
        if self._figures is None:
            return
        of = (key.alias, key.target, key.shadow)
        for outcome, count in comparison.requests.items():
            self._figures.shadow_requests.labels(*of, outcome).inc(count)
        for name, counts in comparison.features.items():
            for outcome, count in counts.cells.items():
                self._figures.shadow_values.labels(key.alias, key.shadow, name, outcome).inc(count)


def _key(side: Side) -> Key:
    return Key(side.alias, side.target, side.shadow_target, side.shadow_since)


def _join_keys(plan: ServingPlan) -> list[str]:
    return [key.name for key in plan.compiled.definition.join_keys]


def _same(found: dict[str, FeatureCounts]) -> bool:
    return all(counts.cells[EQUAL] == counts.cells.total() for counts in found.values())


def _hidden(side: Side) -> frozenset[str]:
    """Names of features, in either answer, that are tagged as personal."""
    definitions = side.book.definitions
    plans = [plan for plan in (side.plan, side.shadow) if plan is not None]
    return frozenset().union(*(personal_columns(definitions, plan) for plan in plans))
