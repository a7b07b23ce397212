"""Changes as a table."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hotfeast.server.diff.changes import Change, Severity
from hotfeast.server.diff.comparing import DiffResult

_STYLES = {Severity.breaking: "red", Severity.risky: "yellow", Severity.safe: "green"}
_MOST_READERS = 5


def print_result(console: Console, result: DiffResult) -> None:
    """Prints what would change, and for whom."""
    if not result.changes:
        console.print("Applying the files changes nothing that is served.", highlight=False)
        return
    table = Table(title=f"What applying changes in {result.project}", title_justify="left")
    for heading in ("severity", "of", "what", "effect", "services", "read by", "where"):
        table.add_column(heading, overflow="fold")
    for change in result.changes:
        table.add_row(
            Text(change.severity, style=_STYLES[change.severity]),
            Text(f"{change.kind} {change.subject}"),
            Text(change.what),
            Text(change.effect),
            Text(", ".join(change.services)),
            Text(_readers(change)),
            Text(str(change.place or "")),
        )
    console.print(table)
    counts = ", ".join(
        f"{number} {severity}"
        for severity in Severity
        if (number := sum(c.severity is severity for c in result.changes))
    )
    looked = result.traffic or "--monitor-dir says who reads what changes"
    console.print(f"{counts}; {looked}", markup=False, highlight=False)


def _readers(change: Change) -> str:
    if change.read_by is None:
        return ""
    lines = [str(by) for by in change.read_by[:_MOST_READERS]]
    if len(change.read_by) > _MOST_READERS:
        lines.append(f"and {len(change.read_by) - _MOST_READERS} more")
    return "\n".join(lines) or "nobody that was seen"
