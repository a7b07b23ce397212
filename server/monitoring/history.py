"""What is kept of a feature's statistics once their sketches are gone: a few figures, for pictures.

Points of one time are put together where several processes saw the feature. Counts, means, standard
deviations and ranges stay exact then; quantiles become averages, weighted by how many numbers each
process saw, and of distinct counts the highest stays.
"""

import math
import struct
from collections.abc import Callable
from typing import NamedTuple

from hotfeast.server.monitoring.statistics import NUMERIC_KINDS, QUANTILES, FeatureStatistics


class HistoryPoint(NamedTuple):
    """Figures of one feature over one stretch of time; NaN where one is not known.

    Attributes:
        start: Seconds since 1970.
        seconds: How long.
        rows: All rows. Of these, as in `FeatureStatistics`: `present`, `null` (with those that are
            not a number), `missing`, `stale`, `invalid`.
        numbers: Finite numbers. Of these, as in `FeatureStatistics`: `mean`, `std`, `minimum`,
            `maximum`, quantiles (by percent), `outliers` among those `judged`.
        distinct: Distinct values, estimated.
        newest_event: The latest event time, in microseconds since 1970.
    """

    start: float
    seconds: float
    rows: float
    present: float
    null: float
    missing: float
    stale: float
    invalid: float
    numbers: float
    mean: float
    std: float
    minimum: float
    maximum: float
    q05: float
    q25: float
    q50: float
    q75: float
    q95: float
    outliers: float
    judged: float
    distinct: float
    newest_event: float

    @classmethod
    def of(cls, statistics: FeatureStatistics, start: float, seconds: float) -> "HistoryPoint":
        """The figures of statistics."""
        if statistics.kind in NUMERIC_KINDS:
            quantiles = statistics.quantiles(QUANTILES)
        else:
            quantiles = [math.nan] * len(QUANTILES)
        return cls(
            start,
            seconds,
            statistics.rows,
            statistics.present,
            statistics.null + statistics.nan,
            statistics.missing,
            statistics.stale,
            statistics.invalid,
            statistics.moments.count,
            statistics.mean,
            statistics.std,
            statistics.minimum,
            statistics.maximum,
            q05=quantiles[0],
            q25=quantiles[1],
            q50=quantiles[2],
            q75=quantiles[3],
            q95=quantiles[4],
            outliers=statistics.outliers,
            judged=statistics.judged,
            distinct=_known(statistics.distinct),
            newest_event=_known(statistics.newest_event),
        )

    @property
    def null_share(self) -> float:
        """Share of the rows whose value is null or not a number."""
        return self.null / self.rows if self.rows else math.nan

    @property
    def missing_share(self) -> float:
        """Share of the rows whose entity has no row in the view."""
        return self.missing / self.rows if self.rows else math.nan

    @property
    def stale_share(self) -> float:
        """Share of the rows that are older than the view's TTL."""
        return self.stale / self.rows if self.rows else math.nan

    @property
    def outlier_share(self) -> float:
        """Share of the numbers that were judged and are outliers."""
        return self.outliers / self.judged if self.judged else math.nan

    def combined(self, other: "HistoryPoint") -> "HistoryPoint":
        """Both points of one stretch of time as one."""
        counts = {name: getattr(self, name) + getattr(other, name) for name in _SUMS}
        numbers = counts["numbers"]
        mean = _average(self.mean, self.numbers, other.mean, other.numbers)
        squares = sum(
            point.numbers * (point.std**2 + (point.mean - mean) ** 2)
            for point in (self, other)
            if point.numbers
        )
        averages = {
            name: _average(getattr(self, name), self.numbers, getattr(other, name), other.numbers)
            for name in _QUANTILES
        }
        return self._replace(
            **counts,
            **averages,
            mean=mean,
            std=math.sqrt(squares / numbers) if numbers else math.nan,
            minimum=_known_of(min, self.minimum, other.minimum),
            maximum=_known_of(max, self.maximum, other.maximum),
            distinct=_known_of(max, self.distinct, other.distinct),
            newest_event=_known_of(max, self.newest_event, other.newest_event),
        )

    def to_bytes(self) -> bytes:
        """The figures in `POINT_BYTES` bytes."""
        return _POINT.pack(*self)

    @classmethod
    def from_bytes(cls, data: bytes) -> "HistoryPoint":
        """What `to_bytes` wrote.

        Raises:
            struct.error: It did not write this.
        """
        return cls(*_POINT.unpack(data))


_POINT = struct.Struct(f"<{len(HistoryPoint._fields)}d")
POINT_BYTES = _POINT.size
"""What a point takes."""

_SUMS = (
    "rows",
    "present",
    "null",
    "missing",
    "stale",
    "invalid",
    "numbers",
    "outliers",
    "judged",
)
_QUANTILES = ("q05", "q25", "q50", "q75", "q95")


def _known(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _average(mine: float, my_weight: float, others: float, other_weight: float) -> float:
    if not my_weight:
        return others
    if not other_weight:
        return mine
    return mine + (others - mine) * (other_weight / (my_weight + other_weight))


def _known_of(choose: Callable[[list[float]], float], *values: float) -> float:
    known = [value for value in values if not math.isnan(value)]
    return choose(known) if known else math.nan
