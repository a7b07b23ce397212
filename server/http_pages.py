"""Pages over HTTP or HTTPS: each request has a thread, so that none waits for a slow client."""

import logging
import socket
import threading
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import WSGIApplication

from hotfeast.server.errors import StartFailure
from hotfeast.server.settings import PageSettings

if TYPE_CHECKING:
    # With what TLS needs, which most gateways' pages do without.
    from hotfeast.server.security.page import PageGuard

logger = logging.getLogger(__name__)

VERIFIED = "hotfeast.certificate"
"""What a request's environment has where the client's certificate has been verified."""

# Requests that are answered at once; connections beyond them are closed.
_MOST = 256
# Seconds for a client's next bytes.
_PATIENCE = 10.0


class HttpPages:
    """Serves an application until it is stopped.

    Attributes:
        port: Where.
        scheme: `http`, or `https`.
    """

    def __init__(
        self, app: WSGIApplication, host: str, port: int, guard: "PageGuard | None" = None
    ) -> None:
        """
        Args:
            app: Answers requests, in several threads.
            host: The interface to listen on; brackets around an IPv6 address may be there or not.
            port: 0 for any free one.
            guard: Encrypts connections, and lets requests pass; neither is done if None.

        Raises:
            StartFailure: The address cannot be had.
        """
        try:
            self._server = _Server(host.strip("[]"), port, guard)
        except OSError as error:
            raise StartFailure(f"cannot serve metrics on {host}:{port}: {error}") from error
        self._server.set_app(app if guard is None else guard.guard(app))
        self.port = self._server.server_port
        self.scheme = "https" if guard is not None and guard.encrypts else "http"
        self._guard = guard
        if guard is not None:
            guard.start()
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="http-pages", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        if self._guard is not None:
            self._guard.stop()


class _Server(ThreadingMixIn, WSGIServer):
    """Listens, and has each connection answered in a thread."""

    daemon_threads = True
    # Who asks is not waited for when the server ends.
    block_on_close = False
    request_queue_size = 128

    def __init__(self, host: str, port: int, guard: "PageGuard | None") -> None:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family = family
        self._guard = guard
        self._places = threading.BoundedSemaphore(_MOST)
        super().__init__(address[:2], _Handler)  # type: ignore[arg-type]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Has a connection answered, if there is a place."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            # There is no thread to be had.
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers a connection, and gives its place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answers a connection, once it is encrypted: here, so that only its own thread waits."""
        if self._guard is None or not self._guard.encrypts:
            super().finish_request(request, client_address)
            return
        request.settimeout(_PATIENCE)
        try:
            encrypted = self._guard.encrypted(request)
        except OSError as error:
            self._guard.insecure(str(client_address[0]), error)
            return
        with encrypted:
            super().finish_request(encrypted, client_address)
            with suppress(OSError):
                # Says that this was all.
                encrypted.unwrap()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tells of a connection that has failed, which is its client's affair."""
        logger.debug("the request of %s for a page has failed", client_address[0], exc_info=True)


class _Handler(WSGIRequestHandler):
    """Answers a request."""

    timeout = _PATIENCE

    def get_environ(self) -> dict[str, Any]:
        """What the application is told, with whether the client's certificate was verified."""
        environ = super().get_environ()
        certificate = getattr(self.connection, "getpeercert", None)
        if certificate is not None and certificate():
            environ[VERIFIED] = True
        return environ

    def log_message(self, *_: Any) -> None:
        """Says nothing: probes and scrapes come every few seconds."""


def page_guard(settings: PageSettings) -> "PageGuard | None":
    """What guards the page of figures; None where everybody may see it.

    Raises:
        StartFailure: A file of tokens or of certificates cannot be used.
    """
    if settings.tokens is None and settings.tls is None:
        return None
    # Only here: most supervisors do without what TLS and tokens need.
    from hotfeast.server.security.page import PageGuard

    return PageGuard(settings)
