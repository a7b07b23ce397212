"""Peers that do not mean well, at a gateway that others use: while each of them is at it, a client
of good will has right answers within its deadline, and the gateway keeps a bounded amount of
memory; the peer is answered, or its connection ends.

What a connection makes of single frames is in `tests/hotpath/test_http2.py`; here is the whole
gateway, as a process of its own, over sockets.
"""

import contextlib
import gzip
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
import trustme
from feast import FeatureStore
from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from processes import Process
from secured import NAME, Pair, client_context, gateway
from test_native import LARGE, READ, USERS, call

from hotfeast.server.gateway import Settings
from hotfeast.server.settings import ConnectionLimits, TlsSettings
from tests.hotpath.http2_client import framed
from tests.hotpath.test_http2 import FAULTS

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HELLO = PREFACE + SettingsFrame(0).serialize()
PATIENCE = 20.0
"""Seconds for a peer's own waits."""
DEADLINE = 10.0
"""Seconds of the good client's calls. They take milliseconds; the machine may be busy."""
MOST_GROWTH = 96 << 20
"""Bytes that the gateway may grow by under any of them. The most that one connection can make it
keep is more; no attack here comes near that if the gateway stops in time."""
HANDSHAKE, IDLE = 0.5, 1.0
ENHANCE_YOUR_CALM, PROTOCOL_ERROR, REFUSED = 11, 1, 7
RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED, OK = b"8", b"4", b"0"


class Attacked(NamedTuple):
    """A gateway, and a client of good will.

    Attributes:
        process: The gateway's.
        port: Where it listens.
        channel: The good client's.
        answer: What it is answered.
    """

    process: Process
    port: int
    channel: grpc.Channel
    answer: bytes

    def memory(self) -> int:
        """Bytes that the gateway has."""
        pages = 0
        for pid in (self.process.process.pid, *self.process.workers()):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * 4096


@pytest.fixture(scope="module")
def attacked(market_store: FeatureStore) -> Iterator[Attacked]:
    options = ["--handshake-timeout", str(HANDSHAKE), "--max-connection-idle", str(IDLE)]
    with Process(Path(market_store.repo_path), *options) as process:
        address = process.address()
        with grpc.insecure_channel(address) as channel:
            answer = call(channel, READ, USERS)
            assert answer.code is grpc.StatusCode.OK
            # Large requests, so that what they take is there before anything is measured.
            for _ in range(5):
                call(channel, READ, LARGE)
            yield Attacked(process, int(address.rpartition(":")[2]), channel, answer.messages[0])


class Peer:
    """A connection that says what it likes.

    Attributes:
        statuses: By stream the gRPC status that it was answered.
        resets: By stream the error code that it was ended with.
        data: By stream the bytes of messages.
        finished: Streams that have ended.
        ended: The error code that the connection was ended with; None if it was not.
        closed: Whether the gateway has closed it.
    """

    def __init__(self, port: int, greets: bool = True, **settings: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.encoder = Encoder()
        self.statuses: dict[int, bytes] = {}
        self.resets: dict[int, int] = {}
        self.data: dict[int, bytes] = {}
        self.finished: set[int] = set()
        self.ended: int | None = None
        self.closed = False
        self._decoder = Decoder()
        self._left = b""
        if greets:
            names = {SettingsFrame.INITIAL_WINDOW_SIZE: settings.get("window", 65535)}
            self.send(PREFACE + SettingsFrame(0, settings=names).serialize())

    def send(self, *data: bytes | Any) -> bool:
        """Sends frames or bytes; returns whether the gateway took them."""
        made = b"".join(d if isinstance(d, bytes) else d.serialize() for d in data)
        try:
            self.socket.sendall(made)
        except (ConnectionError, TimeoutError):
            return False
        return True

    def block(self, *more: tuple[str, str]) -> bytes:
        """The headers of a read."""
        made: bytes = self.encoder.encode([
            (":method", "POST"), (":scheme", "http"), (":path", READ), (":authority", "x"),
            ("te", "trailers"), ("content-type", "application/grpc"), *more,
        ])  # fmt: skip
        return made

    def headers(self, number: int, *more: tuple[str, str], ends: bool = False) -> HeadersFrame:
        """A read that begins."""
        flags = ["END_HEADERS", "END_STREAM"] if ends else ["END_HEADERS"]
        return HeadersFrame(number, self.block(*more), flags=flags)

    def body(self, number: int, message: bytes = USERS) -> bytes:
        """The message of a read."""
        return DataFrame(number, framed(message), flags=["END_STREAM"]).serialize()

    def receive(self, until: Callable[[], object] = lambda: False) -> None:
        """Reads until something is so, or the connection ends."""
        while not until():
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionError:
                data = b""
            if not data:
                self.closed = True
                return
            self._take(data)

    def _take(self, data: bytes) -> None:
        self._left += data
        while len(self._left) >= 9:
            frame, size = Frame.parse_frame_header(memoryview(self._left[:9]))
            if len(self._left) < 9 + size:
                return
            frame.parse_body(memoryview(self._left[9 : 9 + size]))
            self._left = self._left[9 + size :]
            self._see(frame)

    def _see(self, frame: Any) -> None:
        number = frame.stream_id
        if isinstance(frame, HeadersFrame):
            said: Any = dict(self._decoder.decode(frame.data, raw=True))
            if b"grpc-status" in said:
                self.statuses[number] = said[b"grpc-status"]
        elif isinstance(frame, DataFrame):
            self.data[number] = self.data.get(number, b"") + frame.data
        elif isinstance(frame, RstStreamFrame):
            # Behind an answer it only says that no more is read.
            if number not in self.finished:
                self.resets[number] = frame.error_code
            self.finished.add(number)
        elif isinstance(frame, GoAwayFrame):
            self.ended = frame.error_code
        if "END_STREAM" in frame.flags:
            self.finished.add(number)

    def is_answered(self, number: int, attacked: Attacked) -> bool:
        """Reads a call's answer; whether it is the right one."""
        self.receive(lambda: number in self.finished or self.ended is not None)
        return (self.statuses.get(number), self.data.get(number)) == (OK, framed(attacked.answer))

    def is_ended(self) -> int | None:
        """Reads until the gateway closes; the error code that it gave."""
        self.receive()
        assert self.closed
        return self.ended


class Checked:
    """A client of good will, at work in a thread.

    Attributes:
        calls: How many it has made.
        wrong: Answers that were not right, or not in time.
        before, most: Bytes that the gateway had before, and the most since.
    """

    def __init__(self, attacked: Attacked) -> None:
        self._attacked = attacked
        self._over = threading.Event()
        self.calls = 0
        self.most = 0
        self.wrong: list[Any] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._over.is_set() or self.calls < 3:
            said = call(self._attacked.channel, READ, USERS, timeout=DEADLINE)
            self.calls += 1
            if said.code is not grpc.StatusCode.OK or said.messages != [self._attacked.answer]:
                self.wrong.append(said)
            self.most = max(self.most, self._attacked.memory())
            self._over.wait(0.005)

    def __enter__(self) -> "Checked":
        self.before = self._attacked.memory()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


# ---------------------------------------------------------------- the peers


def malformed_frames(a: Attacked) -> bool:
    """Each fault that a frame can have, on a connection of its own: it ends, with the code that
    HTTP/2 has for it."""
    # Of a method that answers at once, and is none here.
    for name in FAULTS.keys() - {"DATA behind the end", "HEADERS on a closed stream"}:
        data, code = FAULTS[name]
        peer = Peer(a.port, greets=False)
        peer.send(data)
        assert peer.is_ended() == code, name
    return True


def flood(frame: bytes, count: int, reads: bool = True) -> Callable[[Attacked], bool]:
    """Frames of one kind without end, and a call behind them, which is answered."""

    def attack(a: Attacked) -> bool:
        peer = Peer(a.port)
        drain = threading.Thread(target=peer.is_answered, args=(1, a))
        if reads:
            drain.start()
        part = frame * min(count, 4096)
        for _ in range(-(-count // 4096)):
            if not peer.send(part):
                return peer.ended is not None
        peer.send(peer.headers(1), peer.body(1))
        drain.join()
        return (peer.statuses.get(1), peer.data.get(1)) == (OK, framed(a.answer))

    return attack


def unread_pings(a: Attacked) -> bool:
    """PINGs without end whose answers are not read: after some megabytes of them the gateway reads
    no more."""
    peer = Peer(a.port)
    peer.socket.settimeout(0.5)
    part = PingFrame(0, b"12345678").serialize() * 4096
    sent = 0
    while sent < 128 << 20 and peer.send(part):
        sent += len(part)
    peer.socket.close()
    return sent < 64 << 20


def rapid_resets(a: Attacked) -> bool:
    peer = Peer(a.port)
    for i in range(3000):
        number = 2 * i + 1
        if not peer.send(peer.headers(number), RstStreamFrame(number, error_code=8)):
            break
    return peer.is_ended() in (ENHANCE_YOUR_CALM, None)


def calls_without_end(a: Attacked) -> bool:
    """More calls than are taken, none of which sends its message."""
    peer = Peer(a.port)
    peer.send(*(peer.headers(2 * i + 1) for i in range(1500)))
    peer.receive(lambda: len(peer.resets) == 1500 - 1024 or peer.ended is not None)
    assert set(peer.resets.values()) == {REFUSED}
    peer.send(peer.body(1))
    return peer.is_answered(1, a)


def empty_data(a: Attacked) -> bool:
    peer = Peer(a.port)
    peer.send(peer.headers(1), DataFrame(1, b"").serialize() * 100_000, peer.body(1))
    return peer.is_answered(1, a)


def padded_data(a: Attacked) -> bool:
    """Nothing but padding, more of it than fits the windows."""
    peer = Peer(a.port)
    peer.send(peer.headers(1))
    frame = DataFrame(1, b"", pad_length=255, flags=["PADDED"]).serialize()
    peer.send(frame * 40_000, peer.body(1))
    return peer.is_answered(1, a)


def continuations(a: Attacked) -> bool:
    peer = Peer(a.port)
    peer.send(HeadersFrame(1, b""))
    part = ContinuationFrame(1, bytes(16384)).serialize()
    for _ in range(2000):
        if not peer.send(part):
            break
    return peer.is_ended() in (ENHANCE_YOUR_CALM, None)


def empty_continuations(a: Attacked) -> bool:
    peer = Peer(a.port)
    peer.send(HeadersFrame(1, b""), ContinuationFrame(1, b"").serialize() * 100_000)
    peer.send(ContinuationFrame(1, peer.block(), flags=["END_HEADERS"]), peer.body(1))
    return peer.is_answered(1, a)


def tiny_windows(a: Attacked) -> bool:
    """The answer is taken a byte at a time."""
    peer = Peer(a.port, window=0)
    peer.send(peer.headers(1), peer.body(1))
    update = WindowUpdateFrame(1, window_increment=1).serialize()
    peer.send(update * (len(a.answer) + 4))
    peer.receive(lambda: len(peer.data.get(1, b"")) == len(a.answer) + 4)
    peer.send(update)
    return peer.is_answered(1, a)


def closed_window(a: Attacked) -> bool:
    """Large answers wait for a window that stays closed, while others are asked for; then the peer
    is gone."""
    peer = Peer(a.port, window=0)
    for i in range(12):
        number = 2 * i + 1
        peer.send(peer.headers(number), *in_frames(number, LARGE))
    # All have been answered, but for what waits.
    peer.socket.settimeout(1)
    with contextlib.suppress(TimeoutError):
        peer.receive()
    assert not any(peer.data.values())
    peer.socket.close()
    return True


def in_frames(number: int, message: bytes) -> list[DataFrame]:
    data = framed(message)
    parts = [data[at : at + 16384] for at in range(0, len(data), 16384)]
    frames = [DataFrame(number, part) for part in parts]
    frames[-1].flags.add("END_STREAM")
    return frames


def bytes_one_by_one(a: Attacked) -> bool:
    peer = Peer(a.port, greets=False)
    peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in HELLO + peer.headers(1).serialize() + peer.body(1):
        peer.send(bytes([byte]))
    return peer.is_answered(1, a)


def unfinished(a: Attacked) -> bool:
    """Four at once that begin something and go on no more: of the greeting, of a header block, of a
    message that has a deadline, of one that has none."""
    greeting = Peer(a.port, greets=False)
    greeting.send(HELLO[:20])
    block = Peer(a.port)
    block.send(HeadersFrame(1, block.block()))
    late, endless = Peer(a.port), Peer(a.port)
    begun = DataFrame(1, framed(bytes(1000))[:500])
    late.send(late.headers(1, ("grpc-timeout", "200m")), begun)
    endless.send(endless.headers(1), begun)
    assert greeting.is_ended() is None
    late.receive(lambda: 1 in late.finished)
    assert late.statuses[1] == DEADLINE_EXCEEDED
    # Without calls for as long as --max-connection-idle says.
    assert block.is_ended() == 0
    # A call that may still be finished is waited for.
    endless.send(RstStreamFrame(1, error_code=8), endless.headers(3), endless.body(3))
    return endless.is_answered(3, a)


def half_closed(a: Attacked) -> bool:
    """Those that send no more have gone, as far as gRPC goes: their connection ends."""
    for sent in (HELLO, HELLO[:10], b""):
        peer = Peer(a.port, greets=False)
        peer.send(sent)
        peer.socket.shutdown(socket.SHUT_WR)
        peer.is_ended()
    peer = Peer(a.port)
    peer.send(peer.headers(1), peer.body(1))
    peer.socket.shutdown(socket.SHUT_WR)
    peer.receive()
    return peer.closed and peer.statuses.get(1, OK) == OK


def long_headers(a: Attacked) -> bool:
    """A list of headers that is too long is refused, and a block that is far too long ends the
    connection."""
    peer = Peer(a.port)
    block = peer.block(*((f"x-{i}", "y" * 1000) for i in range(30)))
    peer.send(HeadersFrame(1, block[:16000]))
    peer.send(ContinuationFrame(1, block[16000:], flags=["END_HEADERS"]), peer.body(1))
    peer.receive(lambda: 1 in peer.finished)
    assert peer.statuses[1] == RESOURCE_EXHAUSTED
    number = 3
    peer.send(HeadersFrame(number, b""))
    for _ in range(5):
        peer.send(ContinuationFrame(number, b"\0" * 16384))
    return peer.is_ended() in (ENHANCE_YOUR_CALM, None)


def header_bombs(a: Attacked) -> bool:
    """A byte each stands for a header of 3,000."""
    peer = Peer(a.port)
    for i in range(50):
        block = peer.block(("x", "y" * 3000))
        entry = block[-1:]
        if i == 0:
            # The second time it is a reference.
            peer.send(HeadersFrame(1, block, flags=["END_HEADERS"]), peer.body(1))
            assert peer.is_answered(1, a)
            continue
        bomb = block + entry * (16000 - len(block))
        peer.send(HeadersFrame(2 * i + 1, bomb, flags=["END_HEADERS"]))
    peer.receive(lambda: len(peer.finished) == 50 or peer.ended is not None)
    assert {peer.statuses[2 * i + 1] for i in range(1, 50)} == {RESOURCE_EXHAUSTED}
    peer.send(peer.headers(101), peer.body(101))
    return peer.is_answered(101, a)


def message_bombs(a: Attacked) -> bool:
    """64 KB each that unpack to more than 64 MiB, as many as there are threads."""
    peer = Peer(a.port)
    bomb = gzip.compress(bytes((64 << 20) + 1))
    number = 1
    for i in range(16):
        number = 2 * i + 1
        peer.send(peer.headers(number, ("grpc-encoding", "gzip")))
        data = b"\1" + len(bomb).to_bytes(4, "big") + bomb
        parts = [data[at : at + 16384] for at in range(0, len(data), 16384)]
        frames = [DataFrame(number, part) for part in parts]
        frames[-1].flags.add("END_STREAM")
        peer.send(*frames)
    peer.receive(lambda: len(peer.finished) == 16 or peer.ended is not None)
    return set(peer.statuses.values()) == {RESOURCE_EXHAUSTED}


def long_messages(a: Attacked) -> bool:
    """Messages that say they are longer than any may be, and many that are never finished: a
    connection keeps no more than it may."""
    peer = Peer(a.port)
    peer.send(peer.headers(1), DataFrame(1, b"\0\xff\xff\xff\xff"))
    peer.receive(lambda: 1 in peer.finished)
    assert peer.statuses[1] == RESOURCE_EXHAUSTED
    begun = b"\0" + (60 << 20).to_bytes(4, "big") + bytes(16000)
    for i in range(1, 1000):
        peer.send(peer.headers(2 * i + 1), DataFrame(2 * i + 1, begun))
    peer.send(peer.headers(2001), peer.body(2001))
    return peer.is_answered(2001, a)


def many_connections(a: Attacked) -> bool:
    """400 that say nothing, and 400 that say hello and nothing else: the first end with the
    handshake's limit."""
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", a.port), PATIENCE))
            for _ in range(800)
        ]
        for each in silent[400:]:
            each.sendall(HELLO)
        for each in silent[:400]:
            with contextlib.suppress(ConnectionError):
                while each.recv(1000):
                    pass
    return True


PEERS: dict[str, Callable[[Attacked], bool]] = {
    "malformed frames": malformed_frames,
    "PING flood": flood(PingFrame(0, b"12345678").serialize(), 100_000),
    "PING flood, unread": unread_pings,
    "SETTINGS flood": flood(SettingsFrame(0, settings={4: 65535}).serialize(), 100_000),
    "PRIORITY flood": flood(PriorityFrame(1, depends_on=3).serialize(), 100_000),
    "WINDOW_UPDATE flood": flood(WindowUpdateFrame(0, window_increment=1).serialize(), 100_000),
    "unknown frames": flood(b"\0\0\4\xfe\0\0\0\0\1abcd", 100_000),
    "rapid resets": rapid_resets,
    "calls without end": calls_without_end,
    "empty DATA": empty_data,
    "padding only": padded_data,
    "CONTINUATION flood": continuations,
    "empty CONTINUATION": empty_continuations,
    "windows of a byte": tiny_windows,
    "a window that stays closed": closed_window,
    "bytes one by one": bytes_one_by_one,
    "unfinished": unfinished,
    "half-closed": half_closed,
    "long headers": long_headers,
    "header bombs": header_bombs,
    "message bombs": message_bombs,
    "long messages": long_messages,
    "many connections": many_connections,
}


@pytest.mark.parametrize("name", PEERS)
def test_others_are_served_while_a_peer_is_at_it(name: str, attacked: Attacked) -> None:
    with Checked(attacked) as good:
        met = PEERS[name](attacked)
    grown = max(good.most, attacked.memory()) - good.before
    assert met
    assert good.wrong == []
    assert good.calls >= 3
    # AddressSanitizer keeps what was freed, for a while.
    if "libasan" not in os.environ.get("LD_PRELOAD", ""):
        assert grown < MOST_GROWTH, f"{grown >> 20} MiB"
    faults = [line for line in attacked.process.errors if " ERROR " in line or "CRITICAL" in line]
    assert faults == []


def test_handshakes_of_tls_that_go_on_for_ever_end(
    market_store: FeatureStore, authority: tuple[trustme.CA, Path], tmp_path: Path
) -> None:
    """20 clients that send their hello a byte at a time, and never all of it."""
    ca, path = authority
    pair = Pair.write(tmp_path, ca.issue_cert(NAME))
    settings = Settings(
        repo=Path(market_store.repo_path), port=0, tls=TlsSettings(pair.certificate, pair.key),
        connections=ConnectionLimits(handshake=HANDSHAKE),
    )  # fmt: skip
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = client_context(path).wrap_bio(incoming, outgoing, server_hostname=NAME)
    with contextlib.suppress(ssl.SSLWantReadError):
        session.do_handshake()
    hello = outgoing.read()
    with gateway(settings) as made, contextlib.ExitStack() as stack:
        peers = [
            stack.enter_context(socket.create_connection(("127.0.0.1", made.port), PATIENCE))
            for _ in range(20)
        ]
        began = time.monotonic()
        left = set(peers)
        for byte in hello[:-1]:
            for peer in list(left):
                try:
                    peer.sendall(bytes([byte]))
                except ConnectionError:
                    left.discard(peer)
            if not left:
                break
            time.sleep(0.02)
        assert not left
        assert time.monotonic() - began < PATIENCE
        context = client_context(path)
        with socket.create_connection(("127.0.0.1", made.port), PATIENCE) as plain:
            context.wrap_socket(plain, server_hostname=NAME).close()
