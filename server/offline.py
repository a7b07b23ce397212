"""Pushed rows to the batch source, through Feast's own offline store.

A row is written with all columns of the source, since that is what Feast's offline stores take. A
file source is read and written as a whole each time, so that writers take turns, those of other
processes on this machine too.
"""

import fcntl
import hashlib
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from hotfeast.hotpath.columns import TimeColumn
from hotfeast.server.feast_api import FeatureStore, FileSource, batch_source_schema
from hotfeast.server.registry import Definitions, feast_view
from hotfeast.server.registry_source import open_source
from hotfeast.server.rows import ColumnData, python_value
from hotfeast.server.write_plan import ViewWrite
from hotfeast.serving.v1 import value_pb2


class OfflineFailure(NamedTuple):
    """Why rows are not in the batch source of a view."""

    feature_view: str
    message: str


class OfflineRows(NamedTuple):
    """What is to be appended.

    Attributes:
        columns: By their names in the source, or in the view.
        event_times: Explicit event times; None where they are a column.
        created_times: Explicit created times; None where they are a column, or not there.
        kept: Positions of the rows to append, ascending.
    """

    columns: Mapping[str, ColumnData]
    event_times: TimeColumn | None
    created_times: TimeColumn | None
    kept: Sequence[int]


class OfflineWriter:
    """Appends rows to batch sources, from any number of threads."""

    def __init__(self, store: FeatureStore) -> None:
        """
        Args:
            store: The repository. Its registry is only read.
        """
        self._store = store
        self._lock = threading.Lock()
        self._definitions: Definitions | None = None
        self._views: dict[str, Any] = {}

    def source_columns(self, definitions: Definitions, view: str) -> frozenset[str]:
        """Names of the columns of a view's batch source.

        Raises:
            Exception: Whatever Feast raises where the source, or the registry, cannot be read.
        """
        source = self._view(definitions, view).batch_source
        return frozenset(batch_source_schema(self._store, source).names)

    def append(
        self, definitions: Definitions, writes: Sequence[ViewWrite], rows: OfflineRows
    ) -> list[OfflineFailure]:
        """Appends rows to the batch sources of views, once to each source.

        Args:
            definitions: The state of the registry that the views are of.
            writes: The views.
            rows: The rows.

        Returns:
            The views whose source does not have the rows now.
        """
        sources: dict[bytes, list[tuple[ViewWrite, Any]]] = {}
        failures: list[OfflineFailure] = []
        for write in writes:
            try:
                view = self._view(definitions, write.name)
                key = view.batch_source.to_proto().SerializeToString(deterministic=True)
            except Exception as error:
                failures.append(OfflineFailure(write.name, _words(error)))
            else:
                sources.setdefault(key, []).append((write, view))
        for key, fed in sources.items():
            try:
                self._append(key, fed, rows)
            except Exception as error:
                failures += (OfflineFailure(write.name, _words(error)) for write, _ in fed)
        return failures

    def _view(self, definitions: Definitions, name: str) -> Any:
        """Feast's object of a view, as the registry has it since the definitions were read."""
        with self._lock:
            if definitions is not self._definitions:
                self._views = {}
                self._definitions = definitions
            if name not in self._views:
                self._views[name] = feast_view(open_source(self._store).read(), name)
            return self._views[name]

    def _append(self, key: bytes, fed: list[tuple[ViewWrite, Any]], rows: OfflineRows) -> None:
        view = fed[0][1]
        source = view.batch_source
        is_file = isinstance(source, FileSource)
        with self._turn(key) if is_file else _no_turn():
            schema = batch_source_schema(self._store, source)
            table = _table(schema, fed, rows)
            self._store._get_provider().offline_write_batch(self._store.config, view, table, None)

    @contextmanager
    def _turn(self, source: bytes) -> Iterator[None]:
        digest = hashlib.sha256(self._store.project.encode() + b"\0" + source).hexdigest()[:24]
        path = Path(tempfile.gettempdir()) / f"hotfeast-offline-{digest}.lock"
        # Opened anew each time, so that it keeps this process' threads apart, too.
        with path.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@contextmanager
def _no_turn() -> Iterator[None]:
    yield


def _table(schema: pa.Schema, fed: list[tuple[ViewWrite, Any]], rows: OfflineRows) -> pa.Table:
    """The rows with exactly the columns of the source.

    Raises:
        ValueError: The source has columns that are not given, or the other way round.
        pa.ArrowException: A value cannot be converted to what the source has.
    """
    arrays: list[Any] = []
    missing: list[str] = []
    used: set[str] = set()
    for field in schema:
        name = _given(field.name, fed, rows)
        if name is None:
            missing.append(field.name)
            continue
        used.add(name)
        times = _special(name, fed, rows)
        column = rows.columns[name] if times is None else times
        try:
            arrays.append(_array(column, field.type, rows.kept))
        except (pa.ArrowException, TypeError, OverflowError) as error:
            raise ValueError(
                f"column {field.name!r} cannot be converted to {field.type}: {error}"
            ) from error
    homeless = sorted(
        name
        for name in rows.columns
        if name not in used
        and any(write.field_mapping.get(name, name) in write.columns for write, _ in fed)
    )
    words = []
    if missing:
        words.append(f"has columns that were not pushed: {', '.join(map(repr, missing))}")
    if homeless:
        words.append(f"has no columns {', '.join(map(repr, homeless))}")
    if words:
        raise ValueError(
            f"the batch source {' and '.join(words)}; rows are appended with exactly its columns"
        )
    return pa.table(arrays, schema=schema)


def _given(source_name: str, fed: list[tuple[ViewWrite, Any]], rows: OfflineRows) -> str | None:
    """The name under which a column of the source is given; None where it is not."""
    if source_name in rows.columns:
        return source_name
    for write, _ in fed:
        name = write.field_mapping.get(source_name, source_name)
        if name in rows.columns or _special(name, fed, rows) is not None:
            return name
    return None


def _special(name: str, fed: list[tuple[ViewWrite, Any]], rows: OfflineRows) -> TimeColumn | None:
    """The explicit times that a column stands for; None where it is an ordinary one."""
    for write, _ in fed:
        if name == write.timestamp_column and rows.event_times is not None:
            return rows.event_times
        if name == write.created_column and rows.created_times is not None:
            return rows.created_times
    return None


def _array(column: ColumnData, kind: pa.DataType, kept: Sequence[int]) -> Any:
    """The rows that are kept of a column, as an array of one type."""
    if isinstance(column, TimeColumn):
        # Feast's offline stores keep times to the microsecond.
        times = column.times
        ticks = [
            None if (time := times[row]) is None else time[0] * 1_000_000 + time[1] // 1000
            for row in kept
        ]
        return pa.array(ticks, pa.int64()).cast(pa.timestamp("us", "UTC")).cast(kind, safe=False)
    if isinstance(column, bytes):
        values = value_pb2.RepeatedValue.FromString(column).val
        return _typed([python_value(values[row]) for row in kept], kind)
    picked = column.take(pa.array(kept, pa.int64()))
    if picked.type == kind:
        return picked
    # Times lose what is finer than the source's unit, as above; other values lose nothing.
    return picked.cast(kind, safe=not pa.types.is_timestamp(kind))


def _typed(values: list[Any], kind: pa.DataType) -> Any:
    """Values of a protobuf column as an array; times are in seconds since 1970."""
    if pa.types.is_timestamp(kind):
        return pa.array(values, pa.int64()).cast(pa.timestamp("s", "UTC")).cast(kind)
    if pa.types.is_list(kind) and pa.types.is_timestamp(kind.value_type):
        seconds = pa.array(values, pa.list_(pa.int64()))
        return seconds.cast(pa.list_(pa.timestamp("s", "UTC"))).cast(kind)
    if pa.types.is_map(kind):
        values = [list(v.items()) if isinstance(v, dict) else v for v in values]
    return pa.array(values, kind)


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
