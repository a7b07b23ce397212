"""A model trained offline and scored online, and skew between the two found and told."""

from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from types import ModuleType

import duckdb
import pandas as pd
import polars as pl
import pytest
from feast import FeatureStore
from rich.console import Console
from typer.testing import CliRunner

AT = datetime(2017, 11, 14, 12, tzinfo=UTC)
SEED = 5


@pytest.fixture(scope="module")
def lines(prep: ModuleType) -> pl.DataFrame:
    frame: pl.DataFrame = prep.load_lines()
    return frame


def test_labels_are_what_was_bought_again(
    train_and_serve: ModuleType, lines: pl.DataFrame, oracle: duckdb.DuckDBPyConnection
) -> None:
    """Pairs of four weeks before each time; positive where a basket of two weeks after has it."""
    times = [AT, AT - timedelta(days=70)]
    labels = train_and_serve.repurchases(lines, times, 600, SEED)
    assert labels.groupby("event_timestamp").size().to_dict() == dict.fromkeys(times, 300)
    assert not labels.duplicated(["user_id", "product_id", "event_timestamp"]).any()
    connection = oracle.cursor()
    connection.register("labels", labels)
    # A basket at the very time is not of before it.
    before, after = connection.execute(
        """
        SELECT bool_and(before > 0), bool_and((after > 0) = (label = 1))
        FROM (
            SELECT any_value(label) AS label,
                   count(*) FILTER (paid_at < moment AND paid_at >= moment - INTERVAL 28 DAY)
                       AS before,
                   count(*) FILTER (paid_at >= moment AND paid_at < moment + INTERVAL 14 DAY)
                       AS after
            FROM (SELECT *, event_timestamp AT TIME ZONE 'UTC' AS moment FROM labels)
            JOIN lines USING (user_id, product_id)
            GROUP BY user_id, product_id, moment
        )
        """
    ).fetchall()[0]
    assert (before, after) == (True, True)
    assert 0 < labels["label"].sum() < 300
    assert labels.equals(train_and_serve.repurchases(lines, times, 600, SEED))


def test_served_and_offline_features_are_the_same(
    train_and_serve: ModuleType, applied_repo: Path
) -> None:
    registry = (applied_repo / "data" / "registry.db").read_bytes()
    done = CliRunner().invoke(
        train_and_serve.app,
        ["--repo", str(applied_repo), "--sample", "--weeks", "8"],
        env={"COLUMNS": "120"},
    )
    assert done.exit_code == 0, done.output
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in done.output.splitlines()
        if line.startswith("│")
    ]
    served, offline, baseline, compared = rows
    assert served[1:] == offline[1:]
    assert 0.5 < float(baseline[1]) < float(served[1])
    assert compared == ["when served", "500", "100.00%", "12,500", "100.00%", "0", "0", "0"]
    assert "at most 0 apart" in done.output
    # The comparison is of something: values, and each reason for which there is none.
    for status in ("PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE"):
        assert status in done.output
    assert (applied_repo / "data" / "registry.db").read_bytes() == registry


def test_late_rows_are_told_from_wrong_ones(
    train_and_serve: ModuleType, applied_repo: Path, data_dir: Path, lines: pl.DataFrame
) -> None:
    """Redis was filled before the last snapshot of households, and has one product's wrong."""
    late = timedelta(hours=36)
    plan = train_and_serve.Plan(AT, rows=400, served=200, weeks=2, late=late, seed=SEED)
    asked = train_and_serve.repurchases(lines, [AT], plan.served, SEED)
    popularity = pd.read_parquet(data_dir / "product_popularity.parquet")
    known = popularity[popularity["event_timestamp"] == AT - late]
    product = asked["product_id"][asked["product_id"].isin(known["product_id"])].mode()[0]

    def tamper(step: str, done: int, total: int) -> None:
        if step == "redis":
            row = known[known["product_id"] == product].copy()
            row["product_buyers_count_30d"] += 1
            row["event_timestamp"] += timedelta(seconds=1)
            FeatureStore(repo_path=str(applied_repo)).write_to_online_store(
                "product_popularity", row
            )

    outcome = train_and_serve.train_and_serve(applied_repo, plan, tamper)
    wrong = int((asked["product_id"] == product).sum())
    assert outcome.comparison.unexplained == {"product_buyers_count_30d": wrong}
    stats = pl.read_parquet(data_dir / "user_purchase_stats.parquet")
    users = pl.from_pandas(asked[["user_id"]])
    stored, newest = (
        users.join(
            stats.filter(pl.col("event_timestamp") == time), on="user_id", how="left"
        ).select(pl.exclude("user_id", "event_timestamp"))
        for time in (AT - late, AT - timedelta(hours=12))
    )
    changed = sum((stored[name].ne_missing(newest[name])).sum() for name in stored.columns)
    assert outcome.comparison.late == changed > 0
    assert outcome.comparison.expired == 0
    assert outcome.comparison.equal_values == 200 * 25 - changed - wrong
    assert outcome.moved > 0

    shown = StringIO()
    assert train_and_serve.report(Console(file=shown, width=120), plan, outcome) == 1
    assert f"product_buyers_count_30d, when served: {wrong} values differ" in shown.getvalue()
    assert "skew: served values" in shown.getvalue()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--at", "2017-12-20"], "an --at up to 2017-12-18"),
        (["--at", "2017-06-01"], "give fewer --weeks or a later --at"),
        (["--served-rows", "900000"], "fewer than asked for"),
    ],
)
def test_what_cannot_be_done(
    train_and_serve: ModuleType, applied_repo: Path, options: list[str], words: str
) -> None:
    done = CliRunner().invoke(
        train_and_serve.app, ["--repo", str(applied_repo), *options], env={"COLUMNS": "200"}
    )
    assert done.exit_code == 2
    assert words in done.output
