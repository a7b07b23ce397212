"""`hotfeast audit`: what is served online beside the offline store."""

import json
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from hotfeast.server.cli_options import (
    RedisOption,
    RepoOption,
    ViewsOption,
    failures,
    option_time,
)


def audit(
    repo: RepoOption = Path("."),
    views: ViewsOption = None,
    entities: Annotated[
        int, typer.Option(min=1, help="Entities drawn from each side, for each view.")
    ] = 500,
    as_of: Annotated[
        str | None, typer.Option(help="Compare at this ISO 8601 time instead of now.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Parts by which fractions may differ, such as 1e-9.")
    ] = 0.0,
    max_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of a view's entities that may differ.")
    ] = 0.0,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Draws the same entities again from the source.")
    ] = None,
    redis: RedisOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compares what is served online with the offline store's point-in-time answer, for a sample of
    entities of each view. Changes nothing.

    Exit codes: 0, 1 if a view has more differences than --max-share or cannot be compared, 2 if the
    audit could not start.
    """
    time = option_time(as_of, "--as-of")
    # Only now: Feast takes seconds to import, and a wrong option should be told at once.
    from hotfeast.server.monitoring import audit as auditing
    from hotfeast.server.monitoring.audit_report import print_report
    from hotfeast.server.terminal import consoles

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    with failures():
        report = auditing.audit(
            repo,
            views or None,
            entities=entities,
            as_of=time,
            tolerance=tolerance,
            max_share=max_share,
            redis_url=redis,
            seed=seed,
        )
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2, default=_plain))
    else:
        console, _ = consoles()
        print_report(console, report)
    raise typer.Exit(report.exit_code)


def _plain(value: object) -> str:
    """Keys that are bytes, for JSON."""
    return value.hex() if isinstance(value, bytes) else str(value)
