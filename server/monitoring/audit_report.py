"""What `hotfeast audit` found, as tables."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hotfeast.server.monitoring.audit import FAULTS, AuditReport, Outcome, ViewAudit

_HEADINGS = {
    Outcome.EQUAL: "equal",
    Outcome.STALE: "stale",
    Outcome.MISSING_ONLINE: "missing online",
    Outcome.MISSING_OFFLINE: "missing offline",
    Outcome.DIFFERENT: "different",
    Outcome.NOT_COMPARED: "not compared",
}


def print_report(console: Console, report: AuditReport) -> None:
    """Prints a report."""
    table = Table(
        title=f"Project {report.project}: online beside offline as of {report.as_of.isoformat()}",
        title_justify="left",
        box=None,
    )
    table.add_column("feature view", overflow="fold")
    for heading in (*_HEADINGS.values(), "differ"):
        table.add_column(heading, justify="right")
    for view in report.views:
        if view.error or view.skipped:
            continue
        style = "red" if view.share > report.max_share else ""
        counts = [f"{view.counts[outcome]:,}" for outcome in _HEADINGS]
        table.add_row(Text(view.view), *counts, Text(f"{view.share:.1%}", style))
    console.print(table)
    for view in report.views:
        if view.error:
            _say(console, f"{view.view}: not compared: {view.error}", "red")
        elif view.skipped:
            _say(console, f"{view.view}: nothing to compare: {view.skipped}")
        else:
            _examples(console, view)
    _say(console, f"drawn with --seed {report.seed}")


def _examples(console: Console, view: ViewAudit) -> None:
    if view.features:
        told = ", ".join(f"{name} ({count:,})" for name, count in view.features.most_common())
        _say(console, f"{view.view}: features that differ, and of how many entities: {told}")
    for fault in FAULTS:
        for example in view.examples:
            if example.outcome is not fault:
                continue
            entity = ", ".join(f"{name}={value!r}" for name, value in example.entity.items())
            words = [f"{name}: {how}" for name, how in example.features.items()]
            words += [example.message] if example.message else []
            place = f"{view.view} ({entity})" if entity else view.view
            _say(console, f"  {_HEADINGS[fault]}: {place}: {'; '.join(words)}")


def _say(console: Console, line: str, style: str = "") -> None:
    console.print(Text(line, style), soft_wrap=True)
