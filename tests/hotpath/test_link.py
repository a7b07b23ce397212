"""A round trip over real sockets, with peers of every kind."""

import contextlib
import os
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from feast.protos.feast.types.Value_pb2 import Value

from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.errors import ProtocolError, ReplyError
from hotfeast.hotpath.link import exchange
from hotfeast.hotpath.plan import Plan
from hotfeast.hotpath.reply import Reply
from hotfeast.hotpath.request import Request
from tests.hotpath.helpers import (
    STRING,
    answer,
    array_reply,
    int64_request,
    one_view,
    parse_commands,
    request_bytes,
)

PLAN = Plan(one_view(features=["f", "g"]))
ROW: list[bytes | None] = [b"\x20\x01", None, b"\x08\x01"]
PATIENCE = 20.0
"""Seconds that no test takes unless it hangs."""


def small_batch() -> Batch:
    return Batch(PLAN, Request(int64_request(1, 2, 3)))


Peer = Callable[[socket.socket], None]


@contextmanager
def peer(serve: Peer, inet: bool = False) -> Iterator[socket.socket]:
    """A connected socket whose other end `serve` has, in a thread of its own."""
    if inet:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
    else:
        ours, theirs = socket.socketpair()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            serve(theirs)
        except OSError:
            pass  # our side has gone away, as many tests want it to
        except BaseException as error:
            failures.append(error)
        finally:
            theirs.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def give_up() -> None:
        # Ends a call that would not end by itself, so that the test fails instead of hanging.
        with contextlib.suppress(OSError):
            ours.shutdown(socket.SHUT_RDWR)

    watchdog = threading.Timer(PATIENCE, give_up)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield ours
    finally:
        watchdog.cancel()
        with contextlib.suppress(OSError):
            ours.shutdown(socket.SHUT_RDWR)
        ours.close()
        thread.join(PATIENCE)
    assert not thread.is_alive()
    assert not failures, failures


def receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise ConnectionError
        data += more
    return data


def until_closed(sock: socket.socket) -> None:
    while sock.recv(65536):
        pass


@pytest.mark.parametrize("inet", [False, True])
@pytest.mark.parametrize("piece", [1, 2, 7, 50, 10_000])
def test_answers_in_pieces(piece: int, inet: bool) -> None:
    batch = small_batch()
    commands = batch.command_bytes
    data = array_reply(ROW) * 3

    def serve(sock: socket.socket) -> None:
        if inet:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):
            assert receive(sock, len(commands)) == commands
            for at in range(0, len(data), piece):
                sock.sendall(data[at : at + piece])
                time.sleep(0.0005)

    with peer(serve, inet) as sock:
        reply = Reply()
        for _ in range(2):
            exchange(sock.fileno(), batch, reply, PATIENCE)
            assert reply.field_values == ROW * 3


def test_nothing_to_send() -> None:
    batch = Batch(PLAN, Request(int64_request()))
    reply = Reply()
    exchange(-1, batch, reply, 0.0)
    assert reply.field_values == []


def test_works_with_a_nonblocking_socket_and_one_with_a_timeout() -> None:
    batch = small_batch()

    def serve(sock: socket.socket) -> None:
        for _ in range(2):
            time.sleep(0.05)
            sock.sendall(answer(receive(sock, len(batch.command_bytes)), {}))

    with peer(serve) as sock:
        for timeout in (0.0, 5.0):
            sock.settimeout(timeout)
            reply = Reply()
            exchange(sock.fileno(), batch, reply, PATIENCE)
            assert reply.field_values == [None] * 9


def test_error_replies_leave_the_connection_usable() -> None:
    batch = small_batch()

    def serve(sock: socket.socket) -> None:
        receive(sock, len(batch.command_bytes))
        sock.sendall(array_reply(ROW) + b"-NOPERM no\r\n" + array_reply(ROW))
        receive(sock, len(batch.command_bytes))
        sock.sendall(array_reply(ROW) * 3)

    with peer(serve) as sock:
        reply = Reply()
        with pytest.raises(ReplyError, match=r"^NOPERM no$"):
            exchange(sock.fileno(), batch, reply, PATIENCE)
        exchange(sock.fileno(), batch, reply, PATIENCE)
        assert reply.field_values == ROW * 3


@pytest.mark.parametrize("sent", [0, 1, 10, len(array_reply(ROW)) * 3 - 1])
def test_closed_early(sent: int) -> None:
    batch = small_batch()

    def serve(sock: socket.socket) -> None:
        receive(sock, len(batch.command_bytes))
        sock.sendall((array_reply(ROW) * 3)[:sent])

    with peer(serve) as sock, pytest.raises(ConnectionError, match="closed"):
        exchange(sock.fileno(), batch, Reply(), PATIENCE)


def test_closed_before() -> None:
    """EPIPE comes as an exception, not as the signal that would end the process."""
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, pytest.raises(BrokenPipeError):
        exchange(ours.fileno(), small_batch(), Reply(), PATIENCE)


def test_reset() -> None:
    batch = small_batch()

    def serve(sock: socket.socket) -> None:
        receive(sock, len(batch.command_bytes))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with peer(serve, inet=True) as sock, pytest.raises(ConnectionResetError):
        exchange(sock.fileno(), batch, Reply(), PATIENCE)


def test_no_socket() -> None:
    for fd in (-1, 1_000_000):
        with pytest.raises(OSError, match="connection to Redis failed"):
            exchange(fd, small_batch(), Reply(), PATIENCE)
    read_end, write_end = os.pipe()
    try:
        with pytest.raises(OSError, match="connection to Redis failed"):
            exchange(write_end, small_batch(), Reply(), PATIENCE)
    finally:
        os.close(read_end)
        os.close(write_end)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\0" * 100,
        b"*3\r\n$999999999\r\n",
        array_reply(ROW) * 4,
        array_reply(ROW) * 3 + b"x",
        array_reply(ROW[:2]) * 3,
    ],
)
def test_garbage(data: bytes) -> None:
    batch = small_batch()

    def serve(sock: socket.socket) -> None:
        receive(sock, len(batch.command_bytes))
        sock.sendall(data)
        until_closed(sock)

    with peer(serve) as sock, pytest.raises(ProtocolError):
        exchange(sock.fileno(), batch, Reply(), PATIENCE)


def time_out(sock: socket.socket, batch: Batch, timeout: float) -> None:
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="did not answer within"):
        exchange(sock.fileno(), batch, Reply(), timeout)
    assert timeout <= time.monotonic() - start < timeout + 2.0


def test_silence() -> None:
    with peer(until_closed) as sock:
        time_out(sock, small_batch(), 0.15)
        time_out(sock, small_batch(), 0.0)


def test_trickle_does_not_extend_the_time() -> None:
    def serve(sock: socket.socket) -> None:
        for byte in array_reply([b"x" * 1000, None, None]) * 3:
            sock.sendall(bytes([byte]))
            time.sleep(0.01)

    with peer(serve) as sock:
        time_out(sock, small_batch(), 0.2)


def test_waiting_takes_no_processor_time() -> None:
    with peer(until_closed) as sock:
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_utime
        time_out(sock, small_batch(), 0.4)
        assert resource.getrusage(resource.RUSAGE_THREAD).ru_utime - before < 0.2


def test_other_threads_run_meanwhile() -> None:
    """The GIL is free while Redis is waited for: this peer could not answer otherwise."""
    batch = small_batch()
    counted = 0

    def serve(sock: socket.socket) -> None:
        nonlocal counted
        data = receive(sock, len(batch.command_bytes))
        for _ in range(100_000):
            counted += 1
        sock.sendall(answer(data, {}))

    with peer(serve) as sock:
        exchange(sock.fileno(), batch, Reply(), PATIENCE)
    assert counted == 100_000


LARGE_ROWS = 10_000


def large_batch() -> Batch:
    """20 MB of commands, all of one length."""
    values = [Value(string_val=f"{i:06}" + "k" * 2000) for i in range(LARGE_ROWS)]
    return Batch(Plan(one_view(STRING)), Request(request_bytes({"id": values})))


@pytest.mark.parametrize("inet", [False, True])
def test_pipeline_larger_than_all_buffers(inet: bool) -> None:
    """The peer answers each command at once and reads no further until that is taken."""
    batch = large_batch()
    total = len(batch.command_bytes)
    assert total > 20_000_000
    size = len(batch.command_bytes) // LARGE_ROWS
    assert parse_commands(batch.command_bytes[:size])
    value = b"\x12\xd0\x0f" + b"v" * 2000
    row = array_reply([value, b""])

    def serve(sock: socket.socket) -> None:
        read = answered = 0
        while read < total:
            got = len(sock.recv(30_000))
            assert got
            read += got
            sock.sendall(row * (read // size - answered))
            answered = read // size

    with peer(serve, inet) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        reply = Reply()
        exchange(sock.fileno(), batch, reply, PATIENCE)
        fields = reply.field_values
    assert len(fields) == 2 * LARGE_ROWS
    assert fields[::2] == [value] * LARGE_ROWS
    assert set(fields[1::2]) == {b""}


def test_peer_that_does_not_read() -> None:
    silent = threading.Event()

    def serve(_: socket.socket) -> None:
        silent.wait(PATIENCE)

    with peer(serve) as sock:
        try:
            time_out(sock, large_batch(), 0.2)
        finally:
            silent.set()


def test_answer_before_the_question() -> None:
    """A complete reply while commands are still unsent belongs to something else."""
    batch = large_batch()
    refused = threading.Event()

    def serve(sock: socket.socket) -> None:
        sock.sendall(b"-ERR\r\n" * LARGE_ROWS)
        refused.wait(PATIENCE)

    with peer(serve) as sock:
        with pytest.raises(ProtocolError):
            exchange(sock.fileno(), batch, Reply(), PATIENCE)
        refused.set()


def test_closed_in_the_middle_of_the_question() -> None:
    def serve(sock: socket.socket) -> None:
        receive(sock, 100_000)

    with peer(serve) as sock, pytest.raises(ConnectionError):
        exchange(sock.fileno(), large_batch(), Reply(), PATIENCE)
