"""A synchronous client: rows of any form in, columns out."""

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

import grpc

from hotfeast.clients.answers import OnlineFeatures
from hotfeast.clients.columns import Rows
from hotfeast.clients.connection import (
    DEFAULT_TARGET,
    DEFAULT_TIMEOUT,
    Connection,
    Owner,
    Retries,
    Target,
    Tls,
    Token,
)
from hotfeast.clients.errors import failure, failure_of
from hotfeast.clients.hedging import Budget, Hedge, Hedged
from hotfeast.clients.push import Batch, PushResult, push_request
from hotfeast.clients.requests import READ_METHOD, answer_of, read_metadata, read_request
from hotfeast.clients.score_input import ScoreRows
from hotfeast.clients.scores import Scores
from hotfeast.clients.scoring import (
    BATCH_TIMEOUT,
    STREAM_METHOD,
    Progress,
    Resume,
    ScoreOptions,
)
from hotfeast.serving.v1 import push_pb2_grpc, serving_pb2, serving_pb2_grpc


class FeatureClient:
    """A connection to a gateway, or to several. Safe to use from several threads, but not in a
    process that is forked off: make a client there.

    Every call has a deadline. Reads that end with UNAVAILABLE are tried again, at another gateway
    where there are several, within the deadline and a budget; see `Retries`.

    Example:
        ```python
        with FeatureClient("127.0.0.1:6570") as client:
            answer = client.get_online_features(
                "recommendation", entities={"user_id": [1, 2], "product_id": [1082185, 1029743]}
            )
            print(answer.to_dict())
        ```
    """

    def __init__(
        self,
        target: Target = DEFAULT_TARGET,
        timeout: float | None = DEFAULT_TIMEOUT,
        *,
        tls: Tls | None = None,
        token: Token | None = None,
        retries: Retries | None = Retries(),  # noqa: B008 - it is frozen
        keepalive: float | None = None,
        hedge: Hedge | None = None,
    ) -> None:
        """
        Args:
            target: Where the gateway is: `host:port` or `dns:///host:port`, whose addresses take
                turns; `unix:/path`; or a list of `IP:PORT`, which take turns.
            timeout: Seconds that a call may take; None for no limit.
            tls: Encrypt; plain text if None.
            token: Sent as `authorization: Bearer ...`, or a function that returns it, which gRPC
                calls for each call. Needs `tls`.
            retries: How reads are tried again; None: they are not.
            keepalive: Seconds between PINGs while calls are open, and until an answer must have
                come: a gateway that is gone without a word is noticed. None sends none. A gateway
                takes any; behind `--server grpcio`, and Feast's servers, less than 300 are refused.
            hedge: When a read has a second attempt beside the first; None: never.

        Raises:
            OSError: A file of `tls` cannot be read.
            ValueError: An option has no meaning; it is named.
        """
        connection = Connection(target, tls, token, retries, keepalive)
        credentials = connection.credentials()
        options = connection.options()
        self._channel = (
            grpc.insecure_channel(connection.address, options)
            if credentials is None
            else grpc.secure_channel(connection.address, credentials, options)
        )
        self._owner = Owner()
        self._read: Any = self._channel.unary_unary(
            READ_METHOD, request_serializer=serving_pb2.GetOnlineFeaturesRequest.SerializeToString
        )
        self._ask = (
            self._read.with_call if hedge is None else Hedged(self._read, hedge, Budget()).with_call
        )
        self._score: Any = self._channel.stream_stream(
            STREAM_METHOD,
            request_serializer=serving_pb2.GetOnlineFeaturesStreamRequest.SerializeToString,
            response_deserializer=serving_pb2.GetOnlineFeaturesStreamResponse.FromString,
        )
        self._stub: Any = serving_pb2_grpc.FeatureServingStub(self._channel)  # type: ignore[no-untyped-call]
        self._push_stub: Any = push_pb2_grpc.PushStub(self._channel)  # type: ignore[no-untyped-call]
        self._timeout = timeout

    def warm_up(self, timeout: float | None = None) -> None:
        """Connects, and waits until a gateway answers, so that the first request need not.

        Args:
            timeout: Seconds that this may take; the client's if None.

        Raises:
            DeadlineExceeded: No gateway could be reached in time.
            HotfeastError: What was reached is none.

        Example:
            ```python
            client = FeatureClient("dns:///features:6570")
            client.warm_up(timeout=30)  # say that this process is ready after that
            ```
        """
        self._owner.check()
        seconds = self._timeout if timeout is None else timeout
        request = serving_pb2.GetServingInfoRequest()
        try:
            self._stub.GetServingInfo(request, timeout=seconds, wait_for_ready=True)
        except grpc.RpcError as error:
            raise failure_of(error) from None

    def get_online_features(
        self,
        features: str | Sequence[str],
        entities: Rows | None = None,
        *,
        request: Rows | None = None,
        request_context: Rows | None = None,
        full_feature_names: bool = False,
        include_stale_values: bool = False,
        allow_partial_response: bool = False,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> OnlineFeatures:
        """Reads features.

        Args:
            features: The name of a feature service, or a list of `view:feature` references.
            entities: The join keys of each row: columns by name, a list with a dictionary for each
                row, a data frame of pandas or polars, or an Arrow table; columns may be lists,
                NumPy arrays, Series or Arrow arrays. All columns are sent, and have to be wanted.
            request: Request data of on-demand views, in the same forms, with as many rows.
            request_context: An older name of `request`.
            full_feature_names: Name features `view__feature`.
            include_stale_values: Send the values of rows that are OUTSIDE_MAX_AGE too.
            allow_partial_response: Answer although stored rows are corrupt; their cells are
                INVALID, and the answer's `row_errors` says why.
            request_id: Identifies the request where features are logged, for a join with labels;
                printable ASCII, sent as `x-request-id`. The gateway makes one if None.
            timeout: Seconds that this call may take; the client's if None.

        Raises:
            HotfeastError: The gateway refused or could not be reached; a subclass by status.
            TypeError: A value or its form cannot be sent; names the column.
            ValueError: Rows do not have the same names.

        Example:
            ```python
            rows = [{"user_id": 1, "product_id": 1082185}, {"user_id": 2, "product_id": 1029743}]
            answer = client.get_online_features("recommendation", rows)
            matrix = answer.to_numpy(["revenue_usd_30d", "units_count_30d"])
            ```
        """
        message = read_request(
            features,
            entities,
            request,
            request_context,
            full_feature_names,
            include_stale_values,
            allow_partial_response,
        )
        metadata = read_metadata(request_id)
        data, call = self._call(self._ask, message, timeout, metadata)
        return answer_of(data, call.trailing_metadata(), message)

    def score(
        self,
        features: str | Sequence[str],
        rows: ScoreRows,
        *,
        batch_size: int = 2000,
        columns: Sequence[str] | None = None,
        keep: bool | Sequence[str] = True,
        statuses: bool = False,
        event_timestamps: bool = False,
        full_feature_names: bool = False,
        include_stale_values: bool = False,
        allow_partial_response: bool = False,
        ahead: int = 4,
        resume: Resume | None = Resume(),  # noqa: B008 - it is frozen
        progress: bool | Progress = False,
        request_id: str | None = None,
        timeout: float | None = BATCH_TIMEOUT,
    ) -> Scores:
        """Reads the features of any number of rows over one stream, batch by batch, as Arrow. Needs
        pyarrow.

        Where the stream breaks off, or a batch ends with UNAVAILABLE, it goes on with what is not
        answered; see `Resume`. The columns of features are of the types that these are declared
        with, whatever a batch has of them; what Arrow has no plain type for is the binary of a
        serialized `Value`.

        Args:
            features: As for `get_online_features`.
            rows: A `pyarrow.Table`, `RecordBatch` or `RecordBatchReader`, a data frame of pandas or
                polars, columns by name, the path of a Parquet file, or an iterable of any of these,
                which is read as it is needed.
            batch_size: Rows that are sent, read and answered together.
            columns: The columns of the rows that are sent: join keys and request data; all if None.
            keep: Whether the rows' own columns stand before the features: all of them, none, or
                those of these names.
            statuses: Behind each feature its statuses, as `NAME__status`.
            event_timestamps: Behind these its event times, as `NAME__ts`.
            full_feature_names: As for `get_online_features`.
            include_stale_values: As for `get_online_features`.
            allow_partial_response: As for `get_online_features`.
            ahead: Batches that may be sent and not answered. All that is kept in memory are these
                and as many answers.
            resume: How to go on where the stream breaks off; None: not at all.
            progress: True for a bar on the terminal, which needs rich; or a function that is told
                after each batch how far this is.
            request_id: As for `get_online_features`, of all batches.
            timeout: Seconds that the answer to a batch may take; None for no limit.

        Returns:
            An iterator of record batches, whose `to_table` makes one table of them. Its errors:
            HotfeastError for a batch that was refused, or where no gateway could be reached for as
            long as `resume` says; what the rows raise; KeyError for a column that the rows do not
            have; ValueError where a column of theirs has the name of a feature.

        Raises:
            TypeError, ValueError: An option has no meaning; it is named.

        Example:
            ```python
            asked = frame[["user_id", "product_id"]].assign(label=[0, 1])
            scores = client.score("recommendation", asked, columns=["user_id", "product_id"])
            for batch in scores:  # user_id, product_id, label, and the features
                labels, features = batch["label"], batch.select(batch.schema.names[3:])
            ```
        """
        self._owner.check()
        options = ScoreOptions(
            features, columns, keep, statuses, event_timestamps, full_feature_names,
            include_stale_values, allow_partial_response, batch_size, ahead, resume, timeout,
        )  # fmt: skip
        metadata = read_metadata(request_id)
        return Scores(lambda asked: self._score(asked, metadata=metadata), rows, options, progress)

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
            HotfeastError: The gateway refused the batch as a whole, or could not be reached. It is
                not tried again: that is safe online, but offline rows may be there twice.
            TypeError: A value cannot be sent; names the column.
            ValueError: Not one destination is given, or an unknown target.

        Example:
            ```python
            columns = {"user_id": [1], "clicks": [5], "event_timestamp": [datetime.now(UTC)]}
            client.push(columns, push_source="clicks").raise_for_failures()
            ```
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

        Example:
            ```python
            for result in client.push_stream(batches, push_source="clicks"):
                result.raise_for_failures()
            ```
        """
        self._owner.check()
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
                    raise failure(answer.error.code, answer.error.message)
                yield PushResult(answer)
        except grpc.RpcError as error:
            raise failure_of(error) from None
        finally:
            answers.cancel()
        if failed:
            raise failed[0]

    def serving_info(self) -> Any:
        """What the gateway serves: a `GetServingInfoResponse`.

        Example:
            ```python
            client.serving_info().project  # "hotfeast_demo"
            ```
        """
        return self._call(self._stub.GetServingInfo, serving_pb2.GetServingInfoRequest(), None)

    def feature_services(self) -> list[Any]:
        """The feature services: `FeatureServiceInfo` messages, sorted by name.

        Example:
            ```python
            [service.name for service in client.feature_services()]
            ```
        """
        request = serving_pb2.ListFeatureServicesRequest()
        return list(self._call(self._stub.ListFeatureServices, request, None).feature_services)

    def feature_views(self) -> list[Any]:
        """The feature views: `FeatureViewInfo` messages, sorted by name.

        Example:
            ```python
            {view.name: [f.name for f in view.features] for view in client.feature_views()}
            ```
        """
        request = serving_pb2.ListFeatureViewsRequest()
        return list(self._call(self._stub.ListFeatureViews, request, None).feature_views)

    def close(self) -> None:
        """Closes the connection; in a process that was forked off it has none to close."""
        if self._owner.here:
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
        self._owner.check()
        seconds = self._timeout if timeout is None else timeout
        try:
            return method(request, timeout=seconds, metadata=metadata)
        except grpc.RpcError as error:
            raise failure_of(error) from None
