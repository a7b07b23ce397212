"""TLS, credentials and grants of one gateway process."""

from prometheus_client import CollectorRegistry

from hotfeast.server.errors import StartFailure
from hotfeast.server.security.certificates import Certificates
from hotfeast.server.security.figures import CertificateFigures
from hotfeast.server.security.refusals import Refusals
from hotfeast.server.settings import Settings


class Security:
    """All that a gateway process has of it.

    Attributes:
        certificates: What clients' connections are encrypted with; None where they are not.
        refusals: Is told of callers that are refused.
    """

    def __init__(self, settings: Settings, registry: CollectorRegistry | None) -> None:
        """
        Args:
            settings: The gateway's.
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

    def start(self) -> None:
        """Starts looking at files that may change."""
        if self.certificates is not None:
            self.certificates.start()

    def stop(self) -> None:
        """Stops looking."""
        if self.certificates is not None:
            self.certificates.stop()
