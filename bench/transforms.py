"""What each of the demo's on-demand views adds to a request, beside Feast's SDK.

The rows are the demo's, in the demo's Redis, and the gateway is one of its own, asked over gRPC: a
request for a view's inputs, and the same request with the view on top. Feast's SDK is asked for the
same in this process, with the view as it is and with its equal in python mode. With and without
take turns, call by call; what is added is the difference in the median.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from feast import FeatureService, FeatureStore
from rich.table import Table

from bench import OUT
from bench.demonstration import AS_OF, REPO, open_demonstration
from bench.measure import Contender, interleave, machine, write_json
from bench.processes import OUR_METHOD as METHOD
from bench.processes import Server, caller
from bench.transform_views import BY_ROW, IN_PYTHON, cart_comparison_by_row, variant
from hotfeast.server.kernels import KernelMaker
from hotfeast.server.plan import PlanBook
from hotfeast.server.redis_pools import connection_pool
from hotfeast.server.registry import read_definitions
from hotfeast.server.stored_rows import StoredRows
from hotfeast.serving.v1 import serving_pb2
from hotfeast.serving.v1.value_pb2 import Value

BUDGETS_US = {1: 20.0, 100: 150.0}
"""Microseconds that a view with a kernel may add, by rows of the request."""

# Calls with and without the view by rows of the request, to the gateway and to Feast's SDK.
_CALLS = {1: (2000, 100), 100: (600, 40)}
_WARM_UP_SECONDS = 0.5
# The gateway looks at the stored hashes soon after a plan's first request.
_SETTLE_SECONDS = 0.5
# Different requests of each kind.
_RING = 20
_UNKNOWN = 999_999_999
# What views without stored inputs are measured on top of.
_ANYTHING = ("user_purchase_stats", ["baskets_count_30d"])


@dataclass(frozen=True)
class Case:
    """A kind of request.

    Attributes:
        name: In the table: its rows, and what is special about them.
        rows: Entities in a request.
        unknown: How many of them have no row.
        strangers: How many of the others are a household and a product that it does not buy.
        nulls: In how many of the rows a field of request data is null.
    """

    name: str
    rows: int
    unknown: int = 0
    strangers: int = 0
    nulls: int = 0


CASES = (
    Case("1", 1),
    Case("1, unknown", 1, unknown=1),
    Case("100, nulls", 100, unknown=10, strangers=60, nulls=10),
)


@dataclass(frozen=True)
class Added:
    """What one view adds to one kind of request, in microseconds.

    Attributes:
        view: Its name.
        case: The kind of request.
        by: How the gateway computes it, `kernel` or `Python`.
        ours: By the gateway.
        pandas, python: By Feast's SDK, as it is and in python mode; None where that fails.
    """

    view: str
    case: Case = field(repr=False)
    by: str
    ours: float
    pandas: float | None
    python: float | None

    @property
    def budget(self) -> float | None:
        """None for a view without a kernel."""
        return BUDGETS_US[self.case.rows] if self.by == "kernel" else None

    @property
    def kept(self) -> bool:
        """Whether it keeps its budget, if it has one."""
        return self.budget is None or self.ours <= self.budget

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "view": self.view,
            "case": self.case.name,
            "rows": self.case.rows,
            "by": self.by,
            "added_us": round(self.ours, 2),
            "feast_pandas_us": None if self.pandas is None else round(self.pandas, 1),
            "feast_python_us": None if self.python is None else round(self.python, 1),
            "budget_us": self.budget,
            "kept": self.kept,
        }


@contextmanager
def _demo(say: Callable[[str], None]) -> Iterator[FeatureStore]:
    """The demo's rows, and a registry that has more views and services."""
    with open_demonstration(say) as store:
        _apply(store)
        yield store


def _apply(store: FeatureStore) -> None:
    """Applies what is measured: for each view services without it, with it, and with its equal in
    python mode."""
    made: list[Any] = []
    for name, in_python in IN_PYTHON.items():
        view = store.get_on_demand_feature_view(name)
        sources = [
            store.get_feature_view(p.name)[[f.name for f in p.features]]
            for p in view.source_feature_view_projections.values()
        ]
        inputs = sources or [store.get_feature_view(_ANYTHING[0])[_ANYTHING[1]]]
        python = variant(view, sources, f"{name}_python", "python", in_python)
        taken = {f"without_{name}": [], f"with_{name}": [view], f"with_{name}_python": [python]}
        made.append(python)
        if name == "cart_comparison":
            by_row = variant(view, sources, BY_ROW, "pandas", cart_comparison_by_row)
            taken |= {f"with_{BY_ROW}": [by_row]}
            made.append(by_row)
        made += [FeatureService(name=n, features=[*inputs, *v]) for n, v in taken.items()]
    store.apply(made)


class _Asked:
    """Households, products, and what their requests say."""

    def __init__(self, data: Path) -> None:
        fresh = pl.col("event_timestamp") > AS_OF - timedelta(days=8)
        pairs, products, users = (
            pl.read_parquet(data / f"{view}.parquet").filter(fresh)
            for view in ("user_product_interactions", "product_popularity", "user_purchase_stats")
        )
        # Without any null, at which Feast's pandas fails in a request for one row.
        pairs = pairs.join(users.drop_nulls(), on="user_id", how="semi")
        pairs = pairs.join(products.drop_nulls(), on="product_id", how="semi")
        self._pairs = pairs.select("user_id", "product_id").unique().sort("*").rows()
        self._users = users["user_id"].unique().sort().to_list()
        self._products = products["product_id"].unique().sort().to_list()
        self._chance = np.random.default_rng(20171231)

    def rows(self, case: Case) -> list[dict[str, Any]]:
        """Entity rows with all request data, of one request."""
        made = []
        for row in range(case.rows):
            user, product = self._pairs[self._chance.integers(len(self._pairs))]
            if row < case.unknown:
                user = product = _UNKNOWN
            elif row < case.unknown + case.strangers:
                user = self._users[self._chance.integers(len(self._users))]
                product = self._products[self._chance.integers(len(self._products))]
            ago = timedelta(seconds=int(self._chance.integers(10**8)))
            null = row >= case.rows - case.nulls
            made.append(
                {
                    "user_id": user,
                    "product_id": product,
                    "cart_value_usd": int(self._chance.integers(12000)) / 100,
                    "cart_items_count": None if null else int(self._chance.integers(20)),
                    "requested_at": AS_OF - ago,
                    "promotion_min_cart_usd": int(self._chance.integers(100)) / 2,
                    "promotion_min_baskets_30d": int(self._chance.integers(12)),
                }
            )
        return made


def _request(service: str, rows: Sequence[Mapping[str, Any]], data: Sequence[str]) -> bytes:
    """A serialized request for entity rows; `data` are the columns that are request data."""
    request = serving_pb2.GetOnlineFeaturesRequest(feature_service=service)
    for name in rows[0]:
        column = request.request_context[name] if name in data else request.entities[name]
        column.val.extend(_value(row[name]) for row in rows)
    return request.SerializeToString()


def _value(value: Any) -> Value:
    if value is None:
        return Value()
    if isinstance(value, datetime):
        return Value(unix_timestamp_val=int(value.timestamp()))
    return Value(double_val=value) if isinstance(value, float) else Value(int64_val=value)


class _View:
    """One view, to be asked for in all ways."""

    def __init__(self, store: FeatureStore, name: str, call: Callable[[bytes], bytes]) -> None:
        self.name = name
        self._store = store
        self._call = call
        # The view without a kernel is another's equal.
        self._of = name.removesuffix("_by_row")
        view = store.get_on_demand_feature_view(self._of)
        self._outputs = [f.name for f in view.features]
        self._data = list(view.get_request_data_schema())
        sources = [p.name for p in view.source_feature_view_projections.values()]
        self._keys = {
            column.name
            for source in sources or [_ANYTHING[0]]
            for column in store.get_feature_view(source).entity_columns
        }

    def measure(self, case: Case, asked: Sequence[Sequence[Mapping[str, Any]]], by: str) -> Added:
        """What it adds to requests of one kind."""
        without = [self._cut(rows, ()) for rows in asked]
        with_data = [self._cut(rows, self._data) for rows in asked]
        sent = [
            [_request(f"without_{self._of}", rows, ()) for rows in without],
            [_request(f"with_{self.name}", rows, self._data) for rows in with_data],
        ]
        ours, feasts = _CALLS[case.rows]
        added = _added_us(
            Contender("without", self._call, sent[0], 1),
            Contender("with", self._call, sent[1], 1),
            ours,
        )
        plain = self._sdk(f"without_{self._of}")
        figures: list[float | None] = []
        for service in (f"with_{self.name}", f"with_{self._of}_python"):
            ask = self._sdk(service)
            try:
                for rows in with_data:
                    ask(rows)
            except TypeError:
                # A column of nothing but null has no type for Feast, and arithmetic on it fails.
                figures.append(None)
                continue
            figures.append(
                _added_us(
                    Contender("without", plain, without, 1),
                    Contender("with", ask, with_data, 1),
                    feasts,
                )
            )
        return Added(self.name, case, by, added, *figures)

    def settle(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Has the gateway choose the command that stored rows are read with: the same for both
        services, as they ask for the same."""
        for service, data in ((f"without_{self._of}", []), (f"with_{self.name}", self._data)):
            self._call(_request(service, self._cut(rows, data), data))

    def check(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Compares the answers of the gateway and of Feast's SDK in both modes.

        Raises:
            RuntimeError: They differ.
        """
        sent = self._cut(rows, self._data)
        answer = serving_pb2.GetOnlineFeaturesResponse.FromString(
            self._call(_request(f"with_{self.name}", sent, self._data))
        )
        columns = dict(zip(answer.metadata.feature_names.val, answer.results, strict=True))
        for service in (f"with_{self.name}", f"with_{self._of}_python"):
            theirs = self._sdk(service)(sent).to_dict()
            for name in self._outputs:
                for value, expected in zip(columns[name].values, theirs[name], strict=True):
                    kind = value.WhichOneof("val")
                    if not _same(getattr(value, kind) if kind else None, expected):
                        raise RuntimeError(f"{name}: {value} here and {expected} by {service}")

    def _cut(self, rows: Sequence[Mapping[str, Any]], data: Sequence[str]) -> list[dict[str, Any]]:
        wanted = [*sorted(self._keys), *data]
        return [{name: row[name] for name in wanted} for row in rows]

    def _sdk(self, service: str) -> Callable[[Any], Any]:
        found = self._store.get_feature_service(service)
        return lambda rows: self._store.get_online_features(found, rows)


def _same(value: Any, expected: Any) -> bool:
    if value is None or expected is None:
        return value is expected
    return math.isclose(value, expected, rel_tol=1e-12, abs_tol=1e-12)


def _added_us(without: Contender, with_view: Contender, calls: int) -> float:
    """The difference of two calls that take turns, in the median.

    Each asks for other entities than the one before: who reads the same keys right after another
    has them from the caches, and is 150 us faster at 100 rows.
    """
    half = len(with_view.items) // 2
    apart = replace(with_view, items=[*with_view.items[half:], *with_view.items[:half]])
    samples = interleave([without, apart], calls, _WARM_UP_SECONDS)
    rounds = samples["with"].round_medians_ms - samples["without"].round_medians_ms
    return float(np.median(rounds)) * 1000


def run(say: Callable[[str], None]) -> list[Added]:
    """Measures all views; writes `transforms.json`.

    Raises:
        RuntimeError: The gateway did not start, or answers otherwise than Feast's SDK.
    """
    results = []
    with ExitStack() as stack:
        store = stack.enter_context(_demo(say))
        server = stack.enter_context(
            Server(
                *("hotfeast.server", "serve", "--repo", str(store.repo_path)),
                *("--bind", "127.0.0.1:0", "--registry-interval", "86400"),
                *("--as-of", AS_OF.isoformat()),
                ready=r"(?m)^Hotfeast serves .* on 127\.0\.0\.1:(\d+) .*$",
            )
        )
        call = caller(stack, server.port(), METHOD)
        known = _Asked(REPO / "data")
        asked = {case: [known.rows(case) for _ in range(_RING)] for case in CASES}
        views = [_View(store, name, call) for name in (*IN_PYTHON, BY_ROW)]
        for view in views:
            view.settle(asked[CASES[0]][0])
        time.sleep(_SETTLE_SECONDS)
        for view in views:
            view.check(asked[CASES[-1]][0])
        compiled = _compiled(store)
        for view in views:
            for case in CASES:
                say(f"{view.name}: {case.name}")
                by = "kernel" if view.name in compiled else "Python"
                results.append(view.measure(case, asked[case], by))
    write_json(
        OUT / "transforms.json",
        {"machine": machine(), "added": [added.as_dict() for added in results]},
    )
    return results


def _compiled(store: FeatureStore) -> set[str]:
    """The views that the gateway has kernels of."""
    pool = connection_pool(store.config, None, timeout=1.0)
    book = PlanBook(read_definitions(store), 1, kernels=KernelMaker(StoredRows(pool)))
    pool.disconnect()
    return {name for name, refusal in book.transforms.items() if not refusal}


def table(results: list[Added]) -> Table:
    """Microseconds added, beside Feast's, with verdicts."""
    out = Table(
        title="Microseconds (p50) that an on-demand view adds: here, and in Feast's SDK in pandas "
        "and in python mode",
        title_justify="left",
    )
    for heading in ("view", "rows", "added", "pandas", "python", "budget"):
        justify: Any = "left" if heading in ("view", "rows") else "right"
        out.add_column(heading, justify=justify, no_wrap=True)
    for added in results:
        budget = added.budget
        verdict = f"{budget:.0f} {'kept' if added.kept else 'PAST'}" if budget else "no kernel"
        feasts = (added.pandas, added.python)
        out.add_row(
            *(added.view, added.case.name, f"{added.ours:,.1f}"),
            *("fails" if figure is None else f"{figure:,.0f}" for figure in feasts),
            verdict,
        )
    return out
