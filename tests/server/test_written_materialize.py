"""Materialization of on-demand views whose results are stored, beside Feast's own."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import written
from google.protobuf.timestamp_pb2 import Timestamp
from lake import DAY, END, START, Lake, Stored
from processes import run_cli
from written import day

from hotfeast.server import on_demand_rows
from hotfeast.server.errors import RequestFailure
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.materialize import ViewSummary, materialize, materialize_incremental
from hotfeast.server.view_writer import ViewWriter

STATS = written.stats_rows(40, 12, 7)
NEWEST = written.newest_rows(STATS)


@pytest.fixture(scope="module")
def filled(redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = Lake(tmp_path_factory.mktemp("written"), redis_server, 7)
    written.fill_files(lake)
    lake.store.apply(written.definitions(lake.folder))
    return lake


@pytest.fixture
def lake(filled: Lake) -> Lake:
    filled.client.flushdb()
    return filled


def without_times(stored: Stored) -> Stored:
    """Feast takes the time of writing for the event time of an on-demand view's rows."""
    return {
        key: {f: v for f, v in row.items() if not f.startswith(b"_ts:")}
        for key, row in stored.items()
    }


def times(lake: Lake, view: str) -> set[datetime]:
    """The event times that a view's rows are stored with."""
    rows = lake.stored().values()
    return {
        Timestamp.FromString(row[f"_ts:{view}".encode()]).ToDatetime(tzinfo=UTC) for row in rows
    }


def ours(lake: Lake, view: str, **options: Any) -> ViewSummary:
    [summary] = materialize(lake.folder, START, END, [view], **options).views
    assert (summary.state, summary.error) == ("done", "")
    return summary


def read(lake: Lake, feature: str, *rows: dict[str, Any]) -> list[Any]:
    """A feature of entities as Feast's SDK reads it."""
    answer = lake.fresh().get_online_features([feature], list(rows)).to_dict()
    values: list[Any] = answer[feature.split(":")[1]]
    return values


@pytest.fixture(params=["files", "point-in-time join"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How several sources are joined: by us, or as those that are no files by Feast."""
    if request.param != "files":
        monkeypatch.setattr(on_demand_rows, "is_files", lambda *_: False)
    joined: str = request.param
    return joined


@pytest.mark.parametrize("view", ["in_pandas", "in_python"])
def test_the_bytes_are_those_of_feast(lake: Lake, view: str) -> None:
    lake.fresh().materialize(START, END, [view])
    theirs = without_times(lake.taken())
    assert len(theirs) >= 40
    summary = ours(lake, view)
    assert summary.way == "files"
    assert summary.counts.written == len(theirs)
    assert without_times(lake.taken()) == theirs


def test_the_bytes_of_several_sources_are_those_of_feast(lake: Lake, way: str) -> None:
    lake.fresh().materialize(START, END, ["both"])
    theirs = without_times(lake.taken())
    assert len(theirs) == 60
    summary = ours(lake, "both")
    assert (summary.way, summary.counts.written) == (way, 60)
    assert without_times(lake.taken()) == theirs


def test_a_singleton_function_runs_for_each_row(lake: Lake, tmp_path: Path) -> None:
    """Feast runs it for one row, and fails for more: it looks for join keys among the outputs."""
    with pytest.raises(KeyError, match="user_id"):
        lake.fresh().materialize(START, END, ["singleton"])
    assert ours(lake, "singleton").counts.written == 40
    alone = Lake(tmp_path, lake.redis, 8)
    written.fill_files(alone)
    alone.write("stats.parquet", STATS.slice(0, 1))
    alone.store.apply(written.definitions(tmp_path))
    alone.fresh().materialize(START, END, ["singleton"])
    theirs = without_times(alone.taken())
    assert len(theirs) == 1
    ours(alone, "singleton")
    assert without_times(alone.taken()) == theirs


def test_event_times_are_those_of_the_rows(lake: Lake) -> None:
    """So that a newer row that is pushed meanwhile stays."""
    ours(lake, "in_pandas")
    assert times(lake, "in_pandas") == {row["event_timestamp"] for row in NEWEST.values()}
    before = lake.stored()
    older = materialize(lake.folder, START, day(3), ["in_pandas"]).views[0].counts
    assert older.stale > 0
    assert lake.stored() == before


@pytest.mark.usefixtures("way")
def test_each_source_counts_as_of_the_newest_time(lake: Lake) -> None:
    """Feast's file store leaves out an entity of which one source is too old, and has any of the
    rows that are left."""
    table = pa.Table.from_pylist(
        [
            {"user_id": 1, "event_timestamp": day(2), "amount": 2},
            {"user_id": 1, "event_timestamp": day(9), "amount": 9},
            {"user_id": 2, "event_timestamp": day(2), "amount": 3},
            {"user_id": 3, "event_timestamp": day(2), "amount": 4},
        ],
        written.STATS,
    )
    profile = pa.Table.from_pylist(
        [
            {"user_id": 1, "event_timestamp": day(3), "level": 30},
            {"user_id": 2, "event_timestamp": day(3), "level": 40},
            {"user_id": 4, "event_timestamp": day(4), "level": 50},
            {"user_id": None, "event_timestamp": day(4), "level": 60},
        ],
        written.PROFILE,
    )
    try:
        lake.write("stats.parquet", table)
        lake.write("profile.parquet", profile)
        users = [{"user_id": user} for user in (1, 2, 3, 4)]
        summary = materialize(lake.folder, START, END, ["both", "in_time"])
        assert [view.counts.rules for view in summary.views] == [{("user_id", "null_key"): 1}] * 2
        assert read(lake, "both:sum", *users) == [39.0, 43.0, 3.0, None]
        # The first user's level is six days old at the newest time, and its view allows three.
        assert read(lake, "in_time:recent_level", *users) == [None, 40.0, None, 50.0]
        # What lies before the interval counts, and gives no row of its own.
        lake.client.flushdb()
        materialize(lake.folder, day(5), END, ["both"])
        assert read(lake, "both:sum", *users) == [39.0, None, None, None]
        assert times(lake, "both") == {day(9)}
    finally:
        written.fill_files(lake)


@pytest.mark.usefixtures("way")
def test_sources_with_other_keys_and_features_of_one_name(lake: Lake) -> None:
    """Feast puts nulls among the keys, and takes no two features of one name."""
    assert ours(lake, "at_shop").counts.written == 4
    keys = [{"user_id": u, "shop_id": s} for u, s in ((0, "a"), (0, "b"), (999, "b"), (1, "b"))]
    amount = NEWEST[0]["amount"]
    share = None if amount is None else 1 / amount
    assert read(lake, "at_shop:share", *keys) == [share, share, None, None]
    lake.client.flushdb()
    ours(lake, "one_name")
    scores = {user: NEWEST[user]["score"] for user in range(20, 40)}
    assert read(lake, "one_name:gap", *({"user_id": user} for user in scores)) == [
        None if score is None else score - user for user, score in scores.items()
    ]


def test_field_mapping_and_created_times(lake: Lake) -> None:
    """Of one event time the row that was created later counts, in whatever order they come."""
    counts = ours(lake, "of_mapped").counts
    assert (counts.written, counts.superseded) == (3, 3)
    assert read(lake, "of_mapped:more", *({"user_id": user} for user in range(3))) == [6, 6, 6]


def test_what_can_only_be_pushed(lake: Lake) -> None:
    """It is left out of a run over all views, and refused by name."""
    summary = materialize(lake.folder, START, END)
    skipped = {view.view: view.error for view in summary.views if view.state == "skipped"}
    assert skipped.keys() == {"asked", "only_asked"}
    assert "request data ('cart_value'), which no source has" in skipped["asked"]
    # The null key of `visits`.
    assert summary.exit_code == 1
    assert {view.state for view in summary.views} == {"skipped", "done"}
    for name in skipped:
        with pytest.raises(RequestFailure, match=f"'{name}'.*: it cannot be materialized, push"):
            materialize(lake.folder, START, END, [name])
    shown = run_cli("materialize", "--repo", str(lake.folder), "2024-01-01", "2024-01-31")
    assert shown.returncode == 1, shown.stderr
    assert "asked (skipped)" in shown.stdout
    assert f"asked: {skipped['asked']}" in shown.stdout


def test_incremental_and_the_registry(lake: Lake) -> None:
    """The interval is the longest TTL of the sources, or a year; Feast keeps no books of it."""
    before = lake.fresh().get_on_demand_feature_view("in_time").to_proto()
    summary = materialize_incremental(lake.folder, END, ["in_time", "in_pandas"])
    assert [view.start for view in summary.views] == [END - 3 * DAY, END - 364 * DAY]
    assert [view.counts.written for view in summary.views][1] == 40
    assert lake.fresh().get_on_demand_feature_view("in_time").to_proto() == before


def test_the_worker_for_engines(lake: Lake) -> None:
    rows = pa.Table.from_pylist(
        [
            {"user_id": user, "event_timestamp": day(1), "recent": [1], "amount": amount}
            for user, amount in ((1, 2), (2, 4), (None, 6))
        ],
        written.STATS,
    )
    counts = ViewWriter(lake.folder, "in_pandas").write_arrow(rows)
    assert (counts.written, counts.rejected) == (2, 1)
    assert read(lake, "in_pandas:twice", {"user_id": 1}, {"user_id": 2}) == [4, 8]
    bad = rows.set_column(2, "amount", pa.array([1, 13, 1], pa.int64()))
    with pytest.raises(RequestFailure, match="'in_pandas' failed: ZeroDivisionError: planned"):
        ViewWriter(lake.folder, "in_pandas").write_arrow(bad)
    with pytest.raises(RequestFailure, match="missing column 'city'"):
        ViewWriter(lake.folder, "in_pandas").write_arrow(rows.drop_columns("city"))
