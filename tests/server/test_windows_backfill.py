"""Tiles that are filled in from the batch source, beside pushes and by themselves."""

import random
import threading
from datetime import timedelta
from pathlib import Path

import events as ev
import pytest
from event_samples import Direct, close, some_events
from events import Event
from feast import FeatureStore
from typer.testing import CliRunner

from hotfeast.server.cli import app
from hotfeast.server.errors import RequestFailure
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.materialize import materialize
from hotfeast.server.windows.backfill import backfill

DAY = timedelta(days=1)
END = ev.START + 40 * DAY


def repository(
    redis_server: LocalRedis, folder: Path, project: str, users: dict[int, list[Event]]
) -> tuple[FeatureStore, Direct]:
    store = ev.write_repository(folder, project, redis_server.address)
    ev.write_events(folder, users)
    return store, Direct(store)


def test_what_is_filled_in_is_what_the_definition_says(
    redis_server: LocalRedis, tmp_path: Path
) -> None:
    generator = random.Random(11)
    users = {n: some_events(generator, 70, 38 * DAY) for n in range(20)}
    users[20] = [
        Event(END - DAY + timedelta(seconds=i), str(i), 1.0, 1, f"{i}") for i in range(999)
    ]
    twice = {n: events + events[:9] for n, events in users.items()}
    store, direct = repository(redis_server, tmp_path, "filled", twice)
    (done,) = backfill(store, ["activity"])
    assert (done.filled, done.before, done.failed) == (21, 0, 0)
    assert done.until == max(event.time for events in users.values() for event in events)
    for n, events in users.items():
        wanted = ev.expected(events, END)
        made = direct.read(n, END)
        if n == 20 and made is not None and wanted is not None:
            assert made["pages_30d"] == pytest.approx(999, rel=0.08)
            wanted["pages_30d"] = made["pages_30d"]
        close(made, wanted)
    # Once more, nothing is to be done; and what the source has is not counted again.
    (again,) = backfill(store, ["activity"])
    assert (again.filled, again.before) == (0, 21)
    assert direct.push(3, users[3][-3:]) == ["stale"] * 3
    close(direct.read(3, END), ev.expected(users[3], END))


def test_pushes_before_beside_and_after_are_counted_once(
    redis_server: LocalRedis, tmp_path: Path
) -> None:
    generator = random.Random(12)
    users = {n: some_events(generator, 60, 30 * DAY) for n in range(14)}
    # The source has all; from somewhere on, each user's events are pushed too.
    store, direct = repository(redis_server, tmp_path, "beside", users)
    pushed = {n: users[n][generator.randrange(10, 60) :] for n in range(11)}
    threads = [
        threading.Thread(target=push_all, args=(direct, n, pushed[n]), daemon=True)
        for n in list(pushed)[:6]
    ]
    for n in list(pushed)[6:]:
        push_all(direct, n, pushed[n])
    for thread in threads:
        thread.start()
    # Up to the last event that was not pushed, at least.
    (done,) = backfill(store, ["activity"], END)
    for thread in threads:
        thread.join()
    assert done.failed == 0
    for n, events in users.items():
        # Of a user whose pushes came after, those are in the source as well and refused.
        close(direct.read(n, END), ev.expected(events, END))
    later = {n: [Event(END + timedelta(minutes=n), "later", 2.0, 2, "z")] for n in users}
    for n, events in later.items():
        assert direct.push(n, events) == ["written"]
        close(direct.read(n, END + DAY), ev.expected(users[n] + events, END + DAY))


def push_all(direct: Direct, user_id: int, events: list[Event]) -> None:
    for start in range(0, len(events), 5):
        direct.push(user_id, events[start : start + 5])


def test_a_cut_within_a_tile_of_all_that_is_kept(redis_server: LocalRedis, tmp_path: Path) -> None:
    at = ev.START + 20 * DAY
    before = [
        Event(at + timedelta(microseconds=i), f"b{i}", amount, units, page)
        for i, (amount, units, page) in enumerate(
            [(5.5, -(2**62), "a"), (None, 2**62, "b"), (-1.25, 7, None), (0.1, None, "c")]
        )
    ]
    after = [
        Event(at + timedelta(milliseconds=1 + i), f"a{i}", amount, units, page)
        for i, (amount, units, page) in enumerate(
            [(0.2, 2**62, "c"), (99.0, -(2**62), "d"), (None, None, None)]
        )
    ]
    many = [
        Event(at + timedelta(microseconds=i), f"{i}", None, None, f"page {i}") for i in range(300)
    ]
    more = [
        Event(at + timedelta(milliseconds=i), f"m{i}", None, None, f"page {i}")
        for i in range(1, 300)
    ]
    users = {1: before + after, 2: many + more, 3: before, 4: after}
    store, direct = repository(redis_server, tmp_path, "cut", users)
    direct.push(1, after)
    direct.push(2, more)
    backfill(store, ["activity"], END)
    now = at + timedelta(minutes=2)
    for n in (1, 3, 4):
        close(direct.read(n, now), ev.expected(users[n], now))
    made = direct.read(2, now)
    assert made is not None
    assert made["events_1h"] == 599
    assert made["pages_1h"] == pytest.approx(300, rel=0.08)


def test_what_cannot_be_filled_in_is_said(redis_server: LocalRedis, tmp_path: Path) -> None:
    store, _ = repository(redis_server, tmp_path, "refused", {1: [Event(END, "a")]})
    with pytest.raises(RequestFailure, match="materialize it"):
        backfill(store, ["profile"])
    with pytest.raises(RequestFailure, match="hotfeast backfill"):
        materialize(store, ev.START, END, ["activity"])
    summary = materialize(store, ev.START - DAY, END)
    assert [(view.view, view.state) for view in summary.views] == [
        ("activity", "skipped"), ("profile", "done"),
    ]  # fmt: skip
    done = CliRunner().invoke(app, ["backfill", "--repo", str(tmp_path), "-v", "nowhere"])
    assert done.exit_code == 2
    assert "nowhere" in done.output
    done = CliRunner().invoke(app, ["backfill", "--repo", str(tmp_path)])
    assert done.exit_code == 0
    assert "activity" in done.output
