"""What is known of the features, for whoever shows or judges it: a thread beside the metrics page.

It reads the folder of the processes' files in turns, tells watchers (alerts, for one) of what it
read, and gives Prometheus the figures of the last hour's windows. So a scrape costs the same
however many processes there are, and requests nothing.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector as Figures

from hotfeast.server.monitoring.collector import Collected, read_collected
from hotfeast.server.monitoring.observed import Channel
from hotfeast.server.monitoring.statistics import FeatureStatistics
from hotfeast.server.monitoring.turns import Turns
from hotfeast.server.monitoring.windows import FeatureKey, Reader

logger = logging.getLogger(__name__)

TURN = 10.0
"""Seconds between two reads of the folder."""
MOST_SERIES = 2000
"""Features, each in each channel, that Prometheus is told of at most."""

_LIST = "(features)"
"""Stands for a feature service where a list of features is asked for."""


@dataclass(frozen=True)
class Snapshot:
    """What is known at a moment.

    Attributes:
        time: Seconds since 1970.
        collected: What the processes have seen.
        features: Statistics of each feature over the windows that are kept.
        newest: For each view the latest event time that was seen, in seconds since 1970: in
            answers, or in rows that were written where nobody asks.
    """

    time: float
    collected: Collected
    features: dict[FeatureKey, FeatureStatistics]
    newest: dict[str, float]

    def freshness(self, view: str, now: float) -> float | None:
        """Seconds since the latest event time of a view; None where it is not known."""
        newest = self.newest.get(view)
        return None if newest is None else max(now - newest, 0.0)


Watcher = Callable[[Snapshot], None]
FiringAlerts = Callable[[], Sequence[tuple[str, str]]]
"""Gives rule and severity of each alert that is firing."""
Valid = Callable[[], Mapping[str, bool]]
"""Says for each of what features are watched by whether its present state is valid."""
Drifts = Callable[[], Sequence[tuple[str, str, str, float, float]]]
"""Gives channel, view, feature, p-value and effect of each feature that has a profile."""


def take_snapshot(folder: Path) -> Snapshot:
    """Reads a folder of processes' files."""
    collected = read_collected(folder)
    store = collected.store
    keys = store.keys()
    features = {key: store.merged(key) for key in keys}
    newest: dict[str, float] = {}
    served = {key.view for key in features if key.channel is Channel.served}
    for key, statistics in features.items():
        if statistics.newest_event is None:
            continue
        if key.channel is Channel.served or key.view not in served:
            seconds = statistics.newest_event / 1e6
            newest[key.view] = max(newest.get(key.view, seconds), seconds)
    return Snapshot(time.time(), collected, features, newest)


class MonitoringService(Figures):
    """Keeps a snapshot, and shows it to Prometheus."""

    def __init__(
        self,
        folder: Path,
        watchers: Sequence[Watcher] = (),
        firing: FiringAlerts = tuple,
        drifts: Drifts = tuple,
        clock: Callable[[], float] = time.time,
        turn: float = TURN,
        valid: Valid = dict,
        tell_interval: Callable[[float], None] = lambda _: None,
    ) -> None:
        """
        Args:
            folder: That of the processes' files.
            watchers: Are told of each snapshot, by one thread.
            firing: Says which alerts are firing.
            drifts: Says how features have drifted.
            clock: The time that freshness is judged at, in seconds since 1970.
            turn: Seconds between two reads.
            valid: Says whether rules and the like, as they are now, are in use.
            tell_interval: Is told how often watchers are to judge, where that changes.
        """
        self._folder = folder
        self._watchers = tuple(watchers)
        self._firing = firing
        self._drifts = drifts
        self._clock = clock
        self._valid = valid
        self._tell_interval = tell_interval
        self._snapshot = take_snapshot(folder)
        self._turns = Turns("monitoring", lambda _: self.look(), turn)

    @property
    def snapshot(self) -> Snapshot:
        """What was last read."""
        return self._snapshot

    def start(self) -> None:
        """Starts reading in turns."""
        self._turns.start()

    def stop(self) -> None:
        """Stops."""
        self._turns.stop()

    def set_interval(self, seconds: float) -> None:
        """Has watchers judge after so many seconds again, and the folder be read as often."""
        self._tell_interval(seconds)
        self._turns.seconds = min(seconds, TURN)

    def look(self) -> None:
        """Reads anew, and tells the watchers."""
        self._snapshot = snapshot = take_snapshot(self._folder)
        for watcher in self._watchers:
            try:
                watcher(snapshot)
            except Exception:
                logger.exception("a watcher of the monitoring has failed")

    # ------------------------------------------------------------ figures

    def collect(self) -> Iterator[Metric]:
        """The figures as Prometheus wants them."""
        snapshot = self._snapshot
        yield from _feature_figures(snapshot)
        yield from self._view_figures(snapshot)
        yield _reads(snapshot.collected)
        dropped = CounterMetricFamily(
            "hotfeast_monitoring_dropped", "Samples that found a queue full, of all processes."
        )
        dropped.add_metric([], snapshot.collected.dropped)
        yield dropped
        yield from self._drift_figures()
        alerts = GaugeMetricFamily(
            "hotfeast_alerts_firing",
            "Alerts that are firing, by rule and severity.",
            labels=["rule", "severity"],
        )
        counts: dict[tuple[str, str], int] = {}
        for rule, severity in self._firing():
            counts[rule, severity] = counts.get((rule, severity), 0) + 1
        for labels, count in sorted(counts.items()):
            alerts.add_metric(list(labels), count)
        yield alerts
        valid = GaugeMetricFamily(
            "hotfeast_monitoring_input_valid",
            "1 if definitions, rules or profiles are in use as they are now; 0 if they are not "
            "valid, and those before are.",
            labels=["input"],
        )
        for name, well in self._valid().items():
            valid.add_metric([name], float(well))
        yield valid

    def _view_figures(self, snapshot: Snapshot) -> Iterator[Metric]:
        fresh = GaugeMetricFamily(
            "hotfeast_feature_view_freshness_seconds",
            "Seconds since the latest event time that was seen of a view.",
            labels=["feature_view"],
        )
        ttl = GaugeMetricFamily(
            "hotfeast_feature_view_ttl_seconds",
            "TTL of a view whose rows expire.",
            labels=["feature_view"],
        )
        now = self._clock()
        for view in sorted(snapshot.newest):
            age = snapshot.freshness(view, now)
            if age is not None:
                fresh.add_metric([view], age)
        for view, seconds in sorted(snapshot.collected.ttls.items()):
            if seconds:
                ttl.add_metric([view], seconds)
        yield fresh
        yield ttl

    def _drift_figures(self) -> Iterator[Metric]:
        labels = ["channel", "feature_view", "feature"]
        p_value = GaugeMetricFamily(
            "hotfeast_feature_drift_p_value",
            "Probability of such a difference from the reference profile by chance, corrected for "
            "the number of features.",
            labels=labels,
        )
        effect = GaugeMetricFamily(
            "hotfeast_feature_drift_effect",
            "Size of the difference from the reference profile.",
            labels=labels,
        )
        for channel, view, feature, p, size in self._drifts():
            p_value.add_metric([channel, view, feature], p)
            effect.add_metric([channel, view, feature], size)
        yield p_value
        yield effect


def _feature_figures(snapshot: Snapshot) -> Iterator[Metric]:
    labels = ["channel", "feature_view", "feature"]
    keys = sorted(snapshot.features)[:MOST_SERIES]
    rows = GaugeMetricFamily(
        "hotfeast_feature_rows",
        "Rows of a feature that were looked at, in the windows that are kept.",
        labels=labels,
    )
    for key in keys:
        rows.add_metric([key.channel.value, *key[1:]], snapshot.features[key].rows)
    yield rows
    shares = {
        "null_share": GaugeMetricFamily(
            "hotfeast_feature_null_share",
            "Share of rows whose value is null or not a number.",
            labels=labels,
        ),
        "missing_share": GaugeMetricFamily(
            "hotfeast_feature_missing_share",
            "Share of rows whose entity has no row in the view.",
            labels=labels,
        ),
        "stale_share": GaugeMetricFamily(
            "hotfeast_feature_stale_share",
            "Share of rows that are older than the view's TTL.",
            labels=labels,
        ),
        "outlier_share": GaugeMetricFamily(
            "hotfeast_feature_outlier_share",
            "Share of numbers beyond 3 standard deviations.",
            labels=labels,
        ),
    }
    for of, share in shares.items():
        for key in keys:
            value = getattr(snapshot.features[key], of)
            if not math.isnan(value):
                share.add_metric([key.channel.value, *key[1:]], value)
        yield share


def _reads(collected: Collected) -> Metric:
    reads = CounterMetricFamily(
        "hotfeast_feature_reads",
        "Requests that read a view, by feature service and caller, told from the sample.",
        labels=["feature_service", "feature_view", "caller"],
    )
    for reader, reading in sorted(collected.store.readers().items(), key=_by_reader):
        labels = [reader.service or _LIST, reader.view, reader.caller or "unknown"]
        reads.add_metric(labels, reading.observations * collected.every)
    return reads


def _by_reader(item: tuple[Reader, object]) -> tuple[str, str, str]:
    reader = item[0]
    return reader.service or "", reader.view, reader.caller or ""
