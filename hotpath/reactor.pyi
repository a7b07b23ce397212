import socket
import ssl
from collections.abc import Callable
from typing import Any

from hotfeast.hotpath.admission import Admission
from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.cache import RowCache
from hotfeast.hotpath.http2 import Connection, Stream
from hotfeast.hotpath.reply import Reply
from hotfeast.hotpath.scatter import Scatter
from hotfeast.hotpath.slots import SlotMap
from hotfeast.hotpath.splice import Response
from hotfeast.hotpath.tls import Tls

class LoopLane:
    """A connection to Redis that the loop reads with."""

    def __init__(
        self, lane: Any, descriptor: int, reply: Reply, node: str | None = None
    ) -> None: ...
    @property
    def lane(self) -> Any:
        """The connection on loan from redis-py."""

    @property
    def node(self) -> str | None:
        """The node of a cluster that it leads to; None where there is one server."""

    @property
    def descriptor(self) -> int: ...
    @property
    def reply(self) -> Reply: ...

class Reactor:
    """A loop in one thread; only `call` may be used by others."""

    cache: RowCache | None
    """Rows that need not be asked for; None at first."""
    slots: SlotMap | None
    """Which node of a cluster has which slot; None where there is one server."""
    keeps_callers: bool
    """Whether streams are told who calls; not at first."""
    authenticates: bool
    """Whether streams are told with which token; not at first."""
    tls_context: ssl.SSLContext | None
    """What clients that come from now on are encrypted with; None at first, for nothing."""
    admission: Admission | None
    """Says whether reads are taken on; None, for all, at first."""
    most_streams: int
    """Calls that a client may have at once."""
    wants_lane: bool
    """Whether `lane_free` is to be told of idle connections to Redis."""
    piece_size: int
    """Bytes of a large answer that are written before they are sent."""
    afterwards: list[Callable[[], object]]
    """Called once what this turn of the loop answers has been sent."""

    def __init__(self, at_once: Any, *args: Any, **kwargs: Any) -> None: ...
    @property
    def at_once(self) -> Any:
        """Paths of unary methods that `answer` is told of."""

    @property
    def arrived_at(self) -> float:
        """When the call that `answer` is told of had arrived at the earliest; monotonic seconds."""

    def clock(self) -> float:
        """Monotonic seconds."""

    def call(self, function: Callable[[], object]) -> None:
        """Has a function called by the loop, soon; from any thread."""

    def listen(self, listener: socket.socket) -> None:
        """Accepts connections of a listening socket that does not block."""

    def stop_listening(self, listener: socket.socket, take_waiting: bool = True) -> None:
        """Accepts no more connections of a socket, but those that wait by now, and closes it."""

    def set_limits(
        self,
        handshake: float,
        idle: float,
        age: float,
        age_grace: float,
        keepalive: float,
        keepalive_answer: float,
    ) -> None:
        """Limits how long clients may be silent, and stay, in seconds; 0 for no limit."""

    def send_away(self, grace: float) -> None:
        """Sends all clients elsewhere, and ends the loop when they are gone."""

    @property
    def connections(self) -> list[Connection]:
        """The clients of the moment."""

    @property
    def client_count(self) -> int:
        """How many of them there are; for any thread."""

    @property
    def lane_count(self) -> int:
        """Connections to Redis, idle and in use."""

    def lane_count_at(self, node: str) -> int:
        """Those to one node of a cluster."""

    @property
    def reads_under_way(self) -> int:
        """Batches that are being read."""

    def add_lane(self, lane: LoopLane) -> None:
        """Takes a connection to Redis for `exchange`."""

    def remove_lanes(self) -> list[LoopLane]:
        """Gives the idle connections to Redis back."""

    def exchange(
        self,
        batch: Batch,
        timeout: float,
        done: Callable[[Reply | None, Exception | None], None],
    ) -> bool:
        """Reads a batch over an idle connection; False where there is none.

        `done` is told the reply, which is gone when it returns, or the error.
        """

    def exchange_parts(
        self,
        scatter: Scatter,
        timeout: float,
        done: Callable[[Reply | None, Exception | None], None],
    ) -> list[str]:
        """Reads a batch that has begun from the nodes of a cluster; says which of them have no idle
        connection, and does nothing then.

        `done` is told the reply, which is used up when it returns; or the error; or neither, where
        commands are left in `scatter` that somebody who can wait has to see to.
        """

    def answer_in_pieces(self, stream: Stream, response: Response) -> bytes:
        """Answers a unary call with a response, pieces of which are sent as they are written, so
        that the client reads the first while the next are written.

        Returns the response, all written, even where the client has gone.
        """

    def secured(self, connection: Connection, tls: Tls) -> None:
        """A client's handshake is over; what it has called for comes after this."""

    def insecure(self, connection: Connection, error: Exception) -> None:
        """A client is dropped since it does not keep to TLS."""

    def stop(self) -> None:
        """Ends the loop after this turn."""

    def run(self) -> None:
        """Runs until `stop`. Connections are closed then."""
