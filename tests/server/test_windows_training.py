"""Training sets with windowed features, beside their definition."""

import random
from datetime import timedelta
from pathlib import Path

import events as ev
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from event_samples import close, some_events
from feast import FeatureStore
from typer.testing import CliRunner

from hotfeast.server.cli import app
from hotfeast.server.errors import RequestFailure
from hotfeast.server.windows.training import training_set

TTL = timedelta(days=10)


@pytest.fixture(scope="module")
def users() -> dict[int, list[ev.Event]]:
    generator = random.Random(1)
    return {n: some_events(generator, 80, timedelta(days=39)) for n in range(12)}


@pytest.fixture(scope="module")
def store(
    tmp_path_factory: pytest.TempPathFactory, users: dict[int, list[ev.Event]]
) -> FeatureStore:
    """A repository whose source has some events twice, some without an id or entity, and one tile
    of more distinct pages than are counted one by one. Redis is not needed."""
    folder = tmp_path_factory.mktemp("training")
    made = ev.write_repository(folder, "training", "localhost:1")
    users[12] = [
        ev.Event(ev.START + timedelta(days=1, seconds=i), f"m{i}", None, None, f"page {i}")
        for i in range(2000)
    ]
    table = pa.Table.from_pandas(
        ev.frame({n: events + events[:7] for n, events in users.items()}), preserve_index=False
    )
    nameless = table.slice(0, 2).set_column(2, "event_id", pa.nulls(2, pa.string()))
    alone = table.slice(0, 2).set_column(0, "user_id", pa.nulls(2, pa.int64()))
    whole = pa.concat_tables([table, nameless, alone], promote_options="permissive")
    pq.write_table(whole, folder / "events.parquet")
    return made


def rows_of(users: dict[int, list[ev.Event]]) -> pa.Table:
    """Rows at any times, at those of events, and of a user without any."""
    generator = random.Random(3)
    rows = [
        (n, at)
        for n in [*users, 99]
        for at in [
            *(ev.START + generator.random() * timedelta(days=42) for _ in range(5)),
            *(event.time for event in users.get(n, [])[:10]),
        ]
    ]
    generator.shuffle(rows)
    times = pa.array([at for _, at in rows], pa.timestamp("us", "UTC"))
    return pa.table({"user_id": [n for n, _ in rows], "event_timestamp": times})


def test_windows_are_what_the_definition_says_at_each_rows_time(
    store: FeatureStore, users: dict[int, list[ev.Event]]
) -> None:
    made = training_set(store, rows_of(users), "windows")
    assert made.num_rows == 14 * 5 + 13 * 10
    estimated = 0
    for row in made.to_pylist():
        n, at = row.pop("user_id"), row.pop("event_timestamp")
        events = [event for event in users.get(n, []) if event.time <= at]
        wanted = ev.expected(events, at)
        if wanted is None or max(event.time for event in events) < at - TTL:
            assert set(row.values()) == {None}
            continue
        if n == 12 and wanted["pages_30d"] > 256:
            estimated += 1
            assert row["pages_30d"] == pytest.approx(wanted["pages_30d"], rel=0.08)
            wanted["pages_30d"] = row["pages_30d"]
        close(row, wanted)
    assert estimated


def test_ordinary_views_and_aliases_stand_beside_windows(
    store: FeatureStore, users: dict[int, list[ev.Event]]
) -> None:
    rows = pa.table(
        {
            "user_id": [1, 2, 1],
            "friend_id": [2, 99, 1],
            "event_timestamp": pa.array(
                [ev.START + timedelta(days=d) for d in (30, 30, 20)], pa.timestamp("us", "UTC")
            ),
        }
    )
    made = training_set(store, rows, "mixed")
    assert made["city"].to_pylist() == ["Ulm", None, "Ulm"]
    wanted = [
        ev.expected(users.get(n, []), at)
        for n, at in zip(
            rows["friend_id"].to_pylist(), rows["event_timestamp"].to_pylist(), strict=True
        )
    ]
    assert made["pages_1h"].to_pylist() == [None if w is None else w["pages_1h"] for w in wanted]


def test_what_cannot_be_is_said(store: FeatureStore) -> None:
    rows = pa.table({"user_id": [1]})
    with pytest.raises(RequestFailure, match="event_timestamp"):
        training_set(store, rows, "windows")
    with pytest.raises(RequestFailure, match="'user_id'"):
        training_set(
            store, pa.table({"event_timestamp": [ev.START]}), ["activity:amount_7d"]
        )  # fmt: skip


def test_the_command_writes_a_file(store: FeatureStore, tmp_path: Path) -> None:
    entities, out = tmp_path / "rows.parquet", tmp_path / "made.parquet"
    pq.write_table(rows_of({1: []}), entities)
    options = ["--repo", str(store.repo_path), "--entities", str(entities), "--out", str(out)]
    done = CliRunner().invoke(app, ["training-set", "windows", *options])
    assert done.exit_code == 0, done.output
    assert pq.read_table(out).column_names[2:] == [name for name, *_ in ev.FEATURES]
    done = CliRunner().invoke(app, ["training-set", "nowhere", *options])
    assert done.exit_code == 2
    assert "nowhere" in done.output
