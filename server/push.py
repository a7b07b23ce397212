"""The Push service: one batch a call, or many on a stream."""

import logging
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from hotfeast.hotpath.errors import InvalidRequest
from hotfeast.hotpath.push import PushBatch
from hotfeast.server.errors import RequestFailure, failure_of, invalid
from hotfeast.server.plan import PlanSource
from hotfeast.server.push_access import PushAccess
from hotfeast.server.push_rows import ONLINE, Pushed, PushedRows, RowPusher, arrow_columns
from hotfeast.serving.v1 import push_pb2

logger = logging.getLogger(__name__)

_TARGETS = {0: ONLINE, **{number: number for number in push_pb2.PushTarget.values() if number}}


class PushService:
    """Answers `Push` and `PushStream`."""

    def __init__(
        self,
        plans: PlanSource,
        destinations: PushAccess,
        pusher: RowPusher,
        max_streams: int,
    ) -> None:
        """
        Args:
            plans: The plans of the moment.
            destinations: Where pushes go, of those who may.
            pusher: Writes batches.
            max_streams: Streams that may be open at once.
        """
        self._plans = plans
        self._destinations = destinations
        self._pusher = pusher
        self._max_streams = max_streams
        self._lock = threading.Lock()
        self._streams: set[_Batches] = set()
        self._stopping = False

    def push(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        """Writes one batch; request and answer are serialized."""
        try:
            batch = _parse(data)
            pushed, target = self._push(batch, context)
        except Exception as error:
            failure = push_failure(error)
            context.abort(failure.code, failure.message)
            raise AssertionError("abort() returned") from None
        if pushed.unavailable and target == ONLINE:
            abort_unavailable(context, pushed.unavailable)
        return _answer(batch.batch_id, pushed)

    def push_stream(
        self, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        """Writes batches, and answers each before the next is read."""
        batches = _Batches(requests)
        with self._lock:
            if self._stopping:
                refusal = (grpc.StatusCode.UNAVAILABLE, "shutting down")
            elif len(self._streams) >= self._max_streams:
                refusal = (
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"{self._max_streams} streams are open, which is the limit (--push-streams)",
                )
            else:
                refusal = None
                self._streams.add(batches)
        if refusal is not None:
            context.abort(*refusal)
        context.add_callback(batches.close)
        try:
            batches.start()
            while (data := batches.next()) is not None:
                yield self._answer_on_stream(data, context)
            if self._stopping and batches.interrupted:
                context.abort(grpc.StatusCode.UNAVAILABLE, "shutting down")
        finally:
            batches.close()
            with self._lock:
                self._streams.discard(batches)

    def stop(self) -> None:
        """Ends all streams once the batch they are working on is answered."""
        with self._lock:
            self._stopping = True
            streams = list(self._streams)
        for batches in streams:
            batches.close()

    def _answer_on_stream(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        batch_id = ""
        try:
            batch = _parse(data)
            batch_id = batch.batch_id
            pushed, _ = self._push(batch, context)
        except Exception as error:
            failure = push_failure(error)
            refused = push_pb2.BatchError(code=failure.code.value[0], message=failure.message)
            return push_pb2.PushResponse(batch_id=batch_id, error=refused).SerializeToString()
        return _answer(batch_id, pushed)

    def _push(self, batch: PushBatch, context: grpc.ServicerContext) -> tuple[Pushed, int]:
        name = batch.destination
        if name is None:
            raise invalid("set push_source or feature_view: the batch goes nowhere")
        target = _TARGETS.get(batch.target)
        if target is None:
            raise invalid(f"target {batch.target} is none; use ONLINE, OFFLINE or both")
        destination = self._destinations.find(
            self._plans.book, batch.by_push_source, name, target, context
        )
        if batch.arrow_ipc is not None:
            rows = PushedRows(arrow_columns(batch.arrow_ipc))
        elif batch.columns is not None:
            rows = PushedRows(batch.columns, batch.event_timestamps, batch.created_timestamps)
        else:
            raise invalid("set columns or arrow_ipc: the batch has no rows")
        return self._pusher.push(destination, target, rows, context.time_remaining), target


def abort_unavailable(context: grpc.ServicerContext, message: str) -> NoReturn:
    """Ends a call that Redis has not answered, or not in the caller's time."""
    left = context.time_remaining()
    if left is not None and left <= 0:
        context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, message)
    context.abort(grpc.StatusCode.UNAVAILABLE, message)
    raise AssertionError("abort() returned")


class _Batches:
    """The batches of a stream, each read when it is asked for, until somebody closes it.

    gRPC's iterator waits for the client, however long; so another thread does, and this can end.

    Attributes:
        interrupted: Whether it was closed before the client had sent its last batch.
    """

    def __init__(self, requests: Iterator[bytes]) -> None:
        self._requests = requests
        self._changed = threading.Condition()
        self._wanted = False
        self._batch: bytes | None = None
        self._ended = False
        self._closed = False
        self.interrupted = False

    def start(self) -> None:
        """Starts reading."""
        threading.Thread(target=self._read, name="push-stream", daemon=True).start()

    def next(self) -> bytes | None:
        """The next batch; None where there is none."""
        with self._changed:
            self._wanted = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._batch is not None or self._ended or self._closed)
            if self._closed or self._batch is None:
                self.interrupted = self._closed and not self._ended
                return None
            batch, self._batch = self._batch, None
            return batch

    def close(self) -> None:
        """Ends the stream for whoever waits for a batch."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _read(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._closed)
                if self._closed:
                    return
                self._wanted = False
            try:
                batch = next(self._requests, None)
            except Exception:
                # The call is over: cancelled, or its connection is gone.
                batch = None
            with self._changed:
                self._batch = batch
                self._ended = batch is None
                self._changed.notify_all()
                if batch is None:
                    return


def _parse(data: bytes) -> PushBatch:
    batch = PushBatch(data)
    if batch.canonical:
        return batch
    try:
        # Unknown fields stay: a value of a type that is not known here is to be refused, not null.
        batch = PushBatch(push_pb2.PushRequest.FromString(data).SerializeToString())
    except DecodeError as error:
        raise InvalidRequest(f"the request is not a PushRequest: {error}") from error
    if not batch.canonical:
        # protobuf has put an entry with unknown fields aside, and kept another of the same name.
        raise InvalidRequest("the request has a column twice, once with unknown fields")
    return batch


def push_failure(error: Exception) -> RequestFailure:
    """The status of an error that a batch as a whole has."""
    failure = failure_of(error)
    if failure is None:
        logger.error("a push failed", exc_info=error)
        failure = RequestFailure(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
    return failure


def _answer(batch_id: str, pushed: Pushed) -> bytes:
    answer: Any = push_pb2.PushResponse(batch_id=batch_id)
    answer.outcomes.extend(pushed.outcomes)
    for row, view, field, rule, message in pushed.rejections:
        answer.rejections.add(row=row, feature_view=view, field=field, rule=rule, message=message)
    for target, view, message in pushed.failures:
        answer.failures.add(target=target, feature_view=view, message=message)
    data: bytes = answer.SerializeToString()
    return data
