"""Limits of requests, what is refused beyond them, and work that nobody waits for any more."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from feast import FeatureStore
from figures import scrape
from processes import eventually
from retry_info import assert_retry_info
from served import Served, serve, stop

from hotfeast.clients import (
    AsyncFeatureClient,
    DeadlineExceeded,
    FeatureClient,
    InvalidArgument,
    ResourceExhausted,
    Retries,
)
from hotfeast.hotpath.http2 import Connection
from hotfeast.server import request_threads
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.request_threads import RequestThreads
from hotfeast.server.settings import RequestLimits, Settings
from hotfeast.serving.v1 import serving_pb2, value_pb2

READ = "/hotfeast.serving.v1.FeatureServing/GetOnlineFeatures"
VIEWS = "/hotfeast.serving.v1.FeatureServing/ListFeatureViews"
PUSH = "/hotfeast.serving.v1.Push/Push"
CHECK = "/grpc.health.v1.Health/Check"
IN_FLIGHT = 40
LIMITED_THREADS = 2
LIMITS = RequestLimits(
    entities=30, values=220, response_bytes=1500, in_flight=IN_FLIGHT, streams=90
)
USER = serving_pb2.GetOnlineFeaturesRequest(
    feature_service="users",
    entities={"user_id": value_pb2.RepeatedValue(val=[value_pb2.Value(int64_val=1)])},
).SerializeToString()


def begin(served: Served, method: str = READ, request: bytes = USER, timeout: float = 30) -> Any:
    stub: Any = served.channel.unary_unary(method)
    return stub.future(request, timeout=timeout)


def reads(redis: LocalRedis) -> int:
    """Hashes that Redis has been asked for."""
    stats: Any = redis.client().info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("hmget", "hgetall"))


def connections(served: Served) -> list[Connection]:
    assert served.gateway._native is not None
    return served.gateway._native.connections


def refused_reads(served: Served) -> int:
    assert served.gateway._native is not None
    return served.gateway._native._admission.refused_count


@pytest.fixture(scope="module")
def limited(market_store: FeatureStore) -> Iterator[tuple[Served, LocalRedis]]:
    """A gateway with low limits, whose Redis has no rows and can be frozen."""
    with LocalRedis() as redis:
        settings = Settings(
            repo=Path(market_store.repo_path), redis_url=redis.url, limits=LIMITS,
            redis_timeout=20, metrics=("127.0.0.1", 0), threads=LIMITED_THREADS, push_streams=0,
            read_streams=0,
        )  # fmt: skip
        served = serve(market_store, settings)
        yield served, redis
        redis.thaw()
        stop(served)


@pytest.fixture
def frozen(limited: tuple[Served, LocalRedis]) -> Iterator[tuple[Served, LocalRedis]]:
    """The same with a Redis that hangs, and connections to it."""
    served, redis = limited
    begin(served).result()
    redis.freeze()
    yield served, redis
    redis.thaw()
    eventually(lambda: not any(c.open_calls for c in connections(served)))


def test_requests_for_too_much_are_told_what_is_too_much(
    limited: tuple[Served, LocalRedis],
) -> None:
    served, _ = limited
    ask = served.client.get_online_features
    with pytest.raises(InvalidArgument, match=r"31 entities, and at most 30 .*--max-entities"):
        ask("part", {"user_id": list(range(31))})
    assert len(ask("part", {"user_id": list(range(30))}).statuses["spend"]) == 30
    # Of 10 features and a time each; an entity that is asked for twice is read once.
    with pytest.raises(InvalidArgument, match=r"reads 231 values, and at most 220 .*--max-values"):
        ask("users", {"user_id": list(range(21))})
    with pytest.raises(ResourceExhausted, match=r"at most 1500 are sent \(--max-response-mb\)"):
        ask("users", {"user_id": [1] * 30})
    assert len(ask("users", {"user_id": [1] * 5}).statuses["spend"]) == 5


def test_reads_beyond_the_limit_are_refused_at_once_and_nothing_else_is(
    frozen: tuple[Served, LocalRedis],
) -> None:
    served, redis = frozen
    waiting = [begin(served) for _ in range(IN_FLIGHT)]
    native = served.gateway._native
    assert native is not None
    eventually(lambda: native._admission.in_flight == IN_FLIGHT)
    for _ in range(5):
        with pytest.raises(grpc.RpcError) as refused:
            served.call(READ, USER, timeout=30)
        failed: Any = refused.value
        assert failed.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert f"--max-in-flight {IN_FLIGHT}" in failed.details()
        pushback = dict(failed.trailing_metadata())["grpc-retry-pushback-ms"]
        assert 20 <= int(pushback) <= 251
    assert served.call(CHECK, b"") == b"\x08\x01"
    assert served.call(VIEWS, b"")
    page = served.gateway.metrics_page
    assert page is not None
    eventually(lambda: scrape(page.url).get("hotfeast_reads_in_flight") == IN_FLIGHT)
    assert scrape(page.url)['hotfeast_refused_total{reason="in_flight"}'] == 5
    assert scrape(page.url)["hotfeast_read_load"] > 0
    redis.thaw()
    assert len({each.result() for each in waiting}) == 1
    assert native._admission.in_flight == native._admission.work == 0


def test_clients_try_refused_reads_again_when_the_gateway_says(
    frozen: tuple[Served, LocalRedis],
) -> None:
    served, redis = frozen
    waiting = [begin(served) for _ in range(IN_FLIGHT)]
    eventually(lambda: served.gateway._overload.figures.in_flight == IN_FLIGHT)

    async def ask(retries: Retries | None) -> None:
        async with AsyncFeatureClient(served.address, retries=retries) as client:
            await client.get_online_features("users", {"user_id": [1]})

    for retries, attempts in (
        (None, 1),
        (Retries(refused=False), 1),
        (Retries(4, backoff=0.001, longest_backoff=0.001), 4),
    ):
        before, began = refused_reads(served), time.monotonic()
        with (
            FeatureClient(served.address, retries=retries) as client,
            pytest.raises(ResourceExhausted),
        ):
            client.get_online_features("users", {"user_id": [1]})
        took = time.monotonic() - began
        with pytest.raises(ResourceExhausted):
            asyncio.run(ask(retries))
        assert refused_reads(served) - before == 2 * attempts
        # What the gateway says is at least 20 ms; the client's own time would be 1 ms.
        assert took >= 0.02 * (attempts - 1)
    # Not beyond the caller's deadline.
    with FeatureClient(served.address, retries=Retries(attempts=5), timeout=0.05) as client:
        began = time.monotonic()
        with pytest.raises((DeadlineExceeded, ResourceExhausted)):
            client.get_online_features("users", {"user_id": [1]})
        assert time.monotonic() - began < 0.5
    # Redis is back meanwhile.
    before = refused_reads(served)
    with FeatureClient(served.address, retries=Retries(attempts=5)) as client:
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(client.get_online_features, "users", {"user_id": [1]})
            eventually(lambda: refused_reads(served) > before)
            redis.thaw()
            assert reading.result(30).statuses["spend"] == ["NOT_FOUND"]
        # What no attempt would change is not tried again.
        page = served.gateway.metrics_page
        assert page is not None
        counted = f'hotfeast_requests_total{{code="RESOURCE_EXHAUSTED",method="{READ[1:]}"}}'
        before = int(scrape(page.url).get(counted, 0))
        with pytest.raises(ResourceExhausted, match="--max-response-mb"):
            client.get_online_features("users", {"user_id": [1] * 30})
        client.get_online_features("users", {"user_id": [1]})
        eventually(lambda: scrape(page.url).get(counted, 0) > before)
        assert scrape(page.url)[counted] == before + 1
    for each in waiting:
        each.result()


def test_nothing_is_read_for_callers_who_have_gone(frozen: tuple[Served, LocalRedis]) -> None:
    served, redis = frozen
    before = served.gateway._overload.figures.refused
    native = served.gateway._native
    assert native is not None
    lanes = native.lane_count
    kept = [begin(served) for _ in range(lanes + 2)]
    eventually(lambda: native._admission.in_flight == len(kept))
    given_up = [begin(served) for _ in range(3)]
    eventually(lambda: native._admission.in_flight == len(kept) + 3)
    for each in given_up:
        each.cancel()
    late = [begin(served, timeout=0.3) for _ in range(3)]
    for each in late:
        with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
            each.result()
    redis.thaw()
    done = reads(redis)
    for each in kept:
        each.result()
    eventually(lambda: native._admission.in_flight == 0)
    after = served.gateway._overload.figures.refused
    # Those that had been sent before the freeze was over are among the kept ones.
    assert reads(redis) - done <= len(kept)
    counted = sum(after.get(why, 0) - before.get(why, 0) for why in ("cancelled", "deadline"))
    assert counted == 6


def test_streams_are_limited(limited: tuple[Served, LocalRedis]) -> None:
    served, _ = limited
    watch: Any = served.channel.unary_stream("/grpc.health.v1.Health/Watch")
    watches = [watch(b"") for _ in range(LIMITS.streams + 5)]
    try:
        # gRPC's own client keeps to what it is told, and has the others wait.
        eventually(lambda: sum(c.open_calls for c in connections(served)) == LIMITS.streams)
        time.sleep(0.1)
        assert sum(c.open_calls for c in connections(served)) == LIMITS.streams
    finally:
        for each in watches:
            each.cancel()
    eventually(lambda: not any(c.open_calls for c in connections(served)))


# ---------------------------------------------------------------- threads


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for a thread is too long after a moment."""
    monkeypatch.setattr(request_threads, "_STANDING", 0.02)
    monkeypatch.setattr(request_threads, "_LONG_WAIT", 0.02)


def test_threads_are_overdue_only_while_some_always_wait(impatient: None) -> None:
    pool = RequestThreads(1)
    go = threading.Event()
    pool.submit(go.wait, 30)
    eventually(lambda: pool.waiting == 0)
    time.sleep(0.1)
    # Busy for long, and nobody waits.
    assert not pool.overdue
    seen = [pool.submit(lambda: pool.has_waited_too_long) for _ in range(2)]
    assert not pool.overdue
    eventually(lambda: pool.overdue)
    assert pool.waiting == 2
    go.set()
    # The last one keeps nobody waiting.
    assert [each.result(30) for each in seen] == [True, False]
    assert not pool.overdue
    assert pool.submit(lambda: pool.has_waited_too_long).result(30) is False
    pool.shutdown()


def test_pushes_that_would_wait_for_a_thread_are_refused(
    limited: tuple[Served, LocalRedis], impatient: None
) -> None:
    served, _ = limited
    threads = served.gateway._threads
    go = threading.Event()
    for _ in range(LIMITED_THREADS):
        threads.submit(go.wait, 30)
    # A definition is never refused, and waits.
    waiting = [begin(served, VIEWS, b"") for _ in range(2)]
    eventually(lambda: threads.overdue)
    with pytest.raises(grpc.RpcError, match=r"wait for a thread .*--threads") as refused:
        served.call(PUSH, b"", timeout=30)
    failed: Any = refused.value
    assert failed.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "grpc-retry-pushback-ms" in dict(failed.trailing_metadata())
    assert_retry_info(failed)
    # Clients do not push again by themselves.
    before = served.gateway._overload.figures.refused["threads"]
    with pytest.raises(ResourceExhausted, match="--threads"):
        served.client.push({"user_id": [1]}, feature_view="user_stats")
    assert served.gateway._overload.figures.refused["threads"] == before + 1
    go.set()
    assert all(each.result() for each in waiting)
    with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT"):
        served.call(PUSH, b"", timeout=30)


def test_grpcios_server_refuses_what_has_waited_for_a_thread(
    limited: tuple[Served, LocalRedis], impatient: None
) -> None:
    first, _ = limited
    served = serve(first.store, replace(first.settings, server="grpcio", metrics=None))
    threads = served.gateway._threads
    try:
        served.call(READ, USER)
        go = threading.Event()
        for _ in range(LIMITED_THREADS):
            threads.submit(go.wait, 30)
        reading = [begin(served) for _ in range(2)]
        late = begin(served, timeout=0.2)
        listing = begin(served, VIEWS, b"")
        eventually(lambda: threads.overdue and threads.waiting == 4)
        with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
            late.result()
        go.set()
        for each in reading:
            with pytest.raises(grpc.RpcError, match=r"wait for a thread .*--threads"):
                each.result()
        assert listing.result()
        assert served.call(READ, USER)
        # gRPC itself has dropped the one whose deadline came.
        assert served.gateway._overload.figures.refused == {"threads": 2}
    finally:
        stop(served)
