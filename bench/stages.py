"""Runs `test_stages.py` and puts its figures into nanoseconds per row and per value.

Writes `stages.json`, in pytest-benchmark's format with the facts of `measure.machine` added.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from bench import OUT
from bench.measure import machine, write_json
from bench.verdict import Verdict

VALUES_PER_ROW = 50
ROWS = (1, 100, 1000)
"""Rows in a request."""
PARSE, KEYS = "request: parse", "batch: keys, commands"
SCAN, SPLICE = "reply: copy and scan", "splice: build the response"
OURS = {
    "parse the request": PARSE,
    "keys, commands": KEYS,
    "scan the reply": SCAN,
    "splice": SPLICE,
}
"""The gateway's stages, by their names in pictures."""

NS_PER_VALUE = 30.0
"""Scanning and splicing a value may take so many nanoseconds, at 1,000 rows."""
NS_PER_KEY = 150.0
"""Making a row's key may take so many, at 1,000 rows."""


def run() -> dict[str, Any]:
    """Runs the benchmarks.

    Returns:
        pytest-benchmark's results.

    Raises:
        subprocess.CalledProcessError: A benchmark failed; its output has been shown.
    """
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / "stages.json"
    subprocess.run(
        [
            sys.executable, "-m", "pytest", str(Path(__file__).with_name("test_stages.py")),
            "--quiet", "--benchmark-enable", "--benchmark-only", "--benchmark-quiet",
            "--benchmark-disable-gc", "--benchmark-warmup=on", "--benchmark-max-time=0.3",
            f"--benchmark-json={path}",
        ],
        check=True,
        cwd=Path(__file__).resolve().parents[1],
    )  # fmt: skip
    results: dict[str, Any] = json.loads(path.read_text())
    results["machine"] = machine()
    for benchmark in results["benchmarks"]:
        del benchmark["stats"]["data"]
    write_json(path, results)
    return results


def medians(results: dict[str, Any]) -> dict[str, dict[int, float]]:
    """Nanoseconds of a call, by stage and rows in the request."""
    found: dict[str, dict[int, float]] = {}
    for benchmark in results["benchmarks"]:
        info = benchmark["extra_info"]
        by_rows = found.setdefault(info["stage"], {})
        by_rows[info["rows"]] = benchmark["stats"]["median"] * 1e9
    return found


def judge(by_stage: dict[str, dict[int, float]]) -> list[Verdict]:
    """Holds the medians against the budgets."""
    rows = max(ROWS)
    scan, splice = (by_stage[stage][rows] / rows / VALUES_PER_ROW for stage in (SCAN, SPLICE))
    return [
        Verdict(
            "our CPU for a value: scan, splice", scan + splice, NS_PER_VALUE, True, "ns",
            note=f"{scan:.1f} and {splice:.1f} ns at {rows:,} rows",
        ),
        Verdict(
            "our CPU for a row: keys, commands", by_stage[KEYS][rows] / rows, NS_PER_KEY, True, "ns"
        ),
    ]  # fmt: skip


def stage_table(results: dict[str, Any]) -> Table:
    """Medians in nanoseconds, per row and per value, by stage and rows in the request."""
    by_stage = medians(results)
    table = Table(
        title=f"Stages, nanoseconds per row / per value ({VALUES_PER_ROW} values a row)",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    table.add_column("stage", no_wrap=True)
    for rows in ROWS:
        table.add_column(f"{rows} row" if rows == 1 else f"{rows} rows", justify="right")
    for stage, by_rows in by_stage.items():
        cells = (by_rows[rows] / rows for rows in ROWS)
        table.add_row(stage, *(f"{ns:,.0f} / {_per_value(ns)}" for ns in cells))
    return table


def _per_value(row_ns: float) -> str:
    value = row_ns / VALUES_PER_ROW
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"
