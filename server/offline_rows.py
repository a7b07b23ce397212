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
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

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

BATCH_ROWS = 65536
"""Rows of a batch at most."""

# Bytes of a batch, roughly; rows with large values come in smaller batches.
_BATCH_BYTES = 32 * 1024 * 1024
_FEWEST_ROWS = 256
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
        way: How they are read: `files`, `offline store` or `compute engine`.
        portions: They, portion by portion; nothing is read before the first is asked for.
        total: How many rows of the source will be accounted for; None where that is not known.
        mapped: Whether columns have their names in the view already.
    """

    way: str
    portions: Iterator[Portion]
    total: int | None
    mapped: bool = False


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
    if _is_computed(view):
        return _computed_rows(store, view, start, end)
    if _is_files(store, view.batch_source):
        return _file_rows(store, view.batch_source, write, start, end)
    return _store_rows(store, view, start, end)


def _is_computed(view: Any) -> bool:
    """Whether rows are computed from those of the source, or of other views."""
    names = ("feature_transformation", "aggregations", "filter", "source_views")
    return any(getattr(view, name, None) for name in names)


def _is_files(store: FeatureStore, source: Any) -> bool:
    """Whether a source is Parquet files that need no credentials of Feast's own."""
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
    columns = source_columns(write)
    missing = sorted(columns - set(dataset.schema.names))
    if missing:
        raise invalid(
            f"feature view {write.name!r}: {path} has no column {', '.join(map(repr, missing))}; "
            f"it has {', '.join(map(repr, sorted(dataset.schema.names)))}"
        )
    time_name = source_name(write, write.timestamp_column)
    low, high = _bounds(write, time_name, dataset.schema.field(time_name).type, start, end)
    within = (ds.field(time_name) >= low) & (ds.field(time_name) <= high)
    # Row groups that lie outside the interval, as their statistics say, are not read.
    fragments = [f for f in (g.subset(within) for g in dataset.get_fragments()) if f.row_groups]
    groups = [group for fragment in fragments for group in fragment.row_groups]
    total = sum(group.num_rows for group in groups)
    size = sum(group.total_byte_size for group in groups)
    batch_rows = BATCH_ROWS
    if size:
        batch_rows = max(_FEWEST_ROWS, min(BATCH_ROWS, _BATCH_BYTES * total // size))
    chosen = ds.FileSystemDataset(fragments, dataset.schema, dataset.format, dataset.filesystem)
    scanner = chosen.scanner(
        columns=sorted(columns),
        batch_size=batch_rows,
        batch_readahead=2,
        fragment_readahead=1,
        fragment_scan_options=ds.ParquetFragmentScanOptions(
            use_buffered_stream=True, pre_buffer=False
        ),
    )
    portions = _within(scanner.to_batches(), time_name, low, high)
    return OfflineRows("files", _joined(portions, batch_rows), total)


def _within(
    batches: Iterator[pa.RecordBatch], time_name: str, low: pa.Scalar, high: pa.Scalar
) -> Iterator[Portion]:
    for batch in batches:
        times = batch.column(time_name)
        inside = pc.and_(pc.greater_equal(times, low), pc.less_equal(times, high))
        keep = batch if pc.all(inside, skip_nulls=False).as_py() else batch.filter(inside)
        yield Portion(keep, batch.num_rows)


def _joined(portions: Iterator[Portion], batch_rows: int) -> Iterator[Portion]:
    """Puts small batches together, as files of small row groups or a narrow interval give them."""
    held: list[pa.RecordBatch] = []
    rows = seen = 0
    for portion in portions:
        if held and rows + portion.rows.num_rows > batch_rows:
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
        yield from _table_portions(job.to_arrow())

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
        yield from _table_portions(plan.execute(context).data)

    return OfflineRows("compute engine", portions(), None, mapped=True)


def _table_portions(table: pa.Table) -> Iterator[Portion]:
    for batch in table.to_batches(max_chunksize=BATCH_ROWS):
        yield Portion(batch, batch.num_rows)
