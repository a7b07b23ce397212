"""What was seen, from tables of features: those that were logged, and training sets."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from hotfeast.server.errors import StartFailure
from hotfeast.server.monitoring.history import HistoryPoint
from hotfeast.server.monitoring.observed import Channel, FeatureColumn
from hotfeast.server.monitoring.report.catalogue import Catalogue
from hotfeast.server.monitoring.report.figures import Seen
from hotfeast.server.monitoring.statistics import PROFILE_SIZES, FeatureStatistics
from hotfeast.server.monitoring.windows import FeatureKey

# Columns of Feast's feature logs.
_LOG_TIME = "__log_timestamp"
_TIME, _STATUS = "__timestamp", "__status"
_BATCH_ROWS = 65536
_DAY = 86400
_LONGEST_HISTORY = 400


class Names:
    """Finds the features that the columns of a table are of.

    Columns are named `view__feature`, as in Feast's logs and training sets with full names (an
    alias in a feature service stands for its view), or `feature` where one view only has it.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        """
        Args:
            catalogue: Of the project.
        """
        self._features: dict[str, tuple[str, str]] = {}
        bare: dict[str, list[tuple[str, str]]] = {}
        for view in catalogue.views.values():
            for feature in view.features:
                bare.setdefault(feature.name, []).append((view.name, feature.name))
        self._features |= {name: of[0] for name, of in bare.items() if len(of) == 1}
        for service in catalogue.services.values():
            for taken in service.takes:
                for name in taken.features:
                    self._features[f"{taken.alias or taken.view}__{name}"] = taken.view, name
        for view in catalogue.views.values():
            for feature in view.features:
                self._features[f"{view.name}__{feature.name}"] = view.name, feature.name

    def columns(self, table: pa.Table | pa.RecordBatch) -> Iterator[FeatureColumn]:
        """The features of a table, with statuses and event times where it has them."""
        for name in table.column_names:
            found = self._features.get(name)
            if found is None:
                continue
            statuses = times = None
            if name + _STATUS in table.column_names:
                numbers = pc.fill_null(table.column(name + _STATUS), 0)
                statuses = np.asarray(numbers).astype(np.uint8)
            if name + _TIME in table.column_names:
                times = _microseconds(table.column(name + _TIME))
            values = table.column(name)
            if isinstance(values, pa.ChunkedArray):
                values = values.combine_chunks()
            yield FeatureColumn(*found, values, statuses, times)


def read_logged(path: Path, names: Names) -> tuple[dict[FeatureKey, Seen], float]:
    """What was served, from features that were logged, or any table of features.

    Args:
        path: A Parquet file, or a folder of them.
        names: Which columns are features.

    Returns:
        By feature, what was seen, with a point of history a day where the table has the log's time;
        and the latest time in it, in seconds since 1970, 0 where there is none.

    Raises:
        StartFailure: It cannot be read, or has no feature of the project.
    """
    whole: dict[FeatureKey, FeatureStatistics] = {}
    days: dict[FeatureKey, dict[int, FeatureStatistics]] = {}
    latest = 0.0
    try:
        for batch in ds.dataset(path, format="parquet").to_batches(batch_size=_BATCH_ROWS):
            if not batch.num_rows:
                continue
            at = None
            if _LOG_TIME in batch.schema.names:
                at = _microseconds(batch.column(_LOG_TIME)) // 1_000_000
                latest = max(latest, float(at.max()))
            for column in names.columns(batch):
                key = FeatureKey(Channel.served, column.view, column.feature)
                whole.setdefault(key, FeatureStatistics()).update(column, None)
                for day, part in _by_day(column, at):
                    of_day = days.setdefault(key, {}).setdefault(day, FeatureStatistics())
                    of_day.update(part, None)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise StartFailure(f"{path} cannot be read: {error}") from error
    if not whole:
        raise StartFailure(
            f"{path} has no column that is a feature of this project; they are named "
            "view__feature, or feature where one view only has it"
        )
    seen = {
        key: Seen(
            statistics,
            [
                HistoryPoint.of(each, day * _DAY, _DAY)
                for day, each in sorted(days.get(key, {}).items())[-_LONGEST_HISTORY:]
            ],
        )
        for key, statistics in whole.items()
    }
    return seen, latest


def read_reference(path: Path, names: Names) -> dict[tuple[str, str], FeatureStatistics]:
    """Statistics of a training set, to compare with, by view and feature.

    Args:
        path: A Parquet file, or a folder of them.
        names: Which columns are features.

    Raises:
        StartFailure: It cannot be read, or has no feature of the project.
    """
    found: dict[tuple[str, str], FeatureStatistics] = {}
    try:
        for batch in ds.dataset(path, format="parquet").to_batches(batch_size=_BATCH_ROWS):
            for column in names.columns(batch):
                of = found.setdefault(
                    (column.view, column.feature), FeatureStatistics(sizes=PROFILE_SIZES)
                )
                of.update(column, None)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise StartFailure(f"{path} cannot be read: {error}") from error
    if not found:
        raise StartFailure(f"{path} has no column that is a feature of this project")
    return found


def _by_day(column: FeatureColumn, at: np.ndarray | None) -> Iterator[tuple[int, FeatureColumn]]:
    if at is None:
        return
    days = at // _DAY
    for day in np.unique(days):
        rows = days == day
        yield (
            int(day),
            column._replace(
                values=column.values.filter(pa.array(rows)),
                statuses=None if column.statuses is None else column.statuses[rows],
                event_timestamps=(
                    None if column.event_timestamps is None else column.event_timestamps[rows]
                ),
            ),
        )


def _microseconds(times: pa.Array) -> np.ndarray:
    """Times as microseconds since 1970; 0 where there is none."""
    plain = pc.cast(pc.cast(times, pa.timestamp("us", times.type.tz)), pa.int64())
    return np.asarray(pc.fill_null(plain, 0)).astype(np.int64)
