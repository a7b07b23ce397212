"""Pushes: one row beside an echo of the same bytes, and 1,000 rows beside Feast's SDK."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pyarrow as pa

from bench.data import RedisClient
from bench.measure import WARM_UP_CALLS, Contender, interleave, machine, ratio
from bench.processes import caller, open_echo, open_gateway
from bench.raw import RawRead, RawSocket
from bench.servers import ECHO_SERVICE, Prepared
from bench.verdict import Verdict
from bench.write_data import (
    PUSH_METHOD,
    VIEW,
    Report,
    frame,
    make_repository,
    newer,
    push_requests,
)
from bench.write_rates import SMALLEST_SCRIPT, ready_made
from hotfeast.server.local_redis import LocalRedis
from hotfeast.serving.v1 import push_pb2

PUSH_ROWS = 1000
_ECHO_ONE = f"/{ECHO_SERVICE}/One"
_ECHO_ALL = f"/{ECHO_SERVICE}/Thousand"
PUSH_OVER_FEAST = 20.0
"""At least this many times faster than Feast's `write_to_online_store` at 1,000 rows."""
PUSH_OVER_ECHO = 2.0
"""At most this many times the p50 of an echo, at one row."""


# Each contender writes entities of its own, so that each of its rows is newer than what is stored.
_APART = 1_000_000
_ROUNDS = 20
_CALLS = 5
_ROUNDS_OF_ONE = 40
_CALLS_OF_ONE = 50


def measure_push(report: Report, say: Callable[[str], None]) -> None:
    """One row beside an echo of the same bytes; 1,000 beside Feast and ready-made commands."""
    with ExitStack() as stack:
        server = stack.enter_context(LocalRedis())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hotfeast-bench-")))
        client: RedisClient = server.client()
        report.facts = report.facts or machine(client)
        say("push: one row, and 1,000")
        store = make_repository(folder, server.address, 1000)
        gateway = stack.enter_context(open_gateway(folder))
        push = caller(stack, gateway, PUSH_METHOD)
        thousands = [frame(PUSH_ROWS, i * _APART) for i in range(1, 5)]
        many_calls = WARM_UP_CALLS + _ROUNDS * _CALLS + 1
        one_calls = WARM_UP_CALLS + _ROUNDS_OF_ONE * _CALLS_OF_ONE + 1
        ones = push_requests(frame(1), one_calls)
        columns = push_requests(thousands[0], many_calls)
        arrow = push_requests(thousands[1], many_calls, arrow=True)
        frames = [later.to_pandas() for later in newer(thousands[2], many_calls)]
        for request in (ones[0], columns[0], arrow[0]):
            _check(push(request))
        prepared = {
            "One": [Prepared(push(ones[0]), None)],
            "Thousand": [Prepared(push(columns[0]), None)],
        }
        echo = stack.enter_context(open_echo(folder, prepared))
        raw = stack.enter_context(RawSocket(server.port))
        sha = client.script_load(SMALLEST_SCRIPT).encode()
        plain, scripted = (_ready_made(raw, thousands[3], s) for s in (None, sha))
        one = interleave(
            [
                Contender("push", push, ones[1:], _CALLS_OF_ONE),
                Contender("echo", caller(stack, echo, _ECHO_ONE), ones, _CALLS_OF_ONE),
            ],
            _ROUNDS_OF_ONE,
        )
        many = interleave(
            [
                Contender("push", push, columns[1:], _CALLS),
                Contender("push of Arrow", push, arrow[1:], _CALLS),
                Contender("echo", caller(stack, echo, _ECHO_ALL), columns, _CALLS),
                Contender("HSET, ready-made", raw.read, [plain], _CALLS),
                Contender("script a row, ready-made", raw.read, [scripted], _CALLS),
                Contender("Feast", partial(store.write_to_online_store, VIEW), frames, 1),
            ],
            _ROUNDS,
        )
    report.figures["push"] = {
        "1": {name: s.as_dict() for name, s in one.items()},
        str(PUSH_ROWS): {name: s.as_dict() for name, s in many.items()},
    }
    over_echo = ratio([one["push"]], [one["echo"]]).value
    report.verdicts += [
        Verdict(
            "push of 1 row / echo, p50", over_echo, PUSH_OVER_ECHO, True,
            note=f"{one['push'].p50_ms:.2f} and {one['echo'].p50_ms:.2f} ms",
        ),
        Verdict(
            f"Feast's write / push of {PUSH_ROWS:,} rows, p50",
            ratio([many["Feast"]], [many["push"]]).value, PUSH_OVER_FEAST, False,
            note=f"{many['Feast'].p50_ms:.1f} and {many['push'].p50_ms:.1f} ms; ready-made HSET "
            f"{many['HSET, ready-made'].p50_ms:.1f}, "
            f"script a row {many['script a row, ready-made'].p50_ms:.1f}",
        ),
        Verdict(
            f"Feast's write / push of {PUSH_ROWS:,} rows as Arrow, p50",
            ratio([many["Feast"]], [many["push of Arrow"]]).value, PUSH_OVER_FEAST, False,
            note=f"{many['push of Arrow'].p50_ms:.1f} ms",
        ),
    ]  # fmt: skip


def _check(answer: bytes) -> None:
    outcomes = push_pb2.PushResponse.FromString(answer).outcomes
    if set(outcomes) != {push_pb2.RowOutcome.ROW_OUTCOME_WRITTEN}:
        raise RuntimeError(f"a push was not written: {set(outcomes)}")


def _ready_made(raw: RawSocket, table: pa.Table, script: bytes | None) -> RawRead:
    """Commands that store the rows, and how much Redis answers once they are there."""
    portions = ready_made(table, script)
    commands = b"".join(data for data, _ in portions)
    count = sum(count for _, count in portions)
    raw.reply(commands, count)
    return RawRead(commands, len(raw.reply(commands, count)))
