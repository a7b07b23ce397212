"""Whether a gateway is alive, and whether it should be given calls: over gRPC and over HTTP.

Alive is a gateway whose loops turn; one that is not has to be started anew. Ready is one that has
read its registry, made its plans and had an answer of Redis, and is not about to end. Redis or a
registry that goes away later does not change that: calls are then refused at once, or answered by
the last good definitions, and every other gateway is no better off.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from grpc_health.v1 import health, health_pb2

LIVENESS = "liveness"
READINESS = "readiness"
"""What health is asked for by these names, beside those of services."""

BEAT = 1.0
"""Seconds between two signs of life of a worker."""
PATIENCE = 10.0
"""Seconds without one after which it is taken for dead."""


class Health(health.HealthServicer):  # type: ignore[misc]
    """Statuses by name; a gateway is alive also before it serves and while it drains."""

    def __init__(self) -> None:
        super().__init__(experimental_non_blocking=True)

    def Check(self, request: Any, context: Any) -> Any:
        """The status of a service."""
        if request.service == LIVENESS:
            return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
        return super().Check(request, context)


class Beats:
    """When somebody was last heard of."""

    def __init__(self) -> None:
        self._heard = time.monotonic()

    def heard(self) -> None:
        """Notes a sign of life."""
        self._heard = time.monotonic()

    @property
    def silence(self) -> float:
        """Seconds since the last one."""
        return time.monotonic() - self._heard


Judge = Callable[[], str]
"""Says what is wrong; nothing where all is well."""


def health_pages(live: Judge, ready: Judge) -> dict[str, WSGIApplication]:
    """`/live` and `/ready`: 200, or 503 and why not."""
    return {"/live": _page(LIVENESS, live), "/ready": _page(READINESS, ready)}


def _page(name: str, judge: Judge) -> WSGIApplication:
    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        wrong = judge()
        start_response(
            "503 Service Unavailable" if wrong else "200 OK",
            [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")],
        )
        return [f"{name}: {wrong or 'ok'}\n".encode()]

    return answer
