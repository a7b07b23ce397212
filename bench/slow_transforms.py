"""What slow Python transforms cost the plain requests beside them.

`hotfeast serve` answers plain requests, one after another, while 24 clients keep asking for a
feature whose Python function takes 5 ms: more clients than there are threads for requests. There
are three such functions: one waits without Python's global lock (a call to another service), one
computes in Python, and one computes in one call of C that keeps the lock. Quiet and busy times take
turns.

Writes `slow_transforms.json`.
"""

import itertools
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from feast import Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64
from rich.table import Table

from bench import OUT
from bench.data import ENTITIES, Rows, make_requests
from bench.measure import machine, write_json
from bench.processes import caller, open_gateway
from bench.stores import Encoding, open_store
from hotfeast.clients import FeatureClient
from hotfeast.serving.v1 import serving_pb2

CLIENTS = 24
"""That ask for transforms."""
LENGTH = 4.0
"""Seconds of one measurement."""
LONGEST_P99_MS = 25.0
"""The budget for plain requests beside any of the functions."""

_METHOD = (
    f"/{serving_pb2.DESCRIPTOR.services_by_name['FeatureServing'].full_name}/GetOnlineFeatures"
)
_amount = RequestSource(name="amount", schema=[Field(name="amount", dtype=Float64)])


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[_amount], schema=[Field(name="waits_out", dtype=Float64)], mode="python"
)
def waits(inputs: dict[str, Any]) -> dict[str, Any]:
    """5 ms without the lock."""
    import time

    time.sleep(0.005)
    return {"waits_out": [float(amount) for amount in inputs["amount"]]}


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[_amount], schema=[Field(name="python_out", dtype=Float64)], mode="python"
)
def python(inputs: dict[str, Any]) -> dict[str, Any]:
    """5 ms of Python."""
    import time

    end = time.thread_time() + 0.005
    while time.thread_time() < end:
        pass
    return {"python_out": [float(amount) for amount in inputs["amount"]]}


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[_amount], schema=[Field(name="c_out", dtype=Int64)], mode="pandas"
)
def c(inputs: pd.DataFrame) -> pd.DataFrame:
    """About 5 ms in one call of C that keeps the lock."""
    import pandas as pd

    out = pd.DataFrame()
    total = sum(range(200_000))
    out["c_out"] = (inputs["amount"] * 0 + total).astype("int64")
    return out


FUNCTIONS = {"waits": "waits:waits_out", "python": "python:python_out", "c": "c:c_out"}


@dataclass(frozen=True)
class Beside:
    """Plain requests beside one kind of function, or none.

    Attributes:
        name: Of the function; `quiet` for none.
        p50_ms, p99_ms, max_ms: Of the plain requests.
        transforms_per_second: Answered meanwhile.
    """

    name: str
    p50_ms: float
    p99_ms: float
    max_ms: float
    transforms_per_second: float


def run(
    entities: int = ENTITIES, rounds: int = 3, say: Callable[[str], None] = print
) -> list[Beside]:
    """Measures, and writes the results.

    Args:
        entities: How many there are in Redis.
        rounds: How often each is measured.
        say: Is told what is going on.
    """
    rows = Rows.make(entities)
    say(f"loading {entities} entities, starting the gateway")
    names = ["quiet", *FUNCTIONS]
    latencies: dict[str, list[Any]] = {name: [] for name in names}
    answered: dict[str, int] = dict.fromkeys(names, 0)
    with open_store(rows, Encoding.LISTPACK) as store:
        store.feast.apply([waits, python, c])
        facts = machine(store.client)
        requests = make_requests(rows, 1, 200)
        with ExitStack() as stack:
            port = stack.enter_context(open_gateway(store.repo))
            ask = stack.enter_context(_askers(port))
            call = caller(stack, port, _METHOD)
            for turn in range(rounds):
                say(f"round {turn + 1} of {rounds}")
                for name in names:
                    taken, count = _measure(call, requests, ask, FUNCTIONS.get(name))
                    latencies[name].append(taken)
                    answered[name] += count
    results = []
    for name in names:
        p50, p99, most = np.percentile(np.concatenate(latencies[name]), [50, 99, 100])
        rate = answered[name] / (LENGTH * rounds)
        results.append(Beside(name, float(p50), float(p99), float(most), rate))
    write_json(
        OUT / "slow_transforms.json",
        {
            "machine": facts,
            "clients_that_ask_for_transforms": CLIENTS,
            "results": [vars(result) for result in results],
        },
    )
    return results


def table(results: list[Beside]) -> Table:
    """The results as a table."""
    shown = Table(title=f"plain requests beside {CLIENTS} clients with slow transforms, ms")
    for heading in ("beside", "p50", "p99", "max", "transforms/s"):
        shown.add_column(heading, justify="left" if heading == "beside" else "right")
    for r in results:
        shown.add_row(
            r.name,
            f"{r.p50_ms:.2f}",
            f"{r.p99_ms:.2f}",
            f"{r.max_ms:.2f}",
            f"{r.transforms_per_second:.0f}",
        )
    return shown


Ask = Callable[[str | None], int]
"""Starts asking for a feature, or stops and says how many answers there were."""


def _measure(
    call: Callable[[bytes], bytes], requests: list[bytes], ask: Ask, feature: str | None
) -> tuple[list[float], int]:
    """Milliseconds of plain requests, and how many transforms were answered meanwhile."""
    if feature is not None:
        ask(feature)
        # Until all of them wait.
        time.sleep(0.5)
        ask(feature)
    taken = []
    end = time.perf_counter() + LENGTH
    for request in itertools.cycle(requests):
        start = time.perf_counter()
        if start > end:
            break
        call(request)
        taken.append((time.perf_counter() - start) * 1000)
    return taken, ask(None) if feature is not None else 0


def _keep_asking(port: int, pipe: Any) -> None:
    """The process of the clients: receives a feature to ask for, or None, and sends a count."""
    wanted: list[str | None] = [None]
    counts = [0] * CLIENTS
    woken = threading.Condition()

    def client(number: int) -> None:
        with FeatureClient(f"127.0.0.1:{port}", timeout=60, retries=None) as connection:
            while True:
                with woken:
                    woken.wait_for(lambda: wanted[0] is not None)
                    feature = wanted[0]
                connection.get_online_features(
                    [str(feature)], {}, request_context={"amount": [1.0]}
                )
                counts[number] += 1

    for number in range(CLIENTS):
        threading.Thread(target=client, args=(number,), daemon=True).start()
    while True:
        feature = pipe.recv()
        with woken:
            wanted[0] = feature
            woken.notify_all()
        pipe.send(sum(counts))
        counts[:] = [0] * CLIENTS


@contextmanager
def _askers(port: int) -> Iterator[Ask]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_keep_asking, args=(port, theirs), daemon=True)
    process.start()

    def ask(feature: str | None) -> int:
        ours.send(feature)
        return int(ours.recv())

    try:
        yield ask
    finally:
        process.terminate()
        process.join()
