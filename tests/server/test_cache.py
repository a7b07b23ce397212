"""The cache as a gateway has it: writers it hears of, views that say how old an answer may be."""

import dataclasses
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import market
import pandas as pd
import pushing
import pytest
from feast import FeatureStore
from feast.protos.feast.types.Value_pb2 import Value
from figures import scrape
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import eventually
from pushing import NOW
from served import Served, serve, serving, stop

from hotfeast.hotpath.cache import RowCache
from hotfeast.hotpath.plan import key_prefix
from hotfeast.server.errors import RequestFailure, StartFailure
from hotfeast.server.gateway import Gateway, Settings
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.plan import plan_service
from hotfeast.server.registry import Definitions, read_definitions
from hotfeast.server.staleness import view_staleness
from hotfeast.serving.v1 import serving_pb2

LONG = 1e6
METHOD = "/hotfeast.serving.v1.FeatureServing/GetOnlineFeatures"
FEATURES = ["scores:score", "click_counts:clicks", "affinity:weight", "world:rate"]
USERS, SKUS = [1, 2, 3, 1], ["a", "b", "a", "a"]


@dataclasses.dataclass
class Beside:
    """A gateway with a cache and one without, for one store."""

    store: FeatureStore
    cache: RowCache
    cached: Served
    plain: Served
    redis: Any

    def figures(self) -> dict[str, float]:
        page = self.cached.gateway.metrics_page
        assert page is not None
        figures = scrape(page.url).items()
        return {k: v for k, v in figures if "_cache_" in k and "_created" not in k}


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    with LocalRedis() as redis, redis.client() as client:
        store = pushing.write_repository(tmp_path_factory.mktemp("cached"), "cached", redis.address)
        options = Settings(
            Path(store.repo_path), cache_mb=1, cache_staleness=LONG, metrics=("127.0.0.1", 0)
        )
        cached = serve(store, options)
        invalidations = cached.gateway._invalidations
        assert invalidations is not None
        cache = invalidations._cache
        with serving(store) as plain:

            def is_kept() -> bool:
                cached.call(METHOD, request(USERS, SKUS))
                return cache.hits > 0

            # The keys of a feature list are followed once it has been asked for.
            eventually(is_kept)
            yield Beside(store, cache, cached, plain, client)
        stop(cached)


def request(users: list[int], skus: list[str]) -> bytes:
    message = serving_pb2.GetOnlineFeaturesRequest()
    message.features.val.extend(FEATURES)
    for user, sku in zip(users, skus, strict=True):
        message.entities["user_id"].val.add(int64_val=user)
        message.entities["sku"].val.add(string_val=sku)
    # One list has one plan only if it is spelled alike.
    return message.SerializeToString(deterministic=True)


OPERATIONS = st.tuples(
    st.sampled_from(["push", "push to the other", "feast", "feast", "delete", "flush"]),
    st.sampled_from([1, 2, 3]),
    st.sampled_from(["a", "b"]),
    st.integers(0, 5),
    st.integers(-9, 9),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(OPERATIONS, min_size=1, max_size=6))
def test_answers_are_those_of_a_gateway_without_a_cache(beside: Beside, steps: list[Any]) -> None:
    asked = request(USERS, SKUS)
    beside.cached.call(METHOD, asked)
    for kind, user, sku, minutes, value in steps:
        when = NOW + timedelta(minutes=minutes)
        # Word of what others write comes a moment later; what was pushed here is read at once.
        at_once = kind == "push"
        if kind.startswith("push"):
            served = beside.cached if at_once else beside.plain
            served.client.push(
                {"user_id": [user], "score": [value], "since": [NOW], "event_timestamp": [when]},
                feature_view="scores",
            )
        elif kind == "feast":
            view, keys = [
                ("affinity", {"user_id": Value(int64_val=user), "sku": Value(string_val=sku)}),
                ("world", {"__dummy_id": Value(string_val="")}),
                ("scores", {"user_id": Value(int64_val=user)}),
            ][value % 3]
            feature = {"affinity": "weight", "world": "rate", "scores": "score"}[view]
            market.write_row(beside.store, view, keys, {feature: float(value)}, when)
        elif kind == "delete":
            keys_there = sorted(beside.redis.keys())
            if keys_there:
                beside.redis.delete(keys_there[value % len(keys_there)])
        else:
            beside.redis.flushall()
        expected = beside.plain.call(METHOD, asked)
        if at_once:
            assert beside.cached.call(METHOD, asked) == expected
        else:
            eventually(lambda answer=expected: beside.cached.call(METHOD, asked) == answer)
        before = beside.cache.hits
        assert beside.cached.call(METHOD, asked) == expected
        # Word of what was pushed here may come between: it does not change the answer.
        assert at_once or beside.cache.hits > before


def test_figures(beside: Beside) -> None:
    """They are what the cache has counted, a second later at most."""
    cache = beside.cache
    for _ in range(2):
        beside.cached.call(METHOD, request([77], ["figures"]))

    def counted() -> bool:
        return beside.figures() == {
            'hotfeast_cache_lookups_total{result="hit"}': cache.hits,
            'hotfeast_cache_lookups_total{result="miss"}': cache.misses,
            "hotfeast_cache_evictions_total": cache.evictions,
            "hotfeast_cache_invalidations_total": cache.invalidations,
            "hotfeast_cache_bytes": cache.used,
            "hotfeast_cache_entries": cache.entries,
            "hotfeast_cache_live": 1,
        }

    eventually(counted)
    before = beside.figures()
    assert before["hotfeast_cache_entries"] >= 4
    beside.redis.flushall()

    def told() -> bool:
        now = beside.figures()
        dropped = "hotfeast_cache_invalidations_total"
        return now["hotfeast_cache_entries"] == 0 and now[dropped] >= before[dropped] + 4

    eventually(told)


def test_off_unless_asked_for(beside: Beside) -> None:
    assert beside.plain.gateway._invalidations is None
    assert beside.plain.gateway.metrics_page is None


def test_redis_refuses_to_tell(beside: Beside) -> None:
    beside.redis.acl_setuser(
        "reader", enabled=True, passwords=["+x"], keys=["*"], commands=["+@all", "-client|tracking"]
    )
    address = beside.redis.connection_pool.connection_kwargs
    url = f"redis://reader:x@127.0.0.1:{address['port']}"
    repo = Path(beside.store.repo_path)
    gateway = Gateway(Settings(repo, port=0, redis_url=url, cache_mb=1))
    with pytest.raises(StartFailure, match=r"CLIENT TRACKING.*leave out --cache-mb"):
        gateway.start()
    without = serve(beside.store, Settings(repo, redis_url=url))
    stop(without)


def test_a_feast_writer_of_a_whole_view(beside: Beside) -> None:
    """All rows of one write, which Redis tells of in one message."""
    users = list(range(1000, 1200))
    asked = request(users, ["a"] * len(users))
    beside.cached.call(METHOD, asked)
    frame = pd.DataFrame(
        {"user_id": users, "clicks": range(200), "happened": NOW, "created": NOW, "n": range(200)}
    )
    beside.store.write_to_online_store("click_counts", frame.drop(columns="n"))
    expected = beside.plain.call(METHOD, asked)
    eventually(lambda: beside.cached.call(METHOD, asked) == expected)


# ---------------------------------------------------------------- how old an answer may be


@pytest.fixture(scope="module")
def definitions(market_store: FeatureStore) -> Definitions:
    return read_definitions(FeatureStore(repo_path=str(Path(market_store.repo_path))))


def tagged(definitions: Definitions, default: float, **tags: str) -> Definitions:
    views = {
        name: dataclasses.replace(view, tags={"hotfeast.cache": tags[name]})
        if name in tags
        else view
        for name, view in definitions.views.items()
    }
    return dataclasses.replace(definitions, views=views, cache_seconds=default)


@pytest.mark.parametrize(
    ("default", "tags", "cached"),
    [
        (0.0, {}, []),
        (1.0, {}, [("user_id",), ("sku",), ("sku", "user_id")]),
        (1.0, {"user_stats": "0"}, [("sku",), ("sku", "user_id")]),
        (0.0, {"affinity": "0.5"}, [("sku", "user_id")]),
    ],
)
def test_views_say_whether_they_are_cached(
    definitions: Definitions, default: float, tags: dict[str, str], cached: list[tuple[str, ...]]
) -> None:
    plan = plan_service(tagged(definitions, default, **tags), "everything", False).compiled
    assert plan.cached_prefixes == [key_prefix(keys) for keys in cached]


def test_views_say_how_long() -> None:
    assert view_staleness("v", {}, 1.5) == 1.5
    assert view_staleness("v", {"hotfeast.cache": "0"}, 1.5) == 0
    assert view_staleness("v", {"hotfeast.cache": " 2.5e-3"}, 1.5) == 0.0025


@pytest.mark.parametrize("tag", ["", "soon", "-1", "nan", "inf", "1e10"])
def test_bad_tags(definitions: Definitions, tag: str) -> None:
    state = tagged(definitions, 1.0, affinity=tag)
    with pytest.raises(RequestFailure, match=r"'affinity': tag hotfeast\.cache=") as failure:
        plan_service(state, "everything", False)
    assert repr(tag) in failure.value.message
