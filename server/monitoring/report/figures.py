"""What was seen of a feature, as the page shows it: shares, distributions, figures over time."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hotfeast.server.monitoring.history import HistoryPoint
from hotfeast.server.monitoring.report.model import (
    ChannelDetails,
    DriftFigures,
    Figures,
    History,
    Shape,
    Spread,
    Statistic,
)
from hotfeast.server.monitoring.statistics import NUMERIC_KINDS, FeatureStatistics, Kind

_BINS = 24
_MOST_CATEGORIES = 12
# The distribution is drawn between these quantiles, else one far value leaves a single bar.
_RANGE = (0.005, 0.995)
_TREND_POINTS = 24
_HISTORY_POINTS = 200
_MICROSECONDS = 1e6


class Seen(NamedTuple):
    """A feature on one channel.

    Attributes:
        statistics: Over the windows that are looked at.
        history: Oldest first.
        reference: What it is compared with; None where there is nothing.
        reference_name: How the reference is called.
        drift: How they compare; None where there is no reference.
    """

    statistics: FeatureStatistics
    history: Sequence[HistoryPoint] = ()
    reference: FeatureStatistics | None = None
    reference_name: str = ""
    drift: DriftFigures | None = None


def figures_of(seen: Seen) -> Figures:
    """The figures for the table."""
    statistics = seen.statistics
    return Figures(
        rows=statistics.rows,
        null_share=known(statistics.null_share),
        missing_share=known(statistics.missing_share),
        stale_share=known(statistics.stale_share),
        outlier_share=known(statistics.outlier_share),
        drift=seen.drift,
        trend=tuple(known(p.null_share) for p in seen.history[-_TREND_POINTS:]),
    )


def details_of(seen: Seen, hidden: bool, null_limit: float | None = None) -> ChannelDetails:
    """All of it.

    Args:
        seen: The feature on one channel.
        hidden: Whether values are kept out; shares and shapes are not.
        null_limit: The null share that a rule allows.
    """
    statistics, reference = seen.statistics, seen.reference
    if reference is not None and reference.kind is not statistics.kind:
        reference = None
    numeric = statistics.kind in (Kind.number, Kind.list)
    spread = None
    if numeric and not hidden and reference is not None and not math.isnan(reference.mean):
        spread = Spread(_short(reference.mean), _short(reference.std))
    return ChannelDetails(
        values=statistics.present,
        hidden=hidden,
        distribution=shape_of(statistics, reference, hidden),
        history=_history(seen.history, numeric and not hidden),
        null_limit=null_limit,
        reference_name=seen.reference_name,
        reference_mean=spread,
        drift=seen.drift,
        statistics=_table(statistics, reference, hidden),
    )


def known(value: float | None) -> float | None:
    """A number that JSON can hold, to six digits; None where it is not finite."""
    return None if value is None or not math.isfinite(value) else _short(value)


def shape_of(
    current: FeatureStatistics, reference: FeatureStatistics | None, hidden: bool
) -> Shape | None:
    """The distribution beside the reference's; None where there are no values.

    Args:
        current: What was seen.
        reference: Of the same kind; None where there is none.
        hidden: Whether the values themselves are left out.
    """
    if current.kind is Kind.category:
        return _categories(current, reference, hidden)
    if current.kind in NUMERIC_KINDS and current.moments.count:
        return _histogram(current, reference, hidden)
    return None


def _histogram(
    current: FeatureStatistics, reference: FeatureStatistics | None, hidden: bool
) -> Shape:
    if reference is not None and not reference.moments.count:
        reference = None
    both = [current, *([reference] if reference is not None else [])]
    edges = _edges(both)
    inner = [np.diff(each.cdf(edges)) for each in both]
    # The first bin has its lower edge, too.
    for shares, each in zip(inner, both, strict=True):
        shares[0] += float(each.cdf([edges[0]])[0] - each.cdf([np.nextafter(edges[0], -np.inf)])[0])
    times = current.kind is Kind.timestamp
    scale = _MICROSECONDS if times else 1.0
    shown = np.arange(len(edges)) if hidden else edges / scale
    return Shape(
        kind="number",
        text=_in_words(current, reference, inner, hidden or times),
        current=tuple(_short(s) for s in inner[0]),
        reference=tuple(_short(s) for s in inner[1]) if reference is not None else None,
        edges=tuple(float(e) for e in shown),
        times=times and not hidden,
    )


def _edges(both: Sequence[FeatureStatistics]) -> np.ndarray:
    ranges = [each.quantiles(_RANGE) for each in both]
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    numbers = np.concatenate([each.weighted_numbers()[0] for each in both])
    if np.all(numbers == np.round(numbers)) and high - low < 2 * _BINS:
        # Whole numbers: a bin for one, or for as many as are needed, with none cut in two.
        step = max(1, math.ceil((high - low + 1) / _BINS))
        count = math.ceil((high - low + 1) / step)
        return np.asarray(low - 0.5 + step * np.arange(count + 1))
    if low == high:
        width = abs(low) * 0.05 or 0.5
        return np.array([low - width, low + width])
    return np.linspace(low, high, _BINS + 1)


def _in_words(
    current: FeatureStatistics,
    reference: FeatureStatistics | None,
    inner: Sequence[np.ndarray],
    without_values: bool,
) -> str:
    parts = []
    if not without_values:
        for name, each in (("Now", current), ("Reference", reference)):
            if each is not None:
                low, middle, high = each.quantiles((0.25, 0.5, 0.75))
                parts.append(
                    f"{name}: median {middle:,.4g}, middle half {low:,.4g} to {high:,.4g}."
                )
    outside = [max(0.0, 1.0 - float(np.sum(shares))) for shares in inner]
    if max(outside) >= 0.0005:
        words = f"{outside[0]:.1%}"
        if reference is not None:
            words += f" (reference {outside[1]:.1%})"
        parts.append(f"Beyond the picture: {words}.")
    return " ".join(parts)


def _categories(
    current: FeatureStatistics, reference: FeatureStatistics | None, hidden: bool
) -> Shape | None:
    counts = {top.value: top.count for top in current.top(_MOST_CATEGORIES)}
    before: dict[str, int] = {}
    if reference is not None and reference.present:
        before = {top.value: top.count for top in reference.top(4 * _MOST_CATEGORIES)}
        everything = {top.value: top.count for top in current.top(16 * _MOST_CATEGORIES)}
        # Those that the reference had most of have to be seen to be gone.
        for value in list(before)[: _MOST_CATEGORIES // 2]:
            counts.setdefault(value, everything.get(value, 0))
    if not counts or not current.present:
        return None
    shares = {value: min(count / current.present, 1.0) for value, count in counts.items()}
    rest = 1.0 - sum(shares.values())
    old = None
    if before and reference is not None:
        old = [min(before.get(value, 0) / reference.present, 1.0) for value in shares]
    names = [f"Value {i + 1}" for i in range(len(shares))] if hidden else list(shares)
    words = f"{len(shares)} values" + (f"; others {rest:.1%}." if rest >= 0.0005 else ".")
    if not hidden:
        first = max(shares, key=lambda value: shares[value])
        words = f"Most frequent: {first}, {shares[first]:.1%}. Shown: {words}"
    return Shape(
        kind="category",
        text=words,
        current=tuple(_short(s) for s in shares.values()),
        reference=None if old is None else tuple(_short(s) for s in old),
        values=tuple(names),
    )


def _history(points: Sequence[HistoryPoint], with_values: bool) -> History | None:
    if not points:
        return None
    points = points[-_HISTORY_POINTS:]
    nothing = (None,) * len(points)
    return History(
        time=tuple(p.start for p in points),
        null_share=tuple(known(p.null_share) for p in points),
        missing_share=tuple(known(p.missing_share) for p in points),
        stale_share=tuple(known(p.stale_share) for p in points),
        mean=tuple(known(p.mean) for p in points) if with_values else nothing,
        std=tuple(known(p.std) for p in points) if with_values else nothing,
    )


def _table(
    current: FeatureStatistics, reference: FeatureStatistics | None, hidden: bool
) -> tuple[Statistic, ...]:
    lines: list[Statistic] = []

    def add(label: str, name: str, unit: str, scale: float = 1.0) -> None:
        now = known(getattr(current, name))
        before = known(getattr(reference, name)) if reference is not None else None
        if now is not None or before is not None:
            now, before = (None if v is None else v / scale for v in (now, before))
            lines.append(Statistic(label, now, before, unit))

    add("Rows", "rows", "count")
    for label in ("Null", "Missing", "Stale", "Outlier"):
        add(f"{label} share", f"{label.lower()}_share", "share")
    add("Distinct, about", "distinct", "count")
    if hidden or current.kind not in NUMERIC_KINDS:
        return tuple(lines)
    times = current.kind is Kind.timestamp
    unit, scale = ("time", _MICROSECONDS) if times else ("number", 1.0)
    of = "length, " if current.kind is Kind.list else ""
    if not times:
        add(f"{of}mean".capitalize(), "mean", unit)
        add(f"{of}standard deviation".capitalize(), "std", unit)
    add(f"{of}minimum".capitalize(), "minimum", unit, scale)
    ranks = (0.05, 0.25, 0.5, 0.75, 0.95)
    now = current.quantiles(ranks)
    before = reference.quantiles(ranks) if reference is not None else [math.nan] * len(ranks)
    for rank, one, other in zip(ranks, now, before, strict=True):
        lines.append(
            Statistic(f"{rank:.0%} quantile", known(one / scale), known(other / scale), unit)
        )
    add(f"{of}maximum".capitalize(), "maximum", unit, scale)
    return tuple(lines)


def _short(value: float) -> float:
    return float(f"{value:.6g}") if abs(value) < 1e6 else float(value)
