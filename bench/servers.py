"""The peers that are servers of their own: `python -m bench.servers feast|echo`.

Each prints one line, `ready PORT`, once it listens on 127.0.0.1, and then serves until SIGTERM.
"""

import itertools
import logging
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, NamedTuple

import grpc
import typer

from bench.raw import RawRead, RawSocket

ECHO_SERVICE = "hotfeast.bench.Echo"
# As `feast listen` and `feast serve` have it.
_FEAST_WORKERS = 10
# Seconds. The registry does not change, so reading it again would only disturb the figures.
_FEAST_REGISTRY_TTL = 86400

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


class Prepared(NamedTuple):
    """An answer, and what to read from Redis before it is given."""

    answer: bytes
    read: RawRead | None


@app.command()
def echo(
    prepared: Path,
    redis_port: Annotated[int, typer.Option(help="Where answers with a read have it done.")] = 0,
    threads: Annotated[int, typer.Option(help="As many as the gateway has.")] = 16,
) -> None:
    """Answers with prepared bytes, one list of them for each method, in turn.

    The file is a pickled `dict[str, list[Prepared]]`. The server is built as the gateway's is.
    """
    methods: dict[str, list[Prepared]] = pickle.loads(prepared.read_bytes())
    server = grpc.server(
        ThreadPoolExecutor(threads),
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
        ],
    )
    per_thread = threading.local()

    def replay(items: list[Prepared]) -> Callable[[bytes, grpc.ServicerContext], bytes]:
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


if __name__ == "__main__":
    app()
