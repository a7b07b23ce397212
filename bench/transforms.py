"""What an on-demand view adds to a request: kernels beside Feast's SDK, in pandas and python mode.

All in one process and without gRPC: a request for a view's inputs, and the same request with the
view on top; what is added is the difference of the medians, taken in turns in one run.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from feast import FeatureStore
from rich.table import Table

from bench import OUT
from bench.measure import Contender, Samples, interleave, machine, write_json
from bench.transform_views import INPUTS, REQUEST, TRANSFORMS, apply, read_by
from hotfeast.server.clock import Clock
from hotfeast.server.kernels import KernelMaker
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.read_modes import ReadModes
from hotfeast.server.redis_io import Lanes, RedisReader, connection_pool
from hotfeast.server.servicer import FeatureServicer
from hotfeast.server.watch import RegistryWatch
from hotfeast.serving.v1 import serving_pb2
from hotfeast.serving.v1.value_pb2 import Value

ROWS = (1, 100)
BUDGETS_US = {1: 20.0, 100: 150.0}
"""Microseconds that a view may add, by rows of the request."""

_CUSTOMERS = 2000
_ITEMS = 20
_ROUNDS = 30
# Calls in a round, of the gateway and of Feast's SDK.
_CALLS = {1: (100, 10), 100: (40, 5)}
_TIERS = ("bronze", "silver", "gold", "platinum")


@dataclass(frozen=True)
class Added:
    """What one view adds at one number of rows, in microseconds.

    Attributes:
        view: Its name.
        rows: Of the request.
        kernel, pandas, python: By a kernel, and by Feast's SDK in both modes.
    """

    view: str
    rows: int
    kernel: float
    pandas: float
    python: float

    @property
    def kept(self) -> bool:
        """Whether the kernel keeps its budget."""
        return self.kernel <= BUDGETS_US[self.rows]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "view": self.view,
            "rows": self.rows,
            "kernel_us": round(self.kernel, 2),
            "feast_pandas_us": round(self.pandas, 1),
            "feast_python_us": round(self.python, 1),
            "budget_us": BUDGETS_US[self.rows],
            "kept": self.kept,
        }


def _customers() -> pd.DataFrame:
    chance = np.random.default_rng(1)
    now = datetime.now(UTC)
    columns: dict[str, Any] = {
        "customer_id": range(_CUSTOMERS),
        "event_timestamp": [now - timedelta(hours=1)] * _CUSTOMERS,
    }
    for name, dtype in INPUTS.items():
        kind = str(dtype)
        if "Int" in kind:
            columns[name] = chance.integers(1, 50, _CUSTOMERS)
        elif "String" in kind:
            columns[name] = chance.choice(_TIERS, _CUSTOMERS)
        elif "Bool" in kind:
            columns[name] = chance.random(_CUSTOMERS) < 0.7
        else:
            columns[name] = chance.random(_CUSTOMERS) * 50 + 1
    return pd.DataFrame(columns)


def _rows(name: str, rows: int) -> list[list[dict[str, Any]]]:
    """Entity rows with request data, of several requests."""
    chance = np.random.default_rng(rows)
    _, fields = read_by(name)
    made = []
    for _ in range(_ITEMS):
        request = []
        for customer in chance.choice(_CUSTOMERS, rows, replace=False):
            row: dict[str, Any] = {"customer_id": int(customer)}
            for field in fields:
                if field == "event_time":
                    row[field] = datetime.fromtimestamp(int(chance.integers(10**9, 2 * 10**9)), UTC)
                else:
                    row[field] = float(chance.random() * 100)
            request.append(row)
        made.append(request)
    return made


def _request(service: str, rows: list[dict[str, Any]], with_data: bool) -> bytes:
    request = serving_pb2.GetOnlineFeaturesRequest(feature_service=service)
    request.entities["customer_id"].val.extend(Value(int64_val=r["customer_id"]) for r in rows)
    for field in REQUEST if with_data else ():
        if field not in rows[0]:
            continue
        for row in rows:
            if field == "event_time":
                value = Value(unix_timestamp_val=int(row[field].timestamp()))
            else:
                value = Value(double_val=row[field])
            request.request_context[field].val.append(value)
    return request.SerializeToString()


def _contenders(
    store: FeatureStore, servicer: FeatureServicer, name: str, rows: int
) -> list[Contender]:
    requests = _rows(name, rows)
    keys = [[{"customer_id": r["customer_id"]} for r in request] for request in requests]
    ours, feasts = _CALLS[rows]

    def ask(service: str) -> Callable[[Any], Any]:
        found = store.get_feature_service(service)
        return lambda request: store.get_online_features(found, request)

    def sent(service: str, with_data: bool) -> list[bytes]:
        return [_request(service, request, with_data) for request in requests]

    without, with_view = f"without_{name}", f"with_{name}"
    return [
        Contender("ours without", servicer.answer, sent(without, False), ours),
        Contender("ours with", servicer.answer, sent(with_view, True), ours),
        Contender("feast without", ask(without), keys, feasts),
        Contender("feast pandas", ask(with_view), requests, feasts),
        Contender("feast python", ask(f"{with_view}_python"), requests, feasts),
    ]


def _difference_us(samples: dict[str, Samples], with_view: str, without: str) -> float:
    """The difference of the medians round by round, in the median."""
    rounds = samples[with_view].round_medians_ms - samples[without].round_medians_ms
    return float(np.median(rounds)) * 1000


def run(say: Callable[[str], None]) -> list[Added]:
    """Measures all views; writes `transforms.json`."""
    results = []
    with LocalRedis() as server, tempfile.TemporaryDirectory() as folder:
        store = apply(Path(folder), server.address)
        store.write_to_online_store("customers", _customers())
        say("making kernels")
        watch = RegistryWatch(store, 3600.0, kernels=KernelMaker())
        pool = connection_pool(store.config, None, 1.0)
        lanes = Lanes(pool, max_idle=1)
        servicer = FeatureServicer(
            watch, RedisReader(lanes, 1.0), ReadModes(pool), Clock(None), strict=True
        )
        for name in TRANSFORMS:
            if refusal := watch.book.transforms[name]:
                raise RuntimeError(f"{name} has no kernel: {refusal}")
            for rows in ROWS:
                say(f"{name}, {rows} rows")
                samples = interleave(_contenders(store, servicer, name, rows), _ROUNDS)
                results.append(
                    Added(
                        name,
                        rows,
                        _difference_us(samples, "ours with", "ours without"),
                        _difference_us(samples, "feast pandas", "feast without"),
                        _difference_us(samples, "feast python", "feast without"),
                    )
                )
        lanes.close()
    write_json(
        OUT / "transforms.json",
        {"machine": machine(), "added": [added.as_dict() for added in results]},
    )
    return results


def table(results: list[Added]) -> Table:
    """Microseconds added, and how many times less than Feast's."""
    out = Table(title="Added by an on-demand view, microseconds (p50)", title_justify="left")
    for heading in ("view", "rows", "kernel", "Feast pandas", "Feast python", "less", "budget"):
        out.add_column(heading, justify="left" if heading == "view" else "right")
    for added in results:
        least = max(added.kernel, 0.1)
        out.add_row(
            added.view,
            str(added.rows),
            f"{added.kernel:.1f}",
            f"{added.pandas:,.0f}",
            f"{added.python:,.0f}",
            f"{added.pandas / least:,.0f} x / {added.python / least:,.0f} x",
            f"{BUDGETS_US[added.rows]:.0f} {'kept' if added.kept else 'PAST'}",
        )
    return out
