"""What a process of a gateway takes of its machine, and whether it reaches Redis."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge

from hotfeast.server.errors import RedisUnavailable
from hotfeast.server.monitoring.turns import Turns

# Seconds between two looks.
_LOOK = 5.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


class ProcessFigures:
    """Looks in turns."""

    def __init__(
        self,
        registry: CollectorRegistry,
        worker: int,
        ping: Callable[[], object],
        connections: Callable[[], int],
    ) -> None:
        """
        Args:
            registry: Where the figures are kept.
            worker: The process's number among those of the gateway.
            ping: Asks Redis for a sign of life.
            connections: Counts the connections of clients.
        """

        def gauge(name: str, text: str, mode: Any, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry, multiprocess_mode=mode)

        self._worker = str(worker)
        self._ping = ping
        self._connections = connections
        self._redis = gauge(
            "hotfeast_redis_up",
            "1 if Redis answered every worker when it was last asked; else 0.",
            "livemin",
        )
        self._clients = gauge(
            "hotfeast_client_connections", "Connections of clients, of all workers.", "livesum"
        )
        self._memory = gauge(
            "hotfeast_worker_resident_bytes", "Memory of a worker.", "livesum", "worker"
        )
        self._descriptors = gauge(
            "hotfeast_worker_descriptors", "Open file descriptors of a worker.", "livesum", "worker"
        )
        self._threads = gauge(
            "hotfeast_worker_threads", "Threads of Python's, of a worker.", "livesum", "worker"
        )
        self._turns = Turns("process-figures", lambda _: self.look(), _LOOK)

    def start(self) -> None:
        """Looks, and starts the thread."""
        self._turns.attempt(self.look)
        self._turns.start()

    def stop(self) -> None:
        """Ends it."""
        self._turns.stop()

    def look(self) -> None:
        """Sets the figures."""
        self._clients.set(self._connections())
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
        self._memory.labels(self._worker).set(resident)
        self._descriptors.labels(self._worker).set(len(os.listdir("/proc/self/fd")))
        self._threads.labels(self._worker).set(threading.active_count())
        try:
            self._ping()
            self._redis.set(1)
        except RedisUnavailable:
            self._redis.set(0)
