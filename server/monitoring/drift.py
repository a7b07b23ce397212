"""Whether a feature's values are distributed otherwise than a reference's, and by how much.

Tests and distances are SciPy's:

- Numbers, and lengths of lists: the two-sample Kolmogorov-Smirnov test. As long as the sketches
  hold each number, `scipy.stats.ks_2samp` has them all. Beyond that the statistic is the greatest
  distance between the distribution functions of the sketches, and the p-value is what `ks_2samp`
  (method "asymp") gives for the true numbers of rows at this distance less the error of both
  sketches: so it is never too low for being read off sketches. With it come the Wasserstein
  distance, in standard deviations of the reference, and the population stability index (PSI) over
  tenths of the reference.
- Categories: the chi-square test of a table of two rows, and PSI over its columns. Values that are
  rare, or that a sketch cannot count well enough, share one column.
- Shares of rows without a value (null, missing or stale: a training set does not tell them apart):
  the chi-square test of a table of two by two.

Times move on by themselves, so that of these only rows without a value are compared.

The p-values of all features compared together are adjusted by Benjamini and Hochberg's method. With
enough rows any difference is significant, even one that means nothing; so what is called drift also
has a least size. Rows are taken as independent: where the same entities come again and again,
p-values are too low, and the least size is what counts.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

# SciPy loads `stats` when it is first used: who compares nothing does without what it takes.
import scipy

from hotfeast.server.monitoring.statistics import NUMERIC_KINDS, FeatureStatistics, Kind

# A column of a table of counts has at least so many rows expected on either side (Cochran).
_LEAST_EXPECTED = 5.0
# A value is counted well enough with so many times the rows that its count may be off by.
_TIMES_ERROR = 4.0
# What an empty column counts as in PSI, in rows.
_EMPTY_COLUMN = 0.5
_PSI_BINS = 10


@dataclass(frozen=True, slots=True)
class DriftSettings:
    """What is called drift.

    Attributes:
        threshold: The false discovery rate: adjusted p-values below it are significant.
        least_distance: Least Kolmogorov-Smirnov statistic of drift, from 0 to 1.
        least_psi: Least PSI of drift of categories.
        least_empty: Least difference between shares of rows without a value.
        least_rows: With fewer on either side nothing is tested.
    """

    threshold: float = 0.05
    least_distance: float = 0.1
    least_psi: float = 0.1
    least_empty: float = 0.1
    least_rows: int = 100

    def __post_init__(self) -> None:
        for name in ("threshold", "least_distance", "least_empty"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it goes from 0 to 1")
        if self.least_psi < 0:
            raise ValueError(f"least_psi is {self.least_psi}; it is at least 0")
        if self.least_rows < 2:
            raise ValueError(f"least_rows is {self.least_rows}; two is the least to compare")


class DriftTest(StrEnum):
    """What the values of a feature were tested with."""

    kolmogorov_smirnov = "Kolmogorov-Smirnov"
    chi_square = "chi-square"
    none = "none"


@dataclass(frozen=True, slots=True)
class DriftResult:
    """How the values of a feature differ from a reference's. NaN is what is not known.

    Attributes:
        view: The view's name; empty where columns of a table are compared.
        feature: The feature's name.
        test: What the values were tested with.
        statistic: Of that test.
        p_value: Of that test.
        adjusted_p: The p-value, adjusted for all that was tested together.
        effect: Its size: the Kolmogorov-Smirnov statistic, or PSI for categories.
        least_effect: What it must be for drift.
        wasserstein: Wasserstein distance of numbers, in standard deviations of the reference.
        psi: Population stability index.
        empty_reference: Share of the reference's rows without a value.
        empty_current: The same of the current rows.
        empty_p: P-value of the test of these.
        empty_adjusted_p: The same, adjusted.
        rows_reference: Values that were compared.
        rows_current: The same of the current rows.
        values_drifted: Whether the values have drifted.
        empty_drifted: Whether the share of rows without a value has.
        note: Why there is no test, or what else there is to know; empty where there is nothing.
    """

    view: str
    feature: str
    test: DriftTest
    statistic: float
    p_value: float
    adjusted_p: float
    effect: float
    least_effect: float
    wasserstein: float
    psi: float
    empty_reference: float
    empty_current: float
    empty_p: float
    empty_adjusted_p: float
    rows_reference: int
    rows_current: int
    values_drifted: bool
    empty_drifted: bool
    note: str

    @property
    def drifted(self) -> bool:
        """Whether the values or the share of rows without one have drifted."""
        return self.values_drifted or self.empty_drifted


def compare(
    reference: FeatureStatistics,
    current: FeatureStatistics,
    settings: DriftSettings | None = None,
    view: str = "",
    feature: str = "",
) -> DriftResult:
    """Compares a feature with its reference, alone. For several use `compare_all`.

    Args:
        reference: What its values were like.
        current: What they are like.
        settings: What is called drift.
        view: For the result.
        feature: For the result.
    """
    (result,) = compare_all({(view, feature): reference}, {(view, feature): current}, settings)
    return result


def compare_all(
    reference: Mapping[tuple[str, str], FeatureStatistics],
    current: Mapping[tuple[str, str], FeatureStatistics],
    settings: DriftSettings | None = None,
) -> list[DriftResult]:
    """Compares features with their references, and adjusts p-values for all of them.

    Args:
        reference: By view and feature. A `Profile` has them as `features`.
        current: The same. What is only on one side is left out.
        settings: What is called drift.

    Returns:
        One result for each feature, in the order of `reference`.
    """
    settings = settings or DriftSettings()
    results = [
        _compared(name, statistics, current[name], settings)
        for name, statistics in reference.items()
        if name in current
    ]
    return [_judged(result, settings) for result in _adjusted(results)]


def _compared(
    name: tuple[str, str],
    reference: FeatureStatistics,
    current: FeatureStatistics,
    settings: DriftSettings,
) -> DriftResult:
    view, feature = name
    numeric = reference.kind in NUMERIC_KINDS
    untested = DriftResult(
        view=view,
        feature=feature,
        test=DriftTest.none,
        statistic=math.nan,
        p_value=math.nan,
        adjusted_p=math.nan,
        effect=math.nan,
        least_effect=settings.least_distance if numeric else settings.least_psi,
        wasserstein=math.nan,
        psi=math.nan,
        empty_reference=reference.empty_share,
        empty_current=current.empty_share,
        empty_p=_empty_p(reference, current, settings),
        empty_adjusted_p=math.nan,
        rows_reference=reference.moments.count if numeric else reference.present,
        rows_current=current.moments.count if numeric else current.present,
        values_drifted=False,
        empty_drifted=False,
        note="",
    )
    if Kind.none not in (reference.kind, current.kind) and reference.kind != current.kind:
        note = f"values are of kind {current.kind}, and were of kind {reference.kind}"
        return replace(untested, values_drifted=True, note=note)
    if min(untested.rows_reference, untested.rows_current) < settings.least_rows:
        note = (
            f"too few rows: {untested.rows_current:,} values now and "
            f"{untested.rows_reference:,} in the reference, {settings.least_rows:,} are needed"
        )
        return replace(untested, note=note)
    if reference.kind is Kind.timestamp:
        return replace(untested, note="times move on by themselves")
    if numeric:
        return _numbers_compared(untested, reference, current)
    return _categories_compared(untested, reference, current)


def _numbers_compared(
    result: DriftResult, reference: FeatureStatistics, current: FeatureStatistics
) -> DriftResult:
    before, before_weights = reference.weighted_numbers()
    now, now_weights = current.weighted_numbers()
    error = reference.rank_error + current.rank_error
    if error == 0:
        test = scipy.stats.ks_2samp(before, now)
        distance, p_value = float(test.statistic), float(test.pvalue)
    else:
        points = np.concatenate([before, now])
        apart = np.abs(
            _distribution(before, before_weights, points) - _distribution(now, now_weights, points)
        )
        distance = float(apart.max())
        rows, others = result.rows_reference, result.rows_current
        effective = round(rows * others / (rows + others))
        p_value = float(scipy.stats.kstwo.sf(max(0.0, distance - error), effective))
    shift = float(scipy.stats.wasserstein_distance(before, now, before_weights, now_weights))
    spread = reference.std
    return replace(
        result,
        test=DriftTest.kolmogorov_smirnov,
        statistic=distance,
        p_value=min(1.0, p_value),
        effect=distance,
        wasserstein=shift / spread if spread > 0 else math.inf if shift > 0 else 0.0,
        psi=_psi(*_tenths(reference, current)),
    )


def _categories_compared(
    result: DriftResult, reference: FeatureStatistics, current: FeatureStatistics
) -> DriftResult:
    table = _table(reference, current)
    if table is None:
        return replace(result, note="no value is frequent enough to be counted")
    if table.shape[1] == 1:
        statistic, p_value = 0.0, 1.0
    else:
        test = scipy.stats.chi2_contingency(table, correction=False)
        statistic, p_value = float(test.statistic), float(test.pvalue)
    psi = _psi(table[0], table[1])
    return replace(
        result,
        test=DriftTest.chi_square,
        statistic=statistic,
        p_value=p_value,
        effect=psi,
        psi=psi,
    )


def _adjusted(results: list[DriftResult]) -> list[DriftResult]:
    """The results with p-values adjusted for all tests in them."""
    p_values = np.array([[result.p_value, result.empty_p] for result in results]).reshape(-1, 2)
    known = ~np.isnan(p_values)
    adjusted = np.full(p_values.shape, math.nan)
    if known.any():
        adjusted[known] = scipy.stats.false_discovery_control(p_values[known])
    return [
        replace(result, adjusted_p=float(values), empty_adjusted_p=float(empty))
        for result, (values, empty) in zip(results, adjusted, strict=True)
    ]


def _judged(result: DriftResult, settings: DriftSettings) -> DriftResult:
    values_drifted = result.values_drifted or (
        result.adjusted_p < settings.threshold and result.effect >= result.least_effect
    )
    away = abs(result.empty_current - result.empty_reference)
    empty_drifted = result.empty_adjusted_p < settings.threshold and away >= settings.least_empty
    return replace(result, values_drifted=values_drifted, empty_drifted=empty_drifted)


def _empty_p(
    reference: FeatureStatistics, current: FeatureStatistics, settings: DriftSettings
) -> float:
    """P-value of the shares of rows without a value being the same; NaN with too few rows."""
    if min(reference.rows, current.rows) < settings.least_rows:
        return math.nan
    table = np.array([[each.present, each.rows - each.present] for each in (reference, current)])
    if not table.any(axis=0).all():
        return 1.0
    return float(scipy.stats.chi2_contingency(table).pvalue)


def _distribution(values: np.ndarray, weights: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The distribution function of ascending, weighted values at points."""
    summed = np.concatenate([[0.0], np.cumsum(weights)])
    shares: np.ndarray = summed[np.searchsorted(values, points, "right")] / summed[-1]
    return shares


def _tenths(
    reference: FeatureStatistics, current: FeatureStatistics
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both sides in the tenths of the reference; fewer where values come again."""
    ranks = np.arange(1, _PSI_BINS) / _PSI_BINS
    splits = np.unique(reference.quantiles(ranks.tolist()))
    before, now = (
        np.diff(np.concatenate([[0.0], each.cdf(splits), [1.0]])) * each.moments.count
        for each in (reference, current)
    )
    return before, now


def _psi(before: np.ndarray, now: np.ndarray) -> float:
    """Population stability index of two rows of counts."""
    shares = [np.maximum(counts, _EMPTY_COLUMN) / counts.sum() for counts in (before, now)]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def _table(reference: FeatureStatistics, current: FeatureStatistics) -> np.ndarray | None:
    """Rows with each value in the reference (first row) and now (second row), rare ones together in
    the last column; None where no value can be told from the rest."""
    counts: dict[str, list[float]] = {}
    totals = np.array([reference.present, current.present], dtype=np.float64)
    error = 0.0
    for side, statistics in enumerate((reference, current)):
        top = statistics.top(1 << statistics.sizes.frequent)
        for value in top:
            counts.setdefault(value.value, [0.0, 0.0])[side] = float(value.count)
        off = max((value.highest - value.lowest for value in top), default=0)
        error = max(error, off / statistics.present)
    columns = np.array(sorted(counts.values(), key=sum, reverse=True)).reshape(-1, 2)
    expected = columns.sum(axis=1) / totals.sum() * totals.min()
    kept = (expected >= _LEAST_EXPECTED) & ((columns / totals).max(axis=1) >= _TIMES_ERROR * error)
    if not kept.any():
        return None
    table: np.ndarray = columns[kept].T
    rest = np.maximum(totals - table.sum(axis=1), 0.0)
    if rest.sum() / totals.sum() * totals.min() >= _LEAST_EXPECTED:
        return np.column_stack([table, rest])
    table[:, -1] += rest
    return table
