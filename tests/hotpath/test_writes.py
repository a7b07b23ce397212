"""Writes against Feast's own, against a model of the rule, and against hostile replies."""

import random
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import msgpack
import pytest
import redis
from feast import Entity, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Int64, String
from hypothesis import given, settings
from hypothesis import strategies as st

from hotfeast.hotpath.columns import TimeColumn, ValueColumn
from hotfeast.hotpath.errors import ProtocolError
from hotfeast.hotpath.write_link import exchange_writes
from hotfeast.hotpath.writes import SCRIPT, SCRIPT_SHA, WriteBatch, WritePlan
from hotfeast.server.errors import RedisUnavailable
from hotfeast.server.local_redis import LocalRedis, free_port
from hotfeast.server.redis_io import Lanes, RedisWriter
from tests.hotpath.helpers import parse_commands
from tests.hotpath.write_helpers import (
    BYTES,
    INT32,
    INT64,
    STRING,
    UNIX_TIMESTAMP,
    Model,
    Row,
    column,
    created_column,
    definition,
    make_batch,
    outcomes,
    stored_row,
    timestamp,
    without_created,
)

PLAN = WritePlan(definition())
PLAIN = WritePlan(definition(created=False))
SECOND = 10**9


@pytest.fixture(scope="module")
def writer(server: LocalRedis) -> RedisWriter:
    return RedisWriter(Lanes(redis.ConnectionPool.from_url(server.url)), 30)


@pytest.fixture(autouse=True)
def empty(client: Any) -> None:
    client.flushall()


def stored(client: Any, batch: WriteBatch, row: int = 0) -> dict[bytes, bytes]:
    return dict(client.hgetall(batch.key(row)))


def write(writer: RedisWriter, plan: WritePlan, *rows: Row, check: bool = True) -> WriteBatch:
    batch = make_batch(plan, rows, check)
    writer.write(batch)
    return batch


# ---------------------------------------------------------------- as Feast stores it

VALUES: dict[int, st.SearchStrategy[Value]] = {
    BYTES: st.binary(max_size=60).map(lambda v: Value(bytes_val=v)),
    STRING: st.text(max_size=30).map(lambda v: Value(string_val=v)),
    INT32: st.integers(-(2**31), 2**31 - 1).map(lambda v: Value(int32_val=v)),
    INT64: st.integers(-(2**63), 2**63 - 1).map(lambda v: Value(int64_val=v)),
    UNIX_TIMESTAMP: st.integers(-(2**63), 2**63 - 1).map(lambda v: Value(unix_timestamp_val=v)),
    5: st.floats(allow_nan=False).map(lambda v: Value(double_val=v)),
    7: st.booleans().map(lambda v: Value(bool_val=v)),
}
NAMES = st.text(min_size=1, max_size=8)


@st.composite
def views(draw: st.DrawFn) -> dict[str, Any]:
    keys = draw(st.dictionaries(NAMES, st.sampled_from([1, 2, 3, 4, 8]), max_size=3))
    features = draw(st.dictionaries(NAMES, st.sampled_from(list(VALUES)), min_size=1, max_size=4))
    rows = draw(st.integers(1, 40))
    return {
        "keys": sorted(keys.items()),
        "features": list(features.items()),
        "view": draw(NAMES),
        "project": draw(NAMES),
        "created": draw(st.booleans()),
        "entities": [[draw(VALUES[t]) for _, t in sorted(keys.items())] for _ in range(rows)],
        "values": [
            [draw(st.none() | VALUES[t]) for t in features.values()] for _ in range(rows)
        ],
        # After 1970: Feast itself takes no row before that for newer than another.
        "times": draw(
            st.lists(
                st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 31)),
                min_size=rows, max_size=rows, unique=True,
            )
        ),
        "check": draw(st.booleans()),
        "ttl": draw(st.sampled_from([0, 1000])),
    }  # fmt: skip


def write_with_feast(server: LocalRedis, db: int, case: dict[str, Any]) -> None:
    view = FeatureView(
        name="view", entities=[Entity(name="e", join_keys=["id"], value_type=ValueType.INT64)],
        schema=[Field(name="f", dtype=Int64)], source=FileSource(path="p", timestamp_field="t"),
    )  # fmt: skip
    view.name = case["view"]
    store = RedisOnlineStore()
    config = RepoConfig(
        project="p", registry="unused.db", provider="local", entity_key_serialization_version=3,
        online_store={
            "type": "redis", "connection_string": f"{server.address},db={db}",
            "key_ttl_seconds": case["ttl"] or None,
        },
    )  # fmt: skip
    config.project = case["project"]
    data = []
    for entity, values, time in zip(case["entities"], case["values"], case["times"], strict=True):
        # Feast's entityless rows have a join key of their own.
        keys = [name for name, _ in case["keys"]] or ["__dummy_id"]
        proto = EntityKey(join_keys=keys, entity_values=entity or [Value(string_val="")])
        features = {
            name: Value() if value is None else value
            for (name, _), value in zip(case["features"], values, strict=True)
        }
        data.append((proto, features, time.replace(tzinfo=UTC), None))
    store.online_write_batch(config, view, data, None)
    store._client.close()


def everything(client: Any) -> dict[bytes, tuple[dict[bytes, bytes], bool]]:
    return {
        key: (without_created(client.hgetall(key)), client.ttl(key) > 0)
        for key in client.scan_iter()
    }


@given(case=views())
@settings(max_examples=60)
def test_hashes_are_those_that_feast_writes(server: LocalRedis, case: dict[str, Any]) -> None:
    if not case["check"]:
        # Without comparison the last row of an entity wins; sorted, that is the newest.
        order = sorted(range(len(case["times"])), key=lambda i: case["times"][i])
        for name in ("entities", "values", "times"):
            case[name] = [case[name][i] for i in order]
    plan = WritePlan(
        definition(
            case["keys"], case["features"], view=case["view"], project=case["project"],
            created=case["created"], key_ttl=case["ttl"],
        )
    )  # fmt: skip
    epoch = datetime(1970, 1, 1)
    rows = len(case["times"])
    batch = WriteBatch(
        plan,
        [column(t, (r[i] for r in case["entities"])) for i, (_, t) in enumerate(case["keys"])],
        [column(t, (r[i] for r in case["values"])) for i, (_, t) in enumerate(case["features"])],
        TimeColumn.from_timestamps(
            [timestamp((t - epoch) // timedelta(microseconds=1) * 1000) for t in case["times"]]
        ),
        created_column([i if i % 2 else None for i in range(rows)]) if case["created"] else None,
        case["check"],
    )
    pools = [redis.ConnectionPool.from_url(f"{server.url}/{db}") for db in (2, 3)]
    feasts, ours = (redis.Redis(connection_pool=pool) for pool in pools)
    feasts.flushdb()
    ours.flushdb()
    write_with_feast(server, 2, case)
    lanes = Lanes(pools[1])
    RedisWriter(lanes, 30).write(batch)
    assert batch.error == ""
    assert set(outcomes(batch)) <= {"written", "stale"}
    assert everything(ours) == everything(feasts)
    lanes.drop_idle()
    for pool in pools:
        pool.disconnect()


def test_feast_reads_what_was_written(server: LocalRedis, writer: RedisWriter) -> None:
    moment = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    nanoseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
    write(writer, PLAN, Row(1, nanoseconds, 5, 42, "é"), Row(2, nanoseconds, None, None, None))
    view = FeatureView(
        name="view", entities=[Entity(name="e", join_keys=["id"], value_type=ValueType.INT64)],
        schema=[Field(name="f", dtype=Int64), Field(name="g", dtype=String)],
        source=FileSource(path="p", timestamp_field="t"),
    )  # fmt: skip
    config = RepoConfig(
        project="demo", registry="unused.db", provider="local", entity_key_serialization_version=3,
        online_store={"type": "redis", "connection_string": server.address},
    )  # fmt: skip
    keys = [EntityKey(join_keys=["id"], entity_values=[Value(int64_val=i)]) for i in (1, 2)]
    read = RedisOnlineStore().online_read(config, view, keys, ["f", "g"])
    assert read[0] == (moment, {"f": Value(int64_val=42), "g": Value(string_val="é")})
    assert read[1] == (moment, {"f": Value(), "g": Value()})


# ---------------------------------------------------------------- the commands


def sent(batch: WriteBatch) -> list[list[bytes]]:
    batch.begin()
    commands = []
    while data := batch.next_portion():
        commands += parse_commands(data)
    return commands


def test_plain_commands() -> None:
    batch = make_batch(
        PLAIN, [Row(1, 5 * SECOND, None, 7, "a"), Row(2, 0, None, None, None)], False
    )
    flat = [[part for pair in stored_row(row).items() for part in pair] for row in
            (Row(1, 5 * SECOND, None, 7, "a"), Row(2, 0, None, None, None))]  # fmt: skip
    assert sent(batch) == [[b"HSET", batch.key(0), *flat[0]], [b"HSET", batch.key(1), *flat[1]]]


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 32, 100])
def test_sixteen_rows_share_a_call(rows: int) -> None:
    batch = make_batch(PLAN, [Row(i, i) for i in range(rows)])
    batch.reject(0)
    calls = sent(batch)
    counts = [int(call[2]) for call in calls]
    assert sum(counts) == rows - 1
    assert all(count == 16 for count in counts[:-1])
    for call, count in zip(calls, counts, strict=True):
        assert call[:2] == [b"EVALSHA", SCRIPT_SHA]
        assert count <= 16
        # Compared, TTL, created field, no leftovers, width and 3 names; then all rows' values in
        # one piece.
        assert len(call) == 3 + count + 8 + 1
        # A row's values are its time, its features and its created time.
        assert len(msgpack.unpackb(call[-1], raw=True)) == count * 4


def test_what_a_call_holds() -> None:
    """Values of every length that MessagePack writes another way."""
    texts = ["", "x" * 27, "x" * 28, "x" * 29, "x" * 65_530, "x" * 65_536]
    rows = [Row(i, i * SECOND, i, i, text) for i, text in enumerate(texts)]
    values = []
    for call in sent(make_batch(PLAN, rows)):
        assert call[-1][:1] == b"\xdd"
        values += msgpack.unpackb(call[-1], raw=True)
    times = [stored_row(row)[b"_ts:view"] for row in rows]
    assert values[0::4] == times
    assert values[2::4] == [Value(string_val=text).SerializeToString() for text in texts]


def test_a_cluster_takes_one_row_a_call(tmp_path: Path) -> None:
    # Without a port for its bus, a node wants its own to be below 55,536.
    nodes = ("--cluster-enabled", "yes", "--cluster-config-file", str(tmp_path / "nodes.conf"))
    with LocalRedis(*nodes, "--cluster-port", str(free_port())) as server:
        client: Any = server.client()
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        end = monotonic() + 60
        while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
            assert monotonic() < end
            sleep(0.05)
        writer = RedisWriter(Lanes(redis.ConnectionPool.from_url(server.url)), 30)
        rows = [Row(i, i) for i in range(40)]
        together = make_batch(PLAN, rows)
        writer.write(together)
        assert "CROSSSLOT" in together.error or "same slot" in together.error
        alone = make_batch(PLAN, rows, rows_per_call=1)
        writer.write(alone)
        assert outcomes(alone) == ["written"] * 40
        assert without_created(stored(client, alone, 39)) == stored_row(rows[39])


def test_large_rows_do_not_share() -> None:
    batch = make_batch(PLAN, [Row(i, i, None, 0, "x" * 70_000) for i in range(5)])
    assert [int(call[2]) for call in sent(batch)] == [1] * 5


def test_columns_must_be_those_of_the_plan() -> None:
    times = TimeColumn.none(1)
    one, two = column(INT64, [Value(int64_val=1)]), column(INT64, [Value(int64_val=1)] * 2)
    text = column(STRING, [None])
    cases: list[tuple[list[Any], list[Any], TimeColumn | None]] = [
        ([], [one, text], times), ([one], [one], times), ([two], [one, text], times),
        ([one], [two, text], times), ([one], [one, text], None),
        ([one], [one, text], TimeColumn.none(2)), ([text], [one, text], times),
    ]  # fmt: skip
    for keys, features, created in cases:
        with pytest.raises(ValueError, match=r"column|created|join key"):
            WriteBatch(PLAN, keys, features, times, created)
    with pytest.raises(ValueError, match="created"):
        WriteBatch(PLAIN, [one], [one, text], times, times)
    with pytest.raises(TypeError):
        WriteBatch(PLAN, [None], [one, text], times, times)  # type: ignore[list-item]
    with pytest.raises(TypeError):
        WriteBatch(PLAN, [one], [one, None], times, times)  # type: ignore[list-item]
    for keys_ in ((("b", INT64), ("a", INT64)), (("a", 5),)):
        good = definition(created=False)
        with pytest.raises(ValueError, match="join key"):
            WritePlan(type(good)("p", keys_, good.features, b"t", b"", 0))


def test_rejected_rows_are_not_sent() -> None:
    batch = WriteBatch(
        PLAIN,
        [column(INT64, [Value(int64_val=1), None, Value(int64_val=3), Value(int64_val=4)])],
        [ValueColumn.from_serialized(INT64, [b""] * 4, [2], None), column(STRING, [None] * 4)],
        TimeColumn.from_timestamps([b"", b"", b"", b"\xff"]),
    )
    assert outcomes(batch) == ["pending", "rejected", "rejected", "rejected"]
    assert [int(call[2]) for call in sent(batch)] == [1]
    for row in (1, 4):
        with pytest.raises(IndexError):
            batch.key(row)
    with pytest.raises(IndexError):
        batch.reject(4)


def test_a_batch_keeps_its_columns() -> None:
    keys = [column(INT64, [Value(int64_val=77)] * 500)]
    features = [column(INT64, [None] * 500), column(STRING, [Value(string_val="t" * 50)] * 500)]
    batch = WriteBatch(PLAIN, keys, features, TimeColumn.from_timestamps([b""] * 500))
    before = sent(batch)
    keys.clear()
    features.clear()
    rubbish = [column(STRING, [Value(string_val="r" * 50)] * 500) for _ in range(20)]
    assert sent(batch) == before
    assert len(rubbish) == 20


# ---------------------------------------------------------------- replies


def waiting(check: bool, rows: int = 20) -> WriteBatch:
    batch = make_batch(PLAN, [Row(i, i) for i in range(rows)], check)
    sent(batch)
    return batch


ANSWER = b"$16\r\n1101111111111111\r\n$9\r\n111Foops!\r\n"


def test_replies_at_every_split() -> None:
    for cut in range(len(ANSWER)):
        for second in range(cut, len(ANSWER), 5):
            batch = waiting(True)
            assert not batch.feed(ANSWER[:cut])
            batch.feed(ANSWER[cut:second])
            assert batch.feed(ANSWER[second:])
            assert outcomes(batch) == (["written"] * 2 + ["stale"] + ["written"] * 16 + ["failed"])
            assert batch.error == "oops!"
    batch = waiting(False, 3)
    for at, byte in enumerate(replies := b":3\r\n-OOM no\r\n:0\r\n"):
        assert batch.feed(bytes([byte])) == (at == len(replies) - 1)
    assert outcomes(batch) == ["written", "failed", "written"]
    assert batch.error == "OOM no"


HOSTILE = [
    b"+OK\r\n", b"*1\r\n:1\r\n", b"$-1\r\n", b"$\r\n", b"$16\n", b"$1\r2\r\n1\r\n", b"\r\n",
    b"$16\r\n1111111111111111xx", b"$15\r\n111111111111111\r\n", b"$99999999999999999999\r\n",
    b"$65537\r\n", b"$16\r\n111111111111111?\r\n", b"$16 \r\n1111111111111111\r\n", b":16\r\n",
    b"-" + b"x" * 70_000, ANSWER + b"$1\r\n1\r\n",
]  # fmt: skip


@pytest.mark.parametrize("reply", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_replies(reply: bytes) -> None:
    with pytest.raises(ProtocolError):
        waiting(True).feed(reply)
    batch = waiting(True)

    def feed_bytes() -> None:
        for at in range(len(reply)):
            batch.feed(reply[at : at + 1])

    with pytest.raises(ProtocolError):
        feed_bytes()


def test_a_script_s_answer_to_a_plain_write() -> None:
    with pytest.raises(ProtocolError):
        waiting(False, 1).feed(b"$1\r\n1\r\n")


@given(st.binary(max_size=60) | st.lists(st.sampled_from(
    [b"$", b"16", b"\r\n", b"1" * 16, b"0", b"-", b"ERR", b":", b"\n", b"\r", b"4"]
), max_size=12).map(b"".join))  # fmt: skip
@settings(max_examples=500)
def test_any_bytes_as_replies(data: bytes) -> None:
    results = []
    for size in (len(data) or 1, 1):
        batch = waiting(True)
        try:
            for at in range(0, len(data), size):
                batch.feed(data[at : at + size])
            results.append(outcomes(batch))
        except ProtocolError:
            results.append(["broken"])
    assert results[0] == results[1]


def test_a_forgotten_script_is_loaded(client: Any, writer: RedisWriter) -> None:
    for _ in range(2):
        client.script_flush()
        batch = write(writer, PLAN, *(Row(i, 5 * SECOND) for i in range(40)))
        assert outcomes(batch) == ["written"] * 40
    assert client.script_exists(SCRIPT_SHA.decode()) == [True]


def test_a_row_that_redis_refuses(client: Any, writer: RedisWriter) -> None:
    rows = [Row(i, 5 * SECOND) for i in range(3)]
    for check in (True, False):
        for plan in (PLAN, WritePlan(definition(key_ttl=100))):
            client.flushall()
            batch = make_batch(plan, rows, check)
            client.set(batch.key(1), "no hash")
            writer.write(batch)
            assert outcomes(batch) == ["written", "failed", "written"]
            assert "WRONGTYPE" in batch.error
            assert not batch.unfinished
            assert batch.counts["failed"] == 1


def test_only_what_is_pending_is_sent_again() -> None:
    """The first connection breaks after the reply to one call; the second gets the others."""
    batch = make_batch(PLAN, [Row(i, i) for i in range(40)])
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"$16\r\n" + b"1" * 8 + b"0" * 8 + b"\r\n$16\r\n111")
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionError):
            exchange_writes(ours.fileno(), batch, 30)
    assert outcomes(batch) == ["written"] * 8 + ["stale"] * 8 + ["pending"] * 24
    assert batch.unfinished
    calls = sent(batch)
    keys = [key for call in calls for key in call[3 : 3 + int(call[2])]]
    assert keys == [batch.key(i) for i in range(16, 40)]
    assert batch.feed(b"$16\r\n" + b"1" * 16 + b"\r\n$8\r\n" + b"1" * 8 + b"\r\n")
    assert outcomes(batch) == ["written"] * 8 + ["stale"] * 8 + ["written"] * 24


def test_no_answer_and_no_redis() -> None:
    batch = make_batch(PLAN, [Row(1, 1)])
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(TimeoutError):
            exchange_writes(ours.fileno(), batch, 0.01)
        assert outcomes(batch) == ["pending"]
        theirs.sendall(b"+PONG\r\n")
        with pytest.raises(ProtocolError):
            exchange_writes(ours.fileno(), batch, 30)
    with pytest.raises(OSError, match="the connection to Redis failed"):
        exchange_writes(ours.fileno(), batch, 30)
    gone = redis.ConnectionPool.from_url("redis://127.0.0.1:1")
    with pytest.raises(RedisUnavailable):
        RedisWriter(Lanes(gone), 1).write(batch)


def test_a_restarted_redis(server: LocalRedis) -> None:
    with LocalRedis() as other:
        again = RedisWriter(Lanes(redis.ConnectionPool.from_url(other.url)), 30)
        write(again, PLAN, Row(1, 1))
        other.stop()
        other.start()
        assert outcomes(write(again, PLAN, Row(1, 1))) == ["written"]


def test_many_rows_through_one_connection(client: Any, writer: RedisWriter) -> None:
    rows = [Row(i, i, None, i, "v" * 40) for i in range(200_000)]
    batch = write(writer, PLAIN, *rows, check=False)
    assert batch.counts["written"] == len(rows)
    assert client.dbsize() == len(rows)
    assert outcomes(write(writer, PLAIN, *rows[:1000])) == ["written"] * 1000
    assert stored(client, batch, 199_999) == stored_row(rows[-1])


# ---------------------------------------------------------------- compare and set

EDGES = [
    -62135596800 * SECOND, -62135596800 * SECOND + 1, -SECOND, -1, 0, 1, SECOND - 1, SECOND,
    127 * SECOND, 128 * SECOND, 2**28 * SECOND, (2**28 - 1) * SECOND, 2**35 * SECOND,
    -(2**28) * SECOND, -(2**28 + 1) * SECOND, 253402300799 * SECOND + 999_999_999,
    1_700_000_000 * SECOND, 1_700_000_000 * SECOND + 1, 1_700_000_000 * SECOND + 128,
]  # fmt: skip


def test_every_pair_of_times(client: Any, writer: RedisWriter) -> None:
    pairs = [(a, b) for a in EDGES for b in EDGES]
    first = write(writer, PLAIN, *(Row(i, a) for i, (a, _) in enumerate(pairs)))
    assert set(outcomes(first)) == {"written"}
    second = write(writer, PLAIN, *(Row(i, b, None, 1) for i, (_, b) in enumerate(pairs)))
    assert outcomes(second) == ["written" if b >= a else "stale" for a, b in pairs]
    for i, (a, b) in enumerate(pairs):
        assert stored(client, second, i) == stored_row(Row(i, b, None, 1) if b >= a else Row(i, a))


CREATED = [t for t in EDGES if abs(t) < 2**63] + [None]


def test_every_pair_of_created_times(client: Any, writer: RedisWriter) -> None:
    pairs = [(a, b) for a in CREATED for b in CREATED]
    write(writer, PLAN, *(Row(i, 5, a) for i, (a, _) in enumerate(pairs)))
    second = write(writer, PLAN, *(Row(i, 5, b, 1) for i, (_, b) in enumerate(pairs)))
    later = [a is None or b is None or b >= a for a, b in pairs]
    assert outcomes(second) == ["written" if wins else "stale" for wins in later]
    for i, wins in enumerate(later):
        wanted = stored_row(Row(i, 5, None, int(wins)))
        assert without_created(stored(client, second, i)) == wanted


@st.composite
def runs(draw: st.DrawFn) -> list[list[Row]]:
    times = st.sampled_from([-SECOND, -1, 0, 1, 2, SECOND, 2 * SECOND + 5])
    rows = st.builds(
        Row, st.integers(0, 3), times, st.none() | times,
        st.none() | st.integers(-(2**63), 2**63 - 1), st.none() | st.text(max_size=5),
    )  # fmt: skip
    return draw(st.lists(st.lists(rows, min_size=1, max_size=40), max_size=5))


@given(run=runs(), created=st.booleans())
@settings(max_examples=150)
def test_the_store_is_the_model(
    client: Any, writer: RedisWriter, run: list[list[Row]], created: bool
) -> None:
    client.flushdb()
    plan = PLAN if created else PLAIN
    model = Model()
    batches = []
    for rows in run:
        if not created:
            rows = [Row(r.id, r.time, None, r.f, r.g) for r in rows]
        batch = write(writer, plan, *rows)
        assert outcomes(batch) == [model.write(row) for row in rows]
        batches.append((batch, rows))
    for batch, rows in batches:
        for i, row in enumerate(rows):
            assert without_created(stored(client, batch, i)) == stored_row(model.rows[row.id])


def test_concurrent_writers(client: Any, writer: RedisWriter) -> None:
    """1,000 times the same rows, shuffled, by four writers at once; every store is the model."""
    seed = random.randrange(2**32)
    shuffler = random.Random(seed)
    # No two are equal in event and created time: which of those arrives later is chance.
    rows = [
        Row(entity, time, created, number, f"{entity}/{time}/{created}")
        for number, (entity, time, created) in enumerate(
            (entity, time, created)
            for entity in range(3)
            for time in (-SECOND - 1, 5, 5 + SECOND, 5 + SECOND + 1)
            for created in (-7, 1, SECOND)
        )
    ]
    model = Model()
    for row in rows:
        model.write(row)
    gate = threading.Barrier(4)

    def portion(part: list[Row]) -> None:
        gate.wait(60)
        for at in range(0, len(part), 5):
            writer.write(make_batch(PLAN, part[at : at + 5]))

    with ThreadPoolExecutor(4) as pool:
        for shuffle in range(1000):
            # Fresh entities each time.
            shifted = [Row(r.id + 10 * shuffle, r.time, r.created, r.f, r.g) for r in rows]
            shuffler.shuffle(shifted)
            list(pool.map(portion, [shifted[i::4] for i in range(4)]))
    newest = list(model.rows.values())
    finals = [Row(r.id + 10 * s, r.time, r.created, r.f, r.g) for s in range(1000) for r in newest]
    batch = make_batch(PLAN, finals)
    with client.pipeline(transaction=False) as pipe:
        for i in range(len(finals)):
            pipe.hgetall(batch.key(i))
        found = pipe.execute()
    for final, hash_ in zip(finals, found, strict=True):
        assert without_created(hash_) == stored_row(final), f"seed {seed}, shuffle {final.id // 10}"


def test_an_acknowledged_row_is_there(client: Any, writer: RedisWriter) -> None:
    for i in range(200):
        assert stored(client, write(writer, PLAN, Row(7, i, None, i))) == {
            **stored_row(Row(7, i, None, i)), b"_ct:view": bytes([len(timestamp(i))]) + timestamp(i)
        }  # fmt: skip


@pytest.mark.parametrize(
    "corrupt",
    [b"\xff", b"\x08", b"\x08" + b"\x80" * 10, b"\x18\x01", b"text",
     b"\x08" + b"\xff" * 8 + b"\x7f",
     b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x10\x80\x94\xeb\xdc\x03",
     b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f"],
)  # fmt: skip
def test_a_stored_time_that_is_none_is_replaced(
    client: Any, writer: RedisWriter, corrupt: bytes
) -> None:
    """No reader takes such a row, so that it must not stay for ever."""
    batch = make_batch(PLAN, [Row(1, 5, 5)])
    client.hset(batch.key(0), "_ts:view", corrupt)
    writer.write(batch)
    assert outcomes(batch) == ["written"]
    assert without_created(stored(client, batch)) == stored_row(Row(1, 5))


def test_rows_of_feast_in_between(client: Any, writer: RedisWriter) -> None:
    """Feast leaves the created time of the row before; it says nothing about Feast's row."""
    batch = write(writer, PLAN, Row(1, 5 * SECOND, 100 * SECOND))
    client.hset(batch.key(0), mapping=stored_row(Row(1, 6 * SECOND, None, 3)))
    assert outcomes(write(writer, PLAN, Row(1, 5 * SECOND, 200 * SECOND))) == ["stale"]
    assert outcomes(write(writer, PLAN, Row(1, 6 * SECOND, 1 * SECOND, 4))) == ["written"]
    assert outcomes(write(writer, PLAN, Row(1, 6 * SECOND, 0))) == ["stale"]
    assert without_created(stored(client, batch)) == stored_row(Row(1, 6 * SECOND, None, 4))


@pytest.mark.parametrize(
    "mark", [b"", b"\x09", b"\xff\x08\x05", b"\x02\x08\x05\xff", b"\x02\x08\x05"]
)
def test_a_created_time_that_is_none(client: Any, writer: RedisWriter, mark: bytes) -> None:
    batch = write(writer, PLAN, Row(1, 5 * SECOND, 100))
    client.hset(batch.key(0), "_ct:view", mark)
    assert outcomes(write(writer, PLAN, Row(1, 5 * SECOND, 1))) == ["written"]


def test_a_row_replaces_its_view_whole(client: Any, writer: RedisWriter) -> None:
    batch = write(writer, PLAN, Row(1, 1, 1, 5, "old"))
    client.hset(batch.key(0), mapping={"_ts:other": b"\x08\x05", "more": "stays"})
    write(writer, PLAN, Row(1, 2, None, None, None))
    left = without_created(stored(client, batch))
    assert left == {
        **stored_row(Row(1, 2, None, None, None)), b"_ts:other": b"\x08\x05", b"more": b"stays"
    }  # fmt: skip


def test_views_of_thousands_of_features(client: Any, writer: RedisWriter) -> None:
    count = 4500
    plan = WritePlan(definition(features=[(f"f{i}", INT64) for i in range(count)]))

    def wide(value: int, time: int) -> WriteBatch:
        features = [column(INT64, [Value(int64_val=value + i)]) for i in range(count)]
        keys = [column(INT64, [Value(int64_val=1)])]
        times = TimeColumn.from_timestamps([timestamp(time)])
        return WriteBatch(plan, keys, features, times, created_column([None]))

    for value, time in ((0, 5), (7, 6)):
        batch = wide(value, time)
        writer.write(batch)
        hash_ = stored(client, batch)
        for i, feature in enumerate(plan.definition.features):
            assert hash_[feature.hash_field] == Value(int64_val=value + i).SerializeToString()


# ---------------------------------------------------------------- life of a key


def test_life_of_a_key(client: Any, writer: RedisWriter) -> None:
    short, long = (WritePlan(definition(key_ttl=ttl)) for ttl in (100, 10_000))
    for check in (True, False):
        client.flushall()
        key = write(writer, long, Row(1, 1), check=check).key(0)
        assert 9_000 < client.ttl(key) <= 10_000
        write(writer, short, Row(1, 2), check=check)
        assert 9_000 < client.ttl(key) <= 10_000
        client.expire(key, 50)
        write(writer, short, Row(1, 3), check=check)
        assert 50 < client.ttl(key) <= 100
        # Without a life of its own, and nothing of others in it.
        client.persist(key)
        write(writer, short, Row(1, 4), check=check)
        assert 50 < client.ttl(key) <= 100
        # What others have put there for ever stays.
        client.persist(key)
        client.hset(key, "_ts:other", b"")
        write(writer, short, Row(1, 5), check=check)
        assert client.ttl(key) == -1
        write(writer, PLAN, Row(2, 5), check=check)
        assert client.ttl(make_batch(PLAN, [Row(2, 5)]).key(0)) == -1


def test_a_stale_row_does_not_lengthen_a_key_s_life(client: Any, writer: RedisWriter) -> None:
    plan = WritePlan(definition(key_ttl=1000))
    key = write(writer, plan, Row(1, 5)).key(0)
    client.expire(key, 50)
    assert outcomes(write(writer, plan, Row(1, 4))) == ["stale"]
    assert client.ttl(key) <= 50


def test_the_script_is_the_one_that_is_called(client: Any) -> None:
    assert client.script_load(SCRIPT.decode()) == SCRIPT_SHA.decode()
