"""Goodput and latency beyond capacity: what a gateway answers of 1 to 10 times what it can.

Requests come at random times (a Poisson process), whatever becomes of those before them; the client
is a small C program (`open_load.c`), since one in Python would need more of the machine than the
gateway. It sends and receives four thousand times a second, and headers as gRPC's clients do. What
can be answered is first found by a closed loop of h2load. Good is an answer within a second of the
time its request was due, and latency counts from that time, of answers only.
A gateway that refuses nothing is tried beside it.
"""

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from rich.table import Table

from bench.data import ENTITIES, Layout, Rows, make_requests
from bench.h2load import NEEDED, Pattern, Target, find, shoot
from bench.picture import draw_overload
from bench.processes import OUR_METHOD, caller, open_gateway
from bench.stores import Encoding, open_store
from bench.verdict import Verdict

TIMES = (0.5, 0.8, 1.0, 1.5, 2.0, 5.0, 10.0)
"""Offered, in parts of what can be answered."""
KEPT = 0.9
"""At least this share of the best goodput at five times what can be answered."""
P99_OVER = 2.0
"""At most this many times the p99 at what can be answered."""
REFUSING, TAKING_ALL = "refuses", "takes all"
OUT = Path("bench/out")

_SOURCE = Path(__file__).with_name("open_load.c")
_TAKES_ALL = ("--overload-delay", "0", "--max-in-flight", "0", "--max-concurrent-streams", "0")
_CLOSED = Pattern(4, 8)
_CONNECTIONS = 16
_CLOSED_SECONDS = 1.5
# Seconds of a point, of which the first are left out, and for the last answers.
_SECONDS = 3.0
_WARM_UP = 0.5
_GRACE = 3.0
# Seconds after which nobody waits for an answer.
_GOOD = 1.0
# Before the next point a gateway must have worked off this one: a call of its own takes no longer
# than that many seconds, looked at after pauses, or too many times in vain.
_QUICK = 0.02
_REST = 0.25
_MOST_LOOKS = 200
# gRPC's codes.
_OK, _RESOURCE_EXHAUSTED = 0, 8


class NoCompiler(RuntimeError):
    """There is no C compiler, or no h2load."""


class NeverIdle(RuntimeError):
    """A gateway goes on working long after the last request."""


@dataclass(frozen=True)
class Point:
    """A gateway at a rate.

    Attributes:
        gateway: Whether it refuses.
        rows: In a request.
        times: Offered, in parts of what can be answered.
        offered, good: Requests, and answers in time, a second.
        p50_ms, p99_ms: Of answers.
        refused, lost: Shares of requests; lost are those with neither answer nor status in time.
    """

    gateway: str
    rows: int
    times: float
    offered: float
    good: float
    p50_ms: float
    p99_ms: float
    refused: float
    lost: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in vars(self).items()}


def run(
    rows: Sequence[int], rounds: int, say: Callable[[str], None]
) -> tuple[list[Point], list[Verdict]]:
    """Measures, and writes `overload.json`, `.md`, `.png` and `.svg` to `bench/out`.

    Args:
        rows: In a request; each is measured on its own.
        rounds: How often each point is measured; the median counts.
        say: Is told what happens.

    Raises:
        NoCompiler: Says what is missing.
    """
    compiler, program = shutil.which("cc"), find()
    if compiler is None:
        raise NoCompiler("a C compiler is needed (cc)")
    if program is None:
        raise NoCompiler(NEEDED)
    points: list[Point] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hotfeast-load-")))
        load = folder / "open_load"
        subprocess.run([compiler, "-O2", "-o", str(load), str(_SOURCE), "-lm"], check=True)
        say("loading rows")
        data = Rows.make(ENTITIES)
        store = stack.enter_context(open_store(data, Encoding.LISTPACK, Layout.PACKED))
        ports = {
            name: stack.enter_context(open_gateway(store.repo, layout=store.layout, options=more))
            for name, more in ((REFUSING, ()), (TAKING_ALL, _TAKES_ALL))
        }
        calls = {name: caller(stack, port, OUR_METHOD) for name, port in ports.items()}
        for count in rows:
            (request,) = make_requests(data, count, 1)
            size = len(calls[REFUSING](request))
            target = Target(ports[REFUSING], OUR_METHOD, request, size)
            shots = [shoot(program, target, _CLOSED, _CLOSED_SECONDS) for _ in range(rounds)]
            capacity = float(np.median([shot.rate for shot in shots]))
            say(f"{count} rows: {capacity:,.0f} requests/s can be answered")
            body = folder / "body"
            body.write_bytes(request)
            for times in TIMES:
                for name, port in ports.items():
                    say(f"{count} rows, {times:g} times that, {name}")
                    taken = []
                    for seed in range(rounds):
                        taken.append(_offer(load, port, body, capacity * times, seed))
                        _settle(calls[name], request)
                    points.append(_summarize(name, count, times, capacity * times, taken))
    verdicts = judge(points)
    _write(points, verdicts)
    return points, verdicts


def _offer(load: Path, port: int, body: Path, rate: float, seed: int) -> npt.NDArray[np.float64]:
    """Sends requests; has for each when it was due, its seconds and its status."""
    out = body.with_name("calls")
    command = [
        str(load), str(port), str(_CONNECTIONS), f"{rate:.3f}", f"{_SECONDS}", f"{_GRACE}",
        str(seed), OUR_METHOD, str(body), str(out),
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=10 * (_SECONDS + _GRACE))
    calls: npt.NDArray[np.float64] = np.fromfile(out).reshape(-1, 3)
    return calls[calls[:, 0] >= _WARM_UP]


def _settle(call: Callable[[bytes], bytes], request: bytes) -> None:
    """Waits until a gateway has nothing left to do."""
    for _ in range(_MOST_LOOKS):
        time.sleep(_REST)
        began = time.perf_counter()
        with suppress(grpc.RpcError):
            call(request)
            if time.perf_counter() - began < _QUICK:
                return
    raise NeverIdle(f"a call took more than {_QUICK:g} s {_MOST_LOOKS} times")


def _summarize(
    name: str, rows: int, times: float, rate: float, taken: Sequence[npt.NDArray[np.float64]]
) -> Point:
    figures = []
    for calls in taken:
        latency, status = calls[:, 1], calls[:, 2]
        answered = latency[status == _OK]
        p50, p99 = np.percentile(answered, [50, 99]) * 1e3 if answered.size else (np.inf, np.inf)
        good = np.count_nonzero(answered <= _GOOD) / (_SECONDS - _WARM_UP)
        refused = np.mean(status == _RESOURCE_EXHAUSTED)
        lost = np.mean((status != _OK) & (status != _RESOURCE_EXHAUSTED))
        figures.append((good, p50, p99, refused, lost))
    return Point(name, rows, times, rate, *map(float, np.median(figures, axis=0)))


def judge(points: Sequence[Point]) -> list[Verdict]:
    """Holds the gateway that refuses against the budgets."""
    verdicts = []
    for rows in dict.fromkeys(point.rows for point in points):
        at = {p.times: p for p in points if p.gateway == REFUSING and p.rows == rows}
        best = max(at.values(), key=lambda point: point.good)
        most, usual = at[5.0], at[1.0]
        head = f"{rows} row{'s' * (rows > 1)}, 5 times what can be answered"
        verdicts.append(
            Verdict(
                f"{head}: goodput / best", most.good / best.good, KEPT, False,
                note=f"{most.good:,.0f} and {best.good:,.0f} (at {best.times:g} times) a second",
            )
        )  # fmt: skip
        verdicts.append(
            Verdict(
                f"{head}: p99 / p99 at once that", most.p99_ms / usual.p99_ms, P99_OVER, True,
                note=f"{most.p99_ms:.1f} and {usual.p99_ms:.1f} ms",
            )
        )  # fmt: skip
    return verdicts


def table(points: Sequence[Point]) -> Table:
    """All points."""
    made = Table(box=None, padding=(0, 2, 0, 0))
    for head in _HEADS:
        made.add_column(head, justify="left" if head == _HEADS[0] else "right", no_wrap=True)
    for point in points:
        made.add_row(*_cells(point))
    return made


_HEADS = (
    "gateway",
    "rows",
    "offered",
    "",
    "good answers/s",
    "p50, ms",
    "p99, ms",
    "refused",
    "lost",
)


def _cells(point: Point) -> tuple[str, ...]:
    return (
        point.gateway, str(point.rows), f"{point.times:g} x", f"{point.offered:,.0f}/s",
        f"{point.good:,.0f}", f"{point.p50_ms:,.1f}", f"{point.p99_ms:,.1f}",
        f"{point.refused:.1%}", f"{point.lost:.1%}",
    )  # fmt: skip


def to_markdown(points: Sequence[Point]) -> str:
    """The same in Markdown."""
    lines = ["| " + " | ".join(_HEADS) + " |", "|" + "---|" * len(_HEADS)]
    lines += ["| " + " | ".join(_cells(point)) + " |" for point in points]
    return "\n".join(lines) + "\n"


def _write(points: Sequence[Point], verdicts: Sequence[Verdict]) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    content = {
        "points": [point.as_dict() for point in points],
        "verdicts": [verdict.as_dict() for verdict in verdicts],
    }
    (OUT / "overload.json").write_text(json.dumps(content, indent=2) + "\n")
    (OUT / "overload.md").write_text(to_markdown(points))
    panels = {
        rows: {
            name: [
                (p.times, p.good, p.p99_ms) for p in points if p.rows == rows and p.gateway == name
            ]
            for name in (REFUSING, TAKING_ALL)
        }
        for rows in dict.fromkeys(point.rows for point in points)
    }
    draw_overload(panels, OUT / "overload")
