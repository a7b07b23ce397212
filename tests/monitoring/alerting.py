"""What rules are tested on, and who is told of alerts."""

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from hotfeast.server.monitoring.alerts import Alert, Measurement, State
from hotfeast.server.monitoring.rules import FRESHNESS_TAG, Known, KnownView, Metric

DAY = 86400.0

KNOWN = Known(
    {
        "users": KnownView(
            {"spend": {"unit": "usd"}, "visits": {}},
            {"domain": "people"},
            ttl_seconds=2 * DAY,
            owner="users@example.com",
            services={"ranking": {"spend"}},
        ),
        "shops": KnownView(
            {"stock": {}, "price": {}},
            {FRESHNESS_TAG: "8d"},
            ttl_seconds=2 * DAY,
            services={"ranking": {"stock"}},
        ),
        "world": KnownView({"rate": {}}),
    }
)
"""Views with features, tags, TTLs and a service."""


def measured(
    values: Mapping[Metric, float],
    view: str = "users",
    feature: str = "spend",
    channel: str = "served",
    rows: int = 1000,
    reference: Mapping[Metric, float] | None = None,
    effect: float = 0.0,
    least_effect: float = 0.0,
) -> Measurement:
    """A measurement of a feature; of a view where `feature` is empty."""
    channel = channel if feature else ""
    return Measurement(view, feature, channel, rows, values, reference or {}, effect, least_effect)


def an_alert(rule: str = "nulls", state: State = State.FIRING, severity: str = "warning") -> Alert:
    """An alert as an engine makes it."""
    return Alert(
        fingerprint=f"{rule:x>16}",
        rule=rule,
        severity=severity,
        state=state,
        view="users",
        feature="spend",
        channel="served",
        metric=Metric.NULL_SHARE,
        value=0.4,
        threshold=0.1,
        since=1000.0,
        fired=1600.0,
        resolved=2000.0 if state is State.RESOLVED else None,
        seen=2000.0,
        owner="users@example.com",
        summary="users:spend (served): null share 40.0%, above 10.0%",
        description="",
    )


SECRET = "s3cret"


class Hook:
    """What takes notifications."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        """What the next requests are answered; 200 once there are no more."""
        self.bodies: list[dict[str, Any]] = []
        self.let_go = threading.Event()
        self.let_go.set()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.bodies.append(json.loads(body))
                hook.let_go.wait(10)
                code = hook.codes.pop(0) if hook.codes else 200
                self.send_response(code)
                if code == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/{SECRET}?token={SECRET}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
