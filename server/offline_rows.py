"""Where the rows of a view come from: its batch source, as a stream of Arrow record batches.

Parquet files are read here, a few thousand rows at a time. Nothing is sorted or compared while they
are read: which row of an entity is the latest shows as they are written. All other sources are
asked through Feast's offline store, which gives the latest rows as one table.
"""

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from hotfeast.server.errors import invalid
from hotfeast.server.feast_api import (
    FeatureStore,
    FileSource,
    LocalComputeEngine,
    LocalFeatureBuilder,
    MaterializationTask,
    ParquetFormat,
    utils,
)
from hotfeast.server.write_plan import ViewWrite

BATCH_ROWS = 32768
"""Rows of a batch at most."""

# Bytes of a batch, roughly; rows with large values come in smaller batches.
_BATCH_BYTES = 32 * 1024 * 1024
_FEWEST_ROWS = 256
# Bytes that are read of a column at once.
_READ_BYTES = 1024 * 1024
_FILE_STORES = {"file", "dask", "duckdb"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@dataclass(frozen=True, slots=True)
class Portion:
    """Some rows of a source.

    Attributes:
        rows: Those that are to be written; columns have their names in the source.
        seen: How many rows of the source this accounts for, those outside the interval included.
    """

    rows: pa.RecordBatch
    seen: int


@dataclass(frozen=True, slots=True)
class OfflineRows:
    """The rows of a view in an interval.

    Attributes:
        way: How they are read: `files`, `offline store`, `compute engine`, or `point-in-time join`
            by the offline store.
        portions: They, portion by portion; nothing is read before the first is asked for.
        total: How many rows of the source will be accounted for; None where that is not known.
        mapped: Whether columns have their names in the view already.
        schema: The columns as the source as a whole has them, where it is known; portions may have
            other types, and none for columns that a file lacks.
    """

    way: str
    portions: Iterator[Portion]
    total: int | None
    mapped: bool = False
    schema: pa.Schema | None = None


def open_rows(
    store: FeatureStore, view: Any, write: ViewWrite, start: datetime, end: datetime
) -> OfflineRows | None:
    """Opens the batch source of a view.

    Args:
        store: The repository.
        view: Feast's object of the view.
        write: How its rows are written.
        start: The first event time, inclusive.
        end: The last event time, inclusive. Both must know their zones.

    Returns:
        The rows, or None where only Feast itself can make and write them.

    Raises:
        RequestFailure: The source lacks a column, or its event time is no timestamp.
        Exception: Whatever pyarrow or Feast raises where the source cannot be read.
    """
    if view.offline:
        # Feast also writes these rows to the offline store.
        return None
    return open_source(store, view, write, start, end)


def open_source(
    store: FeatureStore, view: Any, write: ViewWrite, start: datetime, end: datetime
) -> OfflineRows | None:
    """Opens the batch source of a view, whatever else Feast does with its rows.

    Arguments, result and errors are those of `open_rows`; `write` may be of another view that takes
    columns of this one.
    """
    if is_computed(view):
        return _computed_rows(store, view, start, end)
    if is_files(store, view):
        return _file_rows(store, view.batch_source, write, start, end)
    return _store_rows(store, view, start, end)


def is_computed(view: Any) -> bool:
    """Whether rows are computed from those of the source, or of other views."""
    names = ("feature_transformation", "aggregations", "filter", "source_views")
    return any(getattr(view, name, None) for name in names)


def is_files(store: FeatureStore, view: Any) -> bool:
    """Whether a view's rows are just those of Parquet files that need no credentials of Feast's."""
    source = view.batch_source
    if is_computed(view):
        return False
    if type(source) is not FileSource or store.config.offline_store.type not in _FILE_STORES:
        return False
    if source.file_format is not None and not isinstance(source.file_format, ParquetFormat):
        return False
    resolve = getattr(source, "resolve_credentials", None)
    if resolve is not None and resolve():
        return False
    path = source.file_options.uri
    return "://" not in path or path.startswith("s3://")


def _file_rows(
    store: FeatureStore, source: Any, write: ViewWrite, start: datetime, end: datetime
) -> OfflineRows:
    uri = FileSource.get_uri_for_file_path(
        repo_path=store.config.repo_path, uri=source.file_options.uri
    )
    filesystem, path = FileSource.create_filesystem_and_path(
        str(uri), source.file_options.s3_endpoint_override
    )
    found: Any = path
    if filesystem is None and glob.has_magic(path):
        found = sorted(glob.glob(path))
        if not found:
            raise FileNotFoundError(f"no file matches {path}")
    elif filesystem is None and not os.path.exists(path):
        raise FileNotFoundError(f"no file or folder {path}")
    dataset = ds.dataset(found, filesystem=filesystem, format="parquet", partitioning="hive")
    columns = sorted(source_columns(write))
    missing = [name for name in columns if name not in dataset.schema.names]
    if missing:
        raise invalid(
            f"feature view {write.name!r}: {path} has no column {', '.join(map(repr, missing))}; "
            f"it has {', '.join(map(repr, sorted(dataset.schema.names)))}"
        )
    time_name = source_name(write, write.timestamp_column)
    files = []
    for fragment in dataset.get_fragments():
        kind = fragment.physical_schema.field(time_name).type
        low, high = _bounds(write, time_name, kind, start, end)
        # Row groups that lie outside the interval, as their statistics say, are not read.
        within = (ds.field(time_name) >= low) & (ds.field(time_name) <= high)
        groups = fragment.subset(within).row_groups
        if groups:
            files.append(_File(fragment, groups, low, high))
    total = sum(group.num_rows for file in files for group in file.groups)
    size = sum(group.total_byte_size for file in files for group in file.groups)
    batch_rows = BATCH_ROWS
    if size:
        batch_rows = max(_FEWEST_ROWS, min(BATCH_ROWS, _BATCH_BYTES * total // size))
    portions = (
        portion
        for file in files
        for portion in _read_file(dataset.filesystem, file, columns, time_name, batch_rows)
    )
    schema = pa.schema([dataset.schema.field(name) for name in columns])
    return OfflineRows("files", _joined(portions, batch_rows), total, schema=schema)


class _File(NamedTuple):
    """The part of a Parquet file that is read: row groups, and the interval in its own ticks."""

    fragment: ds.ParquetFileFragment
    groups: list[ds.RowGroupInfo]
    low: pa.Scalar
    high: pa.Scalar


def _read_file(
    filesystem: pa.fs.FileSystem, file: _File, columns: list[str], time_name: str, batch_rows: int
) -> Iterator[Portion]:
    """Reads page by page: a scanner of the data set would hold whole row groups."""
    constants = ds.get_partition_keys(file.fragment.partition_expression)
    stored = [name for name in columns if name in file.fragment.physical_schema.names]
    with (
        filesystem.open_input_file(file.fragment.path) as opened,
        pq.ParquetFile(opened, buffer_size=_READ_BYTES, pre_buffer=False) as parquet,
    ):
        for batch in parquet.iter_batches(
            batch_rows, [group.id for group in file.groups], stored, use_threads=False
        ):
            times = batch.column(time_name)
            inside = pc.and_(pc.greater_equal(times, file.low), pc.less_equal(times, file.high))
            rows = batch if pc.all(inside, skip_nulls=False).as_py() else batch.filter(inside)
            for name in columns:
                if name not in stored:
                    # Part of the path, or absent from this file and there in others.
                    value = pa.scalar(constants.get(name))
                    rows = rows.append_column(name, pa.repeat(value, rows.num_rows))
            yield Portion(rows, batch.num_rows)


def _joined(portions: Iterator[Portion], batch_rows: int) -> Iterator[Portion]:
    """Puts small batches together, as files of small row groups or a narrow interval give them."""
    held: list[pa.RecordBatch] = []
    rows = seen = 0
    for portion in portions:
        full = rows + portion.rows.num_rows > batch_rows
        if held and (full or portion.rows.schema != held[0].schema):
            yield Portion(_one(held), seen)
            held, rows, seen = [], 0, 0
        held.append(portion.rows)
        rows += portion.rows.num_rows
        seen += portion.seen
        if 2 * rows >= batch_rows or len(held) >= batch_rows:
            yield Portion(_one(held), seen)
            held, rows, seen = [], 0, 0
    if held:
        yield Portion(_one(held), seen)


def _one(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def _bounds(
    write: ViewWrite, name: str, kind: pa.DataType, start: datetime, end: datetime
) -> tuple[pa.Scalar, pa.Scalar]:
    """An interval in the ticks of a column; a column without a zone is in UTC."""
    if not pa.types.is_timestamp(kind):
        raise invalid(
            f"feature view {write.name!r}: the event timestamp {name!r} must be an Arrow timestamp "
            f"and is {kind}"
        )
    ticks = _TICKS[kind.unit]
    first = -((_microseconds(start) * -ticks) // 10**6)
    last = _microseconds(end) * ticks // 10**6
    most = 2**63 - 1
    return tuple(pa.scalar(max(-most, min(most, t)), pa.int64()).cast(kind) for t in (first, last))


def _microseconds(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)


def source_name(write: ViewWrite, name: str) -> str:
    """What the source calls a column that the view calls `name`."""
    return next((old for old, new in write.field_mapping.items() if new == name), name)


def source_columns(write: ViewWrite) -> set[str]:
    """Names of the columns of a view's rows in its source."""
    return {source_name(write, name) for name in write.columns}


def _store_rows(store: FeatureStore, view: Any, start: datetime, end: datetime) -> OfflineRows:
    """The latest rows as Feast's offline store gives them."""

    def portions() -> Iterator[Portion]:
        entities = [store.registry.get_entity(name, store.project) for name in view.entities]
        keys, features, time_name, created = utils._get_column_names(view, entities)
        job = store._get_provider().offline_store.pull_latest_from_table_or_query(
            config=store.config,
            data_source=view.batch_source,
            join_key_columns=keys,
            feature_name_columns=features,
            timestamp_field=time_name,
            created_timestamp_column=created,
            start_date=start,
            end_date=end,
        )
        yield from table_portions(job.to_arrow())

    return OfflineRows("offline store", portions(), None)


def _computed_rows(
    store: FeatureStore, view: Any, start: datetime, end: datetime
) -> OfflineRows | None:
    """Rows that Feast's local engine computes: all that it does short of writing them."""
    engine = getattr(store._get_provider(), "batch_engine", None)
    if not isinstance(engine, LocalComputeEngine):
        return None

    def portions() -> Iterator[Portion]:
        task = MaterializationTask(
            project=store.project, feature_view=view, start_time=start, end_time=end
        )
        context = engine.get_execution_context(store.registry, task)
        plan = LocalFeatureBuilder(
            store.registry, task, backend=engine._get_backend(context)
        ).build()
        # The last node is the one that writes.
        plan.nodes.pop()
        yield from table_portions(plan.execute(context).data)

    return OfflineRows("compute engine", portions(), None, mapped=True)


def table_portions(table: pa.Table) -> Iterator[Portion]:
    """The rows of a table in batches."""
    for batch in table.to_batches(max_chunksize=BATCH_ROWS):
        yield Portion(batch, batch.num_rows)
