"""Load from a client in C: `h2load` of nghttp2, whose own time is a fraction of a Python client's.

Each connection has a number of requests under way and sends the next as soon as one is answered: a
closed loop. One request is sent again and again.
"""

import http
import re
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

NEEDED = (
    "h2load is missing, so that throughput is not measured with a client in C: "
    "apt-get install nghttp2-client"
)
# Seconds more than the load takes that h2load has to end.
_PATIENCE = 30.0
# Bytes in front of a gRPC message.
_PREFIX = 5


@dataclass(frozen=True)
class Pattern:
    """How much is under way at once."""

    connections: int
    streams: int

    def __str__(self) -> str:
        return f"{self.connections} x {self.streams}"


@dataclass(frozen=True)
class Target:
    """A method, and what it is asked.

    Attributes:
        port: Of a server on 127.0.0.1.
        path: Of the method.
        body: The request: a message, or for HTTP/1.1 a body.
        answer_size: Bytes of the answer, so that an error is noticed.
        grpc: Whether it is a gRPC method; else it is JSON over HTTP/1.1.
        redis_port: Of the Redis that the server reads, on 127.0.0.1; None where it reads none.
    """

    port: int
    path: str
    body: bytes
    answer_size: int
    grpc: bool = True
    redis_port: int | None = None


@dataclass(frozen=True)
class Shot:
    """What one run of h2load saw.

    Attributes:
        rate: Answers a second.
        latency: Milliseconds of each request.
    """

    rate: float
    latency: npt.NDArray[np.float64]


def find() -> str | None:
    """The program, if it is installed."""
    return shutil.which("h2load")


def shoot(program: str, target: Target, pattern: Pattern, seconds: float) -> Shot:
    """Loads a server for some seconds. A slow one may not have answered anything by then.

    Raises:
        RuntimeError: h2load failed, or not every request was answered as it should be.
    """
    with tempfile.TemporaryDirectory(prefix="hotfeast-h2load-") as folder:
        body, log = Path(folder, "body"), Path(folder, "log")
        if target.grpc:
            body.write_bytes(b"\x00" + struct.pack(">I", len(target.body)) + target.body)
            protocol = ["-H", "te: trailers", "-H", "content-type: application/grpc"]
        else:
            body.write_bytes(target.body)
            protocol = ["--h1", "-H", "content-type: application/json"]
        command = [
            program, "-c", str(pattern.connections), "-m", str(pattern.streams), "-t", "1",
            "-D", f"{round(seconds * 1000)}ms", "-d", str(body), f"--log-file={log}", *protocol,
            f"http://127.0.0.1:{target.port}{target.path}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + _PATIENCE)
        if done.returncode != 0:
            raise RuntimeError(f"h2load failed:\n{done.stdout}{done.stderr}")
        lines = log.read_text().splitlines()
    rate, answered = _read(done.stdout, target)
    # The time it was sent, the status of HTTP, and the microseconds that it took.
    columns = np.array([line.split("\t") for line in lines], np.int64).reshape(-1, 3)
    if len(columns) != answered or not np.all(columns[:, 1] == http.HTTPStatus.OK):
        raise RuntimeError(f"h2load's log does not fit what it says:\n{done.stdout}")
    latency: npt.NDArray[np.float64] = columns[:, 2] / 1e3
    return Shot(rate, latency)


def _read(output: str, target: Target) -> tuple[float, int]:
    """The rate and the number of answers.

    Raises:
        RuntimeError: Not all requests were answered, or the answers are too short to be right.
    """
    rate = re.search(r"([\d.]+) req/s", output)
    requests = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", output)
    data = re.search(r"\((\d+)\) data", output)
    if rate is None or requests is None or data is None:
        raise RuntimeError(f"h2load says something else than expected:\n{output}")
    succeeded, *lost = map(int, requests.groups())
    if any(lost):
        raise RuntimeError(f"requests were lost:\n{output}")
    # A gRPC error is a success of HTTP, but brings no data.
    expected = target.answer_size + (_PREFIX if target.grpc else 0)
    if int(data[1]) < succeeded * expected:
        raise RuntimeError(f"answers are shorter than {expected} bytes:\n{output}")
    return float(rate[1]), succeeded
