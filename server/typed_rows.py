"""Rows from a command line or a file, in the types that a gateway's definitions declare."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hotfeast.serving.v1 import value_pb2

if TYPE_CHECKING:
    import pyarrow

Types = Mapping[str, int]
"""Numbers in `ValueType.Enum` by column."""

_TYPES: Any = value_pb2.ValueType.Enum
_BOOLS = {"true": True, "false": False, "1": True, "0": False}


class BadRows(ValueError):
    """Rows that cannot be read; the message names the column or the file, and the fix."""


def types_of(fields: Iterable[Any]) -> dict[str, int]:
    """The types of `Feature` messages by name; without those that are declared in several ways."""
    found: dict[str, set[int]] = {}
    for field in fields:
        found.setdefault(field.name, set()).add(field.value_type)
    return {name: kinds.pop() for name, kinds in found.items() if len(kinds) == 1}


def columns_of_arguments(arguments: Iterable[str], types: Types) -> dict[str, list[Any]]:
    """Columns of `name=value,value` arguments.

    Args:
        arguments: Of the command line.
        types: What values are read as; texts where it says nothing.

    Raises:
        BadRows: An argument has another form, or a value is none of its type.
    """
    columns: dict[str, list[Any]] = {}
    for argument in arguments:
        name, sign, values = argument.partition("=")
        if not sign or not name:
            raise BadRows(f"{argument!r} must have the form KEY=VALUE or KEY=VALUE,VALUE")
        if name in columns:
            raise BadRows(f"{name!r} is given twice; several rows are {name}=VALUE,VALUE")
        columns[name] = [_typed(name, text, types.get(name, 0)) for text in values.split(",")]
    return columns


def _typed(name: str, text: str, kind: int) -> Any:
    if text == "" and kind not in (0, _TYPES.STRING):
        return None
    try:
        if kind in (_TYPES.INT32, _TYPES.INT64):
            return int(text)
        if kind in (_TYPES.FLOAT, _TYPES.DOUBLE):
            return float(text)
        if kind == _TYPES.BOOL:
            return _BOOLS[text.lower()]
        if kind == _TYPES.UNIX_TIMESTAMP:
            time = datetime.fromisoformat(text)
            return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    except (ValueError, KeyError):
        raise BadRows(f"{name}={text}: this is no {_TYPES.Name(kind)}") from None
    if kind in (0, _TYPES.STRING):
        return text
    raise BadRows(f"{name} is {_TYPES.Name(kind)}: give it in a Parquet file with --rows")


def table_of_file(path: Path, types: Types) -> "pyarrow.Table":
    """The rows of a file: CSV, JSON with an object a line, or Parquet, by its ending.

    Args:
        path: The file.
        types: What columns of a CSV file are read as; what they look like where it says nothing.

    Raises:
        BadRows: It has another ending, or cannot be read.
    """
    import pyarrow as pa
    from pyarrow import csv, json, parquet

    plain = {
        _TYPES.STRING: pa.string(),
        _TYPES.INT32: pa.int32(),
        _TYPES.INT64: pa.int64(),
        _TYPES.DOUBLE: pa.float64(),
        _TYPES.FLOAT: pa.float32(),
        _TYPES.BOOL: pa.bool_(),
    }
    wanted = {name: plain[kind] for name, kind in types.items() if kind in plain}
    try:
        match path.suffix.lower():
            case ".csv":
                # An empty text is one; an empty number is null.
                options = csv.ConvertOptions(column_types=wanted)
                return csv.read_csv(path, convert_options=options)
            case ".json" | ".jsonl" | ".ndjson":
                return json.read_json(path)
            case ".parquet":
                return parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise BadRows(f"{path}: {error}") from None
    raise BadRows(f"{path}: must end in .csv, .jsonl (an object a line) or .parquet")
