"""From figures of features to what rules look at."""

import math
from collections.abc import Iterable, Mapping

from hotfeast.server.monitoring.alerts import Measurement
from hotfeast.server.monitoring.drift import DriftResult, DriftSettings, compare_all
from hotfeast.server.monitoring.observed import Channel
from hotfeast.server.monitoring.rules import Known, Metric
from hotfeast.server.monitoring.statistics import (
    NUMERIC_KINDS,
    OUTLIER_STDS,
    FeatureStatistics,
)
from hotfeast.server.monitoring.windows import MonitoringStore

SPAN = 900.0
"""Seconds back from now that rules look at: three windows, so that one that has just begun does not
stand alone."""

References = Mapping[tuple[str, str], FeatureStatistics]
"""What features were like in training, by view and feature."""

# Metrics whose names are those of the figures.
_FIGURES = (
    Metric.NULL_SHARE, Metric.MISSING_SHARE, Metric.STALE_SHARE, Metric.OUTLIER_SHARE, Metric.MEAN,
    Metric.STD, Metric.MINIMUM, Metric.MAXIMUM, Metric.DISTINCT,
)  # fmt: skip


def measure(
    store: MonitoringStore,
    known: Known,
    now: float,
    references: References | None = None,
    settings: DriftSettings | None = None,
    event_now: float | None = None,
    span: float = SPAN,
) -> list[Measurement]:
    """What is so now of all features that a store has seen, and of their views.

    Args:
        store: The windows.
        known: How old the newest rows of views may be.
        now: Seconds since 1970.
        references: What features are compared with.
        settings: What is called drift.
        event_now: What event times are aged against, where that is not now.
        span: Seconds back that are looked at.
    """
    store.advance(now)
    current: dict[Channel, dict[tuple[str, str], FeatureStatistics]] = {}
    newest: dict[str, float] = {}
    for key in store.keys():  # noqa: SIM118
        name = key.view, key.feature
        current.setdefault(key.channel, {})[name] = store.merged(key, now - span)
        for point in store.history(key):
            if not math.isnan(point.newest_event):
                newest[key.view] = max(newest.get(key.view, -math.inf), point.newest_event)
    measured: list[Measurement] = []
    for channel, statistics in current.items():
        measured += of_features(statistics, channel, references, settings)
    age_at = now if event_now is None else event_now
    measured += (
        of_view(view, age_at - at / 1_000_000, known) for view, at in sorted(newest.items())
    )
    return measured


def of_features(
    statistics: Mapping[tuple[str, str], FeatureStatistics],
    channel: str,
    references: References | None = None,
    settings: DriftSettings | None = None,
) -> list[Measurement]:
    """What is so of features.

    Args:
        statistics: By view and feature.
        channel: Where the values were seen.
        references: What features are compared with.
        settings: What is called drift.
    """
    references = references or {}
    drifts = compare_all(references, statistics, settings)
    return with_drift(statistics, channel, references, drifts)


def with_drift(
    statistics: Mapping[tuple[str, str], FeatureStatistics],
    channel: str,
    references: References,
    drifts: Iterable[DriftResult],
) -> list[Measurement]:
    """As `of_features`, where drift is known already."""
    by_name = {(drift.view, drift.feature): drift for drift in drifts}
    measured = []
    for (view, feature), figures in statistics.items():
        values = _values(figures)
        drift = by_name.get((view, feature))
        effect = least = 0.0
        if drift is not None:
            effect, least = drift.effect, drift.least_effect
            if drift.values_drifted and math.isnan(drift.adjusted_p):
                # Values of another kind: there is nothing to test.
                values[Metric.DRIFT], effect = 0.0, math.inf
            elif not math.isnan(drift.adjusted_p):
                values[Metric.DRIFT] = drift.adjusted_p
                values[Metric.DRIFT_EFFECT] = effect
        reference = references.get((view, feature))
        measured.append(
            Measurement(
                view=view,
                feature=feature,
                channel=str(channel),
                rows=figures.rows,
                values=values,
                reference=reference_values(reference) if reference is not None else {},
                effect=effect,
                least_effect=least,
            )
        )
    return measured


def of_view(view: str, age: float, known: Known) -> Measurement:
    """What is so of a view.

    Args:
        view: Its name.
        age: Seconds that its newest row is old.
        known: How old it may be.
    """
    values = {Metric.AGE: age}
    allowed = known.allowed_age(view)
    if allowed:
        values[Metric.FRESHNESS] = age / allowed
    # Rules for few rows are of features.
    return Measurement(view, "", "", 0, values)


def reference_values(figures: FeatureStatistics) -> dict[Metric, float]:
    """The figures of a reference. Its outliers are told by its own mean and standard deviation, as
    those of what is compared with it: they may be many, where values have a long tail."""
    values = _values(figures)
    if figures.kind in NUMERIC_KINDS and figures.moments.count and figures.std > 0:
        reach = OUTLIER_STDS * figures.std
        below, within = figures.cdf([figures.mean - reach, figures.mean + reach])
        values[Metric.OUTLIER_SHARE] = float(below + 1 - within)
    return values


def _values(figures: FeatureStatistics) -> dict[Metric, float]:
    """The figures that there are; those that need rows are not there without any."""
    values = {Metric.ROWS: float(figures.rows)}
    for metric in _FIGURES:
        value = getattr(figures, metric.value)
        if value is not None and not math.isnan(value):
            values[metric] = float(value)
    return values
