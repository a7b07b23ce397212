"""A gateway under mixed load for long: does it keep what it should give back?

Reads of one and of a hundred rows, clients that connect anew, pushes, listings, calls that are
given up; with a cache, monitoring, a feature log and figures. Memory, descriptors and threads of
worker and supervisor are looked at again and again, and a line is laid through them, after a time
to get warm. Windows of monitoring are so short, and threads so few, that all there may be of them
are there by then: an hour's windows and the threads that are started as they are needed would
otherwise rise for as long as a soak takes.

Writes `soak.json`.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import numpy as np
import psutil
from rich.table import Table

from bench import OUT
from bench.data import ENTITIES, Rows
from bench.endless import HURRIED, MIXED, failures, open_clients
from bench.measure import machine, write_json
from bench.processes import Server
from bench.stores import Encoding, open_store
from bench.verdict import Verdict
from hotfeast.server.monitoring.windows import WINDOWS_KEPT

KINDS = (*MIXED, HURRIED)
# Seconds between two looks, and the share of them at the start in which caches and pools fill.
_LOOK = 2.0
_WARM_UP = 0.25
# What lines may rise by over the time that is judged: noise, and no leak. Memory as a share.
_MEMORY = 0.03
_DESCRIPTORS = 4.0
_THREADS = 3.0
# What a gateway has of windows, and threads for requests.
_WINDOWS = WINDOWS_KEPT + 2
_THREADS_FOR_REQUESTS = 8
_READY = r"(?m)^Hotfeast serves .* on 127\.0\.0\.1:(\d+) .*$"


@dataclass(frozen=True)
class Course:
    """One figure of one process over time.

    Attributes:
        process: `worker` or `supervisor`.
        figure: What it is.
        unit: Its unit.
        values: One of each look that is judged.
    """

    process: str
    figure: str
    unit: str
    values: tuple[float, ...]

    @property
    def rise(self) -> float:
        """What a line through the values rises by, from the first to the last."""
        x = np.arange(len(self.values))
        slope, _ = np.polyfit(x, np.array(self.values), 1)
        return float(slope * (len(self.values) - 1))

    @property
    def verdict(self) -> Verdict:
        """The rise beside what it may be."""
        name = f"{self.process}: {self.figure}"
        if self.unit == "MiB":
            share = self.rise / float(np.mean(self.values))
            return Verdict(name, share, _MEMORY, True, unit="of it", note=f"{self.rise:+.2f} MiB")
        limit = _DESCRIPTORS if self.figure == "descriptors" else _THREADS
        return Verdict(name, self.rise, limit, True, unit="more")


def run(
    minutes: float = 30.0, say: Callable[[str], None] = print
) -> tuple[list[Course], list[Verdict]]:
    """Loads, looks, judges, and writes the results.

    Args:
        minutes: How long.
        say: Is told what is going on.
    """
    with (
        open_store(Rows.make(ENTITIES), Encoding.HASH_TABLE) as store,
        TemporaryDirectory() as folder,
        Server(
            *("hotfeast.server", "serve", "--repo", str(store.repo), "--bind", "127.0.0.1:0"),
            *("--metrics", "127.0.0.1:0", "--monitor", "--cache-mb", "4"),
            *("--feature-log", folder, "--feature-log-rate", "0.01"),
            *("--feature-log-seconds", "10", "--access-log", "0.001"),
            *("--monitor-window", str(_window(minutes)), "--threads", str(_THREADS_FOR_REQUESTS)),
            ready=_READY,
        ) as server,
    ):
        facts = machine(store.client)
        target = f"127.0.0.1:{server.port()}"
        supervisor = psutil.Process(server.pid)
        # The other children are Python's own helpers.
        worker = max(supervisor.children(), key=lambda each: each.memory_info().rss)
        with open_clients(target, KINDS) as clients:
            say(f"mixed load for {minutes:g} minutes")
            looks = _look({"worker": worker, "supervisor": supervisor}, minutes * 60)
            outcomes = clients.stop()
    courses = _courses(looks)
    failed = failures(outcomes, KINDS)
    calls = sum(sum(outcome.codes.values()) for outcome in outcomes.values())
    verdicts = [course.verdict for course in courses]
    verdicts.append(Verdict("calls that fail", sum(failed.values()), 0, True, unit=""))
    write_json(
        OUT / "soak.json",
        {
            "machine": facts,
            "minutes": minutes,
            "calls": calls,
            "failed": failed,
            "courses": [
                {
                    "process": each.process,
                    "figure": each.figure,
                    "unit": each.unit,
                    "rise": round(each.rise, 3),
                    "values": [round(value, 2) for value in each.values],
                }
                for each in courses
            ],
            "budgets": [verdict.as_dict() for verdict in verdicts],
        },
    )
    say(f"{calls:,} calls")
    return courses, verdicts


def _window(minutes: float) -> int:
    """Seconds of a window, of which there are as many as are kept when the gateway is warm."""
    most = minutes * 60 * _WARM_UP / _WINDOWS
    return max(seconds for seconds in range(1, 3601) if 3600 % seconds == 0 and seconds <= most)


def _look(
    processes: dict[str, psutil.Process], seconds: float
) -> dict[str, list[tuple[float, float, float]]]:
    """Memory in MiB, descriptors and threads of each process, again and again."""
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in processes}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, process in processes.items():
            memory = process.memory_info().rss / 2**20
            found[name].append((memory, process.num_fds(), process.num_threads()))
        time.sleep(_LOOK)
    return found


def _courses(looks: dict[str, list[tuple[float, float, float]]]) -> list[Course]:
    courses = []
    for name, values in looks.items():
        judged = values[int(len(values) * _WARM_UP) :]
        columns = list(zip(*judged, strict=True))
        for (figure, unit), column in zip(
            (("memory", "MiB"), ("descriptors", ""), ("threads", "")), columns, strict=True
        ):
            courses.append(Course(name, figure, unit, tuple(column)))
    return courses


def table(courses: Sequence[Course]) -> Table:
    """The courses."""
    out = Table(title="Under load", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for head in ("process", "figure"):
        out.add_column(head)
    for head in ("least", "mean", "most", "the line rises by"):
        out.add_column(head, justify="right")
    for each in courses:
        values = np.array(each.values)
        out.add_row(
            each.process,
            f"{each.figure}, {each.unit}" if each.unit else each.figure,
            *(f"{value:,.1f}" for value in (values.min(), values.mean(), values.max())),
            f"{each.rise:+.2f}",
        )
    return out
