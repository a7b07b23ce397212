"""Events of a windowed view from its batch source, and their tiles, in DuckDB.

DuckDB goes to disk where memory is short. Of events with one id of one entity the first counts, as
it does online; events without an entity, an id or a time after 1970, and those with a text that is
too long to be kept, count nowhere.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from hotfeast.hotpath.events import hash_column
from hotfeast.hotpath.tile_layout import (
    ALL_EVENTS,
    COUNT,
    HASH,
    INTEGER,
    LAST,
    MAX_INTEGER,
    MAX_REAL,
    MIN_INTEGER,
    MIN_REAL,
    MOST_TEXT,
    PRESENCE,
    TEXT,
    Level,
    Slot,
)
from hotfeast.server.errors import invalid
from hotfeast.server.feast_api import FeatureStore, ValueType
from hotfeast.server.offline_rows import (
    is_computed,
    is_files,
    open_source,
    source_name,
    table_portions,
)
from hotfeast.server.rows import encode_values, unpack
from hotfeast.server.windows.definition import WindowView
from hotfeast.server.write_plan import ViewWrite

_MEMORY = "1GB"
_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
# What join keys and values are compared as, by value type.
_ARROW_TYPES = {
    ValueType.BYTES.value: pa.binary(),
    ValueType.STRING.value: pa.string(),
    ValueType.INT32.value: pa.int64(),
    ValueType.INT64.value: pa.int64(),
    ValueType.UNIX_TIMESTAMP.value: pa.timestamp("s"),
    ValueType.BOOL.value: pa.bool_(),
    ValueType.FLOAT.value: pa.float32(),
    ValueType.DOUBLE.value: pa.float64(),
}
# What inputs are kept as, by form; the rest are fractions. Texts are compared byte by byte.
_FORM_TYPES = {
    PRESENCE: pa.bool_(),
    INTEGER: pa.int64(),
    HASH: pa.uint32(),
    TEXT: pa.binary(),
}


class Events:
    """The events of a view in an interval, as the table `events` of a database.

    Its columns are `k0` and so on, the join keys by name; `ts`, the event time in microseconds
    since 1970; `id`; and `i0` and so on, the inputs of the layout. The tables `tiles_0` and so on,
    made by `make_tiles`, have the keys, `tile`, and `s0` and so on, the slots of a level.

    Attributes:
        db: The database.
        write: The view.
        windows: Its windows.
        keys: Names of the columns with its join keys.
        count: How many events there are.
    """

    def __init__(
        self, store: FeatureStore, view: Any, write: ViewWrite, start: datetime, end: datetime
    ) -> None:
        """Reads the source.

        Args:
            store: The repository.
            view: Feast's object of the view.
            write: How its events are written; its `windows` are not None.
            start, end: The first and the last event time, both included.

        Raises:
            RequestFailure: The source lacks a column, or has it in another type.
            Exception: Whatever pyarrow or Feast raises where the source cannot be read.
        """
        assert write.windows is not None
        self.write = write
        self.windows: WindowView = write.windows
        self.keys = [f"k{i}" for i in range(len(write.compiled.definition.join_keys))]
        self._closing = ExitStack()
        folder = self._closing.enter_context(tempfile.TemporaryDirectory(prefix="hotfeast-"))
        self.db = self._closing.enter_context(
            duckdb.connect(config={"memory_limit": _MEMORY, "temp_directory": folder})
        )
        try:
            self.count = self._load(_portions(store, view, write, max(start, _EARLIEST), end))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the database, and deletes what it has on disk."""
        self._closing.close()

    def _load(self, portions: Iterator[pa.RecordBatch]) -> int:
        incoming = pa.RecordBatchReader.from_batches(
            _schema(self.write), (_typed(self.write, batch) for batch in portions)
        )
        alike = ", ".join([*self.keys, "id"])
        present = " AND ".join(f"{name} IS NOT NULL" for name in [*self.keys, "id"])
        self.db.register("incoming", incoming)
        self.db.execute(
            f"CREATE TABLE events AS SELECT * FROM incoming WHERE ts > 0 AND {present} "
            f"QUALIFY row_number() OVER (PARTITION BY {alike} ORDER BY ts) = 1"
        )
        self.db.unregister("incoming")
        [(count,)] = self.db.sql("SELECT count(*) FROM events").fetchall()
        return int(count)

    def make_tiles(self, level: int, where: str = "true") -> str:
        """Makes the table of a level's tiles, and returns its name.

        Args:
            level: The level's number.
            where: A condition of SQL on events.
        """
        name = f"tiles_{level}"
        of = self.windows.layout.levels[level]
        listed = ", ".join(f"e.{key}" for key in self.keys)
        slots = [f"{of_events(slot)} AS s{j}" for j, slot in enumerate(of.slots)]
        columns = ", ".join([*filter(None, [listed]), f"{tile_of('e.ts', of)} AS tile", *slots])
        self.db.execute(
            f"CREATE OR REPLACE TABLE {name} AS SELECT {columns} FROM events e WHERE {where} "
            f"GROUP BY ALL"
        )
        return name

    def same_keys(self, one: str, other: str) -> str:
        """A condition that two tables' rows are of one entity."""
        return " AND ".join(["true", *(f"{one}.{key} = {other}.{key}" for key in self.keys)])


def tile_of(time: str, level: Level) -> str:
    """SQL for the number of the tile that holds a time."""
    return f"(({time} - 1) // {level.tile})"


def start_of(time: str, window: int, level: Level) -> str:
    """SQL for the number of a window's first tile."""
    return f"(CASE WHEN {time} > {window} THEN ({time} - {window}) // {level.tile} ELSE 0 END)"


def of_event(slot: Slot) -> str:
    """SQL for what a slot has of one event."""
    value = f"e.i{slot.source}"
    if slot.source == ALL_EVENTS:
        return "1"
    if slot.kind == COUNT:
        return f"CAST({value} IS NOT NULL AS BIGINT)"
    if slot.kind == LAST:
        return f"CASE WHEN {value} IS NOT NULL THEN struct_pack(t := e.ts, v := {value}) END"
    return value


def put_together(slot: Slot, values: str, where: str = "true") -> str:
    """SQL for what a slot has of several tiles.

    Args:
        slot: The slot.
        values: The column with what each of them has.
        where: Which of them count.
    """
    only = f"FILTER (WHERE {where})"
    if slot.kind in (MIN_INTEGER, MIN_REAL):
        return f"min({values}) {only}"
    if slot.kind in (MAX_INTEGER, MAX_REAL, LAST):
        return f"max({values}) {only}"
    if slot.kind == COUNT or _is_whole(slot):
        return f"sum({values}) {only}"
    # fsum makes nothing of infinities.
    return (
        f"CASE WHEN bool_or(isinf({values})) {only} THEN sum({values}) {only} "
        f"ELSE fsum({values}) {only} END"
    )


def _is_whole(slot: Slot) -> bool:
    return slot.kind in (1, MIN_INTEGER, MAX_INTEGER)


def of_events(slot: Slot) -> str:
    """SQL for what a slot has of all events of a group."""
    if slot.source == ALL_EVENTS:
        return "count(*)"
    if slot.kind == COUNT:
        return f"count(e.i{slot.source})"
    return put_together(slot, f"({of_event(slot)})")


def _portions(
    store: FeatureStore, view: Any, write: ViewWrite, start: datetime, end: datetime
) -> Iterator[pa.RecordBatch]:
    """The events of the source, with its own names of columns."""
    if is_files(store, view):
        rows = open_source(store, view, write, start, end)
        assert rows is not None
        return (portion.rows for portion in rows.portions)
    if is_computed(view):
        raise invalid(
            f"feature view {write.name!r} has a transformation or aggregations of Feast's: its "
            "windows must be of the events of its batch source"
        )
    names = {source_name(write, name) for name in write.columns}
    times = source_name(write, write.timestamp_column)
    keys = [source_name(write, name) for name, _ in write.compiled.definition.join_keys]
    job = store._get_provider().offline_store.pull_all_from_table_or_query(
        config=store.config,
        data_source=view.batch_source,
        join_key_columns=keys,
        feature_name_columns=sorted(names - {times, *keys}),
        timestamp_field=times,
        start_date=start,
        end_date=end,
    )
    return (portion.rows for portion in table_portions(job.to_arrow()))


def _schema(write: ViewWrite) -> pa.Schema:
    windows = write.windows
    assert windows is not None
    fields = [
        (f"k{i}", key_type(kind)) for i, (_, kind) in enumerate(write.compiled.definition.join_keys)
    ]
    inputs = [
        (f"i{i}", _FORM_TYPES.get(each.form, pa.float64()))
        for i, each in enumerate(windows.layout.inputs)
    ]
    # Ids of whatever type are compared as texts.
    return pa.schema([*fields, ("ts", pa.int64()), ("id", pa.string()), *inputs])


def key_type(value_type: int) -> pa.DataType:
    """The Arrow type that join keys of a value type are compared as."""
    kind = _ARROW_TYPES.get(value_type, pa.int64())
    return pa.int64() if pa.types.is_timestamp(kind) else kind


def comparable(view: str, name: str, value_type: int, column: Any) -> pa.Array:
    """A column as values of a type are compared; times are seconds since 1970.

    Raises:
        RequestFailure: It is of another type.
    """
    kind = _ARROW_TYPES.get(value_type, pa.int64())
    try:
        made = unpack(column)
        if pa.types.is_timestamp(kind):
            return made.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
        return made.cast(kind, safe=value_type != ValueType.FLOAT.value)
    except pa.ArrowException as error:
        raise invalid(f"feature view {view!r}: column {name!r} is no {kind}: {error}") from error


def microseconds(view: str, name: str, column: Any) -> pa.Array:
    """Times as microseconds since 1970, cut; those without a zone are of UTC.

    Raises:
        RequestFailure: They are no times.
    """
    try:
        times = unpack(column)
        if not pa.types.is_timestamp(times.type):
            times = times.cast(pa.timestamp("us", "UTC"))
        return times.cast(pa.timestamp("us", times.type.tz), safe=False).cast(pa.int64())
    except pa.ArrowException as error:
        raise invalid(f"feature view {view!r}: column {name!r} is no time: {error}") from error


def _typed(write: ViewWrite, batch: pa.RecordBatch) -> pa.RecordBatch:
    windows = write.windows
    assert windows is not None

    def source(name: str) -> Any:
        return batch.column(source_name(write, name))

    arrays = [
        comparable(write.name, name, kind, source(name))
        for name, kind in write.compiled.definition.join_keys
    ]
    arrays.append(microseconds(write.name, write.timestamp_column, source(write.timestamp_column)))
    arrays.append(unpack(source(windows.event_id)).cast(pa.string()))
    for each in windows.layout.inputs:
        column = source(each.column)
        if each.form == HASH:
            encoded = encode_values(write.name, each.column, each.value_type, column)
            arrays.append(pa.array(hash_column(encoded), pa.uint32()))
            continue
        values = comparable(write.name, each.column, each.value_type, column)
        if pa.types.is_floating(values.type):
            values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
        if each.form == PRESENCE:
            values = pc.if_else(pc.is_valid(values), pa.scalar(True), pa.scalar(None, pa.bool_()))
        else:
            values = values.cast(_FORM_TYPES.get(each.form, pa.float64()))
        arrays.append(values)
    made = pa.record_batch(arrays, schema=_schema(write))
    for i, each in enumerate(windows.layout.inputs):
        if each.form == TEXT:
            sizes = pc.binary_length(made[f"i{i}"])
            made = made.filter(pc.fill_null(pc.less_equal(sizes, MOST_TEXT), True))
    return made


def until(time: datetime, microseconds_before: int) -> datetime:
    """A time some microseconds before another, or the earliest that is read."""
    return max(_EARLIEST, time - timedelta(microseconds=microseconds_before))


def microseconds_since(time: datetime) -> int:
    """Microseconds since 1970."""
    return (time - _EARLIEST) // timedelta(microseconds=1)
