"""Drift against SciPy on the raw values: what is tested, and what is called drift."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hotfeast.server.monitoring.drift import DriftSettings, DriftTest, compare, compare_all
from hotfeast.server.monitoring.observed import FeatureColumn, Status
from hotfeast.server.monitoring.statistics import (
    PROFILE_SIZES,
    FeatureStatistics,
    SketchSizes,
)


def _of(values: object, sizes: SketchSizes = PROFILE_SIZES) -> FeatureStatistics:
    statistics = FeatureStatistics(sizes=sizes)
    array = values if isinstance(values, pa.Array) else pa.array(values)
    statistics.update(FeatureColumn("v", "f", array))
    return statistics


def _normal(count: int, mean: float = 0.0, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1.0, count)


_few = st.lists(st.integers(-20, 20), min_size=5, max_size=150)


@settings(max_examples=30, deadline=None)
@given(_few, _few)
def test_numbers_that_are_all_kept_are_tested_by_scipy(before: list[int], now: list[int]) -> None:
    result = compare(_of(before), _of(now), DriftSettings(least_rows=5))
    expected = stats.ks_2samp(before, now)
    assert result.test is DriftTest.kolmogorov_smirnov
    assert result.statistic == pytest.approx(expected.statistic)
    assert result.p_value == pytest.approx(expected.pvalue)
    shift = stats.wasserstein_distance(before, now)
    if np.std(before) > 0:
        assert result.wasserstein == pytest.approx(shift / np.std(before), abs=1e-9)
    else:
        assert result.wasserstein == (math.inf if shift else 0.0)


@pytest.mark.parametrize("shift", [0.0, 0.02, 0.1, 0.5, 3.0])
def test_sketches_are_as_near_to_scipy_as_they_say(shift: float) -> None:
    before, now = _normal(30_000), _normal(20_000, shift, seed=2)
    reference, current = _of(before), _of(now)
    error = reference.rank_error + current.rank_error
    assert 0 < error < 0.01
    result = compare(reference, current)
    expected = stats.ks_2samp(before, now, method="asymp")
    assert result.statistic == pytest.approx(expected.statistic, abs=2 * error)
    # Never surer than SciPy is, with a thousandth for the sketch's luck.
    assert result.p_value >= expected.pvalue - 1e-3
    assert result.wasserstein == pytest.approx(
        stats.wasserstein_distance(before, now) / before.std(), abs=0.03
    )
    assert result.drifted == (shift >= 0.5)


def test_a_difference_that_is_sure_and_small_is_no_drift() -> None:
    reference, current = _of(_normal(300_000)), _of(_normal(300_000, 0.1, seed=2))
    result = compare(reference, current)
    assert result.adjusted_p < 1e-6
    assert result.effect == pytest.approx(0.04, abs=0.01)
    assert not result.drifted
    assert compare(reference, current, DriftSettings(least_distance=0.02)).drifted


def test_a_large_difference_of_few_rows_is_no_drift() -> None:
    # Under half of such pairs differ by 0.1 by chance alone.
    for seed in range(20):
        result = compare(_of(_normal(120, seed=seed)), _of(_normal(120, seed=seed + 100)))
        assert result.drifted == (result.adjusted_p < 0.05 and result.effect >= 0.1)
    result = compare(_of(_normal(99)), _of(_normal(10_000, 5.0)))
    assert not result.drifted
    assert result.test is DriftTest.none
    assert result.note == (
        "too few rows: 10,000 values now and 99 in the reference, 100 are needed"
    )
    assert math.isnan(result.p_value)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(50, 500), st.integers(50, 500)), min_size=2, max_size=6))
def test_categories_are_tested_by_scipy(counts: list[tuple[int, int]]) -> None:
    names = [f"category {number}" for number in range(len(counts))]
    table = np.array(counts).T
    before, now = (np.repeat(names, row) for row in table)
    result = compare(_of(before), _of(now))
    expected = stats.chi2_contingency(table, correction=False)
    assert result.test is DriftTest.chi_square
    assert result.statistic == pytest.approx(expected.statistic)
    assert result.p_value == pytest.approx(expected.pvalue)
    shares = table / table.sum(axis=1, keepdims=True)
    psi = float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
    assert result.effect == result.psi == pytest.approx(psi)
    assert result.drifted == (result.p_value < 0.05 and psi >= 0.1)


def test_rare_categories_share_a_column() -> None:
    # Each of them once: a table with a column for each would be nothing but noise.
    before = ["a"] * 500 + ["b"] * 400 + [f"before {n}" for n in range(100)]
    now = ["a"] * 510 + ["b"] * 395 + [f"now {n}" for n in range(95)]
    result = compare(_of(before), _of(now))
    expected = stats.chi2_contingency([[500, 400, 100], [510, 395, 95]], correction=False)
    assert result.p_value == pytest.approx(expected.pvalue)
    assert not result.drifted


def test_a_new_category_is_drift() -> None:
    before = ["a"] * 600 + ["b"] * 400
    result = compare(_of(before), _of(["a"] * 500 + ["b"] * 350 + ["new"] * 150))
    assert result.values_drifted
    assert not result.empty_drifted


def test_the_same_category_throughout_is_no_drift() -> None:
    result = compare(_of(["a"] * 200), _of(["a"] * 300))
    assert (result.p_value, result.effect, result.drifted) == (1.0, 0.0, False)


def test_names_that_never_come_again_are_not_tested() -> None:
    size = SketchSizes(200, 11, 6)
    result = compare(
        _of([f"before {n}" for n in range(5000)], size),
        _of([f"now {n}" for n in range(5000)], size),
    )
    assert result.test is DriftTest.none
    assert result.note == "no value is frequent enough to be counted"


def test_rows_without_a_value() -> None:
    numbers = _normal(1000)
    holes = pa.array(numbers, mask=np.arange(1000) < 150)
    result = compare(_of(numbers), _of(holes))
    assert result.empty_drifted
    assert not result.values_drifted
    expected = stats.chi2_contingency([[1000, 0], [850, 150]])
    assert result.empty_p == pytest.approx(expected.pvalue)
    # Less than ten in a hundred is too little, however sure.
    few = pa.array(np.tile(numbers, 20), mask=np.arange(20_000) < 400)
    result = compare(_of(numbers), _of(few))
    assert result.empty_adjusted_p < 0.05
    assert not result.drifted


def test_what_is_missing_online_is_null_in_training() -> None:
    online = FeatureStatistics()
    statuses = np.array([Status.NOT_FOUND] * 100 + [Status.PRESENT] * 300, dtype=np.uint8)
    online.update(FeatureColumn("v", "f", pa.array(_normal(400)), statuses))
    training = pa.array(_normal(400, seed=3), mask=np.arange(400) < 100)
    assert not compare(_of(training), online).drifted


def test_times_are_not_tested() -> None:
    before, now = (pa.array(np.arange(200) + start, pa.timestamp("s")) for start in (0, 10**6))
    result = compare(_of(before), _of(now))
    assert (result.note, result.drifted) == ("times move on by themselves", False)


def test_another_kind_of_values_is_drift() -> None:
    result = compare(_of([1.0] * 200), _of(["1"] * 200))
    assert result.drifted
    assert result.note == "values are of kind category, and were of kind number"


def test_all_features_compared_together_are_adjusted_for() -> None:
    """Of 400 features that have not changed, one in twenty has p < 0.05."""
    generator = np.random.default_rng(7)
    names = [("v", f"f{number}") for number in range(400)]
    before = {name: _of(generator.normal(size=150)) for name in names}
    now = {name: _of(generator.normal(size=150)) for name in names}
    now[names[0]] = _of(generator.normal(2.0, size=150))
    results = compare_all(before, now, DriftSettings(least_distance=0, least_psi=0, least_empty=0))
    assert sum(result.p_value < 0.05 for result in results) > 5
    assert sum(result.drifted for result in results) <= 3
    assert results[0].drifted
    p_values = [p for result in results for p in (result.p_value, result.empty_p)]
    adjusted = [p for result in results for p in (result.adjusted_p, result.empty_adjusted_p)]
    assert adjusted == pytest.approx(stats.false_discovery_control(p_values))


def test_features_of_one_side_only_are_left_out() -> None:
    one = _of([1.0, 2.0])
    results = compare_all({("v", "a"): one, ("v", "b"): one}, {("v", "b"): one, ("v", "c"): one})
    assert [result.feature for result in results] == ["b"]
    assert compare_all({}, {}) == []


@pytest.mark.parametrize(
    "wrong",
    [{"threshold": 1.5}, {"least_distance": -1}, {"least_psi": -0.1}, {"least_rows": 1}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        DriftSettings(**wrong)  # type: ignore[arg-type]
