"""`hotfeast lint`: faults in the definitions of a repository's files."""

import json
import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hotfeast.server.cli_options import RepoOption, failures


class FailOn(StrEnum):
    """The least severity that fails."""

    error = "error"
    warning = "warning"
    info = "info"


def lint(
    repo: RepoOption = Path("."),
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", help="A rule that is off; may be repeated.")
    ] = None,
    data: Annotated[
        bool, typer.Option("--data", help="Look at the batch sources, too: types and cadences.")
    ] = False,
    monitor_dir: Annotated[
        Path | None,
        typer.Option(
            help="Look at who reads what, too: the --monitor-dir of a gateway that serves this."
        ),
    ] = None,
    fail_on: Annotated[
        FailOn, typer.Option(help="The least severity that makes the exit code 1.")
    ] = FailOn.warning,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    sarif: Annotated[
        Path | None, typer.Option(help="Write the findings in SARIF 2.1.0 to this file.")
    ] = None,
    rules: Annotated[bool, typer.Option("--rules", help="List the rules, and do nothing.")] = False,
) -> None:
    """Looks for faults in the definitions of a repository's files. Nothing is applied, and neither
    the registry nor Redis is asked.

    Exit codes: 0, 1 if something is found at or above --fail-on, 2 if it could not be looked at.
    """
    # Only now: Feast takes seconds to import, and a wrong option should be told at once.
    from hotfeast.server.errors import StartFailure
    from hotfeast.server.lint import linting
    from hotfeast.server.lint.findings import Severity
    from hotfeast.server.lint.report import print_result, print_rules
    from hotfeast.server.lint.sarif import write_sarif
    from hotfeast.server.terminal import consoles

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    console, _ = consoles()
    if rules:
        print_rules(console)
        return
    with failures():
        result = linting.lint(repo, ignore=ignore or (), data=data, monitor_dir=monitor_dir)
        if sarif is not None:
            try:
                write_sarif(result, sarif, Path.cwd())
            except OSError as error:
                raise StartFailure(f"--sarif: {sarif} cannot be written: {error}") from error
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2))
    else:
        print_result(console, result)
    raise typer.Exit(int(linting.fails(result, Severity(fail_on.value))))
