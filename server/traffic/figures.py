"""Counts of aliases, shadow reads and deprecations for Prometheus.

What happens with every request is only tallied; a thread brings it to Prometheus' figures once a
second.
"""

import random
import threading
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from hotfeast.hotpath.answer import Answer
from hotfeast.hotpath.tally import Tally
from hotfeast.server.monitoring.callers import CallerNames
from hotfeast.server.traffic.aliases import Alias
from hotfeast.server.traffic.deprecation import Deprecations
from hotfeast.serving.v1 import serving_pb2

BUCKETS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Seconds. As of `hotfeast_request_seconds`."""
STATUSES_EVERY = 100
"""One of how many answers has its statuses counted."""

# Bytes of answers that wait for that, of one target.
_MOST_BYTES = 4 * 2**20
STATUS_NAMES = {v.number: v.name for v in serving_pb2.FieldStatus.DESCRIPTOR.values}
"""Those of `FieldStatus`, by number."""

Pace = Callable[[], None]


class Taken(NamedTuple):
    """What was counted.

    Attributes:
        codes: Calls by status code.
        buckets: Calls by how long they took.
        seconds: How long all of them took.
        rows: Rows of their answers.
    """

    codes: Mapping[grpc.StatusCode, int]
    buckets: Sequence[int]
    seconds: float
    rows: int


class TargetFigures:
    """What is counted of one target of an alias."""

    def __init__(self) -> None:
        self._tally = Tally(BUCKETS)
        self._failures: Counts[grpc.StatusCode] = Counts()
        self._lock = threading.Lock()
        self._answers: list[tuple[bytes, int]] = []
        self._bytes = 0
        self._left = _gap()

    def over(self, code: grpc.StatusCode, seconds: float) -> None:
        """Counts a call that has ended."""
        if code is grpc.StatusCode.OK:
            self._tally.add(seconds)
            return
        with self._lock:
            self._tally.add(seconds)
            self._failures[code] += 1

    def answered(self, rows: int, answer: bytes, features: int) -> None:
        """Counts the rows of an answer, and takes some for their statuses.

        Args:
            rows: How many it has.
            answer: The answer.
            features: How many columns are features; they are the last.
        """
        self._tally.add_rows(rows)
        # Two threads at once may count one answer for two: it is a sample.
        self._left -= 1
        if self._left > 0:
            return
        self._left = _gap()
        with self._lock:
            if self._bytes + len(answer) <= _MOST_BYTES:
                self._bytes += len(answer)
                self._answers.append((answer, features))

    def take(self) -> "Taken":
        """What was counted since the last time, statuses apart."""
        with self._lock:
            failures, self._failures = self._failures, Counts()
            counts, seconds, rows = self._tally.take()
        codes = failures.copy()
        codes[grpc.StatusCode.OK] = sum(counts) - failures.total()
        return Taken(codes, counts, seconds, rows)

    def take_answers(self) -> list[tuple[bytes, int]]:
        """The answers that were taken since the last time, each with how many features it has."""
        with self._lock:
            answers, self._answers, self._bytes = self._answers, [], 0
        return answers

    def take_statuses(self, pace: Pace) -> Counts[int]:
        """The statuses of the answers that were taken since the last time."""
        found: Counts[int] = Counts()
        for data, features in self.take_answers():
            answer = Answer(data)
            columns = len(answer.names)
            for index in range(columns - features, columns):
                found.update(answer.column(index).statuses)
            pace()
        return found


def _gap() -> int:
    return random.randint(1, 2 * STATUSES_EVERY - 1)


class TalliedSeconds(Histogram):
    """A histogram that is told of many observations at once."""

    def add(self, counts: Sequence[int], total: float) -> None:
        """Adds observations.

        Args:
            counts: How many are in each bucket, those above all bounds last.
            total: Their sum.
        """
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


class DeprecatedReads:
    """Counts reads of what is deprecated, by caller."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """
        Args:
            registry: Where the figures are kept.
        """
        self._names = CallerNames()
        self._lock = threading.Lock()
        self._counts: Counts[tuple[Deprecations, bytes | None, str]] = Counts()
        self._reads = Counter(
            "hotfeast_deprecated_reads",
            "Requests that read something deprecated, by kind and name of it, by caller, and by "
            "outcome: served, refused (after the sunset), failed.",
            ["kind", "name", "caller", "outcome"],
            registry=registry,
        )

    def count(
        self, deprecations: Deprecations, caller: bytes | None, code: grpc.StatusCode
    ) -> None:
        """Counts a call.

        Args:
            deprecations: All that it reads of the kind.
            caller: Who called.
            code: How it ended.
        """
        outcome = "failed"
        if code is grpc.StatusCode.OK:
            outcome = "served"
        elif code is grpc.StatusCode.FAILED_PRECONDITION:
            outcome = "refused"
        with self._lock:
            self._counts[deprecations, caller, outcome] += 1

    def flush(self, pace: Pace) -> None:
        """Brings what was counted to the figures."""
        with self._lock:
            counts, self._counts = self._counts, Counts()
        for (deprecations, caller, outcome), count in counts.items():
            name = self._names.name(caller)
            for each in deprecations.endings:
                self._reads.labels(each.kind, each.name, name, outcome).inc(count)
            pace()


class AliasFigures:
    """Counts the calls of aliases, and what shadow reads find."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """
        Args:
            registry: Where the figures are kept.
        """
        self._targets: dict[tuple[str, str], TargetFigures] = {}
        self._shares: set[tuple[str, str]] = set()

        def counter(name: str, text: str, labels: Sequence[str]) -> Counter:
            return Counter(name, text, labels, registry=registry)

        by = ["alias", "target"]
        self._requests = counter(
            "hotfeast_alias_requests",
            "Requests for an alias that a target has answered, by gRPC status code.",
            [*by, "code"],
        )
        self._rows = counter("hotfeast_alias_rows", "Rows of its answers.", by)
        self._values = counter(
            "hotfeast_alias_values",
            f"Values of its answers by status, of one answer in {STATUSES_EVERY}.",
            [*by, "status"],
        )
        self._seconds = TalliedSeconds(
            "hotfeast_alias_request_seconds",
            "Seconds from the start of a request's handler to its answer.",
            by,
            buckets=BUCKETS,
            registry=registry,
        )
        self._share = Gauge(
            "hotfeast_alias_share",
            "Share of a target in percent.",
            by,
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._valid = Gauge(
            "hotfeast_aliases_valid",
            "1 if the file of aliases is in force in every worker as it is; else 0.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.shadow_requests = counter(
            "hotfeast_shadow_requests",
            "Requests for an alias that were also read from a shadow, by outcome: compared, "
            "changed (a row was written between the two), failed, dropped (too many waited).",
            ["alias", "target", "shadow", "outcome"],
        )
        self.shadow_values = counter(
            "hotfeast_shadow_values",
            "Values of these by feature, compared with the answer's: equal, different, missing "
            "(only the answer has one), added (only the shadow has one).",
            ["alias", "shadow", "feature", "outcome"],
        )

    def of(self, alias: str, target: str) -> TargetFigures:
        """What is counted of a target, from now on or already."""
        return self._targets.setdefault((alias, target), TargetFigures())

    def loaded(self, aliases: Iterable[Alias], valid: bool) -> None:
        """Notes the aliases that are in force.

        Args:
            aliases: All of them.
            valid: Whether they are what the file says.
        """
        self._valid.set(valid)
        shares = {(a.name, target): share for a in aliases for target, share in a.targets}
        for gone in self._shares - set(shares):
            self._share.labels(*gone).set(0)
        for key, share in shares.items():
            self._share.labels(*key).set(share)
        self._shares = set(shares)

    def flush(self, pace: Pace) -> None:
        """Brings what was tallied to the figures."""
        for key, figures in list(self._targets.items()):
            taken = figures.take()
            for code, count in taken.codes.items():
                if count:
                    self._requests.labels(*key, code.name).inc(count)
            if any(taken.buckets):
                self._seconds.labels(*key).add(taken.buckets, taken.seconds)
            if taken.rows:
                self._rows.labels(*key).inc(taken.rows)
            for status, count in figures.take_statuses(pace).items():
                self._values.labels(*key, STATUS_NAMES.get(status, str(status))).inc(count)
            pace()
