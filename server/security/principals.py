"""Who calls."""

import math
from typing import NamedTuple, Protocol

from hotfeast.server.security.identity import Identity

ANONYMOUS = "anonymous"


class Principal(NamedTuple):
    """Somebody who may be granted something.

    Attributes:
        kind: How they are known: `token`, `jwt`, `certificate` or `anonymous`.
        name: What they go by.
        names: All that they go by.
        roles: Roles that the token has.
        groups: Groups likewise.
        namespaces: Namespaces likewise.
    """

    kind: str
    name: str
    names: tuple[str, ...]
    roles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """For people, and as policies have it."""
        return ANONYMOUS if self.kind == ANONYMOUS else f"{self.kind}:{self.name}"


NOBODY = Principal(ANONYMOUS, "", ())
"""Who comes without credentials."""


class Verified(NamedTuple):
    """A principal whose credentials have been looked at.

    Attributes:
        principal: Who it is.
        ends: Until when the credentials are valid, in seconds since 1970.
    """

    principal: Principal
    ends: float = math.inf


class Credentials(Protocol):
    """What a call comes with."""

    @property
    def authorization(self) -> bytes | None:
        """Its `authorization`; None where it has none."""

    @property
    def identity(self) -> Identity | None:
        """Whose certificate its connection has; None for nobody's."""

    @property
    def address(self) -> bytes | str:
        """Where it comes from: as the kernel has it, or for people."""


def of_certificate(identity: Identity) -> Principal:
    """Who a certificate stands for."""
    return Principal("certificate", identity.names[0], identity.names)
