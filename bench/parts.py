"""Results of several parts, each with contenders of its own: their JSON and their table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.measure import Samples, write_json

Results = dict[str, dict[str, Samples]]
"""By part and contender."""


def write_parts(path: Path, facts: Mapping[str, Any], results: Results) -> None:
    """Writes the results as JSON.

    Args:
        path: The file.
        facts: Of the machine.
        results: The results.
    """
    write_json(
        path,
        {
            "machine": facts,
            "latency": {
                part: {name: taken.as_dict() for name, taken in samples.items()}
                for part, samples in results.items()
            },
        },
    )


def parts_table(title: str, ratio: str, results: Results, bases: Mapping[str, str]) -> Table:
    """The results as a table, milliseconds.

    Args:
        title: The table's.
        ratio: The heading of the last column.
        results: The results.
        bases: For each contender the name of the one that it is put beside; those without one are
            put beside none.
    """
    shown = Table(title=title)
    for heading in ("", "", "p50", "p99", ratio):
        shown.add_column(heading, justify="right" if len(shown.columns) > 1 else "left")
    for part, samples in results.items():
        for number, (name, taken) in enumerate(samples.items()):
            base = samples.get(bases.get(name, ""))
            shown.add_row(
                "" if number else part,
                name,
                f"{taken.p50_ms:.3f}",
                f"{taken.p99_ms:.3f}",
                "" if base is None else f"{taken.p50_ms / base.p50_ms:.3f}",
            )
        shown.add_section()
    return shown
