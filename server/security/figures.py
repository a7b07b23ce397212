"""Whether the files of certificates and policies are in force, for Prometheus."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge

from hotfeast.server.security.access import AccessState
from hotfeast.server.security.certificates import CertificateState


class CertificateFigures:
    """Shows the state of certificates; told by one thread at a time."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """
        Args:
            registry: Where the figures are kept.
        """

        def gauge(name: str, text: str) -> Gauge:
            mode: Any = "livemin"
            return Gauge(name, text, registry=registry, multiprocess_mode=mode)

        self._ends = gauge(
            "hotfeast_tls_certificate_end_timestamp_seconds",
            "When the certificate in use ends, in seconds since 1970; of the worker most behind.",
        )
        self._valid = gauge(
            "hotfeast_tls_certificate_valid",
            "1 if the certificate's files as they are now are in use, by every worker; else 0.",
        )
        self._reloads = Counter(
            "hotfeast_tls_reloads",
            "Times that the certificate's files had changed, by outcome: done, failed.",
            ["outcome"],
            registry=registry,
        )
        self._seen = (0, 0)

    def note(self, state: CertificateState) -> None:
        """Sets the gauges, and counts on."""
        self._ends.set(state.ends.timestamp())
        self._valid.set(1 if state.valid else 0)
        done, failed = self._seen
        self._reloads.labels("done").inc(state.reloads - done)
        self._reloads.labels("failed").inc(state.failures - failed)
        self._seen = (state.reloads, state.failures)


class AccessFigures:
    """Shows whether policy and keys are in force; told by one thread at a time."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """
        Args:
            registry: Where the figures are kept.
        """
        mode: Any = "livemin"
        self._valid = Gauge(
            "hotfeast_access_input_valid",
            "1 if an input of the decisions about callers, as it is now, is in force in every "
            "worker; else 0: policy (with its tokens), keys (of the issuer of tokens).",
            ["input"],
            registry=registry,
            multiprocess_mode=mode,
        )

    def note(self, state: AccessState) -> None:
        """Sets the gauge."""
        self._valid.labels("policy").set(1 if state.policy else 0)
        if state.keys is not None:
            self._valid.labels("keys").set(1 if state.keys else 0)
