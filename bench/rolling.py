"""Workers and gateways that are replaced while clients ask: how many calls fail.

Clients of several kinds never stop asking, without retries. First one gateway is sent SIGHUP again
and again, which has all of its workers replaced. Then there are two gateways on ports of their own,
as pods are, that clients take turns among, and one after the other ends by SIGTERM and is started
anew: clients go elsewhere, and reads that were on their way are tried again by the client, as it
does unless told otherwise.

Writes `rolling.json`.
"""

import re
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.table import Table

from bench import OUT
from bench.data import ENTITIES, Rows
from bench.endless import MIXED, Outcomes, failures, open_clients
from bench.measure import machine, write_json
from bench.processes import Server
from bench.stores import Encoding, open_store
from bench.verdict import Verdict
from hotfeast.server.local_redis import free_port

_READY = r"(?m)^Hotfeast serves .* on 127\.0\.0\.1:(\d+) .*$"
_DONE = re.compile(r"(?m)^reload: done")
# Seconds that a replacement may take, and between two of them.
_LIMIT = 120.0
_PAUSE = 2.0
# Seconds for clients to connect to a gateway that is there again.
_RETURN = 3.0


@dataclass(frozen=True)
class Part:
    """One way of replacing.

    Attributes:
        name: For people.
        times: How often it was done.
        seconds: How long each took, on average.
        outcomes: What became of the calls.
        failed: Those that failed, by kind and why.
    """

    name: str
    times: int
    seconds: float
    outcomes: Outcomes
    failed: dict[str, int]

    @property
    def calls(self) -> int:
        """All calls."""
        return sum(sum(outcome.codes.values()) for outcome in self.outcomes.values())

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "part": self.name,
            "times": self.times,
            "seconds": round(self.seconds, 2),
            "calls": self.calls,
            "failed": self.failed,
            "milliseconds": {
                name: dict(
                    zip(
                        ("p50", "p99", "max"),
                        np.percentile(outcome.took, [50, 99, 100]).round(2).tolist(),
                        strict=True,
                    )
                )
                for name, outcome in self.outcomes.items()
            },
        }


def run(
    times: int = 5, workers: int = 2, say: Callable[[str], None] = print
) -> tuple[list[Part], list[Verdict]]:
    """Replaces, judges, and writes the results.

    Args:
        times: How often.
        workers: Of each gateway.
        say: Is told what is going on.
    """
    with open_store(Rows.make(ENTITIES), Encoding.HASH_TABLE) as store:
        facts = machine(store.client)
        say(f"workers of a gateway are replaced {times} times")
        parts = [_replace_workers(store.repo, times, workers)]
        say(f"two gateways are started anew {times} times, one after the other")
        parts.append(_restart_gateways(store.repo, times, workers))
    verdicts = [
        Verdict(f"calls that fail: {part.name}", sum(part.failed.values()), 0, True, unit="")
        for part in parts
    ]
    write_json(
        OUT / "rolling.json",
        {
            "machine": facts,
            "workers": workers,
            "parts": [part.as_dict() for part in parts],
            "budgets": [verdict.as_dict() for verdict in verdicts],
        },
    )
    return parts, verdicts


def _gateway(repo: Path, workers: int, port: int = 0) -> Server:
    return Server(
        *("hotfeast.server", "serve", "--repo", str(repo), "--bind", f"127.0.0.1:{port}"),
        *("--workers", str(workers)),
        ready=_READY,
    )


def _replace_workers(repo: Path, times: int, workers: int) -> Part:
    with _gateway(repo, workers) as gateway:
        target = f"127.0.0.1:{gateway.port()}"
        with open_clients(target, MIXED) as clients:
            took = 0.0
            for turn in range(times):
                time.sleep(_PAUSE)
                began = time.monotonic()
                gateway.signal(signal.SIGHUP)
                gateway.wait_for(partial(_has_reloaded, turn), _LIMIT)
                took += time.monotonic() - began
            time.sleep(_PAUSE)
            outcomes = clients.stop()
    return Part("SIGHUP", times, took / times, outcomes, failures(outcomes, MIXED))


def _has_reloaded(before: int, output: str) -> bool:
    return len(_DONE.findall(output)) > before


def _restart_gateways(repo: Path, times: int, workers: int) -> Part:
    ports = [free_port(), free_port()]
    with ExitStack() as stack:
        gateways = [stack.enter_context(_gateway(repo, workers, port)) for port in ports]
        for gateway in gateways:
            gateway.port()
        targets = [f"127.0.0.1:{port}" for port in ports]
        with open_clients(targets, MIXED, retries=True) as clients:
            took = 0.0
            for turn in range(times):
                time.sleep(_PAUSE)
                began = time.monotonic()
                at = turn % len(ports)
                gateways[at].stop()
                gateways[at] = stack.enter_context(_gateway(repo, workers, ports[at]))
                gateways[at].port()
                took += time.monotonic() - began
                time.sleep(_RETURN)
            outcomes = clients.stop()
    return Part("SIGTERM, and a new one", times, took / times, outcomes, failures(outcomes, MIXED))


def table(parts: list[Part]) -> Table:
    """What became of the calls."""
    out = Table(
        title="Calls while workers and gateways are replaced; milliseconds",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    out.add_column("replaced by")
    out.add_column("clients")
    for head in ("times", "s each", "calls", "failed", "p50", "p99", "max"):
        out.add_column(head, justify="right")
    for part in parts:
        for kind in MIXED:
            outcome = part.outcomes[kind.name]
            failed = sum(n for why, n in part.failed.items() if why.startswith(f"{kind.name}: "))
            out.add_row(
                part.name,
                kind.name,
                str(part.times),
                f"{part.seconds:.1f}",
                f"{sum(outcome.codes.values()):,}",
                str(failed),
                *(f"{each:.1f}" for each in np.percentile(outcome.took, [50, 99, 100])),
            )
    return out
