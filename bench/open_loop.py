"""Latency at fixed rates of single rows, by workers: each request is sent at its time.

The rate is raised until a server falls behind. Latency counts from the time at which a request was
due, so that a server that falls behind cannot hide it (`bench.load`).
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.data import make_requests
from bench.load import open_load
from bench.peers import Peer, echo_name, named
from bench.processes import (
    FEAST_METHOD,
    OUR_METHOD,
    caller,
    echo_method,
    open_echo,
    open_feast_grpc,
    open_gateway,
)
from bench.servers import EchoKind, Prepared
from bench.stores import Store

RATES = (500, 1000, 2000, 3000, 4000, 6000)
"""Requests a second."""
FEAST_RATES = (25, 50, 100, 150)

_SECONDS = 1.5
_CONNECTIONS = 16
# A server whose p99 is past this many milliseconds has fallen behind.
_BEHIND_MS = 100.0
# The most workers that are tried; more than cores would only wait for one another.
_MOST_WORKERS = 4
# Seconds that the start of a server and of its client take; about.
_START = 8.0


def workers() -> range:
    """Of how many workers the gateway is tried: up to the number of cores."""
    return range(1, min(os.cpu_count() or 1, _MOST_WORKERS) + 1)


def planned(stores: int) -> float:
    """Seconds that it takes at most."""
    steps = (stores * len(workers()) + 1) * len(RATES) + len(FEAST_RATES)
    return steps * _SECONDS + (stores * len(workers()) + 2) * _START


@dataclass(frozen=True)
class Point:
    """A server at a rate.

    Attributes:
        name: The server and how many workers it has.
        offered: Requests a second that were sent.
        answered: Answers a second until the last one.
        p50_ms, p99_ms: From the time a request was due.
        failures: Requests that failed, by why; none of the gateway's may.
    """

    name: str
    offered: float
    answered: float
    p50_ms: float
    p99_ms: float
    failures: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "offered": self.offered,
            "answered": round(self.answered, 1),
            "p50_ms": round(self.p50_ms, 4),
            "p99_ms": round(self.p99_ms, 4),
            "failures": dict(self.failures),
        }


def measure(stores: Sequence[Store], say: Callable[[str], None]) -> list[Point]:
    """Raises the rate of the gateway on each store, of Feast on the first, and of an echo."""
    requests = make_requests(stores[0].rows, 1, 200)
    points = []
    answers: list[bytes] = []
    for store in stores:
        for count in workers():
            name = f"{named(Peer.OURS, store)}, {_workers(count)}"
            with ExitStack() as stack:
                port = stack.enter_context(
                    open_gateway(store.repo, workers=count, layout=store.layout)
                )
                call = caller(stack, port, OUR_METHOD)
                answers = [call(request) for request in requests]
                points += _raise_rate(name, port, OUR_METHOD, requests, RATES, say)
    prepared = {"one": [Prepared(answer, None) for answer in answers]}
    kind = EchoKind.UVLOOP
    with open_echo(stores[0].repo, prepared, kind=kind) as port:
        points += _raise_rate(echo_name(kind), port, echo_method("one"), requests, RATES, say)
    with open_feast_grpc(stores[0].repo) as port:
        name = named(Peer.FEAST, stores[0])
        points += _raise_rate(name, port, FEAST_METHOD, requests, FEAST_RATES, say)
    return points


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def _raise_rate(
    name: str,
    port: int,
    method: str,
    requests: Sequence[bytes],
    rates: Sequence[int],
    say: Callable[[str], None],
) -> list[Point]:
    points = []
    with open_load(port, method, requests, rates[0], _CONNECTIONS) as load:
        for rate in rates:
            say(f"open loop: {name}, {rate} requests/s")
            load.begin(_SECONDS, rate)
            taken = load.finish(may_fail=not name.startswith(Peer.OURS))
            p50, p99 = np.percentile(taken.latency, [50, 99])
            end = float((taken.due + taken.latency / 1e3).max())
            answered = (len(taken.due) - sum(taken.failures.values())) / end
            points.append(Point(name, rate, answered, float(p50), float(p99), taken.failures))
            if p99 > _BEHIND_MS or taken.failures:
                break
    return points


def _cell(point: Point) -> str:
    failed = sum(point.failures.values())
    return f"{point.p50_ms:.3g} / {point.p99_ms:.3g}" + (f", {failed} failed" if failed else "")


def to_markdown(points: Sequence[Point]) -> str:
    """A table with a column for each rate; milliseconds, p50 / p99."""
    rates = sorted({point.offered for point in points})
    by_name: dict[str, dict[float, Point]] = {}
    for point in points:
        by_name.setdefault(point.name, {})[point.offered] = point
    rows = [
        "| | " + " | ".join(f"{rate:,.0f}/s" for rate in rates) + " |",
        "|" + "---|" * (len(rates) + 1),
    ]
    for name, at in by_name.items():
        cells = (_cell(at[rate]) if rate in at else "" for rate in rates)
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"
