"""The report: what was seen as the page shows it, from state, logs and training sets."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import report_samples as samples
from hypothesis import given, settings
from hypothesis import strategies as st

from hotfeast.server.errors import StartFailure
from hotfeast.server.monitoring.observed import Channel, FeatureColumn
from hotfeast.server.monitoring.report.build import (
    Evidence,
    all_details,
    build_details,
    build_report,
)
from hotfeast.server.monitoring.report.evidence import compared
from hotfeast.server.monitoring.report.figures import Seen, shape_of
from hotfeast.server.monitoring.report.render import as_json, render_page
from hotfeast.server.monitoring.report.tables import Names, read_logged, read_reference
from hotfeast.server.monitoring.statistics import FeatureStatistics
from hotfeast.server.monitoring.windows import FeatureKey


def _statistics(values: pa.Array) -> FeatureStatistics:
    statistics = FeatureStatistics()
    statistics.update(FeatureColumn("v", "f", values), None)
    return statistics


def test_a_report_says_what_is_wrong_and_with_what() -> None:
    made = build_report(samples.catalogue(), samples.evidence())
    rows = {f"{f.view}:{f.name}": f for f in made.features}
    views = {v.name: v for v in made.views}
    spend = rows["user_stats:spend"]
    assert [p.kind for p in spend.problems] == ["alert", "drift"]
    assert (spend.level, spend.state) == ("critical", "Null 20% +1")
    assert spend.services == ("ranking",)
    assert spend.figures["served"].rows == 2400
    assert spend.figures["served"].null_share == pytest.approx(0.2, abs=0.03)
    assert len(spend.figures["served"].trend) == 12
    assert rows["cart_share:cart_share"].state == "Not seen"
    assert rows["user_stats:visits"].state == "Good"
    # The newest row is two hours old: one view allows an hour, the other two days.
    assert (views["user_facts"].age, views["user_facts"].freshness) == (7200, "late")
    assert views["user_stats"].freshness == "fresh"
    assert rows["user_facts:city"].state == "Late"
    assert made.channels == ("served", "pushed")
    ranking = next(s for s in made.services if s.name == "ranking")
    assert (ranking.rows, ranking.callers) == (2400, ("web",))


@pytest.mark.parametrize("alerted", [False, True])
def test_rows_without_a_value_are_not_called_other_values(alerted: bool) -> None:
    numbers = np.random.default_rng(5).normal(size=4000)
    reference = _statistics(pa.array(numbers[:2000]))
    current = _statistics(pa.array(numbers[2000:], mask=np.arange(2000) % 10 < 3))
    key = FeatureKey(Channel.served, "user_stats", "spend")
    seen = compared({key: Seen(current, (), reference, "v3")})
    alerts = samples.evidence().alerts if alerted else ()
    made = build_report(samples.catalogue(), Evidence("Of a test", samples.NOW, seen, alerts))
    spend = next(f for f in made.features if (f.view, f.name) == ("user_stats", "spend"))
    drift = spend.figures["served"].drift
    assert drift is not None
    assert (drift.drifted, drift.values_drifted) == (True, False)
    # An alert about nulls says it already.
    told = [p.words for p in spend.problems if p.kind == "drift"]
    words = "30.0% of served rows are without a value, 0.0% of the reference's"
    assert told == ([] if alerted else [words])


def test_everything_is_json_without_numbers_that_are_none() -> None:
    catalogue, evidence = samples.catalogue(), samples.evidence()
    whole = {
        v: {n: asdict(d) for n, d in f.items()} for v, f in all_details(catalogue, evidence).items()
    }
    read = json.loads(as_json(whole))
    channel = read["user_stats"]["spend"]["channels"]["served"]
    assert channel["statistics"][0] == {
        "label": "Rows", "now": 2400, "reference": 5000, "unit": "count"
    }  # fmt: skip
    assert read["user_stats"]["spend"]["readers"] == [
        {"service": "ranking", "caller": "web", "rows": 2400}
    ]
    json.loads(as_json(asdict(build_report(catalogue, evidence))))


def test_values_of_pii_stay_out_of_the_page_unless_they_are_asked_for() -> None:
    catalogue = samples.catalogue()
    hidden = as_json(asdict(build_details(catalogue, samples.evidence(), "user_facts", "city")))
    shown = as_json(asdict(build_details(catalogue, samples.evidence(True), "user_facts", "city")))
    assert "Köln" not in hidden
    assert "Köln" in shown
    assert "Köln" not in render_page(
        build_report(catalogue, samples.evidence()), all_details(catalogue, samples.evidence())
    )
    numbers = _statistics(pa.array([1234.5, 2345.5, 9876.5]))
    shape = shape_of(numbers, None, hidden=True)
    assert shape is not None
    assert shape.edges == tuple(range(len(shape.edges)))
    assert "2345" not in as_json(asdict(shape))


def test_what_the_registry_does_not_have_is_an_error() -> None:
    with pytest.raises(LookupError, match="no feature user_stats:nothing"):
        build_details(samples.catalogue(), samples.evidence(), "user_stats", "nothing")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1e12, 1e12) | st.integers(-5, 5).map(float), min_size=1, max_size=60),
    st.lists(st.floats(-1e12, 1e12) | st.integers(-5, 5).map(float), max_size=60),
)
def test_bars_are_the_shares_of_the_numbers_between_their_edges(
    now: list[float], before: list[float]
) -> None:
    reference = _statistics(pa.array(before, pa.float64())) if before else None
    shape = shape_of(_statistics(pa.array(now, pa.float64())), reference, hidden=False)
    assert shape is not None
    edges = np.array(shape.edges)
    assert np.all(np.diff(edges) > 0)
    for values, shares in ((now, shape.current), (before, shape.reference)):
        if shares is None:
            continue
        exact = np.array(values)
        inside = np.mean((exact >= edges[0]) & (exact <= edges[-1]))
        # Up to 200 values a sketch has them all.
        assert sum(shares) == pytest.approx(float(inside), abs=1e-4)
        assert sum(shares[:3]) == pytest.approx(
            float(np.mean((exact >= edges[0]) & (exact <= edges[min(3, len(shares))]))), abs=1e-4
        )


def test_a_category_that_is_gone_is_still_in_the_picture() -> None:
    before = _statistics(pa.array(["red"] * 70 + ["blue"] * 30))
    shape = shape_of(_statistics(pa.array(["blue"] * 50)), before, hidden=False)
    assert shape is not None
    assert shape.values == ("blue", "red")
    assert shape.current == (1.0, 0.0)
    assert shape.reference == (0.3, 0.7)


def test_logged_features_are_read_in_feasts_schema(tmp_path: Path) -> None:
    day = 86_400_000_000
    logged = pa.table(
        {
            "user_id": [1, 2, 3, 4],
            "user_stats__spend": [1.0, None, None, 4.0],
            "user_stats__spend__timestamp": pa.array([5, 6, 0, 8], pa.timestamp("us", "UTC")),
            "user_stats__spend__status": pa.array([1, 2, 3, 1], pa.int32()),
            "facts__segment": ["a", "a", "b", "b"],
            "__log_timestamp": pa.array([day, day, day, 2 * day], pa.timestamp("us", "UTC")),
            "__request_id": ["x"] * 4,
        }
    )
    pq.write_table(logged, tmp_path / "log.parquet")
    seen, latest = read_logged(tmp_path / "log.parquet", Names(samples.catalogue()))
    spend = seen[FeatureKey(Channel.served, "user_stats", "spend")]
    assert latest == 2 * 86_400
    assert (spend.statistics.rows, spend.statistics.null, spend.statistics.missing) == (4, 1, 1)
    assert spend.statistics.newest_event == 8
    assert [(p.start, p.rows) for p in spend.history] == [(86_400, 3), (2 * 86_400, 1)]
    # By its alias in a service.
    assert FeatureKey(Channel.served, "user_facts", "segment") in seen


def test_what_is_like_its_reference_has_not_drifted() -> None:
    random = np.random.default_rng(5)
    names = [FeatureKey(Channel.served, "user_stats", n) for n in ("spend", "visits")]
    seen = {
        key: Seen(
            _statistics(pa.array(random.normal(0, scale, 3000))),
            reference=_statistics(pa.array(random.normal(0, 1, 3000))),
        )
        for key, scale in zip(names, (3, 1), strict=True)
    }
    drifts = [compared(seen)[key].drift for key in names]
    assert [d is not None and d.drifted for d in drifts] == [True, False]


def test_a_table_without_features_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"nothing": [1]}), tmp_path / "t.parquet")
    names = Names(samples.catalogue())
    with pytest.raises(StartFailure, match=r"t\.parquet has no column that is a feature"):
        read_logged(tmp_path / "t.parquet", names)
    with pytest.raises(StartFailure, match="cannot be read"):
        read_reference(tmp_path / "none.parquet", names)
    pq.write_table(pa.table({"spend": [1.0, 3.0]}), tmp_path / "t.parquet")
    assert read_reference(tmp_path / "t.parquet", names)["user_stats", "spend"].mean == 2.0
