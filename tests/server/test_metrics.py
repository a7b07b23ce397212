"""Figures for Prometheus, of one process and of several."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from feast import FeatureStore
from figures import scrape
from processes import Process, eventually, run_cli
from served import Served, serve, stop

from hotfeast.clients import FeatureClient, HotfeastError
from hotfeast.server.gateway import Settings
from hotfeast.server.local_redis import LocalRedis
from hotfeast.serving.v1 import serving_pb2

METHOD = "hotfeast.serving.v1.FeatureServing/GetOnlineFeatures"


def calls(code: str, method: str = METHOD) -> str:
    return f'hotfeast_requests_total{{code="{code}",method="{method}"}}'


@pytest.fixture
def counted(market_store: FeatureStore) -> Iterator[Served]:
    settings = Settings(
        repo=Path(market_store.repo_path), metrics=("127.0.0.1", 0), registry_interval=0.2
    )
    served = serve(market_store, settings)
    yield served
    stop(served)


def test_calls_are_counted_by_method_and_code(counted: Served) -> None:
    assert counted.gateway.metrics_page is not None
    url = counted.gateway.metrics_page.url
    ask = counted.client.get_online_features
    for _ in range(5):
        ask("part", {"user_id": [1]})
    for service, entities, code in (
        ("nothing", {"user_id": [1]}, grpc.StatusCode.NOT_FOUND),
        ("part", {"nobody": [1]}, grpc.StatusCode.INVALID_ARGUMENT),
        ("hidden_service", {"user_id": [1]}, grpc.StatusCode.FAILED_PRECONDITION),
        ("failing_service", {"user_id": [1]}, grpc.StatusCode.INTERNAL),
    ):
        with pytest.raises(HotfeastError) as error:
            ask(service, entities)
        assert error.value.code == code
    request = serving_pb2.GetOnlineFeaturesRequest(feature_service="part")
    request.entities["user_id"].val.add(int64_val=1)
    counted.call("/feast.serving.ServingService/GetOnlineFeatures", request.SerializeToString())
    with pytest.raises(grpc.RpcError):
        counted.call("/GrpcFeatureServer/Push", b"")
    # Names that nobody serves are not remembered.
    with pytest.raises(grpc.RpcError):
        counted.call("/hotfeast.serving.v1.FeatureServing/Invented", b"")
    counted.client.serving_info()
    figures = scrape(url)
    expected = {
        calls("OK"): 5,
        calls("NOT_FOUND"): 1,
        calls("INVALID_ARGUMENT"): 1,
        calls("FAILED_PRECONDITION"): 1,
        calls("INTERNAL"): 1,
        calls("OK", "feast.serving.ServingService/GetOnlineFeatures"): 1,
        calls("INVALID_ARGUMENT", "GrpcFeatureServer/Push"): 1,
        calls("OK", "hotfeast.serving.v1.FeatureServing/GetServingInfo"): 1,
    }
    assert {k: v for k, v in figures.items() if k.startswith("hotfeast_requests_total")} == expected
    assert figures[f'hotfeast_request_seconds_count{{method="{METHOD}"}}'] == 9
    assert figures[f'hotfeast_request_seconds_bucket{{le="+Inf",method="{METHOD}"}}'] == 9
    assert f'hotfeast_request_seconds_bucket{{le="0.00025",method="{METHOD}"}}' in figures
    assert f'hotfeast_request_seconds_bucket{{le="1.0",method="{METHOD}"}}' in figures
    assert 0 < figures[f'hotfeast_request_seconds_sum{{method="{METHOD}"}}'] < 60


def test_the_registry_is_told(counted: Served) -> None:
    assert counted.gateway.metrics_page is not None
    url = counted.gateway.metrics_page.url
    figures = scrape(url)
    info = counted.client.serving_info()
    build = f'hotfeast_build_info{{feast_version="{info.feast_version}",version="{info.version}"}}'
    assert figures[build] == 1
    assert figures["hotfeast_registry_readable"] == 1
    assert figures["hotfeast_registry_errors_total"] == 0
    assert figures["hotfeast_plan_generation"] == info.plan_generation == 1
    assert figures["hotfeast_registry_age_seconds"] < 30
    registry = Path(counted.settings.repo) / "registry.db"
    hidden = registry.rename(registry.with_suffix(".hidden"))
    try:
        eventually(lambda: scrape(url)["hotfeast_registry_readable"] == 0)
        broken = scrape(url)
        assert broken["hotfeast_registry_errors_total"] >= 1
        read = broken["hotfeast_registry_read_timestamp_seconds"]
        # The age is that of the moment of the scrape.
        eventually(
            lambda: (
                scrape(url)["hotfeast_registry_age_seconds"]
                > broken["hotfeast_registry_age_seconds"]
            )
        )
        assert scrape(url)["hotfeast_registry_read_timestamp_seconds"] == read
    finally:
        hidden.rename(registry)
    eventually(lambda: scrape(url)["hotfeast_registry_readable"] == 1)


def test_redis_away_is_counted_as_unavailable(market_store: FeatureStore, tmp_path: Path) -> None:
    with LocalRedis() as redis:
        settings = Settings(
            repo=Path(market_store.repo_path),
            redis_url=redis.url,
            redis_timeout=0.3,
            metrics=("127.0.0.1", 0),
        )
        served = serve(market_store, settings)
        try:
            redis.kill()
            with pytest.raises(HotfeastError, match="UNAVAILABLE"):
                served.client.get_online_features("part", {"user_id": [1]})
            assert served.gateway.metrics_page is not None
            assert scrape(served.gateway.metrics_page.url)[calls("UNAVAILABLE")] == 1
        finally:
            stop(served)


def test_off_unless_asked_for(strict: Served) -> None:
    assert strict.gateway.metrics_page is None


def test_every_worker_is_counted(market_store: FeatureStore) -> None:
    """Also one that is dead; its place is taken, and its state is no longer told."""
    repo = Path(market_store.repo_path)
    options = ("--workers", "2", "--metrics", "127.0.0.1:0", "--cache-mb", "1")
    with Process(repo, *options) as process:
        url = process.wait_for("metrics on").split(" on ")[1]
        address = process.address()
        pids = process.workers()
        folder = _figures_folder(min(pids))
        seen = 0
        # Connections are spread by the kernel: go on until both workers have had some.
        answered: set[str] = set()
        while len(answered) < 2:
            assert seen < 500
            with FeatureClient(address) as client:
                client.get_online_features("part", {"user_id": [1]})
            seen += 1
            answered = {
                name for name in ("counter_0.db", "counter_1.db")
                if METHOD.encode() in (folder / name).read_bytes()
            }  # fmt: skip
        # A call is counted once its answer is sent.
        eventually(lambda: scrape(url)[calls("OK")] == seen)
        assert scrape(url)["hotfeast_registry_readable"] == 1
        assert scrape(url)["hotfeast_plan_generation"] == 1
        # The caches of both, each of which has been asked.
        lookups = 'hotfeast_cache_lookups_total{result="%s"}'
        eventually(
            lambda: scrape(url)[lookups % "hit"] + scrape(url)[lookups % "miss"] == seen,
        )
        assert scrape(url)["hotfeast_cache_live"] == 1
        assert scrape(url)["hotfeast_cache_entries"] == 2
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: len(process.workers() - pids) == 2)

        def again() -> bool:
            try:
                with FeatureClient(address) as client:
                    client.get_online_features("part", {"user_id": [1]})
            except HotfeastError:
                return False
            return True

        eventually(again, timeout=60)
        # What the dead have counted stays, and a call to a worker that took a place adds to it.
        eventually(lambda: scrape(url)[calls("OK")] >= seen + 1)
        assert scrape(url)["hotfeast_registry_readable"] == 1
        assert len(list(folder.glob("counter_*.db"))) == 2
        assert process.stop() == 0
        assert not folder.exists()


_STARTING_WORKER = """
import sys
from pathlib import Path
from prometheus_client import generate_latest, CollectorRegistry
from hotfeast.server.metrics import Metrics, WorkerFiles, workers_figures

folder = Path(sys.argv[1])
Metrics(("service",), WorkerFiles(folder, 0))
figures = CollectorRegistry()
figures.register(workers_figures(folder))
sys.stdout.write(generate_latest(figures).decode())
"""


def test_a_starting_worker_tells_nothing_of_the_registry(tmp_path: Path) -> None:
    """Gauges are files with zeros as soon as they are made: a false alarm until the first look."""
    command = [sys.executable, "-c", _STARTING_WORKER, str(tmp_path)]
    page = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "hotfeast_registry_errors_total 0.0" in page
    assert "hotfeast_registry_readable" not in page
    assert "hotfeast_registry_read_timestamp_seconds" not in page


def _figures_folder(pid: int) -> Path:
    found = re.search(r"(\S+)/counter_\d\.db", Path(f"/proc/{pid}/maps").read_text())
    assert found is not None
    return Path(found[1])


@pytest.mark.parametrize("workers", ["1", "2"])
def test_address_in_use(market_store: FeatureStore, workers: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = run_cli(
            *("serve", "--repo", str(market_store.repo_path), "--bind", "127.0.0.1:0"),
            *("--metrics", address, "--workers", workers),
        )
    assert result.returncode == 2
    assert f"cannot serve metrics on {address}" in result.stderr


def test_address_of_wrong_form(market_store: FeatureStore) -> None:
    result = run_cli("serve", "--repo", str(market_store.repo_path), "--metrics", "9100")
    assert result.returncode == 2
    assert "HOST:PORT" in result.stderr


def test_counting_from_many_threads(counted: Served) -> None:
    def load() -> None:
        with FeatureClient(counted.address) as client:
            for _ in range(50):
                client.get_online_features("part", {"user_id": [1]})

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted.gateway.metrics_page is not None
    assert scrape(counted.gateway.metrics_page.url)[calls("OK")] == 400
