"""A Redis that does not answer is left alone, and found again; partial answers meanwhile."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from feast import FeatureStore
from figures import scrape
from processes import eventually
from retry_info import assert_retry_info
from served import Served, serve, stop

from hotfeast.server.breaker import Breaker, State
from hotfeast.server.errors import RedisUnavailable
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.settings import BreakerSettings, Settings
from hotfeast.serving.v1 import serving_pb2, value_pb2

READ = "/hotfeast.serving.v1.FeatureServing/GetOnlineFeatures"
LIMIT = 1.0


class Redis:
    """One that is there when it is said to be, and the time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.there = False
        self.asked = 0

    def ping(self) -> None:
        self.asked += 1
        if not self.there:
            raise RedisUnavailable("no PONG")


@pytest.fixture
def redis() -> Redis:
    return Redis()


def state(tried: Breaker) -> State:
    return tried.state


def breaker(redis: Redis, **settings: float) -> Breaker:
    made = BreakerSettings(**{"pause": 0.02} | settings)
    return Breaker(made, LIMIT, redis.ping, lambda: redis.now)


def test_it_opens_by_the_share_that_fails_and_by_no_few(redis: Redis) -> None:
    tried = breaker(redis)
    for _ in range(19):
        tried.failed("gone")
    assert state(tried) is State.CLOSED
    tried.failed("gone")
    assert state(tried) is State.OPEN
    other = breaker(redis)
    for _ in range(30):
        other.succeeded()
        other.succeeded()
        other.failed("gone")
    assert state(other) is State.CLOSED
    for _ in range(30):
        other.failed("gone")
    assert state(other) is State.OPEN
    never = breaker(redis, share=0)
    for _ in range(100):
        never.failed("gone")
    assert state(never) is State.CLOSED
    for each in (tried, other):
        each.stop()


def test_what_is_long_past_and_what_callers_have_cut_short_does_not_count(redis: Redis) -> None:
    tried = breaker(redis, window=10)
    for _ in range(19):
        tried.failed("gone")
    redis.now += 12
    tried.failed("gone")
    for _ in range(100):
        tried.failed("late", LIMIT * 0.09)
    assert state(tried) is State.CLOSED
    for _ in range(18):
        tried.failed("late", LIMIT * 0.11)
    assert state(tried) is State.CLOSED
    tried.failed("late", LIMIT)
    assert state(tried) is State.OPEN
    tried.stop()


def test_open_it_refuses_and_half_open_it_lets_a_few_through(redis: Redis) -> None:
    tried = breaker(redis)
    for _ in range(20):
        tried.failed("gone")
    with pytest.raises(RedisUnavailable, match=r"\(gone\); none is sent to it") as refused:
        tried.check()
    assert refused.value.retry_after == pytest.approx(0.02)
    eventually(lambda: redis.asked >= 2)
    assert state(tried) is State.OPEN
    with pytest.raises(RedisUnavailable, match="no PONG"):
        tried.check()
    redis.there = True
    eventually(lambda: tried.state is State.HALF_OPEN)
    for _ in range(5):
        tried.check()
    with pytest.raises(RedisUnavailable):
        tried.check()
    # One of them fails.
    tried.succeeded()
    tried.failed("gone again")
    assert state(tried) is State.OPEN
    eventually(lambda: tried.state is State.HALF_OPEN)
    for _ in range(5):
        tried.check()
    with pytest.raises(RedisUnavailable):
        tried.check()
    # What becomes of those nobody tells.
    redis.now += 1
    for _ in range(5):
        tried.check()
        tried.succeeded()
    assert state(tried) is State.CLOSED
    assert (tried.opened, tried.refused) == (2, 4)


# ---------------------------------------------------------------- a gateway's


@pytest.fixture(scope="module", params=["native", "grpcio"])
def faulty(
    request: pytest.FixtureRequest, market_store: FeatureStore
) -> Iterator[tuple[Served, LocalRedis]]:
    """A gateway whose Redis has no rows, and can be frozen and killed."""
    with LocalRedis() as redis:
        settings = Settings(
            repo=Path(market_store.repo_path), server=request.param, redis_url=redis.url,
            redis_timeout=0.3, threads=64, breaker=BreakerSettings(pause=0.2, window=3),
            metrics=("127.0.0.1", 0),
        )  # fmt: skip
        served = serve(market_store, settings)
        yield served, redis
        redis.thaw()
        stop(served)


def request(
    service: str, columns: dict[str, list[value_pb2.Value]], partial: bool = False
) -> bytes:
    made = serving_pb2.GetOnlineFeaturesRequest(
        feature_service=service, allow_partial_response=partial,
        include_feature_view_version_metadata=partial,
    )  # fmt: skip
    for name, values in columns.items():
        made.entities[name].val.extend(values)
    return made.SerializeToString()


ONE = request("users", {"user_id": [value_pb2.Value(int64_val=1)]})


def outcome(served: Served, data: bytes = ONE) -> str:
    try:
        served.call(READ, data, timeout=10)
    except grpc.RpcError as error:
        failed: Any = error
        return f"{failed.code().name}: {failed.details()}"
    return "OK"


def test_a_redis_that_hangs_is_left_alone_until_it_answers(
    faulty: tuple[Served, LocalRedis],
) -> None:
    served, redis = faulty
    assert outcome(served) == "OK"
    redis.freeze()
    try:
        stub: Any = served.channel.unary_unary(READ)
        for each in [stub.future(ONE, timeout=10) for _ in range(30)]:
            with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
                each.result()
        tried = served.gateway._lanes.breaker
        assert state(tried) is State.OPEN
        before = tried.refused
        with pytest.raises(grpc.RpcError, match="none is sent to it") as refused:
            served.call(READ, ONE, timeout=10)
        failed: Any = refused.value
        assert failed.code() is grpc.StatusCode.UNAVAILABLE
        said = dict(failed.trailing_metadata())
        assert 20 <= int(said["grpc-retry-pushback-ms"]) <= 200
        assert_retry_info(failed)
        assert tried.refused == before + 1
        assert outcome(served, request("users", {})).startswith("INVALID_ARGUMENT")
        page = served.gateway.metrics_page
        assert page is not None
        eventually(lambda: scrape(page.url).get("hotfeast_breaker_state") == 2)
        assert scrape(page.url)["hotfeast_breaker_opened_total"] >= 1
        assert scrape(page.url)['hotfeast_refused_total{reason="breaker"}'] >= 1
    finally:
        redis.thaw()
    eventually(lambda: outcome(served) == "OK")
    for _ in range(10):
        assert outcome(served) == "OK"
    assert state(tried) is State.CLOSED


CART = {
    "user_id": [value_pb2.Value(int64_val=i) for i in (1, 2)],
    "cart_value": [value_pb2.Value(double_val=3.0)] * 2,
}
MIXED = {"user_id": [value_pb2.Value(int64_val=7)]}


@pytest.mark.parametrize(
    ("service", "columns", "features"),
    [
        ("cart_service", CART, ["cart_share", "visits"]),
        ("mixed", MIXED, ["exchange_rate", "spend"]),
    ],
)
def test_partial_answers_of_a_redis_that_is_away(
    service: str,
    columns: dict[str, list[value_pb2.Value]],
    features: list[str],
    faulty: tuple[Served, LocalRedis],
) -> None:
    served, redis = faulty
    partial = request(service, columns, partial=True)
    whole = request(service, columns)
    parse = serving_pb2.GetOnlineFeaturesResponse.FromString
    expected = parse(served.call(READ, partial))
    redis.kill()
    try:
        # At once, when connections break, and when Redis is left alone.
        for _ in range(30):
            answer = parse(served.call(READ, partial, timeout=10))
            names = list(answer.metadata.feature_names.val)
            assert names == list(expected.metadata.feature_names.val)
            assert sorted(names) == sorted(["user_id", *features])
            rows = len(columns["user_id"])
            for name, got, was in zip(names, answer.results, expected.results, strict=True):
                if name == "user_id":
                    assert got == was
                    continue
                assert list(got.statuses) == [serving_pb2.FieldStatus.INVALID] * rows
                assert list(got.values) == [value_pb2.Value()] * rows
                assert len(got.event_timestamps) == rows
            assert answer.metadata.feature_view_metadata == expected.metadata.feature_view_metadata
            for error in answer.metadata.row_errors:
                assert (error.code, list(error.rows)) == (14, list(range(rows)))
                assert f"view {error.feature_view!r} could not be read: " in error.message
            assert len({e.feature_view for e in answer.metadata.row_errors}) == 2
        assert outcome(served, whole).startswith("UNAVAILABLE")
        tried = served.gateway._lanes.breaker
        assert state(tried) is State.OPEN
    finally:
        redis.start()
    eventually(lambda: parse(served.call(READ, partial)) == expected)
    for _ in range(10):
        assert outcome(served, whole) == "OK"
    assert state(tried) is State.CLOSED
