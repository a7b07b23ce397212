"""How often drift is called on real data that nobody has touched.

Each month of the demonstration's year is compared, view by view, with all months before it, as what
is served later is with a model's training set. Windows of up to 90 days reach back before the data
begins until April, so that months are compared from May on, with April as the first reference. What
is called drift there is the year itself: seasons, households that come and go, and the luck of the
sample. As a control, the rows of each month are dealt at random into two halves, which are
compared: there any drift is an error.

Entities come again and again in these rows, a household every day, so that all p-values but those
of the control are too low, and what counts is the least size of drift. The study is made for
several. What each still finds is shown by the last month with its numbers multiplied.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
from rich.table import Table

from hotfeast.server.monitoring.drift import DriftResult, DriftSettings, compare_all
from hotfeast.server.monitoring.observed import FeatureColumn
from hotfeast.server.monitoring.statistics import PROFILE_SIZES, FeatureStatistics

LEAST_SIZES = (0.0, 0.05, 0.1, 0.15, 0.2)
"""Least Kolmogorov-Smirnov statistics and least PSIs that are tried, both the same."""
FIRST_MONTH, LAST_MONTH = 4, 12
FACTORS = (1.1, 1.25, 1.5, 2.0, 10.0)
"""What the numbers of the last month are multiplied by."""
_FEATURE_REPO = Path(__file__).resolve().parent.parent / "feature_repo"

Features = dict[tuple[str, str], FeatureStatistics]


@dataclass(frozen=True, slots=True)
class MonthOfDrift:
    """What came out of one month.

    Attributes:
        month: 1 to 12.
        features: How many features were compared.
        drifted: Names of those that have drifted, with the size, by least size.
        halves: How many have in the control, by least size.
    """

    month: int
    features: int
    drifted: dict[float, dict[str, float]]
    halves: dict[float, int]


@dataclass(frozen=True, slots=True)
class Study:
    """What came out of all months.

    Attributes:
        months: Each of them.
        multiplied: How many of the last month's features have drifted with their numbers
            multiplied, by factor and least size.
    """

    months: list[MonthOfDrift]
    multiplied: dict[float, dict[float, int]]


def run(rows: int, seed: int, log: Callable[[str], None]) -> Study:
    """Makes the study.

    Args:
        rows: How many rows to take of each view and month at most.
        seed: Of taking them.
        log: Told what is done.
    """
    months = {}
    for month in range(FIRST_MONTH, LAST_MONTH + 1):
        log(f"month {month}")
        months[month] = _of_month(month, rows, seed)
    results = []
    reference: Features = {}
    multiplied: dict[float, dict[float, int]] = {}
    for month, halves in months.items():
        current = _together(halves)
        if reference:
            drifted = {}
            control = {}
            for least in LEAST_SIZES:
                settings = DriftSettings(least_distance=least, least_psi=least)
                drifted[least] = {
                    f"{result.view}:{result.feature}": _size(result)
                    for result in compare_all(reference, current, settings)
                    if result.drifted
                }
                control[least] = sum(
                    result.drifted for result in compare_all(halves[0], halves[1], settings)
                )
            results.append(MonthOfDrift(month, len(current), drifted, control))
        if month == LAST_MONTH:
            multiplied = {factor: _multiplied(reference, rows, seed, factor) for factor in FACTORS}
        reference = _together((reference, current))
    return Study(results, multiplied)


def _multiplied(reference: Features, rows: int, seed: int, factor: float) -> dict[float, int]:
    current = _together(_of_month(LAST_MONTH, rows, seed, factor))
    return {
        least: sum(
            result.drifted
            for result in compare_all(
                reference, current, DriftSettings(least_distance=least, least_psi=least)
            )
        )
        for least in LEAST_SIZES
    }


def tables(study: Study) -> Iterator[Table]:
    """The study as tables: how many features drift, which at the default sizes, and what is found
    of what has been multiplied."""
    results = study.months
    counts = Table(title="Features that have drifted, by least size (in brackets: in the control)")
    counts.add_column("month", justify="right")
    counts.add_column("compared", justify="right")
    for least in LEAST_SIZES:
        counts.add_column(f"{least:g}", justify="right")
    for result in results:
        figures = [f"{len(result.drifted[each])} ({result.halves[each]})" for each in LEAST_SIZES]
        counts.add_row(str(result.month), str(result.features), *figures)
    yield counts
    default = DriftSettings().least_distance
    names = Table(
        title=f"Those at {default:g}, the default, with their sizes by month (or, of those whose "
        "values are as they were, the share of rows without one)"
    )
    names.add_column("feature")
    for result in results:
        names.add_column(str(result.month), justify="right")
    for name in sorted({name for result in results for name in result.drifted[default]}):
        sizes = (result.drifted[default].get(name) for result in results)
        names.add_row(name, *("" if size is None else f"{size:.2f}" for size in sizes))
    yield names
    found = Table(title="The last month with numbers multiplied: features that have drifted")
    found.add_column("factor", justify="right")
    for least in LEAST_SIZES:
        found.add_column(f"{least:g}", justify="right")
    for factor, counted in study.multiplied.items():
        found.add_row(f"{factor:g}", *(str(counted[least]) for least in LEAST_SIZES))
    yield found


def _size(result: DriftResult) -> float:
    return result.effect if result.values_drifted else result.empty_current


def _of_month(month: int, most: int, seed: int, factor: float = 1.0) -> tuple[Features, Features]:
    """Statistics of a month's rows, their numbers multiplied, dealt into two halves."""
    generator = np.random.default_rng([seed, month])
    halves: tuple[Features, Features] = {}, {}
    for view, keys in _views().items():
        rows = _rows(view, month)
        order = generator.permutation(len(rows))[:most]
        middle = len(order) // 2
        for half, places in zip(halves, (order[:middle], order[middle:]), strict=True):
            table = (rows[places].drop(*keys, "event_timestamp") * factor).to_arrow()
            for name, column in zip(table.column_names, table.columns, strict=True):
                statistics = FeatureStatistics(sizes=PROFILE_SIZES)
                for chunk in column.chunks:
                    statistics.update(FeatureColumn(view, name, chunk))
                half[view, name] = statistics
    return halves


def _rows(view: str, month: int) -> pl.DataFrame:
    start = datetime(2017, month, 1)
    end = datetime(2017 + month // 12, month % 12 + 1, 1)
    time = pl.col("event_timestamp").dt.replace_time_zone(None)
    path = _FEATURE_REPO / "data" / f"{view}.parquet"
    return pl.scan_parquet(path).filter((time >= start) & (time < end)).collect()


def _views() -> dict[str, tuple[str, ...]]:
    """Views whose rows change over the year, with their join keys; their files are made if they are
    not there."""
    # The repository's programs are scripts beside its definitions, not a package.
    sys.path.insert(0, str(_FEATURE_REPO))
    from prepare import KEYS, prepare

    prepare(_FEATURE_REPO / "data")
    return {view: KEYS[view] for view in KEYS if view not in _CONSTANT}


_CONSTANT = ("user_demographics", "product_attributes")


def _together(parts: tuple[Features, Features]) -> Features:
    together: Features = {}
    for part in parts:
        for name, statistics in part.items():
            mine = together.setdefault(name, FeatureStatistics(sizes=PROFILE_SIZES))
            mine.merge(statistics)
    return together
