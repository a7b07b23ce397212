"""Requests that run Python transforms keep no thread from others."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import blocking
import market
import pytest
from feast import FeatureStore
from grpc import StatusCode
from processes import eventually
from served import Served, serve, stop

from hotfeast.clients import HotfeastError
from hotfeast.server import request_threads
from hotfeast.server.errors import RequestFailure
from hotfeast.server.gateway import Settings
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.request_threads import RequestThreads, TransformTurns

THREADS = 3
AT_ONCE = 2


@pytest.fixture
def threads() -> Iterator[RequestThreads]:
    """Two places."""
    pool = RequestThreads(2)
    yield pool
    pool.shutdown()


def test_as_many_run_at_once_as_there_are_places(threads: RequestThreads) -> None:
    running = threading.Semaphore(0)
    go = threading.Event()

    def work() -> int:
        running.release()
        go.wait()
        return threading.get_ident()

    done = [threads.submit(work) for _ in range(10)]
    for _ in range(2):
        assert running.acquire(timeout=30)
    assert not running.acquire(blocking=False)
    go.set()
    assert len({future.result(30) for future in done}) == 2


def test_who_leaves_makes_place_for_another(threads: RequestThreads) -> None:
    left = threading.Semaphore(0)
    go = threading.Event()

    def leave_and_wait() -> None:
        threads.leave()
        left.release()
        go.wait()

    away = [threads.submit(leave_and_wait) for _ in range(5)]
    for _ in range(5):
        assert left.acquire(timeout=30)
    assert [threads.submit(lambda n=n: n * n).result(30) for n in range(20)] == [
        n * n for n in range(20)
    ]
    go.set()
    wait(away, 30)
    barrier = threading.Barrier(2, timeout=30)
    # Those who came back took no more places than there are, and no fewer.
    assert {f.result(30) for f in [threads.submit(barrier.wait) for _ in range(2)]} == {0, 1}
    eventually(lambda: len(threads._threads) <= 2)


def test_errors_are_handed_on_and_a_pool_that_is_shut_takes_nothing() -> None:
    pool = RequestThreads(1)
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 // 0).result(30)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(int)


@pytest.fixture
def served(redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway with three threads, two of which may run transforms at once."""
    folder = tmp_path_factory.mktemp("blocking")
    market.write_repository(folder, "blocking", redis_server.address)
    store = FeatureStore(repo_path=str(folder))
    blocking.make(store)
    settings = Settings(repo=folder, threads=THREADS, transform_threads=AT_ONCE)
    made = serve(store, settings)
    yield made
    blocking.GATE.open()
    stop(made)


def transform(served: Served, timeout: float = 60) -> Any:
    return served.client.get_online_features(
        ["waiting:waited"], {}, request_context={"amount": [1.0]}, timeout=timeout
    ).to_dict()


def plain(served: Served) -> Any:
    return served.client.get_online_features(["user_stats:spend"], {"user_id": [1]}, timeout=30)


def test_plain_requests_are_answered_while_transforms_block(served: Served) -> None:
    with ThreadPoolExecutor(4 * THREADS) as callers:
        blocked = [callers.submit(transform, served) for _ in range(4 * THREADS)]
        eventually(lambda: blocking.GATE.inside == AT_ONCE)
        for _ in range(20):
            assert plain(served).statuses["spend"] == ["NOT_FOUND"]
        # Exactly those that may, and none has got through.
        assert blocking.GATE.inside == AT_ONCE
        assert not any(future.done() for future in blocked)
        blocking.GATE.open()
        assert [future.result(60) for future in blocked] == [{"waited": [2.0]}] * 4 * THREADS
    assert blocking.GATE.most == AT_ONCE


def test_pushes_that_compute_take_turns_with_them(served: Served) -> None:
    def push(user: int) -> Any:
        rows = {"user_id": [user], "amount": [1.5], "event_timestamp": [market.NOW]}
        return served.client.push(rows, feature_view="waiting_to_be_kept", timeout=60).outcomes

    with ThreadPoolExecutor(2 * THREADS) as callers:
        pushes = [callers.submit(push, user) for user in range(THREADS)]
        others = [callers.submit(transform, served) for _ in range(THREADS)]
        eventually(lambda: blocking.GATE.inside == AT_ONCE)
        assert plain(served).statuses["spend"] == ["NOT_FOUND"]
        assert not any(future.done() for future in pushes)
        blocking.GATE.open()
        assert [future.result(60) for future in pushes] == [["written"]] * THREADS
        assert all(future.result(60) for future in others)
    assert blocking.GATE.most == AT_ONCE
    answer = served.client.get_online_features(["waiting_to_be_kept:kept"], {"user_id": [0]})
    assert answer.to_dict()["kept"] == [3.0]


def test_a_deadline_ends_the_wait(threads: RequestThreads) -> None:
    turns = TransformTurns(threads, 1)
    with turns.turn(None):
        with pytest.raises(RequestFailure) as late, turns.turn(0.01):
            raise AssertionError("a second turn at once")
        assert late.value.code is StatusCode.DEADLINE_EXCEEDED
    with turns.turn(0.01):
        pass


def test_too_many_that_wait_are_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_threads, "MOST_WAITING", 1)
    with ThreadPoolExecutor(AT_ONCE + 1) as callers:
        accepted = [callers.submit(transform, served) for _ in range(AT_ONCE + 1)]
        eventually(lambda: blocking.GATE.inside == AT_ONCE)

        def refused() -> bool:
            try:
                transform(served, timeout=0.2)
            except HotfeastError as error:
                return error.code is StatusCode.RESOURCE_EXHAUSTED and "--transform-thr" in str(
                    error
                )
            return False

        eventually(refused)
        assert plain(served).statuses["spend"] == ["NOT_FOUND"]
        blocking.GATE.open()
        assert all(future.result(60) for future in accepted)
