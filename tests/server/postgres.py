"""A PostgreSQL server of our own, for tests: on 127.0.0.1, with data in a temporary folder."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

import pytest

from hotfeast.server.local_redis import free_port

# Where Debian's packages have the server's programs, which are not on PATH.
_DEBIAN = Path("/usr/lib/postgresql")
_USER = "postgres"
# The environment variable with which continuous integration has no test skipped.
_REQUIRED = "HOTFEAST_REQUIRE_POSTGRES"


def _programs() -> Path | None:
    """The folder of initdb and pg_ctl, of the newest version that is installed."""
    found = sorted(_DEBIAN.glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if found and (found[-1].parent / "pg_ctl").is_file():
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path and shutil.which("pg_ctl") else None


class LocalPostgres:
    """A server with one superuser, `postgres`, started by `start`, stopped by `with` or `stop`.

    Attributes:
        port: Its port; the same one after a restart.
    """

    def __init__(self) -> None:
        """Makes the data folder; nothing runs yet.

        Where no server is installed it skips the test, or fails it where one is required.
        """
        programs = _programs()
        if programs is None:
            give_up = pytest.fail if os.environ.get(_REQUIRED) else pytest.skip
            give_up("no PostgreSQL server (initdb, pg_ctl): install Debian's package postgresql")
        self._programs = programs
        self.port = free_port()
        # As root the server runs as the user of Debian's package, since it refuses to be root.
        self._as_user = ["runuser", "-u", _USER, "--"] if os.geteuid() == 0 else []
        self._folder = Path(tempfile.mkdtemp(prefix="hotfeast-postgres-"))
        if self._as_user:
            shutil.chown(self._folder, _USER)
        try:
            self._run("initdb", "-D", self._data, "-U", _USER, "-A", "trust", "--no-sync")
        except BaseException:
            shutil.rmtree(self._folder)
            raise

    @property
    def url(self) -> str:
        """The database `postgres` as SQLAlchemy names it."""
        return f"postgresql+psycopg://{_USER}@127.0.0.1:{self.port}/postgres"

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def _run(self, program: str, *arguments: str) -> None:
        # Into a file: the server inherits the output, and a pipe would not end before it does.
        with tempfile.TemporaryFile() as output:
            code = subprocess.run(
                [*self._as_user, str(self._programs / program), *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self._folder,
                check=False,
            ).returncode
            if code:
                output.seek(0)
                text = output.read().decode("utf-8", "replace")
                raise RuntimeError(f"{program} failed:\n{text[-2000:]}")

    def start(self) -> None:
        """Starts the server and waits until it takes connections."""
        options = f"-F -p {self.port} -c listen_addresses=127.0.0.1 -k {self._folder}"
        self._run("pg_ctl", "start", "-w", "-D", self._data, "-o", options)

    def stop(self) -> None:
        """Ends the server and all connections to it."""
        self._run("pg_ctl", "stop", "-w", "-D", self._data, "-m", "immediate")

    def __enter__(self) -> "LocalPostgres":
        try:
            self.start()
        except BaseException:
            shutil.rmtree(self._folder)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if Path(self._data, "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self._folder)
