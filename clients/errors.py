"""What a call can fail with: a class for each status, so that callers catch what they mean."""

from typing import Any

import grpc

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class HotfeastError(Exception):
    """A request failed.

    Attributes:
        code: The gRPC status code.
        message: The gateway's message, or gRPC's where no gateway has answered.

    Example:
        ```python
        try:
            answer = client.get_online_features("recommendation", entities)
        except Unavailable:
            answer = None  # go on without features
        ```
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, self.message)


class InvalidArgument(HotfeastError):
    """The request is wrong: a column is missing, extra, of the wrong type or length."""


class NotFound(HotfeastError):
    """No such feature service, view or feature; the message has the nearest known name."""


class FailedPrecondition(HotfeastError):
    """The definition cannot be served; the message says why."""


class DataLoss(HotfeastError):
    """A stored row is corrupt; `allow_partial_response` answers the others."""


class Unavailable(HotfeastError):
    """The gateway or its Redis could not be reached; reads have been tried several times."""


class DeadlineExceeded(HotfeastError):
    """The answer did not come within `timeout`."""


class ResourceExhausted(HotfeastError):
    """The gateway has too much to do, which reads have been tried again for; or an answer is larger
    than a limit."""


class InternalError(HotfeastError):
    """The function of an on-demand view failed, or the gateway itself."""


class PermissionDenied(HotfeastError):
    """Who calls may not do this."""


class Unauthenticated(HotfeastError):
    """Who calls is not known: credentials are missing or wrong."""


class Unimplemented(HotfeastError):
    """The server has no such method: is it a gateway, and new enough?"""


class ForkedClient(RuntimeError):
    """A client was used in a process that was forked off the one that made it."""


class MissingPackage(ImportError):
    """An optional package is needed for what was asked; the message says how to get it."""


_CLASSES: dict[grpc.StatusCode, type[HotfeastError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.DATA_LOSS: DataLoss,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
}


def failure(code: grpc.StatusCode | int, message: str) -> HotfeastError:
    """The error for a status; HotfeastError itself for one that has no class of its own.

    Args:
        code: The status, or its number.
        message: What went wrong.
    """
    if isinstance(code, int):
        code = _CODES.get(code, grpc.StatusCode.UNKNOWN)
    return _CLASSES.get(code, HotfeastError)(code, message)


def failure_of(error: Any) -> HotfeastError:
    """The error for a `grpc.RpcError`."""
    return failure(error.code(), error.details() or "")
