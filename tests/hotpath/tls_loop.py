"""The loop behind TLS on a loopback address, answering each call with its message; and what clients
may say to it that do not mean well."""

import socket
import ssl
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import trustme
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded

from hotfeast.hotpath.http2 import Connection, Stream
from hotfeast.hotpath.reactor import Reactor
from tests.hotpath.http2_client import ECHO, framed, request_headers

NAME = "loop.test"
PATIENCE = 20.0
"""Seconds for anything; it never takes as long."""


class EchoLoop(Reactor):
    """Answers unary calls with their message.

    Attributes:
        port: Where.
        context: What clients connect with.
        errors: What should not have happened.
        refused: Why clients were dropped that did not keep to TLS.
    """

    def __init__(self, at_once: object) -> None:
        self.errors: list[Exception] = []
        self.refused: list[str] = []
        authority = trustme.CA()
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.set_alpn_protocols(["h2"])
        # So that each handshake is a whole one.
        server.options |= ssl.OP_NO_TICKET
        server.num_tickets = 0
        with TemporaryDirectory() as folder:
            issued = authority.issue_cert(NAME)
            chain = Path(folder, "chain.pem")
            chain.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
            server.load_cert_chain(chain)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(self.context)
        self.context.set_alpn_protocols(["h2"])
        self.tls_context = server
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        listener.setblocking(False)
        self.port: int = listener.getsockname()[1]
        self.listen(listener)
        threading.Thread(target=self.run, daemon=True).start()

    def answer(self, stream: Stream, message: bytes) -> None:
        """Answers a call."""
        stream.answer(message)

    def answer_packed(self, stream: Stream, message: bytes) -> None:
        """Answers a call whose message is compressed."""
        stream.finish(12, "not here", ())

    def open(self, stream: Stream, headers: Any) -> None:
        """Refuses all other calls."""
        stream.finish(12, "not here", ())

    def report(self, error: Exception) -> None:
        """Keeps what should not have happened."""
        self.errors.append(error)

    def insecure(self, connection: Connection, error: Exception) -> None:
        """Keeps why a client was dropped."""
        self.refused.append(str(error))


@cache
def the_loop() -> EchoLoop:
    """The one of this process."""
    return EchoLoop(frozenset([ECHO]))


def connect() -> socket.socket:
    """A connection to it, without TLS so far."""
    made = socket.create_connection(("127.0.0.1", the_loop().port), PATIENCE)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


class Ends(NamedTuple):
    """A client's end of TLS in memory."""

    session: ssl.SSLObject
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO


def ends() -> Ends:
    """A client that has said hello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = the_loop().context.wrap_bio(incoming, outgoing, server_hostname=NAME)
    with suppress(ssl.SSLWantReadError):
        session.do_handshake()
    return Ends(session, incoming, outgoing)


def shake(raw: socket.socket) -> Ends:
    """A handshake that is over."""
    made = ends()
    while True:
        if hello := made.outgoing.read():
            raw.sendall(hello)
        made.incoming.write(raw.recv(65536))
        with suppress(ssl.SSLWantReadError):
            made.session.do_handshake()
            raw.sendall(made.outgoing.read())
            return made


def rest_of(raw: socket.socket) -> bytes:
    """Ends the sending side, and reads until the loop ends the other."""
    said = b""
    with suppress(ConnectionError):
        raw.shutdown(socket.SHUT_WR)
        while data := raw.recv(65536):
            said += data
    return said


def request() -> bytes:
    """A client's bytes of one call."""
    client = H2Connection(H2Configuration(header_encoding=None))
    client.initiate_connection()
    client.send_headers(1, request_headers(ECHO))
    client.send_data(1, framed(b"hello"), end_stream=True)
    return client.data_to_send()


def echoed() -> bytes:
    """What a client of good will is answered."""
    client = H2Connection(H2Configuration(header_encoding=None))
    client.initiate_connection()
    client.send_headers(1, request_headers(ECHO))
    client.send_data(1, framed(b"hello"), end_stream=True)
    data = b""
    with the_loop().context.wrap_socket(connect(), server_hostname=NAME) as sock:
        while True:
            sock.sendall(client.data_to_send())
            for event in client.receive_data(sock.recv(65536)):
                if isinstance(event, DataReceived):
                    data += event.data
                if isinstance(event, StreamEnded):
                    return data


def changed(original: bytes, changes: bytes) -> bytes:
    """Bytes with some put in the place of others: each time two bytes of a place and one that goes
    there; what is left over in `changes` goes behind."""
    made = bytearray(original)
    whole = len(changes) // 3 * 3
    for at in range(0, whole, 3):
        made[int.from_bytes(changes[at : at + 2], "big") % len(made)] = changes[at + 2]
    return bytes(made) + changes[whole:]


RAW, HELLO, RECORDS, SEALED, CUT = range(5)


def say(data: bytes) -> bytes:
    """Has a client say something, by the first byte: any bytes; a ClientHello with changes; behind
    a handshake any bytes in records of some size; or a request whose records are changed or cut
    after they were encrypted. Returns what it was told, without what came in the handshake.

    Fails where the loop does, or leaves the connection open.
    """
    kind, said = (data[0] % 5 if data else RAW), data[1:]
    with connect() as raw:
        with suppress(ConnectionError):
            if kind == RAW:
                raw.sendall(said)
            elif kind == HELLO:
                raw.sendall(changed(ends().outgoing.read(), said))
            else:
                made = shake(raw)
                size = said[0] + 1 if kind == RECORDS and said else 1 << 14
                clear = said[1:] if kind == RECORDS else request()
                for at in range(0, len(clear), size):
                    made.session.write(clear[at : at + size])
                sealed = made.outgoing.read()
                if kind == SEALED:
                    sealed = changed(sealed, said)
                elif kind == CUT:
                    sealed = sealed[: int.from_bytes(said[:2], "big") % (len(sealed) + 1)]
                raw.sendall(sealed)
        told = rest_of(raw)
    errors = the_loop().errors
    assert not errors, errors
    return told
