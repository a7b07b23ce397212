"""The RESP scan: pieces of any size, nils, errors, and replies that are none."""

import re
from itertools import pairwise
from random import Random

import hiredis
import pytest
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import given, settings
from hypothesis import strategies as st

from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.definition import JoinKey, KeyRecipe, ReadDefinition
from hotfeast.hotpath.errors import ProtocolError, ReplyError
from hotfeast.hotpath.plan import Plan
from hotfeast.hotpath.reply import Reply
from hotfeast.hotpath.request import Request
from tests.hotpath.helpers import (
    INT64,
    RANDOMS,
    array_reply,
    int64_request,
    mutant,
    one_view,
    parse_commands,
    request_bytes,
    view_read,
)

PLAN = Plan(one_view(features=["f", "g"]))


def small_batch() -> Batch:
    """Three commands of three fields each."""
    return Batch(PLAN, Request(int64_request(1, 2, 3)))


def two_recipe_batch() -> Batch:
    """Two commands of two fields, then two of five."""
    definition = ReadDefinition(
        "demo",
        (JoinKey("a", INT64), JoinKey("b", INT64)),
        (KeyRecipe((("a", 0),)), KeyRecipe((("b", 1),))),
        (view_read("v", recipe=0), view_read("w", "xyz", 1, 0), view_read("u", (), 1)),
    )
    columns = {
        "a": [Value(int64_val=i) for i in (1, 2, 1)],
        "b": [Value(int64_val=i) for i in (9, 9, 8)],
    }
    return Batch(Plan(definition), Request(request_bytes(columns)))


def started(batch: Batch) -> Reply:
    reply = Reply()
    reply.start(batch)
    return reply


def fields_of(batch: Batch) -> list[int]:
    return [len(command) - 2 for command in parse_commands(batch.command_bytes)]


VALUES: list[bytes | None] = [
    b"\x20\x01", None, b"\x08\x01", b"", b"\r\n$1\r\n", None, b"x" * 12, b"-ERR", b"*3\r\n"
]  # fmt: skip


def reply_of(values: list[bytes | None], sizes: list[int], resp3: bool = False) -> bytes:
    out, at = b"", 0
    for size in sizes:
        out += array_reply(values[at : at + size], resp3)
        at += size
    return out


def by_hiredis(data: bytes) -> list[object]:
    """All replies in the bytes, and whatever is left over."""
    reader = hiredis.Reader()
    reader.feed(data)
    replies: list[object] = []
    while True:
        reply = reader.gets()
        if reply is False:
            break
        replies.append(reply)
    if reader.has_data():
        replies.append("left over")
    return replies


@pytest.mark.parametrize("resp3", [False, True])
def test_two_pieces_at_every_offset(resp3: bool) -> None:
    batch = small_batch()
    data = reply_of(VALUES, fields_of(batch), resp3)
    assert [v for reply in by_hiredis(data) for v in reply] == VALUES  # type: ignore[attr-defined]
    reply = Reply()
    for cut in range(len(data) + 1):
        reply.start(batch)
        first = reply.feed(data[:cut])
        assert first == (cut == len(data))
        if not first:
            assert reply.feed(data[cut:])
        assert reply.field_values == VALUES
        reply.raise_error()


def test_byte_by_byte() -> None:
    batch = two_recipe_batch()
    sizes = fields_of(batch)
    assert sizes == [2, 2, 5, 5]
    values: list[bytes | None] = [*VALUES, b"a", None, b"c", b"d", None]
    data = reply_of(values, sizes)
    reply = started(batch)
    done = [reply.feed(data[i : i + 1]) for i in range(len(data))]
    assert done == [False] * (len(data) - 1) + [True]
    assert reply.field_values == values


VALUE_LISTS = st.lists(
    st.none() | st.binary(max_size=30) | st.sampled_from([b"\r\n", b"$-1\r\n", b"_\r\n"]),
    min_size=9,
    max_size=9,
)


@settings(max_examples=150)
@given(VALUE_LISTS, st.lists(st.integers(0, 200), max_size=6), st.booleans())
def test_any_pieces(values: list[bytes | None], cuts: list[int], resp3: bool) -> None:
    batch = small_batch()
    data = reply_of(values, fields_of(batch), resp3)
    reply = started(batch)
    edges = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    for start, end in pairwise(edges):
        if start == len(data) and end == len(data):
            continue
        assert reply.feed(data[start:end]) == (end == len(data))
    assert reply.field_values == values


@settings(max_examples=80)
@given(st.sets(st.integers(0, 2), min_size=1), st.integers(1, 40))
def test_errors_keep_the_stream_in_step(positions: set[int], piece: int) -> None:
    batch = small_batch()
    data = b""
    expected: list[bytes | None] = []
    for i in range(3):
        row = VALUES[3 * i : 3 * i + 3]
        if i in positions:
            data += b"-WRONGTYPE number %d\xff\r\n" % i
            expected += [None, None, None]
        else:
            data += array_reply(row)
            expected += row
    reply = started(batch)
    pieces = [data[i : i + piece] for i in range(0, len(data), piece)]
    done = [reply.feed(p) for p in pieces]
    assert done == [False] * (len(pieces) - 1) + [True]
    assert reply.field_values == expected
    with pytest.raises(ReplyError, match=f"^WRONGTYPE number {min(positions)}\ufffd$"):
        reply.raise_error()
    # The same buffers serve the next batch, and the error is gone.
    reply.start(batch)
    assert reply.feed(reply_of(VALUES, [3, 3, 3]))
    reply.raise_error()


def test_error_in_a_batch_of_two_recipes() -> None:
    batch = two_recipe_batch()
    reply = started(batch)
    values: list[bytes | None] = [b"a", b"b", b"c", b"d", b"e"]
    data = b"-LOADING\r\n" + array_reply(values[:2]) + array_reply(values) + b"-ERR later\r\n"
    assert reply.feed(data)
    assert reply.field_values == [None] * 2 + values[:2] + values + [None] * 5
    with pytest.raises(ReplyError, match=r"^LOADING$"):
        reply.raise_error()


WHOLE = array_reply([b"a", b"b", None])


@pytest.mark.parametrize(
    "data",
    [
        b"*2\r\n",
        b"*4\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"*03\n",
        b"*\r\n",
        b"*x\r\n",
        b"*3x\r\n",
        b"*+3\r\n",
        b"*3\rx",
        b"*3333333333",
        b"*9999999999999999999999999\r\n",
        b"*0000000000",
        b"$1\r\na\r\n",
        b":3\r\n",
        b"+OK\r\n",
        b"_\r\n",
        b"%1\r\n",
        b"~3\r\n",
        b">3\r\n",
        b"!5\r\nERR x\r\n",
        b"-\r\n",
        b"-ERR\n",
        b"-" + b"x" * 70_000,
        b"\r\n",
        b"\0",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"*3\r\n*3\r\n",
        b"*3\r\n:1\r\n",
        b"*3\r\n+a\r\n",
        b"*3\r\n-ERR\r\n",
        b"*3\r\n!3\r\nERR\r\n",
        b"*3\r\n$\r\n",
        b"*3\r\n$-2\r\n",
        b"*3\r\n$-1x\r\n",
        b"*3\r\n$-10\r\n",
        b"*3\r\n$1\r\nab\r",
        b"*3\r\n$1\r\na\rb",
        b"*3\r\n$1\r\na\n\r",
        b"*3\r\n$1\na\r\n",
        b"*3\r\n$536870913\r\n",
        b"*3\r\n$4294967296\r\n",
        b"*3\r\n$18446744073709551617\r\n",
        b"*3\r\n$" + b"0" * 100,
        b"*3\r\n_x\r",
        b"*3\r\n_\r\r",
        WHOLE * 3 + b"*",
        WHOLE * 4,
        WHOLE * 3 + b"\r\n",
        b"-ERR\r\n" * 4,
    ],
)
def test_hostile_replies(data: bytes) -> None:
    batch = small_batch()
    with pytest.raises(ProtocolError):
        started(batch).feed(data)
    # The same in the last place, and byte by byte.
    if not data.startswith((WHOLE, b"-ERR\r\n")):
        data = WHOLE * 2 + data
    reply = started(batch)
    with pytest.raises(ProtocolError):  # noqa: PT012
        for i in range(len(data)):
            reply.feed(data[i : i + 1])
        reply.feed(b"\n")
    # A caller that goes on all the same does no harm.
    for _ in range(5):
        with pytest.raises(ProtocolError):
            reply.feed(WHOLE)
    assert len(reply.field_values) <= 9


def test_bytes_behind_a_complete_reply() -> None:
    reply = started(small_batch())
    assert reply.feed(WHOLE * 3)
    assert reply.feed(b"")
    with pytest.raises(ProtocolError):
        reply.feed(b"x")


def test_longest_value_is_waited_for() -> None:
    reply = started(small_batch())
    assert not reply.feed(b"*3\r\n$536870912\r\n")
    assert not reply.feed(b"x" * 1000)


def test_large_values_and_the_buffer_afterwards() -> None:
    batch = small_batch()
    large = b"v" * 5_000_000
    reply = started(batch)
    data = array_reply([large, b"b", None]) * 3
    for at in range(0, len(data), 100_000):
        reply.feed(data[at : at + 100_000])
    assert reply.field_values == [large, b"b", None] * 3
    reply.start(batch)
    assert reply.feed(reply_of(VALUES, [3, 3, 3]))
    assert reply.field_values == VALUES


def model(data: bytes, sizes: list[int]) -> list[bytes | None] | None:
    """The values of a complete reply, and None for all else; RESP once more, in Python."""
    out: list[bytes | None] = []
    for size in sizes:
        if error := re.match(rb"-[^\n]+\r\n", data):
            data = data[error.end() :]
            out += [None] * size
            continue
        head = re.match(rb"\*0{0,8}%d\r\n" % size, data)
        if head is None:
            return None
        data = data[head.end() :]
        for _ in range(size):
            if nil := re.match(rb"\$-1\r\n|_\r\n", data):
                data = data[nil.end() :]
                out.append(None)
                continue
            bulk = re.match(rb"\$([0-9]{1,9})\r\n", data)
            if bulk is None:
                return None
            end = bulk.end() + int(bulk[1])
            if data[end : end + 2] != b"\r\n":
                return None
            out.append(data[bulk.end() : end])
            data = data[end + 2 :]
    return None if data else out


def check_noise(batch: Batch, data: bytes, piece: int) -> None:
    """Complete is what the model says is; all else is ProtocolError, or more is wanted."""
    reply = started(batch)
    done = False
    try:
        for at in range(0, len(data), piece):
            done = reply.feed(data[at : at + piece])
    except ProtocolError:
        done = False
    expected = model(data, [3, 3, 3])
    assert done == (expected is not None)
    if expected is not None:
        assert reply.field_values == expected
        # hiredis takes neither leading zeros nor errors with a carriage return in them.
        if not re.search(rb"[$*]0\d|-[^\n]*\r[^\n]", data):
            arrays = [r for r in by_hiredis(data) if not isinstance(r, hiredis.ReplyError)]
            errors = 3 - len(arrays)
            assert all(isinstance(array, list) for array in arrays)
            assert errors or [v for array in arrays for v in array] == expected  # type: ignore[attr-defined]


@settings(max_examples=100)
@given(VALUE_LISTS, RANDOMS)
def test_mutations(values: list[bytes | None], random: Random) -> None:
    batch = small_batch()
    original = reply_of(values, [3, 3, 3], random.random() < 0.3)
    for _ in range(20):
        check_noise(batch, mutant(random, original), random.choice((1, 7, 1000)))


@settings(max_examples=100)
@given(RANDOMS)
def test_noise(random: Random) -> None:
    tokens = [b"*3\r\n", b"$1\r\na\r\n", b"$-1\r\n", b"_\r\n", b"-E\r\n", b"$0\r\n\r\n", b"\r\n"]
    tokens += [b"$", b"*", b"-", b"1", b"\r", b"\n", b"+OK\r\n", b"$2\r\n"]
    batch = small_batch()
    for _ in range(30):
        data = b"".join(random.choices(tokens, (9, 9, 4, 2, 2, 2, *[0.2] * 9), k=14))
        check_noise(batch, data, random.choice((1, 3, 1000)))
        check_noise(batch, random.randbytes(random.randrange(20)), 1000)


def test_nothing_asked() -> None:
    batch = Batch(PLAN, Request(int64_request()))
    assert batch.command_bytes == b""
    reply = started(batch)
    assert reply.feed(b"")
    assert reply.field_values == []
    with pytest.raises(ProtocolError):
        reply.feed(b"*0\r\n")


def test_feed_without_start() -> None:
    with pytest.raises(ValueError, match="start"):
        Reply().feed(b"")
    with pytest.raises(TypeError):
        Reply().start(None)  # type: ignore[arg-type]
    assert Reply().field_values == []
