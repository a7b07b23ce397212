"""Seconds of CPU that processes take, which bound a rate where all of them share the cores."""

import resource
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

CLIENT = "client"
"""Whatever is started and ends meanwhile."""


def listener(port: int) -> psutil.Process:
    """The process that listens on a port of this machine.

    Raises:
        RuntimeError: There is none.
    """
    for connection in psutil.net_connections("tcp"):
        if connection.status != psutil.CONN_LISTEN or not connection.laddr:
            continue
        if connection.laddr.port == port and connection.pid is not None:
            return psutil.Process(connection.pid)
    raise RuntimeError(f"no process of ours listens on port {port}")


@contextmanager
def staying_on(process: psutil.Process, cpus: Sequence[int]) -> Iterator[None]:
    """Keeps all threads of a process on some CPUs for a while."""
    threads = [psutil.Process(thread.id) for thread in process.threads()]
    before = process.cpu_affinity()
    for thread in threads:
        thread.cpu_affinity(list(cpus))
    try:
        yield
    finally:
        for thread in threads:
            thread.cpu_affinity(before)


@dataclass
class CpuMeter:
    """Adds up the CPU of processes, and of those that are started and end meanwhile.

    Attributes:
        processes: By name.
        seconds: What they have taken by name, CLIENT among them.
    """

    processes: Mapping[str, psutil.Process]
    seconds: dict[str, float] = field(default_factory=dict)
    _begun: dict[str, float] = field(default_factory=dict)

    def __enter__(self) -> "CpuMeter":
        self._begun = self._taken()
        return self

    def __exit__(self, *_: object) -> None:
        for name, taken in self._taken().items():
            self.seconds[name] = self.seconds.get(name, 0.0) + taken - self._begun[name]

    def _taken(self) -> dict[str, float]:
        taken = {}
        for name, process in self.processes.items():
            times = process.cpu_times()
            taken[name] = times.user + times.system
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken[CLIENT] = ended.ru_utime + ended.ru_stime
        return taken
