"""`hotfeast alerts`: whether rules are valid, and the same rules for Prometheus."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from hotfeast.server.cli_options import RepoOption, failures

app = typer.Typer(help="Alert rules over features.", no_args_is_help=True)

RulesOption = Annotated[
    Path | None,
    typer.Option(help="A file of rules; unless given, alerts.yaml in the repository's folder."),
]


@app.command()
def check(repo: RepoOption = Path("."), rules: RulesOption = None) -> None:
    """Reads rules and says what each of them is for.

    Exit codes: 0, and 2 if a rule is not valid or the repository cannot be read.
    """
    from rich.table import Table
    from rich.text import Text

    from hotfeast.server.monitoring.open_alerts import open_rules
    from hotfeast.server.terminal import consoles

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    with failures():
        loaded, known, path = open_rules(repo, rules)
    table = Table(
        title=f"Rules of {path}" if path is not None else "Default rules; there is no file",
        title_justify="left",
        box=None,
    )
    for heading in ("rule", "alarming", "for", "severity", "of"):
        table.add_column(heading, overflow="fold")
    for rule in loaded.rules.values():
        of = known.features_of(rule)
        views = {view for view, _ in of}
        features = sum(bool(feature) for _, feature in of)
        scope = f"{features} features of {len(views)} views" if features else f"{len(views)} views"
        beyond = " beyond the reference" if rule.beyond_reference else ""
        table.add_row(
            Text(rule.name),
            Text(f"{rule.metric} {rule.comparison} {rule.threshold:g}{beyond}"),
            f"{rule.for_seconds:g} s",
            rule.severity,
            scope,
        )
    console, _ = consoles()
    console.print(table)
    sinks = ", ".join(sink.kind for sink in loaded.sinks)
    console.print(f"told to: {sinks or 'nobody'}", markup=False, highlight=False)


@app.command()
def prometheus(
    repo: RepoOption = Path("."),
    rules: RulesOption = None,
    profiles: Annotated[
        Path | None,
        typer.Option(
            help="Folder of profiles, for rules that count from them; unless given, the "
            "one beside the registry."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The file to write; standard output unless given.")
    ] = None,
) -> None:
    """Writes the rules as a rules file of Prometheus, over the figures that the gateway exposes.

    To be done again when definitions, rules or profiles have changed. What Prometheus does not see
    is left out, and that is said.

    Exit codes: 0, and 2 if a rule is not valid or the repository cannot be read.
    """
    from hotfeast.server.monitoring.drift import DriftSettings
    from hotfeast.server.monitoring.measure import reference_values
    from hotfeast.server.monitoring.open_alerts import open_references, open_rules
    from hotfeast.server.monitoring.prometheus_rules import prometheus_rules

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    with failures():
        loaded, known, _ = open_rules(repo, rules)
        references = open_references(repo, profiles)
    usual = {name: reference_values(figures) for name, figures in references.items()}
    # That of numbers; the one of categories is the same unless somebody sets them apart.
    made = prometheus_rules(loaded, known, usual, DriftSettings().least_distance)
    for name, why in made.left_out.items():
        typer.echo(f"hotfeast: rule {name!r} is left out: {why}", err=True)
    if out is None:
        typer.echo(made.text, nl=False)
    else:
        out.write_text(made.text, encoding="utf-8")
