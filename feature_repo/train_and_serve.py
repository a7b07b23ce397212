"""Train a model, serve it the same features online, and hold the two against each other.

The model says whether a household buys a product again: of the pairs of household and product that
were bought in the four weeks before a time, those that are bought in the two weeks after it are
positives. It is trained on point-in-time features of the service `purchase_propensity`, at one time
a week; the last of these is two weeks before the time that is served, so that nothing is known of
what came later.

Then Redis is filled with what was known at the time that is served, a gateway answers for pairs of
that time, and the model scores the answer's matrix. Each value that was served is compared with
what `get_historical_features` has for the same pair and time: a difference without a known cause is
skew between training and serving, and ends with exit code 1.

The feature data comes from prepare.py and the registry from `feast apply`. A Redis is started for
the run and is gone at its end.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

# Feast first, by its quick import.
import hotfeast.server.feast_api  # isort: skip  # noqa: F401
import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
import typer
from feast import FeatureStore
from feast.types import Float64, Int64
from prepare import LAST_SNAPSHOT, WEEK, load_lines
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from serving_copy import copied_repository, fill, served
from skew import Comparison, compare, print_comparisons
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import average_precision_score, roc_auc_score
from training_set import (
    DEFAULT_REPO,
    FIRST_LABEL,
    SERVICE,
    TIMESTAMP,
    ProgressCallback,
    point_in_time_features,
    told_failures,
)

from hotfeast.clients import FeatureClient

BOUGHT_BEFORE = 4 * WEEK
BOUGHT_AGAIN = 2 * WEEK
BASELINE = "pair_baskets_count_90d"
# A Tuesday: weekly rows of the Monday before last are too old by noon.
DEFAULT_AT = datetime(2017, 11, 14, 12)
DEFAULT_ROWS, DEFAULT_SERVED = 20_000, 5_000
SAMPLE_ROWS, SAMPLE_SERVED = 2_000, 500
REQUEST_ROWS = 250

Matrix = npt.NDArray[np.float64]

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to train on, and what to serve.

    Attributes:
        at: The time that is served; UTC.
        rows: How many rows to train on.
        served: How many rows to serve.
        weeks: How many times, a week apart, the training rows are of.
        late: How long before `at` Redis was filled.
        seed: The same seed and data give the same model.
    """

    at: datetime
    rows: int = DEFAULT_ROWS
    served: int = DEFAULT_SERVED
    weeks: int = 20
    late: timedelta = timedelta(0)
    seed: int = 7

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: The data does not reach as far.
        """
        if self.training_times[-1] < FIRST_LABEL:
            raise ValueError(
                f"{self.weeks} weeks before {self.at:%Y-%m-%d} begin at "
                f"{self.training_times[-1]:%Y-%m-%d}, before {FIRST_LABEL:%Y-%m-%d}: give fewer "
                "--weeks or a later --at"
            )
        if self.at + BOUGHT_AGAIN > LAST_SNAPSHOT:
            raise ValueError(
                f"the data ends less than {BOUGHT_AGAIN.days} days after {self.at:%Y-%m-%d}: give "
                f"an --at up to {LAST_SNAPSHOT - BOUGHT_AGAIN:%Y-%m-%d}"
            )

    @property
    def training_times(self) -> list[datetime]:
        """The times of the training rows, the latest first."""
        return [self.at - BOUGHT_AGAIN - week * WEEK for week in range(self.weeks)]


@dataclass(frozen=True, slots=True)
class Score:
    """How well positives are told from others; 0.5 and the share of positives are no better than
    chance."""

    scorer: str
    roc_auc: float
    average_precision: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run.

    Attributes:
        training_rows: How many rows the model was trained on.
        positives: Share of positives among the rows that were served.
        scores: Of the model on served features, on offline features, and of the baseline.
        statuses: How many of the served values have each status.
        moved: How far the model's score is apart between served and offline features, at most.
        comparison: Served features beside the offline store's.
    """

    training_rows: int
    positives: float
    scores: tuple[Score, ...]
    statuses: dict[str, int]
    moved: float
    comparison: Comparison


def repurchases(
    lines: pl.DataFrame, times: Sequence[datetime], rows: int, seed: int
) -> pd.DataFrame:
    """Draw pairs that were bought before each time, labelled by whether they were again after it.

    Args:
        lines: Purchase lines as `prepare.load_lines` returns them.
        times: The times, from each of which as many pairs are drawn.
        rows: How many pairs in all; those that the number of times does not divide are left out.
        seed: The same seed and data give the same pairs.

    Returns:
        `user_id`, `product_id`, `event_timestamp` and `label` (1 bought again, 0 not).

    Raises:
        ValueError: There are fewer pairs.
    """
    pair = ["user_id", "product_id"]
    made = []
    for at in times:
        before = lines.filter(pl.col("at").is_between(at - BOUGHT_BEFORE, at, closed="left"))
        after = lines.filter(pl.col("at").is_between(at, at + BOUGHT_AGAIN, closed="left"))
        known = before.select(pair).unique().sort(pair)
        if known.height < rows // len(times):
            raise ValueError(f"{known.height} pairs were bought before {at}, fewer than asked for")
        again = after.select(pair).unique().with_columns(label=pl.lit(1))
        drawn = known.sample(rows // len(times), seed=seed).join(
            again, on=pair, how="left", maintain_order="left"
        )
        made.append(
            drawn.select(
                *pair,
                pl.lit(at).dt.cast_time_unit("us").alias(TIMESTAMP),
                pl.col("label").fill_null(0),
            )
        )
    return pl.concat(made).to_pandas()


def numeric_features(store: FeatureStore) -> list[str]:
    """The features of the service that are numbers: what the model reads."""
    return [
        feature.name
        for view in store.get_feature_service(SERVICE).feature_view_projections
        for feature in view.features
        if feature.dtype in (Int64, Float64)
    ]


def ask(
    client: FeatureClient, store: FeatureStore, rows: pd.DataFrame, features: list[str]
) -> tuple[Matrix, pd.DataFrame, Counter[str]]:
    """Ask a gateway for the features of pairs.

    Returns:
        The matrix that the model reads, a row for each pair; all that was served, as `skew.compare`
        takes it; how many values have each status.
    """
    named = {
        feature.name: f"{view.name_to_use()}__{feature.name}"
        for view in store.get_feature_service(SERVICE).feature_view_projections
        for feature in view.features
    }
    matrices, frames = [], []
    statuses: Counter[str] = Counter()
    for start in range(0, len(rows), REQUEST_ROWS):
        part = rows[["user_id", "product_id"]].iloc[start : start + REQUEST_ROWS]
        answer = client.get_online_features(SERVICE, part)
        matrices.append(answer.to_numpy(features))
        values, times = answer.to_df(), answer.event_timestamps
        columns: dict[str, Any] = dict(part)
        for name, full in named.items():
            columns[full] = values[name].to_numpy()
            columns[f"{full}__timestamp"] = pd.to_datetime(times[name], utc=True)
            statuses.update(answer.statuses[name])
        frames.append(pd.DataFrame(columns, index=part.index))
    return np.vstack(matrices), pd.concat(frames), statuses


def train_and_serve(repo: Path, plan: Plan, progress: ProgressCallback) -> Outcome:
    """Train, serve and compare.

    Args:
        repo: A Feast repository with prepared data, to which `feast apply` was run; nothing in it
            is changed.
        plan: What to train on, and what to serve.
        progress: Told when a step is done, for a progress bar.

    Raises:
        ValueError: There are too few pairs, or the repository is not prepared and applied.
        FeatureServiceNotFoundException: The registry does not have the service.
    """
    steps = ["labels", "features", "model", "redis", "served", "compared"]

    def done(step: str) -> None:
        progress(step, steps.index(step) + 1, len(steps))

    lines = load_lines()
    labels = repurchases(lines, plan.training_times, plan.rows, plan.seed)
    rows = repurchases(lines, [plan.at], plan.served, plan.seed)
    done("labels")
    with copied_repository(repo) as copy:
        store = FeatureStore(repo_path=str(copy))
        features = numeric_features(store)
        known = point_in_time_features(store, pd.concat([labels, rows], ignore_index=True), SERVICE)
        trained, expected = known.iloc[: len(labels)], known.iloc[len(labels) :]
        done("features")
        # Nulls are NaN, which this model takes as they are.
        model = HistGradientBoostingClassifier(
            max_iter=40, max_leaf_nodes=15, random_state=plan.seed
        )
        model.fit(trained[features].to_numpy(np.float64), trained["label"])
        done("model")
        filled = plan.at - plan.late
        fill(store, SERVICE, filled)
        done("redis")
        with served(copy, plan.at) as client:
            matrix, answers, statuses = ask(client, store, rows, features)
        done("served")
        comparison = compare(store, SERVICE, answers, expected, filled, "when served")
        done("compared")
    online, offline = (
        model.predict_proba(each)[:, 1]
        for each in (matrix, expected[features].to_numpy(np.float64))
    )
    habit = np.nan_to_num(matrix[:, features.index(BASELINE)])
    return Outcome(
        training_rows=len(labels),
        positives=float(rows["label"].mean()),
        scores=tuple(
            Score(
                scorer,
                float(roc_auc_score(rows["label"], scored)),
                float(average_precision_score(rows["label"], scored)),
            )
            for scorer, scored in (
                ("model, features as served", online),
                ("model, offline features", offline),
                (f"baseline: {BASELINE}", habit),
            )
        ),
        statuses=dict(statuses),
        moved=float(np.abs(online - offline).max()),
        comparison=comparison,
    )


def report(console: Console, plan: Plan, outcome: Outcome) -> int:
    """Print what came of a run; returns the exit code, which is 1 where there is skew."""
    console.print(
        f"Trained on {outcome.training_rows:,} pairs up to {plan.training_times[0]:%Y-%m-%d}; of "
        f"{plan.served:,} at {plan.at:%Y-%m-%d %H:%M}, {outcome.positives:.1%} are bought again"
    )
    table = Table(title=f"Who buys again within {BOUGHT_AGAIN.days} days")
    table.add_column("scored by")
    table.add_column("ROC AUC", justify="right")
    table.add_column("average precision", justify="right")
    for score in outcome.scores:
        table.add_row(score.scorer, f"{score.roc_auc:.3f}", f"{score.average_precision:.3f}")
    console.print(table)
    told = ", ".join(f"{count:,} {name}" for name, count in sorted(outcome.statuses.items()))
    console.print(f"Values that were served: {told}")
    title = f"Served features of {SERVICE} beside get_historical_features"
    print_comparisons(console, title, [outcome.comparison])
    console.print(f"Scores of one pair, served and offline, are at most {outcome.moved:.3g} apart")
    if outcome.comparison.unexplained:
        console.print("[red]skew:[/red] served values are not those that the model is trained on")
        return 1
    return 0


@app.command()
def main(
    at: Annotated[
        datetime, typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M"], help="Time that is served.")
    ] = DEFAULT_AT,
    rows: Annotated[
        int | None, typer.Option(min=100, help=f"Rows to train on. [default: {DEFAULT_ROWS}]")
    ] = None,
    served_rows: Annotated[
        int | None, typer.Option(min=100, help=f"Rows to serve. [default: {DEFAULT_SERVED}]")
    ] = None,
    weeks: Annotated[int, typer.Option(min=1, help="Weeks that are trained on.")] = 20,
    late: Annotated[
        float,
        typer.Option(min=0, help="Hours before the time that is served that Redis is filled."),
    ] = 0,
    sample: Annotated[
        bool,
        typer.Option("--sample", help=f"{SAMPLE_ROWS} and {SAMPLE_SERVED} rows, for a quick look."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the sampling and the model.")] = 7,
    repo: Annotated[Path, typer.Option(help="Repository, prepared and applied.")] = DEFAULT_REPO,
) -> None:
    """Train a model offline, score it online, and compare (data for educational use only)."""
    console = Console()
    started = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        task = bars.add_task("train and serve", total=None)

        def show(_: str, done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        with told_failures(console, repo, code=2):
            plan = Plan(
                at.replace(tzinfo=UTC),
                rows=rows or (SAMPLE_ROWS if sample else DEFAULT_ROWS),
                served=served_rows or (SAMPLE_SERVED if sample else DEFAULT_SERVED),
                weeks=weeks,
                late=timedelta(hours=late),
                seed=seed,
            )
            outcome = train_and_serve(repo, plan, show)
    code = report(console, plan, outcome)
    console.print(f"{time.perf_counter() - started:.1f} s")
    raise typer.Exit(code)


if __name__ == "__main__":
    app()
