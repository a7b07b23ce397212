"""The stages of the hot path, run a fixed number of times: what `bench.counts` has callgrind count.

`python -m bench.count_stages` prints a line of JSON: the stages' names in order, what a run has to
be divided by, and on what it ran. Each stage runs once to be warm, then `TURNS` and then twice
`TURNS` times; before each of the three, and at the end, `os.getppid` is called, and callgrind is
told to end a part of its count there.

The input is fixed: reads are of 50 features of 5 views, int64 and double in turn, writes of one
view of 10. Replies have 100 rows. Requests and pushes have 1,000, since the table of entities has a
random seed, and since Python's objects, which another build of Python makes at another cost, are as
many for few rows as for many. A client's connection has 1,000 calls, one at a time, of a row each,
with the headers that gRPC's own client sends. The input is made here and not read from Redis, so
that a count needs no server and no Feast.
"""

import gc
import json
import os
import platform
import re
import struct
from collections.abc import Callable
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, NoReturn

import hpack

from hotfeast.hotpath import splice
from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.columns import TimeColumn, ValueColumn
from hotfeast.hotpath.definition import (
    FeatureRead,
    FeatureWrite,
    JoinKey,
    KeyRecipe,
    ReadDefinition,
    ViewRead,
    WriteDefinition,
)
from hotfeast.hotpath.http2 import Connection, Stream
from hotfeast.hotpath.plan import Plan
from hotfeast.hotpath.push import PushBatch
from hotfeast.hotpath.reply import Reply
from hotfeast.hotpath.request import Request
from hotfeast.hotpath.writes import WriteBatch, WritePlan
from hotfeast.serving.v1 import push_pb2, serving_pb2, value_pb2

ROWS = 100
MANY_ROWS = 1000
VIEWS = 5
FEATURES_PER_VIEW = 10
TURNS = 10
PARTS_PER_STAGE = 3

CALLS = 1000

_JOIN_KEY = "entity"
_PATH = "/hotfeast.serving.v1.FeatureServing/GetOnlineFeatures"
# Kinds and flags of HTTP/2's frames.
_DATA, _HEADERS, _SETTINGS, _WINDOW_UPDATE = 0, 1, 4, 8
_END_STREAM, _END_HEADERS = 1, 4
_SETTING_INITIAL_WINDOW_SIZE = 4
_WINDOW = 4 << 20
# Bytes of an answer of 50 features; about.
_ANSWER = bytes(1500)
_INT64, _DOUBLE = 4, 5
_NOW = 1_700_000_000
_MIX = 2_654_435_761


def _number(row: int, feature: int) -> int:
    """A number up to a million, the same each time."""
    return (row * 1000 + feature) * _MIX % (1 << 32) % 1_000_000


def _value(row: int, feature: int) -> value_pb2.Value:
    number = _number(row, feature)
    if feature % 2:
        return value_pb2.Value(double_val=number / 1_000_000)
    return value_pb2.Value(int64_val=number)


def _field(feature: int) -> bytes:
    """Four bytes, as the hashes that name Feast's fields are."""
    return struct.pack("<I", (feature + 1) * _MIX % (1 << 32))


def _time(row: int) -> bytes:
    """A serialized `Timestamp`, within an hour before now."""
    time = push_pb2.PushRequest().columns.event_timestamps.add()
    time.seconds = _NOW - 1 - row * 7
    time.nanos = (row * 7_919_000) % 1_000_000_000
    return time.SerializeToString()


def _read_plan() -> Plan:
    return Plan(
        ReadDefinition(
            project="bench",
            join_keys=(JoinKey(_JOIN_KEY, _INT64),),
            recipes=(KeyRecipe(((_JOIN_KEY, 0),)),),
            views=tuple(
                ViewRead(
                    name=f"view_{view}",
                    recipe=0,
                    time_field=b"_ts:view_%d" % view,
                    ttl_seconds=86400,
                    features=tuple(
                        FeatureRead(f"feature_{f}", _field(f))
                        for f in range(view * FEATURES_PER_VIEW, (view + 1) * FEATURES_PER_VIEW)
                    ),
                )
                for view in range(VIEWS)
            ),
        )
    )


def _request(rows: int) -> bytes:
    request = serving_pb2.GetOnlineFeaturesRequest(feature_service="five_views")
    request.entities[_JOIN_KEY].CopyFrom(
        value_pb2.RepeatedValue(val=[value_pb2.Value(int64_val=1 + row) for row in range(rows)])
    )
    return request.SerializeToString(deterministic=True)


def _reply() -> bytes:
    """What Redis answers: for each row an array of all views' values and times."""
    rows = []
    for row in range(ROWS):
        bulks = []
        for view in range(VIEWS):
            first = view * FEATURES_PER_VIEW
            bulks += [
                _value(row, feature).SerializeToString()
                for feature in range(first, first + FEATURES_PER_VIEW)
            ]
            bulks.append(_time(row))
        parts = b"".join(b"$%d\r\n%s\r\n" % (len(bulk), bulk) for bulk in bulks)
        rows.append(b"*%d\r\n%s" % (len(bulks), parts))
    return b"".join(rows)


def _push() -> bytes:
    request = push_pb2.PushRequest(push_source="source")
    columns = request.columns.columns
    columns[_JOIN_KEY].val.extend(value_pb2.Value(int64_val=1 + row) for row in range(MANY_ROWS))
    for feature in range(FEATURES_PER_VIEW):
        columns[f"feature_{feature}"].val.extend(_value(row, feature) for row in range(MANY_ROWS))
    for row in range(MANY_ROWS):
        request.columns.event_timestamps.add().FromSeconds(_NOW - row)
    return request.SerializeToString(deterministic=True)


def _write_plan() -> WritePlan:
    return WritePlan(
        WriteDefinition(
            project="bench",
            join_keys=((_JOIN_KEY, _INT64),),
            features=tuple(
                FeatureWrite(f"feature_{f}", _DOUBLE if f % 2 else _INT64, _field(f))
                for f in range(FEATURES_PER_VIEW)
            ),
            time_field=b"_ts:view_0",
            created_field=b"",
            key_ttl_seconds=0,
        )
    )


def _encode_columns(columns: dict[str, bytes]) -> tuple[ValueColumn, list[ValueColumn]]:
    features = [
        ValueColumn.from_values(_DOUBLE if f % 2 else _INT64, columns[f"feature_{f}"])
        for f in range(FEATURES_PER_VIEW)
    ]
    return ValueColumn.from_values(_INT64, columns[_JOIN_KEY]), features


def _encode_writes(
    plan: WritePlan, key: ValueColumn, features: list[ValueColumn], times: TimeColumn
) -> int:
    batch = WriteBatch(plan, [key], features, times)
    batch.begin()
    size = 0
    while portion := batch.next_portion():
        size += len(portion)
    return size


def _scan(reply: Reply, batch: Batch, data: bytes) -> bool:
    reply.start(batch)
    return reply.feed(data)


class _Answering:
    """What a `Connection` tells of its calls: each is answered with the same bytes."""

    at_once = frozenset({_PATH.encode()})

    def answer(self, stream: Stream, _message: bytes) -> None:
        """Answers a call."""
        stream.answer(_ANSWER)

    def open(self, stream: Stream, _headers: Any) -> NoReturn:
        """There are no other methods."""
        raise RuntimeError(f"{stream.path!r} is not answered at once")

    def clock(self) -> float:
        """When calls begin."""
        return 0.0

    def touched(self, _connection: Connection) -> None:
        """Nobody waits for what is to be sent."""


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content


def _calls() -> bytes:
    """What a client sends: its greeting, and calls one after another."""
    encoder = hpack.Encoder()
    message = _request(1)
    frames = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        _frame(_SETTINGS, 0, 0, struct.pack(">HI", _SETTING_INITIAL_WINDOW_SIZE, _WINDOW)),
        _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", (1 << 31) - 1 - 65535)),
    ]
    for call in range(CALLS):
        block = encoder.encode(
            [
                (":scheme", "http"),
                (":method", "POST"),
                (":authority", "127.0.0.1:6570"),
                (":path", _PATH),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                ("user-agent", "grpc-python/1.85.0 grpc-c/52.0.0 (linux; chttp2)"),
                ("grpc-accept-encoding", "identity, deflate, gzip"),
                hpack.NeverIndexedHeaderTuple("grpc-timeout", f"{900 + call % 100}m"),
            ]
        )
        number = 2 * call + 1
        frames.append(_frame(_HEADERS, _END_HEADERS, number, block))
        body = struct.pack(">BI", 0, len(message)) + message
        frames.append(_frame(_DATA, _END_STREAM, number, body))
    return b"".join(frames)


def _serve(server: _Answering, received: bytes) -> tuple[Connection, bytes]:
    connection = Connection(server, 0)
    connection.receive(received)
    return connection, connection.to_send()


def _stages() -> dict[str, tuple[Callable[[], object], int, str]]:
    """For each stage: what runs it, what its count is divided by, and what that is."""
    plan, answer = _read_plan(), _reply()
    asked = _request(MANY_ROWS)
    request = Request(asked)
    batch = Batch(plan, Request(_request(ROWS)))
    reply = Reply()
    if not _scan(reply, batch, answer):
        raise RuntimeError("the reply is not the one to the request")
    scanned = Reply()
    _scan(scanned, batch, answer)
    respond = partial(splice.build_response, batch, scanned, _NOW, 0, True)
    response = serving_pb2.GetOnlineFeaturesResponse.FromString(respond())
    last = response.results[VIEWS * FEATURES_PER_VIEW].values[ROWS - 1]
    if last != _value(ROWS - 1, VIEWS * FEATURES_PER_VIEW - 1):
        raise RuntimeError("the response is not the one to the request")

    server, calls = _Answering(), _calls()
    connection, sent = _serve(server, calls)
    if connection.failed or connection.open_calls or sent.count(_ANSWER) != CALLS:
        raise RuntimeError("the client's calls are not all answered")

    pushed = _push()
    push = PushBatch(pushed)
    columns, times = push.columns, push.event_timestamps
    if columns is None or times is None:
        raise RuntimeError("the push has no columns")
    key, features = _encode_columns(columns)
    write_plan = _write_plan()
    values, written = ROWS * VIEWS * FEATURES_PER_VIEW, MANY_ROWS * FEATURES_PER_VIEW
    return {
        "http2 request": (partial(_serve, server, calls), CALLS, "request"),
        "parse request": (partial(Request, asked), MANY_ROWS, "row"),
        "build keys and commands": (partial(Batch, plan, request), MANY_ROWS, "row"),
        "scan reply": (partial(_scan, reply, batch, answer), values, "value"),
        "splice response": (respond, values, "value"),
        "parse push": (partial(PushBatch, pushed), written, "value"),
        "encode columns": (partial(_encode_columns, columns), written, "value"),
        "encode writes": (
            partial(_encode_writes, write_plan, key, features, times), written, "value",
        ),
    }  # fmt: skip


def _compiler() -> str:
    """What compiled the hot path, as its object file says."""
    content = Path(str(splice.__file__)).read_bytes()
    # libc's start files, which are linked in, name a GCC, so that clang has to be looked for first.
    for pattern in (rb"clang version [\w.:+~-]+", rb"GCC: \([^)]*\) [\w.]+"):
        if found := re.search(pattern, content):
            return found[0].decode()
    return "unknown"


def _run(call: Callable[[], object], turns: int) -> None:
    os.getppid()
    for _ in repeat(None, turns):
        call()


def main() -> None:
    """Runs all stages."""
    stages = _stages()
    gc.collect()
    gc.disable()
    for call, _, _ in stages.values():
        for turns in (2, TURNS, 2 * TURNS):
            _run(call, turns)
    os.getppid()
    print(
        json.dumps(
            {
                "compiler": _compiler(),
                "python": ".".join(platform.python_version_tuple()[:2]),
                "stages": {name: [count, unit] for name, (_, count, unit) in stages.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
