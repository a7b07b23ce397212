"""Alert rules over figures at hand, for notebooks and jobs, by the code that the gateway runs.

from hotfeast.server.monitoring import check_feature_alerts, monitor_feature_quality

for alert in check_feature_alerts(monitor_feature_quality(frame), "alerts.yaml"):
    print(alert.severity, alert.summary)
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from hotfeast.server.monitoring.alerts import Alert, AlertEngine, Measurement
from hotfeast.server.monitoring.drift import DriftResult
from hotfeast.server.monitoring.library import DriftReport, QualityReport
from hotfeast.server.monitoring.measure import with_drift
from hotfeast.server.monitoring.observed import Channel
from hotfeast.server.monitoring.rules import (
    Known,
    KnownView,
    Metric,
    RuleSet,
    default_rules,
    load_rules,
    parse_rules,
)
from hotfeast.server.monitoring.statistics import FeatureStatistics

Metrics = QualityReport | Mapping[str, FeatureStatistics] | Mapping[str, Mapping[str, float]]
"""By feature: statistics, or numbers by the names of `Metric`."""

Rules = RuleSet | str | Path | Sequence[Mapping[str, Any]]
"""Rules, the path of a file of them, or what such a file has under `rules`."""


def check_feature_alerts(
    metrics: Metrics,
    rules: Rules | None = None,
    *,
    drift: DriftReport | None = None,
    reference: QualityReport | None = None,
    view: str = "frame",
    channel: str = Channel.served,
) -> list[Alert]:
    """Judges figures by rules, at once: how long something has to be so does not count.

    Args:
        metrics: By feature: what `monitor_feature_quality` gives, statistics, or numbers by the
            names of metrics, where `rows` says how many rows there were.
        rules: The rules; the default ones if None.
        drift: What `detect_feature_drift` gives, for rules of drift.
        reference: The figures of the reference, for rules that count from it.
        view: The view that rules may name.
        channel: Where the values were seen, as rules may ask for.

    Returns:
        The alerts that fire, in the order of features.

    Raises:
        RuleError: A rule is not valid, or names a feature that is not there.
        ValueError: A name is no metric's.
    """
    features = metrics.features if isinstance(metrics, QualityReport) else metrics
    known = Known({view: KnownView({feature: {} for feature in features})})
    chosen = _rules(rules, known)
    at_once = {name: replace(rule, for_seconds=0.0) for name, rule in chosen.rules.items()}
    measured = []
    references = reference.features if reference is not None else {}
    for feature, figures in features.items():
        if isinstance(figures, FeatureStatistics):
            before = {(view, name): each for name, each in references.items()}
            results = [replace(result, view=view) for result in _results(drift, feature)]
            measured += with_drift({(view, feature): figures}, channel, before, results)
        else:
            measured.append(_given(view, feature, channel, figures))
    engine = AlertEngine(RuleSet(at_once, ()), known)
    alerts = engine.evaluate(measured, 0.0)
    order = {feature: place for place, feature in enumerate(features)}
    return sorted(alerts, key=lambda alert: (order[alert.feature], alert.rule))


def _rules(rules: Rules | None, known: Known) -> RuleSet:
    if rules is None:
        return default_rules()
    if isinstance(rules, RuleSet):
        return rules
    if isinstance(rules, str | Path):
        return load_rules(Path(rules), known)
    text = yaml.safe_dump({"rules": [dict(rule) for rule in rules]}, sort_keys=False)
    return parse_rules(text, "rules", known)


def _results(drift: DriftReport | None, feature: str) -> list[DriftResult]:
    return [result for result in drift or () if result.feature == feature]


def _given(view: str, feature: str, channel: str, figures: Mapping[str, float]) -> Measurement:
    for name in figures:
        if name not in list(Metric):
            raise ValueError(f"feature {feature!r}: {name!r} is no metric; there are {_METRICS}")
    values = {Metric(name): float(value) for name, value in figures.items()}
    # Where nothing is said of rows there are enough.
    rows = int(values.get(Metric.ROWS, 2**31))
    effect = values.get(Metric.DRIFT_EFFECT, float("inf"))
    return Measurement(view, feature, str(channel), rows, values, effect=effect)


_METRICS = ", ".join(Metric)
