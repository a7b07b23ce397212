"""The worker processes of a gateway, under the supervisor that was started.

Each worker has listening sockets of its own on the one port, over which the kernel spreads
connections (SO_REUSEPORT). The supervisor holds the port and these sockets, tells when all workers
are ready, starts a worker anew when it dies, ends one that hangs, and passes on SIGTERM.

SIGHUP has the settings read again and all workers replaced, one after another; so does a change of
the settings' file, where it has to be. A successor starts beside the worker that it is for, and
takes clients once it is ready; only then does that worker drain. The two have the same listening
sockets, so that a connection which nobody has accepted is not lost with either. (grpcio's server
cannot be given a socket; see `hotfeast.server.drain`.) A successor that cannot start leaves the
workers, and their settings, as they are.
"""

import logging
import math
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from prometheus_client.registry import Collector

from hotfeast.server.config_watch import Change, ConfigWatch
from hotfeast.server.errors import StartFailure
from hotfeast.server.health import BEAT, PATIENCE, Beats, health_pages
from hotfeast.server.http_pages import page_guard
from hotfeast.server.listening import bind_all, close_all, port_of
from hotfeast.server.logs import set_up_logs
from hotfeast.server.metrics import (
    ConfigFigures,
    Page,
    WorkerFigures,
    forget_gauges,
    workers_figures,
)
from hotfeast.server.settings import Settings, WorkerFiles

if TYPE_CHECKING:
    from hotfeast.server.gateway import Gateway
    from hotfeast.server.monitoring.service import MonitoringService

logger = logging.getLogger(__name__)

# Seconds before a worker that died young is started again, so that a fault does not spin.
_RESTART_PAUSE = 1.0
# Seconds between two looks at signals, and at workers that take long to drain.
_LOOKS = 0.2
# Seconds beyond those for its requests after which a worker that still drains is killed.
_DRAIN_PATIENCE = 5.0
# Seconds without a sign of life after which nobody should be sent to a worker that is the last, or
# half of those after which it is ended.
_QUIET = 5.0
# Seconds between two looks after which the supervisor itself, or the whole machine, has been
# stopped: what workers have said meanwhile has not arrived yet.
_GAP = 3.0

Say = Callable[[str], None]


def _work(settings: Settings, number: int, pipe: Connection) -> None:
    """A worker process: a gateway that reports through a pipe, and is told of changed settings."""
    # Meant for the supervisor, also where a terminal sends it to all.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if settings.cpus:
        # Before there are other threads, which stay where the first one is.
        os.sched_setaffinity(0, settings.cpus)
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()
    set_up_logs(settings.logs, number)
    # Only here: the supervisor does not need Feast, and what it takes.
    from hotfeast.server.gateway import Gateway

    telling = threading.Lock()

    def tell(kind: str, text: str) -> None:
        with telling:
            pipe.send((kind, text))

    try:
        gateway = Gateway(settings)
        for target, arguments in ((_follow, (gateway, number, pipe)), (_beat, (gateway, tell))):
            threading.Thread(
                target=target, args=arguments, name=target.__name__, daemon=True
            ).start()
        gateway.run(partial(tell, "line"), partial(tell, "ready"))
    except StartFailure as failure:
        tell("failed", str(failure))


def _beat(gateway: "Gateway", tell: Callable[[str, str], None]) -> None:
    """Tells again and again that the loop turns, as long as it does."""
    while True:
        time.sleep(BEAT)
        if gateway.is_alive(PATIENCE):
            try:
                tell("alive", "")
            except OSError:
                # The supervisor is gone, or this worker is about to be.
                return


def _follow(gateway: "Gateway", number: int, pipe: Connection) -> None:
    """Puts changed settings in force."""
    while True:
        try:
            settings = pipe.recv()
        except (EOFError, OSError):
            # The supervisor is gone, or this worker is about to be.
            return
        set_up_logs(settings.logs, number)
        gateway.change(settings)


def _share(cpus: tuple[int, ...], index: int) -> tuple[int, ...]:
    """The CPU of a worker."""
    return (cpus[index % len(cpus)],) if cpus else ()


def _end_with_parent() -> None:
    """Drains this worker when its supervisor is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


class _Slot:
    """A place for a worker.

    Attributes:
        index: Its number, for people.
        listeners: The sockets that its worker listens on.
        worker: Who serves there; None while there is nobody.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.listeners: list[socket.socket] = []
        self.worker: _Worker | None = None


class _Worker:
    """A worker process, as its supervisor sees it.

    Attributes:
        slot: Where it serves, or is to serve.
        number: Of its figures; no other live worker has it.
        pipe: What it tells, and is told.
        ready: Whether it serves.
        failure: Why it could not start.
        leave_by: Monotonic seconds when it is killed.
        beats: Its signs of life.
        hung: Whether it is killed since there were none.
    """

    def __init__(self, context: SpawnContext, settings: Settings, slot: _Slot, number: int) -> None:
        self.slot = slot
        self.number = number
        self.ready = False
        self.failure = ""
        self.leave_by = math.inf
        self.beats = Beats()
        self.hung = False
        self.started = time.monotonic()
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_work, args=(settings, number, theirs), name=f"hotfeast-{slot.index}"
        )
        self.process.start()
        theirs.close()

    def change(self, settings: Settings) -> None:
        """Tells it of settings that count at once."""
        # It may be about to go.
        with suppress(OSError):
            self.pipe.send(settings)

    def drain(self, patience: float) -> None:
        """Asks it to end."""
        self.leave_by = time.monotonic() + patience
        if self.process.is_alive():
            self.process.terminate()

    def kill_if_late(self, now: float) -> None:
        """Ends it if it has been asked to for too long."""
        if now > self.leave_by and self.process.is_alive():
            logger.warning("%s has not drained in time; killing it", self.process.name)
            self.process.kill()

    def kill_if_hung(self, timeout: float) -> None:
        """Ends it if nothing has been heard of it for long. One that starts has much to do before
        it says anything, and one that drains is waited for otherwise.

        Args:
            timeout: Seconds without a sign of life; 0 for any.
        """
        if not timeout or not self.ready or self.hung or self.leave_by < math.inf:
            return
        silence = self.beats.silence
        if silence <= timeout + BEAT:
            return
        self.hung = True
        logger.error("%s has not been heard of for %.0f s; killing it", self.process.name, silence)
        self.process.kill()


class Supervisor:
    """Runs workers until SIGTERM or SIGINT."""

    def __init__(self, config: ConfigWatch) -> None:
        """Takes the port.

        Args:
            config: The settings.

        Raises:
            StartFailure: The port, or that of the metrics, cannot be had.
        """
        self._config = config
        settings = config.settings
        if settings.port:
            # Others could share it as the workers do, unknowingly: it must be nobody's.
            close_all(bind_all(settings.host, settings.port, share_port=False))
        # Bound, never listening: they keep the port from others, and get no connections.
        self._holders = bind_all(settings.host, settings.port, share_port=True)
        self._figures: TemporaryDirectory[str] | None = None
        self._page: Page | None = None
        self._counted = WorkerFigures()
        self._seen: TemporaryDirectory[str] | None = None
        self._monitoring: MonitoringService | None = None
        self._traffic: TemporaryDirectory[str] | None = None
        self._beats = Beats()
        beside = health_pages(self._not_alive, self._not_ready)
        if settings.monitor is not None:
            if settings.monitor.folder is None:
                self._seen = TemporaryDirectory(prefix="hotfeast-monitoring-")
            # Only here: what it needs takes a while to import, and memory.
            from hotfeast.server.monitoring.watching import PATHS, open_monitoring

            self._monitoring, page = open_monitoring(
                self._with_folders(settings), kept=self._seen is None
            )
            beside |= dict.fromkeys(PATHS, page)
        if settings.metrics is not None:
            self._figures = TemporaryDirectory(prefix="hotfeast-metrics-")
            figures: list[Collector] = [
                workers_figures(Path(self._figures.name)),
                self._counted,
                ConfigFigures(config),
            ]
            if self._monitoring is not None:
                figures.append(self._monitoring)
            self._page = Page(figures, *settings.metrics, beside, page_guard(settings.page))
        self._settings = self._of_workers(settings)
        # What the workers that serve have been started with, or told of.
        self._served = settings
        # Not fork: gRPC's threads do not survive one.
        self._context = multiprocessing.get_context("spawn")
        self._slots = [_Slot(index) for index in range(settings.workers)]
        self._workers: dict[Connection, _Worker] = {}
        self._complete = False
        self._stopping = False
        self._hung_up = False
        self._reload_wanted = False
        # Of a reload: who is still to be replaced, by whom now, and who drains.
        self._to_replace: deque[_Slot] = deque()
        self._successor: _Worker | None = None
        self._leaving: _Worker | None = None

    def run(self, say: Say) -> None:
        """Serves until SIGTERM or SIGINT, then drains all workers.

        Args:
            say: Is told when all workers are ready, of workers that died, and of reloads.

        Raises:
            StartFailure: A worker could not start, before all had once been ready.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_reload)
        if self._page is not None:
            say(f"metrics on {self._page.url}")
            if self._monitoring is not None:
                say(f"features on {self._page.url.removesuffix('metrics')}")
        try:
            for slot in self._slots:
                self._fill(slot)
            if self._monitoring is not None:
                self._monitoring.start()
            while not self._stopping:
                self._turn(say)
        finally:
            self._stop_all()

    def _on_stop(self, *_: object) -> None:
        self._stopping = True

    def _on_reload(self, *_: object) -> None:
        self._hung_up = True

    # ------------------------------------------------------------ health

    def _not_alive(self) -> str:
        """What has to be started anew, and is not by itself; asked by the page's threads."""
        if self._stopping:
            return ""
        timeout = self._settings.worker_timeout
        # The supervisor ends workers that hang, if that is its task and it does not hang itself.
        patience = timeout + BEAT if timeout else PATIENCE
        silent = [("the supervisor", self._beats.silence, PATIENCE)]
        # One that starts has much to do before it says anything.
        silent += [
            (f"worker {slot.index}", worker.beats.silence, patience)
            for slot in self._slots
            if (worker := slot.worker) is not None and worker.ready
        ]
        return "; ".join(
            f"{who} has not been heard of for {seconds:.0f} s"
            for who, seconds, most in silent
            if seconds > most + BEAT
        )

    def _not_ready(self) -> str:
        """Why no calls should come; likewise."""
        if self._stopping:
            return "about to end"
        ready = [
            worker.beats.silence
            for slot in self._slots
            if (worker := slot.worker) is not None and worker.ready
        ]
        if not ready:
            return "no worker is ready"
        timeout = self._settings.worker_timeout
        if min(ready) > (min(timeout / 2, _QUIET) if timeout else _QUIET) + BEAT:
            return f"no worker has been heard of for {min(ready):.0f} s"
        return ""

    # ------------------------------------------------------------ settings

    def _with_folders(self, settings: Settings) -> Settings:
        """Settings with folders of the supervisor's for what processes share."""
        if settings.monitor is not None and self._seen is not None:
            monitor = settings.monitor._replace(folder=Path(self._seen.name))
            settings = replace(settings, monitor=monitor)
        if settings.traffic is not None:
            if self._traffic is None:
                self._traffic = TemporaryDirectory(prefix="hotfeast-traffic-")
            traffic = settings.traffic._replace(folder=Path(self._traffic.name))
            settings = replace(settings, traffic=traffic)
        return settings

    def _of_workers(self, settings: Settings) -> Settings:
        return replace(
            self._with_folders(settings),
            port=port_of(self._holders),
            share_port=True,
            metrics=None,
        )

    def _change(self, change: Change | None) -> None:
        """Puts changed settings in force."""
        if change is None:
            return
        settings = change.settings
        self._settings = self._of_workers(settings)
        set_up_logs(settings.logs)
        logger.info("settings have changed: %s", ", ".join(change.names))
        if self._monitoring is not None and settings.monitor is not None:
            self._monitoring.set_interval(settings.monitor.interval)
        # grpcio takes limits of connections only as it starts.
        limits = settings.connections != self._served.connections
        if change.workers or (limits and settings.server == "grpcio"):
            self._reload_wanted = True
            return
        self._served = settings
        for worker in self._workers.values():
            worker.change(self._settings)

    # ------------------------------------------------------------ workers

    def _fill(self, slot: _Slot) -> None:
        """Starts a worker that listens on sockets of its own."""
        if self._settings.server == "native":
            close_all(slot.listeners)
            slot.listeners = bind_all(self._settings.host, self._settings.port, share_port=True)
        slot.worker = self._launch(slot, takes_over=False)

    def _launch(self, slot: _Slot, takes_over: bool) -> _Worker:
        used = {worker.number for worker in self._workers.values()}
        number = next(n for n in range(len(used) + 1) if n not in used)
        settings = replace(
            self._settings,
            metrics_files=self._files(number),
            listeners=tuple(slot.listeners),
            cpus=_share(self._settings.cpus, slot.index),
            takes_over=takes_over,
        )
        worker = _Worker(self._context, settings, slot, number)
        self._workers[worker.pipe] = worker
        return worker

    def _files(self, number: int) -> WorkerFiles | None:
        return None if self._figures is None else WorkerFiles(Path(self._figures.name), number)

    def _turn(self, say: Say) -> None:
        for pipe in wait(list(self._workers), timeout=_LOOKS):
            assert isinstance(pipe, Connection)
            worker = self._workers[pipe]
            try:
                kind, text = pipe.recv()
            except EOFError:
                self._ended(worker, say)
            else:
                self._told(worker, kind, text, say)
        if self._beats.silence > _GAP:
            for worker in self._workers.values():
                worker.beats.heard()
        self._beats.heard()
        for worker in self._workers.values():
            worker.kill_if_late(time.monotonic())
            worker.kill_if_hung(self._settings.worker_timeout)
        if self._is_reloading() or not self._all_ready():
            return
        if self._hung_up:
            self._hung_up = False
            self._reload_wanted = True
            self._change(self._config.read_again())
        else:
            self._change(self._config.look())
        if self._reload_wanted:
            self._reload_wanted = False
            say("reload: starting new workers")
            self._to_replace.extend(self._slots)
            self._replace_next(say)

    def _all_ready(self) -> bool:
        return all(slot.worker is not None and slot.worker.ready for slot in self._slots)

    def _told(self, worker: _Worker, kind: str, text: str, say: Say) -> None:
        of = f"worker {worker.slot.index}"
        worker.beats.heard()
        if kind == "alive":
            return
        if kind == "failed":
            if not self._complete:
                raise StartFailure(text)
            worker.failure = text
        elif kind == "line":
            say(f"{of}: {text}" if len(self._slots) > 1 else text)
        elif worker is self._successor:
            worker.ready = True
            self._take_over(worker, say)
        else:
            worker.ready = True
            if not self._complete and self._all_ready():
                self._complete = True
                count = len(self._slots)
                say(f"{text} with {count} workers" if count > 1 else text)

    def _ended(self, worker: _Worker, say: Say) -> None:
        worker.process.join()
        worker.pipe.close()
        del self._workers[worker.pipe]
        files = self._files(worker.number)
        if files is not None:
            forget_gauges(files)
        slot = worker.slot
        why = worker.failure or f"it ended with exit code {worker.process.exitcode}"
        if worker is self._successor:
            self._give_up_reload(slot, why)
        elif worker is self._leaving:
            self._leaving = None
            self._replace_next(say)
        else:
            slot.worker = None
            if worker.hung:
                self._counted.hung += 1
            else:
                self._counted.ended += 1
            if worker.failure:
                # Its siblings serve on, and the next attempt may find the registry readable.
                say(f"worker {slot.index} cannot start: {why}; starting it again")
            else:
                say(
                    f"worker {slot.index} ended with exit code {worker.process.exitcode}; "
                    "starting it again"
                )
            if self._successor is None or self._successor.slot is not slot:
                if time.monotonic() - worker.started < _RESTART_PAUSE:
                    time.sleep(_RESTART_PAUSE)
                self._fill(slot)

    # ------------------------------------------------------------ reload

    def _is_reloading(self) -> bool:
        return self._successor is not None or self._leaving is not None

    def _replace_next(self, say: Say) -> None:
        """Starts the next successor, or is done."""
        if self._to_replace:
            self._successor = self._launch(self._to_replace.popleft(), takes_over=True)
        else:
            self._counted.reloaded += 1
            self._served = self._config.settings
            say(f"reload: done, {len(self._slots)} new workers serve")

    def _take_over(self, worker: _Worker, say: Say) -> None:
        """A successor serves: the worker that it is for may go."""
        self._successor = None
        self._leaving, worker.slot.worker = worker.slot.worker, worker
        if self._leaving is None:
            # It has died meanwhile.
            self._replace_next(say)
        else:
            self._leaving.drain(self._settings.drain + _DRAIN_PATIENCE)

    def _give_up_reload(self, slot: _Slot, why: str) -> None:
        self._counted.failed += 1
        self._successor = None
        self._to_replace.clear()
        logger.error("reload: worker %d has no successor, and serves on: %s", slot.index, why)
        if self._config.settings != self._served:
            self._config.go_back(self._served)
            self._settings = self._of_workers(self._served)
        if slot.worker is None:
            # It has died meanwhile.
            self._fill(slot)

    # ------------------------------------------------------------ the end

    def _stop_all(self) -> None:
        # Who has not been accepted by now is to go elsewhere at once.
        close_all([each for slot in self._slots for each in slot.listeners])
        for worker in self._workers.values():
            worker.drain(self._settings.drain + _DRAIN_PATIENCE)
        for worker in self._workers.values():
            worker.process.join(max(worker.leave_by - time.monotonic(), 0))
            worker.kill_if_late(time.monotonic() + _LOOKS)
            worker.process.join()
            with suppress(OSError):
                worker.pipe.close()
        if self._page is not None:
            self._page.stop()
        if self._monitoring is not None:
            self._monitoring.stop()
        for folder in (self._figures, self._seen, self._traffic):
            if folder is not None:
                folder.cleanup()
        close_all(self._holders)
