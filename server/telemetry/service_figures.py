"""Figures by feature service and feature view, for Prometheus.

What happens with every read is only tallied; a thread brings it to Prometheus' figures once a
second, and looks for statuses and event times in a few answers.
"""

from collections import Counter as Counts
from collections.abc import Callable

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge

from hotfeast.hotpath.answer import NO_TIME, Answer
from hotfeast.hotpath.plan import Plan
from hotfeast.server.monitoring.turns import Turns
from hotfeast.server.plan import ServingPlan
from hotfeast.server.traffic.figures import (
    BUCKETS,
    STATUS_NAMES,
    STATUSES_EVERY,
    TalliedSeconds,
    TargetFigures,
)

FEATURE_LIST = "(features)"
"""Stands for a feature service where a list of features is asked for."""

# Seconds between two times that figures are brought to Prometheus'.
_FLUSH = 1.0
# Flushes without a call after which a plan is forgotten; it may be one that has been replaced.
_IDLE = 60
_MICROSECONDS = 1e6

Pace = Callable[[], None]


class PlanFigures(TargetFigures):
    """What is counted of the reads by one plan.

    Attributes:
        service: The feature service.
        views: The view of each feature of an answer.
        idle: Flushes since the last call.
    """

    def __init__(self, plan: ServingPlan) -> None:
        super().__init__()
        self.service = plan.service or FEATURE_LIST
        self.views = [feature.view for feature in plan.served]
        self.idle = 0
        # The first answer is looked at, so that something is known of what is seldom asked for.
        self._left = 1


class ServiceFigures:
    """Counts reads by feature service and view."""

    def __init__(self, registry: CollectorRegistry, ttls: Callable[[], dict[str, float]]) -> None:
        """
        Args:
            registry: Where the figures are kept.
            ttls: Gives the views of the moment with their TTLs in seconds, 0 for none.
        """
        self._ttls = ttls
        self._plans: dict[Plan, PlanFigures] = {}
        self._newest: dict[str, float] = {}
        self._turns = Turns("service-figures", self.flush, _FLUSH)
        self._requests = Counter(
            "hotfeast_service_requests",
            "Reads by feature service, (features) for lists of features, and gRPC status code.",
            ["feature_service", "code"],
            registry=registry,
        )
        self._rows = Counter(
            "hotfeast_service_rows", "Rows of their answers.", ["feature_service"],
            registry=registry,
        )  # fmt: skip
        self._seconds = TalliedSeconds(
            "hotfeast_service_request_seconds",
            "Seconds from the start of a read's handler to its answer, by feature service.",
            ["feature_service"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._view_rows = Counter(
            "hotfeast_view_rows",
            "Rows of answers that have features of a view.",
            ["feature_view"],
            registry=registry,
        )
        self._values = Counter(
            "hotfeast_view_values",
            f"Values of a view by status, of one answer in {STATUSES_EVERY}, the first among them.",
            ["feature_view", "status"],
            registry=registry,
        )
        self._event = Gauge(
            "hotfeast_view_newest_event_timestamp_seconds",
            "The latest event time of a view in these answers, in seconds since 1970.",
            ["feature_view"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._ttl = Gauge(
            "hotfeast_view_ttl_seconds",
            "TTL of a view whose rows expire.",
            ["feature_view"],
            registry=registry,
            multiprocess_mode="livemax",
        )

    def of(self, plan: ServingPlan) -> PlanFigures:
        """What is counted of the reads by a plan, from now on or already."""
        found = self._plans.get(plan.compiled)
        if found is None:
            found = self._plans.setdefault(plan.compiled, PlanFigures(plan))
        return found

    def start(self) -> None:
        """Starts the thread."""
        self._turns.start()

    def stop(self) -> None:
        """Ends it, with all brought to the figures."""
        self._turns.stop()
        self._turns.attempt(lambda: self.flush(lambda: None))

    def flush(self, pace: Pace) -> None:
        """Brings what was tallied to the figures."""
        for view, seconds in self._ttls().items():
            if seconds:
                self._ttl.labels(view).set(seconds)
        for compiled, figures in list(self._plans.items()):
            if self._flush_plan(figures, pace):
                figures.idle = 0
                continue
            figures.idle += 1
            if figures.idle > _IDLE:
                self._plans.pop(compiled, None)

    def _flush_plan(self, figures: PlanFigures, pace: Pace) -> bool:
        taken = figures.take()
        for code, count in taken.codes.items():
            if count:
                self._requests.labels(figures.service, code.name).inc(count)
        if any(taken.buckets):
            self._seconds.labels(figures.service).add(taken.buckets, taken.seconds)
        if taken.rows:
            self._rows.labels(figures.service).inc(taken.rows)
            for view in set(figures.views):
                self._view_rows.labels(view).inc(taken.rows)
        for data, features in figures.take_answers():
            self._look_at(figures, Answer(data), features)
            pace()
        return any(taken.buckets)

    def _look_at(self, figures: PlanFigures, answer: Answer, features: int) -> None:
        first = len(answer.names) - features
        statuses: Counts[tuple[str, int]] = Counts()
        for index, view in enumerate(figures.views):
            column = answer.column(first + index)
            for status, count in Counts(column.statuses).items():
                statuses[view, status] += count
            times = np.frombuffer(column.event_timestamps, np.int64)
            times = times[times != NO_TIME]
            if times.size:
                newest = float(times.max()) / _MICROSECONDS
                if newest > self._newest.get(view, 0.0):
                    self._newest[view] = newest
                    self._event.labels(view).set(newest)
        for (view, status), count in statuses.items():
            self._values.labels(view, STATUS_NAMES.get(status, str(status))).inc(count)
