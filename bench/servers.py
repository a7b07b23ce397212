"""The peers that are servers of their own: `python -m bench.servers feast|feast-http|echo`.

Each prints one line, `ready PORT`, once it listens on 127.0.0.1, and then serves until SIGTERM.
"""

import asyncio
import http.client
import itertools
import logging
import pickle
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import grpc
import typer

from bench.raw import RawRead, RawSocket

ECHO_SERVICE = "hotfeast.bench.Echo"
# As `feast listen` and `feast serve` have it.
_FEAST_WORKERS = 10
# Seconds. The registry does not change, so reading it again would only disturb the figures.
_FEAST_REGISTRY_TTL = 86400
_OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]

app = typer.Typer()


def _ready(port: int) -> None:
    print(f"ready {port}", flush=True)


@app.command()
def feast(repo: Path, port: int) -> None:
    """Serves a repository with Feast's Python gRPC server, as `feast listen` does."""
    from feast import FeatureStore
    from feast.infra.contrib.grpc_server import get_grpc_server

    logging.disable(logging.CRITICAL)
    store = FeatureStore(repo_path=str(repo))
    server = get_grpc_server(f"127.0.0.1:{port}", store, _FEAST_WORKERS, _FEAST_REGISTRY_TTL)
    server.start()
    _ready(port)
    server.wait_for_termination()


@app.command()
def feast_http(repo: Path, port: int, workers: int = 1) -> None:
    """Serves a repository with Feast's HTTP feature server, as `feast serve` does.

    Tuned as Feast's guide to online server performance says: connections, requests until a worker
    is replaced, keep-alive and registry TTL are its recommendations, and there is no access log.
    """
    from feast import FeatureStore

    logging.disable(logging.CRITICAL)
    threading.Thread(target=_say_when_healthy, args=(port,), daemon=True).start()
    FeatureStore(repo_path=str(repo)).serve(
        host="127.0.0.1",
        port=port,
        type_="http",
        no_access_log=True,
        workers=workers,
        worker_connections=2000,
        max_requests=10_000,
        max_requests_jitter=500,
        keep_alive_timeout=60,
        registry_ttl_sec=300,
    )


def _say_when_healthy(port: int) -> None:
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == http.HTTPStatus.OK:
                _ready(port)
                return
        except OSError:
            time.sleep(0.1)
        finally:
            connection.close()


class EchoKind(StrEnum):
    """What an echo server is built of; grpcio's server in each case."""

    SYNC = "sync"
    """Threads, as the gateway is with `--server grpcio`."""
    ASYNCIO = "asyncio"
    UVLOOP = "uvloop"
    """asyncio on uvloop."""


class Prepared(NamedTuple):
    """An answer, and what to read from Redis before it is given."""

    answer: bytes
    read: RawRead | None


Methods = Mapping[str, Sequence[Prepared]]


@app.command()
def echo(
    prepared: Path,
    redis_port: Annotated[int, typer.Option(help="Where answers with a read have it done.")] = 0,
    threads: Annotated[
        int, typer.Option(help="As many as the gateway has with --server grpcio.")
    ] = 16,
    kind: Annotated[EchoKind, typer.Option(help="What it is built of.")] = EchoKind.SYNC,
) -> None:
    """Answers with prepared bytes, one list of them for each method, in turn.

    The file is a pickled `dict[str, list[Prepared]]`. Only the sync kind reads from Redis.
    """
    methods: Methods = pickle.loads(prepared.read_bytes())
    if kind is EchoKind.SYNC:
        _echo_with_threads(methods, redis_port, threads)
    elif kind is EchoKind.ASYNCIO:
        asyncio.run(_echo_in_a_loop(methods))
    else:
        import uvloop

        uvloop.run(_echo_in_a_loop(methods))


def _echo_with_threads(methods: Methods, redis_port: int, threads: int) -> None:
    server = grpc.server(ThreadPoolExecutor(threads), options=_OPTIONS)
    per_thread = threading.local()

    def replay(items: Sequence[Prepared]) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        following = itertools.cycle(items)

        def answer(_request: bytes, _context: grpc.ServicerContext) -> bytes:
            item = next(following)
            if item.read is not None:
                if not hasattr(per_thread, "raw"):
                    per_thread.raw = RawSocket(redis_port)
                per_thread.raw.read(item.read)
            return item.answer

        return answer

    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        method: grpc.unary_unary_rpc_method_handler(replay(items))
        for method, items in methods.items()
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(ECHO_SERVICE, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    _ready(port)
    server.wait_for_termination()


async def _echo_in_a_loop(methods: Methods) -> None:
    server = grpc.aio.server(options=_OPTIONS)

    def replay(items: Sequence[Prepared]) -> Any:
        following = itertools.cycle(items)

        async def answer(_request: bytes, _context: Any) -> bytes:
            return next(following).answer

        return grpc.unary_unary_rpc_method_handler(answer)

    handlers = {method: replay(items) for method, items in methods.items()}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(ECHO_SERVICE, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _ready(port)
    await server.wait_for_termination()


if __name__ == "__main__":
    app()
