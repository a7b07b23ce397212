"""Windowed features on the year of real purchases: whether what is served is what is trained on,
and what they cost beside rows that somebody else has aggregated.

The lines of the year are pushed one after the other, and at sampled times sampled households are
asked for; a training set of the same households and times is computed from the batch source. Then a
gateway answers requests for 100 households, in turns for ten windows and for a packed row of the
same ten values.

Writes `windows.json`.
"""

import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureStore
from rich.table import Table

from bench import OUT
from bench.data import SEED
from bench.measure import Contender, Ratio, interleave, machine, ratio, write_json
from bench.processes import OUR_METHOD, Server, caller
from bench.verdict import Verdict
from bench.window_replay import Online, Replay, replay
from bench.window_views import (
    FEATURES,
    ROWS,
    SERVICES,
    WINDOWS,
    purchase_lines,
    write_repository,
)
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.view_writer import plan_view
from hotfeast.serving.v1 import serving_pb2

ROWS_ASKED = 100
READ_LIMIT = 1.5
"""How many times as long as a packed row windows may take."""

_REQUESTS = 50
_CALLS = 50
_PUSHES = 30
_PUSHED_ROWS = 2000


@dataclass(frozen=True)
class Results:
    """What was measured.

    Attributes:
        replay: Served beside trained.
        events_per_second: Events that were pushed and counted.
        rows_per_second: Rows of ten features that were pushed, compared and stored packed.
        read: Windows over packed rows, of 100 at a time.
        windows_ms, rows_ms: The medians of both.
        window_bytes, row_bytes: Bytes of Redis for an entity's tiles, and for its packed row.
        keys: How many entities these are the mean of.
    """

    replay: Replay
    events_per_second: float
    rows_per_second: float
    read: Ratio
    windows_ms: float
    rows_ms: float
    window_bytes: float
    row_bytes: float
    keys: int


def run(
    times: int, users: int, households: int | None, rounds: int, say: Callable[[str], None]
) -> tuple[Results, list[Verdict]]:
    """Measures, and writes the results.

    Args:
        times: Times that are asked about.
        users: Households that are asked for at each.
        households: How many of the data are taken; all if None.
        rounds: Turns of reading.
        say: Is told what is going on.
    """
    lines = purchase_lines(households)
    with LocalRedis() as server, tempfile.TemporaryDirectory(prefix="hotfeast-") as folder:
        store = write_repository(Path(folder), server.address, lines)
        done = replay(store, lines, times, users, SEED, say)
        online = Online(store)
        if done.events < len(lines):
            online.push(plan_view(store, WINDOWS), lines[done.events :].to_arrow())
        end: datetime = lines["event_timestamp"][-1]
        keys = lines["user_id"].unique().sort().to_list()
        say("pushing rows of the same values")
        rows_per_second = _push_rows(online, store, keys, end)
        memory = _memory(online, store, keys)
        say("reading")
        samples = _read(Path(folder), keys, end, rounds)
        facts = machine(server.client())
    read = ratio([samples[WINDOWS]], [samples[ROWS]])
    results = Results(
        done,
        done.events / done.seconds,
        rows_per_second,
        read,
        samples[WINDOWS].p50_ms,
        samples[ROWS].p50_ms,
        *memory,
        len(keys),
    )
    verdicts = [
        Verdict("values served otherwise than trained on", len(done.different), 0, True, ""),
        Verdict(
            f"p50 of {ROWS_ASKED} rows, {len(FEATURES)} windows over a packed row",
            read.value, READ_LIMIT, True, spread=read,
        ),
    ]  # fmt: skip
    write_json(
        OUT / "windows.json",
        {
            "machine": facts,
            "pairs": done.pairs,
            "values": done.values,
            "different": len(done.different),
            "largest_difference_in_parts": done.largest,
            "events_per_second": round(results.events_per_second),
            "rows_per_second": round(rows_per_second),
            "windows": samples[WINDOWS].as_dict(),
            "packed_rows": samples[ROWS].as_dict(),
            "bytes_of_tiles": round(results.window_bytes),
            "bytes_of_packed_row": round(results.row_bytes),
            "keys": results.keys,
            "verdicts": [verdict.as_dict() for verdict in verdicts],
        },
    )
    return results, verdicts


def table(results: Results) -> Table:
    """The figures as a table."""
    done = results.replay
    shown = Table(title="Windowed features on the year of purchases")
    shown.add_column("figure")
    shown.add_column("value", justify="right")
    million = 10**6 / 2**20
    for name, value in (
        ("events replayed", f"{done.events:,}"),
        ("households and times asked for", f"{done.pairs:,} ({done.present:,} with a row)"),
        ("values compared", f"{done.values:,}"),
        ("values that differ", f"{len(done.different):,}"),
        ("largest difference of fractions, in parts", f"{done.largest:.1e}"),
        ("events pushed and counted, a second", f"{results.events_per_second:,.0f}"),
        ("rows of 10 features pushed, a second", f"{results.rows_per_second:,.0f}"),
        (f"{ROWS_ASKED} rows, {len(FEATURES)} windows, p50", f"{results.windows_ms:.2f} ms"),
        (f"{ROWS_ASKED} packed rows of the same, p50", f"{results.rows_ms:.2f} ms"),
        (
            f"a million keys of tiles, from {results.keys:,}",
            f"{results.window_bytes * million:,.0f} MiB",
        ),
        (
            f"a million packed rows, from {results.keys:,}",
            f"{results.row_bytes * million:,.0f} MiB",
        ),
    ):
        shown.add_row(name, value)
    return shown


def _push_rows(online: Online, store: FeatureStore, keys: list[int], end: datetime) -> float:
    """Stores what the windows hold as packed rows, and measures how fast rows are pushed."""
    write = plan_view(store, ROWS)
    for start in range(0, len(keys), 500):
        part = keys[start : start + 500]
        values = online.read(SERVICES[WINDOWS], part, end)
        columns = {f"plain_{name}": values[name] for name in FEATURES}
        online.push(write, _rows(part, columns, end))
    some = [keys[i % len(keys)] for i in range(_PUSHED_ROWS)]
    held = online.read(SERVICES[ROWS], some, end)
    columns = {f"plain_{name}": held[f"plain_{name}"] for name in FEATURES}
    batch = _rows(some, columns, end)
    return _PUSHED_ROWS / statistics.median(online.push(write, batch) for _ in range(_PUSHES))


def _rows(keys: list[int], columns: dict[str, list[Any]], at: datetime) -> pa.Table:
    types = {f"plain_{name}": dtype for name, dtype in FEATURES.items()}
    return pa.table(
        {
            "user_id": keys,
            "event_timestamp": pa.array([at] * len(keys), pa.timestamp("us", "UTC")),
            **{
                name: pa.array(values, pa.int64() if types[name] == "Int64" else pa.float64())
                for name, values in columns.items()
            },
        }
    )


def _memory(online: Online, store: FeatureStore, keys: list[int]) -> tuple[float, float]:
    """Bytes of Redis for an entity in either view."""
    taken = []
    for view in (WINDOWS, ROWS):
        write = plan_view(store, view)
        pipeline = online.client.pipeline(transaction=False)
        for key in online.keys(write, keys):
            pipeline.memory_usage(key, samples=0)
        sizes = [size for size in pipeline.execute() if size is not None]
        taken.append(sum(sizes) / len(sizes))
    return taken[0], taken[1]


def _read(repo: Path, keys: list[int], at: datetime, rounds: int) -> Any:
    values = np.random.default_rng(SEED)
    with ExitStack() as stack:
        server = stack.enter_context(
            Server(
                *("hotfeast.server", "serve", "--repo", str(repo), "--bind", "127.0.0.1:0"),
                *("--registry-interval", "3600", "--as-of", at.isoformat()),
                ready=r"(?m)^Hotfeast serves .* on 127\.0\.0\.1:(\d+) .*$",
            )
        )
        call = caller(stack, server.port(), OUR_METHOD)
        contenders = []
        for view, service in SERVICES.items():
            requests = []
            for _ in range(_REQUESTS):
                request = serving_pb2.GetOnlineFeaturesRequest(feature_service=service)
                for key in values.choice(keys, ROWS_ASKED, replace=False):
                    request.entities["user_id"].val.add(int64_val=int(key))
                requests.append(request.SerializeToString())
            contenders.append(Contender(view, call, requests, _CALLS))
        return interleave(contenders, rounds)
