"""A gateway of two workers, its Redis and the links between them, all on loopback; see `Kind`."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from enum import Enum
from pathlib import Path

import psutil
import trustme

from bench.chaos.link import Link
from bench.chaos.model import write_repository
from hotfeast.clients import Tls
from hotfeast.server.local_redis import LocalRedis, ServerTls
from hotfeast.server.local_shapes import LocalCluster

_READY = re.compile(r"(?m)^Hotfeast serves .* on 127\.0\.0\.1:(\d+) .*$")
# Seconds.
_START_LIMIT = 120.0
_STOP_LIMIT = 20.0
# Bytes of the gateway's output that are looked at.
_LOG_SIZE = 1 << 20
# What Redis must be told to lose nothing that it has acknowledged, also where it is killed.
_DURABLE = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")


class Kind(Enum):
    """What a gateway and its Redis are like, in words."""

    PLAIN = "one Redis, which writes each command to its file before it answers"
    CLOCK = "the same, with a clock of the gateway's that can be set"
    TLS = "the same, with TLS on both sides of the gateway"
    CLUSTER = "three masters and their replicas; a push waits for a replica (WAIT)"
    UNCONFIRMED = "the same, where a push does not wait"

    @property
    def is_cluster(self) -> bool:
        """Whether Redis is a cluster, to which there is no link."""
        return self in (Kind.CLUSTER, Kind.UNCONFIRMED)


class World:
    """All that faults are done to.

    Attributes:
        to_gateway: The link between clients and the gateway.
        tls: With what clients encrypt; None where they do not.
        repo: The repository's folder.
        clock: The file by which the gateway's clock is set; None where it is the system's.
    """

    def __init__(self, kind: Kind, faked: Path | None = None) -> None:
        """
        Args:
            kind: What it is like.
            faked: libfaketime, by which the clock of `Kind.CLOCK` is set.
        """
        with ExitStack() as stack:
            folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="hotfeast-chaos-"))
            )
            pair = write_certificates(folder) if kind is Kind.TLS else None
            self.tls = Tls(ca=pair.authority) if pair is not None else None
            self.repo = folder / "repo"
            self.repo.mkdir()
            self._cluster: LocalCluster | None = None
            self._redis: LocalRedis | None = None
            self._to_redis: Link | None = None
            if kind.is_cluster:
                self._cluster = stack.enter_context(LocalCluster())
                write_repository(self.repo, self._cluster.address, "redis_cluster")
            else:
                data = folder / "redis"
                data.mkdir()
                self._redis = LocalRedis(*_DURABLE, data_dir=data, tls=pair)
                stack.callback(self._redis.kill)
                self._redis.start()
                self._to_redis = Link(self._redis.port)
                stack.callback(self._to_redis.close)
                options = self._redis.client_options.items()
                write_repository(
                    self.repo,
                    f"127.0.0.1:{self._to_redis.port}"
                    + "".join(f",{name}={json.dumps(o).strip(chr(34))}" for name, o in options),
                )
            more = ["--push-wait-replicas", "1"] if kind is Kind.CLUSTER else []
            if pair is not None:
                more += ["--tls-cert", str(pair.pair), "--tls-key", str(pair.pair)]
            environment = dict(os.environ)
            self.clock: Path | None = None
            if kind is Kind.CLOCK:
                self.clock = folder / "clock"
                self.clock.write_text("+0")
                environment |= {
                    "LD_PRELOAD": str(faked),
                    "FAKETIME_TIMESTAMP_FILE": str(self.clock),
                    "FAKETIME_CACHE_DURATION": "1",
                    "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                }
            self.log = stack.enter_context((folder / "log").open("w+b"))
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "hotfeast.server", "serve", "--repo", str(self.repo)),
                    *("--bind", "127.0.0.1:0", "--workers", "2", "--redis-timeout", "0.5"),
                    *("--registry-interval", "0.5", "--feature-log", str(folder / "logged")),
                    *("--feature-log-rate", "1", "--feature-log-seconds", "1"),
                    *("--metrics", "127.0.0.1:0"),
                    *more,
                ],
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=Path(__file__).resolve().parents[2],
            )
            stack.callback(self._stop)
            self.to_gateway = Link(self._wait_for_port())
            stack.callback(self.to_gateway.close)
            self._stack = stack.pop_all()

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def redis(self) -> LocalRedis:
        """The one server, durable, and reached by the gateway through `to_redis`."""
        assert self._redis is not None
        return self._redis

    @property
    def to_redis(self) -> Link:
        """The link between the gateway and the one server."""
        assert self._to_redis is not None
        return self._to_redis

    @property
    def cluster(self) -> LocalCluster:
        """The servers that belong together."""
        assert self._cluster is not None
        return self._cluster

    def workers(self) -> list[psutil.Process]:
        """The gateway's workers."""
        found = []
        for child in psutil.Process(self._process.pid).children():
            with suppress(psutil.NoSuchProcess):
                if "spawn_main" in " ".join(child.cmdline()):
                    found.append(child)
        return found

    @property
    def output(self) -> str:
        """What the gateway has said."""
        return os.pread(self.log.fileno(), _LOG_SIZE, 0).decode("utf-8", "replace")

    def _wait_for_port(self) -> int:
        self._wait(lambda: _READY.search(self.output) is not None)
        found = _READY.search(self.output)
        assert found is not None
        return int(found[1])

    def _wait(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + _START_LIMIT
        while not condition():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the gateway did not start:\n{self.output[-4000:]}")
            time.sleep(0.05)

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_LIMIT)
        except subprocess.TimeoutExpired:
            for worker in self.workers():
                worker.kill()
            self._process.kill()
            self._process.wait()


def write_certificates(folder: Path) -> ServerTls:
    """An authority's certificate, and one of it for all on 127.0.0.1."""
    ca = trustme.CA()
    authority, pair = folder / "ca.pem", folder / "pair.pem"
    ca.cert_pem.write_to_path(str(authority))
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pair))
    return ServerTls(authority, pair)
