"""The cache of rows: beside a reader without one, under writers of every kind, and its bounds."""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import redis
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.cache import RowCache
from hotfeast.hotpath.definition import (
    LAYOUTS,
    FeatureRead,
    JoinKey,
    KeyRecipe,
    ReadDefinition,
    ViewRead,
)
from hotfeast.hotpath.errors import CorruptRow
from hotfeast.hotpath.link import exchange
from hotfeast.hotpath.packed import settle_reply
from hotfeast.hotpath.plan import Plan, key_prefix
from hotfeast.hotpath.reply import Reply
from hotfeast.hotpath.request import Request
from hotfeast.hotpath.splice import build_response
from hotfeast.hotpath.writes import WriteBatch, WritePlan
from hotfeast.server.errors import StartFailure
from hotfeast.server.invalidation import Invalidations
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.redis_io import Lanes, RedisReader, RedisWriter
from hotfeast.serving.v1 import serving_pb2
from tests.hotpath.helpers import (
    INT64,
    STRING,
    Store,
    answer,
    int64_request,
    one_view,
    parse_commands,
    request_bytes,
    view_read,
)
from tests.hotpath.write_helpers import Row, definition, make_batch, timestamp

LONG = 1e6
"""Seconds that no test takes."""
NOW = 10**9


def kept(definition: ReadDefinition, *seconds: float) -> Plan:
    """A plan whose views may be cached for so long, and whose keys are followed."""
    limits = seconds or [LONG] * len(definition.views)
    views = [
        replace(view, cache_seconds=limit)
        for view, limit in zip(definition.views, limits, strict=True)
    ]
    plan = Plan(replace(definition, views=tuple(views)))
    plan.followed = True
    return plan


def opened(capacity: int = 2**20) -> RowCache:
    cache = RowCache(capacity)
    cache.open()
    return cache


def time_bytes(seconds: int, nanos: int = 0) -> bytes:
    return Timestamp(seconds=seconds, nanos=nanos).SerializeToString()


@dataclass
class Asked:
    """An answer, and the Redis keys that were asked for it."""

    data: bytes
    keys: list[bytes]


def ask(
    cache: RowCache | None,
    plan: Plan,
    data: bytes,
    store: Store,
    now: tuple[int, int] = (NOW, 0),
    strict: bool = True,
) -> Asked:
    """One request, with Redis' part played by `store`."""
    batch = Batch(plan, Request(data), cache is not None)
    reply = Reply()
    if cache is None:
        reply.start(batch)
    else:
        cache.start(batch, reply)
    commands = batch.command_bytes
    if commands:
        assert reply.feed(answer(commands, store))
    assert settle_reply(batch, reply)
    if cache is not None:
        cache.store(batch, reply)
    keys = [command[1] for command in parse_commands(commands)]
    return Asked(build_response(batch, reply, *now, strict), keys)


TWO_KEYS = ReadDefinition(
    project="demo",
    join_keys=(JoinKey("id", INT64), JoinKey("name", STRING)),
    recipes=(KeyRecipe((("id", 0),)), KeyRecipe((("id", 0), ("name", 1))), KeyRecipe(())),
    views=(
        view_read("a", ("f", "g"), 0, ttl=100),
        view_read("b", ("f",), 1),
        view_read("c", ("f", "g"), 0),
        view_read("d", ("f",), 2, ttl=5),
    ),
)
CELLS = st.sampled_from(
    [
        None,
        b"",
        Value(int64_val=5).SerializeToString(),
        Value(string_val="x" * 200).SerializeToString(),
    ]
)
TIMES = st.sampled_from(
    [None, (NOW, 0), (NOW - 3, 123456789), (NOW - 99, 999999999), (NOW - 200, 0)]
)


@st.composite
def stored_hash(draw: st.DrawFn, recipe: int) -> dict[bytes, bytes]:
    out = {}
    for view in TWO_KEYS.views:
        when = draw(TIMES)
        if view.recipe != recipe:
            continue
        if when is not None:
            out[view.time_field] = time_bytes(*when)
        for feature in view.features:
            cell = draw(CELLS)
            if cell is not None:
                out[feature.hash_field] = cell
    return out


def rows_request(rows: Sequence[tuple[int, str]]) -> bytes:
    return request_bytes(
        {
            "id": [Value(int64_val=number) for number, _ in rows],
            "name": [Value(string_val=name) for _, name in rows],
        }
    )


ROWS = st.tuples(st.integers(0, 3), st.sampled_from(["", "x"]))
TWO_PLAN = kept(TWO_KEYS)
UNCACHED = Plan(TWO_KEYS)
KEYS = [
    (recipe, key)
    for number in range(4)
    for name in ("", "x")
    for batch in [Batch(UNCACHED, Request(rows_request([(number, name)])))]
    for recipe in range(3)
    for key in batch.sample_keys(recipe, 1)
]


@settings(max_examples=60)
@given(st.data())
def test_answers_are_those_without_a_cache(data: st.DataObject) -> None:
    """Hits and misses side by side in one answer, as times pass and rows change."""
    cache = opened(2**17)
    store: Store = {}
    now = NOW
    for _ in range(data.draw(st.integers(2, 12))):
        kind = data.draw(st.sampled_from(["read", "read", "write", "delete", "wait", "clear"]))
        if kind == "write":
            recipe, key = data.draw(st.sampled_from(KEYS))
            store[key] = data.draw(stored_hash(recipe))
            cache.invalidate([key])
        elif kind == "delete":
            _, key = data.draw(st.sampled_from(KEYS))
            store.pop(key, None)
            cache.invalidate([key])
        elif kind == "wait":
            now += data.draw(st.integers(1, 60))
        elif kind == "clear":
            store.clear()
            cache.invalidate(None)
        else:
            asked = rows_request(data.draw(st.lists(ROWS, max_size=5)))
            strict = data.draw(st.booleans())
            expected = ask(None, UNCACHED, asked, store, (now, 5), strict)
            first = ask(cache, TWO_PLAN, asked, store, (now, 5), strict)
            again = ask(cache, TWO_PLAN, asked, store, (now, 5), strict)
            assert first.data == again.data == expected.data
            assert set(first.keys) <= set(expected.keys)
            assert again.keys == []
        assert cache.used <= cache.capacity


def test_only_what_is_missing_is_asked_for() -> None:
    cache = opened()
    plan = kept(one_view(features=["f", "g"]))
    keys = Batch(plan, Request(int64_request(1, 2, 3))).sample_keys(0, 3)
    assert ask(cache, plan, int64_request(2, 2), {}).keys == [keys[1]]
    assert ask(cache, plan, int64_request(1, 2, 3, 2), {}).keys == [keys[0], keys[2]]
    assert (cache.hits, cache.misses, cache.entries) == (1, 3, 3)
    assert ask(cache, plan, int64_request(3, 1), {}).keys == []
    assert ask(cache, plan, int64_request(), {}).keys == []
    assert (cache.hits, cache.misses) == (3, 3)


def test_whole_hashes() -> None:
    """HGETALL is asked for the rest, too."""
    cache = opened()
    plan = kept(one_view(features=["f", "g"]))
    plan.set_read_all(0, True)
    ask_again = [int64_request(1), int64_request(1, 2)]
    sizes = []
    for data in ask_again:
        batch = Batch(plan, Request(data), True)
        reply = Reply()
        cache.start(batch, reply)
        assert {command[0] for command in parse_commands(batch.command_bytes)} == {b"HGETALL"}
        sizes.append(len(parse_commands(batch.command_bytes)))
        value = Value(int64_val=7).SerializeToString()
        fields = {_mmh3("view:g"): value, b"_ts:view": time_bytes(NOW)}
        items = [item for pair in fields.items() for item in pair]
        hash_reply = b"*4\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(i), i) for i in items)
        assert reply.feed(hash_reply)
        settle_reply(batch, reply)
        cache.store(batch, reply)
        built = build_response(batch, reply, NOW, 0, True)
        response = serving_pb2.GetOnlineFeaturesResponse.FromString(built)
        assert [v.int64_val for v in response.results[2].values] == [7] * len(
            response.results[0].values
        )
    assert sizes == [1, 1]


def test_a_row_ages_in_the_cache() -> None:
    cache = opened()
    plan = kept(one_view(ttl=10))
    [key] = Batch(plan, Request(int64_request(1))).sample_keys(0, 1)
    store = {key: {_mmh3("view:f"): b"\x20\x01", b"_ts:view": time_bytes(NOW)}}

    def status(now: int) -> str:
        asked = ask(cache, plan, int64_request(1), store, (now, 0))
        response = serving_pb2.GetOnlineFeaturesResponse.FromString(asked.data)
        return serving_pb2.FieldStatus.Name(response.results[1].statuses[0])

    assert [status(NOW + age) for age in (0, 10, 11, 3)] == [
        "PRESENT", "PRESENT", "OUTSIDE_MAX_AGE", "PRESENT",
    ]  # fmt: skip
    assert (cache.hits, cache.misses) == (3, 1)


def test_how_old_an_answer_may_be() -> None:
    """0 is never; a nanosecond is over before the next lookup; the least of a hash counts."""
    two = replace(
        TWO_KEYS,
        recipes=TWO_KEYS.recipes[:1],
        views=(TWO_KEYS.views[0], TWO_KEYS.views[2]),
        join_keys=TWO_KEYS.join_keys[:1],
    )
    for seconds, expected in [
        ((LONG, LONG), (1, 1)),
        ((LONG, 1e-9), (0, 2)),
        ((0, LONG), (0, 0)),
        ((0, 0), (0, 0)),
    ]:
        cache = opened()
        plan = kept(two, *seconds)
        assert plan.cached_prefixes == ([key_prefix(("id",))] if min(seconds) else [])
        for _ in range(2):
            ask(cache, plan, int64_request(1), {})
        assert (cache.hits, cache.misses) == expected
        assert cache.entries == (min(seconds) > 0)


def test_a_part_of_a_plan_may_be_uncached() -> None:
    cache = opened()
    plan = kept(TWO_KEYS, LONG, 0, LONG, LONG)
    asked = rows_request([(1, "x")])
    assert len(ask(cache, plan, asked, {}).keys) == 3
    [key] = ask(cache, plan, asked, {}).keys
    assert key.startswith(key_prefix(("id", "name")))
    assert cache.entries == 2


def test_plans_do_not_share_rows() -> None:
    cache = opened()
    one, other = kept(one_view(features=["f"])), kept(one_view(features=["g"]))
    [key] = Batch(one, Request(int64_request(1))).sample_keys(0, 1)
    for plan in (one, other):
        assert ask(cache, plan, int64_request(1), {}).keys == [key]
    assert cache.entries == 2
    cache.invalidate([key])
    assert (cache.entries, cache.invalidations) == (0, 2)


def test_many_plans_of_one_key() -> None:
    """Feature lists are the callers', and each has a plan."""
    cache = opened()
    plans = [kept(one_view()) for _ in range(100)]
    for plan in plans:
        ask(cache, plan, int64_request(1), {})
    assert cache.entries == 32
    assert ask(cache, plans[-1], int64_request(1), {}).keys == []


def test_not_in_use() -> None:
    cache = RowCache(2**16)
    plan = kept(one_view())
    assert not cache.live
    for _ in range(2):
        assert ask(cache, plan, int64_request(1, 2), {}).keys
    assert (cache.entries, cache.hits, cache.misses) == (0, 0, 4)
    cache.open()
    unfollowed = kept(one_view())
    unfollowed.followed = False
    ask(cache, unfollowed, int64_request(1), {})
    assert cache.entries == 0
    ask(cache, plan, int64_request(1), {})
    assert cache.entries == 1
    cache.shut()
    assert (cache.entries, cache.live) == (0, False)


@pytest.mark.parametrize("what", ["key", "all", "another key", "shut", "pushed", "rejected"])
def test_written_while_it_is_read(what: str) -> None:
    cache = opened()
    plan = kept(one_view())
    batch = Batch(plan, Request(int64_request(1)), True)
    [key] = batch.sample_keys(0, 1)
    reply = Reply()
    cache.start(batch, reply)
    reply.feed(answer(batch.command_bytes, {}))
    settle_reply(batch, reply)
    if what == "all":
        cache.invalidate(None)
    elif what == "shut":
        cache.shut()
        cache.open()
    elif what in ("pushed", "rejected"):
        rows = make_batch(WritePlan(definition()), [Row(1, 5), Row(2, 5)])
        assert rows.key(0) == key
        if what == "rejected":
            rows.reject(0)
        cache.forget_rows(rows)
    else:
        cache.invalidate([key if what == "key" else key + b"!"])
    cache.store(batch, reply)
    assert cache.entries == (what in ("another key", "rejected"))


def test_rows_that_cannot_be_sent_are_not_kept() -> None:
    cache = opened()
    plan = kept(
        ReadDefinition("demo", (JoinKey("id", INT64),), (KeyRecipe((("id", 0),)),),
                       (packed_view("view", LONG),))
    )  # fmt: skip
    keys = Batch(plan, Request(int64_request(1, 2))).sample_keys(0, 2)
    marked = time_bytes(NOW)[:-1] + bytes([time_bytes(NOW)[-1] | 0x80]) + b"\x80\x00"
    store = {keys[0]: {b"_ts:view": marked, _mmh3("view:\0row"): b"\x07"}}
    batch = Batch(plan, Request(int64_request(1, 2)), True)
    reply = Reply()
    cache.start(batch, reply)
    reply.feed(answer(batch.command_bytes, store))
    assert not settle_reply(batch, reply)
    assert [command[1] for command in parse_commands(batch.command_bytes)] == [keys[0]]
    assert reply.feed(answer(batch.command_bytes, store))
    assert settle_reply(batch, reply)
    cache.store(batch, reply)
    with pytest.raises(CorruptRow, match="id=1"):
        build_response(batch, reply, NOW, 0, True)
    assert cache.entries == 1


def packed_view(name: str, seconds: float) -> ViewRead:
    """A view of the features `f` and `g` whose packed rows are asked for first."""
    fields = (_mmh3(f"{name}:f"), _mmh3(f"{name}:g"))
    return ViewRead(
        name=name,
        recipe=0,
        time_field=f"_ts:{name}".encode(),
        ttl_seconds=0,
        features=tuple(FeatureRead(n, f) for n, f in zip("fg", fields, strict=True)),
        row_field=_mmh3(f"{name}:\0row"),
        schema=fields,
        packed=True,
        cache_seconds=seconds,
    )


def test_wrong_use() -> None:
    with pytest.raises(ValueError, match="at least 65536"):
        RowCache(65535)
    cache = opened()
    plan = kept(one_view())
    batch = Batch(plan, Request(int64_request(1)), True)
    reply = Reply()
    cache.start(batch, reply)
    with pytest.raises(ValueError, match="complete"):
        cache.store(batch, reply)
    with pytest.raises(ValueError, match="complete"):
        cache.store(Batch(plan, Request(int64_request(1))), reply)
    with pytest.raises(TypeError):
        cache.invalidate(["text"])  # type: ignore[list-item]


# ---------------------------------------------------------------- bounds


def test_memory_is_bounded() -> None:
    """Rows of all sizes, many times what there is room for."""
    rng = random.Random(1)
    cache = opened(2**18)
    plan = kept(one_view(STRING, ["f", "g"]))
    store: Store = {}
    for _ in range(3000):
        size = int(10 ** rng.uniform(0, 4.8))
        name = f"{rng.randrange(10**6):0{rng.choice((6, 60, 600))}}"
        data = request_bytes({"id": [Value(string_val=name)]})
        [key] = Batch(plan, Request(data)).sample_keys(0, 1)
        cell = Value(bytes_val=b"x" * size).SerializeToString()
        store = {key: {_mmh3("view:f"): cell, b"_ts:view": time_bytes(NOW)}}
        first = ask(cache, plan, data, store)
        again = ask(cache, plan, data, store)
        assert again.data == first.data
        # An eighth of the room is what one row may take.
        assert (again.keys == []) == (size < 32_000) or 30_000 < size < 33_000
        assert cache.used <= cache.capacity
        if rng.randrange(4) == 0:
            cache.invalidate([key])
    assert cache.evictions > 1000
    assert cache.entries > 0
    cache.clear()
    assert cache.entries == 0
    assert cache.used < 10_000


def test_keys_of_every_length() -> None:
    cache = opened()
    plan = kept(one_view(STRING))
    for size in (0, 1, 7, 8, 9, 4000, 4096, 5000):
        data = request_bytes({"id": [Value(string_val="k" * size)]})
        assert len(ask(cache, plan, data, {}).keys) == 1
        assert len(ask(cache, plan, data, {}).keys) == (size > 4000)
        [key] = Batch(plan, Request(data)).sample_keys(0, 1)
        cache.invalidate([key])
        assert len(ask(cache, plan, data, {}).keys) == 1


def test_what_is_asked_for_most_stays() -> None:
    """A scan over everything does not displace what is asked for again and again."""
    cache = opened(2**16)
    plan = kept(one_view())
    hot = int64_request(*range(50))
    ask(cache, plan, hot, {})
    for start in range(1000, 20_000, 100):
        ask(cache, plan, int64_request(*range(start, start + 100)), {})
        ask(cache, plan, hot, {})
    assert cache.evictions > 10_000
    before = cache.misses
    ask(cache, plan, hot, {})
    assert cache.misses == before


def test_no_connection_is_needed_for_what_is_there() -> None:
    cache = opened()
    plan = kept(one_view())
    expected = ask(cache, plan, int64_request(1), {}).data
    batch = Batch(plan, Request(int64_request(1)), True)
    reply = Reply()
    exchange(-1, batch, reply, 0.0, cache)
    assert build_response(batch, reply, NOW, 0, True) == expected


# ---------------------------------------------------------------- with Redis


class Heard(RowCache):
    """A cache that notes what it was told."""

    def __init__(self, _capacity: int) -> None:
        self.heard: set[bytes] = set()
        self.opened = 0

    def invalidate(self, keys: list[bytes] | None) -> None:
        super().invalidate(keys)
        self.heard.update(keys or [])

    def open(self) -> None:
        super().open()
        self.opened += 1


@dataclass
class Shop:
    """A Redis, a reader with a cache, and one without."""

    client: Any
    cache: Heard
    invalidations: Invalidations
    lanes: Lanes
    cached: RedisReader
    plain: RedisReader

    def catch_up(self) -> None:
        """Waits until all that was written so far has been told."""
        number = time.monotonic_ns()
        key = key_prefix(("id",)) + b"%d" % number
        self.client.set(key, "")
        end = time.monotonic() + 30
        while key not in self.cache.heard:
            assert time.monotonic() < end
            time.sleep(0.0005)
        self.cache.heard.clear()

    def expired(self) -> int:
        """How many keys Redis has taken away because their time was up."""
        return int(self.client.info("stats")["expired_keys"])

    def answer(self, reader: RedisReader, plan: Plan, ids: Sequence[int]) -> bytes:
        batch = reader.batch(plan, Request(int64_request(*ids)))
        lane = reader.read(batch, None)
        try:
            return build_response(batch, lane.reply, 0, 0, True)
        finally:
            reader.release(lane)

    def check(self, plan: Plan, ids: Sequence[int]) -> None:
        assert self.answer(self.cached, plan, ids) == self.answer(self.plain, plan, ids)


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with LocalRedis("--hz", "100") as server:
        pool = redis.ConnectionPool.from_url(server.url)
        cache = Heard(2**20)
        invalidations = Invalidations(pool, cache)
        invalidations.want([key_prefix(("id",))])
        invalidations.start()
        lanes = Lanes(pool)
        client = server.client()
        yield Shop(
            client,
            cache,
            invalidations,
            lanes,
            RedisReader(lanes, 30, cache, invalidations.follow),
            RedisReader(lanes, 30),
        )
        invalidations.stop()
        lanes.close()
        client.close()
    assert not cache.live


def _plan_of(packed: bool) -> Plan:
    view = replace(packed_view("view", LONG), packed=packed)
    return Plan(
        ReadDefinition("demo", (JoinKey("id", INT64),), (KeyRecipe((("id", 0),)),), (view,))
    )


READ_PLANS = [_plan_of(packed) for packed in (False, True)]
WRITE_PLANS = [WritePlan(definition(layout=layout)) for layout in LAYOUTS]


def rows_batch(layout: int, number: int, when: int, value: int) -> WriteBatch:
    return make_batch(WRITE_PLANS[layout], [Row(number, when * 10**9, None, value, "t" * value)])


OPERATIONS = st.tuples(
    st.sampled_from(
        ["push", "push", "foreign", "hset", "hdel", "del", "expire", "flush", "rename"]
    ),
    st.integers(0, 2),
    st.integers(0, 3),
    st.integers(1, 9),
    st.integers(0, 5),
)


@settings(max_examples=40)
@given(st.lists(st.tuples(OPERATIONS, st.lists(st.integers(0, 3), max_size=4)), max_size=12))
def test_writers_of_every_kind(shop: Shop, steps: list[Any]) -> None:
    """After word of a write has come, an answer is that of a reader without a cache."""
    shop.client.flushall()
    shop.catch_up()
    ours = RedisWriter(shop.lanes, 30, shop.cache)
    others = RedisWriter(shop.lanes, 30)
    for (kind, layout, number, when, value), ids in steps:
        batch = rows_batch(layout, number, when, value)
        key = batch.key(0)
        told = True
        if kind == "push":
            ours.write(batch)
            # Its own writes a gateway need not be told of.
            told = False
        elif kind == "foreign":
            others.write(batch)
        elif kind == "hset":
            row = {b"_ts:view": timestamp(when * 10**9), _mmh3("view:f"): b"\x20\x09"}
            shop.client.hset(key, mapping=row)
        elif kind == "hdel":
            shop.client.hdel(key, _mmh3("view:f"), b"_ts:view")
        elif kind == "del":
            shop.client.delete(key)
        elif kind == "expire":
            expired = shop.expired()
            if shop.client.pexpire(key, 1):
                # Redis tells of it when it takes the key away, by itself.
                wait_until(lambda before=expired: shop.expired() > before)
        elif kind == "flush":
            shop.client.flushall()
        elif kind == "rename" and shop.client.exists(key):
            shop.client.rename(key, rows_batch(0, (number + 1) % 4, 1, 0).key(0))
        if told:
            shop.catch_up()
        for plan in READ_PLANS:
            shop.check(plan, ids)
            shop.check(plan, ids)


def test_the_connection_that_tells_is_killed(shop: Shop) -> None:
    """All is forgotten and nothing kept until there is a new one; then rows are kept again."""
    plan = _plan_of(False)
    shop.answer(shop.cached, plan, [1])
    assert shop.cache.entries > 0
    ids = [int(c["id"]) for c in shop.client.client_list() if "t" in c["flags"]]
    generation = shop.cache.opened
    for number in ids:
        shop.client.client_kill_filter(_id=number)
    rows = rows_batch(0, 1, 50, 3)
    RedisWriter(shop.lanes, 30).write(rows)
    wait_until(lambda: shop.cache.opened > generation)
    assert len(ids) == 1
    assert shop.cache.entries == 0
    shop.check(plan, [1, 2])
    before = shop.cache.hits
    shop.check(plan, [1, 2])
    assert shop.cache.hits == before + 2
    shop.client.delete(rows.key(0))
    shop.catch_up()
    shop.check(plan, [1, 2])


def test_redis_is_away_for_a_while() -> None:
    """Nothing is answered from memory once Redis has been silent; then it goes on by itself."""
    with LocalRedis() as server:
        pool = redis.ConnectionPool.from_url(server.url, socket_connect_timeout=0.2)
        cache = RowCache(2**16)
        told = threading.Event()
        invalidations = Invalidations(pool, cache, told.set)
        invalidations.start()
        assert cache.live
        server.freeze()
        wait_until(lambda: not cache.live)
        server.thaw()
        wait_until(lambda: cache.live)
        server.kill()
        wait_until(lambda: not cache.live)
        server.start()
        wait_until(lambda: cache.live)
        invalidations.stop()
        assert told.is_set()
    assert not cache.live


def test_new_join_keys_are_followed(shop: Shop) -> None:
    """Keys of a plan that comes up later are followed from then on; also beside keys that begin as
    others do, which Redis would refuse to follow twice."""
    shop.invalidations.want([key_prefix(("id",)) + b"longer"])
    other = replace(
        one_view(STRING), join_keys=(JoinKey("other", STRING),),
        recipes=(KeyRecipe((("other", 0),)),),
    )  # fmt: skip
    plan = kept(other)
    plan.followed = False
    data = request_bytes({"other": [Value(string_val="x")]})

    def is_kept() -> bool:
        before = shop.cache.hits
        batch = shop.cached.batch(plan, Request(data))
        shop.cached.release(shop.cached.read(batch, None))
        return shop.cache.hits > before

    wait_until(is_kept)
    assert plan.followed
    [key] = Batch(plan, Request(data)).sample_keys(0, 1)
    shop.client.hset(key, "_ts:view", time_bytes(NOW))
    wait_until(lambda: key in shop.cache.heard)
    assert not is_kept()


@pytest.mark.parametrize("denied", ["client|tracking", "ping"])
def test_redis_refuses_to_tell(shop: Shop, denied: str) -> None:
    shop.client.acl_setuser(
        "limited", enabled=True, passwords=["+x"], keys=["*"], commands=["+@all", f"-{denied}"]
    )
    options = shop.lanes._pool.connection_kwargs | {"username": "limited", "password": "x"}
    cache = RowCache(2**16)
    with pytest.raises(StartFailure, match="leave out --cache-mb"):
        Invalidations(redis.ConnectionPool(**options), cache).start()
    assert not cache.live


@pytest.mark.parametrize("layout", [0, 2])
def test_no_read_after_a_push_sees_an_older_row(shop: Shop, layout: int) -> None:
    """Readers and a writer at once: once a write has been answered, reads that start are of it."""
    plan = READ_PLANS[layout > 0]
    user = 100 + layout
    writer = RedisWriter(shop.lanes, 30, shop.cache)
    written = 0
    done = threading.Event()
    seen: list[int] = []
    older: list[tuple[int, int]] = []

    def read() -> None:
        while not done.is_set():
            least = written
            data = shop.answer(shop.cached, plan, [user])
            response = serving_pb2.GetOnlineFeaturesResponse.FromString(data)
            value = response.results[1].values[0].int64_val
            seen.append(value)
            if value < least:
                older.append((value, least))

    readers = [threading.Thread(target=read) for _ in range(2)]
    before = shop.cache.hits
    for thread in readers:
        thread.start()
    for number in range(1, 101):
        rows = make_batch(WRITE_PLANS[layout], [Row(user, number * 10**9, None, number, "")])
        writer.write(rows)
        written = number
    done.set()
    for thread in readers:
        thread.join()
    assert not older
    assert len(set(seen)) > 10
    assert shop.cache.hits > before


def wait_until(true: Any) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)
