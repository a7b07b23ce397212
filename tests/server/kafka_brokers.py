"""Kafka's protocol over sockets: the brokers that librdkafka has for its own tests.

They keep topics, groups and offsets, and give partitions to the members of a group; they know
nothing of TLS, SASL and rights. Python's package does not show all that they can, so they are asked
for by the library's own names. A guard in front of them does the TLS and SASL that they do not.
"""

import ctypes
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import confluent_kafka

_PRODUCER = 0
# Numbers of requests, and of an error, in Kafka's protocol.
_API_VERSIONS, _HANDSHAKE, _AUTHENTICATE, _WRONG_PASSWORD = 18, 17, 36, 58
PARTITIONS = 4
"""Of a topic, which is made once it is asked for."""


def _library() -> Any:
    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    library = ctypes.CDLL(str(next(folder.glob("librdkafka*"))))
    library.rd_kafka_new.restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_new.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    library.rd_kafka_mock_cluster_bootstraps.argtypes = [ctypes.c_void_p]
    library.rd_kafka_mock_cluster_destroy.argtypes = [ctypes.c_void_p]
    library.rd_kafka_mock_group_initial_rebalance_delay_ms.argtypes = [
        ctypes.c_void_p, ctypes.c_int32,
    ]  # fmt: skip
    library.rd_kafka_mock_topic_set_error.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int,
    ]  # fmt: skip
    library.rd_kafka_destroy.argtypes = [ctypes.c_void_p]
    return library


class Brokers:
    """A cluster of one broker."""

    def __init__(self, library: Any, cluster: int) -> None:
        self._library = library
        self._cluster = cluster
        self.servers: str = library.rd_kafka_mock_cluster_bootstraps(cluster).decode()
        """Its address."""

    def refuse(self, topic: str, code: int) -> None:
        """Has all that is asked of a topic be answered with an error; 0 for no more."""
        self._library.rd_kafka_mock_topic_set_error(self._cluster, topic.encode(), code)


@contextmanager
def run_brokers() -> Iterator[Brokers]:
    """Runs a cluster in this process, on loopback."""
    library = _library()
    handle = library.rd_kafka_new(_PRODUCER, None, None, 0)
    cluster = library.rd_kafka_mock_cluster_new(handle, 1)
    # Unless told, the first members of a group wait three seconds for others.
    library.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 20)
    try:
        yield Brokers(library, cluster)
    finally:
        library.rd_kafka_mock_cluster_destroy(cluster)
        library.rd_kafka_destroy(handle)


class _Guard:
    """A server with TLS that wants a user's name and password by SASL's PLAIN, and passes on what
    comes after."""

    def __init__(self, upstream: str, context: ssl.SSLContext, password: bytes) -> None:
        host, _, port = upstream.rpartition(":")
        self._upstream = (host, int(port))
        self._context = context
        self._password = password
        self.listener = socket.create_server((host, 0))
        own = self.listener.getsockname()[1]
        self.servers = f"{host}:{own}"
        # Brokers tell where they are to be found, which has to be here.
        address = host.encode()
        self._theirs = address + struct.pack(">i", int(port))
        self._ours = address + struct.pack(">i", own)

    def accept(self) -> None:
        """Serves whoever comes until the listener is closed."""
        with suppress(OSError):
            while True:
                raw, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(raw,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        # Whoever does not like the other's words ends the connection, in the middle of a frame too.
        with (
            suppress(OSError, struct.error),
            raw,
            self._context.wrap_socket(raw, server_side=True) as client,
            socket.create_connection(self._upstream) as broker,
        ):
            while not self._greet(client, broker):
                pass
            threading.Thread(target=self._pass_on, args=(client, broker), daemon=True).start()
            while True:
                client.sendall(_frame(broker).replace(self._theirs, self._ours))

    def _greet(self, client: socket.socket, broker: socket.socket) -> bool:
        """Answers one request of those before others are allowed. Returns whether it may go on.

        Raises:
            ConnectionError: It may not.
        """
        request = _frame(client)
        kind, _, correlation, name = struct.unpack_from(">hhih", request, 4)
        if kind == _API_VERSIONS:
            broker.sendall(request)
            told = _frame(broker)
            size, number, error = struct.unpack_from(">iih", told)
            if error == 0:
                # How many kinds of requests there are, and which. (An error asks to ask otherwise.)
                (count,) = struct.unpack_from(">i", told, 10)
                more = struct.pack(">6h", _HANDSHAKE, 0, 1, _AUTHENTICATE, 0, 0)
                told = (
                    struct.pack(">iihi", size + len(more), number, 0, count + 2) + more + told[14:]
                )
            client.sendall(told)
            return False
        if kind == _HANDSHAKE:
            # No error, and a list of one mechanism.
            client.sendall(struct.pack(">iihih5s", 17, correlation, 0, 1, 5, b"PLAIN"))
            return False
        told_password = request[14 + name :]
        if kind != _AUTHENTICATE or told_password[4:] != b"\0me\0" + self._password:
            client.sendall(struct.pack(">iihhi", 12, correlation, _WRONG_PASSWORD, -1, -1))
            raise ConnectionError("a wrong password")
        client.sendall(struct.pack(">iihhi", 12, correlation, 0, -1, 0))
        return True

    def _pass_on(self, client: socket.socket, broker: socket.socket) -> None:
        with suppress(OSError, struct.error):
            while True:
                broker.sendall(_frame(client))
        with suppress(OSError):
            broker.shutdown(socket.SHUT_RDWR)


def _frame(source: socket.socket) -> bytes:
    """A request or a response, with its size in front."""
    data = _read(source, 4)
    return data + _read(source, struct.unpack(">i", data)[0])


def _read(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = source.recv(size - len(data))
        if not part:
            raise ConnectionError("the other end has gone")
        data += part
    return data


@contextmanager
def guarded(brokers: Brokers, context: ssl.SSLContext, password: str) -> Iterator[str]:
    """The address of a cluster that speaks TLS only, and with the user `me` only."""
    guard = _Guard(brokers.servers, context, password.encode())
    threading.Thread(target=guard.accept, daemon=True).start()
    try:
        yield guard.servers
    finally:
        # A thread that waits for a connection does not see that its listener is closed.
        guard.listener.shutdown(socket.SHUT_RDWR)
        guard.listener.close()
