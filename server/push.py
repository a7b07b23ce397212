"""The Push service: one batch a call, or many on a stream."""

from collections.abc import Iterator
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from hotfeast.hotpath.errors import InvalidRequest
from hotfeast.hotpath.push import PushBatch
from hotfeast.server.errors import RequestFailure, invalid
from hotfeast.server.plan import PlanSource
from hotfeast.server.push_access import PushAccess
from hotfeast.server.push_rows import ONLINE, Pushed, PushedRows, RowPusher, arrow_columns
from hotfeast.server.streams import OpenStreams, message_failure
from hotfeast.serving.v1 import push_pb2

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
        self._streams = OpenStreams("push", max_streams)

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
        return self._streams.answers(
            requests, context, lambda data: self._answer_on_stream(data, context)
        )

    def stop(self) -> None:
        """Ends all streams once the batch they are working on is answered."""
        self._streams.stop()

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
    return message_failure(error, "a push")


def _answer(batch_id: str, pushed: Pushed) -> bytes:
    answer: Any = push_pb2.PushResponse(batch_id=batch_id)
    answer.outcomes.extend(pushed.outcomes)
    for row, view, field, rule, message in pushed.rejections:
        answer.rejections.add(row=row, feature_view=view, field=field, rule=rule, message=message)
    for target, view, message in pushed.failures:
        answer.failures.add(target=target, feature_view=view, message=message)
    data: bytes = answer.SerializeToString()
    return data
