"""A change of layout on the terminal: a bar while it runs, and a table of what became of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from hotfeast.server.errors import RequestFailure, StartFailure
from hotfeast.server.repack import ProgressCallback, RepackSummary, repack
from hotfeast.server.terminal import consoles, stop_on_signals


@contextmanager
def progress_bar(console: Console) -> Iterator[ProgressCallback]:
    """A bar over all keys, on a terminal only; gives the callback that moves it."""
    columns = (
        TextColumn("keys"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[converted]:,} rows converted"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task("keys", total=None, converted=0)

        def show(keys: int, total: int, converted: int) -> None:
            bars.update(task, completed=keys, total=total, converted=converted)

        yield show


def print_summary(console: Console, summary: RepackSummary) -> None:
    """The table, and below it whatever the operator has to know."""

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    heading = f"Layout {summary.layout}"
    if summary.state != "done":
        heading += f" ({summary.state})"
    table = Table(title=heading, title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("view", overflow="fold", min_width=8)
    for name in ("rows", "converted", "already", "unreadable"):
        table.add_column(name, justify="right", overflow="fold")
    for view in summary.views:
        figures = (view.rows, view.converted, view.already, view.unreadable)
        table.add_row(
            view.name,
            *(f"{number:,}" for number in figures),
            style="yellow" if view.unreadable else None,
        )
    console.print(table)
    resumed = ", those of the interrupted run before it included" if summary.resumed else ""
    say(
        f"{summary.keys:,} keys, {summary.entities:,} of them entities of these views, "
        f"in {summary.seconds:.1f} s{resumed}"
    )
    for name, problem in summary.left_out.items():
        say(f"{name}: left out: {problem}", "yellow")
    for view in summary.views:
        if view.unreadable:
            say(f"{view.name}: {view.unreadable:,} rows left as they are; the first:", "yellow")
        for example in view.examples:
            say(f"  {example}", "yellow")
    for name, layout in summary.written_otherwise.items():
        say(
            f"{name}: by its tag or feature_store.yaml it is written as {layout!r}; writers that "
            f"are told nothing else change rows back to that"
        )
    if summary.error:
        say(summary.error, "red")
    if summary.state != "done":
        say("run it again to go on from here, or with --restart to begin anew")


def run_and_report(repo: Path, layout: str, views: Sequence[str] | None, **options: Any) -> int:
    """Converts, shows how it goes, and prints what became of it.

    SIGINT or SIGTERM ends the run after the rows that are being converted; a second one at once.

    Args:
        repo: The folder of the repository.
        layout: The layout that rows are put into.
        views: Names of views; None for all.
        options: Those of `repack`.

    Returns:
        The exit code: that of the summary, or 2 where it did not start.
    """
    console, errors = consoles()
    stop = stop_on_signals()
    try:
        with progress_bar(console) as show:
            summary = repack(repo, layout, views, progress=show, stop=stop, **options)
    except (StartFailure, RequestFailure, ValueError) as error:
        errors.print(f"hotfeast: {error}", highlight=False, markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        errors.print("hotfeast: interrupted; run it again to go on")
        return 130
    print_summary(console, summary)
    return summary.exit_code
