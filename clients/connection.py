"""How a client is connected: addresses, credentials, retries, and what gRPC is told of it."""

import ipaddress
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from hotfeast.clients.errors import ForkedClient

DEFAULT_TARGET = "127.0.0.1:6570"
DEFAULT_TIMEOUT = 5.0
"""Seconds."""

# Only reads: a push that was taken although its answer got lost would append offline rows twice.
_RETRIED = [{"service": "hotfeast.serving.v1.FeatureServing"}]
# Streams go on in another way: gRPC would keep what was sent.
_RESUMED = [{"service": "hotfeast.serving.v1.FeatureServing", "method": "GetOnlineFeaturesStream"}]
# Retries stop once the bucket is half empty: a failure takes one, a success gives a tenth back.
BUDGET = {"maxTokens": 20, "tokenRatio": 0.1}
"""Of retries, as gRPC has it, and of hedges."""
# gRPC waits up to two minutes before it looks whether a gateway is there again.
_LONGEST_RECONNECT_MS = 2000


@dataclass(frozen=True)
class Tls:
    """TLS to the gateway, or to the proxy in front of it.

    Example:
        ```python
        FeatureClient("features.example.com:443", tls=Tls())
        FeatureClient("10.0.0.5:6570", tls=Tls(ca="ca.pem", certificate="me.pem", key="me.key"))
        ```
    """

    ca: str | Path | None = None
    """PEM file of the authorities that are trusted; those that gRPC trusts if None."""
    certificate: str | Path | None = None
    """PEM file of the client's own certificate chain, where the server asks for one (mTLS)."""
    key: str | Path | None = None
    """PEM file of its private key."""
    server_name: str | None = None
    """The name in the server's certificate, where it is not the one in the address."""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("Tls: give certificate and key, or neither")

    def credentials(self) -> grpc.ChannelCredentials:
        """What gRPC wants; reads the files."""
        ca, key, certificate = (
            None if path is None else Path(path).read_bytes()
            for path in (self.ca, self.key, self.certificate)
        )
        return grpc.ssl_channel_credentials(ca, key, certificate)


@dataclass(frozen=True)
class Retries:
    """How reads that end with UNAVAILABLE, or that a gateway refuses since it has too much to do
    (RESOURCE_EXHAUSTED), are tried again, within the call's deadline.

    A gateway that says after what time it may be asked again is asked then, and not at all if it
    says never. All calls of a client share a budget: while more than one in ten fails for long,
    none is tried again, so that retries do not add to what a gateway suffers from. Pushes are not
    tried again.

    Example:
        ```python
        FeatureClient("features:6570", retries=Retries(attempts=5))
        FeatureClient("features:6570", retries=Retries(refused=False))
        FeatureClient("features:6570", retries=None)  # each call is tried once
        ```
    """

    attempts: int = 3
    """How often a call is tried in all, 2 to 5."""
    backoff: float = 0.02
    """Seconds before the second attempt, a fifth more or less by chance; twice as long before each
    more."""
    longest_backoff: float = 0.5
    """Seconds."""
    refused: bool = True
    """Whether reads that are refused are tried again, too."""

    def __post_init__(self) -> None:
        # gRPC itself makes 5 of more.
        if not 2 <= self.attempts <= 5:
            raise ValueError(f"Retries: attempts is {self.attempts}, and must be 2 to 5")
        if not 0 < self.backoff <= self.longest_backoff:
            raise ValueError("Retries: backoff must be above 0, and longest_backoff no less")


Target = str | Sequence[str]
Token = str | Callable[[], str]


@dataclass(frozen=True)
class Connection:
    """What `FeatureClient` and `AsyncFeatureClient` are told of a connection."""

    target: Target
    tls: Tls | None
    token: Token | None
    retries: Retries | None
    keepalive: float | None

    def __post_init__(self) -> None:
        if self.token is not None and self.tls is None:
            raise ValueError("a token is sent over TLS only: give tls=Tls()")
        if self.keepalive is not None and not self.keepalive > 0:
            raise ValueError(f"keepalive is {self.keepalive}, and must be above 0")

    @property
    def address(self) -> str:
        """The target as gRPC wants it."""
        return _target_of(self.target)

    def options(self) -> list[tuple[str, Any]]:
        """Options of the channel."""
        config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
        if self.retries is not None:
            codes = ["UNAVAILABLE"]
            if self.retries.refused:
                codes.append("RESOURCE_EXHAUSTED")
            policy = {
                "maxAttempts": self.retries.attempts,
                "initialBackoff": f"{self.retries.backoff:.6f}s",
                "maxBackoff": f"{self.retries.longest_backoff:.6f}s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": codes,
            }
            config["methodConfig"] = [
                {"name": _RETRIED, "retryPolicy": policy},
                {"name": _RESUMED},
            ]
            config["retryThrottling"] = BUDGET
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.service_config", json.dumps(config)),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", _LONGEST_RECONNECT_MS),
        ]
        if self.keepalive is not None:
            milliseconds = max(1, round(self.keepalive * 1000))
            options += [
                ("grpc.keepalive_time_ms", milliseconds),
                ("grpc.keepalive_timeout_ms", milliseconds),
                # gRPC has a limit of a minute for PINGs beside that for their answers.
                ("grpc.http2.ping_timeout_ms", milliseconds),
                # As many as it takes, also on a stream that has nothing to say.
                ("grpc.http2.max_pings_without_data", 0),
            ]
        if self.tls is not None and self.tls.server_name is not None:
            options.append(("grpc.ssl_target_name_override", self.tls.server_name))
        return options

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Credentials of the channel; None without TLS."""
        if self.tls is None:
            return None
        made = self.tls.credentials()
        if self.token is None:
            return made
        return grpc.composite_channel_credentials(
            made, grpc.metadata_call_credentials(_Bearer(self.token), name="token")
        )


class _Bearer(grpc.AuthMetadataPlugin):
    """Sends a token with each call, a new one each time where it is a function."""

    def __init__(self, token: Token) -> None:
        self._token = token

    def __call__(self, context: Any, callback: Any) -> None:
        try:
            token = self._token if isinstance(self._token, str) else self._token()
        except Exception as error:
            callback((), error)
            return
        callback((("authorization", f"Bearer {token}"),), None)


def _target_of(target: Target) -> str:
    """A target of gRPC's, of which it resolves one name, or takes several IP addresses.

    Raises:
        ValueError: Several addresses are no IP addresses, or of both versions of IP.
    """
    if isinstance(target, str):
        return target
    if len(target) == 1:
        return target[0]
    versions = {_ip_version(address) for address in target}
    if len(versions) != 1 or None in versions:
        raise ValueError(
            f"targets {list(target)}: several must be IP:PORT, all IPv4 or all IPv6; give one DNS "
            "name that has all addresses, such as 'dns:///features.example.com:6570'"
        )
    return f"ipv{versions.pop()}:{','.join(target)}"


def _ip_version(address: str) -> int | None:
    host, _, port = address.rpartition(":")
    try:
        return ipaddress.ip_address(host.strip("[]")).version if port.isdigit() else None
    except ValueError:
        return None


class Owner:
    """The process that made a client; gRPC's threads and sockets are of no use in another."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    @property
    def here(self) -> bool:
        """Whether this is that process."""
        return os.getpid() == self._pid

    def check(self) -> None:
        """
        Raises:
            ForkedClient: This is another process.
        """
        if not self.here:
            raise ForkedClient(
                f"this client was made in process {self._pid}, off which process {os.getpid()} was "
                "forked; make a client after the fork, in each process one"
            )
