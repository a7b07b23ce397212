"""Pushes: one row beside an echo of the same bytes, and 1,000 rows beside Feast's SDK."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pyarrow as pa

from bench.measure import Contender, interleave, machine, ratio
from bench.peers import caller, open_echo, open_gateway
from bench.servers import ECHO_SERVICE, Prepared
from bench.write_data import (
    PUSH_METHOD,
    VIEW,
    Report,
    Verdict,
    frame,
    make_repository,
    push_request,
)
from hotfeast.server.local_redis import LocalRedis
from hotfeast.serving.v1 import push_pb2

PUSH_ROWS = 1000
PUSH_OVER_FEAST = 20.0
"""At least this many times faster than Feast's `write_to_online_store` at 1,000 rows."""
PUSH_OVER_ECHO = 2.0
"""At most this many times the p50 of an echo, at one row."""


def _slices(table: pa.Table, rows: int, count: int) -> list[pa.Table]:
    return [table.slice(i * rows, rows) for i in range(count)]


def measure_push(report: Report, say: Callable[[str], None]) -> None:
    """One row beside an echo of the same bytes, and 1,000 beside Feast's SDK."""
    with ExitStack() as stack:
        server = stack.enter_context(LocalRedis())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hotfeast-bench-")))
        report.facts = report.facts or machine(server.client())
        say("push: one row, and 1,000")
        table = frame(20 * PUSH_ROWS)
        store = make_repository(folder, server.address, 1000)
        gateway = stack.enter_context(open_gateway(folder))
        push = caller(stack, gateway, PUSH_METHOD)
        ones = [push_request(part) for part in _slices(table, 1, 200)]
        thousands = _slices(table, PUSH_ROWS, 20)
        columns = [push_request(part) for part in thousands]
        arrow = [push_request(part, arrow=True) for part in thousands]
        for request in (ones[0], columns[0], arrow[0]):
            outcomes = push_pb2.PushResponse.FromString(push(request)).outcomes
            if set(outcomes) != {push_pb2.RowOutcome.ROW_OUTCOME_WRITTEN}:
                raise RuntimeError(f"a push was not written: {set(outcomes)}")
        prepared = {
            "One": [Prepared(push(r), None) for r in ones],
            "Thousand": [Prepared(push(r), None) for r in columns],
        }
        echo = stack.enter_context(open_echo(folder, prepared))
        echo_one = caller(stack, echo, f"/{ECHO_SERVICE}/One")
        echo_all = caller(stack, echo, f"/{ECHO_SERVICE}/Thousand")
        frames = [part.to_pandas() for part in thousands]
        one = interleave(
            [Contender("push", push, ones, 50), Contender("echo", echo_one, ones, 50)], 40
        )
        many = interleave(
            [
                Contender("push", push, columns, 5),
                Contender("push of Arrow", push, arrow, 5),
                Contender("echo", echo_all, columns, 5),
                Contender("Feast", partial(store.write_to_online_store, VIEW), frames, 1),
            ],
            20,
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
            note=f"{many['Feast'].p50_ms:.1f} and {many['push'].p50_ms:.1f} ms",
        ),
        Verdict(
            f"Feast's write / push of {PUSH_ROWS:,} rows as Arrow, p50",
            ratio([many["Feast"]], [many["push of Arrow"]]).value, PUSH_OVER_FEAST, False,
            note=f"{many['push of Arrow'].p50_ms:.1f} ms",
        ),
    ]  # fmt: skip
