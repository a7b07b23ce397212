"""Addresses to listen on, of all kinds that a name has."""

import errno
import socket
from collections.abc import Sequence

from hotfeast.server.errors import StartFailure

_BACKLOG = 4096


def bind_all(host: str, port: int, share_port: bool) -> list[socket.socket]:
    """Takes a port of each address that a host has; nothing listens yet.

    Args:
        host: An address or a name; brackets around an IPv6 address may be there or not.
        port: 0 for any free one, the same for all addresses.
        share_port: Whether others may listen on the same port (SO_REUSEPORT).

    Returns:
        Sockets that do not block.

    Raises:
        StartFailure: It cannot be had.
    """
    try:
        found = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise _failure(host, port, error) from error
    missing: OSError | None = None
    bound: list[socket.socket] = []
    for family, _, _, _, address in found:
        try:
            made = _bind(family, (address[0], port, *address[2:]), share_port)
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                close_all(bound)
                raise _failure(host, port, error) from error
            # A name may have an address of a kind that this machine has not.
            missing = error
            continue
        bound.append(made)
        port = port_of(bound)
    if missing is not None and not bound:
        raise _failure(host, port, missing) from missing
    return bound


def listen_all(sockets: Sequence[socket.socket], host: str) -> None:
    """Has connections taken for sockets that are bound.

    Raises:
        StartFailure: Somebody else has begun to listen there.
    """
    try:
        for each in sockets:
            each.listen(_BACKLOG)
    except OSError as error:
        raise _failure(host, port_of(sockets), error) from error


def port_of(sockets: Sequence[socket.socket]) -> int:
    """The port of sockets that are bound."""
    return int(sockets[0].getsockname()[1])


def close_all(sockets: Sequence[socket.socket]) -> None:
    """Closes sockets."""
    for each in sockets:
        each.close()


def _bind(family: int, address: tuple[object, ...], share_port: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share_port:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


def _failure(host: str, port: int, error: OSError) -> StartFailure:
    return StartFailure(f"cannot listen on {host}:{port}: {error}")
