"""Windows over the real purchases: served as trained on, and as the pipeline computes them.

A part of the households; `python -m bench windows` does the same with all of them.
"""

from types import ModuleType

import polars as pl
import pytest
from feast import FeatureStore

from bench.window_replay import TOLERANCE, Replay, replay
from bench.window_views import SERVICES, WINDOWS, purchase_lines, write_repository
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.windows.training import training_set

HOUSEHOLDS = 30


@pytest.fixture(scope="module")
def lines() -> pl.DataFrame:
    return purchase_lines(HOUSEHOLDS)


@pytest.fixture(scope="module")
def store(
    redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory, lines: pl.DataFrame
) -> FeatureStore:
    return write_repository(tmp_path_factory.mktemp("year"), redis_server.address, lines)


def test_what_is_served_at_any_time_is_what_is_trained_on(
    store: FeatureStore, lines: pl.DataFrame
) -> None:
    done: Replay = replay(store, lines, times=40, users=25, seed=5)
    assert done.pairs == 1000
    assert done.present > 600
    assert done.values == 10_000
    assert done.different == []
    assert done.largest <= TOLERANCE


def test_windows_of_days_are_those_of_the_daily_snapshots(
    store: FeatureStore, lines: pl.DataFrame, prep: ModuleType
) -> None:
    """Snapshots see purchases in [midnight - days, midnight), windows in (midnight - days,
    midnight]: they differ for who has bought at a midnight exactly."""
    cents = lines.select(
        "user_id", "basket_id", "units", product_id=pl.lit(1), at="event_timestamp",
        cents=(pl.col("usd") * 100).round().cast(pl.Int64),
    )  # fmt: skip
    snapshots = prep.user_purchase_stats(cents, lambda stage, done, total: None)
    at = pl.col("event_timestamp")
    at_midnight = lines.filter(at.dt.truncate("1d") == at)
    asked = (
        snapshots.filter(pl.col("event_timestamp").dt.day().is_in([1, 8, 19, 27]))
        .join(at_midnight, on="user_id", how="anti")
        .sort("user_id", "event_timestamp")
    )
    assert asked.height > 500
    rows = asked.select("user_id", "event_timestamp").to_arrow()
    made = pl.from_arrow(training_set(store, rows, SERVICES[WINDOWS]))
    assert isinstance(made, pl.DataFrame)
    # Who has bought nothing in the widest window has no row; the snapshots count 0 there.
    quiet = asked["units_count_30d"] == 0
    assert quiet.any()
    for days in (7, 30):
        for name in (f"baskets_count_{days}d", f"units_count_{days}d", f"revenue_usd_{days}d"):
            windows = made[name].fill_null(0)
            assert made[name].is_null().eq(quiet).all()
            assert ((windows - asked[name]).abs() < 1e-9).all(), name
