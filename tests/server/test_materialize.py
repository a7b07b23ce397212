"""Materialization as a library call and as a command, beside and in turns with Feast's own."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from feast import FeatureStore, FeatureView, Field
from feast.errors import FeastObjectNotFoundException, FeatureViewNotFoundException
from feast.feature_view import FeatureViewState
from feast.types import Int64
from lake import DAY, END, START, Lake, stats_table, stats_view
from processes import eventually, run_cli

from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.materialize import Summary, materialize, materialize_incremental


@pytest.fixture
def lake(tmp_path: Path, redis_server: LocalRedis) -> Lake:
    return Lake(tmp_path, redis_server, 4)


@pytest.fixture
def own_redis() -> Iterator[LocalRedis]:
    """A server that a test may break."""
    with LocalRedis() as server:
        yield server


def daily(days: int, users: int = 3) -> pa.Table:
    """A row for each day from START on and each user, of amount 100 x day + user."""
    pairs = [(day, user) for day in range(days) for user in range(users)]
    return stats_table(
        [user for _, user in pairs],
        [START + day * DAY for day, _ in pairs],
        [100 * day + user for day, user in pairs],
    )


def amounts(store: FeatureStore, users: int = 3, view: str = "stats") -> list[Any]:
    rows = [{"user_id": user} for user in range(users)]
    found: list[Any] = store.get_online_features([f"{view}:amount"], rows).to_dict()["amount"]
    return found


def told(store: FeatureStore, view: str = "stats") -> tuple[Any, Any]:
    """What the registry says of a view: its state and its intervals."""
    found = store.get_feature_view(view)
    return found.state, [(a.isoformat(), b.isoformat()) for a, b in found.materialization_intervals]


def make_ready(
    lake: Lake, *views: str, state: FeatureViewState = FeatureViewState.GENERATED
) -> None:
    """Gives views a state; by default one from which Feast lets them be materialized."""
    store = lake.fresh()
    for name in views:
        view = store.get_feature_view(name)
        view.state = state
        store.registry.apply_feature_view(view, store.project)


def only(summary: Summary) -> Any:
    (view,) = summary.views
    return view


def test_bookkeeping_is_that_of_feast(lake: Lake) -> None:
    """Steps by Feast and by us in turns, in two repositories; after each, Redis and registry say
    the same."""
    lake.store.apply(stats_view(lake.write("t.parquet", daily(20))))
    (lake.folder / "twin").mkdir()
    twin = Lake(lake.folder / "twin", lake.redis, 5)
    twin.store.apply(stats_view(lake.folder / "t.parquet"))
    steps = [
        (START, START + 2 * DAY),
        (None, START + 5 * DAY),
        (None, START + 6 * DAY),
        (START, START + DAY),
        (None, START + 9 * DAY),
    ]
    for first in (0, 1):
        for number, (start, end) in enumerate(steps):
            theirs, mixed = lake.fresh(), twin.fresh()
            if start is None:
                theirs.materialize_incremental(end)
            else:
                theirs.materialize(start, end)
            if number % 2 == first:
                if start is None:
                    mixed.materialize_incremental(end)
                else:
                    mixed.materialize(start, end)
            elif start is None:
                assert materialize_incremental(mixed, end).exit_code == 0
            else:
                assert materialize(mixed, start, end).exit_code == 0
            assert told(twin.fresh()) == told(lake.fresh())
            assert twin.stored() == lake.stored()
        state, intervals = told(twin.fresh())
        assert state == FeatureViewState.AVAILABLE_ONLINE
        assert len(intervals) == (first + 1) * len(steps)
        assert amounts(twin.fresh()) == [900, 901, 902]


def test_an_older_row_is_stale_and_a_repeat_does_no_harm(lake: Lake) -> None:
    lake.store.apply(stats_view(lake.write("t.parquet", daily(4))))
    first = only(materialize(lake.folder, START, END)).counts
    assert (first.read, first.superseded, first.written) == (12, 9, 3)
    before = lake.stored()
    again = materialize(lake.folder, START, END)
    assert lake.stored() == before
    assert again.exit_code == 0
    older = only(materialize(lake.folder, START, START + DAY)).counts
    assert (older.read, older.stale, older.written) == (6, 3, 0)
    assert lake.stored() == before


def test_without_the_check_what_is_stored_does_not_matter(lake: Lake) -> None:
    """But within the run, the latest row still wins, wherever it stands."""
    table = daily(4).take(pa.array([9, 10, 11, 0, 1, 2, 3, 4, 5]))
    lake.store.apply(stats_view(lake.write("t.parquet", table, row_group_size=2)))
    counts = only(materialize(lake.folder, START, END, event_time_check=False)).counts
    assert (counts.written, counts.superseded) == (3, 6)
    assert amounts(lake.fresh()) == [300, 301, 302]
    materialize(lake.folder, START, START + DAY, event_time_check=False)
    assert amounts(lake.fresh()) == [100, 101, 102]


def test_incremental_starts_the_ttl_ago(lake: Lake) -> None:
    now = datetime.now(UTC)
    table = stats_table([0, 1, 2], [now - 3 * DAY, now - DAY, now - 300 * DAY], [1, 2, 3])
    path = lake.write("t.parquet", table)
    lake.store.apply([*stats_view(path, ttl=2 * DAY), stats_view(path, "forever")[1]])
    assert materialize_incremental(lake.folder, now).exit_code == 0
    assert amounts(lake.fresh()) == [None, 2, None]
    assert amounts(lake.fresh(), view="forever") == [1, 2, 3]


@pytest.mark.parametrize(("on_invalid", "code"), [("reject", 1), ("skip", 0), ("fail", 1)])
def test_invalid_rows(lake: Lake, on_invalid: str, code: int) -> None:
    table = stats_table([0, 1, 2, 3], [START] * 4, [5, -1, None, 11])
    tags = {"min": "0", "max": "10", "not_null": "true"}
    lake.store.apply(stats_view(lake.write("t.parquet", table), tags=tags))
    make_ready(lake, "stats")
    summary = materialize(lake.folder, START, END, on_invalid=on_invalid)
    assert summary.exit_code == code
    view = only(summary)
    state, intervals = told(lake.fresh())
    if on_invalid == "fail":
        assert view.state == "failed"
        assert "'amount' is -1, and min wants at least 0 (user_id=1)" in view.error
        assert (state, intervals) == (FeatureViewState.GENERATED, [])
        assert not lake.stored()
        return
    assert view.counts.rules == {("amount", r): 1 for r in ("min", "max", "not_null")}
    assert (view.counts.written, view.counts.rejected) == (1, 3)
    assert len(view.counts.examples) == 3
    assert state == FeatureViewState.AVAILABLE_ONLINE
    assert len(intervals) == 1
    assert amounts(lake.fresh(), 4) == [5, None, None, None]


def test_rows_that_redis_refuses(lake: Lake) -> None:
    """Counted, told and not recorded; the others are written."""
    lake.store.apply(stats_view(lake.write("t.parquet", daily(1))))
    materialize(lake.folder, START, END)
    key = sorted(lake.stored())[0]
    recorded = told(lake.fresh())
    lake.client.flushdb()
    lake.client.set(key, "not a hash")
    summary = materialize(lake.folder, START, END)
    view = only(summary)
    assert summary.exit_code == 1
    assert (view.state, view.counts.failed, view.counts.written) == ("failed", 1, 2)
    assert "Redis refused 1 rows: WRONGTYPE" in view.error
    assert told(lake.fresh()) == recorded


def test_a_redis_that_goes_away_and_comes_back(tmp_path: Path, own_redis: LocalRedis) -> None:
    """The run waits for it, and goes on."""
    lake = Lake(tmp_path, own_redis, 0)
    lake.store.apply(stats_view(lake.write("t.parquet", daily(2))))
    own_redis.stop()

    def back() -> None:
        own_redis.start()

    starter = threading.Timer(0.5, back)
    starter.start()
    summary = materialize(tmp_path, START, END)
    starter.join()
    assert summary.exit_code == 0, summary
    assert amounts(lake.fresh()) == [100, 101, 102]


def test_a_redis_that_stays_away(tmp_path: Path, own_redis: LocalRedis) -> None:
    """The view fails, its state goes back, the next is not begun; later a repeat does it all."""
    lake = Lake(tmp_path, own_redis, 0)
    path = lake.write("t.parquet", daily(2))
    lake.store.apply([*stats_view(path), stats_view(path, "more")[1]])
    make_ready(lake, "stats", "more")
    before = told(lake.fresh())
    own_redis.stop()
    summary = materialize(tmp_path, START, END, ["stats", "more"], patience=0.3)
    assert [view.state for view in summary.views] == ["failed", "not started"]
    assert "cannot connect to Redis" in summary.views[0].error
    assert summary.exit_code == 1
    assert told(lake.fresh()) == before
    own_redis.start()
    assert materialize(tmp_path, START, END).exit_code == 0
    assert amounts(lake.fresh(), view="more") == [100, 101, 102]


def test_a_run_that_is_stopped(lake: Lake) -> None:
    """The state goes back; what is written stays, and a repeat writes the rest."""
    count = 200_000
    path = lake.write("t.parquet", stats_table(range(count), [START] * count, range(count)))
    lake.store.apply([*stats_view(path), stats_view(path, "more")[1]])
    make_ready(lake, "stats", "more")
    before = told(lake.fresh())
    assert before == (FeatureViewState.GENERATED, [])
    stop = threading.Event()
    states = []

    def progress(view: str, done: int, total: int | None) -> None:
        states.append(told(lake.fresh())[0])
        if done:
            stop.set()

    summary = materialize(lake.folder, START, END, ["stats", "more"], stop=stop, progress=progress)
    assert summary.exit_code == 130
    assert [view.state for view in summary.views] == ["interrupted", "not started"]
    assert 0 < summary.views[0].counts.written < count
    assert set(states) == {FeatureViewState.MATERIALIZING}
    assert told(lake.fresh()) == before
    assert materialize(lake.folder, START, END, ["stats"]).exit_code == 0
    assert lake.client.dbsize() == count


def test_a_source_that_cannot_be_read_leaves_the_others(lake: Lake) -> None:
    path = lake.write("t.parquet", daily(1))
    other = lake.write("u.parquet", daily(1))
    lake.store.apply([*stats_view(path), stats_view(other, "more")[1]])
    path.unlink()
    make_ready(lake, "stats", "more")
    summary = materialize(lake.folder, START, END, ["stats", "more"])
    assert [view.state for view in summary.views] == ["failed", "done"]
    assert "FileNotFoundError: no file or folder" in summary.views[0].error
    assert summary.exit_code == 1
    assert told(lake.fresh()) == (FeatureViewState.GENERATED, [])


def test_keys_expire_as_the_repository_says(tmp_path: Path, redis_server: LocalRedis) -> None:
    lake = Lake(tmp_path, redis_server, 4, "  key_ttl_seconds: 1000\n")
    lake.store.apply(stats_view(lake.write("t.parquet", daily(1))))
    for check in (True, False):
        lake.client.flushdb()
        assert materialize(tmp_path, START, END, event_time_check=check).exit_code == 0
        assert {0 < lake.client.ttl(key) <= 1000 for key in lake.stored()} == {True}


def test_a_run_that_was_killed_is_repeated(lake: Lake) -> None:
    """It has left the view in the state of being materialized; a failed repeat mends that, too."""
    path = lake.write("t.parquet", daily(2))
    lake.store.apply(stats_view(path))
    make_ready(lake, "stats", state=FeatureViewState.MATERIALIZING)
    path.rename(path.with_suffix(".away"))
    assert materialize(lake.folder, START, END).exit_code == 1
    assert told(lake.fresh()) == (FeatureViewState.GENERATED, [])
    path.with_suffix(".away").rename(path)
    make_ready(lake, "stats", state=FeatureViewState.MATERIALIZING)
    assert materialize(lake.folder, START, END).exit_code == 0
    assert told(lake.fresh())[0] == FeatureViewState.AVAILABLE_ONLINE
    make_ready(lake, "stats", state=FeatureViewState.CREATED)
    view = only(materialize(lake.folder, START, END))
    assert (view.state, view.counts.read) == ("failed", 0)
    assert "is in state CREATED and cannot be materialized" in view.error


def test_what_only_feast_can_write_is_left_to_it_and_said(lake: Lake) -> None:
    """A view that Feast writes to its offline store, too, and for files does not get written."""
    user, view = stats_view(lake.write("t.parquet", daily(2)))
    _, both = stats_view(lake.folder / "t.parquet", "both", offline=True)
    lake.store.apply([user, view, both])
    stats, left = materialize(lake.folder, START, END).views
    assert (stats.state, stats.way) == ("done", "files")
    assert (left.state, left.way) == ("failed", "Feast")
    assert "The input pyarrow table" in left.error


def test_versions(tmp_path: Path, redis_server: LocalRedis) -> None:
    """The rows of a version go where they belong. Of one that is not the current one the registry
    is told nothing: what it keeps is of the current one, which has no such rows."""
    lake = Lake(tmp_path, redis_server, 4)
    settings = tmp_path / "feature_store.yaml"
    apart = (
        f"registry:\n  path: {tmp_path}/registry.db\n  enable_online_feature_view_versioning: true"
    )
    settings.write_text(settings.read_text().replace(f"registry: {tmp_path}/registry.db", apart))
    table = daily(1).append_column("more", pa.array([7, 8, 9]))
    user, first = stats_view(lake.write("t.parquet", table))
    lake.fresh().apply([user, first])
    more = Field(name="more", dtype=Int64)
    second = FeatureView(
        name="stats", entities=[user], schema=[*first.schema, more], source=first.batch_source
    )
    lake.fresh().apply([user, second])
    make_ready(lake, "stats")
    before = told(lake.fresh())
    lake.fresh().materialize(START, END, ["stats"], version="v0")
    theirs = lake.taken()
    recorded = told(lake.fresh())
    assert materialize(tmp_path, START, END, ["stats"], version="v0").exit_code == 0
    assert told(lake.fresh()) == recorded != before
    assert lake.taken() == theirs
    for version in ("v1", "latest"):
        assert materialize(tmp_path, START, END, ["stats"], version=version).exit_code == 0
        ours = lake.taken()
        assert {len(row) for row in ours.values()} == {3}
    assert len(told(lake.fresh())[1]) == len(recorded[1]) + 2
    with pytest.raises(FeastObjectNotFoundException):
        materialize(tmp_path, START, END, ["stats"], version="v9")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run(tmp_path: Path, own_redis: LocalRedis, number: int) -> None:
    """In the middle of a batch that Redis does not answer."""
    lake = Lake(tmp_path, own_redis, 0)
    lake.store.apply(stats_view(lake.write("t.parquet", daily(2))))
    make_ready(lake, "stats")

    def started() -> bool:
        try:
            return bool(told(lake.fresh())[0] == FeatureViewState.MATERIALIZING)
        except FeatureViewNotFoundException:
            # Feast writes a registry's file from its start, so that it is read empty at times.
            return False

    own_redis.freeze()
    with subprocess.Popen(
        [sys.executable, "-m", "hotfeast.server", "materialize", "2024-01-01", "2024-02-01"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        try:
            eventually(started)
            run.send_signal(number)
            output, errors = run.communicate(timeout=60)
        finally:
            own_redis.thaw()
            run.kill()
    assert run.returncode == 130, output + errors
    assert "stats (interrupted)" in output
    assert told(lake.fresh()) == (FeatureViewState.GENERATED, [])


def test_command(lake: Lake) -> None:
    """Its table, its exit codes, and what it says of rows that are lost."""
    path = lake.write("t.parquet", daily(3))
    lake.store.apply([*stats_view(path), stats_view(path, "more", tags={"min": "1"})[1]])
    repo = ("--repo", str(lake.folder))
    day = "2024-01-01T00:00:00"
    done = run_cli("materialize", day, "2024-01-02", *repo, "--views", "stats")
    assert done.returncode == 0, done.stdout + done.stderr
    assert amounts(lake.fresh()) == [100, 101, 102]
    cells = next(line for line in done.stdout.splitlines() if "stats" in line).split()
    assert cells[:7] == ["stats", "6", "3", "3", "0", "0", "0"]
    assert told(lake.fresh())[1] == [("2024-01-01T00:00:00+00:00", "2024-01-02T00:00:00+00:00")]
    done = run_cli("materialize-incremental", "2024-01-03T00:00Z", *repo, "-v", "stats")
    assert done.returncode == 0, done.stdout + done.stderr
    assert amounts(lake.fresh()) == [200, 201, 202]
    done = run_cli("materialize", "--disable-event-timestamp", *repo)
    assert done.returncode == 1
    assert "more: 1 rows rejected by min of amount" in done.stdout
    assert "'amount' is 0, and min wants at least 1 (user_id=0)" in done.stdout
    for arguments, words in (
        ((day, "2023-01-01"), "is after end"),
        ((day, day, "--views", "statz"), "statz"),
        ((day,), "END"),
        ((day, "tomorrow"), "END"),
        ((day, day, "--disable-event-timestamp"), "without START and END"),
        ((day, day, "--version", "v1"), "exactly one feature view"),
    ):
        done = run_cli("materialize", *arguments, *repo)
        assert done.returncode == 2, (arguments, done.stdout, done.stderr)
        assert words in done.stderr, (arguments, done.stderr)
