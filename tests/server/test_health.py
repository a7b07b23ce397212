"""Alive, ready, and what debuggers are told: health over gRPC and HTTP, and channelz."""

import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from feast import FeatureStore
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from processes import eventually
from served import Served, serve, stop
from typer.testing import CliRunner

from hotfeast.clients import FeatureClient
from hotfeast.server.cli import app
from hotfeast.server.gateway import Settings
from hotfeast.server.local_redis import free_port


def test_health_command(strict: Served) -> None:
    def health(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["health", *arguments])
        return result.exit_code, result.output

    for name in ("readiness", "liveness", "hotfeast.serving.v1.Push"):
        assert health(name, "--address", strict.address) == (0, f"{name}: SERVING\n")
    code, said = health("nobody", "--address", strict.address)
    assert (code, said) == (1, f"hotfeast: {strict.address}: nobody: NOT_FOUND\n")
    assert health("--address", f"127.0.0.1:{free_port()}")[0] == 1


def test_a_gateway_is_alive_while_its_loop_turns(market_store: FeatureStore) -> None:
    served = serve(market_store, Settings(repo=Path(market_store.repo_path)))
    try:
        gateway = served.gateway
        assert gateway.is_alive(10)
        goes_on = threading.Event()
        assert gateway._native is not None
        gateway._native.call(goes_on.wait)
        assert not gateway.is_alive(0.1)
        goes_on.set()
        assert gateway.is_alive(10)
    finally:
        stop(served)


def test_health_of_a_gateway_that_drains(market_store: FeatureStore) -> None:
    served = serve(market_store, Settings(repo=Path(market_store.repo_path)))
    stub = health_pb2_grpc.HealthStub(served.channel)
    assert stub.Check(health_pb2.HealthCheckRequest(service="readiness")).status == 1
    with pytest.raises(grpc.RpcError) as error:
        stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
    failed: Any = error.value
    assert failed.code() == grpc.StatusCode.NOT_FOUND
    stop(served)
    statuses = served.gateway._health
    asked = {
        name: statuses.Check(health_pb2.HealthCheckRequest(service=name), None).status
        for name in ("readiness", "liveness")
    }
    assert asked == {"readiness": 2, "liveness": 1}


# ------------------------------------------------------------ channelz


def open_served(store: FeatureStore, server: str) -> Served:
    settings = Settings(repo=Path(store.repo_path), server=server, channelz=True)
    return serve(store, settings)


def test_channelz_counts_what_clients_do(market_store: FeatureStore) -> None:
    served = open_served(market_store, "native")
    try:
        stub = channelz_pb2_grpc.ChannelzStub(served.channel)
        (server,) = stub.GetServers(channelz_pb2.GetServersRequest()).server
        before = server.data.calls_started
        with FeatureClient(served.address, retries=None) as client:
            for _ in range(5):
                client.get_online_features("part", {"user_id": [1]})
            sockets = stub.GetServerSockets(channelz_pb2.GetServerSocketsRequest(server_id=1))
            assert sockets.end
            found = [
                stub.GetSocket(channelz_pb2.GetSocketRequest(socket_id=ref.socket_id)).socket
                for ref in sockets.socket_ref
            ]
            (asked,) = [each for each in found if each.data.streams_started == 5]
            data = asked.data
            assert (data.streams_succeeded, data.streams_failed) == (5, 0)
            assert (data.messages_received, data.messages_sent) == (5, 5)
            assert data.keep_alives_sent == 0
            assert abs(data.last_message_received_timestamp.seconds - time.time()) < 60
            assert asked.local.tcpip_address.port == served.gateway.port
            assert asked.remote.tcpip_address.ip_address == b"\x7f\0\0\1"
            one = stub.GetServerSockets(
                channelz_pb2.GetServerSocketsRequest(server_id=1, max_results=1)
            )
            assert (len(one.socket_ref), one.end) == (1, len(found) == 1)
        # Of clients that are gone, too.
        eventually(lambda: len(served.gateway._native.connections) < len(found))  # type: ignore[union-attr]
        server = stub.GetServer(channelz_pb2.GetServerRequest(server_id=1)).server
        assert server.data.calls_started >= before + 5
        assert server.data.calls_failed == 0
        assert server.data.calls_succeeded == server.data.calls_started - 1
        assert stub.GetTopChannels(channelz_pb2.GetTopChannelsRequest()).end
        gone = channelz_pb2.GetSocketRequest(socket_id=asked.ref.socket_id)
        for call, request in (
            (stub.GetSocket, gone),
            (stub.GetServer, channelz_pb2.GetServerRequest(server_id=2)),
            (stub.GetChannel, channelz_pb2.GetChannelRequest(channel_id=1)),
            (stub.GetSubchannel, channelz_pb2.GetSubchannelRequest(subchannel_id=1)),
        ):
            with pytest.raises(grpc.RpcError) as error:
                call(request)
            failed: Any = error.value
            assert failed.code() == grpc.StatusCode.NOT_FOUND
    finally:
        stop(served)


def test_channelz_of_grpcio_and_of_nobody(market_store: FeatureStore, strict: Served) -> None:
    served = open_served(market_store, "grpcio")
    try:
        stub = channelz_pb2_grpc.ChannelzStub(served.channel)
        assert len(stub.GetServers(channelz_pb2.GetServersRequest()).server) >= 1
    finally:
        stop(served)
    with pytest.raises(grpc.RpcError) as error:
        channelz_pb2_grpc.ChannelzStub(strict.channel).GetServers(channelz_pb2.GetServersRequest())
    failed: Any = error.value
    assert failed.code() == grpc.StatusCode.UNIMPLEMENTED
