"""Rows put into another layout: beside writers, after interruptions, and only the project's own."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from hotfeast.hotpath.definition import LAYOUTS
from hotfeast.hotpath.packed import marked_time
from hotfeast.hotpath.writes import WritePlan
from hotfeast.server.entity_keys import EntityKeys
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.redis_io import Lanes, RedisWriter
from hotfeast.server.repack import SCRIPT, repack_views
from tests.hotpath.packed_helpers import (
    FEAST_VIEWS,
    ROW_FIELD,
    SECOND,
    PackedRow,
    Shared,
    answers,
    batch_of,
    expected,
    hash_fields,
    read_plan,
    repack,
    write_plan,
)
from tests.hotpath.write_helpers import STRING, Row, definition, make_batch

PLACE = "hotfeast:repack:demo"


@pytest.fixture
def lanes(server: LocalRedis, client: Any) -> Lanes:
    client.flushall()
    return Lanes(redis.ConnectionPool.from_url(server.url))


def write(lanes: Lanes, layout: str, count: int, schema: str = "old") -> list[bytes]:
    """Writes rows of the entities 0, 1 and so on. Returns their keys."""
    names = {"old": ("f", "g"), "new": ("f", "g", "h")}[schema]
    rows = [PackedRow(i, SECOND, dict.fromkeys(names, i)) for i in range(count)]
    RedisWriter(lanes, 30).write(batch := batch_of(layout, schema, rows))
    return [batch.key(i) for i in range(count)]


# ---------------------------------------------------------------- beside writers


class Writer:
    """Writes its own entities over and over, and reads each row that it has written."""

    def __init__(self, lanes: Lanes, ids: range, stop: threading.Event) -> None:
        self.lanes = lanes
        self.ids = ids
        self.stop = stop
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        number = 0
        try:
            while not self.stop.is_set() or number < 20:
                number += 1
                self.write(number)
                rows = answers(self.lanes, read_plan(number % 2 == 0, "old"), self.ids)
                wanted = expected({"f": number, "g": -number}, "old")
                assert [answer for _, answer in rows] == [wanted] * len(self.ids), number
        except BaseException as error:
            self.failure = error

    def write(self, number: int) -> None:
        """Of three rows two have the event time of the one before."""
        values: dict[str, int | None] = {"f": number, "g": -number}
        rows = [PackedRow(i, number // 3 * SECOND + 1, values) for i in self.ids]
        RedisWriter(self.lanes, 30).write(batch := batch_of(LAYOUTS[number % 3], "old", rows))
        assert batch.counts["written"] == len(self.ids)


class FeastWriter(Writer):
    """The same by Feast's SDK, which skips rows with the event time of the one before."""

    def write(self, number: int) -> None:
        config = Shared.config(self.lanes)
        values = {"f": Value(int64_val=number), "g": Value(int64_val=-number)}
        time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
        rows = [
            (EntityKey(join_keys=["id"], entity_values=[Value(int64_val=i)]), values, time, None)
            for i in self.ids
        ]
        RedisOnlineStore().online_write_batch(config, FEAST_VIEWS["old"], rows, None)


def test_writers_lose_nothing(lanes: Lanes) -> None:
    stop = threading.Event()
    writers = [
        Writer(lanes, range(20), stop),
        Writer(lanes, range(20, 40), stop),
        FeastWriter(lanes, range(40, 50), stop),
    ]
    for writer in writers:
        writer.thread.start()
    converted = 0
    try:
        for _ in range(8):
            for layout in ("packed", "feast", "dual", "packed", "dual", "feast"):
                summary = repack(lanes, layout, keys_at_once=8)
                assert summary.exit_code == 0
                converted += summary.views[0].converted
    finally:
        stop.set()
        for writer in writers:
            writer.thread.join()
    assert [writer.failure for writer in writers] == [None] * 3
    assert converted > 100


# ---------------------------------------------------------------- interruptions


def interrupted(lanes: Lanes, layout: str = "packed") -> int:
    """Begins to convert, and stops after two portions. Returns how many rows it has converted."""
    stop = threading.Event()
    portions = []

    def progress(*figures: int) -> None:
        portions.append(figures)
        if len(portions) == 2:
            stop.set()

    summary = repack(lanes, layout, keys_at_once=10, progress=progress, stop=stop)
    assert (summary.state, summary.exit_code) == ("interrupted", 130)
    # The last portion is not remembered, as if the process had died.
    return portions[0][2]


def test_goes_on_after_an_interruption(lanes: Lanes, client: Any) -> None:
    write(lanes, "feast", 100)
    before = interrupted(lanes)
    assert 0 < before < 100
    assert 0 < client.ttl(PLACE) <= 24 * 3600
    summary = repack(lanes, "packed", keys_at_once=10)
    assert summary.resumed
    assert summary.exit_code == 0
    [view] = summary.views
    assert view.rows == summary.entities == 100
    # Those of the portion that was not remembered are told as what they were the second time.
    assert before < view.converted < 100
    assert not client.exists(PLACE)
    assert not repack(lanes, "packed").resumed


def test_begins_anew(lanes: Lanes, client: Any) -> None:
    """If it is told to, or the run that was interrupted was another one or on another server."""
    write(lanes, "feast", 100)
    for change in ("restart", "layout", "server"):
        interrupted(lanes, "dual")
        if change == "server":
            client.hset(PLACE, "server", "f" * 40)
        layout = "packed" if change == "layout" else "dual"
        summary = repack(lanes, layout, restart=change == "restart")
        assert not summary.resumed, change
        assert summary.entities == 100
        repack(lanes, "feast")


def test_redis_forgets_the_script(lanes: Lanes, client: Any) -> None:
    write(lanes, "feast", 50)
    sha = client.script_load(SCRIPT)

    def forget(*_: int) -> None:
        client.script_flush()

    assert repack(lanes, "packed", keys_at_once=10, progress=forget).views[0].converted == 50
    assert client.script_exists(sha) == [False]


def test_redis_that_refuses_ends_the_run(lanes: Lanes, client: Any) -> None:
    keys = write(lanes, "feast", 20)
    before = [client.hgetall(key) for key in keys]
    client.config_set("maxmemory", "1")
    try:
        summary = repack_views(
            redis.ConnectionPool.from_url(client_url(client)),
            [write_plan("feast", "old").definition],
            "packed",
        )
    finally:
        client.config_set("maxmemory", "0")
    assert (summary.state, summary.exit_code) == ("failed", 1)
    assert "maxmemory" in summary.error
    assert [client.hgetall(key) for key in keys] == before


def client_url(client: Any) -> str:
    address = client.connection_pool.connection_kwargs
    return f"redis://{address['host']}:{address['port']}"


# ---------------------------------------------------------------- whose keys, and which rows


def test_only_keys_of_the_project(lanes: Lanes, client: Any) -> None:
    keys = write(lanes, "feast", 5)
    stored = client.hgetall(keys[0])
    entity = keys[0].removesuffix(b"demo")
    wider = serialize_entity_key(
        EntityKey(
            join_keys=["id", "other"],
            entity_values=[Value(int64_val=1), Value(string_val="demo")],
        ),
        3,
    )
    foreign = [
        entity + b"xdemo",
        entity + b"demodemo",
        entity[:-1] + b"demo",
        entity[4:] + b"demo",
        b"demo",
        bytes(wider) + b"demo",
        # A number of four bytes that says it has eight.
        entity[:-12] + b"\x04\0\0\0" + b"\x04\0\0\0" + entity[-4:] + b"demo",
    ]
    for key in foreign:
        client.hset(key, mapping=stored)
    client.set("a string of demo", "1")
    summary = repack(lanes, "packed")
    assert (summary.entities, summary.keys) == (5, 5 + len(foreign) + 1)
    assert summary.views[0].converted == 5
    for key in foreign:
        assert client.hgetall(key) == stored, key
    assert set(client.keys()) == {
        *keys, *foreign, b"a string of demo", b"hotfeast:schemas:demo"
    }  # fmt: skip


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"id": Value(int64_val=-5)},
        {"b": Value(int32_val=7), "a": Value(string_val="demo"), "c": Value(bytes_val=b"\x00")},
        {"t": Value(unix_timestamp_val=1), "s": Value(string_val="")},
    ],
)
def test_entity_keys_are_those_of_feast(values: dict[str, Value]) -> None:
    """Views without entities have Feast's dummy key."""
    key = values or {"__dummy_id": Value(string_val="")}
    serialized = serialize_entity_key(
        EntityKey(join_keys=list(key), entity_values=list(key.values())), 3
    )
    for project in ("demo", "", "ü"):
        reader = EntityKeys(values, project)
        wanted = tuple(getattr(v, str(v.WhichOneof("val"))) for _, v in sorted(values.items()))
        assert reader.read(serialized + project.encode()) == wanted
        assert reader.read(serialized + project.encode() + b"x") is None
        for size in range(len(serialized)):
            assert EntityKeys(values, "demo").read(serialized[:size] + b"demo") is None
    assert EntityKeys(["x"], "demo").read(serialized + b"demo") is None


def test_ttl_and_created_times_stay(lanes: Lanes, client: Any) -> None:
    row = PackedRow(1, SECOND, {"f": 1, "g": 2}, created=3 * SECOND)
    RedisWriter(lanes, 30).write(batch := batch_of("feast", "old", [row], created=True))
    key = batch.key(0)
    client.expire(key, 5000)
    created = client.hget(key, "_ct:view")
    for layout in ("packed", "feast", "dual"):
        repack(lanes, layout)
        assert 4000 < client.ttl(key) <= 5000
        assert client.hget(key, "_ct:view") == created
    older = PackedRow(1, SECOND, {"f": 5, "g": 5}, created=2 * SECOND)
    RedisWriter(lanes, 30).write(batch := batch_of("packed", "old", [older], created=True))
    assert batch.counts["stale"] == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unreadable_rows_are_told_and_left(lanes: Lanes, client: Any, layout: str) -> None:
    *keys, first, second = write(lanes, "packed", 8)
    client.hset(keys[0], ROW_FIELD, client.hget(keys[0], ROW_FIELD)[:-1])
    client.hset(keys[1], ROW_FIELD, b"\x01abcd" + client.hget(keys[1], ROW_FIELD)[5:])
    client.hset(keys[2], "_ts:view", b"\xff")
    client.hset(keys[3], "_ts:view", marked_time(b"\x08\x05", "packed"))
    client.hdel(keys[4], ROW_FIELD)
    client.delete(keys[5])
    client.set(keys[5], "1")
    before = [client.dump(key) for key in keys]
    summary = repack(lanes, layout)
    assert (summary.state, summary.exit_code) == ("done", 1)
    [view] = summary.views
    assert (view.unreadable, view.rows) == (6, 8)
    assert len(view.examples) == 5
    told = " ".join(view.examples)
    assert "cannot be read (id=" in told
    assert [client.dump(key) for key in keys] == before
    assert {client.hexists(key, hash_fields("f")[0]) for key in (first, second)} == {
        layout != "packed"
    }


def test_reasons_are_told(lanes: Lanes, client: Any) -> None:
    [_, key] = write(lanes, "packed", 2, "new")
    client.delete("hotfeast:schemas:demo", key)
    client.set(key, "1")
    [view] = repack(lanes, "feast", "old").views
    assert sorted(view.examples) == [
        "its key holds no hash (id=1)",
        "its packed row has features that are recorded nowhere (id=0)",
    ]
    # Who has the definition can convert it all the same.
    assert repack(lanes, "feast", "new").views[0].converted == 1


def test_broken_dual_rows_are_made_of_feasts_fields(lanes: Lanes, client: Any) -> None:
    for layout in LAYOUTS:
        [key] = write(lanes, "dual", 1)
        client.hset(key, ROW_FIELD, b"\x01")
        summary = repack(lanes, layout)
        assert (summary.exit_code, summary.views[0].converted) == (0, 1)
        for packed in (False, True):
            [(time, answer)] = answers(lanes, read_plan(packed, "old"), [0])
            assert (time, answer) == (SECOND, expected({"f": 0, "g": 0}, "old"))
        client.flushall()
        lanes.schemas._recorded.clear()


@pytest.mark.parametrize("layout", ["feast", "dual"])
def test_no_older_value_stays_behind(lanes: Lanes, layout: str) -> None:
    """A feature that the packed row does not have was in Feast's fields of the row before it."""
    writer = RedisWriter(lanes, 30)
    writer.write(batch_of("feast", "new", [PackedRow(1, SECOND, {"f": 1, "g": 1, "h": 1})]))
    writer.write(batch_of("packed", "old", [PackedRow(1, 2 * SECOND, {"f": 2, "g": 2})]))
    assert repack(lanes, layout, "new").views[0].converted == 1
    for packed in (False, True):
        [row] = answers(lanes, read_plan(packed, "new"), [1])
        assert row == (2 * SECOND, expected({"f": 2, "g": 2}, "new"))


# ---------------------------------------------------------------- bytes


@pytest.mark.parametrize(
    "time",
    [
        Timestamp(),
        Timestamp(nanos=1),
        Timestamp(seconds=1),
        Timestamp(seconds=1_700_000_000, nanos=999_999_999),
        Timestamp(seconds=-62135596800),
        Timestamp(seconds=-1, nanos=1),
        Timestamp(seconds=253402300799),
    ],
)
def test_times_are_marked_as_writers_mark_them(lanes: Lanes, client: Any, time: Timestamp) -> None:
    """And are what they were once they are Feast's again."""
    [key] = write(lanes, "feast", 1)
    plain = time.SerializeToString()
    client.hset(key, "_ts:view", plain)
    for before in LAYOUTS:
        for after in LAYOUTS:
            for layout in (before, after):
                repack(lanes, layout)
                assert client.hget(key, "_ts:view") == marked_time(plain, layout)
                if layout != "feast":
                    row = client.hget(key, ROW_FIELD)
                    assert row[5 : 6 + len(plain)] == bytes([len(plain)]) + plain


def test_long_values_and_many_features(lanes: Lanes, client: Any) -> None:
    """More than Lua passes to a command at once, and lengths of several bytes."""
    names = [("f", 4), ("g", STRING), *((f"x{i}", 4) for i in range(5000))]
    wide = definition(features=names, created=False, layout="feast")
    writer = RedisWriter(lanes, 30)
    writer.write(
        batch := make_batch(
            WritePlan(definition(created=False, layout="feast")), [Row(1, SECOND, g="y" * 40_000)]
        )
    )
    key = batch.key(0)
    client.hset(key, mapping={f.hash_field: f.name.encode() for f in wide.features[2:]})
    before = client.hgetall(key)
    pool = redis.ConnectionPool.from_url(client_url(client))
    for layout in ("packed", "dual", "packed", "feast"):
        assert repack_views(pool, [wide], layout).views[0].converted == 1
        fields = {"feast": 5003, "dual": 5004, "packed": 2}[layout]
        assert client.hlen(key) == fields
    assert client.hgetall(key) == before


def test_wrong_arguments(lanes: Lanes) -> None:
    with pytest.raises(ValueError, match="layout is 'flat'; use one of feast, dual, packed"):
        repack_views(lanes.schemas._client.connection_pool, [], "flat")
    with pytest.raises(ValueError, match="above 0"):
        repack(lanes, "packed", rate=0)
    with pytest.raises(ValueError, match="above 0"):
        repack(lanes, "packed", keys_at_once=0)
