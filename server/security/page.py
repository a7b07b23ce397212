"""Who may see the page of figures, and what is beside it: whoever has a token, a certificate, or
both.

What is asked for are settings; with none of them everybody may. `/live` and `/ready` are for
probes, which have neither. The files are followed while serving; what is not valid leaves those
before in force.
"""

import logging
import socket
import ssl
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hotfeast.server.errors import StartFailure
from hotfeast.server.http_pages import VERIFIED
from hotfeast.server.monitoring.turns import Turns
from hotfeast.server.security.certificates import Certificates
from hotfeast.server.security.refusals import Reason, Refusals
from hotfeast.server.security.tokens import TokenError, Tokens, read_tokens
from hotfeast.server.settings import PageSettings

logger = logging.getLogger(__name__)

# What everybody may see.
_OPEN = frozenset({"/live", "/ready"})
# Seconds between two looks at the file of tokens.
_LOOKS = 1.0
_SCHEME = "bearer "


class PageGuard(Collector):
    """Lets requests pass, or not; in any thread.

    Attributes:
        encrypts: Whether the page is served over TLS.
    """

    def __init__(self, settings: PageSettings) -> None:
        """Reads the files.

        Args:
            settings: What is asked of callers.

        Raises:
            StartFailure: One of the files is not valid, or has nobody.
        """
        self._settings = settings
        self._audit = Refusals()
        self._refused: Counter[str] = Counter()
        self._context: ssl.SSLContext | None = None
        self._certificates: Certificates | None = None
        if settings.tls is not None:
            self._certificates = Certificates(settings.tls)
            self._certificates.use_with(self._use)
        self.encrypts = self._certificates is not None
        self._wants_certificate = settings.tls is not None and settings.tls.client_ca is not None
        self._tokens: Tokens | None = None
        self._seen = self._error = ""
        if settings.tokens is not None:
            try:
                self._tokens, self._seen = self._read()
            except TokenError as error:
                raise StartFailure(f"--metrics-token-file: {error}") from None
        self._turns = Turns("page-token-watch", lambda _: self.look(), _LOOKS)

    def _use(self, context: ssl.SSLContext) -> None:
        self._context = context

    def start(self) -> None:
        """Starts following the files."""
        if self._certificates is not None:
            self._certificates.start()
        if self._tokens is not None:
            self._turns.start()

    def stop(self) -> None:
        """Ends that."""
        if self._certificates is not None:
            self._certificates.stop()
        self._turns.stop()

    def look(self) -> None:
        """Puts the file of tokens in force, if it has changed."""
        try:
            tokens, text = self._read()
        except TokenError as error:
            if str(error) != self._error:
                self._error = str(error)
                logger.error("the tokens before stay in force: %s", error)
            return
        self._error = ""
        if text != self._seen:
            self._tokens, self._seen = tokens, text
            logger.info("the tokens of %s are in force", self._settings.tokens)

    def _read(self) -> tuple[Tokens, str]:
        path = self._settings.tokens
        assert path is not None
        tokens, text = read_tokens(path)
        if not tokens.principals:
            raise TokenError(
                f"{path} has no token: 'hotfeast token new NAME --file {path}' enters one"
            )
        return tokens, text

    # ------------------------------------------------------------ who calls

    def encrypted(self, connection: socket.socket) -> ssl.SSLSocket:
        """Makes a connection one behind TLS.

        Raises:
            OSError: The client does not keep to TLS, or its certificate is not valid.
        """
        assert self._context is not None
        return self._context.wrap_socket(connection, server_side=True)

    def insecure(self, peer: str, error: OSError) -> None:
        """Tells of a client that does not keep to TLS."""
        why = getattr(error, "reason", None) or type(error).__name__
        self._note(Reason.tls, "", peer, why)

    def guard(self, app: WSGIApplication) -> WSGIApplication:
        """The same pages, for those who may see them."""

        def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            path = environ.get("PATH_INFO") or "/"
            if path not in _OPEN:
                peer = str(environ.get("REMOTE_ADDR", ""))
                refused = self._refusal(environ, path, peer)
                if refused is not None:
                    return refused(environ, start_response)
            return app(environ, start_response)

        return answer

    def _refusal(self, environ: WSGIEnvironment, path: str, peer: str) -> WSGIApplication | None:
        """What a request is answered instead; None where it may pass."""
        if self._wants_certificate and not environ.get(VERIFIED):
            self._note(Reason.missing, "", peer, f"no certificate for {path}")
            return _text("403 Forbidden", "a client certificate is needed (tls_config)")
        if self._tokens is None:
            return None
        said = environ.get("HTTP_AUTHORIZATION", "")
        if not said:
            self._note(Reason.missing, "", peer, f"no token for {path}")
            return _text("401 Unauthorized", "send the header 'Authorization: Bearer TOKEN'")
        found = None
        if said[: len(_SCHEME)].lower() == _SCHEME:
            found = self._tokens.find(said[len(_SCHEME) :].strip().encode("latin-1"))
        if found is None:
            self._note(Reason.invalid, "", peer, f"token for {path}: it is not known")
            return _text("401 Unauthorized", "the token is not known")
        if found.ends <= time.time():
            who = found.principal.text
            self._note(Reason.invalid, who, peer, f"token for {path}: it has expired")
            return _text("401 Unauthorized", "the token has expired")
        return None

    def _note(self, reason: Reason, who: str, peer: str, what: str) -> None:
        self._refused[reason.value] += 1
        self._audit.note(reason, who, peer, f"page of figures: {what}")

    # ------------------------------------------------------------ figures

    def collect(self) -> Iterator[Metric]:
        """The figures as Prometheus wants them."""
        refusals = CounterMetricFamily(
            "hotfeast_page_refusals",
            "Requests for the page of figures that were refused, by reason: tls (the handshake "
            "failed), credentials_missing, credentials_invalid.",
            labels=["reason"],
        )
        for reason, count in sorted(self._refused.items()):
            refusals.add_metric([reason], count)
        yield refusals
        valid = GaugeMetricFamily(
            "hotfeast_page_input_valid",
            "1 if a file that the page of figures is guarded with, as it is now, is in force; else "
            "0: certificate (with its key and authorities), tokens.",
            labels=["input"],
        )
        if self._tokens is not None:
            valid.add_metric(["tokens"], float(not self._error))
        if self._certificates is not None:
            state = self._certificates.state
            valid.add_metric(["certificate"], float(state.valid))
            yield GaugeMetricFamily(
                "hotfeast_page_certificate_end_timestamp_seconds",
                "When the certificate of the page of figures ends, in seconds since 1970.",
                value=state.ends.timestamp(),
            )
        yield valid


def _text(status: str, text: str) -> WSGIApplication:
    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")]
        if status.startswith("401"):
            headers.append(("WWW-Authenticate", 'Bearer realm="hotfeast"'))
        start_response(status, headers)
        return [f"{text}\n".encode()]

    return answer
