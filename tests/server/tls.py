"""A server behind TLS."""

import socket
import ssl
import threading
from contextlib import suppress

import trustme


class TlsFront:
    """TLS in front of a plain server: what comes in encrypted goes on in the clear, and back.
    Clients that want to speak HTTP/2 are told that it does."""

    def __init__(self, port: int, certificate: trustme.LeafCert) -> None:
        self._target = port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._context)
        self._context.set_alpn_protocols(["h2"])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with (
            suppress(OSError),
            self._context.wrap_socket(plain, server_side=True) as inside,
            socket.create_connection(("127.0.0.1", self._target)) as outside,
        ):
            threading.Thread(target=self._copy, args=(outside, inside), daemon=True).start()
            self._copy(inside, outside)

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)

    def close(self) -> None:
        self._listener.close()
