"""Drift and quality of data frames, for notebooks and jobs, by the code that the gateway runs.

    from hotfeast.server.monitoring import detect_feature_drift, monitor_feature_quality

    drift = detect_feature_drift(training_set, last_week)
    if drift.drifted:
        print(drift)

Frames are pandas', polars', Arrow tables, or whatever else has `__arrow_c_stream__`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hotfeast.server.monitoring.drift import DriftResult, DriftSettings, compare_all
from hotfeast.server.monitoring.observed import FeatureColumn
from hotfeast.server.monitoring.statistics import PROFILE_SIZES, FeatureStatistics

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class DriftReport:
    """How columns of one frame differ from those of another.

    Attributes:
        results: One for each column that both have.
        only_historical: Columns that only the first frame has.
        only_current: Columns that only the second frame has.
    """

    results: tuple[DriftResult, ...]
    only_historical: tuple[str, ...]
    only_current: tuple[str, ...]

    @property
    def drifted(self) -> list[str]:
        """Names of the columns that have drifted; what is in one frame only is not among them."""
        return [result.feature for result in self.results if result.drifted]

    def __getitem__(self, feature: str) -> DriftResult:
        """The result of a column.

        Raises:
            KeyError: It was not compared.
        """
        for result in self.results:
            if result.feature == feature:
                return result
        raise KeyError(feature)

    def __iter__(self) -> Iterator[DriftResult]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def to_pandas(self) -> "pd.DataFrame":
        """The results as a data frame, indexed by column; needs pandas."""
        import pandas as pd

        names = [field.name for field in fields(DriftResult) if field.name not in ("view",)]
        rows = [
            {"drifted": result.drifted, **{name: getattr(result, name) for name in names}}
            for result in self.results
        ]
        return pd.DataFrame(rows, columns=["drifted", *names]).set_index("feature")

    def __repr__(self) -> str:
        lines = [f"{len(self.drifted)} of {len(self.results)} features have drifted"]
        heads = ("feature", "drifted", "test", "effect", "adjusted p", "without value", "note")
        rows = [
            (
                result.feature,
                _what(result),
                result.test.value,
                _short(result.effect),
                _short(result.adjusted_p),
                f"{result.empty_reference:.1%} to {result.empty_current:.1%}",
                result.note,
            )
            for result in self.results
        ]
        lines += _table(heads, rows)
        for what, names in (("first", self.only_historical), ("second", self.only_current)):
            if names:
                lines.append(f"only in the {what} frame: {', '.join(names)}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class QualityReport:
    """What the columns of a frame are like.

    Attributes:
        features: Statistics by column.
    """

    features: dict[str, FeatureStatistics]

    def __getitem__(self, feature: str) -> FeatureStatistics:
        """The statistics of a column.

        Raises:
            KeyError: There is no such column.
        """
        return self.features[feature]

    def __iter__(self) -> Iterator[str]:
        return iter(self.features)

    def __len__(self) -> int:
        return len(self.features)

    def to_pandas(self) -> "pd.DataFrame":
        """The figures of `FeatureStatistics.summary` as a data frame, indexed by column, each
        quantile in a column of its own; needs pandas."""
        import pandas as pd

        rows = []
        for name, statistics in self.features.items():
            summary = statistics.summary()
            quantiles = summary.pop("quantiles")
            summary.update({f"q{rank}": value for rank, value in quantiles.items()})
            rows.append({"feature": name, **summary})
        return pd.DataFrame(rows).set_index("feature") if rows else pd.DataFrame()

    def __repr__(self) -> str:
        heads = ("feature", "kind", "rows", "null", "mean", "std", "least", "median", "greatest",
                 "outliers", "distinct", "most frequent")  # fmt: skip
        rows = []
        for name, statistics in self.features.items():
            summary = statistics.summary()
            rows.append(
                (
                    name,
                    summary["kind"],
                    f"{statistics.rows:,}",
                    f"{statistics.null_share:.1%}" if statistics.rows else "",
                    *(_short(summary[figure]) for figure in ("mean", "std", "minimum")),
                    _short(summary["quantiles"].get("0.5")),
                    _short(summary["maximum"]),
                    "" if summary["outlier_share"] is None else f"{summary['outlier_share']:.1%}",
                    "" if summary["distinct"] is None else f"{summary['distinct']:,}",
                    ", ".join(top["value"][:20] for top in summary["top"][:3]),
                )
            )
        return "\n".join(_table(heads, rows))


def detect_feature_drift(
    historical: Any,
    current: Any,
    threshold: float = 0.05,
    *,
    features: Sequence[str] | None = None,
    settings: DriftSettings | None = None,
) -> DriftReport:
    """Finds the columns of a frame that are distributed otherwise than in another.

    Args:
        historical: The reference, such as a training set: a data frame of pandas or polars, an
            Arrow table, or what has `__arrow_c_stream__`.
        current: What is compared with it, in any of these forms.
        threshold: The false discovery rate over all columns compared.
        features: The columns to compare; those that both frames have unless given. Keys and labels
            are best left out.
        settings: Least sizes of drift and least numbers of rows; its `threshold` is not used.

    Raises:
        TypeError: A frame is of no known form.
        ValueError: A frame lacks a column that `features` names, a column holds what Arrow has no
            type for, or `threshold` is not from 0 to 1.
    """
    settings = replace(settings or DriftSettings(), threshold=threshold)
    before = _arrow(historical, "historical", features)
    now = _arrow(current, "current", features)
    results = compare_all(_statistics(before), _statistics(now), settings)
    return DriftReport(
        tuple(results),
        tuple(name for name in before.column_names if name not in now.column_names),
        tuple(name for name in now.column_names if name not in before.column_names),
    )


def monitor_feature_quality(frame: Any, *, features: Sequence[str] | None = None) -> QualityReport:
    """Computes the statistics that the gateway keeps of features, of the columns of a frame.

    Args:
        frame: A data frame of pandas or polars, an Arrow table, or what has `__arrow_c_stream__`.
        features: The columns; all unless given.

    Raises:
        TypeError: The frame is of no known form.
        ValueError: It lacks a column that `features` names, or a column holds what Arrow has no
            type for.
    """
    statistics = _statistics(_arrow(frame, "frame", features))
    return QualityReport({feature: each for (_, feature), each in statistics.items()})


def _arrow(frame: Any, what: str, features: Sequence[str] | None) -> pa.Table:
    """A frame as an Arrow table of the wanted columns."""
    if isinstance(frame, pa.RecordBatch):
        table = pa.Table.from_batches([frame])
    elif isinstance(frame, pa.Table):
        table = frame
    elif type(frame).__module__.partition(".")[0] == "pandas":
        # Missing numbers are NaN in pandas: this reads them as null.
        try:
            table = pa.Table.from_pandas(frame, preserve_index=False)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(
                f"{what}: a column holds values of several types; convert it ({error})"
            ) from error
    elif hasattr(frame, "__arrow_c_stream__"):
        table = pa.table(frame)
    else:
        raise TypeError(
            f"{what} is of type {type(frame).__name__}; it must be a data frame of pandas or "
            "polars, an Arrow table, or have __arrow_c_stream__"
        )
    if features is None:
        return table
    missing = [name for name in features if name not in table.column_names]
    if missing:
        raise ValueError(f"{what} has no column {missing[0]!r}, which features names")
    return table.select(list(features))


def _statistics(table: pa.Table) -> dict[tuple[str, str], FeatureStatistics]:
    made = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        statistics = FeatureStatistics(sizes=PROFILE_SIZES)
        for chunk in column.chunks:
            statistics.update(FeatureColumn("", name, chunk))
        made["", name] = statistics
    return made


def _what(result: DriftResult) -> str:
    parts = [
        word
        for word, drifted in (("values", result.values_drifted), ("nulls", result.empty_drifted))
        if drifted
    ]
    return " and ".join(parts) or "no"


def _short(number: float | None) -> str:
    return "" if number is None or math.isnan(number) else f"{number:.3g}"


def _table(heads: Sequence[str], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of a table in columns of equal width."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (tuple(heads), *rows)
    ]
