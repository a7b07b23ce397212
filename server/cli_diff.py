"""`hotfeast diff`: what applying a repository's files would change for those who are served."""

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

    breaking = "breaking"
    risky = "risky"
    safe = "safe"


def diff(
    repo: RepoOption = Path("."),
    monitor_dir: Annotated[
        Path | None,
        typer.Option(help="Say who reads what changes: the --monitor-dir of a gateway."),
    ] = None,
    fail_on: Annotated[
        FailOn, typer.Option(help="The least severity that makes the exit code 1.")
    ] = FailOn.breaking,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Says what applying a repository's files would change for those who are served. Changes
    nothing; Redis is not asked.

    Exit codes: 0, 1 if a change is at or above --fail-on, 2 if it could not be looked at.
    """
    # Only now: Feast takes seconds to import, and a wrong option should be told at once.
    from hotfeast.server.diff import comparing
    from hotfeast.server.diff.changes import Severity
    from hotfeast.server.diff.report import print_result
    from hotfeast.server.terminal import consoles

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    with failures():
        result = comparing.diff(repo, monitor_dir)
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2))
    else:
        console, _ = consoles()
        print_result(console, result)
    raise typer.Exit(int(result.fails(Severity(fail_on.value))))
