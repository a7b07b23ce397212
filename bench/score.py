"""`client.score` of the demonstration's interactions, beside unary reads and Feast's SDK.

The pairs of households and products that really were are asked for the features of a
recommendation: all rows in one pass over the stream, with the memory of both sides on the way; then
parts of them in turns over the stream, in a loop of unary calls of the same size, and by Feast's
SDK, which has fewer of them since it takes long. All make Arrow tables of what they get; the stream
and unary calls the same one.

Writes `score.json`.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from bench import OUT
from bench.demonstration import AS_OF, REPO, open_demonstration
from bench.measure import machine, no_garbage_collection, write_json
from bench.processes import Server
from bench.verdict import Verdict
from hotfeast.clients import FeatureClient

ROWS = 1_000_000
BATCH = 2000
SERVICE = "recommendation"
KEYS = ["user_id", "product_id"]
MARKS = (0.1, 0.5, 1.0)
"""Shares of the rows after which memory is looked at."""

# Rows of a turn; Feast's SDK has one batch, in one of so many turns.
_PART = 5 * BATCH
_SDK_EVERY = 8
_TIMEOUT = 60
_STREAM, _UNARY, _SDK = "client.score", "a loop of unary calls", "Feast's SDK"
# What memory may grow by, from the first mark to the last, in MiB.
_GROWTH = 32.0


@dataclass(frozen=True)
class Pass:
    """All rows over one stream.

    Attributes:
        rows: How many.
        seconds: How long it took.
        client: MiB of the client's process at the marks.
        gateway: Those of the gateway's.
    """

    rows: int
    seconds: float
    client: tuple[float, ...]
    gateway: tuple[float, ...]


@dataclass(frozen=True)
class Turns:
    """What a contender's turns took.

    Attributes:
        name: Its name.
        rates: Rows a second, turn by turn; NaN for a turn that it did not have.
        client: Microseconds of CPU that this process took for a row, of all turns.
        gateway: Those of the gateway's.
    """

    name: str
    rates: tuple[float, ...]
    client: float
    gateway: float

    @property
    def rate(self) -> float:
        """The median of the rates."""
        return float(np.nanmedian(self.rates))

    def of(self, other: "Turns") -> float:
        """The median of its rates over another's, turn by turn."""
        return float(np.nanmedian(np.array(self.rates) / np.array(other.rates)))


Results = tuple[Pass, list[Turns]]


def run(
    rows: int = ROWS, rounds: int = 40, say: Callable[[str], None] = print
) -> tuple[Results, list[Verdict]]:
    """Measures, and writes the results.

    Args:
        rows: How many are scored in the one pass.
        rounds: Turns that each contender has.
        say: Is told what is going on.
    """
    with ExitStack() as stack:
        store = stack.enter_context(open_demonstration(say))
        arguments = ("serve", "--repo", str(store.repo_path), "--bind", "127.0.0.1:0")
        server = stack.enter_context(
            Server(
                "hotfeast.server", *arguments, "--as-of", AS_OF.isoformat(),
                "--redis-timeout", "20",
                ready=r"(?m)^Hotfeast serves .* on 127\.0\.0\.1:(\d+) .*$",
            )
        )  # fmt: skip
        client = stack.enter_context(FeatureClient(f"127.0.0.1:{server.port()}", _TIMEOUT))
        asked = _interactions()
        say(f"{rows:,} rows over one stream")
        passed = _pass(client, asked, rows, server.pid)
        say("the same, unary calls and Feast's SDK in turns")
        _check(client, asked)
        turns = _turns(client, store, asked, rounds, server.pid)
        facts = machine()
    verdicts = _judge(passed)
    write_json(
        OUT / "score.json",
        {
            "machine": facts,
            "pass": {
                "rows": passed.rows,
                "seconds": round(passed.seconds, 2),
                "client_mib": passed.client,
                "gateway_mib": passed.gateway,
            },
            "turns": {
                t.name: {
                    "rows_per_second": round(t.rate),
                    "client_cpu_us_a_row": round(t.client, 3),
                    "gateway_cpu_us_a_row": round(t.gateway, 3),
                }
                for t in turns
            },
            "verdicts": [verdict.as_dict() for verdict in verdicts],
        },
    )
    return (passed, turns), verdicts


def tables(results: Results) -> list[Table]:
    """The results as tables."""
    passed, turns = results
    shown = Table(title=f"rows a second, batches of {BATCH:,} rows")
    for heading in ("", "median", "of the unary calls", "client, CPU us/row", "gateway"):
        shown.add_column(heading, justify="right" if heading else "left")
    unary = next(t for t in turns if t.name == _UNARY)
    for taken in turns:
        shown.add_row(
            taken.name, f"{taken.rate:,.0f}", f"{taken.of(unary):.2f}", f"{taken.client:.2f}",
            f"{taken.gateway:.2f}",
        )  # fmt: skip
    memory = Table(
        title=f"{passed.rows:,} rows over one stream in {passed.seconds:.1f} s: MiB in memory"
    )
    for heading in ("", *(f"{mark:.0%}" for mark in MARKS)):
        memory.add_column(heading, justify="right" if heading else "left")
    for name, taken_mib in (("client", passed.client), ("gateway", passed.gateway)):
        memory.add_row(name, *(f"{mib:,.0f}" for mib in taken_mib))
    return [shown, memory]


def _interactions() -> pa.Table:
    """The pairs that really were."""
    path = REPO / "data" / "user_product_interactions.parquet"
    table = pq.read_table(path, columns=KEYS)
    return table.take(np.random.default_rng(1).permutation(table.num_rows))


def _cycle(asked: pa.Table, rows: int) -> Iterator[pa.RecordBatch]:
    """So many rows, from the start again where there are fewer."""
    left = rows
    while left > 0:
        part = asked.slice(0, left)
        left -= part.num_rows
        yield from part.to_batches(max_chunksize=BATCH)


def _pass(client: FeatureClient, asked: pa.Table, rows: int, gateway: int) -> Pass:
    marks = [max(1, int(rows * mark)) for mark in MARKS]
    here, there = psutil.Process(os.getpid()), psutil.Process(gateway)
    memory: list[tuple[float, float]] = []
    began = time.perf_counter()
    scores = client.score(SERVICE, _cycle(asked, rows), batch_size=BATCH, timeout=_TIMEOUT)
    for _ in scores:
        while len(memory) < len(marks) and scores.rows >= marks[len(memory)]:
            memory.append((_mib(here), _mib(there)))
    seconds = time.perf_counter() - began
    assert scores.rows == rows
    return Pass(rows, seconds, *map(tuple, zip(*memory, strict=True)))


def _mib(process: psutil.Process) -> float:
    """What a process and those under it have in memory."""
    processes = [process, *process.children(recursive=True)]
    if process.pid == os.getpid():
        processes = [process]
    return round(sum(each.memory_info().rss for each in processes) / 2**20, 1)


def _turns(
    client: FeatureClient, store: Any, asked: pa.Table, rounds: int, gateway: int
) -> list[Turns]:
    service = store.get_feature_service(SERVICE)

    def stream(part: pa.Table) -> None:
        client.score(SERVICE, part, batch_size=BATCH, keep=False, timeout=_TIMEOUT).to_table()

    def unary(part: pa.Table) -> None:
        for batch in part.to_batches(max_chunksize=BATCH):
            client.get_online_features(SERVICE, batch).to_arrow()

    def sdk(part: pa.Table) -> None:
        for batch in part.to_batches(max_chunksize=BATCH):
            _by_sdk(store, service, batch)

    contenders = {_STREAM: (stream, _PART), _UNARY: (unary, _PART), _SDK: (sdk, BATCH)}
    rates = {name: [float("nan")] * rounds for name in contenders}
    cpu = {name: np.zeros(2) for name in contenders}
    rows = dict.fromkeys(contenders, 0)
    for call, count in contenders.values():
        call(asked.slice(0, min(count, BATCH)))
    with no_garbage_collection():
        for turn in range(rounds):
            part = asked.slice(turn * _PART % max(1, asked.num_rows - _PART), _PART)
            order = list(contenders)
            for name in order if turn % 2 else reversed(order):
                if name == _SDK and turn % _SDK_EVERY:
                    continue
                call, count = contenders[name]
                taken, began = _cpu(gateway), time.perf_counter()
                call(part.slice(0, count))
                rates[name][turn] = count / (time.perf_counter() - began)
                cpu[name] += _cpu(gateway) - taken
                rows[name] += count
    return [Turns(name, tuple(rates[name]), *(cpu[name] / rows[name] * 1e6)) for name in contenders]


def _cpu(gateway: int) -> npt.NDArray[np.float64]:
    """Seconds of CPU that this process and the gateway's have taken."""
    server = psutil.Process(gateway)
    there = [server, *server.children(recursive=True)]
    return np.array(
        [sum(sum(each.cpu_times()[:2]) for each in side) for side in ([psutil.Process()], there)]
    )


def _by_sdk(store: Any, service: Any, batch: pa.RecordBatch) -> pa.Table:
    return store.get_online_features(service, batch.to_pylist()).to_arrow()


def _check(client: FeatureClient, asked: pa.Table) -> None:
    """
    Raises:
        AssertionError: A stream and unary calls do not have the same values.
    """
    (batch,) = asked.slice(0, BATCH).combine_chunks().to_batches()
    streamed = client.score(SERVICE, batch, keep=False).to_table()
    unary = client.get_online_features(SERVICE, batch).to_arrow(streamed.column_names)
    for name in streamed.column_names:
        assert streamed[name].to_pylist() == unary[name].to_pylist(), name


def _judge(passed: Pass) -> list[Verdict]:
    return [
        Verdict(
            f"memory of the {name}, {MARKS[-1]:.0%} less {MARKS[0]:.0%}",
            taken[-1] - taken[0],
            _GROWTH,
            True,
            "MiB",
        )
        for name, taken in (("client", passed.client), ("gateway", passed.gateway))
    ]
