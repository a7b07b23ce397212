"""What aliases cost a request, and whether versions can be changed under load.

*Cost*: one request of 50 features at a time, metrics on, for an alias and for a feature service by
its own name, alternately over one connection: two connections to one gateway differ by more than an
alias costs. So it is done over many connections, and the median counts of the ratios that these
give. Two gateways differ by even more; so what having aliases costs a request for a service by its
own name, beside a gateway without any, is what the gateway itself takes for an answer when it is
never idle (`h2load`), as a share of what a lone request takes. The same is told of aliases.

*Load*: two workers serve the demonstration's data at 1,000 requests a second, from two versions of
a service, of which the second has a fault in one feature. Its share grows step by step from nothing
to all; then the change is rolled back. One alias divides requests by household and product, which
are many, so that shares can be told; another one by household.

Writes `aliases.json`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import polars as pl
from feast import FeatureService, FeatureStore
from rich.table import Table

from bench import OUT
from bench.alias_views import FEATURE, GONE, NEW, OLD, apply_versions
from bench.data import ENTITIES, FIVE_VIEWS, Rows, make_requests
from bench.demonstration import AS_OF, REPO, open_demonstration
from bench.h2load import NEEDED, Pattern, Target, find, shoot
from bench.load import Load, open_load
from bench.measure import Ratio, machine, no_garbage_collection, write_json
from bench.processes import OUR_METHOD, Server, caller
from bench.stores import Encoding, open_store
from bench.verdict import Verdict
from hotfeast.clients import FeatureClient, HotfeastError
from hotfeast.hotpath.request import Request
from hotfeast.hotpath.split import Split
from hotfeast.serving.v1 import serving_pb2, traffic_pb2, traffic_pb2_grpc, value_pb2

PLAIN, NAMED, ALIASED = "no aliases", "by name", "alias"
P50_LIMIT = 1.01
"""Of the median, as a multiple of the other's."""
RATE = 1000
"""Requests a second."""
STEPS = (1, 5, 10, 25, 50, 75, 100)
"""Shares of the new version, in percent."""

_REQUESTS = 500
_CALLS = {1: 150, 100: 40}
# Before they are timed, over each connection.
_WARM_CALLS = 20
_ALIAS = "views_x"
# Turns of each contender with h2load, and how long one is.
_SHOTS = 20
_SECONDS_OF_A_SHOT = 0.5
_CONNECTIONS = 4
_WORKERS = 2
# Households and products that are asked for.
_PAIRS = 40_000
_SECONDS_OF_A_ROLLBACK = 1.0
_BY_PAIR, _BY_USER = "by_pair", "by_user"
_EVERY_BY_USER = 4
# The tag of `GetOnlineFeaturesResponseMetadata.feature_service`.
_ANSWERED_BY = b"\xb2\x06"
# Seconds in which all workers have a change.
_SETTLE = 1.0

Medians = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """What happened while a share was in force.

    Attributes:
        share: Of the new version, in percent.
        measured: The same, as it was.
        requests: That it was measured of.
    """

    share: float
    measured: float
    requests: int


def run(
    entities: int = ENTITIES,
    rounds: int = 60,
    seconds: float = 20.0,
    say: Callable[[str], None] = print,
) -> tuple[list[Step], list[Verdict]]:
    """Measures, judges, and writes the results.

    Args:
        entities: How many there are for the costs.
        rounds: Connections to each gateway.
        seconds: How long each share is in force.
        say: Is told what is going on.
    """
    costs, busy = measure_costs(entities, rounds, say)
    verdicts = judge_costs(costs, busy)
    steps, of_load = run_load(seconds, say)
    verdicts += of_load
    write_json(
        OUT / "aliases.json",
        {
            "machine": machine(),
            "entities": entities,
            "latency": [cost.as_dict() for cost in costs],
            "busy_ms": busy,
            "steps": [vars(step) for step in steps],
            "budgets": [verdict.as_dict() for verdict in verdicts],
        },
    )
    return steps, verdicts


# ---------------------------------------------------------------- costs


@dataclass(frozen=True)
class Cost:
    """What one more name costs, at one size of requests.

    Attributes:
        rows: Of a request.
        plain: Milliseconds of each connection's median request to the gateway without aliases.
        named: The same of requests by a service's own name, to the gateway with aliases.
        aliased: The same of requests for the alias, over the same connections.
    """

    rows: int
    plain: Medians
    named: Medians
    aliased: Medians

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        medians = {PLAIN: self.plain, NAMED: self.named, ALIASED: self.aliased}
        return {
            "rows": self.rows,
            "p50_ms": {name: round(float(np.median(m)), 4) for name, m in medians.items()},
        }


def measure_costs(
    entities: int, rounds: int, say: Callable[[str], None]
) -> tuple[list[Cost], dict[str, float]]:
    """Asks gateways with and without aliases in turns; arguments as for `run`.

    Returns:
        What the client in Python saw, and milliseconds for an answer of 1 row by contender where
        the gateway is never idle; nothing of that without h2load.
    """
    rows = Rows.make(entities)
    say(f"loading {entities:,} entities, starting two gateways")
    costs: list[Cost] = []
    busy: dict[str, float] = {}
    program = find()
    if program is None:
        say(NEEDED)
    with (
        open_store(rows, Encoding.HASH_TABLE) as stored,
        TemporaryDirectory() as folder,
        ExitStack() as stack,
    ):
        store = FeatureStore(repo_path=str(stored.repo))
        features = store.get_feature_service(FIVE_VIEWS).feature_view_projections
        views = [store.get_feature_view(p.name) for p in features]
        store.apply(FeatureService(name="views_v2", features=views))
        aliases = Path(folder) / "aliases.yaml"
        aliases.write_text(f"{_ALIAS}: {{{FIVE_VIEWS}: 90, views_v2: 10}}\n")
        plain = stack.enter_context(_gateway(stored.repo))
        with_aliases = stack.enter_context(_gateway(stored.repo, "--aliases", str(aliases)))
        for count, calls in _CALLS.items():
            say(f"requests of {count}")
            named, aliased = (
                make_requests(rows, count, _REQUESTS, service) for service in (FIVE_VIEWS, _ALIAS)
            )
            costs.append(_cost(count, plain, with_aliases, named, aliased, rounds, calls))
        if program is not None:
            say("requests of 1, from h2load")
            call = caller(stack, plain, OUR_METHOD)
            asked = {PLAIN: (plain, FIVE_VIEWS), NAMED: (with_aliases, FIVE_VIEWS),
                     ALIASED: (with_aliases, _ALIAS)}  # fmt: skip
            targets = {
                name: Target(
                    port, OUR_METHOD, make_requests(rows, 1, 1, service)[0],
                    len(call(make_requests(rows, 1, 1, FIVE_VIEWS)[0])),
                )
                for name, (port, service) in asked.items()
            }  # fmt: skip
            busy = _shoot_in_turns(program, targets)
    return costs, busy


def _cost(
    rows: int,
    plain: int,
    with_aliases: int,
    named: Sequence[bytes],
    aliased: Sequence[bytes],
    rounds: int,
    calls: int,
) -> Cost:
    """Asks over `rounds` connections to each gateway, `calls` requests of a kind over each."""
    medians: tuple[list[float], list[float], list[float]] = ([], [], [])
    with no_garbage_collection():
        for _ in range(rounds):
            medians[0].append(_alternate(plain, (named,), calls)[0])
            for kept, median in zip(
                medians[1:], _alternate(with_aliases, (named, aliased), calls), strict=True
            ):
                kept.append(median)
    return Cost(rows, *map(np.array, medians))


def _alternate(port: int, kinds: Sequence[Sequence[bytes]], calls: int) -> list[float]:
    """Asks over a new connection for one of each kind in turn; medians in milliseconds."""
    times: list[list[float]] = [[] for _ in kinds]
    with ExitStack() as stack:
        call = caller(stack, port, OUR_METHOD)
        for turn in range(-_WARM_CALLS, calls):
            # Who comes second finds the rows in the processor's caches.
            order = range(len(kinds)) if turn % 2 else reversed(range(len(kinds)))
            for kind in order:
                began = time.perf_counter()
                call(kinds[kind][turn % len(kinds[kind])])
                if turn >= 0:
                    times[kind].append(1e3 * (time.perf_counter() - began))
    return [float(np.median(taken)) for taken in times]


def _shoot_in_turns(program: str, targets: dict[str, Target]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in targets}
    for _ in range(_SHOTS):
        for name, target in targets.items():
            shot = shoot(program, target, Pattern(4, 16), _SECONDS_OF_A_SHOT)
            times[name].append(1e3 / shot.rate)
    return {name: float(np.median(taken)) for name, taken in times.items()}


def judge_costs(costs: Sequence[Cost], busy: dict[str, float]) -> list[Verdict]:
    """Holds the costs against the budget.

    Args:
        costs: What the client in Python saw.
        busy: Milliseconds for an answer of 1 row of a gateway that is never idle; empty where that
            could not be measured.
    """
    verdicts = []
    for cost in costs:
        at = "1 row" if cost.rows == 1 else f"{cost.rows} rows"
        each = cost.aliased / cost.named
        seen = Ratio(float(np.median(each)), *map(float, np.percentile(each, [25, 75])))
        # Of a median, were the ratios normally distributed.
        error = 1.25 * float(np.std(each)) / len(each) ** 0.5
        verdicts.append(
            Verdict(
                f"{at}: p50, {ALIASED} / {NAMED}", seen.value, P50_LIMIT, True, spread=seen,
                note=f"give or take {error:.3f}",
            )
        )  # fmt: skip
    if busy:
        lone = float(np.median(costs[0].plain))
        for name, other in ((ALIASED, NAMED), (NAMED, PLAIN)):
            more = busy[name] - busy[other]
            verdicts.append(
                Verdict(
                    f"gateway's time: {name} / {other}", 1 + more / lone, P50_LIMIT, True,
                    note=f"{1e3 * more:+.1f} us",
                )
            )  # fmt: skip
    return verdicts


@contextmanager
def _gateway(repo: Path, *options: str) -> Iterator[int]:
    with Server(
        *("hotfeast.server", "serve", "--repo", str(repo), "--bind", "127.0.0.1:0"),
        *("--registry-interval", "3600", "--metrics", "127.0.0.1:0", *options),
        ready=r"(?m)^Hotfeast serves .* on 127\.0\.0\.1:(\d+) .*$",
    ) as server:
        yield server.port()


# ---------------------------------------------------------------- load


@dataclass(frozen=True)
class _Change:
    """A share, and when it was asked for and confirmed, in seconds since the load began."""

    share: float
    asked: float
    confirmed: float


def run_load(seconds: float, say: Callable[[str], None]) -> tuple[list[Step], list[Verdict]]:
    """Changes shares under load, and judges what became of the requests.

    Args:
        seconds: How long each share is in force.
        say: Is told what is going on.
    """
    with ExitStack() as stack:
        store = stack.enter_context(open_demonstration(say))
        apply_versions(store, "recommendation")
        folder = Path(stack.enter_context(TemporaryDirectory()))
        aliases = folder / "aliases.yaml"
        aliases.write_text(
            f"{_BY_PAIR}: {{{OLD}: 100, {NEW}: 0}}\n"
            f"{_BY_USER}: {{targets: {{{OLD}: 100, {NEW}: 0}}, sticky_by: user_id, "
            f"shadow: {{target: {NEW}, share: 5%}}}}\n"
        )
        options = ("--aliases", str(aliases), "--refuse-sunset", "--workers", str(_WORKERS))
        repo = Path(store.repo_path)
        port = stack.enter_context(_gateway(repo, *options, "--as-of", AS_OF.isoformat()))
        pairs = _pairs()
        requests = [_request(_alias(n), *pair) for n, pair in enumerate(pairs)]
        say(f"{len(requests):,} households and products, {RATE:,} requests a second")
        load = stack.enter_context(
            open_load(port, OUR_METHOD, requests, RATE, _CONNECTIONS, _ANSWERED_BY)
        )
        with _Traffic(port) as traffic:
            length = seconds * (len(STEPS) + 1) + _SETTLE
            start = load.begin(length)
            changes = []
            for n, share in enumerate(STEPS):
                time.sleep(max(start + seconds * n - time.time(), 0))
                say(f"{share}% of the new version")
                changes.append(traffic.change(partial(traffic.set, share), share, start))
            time.sleep(max(start + seconds * len(STEPS) - time.time(), 0))
            say("back")
            back = traffic.change(traffic.roll_back, STEPS[-2], start)
            done = load.finish(may_fail=True)
            different = traffic.different()
        steps, verdicts = _judge_load(_Sides(done, requests), changes, back, pairs)
        failures = sum(done.failures.values())
        verdicts = [
            Verdict("failed requests", failures, 0, True, "", note=str(done.failures or "")),
            *verdicts,
            Verdict(
                "features found to differ by shadow reads", len(different), 1, True, "",
                note=", ".join(different),
            ),
            Verdict("the one with the fault is it", FEATURE in different, 1, False, ""),
            Verdict("a service past its sunset is refused", _refuses(port), 1, False, ""),
        ]  # fmt: skip
    return steps, verdicts


class _Traffic:
    def __init__(self, port: int) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._stub: Any = traffic_pb2_grpc.TrafficStub(self._channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> "_Traffic":
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def change(self, make: Callable[[], None], share: float, start: float) -> _Change:
        asked = time.time()
        make()
        return _Change(share, asked - start, time.time() - start)

    def set(self, share: float) -> None:
        for alias in self._stub.ListAliases(traffic_pb2.ListAliasesRequest()).aliases:
            for target in alias.targets:
                target.share = share if target.name == NEW else 100 - share
            self._stub.SetAlias(traffic_pb2.SetAliasRequest(alias=alias))

    def roll_back(self) -> None:
        for name in (_BY_PAIR, _BY_USER):
            self._stub.RollbackAlias(traffic_pb2.RollbackAliasRequest(name=name))

    def different(self) -> list[str]:
        """Features that shadow reads found to differ."""
        found = self._stub.CompareShadows(traffic_pb2.CompareShadowsRequest()).comparisons
        return sorted(
            {
                feature.name
                for comparison in found
                for feature in comparison.features
                if feature.different or feature.missing or feature.added
            }
        )


def _pairs() -> list[tuple[int, int]]:
    """Households and products of the demonstration, in a random order."""
    rows = pl.read_parquet(REPO / "data" / "user_product_interactions.parquet")
    found = rows.select("user_id", "product_id").unique().sort("*").rows()
    order = np.random.default_rng(20240501).permutation(len(found))[:_PAIRS]
    return [found[n] for n in order]


def _alias(turn: int) -> str:
    return _BY_USER if turn % _EVERY_BY_USER == 0 else _BY_PAIR


def _request(service: str, user: int, product: int) -> bytes:
    request = serving_pb2.GetOnlineFeaturesRequest(feature_service=service)
    for name, value in (("user_id", user), ("product_id", product)):
        request.entities[name].CopyFrom(
            value_pb2.RepeatedValue(val=[value_pb2.Value(int64_val=value)])
        )
    return request.SerializeToString()


class _Sides:
    """Which version each request had, and which it should have had."""

    def __init__(self, load: Load, requests: Sequence[bytes]) -> None:
        self.due = load.due
        self.answered = load.due + load.latency / 1e3
        self.on_new = np.array([said == NEW.encode() for said in load.said])
        self.turn = np.arange(len(load.due)) % len(requests)
        self.by_pair = np.array([_alias(int(turn)) == _BY_PAIR for turn in self.turn])
        self._parsed = [Request(request) for request in requests]

    def expected_new(self, share: float) -> npt.NDArray[np.bool_]:
        """For each request whether it goes to the new version at a share, by the hash alone."""
        targets = [(OLD, 100 - share), (NEW, share)]
        splits = {
            _BY_PAIR: Split(_BY_PAIR, targets, [("user_id",), ("product_id",)]),
            _BY_USER: Split(_BY_USER, targets, [("user_id",)]),
        }
        ring = [splits[_alias(n)].choose(each) == 1 for n, each in enumerate(self._parsed)]
        return np.array(ring)[self.turn]

    def within(self, change: _Change, end: float) -> npt.NDArray[np.bool_]:
        """The requests of a share, once it has settled."""
        inside: npt.NDArray[np.bool_] = self.due > change.confirmed + _SETTLE
        return inside & (self.due < end)


def _judge_load(
    sides: _Sides, changes: Sequence[_Change], back: _Change, pairs: Sequence[tuple[int, int]]
) -> tuple[list[Step], list[Verdict]]:
    steps, strays, last = [], 0, float(sides.due[-1])
    ends = [change.asked for change in [*changes[1:], back]] + [last]
    # Households that have been on the new version while it grew, and those that have left it.
    arrived: set[int] = set()
    gone: set[int] = set()
    for change, end in zip([*changes, back], ends, strict=True):
        inside = sides.within(change, end)
        strays += int((sides.on_new != sides.expected_new(change.share))[inside].sum())
        counted = inside & sides.by_pair
        measured = 100 * float(sides.on_new[counted].mean())
        steps.append(Step(change.share, measured, int(counted.sum())))
        if change is not back:
            for n in np.flatnonzero(inside & ~sides.by_pair):
                user = pairs[sides.turn[n]][0]
                if sides.on_new[n]:
                    arrived.add(user)
                elif user in arrived:
                    gone.add(user)
    worst = max(steps, key=lambda step: abs(step.measured - step.share))
    late = (sides.due > back.asked) & (sides.on_new != sides.expected_new(back.share))
    took = float((sides.answered[late] - back.asked).max()) if late.any() else 0.0
    return steps, [
        Verdict(
            "shares off by at most", abs(worst.measured - worst.share), 1, True, "%",
            note=f"{worst.measured:.2f}% of {worst.requests:,} requests for {worst.share:g}%",
        ),
        Verdict("answers of another version than the hash says", strays, 0, True, ""),
        Verdict(
            "households that left the new version while it grew", len(gone), 0, True, "",
            note=f"of {len(arrived):,}",
        ),
        Verdict("rollback in all workers", took, _SECONDS_OF_A_ROLLBACK, True, "s"),
    ]  # fmt: skip


def _refuses(port: int) -> bool:
    """Whether a service past its sunset is refused by name."""
    with FeatureClient(f"127.0.0.1:{port}", retries=None) as client:
        try:
            client.get_online_features(GONE, {"user_id": [1], "product_id": [1]})
        except HotfeastError as error:
            return error.code is grpc.StatusCode.FAILED_PRECONDITION and GONE in error.message
    return False


def table(steps: Sequence[Step]) -> Table:
    """The shares, as they should have been and as they were."""
    out = Table(title=f"{RATE:,} requests a second", title_justify="left", box=None)
    for head in ("share of the new version", "measured", "requests"):
        out.add_column(head, justify="right")
    for step in steps:
        out.add_row(f"{step.share:g}%", f"{step.measured:.2f}%", f"{step.requests:,}")
    return out
