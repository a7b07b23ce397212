"""A gateway of two workers, its Redis and the links between them, all on loopback."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

from bench.chaos.link import Link
from bench.chaos.model import write_repository
from hotfeast.server.local_redis import LocalRedis

_READY = re.compile(r"(?m)^Hotfeast serves .* on 127\.0\.0\.1:(\d+) .*$")
# Seconds.
_START_LIMIT = 120.0
_STOP_LIMIT = 20.0
# Bytes of the gateway's output that are looked at.
_LOG_SIZE = 1 << 20
# What Redis must be told to lose nothing that it has acknowledged, also where it is killed.
_DURABLE = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")


class World:
    """All that faults are done to.

    Attributes:
        redis: Durable, and reached by the gateway through `to_redis`.
        to_redis, to_gateway: Links.
        repo: The repository's folder.
        clock: The file by which the gateway's clock is set; None where it is the system's.
    """

    def __init__(self, faked: Path | None) -> None:
        """
        Args:
            faked: libfaketime, by which the gateway's clock can be set; None for the system's.
        """
        with ExitStack() as stack:
            folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="hotfeast-chaos-"))
            )
            data = folder / "redis"
            data.mkdir()
            self.redis = LocalRedis(*_DURABLE, data_dir=data)
            stack.callback(self.redis.kill)
            self.redis.start()
            self.to_redis = Link(self.redis.port)
            stack.callback(self.to_redis.close)
            self.repo = folder / "repo"
            self.repo.mkdir()
            write_repository(self.repo, f"127.0.0.1:{self.to_redis.port}")
            environment = dict(os.environ)
            self.clock: Path | None = None
            if faked is not None:
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
