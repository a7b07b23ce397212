"""`hotfeast training-set` and `backfill`: windowed features from the events of batch sources."""

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


def training_set(
    features: Annotated[
        list[str], typer.Argument(help="A feature service, or features such as view:feature.")
    ],
    entities: Annotated[
        Path, typer.Option(help="Parquet file of rows: join keys and event_timestamp.")
    ],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    repo: RepoOption = Path("."),
    full_feature_names: Annotated[bool, typer.Option(help="Name features view__feature.")] = False,
) -> None:
    """Adds features to rows as they were at the rows' times: windowed ones computed from the events
    of their batch sources, others by Feast's point-in-time join.

    Exit codes: 0, 2 if it could not be made.
    """
    # Only now: Feast takes seconds to import, and a wrong option should be told at once.
    import pyarrow as pa
    import pyarrow.parquet as pq

    from hotfeast.server.errors import RequestFailure
    from hotfeast.server.windows import training

    wanted = features[0] if len(features) == 1 and ":" not in features[0] else features
    with failures():
        try:
            made = training.training_set(repo, pq.read_table(entities), wanted, full_feature_names)
        except (RequestFailure, OSError, pa.ArrowException) as error:
            message = error.message if isinstance(error, RequestFailure) else str(error)
            typer.echo(f"hotfeast: {message}", err=True)
            raise typer.Exit(2) from None
        pq.write_table(made, out)
    typer.echo(f"{out}: {made.num_rows} rows, {made.num_columns} columns")


def backfill(
    repo: RepoOption = Path("."),
    views: ViewsOption = None,
    until: Annotated[
        str | None,
        typer.Option(
            help="ISO 8601 time up to which the sources have all events; that of the newest event "
            "of each unless given."
        ),
    ] = None,
    redis: RedisOption = None,
) -> None:
    """Fills in the tiles of windowed views from their batch sources, beside pushes that go on. Each
    entity is filled in once, so that a run can be repeated.

    Exit codes: 0, 1 if an entity could not be filled in, 2 if the run could not start or go on.
    """
    end = option_time(until, "--until")
    # Only now: Feast takes seconds to import, and a wrong option should be told at once.
    from rich.table import Table

    from hotfeast.server.errors import RedisUnavailable, RequestFailure
    from hotfeast.server.terminal import consoles
    from hotfeast.server.windows import backfill as filling

    with failures():
        try:
            done = filling.backfill(repo, views or None, end, redis)
        except (RedisUnavailable, RequestFailure) as error:
            message = error.message if isinstance(error, RequestFailure) else str(error)
            typer.echo(f"hotfeast: {message}", err=True)
            raise typer.Exit(2) from None
    console, _ = consoles()
    table = Table()
    for column in ("view", "until", "events", "filled in", "before", "failed"):
        table.add_column(column, justify="left" if column in ("view", "until") else "right")
    for each in done:
        numbers = (each.events, each.filled, each.before, each.failed)
        table.add_row(each.feature_view, each.until.isoformat(), *(f"{n:,}" for n in numbers))
    console.print(table)
    raise typer.Exit(1 if any(each.failed for each in done) else 0)
