"""Addresses of clients, as gRPC writes them."""

import socket
import sys


def peer_of(address: bytes) -> str:
    """An address of the kernel's (`sockaddr_in` or `sockaddr_in6`) for people; empty where it is
    none.

    Args:
        address: Its bytes.
    """
    family = int.from_bytes(address[:2], sys.byteorder)
    port = int.from_bytes(address[2:4], "big")
    if family == socket.AF_INET and len(address) >= 8:
        return f"ipv4:{socket.inet_ntop(socket.AF_INET, address[4:8])}:{port}"
    if family == socket.AF_INET6 and len(address) >= 24:
        return f"ipv6:[{socket.inet_ntop(socket.AF_INET6, address[8:24])}]:{port}"
    return ""
