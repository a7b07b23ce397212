"""Seconds of CPU that processes take meanwhile: what a rate is bound by where all share the cores."""

import resource
from collections.abc import Mapping
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
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            if connection.pid is not None:
                return psutil.Process(connection.pid)
    raise RuntimeError(f"no process of ours listens on port {port}")


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
