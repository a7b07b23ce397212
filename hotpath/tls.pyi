import ssl

class Tls:
    """The server's end of TLS on one connection, without its socket."""

    def __init__(self, context: ssl.SSLContext) -> None: ...
    @property
    def ready(self) -> bool:
        """Whether the handshake is over."""

    @property
    def begun(self) -> bool:
        """Whether the client has sent something."""

    @property
    def protocol(self) -> str | None:
        """The protocol that was agreed on (ALPN); None for none."""

    @property
    def certificate(self) -> bytes | None:
        """The client's certificate in DER, which has been verified; None where it sent none."""
