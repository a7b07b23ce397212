"""What `hotfeast doctor` found, as tables."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from hotfeast.server.doctor import Entities, Report, ServiceCost, examine
from hotfeast.server.findings import ADVICE, FINE, PROBLEM

_STYLES = {FINE: "green", ADVICE: "yellow", PROBLEM: "bold red"}
_MILLION = 1_000_000


def examine_and_report(repo: Path, redis_url: str | None, console: Console) -> int:
    """Examines the Redis of a repository and prints what was found.

    Returns:
        The exit code: 1 where there is a problem, else 0.

    Raises:
        StartFailure: See `examine`.
    """
    report = examine(repo, redis_url)
    _print_findings(report, console)
    if report.entities:
        console.print(_memory(report.entities))
    else:
        console.print("no entities of this project are stored", highlight=False)
    if report.services:
        console.print(_costs(report.services))
    return report.exit_code


def _print_findings(report: Report, console: Console) -> None:
    for finding in report.findings:
        console.print(f"[{_STYLES[finding.kind]}]{finding.kind:8}[/]", end=" ")
        console.print(finding.what, markup=False, highlight=False, soft_wrap=True)
        if finding.change:
            console.print(
                f"{'':8} -> {finding.change}", markup=False, highlight=False, soft_wrap=True
            )


def _memory(entities: list[Entities]) -> Table:
    table = Table(title="MiB for a million entities, from a sample", title_justify="left", box=None)
    layouts = list(entities[0].bytes_by_layout)
    for name in ("entities of", "sampled", "fields", "held as", "now", *layouts):
        table.add_column(name, justify="left" if name in ("entities of", "held as") else "right")
    for each in entities:
        sizes = [each.bytes_now, *(each.bytes_by_layout[name] for name in layouts)]
        table.add_row(
            ", ".join(each.join_keys) or "(none)",
            str(each.sampled),
            str(each.fields),
            ", ".join(sorted(each.encodings)),
            *(f"{size * _MILLION / 2**20:,.0f}" for size in sizes),
        )
    return table


def _costs(services: list[ServiceCost]) -> Table:
    table = Table(
        title="Microseconds of Redis to read one entity, by the cost model; to compare only",
        title_justify="left",
        box=None,
    )
    table.add_column("feature service", overflow="fold")
    for name in ("fields", "HMGET", "HGETALL", "packed"):
        table.add_column(name, justify="right")
    for each in services:
        costs = (each.by_field, each.whole, each.packed)
        table.add_row(each.service, str(each.fields), *(f"{cost:.1f}" for cost in costs))
    return table
