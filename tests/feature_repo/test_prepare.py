"""The prepared files against the raw data, recomputed in SQL and in plain Python."""

import json
import math
import random
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import polars as pl
import pytest

DAY = timedelta(days=1)
FIRST_MONDAY = datetime(2017, 1, 2)
END = datetime(2018, 1, 1)
# The first and last snapshot, one in the week after a local clock change, and the Mondays on
# which a line paid exactly at midnight meets an edge of a window: the start of 90 days, the
# end, and the start of 7 days.
WHOLE_SNAPSHOTS = [
    FIRST_MONDAY,
    datetime(2017, 3, 13),
    datetime(2017, 6, 12),
    datetime(2017, 6, 26),
    datetime(2017, 7, 3),
    END,
]


Row = dict[str, Any]


def read(data_dir: Path, view: str) -> pl.DataFrame:
    return pl.read_parquet(data_dir / f"{view}.parquet")


def at(frame: pl.DataFrame, time: datetime) -> pl.DataFrame:
    return frame.filter(pl.col("event_timestamp") == time.replace(tzinfo=UTC))


def assert_same_rows(got: list[Row], expected: list[Row], keys: tuple[str, ...]) -> None:
    """Compare rows by key: all columns exactly, floats to twelve digits."""
    assert expected
    by_key = {tuple(row[key] for key in keys): row for row in got}
    assert len(by_key) == len(got)
    assert by_key.keys() == {tuple(row[key] for key in keys) for row in expected}
    for row in expected:
        mine = by_key[tuple(row[key] for key in keys)]
        assert mine.keys() == row.keys()
        for name, value in row.items():
            if isinstance(value, float):
                assert math.isclose(mine[name], value, rel_tol=1e-12), (name, row)
            else:
                assert mine[name] == value, (name, row)


def sql_rows(oracle: duckdb.DuckDBPyConnection, query: str, time: datetime) -> list[Row]:
    """Run a query that names the snapshot time `$t`; decimals come back as floats."""
    relation = oracle.execute(query, {"t": time})
    names = [column[0] for column in relation.description or []]
    return [dict(zip(names, row, strict=True)) for row in relation.fetchall()]


def windowed(days: int) -> str:
    return f"FILTER (paid_at >= $t::TIMESTAMP - INTERVAL {days} DAY)"


@pytest.mark.parametrize("time", WHOLE_SNAPSHOTS, ids=str)
def test_user_purchase_stats_snapshot(
    time: datetime, data_dir: Path, oracle: duckdb.DuckDBPyConnection
) -> None:
    columns = ", ".join(
        f"count(DISTINCT basket_id) {windowed(n)} AS baskets_count_{n}d, "
        f"coalesce(sum(units) {windowed(n)}, 0)::BIGINT AS units_count_{n}d, "
        f"coalesce(sum(usd) {windowed(n)}, 0)::DOUBLE AS revenue_usd_{n}d, "
        f"(sum(usd) {windowed(n)})::DOUBLE / count(DISTINCT basket_id) {windowed(n)} "
        f"AS avg_basket_usd_{n}d"
        for n in (7, 30, 90)
    )
    expected = sql_rows(
        oracle,
        f"SELECT user_id, {columns}, "
        "floor((epoch($t::TIMESTAMP) - epoch(max(paid_at))) / 86400)::BIGINT "
        "AS days_since_last_basket "
        "FROM lines WHERE paid_at < $t GROUP BY user_id",
        time,
    )
    got = at(read(data_dir, "user_purchase_stats"), time).drop("event_timestamp").to_dicts()
    assert_same_rows(got, expected, ("user_id",))


@pytest.mark.parametrize("time", WHOLE_SNAPSHOTS, ids=str)
def test_product_popularity_snapshot(
    time: datetime, data_dir: Path, oracle: duckdb.DuckDBPyConnection
) -> None:
    columns = ", ".join(
        f"coalesce(sum(units) {windowed(n)}, 0)::BIGINT AS product_units_count_{n}d, "
        f"coalesce(sum(usd) {windowed(n)}, 0)::DOUBLE AS product_revenue_usd_{n}d, "
        f"count(DISTINCT user_id) {windowed(n)} AS product_buyers_count_{n}d, "
        f"(sum(usd) {windowed(n)})::DOUBLE / sum(units) {windowed(n)} "
        f"AS product_avg_price_usd_{n}d"
        for n in (7, 30)
    )
    expected = sql_rows(
        oracle,
        f"SELECT product_id, {columns} FROM lines "
        "WHERE paid_at < $t AND paid_at >= $t::TIMESTAMP - INTERVAL 30 DAY GROUP BY product_id",
        time,
    )
    got = at(read(data_dir, "product_popularity"), time).drop("event_timestamp").to_dicts()
    assert_same_rows(got, expected, ("product_id",))


@pytest.mark.parametrize("time", WHOLE_SNAPSHOTS[1:], ids=str)
def test_user_product_interactions_snapshot(
    time: datetime, data_dir: Path, oracle: duckdb.DuckDBPyConnection
) -> None:
    expected = sql_rows(
        oracle,
        """
        SELECT user_id, product_id,
               count(DISTINCT basket_id) AS pair_baskets_count_90d,
               sum(units)::BIGINT AS pair_units_count_90d,
               sum(usd)::DOUBLE AS pair_revenue_usd_90d,
               floor((epoch($t::TIMESTAMP) - epoch(max(paid_at))) / 86400)::BIGINT
                   AS pair_days_since_last_purchase
        FROM lines WHERE paid_at < $t AND paid_at >= $t::TIMESTAMP - INTERVAL 90 DAY
        GROUP BY user_id, product_id HAVING count(DISTINCT basket_id) >= 4
        """,
        time,
    )
    got = at(read(data_dir, "user_product_interactions"), time).drop("event_timestamp").to_dicts()
    assert_same_rows(got, expected, ("user_id", "product_id"))


def test_lines_at_midnight_fall_on_the_right_side(
    data_dir: Path, oracle: duckdb.DuckDBPyConnection
) -> None:
    """Where a basket was paid exactly at midnight, each window edge that meets it is exact.

    Recomputed in plain Python, line by line, for the snapshot at that very midnight (which
    must not see the basket) and for those 7, 30 and 90 days on (whose window it opens) and a
    day after these (which it has left).
    """
    midnight = oracle.execute(
        "SELECT DISTINCT user_id, paid_at FROM lines "
        "WHERE paid_at = date_trunc('day', paid_at) AND paid_at < $1",
        [END],
    ).fetchall()
    assert len(midnight) > 3
    stats = {
        (row["user_id"], row["event_timestamp"].replace(tzinfo=None)): row
        for row in read(data_dir, "user_purchase_stats")
        .join(pl.DataFrame({"user_id": [user for user, _ in midnight]}), on="user_id", how="semi")
        .iter_rows(named=True)
    }
    checked = 0
    for user, paid in midnight:
        lines = oracle.execute(
            "SELECT paid_at, basket_id, units, usd FROM lines WHERE user_id = $1", [user]
        ).fetchall()
        for offset in (0, 1, 7, 8, 30, 31, 90, 91):
            snapshot = paid + timedelta(days=offset)
            row = stats.get((user, snapshot))
            if row is None:
                assert snapshot > END or not any(line[0] < snapshot for line in lines)
                continue
            for days in (7, 30, 90):
                window = [
                    line for line in lines if snapshot - timedelta(days=days) <= line[0] < snapshot
                ]
                assert row[f"baskets_count_{days}d"] == len({line[1] for line in window})
                assert row[f"units_count_{days}d"] == sum(line[2] for line in window)
                assert row[f"revenue_usd_{days}d"] == float(sum(line[3] for line in window))
                checked += 1
            last = max(line[0] for line in lines if line[0] < snapshot)
            assert row["days_since_last_basket"] == (snapshot - last) // DAY
    assert checked > 50


def test_sampled_pairs_in_plain_python(data_dir: Path, oracle: duckdb.DuckDBPyConnection) -> None:
    """Random rows from any week, recomputed line by line."""
    frame = read(data_dir, "user_product_interactions")
    for index in random.Random(11).sample(range(frame.height), 60):
        row = frame.row(index, named=True)
        end = row["event_timestamp"].replace(tzinfo=None)
        lines = [
            line
            for line in oracle.execute(
                "SELECT paid_at, basket_id, units, usd FROM lines "
                "WHERE user_id = $1 AND product_id = $2",
                [row["user_id"], row["product_id"]],
            ).fetchall()
            if end - timedelta(days=90) <= line[0] < end
        ]
        assert row["pair_baskets_count_90d"] == len({line[1] for line in lines}) >= 4
        assert row["pair_units_count_90d"] == sum(line[2] for line in lines)
        assert row["pair_revenue_usd_90d"] == float(sum(line[3] for line in lines))
        assert row["pair_days_since_last_purchase"] == (end - max(line[0] for line in lines)) // DAY


def test_sampled_products_in_plain_python(
    data_dir: Path, oracle: duckdb.DuckDBPyConnection
) -> None:
    """Random rows from any week, recomputed line by line."""
    frame = read(data_dir, "product_popularity")
    for index in random.Random(12).sample(range(frame.height), 60):
        row = frame.row(index, named=True)
        end = row["event_timestamp"].replace(tzinfo=None)
        lines = oracle.execute(
            "SELECT paid_at, user_id, units, usd FROM lines WHERE product_id = $1",
            [row["product_id"]],
        ).fetchall()
        for days in (7, 30):
            window = [line for line in lines if end - timedelta(days=days) <= line[0] < end]
            units, usd = sum(line[2] for line in window), sum(line[3] for line in window)
            assert row[f"product_units_count_{days}d"] == units
            assert row[f"product_revenue_usd_{days}d"] == float(usd)
            assert row[f"product_buyers_count_{days}d"] == len({line[1] for line in window})
            price = row[f"product_avg_price_usd_{days}d"]
            assert price == (pytest.approx(float(usd) / units) if units else None)


def test_snapshots_do_not_change_when_the_future_is_cut_off(
    prep: ModuleType, data_dir: Path
) -> None:
    """Built from the lines before a Monday only, every snapshot up to that Monday is the same."""
    cut = datetime(2017, 4, 3, tzinfo=UTC)
    past = prep.load_lines().filter(pl.col("at") < cut)

    def silent(stage: str, done: int, total: int) -> None:
        """Progress is of no interest here."""

    for view, build in {
        "user_purchase_stats": prep.user_purchase_stats,
        "product_popularity": prep.product_popularity,
        "user_product_interactions": prep.user_product_interactions,
    }.items():
        until_cut = pl.col("event_timestamp") <= cut
        known = read(data_dir, view).filter(until_cut)
        assert known.height > 0
        assert build(past, silent).filter(until_cut).equals(known), view


def test_snapshot_times(data_dir: Path) -> None:
    """Daily every midnight, weekly every Monday, both to the end of the year; static ones once."""
    days = [datetime(2017, 1, 2, tzinfo=UTC) + timedelta(days=n) for n in range(365)]
    mondays = days[::7]
    assert days[-1] == mondays[-1] == END.replace(tzinfo=UTC)
    expected = {
        "user_purchase_stats": days,
        "product_popularity": mondays,
        # The first Monday comes after half a day of data: no pair has four baskets by then.
        "user_product_interactions": mondays[1:],
        "user_demographics": [datetime(2017, 1, 1, tzinfo=UTC)],
        "product_attributes": [datetime(2017, 1, 1, tzinfo=UTC)],
    }
    for view, times in expected.items():
        assert read(data_dir, view)["event_timestamp"].unique().sort().to_list() == times, view


def test_static_views_are_the_raw_rows(data_dir: Path, oracle: duckdb.DuckDBPyConnection) -> None:
    """Demographics and attributes are copied as they are, nulls and all."""
    cases = {
        "user_demographics": (
            "user_id age income home_ownership marital_status household_size household_comp "
            "kids_count",
            "(SELECT household_id AS user_id, * FROM demographics)",
        ),
        "product_attributes": (
            "product_id manufacturer_id department brand product_category product_type "
            "package_size",
            "products WHERE product_id IN (SELECT product_id FROM lines)",
        ),
    }
    for view, (names, source) in cases.items():
        columns = names.split()
        query = f"SELECT {', '.join(columns)} FROM {source} ORDER BY 1"
        frame = read(data_dir, view).select(columns).sort(columns[0])
        assert frame.rows() == oracle.execute(query).fetchall(), view
        assert sum(frame.null_count().row(0)) > 0, view


def test_sizes_suit_the_demo(prep: ModuleType, data_dir: Path) -> None:
    """The manifest is true, and what materialization writes stays below 180,000 rows."""
    files = prep.current_files(data_dir)
    assert files is not None
    for file in files:
        frame = read(data_dir, file.view)
        assert file.rows == frame.height
        assert file.latest_rows == frame.select(prep.KEYS[file.view]).unique().height
        assert frame.select(*prep.KEYS[file.view], "event_timestamp").is_unique().all()
    assert sum(file.latest_rows for file in files) < 180_000
    assert sum(file.size_bytes for file in files) < 100e6


def copy_of(data_dir: Path, target: Path) -> Path:
    target.mkdir()
    for file in [*data_dir.glob("*.parquet"), data_dir / "manifest.json"]:
        shutil.copy2(file, target / file.name)
    return target


def test_prepare_leaves_current_files_alone(
    prep: ModuleType, data_dir: Path, tmp_path: Path
) -> None:
    """A second run writes nothing and reports the same files."""
    folder = copy_of(data_dir, tmp_path / "data")
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    prepared = prep.prepare(folder)
    assert prepared.reused
    assert prepared.files == prep.current_files(data_dir)
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before


def test_files_that_are_not_whole_or_foreign_do_not_count(
    prep: ModuleType, data_dir: Path, tmp_path: Path
) -> None:
    """Each kind of damage makes the next run write the files anew."""
    folder = copy_of(data_dir, tmp_path / "data")
    manifest, file = folder / "manifest.json", folder / "user_demographics.parquet"
    text, content = manifest.read_text(), file.read_bytes()
    assert prep.current_files(folder) is not None

    foreign = json.loads(text)
    foreign["fingerprint"] = "0" * 64
    incomplete = json.loads(text)
    del incomplete["files"][0]
    for broken in (json.dumps(foreign), json.dumps(incomplete), text[:-20], "[]", "{}"):
        manifest.write_text(broken)
        assert prep.current_files(folder) is None, broken[:30]
    manifest.write_text(text)

    # The same number of bytes, but a broken footer; then cut short; then gone.
    for damaged in (content[:-8] + bytes(8), content[:-1]):
        file.write_bytes(damaged)
        assert prep.current_files(folder) is None
    file.unlink()
    assert prep.current_files(folder) is None
    file.write_bytes(content)
    assert prep.current_files(folder) is not None


def test_an_interrupted_run_leaves_nothing_half_done(prep: ModuleType, tmp_path: Path) -> None:
    """What was renamed is whole, no temporary file stays, and without a manifest none counts."""

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "product_popularity":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prep.prepare(tmp_path, interrupt)
    written = sorted(file.name for file in tmp_path.iterdir())
    assert written == [
        "product_attributes.parquet",
        "user_demographics.parquet",
        "user_purchase_stats.parquet",
    ]
    assert all(pl.read_parquet(tmp_path / name).height > 0 for name in written)
    assert prep.current_files(tmp_path) is None


def test_a_full_run_gives_the_same_data_again(
    prep: ModuleType, data_dir: Path, tmp_path: Path
) -> None:
    """Two runs agree in every value, and progress reaches its total in every stage."""
    last: dict[str, tuple[int, int]] = {}

    def note(stage: str, done: int, total: int) -> None:
        last[stage] = (done, total)

    prepared = prep.prepare(tmp_path, note)
    assert not prepared.reused
    for view in prep.KEYS:
        assert read(tmp_path, view).equals(read(data_dir, view)), view
    assert len(last) == 4
    assert all(done == total for done, total in last.values())
    assert {file.name for file in tmp_path.iterdir()} == {
        "manifest.json",
        *(f"{view}.parquet" for view in prep.KEYS),
    }


def raw_transactions() -> pl.DataFrame:
    """Three lines: a purchase of two products, and fuel in another basket."""
    return pl.DataFrame(
        {
            "household_id": [1, 1, 2],
            "basket_id": [10, 10, 20],
            "product_id": [100, 101, 900],
            "quantity": [2, 0, 12_345],
            "sales_value": [0.29, 0.0, 30.1],
            "transaction_timestamp": [datetime(2017, 5, 1, 12), datetime(2017, 5, 1, 12), END],
        }
    )


CATALOGUE = pl.DataFrame(
    {"product_id": [100, 900], "product_type": [None, "GASOLINE-REG UNLEADED"]},
    schema={"product_id": pl.Int64, "product_type": pl.String},
)


def test_purchase_lines_rules(prep: ModuleType) -> None:
    """Lines of quantity 0 go, fuel counts as one unit, money becomes whole cents, times UTC."""
    lines = prep.purchase_lines(raw_transactions(), CATALOGUE)
    assert lines.to_dicts() == [
        {
            "user_id": 1,
            "product_id": 100,
            "basket_id": 10,
            "at": datetime(2017, 5, 1, 12, tzinfo=UTC),
            "cents": 29,
            "units": 2,
        },
        {
            "user_id": 2,
            "product_id": 900,
            "basket_id": 20,
            "at": END.replace(tzinfo=UTC),
            "cents": 3010,
            "units": 1,
        },
    ]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("household_id", [1, None, 2], "user_id"),
        ("sales_value", [0.29, None, 30.1], "cents"),
        ("household_id", [1, 2, 2], "more than one household"),
        (
            "transaction_timestamp",
            [datetime(2017, 5, 1, 12), datetime(2017, 5, 1, 13), END],
            "more than one household or time",
        ),
    ],
)
def test_purchase_lines_refuse_data_they_would_miscount(
    prep: ModuleType, column: str, values: list[Any], message: str
) -> None:
    """Nulls and split baskets are errors instead of silently wrong counts."""
    broken = raw_transactions().with_columns(pl.Series(column, values))
    with pytest.raises(prep.RawDataError, match=message):
        prep.purchase_lines(broken, CATALOGUE)
