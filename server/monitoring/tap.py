"""Samples of what is read and written, handed over off the request path.

A request costs a countdown; one that is chosen costs an entry in a bounded queue, too. One thread a
process takes the entries in turns, decodes all answers of one kind together, column by column, and
sleeps several times as long as it works, so that requests find the interpreter free. What finds the
queue full is dropped and counted.

Of reads one in `every` is chosen, at random. Of writes there is less, and all is taken, but no more
rows a turn than `MOST_ROWS` of a view: evenly thinned where there are more.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hotfeast.hotpath.answer import NO_TIME, Answer, AnswerColumn, times_of
from hotfeast.hotpath.answer_arrow import arrow_array, without_feast_nulls
from hotfeast.hotpath.request import Request
from hotfeast.hotpath.writes import OUTCOMES
from hotfeast.server.monitoring.callers import CallerNames
from hotfeast.server.monitoring.observed import Channel, FeatureColumn, Observation, Status
from hotfeast.server.monitoring.turns import Turns
from hotfeast.server.plan import ServedFeature, ServingPlan
from hotfeast.server.rows import EncodedRows
from hotfeast.server.traffic.notes import Caller
from hotfeast.server.write_plan import ViewWrite

logger = logging.getLogger(__name__)

MOST_ROWS = 1000
"""Rows of one kind of answer, or of one view's writes, that are looked at in a turn."""
TURN = 1.0
"""Seconds between two turns."""

# Bytes of answers, and rows of writes, that wait for a turn at most.
_MOST_BYTES = 16 * 2**20
_MOST_WAITING_ROWS = 200_000
_REJECTED = OUTCOMES.index("rejected")
_SUPERSEDED = OUTCOMES.index("superseded")

Sink = Callable[[Observation], None]
Moments = npt.NDArray[np.int64]


class Log(Protocol):
    """Keeps whole answers."""

    def wants(self, service: str | None) -> bool: ...

    def add(self, sample: "Sample", answer: bytes) -> None: ...


class Sample(NamedTuple):
    """A read that was chosen.

    Attributes:
        plan: Its plan.
        request: What was asked.
        caller: Who asked; None where that cannot be told.
        monitored: Whether its answer is observed.
        logged: Whether its answer is logged.
    """

    plan: ServingPlan
    request: Request
    caller: Caller | None
    monitored: bool
    logged: bool


class _Answered(NamedTuple):
    time: float
    sample: Sample
    answer: bytes


class Written(NamedTuple):
    """Rows of one view that were written, or not.

    Attributes:
        time: When, in seconds since 1970.
        write: The view.
        encoded: The rows.
        outcomes: What became of each, as the numbers of `OUTCOMES`.
    """

    time: float
    write: ViewWrite
    encoded: EncodedRows
    outcomes: bytes


class Tap:
    """Takes samples, in one process.

    Attributes:
        every: One of how many reads is chosen.
        dropped: Samples that found the queue full.
    """

    def __init__(
        self,
        every: int,
        sinks: Sequence[Sink],
        log: Log | None = None,
        after_turn: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            every: One of how many reads is chosen for the sinks; 0 for none.
            sinks: Are told of everything, a view at a time, by one thread.
            log: Chooses, and is given, answers of its own.
            after_turn: Is called at the end of each turn, by the same thread.
        """
        self.every = every
        self.dropped = 0
        self._sinks = tuple(sinks)
        self._log = log
        self._after_turn = after_turn
        self._names = CallerNames()
        self._left = self._gap()
        self._lock = threading.Lock()
        self._answers: list[_Answered] = []
        self._bytes = 0
        self._writes: list[Written] = []
        self._rows = 0
        self._turns = Turns("monitoring-tap", self.turn, TURN)

    # ------------------------------------------------------------ on the request path

    def choose(self, plan: ServingPlan, request: Request, caller: Caller | None) -> Sample | None:
        """Says whether a read is chosen; None for most."""
        monitored = False
        if self.every:
            # Two threads at once may count one request for two: it is a sample.
            self._left -= 1
            if self._left <= 0:
                monitored = True
                self._left = self._gap()
        logged = self._log is not None and self._log.wants(plan.service)
        if not monitored and not logged:
            return None
        return Sample(plan, request, caller, monitored, logged)

    def take(self, sample: Sample, answer: bytes) -> None:
        """Takes the answer to a read that was chosen."""
        if sample.logged and self._log is not None:
            self._log.add(sample, answer)
        if not sample.monitored:
            return
        with self._lock:
            if self._bytes + len(answer) > _MOST_BYTES:
                self.dropped += 1
                return
            self._bytes += len(answer)
            self._answers.append(_Answered(time.time(), sample, answer))

    def wrote(self, write: ViewWrite, encoded: EncodedRows, outcomes: bytes) -> None:
        """Takes rows that were pushed.

        Args:
            write: Their view.
            encoded: The rows.
            outcomes: What became of each, as the numbers of `OUTCOMES`.
        """
        if not self.every:
            return
        with self._lock:
            if self._rows + len(outcomes) > _MOST_WAITING_ROWS:
                self.dropped += 1
                return
            self._rows += len(outcomes)
            self._writes.append(Written(time.time(), write, encoded, outcomes))

    # ------------------------------------------------------------ in the thread

    def start(self) -> None:
        """Starts taking turns."""
        self._turns.start()

    def stop(self) -> None:
        """Takes a last turn, and ends."""
        self._turns.stop()
        self._turns.attempt(self.turn)

    def turn(self, pace: Callable[[], None] = lambda: None) -> None:
        """Hands over all that waits.

        Args:
            pace: Is called after each piece of work.
        """
        with self._lock:
            answers, self._answers, self._bytes = self._answers, [], 0
            writes, self._writes, self._rows = self._writes, [], 0
        for observation in self._observed(answers):
            self._tell(observation)
            pace()
        for written in _by_view(writes):
            self._tell(written_rows(Channel.pushed, written))
            pace()
        self._after_turn()

    def _gap(self) -> int:
        """How many reads on the next one is chosen; `every` on average, so that no pattern in the
        traffic is met always or never."""
        return random.randint(1, 2 * self.every - 1) if self.every else 0

    def _tell(self, observation: Observation) -> None:
        for sink in self._sinks:
            sink(observation)

    def _observed(self, answers: Iterable[_Answered]) -> Iterator[Observation]:
        groups: dict[tuple[int, bytes, str], list[_Answered]] = {}
        for answered in answers:
            sample = answered.sample
            caller = self._names.name(sample.caller.caller if sample.caller else None)
            head = Answer(answered.answer).head
            groups.setdefault((id(sample.plan), head, caller), []).append(answered)
        for (_, _, caller), group in groups.items():
            plan = group[0].sample.plan
            answer = Answer(*(answered.answer for answered in group))
            for columns in served_columns(answer, plan, MOST_ROWS):
                yield Observation(
                    Channel.served, group[0].time, columns, plan.service, caller, len(group)
                )


def served_columns(
    answer: Answer, plan: ServingPlan, most_rows: int
) -> Iterator[tuple[FeatureColumn, ...]]:
    """The features of an answer, view by view.

    Args:
        answer: Answers to requests of one plan.
        plan: The plan.
        most_rows: How many rows are taken at most, evenly.
    """
    positions = {name: index for index, name in enumerate(answer.names)}
    step = max(1, -(-answer.rows // most_rows))
    views: dict[str, list[ServedFeature]] = {}
    for feature in plan.served:
        views.setdefault(feature.view, []).append(feature)
    for view, features in views.items():
        made = []
        for feature in features:
            column = answer.column(positions[feature.output_name], step)
            times = _times(column.event_timestamps)
            made.append(_feature_column(view, feature.feature, column, times))
        yield tuple(made)


def written_rows(channel: Channel, written: Sequence[Written]) -> Observation:
    """Rows of one view as they are observed; what was rejected is INVALID, and what a newer row of
    the same run has superseded is left out.

    Args:
        channel: How they were written.
        written: The rows; of more than `MOST_ROWS` some are left out, evenly.
    """
    first = written[0]
    outcomes = b"".join(w.outcomes for w in written)
    step = max(1, -(-len(outcomes) // MOST_ROWS))
    codes = np.frombuffer(outcomes, np.uint8)[::step]
    rejected = codes == _REJECTED
    kept = codes != _SUPERSEDED
    times = _times(times_of([w.encoded.times for w in written], step))
    columns = []
    for index, feature in enumerate(first.write.view.features):
        cells = [w.encoded.features[index] for w in written]
        column = AnswerColumn.of_cells(feature.name, cells, step)
        statuses = np.frombuffer(column.statuses, np.uint8)
        statuses = np.where(rejected, np.uint8(Status.INVALID), statuses)
        values = without_feast_nulls(arrow_array(column)).filter(pa.array(kept))
        columns.append(
            FeatureColumn(first.write.name, feature.name, values, statuses[kept], times[kept])
        )
    return Observation(channel, first.time, tuple(columns))


def _times(data: bytes) -> Moments:
    times = np.frombuffer(data, np.int64)
    return np.where(times == NO_TIME, 0, times)


def _feature_column(view: str, feature: str, column: AnswerColumn, times: Moments) -> FeatureColumn:
    return FeatureColumn(
        view,
        feature,
        without_feast_nulls(arrow_array(column)),
        np.frombuffer(column.statuses, np.uint8),
        times,
    )


def _by_view(writes: Iterable[Written]) -> Iterable[list[Written]]:
    # Of one definition: another one may have other features.
    groups: dict[int, list[Written]] = {}
    for written in writes:
        groups.setdefault(id(written.write.view), []).append(written)
    return groups.values()
