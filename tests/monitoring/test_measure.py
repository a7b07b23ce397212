"""From features that pass to alerts, and the same for frames."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from alerting import DAY, KNOWN

from hotfeast.server.monitoring.alert_watch import AlertWatch
from hotfeast.server.monitoring.alerts import Alert, AlertEngine, Measurement, State
from hotfeast.server.monitoring.frames import check_feature_alerts
from hotfeast.server.monitoring.library import detect_feature_drift, monitor_feature_quality
from hotfeast.server.monitoring.measure import measure
from hotfeast.server.monitoring.observed import Channel, FeatureColumn, Observation, Status
from hotfeast.server.monitoring.rules import Metric, RuleError, default_rules, parse_rules
from hotfeast.server.monitoring.statistics import PROFILE_SIZES, FeatureStatistics
from hotfeast.server.monitoring.windows import MonitoringStore

NOW = 1_700_000_100.0
ROWS = 2000


def spend(seed: int = 0, shift: float = 0.0, nulls: float = 0.0) -> pa.Array:
    """Amounts as a household spends them."""
    random = np.random.default_rng(seed)
    values = random.lognormal(3.0, 0.5, ROWS) + shift
    return pa.array(values, mask=random.random(ROWS) < nulls)


def reference() -> dict[tuple[str, str], FeatureStatistics]:
    statistics = FeatureStatistics(sizes=PROFILE_SIZES)
    statistics.update(FeatureColumn("users", "spend", spend(1)))
    return {("users", "spend"): statistics}


def seen(
    values: pa.Array,
    time: float = NOW,
    age: float = 60.0,
    statuses: np.ndarray | None = None,
    channel: Channel = Channel.served,
) -> Observation:
    times = np.full(len(values), int((time - age) * 1e6), np.int64)
    return Observation(channel, time, (FeatureColumn("users", "spend", values, statuses, times),))


def store_of(*observations: Observation) -> MonitoringStore:
    store = MonitoringStore()
    for observation in observations:
        store.observe(observation)
    return store


def fired(store: MonitoringStore, rules: str = "") -> list[Alert]:
    """What fires once it has been so for ten minutes."""
    engine = AlertEngine(parse_rules(rules, "alerts.yaml", KNOWN), KNOWN)
    engine.evaluate(measure(store, KNOWN, NOW, reference()), NOW)
    found = engine.evaluate(measure(store, KNOWN, NOW + 600, reference()), NOW + 600)
    return [alert for alert in found if alert.state is State.FIRING]


def of_feature(measured: list[Measurement]) -> Measurement:
    (found,) = [each for each in measured if each.feature]
    return found


def test_measurements_are_the_figures_of_the_windows() -> None:
    statuses = np.full(ROWS, Status.PRESENT, np.uint8)
    statuses[:200] = Status.NOT_FOUND
    statuses[200:300] = Status.OUTSIDE_MAX_AGE
    values = pa.array([None] * 300 + spend().to_pylist()[300:])
    store = store_of(
        seen(values, statuses=statuses, age=3600.0), seen(spend(nulls=1.0), NOW - 2000, DAY)
    )
    measured = measure(store, KNOWN, NOW, reference())
    feature = of_feature(measured)
    assert (feature.view, feature.feature, feature.channel) == ("users", "spend", "served")
    # The window of long before does not count.
    assert feature.rows == ROWS
    assert feature.values[Metric.MISSING_SHARE] == 0.1
    assert feature.values[Metric.STALE_SHARE] == 0.05
    assert feature.values[Metric.NULL_SHARE] == 0.0
    assert feature.values[Metric.MEAN] == pytest.approx(np.mean(values.to_pylist()[300:]))
    assert feature.reference[Metric.NULL_SHARE] == 0.0
    (view,) = [each for each in measured if not each.feature]
    assert view.values == {
        Metric.AGE: pytest.approx(3600.0),
        Metric.FRESHNESS: pytest.approx(1 / 24),
    }


def test_a_feature_that_is_no_longer_seen_has_no_rows() -> None:
    store = store_of(seen(spend(), NOW - 3000))
    feature = of_feature(measure(store, KNOWN, NOW))
    assert feature.rows == 0
    assert feature.values == {Metric.ROWS: 0.0}
    rules = "rules: [{name: silent, metric: rows, equals: 0, for: 10m}]"
    assert [alert.rule for alert in fired(store, rules)] == ["silent"]


def test_what_is_as_in_training_fires_nothing() -> None:
    assert fired(store_of(seen(spend(2)))) == []


@pytest.mark.parametrize(
    ("observation", "rule"),
    [
        (seen(spend(2, nulls=0.2)), "nulls"),
        (seen(spend(2, shift=10.0)), "drift"),
        (seen(pa.array(["12", "13"] * 1000)), "drift"),
        (seen(spend(2), age=1.5 * DAY), "freshness"),
    ],
)
def test_each_default_rule_fires(observation: Observation, rule: str) -> None:
    assert [alert.rule for alert in fired(store_of(observation))] == [rule]


def test_outliers_are_told_by_the_reference() -> None:
    store = MonitoringStore()
    before = reference()["users", "spend"]
    store.set_references({("users", "spend"): (before.mean, before.std)})
    values = spend(2).to_numpy().copy()
    values[:160] = before.mean + 10 * before.std
    store.observe(seen(pa.array(values)))
    assert [alert.rule for alert in fired(store)] == ["outliers"]


def test_past_data_are_aged_at_the_time_that_they_are_served_as_of() -> None:
    store = store_of(seen(spend(), age=400 * DAY))
    (view,) = [
        each
        for each in measure(store, KNOWN, NOW, event_now=NOW - 400 * DAY + 60)
        if not each.feature
    ]
    assert view.values[Metric.AGE] == pytest.approx(60.0)


def test_a_frame_by_the_default_rules() -> None:
    frame = pd.DataFrame(
        {"spend": spend(2, 10.0).to_pandas(), "visits": spend(3, nulls=0.3).to_pandas()}
    )
    before = pd.DataFrame(
        {"spend": spend(1).to_pandas(), "visits": spend(4, nulls=0.28).to_pandas()}
    )
    quality = monitor_feature_quality(frame)
    assert [(a.feature, a.rule) for a in check_feature_alerts(quality)] == [("visits", "nulls")]
    alerts = check_feature_alerts(
        quality,
        drift=detect_feature_drift(before, frame),
        reference=monitor_feature_quality(before),
    )
    assert [(a.feature, a.rule, a.state) for a in alerts] == [("spend", "drift", State.FIRING)]
    assert check_feature_alerts(dict(quality.features)) == check_feature_alerts(quality)


def test_rules_and_numbers_given_as_they_are(tmp_path: Path) -> None:
    rules = [{"name": "low", "metric": "mean", "below": 5, "features": ["spend"], "for": "1h"}]
    figures = {"spend": {"mean": 1.0}, "visits": {"mean": 1.0, "null_share": 0.5}}
    found = [(a.feature, a.rule) for a in check_feature_alerts(figures, rules)]
    assert found == [("spend", "low"), ("visits", "nulls")]
    path = tmp_path / "alerts.yaml"
    path.write_text("rules: [{name: nulls, above: 60%}]")
    assert check_feature_alerts(figures, path) == []
    assert len(check_feature_alerts(figures, default_rules())) == 1
    few = {"spend": {"null_share": 1.0, "rows": 10}}
    assert check_feature_alerts(few) == []
    assert check_feature_alerts({"spend": {"null_share": math.nan}}) == []
    with pytest.raises(RuleError, match="no feature 'spent'; did you mean 'spend'"):
        check_feature_alerts(figures, [{**rules[0], "features": "spent"}])
    with pytest.raises(ValueError, match="'nulls' is no metric"):
        check_feature_alerts({"spend": {"nulls": 1.0}})


def test_a_watch_judges_once_a_minute_and_shows_what_prometheus_wants() -> None:
    rules = parse_rules("rules: [{name: drift, for: 0s}]", "a", KNOWN)
    watch = AlertWatch(AlertEngine(rules, KNOWN), KNOWN, reference())
    assert (watch.firing(), watch.drifts()) == ((), ())
    watch.look(store_of(seen(spend(2, shift=10.0))), NOW)
    assert watch.firing() == (("drift", "warning"),)
    ((channel, view, feature, p_value, effect),) = watch.drifts()
    assert (channel, view, feature) == ("served", "users", "spend")
    assert p_value < 0.05
    assert effect > 0.1
    quiet = store_of(seen(spend(2)))
    watch.look(quiet, NOW + 59)
    assert watch.firing()
    watch.look(quiet, NOW + 60)
    assert watch.firing() == ()
    assert [alert.state for alert in watch.alerts] == [State.RESOLVED]


def test_a_reference_with_a_long_tail_has_outliers_of_its_own() -> None:
    values = np.concatenate([np.zeros(1900), np.full(100, 1000.0)])
    statistics = FeatureStatistics(sizes=PROFILE_SIZES)
    statistics.update(FeatureColumn("users", "spend", pa.array(values)))
    references = {("users", "spend"): statistics}
    feature = of_feature(measure(store_of(seen(spend())), KNOWN, NOW, references))
    assert feature.reference[Metric.OUTLIER_SHARE] == pytest.approx(0.05, abs=0.01)
