"""A decoded column as Python values, a pandas column or an Arrow array."""

import decimal
import json
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from hotfeast.clients.optional import needed
from hotfeast.hotpath.answer import AnswerColumn
from hotfeast.serving.v1 import value_pb2

# What Feast stores for a null in a UNIX_TIMESTAMP column.
_FEAST_NULL = -(2**63)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OFFSET = re.compile(r"(?:UTC|GMT)?([+-])(\d{2}):?(\d{2})")

_TYPES = value_pb2.ValueType.Enum
_DTYPES: dict[int, Any] = {
    _TYPES.INT32: np.int32,
    _TYPES.INT64: np.int64,
    _TYPES.DOUBLE: np.float64,
    _TYPES.FLOAT: np.float32,
    _TYPES.UNIX_TIMESTAMP: np.int64,
}
_NUMBERS: dict[str, int] = dict(_TYPES.items())
# The scalar that a list's elements are.
_ELEMENTS = {
    number: _NUMBERS[name.removesuffix(ending)]
    for name, number in _NUMBERS.items()
    for ending in ("_LIST", "_SET")
    if name.endswith(ending) and name.removesuffix(ending) in _NUMBERS
}
_SETS = {number for name, number in _NUMBERS.items() if name.endswith("_SET")}


def type_name(column: AnswerColumn) -> str:
    """The name of a column's type in `ValueType.Enum`; for messages and headings."""
    return str(_TYPES.Name(column.value_type)) if column.value_type else "none"


def numbers(column: AnswerColumn) -> npt.NDArray[Any] | None:
    """A column's numbers, booleans or seconds, 0 for null; None where it has others."""
    if column.layout != "scalar":
        return None
    return _numbers(column.value_type, column.values, column.rows)


def validity(column: AnswerColumn) -> npt.NDArray[np.bool_]:
    """True for each row that has a value; False for what Feast stores for a null time, too."""
    if column.layout == "none":
        return np.zeros(column.rows, bool)
    if column.validity is None:
        valid = np.ones(column.rows, bool)
    else:
        valid = _bits(column.validity, column.rows)
    if column.layout == "scalar" and column.value_type == _TYPES.UNIX_TIMESTAMP:
        valid &= np.frombuffer(column.values, np.int64) != _FEAST_NULL
    return valid


def python_values(column: AnswerColumn) -> list[Any]:
    """A column as Feast's `OnlineResponse.to_dict` has it: None for null, sets, times in UTC, JSON
    read, UUIDs and decimals as Python's own."""
    if column.layout == "none":
        return [None] * column.rows
    valid = validity(column)
    if column.layout == "message":
        ends = np.frombuffer(column.offsets or b"", np.int32).tolist()
        return [
            python_value(value_pb2.Value.FromString(column.values[ends[i] : ends[i + 1]]))
            if valid[i]
            else None
            for i in range(column.rows)
        ]
    if column.layout in ("scalar", "text"):
        flat = _elements(column.value_type, column.values, column.offsets, column.rows, valid)
        return [v if there else None for v, there in zip(flat, valid.tolist(), strict=True)]
    ends = np.frombuffer(column.offsets or b"", np.int32).tolist()
    element = _ELEMENTS[column.value_type]
    flat = _elements(element, column.values, column.element_offsets, ends[-1], None)
    gather: Callable[[list[Any]], Any] = set if column.value_type in _SETS else list
    return [
        gather(flat[ends[i] : ends[i + 1]]) if there else None
        for i, there in enumerate(valid.tolist())
    ]


def event_times(column: AnswerColumn) -> list[datetime | None]:
    """The event times in UTC; None where there is none."""
    none = _FEAST_NULL
    return [
        None if t == none else _EPOCH + timedelta(microseconds=t)
        for t in np.frombuffer(column.event_timestamps, np.int64).tolist()
    ]


def _bits(data: bytes, count: int) -> npt.NDArray[np.bool_]:
    packed = np.frombuffer(data, np.uint8)
    return np.unpackbits(packed, count=count, bitorder="little").astype(bool)


def _numbers(value_type: int, values: bytes, count: int) -> npt.NDArray[Any]:
    if value_type == _TYPES.BOOL:
        return _bits(values, count)
    return np.frombuffer(values, _DTYPES[value_type])


def _elements(
    value_type: int,
    values: bytes,
    offsets: bytes | None,
    count: int,
    valid: npt.NDArray[np.bool_] | None,
) -> list[Any]:
    """Scalars or texts as Python values; anything for those that are not valid."""
    if offsets is None:
        plain = _numbers(value_type, values, count).tolist()
        if value_type != _TYPES.UNIX_TIMESTAMP:
            return list(plain)
        return [None if v == _FEAST_NULL else datetime.fromtimestamp(v, UTC) for v in plain]
    ends = np.frombuffer(offsets, np.int32).tolist()
    pieces = [values[start:end] for start, end in pairwise(ends)]
    if value_type == _TYPES.BYTES:
        return pieces
    read = _READERS.get(value_type, str)
    there = [True] * count if valid is None else valid.tolist()
    if read is str:
        return [piece.decode() for piece in pieces]
    return [read(p.decode()) if t else None for p, t in zip(pieces, there, strict=True)]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


_READERS: dict[int, Callable[[str], Any]] = {
    _TYPES.JSON: _json,
    _TYPES.UUID: uuid.UUID,
    _TYPES.TIME_UUID: uuid.UUID,
    _TYPES.DECIMAL: decimal.Decimal,
}


def python_value(value: Any) -> Any:
    """One `Value` message as `python_values` has it."""
    kind = value.WhichOneof("val")
    if kind is None or kind == "null_val":
        return None
    content = getattr(value, kind)
    if kind in ("list_val", "set_val"):
        # Lists may be in a set, which a Python set could not hold.
        return [python_value(v) for v in content.val]
    if kind in ("map_val", "struct_val"):
        return {key: python_value(v) for key, v in content.val.items()}
    if kind in ("map_list_val", "struct_list_val"):
        return [{key: python_value(v) for key, v in m.val.items()} for m in content.val]
    if kind == "scalar_map_val":
        return {_map_key(entry.key): python_value(entry.value) for entry in content.val}
    if kind == "zoned_timestamp_val":
        if content.unix_timestamp == _FEAST_NULL:
            return None
        return datetime.fromtimestamp(content.unix_timestamp, _zone(content.zone))
    # Scalars and lists of the usual types have one meaning, and one reader.
    payload = value_pb2.RepeatedValue(val=[value]).SerializeToString()
    return python_values(AnswerColumn.of_values(kind, [payload]))[0]


def _map_key(key: Any) -> Any:
    kind = key.WhichOneof("key")
    if kind is None:
        return None
    # The members of a key are those of a value.
    value = value_pb2.Value()
    setattr(value, f"{kind.removesuffix('_key')}_val", getattr(key, kind))
    return python_value(value)


def _zone(name: str) -> tzinfo:
    """The zone of a name of IANA's or an offset such as `UTC-07:00`; UTC for what is neither, as
    Feast has it."""
    if offset := _OFFSET.fullmatch(name.strip()):
        sign, hours, minutes = offset.groups()
        size = timedelta(hours=int(hours), minutes=int(minutes))
        return timezone(-size if sign == "-" else size)
    try:
        return ZoneInfo(name) if name else UTC
    except (ValueError, OSError, KeyError):
        return UTC


def pandas_column(column: AnswerColumn) -> Any:
    """A column for a data frame: NumPy's type where nothing is null, else pandas' nullable one;
    None in columns of objects."""
    pandas = needed("pandas", "to_pandas")
    values = numbers(column)
    if values is None:
        return pandas.Series(python_values(column), dtype=object)
    valid = validity(column)
    if column.value_type == _TYPES.UNIX_TIMESTAMP:
        times = np.where(valid, values, _FEAST_NULL).view("datetime64[s]")
        return pandas.DatetimeIndex(times).tz_localize("UTC")
    if valid.all():
        return values
    if values.dtype.kind == "f":
        return np.where(valid, values, values.dtype.type("nan"))
    array = pandas.arrays.BooleanArray if values.dtype.kind == "b" else pandas.arrays.IntegerArray
    return array(values.copy(), ~valid)


def feast_column(column: AnswerColumn) -> Any:
    """A column for the data frame that Feast makes: what pandas makes of `python_values`."""
    values = numbers(column)
    if values is None or column.rows == 0 or column.value_type == _TYPES.UNIX_TIMESTAMP:
        return python_values(column)
    valid = validity(column)
    if valid.all():
        wide = {"i": np.int64, "f": np.float64, "b": np.bool_}[values.dtype.kind]
        return values.astype(wide)
    if values.dtype.kind == "b":
        return python_values(column)
    return np.where(valid, values.astype(np.float64), np.nan)


def arrow_column(column: AnswerColumn) -> Any:
    """A column as an Arrow array; maps and nested lists have Arrow types of their own.

    Raises:
        TypeError: Its values are of several types.
    """
    arrow = needed("pyarrow", "to_arrow")
    from hotfeast.hotpath.answer_arrow import arrow_array, without_feast_nulls

    if column.layout != "message":
        array = arrow_array(column)
        if arrow.types.is_list(array.type) and arrow.types.is_timestamp(array.type.value_type):
            elements = without_feast_nulls(array.values)
            # The offsets' own buffer, since an array of them would have none for null rows.
            return arrow.Array.from_buffers(
                array.type, len(array), array.buffers()[:2], array.null_count, children=[elements]
            )
        return without_feast_nulls(array)
    try:
        return arrow.array(
            [_for_arrow(v) for v in python_values(column)], _arrow_type(python_values(column))
        )
    except (arrow.ArrowException, TypeError) as error:
        raise TypeError(
            f"column {column.name!r} has no Arrow type: {error}; leave it out with columns=, or "
            "take to_dict()"
        ) from None


def _for_arrow(value: Any) -> Any:
    if isinstance(value, dict):
        return [(key, _for_arrow(v)) for key, v in value.items()]
    if isinstance(value, list):
        return [_for_arrow(v) for v in value]
    return value


def _arrow_type(values: list[Any]) -> Any:
    """The Arrow type of Python values, with a map for dictionaries, which as structs would each
    have the keys of all."""
    arrow = needed("pyarrow", "to_arrow")
    there = [v for v in values if v is not None]
    if there and all(isinstance(v, dict) for v in there):
        keys = arrow.array([key for v in there for key in v]).type
        items = [item for v in there for item in v.values()]
        return arrow.map_(keys if items else arrow.string(), _arrow_type(items))
    if there and all(isinstance(v, list) for v in there):
        return arrow.list_(_arrow_type([element for v in there for element in v]))
    return arrow.array(there).type
