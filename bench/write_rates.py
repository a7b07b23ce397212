"""Materialization: rows a second beside Feast's and beside ready-made commands, and its memory.

The floor is what Redis takes of ready-made commands from one connection: a plain HSET a row, or the
smallest script that reads a row's time, compares and writes, once for each row.
"""

import multiprocessing
import os
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureStore
from google.protobuf.timestamp_pb2 import Timestamp

from bench.data import RedisClient
from bench.measure import machine
from bench.raw import pack_command
from bench.verdict import Verdict
from bench.write_data import (
    END,
    FEATURES,
    KEY,
    PROJECT,
    START,
    VIEW,
    Report,
    frame,
    make_repository,
)
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.materialize import materialize
from hotfeast.server.plan import feature_hash_field
from hotfeast.serving.v1 import value_pb2

ROWS = 250_000
"""Rows that are materialized."""
FEAST_ROWS = 20_000
"""Rows that Feast materializes; at a few thousand a second the rest would tell nothing new."""
ROUNDS = 3
OF_REDIS = 0.8
"""At least this share of the rate at which Redis takes ready-made commands."""
OVER_FEAST_UNCHECKED = 18.0
"""At least this many times Feast's rate, without comparison of event times."""
OVER_FEAST_CHECKED = 8.0
"""At least this many times Feast's rate, with it."""
MEMORY_GROWTH = 1.25
"""At most this much more memory for ten times the rows."""

# Commands of the floor that go to Redis in one write.
_PORTION = 500
SMALLEST_SCRIPT = b"""
local function decode(b)
  local seconds, nanos, at = 0, 0, 1
  while at <= #b do
    local tag, value, factor = string.byte(b, at), 0, 1
    at = at + 1
    local c = string.byte(b, at)
    while c >= 128 do
      value = value + (c - 128) * factor
      factor = factor * 128
      at = at + 1
      c = string.byte(b, at)
    end
    value = value + c * factor
    at = at + 1
    if tag == 8 then seconds = value else nanos = value end
  end
  return seconds, nanos
end
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if stored and stored ~= ARGV[2] then
  local as, an = decode(stored)
  local bs, bn = decode(ARGV[2])
  if bs < as or (bs == as and bn < an) then return 0 end
end
redis.call('HSET', KEYS[1], unpack(ARGV))
return 1
"""
"""Reads a row's time, compares and writes, and does no more than it must."""


def ready_made(table: pa.Table, script: bytes | None) -> list[tuple[bytes, int]]:
    """The commands that store the rows, in portions, each with the number of its replies."""
    names = [feature_hash_field(VIEW, name) for name in FEATURES]
    time_name = b"_ts:" + VIEW.encode()
    head = struct.pack("<II", 1, 2) + struct.pack("<I", len(KEY)) + KEY.encode()
    head += struct.pack("<II", 4, 8)
    times = table["event_timestamp"].cast(pa.int64()).to_pylist()
    columns = [table[name].to_pylist() for name in FEATURES]
    portions = []
    for start in range(0, table.num_rows, _PORTION):
        commands = []
        for row in range(start, min(start + _PORTION, table.num_rows)):
            key = head + struct.pack("<q", row) + PROJECT.encode()
            stamp = Timestamp()
            stamp.FromMicroseconds(times[row])
            pairs = [time_name, stamp.SerializeToString()]
            for i, (name, column) in enumerate(zip(names, columns, strict=True)):
                value = (
                    value_pb2.Value(double_val=column[row])
                    if i % 2
                    else value_pb2.Value(int64_val=column[row])
                )
                pairs += [name, value.SerializeToString()]
            if script is None:
                commands.append(pack_command(b"HSET", key, *pairs))
            else:
                commands.append(pack_command(b"EVALSHA", script, b"1", key, *pairs))
        portions.append((b"".join(commands), len(commands)))
    return portions


def _send_ready_made(port: int, portions: Sequence[tuple[bytes, int]]) -> float:
    """Rows a second of ready-made commands from one connection."""
    with socket.create_connection(("127.0.0.1", port)) as connection:

        def send() -> None:
            for data, _ in portions:
                connection.sendall(data)

        sender = threading.Thread(target=send)
        left = sum(count for _, count in portions)
        rows = left
        began = time.perf_counter()
        sender.start()
        while left:
            data = connection.recv(1 << 20)
            if not data or b"-" in data:
                raise RuntimeError(f"Redis refused a ready-made command: {data[:200]!r}")
            left -= data.count(b"\n")
        taken = time.perf_counter() - began
        sender.join()
    return rows / taken


def _materialize_ours(store: FeatureStore, check: bool) -> float:
    began = time.perf_counter()
    summary = materialize(store, START, END, event_time_check=check)
    taken = time.perf_counter() - began
    written = sum(view.counts.written for view in summary.views)
    return written / taken


def _materialize_feast(store: FeatureStore, rows: int) -> float:
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        began = time.perf_counter()
        store.materialize(START, END)
        return rows / (time.perf_counter() - began)


def measure_materialize(report: Report, say: Callable[[str], None]) -> None:
    """Rows a second into an empty store, in turns, and memory as rows grow."""
    with LocalRedis() as server, tempfile.TemporaryDirectory(prefix="hotfeast-bench-") as folder:
        client: RedisClient = server.client()
        report.facts = report.facts or machine(client)
        say(f"materialize: {ROWS:,} rows, ready-made commands, Feast's {FEAST_ROWS:,}")
        store = make_repository(Path(folder) / "all", server.address, ROWS)
        part = make_repository(Path(folder) / "part", server.address, FEAST_ROWS)
        table = frame(ROWS)
        sha = client.script_load(SMALLEST_SCRIPT).encode()
        plain, scripted = ready_made(table, None), ready_made(table, sha)
        turns: dict[str, Callable[[], float]] = {
            "HSET, ready-made": partial(_send_ready_made, server.port, plain),
            "script a row, ready-made": partial(_send_ready_made, server.port, scripted),
            "ours, unchecked": partial(_materialize_ours, store, False),
            "ours, checked": partial(_materialize_ours, store, True),
            "Feast": partial(_materialize_feast, part, FEAST_ROWS),
        }
        rates: dict[str, list[float]] = {name: [] for name in turns}
        for turn in range(ROUNDS):
            say(f"materialize: round {turn + 1} of {ROUNDS}")
            for name, run in turns.items():
                client.flushall()
                rates[name].append(run())
        median = {name: float(np.median(list_)) for name, list_ in rates.items()}
        say("materialize: memory, at a tenth of the rows and at ten times them")
        small = _peak_memory(server, Path(folder) / "small", ROWS // 10)
        same = _peak_memory(server, Path(folder) / "same", ROWS)
        large = _peak_memory(server, Path(folder) / "large", ROWS * 10)
    report.figures["materialize"] = {
        "rows_per_second": {name: [round(r) for r in list_] for name, list_ in rates.items()},
        "peak_memory_mib": {
            str(ROWS // 10): round(small, 1), str(ROWS): round(same, 1),
            str(ROWS * 10): round(large, 1),
        },
    }  # fmt: skip
    ours, checked, feast = median["ours, unchecked"], median["ours, checked"], median["Feast"]
    plain_rate, script_rate = median["HSET, ready-made"], median["script a row, ready-made"]
    report.verdicts += [
        Verdict(
            "materialize unchecked / ready-made HSET", ours / plain_rate, OF_REDIS, False,
            note=f"{ours:,.0f} and {plain_rate:,.0f} rows/s",
        ),
        Verdict(
            "materialize checked / ready-made script a row", checked / script_rate, OF_REDIS, False,
            note=f"{checked:,.0f} and {script_rate:,.0f} rows/s",
        ),
        Verdict(
            "materialize unchecked / Feast", ours / feast, OVER_FEAST_UNCHECKED, False,
            note=f"Feast {feast:,.0f} rows/s",
        ),
        Verdict("materialize checked / Feast", checked / feast, OVER_FEAST_CHECKED, False),
        Verdict(
            f"memory, {ROWS * 10:,} rows / {ROWS:,} rows", large / same, MEMORY_GROWTH, True,
            note=f"{large:,.0f} and {same:,.0f} MiB",
        ),
    ]  # fmt: skip


def _peak_memory(server: LocalRedis, folder: Path, rows: int) -> float:
    """MiB that a process has at most while it materializes."""
    make_repository(folder, server.address, rows)
    server.client().flushall()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_materialize_alone, args=(folder, theirs))
    process.start()
    try:
        peak: float = ours.recv()
    finally:
        process.join()
    return peak


def _materialize_alone(folder: Path, pipe: Any) -> None:
    summary = materialize(FeatureStore(repo_path=str(folder)), START, END)
    if summary.exit_code:
        raise RuntimeError("rows were lost")
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in status if line.startswith("VmHWM"))
    pipe.send(int(peak.split()[1]) / 1024)
