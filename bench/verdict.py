"""Budgets, and how they were kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import JustifyMethod
from rich.table import Table

from bench.measure import Ratio


@dataclass(frozen=True)
class Verdict:
    """A budget, what was measured, and how the figure came about.

    Attributes:
        budget: What is limited.
        figure: What was measured.
        limit: What it may be at most, or must be at least.
        at_most: Which of the two.
        unit: Of both.
        store: What was read or written, where there are several.
        spread: For ratios, how steady it was.
        note: What the figure is made of.
    """

    budget: str
    figure: float
    limit: float
    at_most: bool
    unit: str = "x"
    store: str = ""
    spread: Ratio | None = None
    note: str = ""

    @property
    def kept(self) -> bool:
        """Whether the figure is within the budget."""
        return self.figure <= self.limit if self.at_most else self.figure >= self.limit

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "budget": self.budget,
            "store": self.store,
            "figure": round(self.figure, 4),
            "at_most" if self.at_most else "at_least": self.limit,
            "unit": self.unit,
            "kept": self.kept,
            "spread": self.spread.as_dict() if self.spread else None,
            "note": self.note,
        }

    def cells(self) -> tuple[str, ...]:
        """The row of a table: budget, store, figure, limit, quartiles."""
        spread = f"{self.spread.low:.3g} - {self.spread.high:.3g}" if self.spread else ""
        limit = f"{'<=' if self.at_most else '>='} {self.limit:,g} {self.unit}"
        return self.budget, self.store, f"{_digits(self.figure)} {self.unit}", limit, spread


_HEADS = ("budget", "store", "figure", "limit", "quartiles")


def _digits(figure: float) -> str:
    if figure < 10:
        return f"{figure:.3f}"
    return f"{figure:.1f}" if figure < 1000 else f"{figure:,.0f}"


def verdict_table(verdicts: Sequence[Verdict], title: str) -> Table:
    """The budgets with their figures and verdicts."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for head in (*_HEADS, "verdict"):
        justify: JustifyMethod = "right" if head in ("figure", "limit") else "left"
        table.add_column(head, justify=justify, no_wrap=True)
    for v in verdicts:
        table.add_row(*v.cells(), "[green]kept[/green]" if v.kept else "[bold red]PAST[/bold red]")
    return table


def verdict_markdown(verdicts: Sequence[Verdict]) -> str:
    """The same in Markdown, with the notes."""
    heads = (*_HEADS, "verdict", "made of")
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for v in verdicts:
        cells = (*v.cells(), "kept" if v.kept else "**past**", v.note)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
