"""Latency against rows: the gateway, Feast's gRPC server and the floor, in one closed loop.

Requests are for 50 features of 5 views and random entities, with Redis' hashes in both encodings.
Writes `end_to_end.json`, `end_to_end.md`, `end_to_end.png` and `end_to_end.svg`.
"""

from collections.abc import Callable
from typing import Any

from bench import OUT
from bench.data import ENTITIES, Rows
from bench.measure import Samples, interleave, machine, ratio, write_json
from bench.peers import (
    ECHO,
    ECHO_AND_RAW,
    FEAST,
    OURS,
    RAW,
    RAW_PER_VIEW,
    Encoding,
    Workload,
    open_peers,
    open_store,
)
from bench.picture import draw

WORKLOADS = (
    Workload(rows=1, ring=200, rounds=60, calls=50, feast_calls=10),
    Workload(rows=10, ring=100, rounds=50, calls=25, feast_calls=5),
    Workload(rows=100, ring=50, rounds=40, calls=20, feast_calls=3),
    Workload(rows=1000, ring=10, rounds=25, calls=5, feast_calls=1),
)
# A 99th percentile of fewer samples is hardly more than their maximum.
_ENOUGH_FOR_P99 = 100

Results = dict[Encoding, dict[int, dict[str, Samples]]]


def run(entities: int = ENTITIES, say: Callable[[str], None] = print) -> str:
    """Measures everything and writes the results.

    Args:
        entities: How many there are in Redis.
        say: Is told what is going on.

    Returns:
        The table, in Markdown.
    """
    rows = Rows.make(entities)
    results: Results = {}
    facts: dict[str, Any] = {}
    for encoding in Encoding:
        say(f"{encoding}: loading {entities} entities, starting the servers")
        with open_store(rows, encoding) as store:
            facts = facts or machine(store.client)
            results[encoding] = {}
            with open_peers(store, WORKLOADS, more=True) as contenders:
                for workload in WORKLOADS:
                    say(f"{encoding}: requests of {workload.rows}")
                    results[encoding][workload.rows] = interleave(
                        contenders[workload.rows], workload.rounds
                    )
    write_json(OUT / "end_to_end.json", _as_json(results, facts, entities))
    table = to_markdown(results)
    (OUT / "end_to_end.md").write_text(table)
    draw(
        {
            encoding: {
                "Feast's gRPC server": _points(by_rows, FEAST),
                "Hotfeast": _points(by_rows, OURS),
                "floor: echo + raw read": _points(by_rows, ECHO, RAW),
            }
            for encoding, by_rows in results.items()
        },
        OUT / "end_to_end",
    )
    return table


def _points(by_rows: dict[int, dict[str, Samples]], *names: str) -> dict[int, float]:
    return {rows: sum(s[name].p50_ms for name in names) for rows, s in by_rows.items()}


def _as_json(results: Results, facts: dict[str, Any], entities: int) -> dict[str, Any]:
    return {
        "machine": facts,
        "entities": entities,
        "features": 50,
        "views": 5,
        "results": [
            {
                "encoding": encoding.value,
                "rows": rows,
                "latency": {name: s.as_dict() for name, s in samples.items()},
                "over_floor": ratio([samples[OURS]], [samples[ECHO], samples[RAW]]).as_dict(),
                "faster_than_feast": ratio([samples[FEAST]], [samples[OURS]]).as_dict(),
            }
            for encoding, by_rows in results.items()
            for rows, samples in by_rows.items()
        ],
    }


def to_markdown(results: Results) -> str:
    """The results as a table for each encoding; milliseconds, p50 / p99."""
    parts = []
    names = (OURS, FEAST, ECHO, RAW, ECHO_AND_RAW, RAW_PER_VIEW)
    heads = (
        "rows", "Hotfeast", "Feast gRPC server", "echo", "raw read",
        "echo after raw read", "raw HMGET per view", "Hotfeast / (echo + raw)", "Feast / Hotfeast",
    )  # fmt: skip
    for encoding, by_rows in results.items():
        lines = [
            f"50 features over 5 views, hashes of 275 fields as {encoding}; milliseconds p50 / p99",
            "",
            "| " + " | ".join(heads) + " |",
            "|" + "---|" * len(heads),
        ]
        for rows, samples in by_rows.items():
            over = ratio([samples[OURS]], [samples[ECHO], samples[RAW]])
            faster = ratio([samples[FEAST]], [samples[OURS]])
            cells = [str(rows), *(_cell(samples[name]) for name in names)]
            cells += [f"{over.value:.2f} x", f"{faster.value:.1f} x"]
            lines.append("| " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _cell(samples: Samples) -> str:
    if samples.rounds.size < _ENOUGH_FOR_P99:
        return f"{samples.p50_ms:.3g}"
    return f"{samples.p50_ms:.3g} / {samples.p99_ms:.3g}"
