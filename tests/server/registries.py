"""The places that a registry can be at, each with a way to break and to mend it."""

import os
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import market
from feast import FeatureStore
from postgres import LocalPostgres

from hotfeast.server.local_redis import LocalRedis, free_port

_REGISTRY_SERVER = """
import sys
import hotfeast.server.feast_api
from feast import FeatureStore
from feast.registry_server import start_server
start_server(FeatureStore(repo_path=sys.argv[1]), int(sys.argv[2]))
"""


class Place(ABC):
    """A registry.

    Attributes:
        repo: A repository that reads it.
    """

    def __init__(self, repo: Path, writer: Path) -> None:
        self.repo = repo
        self._writer = writer

    def writer(self) -> FeatureStore:
        """Feast's store of another repository that shares the registry, to apply changes with."""
        return FeatureStore(repo_path=str(self._writer))

    @abstractmethod
    def break_down(self) -> None:
        """Makes it unreadable."""

    @abstractmethod
    def mend(self) -> None:
        """Makes it readable again, with what it had."""


class FilePlace(Place):
    """A file, as it is or with SQLite's tables in it."""

    def __init__(self, repo: Path, writer: Path, path: Path, content: bytes | None) -> None:
        super().__init__(repo, writer)
        self.path = path
        self._bad = content
        self._good = b""

    def break_down(self) -> None:
        self._good = self.path.read_bytes()
        if self._bad is None:
            self.path.unlink()
        else:
            self.replace(self._bad)

    def mend(self) -> None:
        self.replace(self._good)

    def replace(self, content: bytes) -> None:
        """Puts another file in its place."""
        new = self.path.with_suffix(".new")
        new.write_bytes(content)
        os.replace(new, self.path)


class PostgresPlace(Place):
    """Tables in PostgreSQL."""

    def __init__(self, repo: Path, writer: Path, server: LocalPostgres) -> None:
        super().__init__(repo, writer)
        self._server = server

    def break_down(self) -> None:
        self._server.stop()

    def mend(self) -> None:
        self._server.start()


class ServerPlace(Place):
    """Feast's registry server, in front of a file."""

    def __init__(self, repo: Path, writer: Path, port: int) -> None:
        super().__init__(repo, writer)
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115

    def break_down(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def mend(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _REGISTRY_SERVER, str(self._writer), str(self._port)],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        end = time.monotonic() + 60
        while True:
            with grpc.insecure_channel(f"127.0.0.1:{self._port}") as channel:
                try:
                    grpc.channel_ready_future(channel).result(timeout=0.5)
                    return
                except grpc.FutureTimeoutError:
                    if self._process.poll() is not None or time.monotonic() > end:
                        self._log.seek(0)
                        raise RuntimeError(self._log.read().decode()[-2000:]) from None


def _repository(folder: Path, project: str, redis: LocalRedis, registry: str) -> Path:
    return market.write_repository(folder, project, redis.address, registry)


@contextmanager
def open_place(
    kind: str, folder: Path, project: str, redis: LocalRedis, other_project: str | None = None
) -> Iterator[Place]:
    """A registry of a kind, empty but readable by the registry server.

    Args:
        kind: `file`, `sqlite`, `postgres` or `remote`; to the first two happens what is after a
            colon, `removed` (also without it) or `garbage`.
        folder: Where repositories, files and databases are made.
        project: The repository's project.
        redis: The repository's online store.
        other_project: The project of the store that changes are applied with; the same if None.
    """
    kind, _, fault = kind.partition(": ")
    bad = {"": None, "removed": None, "garbage": b"\xff\xfenot a registry" * 50}
    written = other_project or project
    if kind == "file":
        path = folder / "shared.db"
        registry = f"  path: {path}\n"
    elif kind == "sqlite":
        path = folder / "shared.sqlite"
        registry = f"  registry_type: sql\n  path: sqlite:///{path}\n"
    elif kind == "postgres":
        with LocalPostgres() as server:
            registry = f"  registry_type: sql\n  path: {server.url}\n"
            repo = _repository(folder / "repo", project, redis, registry)
            writer = _repository(folder / "writer", written, redis, registry)
            yield PostgresPlace(repo, writer, server)
        return
    else:
        port = free_port()
        remote = f"  registry_type: remote\n  path: 127.0.0.1:{port}\n"
        repo = _repository(folder / "repo", project, redis, remote)
        registry = f"  path: {folder / 'shared.db'}\n"
        writer = _repository(folder / "writer", written, redis, registry)
        place = ServerPlace(repo, writer, port)
        place.mend()
        try:
            yield place
        finally:
            place.break_down()
        return
    repo = _repository(folder / "repo", project, redis, registry)
    writer = _repository(folder / "writer", written, redis, registry)
    yield FilePlace(repo, writer, path, bad[fault])
