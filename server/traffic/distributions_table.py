"""Distributions of versions, as tables."""

import math

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hotfeast.server.monitoring.statistics import Kind
from hotfeast.server.traffic.comparison import HIDDEN
from hotfeast.server.traffic.distributions import (
    ColumnComparison,
    Distributions,
    TargetComparison,
    Version,
)

_MOST_VALUES = 3
_LONGEST_VALUE = 20
_QUANTILES = (0.05, 0.5, 0.95)


def print_distributions(console: Console, made: Distributions) -> None:
    """Prints each comparison, and what there is to know of it."""
    looked = "all reads" if made.every == 1 else f"one of {made.every} reads"
    for each in made.comparisons:
        console.print(_table(each))
        for line in _lines(each):
            console.print(line, markup=False, highlight=False)
    console.print(
        f"Of {looked} in the last {made.seconds / 60:g} minutes at most.",
        markup=False,
        highlight=False,
    )


def _table(comparison: TargetComparison) -> Table:
    table = Table(
        title=Text(f"{comparison.second} beside {comparison.first}"), title_justify="left", box=None
    )
    table.add_column("feature", overflow="fold")
    table.add_column("target", overflow="fold")
    for heading in ("rows", "null", "empty", "mean", "std", "5%", "50%", "95%"):
        table.add_column(heading, justify="right")
    table.add_column("most frequent", overflow="fold")
    table.add_column("differs", overflow="fold")
    for column in comparison.columns:
        table.add_row(
            Text(column.name), Text(comparison.first), *_cells(column.first, column.hidden), Text()
        )
        style = "yellow" if column.differs else ""
        table.add_row(
            Text(),
            Text(comparison.second),
            *_cells(column.second, column.hidden),
            Text(_verdict(column), style),
        )
    return table


def _cells(version: Version, hidden: bool) -> list[Text]:
    statistics = version.statistics
    numbers, top = [""] * 5, HIDDEN
    if not hidden:
        if statistics.kind in (Kind.number, Kind.list):
            quantiles = statistics.quantiles(_QUANTILES)
            numbers = [_number(n) for n in (statistics.mean, statistics.std, *quantiles)]
        top = ""
        if statistics.kind is Kind.category:
            top = ", ".join(
                f"{_cut(value.value)} {value.count / statistics.present:.0%}"
                for value in statistics.top(_MOST_VALUES)
            )
    shares = [_share(statistics.null_share), _share(statistics.empty_share)]
    return [Text(cell) for cell in (f"{statistics.rows:,}", *shares, *numbers, top)]


def _verdict(column: ColumnComparison) -> str:
    drift = column.drift
    if drift is None:
        return f"not compared: both read {column.first.view}:{column.first.feature}"
    parts = []
    if drift.values_drifted:
        parts.append(
            f"values: {drift.test} {drift.effect:.3g}, p {drift.adjusted_p:.2g}"
            if not math.isnan(drift.adjusted_p)
            else drift.note
        )
    if drift.empty_drifted:
        parts.append(
            f"rows without a value: {drift.empty_reference:.1%} to {drift.empty_current:.1%}, "
            f"p {drift.empty_adjusted_p:.2g}"
        )
    if parts:
        return "; ".join(parts)
    if not math.isnan(drift.adjusted_p):
        return f"no: {drift.test} {drift.effect:.3g}, p {drift.adjusted_p:.2g}"
    return f"no test: {drift.note}" if drift.note else "no test"


def _lines(comparison: TargetComparison) -> list[str]:
    lines = [
        f"{len(comparison.differs)} of {len(comparison.columns)} shared features differ, "
        f"{len(comparison.tested)} were tested."
    ]
    for target, names in (
        (comparison.first, comparison.only_first),
        (comparison.second, comparison.only_second),
    ):
        if names:
            lines.append(f"Only in {target}: {', '.join(names)}.")
    for view, services in comparison.others.items():
        names = tuple(service or "lists of features" for service in services)
        lines.append(f"Of {view} there are also the rows that others read: {', '.join(names)}.")
    return lines


def _number(number: float) -> str:
    return "" if math.isnan(number) else f"{number:.4g}"


def _share(share: float) -> str:
    return "" if math.isnan(share) else f"{share:.1%}"


def _cut(value: str) -> str:
    return value if len(value) <= _LONGEST_VALUE else f"{value[: _LONGEST_VALUE - 1]}…"
