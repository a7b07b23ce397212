"""TLS and mTLS of both servers: the same answers, certificates that change, and clients that do not
keep to it."""

import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
import trustme
from cryptography.hazmat.primitives import serialization as s
from feast import FeatureStore
from processes import eventually
from secured import CHECK, NAME, Pair, RawClient, channel, client_context, gateway
from served import Served
from test_native import CALLS, LARGE, READ, USERS, call, read_request
from typer.testing import CliRunner

from hotfeast.clients import Tls
from hotfeast.server.cli import app
from hotfeast.server.errors import StartFailure
from hotfeast.server.gateway import Gateway, Settings
from hotfeast.server.security.identity import Identity
from hotfeast.server.settings import ConnectionLimits, TlsSettings

SERVERS = ["native", "grpcio"]


class Secured(NamedTuple):
    """A gateway behind TLS."""

    gateway: Gateway
    pair: Pair
    ca: Path
    authority: trustme.CA

    @property
    def tls(self) -> Tls:
        return Tls(ca=self.ca, server_name=NAME)

    def connect(self, **options: Any) -> ssl.SSLSocket:
        """A socket behind TLS."""
        context = options.pop("context", None) or client_context(self.ca, **options)
        plain = socket.create_connection(("127.0.0.1", self.gateway.port), timeout=20)
        wrapped: ssl.SSLSocket = context.wrap_socket(plain, server_hostname=NAME)
        return wrapped


@pytest.fixture(scope="module", params=SERVERS)
def secured(
    request: pytest.FixtureRequest,
    market_store: FeatureStore,
    authority: tuple[trustme.CA, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Secured]:
    ca, path = authority
    pair = Pair.write(tmp_path_factory.mktemp("tls"), ca.issue_cert(NAME))
    settings = Settings(
        repo=Path(market_store.repo_path), port=0, server=request.param,
        tls=TlsSettings(pair.certificate, pair.key, interval=0.05), reflection=True,
        connections=ConnectionLimits(handshake=0.5),
    )  # fmt: skip
    with gateway(settings) as made:
        yield Secured(made, pair, path, ca)


@pytest.fixture(scope="module", params=SERVERS)
def mutual(
    request: pytest.FixtureRequest,
    market_store: FeatureStore,
    authority: tuple[trustme.CA, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Secured]:
    ca, path = authority
    pair = Pair.write(tmp_path_factory.mktemp("mtls"), ca.issue_cert(NAME))
    settings = Settings(
        repo=Path(market_store.repo_path), port=0, server=request.param,
        tls=TlsSettings(pair.certificate, pair.key, path),
    )  # fmt: skip
    with gateway(settings) as made:
        yield Secured(made, pair, path, ca)


def is_native(secured: Secured) -> bool:
    return secured.gateway.settings.server == "native"


def test_answers_are_those_without_tls(secured: Secured, strict: Served) -> None:
    with channel(secured.gateway.port, secured.tls) as encrypted:
        for name in (
            f"read {READ}", "read of many", "read of no service", "on demand", "catalog", "push",
            "push stream", "health", "reflection", "unknown service",
        ):  # fmt: skip
            method, requests = CALLS[name]
            assert call(encrypted, method, *requests) == call(strict.channel, method, *requests)


def test_large_answers_to_clients_that_read_slowly(secured: Secured, strict: Served) -> None:
    """Many records, more than the socket takes at once."""
    large = read_request("users", {"user_id": ("int64_val", [2**40, 1] * 1000)})
    expected = strict.call(READ, large)
    assert len(expected) > 2_000_000
    with channel(
        secured.gateway.port, secured.tls, None, ("grpc.max_receive_message_length", -1)
    ) as c:
        assert call(c, READ, large).messages == [expected]
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.connect(("127.0.0.1", secured.gateway.port))
    with client_context(secured.ca).wrap_socket(plain, server_hostname=NAME) as wrapped:
        said, answer = RawClient(wrapped, window=2**24).call(READ, large)
    assert said[b"grpc-status"] == b"0"
    assert answer == expected


@pytest.mark.parametrize("pieces", [1, 7])
def test_requests_in_small_records(secured: Secured, strict: Served, pieces: int) -> None:
    with secured.connect() as wrapped:
        raw = RawClient(wrapped)
        for _ in range(2):
            said, answer = raw.call(READ, USERS, pieces=pieces)
            assert (said[b"grpc-status"], answer) == (b"0", strict.call(READ, USERS))


def test_records_in_small_pieces(secured: Secured, strict: Served) -> None:
    """What the gateway receives ends in the midst of records, and of the handshake."""
    with socket.create_connection(("127.0.0.1", secured.gateway.port), timeout=20) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        inside = client_context(secured.ca).wrap_bio(incoming, outgoing, server_hostname=NAME)

        class Choppy:
            """A socket whose bytes go out a few at a time."""

            def settimeout(self, _: float) -> None: ...

            def flush(self) -> None:
                data = outgoing.read()
                for at in range(0, len(data), 50):
                    plain.sendall(data[at : at + 50])

            def sendall(self, data: bytes) -> None:
                inside.write(data)
                self.flush()

            def recv(self, size: int) -> bytes:
                while True:
                    try:
                        return bytes(inside.read(size))
                    except ssl.SSLWantReadError:
                        incoming.write(plain.recv(333))

        choppy: Any = Choppy()
        while True:
            try:
                inside.do_handshake()
                break
            except ssl.SSLWantReadError:
                choppy.flush()
                incoming.write(plain.recv(333))
        choppy.flush()
        said, answer = RawClient(choppy).call(READ, LARGE)
    assert (said[b"grpc-status"], answer) == (b"0", strict.call(READ, LARGE))


def test_a_changed_certificate_is_for_new_connections(secured: Secured) -> None:
    first = secured.connect()
    before = first.getpeercert(binary_form=True)
    old = RawClient(first)
    assert old.call(CHECK, b"")[1] == b"\x08\x01"
    secured.pair.replace(secured.authority.issue_cert(NAME))

    def changed() -> bool:
        with secured.connect() as new:
            return new.getpeercert(binary_form=True) != before

    eventually(changed)
    with first:
        assert old.call(READ, USERS)[0][b"grpc-status"] == b"0"
    # A key that is not the certificate's: what was there before stays.
    kept = secured.pair.key.read_bytes()
    secured.pair.key.write_bytes(secured.authority.issue_cert(NAME).private_key_pem.bytes())
    certificates = secured.gateway._security.certificates
    assert certificates is not None
    eventually(lambda: not certificates.state.valid)
    with secured.connect() as wrapped:
        assert RawClient(wrapped).call(CHECK, b"")[1] == b"\x08\x01"
    secured.pair.key.write_bytes(kept)
    eventually(lambda: certificates.state.valid)
    # A look in between the two files may have been another.
    assert certificates.state.failures >= 1


def heard(client: socket.socket) -> bytes:
    """All that comes until the other end closes."""
    received = b""
    try:
        while data := client.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize(
    "said",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
        b"PRI * HTTP",
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"\x16" + os.urandom(200),
        b"\x16\x03\x01\xff\xff" + bytes(300),
    ],
)
def test_who_does_not_speak_tls_is_told(secured: Secured, said: bytes) -> None:
    with socket.create_connection(("127.0.0.1", secured.gateway.port), timeout=20) as client:
        client.sendall(said)
        answer = heard(client)
    if is_native(secured) and said.startswith(b"GET"):
        assert b"no HTTP/2 preface" in answer


def test_plain_clients_of_grpcio_end(secured: Secured) -> None:
    with channel(secured.gateway.port, None) as plain:
        answer = call(plain, READ, USERS)
    assert answer.code == grpc.StatusCode.UNAVAILABLE
    if is_native(secured):
        assert answer.details == "this port speaks TLS: connect with TLS credentials"


def test_tls_clients_of_a_plain_gateway_end(strict: Served, secured: Secured) -> None:
    with channel(strict.gateway.port, secured.tls) as encrypted:
        assert call(encrypted, READ, USERS).code == grpc.StatusCode.UNAVAILABLE
    with (
        socket.create_connection(("127.0.0.1", strict.gateway.port), timeout=20) as plain,
        pytest.raises(ssl.SSLError),
    ):
        client_context(secured.ca).wrap_socket(plain, server_hostname=NAME)


@pytest.mark.parametrize("part", [0, 1, 100])
def test_silent_handshakes_end(secured: Secured, part: int) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    inside = client_context(secured.ca).wrap_bio(incoming, outgoing, server_hostname=NAME)
    with pytest.raises(ssl.SSLWantReadError):
        inside.do_handshake()
    with socket.create_connection(("127.0.0.1", secured.gateway.port), timeout=20) as client:
        client.sendall(outgoing.read()[:part])
        assert heard(client) == b""


def test_old_versions_and_other_protocols_are_refused(secured: Secured) -> None:
    old = client_context(secured.ca)
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        secured.connect(context=old)
    weak = client_context(secured.ca)
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("AES256-SHA256:ECDHE-RSA-AES128-SHA256:ECDHE-ECDSA-AES128-SHA256")
    if is_native(secured):
        with pytest.raises(ssl.SSLError):
            secured.connect(context=weak)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = client_context(secured.ca)
        context.minimum_version = context.maximum_version = version
        with secured.connect(context=context) as wrapped:
            assert wrapped.selected_alpn_protocol() == "h2"
            assert RawClient(wrapped).call(READ, USERS)[0][b"grpc-status"] == b"0"
    for alpn in ((), ("http/1.1",)):
        try:
            with secured.connect(alpn=alpn) as wrapped, pytest.raises(ConnectionError):
                RawClient(wrapped).call(READ, USERS)
        except ssl.SSLError:
            # grpcio's refuses in the handshake.
            assert not is_native(secured)


def test_drain_over_tls(
    market_store: FeatureStore, authority: tuple[trustme.CA, Path], tmp_path: Path
) -> None:
    """Whatever was begun is answered."""
    ca, path = authority
    pair = Pair.write(tmp_path, ca.issue_cert(NAME))
    settings = Settings(
        repo=Path(market_store.repo_path), port=0, tls=TlsSettings(pair.certificate, pair.key)
    )
    codes: list[grpc.StatusCode] = []
    with gateway(settings) as made, channel(made.port, Tls(ca=path, server_name=NAME)) as encrypted:

        def load() -> None:
            while not codes or codes[-1] == grpc.StatusCode.OK:
                codes.append(call(encrypted, READ, LARGE).code)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(codes) > 20)
        made.stop(drain=5)
        for thread in threads:
            thread.join()
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}


# ---------------------------------------------------------------- certificates of clients


def test_clients_with_certificates(mutual: Secured, strict: Served, tmp_path: Path) -> None:
    mine = Pair.write(tmp_path, mutual.authority.issue_cert("spiffe.test", common_name="scorer"))
    with channel(mutual.gateway.port, mine.tls(mutual.ca)) as encrypted:
        assert call(encrypted, READ, USERS) == call(strict.channel, READ, USERS)
        native = mutual.gateway._native
        if native is not None:
            [connection] = [c for c in native.connections if c.identity is not None]
            assert connection.identity == Identity(("spiffe.test", "scorer"))


def test_clients_without_certificates_are_refused(mutual: Secured, tmp_path: Path) -> None:
    stranger = trustme.CA().issue_cert("spiffe.test")
    other = Pair.write(tmp_path, stranger)
    for tls in (mutual.tls, other.tls(mutual.ca)):
        with channel(mutual.gateway.port, tls) as encrypted:
            assert call(encrypted, CHECK, b"").code == grpc.StatusCode.UNAVAILABLE


def test_certificates_that_are_optional(
    market_store: FeatureStore, authority: tuple[trustme.CA, Path], tmp_path: Path
) -> None:
    ca, path = authority
    pair = Pair.write(tmp_path, ca.issue_cert(NAME))
    tls = TlsSettings(pair.certificate, pair.key, path, client_auth="optional")
    settings = Settings(repo=Path(market_store.repo_path), port=0, tls=tls)
    with gateway(settings) as made:
        mine = Pair.write(tmp_path / "mine", ca.issue_cert("scorer.test"))
        for each in (Tls(ca=path, server_name=NAME), mine.tls(path)):
            with channel(made.port, each) as encrypted:
                assert call(encrypted, READ, USERS).code == grpc.StatusCode.OK
        stranger = Pair.write(tmp_path / "stranger", trustme.CA().issue_cert("scorer.test"))
        with channel(made.port, stranger.tls(path)) as encrypted:
            assert call(encrypted, READ, USERS).code == grpc.StatusCode.UNAVAILABLE
    with pytest.raises(StartFailure, match="--server native"):
        Gateway(replace(settings, server="grpcio"))


# ---------------------------------------------------------------- files that are wrong


def test_files_that_cannot_be_used(
    market_store: FeatureStore, authority: tuple[trustme.CA, Path], tmp_path: Path
) -> None:
    ca, _ = authority
    pair = Pair.write(tmp_path, ca.issue_cert(NAME))
    other = Pair.write(tmp_path / "other", ca.issue_cert(NAME))
    key = s.load_pem_private_key(pair.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"secret")
        )
    )
    junk = tmp_path / "junk"
    junk.write_text("junk")
    large = tmp_path / "large"
    large.write_bytes(bytes(2**20 + 1))
    for tls, message in (
        (TlsSettings(tmp_path / "none", pair.key), r"--tls-cert .*none cannot be read: No such"),
        (TlsSettings(pair.certificate, other.key), "is not the key of"),
        (TlsSettings(pair.certificate, locked), "encrypted; give it without a passphrase"),
        (TlsSettings(junk, pair.key), "must have a certificate chain and its key in PEM"),
        (TlsSettings(pair.certificate, junk), "must have a certificate chain and its key in PEM"),
        (TlsSettings(large, pair.key), "larger than 1048576 bytes"),
        (TlsSettings(pair.certificate, pair.key, junk), "must have certificates in PEM"),
    ):
        with pytest.raises(StartFailure, match=message):
            Gateway(Settings(repo=Path(market_store.repo_path), port=0, tls=tls))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tls-cert", "a"], "goes with tls_key"),
        (["--tls-client-ca", "a"], "goes with tls_cert"),
    ],
)
def test_options_that_go_together(options: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["serve", "--repo", "nowhere", *options])
    assert result.exit_code == 2
    assert message in result.output


def test_handshakes_do_not_hold_up_others(secured: Secured) -> None:
    """Clients that stop half way cost no more than their place."""
    clients = [
        socket.create_connection(("127.0.0.1", secured.gateway.port), timeout=20)
        for _ in range(100)
    ]
    try:
        for client in clients:
            client.sendall(b"\x16\x03\x01")
        with channel(secured.gateway.port, secured.tls) as encrypted:
            assert call(encrypted, READ, USERS).code == grpc.StatusCode.OK
        end = time.monotonic() + 20
        for client in clients:
            client.settimeout(max(end - time.monotonic(), 0.1))
            heard(client)
    finally:
        for client in clients:
            client.close()
