"""Streams into push sources: real Redis streams, consumers that die, and events that come twice."""

import json
import os
import random
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import events as ev
import pytest
from event_samples import Direct, close, some_events
from events import Event
from feast import FeatureStore
from typer.testing import CliRunner

from hotfeast.server.cli import app
from hotfeast.server.consume import StreamConsumer, StreamOptions, open_source
from hotfeast.server.errors import RequestFailure
from hotfeast.server.local_redis import LocalRedis, free_port

STREAM = "purchases"


@pytest.fixture(scope="module")
def store(redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("streams")
    return ev.write_repository(folder, "streams", redis_server.address, "30d", most_ids=9000)


@pytest.fixture
def source(redis_server: LocalRedis) -> Iterator[Any]:
    client = redis_server.client()
    client.delete(STREAM, f"{STREAM}:rejected")
    yield client
    client.delete(STREAM, f"{STREAM}:rejected")


def entry(user_id: int, event: Event) -> dict[str, Any]:
    """An event as an entry has it; what is null is not there."""
    columns = {"user_id": user_id, **event._asdict(), "happened": event.time.isoformat()}
    return {
        name: value if isinstance(value, bytes) else str(value)
        for name, value in columns.items()
        if value is not None and name != "time"
    }


def add(source: Any, users: dict[int, list[Event]]) -> int:
    pipeline = source.pipeline(transaction=False)
    for user_id, events in users.items():
        for event in events:
            pipeline.xadd(STREAM, entry(user_id, event))
    return len(pipeline.execute())


def options(consumer: str, **changed: Any) -> StreamOptions:
    made: dict[str, Any] = {
        "stream": STREAM,
        "group": "features",
        "consumer": consumer,
        "push_source": "events",
        "rejected": f"{STREAM}:rejected",
        "batch": 50,
    }
    return StreamOptions(**(made | changed))


def consume(store: FeatureStore, source: Any, wanted: int, made: StreamOptions) -> StreamConsumer:
    """Runs a consumer until it has had so many entries, and has acknowledged all."""
    stop = threading.Event()

    def tell(consumed: Any) -> None:
        if sum(consumed.outcomes.values()) >= wanted and consumed.pending == 0:
            stop.set()

    consumer = StreamConsumer(store, made, source, tell=tell)
    timer = threading.Timer(30, stop.set)
    timer.start()
    consumer.run(stop)
    timer.cancel()
    return consumer


def test_what_a_stream_has_is_served_and_counted_once(store: FeatureStore, source: Any) -> None:
    generator = random.Random(4)
    users = {n: some_events(generator, 40, timedelta(days=20)) for n in range(6)}
    total = add(source, {n: events + events[:10] for n, events in users.items()})
    consumer = consume(store, source, total, options("one"))
    assert consumer.consumed.outcomes == {"written": total - 60, "duplicate": 60}
    assert (consumer.consumed.lag, consumer.consumed.pending) == (0, 0)
    direct = Direct(store)
    at = max(event.time for events in users.values() for event in events)
    for n, events in users.items():
        close(direct.read(n, at), ev.expected(events, at))


def test_what_a_dead_consumer_had_is_taken_over(store: FeatureStore, source: Any) -> None:
    events = [Event(ev.START + timedelta(days=25, minutes=i), f"t{i}", 1.0) for i in range(40)]
    add(source, {50: events})
    source.xgroup_create(STREAM, "features", id="0")
    # One reads some, stores a part of them, and is gone.
    taken = source.xreadgroup("features", "dead", {STREAM: ">"}, 15)
    assert taken
    Direct(store).push(50, events[:7])
    time.sleep(1.1)
    consumer = consume(store, source, 40, options("heir", claim_after=1.0))
    assert consumer.consumed.claimed == 15
    made = Direct(store).read(50, events[-1].time)
    assert made is not None
    assert made["events_1h"] == 40
    assert source.xpending(STREAM, "features")["pending"] == 0


def test_a_consumer_that_is_started_again_goes_on(store: FeatureStore, source: Any) -> None:
    events = [Event(ev.START + timedelta(days=25, minutes=i), f"g{i}", 1.0) for i in range(20)]
    add(source, {51: events})
    source.xgroup_create(STREAM, "features", id="0")
    source.xreadgroup("features", "same", {STREAM: ">"}, 8)
    consumer = consume(store, source, 20, options("same"))
    assert consumer.consumed.claimed == 0
    made = Direct(store).read(51, events[-1].time)
    assert made is not None
    assert made["events_1h"] == 20


def test_what_cannot_be_stored_goes_to_a_stream_with_the_reason(
    store: FeatureStore, source: Any
) -> None:
    at = ev.START + timedelta(days=25)
    good = entry(52, Event(at, "fine", 2.0, 3, "a"))
    source.xadd(STREAM, good)
    source.xadd(STREAM, {"json": json.dumps(good | {"event_id": 7, "amount": 2.5, "more": [1]})})
    source.xadd(STREAM, good | {"event_id": "x", "units": "many"})
    source.xadd(STREAM, {"json": "{"})
    source.xadd(STREAM, {name: text for name, text in good.items() if name != "event_id"})
    source.xadd(STREAM, good | {"event_id": "y", "happened": "yesterday"})
    consumer = consume(store, source, 6, options("one"))
    assert consumer.consumed.outcomes == {"written": 2, "unreadable": 3, "rejected": 1}
    reasons = {content[b"_reason"].decode() for _, content in source.xrange(f"{STREAM}:rejected")}
    assert len(reasons) == 4
    assert any("'units' is 'many'" in reason for reason in reasons)
    assert any("'event_id' is null" in reason for reason in reasons)
    made = Direct(store).read(52, at)
    assert made is not None
    assert made["amount_7d"] == 4.5


def test_entries_wait_while_redis_is_away(
    redis_server: LocalRedis, store: FeatureStore, source: Any
) -> None:
    add(source, {53: [Event(ev.START + timedelta(days=25), "w", 1.0)]})
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    stop = threading.Event()
    consumer = StreamConsumer(store, options("one"), source, redis_url=nowhere)
    thread = threading.Thread(target=consumer.run, args=(stop,), daemon=True)
    thread.start()
    time.sleep(1)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert source.xpending(STREAM, "features")["pending"] == 1
    assert consume(store, source, 1, options("one")).consumed.outcomes == {"written": 1}


def test_a_user_who_may_not_ask_for_a_cluster_reads_all_the_same(
    redis_server: LocalRedis, source: Any
) -> None:
    source.acl_setuser("few", enabled=True, passwords=["+pw"], commands=["+xread"], keys=["*"])
    try:
        client = open_source(f"redis://few:pw@{redis_server.address}")
        assert client.xread({STREAM: "0"}) in ([], {})
    finally:
        source.acl_deluser("few")


def test_an_unknown_push_source_is_said(store: FeatureStore, source: Any) -> None:
    with pytest.raises(RequestFailure, match="event"):
        StreamConsumer(store, options("one", push_source="event"), source)


def test_the_command_consumes_until_it_is_told_to_stop(
    redis_server: LocalRedis, store: FeatureStore, source: Any
) -> None:
    add(source, {54: [Event(ev.START + timedelta(days=25), "c", 1.5)]})
    page = free_port()
    pages = []

    def look_and_stop() -> None:
        text = ""
        for _ in range(200):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{page}/metrics") as answer:
                    text = answer.read().decode()
            except OSError:
                text = ""
            if "hotfeast_consumed_rows_total{" in text:
                break
            time.sleep(0.05)
        pages.append(text)
        os.kill(os.getpid(), signal.SIGTERM)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, lambda *_: None)
    looking = threading.Thread(target=look_and_stop)
    looking.start()
    try:
        done = CliRunner().invoke(
            app,
            [
                "consume", "events", "--stream", STREAM, "--repo", str(store.repo_path),
                "--metrics", f"127.0.0.1:{page}", "--consumer", "command",
            ],
            env={"HOTFEAST_FROM": f"redis://{redis_server.address}"},
        )  # fmt: skip
    finally:
        looking.join()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert done.exit_code == 0, done.output
    assert "1 written" in done.output
    assert re.search(r'consumed_rows_total\{.*outcome="written".*\} 1.0', pages[0])
    assert 'hotfeast_consume_lag_entries{group="hotfeast",stream="purchases"} 0.0' in pages[0]
