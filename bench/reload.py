"""What a change of definitions costs the requests that are under way.

`hotfeast serve` answers 1,000 requests a second, sent at their times whether the last one has been
answered or not, while another process applies changes to its registry of 225 views: a new view, a
changed TTL, a dropped feature, a renamed service. Applying takes some of the machine as well, so
each change is followed by the same one to a registry that nobody serves. What is compared is the
latency around the reloads, around those, and in the quiet between.

Writes `reload.json`, `reload.png` and `reload.svg`.
"""

import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from feast import FeatureService, FeatureStore, FeatureView, Field
from feast.types import Float64
from rich.table import Table

from bench import OUT
from bench.data import (
    ENTITIES,
    Rows,
    make_requests,
    view_name,
)
from bench.load import Load, open_load
from bench.measure import machine, write_json
from bench.picture import draw_times
from bench.processes import open_gateway
from bench.stores import Encoding, open_store
from hotfeast.clients import FeatureClient
from hotfeast.serving.v1 import serving_pb2

RATE = 1000
"""Requests a second."""
CONNECTIONS = 4
"""That they are spread over."""
MORE_VIEWS = 200
FEATURES = 20
MORE_SERVICES = 50
INTERVAL = 0.5
"""Seconds between two looks of the gateway at the registry."""
PAUSE = 1.6
"""Seconds from one change to the next."""

_WARM_UP = 2.0
# Seconds before and after a reload, as seen from outside, that belong to it.
_BEFORE = 0.4
_AFTER = 0.2
# Seconds between two questions for the generation.
_POLL = 0.05
_METHOD = (
    f"/{serving_pb2.DESCRIPTOR.services_by_name['FeatureServing'].full_name}/GetOnlineFeatures"
)


@dataclass(frozen=True)
class Window:
    """The requests around one moment, or around none.

    Attributes:
        kind: `reload`, `apply` (to a registry that nobody serves) or `quiet`.
        label: What was changed.
        start: Seconds since the start.
        end: Likewise.
        p50_ms, p99_ms, max_ms: Of the requests in it.
    """

    kind: str
    label: str
    start: float
    end: float
    p50_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, load: Load, kind: str, label: str, start: float, end: float) -> "Window":
        """The requests that were due between `start` and `end`."""
        taken = load.latency[(load.due >= start) & (load.due < end)]
        p50, p99, most = np.percentile(taken, [50, 99, 100])
        return cls(kind, label, start, end, float(p50), float(p99), float(most))


def run(
    entities: int = ENTITIES, rounds: int = 2, say: Callable[[str], None] = print
) -> list[Window]:
    """Measures, and writes the results.

    Args:
        entities: How many there are in Redis.
        rounds: How often the four changes are made.
        say: Is told what is going on.

    Returns:
        All windows.
    """
    rows = Rows.make(entities)
    say(f"loading {entities} entities and {MORE_VIEWS} more views, starting the gateway")
    with open_store(rows, Encoding.LISTPACK) as store, tempfile.TemporaryDirectory() as folder:
        _add_views(store.feast)
        other = Path(folder)
        for name in ("feature_store.yaml", "registry.db"):
            shutil.copy(store.repo / name, other / name)
        settings = other / "feature_store.yaml"
        settings.write_text(settings.read_text().replace(str(store.repo), str(other)))
        facts = machine(store.client)
        with (
            open_gateway(store.repo, INTERVAL) as port,
            _changer(store.repo, other) as change,
        ):
            requests = make_requests(rows, 1, 200)
            count = len(CHANGES) * rounds
            length = _WARM_UP + PAUSE * (2 * count + 1)
            say(f"{RATE} requests a second for {length:.0f} s, {count} reloads")
            load, reloads, applies = _measure(port, requests, change, count, length)
    windows = _windows(load, reloads, applies, length)
    write_json(
        OUT / "reload.json",
        {
            "machine": facts,
            "requests_per_second": RATE,
            "views": MORE_VIEWS,
            "features_per_view": FEATURES,
            "feature_services": MORE_SERVICES,
            "registry_interval": INTERVAL,
            "summary": {kind: summary(windows, kind) for kind in ("reload", "apply", "quiet")},
            "windows": [vars(w) for w in windows],
        },
    )
    draw_times(
        load.due,
        load.latency,
        [(f"reload: {w.label}", w.start, w.end) for w in windows if w.kind == "reload"],
        f"{RATE:,} requests a second while definitions change",
        OUT / "reload",
    )
    return windows


def _add_views(store: FeatureStore) -> None:
    """Makes the registry as large as those that are worth worrying about."""
    model = store.get_feature_view(view_name(0))
    entity = store.get_entity("entity")
    key = model.entity_columns[0]
    views = [
        FeatureView(
            name=f"more_{i:03}",
            entities=[entity],
            ttl=timedelta(days=1),
            schema=[key, *(Field(name=f"more_{i}_{j}", dtype=Float64) for j in range(FEATURES))],
            source=model.batch_source,
        )
        for i in range(MORE_VIEWS)
    ]
    services = [
        FeatureService(name=f"more_service_{i}", features=views[i * 4 : i * 4 + 4])
        for i in range(MORE_SERVICES)
    ]
    store.apply([*views, *services])


def _new_view(store: FeatureStore, turn: int) -> None:
    view = copy(store.get_feature_view("more_000"))
    store.apply(
        FeatureView(
            name=f"new_{turn}",
            entities=[store.get_entity("entity")],
            ttl=view.ttl,
            schema=list(view.schema),
            source=view.batch_source,
        )
    )


def _changed_ttl(store: FeatureStore, turn: int) -> None:
    view = store.get_feature_view(view_name(2))
    view.ttl = timedelta(days=2 + turn)
    store.apply(view)


def _dropped_feature(store: FeatureStore, turn: int) -> None:
    view = store.get_feature_view("more_001")
    store.apply(
        FeatureView(
            name=view.name,
            entities=[store.get_entity("entity")],
            ttl=view.ttl,
            schema=list(view.schema)[: -1 - turn],
            source=view.batch_source,
        )
    )


def _renamed_service(store: FeatureStore, turn: int) -> None:
    old, new = (f"more_service_{MORE_SERVICES - 1}" + "'" * n for n in (turn, turn + 1))
    views = [store.get_feature_view(f"more_{i:03}") for i in range(4)]
    store.delete_feature_service(old)
    store.apply(FeatureService(name=new, features=views))


CHANGES = {
    "new view": _new_view,
    "changed TTL": _changed_ttl,
    "dropped feature": _dropped_feature,
    "renamed service": _renamed_service,
}


def _apply(repos: tuple[Path, Path], pipe: Connection) -> None:
    """A process that makes changes: receives which one, in which repository, at which turn."""
    stores = [FeatureStore(repo_path=str(repo)) for repo in repos]
    # Whatever is slow the first time.
    _new_view(stores[1], -1)
    pipe.send("ready")
    while True:
        name, which, turn = pipe.recv()
        CHANGES[name](stores[which], turn)
        pipe.send("done")


@contextmanager
def _changer(served: Path, other: Path) -> Iterator[Callable[[str, int, int], None]]:
    """The process that makes changes, and how to have it make one."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_apply, args=((served, other), theirs), daemon=True)
    process.start()
    try:
        ours.recv()

        def change(name: str, which: int, turn: int) -> None:
            ours.send((name, which, turn))
            ours.recv()

        yield change
    finally:
        process.terminate()
        process.join()


def _measure(
    port: int,
    requests: list[bytes],
    change: Callable[[str, int, int], None],
    count: int,
    length: float,
) -> tuple[Load, list[tuple[str, float]], list[tuple[str, float]]]:
    """Sends all requests and makes all changes.

    Returns:
        The requests, and what was seen live when, and what was applied elsewhere when.

    Raises:
        RuntimeError: A change did not go live before the next one.
    """
    reloads: list[tuple[str, float]] = []
    applies: list[tuple[str, float]] = []
    names = list(CHANGES)
    with (
        open_load(port, _METHOD, requests, RATE, CONNECTIONS) as load,
        FeatureClient(f"127.0.0.1:{port}", retries=None) as client,
    ):
        start = load.begin(length)
        for i in range(2 * count):
            turn, name = divmod(i // 2, len(names))
            due = start + _WARM_UP + PAUSE * i
            time.sleep(max(due - time.time(), 0))
            generation = client.serving_info().plan_generation
            change(names[name], i % 2, turn)
            if i % 2:
                applies.append((names[name], time.time() - start))
                continue
            while client.serving_info().plan_generation == generation:
                if time.time() > due + PAUSE:
                    raise RuntimeError(f"{names[name]}: not live after {PAUSE} s")
                time.sleep(_POLL)
            reloads.append((names[name], time.time() - start))
        return load.finish(), reloads, applies


def _windows(
    load: Load,
    reloads: list[tuple[str, float]],
    applies: list[tuple[str, float]],
    length: float,
) -> list[Window]:
    marked = [("reload", *r) for r in reloads] + [("apply", *a) for a in applies]
    windows = [
        Window.of(load, kind, label, at - _BEFORE, at + _AFTER)
        for kind, label, at in sorted(marked, key=lambda m: m[2])
    ]
    quiet = []
    free = _WARM_UP / 2
    for end in [*(w.start for w in windows), length]:
        while free + _BEFORE + _AFTER <= end:
            quiet.append(Window.of(load, "quiet", "", free, free + _BEFORE + _AFTER))
            free += _BEFORE + _AFTER
        free = max([free, *(w.end for w in windows if w.start <= end)])
    return windows + quiet


def summary(windows: list[Window], kind: str) -> dict[str, float | int]:
    """Medians over the windows of a kind, and the slowest request of all of them; milliseconds."""
    chosen = [w for w in windows if w.kind == kind]
    return {
        "windows": len(chosen),
        "p50_ms": round(float(np.median([w.p50_ms for w in chosen])), 3),
        "p99_ms": round(float(np.median([w.p99_ms for w in chosen])), 3),
        "max_ms": round(float(np.median([w.max_ms for w in chosen])), 3),
        "slowest_ms": round(max(w.max_ms for w in chosen), 3),
    }


def table(windows: list[Window]) -> Table:
    """The windows of each kind, in milliseconds."""
    out = Table(
        title=f"{RATE:,} requests a second; windows of {_BEFORE + _AFTER:.1f} s; medians, ms",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    names = {
        "quiet": "quiet",
        "apply": "applied to another registry",
        "reload": "applied and reloaded",
    }
    out.add_column("window")
    for head in ("windows", "p50", "p99", "max", "slowest of all"):
        out.add_column(head, justify="right")
    for kind, name in names.items():
        figures: dict[str, Any] = summary(windows, kind)
        cells = (f"{figures[k]:.2f}" for k in ("p50_ms", "p99_ms", "max_ms", "slowest_ms"))
        out.add_row(name, str(figures["windows"]), *cells)
    return out
