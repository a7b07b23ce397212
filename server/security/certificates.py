"""A server's certificate, its key and the authorities of its clients, in step with their files.

Connections that are open keep what they began with; those that come after a change have the new
ones. Files that cannot be used leave those before in use.
"""

import hashlib
import logging
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

import grpc
from cryptography import x509

from hotfeast.server.errors import StartFailure
from hotfeast.server.monitoring.turns import Turns

logger = logging.getLogger(__name__)

# Bytes of the largest file of certificates that is read.
_LARGEST = 2**20
# Those that HTTP/2 may have in TLS 1.2 (RFC 9113, appendix A); in TLS 1.3 all may be had.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
# Before its end a certificate is complained about when it is read.
_SOON = timedelta(days=7)


class TlsFiles(Protocol):
    """Where the files are, and what they are for: `TlsSettings`, or `PageTls`."""

    @property
    def certificate(self) -> Path: ...
    @property
    def key(self) -> Path: ...
    @property
    def client_ca(self) -> Path | None: ...
    @property
    def interval(self) -> float:
        """Seconds between two looks at them."""

    @property
    def requires_clients(self) -> bool:
        """Whether no connection goes without a certificate of the client's."""

    @property
    def option(self) -> str:
        """What the names of the options begin with."""

    @property
    def protocols(self) -> tuple[str, ...]:
        """What is spoken behind TLS (ALPN)."""


class CertificateError(ValueError):
    """Files that no server can be secured with; the message names the file and what is wrong."""


class Loaded(NamedTuple):
    """What was read at one time.

    Attributes:
        digest: Of all files; changes when one does.
        context: For Python's ssl.
        configuration: For grpcio.
        ends: When the certificate does.
    """

    digest: bytes
    context: ssl.SSLContext
    configuration: grpc.ServerCertificateConfiguration
    ends: datetime


class CertificateState(NamedTuple):
    """What is in use.

    Attributes:
        ends: When the certificate ends.
        reloads: How often other files have come into use.
        failures: How often files that had changed could not be used.
        valid: Whether the files as they are now are in use.
    """

    ends: datetime
    reloads: int
    failures: int
    valid: bool


class Certificates:
    """Reads the files, and again where they change."""

    def __init__(
        self, settings: TlsFiles, tell: Callable[[CertificateState], None] = lambda _: None
    ) -> None:
        """Reads the files.

        Args:
            settings: Where they are.
            tell: Is told what is in use, now and after each look.

        Raises:
            StartFailure: They cannot be used.
        """
        self._settings = settings
        self._tell = tell
        self._use: Callable[[ssl.SSLContext], None] = lambda _: None
        try:
            self._loaded = load(settings)
        except CertificateError as error:
            raise StartFailure(str(error)) from None
        self._state = CertificateState(self._loaded.ends, 0, 0, True)
        self._failed_with = b""
        self._turns = Turns("certificate-watch", lambda _: self.look(), settings.interval)
        _warn_of_end(self._loaded.ends)
        tell(self._state)

    @property
    def state(self) -> CertificateState:
        """What is in use."""
        return self._state

    def use_with(self, use: Callable[[ssl.SSLContext], None]) -> None:
        """Sets what is given the context, now and where another takes its place."""
        self._use = use
        use(self._loaded.context)

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Credentials for grpcio, which asks with each handshake whether there are new ones."""
        known = self._loaded

        # None is for no change, which the types do not say.
        def fetch() -> Any:
            nonlocal known
            if known is self._loaded:
                return None
            known = self._loaded
            return known.configuration

        return grpc.dynamic_ssl_server_credentials(
            known.configuration,
            fetch,
            require_client_authentication=self._settings.requires_clients,
        )

    def start(self) -> None:
        """Starts looking at the files."""
        self._turns.start()

    def stop(self) -> None:
        """Stops looking."""
        self._turns.stop()

    def look(self) -> None:
        """Reads the files, and puts them in use where they have changed."""
        state = self._state
        try:
            loaded = load(self._settings, self._loaded)
        except CertificateError as error:
            digest = str(error).encode()
            if digest != self._failed_with:
                self._failed_with = digest
                logger.error("the certificate before stays in use: %s", error)
                state = state._replace(failures=state.failures + 1, valid=False)
        else:
            self._failed_with = b""
            state = state._replace(valid=True)
            if loaded is not self._loaded:
                self._loaded = loaded
                self._use(loaded.context)
                state = state._replace(ends=loaded.ends, reloads=state.reloads + 1)
                logger.info("a new certificate is in use, until %s", loaded.ends.isoformat())
                _warn_of_end(loaded.ends)
        self._state = state
        self._tell(state)


def load(settings: TlsFiles, before: Loaded | None = None) -> Loaded:
    """Reads the files.

    Args:
        settings: Where they are.
        before: What was read before, which is returned where nothing has changed.

    Raises:
        CertificateError: They cannot be used.
    """
    option = settings.option
    certificate = _read(settings.certificate, f"{option}-cert")
    key = _read(settings.key, f"{option}-key")
    authorities = (
        None if settings.client_ca is None else _read(settings.client_ca, f"{option}-client-ca")
    )
    digest = _digest(certificate, key, authorities)
    if before is not None and digest == before.digest:
        return before
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(list(settings.protocols))
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    # Connections last, and with several workers a client seldom comes back to the same one.
    context.num_tickets = 0
    _use_pair(context, settings)
    if authorities is not None:
        _use_authorities(context, settings, authorities)
    after = (_read(settings.certificate, f"{option}-cert"), _read(settings.key, f"{option}-key"))
    if _digest(*after) != _digest(certificate, key):
        raise CertificateError(f"{settings.certificate} or its key has changed while it was read")
    return Loaded(
        digest,
        context,
        grpc.ssl_server_certificate_configuration([(key, certificate)], authorities),
        _end_of(f"{option}-cert {settings.certificate}", certificate),
    )


def _read(path: Path, option: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise CertificateError(f"{option} {path} cannot be read: {error.strerror}") from None
    if len(data) > _LARGEST:
        raise CertificateError(f"{option} {path} is larger than {_LARGEST} bytes")
    return data


def _digest(*files: bytes | None) -> bytes:
    content = hashlib.sha256()
    for file in files:
        content.update(b"-" if file is None else b"%d:" % len(file) + file)
    return content.digest()


def _use_pair(context: ssl.SSLContext, settings: TlsFiles) -> None:
    certificate = f"{settings.option}-cert {settings.certificate}"
    key = f"{settings.option}-key {settings.key}"

    def refuse() -> NoReturn:
        raise CertificateError(f"{key} is encrypted; give it without a passphrase")

    try:
        context.load_cert_chain(settings.certificate, settings.key, refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            what = f"{key} is not the key of {certificate}"
        else:
            what = (
                f"{certificate} and {key} must have a certificate chain and its key in PEM "
                f"({error.reason or 'not PEM'})"
            )
        raise CertificateError(what) from None
    except OSError as error:
        raise CertificateError(f"{certificate} or {key} cannot be read: {error.strerror}") from None


def _use_authorities(context: ssl.SSLContext, settings: TlsFiles, authorities: bytes) -> None:
    try:
        context.load_verify_locations(cadata=authorities.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise CertificateError(
            f"{settings.option}-client-ca {settings.client_ca} must have certificates in PEM"
        ) from None
    context.verify_mode = ssl.CERT_REQUIRED if settings.requires_clients else ssl.CERT_OPTIONAL


def _end_of(what: str, certificate: bytes) -> datetime:
    try:
        return x509.load_pem_x509_certificate(certificate).not_valid_after_utc
    except ValueError as error:
        raise CertificateError(f"{what} is no certificate: {error}") from None


def _warn_of_end(ends: datetime) -> None:
    left = ends - datetime.now(UTC)
    if left < timedelta(0):
        logger.error("the certificate has ended on %s: clients refuse it", ends.isoformat())
    elif left < _SOON:
        logger.warning("the certificate ends on %s", ends.isoformat())
