"""Features as they were served beside the offline store's, for the same entities and times."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

# Feast first, by its quick import.
import hotfeast.server.feast_api  # isort: skip  # noqa: F401
import pandas as pd
import polars as pl
from feast import FeatureStore, FeatureView
from rich.console import Console
from rich.table import Table
from training_set import TIMESTAMP, point_in_time_features

_NEWEST = "newest"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Served features beside the offline store's.

    Attributes:
        as_of: What time the offline store was asked about.
        rows: How many rows were compared.
        equal_rows: Those of which all features are equal.
        values: How many values were compared.
        equal_values: Those that are equal, or null on both sides.
        expired: Those that the offline store no longer has, since the row's TTL had passed by the
            time it was asked about.
        late: Those of a row that came after Redis was filled.
        unexplained: All other differences, by feature.
    """

    as_of: str
    rows: int
    equal_rows: int
    values: int
    equal_values: int
    expired: int
    late: int
    unexplained: dict[str, int]


def known_at(store: FeatureStore, service: str, rows: pd.DataFrame) -> pd.DataFrame:
    """The offline store's features of a service for rows of join keys and `event_timestamp`, of
    which several may be the same."""
    return rows.merge(
        point_in_time_features(store, rows.drop_duplicates(), service),
        on=list(rows.columns),
        how="left",
        validate="many_to_one",
    )


def compare(
    store: FeatureStore,
    service: str,
    served: pd.DataFrame,
    known: pd.DataFrame,
    filled: datetime,
    as_of: str,
) -> Comparison:
    """Compare served features with the offline store's.

    Args:
        store: The repository, whose sources are Parquet files.
        service: The feature service.
        served: Rows with the join keys and, for each feature, `view__feature` and
            `view__feature__timestamp`: the event time of the row that it was read from.
        known: For each of these rows the offline store's features, with join keys and the time that
            it was asked about; see `known_at`.
        filled: Up to when rows were materialized that could be served.
        as_of: What that time is called.
    """
    known = known.set_axis(served.index)
    times = known[TIMESTAMP]
    equal_values = values = expired = late = 0
    equal_rows = pd.Series(True, index=served.index)
    unexplained: dict[str, int] = {}
    for projection in store.get_feature_service(service).feature_view_projections:
        view = store.get_feature_view(projection.name)
        # Feast's None and 0 are no limit.
        ttl = view.ttl or timedelta.max
        keys = [store.get_entity(name).join_key for name in view.entities]
        newest = _newest_rows(store, view, known[[*keys, TIMESTAMP]])
        came_later = newest.set_axis(served.index) > pd.Timestamp(filled)
        for feature in projection.features:
            name = f"{projection.name_to_use()}__{feature.name}"
            value, expected = served[name], known[feature.name]
            equal = (value == expected) | (value.isna() & expected.isna())
            too_late = ~equal & came_later
            age = times - served[f"{name}__timestamp"]
            too_old = ~equal & ~came_later & expected.isna() & (age > ttl)
            values += len(equal)
            equal_values += int(equal.sum())
            expired += int(too_old.sum())
            late += int(too_late.sum())
            equal_rows &= equal
            if others := int((~equal & ~too_late & ~too_old).sum()):
                unexplained[feature.name] = others
    return Comparison(
        as_of, len(served), int(equal_rows.sum()), values, equal_values, expired, late, unexplained
    )


def _newest_rows(
    store: FeatureStore, view: FeatureView, rows: pd.DataFrame
) -> "pd.Series[pd.Timestamp]":
    """The event time of the newest row that a view's source has for each key by its time; NaT where
    there is none."""
    keys = [name for name in rows.columns if name != TIMESTAMP]
    source = Path(str(store.repo_path)) / view.batch_source.path
    wanted = pl.from_pandas(rows).with_row_index("row")
    found = (
        pl.scan_parquet(source)
        .select(*keys, pl.col(view.batch_source.timestamp_field).alias(_NEWEST))
        .join(wanted.lazy().select(keys).unique(), on=keys, how="semi")
        .join(wanted.lazy(), on=keys)
        .filter(pl.col(_NEWEST) <= pl.col(TIMESTAMP))
        .group_by("row")
        .agg(pl.col(_NEWEST).max())
    )
    newest = wanted.lazy().select("row").join(found, on="row", how="left").sort("row").collect()
    return newest[_NEWEST].to_pandas()


def print_comparisons(console: Console, title: str, made: Iterable[Comparison]) -> None:
    """A line for each comparison, and one for each feature that differs without a known cause."""
    made = list(made)
    table = Table(title=title)
    names = ("as of", "rows", "equal", "values", "equal", "TTL has passed", "came later", "other")
    for name in names:
        table.add_column(name, justify="left" if name == "as of" else "right")
    for each in made:
        table.add_row(
            each.as_of,
            f"{each.rows:,}",
            f"{each.equal_rows / max(each.rows, 1):.2%}",
            f"{each.values:,}",
            f"{each.equal_values / max(each.values, 1):.2%}",
            f"{each.expired:,}",
            f"{each.late:,}",
            f"{sum(each.unexplained.values()):,}",
        )
    console.print(table)
    for each in made:
        for name, count in each.unexplained.items():
            console.print(f"{name}, {each.as_of}: {count} values differ")
