"""Retries, several gateways, TLS, tokens and waiting, by servers between client and gateway."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from served import Served

from hotfeast.clients import (
    DeadlineExceeded,
    FeatureClient,
    HotfeastError,
    Retries,
    Tls,
    Unavailable,
)

USER = {"user_id": [1]}
NOW = datetime.now(UTC).replace(microsecond=0)


class Proxy:
    """A gRPC server that hands calls on to a gateway, or fails them."""

    def __init__(
        self,
        served: Served,
        credentials: grpc.ServerCredentials | None = None,
        port: int = 0,
    ) -> None:
        self._served = served
        self.failures = 0
        """How many of the next calls fail with UNAVAILABLE."""
        self.seen: list[tuple[str, dict[str, str]]] = []
        """Method and metadata of each call."""
        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers((_Handler(self),))
        address = f"127.0.0.1:{port}"
        self.port: int = (
            self._server.add_insecure_port(address)
            if credentials is None
            else self._server.add_secure_port(address, credentials)
        )
        self._server.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def answer(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.seen.append((method, dict(map(_text, context.invocation_metadata()))))
        if self.failures:
            self.failures -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "planned by the test")
        try:
            return self._served.call(method, request)
        except grpc.RpcError as error:
            context.abort(error.code(), error.details() or "")
            raise

    def stop(self) -> None:
        self._server.stop(0).wait()


def _text(entry: tuple[str, str | bytes]) -> tuple[str, str]:
    name, value = entry
    return name, value if isinstance(value, str) else value.decode()


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    def service(self, details: Any) -> Any:
        def unary(request: bytes, context: grpc.ServicerContext) -> bytes:
            return self._proxy.answer(details.method, request, context)

        return grpc.unary_unary_rpc_method_handler(unary)


@contextmanager
def proxied(served: Served, credentials: grpc.ServerCredentials | None = None) -> Iterator[Proxy]:
    proxy = Proxy(served, credentials)
    try:
        yield proxy
    finally:
        proxy.stop()


def spend(client: FeatureClient) -> Any:
    return client.get_online_features("part", USER).to_dict()["spend"]


def test_reads_are_tried_again(strict: Served) -> None:
    with proxied(strict) as proxy, FeatureClient(proxy.address) as client:
        proxy.failures = 2
        assert spend(client) == [1.5]
        assert len(proxy.seen) == 3
        proxy.failures = 3
        with pytest.raises(Unavailable, match="planned by the test"):
            spend(client)
        assert len(proxy.seen) == 6


def test_attempts_are_an_option(strict: Served) -> None:
    with proxied(strict) as proxy:
        for retries, attempts in ((None, 1), (Retries(attempts=5), 5)):
            proxy.failures, proxy.seen = 5, []
            with FeatureClient(proxy.address, retries=retries) as client:
                if attempts == 5:
                    proxy.failures = 4
                    assert spend(client) == [1.5]
                else:
                    with pytest.raises(Unavailable):
                        spend(client)
            assert len(proxy.seen) == attempts


def test_other_errors_and_pushes_are_not_tried_again(strict: Served) -> None:
    with proxied(strict) as proxy, FeatureClient(proxy.address) as client:
        with pytest.raises(HotfeastError, match="no feature service"):
            client.get_online_features("nothing of this name", USER)
        assert len(proxy.seen) == 1
        proxy.failures = 1
        with pytest.raises(Unavailable, match="planned by the test"):
            client.push({"user_id": [1]}, feature_view="user_stats")
        assert len(proxy.seen) == 2


def test_the_budget_ends_retries(strict: Served) -> None:
    """A gateway that fails every call gets little more than one attempt for each."""
    with proxied(strict) as proxy, FeatureClient(proxy.address) as client:
        proxy.failures = 10**6
        for _ in range(40):
            with pytest.raises(Unavailable):
                spend(client)
        # The bucket of 20 is half empty after 10 failures.
        assert 40 < len(proxy.seen) <= 40 + 10


def test_several_gateways_take_turns_and_one_may_fail(strict: Served) -> None:
    with (
        proxied(strict) as one,
        proxied(strict) as two,
        FeatureClient([one.address, two.address]) as client,
    ):
        _until(lambda: spend(client) and one.seen and two.seen)
        one.seen, two.seen = [], []
        for _ in range(20):
            assert spend(client) == [1.5]
        assert (len(one.seen), len(two.seen)) == (10, 10)
        one.stop()
        for _ in range(20):
            assert spend(client) == [1.5]


def test_a_client_finds_a_gateway_that_comes_back(strict: Served) -> None:
    first = Proxy(strict)
    with FeatureClient(first.address) as client:
        assert spend(client) == [1.5]
        first.stop()
        with pytest.raises(Unavailable):
            spend(client)
        second = Proxy(strict, port=first.port)
        client.warm_up(timeout=30)
        assert spend(client) == [1.5]
        second.stop()


def test_warm_up_waits_for_a_gateway(strict: Served) -> None:
    held = Proxy(strict)
    held.stop()
    with FeatureClient(held.address) as client:
        with pytest.raises(DeadlineExceeded):
            client.warm_up(timeout=0.05)
        made: list[Proxy] = []
        later = threading.Timer(0.2, lambda: made.append(Proxy(strict, port=held.port)))
        later.start()
        client.warm_up(timeout=30)
        later.join()
        assert made[0].seen
        made[0].stop()


def server_credentials(
    authority: tuple[trustme.CA, Path], clients: bool = False
) -> grpc.ServerCredentials:
    ca, _ = authority
    leaf = ca.issue_cert("gateway.test")
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    pair = (leaf.private_key_pem.bytes(), chain)
    root = ca.cert_pem.bytes() if clients else None
    return grpc.ssl_server_credentials([pair], root, require_client_auth=clients)


def test_tls(strict: Served, authority: tuple[trustme.CA, Path]) -> None:
    tls = Tls(ca=authority[1], server_name="gateway.test")
    with proxied(strict, server_credentials(authority)) as proxy:
        with FeatureClient(proxy.address, tls=tls) as client:
            assert spend(client) == [1.5]
        assert "authorization" not in proxy.seen[0][1]
        for wrong in (
            None,
            Tls(server_name="gateway.test"),
            Tls(ca=authority[1], server_name="other.test"),
        ):
            with FeatureClient(proxy.address, tls=wrong) as client, pytest.raises(Unavailable):
                spend(client)
        assert len(proxy.seen) == 1


def test_mutual_tls(strict: Served, authority: tuple[trustme.CA, Path], tmp_path: Path) -> None:
    mine = authority[0].issue_cert("model-server.test")
    mine.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    mine.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    tls = Tls(
        ca=authority[1],
        certificate=tmp_path / "cert.pem",
        key=tmp_path / "key.pem",
        server_name="gateway.test",
    )
    with proxied(strict, server_credentials(authority, clients=True)) as proxy:
        with FeatureClient(proxy.address, tls=tls) as client:
            assert spend(client) == [1.5]
        without = Tls(ca=authority[1], server_name="gateway.test")
        with FeatureClient(proxy.address, tls=without) as client, pytest.raises(Unavailable):
            spend(client)


def test_tokens(strict: Served, authority: tuple[trustme.CA, Path]) -> None:
    tls = Tls(ca=authority[1], server_name="gateway.test")
    tokens = iter(("first", "second"))
    with proxied(strict, server_credentials(authority)) as proxy:
        for token in ("fixed", lambda: next(tokens)):
            with FeatureClient(proxy.address, tls=tls, token=token) as client:
                spend(client)
                spend(client)
        sent = [metadata["authorization"] for _, metadata in proxy.seen]
        assert sent == ["Bearer fixed", "Bearer fixed", "Bearer first", "Bearer second"]

        def broken() -> str:
            raise LookupError("no token today")

        with (
            FeatureClient(proxy.address, tls=tls, token=broken) as client,
            pytest.raises(HotfeastError, match="no token today"),
        ):
            spend(client)


def test_keepalive_while_a_call_is_open(strict: Served) -> None:
    """The gateway takes PINGs however many come: none ends a connection."""
    with FeatureClient(strict.address, keepalive=0.02) as client:

        def batches() -> Iterator[Any]:
            time.sleep(0.5)
            yield {"user_id": [1], "sku": ["k"], "score": [0.5], "event_timestamp": [NOW]}

        (result,) = client.push_stream(batches(), feature_view="affinity")
        assert result.outcomes == ["written"]
        assert spend(client) == [1.5]


class Relay:
    """Hands bytes on between client and gateway, until it falls silent without a word."""

    def __init__(self, port: int) -> None:
        self.silent = threading.Event()
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._hand_on, args=pair, daemon=True).start()

    def _hand_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError), source, sink:
            while data := source.recv(1 << 16):
                if not self.silent.is_set():
                    sink.sendall(data)

    def close(self) -> None:
        self._listener.close()


def test_keepalive_notices_a_gateway_that_is_gone(strict: Served) -> None:
    relay = Relay(strict.gateway.port)
    with FeatureClient(relay.address, keepalive=0.2, retries=None, timeout=60) as client:
        assert spend(client) == [1.5]
        relay.silent.set()
        with pytest.raises(Unavailable, match="ping timeout"):
            spend(client)
    relay.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": ["a:1", "b:1"]}, r"targets \['a:1', 'b:1'\]: several must be IP:PORT"),
        ({"target": ["127.0.0.1:1", "[::1]:1"]}, "all IPv4 or all IPv6"),
        ({"target": ["127.0.0.1:1", "127.0.0.2"]}, "several must be IP:PORT"),
        ({"target": []}, "several must be IP:PORT"),
        ({"token": "x"}, "a token is sent over TLS only"),
        ({"keepalive": 0}, "keepalive is 0"),
    ],
)
def test_options_without_meaning(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FeatureClient(**options)


def test_settings_without_meaning(tmp_path: Path) -> None:
    for wrong in (1, 6):
        with pytest.raises(ValueError, match="attempts"):
            Retries(attempts=wrong)
    with pytest.raises(ValueError, match="backoff"):
        Retries(backoff=1, longest_backoff=0.5)
    with pytest.raises(ValueError, match="certificate and key"):
        Tls(certificate="cert.pem")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pem"):
        FeatureClient(tls=Tls(ca=tmp_path / "nowhere.pem"))


def _until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if condition():
            return
    raise AssertionError("it did not happen in time")
