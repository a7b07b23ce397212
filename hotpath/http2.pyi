from collections.abc import Iterable
from typing import Any

from hotfeast.hotpath.hpack import RepeatedBlock

def parse_timeout(text: bytes) -> float:
    """Seconds of a `grpc-timeout`; ValueError where it is none."""

def percent_encoded(message: str) -> bytes:
    """A `grpc-message` as it goes over the wire."""

def header_block(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Names and values as a header block, none of them entered into the client's table."""

def status_block(code: int, message: str, metadata: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A status as a header block."""

def refusal_block(
    code: int, message: str, metadata: Iterable[tuple[bytes, bytes]]
) -> RepeatedBlock:
    """The header block that is the whole answer to a call which is refused."""

class Unreadable(Exception):
    """A message that cannot be read, and the gRPC status that says so."""

    code: int

class Stream:
    """One call."""

    record: Any
    """What is kept of the call for traces and logs; None for most."""
    figures: Any
    """What counts the call beside others of its plan; None where nothing does."""
    note: Any
    """What the server has to say of the call beside its answer; None for most. Its `trailers`, a
    header block, go behind the status OK, its `failure_trailers` behind others."""

    @property
    def connection(self) -> Connection: ...
    @property
    def number(self) -> int: ...
    @property
    def path(self) -> bytes:
        """The method, as `/package.Service/Method`."""

    @property
    def caller(self) -> bytes | None:
        """`x-caller`, else `user-agent`; None where there is neither, or nobody wants to know."""

    @property
    def request_id(self) -> bytes | None:
        """`x-request-id`; None likewise."""

    @property
    def traceparent(self) -> bytes | None:
        """`traceparent`, as W3C Trace Context has it; None likewise."""

    @property
    def authorization(self) -> bytes | None:
        """`authorization`; None likewise. Several of them with commas between."""

    @property
    def deadline_seconds(self) -> float | None:
        """The call's deadline in monotonic seconds; None where it has none."""

    @property
    def closed(self) -> bool:
        """Whether nothing can be answered any more."""

    @property
    def complete(self) -> bool:
        """Whether the client has sent all that it will."""

    @property
    def identity(self) -> Any:
        """Who the certificate of its connection says that the client is; None for nobody."""

    @property
    def address(self) -> bytes:
        """The client's, as its connection has it."""

    @property
    def waiting(self) -> int:
        """Bytes of messages that wait for the client's windows."""

    def wants_room(self) -> bool:
        """Whether so much waits for the client's windows that no more messages should be sent.

        Where it does, `room()` of whoever handles the call is called as soon as it does not, unless
        the call is over before.
        """

    def let_in(self) -> None:
        """The caller may send what it began to; `judge` of the server has asked."""

    def answer(self, message: bytes) -> None:
        """Sends a unary call's answer with status OK; nothing if the client has given up."""

    def send_headers(self, metadata: Iterable[tuple[bytes, bytes]]) -> None:
        """Sends the answer's headers."""

    def send_message(self, message: bytes) -> None:
        """Sends a message, as the client's windows allow."""

    def finish(self, code: int, message: str, metadata: Iterable[tuple[bytes, bytes]]) -> None:
        """Ends the call with a gRPC status, once all messages are sent."""

    def refuse(self, code: int, message: str) -> None:
        """Ends a call because of what the client sent."""

    def unpack(self, message: bytes) -> bytes:
        """A compressed message as it was before; Unreadable where it cannot be. In any thread."""

    def took(self, count: int) -> None:
        """Lets the client send as many more bytes as have been taken of its messages."""

class Connection:
    """One client, without its socket."""

    identity: Any
    """Who the client's certificate says that it is; None for nobody. The server's."""

    def __init__(self, server: Any, descriptor: int) -> None: ...
    @property
    def descriptor(self) -> int: ...
    @property
    def begun(self) -> int:
        """Calls that the client has begun."""

    @property
    def ended(self) -> int:
        """Those of them that were answered."""

    @property
    def received(self) -> int:
        """Messages from the client."""

    @property
    def sent(self) -> int:
        """Messages to the client."""

    @property
    def pings(self) -> int:
        """Times that it was asked whether it is there."""

    @property
    def opened(self) -> float:
        """When it came, in the loop's monotonic seconds; 0 where no loop has it."""

    @property
    def heard(self) -> float:
        """When the loop last noticed that something had come."""

    @property
    def send_window(self) -> int:
        """Bytes that the client takes on all streams together."""

    @property
    def address(self) -> bytes:
        """The client's, as the kernel has it (`sockaddr`); empty where it is not known."""

    @property
    def failed(self) -> bool:
        """Whether nothing more is read from it."""

    @property
    def leaving(self) -> bool:
        """Whether the client has been warned to go elsewhere."""

    @property
    def left(self) -> bool:
        """Whether no more calls are taken."""

    @property
    def open_calls(self) -> int:
        """Calls that are not answered."""

    @property
    def unsent(self) -> int:
        """Bytes of frames that are to be sent."""

    @property
    def congested(self) -> bool:
        """Whether so much waits to be sent that nothing should be read."""

    def receive(self, data: bytes) -> None:
        """Takes bytes that came from the client."""

    def to_send(self) -> bytes:
        """Takes all bytes that are to be sent."""

    def leave(self) -> None:
        """Warns the client to take new calls elsewhere; those that it has begun are taken."""

    def depart(self) -> None:
        """Takes no more calls, and says so; by itself once the client has answered the warning."""

    def end_late(self, now: float) -> None:
        """Ends unary calls whose message has not come by their deadline, in monotonic seconds."""

    def ping(self) -> None:
        """Asks whether the client is still there."""

    def lost(self) -> None:
        """The client is gone: everybody who handles one of its calls is told."""
