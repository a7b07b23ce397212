"""Windows and history: what a store keeps is what statistics over the same rows are."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotfeast.server.monitoring.history import HistoryPoint
from hotfeast.server.monitoring.observed import Channel, FeatureColumn, Observation, Status
from hotfeast.server.monitoring.statistics import FeatureStatistics, Kind
from hotfeast.server.monitoring.windows import FeatureKey, MonitoringStore, Reader, Reading

START = 1_800_000_000
"""The start of a window, and of an hour."""
KEY = FeatureKey(Channel.served, "users", "spend")


def _observe(
    store: MonitoringStore,
    time: float,
    values: pa.Array | list[float],
    statuses: list[int] | None = None,
    key: FeatureKey = KEY,
    caller: str | None = None,
) -> None:
    array = values if isinstance(values, pa.Array) else pa.array(values, pa.float64())
    marks = None if statuses is None else np.array(statuses, dtype=np.uint8)
    column = FeatureColumn(key.view, key.feature, array, marks)
    store.observe(Observation(key.channel, time, (column,), "service", caller))


def test_rows_are_in_the_windows_of_their_time() -> None:
    store = MonitoringStore()
    _observe(store, START, [1.0])
    _observe(store, START + 299.9, [2.0, 3.0])
    _observe(store, START + 300, [4.0])
    _observe(store, START + 910, [5.0])
    windows = store.windows(KEY)
    assert [(window.start, window.statistics.rows) for window in windows] == [
        (START, 3),
        (START + 300, 1),
        (START + 900, 1),
    ]
    assert [window.statistics.mean for window in windows] == [2.0, 4.0, 5.0]
    assert {(window.key, window.seconds) for window in windows} == {(KEY, 300)}
    assert store.keys() == [KEY]


def test_windows_can_be_merged_from_a_time_on() -> None:
    store = MonitoringStore()
    for number in range(4):
        _observe(store, START + 300 * number, [float(number)])
    assert store.merged(KEY).rows == 4
    assert store.merged(KEY, START + 300).mean == 2.0
    assert store.merged(KEY, START + 10**6).rows == 0
    # What is given out is the caller's own.
    store.merged(KEY).merge(store.merged(KEY))
    store.windows(KEY)[-1].statistics.rows = 10**6
    assert store.merged(KEY).rows == 4


def test_channels_views_and_features_are_kept_apart() -> None:
    store = MonitoringStore()
    keys = [
        KEY,
        KEY._replace(channel=Channel.pushed),
        KEY._replace(view="products"),
        KEY._replace(feature="visits"),
    ]
    for number, key in enumerate(keys):
        _observe(store, START, [float(number)], key=key)
    assert sorted(keys) == store.keys()
    assert [store.merged(key).mean for key in keys] == [0.0, 1.0, 2.0, 3.0]
    with pytest.raises(KeyError):
        store.merged(FeatureKey(Channel.served, "users", "unknown"))


def test_a_row_that_comes_late_is_in_its_window_or_is_counted() -> None:
    store = MonitoringStore(kept=3)
    _observe(store, START, [1.0])
    _observe(store, START + 600, [3.0])
    _observe(store, START + 10, [2.0])
    assert [window.statistics.rows for window in store.windows(KEY)] == [2, 1]
    _observe(store, START - 10, [0.0, 0.0])
    _observe(store, START + 900, [4.0])
    _observe(store, START + 10, [2.0])
    assert store.late == 3
    assert [window.start - START for window in store.windows(KEY)] == [600, 900]


def test_old_windows_become_hours() -> None:
    store = MonitoringStore()
    generator = np.random.default_rng(1)
    batches = {START + 300 * number: generator.normal(number, 1, 50) for number in range(40)}
    for time, numbers in batches.items():
        _observe(store, time, pa.array(numbers))
    history = store.history(KEY)
    # 28 windows have gone, of three hours; the third one is not over.
    assert [(point.start - START, point.seconds) for point in history[:3]] == [
        (0, 3600),
        (3600, 3600),
        (7200, 3600),
    ]
    assert [point.rows for point in history] == [600, 600, 200] + [50] * 12
    for point in history:
        numbers = np.concatenate(
            [
                batch
                for time, batch in batches.items()
                if point.start <= time < point.start + point.seconds
            ][: int(point.rows) // 50]
        )
        assert point.mean == pytest.approx(numbers.mean())
        assert point.std == pytest.approx(numbers.std())
        assert (point.minimum, point.maximum) == (numbers.min(), numbers.max())
        assert abs((numbers <= point.q50).mean() - 0.5) < 0.05


def test_history_ends() -> None:
    store = MonitoringStore(history_days=1)
    for hour in range(40):
        _observe(store, START + 3600 * hour, [float(hour)])
    starts = [point.start for point in store.history(KEY)]
    assert starts == [START + 3600 * hour for hour in range(16, 40)]


def test_a_quiet_feature_grows_old_as_others_do() -> None:
    store = MonitoringStore()
    _observe(store, START, [1.0])
    store.advance(START + 3600)
    assert store.windows(KEY) == []
    assert store.merged(KEY).rows == 0
    assert [point.rows for point in store.history(KEY)] == [1]
    store.advance(START + 8 * 24 * 3600)
    assert store.keys() == []


def test_rows_come_together_before_they_are_added() -> None:
    """However rows come, they are counted alike: each alone, and with what cannot be joined."""
    store = MonitoringStore()
    for _ in range(100):
        _observe(store, START, [1.0])
    _observe(store, START, pa.array([1], pa.int64()))
    _observe(store, START, pa.nulls(1))
    _observe(store, START, [1.0, 1.0], [Status.NOT_FOUND, Status.PRESENT])
    statistics = store.merged(KEY)
    assert (statistics.rows, statistics.present) == (104, 102)
    assert (statistics.null, statistics.missing) == (1, 1)


def test_outliers_are_told_by_the_reference_or_by_the_windows_before() -> None:
    store = MonitoringStore()
    _observe(store, START, np.tile([0.0, 2.0], 50).tolist())
    _observe(store, START + 300, [1.0, 100.0])
    assert [window.statistics.outliers for window in store.windows(KEY)] == [0, 1]
    store.set_references({("users", "spend"): (100.0, 1.0)})
    _observe(store, START + 600, [1.0, 100.0, 0.0])
    assert store.windows(KEY)[-1].statistics.outliers == 2


def test_a_feature_of_another_kind_starts_anew() -> None:
    store = MonitoringStore()
    _observe(store, START, [1.0, 2.0])
    _observe(store, START + 300, pa.array(["a"]))
    assert [(window.start, window.statistics.kind) for window in store.windows(KEY)] == [
        (START + 300, Kind.category)
    ]
    assert store.merged(KEY).rows == 1


def test_features_past_the_limit_are_refused() -> None:
    store = MonitoringStore(most_features=2)
    for name in ("a", "b", "c", "a"):
        _observe(store, START, [1.0, 2.0], key=KEY._replace(feature=name))
    known = store.keys()
    assert [key.feature for key in known] == ["a", "b"]
    assert store.refused == 2
    store.merge(_with_one(KEY._replace(feature="d")))
    assert store.refused == 3


def _with_one(key: FeatureKey) -> MonitoringStore:
    store = MonitoringStore()
    _observe(store, START, [1.0], key=key)
    return store


def test_who_reads_what() -> None:
    store = MonitoringStore()
    _observe(store, START, [1.0, 2.0], caller="ranker")
    _observe(store, START + 5, [1.0], caller="ranker")
    _observe(store, START, [1.0])
    _observe(store, START, [1.0], key=KEY._replace(channel=Channel.pushed))
    expected = {
        Reader("users", "service", "ranker"): Reading(2, 3, START + 5),
        Reader("users", "service", None): Reading(1, 1, START),
    }
    assert store.readers() == expected
    assert MonitoringStore.from_bytes(store.to_bytes()).readers() == expected
    store.merge(MonitoringStore.from_bytes(store.to_bytes()))
    assert store.readers()[Reader("users", "service", "ranker")] == Reading(4, 6, START + 5)


_events = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.integers(0, 3 * 3600),
        st.lists(st.integers(-9, 9), min_size=1, max_size=5),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(_events, st.booleans())
def test_workers_that_are_merged_have_seen_what_one_would_have(
    events: list[tuple[int, int, list[int]]], cut: bool
) -> None:
    one, *workers = (MonitoringStore(kept=4) for _ in range(3))
    for worker, time, numbers in sorted(events, key=lambda event: event[1]):
        for store in (one, workers[worker]):
            _observe(store, START + time, [float(number) for number in numbers])
    merged = MonitoringStore(kept=4)
    for worker_store in workers:
        if cut:
            worker_store = MonitoringStore.from_bytes(worker_store.to_bytes())
        merged.merge(worker_store)
    assert merged.keys() == one.keys()
    if not one.keys():
        return
    assert [(w.start, w.statistics.rows) for w in merged.windows(KEY)] == [
        (w.start, w.statistics.rows) for w in one.windows(KEY)
    ]
    for ours, theirs in zip(merged.history(KEY), one.history(KEY), strict=True):
        assert (ours.start, ours.seconds, ours.rows) == (theirs.start, theirs.seconds, theirs.rows)
        assert (ours.minimum, ours.maximum) == (theirs.minimum, theirs.maximum)
        assert ours.mean == pytest.approx(theirs.mean, abs=1e-9)
        assert ours.std == pytest.approx(theirs.std, abs=1e-6)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(-9, 9), max_size=5), min_size=2, max_size=2))
def test_points_of_one_time_are_put_together(parts: list[list[int]]) -> None:
    points = []
    for numbers in parts:
        statistics = FeatureStatistics(Kind.number)
        statistics.update(FeatureColumn("v", "f", pa.array(numbers, pa.int64())))
        points.append(HistoryPoint.of(statistics, START, 3600))
    together = points[0].combined(points[1])
    numbers = [*parts[0], *parts[1]]
    assert together.rows == len(numbers)
    if numbers:
        assert together.mean == pytest.approx(np.mean(numbers))
        assert together.std == pytest.approx(np.std(numbers), abs=1e-9)
        assert (together.minimum, together.maximum) == (min(numbers), max(numbers))
        assert min(numbers) <= together.q50 <= max(numbers)
    else:
        assert math.isnan(together.mean)
    assert HistoryPoint.from_bytes(together.to_bytes())[:9] == together[:9]


def test_a_store_comes_back_from_bytes() -> None:
    store = MonitoringStore(kept=2)
    for number in range(30):
        _observe(store, START + 300 * number, [float(number), 1.0])
        _observe(store, START + 300 * number, pa.array(["a"]), key=KEY._replace(feature="city"))
    again = MonitoringStore.from_bytes(store.to_bytes())
    known = store.keys()
    assert again.keys() == known
    for key in known:
        assert [w.statistics.summary() for w in again.windows(key)] == [
            w.statistics.summary() for w in store.windows(key)
        ]
        for ours, theirs in zip(again.history(key), store.history(key), strict=True):
            np.testing.assert_equal(ours, theirs)
    # It goes on where it was.
    _observe(again, START + 300 * 29, [1.0])
    assert again.windows(KEY)[-1].statistics.rows == 3


def test_what_others_wrote_is_refused() -> None:
    data = _with_one(KEY).to_bytes()
    for broken in (b"", b"\xff" * 20, data[:-1]):
        with pytest.raises(ValueError, match="state of monitoring cannot be read"):
            MonitoringStore.from_bytes(broken)
    with pytest.raises(ValueError, match="format is 9, not 1"):
        MonitoringStore.from_bytes(data.replace(b'"format": 1', b'"format": 9', 1))


def test_memory_is_bounded() -> None:
    store = MonitoringStore()
    generator = np.random.default_rng(1)
    # A value of its own in each row: an hour for ten days, and then each window.
    times = [START + 3600 * hour for hour in range(240)]
    times += [times[-1] + 3600 + 300 * number for number in range(24)]
    for time in times:
        _observe(store, time, pa.array(generator.normal(0, 1, 2000)))
    assert len(store.history(KEY)) == 166 + 1 + 12
    assert len(store.to_bytes()) < 130_000


@pytest.mark.parametrize("seconds", [0, 7, 7200])
def test_windows_divide_the_hour(seconds: int) -> None:
    with pytest.raises(ValueError, match="does not divide an hour"):
        MonitoringStore(seconds=seconds)
    with pytest.raises(ValueError, match="do not go with"):
        MonitoringStore().merge(MonitoringStore(seconds=60))
