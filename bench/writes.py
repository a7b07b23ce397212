"""Writing: materialization, pushes, and pushes beside reads, each beside its peer and its floor.

Writes `writes.json`.
"""

from collections.abc import Callable, Sequence

from bench import OUT
from bench.measure import write_json
from bench.verdict import Verdict
from bench.write_data import Report
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
            "budgets": [v.as_dict() for v in report.verdicts],
        },
    )
    return report.verdicts


def notes(verdicts: Sequence[Verdict]) -> list[str]:
    """What the figures are made of, a line for each that has more to say."""
    return [f"{v.budget}: {v.note}" for v in verdicts if v.note]
