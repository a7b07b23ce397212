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

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from feast.errors import FeatureServiceNotFoundException
from feast.feature_logging import LOG_TIMESTAMP_FIELD, REQUEST_ID_FIELD
from prepare import DAY, KEYS, LAST_SNAPSHOT, WEEK, RawDataError, load_lines
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from training_set import (
    DEFAULT_REPO,
    FIRST_LABEL,
    SERVICE,
    TIMESTAMP,
    ProgressCallback,
    point_in_time_features,
    sample_labels,
    write_training_set,
)

from bench.processes import Server
from hotfeast.clients import FeatureClient
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.materialize import materialize

REDIS_VARIABLE = "HOTFEAST_REDIS"
REGISTRY = "data/registry.db"
ENTITY = ["user_id", "product_id"]
REQUEST_ID = "request_id"
DEFAULT_DAY = datetime(2017, 11, 14)
# Rows this much older than their TTL are materialized too, so that there is something too old.
BEYOND_TTL = WEEK

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Logged features beside the offline store's.

    Attributes:
        as_of: What time the offline store was asked about.
        rows: How many rows were compared.
        equal_rows: Those of which all features are equal.
        values: How many values were compared.
        equal_values: Those that are equal, or null on both sides.
        expired: Those that the offline store no longer has, since the row's TTL had passed by the
            time it was asked about.
        unexplained: All other differences, by feature.
    """

    as_of: str
    rows: int
    equal_rows: int
    values: int
    equal_values: int
    expired: int
    unexplained: dict[str, int]


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


@contextmanager
def copied_repository(repo: Path) -> Iterator[Path]:
    """A repository of the same definitions and data, with a registry and logs of its own, and an
    empty Redis that its feature_store.yaml names.

    Raises:
        ValueError: The data is not prepared, or `feast apply` was not run.
    """
    missing = [name for name in KEYS if not (repo / "data" / f"{name}.parquet").is_file()]
    if missing:
        raise ValueError(f"{repo / 'data'} has no {missing[0]}.parquet; run prepare.py first")
    if not (repo / REGISTRY).is_file():
        raise ValueError(f"{repo / REGISTRY} is not there; run `feast apply` in {repo} first")
    before = os.environ.get(REDIS_VARIABLE)
    with tempfile.TemporaryDirectory(prefix="hotfeast-logged-") as folder, LocalRedis() as redis:
        copy = Path(folder)
        (copy / "data").mkdir()
        shutil.copy(repo / "feature_store.yaml", copy)
        shutil.copy(repo / REGISTRY, copy / REGISTRY)
        for name in KEYS:
            file = f"data/{name}.parquet"
            (copy / file).symlink_to((repo / file).resolve())
        os.environ[REDIS_VARIABLE] = redis.address
        try:
            yield copy
        finally:
            if before is None:
                del os.environ[REDIS_VARIABLE]
            else:
                os.environ[REDIS_VARIABLE] = before


def fill(store: FeatureStore, day: datetime) -> None:
    """Materialize the views of the service up to and including `day`."""
    for view in store.get_feature_service(SERVICE).feature_view_projections:
        ttl = store.get_feature_view(view.name).ttl or timedelta(0)
        summary = materialize(store, day - ttl - BEYOND_TTL, day, [view.name])
        if summary.exit_code != 0:
            raise RuntimeError(f"{view.name} was not materialized: {summary.views[0].error}")


def serve_and_ask(repo: Path, day: datetime, labels: pd.DataFrame) -> None:
    """Ask a gateway for the features of all labelled rows, a request for each basket.

    The gateway has ended, and its log is complete, when this returns.
    """
    gateway = Server(
        "hotfeast.server", "serve", "--repo", str(repo), "--bind", "127.0.0.1:0",
        "--as-of", day.isoformat(), "--feature-log", str(repo / "data" / "logged"),
        ready=r"(?m)^Hotfeast serves .* on .*:(\d+) .*$",
    )  # fmt: skip
    with gateway, FeatureClient(f"127.0.0.1:{gateway.port()}", timeout=30) as client:
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


def compare(
    store: FeatureStore, logged: pd.DataFrame, times: "pd.Series[pd.Timestamp]", as_of: str
) -> Comparison:
    """Compare logged features with the point-in-time answer.

    Args:
        store: The repository.
        logged: Rows of `join_labels`.
        times: What time to ask about, for each row.
        as_of: What that is called.
    """
    rows = logged[ENTITY].assign(**{TIMESTAMP: times})
    # A pair may come in several baskets of a day.
    answer = rows.merge(
        point_in_time_features(store, rows.drop_duplicates(), SERVICE),
        on=[*ENTITY, TIMESTAMP],
        how="left",
        validate="many_to_one",
    )
    equal_values = values = expired = 0
    equal_rows = pd.Series(True, index=logged.index)
    unexplained: dict[str, int] = {}
    for view in store.get_feature_service(SERVICE).feature_view_projections:
        # Feast's None and 0 are no limit.
        ttl = store.get_feature_view(view.name).ttl or timedelta.max
        for feature in view.features:
            name = f"{view.name_to_use()}__{feature.name}"
            served, known = logged[name], answer[feature.name]
            equal = (served == known) | (served.isna() & known.isna())
            too_old = ~equal & known.isna() & (times - logged[f"{name}__timestamp"] > ttl)
            values += len(equal)
            equal_values += int(equal.sum())
            expired += int(too_old.sum())
            equal_rows &= equal
            if others := int((~equal & ~too_old).sum()):
                unexplained[feature.name] = others
    return Comparison(
        as_of, len(logged), int(equal_rows.sum()), values, equal_values, expired, unexplained
    )


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
        fill(store, day)
        done("redis")
        serve_and_ask(copy, day, labels)
        done("served")
        logged = join_labels(labels, read_log(store, began))
        done("log")
        at_once = pd.Series(pd.Timestamp(day), index=logged.index)
        comparisons = (
            compare(store, logged, at_once, "when served"),
            compare(store, logged, logged[TIMESTAMP], "at the label's time"),
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
    table = Table(title=f"Logged features of {SERVICE} beside get_historical_features")
    for name in ("as of", "rows", "equal", "values", "equal", "TTL has passed", "other"):
        table.add_column(name, justify="left" if name == "as of" else "right")
    for each in made.comparisons:
        table.add_row(
            each.as_of,
            f"{each.rows:,}",
            f"{each.equal_rows / max(each.rows, 1):.2%}",
            f"{each.values:,}",
            f"{each.equal_values / max(each.values, 1):.2%}",
            f"{each.expired:,}",
            f"{sum(each.unexplained.values()):,}",
        )
    console.print(table)
    for each in made.comparisons:
        for name, count in each.unexplained.items():
            console.print(f"{name}, {each.as_of}: {count} values differ")
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

        try:
            made = build_logged_training_set(repo, day.replace(tzinfo=UTC), rows, seed, show)
            write_training_set(made.frame, target)
        except FeatureServiceNotFoundException as error:
            console.print(f"[red]error:[/red] {error}; run `feast apply` in {repo} first")
            raise typer.Exit(1) from error
        except (ValueError, RawDataError, RuntimeError, OSError) as error:
            console.print(f"[red]error:[/red] {error}")
            raise typer.Exit(1) from error
    _print_summary(console, made)
    seconds = time.perf_counter() - started
    console.print(f"{target}: {len(made.frame):,} rows ({seconds:.1f} s)")


if __name__ == "__main__":
    app()
