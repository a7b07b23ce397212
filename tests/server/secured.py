"""Gateways behind TLS, and clients that can do what grpcio's would not."""

import socket
import ssl
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import h2.config
import h2.connection
import h2.events
import trustme

from hotfeast.clients import FeatureClient, Tls
from hotfeast.server.gateway import Gateway, Settings

NAME = "gateway.test"
"""Of the gateways' certificates."""
CHECK = "/grpc.health.v1.Health/Check"


@dataclass(frozen=True)
class Pair:
    """A certificate chain and its key, as files."""

    certificate: Path
    key: Path

    @classmethod
    def write(cls, folder: Path, issued: trustme.LeafCert, name: str = "tls") -> "Pair":
        folder.mkdir(parents=True, exist_ok=True)
        pair = cls(folder / f"{name}.crt", folder / f"{name}.key")
        pair.replace(issued)
        return pair

    def replace(self, issued: trustme.LeafCert) -> None:
        """Puts others in the files, each at once."""
        for path, data in (
            (self.certificate, b"".join(blob.bytes() for blob in issued.cert_chain_pems)),
            (self.key, issued.private_key_pem.bytes()),
        ):
            new = path.with_suffix(".new")
            new.write_bytes(data)
            new.replace(path)

    def tls(self, ca: Path) -> Tls:
        """A client's, with these as its own."""
        return Tls(ca=ca, certificate=self.certificate, key=self.key, server_name=NAME)


@contextmanager
def gateway(settings: Settings) -> Iterator[Gateway]:
    """A gateway on a free port for as long as it is needed."""
    made = Gateway(settings)
    made.start()
    try:
        yield made
    finally:
        made.stop(drain=1)


@contextmanager
def channel(
    port: int, tls: Tls | None, token: str | None = None, *options: tuple[str, Any]
) -> Iterator[grpc.Channel]:
    """grpcio's channel to a gateway, which no other one shares connections with."""
    alone = [("grpc.use_local_subchannel_pool", 1), *options]
    address = f"127.0.0.1:{port}"
    if tls is None:
        with grpc.insecure_channel(address, alone) as made:
            yield made
        return
    credentials = tls.credentials()
    if token is not None:
        credentials = grpc.composite_channel_credentials(
            credentials, grpc.access_token_call_credentials(token)
        )
    if tls.server_name is not None:
        alone.append(("grpc.ssl_target_name_override", tls.server_name))
    with grpc.secure_channel(address, credentials, alone) as made:
        yield made


@contextmanager
def client(port: int, tls: Tls | None, token: str | None = None) -> Iterator[FeatureClient]:
    """The Python client, which tries each call once."""
    with FeatureClient(f"127.0.0.1:{port}", tls=tls, token=token, retries=None) as made:
        yield made


def client_context(ca: Path, pair: Pair | None = None, alpn: Sequence[str] = ("h2",)) -> Any:
    """What Python's own sockets speak TLS with."""
    context = ssl.create_default_context(cafile=str(ca))
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    return context


class RawClient:
    """One connection of HTTP/2 over a Python socket, a call at a time."""

    def __init__(self, sock: socket.socket, window: int = 2**20) -> None:
        self.socket = sock
        sock.settimeout(20)
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding=None)
        )
        self.h2.initiate_connection()
        self.h2.update_settings({4: window})
        self.h2.increment_flow_control_window(2**20)
        self.said: dict[bytes, bytes] = {}
        self.data = bytearray()
        self.over = False

    def call(
        self,
        path: str,
        message: bytes,
        headers: Iterable[tuple[str, str]] = (),
        pieces: int | None = None,
    ) -> tuple[dict[bytes, bytes], bytes]:
        """Calls a unary method.

        Args:
            path: The method.
            message: The request.
            headers: More of them.
            pieces: Bytes of each piece that is sent; all at once if None.

        Returns:
            Headers and trailers together, and the answer's message.
        """
        number = self.begin(path, headers)
        left = b"\0" + len(message).to_bytes(4, "big") + message
        while left:
            size = min(len(left), 16384, self.h2.local_flow_control_window(number))
            if size == 0:
                # Until the gateway lets more come.
                self._send(pieces)
                self._see(number)
                continue
            self.h2.send_data(number, left[:size], end_stream=size == len(left))
            left = left[size:]
        return self.answer_of(number, pieces)

    def begin(self, path: str, headers: Iterable[tuple[str, str]] = ()) -> int:
        """Begins a call without sending anything. Returns its stream's number."""
        number = self.h2.get_next_available_stream_id()
        made = [
            *((":method", "POST"), (":scheme", "https"), (":path", path)),
            *((":authority", NAME), ("te", "trailers"), ("content-type", "application/grpc")),
            *headers,
        ]
        self.h2.send_headers(number, made)
        self.said, self.data, self.over = {}, bytearray(), False
        return number

    def answer_of(self, number: int, pieces: int | None = None) -> tuple[dict[bytes, bytes], bytes]:
        """Sends what is to be sent, and reads the answer, as `call` does."""
        self._send(pieces)
        while not self.over:
            self._see(number)
        return self.said, bytes(self.data[5:])

    def _see(self, number: int) -> None:
        """Reads some of an answer."""
        received = self.socket.recv(65536)
        if not received:
            raise ConnectionError("the gateway has closed the connection")
        for event in self.h2.receive_data(received):
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                self.said.update(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.data += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, number)
            elif isinstance(event, h2.events.StreamEnded):
                self.over = True
            elif isinstance(event, h2.events.ConnectionTerminated):
                raise ConnectionError((event.additional_data or b"").decode())
        self._send(None)

    def _send(self, pieces: int | None) -> None:
        data = self.h2.data_to_send()
        while data:
            size = pieces or len(data)
            self.socket.sendall(data[:size])
            data = data[size:]
