"""Which calls are looked at, and who is told of them. Nothing here is asked where all is off."""

import random
from typing import Protocol

import grpc
from prometheus_client import CollectorRegistry, Histogram

from hotfeast.server.telemetry.access_log import AccessLog
from hotfeast.server.telemetry.records import Record
from hotfeast.server.telemetry.traces import Traces

STAGES_EVERY = 16
"""One of about how many calls has its stages timed."""

_BUCKETS = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
            0.05, 0.1, 0.25, 0.5, 1.0)  # fmt: skip


class Call(Protocol):
    """A call, as its metadata have it."""

    record: Record | None
    """What is kept of it."""

    @property
    def caller(self) -> bytes | None:
        """`x-caller`, else `user-agent`."""

    @property
    def request_id(self) -> bytes | None:
        """`x-request-id`."""

    @property
    def traceparent(self) -> bytes | None:
        """As W3C Trace Context has it."""


class CallWatch:
    """Looks at some calls."""

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        access_log: AccessLog | None = None,
        traces: Traces | None = None,
    ) -> None:
        """
        Args:
            registry: Where the times of stages are kept; they are not if None.
            access_log: Is told of calls; nobody if None.
            traces: Likewise.
        """
        self._access_log = access_log
        self._traces = traces
        self._stages: Histogram | None = None
        if registry is not None:
            self._stages = Histogram(
                "hotfeast_stage_seconds",
                f"Seconds of the stages of reads, of one in about {STAGES_EVERY}: parse, redis, "
                "encode, transform.",
                ["stage"],
                buckets=_BUCKETS,
                registry=registry,
            )
        self._left = _gap()

    @property
    def keeps_callers(self) -> bool:
        """Whether it matters who calls."""
        return self._access_log is not None or self._traces is not None

    def start(self) -> None:
        """Starts the threads."""
        if self._traces is not None:
            self._traces.start()

    def stop(self) -> None:
        """Ends them, with all told that is to be."""
        if self._traces is not None:
            self._traces.stop()

    def begin(self, call: Call) -> Record | None:
        """What is to be kept of a call that begins; None for most."""
        timed = False
        if self._stages is not None:
            # Two threads at once may count one call for two: it is a sample.
            self._left -= 1
            if self._left <= 0:
                self._left = _gap()
                timed = True
        logged = self._access_log is not None and self._access_log.wants()
        traced = self._traces is not None and self._traces.wants(call.traceparent)
        return Record(traced, timed, logged) if timed or logged or traced else None

    def over(self, call: Call, method: str, code: grpc.StatusCode, seconds: float) -> None:
        """A call has ended.

        Args:
            call: The call.
            method: Service and method, with a slash between.
            code: How it ended.
            seconds: How long it took.
        """
        record = call.record
        if self._access_log is not None:
            if record is not None and record.logged:
                self._access_log.tell(call, record, method, code, seconds)
            elif code is not grpc.StatusCode.OK:
                self._access_log.tell_failure(call, record, method, code, seconds)
        if record is None:
            return
        if record.traced and self._traces is not None:
            self._traces.add(call, record, method, code, seconds)
        if record.timed and self._stages is not None:
            for stage in record.stages:
                self._stages.labels(stage.name).observe(stage.ended - stage.began)


def _gap() -> int:
    return random.randint(1, 2 * STAGES_EVERY - 1)
