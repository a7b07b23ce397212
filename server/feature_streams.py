"""Streams of rows whose features are read, batch by batch, each as a request of its own."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError

from hotfeast.hotpath.answer import Answer
from hotfeast.server.errors import RequestFailure, invalid
from hotfeast.server.security.identity import Identity
from hotfeast.server.servicer import FEATURE_SERVING, ContextCaller, FeatureServicer
from hotfeast.server.streamed_columns import answer_ipc, request_bytes, varint
from hotfeast.server.streams import OpenStreams, message_failure
from hotfeast.server.telemetry.records import Record
from hotfeast.server.telemetry.service_figures import PlanFigures
from hotfeast.server.traffic.deprecation import WARNING
from hotfeast.server.traffic.notes import Note
from hotfeast.server.traffic.routes import ANSWERED_BY
from hotfeast.serving.v1 import serving_pb2

METHOD = f"{FEATURE_SERVING}/GetOnlineFeaturesStream"
"""As calls are counted."""

# While Redis looks up the rows of one batch, the columns of another are made.
_AT_ONCE = 2
# The tag of `GetOnlineFeaturesStreamResponse.arrow_ipc`.
_ARROW_IPC = b"\x12"


class _Read(NamedTuple):
    """What the batches of a stream are asked for.

    Attributes:
        request: A serialized `GetOnlineFeaturesRequest` without columns.
        statuses: Whether statuses are sent.
        event_timestamps: Whether event times are.
    """

    request: bytes
    statuses: bool
    event_timestamps: bool


class _Asked(NamedTuple):
    """A message of a stream.

    Attributes:
        batch: Its number.
        arrow_ipc: Its rows.
        read: What is asked for.
        failure: Why it cannot be answered; None where it can.
    """

    batch: int
    arrow_ipc: bytes
    read: _Read | None
    failure: RequestFailure | None = None


class _BatchCaller:
    """Who sends a batch, as of its stream; but what is said and kept is of the batch.

    Attributes:
        note: What is said of the batch; None for most.
        record: What is kept of it for traces and logs; None for most.
        figures: What counts it beside others of its plan; None where nothing does.
    """

    def __init__(self, context: grpc.ServicerContext) -> None:
        # The call of our own server, or of grpcio's.
        self._call: Any = getattr(context, "credentials", None) or ContextCaller(context)
        self.note: Note | None = None
        self.record: Record | None = None
        self.figures: PlanFigures | None = None

    @property
    def caller(self) -> bytes | None:
        """`x-caller`, else `user-agent`; None where there is neither."""
        return cast("bytes | None", self._call.caller)

    @property
    def request_id(self) -> bytes | None:
        """`x-request-id`; None where there is none."""
        return cast("bytes | None", self._call.request_id)

    @property
    def traceparent(self) -> bytes | None:
        """`traceparent`; None where there is none."""
        return cast("bytes | None", self._call.traceparent)

    @property
    def authorization(self) -> bytes | None:
        """`authorization`; None where there is none."""
        return cast("bytes | None", self._call.authorization)

    @property
    def identity(self) -> Identity | None:
        """Who the client's certificate says that it is; None for nobody."""
        return cast("Identity | None", self._call.identity)

    @property
    def address(self) -> bytes | str:
        """The client's."""
        return cast("bytes | str", self._call.address)


class FeatureStreams:
    """Answers `GetOnlineFeaturesStream`."""

    def __init__(
        self,
        servicer: FeatureServicer,
        max_streams: int,
        count: Callable[[str, grpc.StatusCode, float], None] | None = None,
    ) -> None:
        """
        Args:
            servicer: Answers requests.
            max_streams: Streams that may be open at once.
            count: Is told of each batch, as of a call that is over.
        """
        self._servicer = servicer
        self._streams = OpenStreams("read", max_streams)
        self._count = count

    def get_online_features_stream(
        self, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        """Answers serialized `GetOnlineFeaturesStreamRequest`s."""
        return self._streams.answers(
            _asked(requests), context, lambda asked: self._answer(asked, context), _AT_ONCE
        )

    def stop(self) -> None:
        """Ends all streams once the batches they are working on are answered."""
        self._streams.stop()

    def _answer(self, asked: _Asked, context: grpc.ServicerContext) -> bytes:
        began = time.perf_counter()
        call = _BatchCaller(context)
        self._servicer.look_at(call)
        answer: Any = serving_pb2.GetOnlineFeaturesStreamResponse(batch=asked.batch)
        code = grpc.StatusCode.OK
        data: Any = None
        try:
            data = self._read(asked, call, context, answer)
        except Exception as error:
            failure = message_failure(error, "a streamed read", context.time_remaining())
            code = failure.code
            answer.error.code, answer.error.message = code.value[0], failure.message
        seconds = time.perf_counter() - began
        if call.note is not None:
            _say(call.note, code, answer)
        self._servicer.over(call, METHOD, code, seconds)
        if self._count is not None:
            self._count(METHOD, code, seconds)
        if data is None:
            made: bytes = answer.SerializeToString()
            return made
        return b"".join((answer.SerializeToString(), _ARROW_IPC, varint(len(data)), data))

    def _read(
        self, asked: _Asked, call: _BatchCaller, context: grpc.ServicerContext, answer: Any
    ) -> Any:
        """The columns of an answer; fills in its metadata."""
        if asked.failure is not None:
            raise asked.failure
        read = asked.read
        if read is None:
            raise invalid("set read in the first message of a stream: nothing is asked for")
        wanted = self._servicer.begin(request_bytes(read.request, asked.arrow_ipc), call)
        features = Answer(self._servicer.read(wanted, context.time_remaining()))
        metadata = serving_pb2.GetOnlineFeaturesResponseMetadata.FromString(features.metadata)
        metadata.ClearField("feature_names")
        if metadata.ByteSize():
            answer.metadata.CopyFrom(metadata)
        return answer_ipc(features, wanted.plan.served, read.statuses, read.event_timestamps)


def _asked(requests: Iterator[bytes]) -> Iterator[_Asked]:
    """Messages, each with what holds for it of those before."""
    read: _Read | None = None
    for data in requests:
        try:
            message: Any = serving_pb2.GetOnlineFeaturesStreamRequest.FromString(data)
        except DecodeError as error:
            wrong = invalid(f"the message is not a GetOnlineFeaturesStreamRequest: {error}")
            yield _Asked(0, b"", None, wrong)
            continue
        failure: RequestFailure | None = None
        if message.HasField("read"):
            request = message.read.request
            if request.entities or request.request_context:
                failure = invalid("read.request has columns: send all of them in arrow_ipc")
            read = _Read(
                request.SerializeToString(), message.read.statuses, message.read.event_timestamps
            )
        yield _Asked(message.batch, message.arrow_ipc, read, failure)


def _say(note: Note, code: grpc.StatusCode, answer: Any) -> None:
    """Puts what unary calls have as trailing metadata into an answer."""
    said = note.metadata if code is grpc.StatusCode.OK else note.failure_metadata
    for name, value in said:
        text = unquote(value.decode())
        if name == ANSWERED_BY:
            answer.metadata.feature_service = text
        elif name == WARNING:
            answer.warnings.append(text)
