"""SIGHUP: workers are replaced by new ones, and no client is failed."""

import os
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import market
import pytest
from feast import FeatureStore
from figures import scrape
from processes import Process, eventually

from hotfeast.server.local_redis import LocalRedis
from hotfeast.serving.v1 import serving_pb2, value_pb2

METHOD = "hotfeast.serving.v1.FeatureServing/GetOnlineFeatures"
OK = f'hotfeast_requests_total{{code="OK",method="{METHOD}"}}'
REQUEST = serving_pb2.GetOnlineFeaturesRequest(
    feature_service="part",
    entities={"user_id": value_pb2.RepeatedValue(val=[value_pb2.Value(int64_val=1)])},
).SerializeToString()
RELOADS = 'hotfeast_reloads_total{outcome="%s"}'


class Load:
    """Clients in closed loops: some keep their channel, others open one for each call.

    Attributes:
        outcomes: How many calls ended how.
    """

    def __init__(self, address: str) -> None:
        self.outcomes: Counter[str] = Counter()
        self._address = address
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(keeps,)) for keeps in [True] * 6 + [False] * 2
        ]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _run(self, keeps: bool) -> None:
        # A pool of its own: channels of one address otherwise share their connections.
        options = [("grpc.use_local_subchannel_pool", 1)]
        while not self._done.is_set():
            with grpc.insecure_channel(self._address, options=options) as channel:
                read: Any = channel.unary_unary(f"/{METHOD}")
                self._ask(read)
                while keeps and not self._done.is_set():
                    self._ask(read)

    def _ask(self, read: Any) -> None:
        try:
            outcome = "OK" if read(REQUEST, timeout=20) else "nothing"
        except grpc.RpcError as error:
            failed: Any = error
            outcome = f"{failed.code().name}: {failed.details()}"
        with self._lock:
            self.outcomes[outcome] += 1

    def go_on(self, calls: int = 200) -> None:
        """Waits for more calls."""
        before = self.outcomes.total()
        eventually(lambda: self.outcomes.total() >= before + calls)


@pytest.fixture
def repo(market_store: FeatureStore, redis_server: LocalRedis, tmp_path: Path) -> Path:
    """The market's repository with a registry of its own, which may be broken."""
    made = market.write_repository(tmp_path, "market", redis_server.address)
    (made / "registry.db").write_bytes((Path(market_store.repo_path) / "registry.db").read_bytes())
    return made


def reload(process: Process) -> None:
    """Sends SIGHUP, and waits until all workers are new."""
    before = process.workers()
    done = reloads(process)
    process.process.send_signal(signal.SIGHUP)
    eventually(lambda: reloads(process) > done, timeout=90)
    assert not before & process.workers()
    assert len(process.workers()) == len(before)


def reloads(process: Process) -> int:
    return sum("reload: done" in line for line in process.lines)


@pytest.mark.parametrize(("server", "workers"), [("native", 2), ("grpcio", 1)])
def test_no_call_fails_and_none_is_forgotten(repo: Path, server: str, workers: int) -> None:
    options = ("--server", server, "--workers", str(workers), "--metrics", "127.0.0.1:0")
    with Process(repo, *options) as process:
        url = process.wait_for("metrics on").split(" on ")[1]
        with Load(process.address()) as load:
            load.go_on()
            counted = scrape(url)[OK]
            reload(process)
            assert scrape(url)[OK] >= counted
            load.go_on()
        assert set(load.outcomes) == {"OK"}
        assert scrape(url)[OK] == load.outcomes.total()
        assert process.stop() == 0


def test_a_reload_that_fails_and_one_beside_a_death(repo: Path) -> None:
    with Process(repo, "--metrics", "127.0.0.1:0") as process:
        url = process.wait_for("metrics on").split(" on ")[1]
        address = process.address()
        (first,) = process.workers()
        registry = repo / "registry.db"
        good = registry.read_bytes()
        registry.write_bytes(b"not a registry")
        process.process.send_signal(signal.SIGHUP)
        eventually(lambda: scrape(url)[RELOADS % "failed"] == 1)
        assert any("worker 0 has no successor, and serves on" in line for line in process.errors)
        assert process.workers() == {first}
        with Load(address) as load:
            load.go_on()
        assert set(load.outcomes) == {"OK"}
        registry.write_bytes(good)
        # The worker dies while its successor starts, which then takes its place.
        process.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(process.workers()) == 2)
        os.kill(first, signal.SIGKILL)
        process.wait_for("ended with exit code -9")
        with Load(address) as load:
            load.go_on()
        # Who came meanwhile has waited for it.
        assert set(load.outcomes) == {"OK"}
        eventually(lambda: reloads(process) == 1)
        assert len(process.workers()) == 1
        figures = scrape(url)
        assert (figures[RELOADS % "failed"], figures[RELOADS % "done"]) == (1, 1)
        assert figures[OK] >= load.outcomes.total()
        assert figures["hotfeast_registry_readable"] == 1
        # So is one that dies at another time.
        (second,) = process.workers()
        os.kill(second, signal.SIGKILL)
        eventually(lambda: process.workers() - {second})
        assert process.stop() == 0
