"""The whole benchmark of reads: every part, its tables and pictures, and a verdict on each budget.

Writes `full.json`, `full.md`, and the pictures `latency`, `throughput` and `stages` as PNG and SVG.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from bench import (
    OUT,
    growth,
    memory,
    open_loop,
    stages,
    sweep,
    throughput,
)
from bench.data import Layout, Rows
from bench.measure import machine, write_json
from bench.peers import Peer, named, open_peers
from bench.picture import draw_latency, draw_stages, draw_throughput
from bench.servers import EchoKind
from bench.stores import Encoding, open_stores
from bench.verdict import Verdict, verdict_markdown

# Seconds for the stages, and for loading and starting what is read; about.
_STAGES, _START = 35.0, 140.0


@dataclass
class Figures:
    """All that was measured."""

    facts: dict[str, Any]
    entities: int
    labels: list[str]
    results: sweep.Results = field(default_factory=dict)
    strings: sweep.Results = field(default_factory=dict)
    string_label: str = ""
    fits: list[growth.Fit] = field(default_factory=list)
    points: list[open_loop.Point] = field(default_factory=list)
    rates: list[throughput.Throughput] = field(default_factory=list)
    memories: list[memory.Memory] = field(default_factory=list)
    stages: dict[str, dict[int, float]] = field(default_factory=dict)

    def judge(self) -> list[Verdict]:
        """Holds the figures against all budgets."""
        return [
            *sweep.judge(self.results, self.labels),
            *throughput.judge(self.rates, self.labels),
            *stages.judge(self.stages),
            *growth.judge(self.fits, self.labels),
            *memory.judge(self.memories),
        ]


def planned(layouts: Sequence[Layout]) -> dict[str, float]:
    """Seconds that each part takes; about."""
    stores = len(layouts) + 1
    return {
        "stages": _STAGES,
        "loading and starting": _START,
        "closed loop": sweep.planned(stores),
        "growth": growth.planned(stores),
        "open loop": open_loop.planned(len(layouts)),
        "h2load": throughput.planned(stores),
        "memory": memory.PLANNED,
    }


def run(
    entities: int, layouts: Sequence[Layout], say: Callable[[str], None] = print
) -> tuple[str, list[Verdict]]:
    """Measures everything and writes the results.

    Args:
        entities: How many there are in Redis.
        layouts: How they are stored; Feast's, which Feast itself reads, must be among them. It is
            measured with Redis' hashes in both encodings, others with lists. The memory of Redis is
            measured for all there are.
        say: Is told what is going on.

    Returns:
        The tables in Markdown, and a verdict on each budget.

    Raises:
        ValueError: Feast's layout is not among them.
    """
    if Layout.FEAST not in layouts:
        raise ValueError("the layout 'feast' must be among them: Feast reads no other")
    plan = planned(layouts)
    say(f"about {sum(plan.values()) / 60:.0f} minutes: " + _list(plan))
    begin = time.monotonic()
    say("stages")
    medians = stages.medians(stages.run())
    rows = Rows.make(entities)
    with ExitStack() as stack:
        say(f"loading {entities:,} entities")
        stores = stack.enter_context(open_stores(rows, list(Encoding)))
        for layout in layouts:
            if layout is not Layout.FEAST:
                stores += stack.enter_context(open_stores(rows, [Encoding.LISTPACK], layout))
        figures = Figures(machine(stores[0].client), entities, [s.label for s in stores])
        figures.stages = medians
        say("starting the servers")
        cases = [*sweep.BATCH, *sweep.OTHERS, *growth.CASES]
        with open_peers(stores, cases, sweep.PEERS, list(EchoKind)) as contenders:
            figures.results = sweep.measure(contenders, [*sweep.BATCH, *sweep.OTHERS], say)
            figures.fits = growth.measure(contenders, figures.labels, say)
        one_each = [s for s in stores if s.encoding is Encoding.LISTPACK]
        figures.points = open_loop.measure(one_each, say)
        figures.rates = throughput.measure(stores, say)
    figures.strings, figures.string_label = sweep.measure_strings(entities, say)
    figures.memories = memory.measure(say)
    verdicts = figures.judge()
    text = to_markdown(figures, verdicts)
    (OUT / "full.md").write_text(text)
    write_json(OUT / "full.json", as_json(figures, verdicts, time.monotonic() - begin))
    draw(figures)
    return text, verdicts


def _list(plan: dict[str, float]) -> str:
    return ", ".join(f"{part} {seconds:.0f} s" for part, seconds in plan.items())


def as_json(figures: Figures, verdicts: Sequence[Verdict], seconds: float) -> dict[str, Any]:
    """All figures."""
    return {
        "machine": figures.facts,
        "seconds": round(seconds),
        "entities": figures.entities,
        "budgets": [v.as_dict() for v in verdicts],
        "closed_loop": sweep.as_json(figures.results, figures.labels),
        "string_keys": sweep.as_json(figures.strings, [figures.string_label]),
        "growth": [f.as_dict() for f in figures.fits],
        "open_loop": [p.as_dict() for p in figures.points],
        "throughput": [r.as_dict() for r in figures.rates],
        "memory": [m.as_dict() for m in figures.memories],
        "stages_ns": figures.stages,
    }


def to_markdown(figures: Figures, verdicts: Sequence[Verdict]) -> str:
    """All tables."""
    facts = figures.facts
    load = facts["load_average"][0]
    return "\n".join(
        [
            f"# {figures.entities:,} entities, {facts['cores']} cores of {facts['processor']}",
            "",
            f"{facts['measured']}, load average {load} at the start. Feast's layout, hashes of "
            "275 fields, in Redis as lists (listpack, the default) and as hash tables; other "
            "layouts as lists, with hash-max-listpack-value at 1024.",
            "\n## Budgets\n",
            verdict_markdown(verdicts),
            "## Closed loop, one client: ms p50 / p99\n",
            sweep.to_markdown(figures.results, figures.labels),
            sweep.to_markdown(figures.strings, [figures.string_label]),
            "## Open loop, single rows at fixed rates: ms p50 / p99 from when a request was due\n",
            open_loop.to_markdown(figures.points),
            "## Throughput, client in C (h2load)\n",
            throughput.to_markdown(figures.rates, figures.results),
            "## Growth\n",
            growth.to_markdown(figures.fits),
            "## Memory of Redis, 50 features over 5 views\n",
            memory.to_markdown(figures.memories),
        ]
    )


def draw(figures: Figures) -> None:
    """All pictures."""
    batch = {case.rows: figures.results[case.name] for case in sweep.BATCH}
    feast = named(Peer.FEAST, figures.labels[0])
    draw_latency(
        {
            label: {
                "Feast's gRPC server": {
                    rows: samples.get(named(Peer.FEAST, label), samples[feast]).p50_ms
                    for rows, samples in batch.items()
                },
                "Hotfeast": {
                    rows: samples[named(Peer.OURS, label)].p50_ms for rows, samples in batch.items()
                },
                "floor: best echo + raw read": {
                    rows: samples[sweep.best_echo(samples)].p50_ms
                    + samples[named(Peer.RAW, label)].p50_ms
                    for rows, samples in batch.items()
                },
            }
            for label in figures.labels
        },
        OUT / "latency",
    )
    by_name: dict[str, list[tuple[float, float]]] = {}
    for point in figures.points:
        by_name.setdefault(point.name, []).append((point.answered, point.p99_ms))
    draw_throughput(by_name, OUT / "throughput")
    draw_stages(
        {label: _shares(figures, label) for label in figures.labels},
        OUT / "stages",
    )


def _shares(figures: Figures, label: str) -> dict[int, dict[str, float]]:
    """Milliseconds of each stage at a store, by rows in a request."""
    shares = {}
    for case in sweep.BATCH:
        if case.rows not in stages.ROWS:
            continue
        samples = figures.results[case.name]
        parts = {"gRPC (best echo)": samples[sweep.best_echo(samples)].p50_ms}
        parts["Redis (raw read)"] = samples[named(Peer.RAW, label)].p50_ms
        for name, stage in stages.OURS.items():
            parts[name] = figures.stages[stage][case.rows] / 1e6
        shares[case.rows] = parts
    return shares
