"""Reads from a cluster beside reads from one server: `python -m bench cluster`.

One gateway serves rows from one server, another one the same rows from three masters, all on this
machine. The servers share its cores with the gateway and the client, so that three of them gain
nothing: what is seen is what it costs to split a request and to put the replies together.

Writes `cluster.json`.
"""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from rich.table import Table

from bench import OUT
from bench.data import ENTITIES, FIVE_VIEWS, Rows, make_requests
from bench.measure import Contender, interleave, machine, write_json
from bench.processes import OUR_METHOD, caller, open_gateway
from bench.stores import Encoding, Store, open_store
from hotfeast.server.local_shapes import LocalCluster

MASTERS = 3
ROWS = 100
"""Rows of a request."""
ONE, MANY = "one server", f"{MASTERS} masters"

_REQUESTS = 500
_CALLS = 50


@dataclass(frozen=True)
class Served:
    """What one gateway took.

    Attributes:
        name: Which.
        p50_ms, p99_ms: Of its requests.
    """

    name: str
    p50_ms: float
    p99_ms: float


def run(
    entities: int = ENTITIES, rounds: int = 20, say: Callable[[str], None] = print
) -> list[Served]:
    """Measures, and writes the results.

    Args:
        entities: How many there are in Redis.
        rounds: Turns that each gateway has.
        say: Is told what is going on.
    """
    rows = Rows.make(entities)
    requests = make_requests(rows, ROWS, _REQUESTS, FIVE_VIEWS)
    say(f"loading {entities} entities twice, starting two gateways")
    with ExitStack() as stack:
        store = stack.enter_context(open_store(rows, Encoding.HASH_TABLE))
        limits = ("--hash-max-ziplist-entries", "64")
        cluster = stack.enter_context(LocalCluster(MASTERS, False, *limits))
        _copy(store, cluster)
        repo = Path(stack.enter_context(TemporaryDirectory(prefix="hotfeast-cluster-bench-")))
        _copy_repository(store.repo, repo, cluster)
        contenders = [
            Contender(
                name,
                caller(stack, stack.enter_context(open_gateway(folder)), OUR_METHOD),
                requests,
                _CALLS,
            )
            for name, folder in ((ONE, store.repo), (MANY, repo))
        ]
        for request in requests[:10]:
            one, many = (contender.call(request) for contender in contenders)
            if one != many:
                raise RuntimeError("the cluster's answers are not those of the server")
        facts = machine(store.client)
        say("measuring")
        samples = interleave(contenders, rounds)
    results = [Served(name, samples[name].p50_ms, samples[name].p99_ms) for name in (ONE, MANY)]
    write_json(
        OUT / "cluster.json",
        {
            "machine": facts,
            "entities": entities,
            "rows": ROWS,
            "results": [asdict(result) for result in results],
        },
    )
    return results


def table(results: list[Served]) -> Table:
    """The results as a table."""
    shown = Table(title=f"{ROWS} rows of 50 features, ms")
    for heading in ("rows are on", "p50", "p99", f"p50 of {ONE}"):
        shown.add_column(heading, justify="left" if heading == "rows are on" else "right")
    for each in results:
        ratio = each.p50_ms / results[0].p50_ms
        shown.add_row(each.name, f"{each.p50_ms:.2f}", f"{each.p99_ms:.2f}", f"{ratio:.2f}")
    return shown


def _copy(store: Store, cluster: LocalCluster) -> None:
    """Copies all keys."""
    source: Any = store.client
    target = cluster.client()
    for key in source.scan_iter(count=1000):
        target.restore(key, 0, source.dump(key))


def _copy_repository(source: Path, folder: Path, cluster: LocalCluster) -> None:
    """Makes a repository with the registry of another one, whose online store is the cluster."""
    settings = yaml.safe_load((source / "feature_store.yaml").read_text())
    registry = shutil.copy(settings["registry"]["path"], folder)
    settings["registry"]["path"] = str(registry)
    settings["online_store"] |= {
        "redis_type": "redis_cluster",
        "connection_string": cluster.address,
    }
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(settings))
