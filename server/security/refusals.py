"""Callers that are refused: counted, and told of by the log, a bounded number a second."""

import logging
import threading
import time
from collections.abc import Callable
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter

logger = logging.getLogger("hotfeast.audit")

# Lines of the log: a second, and at once after a quiet time.
_LINES = 10.0
_BURST = 50.0
# Characters of what somebody asked for.
_LONGEST = 300


class Reason(StrEnum):
    """Why a caller is refused."""

    tls = "tls"
    """The handshake has failed."""
    missing = "credentials_missing"
    """There is no token and no certificate."""
    invalid = "credentials_invalid"
    """There is one, which is not known, not valid, or not any more."""
    denied = "permission"
    """Who calls is known, and may not do it."""


class Refusals:
    """Counts, in one process, from any thread."""

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            registry: Where the figures are kept; there are none if None.
            clock: Seconds.
        """
        self._clock = clock
        self._lock = threading.Lock()
        self._left = _BURST
        self._filled = clock()
        self._silent = 0
        self._counts = None
        if registry is not None:
            self._counts = Counter(
                "hotfeast_refusals",
                "Callers that were refused, by reason: tls (the handshake failed), "
                "credentials_missing, credentials_invalid, permission.",
                ["reason"],
                registry=registry,
            )

    def note(self, reason: Reason, who: str, peer: str, what: str) -> None:
        """Notes a refusal.

        Args:
            reason: Why.
            who: The principal; empty where nobody is known.
            peer: Its address; empty where it is not known.
            what: What it wanted, or what is wrong; nothing secret.
        """
        if self._counts is not None:
            self._counts.labels(reason.value).inc()
        with self._lock:
            now = self._clock()
            self._left = min(_BURST, self._left + (now - self._filled) * _LINES)
            self._filled = now
            if self._left < 1:
                self._silent += 1
                return
            self._left -= 1
            silent, self._silent = self._silent, 0
        if silent:
            logger.warning("refused: %d more, which are not told one by one", silent)
        # What callers send is quoted, so that it cannot look like lines of the log.
        logger.warning(
            "refused: reason=%s principal=%r peer=%s: %r",
            reason.value, who[:_LONGEST], peer or "unknown", what[:_LONGEST],
        )  # fmt: skip
