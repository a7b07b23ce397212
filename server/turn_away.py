"""Keeping new connections from a listening socket that is not ours to hand on.

grpcio listens on sockets of its own, and closes them with the connections that it has not accepted
or whose handshake is not over. Where other processes listen on the same port, a client should be
theirs instead. So, just before the end, a filter on the socket drops what opens connections (SYN):
those that were open already are served as ever, and a client whose SYN is dropped sends it again
after a second, when the kernel knows of the others only.
"""

import ctypes
import os
import socket
import struct
import time
from collections.abc import Iterator

_SO_ATTACH_FILTER = 26
# Seconds for connections to be accepted and their clients to begin to speak, at least and at most.
_HANDSHAKE = 0.1
_LONGEST = 1.0
# Instructions of classic BPF: code, jump if true, jump if false, operand. A filter sees a segment
# from its TCP header on, whose byte 13 has the flags; 2 is SYN. It returns how many bytes of the
# segment stay.
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load the byte at 13
    (0x45, 0, 1, 2),  # unless it has bit 2, skip one
    (0x06, 0, 0, 0),  # return 0
    (0x06, 0, 0, 0xFFFFFFFF),  # return all
)


def turn_away(port: int) -> None:
    """Lets no more connections come to this process's sockets that listen on a port, and waits
    until those that have come are served."""
    listeners = list(_listeners(port))
    try:
        for listener in listeners:
            _drop_syn(listener)
        end = time.monotonic() + _LONGEST
        time.sleep(_HANDSHAKE)
        while any(map(_waiting, listeners)) and time.monotonic() < end:
            time.sleep(_HANDSHAKE)
    finally:
        for listener in listeners:
            listener.close()


def _listeners(port: int) -> Iterator[socket.socket]:
    """This process's sockets that listen on a TCP port, each once more."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            found = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            # Closed meanwhile.
            continue
        if (
            found.family in (socket.AF_INET, socket.AF_INET6)
            and found.type == socket.SOCK_STREAM
            and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            and found.getsockname()[1] == port
        ):
            yield found
        else:
            found.close()


def _drop_syn(listener: socket.socket) -> None:
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in _DROP_SYN)
    kept = ctypes.create_string_buffer(code)
    program = struct.pack("@HP", len(_DROP_SYN), ctypes.addressof(kept))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _waiting(listener: socket.socket) -> int:
    """Connections that nobody has accepted: what Linux says as `tcpi_unacked` of a listener."""
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)
    return int(struct.unpack_from("=I", info, 24)[0])
