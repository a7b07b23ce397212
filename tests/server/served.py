"""A gateway in this process, seen through real sockets."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
from feast import FeatureStore

from hotfeast.clients import FeatureClient
from hotfeast.server.gateway import Gateway, Settings


@dataclass
class Served:
    """A repository that is being served."""

    store: FeatureStore
    settings: Settings
    gateway: Gateway
    channel: grpc.Channel
    client: FeatureClient

    @property
    def address(self) -> str:
        """`host:port` of the gateway."""
        return f"127.0.0.1:{self.gateway.port}"

    def call(self, method: str, request: bytes, timeout: float = 10) -> bytes:
        """Calls a unary method with bytes, as a client in another language would."""
        call: Any = self.channel.unary_unary(method)
        return bytes(call(request, timeout=timeout))


def serve(store: FeatureStore, settings: Settings) -> Served:
    """Starts a gateway on a free port."""
    gateway = Gateway(replace(settings, port=0))
    gateway.start()
    address = f"127.0.0.1:{gateway.port}"
    channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])
    # Each call is one request: what fails is seen.
    client = FeatureClient(address, retries=None)
    return Served(store, settings, gateway, channel, client)


@contextmanager
def serving(store: FeatureStore, status_mode: str = "strict") -> Iterator[Served]:
    """A gateway for as long as it is needed."""
    settings = Settings(repo=Path(store.repo_path), status_mode=status_mode, reflection=True)
    served = serve(store, settings)
    yield served
    stop(served)


def stop(served: Served) -> None:
    """Stops a gateway and its clients."""
    served.client.close()
    served.channel.close()
    served.gateway.stop(drain=1)
