"""Latency in a closed loop: one client, one request after another, all peers in turns.

By rows in a request, for 50 and 250 features, for keys that are asked for equally or as Zipf's law
has it, for numbers and strings, and with entities that are not stored.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.data import KeyType, Layout, Rows, Skew
from bench.measure import SHORT_WARM_UP, Samples, interleave_for, ratio
from bench.peers import Case, Contenders, Peer, echo_name, named, open_peers
from bench.servers import EchoKind
from bench.stores import Encoding, open_store
from bench.verdict import Verdict

BATCH = (
    Case("rows_1", 1, 200),
    Case("rows_10", 10, 100),
    Case("rows_100", 100, 50),
    Case("rows_1000", 1000, 10),
)
"""50 features, by rows."""
OTHERS = (
    Case("all_1", 1, 100, views=25),
    Case("all_100", 100, 20, views=25),
    Case("zipf_100", 100, 50, skew=Skew.ZIPF),
    Case("misses_5_100", 100, 50, misses=0.05),
    Case("misses_20_100", 100, 50, misses=0.2),
)
STRINGS = (Case("strings_1", 1, 200), Case("strings_100", 100, 50))
DESCRIPTIONS = {
    "rows_1": "1 row x 50",
    "rows_10": "10 rows x 50",
    "rows_100": "100 rows x 50",
    "rows_1000": "1,000 rows x 50",
    "all_1": "1 row x 250",
    "all_100": "100 rows x 250",
    "zipf_100": "100 x 50, Zipf",
    "misses_5_100": "100 x 50, 5% absent",
    "misses_20_100": "100 x 50, 20% absent",
    "strings_1": "1 x 50, string keys",
    "strings_100": "100 x 50, string keys",
}
"""By the case's name."""
PEERS = (Peer.FEAST, Peer.FEAST_HTTP, Peer.SDK, Peer.ECHO_AFTER_RAW)
STRING_ENTITIES = 10_000
"""At most so many entities with string keys, which are a store of their own."""

OVER_FLOOR = 1.05
"""At most this much above the best echo + raw read of the same layout."""
FASTER_AT_1 = 10.0
"""At least this much faster than Feast's gRPC server at 1 row."""
PACKED_FASTER_AT_100 = 25.0
PACKED_P99_FASTER_AT_100 = 60.0
"""In the packed layout at least this much faster than Feast's gRPC server at 100 rows."""
PACKED_P99_MS = {100: 2.0, 1000: 10.0}
"""In the packed layout at most this, by rows."""

ROUNDS = 20
# Seconds for each of the quick peers, and for each of Feast's, by case; 0 leaves Feast's others
# than the gRPC server out, which at 1,000 rows take half a second a call.
_SECONDS = {
    "rows_1": (1.5, 1.5, 1.5),
    "rows_10": (1.0, 1.5, 1.5),
    "rows_100": (2.0, 7.0, 2.0),
    "rows_1000": (2.5, 8.0, 0.0),
    "all_1": (0.7, 0.8, 0.8),
    "all_100": (1.2, 3.0, 0.0),
    "zipf_100": (1.0, 2.0, 0.0),
    "misses_5_100": (1.0, 2.0, 0.0),
    "misses_20_100": (1.0, 2.0, 0.0),
    "strings_1": (0.8, 0.8, 0.0),
    "strings_100": (1.0, 2.0, 0.0),
}
# A 99th percentile of fewer samples is hardly more than their maximum.
_ENOUGH_FOR_P99 = 100

Results = dict[str, dict[str, Samples]]
"""By case and contender."""


def planned(stores: int) -> float:
    """Seconds that the measurements take, without the starts of servers; two stores are Feast's."""
    quick, strings = 2 * stores + len(EchoKind) + 1, len(EchoKind) + 2
    seconds = 0.0
    for name, (each, feast, others) in _SECONDS.items():
        is_string = name.startswith("strings")
        contenders, feasts = (strings, 1) if is_string else (quick, 2)
        seconds += contenders * (each + SHORT_WARM_UP) + feasts * (feast + SHORT_WARM_UP)
        seconds += 2 * others
    return seconds


def measure(contenders: Contenders, cases: Sequence[Case], say: Callable[[str], None]) -> Results:
    """Measures cases with all the peers that are there."""
    results = {}
    for case in cases:
        say(f"closed loop: {DESCRIPTIONS[case.name]}")
        by_name = contenders[case.name]
        seconds = {name: _seconds(case, name) for name in by_name}
        results[case.name] = interleave_for(
            by_name, {name: s for name, s in seconds.items() if s}, ROUNDS
        )
    return results


def _seconds(case: Case, name: str) -> float:
    quick, feast, others = _SECONDS[case.name]
    if name.startswith((Peer.FEAST_HTTP, Peer.SDK)):
        return others
    return feast if name.startswith(Peer.FEAST) else quick


def measure_strings(entities: int, say: Callable[[str], None]) -> tuple[Results, str]:
    """Measures cases with string keys, which need a store of their own.

    Returns:
        The samples, and the label of the store.
    """
    say("loading entities with string keys, starting the servers")
    rows = Rows.make(min(entities, STRING_ENTITIES), KeyType.STRING)
    with (
        open_store(rows, Encoding.LISTPACK) as store,
        open_peers([store], STRINGS, [Peer.FEAST], list(EchoKind)) as contenders,
    ):
        return measure(contenders, STRINGS, say), store.label


def best_echo(samples: Mapping[str, Samples]) -> str:
    """The echo server with the lowest median."""
    return min(map(echo_name, EchoKind), key=lambda name: samples[name].p50_ms)


@dataclass(frozen=True)
class Line:
    """A case at one store: what a row of the table is made of."""

    case: str
    store: str
    samples: Mapping[str, Samples]
    feast: str

    @property
    def over_floor(self) -> float:
        """The gateway over the best echo and the raw read of the same layout."""
        return ratio([self.ours], [self.echo, self.raw]).value

    @property
    def ours(self) -> Samples:
        """The gateway's."""
        return self.samples[named(Peer.OURS, self.store)]

    @property
    def raw(self) -> Samples:
        """The raw read's."""
        return self.samples[named(Peer.RAW, self.store)]

    @property
    def echo(self) -> Samples:
        """The best echo server's."""
        return self.samples[best_echo(self.samples)]


def lines(results: Results, stores: Sequence[str]) -> list[Line]:
    """A line for each case and store; a layout that Feast cannot read is held against `stores[0]`.

    Args:
        results: The samples.
        stores: Labels; the first is one of Feast's layout.
    """
    found = []
    for case, samples in results.items():
        for store in stores:
            if named(Peer.OURS, store) in samples:
                feast = named(Peer.FEAST, store)
                if feast not in samples:
                    feast = named(Peer.FEAST, stores[0])
                found.append(Line(case, store, samples, feast))
    return found


def judge(results: Results, stores: Sequence[str]) -> list[Verdict]:
    """Holds the samples against the budgets."""
    verdicts = []
    batch = {case.name: case.rows for case in BATCH}
    for line in lines(results, stores):
        if line.case not in batch:
            continue
        rows, feast = batch[line.case], line.samples[line.feast]
        at = "1 row" if rows == 1 else f"{rows:,} rows"
        over = ratio([line.ours], [line.echo, line.raw])
        note = f"{line.ours.p50_ms:.3f} over {line.echo.p50_ms:.3f} + {line.raw.p50_ms:.3f} ms"
        verdicts.append(
            Verdict(
                f"{at}: p50, ours / (best echo + raw read)", over.value, OVER_FLOOR, True,
                store=line.store, spread=over, note=f"{note}; {best_echo(line.samples)}",
            )
        )  # fmt: skip
        faster = ratio([feast], [line.ours])
        note = f"{feast.p50_ms:.2f} and {line.ours.p50_ms:.3f} ms"
        packed = line.store == Layout.PACKED
        least = FASTER_AT_1 if rows == 1 else PACKED_FASTER_AT_100
        if rows == 1 or (rows == 100 and packed):
            verdicts.append(
                Verdict(
                    f"{at}: p50, Feast gRPC / ours", faster.value, least, False,
                    store=line.store, spread=faster, note=note,
                )
            )  # fmt: skip
        if packed and rows == 100:
            verdicts.append(
                Verdict(
                    f"{at}: p99, Feast gRPC / ours", feast.p99_ms / line.ours.p99_ms,
                    PACKED_P99_FASTER_AT_100, False, store=line.store,
                    note=f"{feast.p99_ms:.1f} and {line.ours.p99_ms:.2f} ms",
                )
            )  # fmt: skip
        if packed and rows in PACKED_P99_MS:
            limit = PACKED_P99_MS[rows]
            verdicts.append(Verdict(f"{at}: p99", line.ours.p99_ms, limit, True, "ms", line.store))
    return verdicts


def as_json(results: Results, stores: Sequence[str]) -> list[dict[str, Any]]:
    """The samples of each case, with ratios by store."""
    found: list[dict[str, Any]] = [
        {
            "case": DESCRIPTIONS[case],
            "latency": {name: s.as_dict() for name, s in samples.items()},
            "over_floor": {},
            "faster_than_feast": {},
        }
        for case, samples in results.items()
    ]
    by_case = dict(zip(results, found, strict=True))
    for line in lines(results, stores):
        over = ratio([line.ours], [line.echo, line.raw])
        faster = ratio([line.samples[line.feast]], [line.ours])
        by_case[line.case]["over_floor"][line.store] = over.as_dict()
        by_case[line.case]["faster_than_feast"][line.store] = faster.as_dict()
    return found


def to_markdown(results: Results, stores: Sequence[str]) -> str:
    """A table with a row for each case and store; milliseconds, p50 / p99."""
    heads = (
        "request", "store", "Hotfeast", "best echo", "raw read", "Feast gRPC", "Feast HTTP",
        "Feast SDK", "Hotfeast / (echo + raw)", "Feast gRPC / Hotfeast",
    )  # fmt: skip
    rows = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for line in lines(results, stores):
        others = (named(peer, line.store) for peer in (Peer.FEAST_HTTP, Peer.SDK))
        feast = line.samples[line.feast]
        cells = [
            DESCRIPTIONS[line.case],
            line.store,
            *map(_cell, (line.ours, line.echo, line.raw, feast)),
            *(_cell(line.samples[name]) if name in line.samples else "" for name in others),
            f"{line.over_floor:.2f} x",
            f"{ratio([feast], [line.ours]).value:.1f} x",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _cell(samples: Samples) -> str:
    if samples.rounds.size < _ENOUGH_FOR_P99:
        return f"{samples.p50_ms:.3g}"
    return f"{samples.p50_ms:.3g} / {samples.p99_ms:.3g}"
