"""A materialization on the terminal: a bar while it runs, and a table of what became of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from hotfeast.server.errors import RequestFailure, StartFailure
from hotfeast.server.feast_api import FeastObjectNotFoundException
from hotfeast.server.materialize import (
    ProgressCallback,
    Summary,
    ViewSummary,
    materialize,
    materialize_incremental,
)
from hotfeast.server.terminal import consoles, stop_on_signals

_STATE_STYLES = {
    "failed": "red", "interrupted": "yellow", "not started": "yellow", "skipped": "yellow"
}  # fmt: skip
_NOTES = {
    "Feast": "written by Feast itself: its rows are not counted, nor judged by rules",
    "offline store": "latest rows chosen by Feast's offline store",
    "compute engine": "rows computed by Feast's local compute engine",
    "point-in-time join": "inputs joined by Feast's offline store",
}


class _Rate(ProgressColumn):
    """Rows of the source a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} rows/s" if speed else "")


@contextmanager
def progress_bars(console: Console) -> Iterator[ProgressCallback]:
    """A bar for each view, on a terminal only; gives the callback that moves them."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks = {}

        def show(view: str, done: int, total: int | None) -> None:
            if view not in tasks:
                tasks[view] = bars.add_task(view, total=total)
            bars.update(tasks[view], completed=done, total=total)

        yield show


def print_summary(console: Console, summary: Summary) -> None:
    """The table, and below it whatever was lost and why."""
    table = Table(title="Materialized", title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("view", overflow="fold", min_width=8)
    names = ("read", "superseded", "written", "stale", "rejected", "failed", "time", "rows/s")
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    for view in summary.views:
        name = view.view if view.state == "done" else f"{view.view} ({view.state})"
        table.add_row(name, *_figures(view), style=_STATE_STYLES.get(view.state))
    console.print(table)
    for way, note in _NOTES.items():
        names_of_way = [view.view for view in summary.views if view.way == way]
        if names_of_way:
            console.print(f"{', '.join(names_of_way)}: {note}", highlight=False)
    for view in summary.views:
        _print_losses(console, view)


def _figures(view: ViewSummary) -> tuple[str, ...]:
    counts = view.counts
    if view.way == "Feast" or view.state in ("not started", "skipped"):
        return (*[""] * 6, f"{view.seconds:.1f} s" if view.seconds else "", "")
    rows = (
        counts.read, counts.superseded, counts.written, counts.stale, counts.rejected, counts.failed
    )  # fmt: skip
    rate = counts.read / view.seconds if view.seconds else 0
    return (*(f"{number:,}" for number in rows), f"{view.seconds:.1f} s", f"{rate:,.0f}")


def _print_losses(console: Console, view: ViewSummary) -> None:
    def say(text: str, style: str) -> None:
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    if view.error:
        say(f"{view.view}: {view.error}", _STATE_STYLES.get(view.state, "red"))
    for (field, rule), count in view.counts.rules.most_common():
        say(f"{view.view}: {count:,} rows rejected by {rule} of {field}", "yellow")
    for example in view.counts.examples:
        say(f"  {example}", "yellow")


def run_and_report(
    repo: Path,
    start: datetime | None,
    end: datetime,
    views: Sequence[str] | None,
    **options: Any,
) -> int:
    """Materializes, shows how it goes, and prints what became of it.

    SIGINT or SIGTERM ends the run after the batch that is being written; a second one at once.

    Args:
        repo: The folder of the repository.
        start: The first event time; None to go on from where the last run ended.
        end: The last event time.
        views: Names of views; None for all.
        options: Those of `materialize`.

    Returns:
        The exit code: that of the summary, or 2 where it did not start.
    """
    console, errors = consoles()
    stop = stop_on_signals()
    try:
        with progress_bars(console) as show:
            options |= {"progress": show, "stop": stop}
            if start is None:
                summary = materialize_incremental(repo, end, views, **options)
            else:
                summary = materialize(repo, start, end, views, **options)
    except (StartFailure, RequestFailure, FeastObjectNotFoundException, ValueError) as error:
        errors.print(f"hotfeast: {error}", highlight=False, markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        errors.print("hotfeast: interrupted; what was not recorded is safely repeated")
        return 130
    print_summary(console, summary)
    return summary.exit_code
