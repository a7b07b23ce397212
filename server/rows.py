"""Columns of a push or a materialization to a batch of rows, each of them judged.

Nothing is written here, and nothing that is wrong gets past: a row that cannot be written, or
breaks a rule of its field, is rejected with the view, the field, the rule and the value.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.compute
from google.protobuf.message import DecodeError

from hotfeast.hotpath.columns import NoEncoder, TimeColumn, ValueColumn
from hotfeast.hotpath.definition import FeatureWrite
from hotfeast.hotpath.errors import InvalidRequest
from hotfeast.hotpath.events import EventBatch
from hotfeast.hotpath.writes import KEY_TYPES, WriteBatch
from hotfeast.server.errors import RequestFailure, invalid
from hotfeast.server.feast_api import ValueType, python_values_to_proto_values
from hotfeast.server.on_demand_writes import compute_features
from hotfeast.server.registry import FieldDefinition
from hotfeast.server.write_plan import ViewWrite
from hotfeast.serving.v1 import value_pb2

ColumnData: TypeAlias = pa.Array | bytes | TimeColumn
"""A column as it came: an Arrow array, a serialized `RepeatedValue`, or times."""

# Characters of a value that a message quotes.
_LONGEST_QUOTE = 100


class Rejection(NamedTuple):
    """Why a row is not written."""

    row: int
    feature_view: str
    field: str
    rule: str
    message: str


class EncodedRows(NamedTuple):
    """Rows that are ready to be written, and those that are not.

    Attributes:
        batch: All rows; those that are rejected are marked so.
        rejections: Why, once for each rejected row.
        features: The view's features, in its order.
        times: The event times.
    """

    batch: WriteBatch
    rejections: list[Rejection]
    features: list[ValueColumn]
    times: TimeColumn


def unpack(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """An array in one piece, in one of the plain forms that the hot path reads.

    What came from outside must have passed `validate(full=True)` before.

    Raises:
        pyarrow.ArrowException: It is in a form that pyarrow itself does not read.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks) if column.chunks else column.cast(column.type)
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    kind = column.type
    if pa.types.is_dictionary(kind):
        # The values first: pyarrow does not decode dictionaries of views.
        values = unpack(column.dictionary)
        return pa.DictionaryArray.from_arrays(column.indices, values).dictionary_decode()
    if pa.types.is_run_end_encoded(kind):
        return unpack(pa.compute.run_end_decode(column))
    if kind == pa.string_view():
        return column.cast(pa.large_string())
    if kind == pa.binary_view():
        return column.cast(pa.large_binary())
    if pa.types.is_float16(kind):
        return column.cast(pa.float32())
    return column


def map_fields(write: ViewWrite, columns: Mapping[str, ColumnData]) -> dict[str, ColumnData]:
    """Columns under the names that the view has for them.

    Raises:
        RequestFailure: Two columns have one name.
    """
    mapped: dict[str, ColumnData] = {}
    for name, column in columns.items():
        new = write.field_mapping.get(name, name)
        if new in mapped:
            raise invalid(f"column {new!r} of feature view {write.name!r} is given twice")
        mapped[new] = column
    return mapped


def encode(
    write: ViewWrite,
    columns: Mapping[str, ColumnData],
    *,
    check: bool = True,
    latest_time: int | None = None,
) -> EncodedRows:
    """Makes a batch of rows, computing those of an on-demand view.

    Args:
        write: The view.
        columns: Its columns, by their names in the view (see `map_fields`); others are ignored.
        check: Whether event times are compared in Redis.
        latest_time: Rows whose event time is after it, in seconds since 1970, are rejected.

    Raises:
        RequestFailure: A column is missing, of a type that cannot be converted, or of another
            length than the others; or the function of an on-demand view failed.
    """
    missing = sorted(n for n in write.columns if n not in columns and n != write.created_column)
    if missing:
        raise invalid(
            f"feature view {write.name!r}: missing column{'s' * (len(missing) > 1)} "
            + ", ".join(map(repr, missing))
        )
    definition = write.compiled.definition
    times = _times(write, write.timestamp_column, columns)
    keys = [encode_values(write.name, n, t, columns[n]) for n, t in definition.join_keys]
    fields: Sequence[FeatureWrite | FieldDefinition] = (
        definition.features if write.inputs is None else write.inputs.fields
    )
    taken = [encode_values(write.name, f.name, f.value_type, columns[f.name]) for f in fields]
    created = None
    if write.created_column:
        if write.created_column in columns:
            created = _times(write, write.created_column, columns)
        else:
            created = TimeColumn.none(times.rows)
    names = [n for n, _ in definition.join_keys] + [f.name for f in fields]
    for name, column in zip(names, [*keys, *taken], strict=True):
        if column.rows != times.rows:
            raise invalid(
                f"feature view {write.name!r}: column {name!r} has {column.rows} rows, and "
                f"{write.timestamp_column!r} has {times.rows}"
            )
    if created is not None and created.rows != times.rows:
        raise invalid(
            f"feature view {write.name!r}: column {write.created_column!r} has {created.rows} "
            f"rows, and {write.timestamp_column!r} has {times.rows}"
        )
    for (name, _), column in zip(definition.join_keys, keys, strict=True):
        # A column of nothing but nulls has no type.
        if column.value_type not in KEY_TYPES and len(column.null_rows) < column.rows:
            raise invalid(
                f"feature view {write.name!r}: join key {name!r} must be INT32, INT64, STRING, "
                "BYTES or UNIX_TIMESTAMP"
            )
    judge = _Judge(write.name)
    judge.times(write.timestamp_column, times, latest_time)
    for (name, _), column in zip(definition.join_keys, keys, strict=True):
        judge.faults(name, column)
        judge.broken(name, "null_key", column.null_rows, "is null")
    if created is not None:
        judge.created(write.created_column, created)
    # What is null throughout is rejected throughout; any type will do for the batch.
    typed = [
        ValueColumn.constant(KEY_TYPES[0], b"", times.rows)
        if column.value_type not in KEY_TYPES
        else column
        for column in keys
    ]
    features = taken
    if write.inputs is not None:
        for field, column in zip(fields, taken, strict=True):
            judge.faults(field.name, column)
        inputs = dict(zip(names, [*typed, *taken], strict=True))
        kept = [row for row in range(times.rows) if row not in judge.rejected]
        features = compute_features(write.view, inputs, kept, times.rows)
        features += [inputs[key.name] for key in write.view.join_keys]
    for feature, column in zip(definition.features, features, strict=True):
        judge.faults(feature.name, column)
        for rule in write.rules.get(feature.name, ()):
            judge.rule(feature.name, column, rule.name, rule.text, rule.failing(column))
    kind = WriteBatch
    if write.windows is not None:
        kind = EventBatch
        if taken[-1].value_type > value_pb2.ValueType.UNIX_TIMESTAMP:
            raise invalid(
                f"feature view {write.name!r}: the event id {write.windows.event_id!r} must be a "
                "single value, such as a text or a number, and no list, set or map"
            )
        judge.broken(write.windows.event_id, "not_null", taken[-1].null_rows, "is null")
        after = set(times.later_than(0))
        before = [row for row in range(times.rows) if row not in after]
        judge.broken(write.timestamp_column, "timestamp", before, "is not after 1970")
    batch = kind(write.compiled, typed, features, times, created, check)
    for row in judge.rejected:
        batch.reject(row)
    rejections = [judge.rejected[row] for row in sorted(judge.rejected)]
    return EncodedRows(batch, rejections, features[: len(write.view.features)], times)


class _Judge:
    """Collects the first thing that is wrong with each row."""

    def __init__(self, view: str) -> None:
        self._view = view
        self.rejected: dict[int, Rejection] = {}

    def _reject(self, row: int, field: str, rule: str, message: str) -> None:
        if row not in self.rejected:
            text = f"feature view {self._view!r}, row {row}: {message}"
            self.rejected[row] = Rejection(row, self._view, field, rule, text)

    def times(self, name: str, column: TimeColumn, latest: int | None) -> None:
        for row in column.null_rows:
            self._reject(row, name, "timestamp", f"event timestamp {name!r} is missing")
        for row, _ in column.faults:
            self._reject(
                row,
                name,
                "timestamp",
                f"event timestamp {name!r} is no time of the years 1 to 9999",
            )
        if latest is not None:
            for row in column.later_than(latest):
                self._reject(
                    row, name, "timestamp", f"event timestamp {name!r} is too far in the future"
                )

    def created(self, name: str, column: TimeColumn) -> None:
        for row, _ in column.faults:
            self._reject(
                row,
                name,
                "timestamp",
                f"created timestamp {name!r} is no time of the years 1 to 9999",
            )

    def faults(self, name: str, column: ValueColumn) -> None:
        faults = column.faults
        if faults:
            value_at = _source_values(column.source)
            for row, why in faults:
                if row not in self.rejected:
                    self._reject(row, name, "type", f"{name!r} is {_quote(value_at(row))}: {why}")

    def broken(self, name: str, rule: str, rows: list[int], words: str) -> None:
        for row in rows:
            self._reject(row, name, rule, f"{name!r} {words}")

    def rule(self, name: str, column: ValueColumn, rule: str, text: str, rows: list[int]) -> None:
        for row in rows:
            if row not in self.rejected:
                value = _quote(_python_value(column.value(row)))
                self._reject(row, name, rule, f"{name!r} is {value}, and {rule} wants {text}")


def _quote(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}..."


def python_value(value: value_pb2.Value) -> Any:
    """A `Value` as Python has it; times are seconds since 1970."""
    member = value.WhichOneof("val")
    if member is None or member == "null_val":
        return None
    content = getattr(value, member)
    if not hasattr(content, "val"):
        return content
    if isinstance(content.val, Mapping):
        return {key: python_value(element) for key, element in content.val.items()}
    return [
        python_value(element) if isinstance(element, value_pb2.Value) else element
        for element in content.val
    ]


def _python_value(serialized: bytes) -> Any:
    return python_value(value_pb2.Value.FromString(serialized))


def _source_values(source: Any) -> Callable[[int], Any]:
    """A column's values as they came, for messages."""
    if isinstance(source, bytes):
        try:
            values = value_pb2.RepeatedValue.FromString(source).val
        except DecodeError:
            # protobuf takes all or nothing, and one value that it does not take is enough.
            return lambda row: _Words("not readable")
        return lambda row: python_value(values[row])

    def value_at(row: int) -> Any:
        try:
            return source[row].as_py()
        except (ValueError, OverflowError):
            # What Python cannot hold, such as a time of the year 20000.
            return _Words(f"a {source.type}")

    return value_at


class _Words(str):
    """What stands in a message for a value that cannot be quoted."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _times(write: ViewWrite, name: str, columns: Mapping[str, ColumnData]) -> TimeColumn:
    column = columns[name]
    if isinstance(column, TimeColumn):
        return column
    try:
        if isinstance(column, bytes):
            return TimeColumn.from_values(column)
        array = unpack(column)
        return TimeColumn.from_arrow(array)
    except NoEncoder:
        raise invalid(
            f"feature view {write.name!r}: column {name!r} must hold timestamps, and is of Arrow "
            f"type {array.type}"
        ) from None
    except pa.ArrowException as error:
        raise _unreadable(write.name, name, error) from error
    except InvalidRequest as error:
        raise invalid(f"column {name!r} is {error}") from None


def _unreadable(view: str, name: str, error: Exception) -> RequestFailure:
    return invalid(
        f"feature view {view!r}: column {name!r} is in an Arrow form that cannot be read: "
        f"{error}; send it as a plain array"
    )


def encode_values(view: str, name: str, value_type: int, column: ColumnData) -> ValueColumn:
    """A join key or feature as it is stored.

    Args:
        view: The view's name, for messages.
        name: The column's.
        value_type: What it is declared as, as `ValueType.Enum`.
        column: Its values.

    Raises:
        RequestFailure: The column as a whole cannot be stored as that.
    """
    if isinstance(column, TimeColumn):
        raise invalid(f"feature view {view!r}: {name!r} is a join key or feature, not a timestamp")
    try:
        if isinstance(column, bytes):
            return ValueColumn.from_values(value_type, column)
        array = unpack(column)
        return ValueColumn.from_arrow(value_type, array)
    except InvalidRequest as error:
        raise invalid(f"column {name!r} is {error}") from None
    except pa.ArrowException as error:
        raise _unreadable(view, name, error) from error
    except NoEncoder:
        if value_type in _BY_FEAST and not _would_be_quoted(value_type, array.type):
            return _by_feast(value_type, array)
        declared = ValueType(value_type).name if value_type else "entity key"
        raise invalid(
            f"feature view {view!r}: column {name!r} of Arrow type {array.type} cannot be "
            f"converted to {declared} without loss"
        ) from None


# Types whose values are made of others, or are texts in a form of their own. Feast converts them.
_BY_FEAST = {
    *range(20, 30), 32, 33, 34, 35, 36, 37, *range(38, 49),
}  # fmt: skip


_UUIDS = {36, 37}
# Types whose values Feast makes with `str`, which turns bytes into their Python notation.
_BY_STR = {*range(36, 42), 44, 45, 46}


_ZONED = 48


def _zoned(array: pa.Array, moments: list[Any]) -> list[Any]:
    """Times with their zone, for NumPy's have none and Feast takes none of them.

    Those stay NumPy's that a `datetime` cannot hold to the nanosecond.
    """
    try:
        times = array.to_pylist()
    except (ValueError, OverflowError):
        return moments
    return [
        moment if getattr(time, "nanosecond", 0) else time
        for moment, time in zip(moments, times, strict=True)
    ]


def _would_be_quoted(value_type: int, kind: pa.DataType) -> bool:
    if value_type in _UUIDS and kind == pa.binary(16):
        return False
    inner = kind
    while hasattr(inner, "value_type"):
        inner = inner.value_type
    binary = pa.types.is_binary(inner) or pa.types.is_large_binary(inner)
    return value_type in _BY_STR and (binary or pa.types.is_fixed_size_binary(inner))


def _by_feast(value_type: int, array: pa.Array) -> ValueColumn:
    """Has Feast convert a column, value by value where it refuses the whole."""
    kind = ValueType(value_type)
    if pa.types.is_map(array.type):
        values = array.to_pylist(maps_as_pydicts="strict")
    else:
        # As Feast has it when it writes.
        values = list(array.to_numpy(zero_copy_only=False))
    if value_type in _UUIDS and array.type == pa.binary(16):
        values = [None if v is None else uuid.UUID(bytes=v) for v in values]
    if value_type == _ZONED and pa.types.is_timestamp(array.type):
        values = _zoned(array, values)
    try:
        made = [v.SerializeToString() for v in python_values_to_proto_values(values, kind)]
        return ValueColumn.from_serialized(value_type, made, [], array)
    except Exception:
        pass
    made, faults = [], []
    for row, value in enumerate(values):
        try:
            made.append(python_values_to_proto_values([value], kind)[0].SerializeToString())
        except Exception:
            made.append(b"")
            faults.append(row)
    return ValueColumn.from_serialized(value_type, made, faults, array)
