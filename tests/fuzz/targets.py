"""What is fuzzed: the parsers of bytes that come from outside.

Each target has a quick form, which parses and must end with a result or with an error that is
documented, and a check, which also compares with an oracle: protobuf's own parsers, `hpack`, and
models of the tests.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from hpack import Encoder

from hotfeast.hotpath.answer import Answer
from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.columns import TimeColumn, ValueColumn
from hotfeast.hotpath.errors import CorruptRow, InvalidRequest, MalformedAnswer, ProtocolError
from hotfeast.hotpath.hpack import HeaderDecoder
from hotfeast.hotpath.http2 import Connection
from hotfeast.hotpath.packed import unpack_row
from hotfeast.hotpath.push import PushBatch
from hotfeast.hotpath.reply import Reply
from hotfeast.hotpath.request import Request
from hotfeast.hotpath.splice import build_response
from hotfeast.hotpath.values import row_time, value_state
from hotfeast.serving.v1 import push_pb2, serving_pb2, value_pb2
from tests.hotpath import (
    test_answer,
    test_hpack,
    test_http2,
    test_push_request,
    test_reply,
    test_request,
    test_scatter,
    test_tiles,
    test_tls,
    test_values,
    test_writes,
    tls_loop,
)
from tests.hotpath.helpers import array_reply, int64_request
from tests.hotpath.http2_client import Server
from tests.hotpath.packed_helpers import read_plan

Run = Callable[[bytes], None]


@dataclass(frozen=True)
class Target:
    """One parser.

    Attributes:
        run: Parses.
        check: Parses, and compares with an oracle.
        seeds: Inputs to begin with.
        longest: Bytes of an input at most.
    """

    run: Run
    check: Run
    seeds: list[bytes]
    longest: int = 1024


# ---------------------------------------------------------------- from clients


def _request(data: bytes) -> None:
    with suppress(InvalidRequest):
        Batch(test_request.PLAN, Request(data))


def _check_request(data: bytes) -> None:
    test_request.check_against_protobuf(data)
    test_request.check_bound(data)


def _push(data: bytes) -> None:
    with suppress(InvalidRequest):
        batch = PushBatch(data)
        for column in (batch.columns or {}).values():
            for kind in (value_pb2.ValueType.INT64, value_pb2.ValueType.STRING_LIST):
                _look_at(ValueColumn.from_values(kind, column))
        for times in (batch.event_timestamps, batch.created_timestamps):
            if times is not None:
                _look_at(times)


def _three(data: bytes) -> list[bytes]:
    """Three columns; the lengths of the first two stand in front."""
    first, second = (*data[:2], 0, 0)[:2]
    data = data[2:]
    return [data[:first], data[first : first + second], data[first + second :]]


def _events(data: bytes) -> None:
    with suppress(InvalidRequest):
        test_tiles.send_events(*_three(data))


def _check_events(data: bytes) -> None:
    with suppress(InvalidRequest):
        test_tiles.check_events(*_three(data))


def _tls(data: bytes) -> None:
    tls_loop.say(data)


def _check_tls(data: bytes) -> None:
    tls_loop.say(data)
    test_tls.check_that_others_are_answered()


def _column(data: bytes) -> None:
    """The first byte is the type."""
    # A TypeError is of a type that has no columns.
    with suppress(InvalidRequest, TypeError):
        _look_at(ValueColumn.from_values(data[0] % 32 if data else 0, data[1:]))
        _look_at(TimeColumn.from_values(data[1:]))


def _look_at(column: ValueColumn | TimeColumn) -> None:
    """Has all said that is known of a column."""
    assert len(column.faults) + len(column.null_rows) <= 2 * column.rows


def _http2(data: bytes) -> None:
    server = Server()
    connection = Connection(server, 7)
    connection.receive(data)
    for stream, message in server.kept:
        stream.answer(message)
    connection.to_send()
    connection.lost()


def _check_http2(data: bytes) -> None:
    test_http2.survives(data)
    test_http2.survives(data, 7)


def _hpack(data: bytes) -> None:
    decoder = HeaderDecoder()
    try:
        # Half of it again, for what the first left in the table.
        decoder.decode_block(data)
        decoder.decode_block(data[len(data) // 2 :])
    except (ValueError, OverflowError):
        # An OverflowError is of headers that are too large.
        pass


def _check_hpack(data: bytes) -> None:
    test_hpack.agree(test_hpack.decoder(), test_hpack.oracle_decoder(), data)


# ---------------------------------------------------------------- from Redis

_BATCH = test_reply.small_batch()
_ROWS = Batch(test_reply.PLAN, Request(int64_request(1)))
_PACKED = read_plan(True, "old")
_NOW = 1_700_000_000


def _reply(data: bytes) -> None:
    """The first byte is the size of the pieces."""
    reply = Reply()
    reply.start(_BATCH)
    piece = data[0] + 1 if data else 1
    try:
        for at in range(1, len(data), piece):
            reply.feed(data[at : at + piece])
    except ProtocolError:
        pass


def _check_reply(data: bytes) -> None:
    test_reply.check_noise(_BATCH, data[1:], data[0] + 1 if data else 1)


def _value(data: bytes) -> None:
    value_state(data)
    with suppress(ValueError):
        row_time(data)


def _check_value(data: bytes) -> None:
    assert value_state(data) == test_values.oracle(data)
    test_values.check_time(data)


def _row(data: bytes) -> None:
    """A row's time and two values, each behind a byte with its length."""
    cells: list[bytes | None] = []
    for _ in range(3):
        size = data[0] if data else 0
        cells.append(None if size == 255 else data[1 : 1 + size])
        data = data[1 + size :]
    reply = Reply()
    reply.start(_ROWS)
    # The time is the last field of a reply.
    assert reply.feed(array_reply([*cells[1:], cells[0]]))
    try:
        answer = build_response(_ROWS, reply, _NOW, 0, True)
    except CorruptRow:
        return
    GetOnlineFeaturesResponse.FromString(answer)


def _packed(data: bytes) -> None:
    """A packed row, behind a byte with the length of its time."""
    size = data[0] if data else 0
    with suppress(ValueError):
        unpack_row(_PACKED, 0, data[1 : 1 + size], data[1 + size :])


def _tiles(data: bytes) -> None:
    """Tiles behind their time: 8 bytes, signed."""
    now = int.from_bytes(data[:8], "little", signed=True) >> 4
    for tiles in (test_tiles.EVERY_TILES, test_tiles.TILES):
        with suppress(ValueError):
            tiles.read(data[8:], now)
    # And on their way into an answer.
    try:
        answer = test_tiles.serve([data[8:]], now)
    except CorruptRow:
        return
    GetOnlineFeaturesResponse.FromString(answer)


def _check_tiles(data: bytes) -> None:
    test_tiles.check_tiles(data[8:], int.from_bytes(data[:8], "little", signed=True) >> 4)


def _cluster(data: bytes) -> None:
    """What nodes say, in turn, each behind a byte with its length."""
    test_scatter.answer_with(data)


def _check_cluster(data: bytes) -> None:
    test_scatter.answer_with(data, compare=True)


def _script(data: bytes) -> None:
    """The reply to a write: the first byte says of which kind."""
    batch = test_writes.waiting(bool(data and data[0] & 1), 2)
    with suppress(ProtocolError):
        batch.feed(data[1:])


# ---------------------------------------------------------------- from gateways


def _answer(data: bytes) -> None:
    try:
        answer = Answer(data)
        for i in range(len(answer.names)):
            answer.column(i)
    except MalformedAnswer:
        pass


def _seed_answer() -> bytes:
    return serving_pb2.GetOnlineFeaturesResponse(
        metadata=serving_pb2.GetOnlineFeaturesResponseMetadata(
            feature_names=serving_pb2.FeatureList(val=["id", "f"])
        ),
        results=[
            serving_pb2.GetOnlineFeaturesResponse.FeatureVector(
                values=[value], statuses=["PRESENT"], event_timestamps=[Timestamp(seconds=_NOW)]
            )
            for value in (
                value_pb2.Value(int64_val=1),
                value_pb2.Value(string_list_val=value_pb2.StringList(val=["a", ""])),
            )
        ],
    ).SerializeToString()


def _seed_push() -> bytes:
    return push_pb2.PushRequest(
        batch_id="1",
        push_source="clicks",
        columns=push_pb2.ColumnBatch(
            columns={"id": value_pb2.RepeatedValue(val=[value_pb2.Value(int64_val=1)])},
            event_timestamps=[Timestamp(seconds=_NOW, nanos=5)],
        ),
    ).SerializeToString()


_VALUES = [
    Value(int64_val=-1), Value(string_val="text"), Value(double_val=0.5), Value(float_val=-0.0),
    Value(bool_val=True), Value(unix_timestamp_val=_NOW),
]  # fmt: skip
_VALUE_SEEDS = [
    *(value.SerializeToString() for value in _VALUES),
    Timestamp(seconds=_NOW, nanos=10**9 - 1).SerializeToString(),
]
_COLUMN = b"".join(b"\x0a%c%s" % (len(v), v) for v in _VALUE_SEEDS[:6])
_TIME = _VALUE_SEEDS[-1]
_SEED_ROW = b"".join(b"%c%s" % (len(v), v) for v in (_TIME, *_VALUE_SEEDS[:2]))
_IDS, _KINDS, _NUMBERS = (
    b"".join(b"\x0a%c%s" % (len(v), v) for v in column)
    for column in ([_VALUE_SEEDS[1]] * 2, [_VALUE_SEEDS[1], b""], [_VALUE_SEEDS[2], b"\x20\1"])
)
_SEED_EVENTS = [
    bytes([len(ids), len(_KINDS)]) + ids + _KINDS + _NUMBERS
    for ids in (_IDS, b"\x0a\2\x20\1\x0a\2\x20\2", b"\x0a\4\x72\2\x0a\0" * 2)
]
_SEED_TILES = [
    (test_tiles.NOW << 4).to_bytes(8, "little") + tiles
    for tiles in (
        test_tiles.blob(),
        *(test_tiles.some_tiles(Random(n), n % 2 == 0, 2) for n in range(6)),
    )
]

TARGETS = {
    "answer": Target(_answer, test_answer.check_hostile, [_seed_answer()]),
    "cluster": Target(_cluster, _check_cluster, test_scatter.SOME_SAID),
    "column": Target(_column, _column, [bytes([kind]) + _COLUMN for kind in (2, 4, 5, 7, 8, 14)]),
    "events": Target(_events, _check_events, _SEED_EVENTS),
    "hpack": Target(_hpack, _check_hpack, [test_hpack.some_block(Random(1), Encoder())[0]]),
    "http2": Target(_http2, _check_http2, test_http2.CONVERSATIONS),
    "packed": Target(_packed, _packed, [b"%c%s" % (len(_TIME), _TIME) + b"\x01" + bytes(20)]),
    "push": Target(_push, test_push_request.check_against_protobuf, [_seed_push()]),
    "reply": Target(_reply, _check_reply, [b"\x40" + array_reply([b"a", None, b"bc"]) * 3]),
    "request": Target(_request, _check_request, [int64_request(1, -2)]),
    "row": Target(_row, _row, [_SEED_ROW]),
    "script": Target(
        _script, _script, [b"\x01$2\r\n10\r\n", b"\x01$7\r\n1Foops!\r\n", b"\0+OK\r\n:1\r\n"]
    ),
    "tiles": Target(_tiles, _check_tiles, _SEED_TILES, longest=5000),
    "tls": Target(_tls, _check_tls, test_tls.SEEDS),
    "value": Target(_value, _check_value, _VALUE_SEEDS),
}
"""By name."""


def corpus_file(name: str) -> Path:
    """Where the inputs of a target are kept: a line of hexadecimal digits for each."""
    return Path(__file__).parent / "corpus" / f"{name}.txt"


def kept(name: str) -> list[bytes]:
    """The inputs that are kept of a target."""
    file = corpus_file(name)
    return [bytes.fromhex(line) for line in file.read_text().split()] if file.exists() else []
