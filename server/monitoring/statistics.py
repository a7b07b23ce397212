"""Statistics of one feature over any number of rows, in bounded memory, that can be merged.

Counts, mean, standard deviation, minimum and maximum are exact. Distributions, distinct counts and
frequent values are sketches of Apache DataSketches, whose errors are its own:

| what | sketch, by `WINDOW_SIZES` | error | at most |
|---|---|---|---|
| distribution | KLL, k = 200 | 1.3% of the rank (99% confidence); none up to 200 | 5 KB |
| distinct values | HLL, 2,048 registers of 4 bits | 2.3% (one standard deviation) | 1.2 KB |
| frequent values of categories | frequent items, 256 places | 1.4% of the rows | 192 texts |

No value is kept for longer than a batch takes, except those that a sketch samples.
"""

import hashlib
import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasketches import (
    frequent_items_error_type,
    frequent_strings_sketch,
    hll_sketch,
    hll_union,
    kll_doubles_sketch,
    tgt_hll_type,
)

from hotfeast.server.monitoring.moments import Moments
from hotfeast.server.monitoring.observed import FeatureColumn, Status

OUTLIER_STDS = 3.0
"""A number is an outlier beyond so many standard deviations from the mean."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Those of a summary."""

# So many numbers have to be known before others are judged by them.
_LEAST_TO_JUDGE_BY = 30
# Longer texts are told by their beginning and a digest.
_LONGEST_TEXT = 128
_FORMAT = 1
_LENGTHS = struct.Struct("<4I")


class Kind(StrEnum):
    """What is computed of a feature's values."""

    number = "number"
    category = "category"
    """Texts, booleans and bytes (in hexadecimal)."""
    timestamp = "timestamp"
    """As numbers, in microseconds since 1970."""
    list = "list"
    """Of lists, the numbers are their lengths."""
    none = "none"
    """Counts only: maps and other types, or nothing but nulls so far."""


NUMERIC_KINDS = frozenset({Kind.number, Kind.timestamp, Kind.list})
"""Kinds that have moments and quantiles."""


class SketchSizes(NamedTuple):
    """How large sketches are.

    Attributes:
        quantiles: k of KLL.
        distinct: Binary logarithm of the registers of HLL.
        frequent: Binary logarithm of the places for frequent items, of which three quarters are
            used.
    """

    quantiles: int
    distinct: int
    frequent: int


WINDOW_SIZES = SketchSizes(quantiles=200, distinct=11, frequent=8)
"""For windows of traffic, of which there are many."""
PROFILE_SIZES = SketchSizes(quantiles=800, distinct=12, frequent=11)
"""For references, which all else is compared with: 0.35% of the rank, 1.6%, 0.17% of the rows."""


@dataclass(frozen=True, slots=True)
class TopValue:
    """A value that many rows have.

    Attributes:
        value: As text.
        count: Rows that have it, estimated.
        lowest: It has at least so many.
        highest: It has at most so many.
    """

    value: str
    count: int
    lowest: int
    highest: int


class FeatureStatistics:
    """Statistics of one feature.

    Attributes:
        kind: `none` until a column of another kind is seen.
        rows: All rows. Each is counted once in what follows.
        present: Rows with a value, those of `infinite` among them.
        null: Rows whose value is null.
        nan: Rows whose value is not a number.
        missing: Rows of entities that have no row in the view (NOT_FOUND).
        stale: Rows older than the view's TTL, whose values do not count (OUTSIDE_MAX_AGE).
        invalid: Rows that could not be read (INVALID).
        infinite: Values that are infinite; they are left out of all that is computed of numbers.
        moments: Of the finite numbers.
        outliers: Numbers beyond `OUTLIER_STDS` standard deviations.
        judged: Numbers that were looked at for that.
        newest_event: The latest event time, in microseconds since 1970; None where none is known.
    """

    __slots__ = (
        "_distinct",
        "_frequent",
        "_quantiles",
        "infinite",
        "invalid",
        "judged",
        "kind",
        "missing",
        "moments",
        "nan",
        "newest_event",
        "null",
        "outliers",
        "present",
        "rows",
        "sizes",
        "stale",
    )

    def __init__(self, kind: Kind = Kind.none, sizes: SketchSizes = WINDOW_SIZES) -> None:
        self.sizes = sizes
        self.rows = self.present = self.null = self.nan = 0
        self.missing = self.stale = self.invalid = self.infinite = 0
        self.outliers = self.judged = 0
        self.moments = Moments()
        self.newest_event: int | None = None
        self.kind = Kind.none
        self._quantiles: Any = None
        self._distinct: Any = None
        self._frequent: Any = None
        self._become(kind)

    def update(self, column: FeatureColumn, reference: tuple[float, float] | None = None) -> None:
        """Adds rows.

        Args:
            column: The rows. Integers beyond 2^53 are rounded to float64, other than for the
                distinct count.
            reference: Mean and standard deviation that outliers are told by; unless given, those of
                the numbers seen before, once there are 30. With a standard deviation of 0 nothing
                is judged.

        Raises:
            ValueError: Values of another kind were seen before, lengths differ, or a status is
                unknown.
        """
        values = _plain(column.values)
        self._check(column, values)
        self._become(kind_of(values.type))
        present = self._count(values, column.statuses)
        if column.event_timestamps is not None and len(values):
            newest = int(column.event_timestamps.max())
            if newest > 0:
                self.newest_event = max(newest, self.newest_event or newest)
        if self.kind in NUMERIC_KINDS:
            self._add_numbers(present, reference)
        elif self.kind is Kind.category:
            self._add_categories(present)
        else:
            self.present += len(present)

    def merge(self, other: "FeatureStatistics") -> None:
        """Adds the rows of other statistics, which are left as they are.

        Raises:
            ValueError: They are of another kind.
        """
        self._become(other.kind)
        self.rows += other.rows
        self.present += other.present
        self.null += other.null
        self.nan += other.nan
        self.missing += other.missing
        self.stale += other.stale
        self.invalid += other.invalid
        self.infinite += other.infinite
        self.outliers += other.outliers
        self.judged += other.judged
        self.moments.merge(other.moments)
        if other.newest_event is not None:
            self.newest_event = max(other.newest_event, self.newest_event or other.newest_event)
        if other._quantiles is not None:
            self._quantiles.merge(other._quantiles)
        if other._frequent is not None:
            self._frequent.merge(other._frequent)
        if other._distinct is not None:
            union = hll_union(self.sizes.distinct)
            union.update(self._distinct)
            union.update(other._distinct)
            self._distinct = union.get_result(tgt_hll_type.HLL_4)

    def copy(self) -> "FeatureStatistics":
        """The same statistics, on their own."""
        return FeatureStatistics.from_bytes(self.to_bytes())

    @property
    def null_share(self) -> float:
        """Share of the rows whose value is null or not a number; NaN without rows."""
        return self._share(self.null + self.nan)

    @property
    def missing_share(self) -> float:
        """Share of the rows whose entity has no row in the view; NaN without rows."""
        return self._share(self.missing)

    @property
    def stale_share(self) -> float:
        """Share of the rows that are older than the view's TTL; NaN without rows."""
        return self._share(self.stale)

    @property
    def empty_share(self) -> float:
        """Share of the rows without a value, whatever the reason; NaN without rows."""
        return self._share(self.rows - self.present)

    @property
    def mean(self) -> float:
        """Mean of the finite numbers; NaN where there are none."""
        return self.moments.mean if self.moments.count else math.nan

    @property
    def std(self) -> float:
        """Their standard deviation, divided by their count as NumPy's; NaN where there are none."""
        return self.moments.std

    @property
    def minimum(self) -> float:
        """The least of the finite numbers; NaN where there are none."""
        return self.moments.minimum if self.moments.count else math.nan

    @property
    def maximum(self) -> float:
        """The greatest of the finite numbers; NaN where there are none."""
        return self.moments.maximum if self.moments.count else math.nan

    @property
    def outlier_share(self) -> float:
        """Share of the numbers that were judged and are outliers; NaN where none were."""
        return self.outliers / self.judged if self.judged else math.nan

    @property
    def distinct(self) -> float | None:
        """Distinct values, estimated; None for lists and where nothing but rows is counted."""
        return None if self._distinct is None else float(self._distinct.get_estimate())

    @property
    def rank_error(self) -> float:
        """By how much the rank of a quantile, or a value of the distribution function, is off at
        most, with 99% confidence: 0 as long as each number is kept."""
        if self._quantiles is None or not self._quantiles.is_estimation_mode():
            return 0.0
        return float(self._quantiles.normalized_rank_error(False))

    def quantiles(self, ranks: Sequence[float]) -> list[float]:
        """Quantiles of the finite numbers.

        Args:
            ranks: From 0 to 1.

        Returns:
            For each rank the least number that so large a share of numbers does not exceed; NaN
            where there are no numbers. `rank_error` says how far off the rank may be.

        Raises:
            ValueError: The feature is not of a kind with numbers.
        """
        self._need_numbers()
        if not self.moments.count:
            return [math.nan] * len(ranks)
        return [float(value) for value in self._quantiles.get_quantiles(list(ranks), True)]

    def cdf(self, points: Sequence[float] | np.ndarray) -> np.ndarray:
        """The empirical distribution function of the finite numbers.

        Args:
            points: Finite numbers, in any order.

        Returns:
            For each point the share of numbers that do not exceed it, as float64; NaN where there
            are no numbers. `rank_error` says how far off it may be.

        Raises:
            ValueError: The feature is not of a kind with numbers.
        """
        self._need_numbers()
        splits, places = np.unique(np.asarray(points, dtype=np.float64), return_inverse=True)
        if not self.moments.count or not len(splits):
            return np.full(len(places), math.nan)
        return np.asarray(self._quantiles.get_cdf(splits.tolist(), True))[:-1][places]

    def weighted_numbers(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers that stand for all of them, ascending, and for how many each does.

        Returns:
            Two float64 arrays of one length. Up to `sizes.quantiles` numbers it is these.

        Raises:
            ValueError: The feature is not of a kind with numbers.
        """
        self._need_numbers()
        pairs = np.array(list(self._quantiles), dtype=np.float64).reshape(-1, 2)
        pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        return pairs[:, 0], pairs[:, 1]

    def top(self, count: int = 10) -> list[TopValue]:
        """The values that most rows have, most first; fewer than asked for where no more can be
        told from the rest.

        Args:
            count: How many at most.
        """
        if self.kind is Kind.category:
            rows = self._frequent.get_frequent_items(frequent_items_error_type.NO_FALSE_NEGATIVES)
            return [TopValue(*row) for row in rows[:count]]
        if self.kind in NUMERIC_KINDS and self.moments.count:
            return self._top_numbers(count)
        return []

    def summary(self) -> dict[str, Any]:
        """All figures, as JSON can have them: None for what is not known or not finite."""
        numeric = self.kind in NUMERIC_KINDS
        quantiles = self.quantiles(QUANTILES) if numeric else ()
        distinct = self.distinct
        return {
            "kind": self.kind.value,
            "rows": self.rows,
            "present": self.present,
            "null": self.null,
            "nan": self.nan,
            "missing": self.missing,
            "stale": self.stale,
            "invalid": self.invalid,
            "infinite": self.infinite,
            "null_share": _finite(self.null_share),
            "missing_share": _finite(self.missing_share),
            "stale_share": _finite(self.stale_share),
            "mean": _finite(self.mean),
            "std": _finite(self.std),
            "minimum": _finite(self.minimum),
            "maximum": _finite(self.maximum),
            "quantiles": {
                f"{rank:g}": _finite(value)
                for rank, value in zip(QUANTILES, quantiles, strict=False)
            },
            "outlier_share": _finite(self.outlier_share),
            "distinct": None if distinct is None else round(distinct),
            "top": [{"value": top.value, "count": top.count} for top in self.top(5)],
            "newest_event": self.newest_event,
        }

    def to_bytes(self) -> bytes:
        """All of it, for `from_bytes` of this version of Hotfeast."""
        moments = self.moments
        header = json.dumps(
            {
                "format": _FORMAT,
                "kind": self.kind.value,
                "sizes": self.sizes,
                "counts": [getattr(self, name) for name in _COUNTS],
                "moments": [
                    moments.count,
                    moments.mean,
                    moments.squares,
                    moments.minimum,
                    moments.maximum,
                ],
                "newest_event": self.newest_event,
            }
        ).encode()
        parts = [
            header,
            b"" if self._quantiles is None else self._quantiles.serialize(),
            b"" if self._distinct is None else self._distinct.serialize_compact(),
            b"" if self._frequent is None else self._frequent.serialize(),
        ]
        return _LENGTHS.pack(*map(len, parts)) + b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> "FeatureStatistics":
        """The statistics that `to_bytes` wrote.

        Raises:
            ValueError: It did not write this, or another version of Hotfeast did.
        """
        try:
            parts = _split(data)
            header = json.loads(parts[0])
            if header["format"] != _FORMAT:
                raise ValueError(f"their format is {header['format']}, not {_FORMAT}")
            statistics = cls(Kind(header["kind"]), SketchSizes(*header["sizes"]))
            for name, count in zip(_COUNTS, header["counts"], strict=True):
                setattr(statistics, name, count)
            statistics.moments = Moments(*header["moments"])
            statistics.newest_event = header["newest_event"]
            if parts[1]:
                statistics._quantiles = kll_doubles_sketch.deserialize(parts[1])
            if parts[2]:
                statistics._distinct = hll_sketch.deserialize(parts[2])
            if parts[3]:
                statistics._frequent = frequent_strings_sketch.deserialize(parts[3])
        except (KeyError, TypeError, ValueError, RuntimeError, struct.error) as error:
            raise ValueError(f"statistics of a feature cannot be read: {error}") from error
        return statistics

    def _share(self, count: int) -> float:
        return count / self.rows if self.rows else math.nan

    def _need_numbers(self) -> None:
        if self.kind not in NUMERIC_KINDS:
            raise ValueError(f"there are no numbers in a feature of kind {self.kind}")

    def _become(self, kind: Kind) -> None:
        if kind is Kind.none or kind is self.kind:
            return
        if self.kind is not Kind.none:
            raise ValueError(f"values of kind {kind} after values of kind {self.kind}")
        self.kind = kind
        if kind in NUMERIC_KINDS:
            self._quantiles = kll_doubles_sketch(self.sizes.quantiles)
        else:
            self._frequent = frequent_strings_sketch(self.sizes.frequent)
        if kind is not Kind.list:
            self._distinct = hll_sketch(self.sizes.distinct, tgt_hll_type.HLL_4)

    @staticmethod
    def _check(column: FeatureColumn, values: pa.Array) -> None:
        for what, others in (
            ("statuses", column.statuses),
            ("event_timestamps", column.event_timestamps),
        ):
            if others is not None and len(others) != len(values):
                raise ValueError(
                    f"{column.view}:{column.feature} has {len(values)} values and "
                    f"{len(others)} {what}"
                )

    def _count(self, values: pa.Array, statuses: np.ndarray | None) -> pa.Array:
        """Counts rows by their status, and gives the values that are present."""
        rows = len(values)
        if statuses is None:
            present = values.drop_null()
            self.null += rows - len(present)
        else:
            counts = np.bincount(statuses, minlength=len(Status))
            if len(counts) > len(Status):
                raise ValueError(f"{len(counts) - 1} is no status")
            valid, null, missing, stale = (int(counts[status]) for status in _COUNTED)
            if valid != rows:
                values = values.filter(pa.array(statuses == Status.PRESENT))
            present = values.drop_null()
            self.null += null + valid - len(present)
            self.missing += missing
            self.stale += stale
            self.invalid += int(counts[Status.INVALID])
        self.rows += rows
        return present

    def _add_numbers(self, present: pa.Array, reference: tuple[float, float] | None) -> None:
        if not len(present):
            # It may be without a type, too.
            return
        exact, numbers = _numbers(present, self.kind)
        finite = np.isfinite(numbers)
        if not finite.all():
            nan = int(np.isnan(numbers).sum())
            self.nan += nan
            self.infinite += len(numbers) - int(finite.sum()) - nan
            self.present -= nan
            numbers = numbers[finite]
        self.present += len(present)
        if not len(numbers):
            return
        self._judge(numbers, reference)
        self.moments.merge(Moments.of(numbers))
        self._quantiles.update(numbers)
        if self._distinct is not None:
            for value in _countable(exact.unique()):
                self._distinct.update(value)

    def _judge(self, numbers: np.ndarray, reference: tuple[float, float] | None) -> None:
        if reference is None and self.moments.count >= _LEAST_TO_JUDGE_BY:
            reference = self.moments.mean, self.moments.std
        if reference is None:
            return
        mean, std = reference
        # Without a spread, rounding alone would make outliers.
        if std > 0 and math.isfinite(std):
            self.judged += len(numbers)
            self.outliers += int((np.abs(numbers - mean) > OUTLIER_STDS * std).sum())

    def _add_categories(self, present: pa.Array) -> None:
        self.present += len(present)
        counted = present.value_counts()
        counts = counted.field("counts").to_pylist()
        for value, count in zip(counted.field("values").to_pylist(), counts, strict=True):
            text = _text(value)
            self._distinct.update(text)
            self._frequent.update(_label(text), count)

    def _top_numbers(self, count: int) -> list[TopValue]:
        numbers, weights = self.weighted_numbers()
        values, places = np.unique(numbers, return_inverse=True)
        counts = np.bincount(places, weights=weights)
        off = 0.0
        if self._quantiles.is_estimation_mode():
            off = float(self._quantiles.normalized_rank_error(True)) * self.moments.count
        top = []
        for place in np.argsort(-counts, kind="stable")[:count]:
            estimate = float(counts[place])
            if estimate <= off:
                break
            top.append(
                TopValue(
                    f"{values[place]:.15g}",
                    round(estimate),
                    max(0, math.floor(estimate - off)),
                    min(self.moments.count, math.ceil(estimate + off)),
                )
            )
        return top


def kind_of(data_type: pa.DataType) -> Kind:
    """What is computed of values of an Arrow type."""
    types = pa.types
    if isinstance(data_type, pa.BaseExtensionType):
        return kind_of(data_type.storage_type)
    if types.is_dictionary(data_type):
        return kind_of(data_type.value_type)
    if types.is_boolean(data_type):
        return Kind.category
    if types.is_integer(data_type) or types.is_floating(data_type) or types.is_decimal(data_type):
        return Kind.number
    if types.is_timestamp(data_type) or types.is_date(data_type):
        return Kind.timestamp
    if any(test(data_type) for test in _TEXT_TESTS):
        return Kind.category
    if any(test(data_type) for test in _LIST_TESTS):
        return Kind.list
    return Kind.none


_TEXT_TESTS = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_fixed_size_binary,
)
_LIST_TESTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
_COUNTED = (Status.PRESENT, Status.NULL_VALUE, Status.NOT_FOUND, Status.OUTSIDE_MAX_AGE)
_COUNTS = (
    "rows",
    "present",
    "null",
    "nan",
    "missing",
    "stale",
    "invalid",
    "infinite",
    "outliers",
    "judged",
)


def _plain(values: pa.Array) -> pa.Array:
    """An array of one chunk, without a dictionary or an extension type."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values.type, pa.BaseExtensionType):
        values = values.storage
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _numbers(present: pa.Array, kind: Kind) -> tuple[pa.Array, np.ndarray]:
    """Values as Arrow has them exactly, and as float64."""
    if kind is Kind.list:
        exact = pc.list_value_length(present)
    elif kind is Kind.timestamp:
        zone = getattr(present.type, "tz", None)
        exact = present.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())
    else:
        exact = present
    # The sketch takes only what it could write to.
    floats = exact.cast(pa.float64(), safe=False)
    return exact, floats.to_numpy(zero_copy_only=False, writable=True)


def _countable(distinct: pa.Array) -> list[int | float]:
    """Distinct numbers as HLL tells them apart: whole ones as integers, whatever their type."""
    if pa.types.is_signed_integer(distinct.type):
        return distinct.to_pylist()  # type: ignore[no-any-return]
    numbers = distinct.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    numbers = numbers[np.isfinite(numbers)]
    whole = (numbers == np.floor(numbers)) & (np.abs(numbers) < 2.0**63)
    return [*numbers[whole].astype(np.int64).tolist(), *numbers[~whole].tolist()]


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _label(text: str) -> str:
    if len(text) <= _LONGEST_TEXT:
        return text
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return f"{text[: _LONGEST_TEXT - 20]}... {digest}"


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _split(data: bytes) -> list[bytes]:
    lengths = _LENGTHS.unpack_from(data)
    if len(data) != _LENGTHS.size + sum(lengths):
        raise ValueError(f"{len(data)} bytes are not all of it, or more")
    parts = []
    start = _LENGTHS.size
    for length in lengths:
        parts.append(data[start : start + length])
        start += length
    return parts
