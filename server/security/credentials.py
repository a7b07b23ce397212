"""What a call comes with, as grpcio's server has it, or as the gateway's own passes it on."""

import json
from functools import lru_cache
from typing import Any

import grpc

from hotfeast.server.security.identity import Identity, identity_of_pem

IDENTITY = "hotfeast-identity-bin"
"""The metadata that a certificate's names are passed on in, over the gateway's own local socket."""
ADDRESS = "hotfeast-address"
"""The same of the client's address."""
PASSED_ON = frozenset({IDENTITY.encode(), ADDRESS.encode()})
"""What no client is let send."""

# Certificates that are remembered as read.
_MOST_READ = 1024

_read = lru_cache(maxsize=_MOST_READ)(identity_of_pem)


class ContextCredentials:
    """Credentials of a call that grpcio's server answers."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context

    @property
    def authorization(self) -> bytes | None:
        """`authorization`, and several of them with commas between; None where there is none."""
        found = [
            value if isinstance(value, bytes) else value.encode("latin-1")
            for name, value in self._context.invocation_metadata()
            if name == "authorization"
        ]
        return b",".join(found) if found else None

    @property
    def identity(self) -> Identity | None:
        """Who the client's certificate says that it is; None for nobody."""
        if self._is_passed_on:
            said = self.header(IDENTITY)
            return None if said is None else Identity(tuple(json.loads(said)))
        found = self._context.auth_context().get("x509_pem_cert")
        return _read(bytes(found[0])) if found else None

    @property
    def address(self) -> bytes | str:
        """The client's, for people."""
        said = self.header(ADDRESS) if self._is_passed_on else None
        return str(self._context.peer()) if said is None else said.decode()

    @property
    def _is_passed_on(self) -> bool:
        # Nobody else can come to the socket: its folder is this user's alone.
        return str(self._context.peer()).startswith("unix:")

    def header(self, wanted: str) -> bytes | None:
        """A value of the metadata; None where there is none."""
        for name, value in self._context.invocation_metadata():
            if name == wanted:
                return value if isinstance(value, bytes) else value.encode("utf-8")
        return None


def passed_on(identity: Identity | None, address: str) -> list[tuple[str, str | bytes]]:
    """The metadata that pass on whose a call is.

    Args:
        identity: Of the client's certificate; None for nobody.
        address: The client's.
    """
    made: list[tuple[str, str | bytes]] = [(ADDRESS, address)]
    if identity is not None:
        made.append((IDENTITY, json.dumps(identity.names).encode()))
    return made


def credentials_of(context: Any) -> Any:
    """What a call comes with, of the context that its handler is given."""
    own = getattr(context, "credentials", None)
    return ContextCredentials(context) if own is None else own
