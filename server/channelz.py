"""channelz for the gateway's own server: its connections and calls, for tools such as grpcdebug.

grpcio has a servicer of its own for its server. This one is filled from what the loop counts.
"""

import ipaddress
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import grpc
from grpc_channelz.v1 import channelz_pb2

from hotfeast.hotpath.http2 import Connection

T = TypeVar("T")

SERVICE = channelz_pb2.DESCRIPTOR.services_by_name["Channelz"].full_name

_SERVER = channelz_pb2.ServerRef(server_id=1, name="hotfeast")
_MOST_SOCKETS = 100
# Seconds that the loop has to answer.
_PATIENCE = 5.0
# Of a socket's id for the descriptor; what is above says when the connection was made.
_DESCRIPTOR_BITS = 20


class Counts(NamedTuple):
    """Calls of connections: begun, answered, and not over."""

    begun: int = 0
    ended: int = 0
    under_way: int = 0

    def plus(self, connection: Connection) -> "Counts":
        """The same with a connection's."""
        return Counts(
            self.begun + connection.begun,
            self.ended + connection.ended,
            self.under_way + connection.open_calls,
        )

    @property
    def failed(self) -> int:
        """Calls that are over and were not answered: given up, or lost with their connection."""
        return max(self.begun - self.ended - self.under_way, 0)


class Loop(Protocol):
    """The server that is told of; its properties are looked at in its thread."""

    @property
    def connections(self) -> list[Connection]: ...

    @property
    def gone(self) -> Counts:
        """Calls of connections that are gone."""

    def call(self, function: Callable[[], object]) -> None: ...

    def clock(self) -> float: ...


class Channelz:
    """Answers `grpc.channelz.v1.Channelz`; there are no channels and no subchannels."""

    def __init__(self) -> None:
        self._loop: Loop | None = None

    def attach(self, loop: Loop) -> None:
        """Sets the server that is told of, before anybody can ask."""
        self._loop = loop

    @property
    def handlers(self) -> dict[str, Any]:
        """The method handlers, by name."""
        return {
            name: grpc.unary_unary_rpc_method_handler(
                getattr(self, f"_{name}"),
                getattr(channelz_pb2, f"{name}Request").FromString,
                lambda message: message.SerializeToString(),
            )
            for name in channelz_pb2.DESCRIPTOR.services_by_name["Channelz"].methods_by_name
        }

    def _GetTopChannels(self, request: Any, context: Any) -> Any:
        return channelz_pb2.GetTopChannelsResponse(end=True)

    def _GetServers(self, request: Any, context: Any) -> Any:
        found = [self._server()] if request.start_server_id <= _SERVER.server_id else []
        return channelz_pb2.GetServersResponse(server=found, end=True)

    def _GetServer(self, request: Any, context: Any) -> Any:
        self._check_server(request.server_id, context)
        return channelz_pb2.GetServerResponse(server=self._server())

    def _GetServerSockets(self, request: Any, context: Any) -> Any:
        self._check_server(request.server_id, context)
        refs = self._in_loop(
            lambda loop: sorted(
                (_reference(each) for each in loop.connections), key=lambda ref: int(ref.socket_id)
            )
        )
        wanted = [ref for ref in refs if ref.socket_id >= request.start_socket_id]
        most = request.max_results or _MOST_SOCKETS
        return channelz_pb2.GetServerSocketsResponse(
            socket_ref=wanted[:most], end=len(wanted) <= most
        )

    def _GetChannel(self, request: Any, context: Any) -> Any:
        context.abort(
            grpc.StatusCode.NOT_FOUND, f"no channel {request.channel_id}: this is a server"
        )

    def _GetSubchannel(self, request: Any, context: Any) -> Any:
        context.abort(
            grpc.StatusCode.NOT_FOUND, f"no subchannel {request.subchannel_id}: this is a server"
        )

    def _GetSocket(self, request: Any, context: Any) -> Any:
        def find(loop: Loop) -> Any:
            for each in loop.connections:
                if _socket_id(each) == request.socket_id:
                    return _socket(each, loop.clock())
            return None

        found = self._in_loop(find)
        if found is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no socket {request.socket_id} any more")
        return channelz_pb2.GetSocketResponse(socket=found)

    def _check_server(self, number: int, context: Any) -> None:
        if number != _SERVER.server_id:
            context.abort(
                grpc.StatusCode.NOT_FOUND, f"no server {number}; there is {_SERVER.server_id}"
            )

    def _server(self) -> Any:
        def count(loop: Loop) -> Counts:
            counts = loop.gone
            for each in loop.connections:
                counts = counts.plus(each)
            return counts

        counts = self._in_loop(count)
        return channelz_pb2.Server(
            ref=_SERVER,
            data=channelz_pb2.ServerData(
                calls_started=counts.begun,
                calls_succeeded=counts.ended,
                calls_failed=counts.failed,
            ),
        )

    def _in_loop(self, look: Callable[[Loop], T]) -> T:
        """What is found in the loop's thread, where nothing changes meanwhile."""
        assert self._loop is not None
        found: Future[T] = Future()
        self._loop.call(partial(_resolve, found, look, self._loop))
        return found.result(_PATIENCE)


def _resolve(found: "Future[T]", look: Callable[[Loop], T], loop: Loop) -> None:
    try:
        found.set_result(look(loop))
    except Exception as error:
        found.set_exception(error)


def _socket_id(connection: Connection) -> int:
    return int(connection.opened * 1000) << _DESCRIPTOR_BITS | connection.descriptor


def _reference(connection: Connection) -> Any:
    return channelz_pb2.SocketRef(
        socket_id=_socket_id(connection), name=f"descriptor {connection.descriptor}"
    )


def _socket(connection: Connection, now: float) -> Any:
    counts = Counts().plus(connection)
    data = channelz_pb2.SocketData(
        streams_started=counts.begun,
        streams_succeeded=counts.ended,
        streams_failed=counts.failed,
        messages_sent=connection.sent,
        messages_received=connection.received,
        keep_alives_sent=connection.pings,
    )
    # The loop notes that something has come about once a second.
    data.last_message_received_timestamp.FromNanoseconds(
        int((time.time() - now + connection.heard) * 1e9)
    )
    data.remote_flow_control_window.value = connection.send_window
    with socket.socket(fileno=os.dup(connection.descriptor)) as copy:
        local, remote = copy.getsockname(), copy.getpeername()
    return channelz_pb2.Socket(
        ref=_reference(connection), data=data, local=_address(local), remote=_address(remote)
    )


def _address(name: tuple[Any, ...]) -> Any:
    return channelz_pb2.Address(
        tcpip_address=channelz_pb2.Address.TcpIpAddress(
            ip_address=ipaddress.ip_address(name[0].partition("%")[0]).packed, port=name[1]
        )
    )
