"""The client for asyncio."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Any

import grpc

from hotfeast.clients.aio_scores import AsyncScores
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
from hotfeast.clients.hedging import Budget, Hedge, hedged
from hotfeast.clients.push import Batch, PushResult, push_request
from hotfeast.clients.requests import READ_METHOD, answer_of, read_metadata, read_request
from hotfeast.clients.score_input import ScoreRows
from hotfeast.clients.scoring import (
    BATCH_TIMEOUT,
    STREAM_METHOD,
    Progress,
    Resume,
    ScoreOptions,
)
from hotfeast.serving.v1 import push_pb2_grpc, serving_pb2, serving_pb2_grpc


class AsyncFeatureClient:
    """`FeatureClient` for asyncio: the same calls, to be awaited. Belongs to the event loop in
    which it is made.

    Example:
        ```python
        async with AsyncFeatureClient("dns:///features:6570") as client:
            answers = await asyncio.gather(
                client.get_online_features("recommendation", first),
                client.get_online_features("purchase_propensity", second),
            )
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
        """Arguments and errors as for `FeatureClient`."""
        connection = Connection(target, tls, token, retries, keepalive)
        credentials = connection.credentials()
        options = connection.options()
        self._channel = (
            grpc.aio.insecure_channel(connection.address, options)
            if credentials is None
            else grpc.aio.secure_channel(connection.address, credentials, options)
        )
        self._owner = Owner()
        self._read: Any = self._channel.unary_unary(
            READ_METHOD, request_serializer=serving_pb2.GetOnlineFeaturesRequest.SerializeToString
        )
        self._hedge = hedge
        self._budget = Budget()
        self._score: Any = self._channel.stream_stream(
            STREAM_METHOD,
            request_serializer=serving_pb2.GetOnlineFeaturesStreamRequest.SerializeToString,
            response_deserializer=serving_pb2.GetOnlineFeaturesStreamResponse.FromString,
        )
        self._stub: Any = serving_pb2_grpc.FeatureServingStub(self._channel)  # type: ignore[no-untyped-call]
        self._push_stub: Any = push_pb2_grpc.PushStub(self._channel)  # type: ignore[no-untyped-call]
        self._timeout = timeout

    async def warm_up(self, timeout: float | None = None) -> None:
        """Connects, and waits until a gateway answers; see `FeatureClient.warm_up`.

        Example:
            ```python
            await client.warm_up(timeout=30)
            ```
        """
        request = serving_pb2.GetServingInfoRequest()
        await self._call(self._stub.GetServingInfo, request, timeout, wait_for_ready=True)

    async def get_online_features(
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
        """Reads features; arguments and errors as for `FeatureClient.get_online_features`.

        Example:
            ```python
            asked = {"user_id": [1, 2], "product_id": [1082185, 1029743]}
            answer = await client.get_online_features("recommendation", asked)
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
        self._owner.check()
        options = {"timeout": self._seconds(timeout), "metadata": metadata}
        try:
            if self._hedge is None:
                call = self._read(message, **options)
            else:
                call = await hedged(self._read, self._hedge, self._budget, message, **options)
            data = await call
            trailing = await call.trailing_metadata()
        except grpc.RpcError as error:
            raise failure_of(error) from None
        return answer_of(data, trailing, message)

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
    ) -> AsyncScores:
        """Reads the features of any number of rows over one stream; arguments and errors as for
        `FeatureClient.score`, and `rows` may be an asynchronous iterable.

        Example:
            ```python
            async for batch in client.score("recommendation", entities, batch_size=5000):
                predictions = model.predict(batch.to_pandas().to_numpy())
            ```
        """
        self._owner.check()
        options = ScoreOptions(
            features, columns, keep, statuses, event_timestamps, full_feature_names,
            include_stale_values, allow_partial_response, batch_size, ahead, resume, timeout,
        )  # fmt: skip
        metadata = read_metadata(request_id)
        return AsyncScores(
            lambda asked: self._score(asked, metadata=metadata), rows, options, progress
        )

    async def push(
        self,
        columns: Batch,
        *,
        push_source: str | None = None,
        feature_view: str | None = None,
        target: str = "online",
        timeout: float | None = None,
    ) -> PushResult:
        """Writes rows; arguments, result and errors as for `FeatureClient.push`.

        Example:
            ```python
            (await client.push(columns, push_source="clicks")).raise_for_failures()
            ```
        """
        request = push_request(columns, push_source, feature_view, target)
        return PushResult(await self._call(self._push_stub.Push, request, timeout))

    async def push_stream(
        self,
        batches: Iterable[Batch] | AsyncIterable[Batch],
        *,
        push_source: str | None = None,
        feature_view: str | None = None,
        target: str = "online",
    ) -> AsyncIterator[PushResult]:
        """Writes batches over one stream; arguments, results and errors as for
        `FeatureClient.push_stream`, and `batches` may be an asynchronous iterator.

        Example:
            ```python
            async for result in client.push_stream(batches, push_source="clicks"):
                result.raise_for_failures()
            ```
        """
        self._owner.check()
        failed: list[Exception] = []

        async def requests() -> AsyncIterator[Any]:
            try:
                async for columns in _each(batches):
                    yield push_request(columns, push_source, feature_view, target)
            except Exception as error:
                # gRPC would only say that the iterator failed.
                failed.append(error)

        answers = self._push_stub.PushStream(requests())
        try:
            async for answer in answers:
                if answer.HasField("error"):
                    raise failure(answer.error.code, answer.error.message)
                yield PushResult(answer)
        except grpc.RpcError as error:
            raise failure_of(error) from None
        finally:
            answers.cancel()
        if failed:
            raise failed[0]

    async def serving_info(self) -> Any:
        """What the gateway serves: a `GetServingInfoResponse`.

        Example:
            ```python
            (await client.serving_info()).project  # "hotfeast_demo"
            ```
        """
        request = serving_pb2.GetServingInfoRequest()
        return await self._call(self._stub.GetServingInfo, request, None)

    async def feature_services(self) -> list[Any]:
        """The feature services: `FeatureServiceInfo` messages, sorted by name.

        Example:
            ```python
            [service.name for service in await client.feature_services()]
            ```
        """
        request = serving_pb2.ListFeatureServicesRequest()
        answer = await self._call(self._stub.ListFeatureServices, request, None)
        return list(answer.feature_services)

    async def feature_views(self) -> list[Any]:
        """The feature views: `FeatureViewInfo` messages, sorted by name.

        Example:
            ```python
            [view.name for view in await client.feature_views()]
            ```
        """
        request = serving_pb2.ListFeatureViewsRequest()
        return list((await self._call(self._stub.ListFeatureViews, request, None)).feature_views)

    async def close(self) -> None:
        """Closes the connection; in a process that was forked off it has none to close."""
        if self._owner.here:
            await self._channel.close()

    async def __aenter__(self) -> "AsyncFeatureClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _seconds(self, timeout: float | None) -> float | None:
        return self._timeout if timeout is None else timeout

    async def _call(
        self, method: Any, request: Any, timeout: float | None, wait_for_ready: bool = False
    ) -> Any:
        self._owner.check()
        try:
            return await method(
                request, timeout=self._seconds(timeout), wait_for_ready=wait_for_ready
            )
        except grpc.RpcError as error:
            raise failure_of(error) from None


async def _each(batches: Iterable[Batch] | AsyncIterable[Batch]) -> AsyncIterator[Batch]:
    if isinstance(batches, AsyncIterable):
        async for batch in batches:
            yield batch
    else:
        for batch in batches:
            yield batch
