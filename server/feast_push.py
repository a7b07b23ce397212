"""Feast's own `Push` and `WriteToOnlineStore`: one row a call, as text or as values.

As in Feast's server, columns that nothing takes are ignored, and texts become what the field is
declared as. Rows of an on-demand view are computed; without an event time they have the time of
writing, which Feast always gives them.
"""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from time import time_ns
from typing import Any

import grpc
import pandas as pd
from google.protobuf.timestamp_pb2 import Timestamp

from hotfeast.hotpath.columns import TimeColumn
from hotfeast.server.errors import invalid
from hotfeast.server.feast_api import (
    FeastPushResponse,
    ValueType,
    WriteToOnlineStoreResponse,
    python_values_to_proto_values,
)
from hotfeast.server.plan import PlanSource
from hotfeast.server.push import abort_unavailable, push_failure
from hotfeast.server.push_access import PushAccess
from hotfeast.server.push_plan import Destination
from hotfeast.server.push_rows import (
    BOTH,
    FAILED,
    OFFLINE,
    ONLINE,
    REJECTED,
    PushedRows,
    RowPusher,
)
from hotfeast.server.rows import ColumnData
from hotfeast.serving.v1 import value_pb2

_TARGETS = {"online": ONLINE, "offline": OFFLINE, "online_and_offline": BOTH}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}


class FeastPushService:
    """Answers the writing methods of `GrpcFeatureServer`."""

    def __init__(self, plans: PlanSource, destinations: PushAccess, pusher: RowPusher) -> None:
        """
        Args:
            plans: The plans of the time.
            destinations: Where pushes go, of those who may.
            pusher: Writes rows.
        """
        self._plans = plans
        self._destinations = destinations
        self._pusher = pusher

    def push(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Writes the row of a Feast `PushRequest`."""
        target = _TARGETS.get(request.to)
        if target is None:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"to is {request.to!r}; use one of {', '.join(map(repr, _TARGETS))}",
            )
        self._write(request, True, request.stream_feature_view, target, context)
        return FeastPushResponse(status=True)

    def write_to_online_store(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Writes the row of a Feast `WriteToOnlineStoreRequest`."""
        self._write(request, False, request.feature_view_name, ONLINE, context)
        return WriteToOnlineStoreResponse(status=True)

    def _write(
        self,
        request: Any,
        by_push_source: bool,
        name: str,
        target: Any,
        context: grpc.ServicerContext,
    ) -> None:
        try:
            if request.features and request.typed_features:
                raise invalid("set features or typed_features, not both")
            destination = self._destinations.find(
                self._plans.book, by_push_source, name, target, context
            )
            if request.typed_features:
                columns = _typed_columns(destination, request.typed_features)
            else:
                columns = _text_columns(destination, request.features)
            rows = PushedRows(columns, event_times=_time_of_writing(destination, columns))
            pushed = self._pusher.push(
                destination, target, rows, context.time_remaining, extra_columns=True
            )
        except Exception as error:
            failure = push_failure(error)
            context.abort(failure.code, failure.message)
            raise AssertionError("abort() returned") from None
        if pushed.outcomes[0] == REJECTED:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, pushed.rejections[0].message)
        if pushed.unavailable:
            abort_unavailable(context, pushed.unavailable)
        if pushed.outcomes[0] == FAILED:
            words = "; ".join(f"{view!r}: {message}" for _, view, message in pushed.failures)
            context.abort(grpc.StatusCode.INTERNAL, f"not written to feature view {words}")


def _column(value: Any) -> bytes:
    return value_pb2.RepeatedValue(val=[value]).SerializeToString()


def _typed_columns(destination: Destination, features: Mapping[str, Any]) -> dict[str, ColumnData]:
    """One-row columns of Feast's values, whose messages have the bytes of ours."""
    times = _time_columns(destination)
    columns: dict[str, ColumnData] = {}
    for name, value in features.items():
        if name in times and value.WhichOneof("val") == "string_val":
            columns[name] = _time(name, value.string_val)
        else:
            data = value.SerializeToString()
            columns[name] = _column(value_pb2.Value.FromString(data))
    return columns


def _text_columns(destination: Destination, features: Mapping[str, str]) -> dict[str, ColumnData]:
    """One-row columns of texts, converted to what the first view that takes them declares."""
    times = _time_columns(destination)
    types: dict[str, int] = {}
    for write in reversed(destination.writes):
        others = write.view.features if write.inputs is None else write.inputs.fields
        fields = {f.name: f.value_type for f in (*write.view.join_keys, *others)}
        types |= fields
        types |= {s: fields[n] for s, n in write.field_mapping.items() if n in fields}
    return {
        name: _time(name, text)
        if name in times
        else _column(_value_of(name, types.get(name, 0), text))
        for name, text in features.items()
    }


def _time_columns(destination: Destination) -> set[str]:
    names: set[str] = set()
    for write in destination.writes:
        new = {write.timestamp_column, write.created_column} - {""}
        names |= new | {s for s, n in write.field_mapping.items() if n in new}
    return names


def _time_of_writing(destination: Destination, columns: Mapping[str, Any]) -> TimeColumn | None:
    """The event time of an on-demand view's row that came without one; None for other rows."""
    if not destination.computed or any(
        write.field_mapping.get(name, name) == write.timestamp_column
        for write in destination.writes
        for name in columns
    ):
        return None
    seconds, nanos = divmod(time_ns(), 10**9)
    return TimeColumn.from_timestamps([Timestamp(seconds=seconds, nanos=nanos).SerializeToString()])


def _time(name: str, text: str) -> TimeColumn:
    """A time as pandas reads it, as it does in Feast; without a zone it is UTC."""
    try:
        time = pd.Timestamp(text)
        if time is pd.NaT:
            return TimeColumn.none(1)
        time = time.tz_localize("UTC") if time.tzinfo is None else time.tz_convert("UTC")
        since = time.to_pydatetime(warn=False) - _EPOCH
    except (ValueError, OverflowError) as error:
        raise invalid(f"column {name!r} is {text!r}, which is no time: {error}") from None
    stamp = Timestamp(
        seconds=since.days * 86400 + since.seconds,
        nanos=since.microseconds * 1000 + time.nanosecond,
    )
    return TimeColumn.from_timestamps([stamp.SerializeToString()])


def _truth(text: str) -> bool:
    return _TRUTHS[text.strip().lower()]


def _seconds(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        time = pd.Timestamp(text)
        time = time.tz_localize("UTC") if time.tzinfo is None else time
        return int(time.timestamp() // 1)


# By value type: the member of a Value, and what makes it of a text.
_READERS: dict[ValueType, tuple[str, Callable[[str], Any]]] = {
    ValueType.UNKNOWN: ("string_val", str),
    ValueType.STRING: ("string_val", str),
    ValueType.BYTES: ("bytes_val", str.encode),
    ValueType.INT32: ("int32_val", int),
    ValueType.INT64: ("int64_val", int),
    ValueType.DOUBLE: ("double_val", float),
    ValueType.FLOAT: ("double_val", float),
    ValueType.BOOL: ("bool_val", _truth),
    ValueType.UNIX_TIMESTAMP: ("unix_timestamp_val", _seconds),
}


def _value_of(name: str, value_type: int, text: str) -> Any:
    kind = ValueType(value_type)
    try:
        if kind in _READERS:
            member, read = _READERS[kind]
            return value_pb2.Value(**{member: read(text)})
        made = python_values_to_proto_values([_content(kind, text)], kind)[0]
        return value_pb2.Value.FromString(made.SerializeToString())
    except Exception as error:
        raise invalid(
            f"column {name!r} is {text!r}, which cannot be read as {kind.name}: {error}"
        ) from None


def _content(kind: ValueType, text: str) -> Any:
    """What a text stands for, in a type whose values are made of others: JSON."""
    try:
        # Feast takes whole numbers for nothing but whole numbers.
        real = kind.name.startswith(("DOUBLE_", "FLOAT_"))
        content = json.loads(text, parse_int=float if real else int)
    except ValueError:
        # Texts in a form of their own, such as UUIDs.
        return text
    if kind.name.endswith("_SET") and isinstance(content, list):
        return set(content)
    return content
