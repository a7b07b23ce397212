"""Spans of calls, sent by OpenTelemetry's SDK to a receiver of OTLP over gRPC.

A call is traced if its caller's trace is; of those without a trace a share is. What is needed for
the spans is put aside as the call ends, and a thread makes them.
"""

import logging
import queue
import random
import threading
from collections.abc import Mapping
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, NamedTuple

import grpc

from hotfeast.server.errors import StartFailure
from hotfeast.server.settings import TraceSettings
from hotfeast.server.telemetry.records import REDIS, Record, Stage
from hotfeast.server.telemetry.traceparent import Parent, parse_traceparent

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from hotfeast.server.telemetry.calls import Call

logger = logging.getLogger(__name__)

_MOST_WAITING = 4096
# What of gRPC's codes is the server's fault, by OpenTelemetry's conventions.
_ERRORS = {
    grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS,
}  # fmt: skip
_BILLION = 1e9


class _Ended(NamedTuple):
    """A call that has ended."""

    parent: Parent | None
    began_ns: int
    seconds: float
    method: str
    code: grpc.StatusCode
    attributes: Mapping[str, str | int]
    stages: list[Stage]


class Traces:
    """Has spans made of calls, and sent."""

    def __init__(self, settings: TraceSettings, worker: int | None = None) -> None:
        """
        Args:
            settings: Where to, and how many.
            worker: The number of this process among others of the gateway.

        Raises:
            StartFailure: The libraries are not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import OTELResourceDetector, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise StartFailure(
                f"traces cannot be sent to {settings.endpoint}: {error}; "
                "pip install 'hotfeast[otel]'"
            ) from error
        version = installed_version("hotfeast")
        about: dict[str, str | int] = {"service.name": "hotfeast", "service.version": version}
        if worker is not None:
            about["hotfeast.worker"] = worker
        # What OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME say comes first.
        resource = Resource.create(about).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(
            endpoint=settings.endpoint, insecure=not settings.endpoint.startswith("https://")
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("hotfeast", version)
        self._ratio = settings.ratio
        self._waiting: queue.Queue[_Ended | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Sends all that waits, and ends."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()
        self._provider.shutdown()

    def wants(self, traceparent: bytes | None) -> bool:
        """Whether a call with this `traceparent` is traced."""
        parent = parse_traceparent(traceparent)
        return random.random() < self._ratio if parent is None else parent.sampled

    def add(
        self, call: "Call", record: Record, method: str, code: grpc.StatusCode, seconds: float
    ) -> None:
        """Has spans made of a call that has ended; drops it if many wait."""
        attributes: dict[str, str | int] = {}
        if record.service is not None:
            attributes["hotfeast.feature_service"] = record.service
        if record.rows is not None:
            attributes["hotfeast.rows"] = record.rows
        for name, data in (
            ("hotfeast.caller", call.caller),
            ("hotfeast.request_id", call.request_id),
        ):
            if data is not None:
                attributes[name] = data.decode("utf-8", "replace")
        ended = _Ended(
            parse_traceparent(call.traceparent), record.began_ns, seconds, method, code, attributes,
            record.stages,
        )  # fmt: skip
        try:
            self._waiting.put_nowait(ended)
        except queue.Full:
            logger.debug("%d calls wait to be traced; one is left out", _MOST_WAITING)

    def _run(self) -> None:
        while (ended := self._waiting.get()) is not None:
            try:
                self._make_spans(ended)
            except Exception:
                # Serving does not depend on it.
                logger.exception("a call's spans could not be made")

    def _make_spans(self, ended: _Ended) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        service, _, method = ended.method.partition("/")
        span = self._tracer.start_span(
            ended.method,
            context=_context(ended.parent),
            kind=SpanKind.SERVER,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": service,
                "rpc.method": method,
                "rpc.grpc.status_code": ended.code.value[0],
                **ended.attributes,
            },
            start_time=ended.began_ns,
        )
        inside = set_span_in_context(span)
        for stage in ended.stages:
            redis = stage.name == REDIS
            child = self._tracer.start_span(
                stage.name,
                context=inside,
                kind=SpanKind.CLIENT if redis else SpanKind.INTERNAL,
                attributes={"db.system": "redis"} if redis else None,
                start_time=ended.began_ns + int(stage.began * _BILLION),
            )
            child.end(ended.began_ns + int(stage.ended * _BILLION))
        if ended.code in _ERRORS:
            span.set_status(Status(StatusCode.ERROR, ended.code.name))
        span.end(ended.began_ns + int(ended.seconds * _BILLION))


def _context(parent: Parent | None) -> "Context":
    """The context of a call's span."""
    from opentelemetry.context import Context
    from opentelemetry.trace import (
        NonRecordingSpan,
        SpanContext,
        TraceFlags,
        set_span_in_context,
    )

    if parent is None:
        return Context()
    remote = SpanContext(parent.trace_id, parent.span_id, True, TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(remote), Context())
