"""The answers of `AsyncFeatureClient.score`, as they come."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from types import TracebackType
from typing import Any

import grpc

from hotfeast.clients.errors import HotfeastError, failure, failure_of
from hotfeast.clients.progress import shown
from hotfeast.clients.score_input import ScoreRows, record_batches_of, row_count
from hotfeast.clients.scoring import (
    Interrupted,
    Progress,
    Scored,
    ScoredSoFar,
    ScoreOptions,
    ScoreState,
    Sent,
    table_of,
)

OpenStream = Callable[[AsyncIterator[Any]], Any]
"""Opens a stream of requests, and returns the call with its answers."""


class AsyncScores(ScoredSoFar):
    """`Scores` for asyncio: an asynchronous iterator of `pyarrow.RecordBatch`.

    Rows that are no asynchronous iterable are read in the event loop.

    Example:
        ```python
        async for batch in client.score("recommendation", frame[["user_id", "product_id"]]):
            predictions = model.predict(batch.to_pandas().to_numpy())
        ```
    """

    def __init__(
        self,
        open_stream: OpenStream,
        rows: ScoreRows,
        options: ScoreOptions,
        progress: bool | Progress,
    ) -> None:
        """See `AsyncFeatureClient.score`."""
        self._state = ScoreState(options)
        self._open_stream = open_stream
        self._options = options
        self._progress = progress
        self._total = row_count(rows)
        self._rows = record_batches_of(rows, options.batch_size)
        self._reading = asyncio.Lock()
        self._changed = asyncio.Condition()
        self._exhausted = False
        self._failed: Exception | None = None
        self._batches = self._run()

    def __aiter__(self) -> "AsyncScores":
        return self

    async def __anext__(self) -> Any:
        """The next batch; errors as of `Scores`."""
        return await anext(self._batches)

    async def to_table(self) -> Any:
        """As `Scores.to_table`.

        Example:
            ```python
            table = await client.score("recommendation", entities).to_table()
            ```
        """
        return table_of([batch async for batch in self])

    async def close(self) -> None:
        """As `Scores.close`."""
        await self._batches.aclose()

    async def __aenter__(self) -> "AsyncScores":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _run(self) -> AsyncGenerator[Any, None]:
        with shown(self._progress) as tell:
            tell(Scored(0, self._total))
            while True:
                stream = self._stream()
                try:
                    async for batch in stream:
                        tell(Scored(self._state.rows, self._total))
                        yield batch
                    return
                except Interrupted as interrupted:
                    wait = self._state.interrupted(interrupted)
                finally:
                    await stream.aclose()
                await asyncio.sleep(wait)

    async def _stream(self) -> AsyncGenerator[Any, None]:
        """The answers of one stream.

        Raises:
            Interrupted: It is over, and another may go on.
        """
        call = self._open_stream(self._requests())
        try:
            while (answer := await self._next(call)) is not None:
                async with self._changed:
                    made = self._state.answered(answer)
                    self._changed.notify_all()
                yield made
        finally:
            call.cancel()
        if self._failed is not None:
            raise self._failed
        self._state.ended()

    async def _requests(self) -> AsyncIterator[Any]:
        """The requests of one stream; gRPC's task that reads them ends with the call."""
        first = number = self._state.batches
        while True:
            async with self._changed:
                await self._changed.wait_for(partial(self._state.may_send, number))
            sent = await self._batch(number)
            if sent is None:
                return
            try:
                message = self._state.message(sent, number == first)
            except Exception as error:
                # gRPC would only say that the iterator failed.
                self._failed = error
                return
            yield message
            number += 1

    async def _batch(self, number: int) -> Sent | None:
        """A batch; None where there is none, or it is answered."""
        async with self._reading:
            if number < self._state.taken:
                return self._state.again(number)
            if self._exhausted:
                return None
            try:
                rows = await anext(self._rows, None)
            except Exception as error:
                rows, self._failed = None, error
            if rows is None:
                self._exhausted = True
                return None
            return self._state.take(rows)

    async def _next(self, call: Any) -> Any:
        """The next answer; None where there is none. Gives a batch up that is overdue."""
        reading = asyncio.ensure_future(call.read())
        try:
            while not reading.done():
                await asyncio.wait({reading}, timeout=self._options.timeout)
                overdue = self._state.overdue()
                if overdue is not None and not reading.done():
                    raise self._state.late(overdue)
            answer = reading.result()
        except grpc.RpcError as error:
            if self._failed is not None:
                raise self._failed from None
            raise Interrupted(_failure_of(error)) from None
        finally:
            reading.cancel()
        return None if answer is grpc.aio.EOF else answer


def _failure_of(error: Any) -> HotfeastError:
    """The error for a stream that ended. Where that was while a request was sent, grpcio (1.85)
    does not say how it ended; it may go on."""
    known = failure_of(error)
    if known.code is grpc.StatusCode.INTERNAL and known.message == "Internal error from Core":
        return failure(grpc.StatusCode.UNAVAILABLE, "the stream ended while a batch was sent")
    return known
