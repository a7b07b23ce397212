"""A server's end of HTTP/2 against `h2`, and against bytes that no client would send."""

import gzip
import random
import zlib
from typing import Any
from urllib.parse import unquote

import h2.errors
import h2.exceptions
import pytest
from h2.errors import ErrorCodes
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from hotfeast.hotpath.http2 import Connection, header_block, parse_timeout, percent_encoded
from tests.hotpath.http2_client import (
    ECHO,
    LATER,
    STREAMED,
    Client,
    Server,
    framed,
    request_headers,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SIZES = [0, 1, 100, 16378, 16379, 16380, 65530, 65531, 1_000_000, 4_194_304, 9_000_000]
OK, DEADLINE, EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 4, 8, 12, 13
LARGEST = 64 << 20


def raw(*frames: Frame, settings: bool = True) -> bytes:
    """A conversation's bytes."""
    start = PREFACE + (SettingsFrame(0).serialize() if settings else b"")
    return start + b"".join(frame.serialize() for frame in frames)


def block(path: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """The header block of a call, which a connection's first is."""
    return Encoder().encode(request_headers(path, *extra))


def headers(number: int, *flags: str, path: bytes = ECHO, **more: Any) -> HeadersFrame:
    return HeadersFrame(number, block(path), flags=["END_HEADERS", *flags], **more)


def frames_of(data: bytes) -> list[Any]:
    made = []
    while data:
        frame, size = Frame.parse_frame_header(memoryview(data[:9]))
        frame.parse_body(memoryview(data[9 : 9 + size]))
        made.append(frame)
        data = data[9 + size :]
    return made


def answered(data: bytes) -> tuple[Connection, list[Any]]:
    """What is answered to bytes, behind the server's own greeting."""
    connection = Connection(Server(), 7)
    connection.receive(data)
    return connection, frames_of(connection.to_send())[2:]


def failure(data: bytes) -> tuple[int, bytes]:
    """The error that a connection ends with."""
    connection, frames = answered(data)
    assert connection.failed
    assert connection.open_calls == 0
    last = frames[-1]
    assert isinstance(last, GoAwayFrame), frames
    # Nothing is read from it any more.
    connection.receive(data)
    assert connection.to_send() == b""
    return last.error_code, last.additional_data


# ---------------------------------------------------------------- calls


@pytest.mark.parametrize("path", [ECHO, STREAMED])
@pytest.mark.parametrize("seed", range(3))
def test_messages_of_all_sizes(path: bytes, seed: int) -> None:
    rng = random.Random(seed)
    client = Client(rng if seed else None)
    for size in SIZES[:-2] if seed else SIZES:
        message = rng.randbytes(size)
        call = client.call(path, framed(message))
        assert (call.status, call.messages, call.ended, call.reset) == (OK, [message], True, None)
        assert call.headers[b":status"] == b"200"
        assert call.headers[b"content-type"] == b"application/grpc"
    assert client.ended is None
    assert client.connection.open_calls == 0


@pytest.mark.parametrize(
    ("sent", "caller", "request_id"),
    [
        ([], None, None),
        ([(b"user-agent", b"ua/1 x")], b"ua/1 x", None),
        ([(b"user-agent", b"ua"), (b"x-caller", b"me"), (b"x-request-id", b"r")], b"me", b"r"),
        ([(b"x-caller", b"me"), (b"user-agent", b"ua")], b"me", None),
    ],
)
@pytest.mark.parametrize("wanted", [False, True])
def test_who_calls(
    sent: list[tuple[bytes, bytes]], caller: bytes | None, request_id: bytes | None, wanted: bool
) -> None:
    """Kept only where the server wants to know."""
    server: Any = Server()
    server.keeps_callers = wanted
    start = HeadersFrame(1, block(LATER, *sent), flags=["END_HEADERS"])
    message = DataFrame(1, framed(b"m"), flags=["END_STREAM"])
    connection = Connection(server, 7)
    connection.receive(raw(start, message))
    ((stream, _),) = server.kept
    assert (stream.caller, stream.request_id) == ((caller, request_id) if wanted else (None, None))


def test_a_stream_of_messages_larger_than_its_window() -> None:
    client = Client()
    messages = [bytes(9_000_000), b"", b"x", bytes(5_000_000), bytes(3_145_724), b"y"]
    call = client.call(STREAMED, framed(*messages))
    assert (call.status, call.messages) == (OK, messages)
    assert call.trailers[b"messages"] == b"all"


@pytest.mark.parametrize("path", [ECHO, STREAMED])
def test_data_cut_at_each_byte(path: bytes) -> None:
    data = framed(b"0123456789")
    for at in range(len(data) + 1):
        client = Client()
        number = client.start(path, ends=False)
        client.h2.send_data(number, data[:at])
        client.h2.send_data(number, data[at:], end_stream=False)
        client.h2.send_data(number, b"", end_stream=True)
        client.pump()
        assert client.calls[number].messages == [b"0123456789"]
        assert client.calls[number].status == OK


def test_two_messages_in_one_frame_and_each_byte_its_own() -> None:
    client = Client()
    assert client.call(STREAMED, framed(b"a", b"", b"c" * 50)).messages == [b"a", b"", b"c" * 50]
    call = client.call(STREAMED, framed(b"a", b"", b"c" * 50), frame=1)
    assert call.messages == [b"a", b"", b"c" * 50]


@pytest.mark.parametrize("padding", [0, 1, 255])
def test_padding(padding: int) -> None:
    client = Client()
    for path in (ECHO, STREAMED):
        call = client.call(path, framed(b"abc"), padding=padding, frame=300)
        assert (call.status, call.messages) == (OK, [b"abc"])


def test_many_interleaved_streams() -> None:
    rng = random.Random(5)
    client = Client(rng, INITIAL_WINDOW_SIZE=3000)
    messages = {}
    for _ in range(300):
        message = rng.randbytes(rng.choice([0, 5, 500, 40_000]))
        path = rng.choice([ECHO, STREAMED, LATER])
        number = client.start(path, framed(message), frame=rng.choice([7, 900, 20_000]))
        messages[number] = message
    client.pump()
    rng.shuffle(client.server.kept)
    for stream, message in client.server.kept:
        stream.answer(message)
    client.pump()
    for number, message in messages.items():
        call = client.calls[number]
        assert (call.status, call.messages, call.ended) == (OK, [message], True)


@pytest.mark.parametrize("window", [0, 1, 100, 65535, 2**31 - 1])
def test_client_windows(window: int) -> None:
    client = Client(INITIAL_WINDOW_SIZE=window)
    client.acknowledges = False
    message = random.Random(1).randbytes(3000)
    calls = [client.start(path, framed(message)) for path in (ECHO, STREAMED)]
    client.pump()
    if window == 0:
        assert [client.calls[n].data for n in calls] == [b"", b""]
        client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
        client.pump()
    for number in calls:
        if window < 3000:
            client.h2.increment_flow_control_window(3005, number)
            client.pump()
        assert client.calls[number].messages == [message]


def test_window_that_becomes_negative() -> None:
    client = Client(INITIAL_WINDOW_SIZE=1000)
    client.acknowledges = False
    number = client.start(LATER, framed(b""))
    client.pump()
    ((stream, _),) = client.server.kept
    stream.send_message(bytes(995))
    # 1000 bytes are out, and the window is 0; now -900.
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 100})
    client.pump()
    stream.answer(b"abcde")
    client.pump()
    call = client.calls[number]
    sent = len(call.data)
    assert (sent, stream.waiting) == (1000, 10)
    client.feed(WindowUpdateFrame(number, window_increment=900).serialize())
    assert client.connection.to_send() == b""
    client.feed(WindowUpdateFrame(number, window_increment=1).serialize())
    assert frames_of(client.connection.to_send())[0].data == b"\0"
    client.feed(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 5000}).serialize())
    frames = frames_of(client.connection.to_send())
    assert b"".join(f.data for f in frames if isinstance(f, DataFrame)) == framed(b"abcde")[1:]
    assert isinstance(frames[-1], HeadersFrame)
    assert "END_STREAM" in frames[-1].flags


def test_frame_size_of_the_client() -> None:
    for largest in (16384, 16385, 100_000):
        client = Client(MAX_FRAME_SIZE=largest, INITIAL_WINDOW_SIZE=1 << 20)
        client.pump()
        client.start(ECHO, framed(bytes(50_000)))
        client.reads = False
        client.pump()
        sizes = [
            len(frame.data)
            for frame in frames_of(client.connection.to_send())
            if isinstance(frame, DataFrame)
        ]
        assert sum(sizes) == 50_005
        assert max(sizes) == min(largest, 50_000 + 5 * (largest > 50_005))


def test_connection_window_of_the_client() -> None:
    """All streams share it, and those that wait go on as it grows."""
    client = Client(INITIAL_WINDOW_SIZE=1 << 20)
    client.pump()
    client.reads = False
    calls = [client.start(ECHO, framed(bytes(30_000))) for _ in range(4)]
    client.pump()
    data = client.connection.to_send()
    assert sum(len(f.data) for f in frames_of(data) if isinstance(f, DataFrame)) == 65535
    client.take(data)
    client.reads = True
    client.pump()
    client.h2.increment_flow_control_window(1 << 20)
    client.pump()
    assert [client.calls[n].messages for n in calls] == [[bytes(30_000)]] * 4


def test_what_is_received_is_given_back() -> None:
    """Far more than all windows, in many calls: none stalls, and both windows stay usable."""
    client = Client()
    small, large = framed(bytes(20)), framed(bytes(900_000))
    for i in range(4000):
        call = client.call(ECHO if i % 2 else STREAMED, large if i % 50 == 0 else small)
        assert call.status == OK
        assert call.ended
        del client.calls[max(client.calls)]
    assert client.h2.outbound_flow_control_window > 40 << 20
    # Data of calls that are over, or that were refused, counts as well.
    for _ in range(60):
        number = client.start(LATER, framed(bytes(990_000)))
        client.pump()
        client.h2.reset_stream(number, ErrorCodes.CANCEL)
        client.pump()
        del client.calls[number]
    assert client.h2.outbound_flow_control_window > 40 << 20
    assert client.call(ECHO, framed(bytes(5_000_000))).status == OK


def test_messages_that_are_not_taken_hold_the_client_back() -> None:
    client = Client()
    client.server.takes = False
    number = client.start(STREAMED, framed(*[bytes(999_995)] * 10))
    client.pump()
    (handler,) = client.server.handlers
    assert len(handler.messages) == 4
    # Others go on meanwhile.
    assert client.call(ECHO, framed(bytes(5_000_000))).status == OK
    received = 0
    while not handler.closed:
        received += len(handler.messages)
        handler.take()
        client.pump()
    received += len(handler.messages)
    handler.take()
    client.pump()
    assert received == 10
    assert len(client.calls[number].messages) == 10
    handler.stream.finish(OK, "", ())
    client.pump()
    assert client.calls[number].ended


def test_answers_that_are_not_read_hold_the_client_back() -> None:
    """A stream whose client only sends: what waits for it is bounded."""
    client = Client(INITIAL_WINDOW_SIZE=0)
    number = client.start(STREAMED, framed(*[bytes(99_995)] * 300))
    client.pump()
    (handler,) = client.server.handlers
    assert 1_000_000 < handler.stream.waiting < 6_000_000
    assert len(client.calls[number].to_send) > 20_000_000
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20})
    client.pump()
    assert len(client.calls[number].messages) == 300
    assert client.calls[number].status == OK


def test_client_that_reads_nothing_is_given_no_more_calls() -> None:
    client = Client(INITIAL_WINDOW_SIZE=0)
    numbers = [client.start(ECHO, framed(bytes(1_000_000))) for _ in range(100)]
    client.pump()
    refused = [n for n in numbers if client.calls[n].reset == ErrorCodes.REFUSED_STREAM]
    # Uploads go side by side, so that which ones come too late is for their order to say.
    assert client.connection.open_calls == 100 - len(refused)
    late = client.start(ECHO, framed(b""))
    client.pump()
    assert client.calls[late].reset == ErrorCodes.REFUSED_STREAM
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 24})
    client.pump()
    assert client.call(ECHO, framed(b"again")).messages == [b"again"]


def test_socket_that_takes_nothing() -> None:
    client = Client()
    client.reads = False
    client.h2.increment_flow_control_window(1 << 30)
    ping = PingFrame(0, b"12345678").serialize() * 1000
    client.pump()
    for _ in range(10_000):
        if client.connection.congested:
            break
        client.feed(ping)
    assert client.connection.congested
    assert 16 << 20 < client.connection.unsent < 17 << 20


# ---------------------------------------------------------------- other frames


def test_greeting_and_acknowledgements() -> None:
    client = Client()
    client.pump()
    assert client.acknowledged == 1
    values = client.h2.remote_settings
    assert values.max_concurrent_streams == 1024
    assert values.initial_window_size == 4 << 20
    assert values.max_header_list_size == 16384
    client.h2.ping(b"12345678")
    client.pump()
    assert client.pings == 1
    client.feed(PingFrame(0, b"87654321", flags=["ACK"]).serialize())
    client.feed(SettingsFrame(0, flags=["ACK"]).serialize())
    assert client.connection.to_send() == b""


def test_frames_that_say_nothing_here() -> None:
    unknown = [bytes([0, 0, 3, kind, 255, 0, 0, 0, n]) + b"abc" for kind in (10, 77, 255)
               for n in (0, 1, 9)]  # fmt: skip
    data = (
        raw(PriorityFrame(1, depends_on=3), PriorityFrame(5), settings=True)
        + b"".join(unknown)
        + headers(1).serialize()
        + b"".join(unknown)
        + PriorityFrame(1, depends_on=3).serialize()
        + SettingsFrame(0, settings={99: 7, SettingsFrame.ENABLE_PUSH: 0}).serialize()
        + GoAwayFrame(0, error_code=0).serialize()
        + DataFrame(1, framed(b"abc"), flags=["END_STREAM"]).serialize()
    )
    connection, frames = answered(data)
    assert not connection.failed
    assert [f.data for f in frames if isinstance(f, DataFrame)] == [framed(b"abc")]


def test_header_block_in_pieces() -> None:
    whole = block(ECHO, (b"x", b"y" * 5000))
    for size in (1, 7, 4000):
        pieces = [whole[i : i + size] for i in range(0, len(whole), size)] + [b""]
        data = raw(
            HeadersFrame(
                1, pieces[0], flags=["PRIORITY", "PADDED"], pad_length=9,
                depends_on=0, stream_weight=5,
            ),
            *[ContinuationFrame(1, piece) for piece in pieces[1:-1]],
            ContinuationFrame(1, pieces[-1], flags=["END_HEADERS"]),
            DataFrame(1, framed(b"abc"), flags=["END_STREAM"]),
        )  # fmt: skip
        connection, frames = answered(data)
        assert not connection.failed
        assert [f.data for f in frames if isinstance(f, DataFrame)] == [framed(b"abc")]


@pytest.mark.parametrize("path", [ECHO, STREAMED])
def test_trailers_of_the_client(path: bytes) -> None:
    client = Client()
    number = client.start(path, framed(b"abc"), ends=False)
    client.pump()
    client.h2.send_headers(number, [(b"x-trailer", b"1")], end_stream=True)
    client.pump()
    assert client.calls[number].messages == [b"abc"]
    assert client.calls[number].status == OK
    # Their block is part of the table that later ones refer to.
    assert client.call(path, framed(b"d"), headers=[(b"x-trailer", b"1")]).status == OK


def test_trailers_behind_an_early_answer() -> None:
    client = Client()
    number = client.start(LATER, b"\0\xff\xff\xff\xff", ends=False)
    client._write()
    client.h2.send_headers(number, [(b"x-trailer", b"1")], end_stream=True)
    client.pump()
    assert client.calls[number].status == EXHAUSTED
    assert client.call(ECHO, framed(b"d"), headers=[(b"x-trailer", b"1")]).messages == [b"d"]


def test_headers_twice() -> None:
    _, frames = answered(raw(headers(1), headers(1)))
    assert (frames[-1].stream_id, frames[-1].error_code) == (1, ErrorCodes.PROTOCOL_ERROR)
    _, frames = answered(raw(headers(1, "END_STREAM", path=LATER)))
    assert isinstance(frames[-1], HeadersFrame)


def test_reset_at_every_point() -> None:
    for path in (ECHO, LATER, STREAMED):
        data = framed(b"abc")
        for at in range(len(data) + 2):
            client = Client(INITIAL_WINDOW_SIZE=2)
            client.acknowledges = False
            number = client.start(path, data[:at], ends=at > len(data))
            client.pump()
            client.h2.reset_stream(number, ErrorCodes.CANCEL)
            client.pump()
            assert client.connection.open_calls == 0
            for stream, message in client.server.kept:
                assert stream.closed
                stream.answer(message)
                stream.finish(INTERNAL, "late", ())
            for handler in client.server.handlers:
                assert handler.cancelled == 1
                handler.stream.send_headers(())
                handler.stream.send_message(b"late")
                handler.stream.took(8)
                handler.stream.finish(OK, "", ())
            assert client.connection.to_send() == b""
            client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 100})
            assert client.call(ECHO, framed(b"x")).messages == [b"x"]


def test_leaving() -> None:
    """First a warning, which loses no call; then, once it has come, the end."""
    client = Client()
    number = client.start(LATER, framed(b"abc"))
    client.pump()
    client.connection.leave()
    goaway, ping = frames_of(client.connection.to_send())
    assert (goaway.last_stream_id, goaway.error_code) == (2**31 - 1, 0)
    client.connection.leave()
    assert client.connection.to_send() == b""
    assert (client.connection.leaving, client.connection.left) == (True, False)
    # A call that was on its way, and the answer to another PING.
    call = block(LATER)
    client.feed(HeadersFrame(number + 2, call, flags=["END_HEADERS"]).serialize())
    client.feed(DataFrame(number + 2, framed(b"x"), flags=["END_STREAM"]).serialize())
    client.feed(PingFrame(0, b"12345678", flags=["ACK"]).serialize())
    assert client.connection.to_send() == b""
    assert len(client.server.kept) == 2
    client.feed(PingFrame(0, ping.opaque_data, flags=["ACK"]).serialize())
    (goaway,) = frames_of(client.connection.to_send())
    assert (goaway.last_stream_id, goaway.error_code) == (number + 2, 0)
    assert client.connection.left
    client.connection.depart()
    assert client.connection.to_send() == b""
    # A call that it should not have begun is refused, and may be tried elsewhere.
    client.feed(HeadersFrame(number + 4, call, flags=["END_HEADERS"]).serialize())
    (reset,) = frames_of(client.connection.to_send())
    assert (reset.stream_id, reset.error_code) == (number + 4, ErrorCodes.REFUSED_STREAM)
    for stream, message in client.server.kept:
        stream.answer(message)
    assert len(frames_of(client.connection.to_send())) == 6
    assert client.connection.open_calls == 0


def test_a_client_that_does_not_answer_the_warning() -> None:
    client = Client()
    client.pump()
    # Also one that answers without having been warned.
    client.feed(PingFrame(0, b"goodbye\0", flags=["ACK"]).serialize())
    assert not client.connection.left
    client.connection.leave()
    client.connection.depart()
    sent = frames_of(client.connection.to_send())
    assert [f.last_stream_id for f in sent if isinstance(f, GoAwayFrame)] == [2**31 - 1, 0]


def test_too_many_streams() -> None:
    encoder = Encoder()
    connection = Connection(Server(), 7)
    connection.receive(raw())
    connection.to_send()
    for i in range(1026):
        data = encoder.encode(request_headers(LATER))
        connection.receive(HeadersFrame(2 * i + 1, data, flags=["END_HEADERS"]).serialize())
    resets = frames_of(connection.to_send())
    assert [(f.stream_id, f.error_code) for f in resets] == [
        (2049, ErrorCodes.REFUSED_STREAM),
        (2051, ErrorCodes.REFUSED_STREAM),
    ]
    assert connection.open_calls == 1024
    connection.receive(RstStreamFrame(1, error_code=8).serialize())
    connection.receive(DataFrame(2049, bytes(100), flags=["END_STREAM"]).serialize())
    data = encoder.encode(request_headers(ECHO))
    connection.receive(HeadersFrame(2053, data, flags=["END_HEADERS"]).serialize())
    connection.receive(DataFrame(2053, framed(b""), flags=["END_STREAM"]).serialize())
    assert connection.open_calls == 1023
    assert not connection.failed


# ---------------------------------------------------------------- what gRPC asks for


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        (b"content-type", b"application/json", b"415"),
        (b"content-type", b"application/grpc-web", b"415"),
        (b"content-type", b"application/grp", b"415"),
        (b"content-type", b"", b"415"),
        (b":method", b"GET", b"405"),
        (b":method", b"PUT", b"405"),
    ],
)
def test_callers_that_do_not_speak_grpc(name: bytes, value: bytes, status: bytes) -> None:
    client = Client()
    wrong = [(n, value if n == name else v) for n, v in request_headers(ECHO)]
    for all_headers in (wrong, [h for h in wrong if h[0] != name]):
        call = client.call(ECHO, framed(b"abc"), all_headers=all_headers)
        assert call.headers == {b":status": status}
        assert call.ended
    assert client.connection.open_calls == 0


@pytest.mark.parametrize("kind", [b"application/grpc+proto", b"application/grpc; charset=utf-8"])
def test_content_types_of_grpc(kind: bytes) -> None:
    wanted = [(n, kind if n == b"content-type" else v) for n, v in request_headers(ECHO)]
    assert Client().call(ECHO, framed(b"abc"), all_headers=wanted).messages == [b"abc"]


def test_call_without_a_path() -> None:
    client = Client()
    call = client.call(ECHO, all_headers=[h for h in request_headers(ECHO) if h[0] != b":path"])
    assert call.reset == ErrorCodes.PROTOCOL_ERROR
    assert client.call(ECHO, framed(b"abc")).status == OK


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"4m", 0.004), (b"5u", 5e-6), (b"6n", 6e-9),
        (b"99999999H", 99999999 * 3600), (b"0S", 0), (b"00000001S", 1),
    ],
)  # fmt: skip
def test_timeouts(text: bytes, seconds: float) -> None:
    assert parse_timeout(text) == pytest.approx(seconds)
    client = Client()
    assert client.call(ECHO, framed(b""), headers=[(b"grpc-timeout", text)]).status == OK
    assert client.server.deadlines == [pytest.approx(1000 + seconds)]


@pytest.mark.parametrize(
    "text",
    [b"", b"S", b"1", b"1s", b"-1S", b"+1S", b"1.5S", b"123456789S", b"1SS", b"\xb2S", b" 1S"],
)  # fmt: skip
def test_timeouts_that_are_none(text: bytes) -> None:
    with pytest.raises(ValueError, match="grpc-timeout"):
        parse_timeout(text)
    for path in (ECHO, STREAMED):
        client = Client()
        call = client.call(path, framed(b""), headers=[(b"grpc-timeout", text)])
        assert call.status == INTERNAL
        assert b"grpc-timeout" in call.message
        assert client.server.handlers == []


def packed(data: bytes, kind: bytes) -> bytes:
    return gzip.compress(data) if kind == b"gzip" else zlib.compress(data)


@pytest.mark.parametrize("path", [ECHO, STREAMED])
@pytest.mark.parametrize("kind", [b"gzip", b"deflate"])
def test_compressed_messages(path: bytes, kind: bytes) -> None:
    client = Client()
    encoding = [(b"grpc-encoding", kind)]
    for message in (b"", b"abc", bytes(1_000_000)):
        data = framed(packed(message, kind), flag=1)
        assert client.call(path, data, headers=encoding).messages == [message]
        # The flag says whether it is; the header says only how.
        assert client.call(path, framed(message), headers=encoding).messages == [message]
    data = packed(bytes(1000), kind)
    for wrong in (data[:-5], b"", b"not packed", b"\xff" + data[1:]):
        call = client.call(path, framed(wrong, flag=1), headers=encoding)
        assert (call.status, call.messages) == (INTERNAL, [])
        assert b"compressed" in call.message or b"grpc-encoding" in call.message
    assert client.connection.open_calls == 0


@pytest.mark.parametrize("path", [ECHO, STREAMED])
def test_compressed_bombs(path: bytes) -> None:
    client = Client()
    bomb = packed(bytes(LARGEST + 1), b"gzip")
    call = client.call(path, framed(bomb, flag=1), headers=[(b"grpc-encoding", b"gzip")])
    assert call.status == EXHAUSTED
    assert b"67108864" in call.message


@pytest.mark.parametrize("path", [ECHO, STREAMED])
def test_compression_that_is_not_known(path: bytes) -> None:
    client = Client()
    call = client.call(path, framed(b"x", flag=1), headers=[(b"grpc-encoding", b"snappy")])
    assert call.status == UNIMPLEMENTED
    assert b"gzip, deflate or identity" in call.message
    assert client.call(path, framed(b"x", flag=1)).status == INTERNAL
    assert client.call(path, framed(b"x", flag=2)).status == INTERNAL
    identity = [(b"grpc-encoding", b"identity")]
    assert client.call(path, framed(b"x"), headers=identity).status == OK
    assert client.call(path, framed(b"x", flag=1), headers=identity).status == INTERNAL


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"\0\0\0\0", b"\0\0\0\0\x01", framed(b"abc")[:-1], framed(b"a", b"b"),
     framed(b"a") + b"x"],
)  # fmt: skip
def test_unary_calls_of_other_than_one_message(data: bytes) -> None:
    client = Client()
    call = client.call(ECHO, data)
    assert (call.status, call.ended) == (INTERNAL, True)
    assert b"one message" in call.message
    assert client.call(ECHO, framed(b"abc")).status == OK
    if data:
        cut = data == framed(b"a", b"b")
        assert client.call(STREAMED, data).status == (OK if cut else INTERNAL)


@pytest.mark.parametrize("path", [ECHO, STREAMED])
def test_messages_that_are_too_large(path: bytes) -> None:
    client = Client()
    call = client.call(path, b"\0" + (LARGEST + 1).to_bytes(4, "big") + b"x", ends=False)
    # As soon as it says so, not when it has come.
    assert (call.status, call.ended, call.reset) == (EXHAUSTED, True, 0)
    assert b"67108864" in call.message
    assert [h.cancelled for h in client.server.handlers] == [1] * (path == STREAMED)


def test_many_messages_that_are_not_complete() -> None:
    """What one client can have us keep is bounded, and only the call that is too much ends."""
    server = Server()
    connection = Connection(server, 7)
    connection.receive(raw())
    encoder = Encoder()
    data = framed(bytes(60_000_000))
    numbers = [1, 3, 5, 7, 9]
    for number in numbers:
        head = encoder.encode(request_headers(ECHO if number in (1, 5) else STREAMED))
        connection.receive(HeadersFrame(number, head, flags=["END_HEADERS"]).serialize())
        connection.receive(
            b"".join(
                DataFrame(number, data[i : min(i + 16384, len(data) - 1)]).serialize()
                for i in range(0, len(data) - 1, 16384)
            )
        )
    assert connection.open_calls == 4
    assert [h.cancelled for h in server.handlers] == [0, 0, 1]
    frames = frames_of(connection.to_send())
    (ended,) = [f for f in frames if isinstance(f, HeadersFrame)]
    assert ended.stream_id == 9
    assert f"grpc-status{EXHAUSTED}".encode() in ended.data.replace(b"\x01", b"")
    # What the others have is not lost, and what is let go of is no longer counted.
    for number in numbers[:4]:
        connection.receive(DataFrame(number, data[-1:], flags=["END_STREAM"]).serialize())
    assert connection.unsent > 0
    assert [h.closed for h in server.handlers] == [True, True, False]
    assert connection.open_calls == 4
    connection.receive(
        SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 1 << 30}).serialize()
        + WindowUpdateFrame(0, window_increment=1 << 30).serialize()
    )
    assert connection.open_calls == 0


def test_header_lists_that_are_too_large() -> None:
    client = Client()
    large = [(b"x-%d" % i, b"y" * 4000) for i in range(5)]
    call = client.call(ECHO, framed(b"abc"), headers=large)
    assert (call.status, call.ended) == (EXHAUSTED, True)
    assert b"16384" in call.message
    # Later blocks refer to what that one has put into the table.
    assert client.call(ECHO, framed(b"abc"), headers=large[:2]).messages == [b"abc"]


@given(st.text())
def test_percent_encoding(text: str) -> None:
    made = percent_encoded(text)
    assert all(0x20 <= c <= 0x7E for c in made)
    assert unquote(made.decode()) == text.encode("utf-8", "replace").decode()


def test_messages_of_failures() -> None:
    client = Client()
    for text in ("", "plain", "100% ü\n\0", "\ud800", "x" * 40_000):
        number = client.start(LATER, framed(b""))
        client.pump()
        stream, _ = client.server.kept.pop()
        stream.finish(5, text, ((b"more-bin", b"AAE"),))
        client.pump()
        call = client.calls[number]
        assert call.headers[b":status"] == b"200"
        assert (call.status, call.headers[b"more-bin"]) == (5, b"AAE")
        assert unquote(call.message.decode()) == text.replace("\ud800", "?")


class Note:
    """What a server has to say of a call."""

    def __init__(self, *metadata: tuple[bytes, bytes]) -> None:
        self.trailers = self.failure_trailers = header_block(metadata)


# More than a frame of the client's holds, too.
@pytest.mark.parametrize("value", [b"v2", b"x" * 40_000])
@pytest.mark.parametrize("size", [0, 100, 30_000, 1_000_000])
def test_a_note_goes_behind_the_status_of_every_answer(size: int, value: bytes) -> None:
    client = Client(INITIAL_WINDOW_SIZE=65_535)
    for fails in (False, True):
        number = client.start(LATER, framed(b""))
        client.pump()
        stream, _ = client.server.kept.pop()
        assert stream.note is None
        stream.note = Note((b"answered-by", value))
        if fails:
            stream.finish(9, "no", ((b"more", b"1"),))
        else:
            stream.answer(bytes(size))
        client.pump()
        call = client.calls[number]
        assert call.ended
        assert call.messages == ([] if fails else [bytes(size)])
        assert call.status == (9 if fails else 0)
        said = call.headers | call.trailers
        assert (said[b"answered-by"], said.get(b"more")) == (value, b"1" if fails else None)
    # The next call on the connection has none.
    assert b"answered-by" not in client.call(ECHO, framed(b"")).trailers


def test_streams_headers_and_metadata() -> None:
    client = Client()
    number = client.start(STREAMED, headers=[(b"a", b"1"), (b"b-bin", b"AA")], ends=False)
    client.pump()
    (handler,) = client.server.handlers
    assert {(b"a", b"1"), (b"b-bin", b"AA"), (b":path", STREAMED)} <= set(handler.headers)
    handler.stream.send_headers(((b"initial", b"1"),))
    handler.stream.send_headers(((b"initial", b"2"),))
    client.pump()
    assert client.calls[number].headers[b"initial"] == b"1"
    handler.stream.finish(9, "no", ((b"last", b"3"),))
    handler.stream.finish(0, "", ())
    handler.stream.send_message(b"late")
    client.pump()
    call = client.calls[number]
    assert (call.status, call.message, call.trailers[b"last"]) == (9, b"no", b"3")
    # The client is told that what it may still send is not wanted.
    assert call.reset == 0
    assert client.connection.open_calls == 0


def test_message_that_is_too_large_behind_one_that_is_taken() -> None:
    """The next message's length is not trusted while somebody is told of the one before it."""
    for length in (LARGEST + 1, 0x81000000, 0xFFFFFFFF):
        client = Client()
        call = client.call(STREAMED, framed(b"a") + b"\0" + length.to_bytes(4, "big") + b"x")
        assert (call.status, call.messages) == (EXHAUSTED, [b"a"])
        assert client.ended is None


def test_handler_that_ends_the_call_while_it_is_told_of_a_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def end(self: Any, data: bytes, taken: int) -> None:
        self.stream.finish(3, "enough", ())

    monkeypatch.setattr("tests.hotpath.http2_client.Handler.message", end)
    client = Client()
    call = client.call(STREAMED, framed(b"a", b"b", b"c"))
    assert (call.status, call.ended) == (3, True)


# ---------------------------------------------------------------- hostile clients

SETTING = SettingsFrame
FAULTS: dict[str, tuple[bytes, int]] = {
    "not HTTP/2": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1),
    "frame too large": (raw() + b"\x00\x40\x01\0\0\0\0\0\1" + bytes(16385), 6),
    "DATA on stream 0": (raw() + b"\0\0\1\0\0\0\0\0\0x", 1),
    "DATA on an idle stream": (raw(DataFrame(1, b"x")), 1),
    "DATA behind the end": (
        raw(headers(1, path=LATER), DataFrame(1, framed(b""), flags=["END_STREAM"]),
            DataFrame(1, b"x")), 5),
    "DATA whose padding is too long": (
        raw(headers(1)) + b"\0\0\2\0\x08\0\0\0\1\2x", 1),
    "DATA without its padding's length": (raw(headers(1)) + b"\0\0\0\0\x08\0\0\0\1", 1),
    "HEADERS on stream 0": (raw() + b"\0\0\0\1\4\0\0\0\0", 1),
    "HEADERS on a server's stream": (raw(headers(2)), 1),
    "HEADERS on a closed stream": (
        raw(headers(3, "END_STREAM"), HeadersFrame(3, b"", flags=["END_HEADERS"])), 5),
    "HEADERS whose padding is too long": (raw() + b"\0\0\2\1\x0c\0\0\0\1\2x", 1),
    "HEADERS without their padding's length": (raw() + b"\0\0\0\1\x0c\0\0\0\1", 1),
    "HEADERS without their priority": (raw() + b"\0\0\4\1\x24\0\0\0\1\0\0\0\0", 1),
    "malformed block": (raw(HeadersFrame(1, b"\x80", flags=["END_HEADERS"])), 9),
    "malformed block in pieces": (
        raw(HeadersFrame(1, b"\x40"), ContinuationFrame(1, b"\xff", flags=["END_HEADERS"])), 9),
    "interrupted block": (raw(HeadersFrame(1, b""), PingFrame(0)), 1),
    "block that another one interrupts": (
        raw(HeadersFrame(1, b""), ContinuationFrame(3, b"")), 1),
    "CONTINUATION of nothing": (raw(ContinuationFrame(1, b"")), 1),
    "CONTINUATION flood": (
        raw(HeadersFrame(1, b""), *[ContinuationFrame(1, bytes(16384))] * 5), 11),
    "PRIORITY of a wrong size": (raw() + b"\0\0\4\2\0\0\0\0\1\0\0\0\0", 1),
    "RST_STREAM on an idle stream": (raw(RstStreamFrame(1, error_code=8)), 1),
    "RST_STREAM of a wrong size": (raw(headers(1)) + b"\0\0\3\3\0\0\0\0\1\0\0\0", 1),
    "SETTINGS on a stream": (raw() + b"\0\0\0\4\0\0\0\0\1", 1),
    "SETTINGS of a wrong size": (raw() + b"\0\0\5\4\0\0\0\0\0" + bytes(5), 6),
    "SETTINGS that acknowledge and set": (raw() + b"\0\0\6\4\1\0\0\0\0" + bytes(6), 6),
    "window too large": (raw(SETTING(0, settings={SETTING.INITIAL_WINDOW_SIZE: 1 << 31})), 3),
    "frame size too small": (raw(SETTING(0, settings={SETTING.MAX_FRAME_SIZE: 16383})), 1),
    "frame size too large": (raw(SETTING(0, settings={SETTING.MAX_FRAME_SIZE: 1 << 24})), 1),
    "push that is neither": (raw(SETTING(0, settings={SETTING.ENABLE_PUSH: 2})), 1),
    "PUSH_PROMISE": (raw(headers(1), PushPromiseFrame(1, promised_stream_id=2)), 1),
    "PING of a wrong size": (raw() + b"\0\0\7\6\0\0\0\0\0" + bytes(7), 1),
    "PING on a stream": (raw() + b"\0\0\x08\6\0\0\0\0\1" + bytes(8), 1),
    "WINDOW_UPDATE of a wrong size": (raw() + b"\0\0\3\x08\0\0\0\0\0" + bytes(3), 6),
    "WINDOW_UPDATE of nothing": (raw() + b"\0\0\4\x08\0\0\0\0\0" + bytes(4), 1),
    "WINDOW_UPDATE on an idle stream": (raw(WindowUpdateFrame(1, window_increment=1)), 1),
    "connection's window too large": (
        raw(WindowUpdateFrame(0, window_increment=(1 << 31) - 1)), 3),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults_end_the_connection(name: str) -> None:
    data, code = FAULTS[name]
    assert failure(data)[0] == code
    # Whatever the pieces it comes in.
    connection = Connection(Server(), 7)
    for at in range(0, len(data), max(1, len(data) // 100)):
        connection.receive(data[at : at + max(1, len(data) // 100)])
    (goaway,) = [f for f in frames_of(connection.to_send()) if isinstance(f, GoAwayFrame)]
    assert goaway.error_code == code


def test_handlers_are_told_of_a_connections_end() -> None:
    client = Client()
    for _ in range(3):
        client.start(STREAMED, framed(b"abc"), ends=False)
    client.pump()
    client.feed(bytes(9) + b"x")
    assert [h.cancelled for h in client.server.handlers] == [1, 1, 1]
    assert client.connection.failed


def test_cancel_that_fails_keeps_nobody_from_being_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []

    def cancel(self: Any) -> None:
        told.append(self.stream.number)
        raise ValueError("planned by the test")

    monkeypatch.setattr("tests.hotpath.http2_client.Handler.cancel", cancel)
    client = Client()
    numbers = [client.start(STREAMED, framed(b"abc"), ends=False) for _ in range(3)]
    client.pump()
    with pytest.raises(ValueError, match="planned"):
        client.connection.lost()
    assert told == numbers
    assert client.connection.open_calls == 0


def test_stream_windows_that_are_wrong_end_the_stream() -> None:
    for increment, code in ((0, 1), ((1 << 31) - 1, 3)):
        frame = b"\0\0\4\x08\0\0\0\0\1" + increment.to_bytes(4, "big")
        for path in (LATER, STREAMED):
            connection, frames = answered(raw(headers(1, path=path)) + frame + frame)
            assert not connection.failed
            assert connection.open_calls == 0
            assert [(type(f), f.stream_id, f.error_code) for f in frames[1:]] == [
                (RstStreamFrame, 1, code)
            ]


def test_more_than_the_streams_window() -> None:
    data = raw(headers(1, path=STREAMED)) + DataFrame(1, framed(bytes(11))).serialize() * 1
    fill = DataFrame(1, framed(bytes(16379))).serialize()
    server = Server()
    server.takes = False
    connection = Connection(server, 7)
    connection.receive(data + fill * 255)
    assert connection.open_calls == 1
    connection.receive(fill)
    assert connection.failed
    assert frames_of(connection.to_send())[-1].error_code == ErrorCodes.FLOW_CONTROL_ERROR


@pytest.mark.parametrize("how", ["reset", "window"])
def test_rapid_resets(how: str) -> None:
    """Calls that are given up as soon as they began, by the client or by a fault of its."""
    client = Client()
    client.pump()
    encoder = Encoder()
    for i in range(3000):
        number = 2 * i + 1
        data = encoder.encode(request_headers(LATER))
        client.feed(HeadersFrame(number, data, flags=["END_HEADERS"]).serialize())
        if how == "reset":
            client.feed(RstStreamFrame(number, error_code=8).serialize())
        else:
            client.feed(b"\0\0\4\x08\0" + number.to_bytes(4, "big") + bytes(4))
        if client.connection.failed:
            break
    assert 1900 < i < 2100
    (goaway,) = [f for f in frames_of(client.connection.to_send()) if isinstance(f, GoAwayFrame)]
    assert goaway.error_code == ErrorCodes.ENHANCE_YOUR_CALM


def test_resets_of_an_honest_client() -> None:
    """Calls that are given up now and then add up to nothing."""
    client = Client()
    for i in range(6000):
        client.server.time += 0.01
        number = client.start(LATER, framed(b""))
        client.pump()
        if i % 3:
            client.h2.reset_stream(number, ErrorCodes.CANCEL)
        else:
            stream, message = client.server.kept.pop()
            stream.answer(message)
        client.pump()
        del client.calls[number]
        client.server.kept.clear()
    assert client.ended is None


def test_floods_cost_no_more_than_their_answers() -> None:
    connection = Connection(Server(), 7)
    connection.receive(raw())
    connection.to_send()
    connection.receive(PingFrame(0, b"12345678").serialize() * 10_000)
    assert len(connection.to_send()) == 10_000 * 17
    connection.receive(SettingsFrame(0, settings={1: 0}).serialize() * 10_000)
    assert len(connection.to_send()) == 10_000 * 9
    connection.receive(PriorityFrame(1).serialize() * 10_000)
    assert connection.to_send() == b""
    assert not connection.failed


# ---------------------------------------------------------------- hostile bytes


def conversation(seed: int) -> bytes:
    """All bytes of a client's with all sorts of calls."""
    rng = random.Random(seed)
    client = Client(INITIAL_WINDOW_SIZE=rng.choice([0, 50, 65535]))
    for _ in range(6):
        path = rng.choice([ECHO, LATER, STREAMED])
        messages = [bytes(rng.choice([0, 3, 200])) for _ in range(1 + (path == STREAMED))]
        data = framed(*messages)
        extra = [(b"grpc-timeout", b"1S"), (b"grpc-encoding", b"gzip")][: rng.randrange(3)]
        if len(extra) == 2 and path == ECHO:
            data = framed(gzip.compress(bytes(100)), flag=1)
        number = client.start(
            path, data, headers=extra, frame=rng.choice([3, 1000]),
            padding=rng.choice([None, 4]), ends=rng.random() < 0.8,
        )  # fmt: skip
        if rng.random() < 0.7:
            client.pump()
        if rng.random() < 0.2:
            client.h2.reset_stream(number, ErrorCodes.CANCEL)
            client.calls[number].reset = 8
        if rng.random() < 0.3:
            client.h2.ping(b"12345678")
            client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 70})
    client.pump()
    return bytes(client.sent)


CONVERSATIONS = [conversation(seed) for seed in range(8)]


def survives(data: bytes, step: int = 0) -> None:
    """Whatever comes, the answer is frames, the last of them GOAWAY where it was too much."""
    server = Server()
    connection = Connection(server, 7)
    for at in range(0, len(data), step or len(data) or 1):
        connection.receive(data[at : at + (step or len(data))])
    for stream, message in server.kept:
        stream.answer(message)
    frames = frames_of(connection.to_send())
    ended = [f for f in frames if isinstance(f, GoAwayFrame)]
    assert len(ended) == connection.failed
    if connection.failed:
        assert connection.open_calls == 0
        assert all(h.cancelled or h.stream.closed for h in server.handlers)
    connection.lost()
    assert all(h.stream.closed for h in server.handlers)
    assert connection.open_calls == 0


def test_conversations_cut_at_each_byte() -> None:
    for data in CONVERSATIONS[:3]:
        for at in range(len(data)):
            survives(data[:at])
        survives(data, 1)


@settings(max_examples=300)
@given(
    st.sampled_from(CONVERSATIONS),
    st.lists(
        st.tuples(
            st.floats(0, 1, exclude_max=True),
            st.sampled_from(["set", "delete", "insert", "repeat"]),
            st.binary(min_size=1, max_size=12),
        ),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from([0, 1, 10]),
)
def test_mutated_conversations(
    data: bytes, changes: list[tuple[float, str, bytes]], step: int
) -> None:
    changed = bytearray(data)
    for place, how, new in changes:
        at = len(PREFACE) + int(place * (len(changed) - len(PREFACE)))
        match how:
            case "set":
                changed[at : at + len(new)] = new
            case "delete":
                del changed[at : at + len(new)]
            case "insert":
                changed[at:at] = new
            case "repeat":
                changed[at:at] = changed[at : at + 8 * len(new)]
    survives(bytes(changed), step)


FRAME = st.builds(
    lambda kind, flags, number, body: (
        len(body).to_bytes(3, "big") + bytes([kind, flags]) + number.to_bytes(4, "big") + body
    ),
    st.one_of(st.integers(0, 9), st.integers(0, 255)),
    st.one_of(st.sampled_from([0, 1, 4, 5, 8, 12, 13, 32, 37, 45]), st.integers(0, 255)),
    st.one_of(st.integers(0, 7), st.integers(0, 2**32 - 1)),
    st.one_of(
        st.binary(max_size=30),
        st.sampled_from(
            [block(p) for p in (ECHO, LATER, STREAMED)]
            + [framed(b"abc"), framed(b"abc", b"d"), b"\0\0\0\x08", b"\0" * 8]
            + [b"\0\4" + n.to_bytes(4, "big") for n in (0, 1, 100, 2**31 - 1)]
        ),
    ),
)
GOOD = st.sampled_from([
    *(headers(n, path=p).serialize() for n in (1, 3) for p in (ECHO, LATER, STREAMED)),
    *(DataFrame(n, framed(b"abc")).serialize() for n in (1, 3)),
    DataFrame(1, b"", flags=["END_STREAM"]).serialize(),
    WindowUpdateFrame(1, window_increment=5).serialize(),
    RstStreamFrame(1, error_code=8).serialize(),
])  # fmt: skip


@settings(max_examples=300)
@given(st.lists(st.one_of(GOOD, FRAME), max_size=12), st.sampled_from([0, 1]))
def test_random_frames(frames: list[bytes], step: int) -> None:
    survives(raw() + b"".join(frames), step)


@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    survives(data)
    survives(PREFACE + data)
