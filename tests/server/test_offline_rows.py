"""What is read of batch sources: beside Feast's own materialization, and the forms of files."""

import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from feast import BatchFeatureView, FileSource
from lake import DAY, END, START, Lake, real_view, stats_table, stats_view

from hotfeast.server.errors import RequestFailure
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.materialize import materialize
from hotfeast.server.offline_rows import BATCH_ROWS, OfflineRows, open_rows
from hotfeast.server.view_writer import plan_view


@pytest.fixture
def lake(tmp_path: Path, redis_server: LocalRedis) -> Lake:
    return Lake(tmp_path, redis_server, 3)


def opened(lake: Lake, view: str = "stats", start: datetime = START) -> OfflineRows:
    store = lake.fresh()
    found = open_rows(store, store.get_feature_view(view), plan_view(store, view), start, END)
    assert found is not None
    return found


def amounts(rows: OfflineRows) -> list[Any]:
    return [v for p in rows.portions for v in p.rows.column("amount").to_pylist()]


def key_values(kind: str, rng: random.Random) -> list[Any]:
    """Some entities; the extremes of the type among them."""
    values: dict[str, list[Any]] = {
        "int64": [0, -1, 2**62, *(rng.randrange(10**9) for _ in range(5))],
        "int32": [0, -1, 2**31 - 1, -(2**31), 7],
        "string": ["", "a", "ß", "x" * 300, "b"],
        "bytes": [b"", b"\x00\xff", b"a", b"y" * 300],
        "timestamp": [START + timedelta(seconds=rng.randrange(10**6)) for _ in range(5)],
    }
    return values[kind]


ARROW_KEYS = {
    "int64": pa.int64(),
    "int32": pa.int32(),
    "string": pa.string(),
    "bytes": pa.binary(),
    "timestamp": pa.timestamp("us", "UTC"),
}

SHAPES = [
    ({"a": "int64"}, True, "us", "UTC"),
    ({"a": "int64"}, False, "ns", None),
    ({"a": "int32"}, True, "ms", None),
    ({"a": "string"}, True, "us", "UTC"),
    ({"a": "bytes"}, False, "us", "UTC"),
    ({"a": "timestamp"}, True, "us", "UTC"),
    ({"b": "string", "a": "int64"}, True, "us", "Europe/Berlin"),
    ({"c": "int32", "a": "int64", "b": "string"}, False, "ms", "UTC"),
    ({}, True, "us", "UTC"),
    ({}, False, "us", None),
]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("keys", "has_created", "unit", "zone"), SHAPES)
def test_as_feast_itself_materializes(
    lake: Lake,
    keys: dict[str, str],
    has_created: bool,
    unit: str,
    zone: str | None,
    seed: int,
) -> None:
    """The same hashes to the byte. Rows of equal event time are told apart by created times, and
    there are none where the source has no such column: Feast then takes either."""
    rng = random.Random(f"{keys}{has_created}{unit}{zone}{seed}")
    rows = rng.randrange(50, 200)
    pools = {name: key_values(kind, rng) for name, kind in keys.items()}
    steps = [rng.randrange(-3 * 24, 34 * 24) for _ in range(rows)]
    # Of a view without entities Feast does not look at created times.
    if has_created and keys:
        steps = [rng.choice(steps[:12]) for _ in range(rows)]
    else:
        steps = rng.sample(range(-3 * 24, 34 * 24), rows)
    kind = pa.timestamp(unit, zone)
    table = pa.table(
        {
            **{
                f"src_{name}" if name == "a" else name: pa.array(
                    [rng.choice(pools[name]) for _ in range(rows)], ARROW_KEYS[keys[name]]
                )
                for name in keys
            },
            "src_time": pa.array([START + timedelta(hours=s) for s in steps], pa.timestamp("us"))
            .cast(pa.timestamp(unit))
            .cast(kind),
            "made": pa.array(
                [START + timedelta(minutes=m) for m in rng.sample(range(10**4), rows)],
                pa.timestamp("us"),
            )
            .cast(pa.timestamp(unit))
            .cast(kind),
            "src_amount": pa.array(
                [rng.choice([None, rng.randrange(-(2**40), 2**40)]) for _ in range(rows)],
                pa.int64(),
            ),
            "share": pa.array([rng.choice([None, rng.random(), -0.0]) for _ in range(rows)]),
            "label": pa.array([rng.choice([None, "", "ä", "z" * 200]) for _ in range(rows)]),
            "not_asked_for": pa.array(range(rows)),
        }
    )
    path = lake.write("rows.parquet", table, row_group_size=rng.choice([7, 64, 1000]))
    mapping = {"src_a": "a", "src_time": "event_time", "src_amount": "amount"}
    lake.store.apply(
        real_view(
            "real",
            path,
            keys,
            timestamp_field="event_time",
            created_timestamp_column="made" if has_created else "",
            field_mapping=mapping if keys else {k: mapping[k] for k in ("src_time", "src_amount")},
        )
    )
    lake.fresh().materialize(START, END)
    theirs = lake.taken()
    summary = materialize(lake.fresh(), START, END)
    assert summary.exit_code == 0, summary
    assert summary.views[0].way == "files"
    assert lake.taken() == theirs
    assert theirs
    inside = sum(START <= START + timedelta(hours=s) <= END for s in steps)
    counts = summary.views[0].counts
    assert counts.read == inside
    assert counts.written + counts.superseded + counts.stale == inside


def test_the_later_row_of_a_file_wins_a_tie(lake: Lake) -> None:
    """Across row groups and files, where nothing but the order is left to decide."""
    folder = lake.folder / "parts"
    for part in range(3):
        users = [1, 2, 1, 2]
        table = stats_table(users, [START] * 4, [10 * part + i for i in range(4)])
        lake.write(f"parts/{part}.parquet", table, row_group_size=1)
    lake.store.apply(stats_view(folder))
    assert materialize(lake.fresh(), START, END).exit_code == 0
    answer = lake.fresh().get_online_features(["stats:amount"], [{"user_id": u} for u in (1, 2)])
    assert answer.to_dict()["amount"] == [22, 23]


def test_both_ends_count(lake: Lake) -> None:
    tick = timedelta(microseconds=1)
    times = [START - tick, START, END, END + tick]
    lake.store.apply(
        stats_view(lake.write("t.parquet", stats_table([1, 2, 3, 4], times, [1, 2, 3, 4])))
    )
    assert amounts(opened(lake)) == [2, 3]


@pytest.mark.parametrize(("unit", "kept"), [("s", [1, 2]), ("ms", [1, 2]), ("ns", [1, 2])])
def test_bounds_between_two_ticks(lake: Lake, unit: str, kept: list[int]) -> None:
    """A start within a second takes the next whole second, and not the one before."""
    times = [START, START + timedelta(seconds=1), START + timedelta(seconds=2)]
    table = stats_table([1, 2, 3], times, [0, 1, 2])
    table = table.set_column(
        1, "event_timestamp", table["event_timestamp"].cast(pa.timestamp(unit))
    )
    lake.store.apply(stats_view(lake.write("t.parquet", table)))
    assert amounts(opened(lake, start=START + timedelta(microseconds=1))) == kept


def test_row_groups_outside_are_not_read_and_progress_knows_the_rest(lake: Lake) -> None:
    times = [START - 100 * DAY + i * DAY for i in range(110)]
    table = stats_table(range(110), times, range(110))
    lake.store.apply(stats_view(lake.write("t.parquet", table, row_group_size=10)))
    rows = opened(lake)
    assert rows.total == 10
    assert sum(portion.seen for portion in rows.portions) == 10


def test_portions_are_neither_large_nor_tiny(lake: Lake) -> None:
    count = 3 * BATCH_ROWS
    table = stats_table(range(count), [START] * count, range(count))
    lake.store.apply(stats_view(lake.write("t.parquet", table, row_group_size=1000)))
    sizes = [portion.rows.num_rows for portion in opened(lake).portions]
    assert sum(sizes) == count
    assert max(sizes) <= BATCH_ROWS
    assert min(sizes[:-1]) >= BATCH_ROWS // 2


def test_wide_rows_come_in_smaller_portions(lake: Lake) -> None:
    count = 3000
    table = stats_table(range(count), [START] * count, range(count))
    rng = random.Random(1)
    labels = [rng.randbytes(20_000).hex() for _ in range(count)]
    table = table.append_column("label", pa.array(labels))
    table = table.append_column("share", pa.nulls(count, pa.float64()))
    path = lake.write("t.parquet", table)
    lake.store.apply(
        real_view("real", path, {"user_id": "int64"}, timestamp_field="event_timestamp")
    )
    portions = [portion.rows for portion in opened(lake, "real").portions]
    assert sum(p.num_rows for p in portions) == count
    assert max(p.nbytes for p in portions) < 64 * 2**20


def test_folders_patterns_and_parts_of_a_path(lake: Lake) -> None:
    """A data set in pieces: hive partitions, files of other types, and a pattern."""
    for user in (1, 2):
        table = stats_table([0, 0], [START, START + DAY], [user, 10 * user]).drop_columns("user_id")
        (lake.folder / "data" / f"user_id={user}").mkdir(parents=True, exist_ok=True)
        lake.write(f"data/user_id={user}/part.parquet", table)
    lake.store.apply(stats_view(lake.folder / "data"))
    assert materialize(lake.fresh(), START, END).exit_code == 0
    answer = lake.fresh().get_online_features(["stats:amount"], [{"user_id": u} for u in (1, 2)])
    assert answer.to_dict()["amount"] == [10, 20]
    lake.write("many_1.parquet", stats_table([5], [START], [51]))
    second = stats_table([6], [START], [61])
    second = second.set_column(0, "user_id", second["user_id"].cast(pa.int32()))
    lake.write("many_2.parquet", second)
    lake.store.apply(stats_view(lake.folder / "many_*.parquet", "many"))
    assert amounts(opened(lake, "many")) == [51, 61]


def test_what_is_not_there_is_named(lake: Lake) -> None:
    path = lake.write("t.parquet", stats_table([1], [START], [1]))
    lake.store.apply(stats_view(path))
    lake.write("t.parquet", stats_table([1], [START], [1]).drop_columns("amount"))
    with pytest.raises(RequestFailure, match=r"'stats'.* has no column 'amount'; it has 'event_"):
        opened(lake)
    table = stats_table([1], [START], [1])
    lake.write("t.parquet", table.set_column(1, "event_timestamp", pa.array(["2024-01-01"])))
    with pytest.raises(RequestFailure, match="'event_timestamp' must be an Arrow timestamp and is"):
        opened(lake)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        opened(lake)
    lake.store.apply(stats_view(lake.folder / "none_*.parquet", "none"))
    with pytest.raises(FileNotFoundError, match="no file matches"):
        opened(lake, "none")


class OtherSource(FileSource):  # type: ignore[misc]
    """A source that only Feast's offline store is trusted with."""


def test_other_sources_go_through_feasts_offline_store(lake: Lake) -> None:
    times = [START, START + DAY, START, END + DAY]
    path = lake.write("t.parquet", stats_table([1, 1, 2, 3], times, [1, 2, None, 4]))
    lake.store.apply(stats_view(path))
    store = lake.fresh()
    view = store.get_feature_view("stats")
    view.batch_source.__class__ = OtherSource
    rows = open_rows(store, view, plan_view(store, "stats"), START, END)
    assert rows is not None
    assert rows.way == "offline store"
    found = [p.rows.select(["user_id", "amount"]).to_pylist() for p in rows.portions]
    assert sorted(found[0], key=lambda row: row["user_id"]) == [
        {"user_id": 1, "amount": 2},
        {"user_id": 2, "amount": None},
    ]


def doubled(frame: pd.DataFrame) -> pd.DataFrame:
    """The transformation of a batch feature view."""
    frame["amount"] = frame["amount"] * 2
    return frame


def test_batch_views_are_computed_by_feasts_engine(lake: Lake) -> None:
    path = lake.write("t.parquet", stats_table([1, 1, 2], [START, START + DAY, START], [1, 2, 3]))
    user, view = stats_view(path)
    lake.store.apply(
        [
            user,
            BatchFeatureView(
                name="computed",
                mode="pandas",
                entities=[user],
                ttl=timedelta(0),
                schema=view.schema,
                source=view.batch_source,
                udf=doubled,
                online=True,
            ),
        ]
    )
    lake.fresh().materialize(START, END)
    theirs = lake.taken()
    summary = materialize(lake.fresh(), START, END)
    assert summary.exit_code == 0, summary
    assert summary.views[0].way == "compute engine"
    assert lake.taken() == theirs
    assert len(theirs) == 2
