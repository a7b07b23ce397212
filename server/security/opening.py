"""TLS, credentials and grants of one gateway process."""

from prometheus_client import CollectorRegistry

from hotfeast.server.errors import StartFailure
from hotfeast.server.security.access import Access
from hotfeast.server.security.certificates import Certificates
from hotfeast.server.security.figures import AccessFigures, CertificateFigures
from hotfeast.server.security.guard import Guard
from hotfeast.server.security.refusals import Refusals
from hotfeast.server.settings import Settings


class Security:
    """All that a gateway process has of it.

    Attributes:
        certificates: What clients' connections are encrypted with; None where they are not.
        access: Who may do what; None where everybody may do everything.
        guard: Has methods know who calls.
        refusals: Is told of callers that are refused.
    """

    def __init__(
        self, settings: Settings, project: str, registry: CollectorRegistry | None
    ) -> None:
        """
        Args:
            settings: The gateway's.
            project: The project that is served.
            registry: Where figures are kept; there are none if None.

        Raises:
            StartFailure: Files cannot be used, or settings do not go together.
        """
        self.refusals = Refusals(registry)
        self.certificates: Certificates | None = None
        tls = settings.tls
        if tls is not None:
            if settings.server == "grpcio" and tls.client_ca and not tls.requires_clients:
                raise StartFailure(
                    "--tls-client-auth optional goes with --server native: grpcio's server asks "
                    "each client for a certificate, or none"
                )
            if registry is None:
                self.certificates = Certificates(tls)
            else:
                self.certificates = Certificates(tls, CertificateFigures(registry).note)
        self.access: Access | None = None
        if settings.auth is not None:
            if settings.channelz and settings.server == "grpcio":
                raise StartFailure(
                    "--auth and --channelz go together with --server native only: grpcio's "
                    "channelz asks nobody who calls"
                )
            if registry is None:
                self.access = Access(settings.auth, project, self.refusals)
            else:
                told = AccessFigures(registry).note
                self.access = Access(settings.auth, project, self.refusals, told)
        self.guard = Guard(self.access)

    def start(self) -> None:
        """Starts looking at files that may change."""
        if self.certificates is not None:
            self.certificates.start()
        if self.access is not None:
            self.access.start()

    def stop(self) -> None:
        """Stops looking."""
        if self.certificates is not None:
            self.certificates.stop()
        if self.access is not None:
            self.access.stop()
