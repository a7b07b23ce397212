"""What a request or a start can fail with, as the caller or the operator should see it."""

import base64
import difflib
import math
from collections.abc import Iterable
from functools import lru_cache

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from hotfeast.hotpath.errors import (
    AnswerTooLarge,
    CorruptRow,
    InvalidRequest,
    ProtocolError,
    ReplyError,
    RowsUnread,
)

# Characters of a message, which may quote what a client has sent: clients refuse longer metadata.
_LONGEST = 2000
# Characters of a name that is looked for among those that are known.
_LONGEST_NAME = 256
# In milliseconds: https://github.com/grpc/proposal/blob/master/A6-client-retries.md
_PUSHBACK = b"grpc-retry-pushback-ms"
# What it says where the same is never to be asked again.
_NEVER = b"-1"
# https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto
_DETAILS = b"grpc-status-details-bin"
# Milliseconds that delays in details are rounded up to, so that few are ever made.
_STEP = 10
_MOST_DETAILS = 512
# What Redis says of a state that passes, by the first word.
_PASSING = {"LOADING", "BUSY", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "OOM"}


class RequestFailure(Exception):
    """A request that cannot be answered.

    Attributes:
        code: The gRPC status code.
        message: What is wrong, by name, and what would be right; cut where it is long.
        retry_after: Seconds after which the same may be asked again, infinite for never; None where
            nothing is said.
    """

    def __init__(
        self, code: grpc.StatusCode, message: str, retry_after: float | None = None
    ) -> None:
        if len(message) > _LONGEST:
            message = f"{message[: _LONGEST - 3]}..."
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after = retry_after

    @property
    def metadata(self) -> tuple[tuple[bytes, bytes], ...]:
        """Trailing metadata for the caller, by which gRPC's clients time their next attempt."""
        if self.retry_after is None:
            return ()
        if self.retry_after == math.inf:
            return ((_PUSHBACK, _NEVER),)
        return ((_PUSHBACK, b"%d" % math.ceil(self.retry_after * 1000)),)

    @property
    def details(self) -> tuple[tuple[bytes, bytes], ...]:
        """Trailing metadata that say the same to those who look for google.rpc.RetryInfo, not
        encoded; none where there is nothing to wait for."""
        if self.retry_after is None or self.retry_after == math.inf:
            return ()
        steps = math.ceil(self.retry_after * 1000 / _STEP)
        return ((_DETAILS, _retry_info(self.code, self.message, steps)),)

    @property
    def trailers(self) -> tuple[tuple[bytes, bytes], ...]:
        """All of them, as HTTP/2 has them: binary ones in base64."""
        return (
            *self.metadata,
            *((name, base64.b64encode(value).rstrip(b"=")) for name, value in self.details),
        )


@lru_cache(_MOST_DETAILS)
def _retry_info(code: grpc.StatusCode, message: str, steps: int) -> bytes:
    """A serialized google.rpc.Status: the status once more, since clients take it from there, and
    after how many steps the same may be asked again."""
    info = RetryInfo(retry_delay=Duration())
    info.retry_delay.FromMilliseconds(steps * _STEP)
    status = Status(code=code.value[0], message=message)
    status.details.add().Pack(info)
    return bytes(status.SerializeToString())


class UnknownName(RequestFailure):
    """NOT_FOUND for a name that nobody has defined, with the nearest that somebody has."""

    def __init__(self, kind: str, name: str, near: str | None) -> None:
        """
        Args:
            kind: What it is a name of.
            name: The name.
            near: What was probably meant; None where nothing is near.
        """
        hint = f"; did you mean {near!r}?" if near is not None else ""
        super().__init__(grpc.StatusCode.NOT_FOUND, f"no {kind} {name!r}{hint}")
        self._kind = kind
        self._name = name

    def without_hint(self) -> RequestFailure:
        """The same for somebody who may not know all names."""
        return UnknownName(self._kind, self._name, None)


class StartFailure(Exception):
    """Why the gateway does not start; printed as it is, with exit code 2."""


class RedisUnavailable(Exception):
    """Redis could not be reached, or did not answer in time.

    Attributes:
        retry_after: Seconds after which it may be there again; None where that is not known.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NodesUnavailable(RedisUnavailable):
    """Some nodes of a cluster could not be reached, or did not take rows; others may have."""


def failure_of(error: Exception, time_left: float | None = None) -> RequestFailure | None:
    """The status of an error that a call ends with; None for one that should not happen.

    Args:
        error: What was raised.
        time_left: Seconds until the caller's deadline; None where it has none.
    """
    if isinstance(error, RequestFailure):
        return error
    if isinstance(error, InvalidRequest):
        return invalid(str(error))
    if isinstance(error, CorruptRow):
        return RequestFailure(grpc.StatusCode.DATA_LOSS, str(error))
    if isinstance(error, AnswerTooLarge):
        return RequestFailure(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"{error} (--max-response-mb): ask for fewer entities or features at once",
            math.inf,
        )
    if isinstance(error, RedisUnavailable | ProtocolError | RowsUnread):
        late = time_left is not None and time_left <= 0
        code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.UNAVAILABLE
        return RequestFailure(code, str(error), getattr(error, "retry_after", None))
    if isinstance(error, ReplyError):
        # LOADING, CLUSTERDOWN and the like pass; WRONGTYPE and NOPERM need somebody.
        code = grpc.StatusCode.UNAVAILABLE if passes(error) else grpc.StatusCode.INTERNAL
        return RequestFailure(code, f"Redis: {error}")
    if isinstance(error, MemoryError):
        return RequestFailure(grpc.StatusCode.RESOURCE_EXHAUSTED, "out of memory for this request")
    return None


def unknown_name(kind: str, name: str, known: Iterable[str]) -> RequestFailure:
    """NOT_FOUND for a name nobody has defined, with the nearest that somebody has."""
    near = []
    if len(name) <= _LONGEST_NAME:
        near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return UnknownName(kind, name, near[0] if near else None)


def passes(error: ReplyError) -> bool:
    """Whether what Redis says is of a state that passes."""
    return str(error).split(" ", 1)[0] in _PASSING


def late() -> RequestFailure:
    """DEADLINE_EXCEEDED: nobody waits for the answer any more."""
    return RequestFailure(
        grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline came before there was time for the request"
    )


def invalid(message: str) -> RequestFailure:
    """INVALID_ARGUMENT: the request has to change."""
    return RequestFailure(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_servable(message: str) -> RequestFailure:
    """FAILED_PRECONDITION: the request is fine, the repository's definitions or state are not."""
    return RequestFailure(grpc.StatusCode.FAILED_PRECONDITION, message)
