"""What a request or a start can fail with, as the caller or the operator should see it."""

import difflib
from collections.abc import Iterable

import grpc


class RequestFailure(Exception):
    """A request that cannot be answered.

    Attributes:
        code: The gRPC status code.
        message: What is wrong, by name, and what would be right.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class StartFailure(Exception):
    """Why the gateway does not start; printed as it is, with exit code 2."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> RequestFailure:
    """NOT_FOUND for a name nobody has defined, with the nearest that somebody has."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return RequestFailure(grpc.StatusCode.NOT_FOUND, f"no {kind} {name!r}{hint}")


def invalid(message: str) -> RequestFailure:
    """INVALID_ARGUMENT: the request has to change."""
    return RequestFailure(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_servable(message: str) -> RequestFailure:
    """FAILED_PRECONDITION: the request is fine, the repository's definitions or state are not."""
    return RequestFailure(grpc.StatusCode.FAILED_PRECONDITION, message)
