"""Build a training set from features as they were served, and hold it against the offline store's.

A model that is trained on logged features is trained on what it was given. For one day of the data
this script does what a deployment does over months: Redis is filled with what was known by the
day's start, a gateway answers for households and products and logs its answers, and once it is
known who has bought what, the logged rows are joined with that. Labels are those of
training_set.py, of one day; a request stands for a basket, whose number is its id.

The logged features are then compared with what `get_historical_features` answers for the same rows,
as of when they were served and as of the label's time. The second is what a training set would have
without a log.

The feature data comes from prepare.py and the registry from `feast apply`. A Redis is started for
the run; it, the materialization's entries in the registry and the log are gone at its end.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

# Feast first, by its quick import.
import hotfeast.server.feast_api  # isort: skip  # noqa: F401
import pandas as pd
import polars as pl
import typer
from feast import FeatureStore
from feast.feature_logging import LOG_TIMESTAMP_FIELD, REQUEST_ID_FIELD
from prepare import DAY, LAST_SNAPSHOT, load_lines
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from serving_copy import copied_repository, fill, served
from skew import Comparison, compare, known_at, print_comparisons
from training_set import (
    DEFAULT_REPO,
    FIRST_LABEL,
    SERVICE,
    TIMESTAMP,
    ProgressCallback,
    sample_labels,
    told_failures,
    write_training_set,
)

ENTITY = ["user_id", "product_id"]
REQUEST_ID = "request_id"
DEFAULT_DAY = datetime(2017, 11, 14)

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True)
class LoggedTrainingSet:
    """What came of a day.

    Attributes:
        frame: Labels with the features that were served: `user_id`, `product_id`,
            `event_timestamp` (of the label), `basket_id`, `label`, `request_id`, and each feature.
        lost: Labelled rows that the log does not have.
        comparisons: With the offline store's answers.
    """

    frame: pd.DataFrame
    lost: int
    comparisons: tuple[Comparison, ...]


def labels_of_day(lines: pl.DataFrame, day: datetime, rows: int, seed: int) -> pd.DataFrame:
    """Sample labelled rows of one day's baskets.

    Args:
        lines: Purchase lines as `prepare.load_lines` returns them.
        day: Midnight UTC at the day's start.
        rows: How many rows; even and at least 2.
        seed: The same seed and data give the same rows.

    Returns:
        Labels as `sample_labels` gives them, with `request_id`.

    Raises:
        ValueError: The day has no labels, or `rows` does not suit.
    """
    if not FIRST_LABEL <= day <= LAST_SNAPSHOT - DAY:
        raise ValueError(
            f"the day must be from {FIRST_LABEL:%Y-%m-%d} to {LAST_SNAPSHOT - DAY:%Y-%m-%d}, "
            f"not {day:%Y-%m-%d}"
        )
    of_day = lines.filter(pl.col("at").is_between(day, day + DAY, closed="left"))
    labels = sample_labels(of_day, rows, seed)
    return labels.assign(**{REQUEST_ID: "basket-" + labels["basket_id"].astype(str)})


def serve_and_ask(repo: Path, day: datetime, labels: pd.DataFrame) -> None:
    """Ask a gateway for the features of all labelled rows, a request for each basket.

    The gateway has ended, and its log is complete, when this returns.
    """
    log = str(repo / "data" / "logged")
    with served(repo, day, "--feature-log", log) as client:
        for request_id, rows in labels.groupby(REQUEST_ID, sort=False):
            entities = {name: rows[name].tolist() for name in ENTITY}
            client.get_online_features(SERVICE, entities, request_id=str(request_id))


def read_log(store: FeatureStore, since: datetime) -> pd.DataFrame:
    """The logged features of the service, by Feast.

    Raises:
        ValueError: The registry has the service without a `logging_config`.
    """
    service = store.get_feature_service(SERVICE)
    if service.logging_config is None:
        raise ValueError(f"{SERVICE} has no logging_config; run `feast apply` first")
    # What FeatureStore.validate_logged_features reads them with.
    job = store._get_provider().retrieve_feature_service_logs(
        feature_service=service,
        start_date=since,
        end_date=datetime.now(UTC) + timedelta(seconds=1),
        config=store.config,
        registry=store.registry,
    )
    return job.to_df()


def join_labels(labels: pd.DataFrame, log: pd.DataFrame) -> pd.DataFrame:
    """Join labels with the rows that were logged for them, by request and entity.

    The log's own time is when a request came, which here is today, whatever the day that is served.
    So the order of time is held to by the features' event times.

    Args:
        labels: With `request_id`, the join keys, and the label's time as `event_timestamp`.
        log: Logged features. Of a request that was sent again the last answer counts.

    Returns:
        The labels that have a logged row, in their order, with the log's columns.

    Raises:
        ValueError: A feature is newer than its label.
    """
    last = log.sort_values(LOG_TIMESTAMP_FIELD).drop_duplicates(
        [REQUEST_ID_FIELD, *ENTITY], keep="last"
    )
    joined = labels.merge(
        last.rename(columns={REQUEST_ID_FIELD: REQUEST_ID}),
        on=[REQUEST_ID, *ENTITY],
        how="inner",
        validate="one_to_one",
    )
    for name in joined.columns:
        if name.endswith("__timestamp") and (joined[name] > joined[TIMESTAMP]).any():
            raise ValueError(f"{name.removesuffix('__timestamp')} is newer than its label")
    return joined


def build_logged_training_set(
    repo: Path, day: datetime, rows: int, seed: int, progress: ProgressCallback | None = None
) -> LoggedTrainingSet:
    """Serve a day, and make a training set of what was logged.

    Args:
        repo: A Feast repository with prepared data, to which `feast apply` was run; nothing in it
            is changed.
        day: Midnight UTC at the day's start: the time that is served.
        rows: How many rows, even; half of them are positives.
        seed: The same seed gives the same rows.
        progress: Told about each step, for a progress bar.

    Raises:
        ValueError: `day` or `rows` does not suit, or the repository is not prepared and applied.
        FeatureServiceNotFoundException: The registry does not have the service.
    """
    steps: list[str] = ["labels", "redis", "served", "log", "compared"]
    tell: Callable[[str, int, int], None] = progress or (lambda stage, done, total: None)

    def done(stage: str) -> None:
        tell("logged training set", steps.index(stage) + 1, len(steps))

    labels = labels_of_day(load_lines(), day, rows, seed)
    done("labels")
    began = datetime.now(UTC)
    with copied_repository(repo) as copy:
        store = FeatureStore(repo_path=str(copy))
        fill(store, SERVICE, day)
        done("redis")
        serve_and_ask(copy, day, labels)
        done("served")
        logged = join_labels(labels, read_log(store, began))
        done("log")
        comparisons = tuple(
            compare(store, SERVICE, logged, known_at(store, SERVICE, rows), day, as_of)
            for rows, as_of in (
                (logged[ENTITY].assign(**{TIMESTAMP: pd.Timestamp(day)}), "when served"),
                (logged[[*ENTITY, TIMESTAMP]], "at the label's time"),
            )
        )
        done("compared")
        names = {
            f"{view.name_to_use()}__{feature.name}": feature.name
            for view in store.get_feature_service(SERVICE).feature_view_projections
            for feature in view.features
        }
    frame = logged[[*labels.columns, *names]].rename(columns=names)
    return LoggedTrainingSet(frame, len(labels) - len(frame), comparisons)


def _print_summary(console: Console, made: LoggedTrainingSet) -> None:
    title = f"Logged features of {SERVICE} beside get_historical_features"
    print_comparisons(console, title, made.comparisons)
    if made.lost:
        console.print(f"{made.lost} labelled rows are not in the log")


@app.command()
def main(
    day: Annotated[
        datetime, typer.Option(formats=["%Y-%m-%d"], help="The day that is served.")
    ] = DEFAULT_DAY,
    rows: Annotated[int, typer.Option(min=2, help="Rows to build; an even number.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 7,
    out: Annotated[Path | None, typer.Option(help="Parquet file to write.")] = None,
    repo: Annotated[Path, typer.Option(help="Repository, prepared and applied.")] = DEFAULT_REPO,
) -> None:
    """Build a training set from logged features (data for educational use only)."""
    console = Console()
    started = time.perf_counter()
    target = out or repo / "data" / "logged_training_set.parquet"
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        task = bars.add_task("logged training set", total=None)

        def show(_: str, done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        with told_failures(console, repo, code=1):
            made = build_logged_training_set(repo, day.replace(tzinfo=UTC), rows, seed, show)
            write_training_set(made.frame, target)
    _print_summary(console, made)
    seconds = time.perf_counter() - started
    console.print(f"{target}: {len(made.frame):,} rows ({seconds:.1f} s)")


if __name__ == "__main__":
    app()
