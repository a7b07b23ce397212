"""Statistics of one feature against counting and NumPy on the raw rows."""

import itertools
import json
import math
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotfeast.server.monitoring.observed import FeatureColumn, Status
from hotfeast.server.monitoring.statistics import (
    PROFILE_SIZES,
    FeatureStatistics,
    Kind,
    SketchSizes,
    kind_of,
)
from hotfeast.serving.v1 import serving_pb2


def _column(
    values: pa.Array,
    statuses: list[int] | None = None,
    times: list[int] | None = None,
) -> FeatureColumn:
    return FeatureColumn(
        "view",
        "feature",
        values,
        None if statuses is None else np.array(statuses, dtype=np.uint8),
        None if times is None else np.array(times, dtype=np.int64),
    )


def _statistics(values: pa.Array, sizes: SketchSizes | None = None) -> FeatureStatistics:
    statistics = FeatureStatistics(sizes=sizes) if sizes else FeatureStatistics()
    statistics.update(_column(values))
    return statistics


def _normal(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(10.0, 2.0, count)


def test_statuses_are_the_protocols() -> None:
    assert {status.name: status.value for status in Status} == dict(serving_pb2.FieldStatus.items())


_rows = st.lists(
    st.tuples(
        st.sampled_from(list(Status)),
        st.one_of(st.none(), st.floats(-1e6, 1e6), st.sampled_from([math.nan, math.inf])),
        st.integers(0, 10),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(st.lists(_rows, max_size=4))
def test_each_row_is_counted_once(batches: list[list[tuple[Status, float | None, int]]]) -> None:
    statistics = FeatureStatistics()
    for batch in batches:
        values = pa.array([value for _, value, _ in batch], pa.float64())
        statistics.update(
            _column(values, [status for status, _, _ in batch], [time for _, _, time in batch])
        )
    rows = [row for batch in batches for row in batch]
    by_status = Counter(status for status, _, _ in rows)
    given_values = [value for status, value, _ in rows if status is Status.PRESENT]
    numbers = [value for value in given_values if value is not None and math.isfinite(value)]
    nan = sum(value is not None and math.isnan(value) for value in given_values)

    assert statistics.rows == len(rows)
    assert statistics.missing == by_status[Status.NOT_FOUND]
    assert statistics.stale == by_status[Status.OUTSIDE_MAX_AGE]
    assert statistics.invalid == by_status[Status.INVALID]
    assert statistics.null == by_status[Status.NULL_VALUE] + given_values.count(None)
    assert statistics.nan == nan
    assert statistics.infinite == given_values.count(math.inf)
    assert statistics.present == len(numbers) + statistics.infinite
    assert statistics.moments.count == len(numbers)
    counted = ("present", "null", "nan", "missing", "stale", "invalid")
    assert sum(getattr(statistics, name) for name in counted) == statistics.rows
    if rows:
        assert statistics.null_share == (statistics.null + nan) / len(rows)
        assert statistics.empty_share == (len(rows) - statistics.present) / len(rows)
    times = [time for _, _, time in rows if time > 0]
    assert statistics.newest_event == (max(times) if times else None)
    if numbers:
        assert statistics.mean == pytest.approx(np.mean(numbers), rel=1e-9, abs=1e-6)
        assert statistics.minimum == min(numbers)
        assert statistics.maximum == max(numbers)
        # So few are all kept.
        ranks = [0.0, 0.1, 0.5, 0.9, 1.0]
        expected = np.quantile(numbers, ranks, method="inverted_cdf")
        assert statistics.quantiles(ranks) == expected.tolist()


def test_without_statuses_the_nulls_say_what_is_there() -> None:
    statistics = _statistics(pa.array([1, None, 3]))
    assert (statistics.rows, statistics.present, statistics.null) == (3, 2, 1)
    assert statistics.missing == statistics.stale == 0


def test_a_stale_value_counts_as_stale_only() -> None:
    statistics = FeatureStatistics()
    statistics.update(_column(pa.array([1.0, 1000.0]), [Status.PRESENT, Status.OUTSIDE_MAX_AGE]))
    assert statistics.maximum == 1.0
    assert statistics.stale_share == 0.5


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("normal", _normal(50_000)),
        ("skewed", np.random.default_rng(2).lognormal(0, 2, 50_000)),
        ("ties", np.random.default_rng(3).poisson(2, 50_000).astype(float)),
        ("ascending", np.arange(50_000.0)),
    ],
)
def test_quantiles_are_within_the_sketchs_own_error(name: str, numbers: np.ndarray) -> None:
    statistics = FeatureStatistics()
    for batch in np.split(numbers, 50):
        statistics.update(_column(pa.array(batch)))
    assert 0 < statistics.rank_error < 0.02
    ranks = np.linspace(0, 1, 21)
    ordered = np.sort(numbers)
    # The bound holds with 99% confidence for one rank, and the sketch is random: twice of it.
    error = 2 * statistics.rank_error
    for rank, value in zip(ranks, statistics.quantiles(ranks.tolist()), strict=True):
        below = np.searchsorted(ordered, value, "left") / len(ordered)
        upto = np.searchsorted(ordered, value, "right") / len(ordered)
        assert below - error <= rank <= upto + error, name
    points = ordered[::5000]
    true = np.searchsorted(ordered, points, "right") / len(ordered)
    assert np.abs(statistics.cdf(points) - true).max() <= error
    values, weights = statistics.weighted_numbers()
    assert weights.sum() == len(numbers)
    assert (np.diff(values) >= 0).all()


def test_few_numbers_are_kept_as_they_are() -> None:
    numbers = _normal(200)
    statistics = _statistics(pa.array(numbers))
    assert statistics.rank_error == 0
    values, weights = statistics.weighted_numbers()
    assert values.tolist() == sorted(numbers)
    assert set(weights) == {1.0}
    points = [12.0, 8.0, 12.0, 100.0, -100.0]
    expected = [(numbers <= point).mean() for point in points]
    assert statistics.cdf(points).tolist() == pytest.approx(expected)


def test_a_profiles_sketches_are_finer() -> None:
    statistics = _statistics(pa.array(_normal(50_000)), PROFILE_SIZES)
    assert 0 < statistics.rank_error < 0.005


@pytest.mark.parametrize("count", [1, 50, 20_000])
def test_distinct_values(count: int) -> None:
    numbers = pa.array(np.tile(np.arange(count), 3))
    texts = pa.array([f"item {number}" for number in range(count)])
    for values in (numbers, texts):
        # Three times the standard error of 2,048 registers.
        assert _statistics(values).distinct == pytest.approx(count, rel=0.07)


def test_whole_numbers_are_the_same_values_whatever_their_type() -> None:
    statistics = _statistics(pa.array([1, 2, 3]))
    statistics.update(_column(pa.array([1.0, 2.0, 3.0, 3.5])))
    assert round(statistics.distinct or 0) == 4


def test_large_integers_are_told_apart() -> None:
    assert round(_statistics(pa.array([2**53, 2**53 + 1])).distinct or 0) == 2


def test_the_values_that_most_rows_have() -> None:
    texts = ["a"] * 50 + ["b"] * 30 + [f"rare {n}" for n in range(20)]
    top = _statistics(pa.array(texts)).top(2)
    assert [(value.value, value.count, value.lowest, value.highest) for value in top] == [
        ("a", 50, 50, 50),
        ("b", 30, 30, 30),
    ]


def test_frequent_values_among_very_many() -> None:
    generator = np.random.default_rng(4)
    texts = [f"id {n}" for n in generator.integers(0, 10**9, 20_000)] + ["x"] * 4000 + ["y"] * 2000
    generator.shuffle(texts)
    statistics = FeatureStatistics()
    for start in range(0, len(texts), 1000):
        statistics.update(_column(pa.array(texts[start : start + 1000])))
    top = statistics.top(2)
    assert [value.value for value in top] == ["x", "y"]
    for value, true in zip(top, (4000, 2000), strict=True):
        assert value.lowest <= true <= value.highest
        assert value.highest - value.lowest <= 0.014 * len(texts)


def test_frequent_numbers_come_from_the_distribution() -> None:
    numbers = np.concatenate([np.zeros(30_000), np.full(10_000, 7.5), _normal(20_000)])
    np.random.default_rng(5).shuffle(numbers)
    top = _statistics(pa.array(numbers)).top()
    assert [value.value for value in top] == ["0", "7.5"]
    for value, true in zip(top, (30_000, 10_000), strict=True):
        assert value.lowest <= true <= value.highest


def test_texts_that_are_long_are_told_apart() -> None:
    statistics = _statistics(pa.array(["x" * 500 + "1", "x" * 500 + "2", "x" * 500 + "1"]))
    (first, second) = statistics.top()
    assert (first.count, second.count) == (2, 1)
    assert max(len(value.value) for value in (first, second)) <= 128
    assert round(statistics.distinct or 0) == 2


_NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("values", "kind", "mean", "top"),
    [
        (pa.array([1, 3], pa.int32()), Kind.number, 2.0, None),
        (pa.array([1, 3], pa.uint64()), Kind.number, 2.0, None),
        (pa.array([0.5, 1.5], pa.float32()), Kind.number, 1.0, None),
        (pa.array([Decimal("0.5"), Decimal("1.5")]), Kind.number, 1.0, None),
        (pa.array([True, True]), Kind.category, None, "true"),
        (pa.array(["a", "a"]), Kind.category, None, "a"),
        (pa.array(["a", "a"], pa.large_string()), Kind.category, None, "a"),
        (pa.array(["a", "a"], pa.string_view()), Kind.category, None, "a"),
        (pa.array([b"\x00\xff"] * 2), Kind.category, None, "00ff"),
        (pa.array(["a", "a"]).dictionary_encode(), Kind.category, None, "a"),
        (pa.array([_NOON] * 2, pa.timestamp("s", "UTC")), Kind.timestamp, 1777636800e6, None),
        (pa.array([_NOON.replace(tzinfo=None)] * 2), Kind.timestamp, 1777636800e6, None),
        (pa.array([date(1970, 1, 2)] * 2), Kind.timestamp, 86400e6, None),
        (pa.array([[1, 2], [3]]), Kind.list, 1.5, None),
        (pa.array([["a"], []], pa.large_list(pa.string())), Kind.list, 0.5, None),
        (pa.array([[1.0, 2.0]] * 2, pa.list_(pa.float32(), 2)), Kind.list, 2.0, None),
        (pa.array([{"a": 1}, {"a": 2}]), Kind.none, None, None),
        (pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())), Kind.none, None, None),
        (pa.array([timedelta(1)] * 2), Kind.none, None, None),
        (pa.chunked_array([[1], [3]]), Kind.number, 2.0, None),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array | pa.ChunkedArray) else None,
)
def test_types(values: pa.Array, kind: Kind, mean: float | None, top: str | None) -> None:
    statistics = _statistics(values)
    assert kind_of(values.type) is statistics.kind is kind
    assert (statistics.rows, statistics.present) == (2, 2)
    assert math.isnan(statistics.mean) if mean is None else statistics.mean == mean
    assert top is None or [value.value for value in statistics.top()] == [top]
    assert (statistics.distinct is None) == (kind in (Kind.list, Kind.none))
    if mean is None:
        with pytest.raises(ValueError, match=f"no numbers in a feature of kind {kind}"):
            statistics.quantiles([0.5])
    # Nulls that come without a type change nothing else.
    statistics.update(_column(pa.nulls(3)))
    assert (statistics.rows, statistics.present, statistics.null) == (5, 2, 3)
    # All of it is JSON, and comes back.
    json.dumps(statistics.summary(), allow_nan=False)
    assert statistics.copy().summary() == statistics.summary()


def test_nothing_but_nulls_has_no_kind_until_there_are_values() -> None:
    statistics = _statistics(pa.nulls(3))
    assert statistics.summary()["kind"] == "none"
    json.dumps(statistics.summary(), allow_nan=False)
    statistics.update(_column(pa.array([1.0])))
    assert statistics.summary()["kind"] == "number"
    assert (statistics.rows, statistics.null) == (4, 3)


def test_values_of_another_kind_are_refused() -> None:
    statistics = _statistics(pa.array([1.0]))
    with pytest.raises(ValueError, match="kind category after values of kind number"):
        statistics.update(_column(pa.array(["a"])))
    with pytest.raises(ValueError, match="kind category after values of kind number"):
        statistics.merge(_statistics(pa.array(["a"])))


def test_columns_that_are_not_whole_are_refused() -> None:
    with pytest.raises(ValueError, match="view:feature has 2 values and 1 statuses"):
        FeatureStatistics().update(_column(pa.array([1, 2]), [1]))
    with pytest.raises(ValueError, match="view:feature has 2 values and 3 event_timestamps"):
        FeatureStatistics().update(_column(pa.array([1, 2]), times=[1, 2, 3]))
    with pytest.raises(ValueError, match="7 is no status"):
        FeatureStatistics().update(_column(pa.array([1]), [7]))


def test_outliers_are_told_by_the_reference() -> None:
    statistics = FeatureStatistics()
    statistics.update(_column(pa.array([0.0, 2.9, 3.1, -3.1])), (0.0, 1.0))
    assert (statistics.judged, statistics.outliers) == (4, 2)
    assert statistics.outlier_share == 0.5


def test_outliers_are_told_by_what_was_seen_before() -> None:
    statistics = FeatureStatistics()
    statistics.update(_column(pa.array(np.tile([0.0, 2.0], 20))))
    assert math.isnan(statistics.outlier_share)
    statistics.update(_column(pa.array([1.0, 3.9, 4.1, 1000.0])))
    assert (statistics.judged, statistics.outliers) == (4, 2)


def test_without_a_spread_nothing_is_an_outlier() -> None:
    statistics = FeatureStatistics()
    # 0.1 is not a float64: means of it differ in the last place.
    for _ in range(3):
        statistics.update(_column(pa.array(np.full(1000, 0.1))))
    assert statistics.judged in (0, 2000)
    assert statistics.outliers == 0
    statistics.update(_column(pa.array([5.0])), (0.1, 0.0))
    assert statistics.outliers == 0


def _close(number: float | None, other: float | None) -> bool:
    if number is None or other is None:
        return number is other
    return math.isclose(number, other, rel_tol=1e-9, abs_tol=1e-9)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.lists(st.integers(-50, 50), max_size=30), min_size=3, max_size=3),
    st.booleans(),
)
def test_merged_in_any_order_it_is_the_same_as_seen_at_once(
    parts: list[list[int]], as_texts: bool
) -> None:
    arrays = [
        pa.array([None if n == 0 else str(n) if as_texts else float(n) for n in part],
                 pa.string() if as_texts else pa.float64())
        for part in parts
    ]  # fmt: skip
    whole = _statistics(pa.concat_arrays(arrays)).summary()
    for order in itertools.permutations(arrays):
        merged = FeatureStatistics()
        for array in order:
            other = _statistics(array)
            before = other.summary()
            merged.merge(FeatureStatistics.from_bytes(other.to_bytes()))
            assert other.summary() == before
        summary = merged.summary()
        for name in ("mean", "std"):
            assert _close(summary.pop(name), whole[name])
        # Of values that as many rows have, any may come first.
        counts = [value["count"] for value in summary.pop("top")]
        assert counts == [value["count"] for value in whole["top"]]
        expected = {k: v for k, v in whole.items() if k not in ("mean", "std", "top")}
        assert summary == expected


def test_merging_keeps_within_the_errors() -> None:
    numbers = _normal(40_000)
    merged = FeatureStatistics()
    for part in np.split(numbers, 20):
        merged.merge(_statistics(pa.array(part)))
    assert merged.mean == pytest.approx(numbers.mean(), rel=1e-12)
    assert merged.std == pytest.approx(numbers.std(), rel=1e-9)
    assert merged.distinct == pytest.approx(40_000, rel=0.07)
    points = np.quantile(numbers, [0.1, 0.5, 0.9])
    assert merged.cdf(points) == pytest.approx([0.1, 0.5, 0.9], abs=2 * merged.rank_error)


def test_what_others_wrote_is_refused() -> None:
    data = _statistics(pa.array([1.0, 2.0])).to_bytes()
    for broken in (b"", data[:-1], data + b"x", b"\x00" * 40):
        with pytest.raises(ValueError, match="statistics of a feature cannot be read"):
            FeatureStatistics.from_bytes(broken)
    with pytest.raises(ValueError, match="format is 2, not 1"):
        FeatureStatistics.from_bytes(data.replace(b'"format": 1', b'"format": 2'))
