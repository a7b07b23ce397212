"""What is said of a call beside its answer: metadata for the caller, and figures.

A note is made when a request's plan is known, and stays with the call until it is over. Calls for
plans that nothing has to be said of have none.
"""

from typing import Any, Protocol

import grpc

from hotfeast.server.security.principals import Credentials
from hotfeast.server.traffic.deprecation import Deprecations


class Caller(Credentials, Protocol):
    """Who makes a call, as its metadata say."""

    note: Any
    """What is said of the call; None for most."""
    record: Any
    """What is kept of it for traces and logs; None for most."""
    figures: Any
    """What counts it beside others of its plan; None where nothing does."""

    @property
    def caller(self) -> bytes | None:
        """`x-caller`, else `user-agent`; None where there is neither."""

    @property
    def request_id(self) -> bytes | None:
        """`x-request-id`; None where there is none."""

    @property
    def traceparent(self) -> bytes | None:
        """`traceparent`; None where there is none."""


class Note(Protocol):
    """What is said of a call."""

    @property
    def metadata(self) -> tuple[tuple[bytes, bytes], ...]:
        """Names and values of the trailing metadata of an answer."""

    @property
    def trailers(self) -> bytes:
        """The same as a header block."""

    @property
    def failure_metadata(self) -> tuple[tuple[bytes, bytes], ...]:
        """Those of a call that fails."""

    @property
    def failure_trailers(self) -> bytes:
        """The same as a header block."""

    def over(self, call: Caller, code: grpc.StatusCode, seconds: float) -> None:
        """The call has ended, after so many seconds."""


class Reads(Protocol):
    """Counts reads of what is deprecated."""

    def count(
        self, deprecations: Deprecations, caller: bytes | None, code: grpc.StatusCode
    ) -> None: ...


class DeprecationNote:
    """Of calls for something that is deprecated, by its own name."""

    __slots__ = (
        "_deprecations", "_reads", "failure_metadata", "failure_trailers", "metadata", "trailers",
    )  # fmt: skip

    def __init__(self, deprecations: Deprecations, reads: Reads | None) -> None:
        """
        Args:
            deprecations: What is deprecated.
            reads: Counts the calls; nobody if None.
        """
        self._deprecations = deprecations
        self._reads = reads
        self.metadata = self.failure_metadata = deprecations.metadata
        self.trailers = self.failure_trailers = deprecations.trailers

    def over(self, call: Caller, code: grpc.StatusCode, seconds: float) -> None:
        """Counts a call that has ended."""
        if self._reads is not None:
            self._reads.count(self._deprecations, call.caller, code)
