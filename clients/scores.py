"""The answers of `FeatureClient.score`, as they come."""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import Any

import grpc

from hotfeast.clients.errors import failure_of
from hotfeast.clients.progress import shown
from hotfeast.clients.score_input import ScoreRows, record_batches, row_count
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

OpenStream = Callable[[Iterator[Any]], Any]
"""Opens a stream of requests, and returns the call with its answers."""


class Scores(ScoredSoFar):
    """The rows of `FeatureClient.score` with their features: an iterator of `pyarrow.RecordBatch`,
    one for each batch that was sent, in order.

    Batches are read from the rows, sent and answered ahead of the one that is looked at, a few at a
    time. Ends when all are answered, or with the first error, behind the batches before it.

    Example:
        ```python
        with client.score("recommendation", frame[["user_id", "product_id"]]) as scores:
            for batch in scores:
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
        """See `FeatureClient.score`."""
        self._state = ScoreState(options)
        self._open_stream = open_stream
        self._options = options
        self._progress = progress
        self._total = row_count(rows)
        self._source = _Source(record_batches(rows, options.batch_size), self._state)
        self._batches = self._run()

    def __iter__(self) -> "Scores":
        return self

    def __next__(self) -> Any:
        """The next batch.

        Raises:
            HotfeastError: It was refused, or the gateway could not be reached for too long.
        """
        return next(self._batches)

    def to_table(self) -> Any:
        """All batches that are left as one `pyarrow.Table`. Where they differ, since versions
        behind an alias do, it has the columns of all, null in rows that have none.

        Example:
            ```python
            table = client.score("recommendation", entities).to_table()
            ```
        """
        return table_of(list(self))

    def close(self) -> None:
        """Ends the stream; what is not answered is given up."""
        self._batches.close()

    def __enter__(self) -> "Scores":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> Generator[Any, None, None]:
        with shown(self._progress) as tell:
            tell(Scored(0, self._total))
            while True:
                try:
                    for batch in self._stream():
                        tell(Scored(self._state.rows, self._total))
                        yield batch
                    return
                except Interrupted as interrupted:
                    wait = self._state.interrupted(interrupted)
                time.sleep(wait)

    def _stream(self) -> Iterator[Any]:
        """The answers of one stream.

        Raises:
            Interrupted: It is over, and another may go on.
        """
        feed = _Feed(self._source, self._state)
        call = self._open_stream(iter(feed))
        try:
            while True:
                answer = self._next(call)
                if answer is None:
                    break
                with self._source.changed:
                    made = self._state.answered(answer)
                    self._source.changed.notify_all()
                yield made
        finally:
            feed.stop()
            call.cancel()
        if self._source.failed is not None:
            raise self._source.failed
        self._state.ended()

    def _next(self, call: Any) -> Any:
        """The next answer; None where there is none. Gives a batch up that is overdue."""
        if self._options.timeout is None:
            return self._received(call)
        watch = _Watch(self._state, call, self._options.timeout)
        try:
            return self._received(call)
        except Interrupted:
            if watch.overdue is not None:
                raise self._state.late(watch.overdue) from None
            raise
        finally:
            watch.stop()

    def _received(self, call: Any) -> Any:
        try:
            return next(call, None)
        except grpc.RpcError as error:
            if self._source.failed is not None:
                raise self._source.failed from None
            raise Interrupted(failure_of(error)) from None


class _Watch:
    """Ends a call whose next answer is overdue."""

    def __init__(self, state: ScoreState, call: Any, timeout: float) -> None:
        self._state = state
        self._call = call
        self._timeout = timeout
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()
        self._stopped = False
        self.overdue: Sent | None = None
        self._start()

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            if self._timer is not None:
                self._timer.cancel()

    def _start(self) -> None:
        self._timer = threading.Timer(self._timeout, self._look)
        self._timer.daemon = True
        self._timer.start()

    def _look(self) -> None:
        with self._lock:
            if self._stopped:
                return
            self.overdue = self._state.overdue()
            if self.overdue is None:
                self._start()
                return
        self._call.cancel()


class _Source:
    """The batches of the rows, for one stream after the other.

    Attributes:
        changed: Guards the state, and is told when a batch is answered.
        failed: Why the rows could not be read on; None where they could.
    """

    def __init__(self, batches: Iterator[Any], state: ScoreState) -> None:
        self._batches = batches
        self._state = state
        self._reading = threading.Lock()
        self._exhausted = False
        self.changed = threading.Condition()
        self.failed: Exception | None = None

    def batch(self, number: int) -> Sent | None:
        """A batch; None where there is none, or it is answered."""
        with self._reading:
            with self.changed:
                if number < self._state.taken:
                    return self._state.again(number)
            if self._exhausted:
                return None
            try:
                rows = next(self._batches, None)
            except Exception as error:
                rows, self.failed = None, error
            if rows is None:
                self._exhausted = True
                return None
            with self.changed:
                return self._state.take(rows)


class _Feed:
    """The requests of one stream, which gRPC reads in a thread of its own."""

    def __init__(self, source: _Source, state: ScoreState) -> None:
        self._source = source
        self._state = state
        self._first = state.batches
        self._stopped = False

    def stop(self) -> None:
        """Sends no more."""
        with self._source.changed:
            self._stopped = True
            self._source.changed.notify_all()

    def __iter__(self) -> Iterator[Any]:
        number = self._first
        while True:
            with self._source.changed:
                while not (self._stopped or self._state.may_send(number)):
                    self._source.changed.wait()
                if self._stopped:
                    return
            sent = self._source.batch(number)
            if sent is None:
                return
            try:
                message = self._state.message(sent, number == self._first)
            except Exception as error:
                # gRPC would only say that the iterator failed.
                self._source.failed = error
                return
            yield message
            number += 1
