"""A synchronous client: plain Python values in, plain Python values out."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, NamedTuple

import grpc

from hotfeast.serving.v1 import serving_pb2, serving_pb2_grpc, value_pb2

_STATUS_NAMES = {v.number: v.name for v in serving_pb2.FieldStatus.DESCRIPTOR.values}

# Feast keeps int32 apart from int64; a Python int is sent as int64, which the gateway narrows.
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


class HotfeastError(Exception):
    """A request failed.

    Attributes:
        code: The gRPC status code.
        message: The gateway's message.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message


class FeatureRow(NamedTuple):
    """One row of the answer; each dictionary is keyed by column name."""

    values: dict[str, Any]
    statuses: dict[str, str]
    event_timestamps: dict[str, datetime | None]


class OnlineFeatures:
    """The answer to a request: columns of values, statuses and event timestamps.

    Attributes:
        proto: The message as it came, a `GetOnlineFeaturesResponse`.
    """

    def __init__(self, proto: Any) -> None:
        self.proto = proto

    @property
    def names(self) -> list[str]:
        """Column names: the join keys, then the features."""
        return list(self.proto.metadata.feature_names.val)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.proto.results[0].statuses) if self.proto.results else 0

    def to_dict(self) -> dict[str, list[Any]]:
        """The values, one list per column; None where a value is null, missing or too old."""
        return {
            name: [_python_value(v) for v in vector.values]
            for name, vector in zip(self.names, self.proto.results, strict=True)
        }

    @property
    def statuses(self) -> dict[str, list[str]]:
        """The statuses, one list per column: PRESENT, NULL_VALUE, NOT_FOUND or OUTSIDE_MAX_AGE, and
        INVALID in a partial answer."""
        return {
            name: [_STATUS_NAMES.get(s, str(s)) for s in vector.statuses]
            for name, vector in zip(self.names, self.proto.results, strict=True)
        }

    @property
    def event_timestamps(self) -> dict[str, list[datetime | None]]:
        """The event times in UTC, one list per column; None for join keys and missing rows."""
        return {
            name: [_python_time(t) for t in vector.event_timestamps]
            for name, vector in zip(self.names, self.proto.results, strict=True)
        }

    @property
    def row_errors(self) -> list[Any]:
        """What is missing from a partial answer: `RowError` messages with `feature_view`, `rows`,
        `code` and `message`; empty where everything could be read."""
        return list(self.proto.metadata.row_errors)

    def rows(self) -> Iterator[FeatureRow]:
        """The answer row by row."""
        values, statuses, times = self.to_dict(), self.statuses, self.event_timestamps
        for i in range(len(self)):
            yield FeatureRow(
                {name: column[i] for name, column in values.items()},
                {name: column[i] for name, column in statuses.items()},
                {name: column[i] for name, column in times.items()},
            )

    def __repr__(self) -> str:
        return f"<OnlineFeatures: {len(self)} rows of {', '.join(self.names)}>"


class FeatureClient:
    """A connection to a gateway. Safe to use from several threads.

    Example:
        ```python
        with FeatureClient("127.0.0.1:6570") as client:
            answer = client.get_online_features(
                "recommendation", entities={"user_id": [1, 2], "product_id": [1082185, 1029743]}
            )
            print(answer.to_dict())
        ```
    """

    def __init__(self, target: str = "127.0.0.1:6570", timeout: float | None = 5.0) -> None:
        """
        Args:
            target: A gRPC target, `host:port` for one.
            timeout: Seconds that a call may take; None for no limit.
        """
        self._channel = grpc.insecure_channel(
            target, options=[("grpc.max_receive_message_length", -1)]
        )
        self._stub: Any = serving_pb2_grpc.FeatureServingStub(self._channel)  # type: ignore[no-untyped-call]
        self._timeout = timeout

    def get_online_features(
        self,
        features: str | Sequence[str],
        entities: Mapping[str, Sequence[Any]] | None = None,
        *,
        request_context: Mapping[str, Sequence[Any]] | None = None,
        full_feature_names: bool = False,
        include_stale_values: bool = False,
        allow_partial_response: bool = False,
        timeout: float | None = None,
    ) -> OnlineFeatures:
        """Reads features.

        Args:
            features: The name of a feature service, or a list of `view:feature` references.
            entities: For each join key a column of values; all of one length.
            request_context: For each request field a column of values, of the same length.
            full_feature_names: Name features `view__feature`.
            include_stale_values: Send the values of rows that are OUTSIDE_MAX_AGE too.
            allow_partial_response: Answer although stored rows are corrupt; their cells are
                INVALID, and the answer's `row_errors` says why.
            timeout: Seconds that this call may take; the client's if None.

        Raises:
            HotfeastError: The gateway refused or could not be reached.
            TypeError: A value cannot be sent; names the column.
        """
        request = serving_pb2.GetOnlineFeaturesRequest(
            full_feature_names=full_feature_names,
            include_stale_values=include_stale_values,
            allow_partial_response=allow_partial_response,
        )
        if isinstance(features, str):
            request.feature_service = features
        else:
            request.features.val.extend(features)
        for name, values in (entities or {}).items():
            request.entities[name].CopyFrom(_column(name, values))
        for name, values in (request_context or {}).items():
            request.request_context[name].CopyFrom(_column(name, values))
        return OnlineFeatures(self._call(self._stub.GetOnlineFeatures, request, timeout))

    def serving_info(self) -> Any:
        """What the gateway serves: a `GetServingInfoResponse`."""
        return self._call(self._stub.GetServingInfo, serving_pb2.GetServingInfoRequest(), None)

    def feature_services(self) -> list[Any]:
        """The feature services: `FeatureServiceInfo` messages, sorted by name."""
        request = serving_pb2.ListFeatureServicesRequest()
        return list(self._call(self._stub.ListFeatureServices, request, None).feature_services)

    def feature_views(self) -> list[Any]:
        """The feature views: `FeatureViewInfo` messages, sorted by name."""
        request = serving_pb2.ListFeatureViewsRequest()
        return list(self._call(self._stub.ListFeatureViews, request, None).feature_views)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def __enter__(self) -> "FeatureClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self, method: Any, request: Any, timeout: float | None) -> Any:
        try:
            return method(request, timeout=self._timeout if timeout is None else timeout)
        except grpc.RpcError as error:
            raise HotfeastError(error.code(), error.details() or "") from None


def _column(name: str, values: Sequence[Any]) -> Any:
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


def _python_value(value: Any) -> Any:
    kind = value.WhichOneof("val")
    if kind is None or kind == "null_val":
        return None
    content = getattr(value, kind)
    if kind == "unix_timestamp_val":
        return datetime.fromtimestamp(content, UTC)
    if kind in ("list_val", "set_val"):
        return [_python_value(v) for v in content.val]
    if kind in ("map_val", "struct_val"):
        return {key: _python_value(v) for key, v in content.val.items()}
    if kind in ("map_list_val", "struct_list_val"):
        return [{key: _python_value(v) for key, v in m.val.items()} for m in content.val]
    if kind in ("unix_timestamp_list_val", "unix_timestamp_set_val"):
        return [datetime.fromtimestamp(v, UTC) for v in content.val]
    if kind == "scalar_map_val":
        return {
            getattr(entry.key, entry.key.WhichOneof("key")): _python_value(entry.value)
            for entry in content.val
        }
    if kind == "zoned_timestamp_val":
        return datetime.fromtimestamp(content.unix_timestamp, UTC)
    return list(content.val) if hasattr(content, "val") else content


def _python_time(time: Any) -> datetime | None:
    if time.seconds == 0 and time.nanos == 0:
        return None
    moment: datetime = time.ToDatetime(tzinfo=UTC)
    return moment
