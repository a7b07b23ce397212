"""A line a call: which method, how it ended, how long it took, for whom."""

import logging
import random
import time
from typing import TYPE_CHECKING, Any

import grpc

from hotfeast.server.telemetry.records import Record
from hotfeast.server.telemetry.traceparent import parse_traceparent

if TYPE_CHECKING:
    from hotfeast.server.telemetry.calls import Call

logger = logging.getLogger("hotfeast.access")

MOST_FAILURES = 50
"""Failed calls, of those that the share leaves out, that are told of in a second."""


class AccessLog:
    """Logs a share of the calls, and of the failed ones all that a log can bear."""

    clock = staticmethod(time.monotonic)
    """Counts seconds."""

    def __init__(self, share: float) -> None:
        """
        Args:
            share: 0 to 1.
        """
        self._share = share
        self._second = 0
        self._failures = 0
        self._left_out = 0

    def wants(self) -> bool:
        """Whether a call that begins is logged, however it ends."""
        return random.random() < self._share

    def tell(
        self, call: "Call", record: Record, method: str, code: grpc.StatusCode, seconds: float
    ) -> None:
        """Logs a call."""
        _log(_said(call, record, method, code, seconds))

    def tell_failure(
        self,
        call: "Call",
        record: Record | None,
        method: str,
        code: grpc.StatusCode,
        seconds: float,
    ) -> None:
        """Logs a call that has failed, unless many have in this second."""
        second = int(self.clock())
        if second != self._second:
            self._second, self._failures = second, 0
        self._failures += 1
        if self._failures > MOST_FAILURES:
            self._left_out += 1
            return
        said = _said(call, record, method, code, seconds)
        if self._left_out:
            said["left_out"], self._left_out = self._left_out, 0
        _log(said)


def _said(
    call: "Call", record: Record | None, method: str, code: grpc.StatusCode, seconds: float
) -> dict[str, Any]:
    said: dict[str, Any] = {
        "method": method,
        "code": code.name,
        "ms": round(seconds * 1000, 3),
        "caller": _text(call.caller),
        "request_id": _text(call.request_id),
    }
    parent = parse_traceparent(call.traceparent)
    if parent is not None:
        said["trace_id"] = f"{parent.trace_id:032x}"
    if record is not None:
        said |= {"feature_service": record.service, "rows": record.rows}
        for stage in record.stages:
            said[f"{stage.name}_ms"] = round((stage.ended - stage.began) * 1000, 3)
    return {name: value for name, value in said.items() if value is not None}


def _log(said: dict[str, Any]) -> None:
    # As text the fields are the message; in JSON they have keys of their own.
    logger.info("%s", " ".join(f"{name}={value}" for name, value in said.items()), extra=said)


def _text(data: bytes | None) -> str | None:
    """What a caller has sent, on one line."""
    if data is None:
        return None
    return "".join(c if c.isprintable() else "?" for c in data.decode("utf-8", "replace"))
