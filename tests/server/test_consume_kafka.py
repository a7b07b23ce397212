"""Topics into push sources: Kafka's protocol over sockets, groups, and events that come twice."""

import itertools
import json
import os
import random
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import events as ev
import pytest
import trustme
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from event_samples import Direct, close, some_events
from events import Event
from feast import FeatureStore
from kafka_brokers import PARTITIONS, Brokers, guarded, run_brokers
from typer.testing import CliRunner

from hotfeast.server.cli import app
from hotfeast.server.cli_consume import read_config
from hotfeast.server.consume_kafka import (
    TopicConsumer,
    TopicOptions,
    TopicRefused,
    parse_servers,
)
from hotfeast.server.consume_rows import Consumed
from hotfeast.server.local_redis import LocalRedis, free_port

_NUMBERS = itertools.count()
AT = ev.START + timedelta(days=25)
QUICK = {"session.timeout.ms": "1500", "heartbeat.interval.ms": "50", "fetch.wait.max.ms": "20"}


@pytest.fixture(scope="module")
def store(redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("topics")
    return ev.write_repository(folder, "topics", redis_server.address, "30d", most_ids=9000)


@pytest.fixture(scope="module")
def brokers() -> Iterator[Brokers]:
    with run_brokers() as running:
        yield running


@pytest.fixture
def topic() -> str:
    return f"purchases{next(_NUMBERS)}"


def message(user_id: int, event: Event) -> dict[str, Any]:
    """An event as a message has it; what is null is not there."""
    columns = {"user_id": user_id, **event._asdict(), "happened": event.time}
    return {n: _plain(value) for n, value in columns.items() if value is not None and n != "time"}


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat()
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def produce(brokers: Brokers, topic: str, values: list[Any]) -> None:
    producer = Producer({"bootstrap.servers": brokers.servers})
    for number, value in enumerate(values):
        body = value if isinstance(value, bytes | None) else json.dumps(value).encode()
        producer.produce(topic, body, key=b"k%d" % number, partition=number % PARTITIONS)
    assert producer.flush(10) == 0


def options(brokers: Brokers, topic: str, **changed: Any) -> TopicOptions:
    made: dict[str, Any] = {
        "topic": topic,
        "servers": brokers.servers,
        "group": "features",
        "consumer": "one",
        "push_source": "events",
        "batch": 50,
        "rejected": f"{topic}.rejected",
        "config": QUICK,
    }
    return TopicOptions(**(made | changed))


class Running:
    """A consumer in a thread of its own."""

    def __init__(self, store: FeatureStore, made: TopicOptions, **more: Any) -> None:
        self._stop = threading.Event()
        self.consumer = TopicConsumer(store, made, **more)
        self._thread = threading.Thread(target=self.consumer.run, args=(self._stop,), daemon=True)
        self._thread.start()

    @property
    def consumed(self) -> Consumed:
        return self.consumer.consumed

    @property
    def count(self) -> int:
        return sum(self.consumed.outcomes.values())

    def stop(self) -> Consumed:
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.consumed


def wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not until():
        assert time.monotonic() < end
        time.sleep(0.01)


def committed(brokers: Brokers, topic: str, group: str = "features") -> list[int]:
    """The offset of each partition; -1 where there is none."""
    asking = Consumer({"bootstrap.servers": brokers.servers, "group.id": group})
    found = asking.committed([TopicPartition(topic, number) for number in range(PARTITIONS)], 10)
    asking.close()
    return [max(-1, each.offset) for each in found]


def test_what_a_topic_has_is_served_and_counted_once(
    store: FeatureStore, brokers: Brokers, topic: str
) -> None:
    generator = random.Random(4)
    users = {n: some_events(generator, 20, timedelta(days=20)) for n in range(4)}
    bodies = [message(n, event) for n, events in users.items() for event in events + events[:10]]
    produce(brokers, topic, bodies)
    running = Running(store, options(brokers, topic))
    wait(lambda: running.count == len(bodies) and running.consumed.lag == 0)
    assert running.stop().outcomes == {"written": 80, "duplicate": 40}
    assert running.consumed.partition_lags == dict.fromkeys(range(PARTITIONS), 0)
    assert committed(brokers, topic) == [len(bodies) // PARTITIONS] * PARTITIONS
    direct = Direct(store)
    at = max(event.time for events in users.values() for event in events)
    for n, events in users.items():
        close(direct.read(n, at), ev.expected(events, at))


def test_nothing_is_committed_before_it_is_stored(
    store: FeatureStore, brokers: Brokers, topic: str
) -> None:
    produce(brokers, topic, [message(53, Event(AT, f"w{i}", 1.0)) for i in range(PARTITIONS)])
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    running = Running(store, options(brokers, topic), redis_url=nowhere)
    wait(lambda: running.consumed.pending > 0)
    assert running.stop().outcomes == {}
    assert committed(brokers, topic) == [-1] * PARTITIONS
    again = Running(store, options(brokers, topic))
    wait(lambda: again.count == PARTITIONS)
    assert again.stop().outcomes == {"written": PARTITIONS}
    assert committed(brokers, topic) == [1] * PARTITIONS


def test_members_of_a_group_share_partitions_and_take_over(
    store: FeatureStore, brokers: Brokers, topic: str
) -> None:
    events = [Event(AT + timedelta(minutes=i), f"t{i}", 1.0) for i in range(40)]
    bodies = [message(50, event) for event in events]
    produce(brokers, topic, bodies[:12])
    one = Running(store, options(brokers, topic))
    wait(lambda: one.consumed.lag == 0)
    two = Running(store, options(brokers, topic, consumer="two"))
    wait(
        lambda: (
            len(two.consumed.partition_lags) > 0 and len(one.consumed.partition_lags) < PARTITIONS
        )
    )
    assert one.consumed.partition_lags.keys().isdisjoint(two.consumed.partition_lags)
    produce(brokers, topic, bodies[12:30])
    wait(lambda: one.count + two.count >= 30 and two.count > 0)
    one.stop()
    produce(brokers, topic, bodies[30:])
    wait(lambda: len(two.consumed.partition_lags) == PARTITIONS and two.consumed.lag == 0)
    two.stop()
    assert sum(committed(brokers, topic)) == 40
    made = Direct(store).read(50, events[-1].time)
    assert made is not None
    assert made["events_1h"] == 40


def test_what_cannot_be_stored_goes_to_a_topic_with_the_reason(
    store: FeatureStore, brokers: Brokers, topic: str
) -> None:
    good = message(52, Event(AT, "fine", 2.0, 3, "a"))
    bad = [
        good | {"event_id": "x", "units": "many"},
        b"{",
        b"[1]",
        b"\xff",
        None,
        {name: value for name, value in good.items() if name != "event_id"},
        good | {"event_id": {"of": 1}},
    ]
    produce(brokers, topic, [good, good | {"event_id": 7, "amount": 2.5, "more": [1]}, *bad])
    running = Running(store, options(brokers, topic))
    wait(lambda: running.count == 9 and running.consumed.pending == 0)
    assert running.stop().outcomes == {"written": 2, "unreadable": 6, "rejected": 1}
    assert committed(brokers, topic) == [3, 2, 2, 2]
    reading = Consumer({"bootstrap.servers": brokers.servers, "group.id": "looking", **QUICK})
    reading.assign([TopicPartition(f"{topic}.rejected", n, 0) for n in range(PARTITIONS)])
    found = reading.consume(7, 10)
    reading.close()
    # What a message was is kept, with where it was.
    about: dict[Any, dict[str, Any]] = {each.key(): dict(each.headers() or ()) for each in found}
    assert about.keys() == {b"k%d" % n for n in range(2, 9)}
    assert {n: (about[b"k%d" % n]["hotfeast.partition"], about[b"k%d" % n]["hotfeast.offset"])
            for n in (2, 7)} == {2: (b"2", b"0"), 7: (b"3", b"1")}  # fmt: skip
    assert {each.value() for each in found} >= {b"{", b"[1]", b"\xff", None}
    reasons = {key: headers["hotfeast.reason"].decode() for key, headers in about.items()}
    assert "'units' is 'many'" in reasons[b"k2"]
    assert reasons[b"k4"] == "the message's value is no JSON object"
    assert reasons[b"k6"] == "the message has no value"
    assert "'event_id' is null" in reasons[b"k7"]
    made = Direct(store).read(52, AT)
    assert made is not None
    assert made["amount_7d"] == 4.5


def test_a_message_is_not_committed_before_the_topic_of_rejected_ones_has_it(
    store: FeatureStore, brokers: Brokers, topic: str
) -> None:
    brokers.refuse(f"{topic}.rejected", KafkaError.TOPIC_AUTHORIZATION_FAILED)
    produce(brokers, topic, [b"{"])
    running = Running(store, options(brokers, topic))
    wait(lambda: running.count == 1)
    assert running.stop().pending == 1
    assert committed(brokers, topic) == [-1] * PARTITIONS
    brokers.refuse(f"{topic}.rejected", 0)


def test_a_new_group_may_begin_with_what_comes(
    store: FeatureStore, brokers: Brokers, topic: str
) -> None:
    def begin(group: str) -> Running:
        return Running(store, options(brokers, topic, group=group, begin_new=True))

    produce(brokers, topic, [message(54, Event(AT, f"old{i}", 1.0)) for i in range(PARTITIONS)])
    first = begin("late")
    wait(lambda: first.consumed.lag == 0)
    assert first.stop().outcomes == {}
    assert committed(brokers, topic, "late") == [1] * PARTITIONS
    # What comes while no member is there is not left out.
    produce(brokers, topic, [message(54, Event(AT, f"new{i}", 1.0)) for i in range(2)])
    second = begin("late")
    wait(lambda: second.count == 2)
    assert second.stop().outcomes == {"written": 2}


def test_what_cannot_start_is_said(store: FeatureStore, brokers: Brokers, topic: str) -> None:
    with pytest.raises(ValueError, match=r"enable\.auto\.commit cannot be configured"):
        TopicConsumer(store, options(brokers, topic, config={"enable.auto.commit": "true"}))
    with pytest.raises(ValueError, match=r'"no\.such"'):
        TopicConsumer(store, options(brokers, topic, config={"no.such": "1"}))
    with pytest.raises(ValueError, match="no password"):
        parse_servers("kafka://me:secret@127.0.0.1:9092")
    with pytest.raises(ValueError, match="HOST:PORT"):
        parse_servers("kafka://127.0.0.1:9092/purchases")
    assert parse_servers("kafka://a:1,b:2") == "a:1,b:2"
    brokers.refuse(topic, KafkaError.UNKNOWN_TOPIC_OR_PART)
    with pytest.raises(TopicRefused, match=f"{topic}: .*Unknown topic"):
        TopicConsumer(store, options(brokers, topic)).run(threading.Event())
    brokers.refuse(topic, 0)


def test_brokers_with_tls_and_passwords(
    store: FeatureStore, brokers: Brokers, topic: str, authority: tuple[trustme.CA, Path],
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    ca, path = authority
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    elsewhere = tmp_path / "elsewhere.pem"
    trustme.CA().cert_pem.write_to_path(str(elsewhere))
    config = QUICK | {
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(path),
        "sasl.mechanism": "PLAIN",
        "sasl.username": "me",
        "sasl.password": "s3cret",
    }
    produce(brokers, topic, [message(56, Event(AT, f"t{i}", 1.0)) for i in range(PARTITIONS)])
    with guarded(brokers, context, "s3cret") as servers:
        for wrong, why in (
            ({"ssl.ca.location": str(elsewhere)}, "certificate verify failed"),
            ({"sasl.password": "s3cret?"}, "uthentication"),
        ):
            made = options(brokers, topic, servers=servers, config=config | wrong)
            with pytest.raises(TopicRefused, match=why):
                TopicConsumer(store, made).run(threading.Event())
        running = Running(store, options(brokers, topic, servers=servers, config=config))
        wait(lambda: running.count == PARTITIONS)
        assert running.stop().outcomes == {"written": PARTITIONS}
    assert committed(brokers, topic) == [1] * PARTITIONS
    assert "s3cret" not in caplog.text + "".join(capfd.readouterr())


def test_secrets_are_read_and_not_told(brokers: Brokers, tmp_path: Path) -> None:
    file = tmp_path / "kafka.properties"
    file.write_text("# of the broker\n\nsasl.username=me\nsasl.password = a=b\n")
    config = read_config(["sasl.username=you"], file)
    assert config == {"sasl.username": "you", "sasl.password": "a=b"}
    assert "a=b" not in repr(options(brokers, "topic", config=config))
    arguments = ["consume", "events", "--stream", "s", "--from", "kafka://127.0.0.1:1"]
    for more, told in (
        (["--kafka-config", "sasl.password=secretive"], "put it into --kafka-config-file"),
        (["--kafka-config", "ssl.key.pem=secretive"], "put it into --kafka-config-file"),
        (["--kafka-config", "secretive"], "number 1 is not KEY=VALUE"),
        (["--claim-after", "5"], "Kafka's brokers say it"),
        (["--kafka-config", "a=secretive", "--from", "redis://127.0.0.1"], "only for"),
    ):
        done = CliRunner().invoke(app, [*arguments, *more], env={"COLUMNS": "200"})
        assert done.exit_code == 2
        assert told in done.output
        assert "secretive" not in done.output


def test_the_command_consumes_a_topic_until_it_is_told_to_stop(
    store: FeatureStore, brokers: Brokers, topic: str
) -> None:
    produce(brokers, topic, [message(55, Event(AT, "c", 1.5))])

    def look_and_stop() -> None:
        end = time.monotonic() + 20
        while committed(brokers, topic, "commanded")[0] < 1 and time.monotonic() < end:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, lambda *_: None)
    looking = threading.Thread(target=look_and_stop)
    looking.start()
    try:
        done = CliRunner().invoke(
            app,
            [
                "consume", "events", "--stream", topic, "--from", f"kafka://{brokers.servers}",
                "--repo", str(store.repo_path), "--group", "commanded",
                "--kafka-config", "fetch.wait.max.ms=20",
            ],
        )  # fmt: skip
    finally:
        looking.join()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert done.exit_code == 0, done.output
    assert "1 written" in done.output
