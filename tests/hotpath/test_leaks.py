"""Memory and references over many requests, fine ones and failing ones."""

import contextlib
import ctypes
import gc
import itertools
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value
from hpack import Encoder
from hyperframe.frame import DataFrame, HeadersFrame, SettingsFrame, WindowUpdateFrame

from hotfeast.hotpath import rules
from hotfeast.hotpath.answer import Answer, AnswerColumn
from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.cache import RowCache
from hotfeast.hotpath.columns import NoEncoder, TimeColumn, ValueColumn
from hotfeast.hotpath.declared import declared_column
from hotfeast.hotpath.errors import (
    CorruptRow,
    InvalidRequest,
    MalformedAnswer,
    ProtocolError,
    ReplyError,
)
from hotfeast.hotpath.hpack import HeaderDecoder
from hotfeast.hotpath.http2 import Connection
from hotfeast.hotpath.kernel import Kernel
from hotfeast.hotpath.latest import LatestRows
from hotfeast.hotpath.packed import settle_reply
from hotfeast.hotpath.plan import Plan
from hotfeast.hotpath.reply import Reply
from hotfeast.hotpath.request import Request
from hotfeast.hotpath.splice import build_response
from hotfeast.hotpath.write_link import exchange_writes
from hotfeast.hotpath.writes import WriteBatch, WritePlan
from tests.hotpath import http2_client
from tests.hotpath.helpers import (
    array_reply,
    delimited,
    int64_request,
    one_view,
    request_bytes,
)
from tests.hotpath.kernels import (
    EVERY_INPUT,
    EVERY_OUTPUT,
    column,
    every_operation,
    kernel_of,
    lowered,
)
from tests.hotpath.write_helpers import definition

LOOPS = 20_000
# A leak of one small allocation a loop is 16 bytes and more.
ALLOWED_GROWTH = LOOPS * 8
DEFINITION = one_view(features=["f", "g"])
PLAN = Plan(DEFINITION)
DATA = int64_request(1, 2, 1)
ROW = array_reply([b"\x20\x01", b"\x12\x03abc", b"\x08\x01"])
CORRUPT = array_reply([b"\x20", b"\x12\x03abc", b"\x08\x01"])

under_asan = "libasan" in os.environ.get("LD_PRELOAD", "")


def serve(data: bytes = DATA, replies: bytes = ROW * 2, plan: Plan = PLAN) -> bytes:
    request = Request(data)
    batch = Batch(plan, request)
    reply = Reply()
    reply.start(batch)
    reply.feed(replies)
    reply.raise_error()
    return build_response(batch, reply, 10**9, 0, True)


CACHED_PLAN = Plan(replace(DEFINITION, views=(replace(DEFINITION.views[0], cache_seconds=1e6),)))
CACHED_PLAN.followed = True
CACHE = RowCache(2**16)
CACHE.open()
_entities = itertools.count()


def serve_cached(cache: RowCache = CACHE, replies: bytes = ROW * 2) -> bytes:
    """Asks for two new entities, for one of them again, and has others forgotten at times."""
    answer = b""
    first, second = next(_entities), next(_entities)
    for ids in ((first, second), (first,)):
        batch = Batch(CACHED_PLAN, Request(int64_request(*ids)), later=True)
        reply = Reply()
        cache.start(batch, reply)
        if len(ids) == 2:
            assert reply.feed(replies)
        settle_reply(batch, reply)
        reply.raise_error()
        cache.store(batch, reply)
        answer = build_response(batch, reply, 10**9, 0, True)
    cache.invalidate(batch.sample_keys(0, 1) if first % 3 == 0 else [])
    return answer


MIXED = request_bytes({"id": [Value(int64_val=1), Value(string_val="x")]})
UNEVEN = request_bytes({"id": [Value(int64_val=1)], "other": []})

FAILING: dict[str, tuple[Callable[[], object], type[Exception]]] = {
    "malformed request": (lambda: serve(DATA[:-1]), InvalidRequest),
    "columns, then malformed": (lambda: serve(DATA + b"\x00"), InvalidRequest),
    "not UTF-8": (lambda: serve(delimited(1, b"\xff")), InvalidRequest),
    "unknown key": (lambda: serve(request_bytes({"ids": []})), InvalidRequest),
    "uneven columns": (lambda: serve(UNEVEN), InvalidRequest),
    "mixed types": (lambda: serve(MIXED), InvalidRequest),
    "broken reply": (lambda: serve(replies=ROW + b"*2\r\n"), ProtocolError),
    "error reply": (lambda: serve(replies=b"-ERR\r\n" * 2), ReplyError),
    "corrupt row": (lambda: serve(replies=ROW + CORRUPT), CorruptRow),
    "incomplete reply": (lambda: serve(replies=ROW), ValueError),
    "error reply beside a cache": (lambda: serve_cached(replies=b"-ERR\r\n" * 2), ReplyError),
    "broken reply beside a cache": (lambda: serve_cached(replies=ROW + b"*2\r\n"), ProtocolError),
    "corrupt row beside a cache": (lambda: serve_cached(replies=CORRUPT * 2), CorruptRow),
    "cache of no size": (lambda: RowCache(0), ValueError),
}


WRITE_PLAN = WritePlan(definition())
TEXTS = pa.array(["text", None, "é" * 40] * 5)
NUMBERS = pa.array([1, None, 2**62] * 5)
LISTS = pa.array([[1, 2], None, []] * 5)
SERIALIZED = RepeatedValue(val=[Value(int64_val=i) for i in range(15)]).SerializeToString()
STAMPS = [b"\x08\x05"] * 15
CREATED = pa.array([5] * 15, pa.timestamp("us"))
ANSWER = b"$15\r\n" + b"1" * 15 + b"\r\n"


def write(reply: bytes = ANSWER) -> None:
    """All that a write goes through, but the socket."""
    ValueColumn.from_arrow(14, LISTS)
    features = [ValueColumn.from_arrow(4, NUMBERS), ValueColumn.from_arrow(2, TEXTS)]
    keys = [ValueColumn.from_values(4, SERIALIZED)]
    rules.outside_integers(features[0], 0, 1)
    rules.not_of_length(features[1], 0, 1)
    rules.not_among(features[1], frozenset([b"x"]))
    times = TimeColumn.from_timestamps(STAMPS)
    batch = WriteBatch(WRITE_PLAN, keys, features, times, TimeColumn.from_arrow(CREATED))
    LatestRows().sift(batch)
    batch.begin()
    batch.next_portion()
    batch.feed(reply)


def write_over(descriptor: int) -> None:
    keys = [ValueColumn.from_values(4, SERIALIZED)]
    features = [ValueColumn.from_arrow(4, NUMBERS), ValueColumn.from_arrow(2, TEXTS)]
    times = TimeColumn.from_timestamps(STAMPS)
    batch = WriteBatch(WRITE_PLAN, keys, features, times, TimeColumn.none(15))
    exchange_writes(descriptor, batch, 1)


GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize()
WIDE = (
    SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 1 << 20}).serialize()
    + WindowUpdateFrame(0, window_increment=1 << 20).serialize()
)


def call_bytes(number: int, path: bytes, data: bytes, *, flags: tuple[str, ...]) -> bytes:
    """A call whose headers name no entry of the client's table."""
    block = Encoder().encode([
        (name, value, True) for name, value in http2_client.request_headers(path)
    ])  # fmt: skip
    head = HeadersFrame(number, block, flags=["END_HEADERS"]).serialize()
    return head + DataFrame(number, data, flags=flags).serialize()


def any_call(path: bytes, data: bytes, *flags: str, then: bytes = b"") -> tuple[bytes, ...]:
    """A call on stream NUMB."""
    number = int.from_bytes(b"NUMB", "big")
    return call_bytes(number, path, data, flags=flags), then


MESSAGE = http2_client.framed(b"abc" * 100)
RESET = b"\0\0\4\3\0NUMB\0\0\0\x08"
CALLS = [
    any_call(http2_client.ECHO, MESSAGE, "END_STREAM"),
    any_call(http2_client.STREAMED, MESSAGE * 3, "END_STREAM"),
    any_call(http2_client.LATER, MESSAGE, "END_STREAM", then=RESET),
    any_call(http2_client.STREAMED, MESSAGE[:-1], then=RESET),
    any_call(http2_client.ECHO, MESSAGE * 2, "END_STREAM"),
    any_call(http2_client.STREAMED, b"\1" + MESSAGE[1:], "END_STREAM"),
    any_call(http2_client.ECHO, b"\0\xff\xff\xff\xff"),
    any_call(b"", b"", "END_STREAM"),
]
CONVERSATION = (
    GREETING
    + SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 10}).serialize()
    + b"".join(
        call_bytes(2 * i + 1, path, MESSAGE, flags=("END_STREAM",))
        for i, path in enumerate((http2_client.ECHO, http2_client.LATER, http2_client.STREAMED) * 2)
    )
)

HEADERS = b"\x40\x04name\x05value\x82\xbe"

FAILING |= {
    "column without encoder": (lambda: ValueColumn.from_arrow(4, TEXTS), NoEncoder),
    "times without encoder": (lambda: TimeColumn.from_arrow(TEXTS), NoEncoder),
    "malformed column": (lambda: ValueColumn.from_values(4, SERIALIZED[:-1]), InvalidRequest),
    "malformed times": (lambda: TimeColumn.from_values(SERIALIZED[:-1]), InvalidRequest),
    "fault beyond": (lambda: ValueColumn.from_serialized(4, [b"x"], [0, 1], None), IndexError),
    "columns of another plan": (
        lambda: WriteBatch(WRITE_PLAN, [], [], TimeColumn.none(1)),
        ValueError,
    ),
    "broken write reply": (lambda: write(b"$15\r" + b"x\n"), ProtocolError),
    "closed descriptor": (lambda: write_over(-1), OSError),
    "malformed header block": (lambda: HeaderDecoder().decode_block(HEADERS + b"\x80"), ValueError),
    "too many headers": (
        lambda: HeaderDecoder(list_limit=50).decode_block(HEADERS),
        OverflowError,
    ),
}


def resident() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


class MallocInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


try:
    _mallinfo: Any = ctypes.CDLL(None).mallinfo2
    _mallinfo.restype = MallocInfo
except AttributeError:  # another C library, or one of before 2021
    _mallinfo = None


def allocated() -> int:
    """Bytes that malloc has given out. A leak shows here even where the heap has room for it."""
    if _mallinfo is None:
        return 0
    info = _mallinfo()
    return int(info.uordblks) + int(info.hblkhd)


def growth(loop: Callable[[], object], times: int) -> int:
    """Bytes by which the process and its heap grew, the least of three: others allocate, too."""
    for _ in range(times // 10):
        loop()
    least = sys.maxsize
    for _ in range(3):
        gc.collect()
        before = resident(), allocated()
        for _ in range(times):
            loop()
        least = min(least, max(resident() - before[0], allocated() - before[1]))
        if least < ALLOWED_GROWTH * times // LOOPS:
            break
    return least


@pytest.mark.skipif(under_asan, reason="AddressSanitizer keeps freed memory for a while")
def test_memory_is_flat() -> None:
    assert growth(serve, LOOPS) < ALLOWED_GROWTH


@pytest.mark.skipif(under_asan, reason="AddressSanitizer keeps freed memory for a while")
def test_memory_is_flat_beside_a_full_cache() -> None:
    evicted = CACHE.evictions
    for _ in range(1000):
        serve_cached()
    assert CACHE.evictions > evicted
    assert growth(serve_cached, LOOPS // 4) < ALLOWED_GROWTH // 4


@pytest.mark.skipif(under_asan, reason="AddressSanitizer keeps freed memory for a while")
def test_memory_is_flat_over_caches() -> None:
    """One that is gone takes what was in it with it; so does one that is shut."""

    def loop() -> None:
        cache = RowCache(2**16)
        cache.open()
        for _ in range(20):
            serve_cached(cache)
        if next(_entities) % 2:
            cache.shut()

    assert growth(loop, LOOPS // 40) < ALLOWED_GROWTH // 40


@pytest.mark.skipif(under_asan, reason="AddressSanitizer keeps freed memory for a while")
@pytest.mark.parametrize("name", FAILING)
def test_memory_is_flat_over_errors(name: str) -> None:
    call, error = FAILING[name]

    def loop() -> None:
        with contextlib.suppress(error):
            call()

    assert growth(loop, LOOPS // 4) < ALLOWED_GROWTH // 4


@pytest.mark.skipif(under_asan, reason="AddressSanitizer keeps freed memory for a while")
def test_memory_is_flat_over_decoded_answers() -> None:
    data = serve()
    texts = ValueColumn.from_arrow(2, pa.array(["a", None]))

    def loop() -> None:
        answer = Answer(data, data)
        for index in range(len(answer.names)):
            answer.column(index, 2)
        AnswerColumn.of_cells("f", [texts, texts])
        assert texts.repeated()
        for member in (2, 3, 4, 5, 14):
            declared_column(Answer(data), 0, member, True)
        with pytest.raises(MalformedAnswer):
            Answer(data, data[:-1])

    assert growth(loop, LOOPS // 10) < ALLOWED_GROWTH // 10


@pytest.mark.skipif(under_asan, reason="AddressSanitizer keeps freed memory for a while")
def test_memory_is_flat_over_plans() -> None:
    assert growth(lambda: serve(plan=Plan(DEFINITION)), LOOPS // 4) < ALLOWED_GROWTH // 4


@pytest.mark.skipif(under_asan, reason="AddressSanitizer keeps freed memory for a while")
@pytest.mark.parametrize("text", ["ccc", "not ASCII: é"])
def test_memory_is_flat_over_kernels(text: str) -> None:
    """With a text whose case is changed, and with one that is given up in the middle."""
    kernel = kernel_of(every_operation, EVERY_INPUT, EVERY_OUTPUT)
    example = {"i": 1, "k": 0, "x": 2.0, "b": True, "s": text, "u": 10**9, "v": 0}
    columns = [
        column(kind, [example[name], 0 if name == "k" else None]) for name, kind in kernel.inputs
    ]
    answered = kernel.run_columns(columns, True) is not None
    assert answered == text.isascii()
    assert growth(lambda: kernel.run_columns(columns, True), LOOPS // 4) < (ALLOWED_GROWTH // 4)


@pytest.mark.skipif(under_asan, reason="AddressSanitizer keeps freed memory for a while")
def test_memory_is_flat_over_new_kernels() -> None:
    made_of = lowered(every_operation, EVERY_INPUT, EVERY_OUTPUT)
    assert growth(lambda: Kernel(*made_of), LOOPS // 40) < ALLOWED_GROWTH // 40


@pytest.mark.skipif(under_asan, reason="AddressSanitizer keeps freed memory for a while")
def test_memory_is_flat_over_large_replies_on_one_connection() -> None:
    reply = Reply()
    small, large = Batch(PLAN, Request(DATA)), array_reply([b"x" * 3_000_000, b"", b""])

    def loop() -> None:
        reply.start(small)
        reply.feed(large)
        reply.feed(large)
        reply.start(small)
        reply.feed(ROW * 2)

    loop()
    before = resident()
    for _ in range(50):
        loop()
    assert resident() - before < 3_000_000


@pytest.mark.skipif(under_asan, reason="AddressSanitizer keeps freed memory for a while")
def test_memory_is_flat_over_writes() -> None:
    assert growth(write, LOOPS // 4) < ALLOWED_GROWTH // 4


def converse(*, fail: bool = False) -> None:
    """A connection with calls of all kinds, all of which end, or all of which are cut off."""
    server = http2_client.Server()
    connection = Connection(server, 7)
    connection.receive(CONVERSATION)
    if not fail:
        for stream, message in server.kept:
            stream.answer(message)
        connection.receive(WIDE)
        connection.leave()
    else:
        connection.receive(bytes(9))
        assert connection.failed
    assert connection.open_calls == 0
    assert connection.to_send()
    # Theirs are references to each other that end with a server only.
    server.kept.clear()
    server.handlers.clear()


def one_more_call(connection: Connection, number: int) -> None:
    """A call on a connection that lives on: answered, given up, or failed."""
    head = CALLS[number // 2 % len(CALLS)]
    connection.receive(b"".join(part.replace(b"NUMB", number.to_bytes(4, "big")) for part in head))
    connection.to_send()


@pytest.mark.skipif(under_asan, reason="AddressSanitizer keeps freed memory for a while")
@pytest.mark.parametrize("fail", [False, True])
def test_memory_is_flat_over_connections(fail: bool) -> None:
    assert growth(lambda: converse(fail=fail), LOOPS // 20) < ALLOWED_GROWTH // 20


@pytest.mark.skipif(under_asan, reason="AddressSanitizer keeps freed memory for a while")
def test_memory_is_flat_over_calls_of_one_connection() -> None:
    server = http2_client.Server()
    connection = Connection(server, 7)
    connection.receive(GREETING)
    widest = WindowUpdateFrame(0, window_increment=(1 << 31) - 65536)
    connection.receive(widest.serialize())
    numbers = itertools.count(1, 2)

    def loop() -> None:
        server.time += 1
        server.kept.clear()
        server.handlers.clear()
        server.deadlines.clear()
        one_more_call(connection, next(numbers))

    assert growth(loop, LOOPS // 2) < ALLOWED_GROWTH // 2
    assert not connection.failed
    assert connection.open_calls == 0


def test_calls_that_are_over_are_freed_at_once() -> None:
    """No call and no connection waits for the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for fail in (False, True) * 20:
            converse(fail=fail)
        assert len(gc.get_objects()) - before < 20
    finally:
        gc.enable()


def objects() -> list[object]:
    return [
        *(PLAN, DEFINITION, DATA, ROW, CACHED_PLAN, CACHE),
        *(WRITE_PLAN, TEXTS, NUMBERS, LISTS, SERIALIZED, STAMPS, CREATED, ANSWER),
    ]


def test_references_are_given_back() -> None:
    serve()
    serve_cached()
    write()
    before = [sys.getrefcount(o) for o in objects()]
    for _ in range(1_000):
        serve()
        serve_cached()
        write()
    assert [sys.getrefcount(o) for o in objects()] == before


@pytest.mark.parametrize("name", FAILING)
def test_references_are_given_back_after_errors(name: str) -> None:
    call, error = FAILING[name]
    before = [sys.getrefcount(o) for o in objects()]
    for _ in range(200):
        with pytest.raises(error):
            call()
    gc.collect()
    assert [sys.getrefcount(o) for o in objects()] == before


def test_a_reply_keeps_only_its_last_batch() -> None:
    request = Request(DATA)
    free = sys.getrefcount(request)
    reply = Reply()
    for _ in range(10):
        reply.start(Batch(PLAN, request))
    assert sys.getrefcount(request) == free + 1
    del reply
    assert sys.getrefcount(request) == free


def test_spans_outlive_the_callers_bytes() -> None:
    """A request and a plan own what their spans point into."""
    data = bytearray(request_bytes({"id": [Value(int64_val=77)] * 500}))
    batch = Batch(Plan(one_view()), Request(bytes(data)))
    del data
    gc.collect()
    filler = [bytes([i % 251]) * 5000 for i in range(500)]
    assert batch.describe_entity(0, 499) == "id=77"
    assert batch.request.column_names == ["id"]
    assert b"\x4d\0\0\0\0\0\0\0demo" in batch.command_bytes
    assert len(filler) == 500
