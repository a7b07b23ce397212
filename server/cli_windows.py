"""`hotfeast training-set`: features at the times of rows, windowed ones too."""

from pathlib import Path
from typing import Annotated

import typer

from hotfeast.server.cli_options import RepoOption, failures


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
