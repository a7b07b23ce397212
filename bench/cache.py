"""What the cache is worth: requests for entities of which a few are asked for most of the time.

Three gateways serve one store in turns, two of them with a cache. Entities are drawn by Zipf's law,
10 a request; Redis and its hashes are as for the other benchmarks. The small cache has room for
some of the entities, the large one for all. How often each had what was asked for is read from its
metrics.

Writes `cache.json`.
"""

import re
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from bench import OUT
from bench.data import ENTITIES, FIVE_VIEWS, JOIN_KEY, SEED, Rows
from bench.measure import Contender, interleave, machine, write_json
from bench.processes import OUR_METHOD, Server, caller
from bench.stores import Encoding, open_store
from hotfeast.server.local_redis import free_port
from hotfeast.serving.v1 import serving_pb2

ROWS = 10
"""Entities in a request."""
EXPONENT = 1.1
"""Of Zipf's law."""
STALENESS = 60
"""Seconds that an answer from the cache may be old. Nothing is written meanwhile."""
SIZES = {"no cache": 0, "small cache": 1, "large cache": 64}
"""Megabytes of each gateway's cache; an entity takes about one kilobyte."""

_REQUESTS = 2000
_CALLS = 200


@dataclass(frozen=True)
class Served:
    """What one gateway took.

    Attributes:
        name: Which.
        megabytes: Its cache.
        hit_rate: The share of entities that the cache had, from the first request on.
        p50_ms, p99_ms: Of its requests.
    """

    name: str
    megabytes: int
    hit_rate: float
    p50_ms: float
    p99_ms: float


def run(
    entities: int = 10 * ENTITIES, rounds: int = 20, say: Callable[[str], None] = print
) -> list[Served]:
    """Measures, and writes the results.

    Args:
        entities: How many there are in Redis.
        rounds: Turns that each gateway has.
        say: Is told what is going on.
    """
    rows = Rows.make(entities)
    requests = _zipf_requests(rows.entities)
    say(f"loading {entities} entities, starting {len(SIZES)} gateways")
    with open_store(rows, Encoding.LISTPACK) as store, ExitStack() as stack:
        facts = machine(store.client)
        pages: dict[str, int] = {}
        contenders = []
        for name, megabytes in SIZES.items():
            pages[name] = free_port()
            port = stack.enter_context(_gateway(store.repo, megabytes, pages[name]))
            contenders.append(Contender(name, caller(stack, port, OUR_METHOD), requests, _CALLS))
        say("measuring")
        samples = interleave(contenders, rounds)
        results = [
            Served(
                name,
                megabytes,
                _hit_rate(pages[name]),
                samples[name].p50_ms,
                samples[name].p99_ms,
            )
            for name, megabytes in SIZES.items()
        ]
    write_json(
        OUT / "cache.json",
        {
            "machine": facts,
            "entities": entities,
            "rows": ROWS,
            "zipf_exponent": EXPONENT,
            "results": [asdict(result) for result in results],
        },
    )
    return results


def table(results: list[Served]) -> Table:
    """The results as a table."""
    shown = Table(title=f"{ROWS} entities a request, drawn by Zipf's law ({EXPONENT}), ms")
    for heading in ("gateway", "MB", "hit rate", "p50", "p99", "p50 of no cache"):
        shown.add_column(heading, justify="left" if heading == "gateway" else "right")
    without = results[0].p50_ms
    for r in results:
        shown.add_row(
            r.name,
            str(r.megabytes),
            f"{r.hit_rate:.0%}" if r.megabytes else "",
            f"{r.p50_ms:.2f}",
            f"{r.p99_ms:.2f}",
            f"{r.p50_ms / without:.2f}",
        )
    return shown


@contextmanager
def _gateway(repo: Path, megabytes: int, page: int) -> Iterator[int]:
    with Server(
        *("hotfeast.server", "serve", "--repo", str(repo), "--bind", "127.0.0.1:0"),
        *("--registry-interval", "3600", "--metrics", f"127.0.0.1:{page}"),
        *("--cache-mb", str(megabytes), "--cache-staleness", str(STALENESS)),
        ready=r"(?m)^Hotfeast serves .* on 127\.0\.0\.1:(\d+) .*$",
    ) as server:
        yield server.port()


def _zipf_requests(entities: list[int]) -> list[bytes]:
    values = np.random.default_rng(SEED)
    weights = 1 / np.arange(1, len(entities) + 1) ** EXPONENT
    weights /= weights.sum()
    # Which ones are popular has nothing to do with their numbers.
    popular = values.permutation(entities)
    requests = []
    for _ in range(_REQUESTS):
        request = serving_pb2.GetOnlineFeaturesRequest(feature_service=FIVE_VIEWS)
        for entity in values.choice(popular, ROWS, p=weights):
            request.entities[JOIN_KEY].val.add(int64_val=int(entity))
        requests.append(request.SerializeToString())
    return requests


def _hit_rate(page: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{page}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = {
        result: float(count)
        for result, count in re.findall(
            r'(?m)^hotfeast_cache_lookups_total\{result="(\w+)"\} (\S+)$', text
        )
    }
    return found["hit"] / (found["hit"] + found["miss"]) if found else 0.0
