"""Build a training set for the `purchase_propensity` service from real baskets.

Positives are products that a household did buy, at the time of that basket. Each gets one
negative: a product that others bought on the same day (UTC) and this household did not,
drawn from that day's purchase lines, so in proportion to how often it was bought; the
popularity of a product alone then does not give the label away. Features are joined as of
the basket's time, so a row sees only snapshots at or before it and within the view's TTL.

The feature data comes from prepare.py and the registry from `feast apply`; Redis is not
needed.
"""

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

import pandas as pd
import polars as pl
import typer
from feast import FeatureStore
from feast.errors import FeatureServiceNotFoundException
from prepare import LAST_SNAPSHOT, load_lines
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

SERVICE = "purchase_propensity"
TIMESTAMP = "event_timestamp"
DEFAULT_REPO = Path(__file__).parent

# From here on the widest window (90 days) lies within the data.
FIRST_LABEL = datetime(2017, 4, 1, tzinfo=UTC)

app = typer.Typer(add_completion=False)


ProgressCallback = Callable[[str, int, int], None]
"""Called with a stage's name, the steps done and the steps in all."""


@contextmanager
def told_failures(console: Console, repo: Path, code: int) -> Iterator[None]:
    """Has what goes wrong be told in a line.

    Args:
        console: Where.
        repo: The repository.
        code: The exit code.

    Raises:
        typer.Exit: With that code.
    """
    try:
        yield
    except FeatureServiceNotFoundException as error:
        console.print(f"[red]error:[/red] {error}; run `feast apply` in {repo} first")
        raise typer.Exit(code) from error
    except (ValueError, RuntimeError, OSError) as error:
        console.print(f"[red]error:[/red] {error}")
        raise typer.Exit(code) from error


def sample_labels(lines: pl.DataFrame, rows: int, seed: int) -> pd.DataFrame:
    """Sample labelled (user, product, time) rows, half of them bought and half not.

    Args:
        lines: Purchase lines as `prepare.load_lines` returns them.
        rows: How many rows to return; even and at least 2.
        seed: The same seed and data give the same rows.

    Returns:
        `user_id`, `product_id`, `event_timestamp` (UTC, the basket's time), `basket_id` and
        `label` (1 bought, 0 not); no (user, product, time) twice; in order of time.

    Raises:
        ValueError: `rows` is odd, below 2, or more than twice the purchase lines there are.
    """
    if rows < 2 or rows % 2:
        raise ValueError(f"rows must be even and at least 2, not {rows}")
    usable = lines.filter(
        pl.col("at").is_between(FIRST_LABEL, LAST_SNAPSHOT, closed="left")
    ).with_columns(day=pl.col("at").dt.date())
    if rows // 2 > usable.height:
        raise ValueError(f"the data has {usable.height} positives, fewer than {rows // 2}")

    positives = usable.sample(rows // 2, seed=seed).sort("at", "basket_id", "product_id")
    same_days = usable.join(positives, on="day", how="semi")
    sold: dict[date, list[int]] = dict(same_days.group_by("day").agg("product_id").iter_rows())
    # Products a row's user bought that day; a negative given out joins them, so that no
    # basket gets the same negative twice.
    taken: dict[tuple[int, date], set[int]] = {}
    for user, product, day in same_days.select("user_id", "product_id", "day").iter_rows():
        taken.setdefault((user, day), set()).add(product)

    generator = random.Random(seed)
    labelled: list[tuple[int, int, datetime, int, int]] = []
    columns = positives.select("user_id", "product_id", "at", "basket_id", "day")
    for user, product, at, basket, day in columns.iter_rows():
        others = [other for other in sold[day] if other not in taken[user, day]]
        if not others:
            raise ValueError(f"nobody but user {user} bought anything on {day}")
        negative = generator.choice(others)
        taken[user, day].add(negative)
        labelled.append((user, product, at, basket, 1))
        labelled.append((user, negative, at, basket, 0))
    return pd.DataFrame(
        labelled, columns=["user_id", "product_id", TIMESTAMP, "basket_id", "label"]
    )


def point_in_time_features(
    store: FeatureStore,
    entity_rows: pd.DataFrame,
    service_name: str,
    progress: ProgressCallback | None = None,
) -> pd.DataFrame:
    """Add a service's features, as of each row's `event_timestamp`, to `entity_rows`.

    The service's views are asked for one by one, each for its own distinct keys, and joined
    back to the rows. In one request for the whole service, Feast's file offline store drops
    rows: it removes duplicates by the keys of the views joined so far, which leaves one
    product for each (user, time) after a view keyed by user, and it removes a row when its
    key has snapshots, but none within the TTL. Here such a row keeps nulls instead.

    Args:
        store: A feature store to whose registry the service was applied.
        entity_rows: Rows with the join keys of the service and `event_timestamp` (UTC).
        service_name: The service.
        progress: Told about each view, for a progress bar.

    Returns:
        The rows in their order, with one more column for each feature; null when no snapshot
        is in reach. Whole-number features with nulls come as floats, as pandas has them.

    Raises:
        FeatureServiceNotFoundException: The registry has no such service.
        KeyError: `entity_rows` lacks a join key.
    """
    service = store.get_feature_service(service_name)
    views = service.feature_view_projections
    result = entity_rows
    for done, view in enumerate(views):
        if progress:
            progress("features", done, len(views))
        join_keys = [
            store.get_entity(entity).join_key
            for entity in store.get_feature_view(view.name).entities
        ]
        on = [*join_keys, TIMESTAMP]
        names = [feature.name for feature in view.features]
        features = store.get_historical_features(
            entity_df=entity_rows[on].drop_duplicates(),
            features=[f"{view.name_to_use()}:{name}" for name in names],
        ).to_df()
        result = result.merge(features[[*on, *names]], on=on, how="left", validate="many_to_one")
    if progress:
        progress("features", len(views), len(views))
    return result


def build_training_set(
    repo: Path, rows: int, seed: int, progress: ProgressCallback | None = None
) -> pd.DataFrame:
    """Sample labels and join the features of `purchase_propensity` to them.

    Args:
        repo: A Feast repository with prepared data, to which `feast apply` was run.
        rows: How many rows, even; half of them are positives.
        seed: The same seed gives the same rows.
        progress: Told about each step, for a progress bar.

    Returns:
        Labels as `sample_labels` gives them, with the service's features.

    Raises:
        ValueError: `rows` does not suit, see `sample_labels`.
        FeatureServiceNotFoundException: `feast apply` was not run.
    """
    if progress:
        progress("labels", 0, 1)
    labels = sample_labels(load_lines(), rows, seed)
    if progress:
        progress("labels", 1, 1)
    store = FeatureStore(repo_path=str(repo))
    return point_in_time_features(store, labels, SERVICE, progress)


def write_training_set(training_set: pd.DataFrame, out: Path) -> None:
    """Write the rows to a Parquet file, under a temporary name first; makes its folder."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        training_set.to_parquet(temporary, index=False)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def _print_summary(console: Console, training_set: pd.DataFrame) -> None:
    features = training_set.columns.drop(["user_id", "product_id", TIMESTAMP, "basket_id", "label"])
    bought = training_set[training_set["label"] == 1]
    not_bought = training_set[training_set["label"] == 0]
    table = Table(title=f"Training set for {SERVICE}: share of rows with a value")
    table.add_column("feature")
    table.add_column(f"bought ({len(bought):,})", justify="right")
    table.add_column(f"not bought ({len(not_bought):,})", justify="right")
    for name in features:
        table.add_row(
            name, f"{bought[name].notna().mean():.1%}", f"{not_bought[name].notna().mean():.1%}"
        )
    console.print(table)


@app.command()
def main(
    rows: Annotated[int, typer.Option(min=2, help="Rows to build; an even number.")] = 5000,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 7,
    out: Annotated[Path | None, typer.Option(help="Parquet file to write.")] = None,
    repo: Annotated[Path, typer.Option(help="Repository, prepared and applied.")] = DEFAULT_REPO,
) -> None:
    """Build a training set with point-in-time features (data for educational use only)."""
    console = Console()
    started = time.perf_counter()
    target = out or repo / "data" / "training_set.parquet"
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        tasks = {stage: bars.add_task(stage, total=None) for stage in ("labels", "features")}

        def show(stage: str, done: int, total: int) -> None:
            bars.update(tasks[stage], completed=done, total=total)

        with told_failures(console, repo, code=1):
            training_set = build_training_set(repo, rows, seed, show)
            write_training_set(training_set, target)
    _print_summary(console, training_set)
    seconds = time.perf_counter() - started
    console.print(f"{target}: {len(training_set):,} rows ({seconds:.1f} s)")


if __name__ == "__main__":
    app()
