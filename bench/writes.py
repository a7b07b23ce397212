"""Writing: materialization, pushes, and pushes beside reads, each beside its peer and its floor.

Writes `writes.json`.
"""

from collections.abc import Callable, Sequence

from rich.console import JustifyMethod
from rich.table import Table

from bench import OUT
from bench.measure import write_json
from bench.write_data import (
    Report,
    Verdict,
)
from bench.write_latency import measure_push
from bench.write_mixed import measure_mixed
from bench.write_rates import measure_materialize

PARTS: dict[str, Callable[[Report, Callable[[str], None]], None]] = {
    "materialize": measure_materialize,
    "push": measure_push,
    "mixed": measure_mixed,
}


def run(parts: Sequence[str], say: Callable[[str], None] = print) -> list[Verdict]:
    """Measures the parts and writes the results.

    Returns:
        A verdict on each budget.
    """
    report = Report()
    for part in parts:
        PARTS[part](report, say)
    write_json(
        OUT / "writes.json",
        {
            "machine": report.facts,
            **report.figures,
            "budgets": [{**vars(v), "kept": v.kept} for v in report.verdicts],
        },
    )
    return report.verdicts


def table(verdicts: Sequence[Verdict]) -> Table:
    """The budgets with their figures and verdicts."""
    out = Table(title="Writes", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for head in ("budget", "figure", "limit", "verdict"):
        justify: JustifyMethod = "right" if head in ("figure", "limit") else "left"
        out.add_column(head, justify=justify, no_wrap=True)
    for v in verdicts:
        out.add_row(
            v.budget,
            f"{v.figure:,.2f} {v.unit}" if v.figure < 1000 else f"{v.figure:,.0f} {v.unit}",
            f"{'<=' if v.at_most else '>='} {v.limit:,g} {v.unit}",
            "[green]kept[/green]" if v.kept else "[bold red]PAST[/bold red]",
        )
    return out


def notes(verdicts: Sequence[Verdict]) -> list[str]:
    """What the figures are made of, a line for each that has more to say."""
    return [f"{v.budget}: {v.note}" for v in verdicts if v.note]
