"""The gateway as a process: start, readiness, faults of Redis and registry, reload, drain."""

import os
import signal
import threading
import time
from contextlib import suppress
from itertools import groupby
from pathlib import Path

import grpc
import market
import pandas as pd
import pytest
from feast import FeatureService, FeatureStore
from figures import page_status, scrape
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from processes import Process, eventually, run_cli
from served import Served, serve, stop

from hotfeast.clients import FeatureClient, HotfeastError, OnlineFeatures
from hotfeast.server.gateway import Settings
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.servicer import SERVICE_NAMES

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ((" type: redis\n  redis_type: redis\n  connection_string", " type: sqlite\n  path"),
         ["online_store.type", "sqlite"]),
        (("redis_type: redis", "redis_type: memcached"),
         ["feature_store.yaml is not valid: online_store.redis_type: ", "'redis_cluster'"]),
        (("version: 3", "version: 2"), ["entity_key_serialization_version", "3"]),
        (("connection_string: 127", "connection_string: nowhere,127"), ["connection_string"]),
    ],
)  # fmt: skip
def test_repository_that_cannot_be_served(
    market_store: FeatureStore, tmp_path: Path, change: tuple[str, str], parts: list[str]
) -> None:
    text = (Path(market_store.repo_path) / "feature_store.yaml").read_text()
    assert change[0] in text
    (tmp_path / "feature_store.yaml").write_text(text.replace(*change))
    result = run_cli("serve", "--repo", str(tmp_path), "--bind", "127.0.0.1:0")
    assert result.returncode == 2, result
    for part in parts:
        assert part in result.stderr


def test_no_repository(tmp_path: Path) -> None:
    result = run_cli("serve", "--repo", str(tmp_path))
    assert result.returncode == 2
    assert "no feature_store.yaml" in result.stderr


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--bind", "nonsense"], "HOST:PORT"),
        (["--as-of", "yesterday"], "yesterday"),
        (["--redis", "http://x"], "redis://"),
    ],
)
def test_bad_options(market_store: FeatureStore, options: list[str], part: str) -> None:
    result = run_cli("serve", "--repo", str(market_store.repo_path), *options)
    assert result.returncode == 2
    assert part in result.stderr


def test_port_in_use(strict: Served) -> None:
    repo = str(strict.settings.repo)
    for workers in ("1", "2"):
        result = run_cli("serve", "--repo", repo, "--bind", strict.address, "--workers", workers)
        assert result.returncode == 2
        assert f"cannot listen on {strict.address}" in result.stderr


def test_health_and_reflection(strict: Served) -> None:
    health = health_pb2_grpc.HealthStub(strict.channel)
    for name in ("", *SERVICE_NAMES):
        assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == SERVING
    services = ProtoReflectionDescriptorDatabase(strict.channel).get_services()
    assert set(SERVICE_NAMES) < set(services)
    assert {
        "hotfeast.serving.v1.FeatureServing",
        "hotfeast.serving.v1.Push",
        "hotfeast.serving.v1.Traffic",
        "feast.serving.ServingService",
        "GrpcFeatureServer",
    } == set(SERVICE_NAMES)


def test_catalog(strict: Served) -> None:
    views = {v.name: v for v in strict.client.feature_views()}
    assert set(views) == {v.name for v in market.views}
    users = views["user_stats"]
    assert (users.owner, users.ttl.seconds, users.online) == ("users@example.com", 172800, True)
    assert [(k.name, k.value_type) for k in users.join_keys] == [("user_id", 4)]
    assert users.features[0].tags == {"unit": "visits"}
    assert views["cart_share"].request_fields[0].name == "cart_value"
    assert not views["hidden"].online
    services = {s.name: s for s in strict.client.feature_services()}
    assert list(services["everything"].feature_views) == ["user_stats", "product_stats", "affinity"]
    assert [k.name for k in services["route"].join_keys] == ["origin_id", "destination_id"]
    assert [f.name for f in services["route"].features] == [
        "origin__temperature",
        "destination__temperature",
    ]
    assert "online=False" in services["hidden_service"].error
    info = strict.client.serving_info()
    assert (info.project, info.status_mode, list(info.layouts)) == ("market", "strict", ["feast"])
    assert info.registry_updated.seconds > 0
    assert not info.HasField("as_of")


def test_drain_finishes_requests_in_flight(market_store: FeatureStore) -> None:
    """SIGTERM under load: what was accepted is answered, and the process ends with 0."""
    with Process(Path(market_store.repo_path)) as process:
        address = process.address()
        with grpc.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            assert health.Check(health_pb2.HealthCheckRequest()).status == SERVING
        outcomes: list[str] = []
        sent = threading.Event()

        def load() -> None:
            ids = list(range(3000))
            with FeatureClient(address, timeout=30, retries=None) as client:
                while True:
                    try:
                        answer = client.get_online_features("users", {"user_id": ids})
                    except HotfeastError as error:
                        outcomes.append(error.code.name)
                        return
                    outcomes.append("OK" if len(answer) == 3000 else "SHORT")
                    if len(outcomes) > 8:
                        sent.set()

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert sent.wait(30)
        assert process.stop() == 0
        for thread in threads:
            thread.join()
        # Each thread's last request came after the drain began and was turned away whole.
        assert outcomes.count("UNAVAILABLE") == 4
        assert set(outcomes) == {"OK", "UNAVAILABLE"}


def test_workers_share_a_port_and_are_replaced(market_store: FeatureStore) -> None:
    options = ("--workers", "2", "--metrics", "127.0.0.1:0", "--worker-timeout", "2")
    with Process(Path(market_store.repo_path), *options) as process:
        url = process.wait_for("metrics on").split(" on ")[1]
        address = process.address()
        first = process.workers()
        assert len(first) == 2
        killed = min(first)
        os.kill(killed, signal.SIGKILL)
        process.wait_for("ended with exit code -9")

        def answered() -> bool:
            with FeatureClient(address, retries=None) as client:
                answer = client.get_online_features("part", {"user_id": [1]})
                return answer.to_dict()["spend"] == [1.5]

        def restarts() -> dict[str, float]:
            name = 'hotfeast_worker_restarts_total{reason="%s"}'
            figures = scrape(url)
            return {reason: figures[name % reason] for reason in ("ended", "hung")}

        assert all(answered() for _ in range(20))
        eventually(lambda: sum("worker_resident_bytes" in name for name in scrape(url)) == 2)
        assert restarts() == {"ended": 1, "hung": 0}
        # A machine that has stood still is no reason to end anybody.
        second = process.workers()
        stopped = [process.process.pid, *second]
        send(signal.SIGSTOP, stopped)
        time.sleep(3.5)
        send(signal.SIGCONT, stopped)
        eventually(lambda: page_status(url, "/live") == 200)
        time.sleep(0.5)
        assert restarts() == {"ended": 1, "hung": 0}
        # One that hangs is ended and started again. Meanwhile the gateway is alive, since it mends
        # itself, and ready, since there is another worker.
        (hung,) = second & first
        send(signal.SIGSTOP, [hung])
        while hung in process.workers():
            assert (page_status(url, "/live"), page_status(url, "/ready")) == (200, 200)
            time.sleep(0.1)
        assert any("has not been heard of for 3 s; killing it" in line for line in process.errors)
        eventually(lambda: len(process.workers()) == 2)
        assert restarts() == {"ended": 1, "hung": 1}
        assert answered()
        # Before there is another one that serves, the last hangs.
        stopped = list(process.workers())
        send(signal.SIGSTOP, stopped)
        eventually(lambda: page_status(url, "/ready") == 503)
        assert page_status(url, "/live") == 200
        send(signal.SIGCONT, stopped)
        assert process.stop() == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in {*first, *second, *stopped})


def send(number: signal.Signals, pids: list[int]) -> None:
    for pid in pids:
        # One that has been ended for hanging is gone.
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def test_workers_stay_on_their_cpus(market_store: FeatureStore) -> None:
    usable = sorted(os.sched_getaffinity(0))[:2]
    with Process(
        Path(market_store.repo_path), "--workers", "3", "--cpus", ",".join(map(str, usable))
    ) as process:
        process.address()
        own = os.sched_getaffinity(process.process.pid)
        assert own == os.sched_getaffinity(0)

        def cpus() -> list[list[int]]:
            return sorted(
                sorted(os.sched_getaffinity(int(thread.name)))
                for worker in process.workers()
                for thread in Path(f"/proc/{worker}/task").iterdir()
            )

        workers = process.workers()
        expected = sorted([usable[i % len(usable)]] for i in range(3))
        assert [key for key, _ in groupby(cpus())] == [key for key, _ in groupby(expected)]
        assert sorted(sorted(os.sched_getaffinity(worker)) for worker in workers) == expected
        # Whoever takes a worker's place takes its CPU.
        os.kill(min(workers), signal.SIGKILL)
        eventually(
            lambda: (
                len(new := process.workers()) == 3
                and min(workers) not in new
                and sorted(sorted(os.sched_getaffinity(worker)) for worker in new) == expected
            )
        )
        assert process.stop() == 0


@pytest.mark.parametrize(
    ("cpus", "said"),
    [
        ("", "no list of CPUs"),
        ("1-", "no list of CPUs"),
        ("one", "no list of CPUs"),
        ("3-2", "names no CPU"),
        ("0-4095", "cannot be used here"),
    ],
)
def test_cpus_that_are_none(cpus: str, said: str) -> None:
    done = run_cli("serve", "--repo", ".", "--cpus", cpus)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert "--cpus" in done.stderr


def test_workers_end_with_their_supervisor(market_store: FeatureStore) -> None:
    with Process(Path(market_store.repo_path), "--workers", "2", "--drain", "1") as process:
        process.address()
        children = Path(f"/proc/{process.process.pid}/task/{process.process.pid}/children")
        pids = [Path(f"/proc/{pid}") for pid in children.read_text().split()]
        assert len(pids) >= 2
        process.process.kill()
        process.process.wait()
        eventually(lambda: not any(pid.exists() for pid in pids))


def test_redis_away_and_back(tmp_path: Path) -> None:
    """Not ready without Redis; UNAVAILABLE in time while it is away; well again by itself."""
    redis = LocalRedis()
    repo = market.write_repository(tmp_path / "repo", "away", redis.address)
    with redis:
        store = market.apply(repo)
    with Process(repo, "--redis-timeout", "0.5") as process:
        process.wait_for("not ready")
        redis.start()
        try:
            address = process.address()
            market.fill(store)
            with FeatureClient(address, retries=None) as client:

                def ask() -> OnlineFeatures:
                    return client.get_online_features("part", {"user_id": [1]})

                assert ask().to_dict()["spend"] == [1.5]
                redis.kill()
                for _ in range(3):
                    start = time.monotonic()
                    with pytest.raises(HotfeastError) as error:
                        ask()
                    assert error.value.code == grpc.StatusCode.UNAVAILABLE
                    assert time.monotonic() - start < 2
                redis.start()
                # No retry: the first request after the return is served.
                assert ask().statuses["spend"] == ["NOT_FOUND"]
                market.fill(store)
                assert ask().to_dict()["spend"] == [1.5]
                # A server that hangs: the time limit holds, and so does the caller's deadline.
                redis.freeze()
                start = time.monotonic()
                with pytest.raises(HotfeastError, match="UNAVAILABLE"):
                    ask()
                assert 0.4 < time.monotonic() - start < 2
                with pytest.raises(HotfeastError, match="DEADLINE_EXCEEDED"):
                    client.get_online_features("part", {"user_id": [1]}, timeout=0.1)
                redis.thaw()
                assert ask().to_dict()["spend"] == [1.5]
        finally:
            redis.stop()
        assert process.stop() == 0


def test_registry_changes_go_live(redis_server: LocalRedis, tmp_path: Path) -> None:
    repo = market.write_repository(tmp_path, "changing", redis_server.address)
    store = market.apply(repo)
    market.fill(store)
    served = serve(store, Settings(repo=repo, registry_interval=0.1))
    try:
        ask = served.client.get_online_features
        features = ["user_stats:city"]
        assert ask(features, {"user_id": [1]}).to_dict()["city"] == ["Ulm"]
        with pytest.raises(HotfeastError, match="NOT_FOUND"):
            ask("late", {"user_id": [1]})
        store.apply([FeatureService(name="late", features=[market.user_stats[["city"]]])])
        eventually(lambda: served.client.serving_info().plan_generation == 2)
        assert ask("late", {"user_id": [1]}).to_dict()["city"] == ["Ulm"]
        # Feature lists in use are planned ahead, from the new definitions.
        book = served.gateway.registry.book
        assert book.cached_lists == [(tuple(features), False)]
        # A registry that cannot be read leaves the last good plans in place.
        registry = repo / "registry.db"
        good = registry.read_bytes()
        registry.write_bytes(b"not a registry")
        time.sleep(0.5)
        read = served.gateway.registry.state.read
        time.sleep(0.5)
        assert served.gateway.registry.state.read == read
        assert ask("late", {"user_id": [1]}).to_dict()["city"] == ["Ulm"]
        registry.write_bytes(good)
        eventually(lambda: served.gateway.registry.state.read > read)
        assert served.client.serving_info().plan_generation == 2
        store.delete_feature_service("late")
        eventually(lambda: served.client.serving_info().plan_generation == 3)
        with pytest.raises(HotfeastError, match="NOT_FOUND"):
            ask("late", {"user_id": [1]})
    finally:
        stop(served)


def test_time_to_live_is_judged_at_the_given_time(market_store: FeatureStore) -> None:
    """The same rows, seen from the last microsecond of their life and from the one after."""
    end = market.OLD + market.user_stats.ttl
    for as_of, status in ((end, "PRESENT"), (end + pd.Timedelta("1us"), "OUTSIDE_MAX_AGE")):
        served = serve(market_store, Settings(repo=Path(market_store.repo_path), as_of=as_of))
        try:
            answer = served.client.get_online_features("part", {"user_id": [3]})
            assert answer.statuses["spend"] == [status]
            assert served.client.serving_info().as_of.ToDatetime() == as_of.replace(tzinfo=None)
        finally:
            stop(served)


def test_health_before_redis_has_answered(market_store: FeatureStore, tmp_path: Path) -> None:
    redis = LocalRedis()
    repo = market.write_repository(tmp_path, "market", redis.address)
    (repo / "registry.db").write_bytes((Path(market_store.repo_path) / "registry.db").read_bytes())
    lines: list[str] = []
    served = None

    def start() -> None:
        nonlocal served
        from hotfeast.server.gateway import Gateway

        served = Gateway(Settings(repo=repo, port=0, redis_timeout=0.2))
        served.start(lines.append)

    thread = threading.Thread(target=start)
    thread.start()
    eventually(lambda: any("not ready" in line for line in lines))
    assert served is not None
    with grpc.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == NOT_SERVING
        with redis:
            thread.join(30)
            assert health.Check(health_pb2.HealthCheckRequest()).status == SERVING
    served.stop(drain=0)
