"""What watching the features costs a request: gateways with and without it, in turns.

All serve one store, as for the other benchmarks: requests of 50 features from one client. One has
`--monitor` at its default rate, *all* has a feature log of a hundredth of the requests, too. The
samples are long, so that turns of the monitoring and writes of its files fall into them.

Writes `monitoring.json`.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import OUT
from bench.data import ENTITIES, Rows, make_requests
from bench.measure import Contender, Samples, interleave, machine, ratio, write_json
from bench.processes import OUR_METHOD, Server, caller
from bench.stores import Encoding, open_store
from bench.verdict import Verdict

MONITORED, ALL, PLAIN = "monitored", "all", "plain"
LIMITS = {MONITORED: 1.01, ALL: 1.02}
"""Of the median, as a multiple of the plain gateway's."""
P99_LIMIT = 1.10
"""The same of the 99th percentile."""

_REQUESTS = 500
_CALLS = {1: 400, 100: 100}

Results = dict[int, dict[str, Samples]]
"""By rows and gateway."""


def run(
    entities: int = ENTITIES, rounds: int = 60, say: Callable[[str], None] = print
) -> tuple[Results, list[Verdict]]:
    """Measures, judges, and writes the results.

    Args:
        entities: How many there are in Redis.
        rounds: Turns that each gateway has.
        say: Is told what is going on.
    """
    rows = Rows.make(entities)
    say(f"loading {entities:,} entities, starting three gateways")
    results: Results = {}
    with (
        open_store(rows, Encoding.HASH_TABLE) as store,
        TemporaryDirectory() as folder,
        ExitStack() as stack,
    ):
        facts = machine(store.client)
        options = {
            PLAIN: (),
            MONITORED: ("--monitor",),
            ALL: ("--monitor", "--feature-log", folder, "--feature-log-rate", "0.01"),
        }
        calls = {
            name: caller(stack, stack.enter_context(_gateway(store.repo, *more)), OUR_METHOD)
            for name, more in options.items()
        }
        for count, per_round in _CALLS.items():
            say(f"requests of {count}")
            requests = make_requests(rows, count, _REQUESTS)
            contenders = [
                Contender(name, call, requests, per_round) for name, call in calls.items()
            ]
            results[count] = interleave(contenders, rounds)
    verdicts = judge(results)
    write_json(
        OUT / "monitoring.json",
        {
            "machine": facts,
            "entities": entities,
            "latency": [
                {"rows": count, **{name: taken.as_dict() for name, taken in samples.items()}}
                for count, samples in results.items()
            ],
            "budgets": [verdict.as_dict() for verdict in verdicts],
        },
    )
    return results, verdicts


def judge(results: Results) -> list[Verdict]:
    """Holds the samples against the budgets."""
    verdicts = []
    for count, samples in results.items():
        at = "1 row" if count == 1 else f"{count} rows"
        for name, limit in LIMITS.items():
            median = ratio([samples[name]], [samples[PLAIN]])
            verdicts.append(Verdict(f"{at}: p50 {name}", median.value, limit, True, spread=median))
            tail = samples[name].p99_ms / samples[PLAIN].p99_ms
            verdicts.append(Verdict(f"{at}: p99 {name}", tail, P99_LIMIT, True))
    return verdicts


@contextmanager
def _gateway(repo: Path, *options: str) -> Iterator[int]:
    with Server(
        *("hotfeast.server", "serve", "--repo", str(repo), "--bind", "127.0.0.1:0"),
        *("--registry-interval", "3600", *options),
        ready=r"(?m)^Hotfeast serves .* on 127\.0\.0\.1:(\d+) .*$",
    ) as server:
        yield server.port()
