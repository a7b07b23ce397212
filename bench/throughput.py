"""Answers a second, from `h2load`: one worker each of the gateway, Feast and the echo servers.

All take turns in short runs; a rate is the median of a server's runs, a p99 that of all its
requests. With one connection and one request under way, the latency is what a C client sees, beside
that of the Python client that all other parts use. Beside rates of many rows stands the CPU that an
answer takes of each process, since client, server and Redis share the machine's cores; and the
rates with Redis and the gateway each on a CPU of its own, as one would have them on a machine for
both.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.cpu import CLIENT, CpuMeter, listener, staying_on
from bench.data import Layout, choose_entities, make_request
from bench.h2load import NEEDED, Pattern, Shot, Target, find, shoot
from bench.peers import HttpCaller, Peer, echo_name, http_body, named
from bench.processes import (
    FEAST_METHOD,
    OUR_METHOD,
    caller,
    echo_method,
    open_echo,
    open_feast_grpc,
    open_feast_http,
    open_gateway,
)
from bench.servers import EchoKind, Prepared
from bench.stores import Store
from bench.sweep import BATCH, Results
from bench.verdict import Verdict

ONE, EIGHT, STREAMS = Pattern(1, 1), Pattern(8, 1), Pattern(4, 16)
PATTERNS = {1: (ONE, EIGHT, STREAMS), 100: (EIGHT,)}
"""By rows in a request."""
OF_ECHO = 0.9
"""At least this share of the best echo server's rate at 1 row."""
P99_OVER_ECHO = 2.0
"""At most this many times its p99."""
PACKED_RATE = 3000.0
"""At least so many answers a second of 100 rows in the packed layout."""

SERVER, REDIS = "server", "Redis"
"""The processes whose CPU is told beside the client's."""
_PARTS = (SERVER, REDIS, CLIENT)

_ONE_ROW = BATCH[0].name
_RUNS = 3
_SECONDS = 0.8
_WARM_UP = 0.3
# The gunicorn workers that Feast's guide recommends: two for each core and one.
_FEAST_HTTP_WORKERS = 2 * (os.cpu_count() or 1) + 1


def planned(stores: int) -> float:
    """Seconds that it takes, without the starts of servers."""
    shots = sum(map(len, PATTERNS.values())) * (stores + 1 + len(EchoKind)) + stores + 1
    return shots * (_RUNS * _SECONDS + _WARM_UP)


@dataclass(frozen=True)
class Throughput:
    """What one server did under one pattern."""

    name: str
    rows: int
    pattern: Pattern
    rate: float
    p50_ms: float
    p99_ms: float
    cpu_ms: Mapping[str, float]
    """CPU that an answer takes, by process."""

    @property
    def cores(self) -> float:
        """Cores that were busy with it."""
        return sum(self.cpu_ms.values()) * self.rate / 1e3

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "rows": self.rows,
            "connections": self.pattern.connections,
            "streams": self.pattern.streams,
            "requests_per_second": round(self.rate, 1),
            "p50_ms": round(self.p50_ms, 4),
            "p99_ms": round(self.p99_ms, 4),
            "cpu_ms": {name: round(ms, 4) for name, ms in self.cpu_ms.items()},
        }


def measure(stores: Sequence[Store], say: Callable[[str], None]) -> list[Throughput]:
    """Loads all servers in turn; an empty list where h2load is missing, which is said."""
    program = find()
    if program is None:
        say(NEEDED)
        return []
    results = []
    with ExitStack() as stack:
        targets = _targets(stack, stores)
        for rows, patterns in PATTERNS.items():
            for pattern in patterns:
                say(f"h2load: {pattern}, {rows} rows")
                results += _take_turns(program, targets[rows], rows, pattern)
        results += _apart(program, stores, say)
        rows, pattern = 1, EIGHT
        say(f"h2load: {pattern}, {rows} rows, Feast over HTTP with {_FEAST_HTTP_WORKERS} workers")
        port = stack.enter_context(open_feast_http(stores[0].repo, _FEAST_HTTP_WORKERS))
        body = http_body(choose_entities(stores[0].rows, rows, 1)[0])
        client = HttpCaller(port)
        size = len(client(body))
        client.close()
        target = Target(port, "/get-online-features", body, size, grpc=False)
        name = f"{Peer.FEAST_HTTP}, {_FEAST_HTTP_WORKERS} workers"
        results += _take_turns(program, {name: target}, rows, pattern)
    return results


def _apart(program: str, stores: Sequence[Store], say: Callable[[str], None]) -> list[Throughput]:
    """Many rows once more, Redis and the gateway each on a CPU of its own."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < len((SERVER, REDIS)):
        say("one CPU: Redis and the gateway cannot have one each")
        return []
    rows, pattern = 100, EIGHT
    request = make_request(stores[0].rows, choose_entities(stores[0].rows, rows, 1)[0])
    say(f"h2load: {pattern}, {rows} rows, Redis on CPU {cpus[0]}, the gateway on {cpus[1]}")
    targets = {}
    with ExitStack() as stack:
        for store in stores:
            stack.enter_context(staying_on(listener(store.server.port), cpus[:1]))
            port = stack.enter_context(
                open_gateway(store.repo, layout=store.layout, cpus=str(cpus[1]))
            )
            answer = caller(stack, port, OUR_METHOD)(request)
            targets[apart(store.label)] = Target(
                port, OUR_METHOD, request, len(answer), redis_port=store.server.port
            )
        return _take_turns(program, targets, rows, pattern)


def apart(label: str) -> str:
    """The name of the gateway on a CPU of its own, by the label of its store."""
    return f"{named(Peer.OURS, label)}, CPUs apart"


def _targets(stack: ExitStack, stores: Sequence[Store]) -> dict[int, dict[str, Target]]:
    """The servers, by rows and name."""
    requests = {
        rows: make_request(stores[0].rows, choose_entities(stores[0].rows, rows, 1)[0])
        for rows in PATTERNS
    }
    targets: dict[int, dict[str, Target]] = {rows: {} for rows in PATTERNS}

    def add(
        name: str, port: int, method: Callable[[int], str], redis_port: int | None = None
    ) -> dict[int, bytes]:
        answers = {}
        for rows, request in requests.items():
            answers[rows] = caller(stack, port, method(rows))(request)
            targets[rows][name] = Target(
                port, method(rows), request, len(answers[rows]), redis_port=redis_port
            )
        return answers

    answers: dict[int, bytes] = {}
    for store in stores:
        port = stack.enter_context(open_gateway(store.repo, layout=store.layout))
        answers = add(named(Peer.OURS, store), port, lambda _: OUR_METHOD, store.server.port)
    feast = next(store for store in stores if store.layout is Layout.FEAST)
    port = stack.enter_context(open_feast_grpc(feast.repo))
    add(named(Peer.FEAST, feast), port, lambda _: FEAST_METHOD, feast.server.port)
    prepared = {f"rows_{rows}": [Prepared(answer, None)] for rows, answer in answers.items()}
    for kind in EchoKind:
        port = stack.enter_context(open_echo(feast.repo, prepared, kind=kind))
        add(echo_name(kind), port, lambda rows: echo_method(f"rows_{rows}"))
    return targets


def _take_turns(
    program: str, targets: dict[str, Target], rows: int, pattern: Pattern
) -> list[Throughput]:
    shots: dict[str, list[Shot]] = {name: [] for name in targets}
    meters = {}
    for name, target in targets.items():
        shoot(program, target, pattern, _WARM_UP)
        processes = {SERVER: listener(target.port)}
        if target.redis_port is not None:
            processes[REDIS] = listener(target.redis_port)
        meters[name] = CpuMeter(processes)
    for _ in range(_RUNS):
        for name, target in targets.items():
            with meters[name]:
                shots[name].append(shoot(program, target, pattern, _SECONDS))
    results = []
    for name, taken in shots.items():
        latency = np.concatenate([shot.latency for shot in taken])
        if not latency.size:
            raise RuntimeError(f"{name}: no answer to {rows} rows within {_SECONDS} s")
        p50, p99 = np.percentile(latency, [50, 99])
        rate = float(np.median([shot.rate for shot in taken]))
        cpu = {part: s / latency.size * 1e3 for part, s in meters[name].seconds.items()}
        results.append(Throughput(name, rows, pattern, rate, float(p50), float(p99), cpu))
    return results


def judge(results: Sequence[Throughput], stores: Sequence[str]) -> list[Verdict]:
    """Holds the gateway's figures, by the labels of its stores, against the budgets."""
    figures = {(r.rows, r.pattern, r.name): r for r in results}
    if not figures:
        return []
    verdicts = []
    for pattern in (EIGHT, STREAMS):
        echoes = [figures[1, pattern, echo_name(kind)] for kind in EchoKind]
        best = max(echoes, key=lambda echo: echo.rate)
        for store in stores:
            ours = figures[1, pattern, named(Peer.OURS, store)]
            at = f"1 row, {pattern} under way"
            note = f"{ours.rate:,.0f} and {best.rate:,.0f} ({best.name}) requests/s"
            verdicts.append(
                Verdict(
                    f"{at}: requests/s, ours / best echo", ours.rate / best.rate, OF_ECHO, False,
                    store=store, note=note,
                )
            )  # fmt: skip
            note = f"{ours.p99_ms:.2f} and {best.p99_ms:.2f} ms"
            verdicts.append(
                Verdict(
                    f"{at}: p99, ours / best echo", ours.p99_ms / best.p99_ms, P99_OVER_ECHO,
                    True, store=store, note=note,
                )
            )  # fmt: skip
    for store in stores:
        if store == Layout.PACKED:
            # On a machine with one CPU they cannot be apart.
            own, how = figures.get((100, EIGHT, apart(store))), ", a CPU each"
            if own is None:
                own, how = figures[100, EIGHT, named(Peer.OURS, store)], ""
            parts = ", ".join(f"{name} {own.cpu_ms[name]:.3f}" for name in _PARTS)
            verdicts.append(
                Verdict(
                    f"100 rows{how}: requests/s", own.rate, PACKED_RATE, False, "/s", store,
                    note=f"CPU of an answer, ms: {parts}; {own.cores:.1f} cores busy",
                )
            )  # fmt: skip
    return verdicts


def to_markdown(results: Sequence[Throughput], python: Results) -> str:
    """The rates, and what a client in C sees beside what the Python client has seen.

    Args:
        results: What h2load measured.
        python: The closed loop's samples.
    """
    if not results:
        return f"{NEEDED}\n"
    patterns = list(dict.fromkeys((r.rows, r.pattern) for r in results))
    by_name: dict[str, dict[tuple[int, Pattern], Throughput]] = {}
    for r in results:
        by_name.setdefault(r.name, {})[r.rows, r.pattern] = r
    heads = [f"{rows} row{'s' * (rows > 1)}, {pattern}" for rows, pattern in patterns]
    rows = [
        "Requests a second, and ms p50 / p99; connections x requests under way on each.",
        "",
        "| | " + " | ".join(heads) + " |",
        "|" + "---|" * (len(heads) + 1),
    ]
    for name, at in by_name.items():
        cells = (_cell(at[key]) if key in at else "" for key in patterns)
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    rows += ["", "CPU of an answer of 100 rows, 8 x 1, in ms:", ""]
    rows += ["| | " + " | ".join(_PARTS) + " | cores busy |", "|" + "---|" * (len(_PARTS) + 2)]
    for name, at in by_name.items():
        if (100, EIGHT) in at:
            result = at[100, EIGHT]
            cells = (f"{result.cpu_ms.get(part, 0):.3f}" for part in _PARTS)
            rows.append(f"| {name} | " + " | ".join(cells) + f" | {result.cores:.2f} |")
    rows += ["", "One row at a time, p50 in ms as each client sees it:", ""]
    rows += ["| | client in Python | client in C |", "|---|---|---|"]
    seen = python[_ONE_ROW]
    rows += [
        f"| {name} | {seen[name].p50_ms:.3g} | {at[1, ONE].p50_ms:.3g} |"
        for name, at in by_name.items()
        if name in seen
    ]
    return "\n".join(rows) + "\n"


def _cell(result: Throughput) -> str:
    return f"{result.rate:,.0f}/s, {result.p50_ms:.3g} / {result.p99_ms:.3g}"
