"""The training set: labels against the raw baskets, features as of each label's time."""

import random
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pytest
from feast import FeatureStore
from typer.testing import CliRunner

DAY = timedelta(days=1)
FIRST_MONDAY = datetime(2017, 1, 2)


@pytest.fixture(scope="module")
def training_set(training: ModuleType, applied_repo: Path) -> pd.DataFrame:
    frame: pd.DataFrame = training.build_training_set(applied_repo, rows=1000, seed=3)
    return frame


@pytest.fixture(scope="module")
def lines(prep: ModuleType) -> pl.DataFrame:
    frame: pl.DataFrame = prep.load_lines()
    return frame


def naive(time: pd.Timestamp) -> datetime:
    utc: datetime = time.tz_convert(None).to_pydatetime()
    return utc


def in_dollars(usd: Any) -> float | None:
    return None if usd is None else float(usd)


class Expected:
    """What a row's features should be, worked out from the raw lines."""

    def __init__(self, oracle: duckdb.DuckDBPyConnection) -> None:
        self._oracle = oracle

    def _one(self, query: str, *values: Any) -> tuple[Any, ...]:
        row = self._oracle.execute(query, list(values)).fetchone()
        assert row is not None
        return row

    def user_stats(self, user: int, time: datetime) -> dict[str, Any]:
        """From the last midnight at or before `time`; empty before the first basket."""
        snapshot = datetime(time.year, time.month, time.day)
        (last,) = self._one(
            "SELECT max(paid_at) FROM lines WHERE user_id = ? AND paid_at < ?", user, snapshot
        )
        if last is None:
            return {}
        values: dict[str, Any] = {"days_since_last_basket": (snapshot - last) // DAY}
        for days in (7, 30, 90):
            baskets, units, usd = self._one(
                "SELECT count(DISTINCT basket_id), sum(units), sum(usd) FROM lines "
                "WHERE user_id = ? AND paid_at >= ? AND paid_at < ?",
                user,
                snapshot - timedelta(days=days),
                snapshot,
            )
            values[f"baskets_count_{days}d"] = baskets
            values[f"units_count_{days}d"] = units or 0
            values[f"revenue_usd_{days}d"] = float(usd or 0)
            values[f"avg_basket_usd_{days}d"] = float(usd) / baskets if baskets else None
        return values

    def demographics(self, user: int) -> dict[str, Any]:
        row = self._oracle.execute(
            "SELECT * EXCLUDE household_id FROM demographics WHERE household_id = ?", [user]
        )
        names = [column[0] for column in row.description or []]
        found = row.fetchone()
        return dict(zip(names, found, strict=True)) if found else {}

    def product(self, product: int, time: datetime) -> dict[str, Any]:
        for snapshot in mondays_in_reach(time):
            units, buyers, usd = self._one(
                "SELECT sum(units), count(DISTINCT user_id), sum(usd) FROM lines "
                "WHERE product_id = ? AND paid_at >= ? AND paid_at < ?",
                product,
                snapshot - timedelta(days=30),
                snapshot,
            )
            if units:
                return {
                    "product_units_count_30d": units,
                    "product_buyers_count_30d": buyers,
                    "product_avg_price_usd_30d": float(usd) / units,
                }
        return {}

    def pair(self, user: int, product: int, time: datetime) -> dict[str, Any]:
        for snapshot in mondays_in_reach(time):
            baskets, last = self._one(
                "SELECT count(DISTINCT basket_id), max(paid_at) FROM lines "
                "WHERE user_id = ? AND product_id = ? AND paid_at >= ? AND paid_at < ?",
                user,
                product,
                snapshot - timedelta(days=90),
                snapshot,
            )
            if baskets >= 4:
                return {
                    "pair_baskets_count_90d": baskets,
                    "pair_days_since_last_purchase": (snapshot - last) // DAY,
                }
        return {}


def mondays_in_reach(time: datetime) -> list[datetime]:
    """The weekly snapshots a row at `time` may use, latest first: at most 8 days old."""
    latest = FIRST_MONDAY + (time - FIRST_MONDAY) // timedelta(days=7) * timedelta(days=7)
    candidates = [latest, latest - timedelta(days=7)]
    return [snapshot for snapshot in candidates if time - snapshot <= timedelta(days=8)]


def assert_features(row: dict[str, Any], expected: dict[str, Any], names: list[str]) -> None:
    for name in names:
        value = expected.get(name)
        if value is None:
            assert pd.isna(row[name]), (name, row)
        elif isinstance(value, float):
            assert row[name] == pytest.approx(value, rel=1e-9, abs=1e-9), (name, row)
        else:
            assert row[name] == value, (name, row)


def test_features_are_those_of_the_label_time(
    training_set: pd.DataFrame, oracle: duckdb.DuckDBPyConnection
) -> None:
    """Rows with a habit, rows of unseen products, rows on a grace day, and any others."""
    times = training_set["event_timestamp"]
    picks = {
        "habit": training_set[training_set["pair_baskets_count_90d"].notna()],
        "unseen": training_set[training_set["product_units_count_30d"].isna()],
        "monday": training_set[times.dt.dayofweek == 0],
        "new user": training_set[training_set["days_since_last_basket"].isna()],
        "any": training_set,
    }
    rows = [
        row
        for name, frame in picks.items()
        for row in frame.sample(min(10, len(frame)), random_state=5).to_dict("records")
    ]
    assert len(rows) >= 40
    features = [
        name
        for name in training_set.columns
        if name not in ("user_id", "product_id", "event_timestamp", "basket_id", "label")
    ]
    expected = Expected(oracle)
    for row in rows:
        user, product, time = row["user_id"], row["product_id"], naive(row["event_timestamp"])
        assert_features(
            row,
            expected.user_stats(user, time)
            | expected.demographics(user)
            | expected.product(product, time)
            | expected.pair(user, product, time),
            features,
        )


def test_labels_are_real(training_set: pd.DataFrame, oracle: duckdb.DuckDBPyConnection) -> None:
    """A positive is a line of its basket; a negative was sold that day, but not to this user."""
    assert len(training_set) == 1000
    assert training_set["label"].sum() == 500
    assert not training_set.duplicated(["user_id", "product_id", "event_timestamp"]).any()
    connection = oracle.cursor()
    connection.register("labels", training_set)
    bought, others = connection.execute(
        """
        SELECT list(in_basket ORDER BY label), list(others > 0 AND by_user = 0 ORDER BY label)
        FROM (
            SELECT any_value(label) AS label,
                   count(*) FILTER (l.basket_id = t.basket_id AND l.user_id = t.user_id
                                    AND l.paid_at = t.event_timestamp AT TIME ZONE 'UTC')
                       AS in_basket,
                   count(*) FILTER (l.user_id = t.user_id) AS by_user,
                   count(*) FILTER (l.user_id <> t.user_id) AS others
            FROM labels t JOIN lines l ON l.product_id = t.product_id
             AND l.paid_at::DATE = (t.event_timestamp AT TIME ZONE 'UTC')::DATE
            GROUP BY t.user_id, t.product_id, t.event_timestamp
        )
        """
    ).fetchall()[0]
    assert bought == [0] * 500 + [1] * 500
    assert others[:500] == [True] * 500


def test_labels_depend_on_the_seed_alone(training: ModuleType, lines: pl.DataFrame) -> None:
    first = training.sample_labels(lines, 30, seed=1)
    assert first.equals(training.sample_labels(lines, 30, seed=1))
    assert not first.equals(training.sample_labels(lines, 30, seed=2))


@pytest.mark.parametrize("rows", [0, 1, 3, -2, 4_000_000])
def test_impossible_row_counts_are_refused(
    training: ModuleType, lines: pl.DataFrame, rows: int
) -> None:
    with pytest.raises(ValueError, match=r"rows must be even|fewer than"):
        training.sample_labels(lines, rows, seed=1)


def test_no_row_is_lost_when_a_basket_has_many(
    training: ModuleType, applied_repo: Path, oracle: duckdb.DuckDBPyConnection
) -> None:
    """All products of one big basket, and a product never sold, keep their rows and order."""
    basket, user, time = oracle.execute(
        "SELECT basket_id, any_value(user_id), any_value(paid_at) FROM lines "
        "WHERE paid_at BETWEEN '2017-06-01' AND '2017-07-01' "
        "GROUP BY basket_id ORDER BY count(*) DESC, basket_id LIMIT 1"
    ).fetchall()[0]
    products = [
        product
        for (product,) in oracle.execute(
            "SELECT product_id FROM lines WHERE basket_id = ? ORDER BY product_id", [basket]
        ).fetchall()
    ]
    assert len(products) > 50
    random.Random(1).shuffle(products)
    rows = pd.DataFrame(
        {
            "user_id": user,
            "product_id": [*products, 1],
            "event_timestamp": pd.Timestamp(time, tz="UTC"),
        }
    )
    store = FeatureStore(repo_path=str(applied_repo))
    result = training.point_in_time_features(store, rows, "recommendation")
    assert result["product_id"].tolist() == [*products, 1]
    assert result["baskets_count_90d"].notna().all()
    assert pd.isna(result["department"].iloc[-1])

    expected = Expected(oracle)
    pair_names = ["pair_baskets_count_90d", "pair_days_since_last_purchase"]
    for row in result.to_dict("records"):
        assert_features(row, expected.pair(user, row["product_id"], time), pair_names)


def test_command_line(training: ModuleType, applied_repo: Path, tmp_path: Path) -> None:
    """It writes what it counts, and an odd number of rows ends with an error and no file."""
    out = tmp_path / "deep" / "set.parquet"
    common = ["--repo", str(applied_repo), "--out", str(out)]
    refused = CliRunner().invoke(training.app, ["--rows", "5", *common])
    assert refused.exit_code == 1
    assert "must be even" in refused.output
    assert not out.exists()

    done = CliRunner().invoke(training.app, ["--rows", "20", *common])
    assert done.exit_code == 0, done.output
    assert pl.read_parquet(out).height == 20
    assert [file.name for file in out.parent.iterdir()] == ["set.parquet"]
