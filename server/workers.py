"""Several gateway processes on one port, under one supervisor.

The kernel spreads connections over the workers (SO_REUSEPORT). The supervisor holds the port, tells
when all workers are ready, starts a worker anew when it dies, and passes on SIGTERM.
"""

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

from hotfeast.server.errors import StartFailure
from hotfeast.server.gateway import Gateway, Settings
from hotfeast.server.metrics import Page, WorkerFiles, forget_gauges, workers_figures

logger = logging.getLogger(__name__)

# Seconds before a worker that died young is started again, so that a fault does not spin.
_RESTART_PAUSE = 1.0


def _work(settings: Settings, ready: Connection) -> None:
    """A worker process: a gateway that reports through a pipe."""
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()
    try:
        Gateway(settings).run(lambda line: ready.send(("line", line)))
    except StartFailure as failure:
        ready.send(("failed", str(failure)))


def _end_with_parent() -> None:
    """Drains this worker when its supervisor is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


class Supervisor:
    """Runs `count` workers until SIGTERM or SIGINT."""

    def __init__(self, settings: Settings, count: int) -> None:
        """Takes the port.

        Raises:
            StartFailure: The port, or that of the metrics, cannot be had.
        """
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            # Bound, never listening: it keeps the port from others, and gets no connections.
            self._socket.bind((settings.host.strip("[]"), settings.port))
        except OSError as error:
            raise StartFailure(f"cannot listen on {settings.host}:{settings.port}: {error}") from (
                error
            )
        self._figures: TemporaryDirectory[str] | None = None
        self._page: Page | None = None
        if settings.metrics is not None:
            self._figures = TemporaryDirectory(prefix="hotfeast-metrics-")
            self._page = Page(workers_figures(Path(self._figures.name)), *settings.metrics)
        self._settings = replace(
            settings, port=self._socket.getsockname()[1], share_port=True, metrics=None
        )
        self._count = count
        # Not fork: gRPC's threads do not survive one.
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[int, tuple[BaseProcess, Connection, float]] = {}
        self._stopping = False

    def run(self, say: Callable[[str], None]) -> None:
        """Serves until SIGTERM or SIGINT, then drains all workers.

        Args:
            say: Is told when all workers are ready, and of workers that died.

        Raises:
            StartFailure: A worker could not start, before all had once been ready.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        if self._page is not None:
            say(f"metrics on {self._page.url}")
        ready: set[int] = set()
        try:
            for index in range(self._count):
                self._launch(index)
            while not self._stopping:
                self._turn(ready, say)
        finally:
            self._stop_all()

    def _on_signal(self, *_: object) -> None:
        self._stopping = True

    def _launch(self, index: int) -> None:
        receiver, sender = self._context.Pipe(duplex=False)
        settings = replace(self._settings, metrics_files=self._files(index))
        process = self._context.Process(
            target=_work, args=(settings, sender), name=f"hotfeast-{index}"
        )
        process.start()
        sender.close()
        self._workers[index] = (process, receiver, time.monotonic())

    def _files(self, index: int) -> WorkerFiles | None:
        return None if self._figures is None else WorkerFiles(Path(self._figures.name), index)

    def _turn(self, ready: set[int], say: Callable[[str], None]) -> None:
        pipes = {receiver: i for i, (_, receiver, _) in self._workers.items()}
        for receiver in wait(list(pipes), timeout=0.2):
            assert isinstance(receiver, Connection)
            index = pipes[receiver]
            try:
                kind, text = receiver.recv()
            except EOFError:
                self._replace(index, say)
                continue
            if kind == "failed":
                if len(ready) < self._count:
                    raise StartFailure(text)
                # Its siblings serve on, and the next attempt may find the registry readable.
                say(f"worker {index} cannot start: {text}")
                continue
            if text.startswith("Hotfeast serves"):
                was_complete = len(ready) == self._count
                ready.add(index)
                if len(ready) == self._count and not was_complete:
                    say(f"{text} with {self._count} workers")
            else:
                say(f"worker {index}: {text}")

    def _replace(self, index: int, say: Callable[[str], None]) -> None:
        process, receiver, started = self._workers[index]
        process.join()
        receiver.close()
        files = self._files(index)
        if files is not None:
            forget_gauges(files)
        if self._stopping:
            return
        say(f"worker {index} ended with exit code {process.exitcode}; starting it again")
        if time.monotonic() - started < _RESTART_PAUSE:
            time.sleep(_RESTART_PAUSE)
        self._launch(index)

    def _stop_all(self) -> None:
        for process, _, _ in self._workers.values():
            if process.is_alive():
                process.terminate()
        end = time.monotonic() + self._settings.drain + 5
        for process, receiver, _ in self._workers.values():
            process.join(max(end - time.monotonic(), 0))
            if process.is_alive():
                logger.warning("%s has not drained in time; killing it", process.name)
                process.kill()
                process.join()
            with suppress(OSError):
                receiver.close()
        if self._page is not None:
            self._page.stop()
        if self._figures is not None:
            self._figures.cleanup()
        self._socket.close()
