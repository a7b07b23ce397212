"""Windowed features: events that are pushed, and what their windows hold by definition."""

import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import events as ev
import pyarrow as pa
import pytest
import redis
from event_samples import Direct, close, some_events
from events import Event
from feast import FeatureStore, FeatureView, PushSource
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from served import Served, serve, stop

from hotfeast.hotpath.columns import ValueColumn
from hotfeast.hotpath.events import hash_column
from hotfeast.hotpath.tiles import estimate_distinct
from hotfeast.hotpath.writes import OUTCOMES
from hotfeast.server.clock import Clock
from hotfeast.server.gateway import Settings
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.offline import OfflineWriter
from hotfeast.server.push_plan import Destinations
from hotfeast.server.push_rows import ONLINE, PushedRows, RowPusher
from hotfeast.server.redis_io import Lanes, RedisWriter
from hotfeast.server.redis_pools import connection_pool
from hotfeast.server.registry import read_definitions

DAY = timedelta(days=1)
END = ev.START + 40 * DAY


@pytest.fixture(scope="module")
def store(redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("windows")
    return ev.write_repository(folder, "windows", redis_server.address)


@pytest.fixture(scope="module")
def served(store: FeatureStore) -> Iterator[Served]:
    made = serve(store, Settings(repo=Path(store.repo_path), as_of=END))
    yield made
    stop(made)


@pytest.fixture(scope="module")
def direct(store: FeatureStore) -> Direct:
    return Direct(store)


def test_a_gateway_answers_what_the_definition_says(served: Served) -> None:
    generator = random.Random(5)
    users = {n: some_events(generator, 60, 39 * DAY) for n in range(1, 20)}
    # The last one is of long ago, and one is of the moment that is asked for.
    users[19] = [Event(ev.START - 9 * DAY, "old", 1.0, 1, "a")]
    users[18] = [Event(END - 9 * DAY, "x", 2.0, 2, "b"), Event(END, "y", 4.0, 4, "c")]
    users[17] = [Event(END - 12 * DAY, "x", 2.0, 2, "b")]
    for start in range(0, 60, 20):
        part = {n: events[start : start + 20] for n, events in users.items()}
        table = pa.Table.from_pandas(ev.frame(part), preserve_index=False)
        pushed = served.client.push(table, push_source="events")
        assert set(pushed.outcomes) == {"written"}
    keys = [*users, 999, 3]
    answer = served.client.get_online_features(features="windows", entities={"user_id": keys})
    for row, user_id in enumerate(keys):
        wanted = ev.expected(users.get(user_id, []), END)
        made = {name: answer.to_dict()[name][row] for name, *_ in ev.FEATURES}
        statuses = {answer.statuses[name][row] for name, *_ in ev.FEATURES}
        if wanted is None:
            assert statuses == {"NOT_FOUND"}
        elif user_id == 17:
            assert statuses == {"OUTSIDE_MAX_AGE"}
        else:
            assert statuses <= {"PRESENT", "NULL_VALUE"}
            close(made, wanted)


def test_statuses_of_feasts_server(store: FeatureStore, direct: Direct) -> None:
    """Asked for, a row that is not there, or is too old, is told as Feast's Python server does."""
    old = Event(END - 12 * DAY, "x", 2.0, 2, "b")
    assert direct.push(61, [old]) == ["written"]
    names = ["amount_7d", "units_30d", "page_last_30d"]
    served = serve(store, Settings(repo=Path(store.repo_path), as_of=END, status_mode="feast"))
    try:
        answer = served.client.get_online_features(
            [f"activity:{name}" for name in names], {"user_id": [61, 998]}
        )
    finally:
        stop(served)
    assert {name: answer.to_dict()[name] for name in names} == {
        "amount_7d": [0.0, None], "units_30d": [2, None], "page_last_30d": ["b", None],
    }  # fmt: skip
    assert {status for name in names for status in answer.statuses[name]} == {"PRESENT"}


def test_windows_stand_beside_ordinary_views_and_under_aliases(served: Served) -> None:
    events = [Event(END - timedelta(minutes=5), "one", 2.5, 3, "a")]
    for user_id in (71, 72):
        table = pa.Table.from_pandas(ev.frame({user_id: events}), preserve_index=False)
        served.client.push(table, push_source="events").raise_for_failures()
    served.client.push(
        {"user_id": [71], "city": ["Ulm"], "event_timestamp": [END - DAY]}, push_source="profiles"
    ).raise_for_failures()
    answer = served.client.get_online_features(
        features="mixed", entities={"user_id": [71, 72], "friend_id": [72, 73]}
    )
    values = answer.to_dict()
    assert values["city"] == ["Ulm", None]
    assert values["amount_7d"] == [2.5, 2.5]
    assert values["events_1h"] == [1, 1]
    assert values["pages_1h"] == [1, None]
    assert answer.statuses["pages_1h"] == ["PRESENT", "NOT_FOUND"]


def test_a_stream_of_pushes_takes_events(served: Served) -> None:
    batches = [
        pa.Table.from_pandas(
            ev.frame({74: [Event(END - timedelta(minutes=i), f"{i}", 1.0)]}), preserve_index=False
        )
        for i in (3, 2, 1, 2)
    ]
    outcomes = [p.outcomes for p in served.client.push_stream(batches, push_source="events")]
    assert outcomes == [["written"], ["written"], ["written"], ["duplicate"]]
    answer = served.client.get_online_features(features="windows", entities={"user_id": [74]})
    assert answer.to_dict()["events_1h"] == [3]


def test_an_event_is_a_duplicate_if_all_views_have_counted_it(
    redis_server: LocalRedis, tmp_path: Path
) -> None:
    store = ev.write_repository(tmp_path, "duplicates", redis_server.address)
    activity = store.get_feature_view("activity")
    twin = FeatureView(
        name="twin",
        entities=[ev.user],
        schema=activity.schema,
        source=PushSource(name="events", batch_source=activity.batch_source),
        tags=activity.tags,
    )
    pushes: list[tuple[list[str], list[tuple[str, str, int]]]] = []
    for views in ([activity], [twin], []):
        store.apply(views)
        pushes.append(push_and_count(store, Event(END, "a")))
    assert pushes == [
        (["written"], [("activity", "written", 1)]),
        (["written"], [("activity", "duplicate", 1), ("twin", "written", 1)]),
        (["duplicate"], [("activity", "duplicate", 1), ("twin", "duplicate", 1)]),
    ]


def push_and_count(
    store: FeatureStore, event: Event
) -> tuple[list[str], list[tuple[str, str, int]]]:
    """The outcome of an event in all views that its source feeds, and what is counted of it."""
    counted: list[tuple[str, str, int]] = []

    def count(view: str, outcome: str, rows: int) -> None:
        counted.append((view, outcome, rows))

    pool = connection_pool(store.config, None, 5)
    assert isinstance(pool, redis.ConnectionPool)
    writer = RedisWriter(Lanes(pool), 5)
    pusher = RowPusher(writer, OfflineWriter(store), Clock(), 0, count=count)
    table = pa.Table.from_pandas(ev.frame({1: [event]}), preserve_index=False)
    columns = dict(zip(table.column_names, table.columns, strict=True))
    destination = Destinations(0).find(read_definitions(store), True, "events", True)
    pushed = pusher.push(destination, ONLINE, PushedRows(columns), lambda: None)
    return [OUTCOMES[number] for number in pushed.outcomes], counted


def test_wrong_events_are_rejected_by_name(served: Served) -> None:
    # A text may have 255 bytes.
    long, too_long = "ä" * 127 + "x", "ä" * 128
    table = pa.table(
        {
            "user_id": [60] * 5,
            "happened": pa.array(
                [END, END, datetime(1969, 1, 1), END, END], pa.timestamp("us", "UTC")
            ),
            "event_id": ["a", None, "c", "d", "e"],
            "amount": ["1", "x", "1", "1", "1"],
            "units": [1] * 5,
            "page": [long, "a", "a", too_long, "a"],
            "token": [b"a", b"a", b"a", b"a", b"a" * 256],
            "member": [True] * 5,
            "seen": pa.array([END] * 5),
        }
    )
    with pytest.raises(Exception, match="'amount'"):
        served.client.push(table, push_source="events")
    table = table.set_column(3, "amount", pa.array([1.0] * 5))
    pushed = served.client.push(table, push_source="events")
    assert pushed.outcomes == ["written", *["rejected"] * 4]
    assert [(r.field, r.rule) for r in pushed.rejections] == [
        ("event_id", "not_null"), ("happened", "timestamp"), ("page", "max_length"),
        ("token", "max_length"),
    ]  # fmt: skip
    assert "max_length wants at most 255 bytes" in pushed.rejections[2].message
    answer = served.client.get_online_features(features="windows", entities={"user_id": [60]})
    assert answer.to_dict()["page_last_1h"] == [long]


def test_every_order_within_the_lateness_gives_the_same(
    redis_server: LocalRedis, tmp_path: Path
) -> None:
    store = ev.write_repository(tmp_path, "orders", redis_server.address, "30d", most_ids=65535)
    direct = Direct(store)
    generator = random.Random(9)
    for user_id in range(8):
        events = some_events(generator, 80, 25 * DAY)
        at = max(e.time for e in events) + generator.choice([timedelta(0), timedelta(hours=3)])
        sent = events + generator.sample(events, 40)
        generator.shuffle(sent)
        # Four at a time, each with several calls.
        parts = [sent[i::4] for i in range(4)]
        outcomes: list[str] = []
        threads = [
            threading.Thread(target=send, args=(direct, user_id, part, outcomes)) for part in parts
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        close(direct.read(user_id, at), ev.expected(events, at))
        # Whoever came first has counted an event, and nobody else.
        assert {n: outcomes.count(n) for n in set(outcomes)} == {"written": 80, "duplicate": 40}


def send(direct: Direct, user_id: int, events: list[Event], outcomes: list[str]) -> None:
    for start in range(0, len(events), 7):
        outcomes += direct.push(user_id, events[start : start + 7])


SENDER = """
import socket, sys
server = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
replies, told, out = server.makefile("rb"), sys.stdin.buffer, sys.stdout.buffer
calls = told.read(int(told.readline())).split(b"NEXT CALL")
out.write(b"ready\\n")
out.flush()
told.read(1)
for call in calls:
    server.sendall(call)
    size = replies.readline()
    out.write(size + replies.read(int(size[1:]) + 2) + b"NEXT CALL")
"""
"""A process that sends what a gateway would, call after call, once it is told to."""


def test_processes_that_send_the_same_events_at_once_count_each_once(
    redis_server: LocalRedis, direct: Direct
) -> None:
    generator = random.Random(13)
    events = some_events(generator, 150, timedelta(minutes=59))
    direct.client.script_load(direct.encode(400, events[:1]).batch.script)
    counted: Counter[str] = Counter()
    senders = []
    with ExitStack() as stack:
        for _ in range(4):
            order = generator.sample(events, len(events))
            batches = [direct.encode(400, order[i : i + 3]).batch for i in range(0, 150, 3)]
            for batch in batches:
                batch.begin()
            calls = b"NEXT CALL".join(batch.next_portion() for batch in batches)
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-S", "-c", SENDER, str(redis_server.port)],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                )
            )  # fmt: skip
            senders.append((process, batches))
            assert process.stdin is not None
            process.stdin.write(b"%d\n" % len(calls) + calls)
            process.stdin.flush()
        for process, _ in senders:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        for process, _ in senders:
            assert process.stdin is not None
            process.stdin.write(b"!")
            process.stdin.flush()
        for process, batches in senders:
            replies, _ = process.communicate(timeout=30)
            for batch, reply in zip(batches, replies.split(b"NEXT CALL"), strict=False):
                assert batch.feed(reply)
                counted.update(OUTCOMES[number] for number in batch.outcomes)
    assert counted == {"written": 150, "duplicate": 450}
    at = max(event.time for event in events)
    close(direct.read(400, at), ev.expected(events, at))


def test_events_that_are_too_late_are_told(direct: Direct) -> None:
    hour = timedelta(hours=1)
    at = ev.START + 30 * DAY
    assert direct.push(500, [Event(at, "now")]) == ["written"]
    late = [Event(at - hour, "late"), Event(at - hour + timedelta(microseconds=1), "just")]
    assert direct.push(500, late) == ["stale", "written"]
    again = direct.push(500, [Event(at, "now"), late[1], late[0]])
    assert again == ["duplicate", "duplicate", "stale"]
    made = direct.read(500, at)
    assert made is not None
    assert made["events_1h"] == 2


def test_more_ids_than_are_remembered_raise_the_floor_and_are_never_counted_twice(
    redis_server: LocalRedis, tmp_path: Path
) -> None:
    store = ev.write_repository(tmp_path, "few_ids", redis_server.address, "1h", most_ids=10)
    direct = Direct(store)
    events = [Event(ev.START + DAY + timedelta(minutes=i), str(i), 1.0) for i in range(40)]
    assert direct.push(1, events) == ["written"] * 40
    again = direct.push(1, events)
    assert again[:25] == ["stale"] * 25
    assert again[-5:] == ["duplicate"] * 5
    made = direct.read(1, events[-1].time)
    assert made is not None
    assert made["amount_1h"] == 40.0


def test_an_exact_window_refuses_more_events_than_it_holds(
    redis_server: LocalRedis, tmp_path: Path
) -> None:
    store = ev.write_repository(tmp_path, "few", redis_server.address, "1h", most_events=5)
    direct = Direct(store)
    events = [Event(ev.START + DAY + timedelta(seconds=i), str(i)) for i in range(7)]
    outcomes = direct.push(1, events)
    assert outcomes[:5] == ["written"] * 5
    assert "hotfeast.most_events" in outcomes[5]
    later = Event(ev.START + DAY + timedelta(minutes=9), "later")
    assert direct.push(1, [later]) == ["written"]


def test_tiles_expire_and_do_not_grow(direct: Direct) -> None:
    generator = random.Random(3)
    for day in range(90):
        at = ev.START + day * DAY
        direct.push(600, [Event(at + generator.random() * DAY, f"{day} {i}") for i in range(3)])
    key = direct.key(600)
    windows = direct.write.windows
    assert windows is not None
    left = direct.client.pttl(key) * 1000
    assert left <= windows.layout.retention + 10**6
    assert left > windows.layout.retention - 10**8
    # 31 days with 3 events each, of which all are kept apart where tiles are short.
    assert direct.client.hstrlen(key, "t") < 31 * 3 * 400


def test_whole_numbers_are_exact_and_a_sum_that_does_not_fit_is_null(direct: Direct) -> None:
    at = ev.START + 3 * DAY
    big = 2**63 - 1
    events = [
        Event(at - timedelta(seconds=i), f"big {i}", None, n)
        for i, n in enumerate([big, -(2**63), big, 5, -(2**53) - 1])
    ]
    direct.push(700, events)
    made = direct.read(700, at)
    assert made is not None
    assert made["units_30d"] == big - 2**63 + big + 5 - 2**53 - 1
    assert made["units_max_7d"] == big
    direct.push(700, [Event(at - timedelta(seconds=9), "more", None, big)])
    made = direct.read(700, at)
    assert made is not None
    assert made["units_30d"] is None
    assert made["units_max_7d"] == big


def test_infinities_stay_what_they_are(direct: Direct) -> None:
    at = ev.START + 3 * DAY
    direct.push(701, [Event(at, "a", float("inf")), Event(at, "b", 1.0)])
    made = direct.read(701, at)
    assert made is not None
    assert made["amount_7d"] == float("inf")


def test_windows_have_their_edges_to_the_microsecond(direct: Direct) -> None:
    """Of exact windows at both edges, and of others, whose first tile is whole."""
    micro, at = timedelta(microseconds=1), ev.START + 3 * DAY + timedelta(seconds=7, microseconds=9)
    edges = [at, *(at - timedelta(minutes=minutes) for minutes in (1, 5, 60))]
    edges.append(ev.window_start(at, "1h", ""))
    events = [
        Event(edge + step * micro, f"{edge} {step}", 1.0, 1, f"{edge} {step}")
        for edge in edges
        for step in (-1, 0, 1)
    ]
    before = [event for event in events if event.time <= at]
    assert set(direct.push(702, before)) == {"written"}
    close(direct.read(702, at), ev.expected(before, at))
    # One of the future, which only exact tiles tell from the present.
    assert direct.push(702, [events[2]]) == ["written"]
    for time in (at, at + micro):
        made, wanted = direct.read(702, time), ev.expected(events, time)
        assert made is not None
        assert wanted is not None
        assert made["events_1m_exact"] == wanted["events_1m_exact"] == 3
    close(made, wanted)


def test_estimates_of_distinct_values_err_by_what_is_said() -> None:
    """A standard error of 2.3%, for few as for many."""
    generator = random.Random(1)
    for count in (300, 2000, 5000, 8000, 30_000):
        errors = [
            estimate_distinct([generator.getrandbits(32) for _ in range(count)]) / count - 1
            for _ in range(60)
        ]
        assert abs(sum(errors) / 60) < 0.012
        assert (sum(error**2 for error in errors) / 60) ** 0.5 < 0.023 * 1.25


@pytest.mark.parametrize(("distinct", "bound"), [(256, 0.0), (257, 0.08), (1500, 0.08)])
def test_distinct_counts_are_exact_up_to_256_in_a_tile(
    direct: Direct, distinct: int, bound: float
) -> None:
    at = ev.START + 3 * DAY
    user_id = 800 + distinct
    # All of one tile of a day, and some values twice.
    events = [
        Event(at + timedelta(seconds=2 * i), f"{i}", None, None, f"page {i % distinct}")
        for i in range(distinct + 200)
    ]
    for start in range(0, len(events), 4000):
        assert set(direct.push(user_id, events[start : start + 4000])) == {"written"}
    made = direct.read(user_id, at + DAY)
    assert made is not None
    assert abs(made["pages_30d"] - distinct) <= bound * distinct


def test_hashes_of_distinct_values_stay_what_they_are() -> None:
    # They are stored.
    texts = ValueColumn.from_arrow(2, pa.array(["", "a", "page 12345", None]))
    numbers = ValueColumn.from_arrow(4, pa.array([0, 1, -1]))
    assert hash_column(texts) == [2165321806, 4083829845, 3849927894, None]
    assert hash_column(numbers) == [1630495905, 2123488349, 558021085]


def test_tiles_that_are_none_are_an_error(served: Served, direct: Direct) -> None:
    direct.push(900, [Event(END, "a", 1.0, 1, "a")])
    key = direct.key(900)
    blob = direct.client.hget(key, "t")
    for broken in (b"", b"\2" + blob[1:], blob[:-1], blob + b"\0", blob[:26] + b"\xff" + blob[27:]):
        with pytest.raises(ValueError, match="no tiles"):
            direct.tiles.read(broken, 0)
    # A text that is no UTF-8 would break the whole answer.
    with pytest.raises(ValueError, match="no tiles"):
        direct.tiles.read(blob.replace(b"a\1", b"\xff\1"), int(END.timestamp() * 10**6))
    direct.client.hset(key, "t", blob[:-3])
    with pytest.raises(Exception, match="tiles cannot be read"):
        served.client.get_online_features(features="windows", entities={"user_id": [900]})


def test_any_bytes_are_tiles_or_an_error(direct: Direct) -> None:
    direct.push(901, [Event(END, "a", 1.0, 1, "a"), Event(END, "b", 1.0, 1, "b")])
    blob = direct.client.hget(direct.key(901), "t")
    generator = random.Random(2)
    refused = 0
    for _ in range(3000):
        broken = bytearray(blob[: generator.randrange(len(blob) + 1)] + generator.randbytes(9))
        for _ in range(generator.randrange(4)):
            broken[generator.randrange(len(broken))] = generator.randrange(256)
        try:
            direct.tiles.read(bytes(broken), int(END.timestamp() * 10**6))
        except ValueError:
            refused += 1
    assert refused > 1000


class Machine(RuleBasedStateMachine):
    """Events of one entity that come late, again, in batches and after days of none, beside a model
    of them."""

    direct: Direct
    users = iter(range(10_000, 1_000_000))

    def __init__(self) -> None:
        super().__init__()
        self.user = next(Machine.users)
        self.counted: dict[str, Event] = {}
        self.sent: list[Event] = []
        self.newest = ev.START
        self.at = ev.START + DAY

    events = st.builds(
        lambda *values: values,
        st.integers(0, 130),
        st.integers(-1, 1),
        st.sampled_from([None, 0.1, 1e10, -2.5]),
        st.sampled_from([None, 1, -(2**60)]),
        st.sampled_from([None, "", "a", "ab", "b", "ä", "\U0001f600"]),
        st.sampled_from([None, b"\x7f", b"\x80", b"\0"]),
    )

    def take(self, event: Event) -> str:
        """What becomes of an event, by the rules."""
        self.sent.append(event)
        if event.time <= self.newest - timedelta(hours=1):
            return "stale"
        if event.event_id in self.counted:
            return "duplicate"
        self.counted[event.event_id] = event
        self.newest = max(self.newest, event.time)
        return "written"

    @rule(made=st.lists(events, min_size=1, max_size=5), step=st.integers(0, 100))
    def push(self, made: list[Any], step: int) -> None:
        self.at += timedelta(minutes=step)
        batch = [
            Event(
                self.at - timedelta(minutes=minutes, microseconds=micros),
                f"{len(self.sent) + i}",
                *values,
            )
            for i, (minutes, micros, *values) in enumerate(made)
        ]
        self.send(batch)

    @rule(days=st.sampled_from([1, 7, 23, 30, 31]))
    def let_days_pass(self, days: int) -> None:
        """To the microsecond: events of the start are at the edges of windows then."""
        self.at += days * DAY

    @rule(data=st.data())
    def again(self, data: st.DataObject) -> None:
        if self.sent:
            self.send(data.draw(st.lists(st.sampled_from(self.sent), min_size=1, max_size=4)))

    def send(self, batch: list[Event]) -> None:
        # Those of a batch are counted in the order of their times.
        order = sorted(range(len(batch)), key=lambda i: (batch[i].time, i))
        wanted = {i: self.take(batch[i]) for i in order}
        assert self.direct.push(self.user, batch) == [wanted[i] for i in range(len(batch))]

    @invariant()
    def windows_hold_what_was_counted(self) -> None:
        if self.counted:
            at = max(self.at, self.newest)
            events = list(self.counted.values())
            close(self.direct.read(self.user, at), ev.expected(events, at))


def test_a_model_of_late_and_repeated_events(direct: Direct) -> None:
    Machine.direct = direct
    case = Machine.TestCase
    case.settings = settings(
        max_examples=20, stateful_step_count=10, deadline=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    case().runTest()
