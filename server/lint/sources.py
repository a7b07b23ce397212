"""What batch sources have, for rules that compare definitions with it."""

import glob
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from hotfeast.server.errors import StartFailure
from hotfeast.server.feast_api import FeatureStore, FileSource, ValueType
from hotfeast.server.lint.subject import Column, SourceData
from hotfeast.server.offline_rows import is_computed, is_files

# A source of snapshots has at least so many rows for each of its times, and so many times.
_ROWS_A_SNAPSHOT = 2
_FEWEST_SNAPSHOTS = 3
_MINUTE = 60_000_000
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


def read_sources(store: FeatureStore, views: Mapping[str, Any]) -> dict[str, SourceData]:
    """Looks at the batch sources of views. Those of views that compute their rows are left out,
    since their columns are other ones.

    Args:
        store: The repository.
        views: Feast's objects, by name.

    Raises:
        StartFailure: A source cannot be read.
    """
    found: dict[str, SourceData] = {}
    for name, view in views.items():
        source = getattr(view, "batch_source", None)
        if source is None or is_computed(view):
            continue
        try:
            columns = _columns(store, source)
            times = _event_times(store, view)
        except Exception as error:
            raise StartFailure(
                f"--data: source {source.name!r} of {name} cannot be read "
                f"({type(error).__name__}: {error})"
            ) from error
        found[name] = SourceData(source.name, columns, snapshot_cadence(times))
    return found


def snapshot_cadence(times: pa.ChunkedArray) -> float | None:
    """The median time between two snapshots, in seconds, to the minute.

    Args:
        times: Event times of a source's rows, as timestamps.

    Returns:
        None for fewer than three snapshots, or for rows that are not in snapshots but each have a
        time of their own.
    """
    microseconds = times.cast(pa.timestamp("us", getattr(times.type, "tz", None)), safe=False)
    whole = pc.drop_null(microseconds.cast(pa.int64()))
    minutes = np.unique(whole.to_numpy() // _MINUTE)
    if len(minutes) < _FEWEST_SNAPSHOTS or len(whole) < _ROWS_A_SNAPSHOT * len(minutes):
        return None
    return float(np.median(np.diff(minutes))) * 60


def _columns(store: FeatureStore, source: Any) -> dict[str, Column]:
    of = source.source_datatype_to_feast_value_type()
    mapping = source.field_mapping or {}
    columns = {}
    for name, kind in source.get_table_column_names_and_types(store.config):
        try:
            value_type = ValueType(of(kind)).name
        except (KeyError, ValueError):
            # Feast has no type for it; such a column may be there for others.
            value_type = ValueType.UNKNOWN.name
        columns[mapping.get(name, name)] = Column(str(kind), value_type)
    return columns


def _event_times(store: FeatureStore, view: Any) -> pa.ChunkedArray:
    source = view.batch_source
    name = source.timestamp_field
    if is_files(store, view):
        uri = FileSource.get_uri_for_file_path(
            repo_path=store.config.repo_path, uri=source.file_options.uri
        )
        filesystem, path = FileSource.create_filesystem_and_path(
            str(uri), source.file_options.s3_endpoint_override
        )
        found: Any = sorted(glob.glob(path)) if glob.has_magic(path) else path
        dataset = ds.dataset(found, filesystem=filesystem, format="parquet", partitioning="hive")
        return dataset.to_table(columns=[name]).column(name)
    job = store._get_provider().offline_store.pull_all_from_table_or_query(
        config=store.config,
        data_source=source,
        join_key_columns=[],
        feature_name_columns=[],
        timestamp_field=name,
        start_date=_EARLIEST,
        end_date=datetime.now(UTC),
    )
    return job.to_arrow().column(name)
