"""Findings and rules as tables."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hotfeast.server.lint.findings import Severity
from hotfeast.server.lint.linting import LintResult
from hotfeast.server.lint.rules import RULES

_STYLES = {Severity.error: "red", Severity.warning: "yellow", Severity.info: "cyan"}


def print_result(console: Console, result: LintResult) -> None:
    """Prints what was found, and which rules have not looked and why."""
    if result.findings:
        table = Table(title=f"Findings in {result.project}", title_justify="left")
        for heading in ("severity", "rule", "of", "where", "what", "fix"):
            table.add_column(heading, overflow="fold")
        for finding in result.findings:
            table.add_row(
                Text(finding.severity, style=_STYLES[finding.severity]),
                Text(finding.rule),
                Text(f"{finding.kind} {finding.subject}"),
                Text(str(finding.place or "")),
                Text(finding.message),
                Text(finding.fix),
            )
        console.print(table)
    counts = ", ".join(
        f"{number} {severity}"
        for severity in Severity
        if (number := sum(f.severity is severity for f in result.findings))
    )
    console.print(f"{len(result.rules)} rules: {counts or 'nothing found'}", highlight=False)
    reasons: dict[str, list[str]] = {}
    for rule, why in result.not_looked.items():
        reasons.setdefault(why, []).append(rule)
    for why, rules in reasons.items():
        console.print(f"not looked for, {why}: {', '.join(rules)}", markup=False, highlight=False)


def print_rules(console: Console) -> None:
    """Prints all rules."""
    table = Table(title="Rules", title_justify="left")
    for heading in ("rule", "severity", "finds", "needs"):
        table.add_column(heading, overflow="fold")
    for rule in RULES.values():
        style = _STYLES[rule.severity]
        table.add_row(
            Text(rule.id), Text(rule.severity, style=style), Text(rule.about), Text(rule.needs)
        )
    console.print(table)
