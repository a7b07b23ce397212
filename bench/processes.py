"""The servers that are measured, as processes of their own on 127.0.0.1.

Each stops with the `with` block that started it.
"""

import os
import pickle
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import grpc
from feast.protos.feast.serving.GrpcServer_pb2 import DESCRIPTOR as FEAST_GRPC_SERVER

from bench.data import Layout
from bench.servers import ECHO_SERVICE, EchoKind, Prepared
from hotfeast.server.local_redis import free_port
from hotfeast.serving.v1 import serving_pb2

OUR_METHOD = (
    f"/{serving_pb2.DESCRIPTOR.services_by_name['FeatureServing'].full_name}/GetOnlineFeatures"
)
FEAST_METHOD = (
    f"/{FEAST_GRPC_SERVER.services_by_name['GrpcFeatureServer'].full_name}/GetOnlineFeatures"
)
# Seconds that a server has to get ready, and to end.
_START_LIMIT = 90.0
_STOP_LIMIT = 10.0
# Bytes of a server's output that are looked at.
_LOG_SIZE = 1 << 20
# Seconds that one call may take before the benchmark gives up.
_CALL_LIMIT = 30.0
# Seconds between two looks at the registry, which does not change here.
_REGISTRY_INTERVAL = 86400
_READY = r"(?m)^ready (\d+)$"


class Server:
    """A process that says when it is ready."""

    def __init__(self, module: str, *arguments: str, ready: str = _READY) -> None:
        """
        Args:
            module: What `python -m` runs.
            arguments: Its arguments.
            ready: Pattern of the line that says so; its first group is the port.
        """
        self._name = f"{module} {' '.join(arguments)}"
        self._ready = re.compile(ready)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).resolve().parents[1],
        )

    def port(self) -> int:
        """Waits until it is ready, and returns its port.

        Raises:
            RuntimeError: It ended, or takes too long; with its output.
        """
        output = self.wait_for(lambda text: self._ready.search(text) is not None, _START_LIMIT)
        found = self._ready.search(output)
        assert found is not None
        return int(found[1])

    def wait_for(self, said: Callable[[str], bool], limit: float) -> str:
        """Waits until its output is as it is to be, and returns it.

        Args:
            said: Whether it is.
            limit: Seconds.

        Raises:
            RuntimeError: It ended, or takes too long; with its output.
        """
        end = time.monotonic() + limit
        while True:
            ended = self._process.poll() is not None
            # The process writes where the file's position is, so that must not be moved.
            output = os.pread(self._log.fileno(), _LOG_SIZE, 0).decode("utf-8", "replace")
            if said(output):
                return output
            if ended or time.monotonic() > end:
                raise RuntimeError(f"{self._name} has not come so far:\n{output[-4000:]}")
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        self._process.send_signal(number)

    def stop(self) -> None:
        """Has it end, and waits as long as its requests take."""
        self._process.terminate()
        self._process.wait(_START_LIMIT)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


@contextmanager
def open_gateway(
    repo: Path,
    interval: float = _REGISTRY_INTERVAL,
    workers: int = 1,
    layout: Layout = Layout.FEAST,
    cpus: str | None = None,
    options: Sequence[str] = (),
) -> Iterator[int]:
    """Serves a repository with the gateway; gives its port.

    Args:
        repo: The repository.
        interval: Seconds between two looks at the registry.
        workers: Processes that serve it.
        layout: How the rows are stored.
        cpus: The CPUs that its workers stay on, as `--cpus` has them.
        options: Further ones of `hotfeast serve`.
    """
    with Server(
        *("hotfeast.server", "serve", "--repo", str(repo), "--bind", "127.0.0.1:0"),
        *("--registry-interval", str(interval), "--workers", str(workers)),
        *(() if layout is Layout.FEAST else ("--layout", layout.value)),
        *(() if cpus is None else ("--cpus", cpus)),
        *options,
        ready=r"(?m)^Hotfeast serves .* on 127\.0\.0\.1:(\d+) .*$",
    ) as server:
        yield server.port()


@contextmanager
def open_feast_grpc(repo: Path) -> Iterator[int]:
    """Serves a repository with Feast's Python gRPC server; gives its port."""
    with Server("bench.servers", "feast", str(repo), str(free_port())) as server:
        yield server.port()


@contextmanager
def open_feast_http(repo: Path, workers: int) -> Iterator[int]:
    """Serves a repository with Feast's HTTP feature server; gives its port."""
    with Server(
        *("bench.servers", "feast-http", str(repo), str(free_port())),
        *("--workers", str(workers)),
    ) as server:
        yield server.port()


@contextmanager
def open_echo(
    folder: Path,
    prepared: Mapping[str, Sequence[Prepared]],
    redis_port: int = 0,
    kind: EchoKind = EchoKind.SYNC,
) -> Iterator[int]:
    """Serves prepared answers; gives the port.

    Args:
        folder: Where the answers are put.
        prepared: For each method its answers, which are given in turn.
        redis_port: Where answers with a read have it done.
        kind: What the server is built of.
    """
    path = folder / f"answers-{kind}.pickle"
    path.write_bytes(pickle.dumps(prepared))
    with Server(
        *("bench.servers", "echo", str(path), "--redis-port", str(redis_port)),
        *("--kind", kind.value),
    ) as server:
        yield server.port()


def echo_method(name: str) -> str:
    """The full name of a method of an echo server."""
    return f"/{ECHO_SERVICE}/{name}"


def caller(stack: ExitStack, port: int, method: str) -> Callable[[bytes], bytes]:
    """A call of bytes to bytes: the client costs the same whoever is called."""
    channel = grpc.insecure_channel(
        f"127.0.0.1:{port}", options=[("grpc.max_receive_message_length", -1)]
    )
    stack.callback(channel.close)
    return partial(channel.unary_unary(method), timeout=_CALL_LIMIT)
