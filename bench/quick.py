"""The budgets: what the gateway may cost, as ratios to what was measured beside it.

Writes `quick.json`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import JustifyMethod
from rich.table import Table

from bench import OUT
from bench.data import ENTITIES, Rows
from bench.measure import Ratio, Samples, interleave, machine, ratio, write_json
from bench.peers import ECHO, FEAST, OURS, RAW, Encoding, Workload, open_peers, open_store

WORKLOADS = (
    Workload(rows=1, ring=200, rounds=60, calls=50, feast_calls=10),
    Workload(rows=100, ring=50, rounds=40, calls=20, feast_calls=3),
)

OVER_FLOOR = 1.15
"""At most this much above echo + raw read, at 1 and at 100 rows, in both encodings."""
FASTER_AT_1 = 7.0
"""At least this much faster than Feast's gRPC server at 1 row, in both encodings."""
FASTER_AT_100 = {Encoding.LISTPACK: 4.0, Encoding.HASH_TABLE: 7.0}
"""At least this much faster than Feast's gRPC server at 100 rows."""
P99_AT_100_MS = 10.0
"""At most this at 100 rows, in both encodings."""


@dataclass(frozen=True)
class Verdict:
    """A budget, and how it was kept.

    Attributes:
        budget: What is limited.
        encoding: How Redis held the hashes.
        figure: What was measured.
        limit: What it may be at most, or must be at least.
        at_most: Which of the two.
        unit: Of both.
        spread: For ratios, how steady it was.
    """

    budget: str
    encoding: Encoding
    figure: float
    limit: float
    at_most: bool
    unit: str
    spread: Ratio | None = None

    @property
    def kept(self) -> bool:
        """Whether the figure is within the budget."""
        return self.figure <= self.limit if self.at_most else self.figure >= self.limit

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "budget": self.budget,
            "encoding": self.encoding.value,
            "figure": round(self.figure, 4),
            "at_most" if self.at_most else "at_least": self.limit,
            "unit": self.unit,
            "kept": self.kept,
            "spread": self.spread.as_dict() if self.spread else None,
        }


Results = dict[Encoding, dict[int, dict[str, Samples]]]


def judge(results: Results) -> list[Verdict]:
    """Holds the samples, by encoding and rows, against every budget."""
    verdicts = []
    for encoding, by_rows in results.items():
        for rows, samples in by_rows.items():
            over = ratio([samples[OURS]], [samples[ECHO], samples[RAW]])
            budget = f"{_rows(rows)}: ours / floor"
            verdicts.append(Verdict(budget, encoding, over.value, OVER_FLOOR, True, "x", over))
            faster = ratio([samples[FEAST]], [samples[OURS]])
            least = FASTER_AT_1 if rows == 1 else FASTER_AT_100[encoding]
            budget = f"{_rows(rows)}: Feast / ours"
            verdicts.append(Verdict(budget, encoding, faster.value, least, False, "x", faster))
        p99 = by_rows[100][OURS].p99_ms
        verdicts.append(Verdict("100 rows: p99", encoding, p99, P99_AT_100_MS, True, "ms"))
    return verdicts


def _rows(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows} rows"


def run(
    entities: int = ENTITIES, say: Callable[[str], None] = print
) -> tuple[Results, list[Verdict]]:
    """Measures, judges, and writes the results.

    Args:
        entities: How many there are in Redis.
        say: Is told what is going on.

    Returns:
        The samples, and a verdict on every budget.
    """
    rows = Rows.make(entities)
    results: Results = {}
    facts: dict[str, Any] = {}
    for encoding in Encoding:
        say(f"{encoding}: loading {entities} entities, starting the servers")
        with open_store(rows, encoding) as store:
            facts = facts or machine(store.client)
            with open_peers(store, WORKLOADS) as contenders:
                results[encoding] = {}
                for workload in WORKLOADS:
                    say(f"{encoding}: requests of {workload.rows}")
                    results[encoding][workload.rows] = interleave(
                        contenders[workload.rows], workload.rounds
                    )
    verdicts = judge(results)
    write_json(
        OUT / "quick.json",
        {
            "machine": facts,
            "entities": entities,
            "latency": [
                {
                    "encoding": encoding.value,
                    "rows": count,
                    **{name: s.as_dict() for name, s in samples.items()},
                }
                for encoding, by_rows in results.items()
                for count, samples in by_rows.items()
            ],
            "budgets": [v.as_dict() for v in verdicts],
        },
    )
    return results, verdicts


def latency_table(results: Results) -> Table:
    """What was measured, in milliseconds."""
    table = Table(
        title="50 features over 5 views, ms p50 / p99",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    names = (OURS, FEAST, ECHO, RAW)
    for head in ("hashes", "rows", "Hotfeast", "Feast", "echo", "raw read"):
        justify: JustifyMethod = "left" if head == "hashes" else "right"
        table.add_column(head, justify=justify, no_wrap=True)
    for encoding, by_rows in results.items():
        for rows, samples in by_rows.items():
            cells = (f"{_ms(samples[n].p50_ms)} / {_ms(samples[n].p99_ms)}" for n in names)
            table.add_row(encoding.value, str(rows), *cells)
    return table


def _ms(milliseconds: float) -> str:
    """To three digits, or to the microsecond."""
    return f"{round(milliseconds, 3):.3g}"


def budget_table(verdicts: list[Verdict]) -> Table:
    """The budgets with their figures and verdicts."""
    table = Table(
        title="Budgets; ratios of p50, floor = echo + raw read",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for head in ("budget", "hashes", "figure", "limit", "quartiles", "verdict"):
        justify: JustifyMethod = "right" if head in ("figure", "limit") else "left"
        table.add_column(head, justify=justify, no_wrap=True)
    for v in verdicts:
        spread = f"{v.spread.low:.3g} - {v.spread.high:.3g}" if v.spread else ""
        table.add_row(
            v.budget,
            v.encoding.value,
            f"{v.figure:.3f} {v.unit}" if v.figure < 10 else f"{v.figure:.1f} {v.unit}",
            f"{'<=' if v.at_most else '>='} {v.limit:g} {v.unit}",
            spread,
            "[green]kept[/green]" if v.kept else "[bold red]PAST[/bold red]",
        )
    return table
