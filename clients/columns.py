"""Rows of any form to columns of `Value`s."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from hotfeast.clients.optional import is_of
from hotfeast.hotpath.sent_values import serialized_values
from hotfeast.serving.v1 import value_pb2

Rows = Any
"""Columns by name (lists, NumPy arrays, pandas or polars Series, Arrow arrays), a list with a
dictionary for each row, a structured NumPy array, a data frame of pandas or polars, or a
`pyarrow.Table` or `RecordBatch`."""

# Feast keeps int32 apart from int64; a Python int is sent as int64, which the gateway narrows.
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


def columns_of(rows: Rows, what: str) -> dict[str, list[Any]]:
    """Rows of any form as columns by name, each a list of Python values.

    Args:
        rows: See `Rows`.
        what: Which argument it is, for messages.

    Raises:
        TypeError: It has none of the forms.
        ValueError: Rows do not have the same names.
    """
    if isinstance(rows, Mapping):
        return {name: _listed(name, values) for name, values in rows.items()}
    if is_of(rows, "pandas", "DataFrame"):
        return {str(name): _listed(str(name), rows[name]) for name in rows.columns}
    if is_of(rows, "polars", "DataFrame"):
        return {s.name: s.to_list() for s in rows.get_columns()}
    if is_of(rows, "pyarrow", "Table", "RecordBatch"):
        return {name: rows.column(name).to_pylist() for name in rows.schema.names}
    if isinstance(rows, np.ndarray) and rows.dtype.names is not None:
        return {name: _listed(name, rows[name]) for name in rows.dtype.names}
    if isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
        return _of_rows(rows, what)
    raise TypeError(
        f"{what} cannot be a {type(rows).__name__}: give columns by name, a list of dictionaries, "
        "a data frame of pandas or polars, or an Arrow table"
    )


def _of_rows(rows: Sequence[Mapping[str, Any]], what: str) -> dict[str, list[Any]]:
    names = list(rows[0]) if rows else []
    for number, row in enumerate(rows):
        if row.keys() != rows[0].keys():
            different = sorted(map(repr, row.keys() ^ rows[0].keys()))
            raise ValueError(f"{what}: row {number} and row 0 differ in {', '.join(different)}")
    return {name: [row[name] for row in rows] for name in names}


def _listed(name: str, values: Any) -> list[Any]:
    """A column as a list of Python values; what a library has for a missing one is None."""
    if is_of(values, "pandas", "Series", "Index"):
        return [None if gone else v for v, gone in zip(values, values.isna(), strict=True)]
    if is_of(values, "polars", "Series"):
        return list(values.to_list())
    if is_of(values, "pyarrow", "Array", "ChunkedArray"):
        return list(values.to_pylist())
    if isinstance(values, np.ndarray):
        if values.ndim != 1:
            raise TypeError(f"column {name!r}: an array with {values.ndim} dimensions, not one")
        return list(values) if values.dtype.kind == "M" else list(values.tolist())
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"column {name!r}: give a list of values, one a row, not {values!r}")
    return list(values)


def fill(message: Any, name: str, values: list[Any]) -> None:
    """Makes a `RepeatedValue` message hold a column.

    Raises:
        TypeError: A value cannot be sent; names the column.
    """
    try:
        data = serialized_values(values)
    except UnicodeEncodeError as error:
        raise TypeError(f"column {name!r}: {error}") from None
    if data is None:
        message.CopyFrom(column(name, values))
    else:
        message.ParseFromString(data)


def column(name: str, values: Sequence[Any]) -> Any:
    """A column as a `RepeatedValue`.

    Raises:
        TypeError: A value cannot be sent; names the column.
    """
    try:
        return value_pb2.RepeatedValue(val=[_proto_value(v) for v in values])
    except TypeError as error:
        raise TypeError(f"column {name!r}: {error}") from None


def _proto_value(value: Any) -> Any:
    if isinstance(value, bool):
        return value_pb2.Value(bool_val=value)
    if isinstance(value, int):
        if not _INT64_MIN <= value <= _INT64_MAX:
            raise TypeError(f"{value} does not fit int64")
        return value_pb2.Value(int64_val=value)
    if isinstance(value, float):
        return value_pb2.Value(double_val=value)
    if isinstance(value, str):
        return value_pb2.Value(string_val=value)
    if isinstance(value, bytes):
        return value_pb2.Value(bytes_val=value)
    if isinstance(value, datetime):
        if value != value:
            return value_pb2.Value()
        if value.tzinfo is None:
            value = value.replace(tzinfo=UTC)
        return value_pb2.Value(unix_timestamp_val=int(value.timestamp()))
    if isinstance(value, np.datetime64):
        if np.isnat(value):
            return value_pb2.Value()
        return value_pb2.Value(unix_timestamp_val=int(value.astype("datetime64[s]").astype(int)))
    if value is None:
        return value_pb2.Value()
    if hasattr(value, "item"):
        return _proto_value(value.item())
    raise TypeError(f"cannot send a {type(value).__name__}")
