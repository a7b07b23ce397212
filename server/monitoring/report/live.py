"""The page as it is now, over HTTP, beside the figures for Prometheus.

| path | |
|---|---|
| `/` | the page |
| `/api/report.json` | what it shows at once; 304 while it is the same |
| `/api/feature.json?view=V&feature=F` | what it shows of one feature |
"""

import gzip
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import asdict
from threading import Lock
from typing import Any, Protocol
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIEnvironment

from hotfeast.server.monitoring.report.model import FeatureDetails, Report
from hotfeast.server.monitoring.report.render import as_json, render_page

# Of a megabyte of figures level 9 saves a few percent more and takes several times as long.
_LEVEL = 5
PATHS = ("/", "/api/")
"""Where it is; see `metrics.Page`."""
_HTML = "text/html; charset=utf-8"
_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
_HEADERS = [
    ("Cache-Control", "no-cache"),
    ("Content-Security-Policy", "frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
]


class Reports(Protocol):
    """Where the page's figures come from."""

    def report(self) -> Report:
        """What is seen at once."""

    def details(self, view: str, feature: str) -> FeatureDetails:
        """What is seen of one feature.

        Raises:
            LookupError: There is no such view or feature.
        """


class LivePage:
    """A WSGI application with the page and its figures."""

    def __init__(self, reports: Reports) -> None:
        """
        Args:
            reports: Is asked for each request, by several threads.
        """
        self._reports = reports
        self._lock = Lock()
        # The last answer of each path that everybody asks for, made again only where it changed.
        self._made: dict[str, tuple[Report, _Body]] = {}

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answers one request."""
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _send(environ, start_response, "405 Method Not Allowed", _Body.of(_TEXT, ""))
        status, body = self._answer(environ)
        return _send(environ, start_response, status, body)

    def _answer(self, environ: WSGIEnvironment) -> tuple[str, "_Body"]:
        path = environ.get("PATH_INFO", "")
        if path in ("", "/"):
            return "200 OK", self._of_report("/", _HTML, render_page)
        if path == "/api/report.json":
            return "200 OK", self._of_report(path, _JSON, lambda r: as_json(asdict(r)))
        if path == "/api/feature.json":
            asked = parse_qs(environ.get("QUERY_STRING", ""))
            try:
                details = self._reports.details(asked["view"][0], asked["feature"][0])
            except LookupError as error:
                words = "the parameters view and feature are needed"
                missing = not {"view", "feature"} <= asked.keys()
                return "404 Not Found", _Body.of(_TEXT, words if missing else str(error))
            return "200 OK", _Body.of(_JSON, as_json(asdict(details)))
        return "404 Not Found", _Body.of(_TEXT, f"nothing is at {path}")

    def _of_report(self, path: str, kind: str, make: Callable[[Report], str]) -> "_Body":
        with self._lock:
            report = self._reports.report()
            known = self._made.get(path)
            if known is None or known[0] is not report:
                known = self._made[path] = report, _Body.of(kind, make(report))
            return known[1]


class _Body:
    """An answer's content; packed once, when somebody first takes it so."""

    def __init__(self, kind: str, content: bytes, tag: str) -> None:
        self.kind = kind
        self.content = content
        self.tag = tag
        self._packed: bytes | None = None

    @classmethod
    def of(cls, kind: str, text: str) -> "_Body":
        content = text.encode()
        return cls(kind, content, f'"{hashlib.sha256(content).hexdigest()[:24]}"')

    def packed(self) -> bytes:
        if self._packed is None:
            self._packed = gzip.compress(self.content, _LEVEL, mtime=0)
        return self._packed


def _send(
    environ: WSGIEnvironment, start_response: StartResponse, status: str, body: _Body
) -> Iterable[bytes]:
    # Weak, since it is the same tag for the packed content.
    headers = [*_HEADERS, ("ETag", f"W/{body.tag}"), ("Vary", "Accept-Encoding")]
    if status == "200 OK" and body.tag in environ.get("HTTP_IF_NONE_MATCH", ""):
        start_response("304 Not Modified", headers)
        return []
    content: Any = body.content
    if "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""):
        content = body.packed()
        headers.append(("Content-Encoding", "gzip"))
    start_response(
        status, [*headers, ("Content-Type", body.kind), ("Content-Length", str(len(content)))]
    )
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [content]
