"""A synchronous client: plain Python values in, plain Python values out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import unquote

import grpc

from hotfeast.clients.columns import column
from hotfeast.clients.push import Batch, PushResult, push_request
from hotfeast.serving.v1 import push_pb2_grpc, serving_pb2, serving_pb2_grpc

_STATUS_NAMES = {v.number: v.name for v in serving_pb2.FieldStatus.DESCRIPTOR.values}
# What Feast stores for a null in a UNIX_TIMESTAMP column.
_FEAST_NULL = -(2**63)
_CODES = {code.value[0]: code for code in grpc.StatusCode}


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

    def __init__(self, proto: Any, metadata: Iterable[tuple[str, str]] = ()) -> None:
        """
        Args:
            proto: The message.
            metadata: The trailing metadata that came with it.
        """
        self.proto = proto
        self._metadata = tuple(metadata)

    @property
    def feature_service(self) -> str | None:
        """Which version has answered, where an alias was asked for; None elsewhere."""
        return next(iter(self._said("hotfeast-feature-service")), None)

    @property
    def warnings(self) -> list[str]:
        """What is deprecated of what was read, and until when it is there."""
        return self._said("hotfeast-warning")

    def _said(self, wanted: str) -> list[str]:
        return [unquote(value) for name, value in self._metadata if name == wanted]

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
        self._push_stub: Any = push_pb2_grpc.PushStub(self._channel)  # type: ignore[no-untyped-call]
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
        request_id: str | None = None,
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
            request_id: Identifies the request where features are logged, for a join with labels;
                printable ASCII, sent as `x-request-id`. The gateway makes one if None.
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
            request.entities[name].CopyFrom(column(name, values))
        for name, values in (request_context or {}).items():
            request.request_context[name].CopyFrom(column(name, values))
        metadata = None if request_id is None else (("x-request-id", request_id),)
        read = self._stub.GetOnlineFeatures.with_call
        answer, call = self._call(read, request, timeout, metadata)
        return OnlineFeatures(answer, call.trailing_metadata() or ())

    def push(
        self,
        columns: Batch,
        *,
        push_source: str | None = None,
        feature_view: str | None = None,
        target: str = "online",
        timeout: float | None = None,
    ) -> PushResult:
        """Writes rows.

        Lists, dictionaries and datetimes with fractions of a second are sent as Arrow, for which
        `pyarrow` has to be installed; all else goes without it.

        Args:
            columns: For each column of the source (join keys, features, timestamps) its values, all
                of one length; or a `pyarrow.Table` or `RecordBatch`. A datetime without a zone is
                UTC.
            push_source: Where the rows go: a push source, or else a view.
            feature_view: Where the rows go: a view, or else a push source.
            target: `online`, `offline` or `online_and_offline`.
            timeout: Seconds that this call may take; the client's if None.

        Returns:
            What became of each row. Rows that were rejected, or that a target failed for, raise no
            exception: look at `ok`, or call `raise_for_failures`.

        Raises:
            HotfeastError: The gateway refused the batch as a whole, or could not be reached.
            TypeError: A value cannot be sent; names the column.
            ValueError: Not one destination is given, or an unknown target.
        """
        request = push_request(columns, push_source, feature_view, target)
        return PushResult(self._call(self._push_stub.Push, request, timeout))

    def push_stream(
        self,
        batches: Iterable[Batch],
        *,
        push_source: str | None = None,
        feature_view: str | None = None,
        target: str = "online",
    ) -> Iterator[PushResult]:
        """Writes batches over one stream; each is read from `batches` when the gateway wants it.

        Args:
            batches: Columns as for `push`.
            push_source: As for `push`.
            feature_view: As for `push`.
            target: As for `push`.

        Yields:
            For each batch, in order, what became of its rows.

        Raises:
            HotfeastError: The gateway refused a batch as a whole, or ended the stream. Batches
                before it are written.
            TypeError, ValueError: As for `push`.
        """
        failed: list[Exception] = []

        def requests() -> Iterator[Any]:
            try:
                for columns in batches:
                    yield push_request(columns, push_source, feature_view, target)
            except Exception as error:
                # gRPC would only say that the iterator failed.
                failed.append(error)

        answers = self._push_stub.PushStream(requests())
        try:
            for answer in answers:
                if answer.HasField("error"):
                    code = _CODES.get(answer.error.code, grpc.StatusCode.UNKNOWN)
                    raise HotfeastError(code, answer.error.message)
                yield PushResult(answer)
        except grpc.RpcError as error:
            raise HotfeastError(error.code(), error.details() or "") from None
        finally:
            answers.cancel()
        if failed:
            raise failed[0]

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

    def _call(
        self,
        method: Any,
        request: Any,
        timeout: float | None,
        metadata: tuple[tuple[str, str], ...] | None = None,
    ) -> Any:
        seconds = self._timeout if timeout is None else timeout
        try:
            return method(request, timeout=seconds, metadata=metadata)
        except grpc.RpcError as error:
            raise HotfeastError(error.code(), error.details() or "") from None


def _python_value(value: Any) -> Any:
    kind = value.WhichOneof("val")
    if kind is None or kind == "null_val":
        return None
    content = getattr(value, kind)
    if kind == "unix_timestamp_val":
        if content == _FEAST_NULL:
            return None
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
