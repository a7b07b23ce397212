"""Python values to columns of `Value`s."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from hotfeast.serving.v1 import value_pb2

# Feast keeps int32 apart from int64; a Python int is sent as int64, which the gateway narrows.
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


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
        if value.tzinfo is None:
            value = value.replace(tzinfo=UTC)
        return value_pb2.Value(unix_timestamp_val=int(value.timestamp()))
    if value is None:
        return value_pb2.Value()
    if hasattr(value, "item"):
        return _proto_value(value.item())
    raise TypeError(f"cannot send a {type(value).__name__}")
