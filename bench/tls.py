"""What TLS and the look at a caller's token cost, beside a gateway without, by either server.

The same store, small rows (Feast's five views of ten features); one client, one request after
another, all contenders in turns. New connections are a handshake each, of a Python socket, with a
key on P-256. Ratios are of the same server without TLS.

Writes `tls.json`.
"""

import socket
import ssl
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import grpc
import trustme
import yaml
from rich.table import Table

from bench import OUT
from bench.data import FIVE_VIEWS, Rows, choose_entities, make_request
from bench.measure import Contender, interleave, machine
from bench.parts import Results, parts_table, write_parts
from bench.processes import OUR_METHOD, Server
from bench.stores import Encoding, open_store
from hotfeast.server.security.tokens import hash_of, new_token

_ENTITIES = 10_000
_CALLS = {1: 200, 100: 40}
"""By rows of a request, calls in a round."""
_HANDSHAKES = 10
"""New connections in a round."""
_REQUESTS = 200
_NAME = "gateway.test"
_CALL_LIMIT = 30.0
_READY = r"(?m)^Hotfeast serves .* on 127\.0\.0\.1:(\d+) .*$"


def run(rounds: int = 10, say: Callable[[str], None] = print) -> Results:
    """Measures, and writes the results.

    Args:
        rounds: Turns that each contender has.
        say: Is told what is going on.
    """
    rows = Rows.make(_ENTITIES)
    say(f"loading {_ENTITIES:,} entities, starting six gateways")
    results: Results = {}
    with (
        open_store(rows, Encoding.HASH_TABLE) as store,
        tempfile.TemporaryDirectory(prefix="hotfeast-bench-tls-") as name,
        ExitStack() as stack,
    ):
        facts = machine(store.client)
        folder, ca = Path(name), trustme.CA()
        token = _write_files(folder, ca)
        tls = ("--tls-cert", str(folder / "tls.crt"), "--tls-key", str(folder / "tls.key"))
        auth = ("--auth", str(folder / "access.yaml"))
        calls: dict[str, Callable[[bytes], bytes]] = {}
        ports: dict[str, int] = {}
        for server in ("native", "grpcio"):
            for kind, options, metadata in (
                ("plain", (), ()),
                ("TLS", tls, ()),
                ("TLS, token", (*tls, *auth), (("authorization", f"Bearer {token}"),)),
            ):
                port = stack.enter_context(
                    Server(
                        *("hotfeast.server", "serve", "--repo", str(store.repo)),
                        *("--bind", "127.0.0.1:0", "--server", server, *options),
                        ready=_READY,
                    )
                ).port()
                ports[f"{server}, {kind}"] = port
                channel = _channel(port, ca if options else None)
                stack.callback(channel.close)
                calls[f"{server}, {kind}"] = partial(
                    channel.unary_unary(OUR_METHOD), timeout=_CALL_LIMIT, metadata=metadata
                )
        for count, number in _CALLS.items():
            say(f"requests for {count} rows")
            chosen = choose_entities(rows, count, _REQUESTS)
            requests = [make_request(rows, entities, FIVE_VIEWS) for entities in chosen]
            assert len({call(requests[0]) for call in calls.values()}) == 1
            results[f"{count} x 50"] = interleave(
                [Contender(each, call, requests, number) for each, call in calls.items()], rounds
            )
        say("new connections")
        results["new connection"] = interleave(
            [
                Contender(each, _connection(ca), [ports[each]], _HANDSHAKES)
                for each in ("native, TLS", "grpcio, TLS")
            ],
            rounds,
        )
    write_parts(OUT / "tls.json", facts, results)
    return results


def table(results: Results) -> Table:
    """The results as a table; each beside the same server without TLS."""
    names = {name for samples in results.values() for name in samples}
    bases = {name: f"{name.split(',')[0]}, plain" for name in names}
    return parts_table("TLS and tokens, milliseconds", "of plain", results, bases)


def _write_files(folder: Path, ca: trustme.CA) -> str:
    issued = ca.issue_cert(_NAME)
    issued.private_key_pem.write_to_path(str(folder / "tls.key"))
    (folder / "tls.crt").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    token = new_token()
    entry = {"name": "bench", "sha256": hash_of(token)}
    (folder / "tokens.yaml").write_text(yaml.safe_dump([entry]))
    grant = {"to": ["token:bench"], "do": ["read"]}
    policy = {"tokens": "tokens.yaml", "grants": [grant]}
    (folder / "access.yaml").write_text(yaml.safe_dump(policy))
    return token


def _channel(port: int, ca: trustme.CA | None) -> grpc.Channel:
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    if ca is None:
        return grpc.insecure_channel(f"127.0.0.1:{port}", options)
    credentials = grpc.ssl_channel_credentials(ca.cert_pem.bytes())
    named = [*options, ("grpc.ssl_target_name_override", _NAME)]
    return grpc.secure_channel(f"127.0.0.1:{port}", credentials, named)


def _connection(ca: trustme.CA) -> Callable[[int], None]:
    context = ssl.create_default_context(cadata=ca.cert_pem.bytes().decode())
    context.set_alpn_protocols(["h2"])

    def connect(port: int) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout=_CALL_LIMIT)
        with context.wrap_socket(plain, server_hostname=_NAME) as wrapped:
            # Its greeting comes once its part of the handshake is over, too.
            assert wrapped.recv(9)

    return connect
