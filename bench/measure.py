"""The clock: closed loops in interleaved rounds, percentiles, and what the machine was.

One client calls one thing at a time and waits for each answer. All contenders take turns in short
rounds (A B C A B C ...), so that whatever drifts, drifts for all of them. Times are nanoseconds of
`time.perf_counter_ns`, taken around the call alone; Python's garbage collector is off meanwhile.
"""

import gc
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.data import RedisClient

WARM_UP_CALLS = 200
# Seconds. Only calls of more than 25 ms reach it; their server is warm from the smaller requests.
_WARM_UP_LIMIT = 5.0
SHORT_WARM_UP = 0.2
"""Seconds of warming up before a measurement whose length is planned."""


@dataclass
class Contender:
    """Something that is called over and over.

    Attributes:
        name: In tables and files.
        call: Takes one item and returns when the whole answer is there.
        items: A ring of what to call it with.
        calls: How often it is called in a round.
    """

    name: str
    call: Callable[[Any], Any]
    items: Sequence[Any]
    calls: int = 1
    _at: int = field(default=0, repr=False)

    def run(self, count: int, limit: float = float("inf")) -> list[int]:
        """Calls it `count` times, going on through the ring, for about `limit` seconds at most.

        Returns:
            The nanoseconds that each call took.
        """
        clock, call, items = time.perf_counter_ns, self.call, self.items
        end = clock() + limit * 1e9
        at, taken = self._at, []
        for _ in range(count):
            item = items[at]
            start = clock()
            call(item)
            taken.append(clock() - start)
            at = at + 1 if at + 1 < len(items) else 0
            if start > end:
                break
        self._at = at
        return taken


@dataclass(frozen=True)
class Samples:
    """The times of one contender.

    Attributes:
        rounds: Nanoseconds by round and call.
    """

    rounds: npt.NDArray[np.int64]

    @property
    def p50_ms(self) -> float:
        """The median, in milliseconds."""
        return float(np.percentile(self.rounds, 50)) / 1e6

    @property
    def p99_ms(self) -> float:
        """The 99th percentile, in milliseconds."""
        return float(np.percentile(self.rounds, 99)) / 1e6

    @property
    def mean_ms(self) -> float:
        """The mean, in milliseconds."""
        return float(self.rounds.mean()) / 1e6

    @property
    def round_medians_ms(self) -> npt.NDArray[np.float64]:
        """The median of each round, in milliseconds."""
        medians: npt.NDArray[np.float64] = np.median(self.rounds, axis=1) / 1e6
        return medians

    def as_dict(self) -> dict[str, float | int]:
        """For JSON."""
        return {
            "p50_ms": round(self.p50_ms, 4),
            "p99_ms": round(self.p99_ms, 4),
            "mean_ms": round(self.mean_ms, 4),
            "samples": int(self.rounds.size),
        }


@dataclass(frozen=True)
class Ratio:
    """One latency over another.

    Attributes:
        value: Of the medians over all calls.
        low, high: Quartiles of the ratio round by round: how steady it was.
    """

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {
            "value": round(self.value, 4),
            "quartile_low": round(self.low, 4),
            "quartile_high": round(self.high, 4),
        }


def ratio(above: Sequence[Samples], below: Sequence[Samples]) -> Ratio:
    """The sum of some medians over the sum of others, all from the same run."""
    rounds = np.sum([s.round_medians_ms for s in above], axis=0)
    rounds /= np.sum([s.round_medians_ms for s in below], axis=0)
    low, high = np.percentile(rounds, [25, 75])
    value = sum(s.p50_ms for s in above) / sum(s.p50_ms for s in below)
    return Ratio(value, float(low), float(high))


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keeps Python's garbage collector off, with what exists now out of its sight."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def interleave(
    contenders: Sequence[Contender], rounds: int, warm_up: float = _WARM_UP_LIMIT
) -> dict[str, Samples]:
    """Warms all contenders up, each for so many seconds at most, then measures them in turns.

    Returns:
        The samples of each contender, by name.
    """
    times: dict[str, list[list[int]]] = {c.name: [] for c in contenders}
    with no_garbage_collection():
        for contender in contenders:
            contender.run(WARM_UP_CALLS, warm_up)
        for _ in range(rounds):
            for contender in contenders:
                times[contender.name].append(contender.run(contender.calls))
    return {name: Samples(np.array(taken)) for name, taken in times.items()}


def interleave_for(
    contenders: Mapping[str, Contender], seconds: Mapping[str, float], rounds: int
) -> dict[str, Samples]:
    """Warms contenders up, then measures them in turns, for about as long as is planned.

    Args:
        contenders: By name.
        seconds: How long each of those that take part is called in all; a slower one than its time
            allows is called once a round.
        rounds: Turns that every one has.

    Returns:
        The samples of each contender, by name.
    """
    times: dict[str, list[list[int]]] = {name: [] for name in seconds}
    with no_garbage_collection():
        for name, share in seconds.items():
            warm = contenders[name].run(WARM_UP_CALLS, SHORT_WARM_UP)
            # The second half, since the first calls are slow.
            usual = float(np.median(warm[len(warm) // 2 :]))
            contenders[name].calls = max(1, round(share * 1e9 / rounds / usual))
        for _ in range(rounds):
            for name in seconds:
                times[name].append(contenders[name].run(contenders[name].calls))
    return {name: Samples(np.array(taken)) for name, taken in times.items()}


def machine(client: RedisClient | None = None) -> dict[str, Any]:
    """What the figures were measured on and with; `client` for the version of its server."""
    server = client.info("server") if client is not None else {}
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "platform": platform.platform(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "redis": {
            name: server[name]
            for name in ("redis_version", "server_name", "valkey_version")
            if name in server
        },
        "packages": {
            name: importlib.metadata.version(name)
            for name in ("hotfeast", "feast", "grpcio", "protobuf", "redis", "hiredis", "numpy")
        },
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def write_json(path: Path, content: object) -> None:
    """Writes a result file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
