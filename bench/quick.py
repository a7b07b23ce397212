"""The budgets: what the gateway may cost, as ratios to what was measured beside it.

Feast's layout in both of Redis' encodings, and the packed layout, which Feast cannot read and which
is held against Feast on lists.

Writes `quick.json`.
"""

from collections.abc import Callable
from typing import Any

from rich.console import JustifyMethod
from rich.table import Table

from bench import OUT
from bench.data import ENTITIES, Layout, Rows
from bench.measure import Samples, interleave_for, machine, ratio, write_json
from bench.peers import Case, Peer, echo_name, named, open_peers
from bench.servers import EchoKind
from bench.stores import Encoding, open_store, open_stores
from bench.sweep import PACKED_FASTER_AT_100
from bench.verdict import Verdict

_ECHO = echo_name(EchoKind.SYNC)
_ROUNDS = 40
# Seconds for each peer.
_SECONDS = {1: 3.0, 100: 5.0}
CASES = (Case("rows_1", 1, 200), Case("rows_100", 100, 50))

OVER_FLOOR = 1.15
"""At most this much above echo + raw read, at 1 and at 100 rows, in each store."""
FASTER_AT_1 = 7.0
"""At least this much faster than Feast's gRPC server at 1 row, in each store."""
FASTER_AT_100 = {
    Encoding.LISTPACK.value: 4.0,
    Encoding.HASH_TABLE.value: 7.0,
    Layout.PACKED.value: PACKED_FASTER_AT_100,
}
"""At least this much faster than Feast's gRPC server at 100 rows, by store."""
P99_AT_100_MS = 10.0
"""At most this at 100 rows, in each store."""


Results = dict[str, dict[int, dict[str, Samples]]]
"""By the store's label, rows and contender."""


def _feast(store: str) -> str:
    """The Feast that a store is held against."""
    return named(Peer.FEAST, Encoding.LISTPACK if store == Layout.PACKED else store)


def judge(results: Results) -> list[Verdict]:
    """Holds the samples against every budget."""
    verdicts = []
    for store, by_rows in results.items():
        for rows, samples in by_rows.items():
            ours, feast = samples[named(Peer.OURS, store)], samples[_feast(store)]
            over = ratio([ours], [samples[_ECHO], samples[named(Peer.RAW, store)]])
            at = "1 row" if rows == 1 else f"{rows} rows"
            verdicts.append(
                Verdict(f"{at}: ours / floor", over.value, OVER_FLOOR, True, "x", store, over)
            )
            faster = ratio([feast], [ours])
            least = FASTER_AT_1 if rows == 1 else FASTER_AT_100[store]
            verdicts.append(
                Verdict(f"{at}: Feast / ours", faster.value, least, False, "x", store, faster)
            )
        p99 = by_rows[100][named(Peer.OURS, store)].p99_ms
        verdicts.append(Verdict("100 rows: p99", p99, P99_AT_100_MS, True, "ms", store))
    return verdicts


def run(
    entities: int = ENTITIES, say: Callable[[str], None] = print
) -> tuple[Results, list[Verdict]]:
    """Measures, judges, and writes the results.

    Args:
        entities: How many there are in Redis.
        say: Is told what is going on.

    Returns:
        The samples, and a verdict on every budget.
    """
    rows = Rows.make(entities)
    say(f"loading {entities:,} entities, starting the servers")
    with (
        open_stores(rows, list(Encoding)) as feast_stores,
        open_store(rows, Encoding.LISTPACK, Layout.PACKED) as packed_store,
    ):
        stores = [*feast_stores, packed_store]
        facts: dict[str, Any] = machine(stores[0].client)
        results: Results = {store.label: {} for store in stores}
        with open_peers(stores, CASES, [Peer.FEAST]) as contenders:
            for case in CASES:
                say(f"requests of {case.rows}")
                by_name = contenders[case.name]
                seconds = dict.fromkeys(by_name, _SECONDS[case.rows])
                samples = interleave_for(by_name, seconds, _ROUNDS)
                for store in stores:
                    results[store.label][case.rows] = samples
    verdicts = judge(results)
    write_json(
        OUT / "quick.json",
        {
            "machine": facts,
            "entities": entities,
            "latency": [
                {
                    "store": store,
                    "rows": count,
                    **{name: samples[name].as_dict() for name in _names(store)},
                }
                for store, by_rows in results.items()
                for count, samples in by_rows.items()
            ],
            "budgets": [v.as_dict() for v in verdicts],
        },
    )
    return results, verdicts


def _names(store: str) -> tuple[str, ...]:
    """The contenders in the order of the table."""
    return named(Peer.OURS, store), _feast(store), _ECHO, named(Peer.RAW, store)


def latency_table(results: Results) -> Table:
    """What was measured, in milliseconds."""
    table = Table(
        title="50 features over 5 views, ms p50 / p99",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for head in ("store", "rows", "Hotfeast", "Feast", "echo", "raw read"):
        justify: JustifyMethod = "left" if head == "store" else "right"
        table.add_column(head, justify=justify, no_wrap=True)
    for store, by_rows in results.items():
        for rows, samples in by_rows.items():
            cells = (samples[name] for name in _names(store))
            table.add_row(store, str(rows), *(f"{_ms(s.p50_ms)} / {_ms(s.p99_ms)}" for s in cells))
    return table


def _ms(milliseconds: float) -> str:
    """To three digits, or to the microsecond."""
    return f"{round(milliseconds, 3):.3g}"
