"""The gateway as a process, and waiting for what it does."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


class Process:
    """`hotfeast serve` in a process of its own."""

    def __init__(self, repo: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "hotfeast.server", "serve"),
                *("--repo", str(repo), "--bind", "127.0.0.1:0"),
                *options,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self.errors: list[str] = []
        for stream, sink in ((self.process.stdout, self.lines), (self.process.stderr, self.errors)):
            threading.Thread(target=self._collect, args=(stream, sink), daemon=True).start()

    @staticmethod
    def _collect(stream: Iterator[str], sink: list[str]) -> None:
        sink.extend(line.rstrip() for line in stream)

    def wait_for(self, text: str, timeout: float = 60) -> str:
        """The first line of standard output that has `text`."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for line in list(self.lines):
                if text in line:
                    return line
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"no {text!r} in {self.lines}; errors: {self.errors}")

    def address(self) -> str:
        """Waits until it serves, and returns `host:port`."""
        line = self.wait_for("Hotfeast serves")
        return line.split(" on ")[1].split(" ")[0]

    def workers(self) -> set[int]:
        """The process ids of its workers."""
        pid = self.process.pid
        found = set()
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            # One that ends while it is looked at is none.
            with suppress(FileNotFoundError):
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.add(child)
        return found

    def stop(self) -> int:
        """Sends SIGTERM and waits."""
        self.process.terminate()
        return self.process.wait(60)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hotfeast.server", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def eventually(condition: object, timeout: float = 30) -> None:
    """Waits until a function returns something true."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")
