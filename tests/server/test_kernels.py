"""Kernels in serving: the corpus through two gateways, one with kernels and one without."""

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import corpus_repo
import grpc
import pandas as pd
import pytest
import redis
from feast import FeatureStore
from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value as FeastValue
from feast.types import Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp
from figures import scrape
from processes import eventually, run_cli
from served import Served, serve, stop
from transform_corpus import CUSTOMER, REQUEST, TRANSFORMS, Transform

from hotfeast.hotpath.kernel import Computation, Kernel, Kind
from hotfeast.hotpath.request import Request
from hotfeast.server.gateway import Settings
from hotfeast.server.kernels import KernelMaker
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.lowering import Wanted, lower
from hotfeast.server.plan import ServingPlan, plan_features, plan_service
from hotfeast.server.proof import Differs, Original, prove
from hotfeast.server.registry import Definitions, RegistryReader
from hotfeast.server.tracing import trace
from hotfeast.server.transform_runs import VERIFY_EVERY
from hotfeast.server.watch import RegistryWatch
from hotfeast.serving.v1 import serving_pb2
from hotfeast.serving.v1.value_pb2 import Value

METHOD = "/hotfeast.serving.v1.FeatureServing/GetOnlineFeatures"
NOW = datetime.now(UTC).replace(microsecond=0)
CUSTOMERS = 40
COMPILED = [t for t in TRANSFORMS if not t.refusal]


@dataclass
class Corpus:
    """The corpus, served both ways."""

    store: FeatureStore
    definitions: Definitions
    kernels: Served
    python: Served

    def both(self, request: Any) -> tuple[Any, Any]:
        """Both answers, parsed, or the status and details of the errors."""
        data = request.SerializeToString()
        found: list[Any] = []
        for served in (self.kernels, self.python):
            try:
                found.append(
                    serving_pb2.GetOnlineFeaturesResponse.FromString(served.call(METHOD, data))
                )
            except grpc.RpcError as error:
                found.append((error.code(), error.details()))
        return found[0], found[1]


def _number(chance: random.Random, null: float, make: Any) -> Any:
    return None if chance.random() < null else make()


def customers(null: float) -> pd.DataFrame:
    """Rows of customers, with this share of nulls."""
    chance = random.Random(7)
    makers = {
        Int64: lambda: chance.choice((0, 1, 2, 3, 17, 40, 65, 99, 12345)),
        Int32: lambda: chance.choice((0, 300, 599, 600, 650, 799, 850)),
        Float64: lambda: chance.choice((0.0, 1.0, 12.5, 48.1371, 52.52, 500.0, 5000.0, -3.3, 1e6)),
        Float32: lambda: chance.choice((0.0, 0.25, 0.1, 1.0)),
        String: lambda: chance.choice(
            ("gold", "silver", "bronze", "DE", "CH", "Zürich", "", "a@gmail.com", "b@edu.example")
        ),
        Bool: lambda: chance.random() < 0.5,
        UnixTimestamp: lambda: NOW - timedelta(seconds=chance.randrange(10**9)),
    }
    columns: dict[str, Any] = {
        "customer_id": list(range(CUSTOMERS)),
        # Some rows are older than the view's TTL.
        "event_timestamp": [
            NOW - timedelta(days=5000 if i % 10 == 9 else 1) for i in range(CUSTOMERS)
        ],
    }
    for name, dtype in CUSTOMER.items():
        values = [_number(chance, null, makers[dtype]) for _ in range(CUSTOMERS)]
        if dtype in (Int64, Int32):
            columns[name] = pd.array(values, dtype="Int64" if dtype is Int64 else "Int32")
        elif dtype is Float32:
            columns[name] = pd.Series(values, dtype="float32")
        else:
            columns[name] = values
    return pd.DataFrame(columns)


@pytest.fixture(scope="module")
def corpus(redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    folder = tmp_path_factory.mktemp("corpus")
    store = corpus_repo.apply(folder, redis_server.address)
    store.write_to_online_store("customers", customers(0.15))
    reader = RegistryReader(store)
    definitions = reader.define(reader.read())
    settings = Settings(repo=folder, metrics=("127.0.0.1", 0), registry_interval=60)
    kernels = serve(store, settings)
    python = serve(store, Settings(repo=folder, transforms="python", registry_interval=60))
    yield Corpus(store, definitions, kernels, python)
    stop(kernels)
    stop(python)


def request_value(chance: random.Random, name: str, null: float) -> Value:
    if chance.random() < null:
        return Value()
    dtype = REQUEST[name]
    if dtype is Float64:
        return Value(double_val=chance.choice((0.0, 9.99, 50.0, 100.0, 1500.5, -1.0, 52.5)))
    if dtype is Int64:
        return Value(int64_val=chance.choice((0, 1, 3, 1_700_000_000, 1_750_003_600)))
    if dtype is String:
        return Value(string_val=chance.choice(("EUR", "JPY", "mobile", "Mobile", "web", "")))
    return Value(unix_timestamp_val=1_750_000_000 - chance.randrange(10**8))


def request_for(
    transform: Transform, chance: random.Random, ids: list[int], null: float, **settings: Any
) -> Any:
    request = serving_pb2.GetOnlineFeaturesRequest(**settings)
    if not request.HasField("features"):
        request.feature_service = f"serve_{transform.name}"
    request.entities["customer_id"].val.extend(Value(int64_val=i) for i in ids)
    for field in corpus_repo.request_fields(transform):
        request.request_context[field.name].val.extend(
            request_value(chance, field.name, null) for _ in ids
        )
    return request


def test_what_compiles_and_what_stays_with_pandas(corpus: Corpus) -> None:
    book = corpus.kernels.gateway.registry.book
    refusals = {t.name: book.transforms[t.name] for t in TRANSFORMS}
    compiled = {name for name, refusal in refusals.items() if not refusal}
    assert compiled == {t.name for t in COMPILED}
    for transform in TRANSFORMS:
        assert refusals[transform.name].startswith(transform.refusal)
    assert len(TRANSFORMS) >= 40
    assert (len(compiled), len(TRANSFORMS) - len(compiled)) == (46, 10)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: t.name)
def test_both_ways_give_one_answer(corpus: Corpus, transform: Transform) -> None:
    chance = random.Random(transform.name)
    answered = 0
    for round_ in range(24):
        rows = chance.choice((1, 1, 1, 2, 5, 30))
        # Ids beyond the last customer have no row.
        ids = [chance.randrange(CUSTOMERS + 5) for _ in range(rows)]
        request = request_for(
            transform,
            chance,
            ids,
            null=chance.choice((0.0, 0.0, 0.2)),
            full_feature_names=round_ % 2 == 1,
            include_stale_values=round_ % 3 == 1,
            allow_partial_response=round_ % 5 == 1,
        )
        ours, expected = corpus.both(request)
        # In full: what differs may be far down.
        assert ours == expected, f"{ours}\nby kernel, and by Python\n{expected}"
        answered += not isinstance(expected, tuple)
    assert answered > 4


def test_kernels_did_answer(corpus: Corpus) -> None:
    page = corpus.kernels.gateway.metrics_page
    assert page is not None
    chance = random.Random(1)
    for transform in COMPILED:
        before = scrape(page.url)
        # A customer whose row has nothing missing that the transform could not do without.
        for customer in range(CUSTOMERS):
            data = request_for(transform, chance, [customer], null=0.0).SerializeToString()
            with contextlib.suppress(grpc.RpcError):
                corpus.kernels.call(METHOD, data)
        after = scrape(page.url)
        name = f'hotfeast_transform_runs_total{{path="kernel",view="{transform.name}"}}'
        assert after[name] > before.get(name, 0), transform.name


def test_features_beside_computed_ones(corpus: Corpus) -> None:
    chance = random.Random(3)
    transform = next(t for t in TRANSFORMS if t.name == "discount_eligibility")
    features = [
        "customers:city",
        f"{transform.name}:discounted",
        "customers:orders_30d",
        "click_through_rate:ctr",
    ]
    for full in (False, True):
        for _ in range(3):
            ids = [chance.randrange(CUSTOMERS + 2) for _ in range(6)]
            request = request_for(
                transform,
                chance,
                ids,
                null=0.0,
                full_feature_names=full,
                features=serving_pb2.FeatureList(val=features),
            )
            ours, expected = corpus.both(request)
            assert ours == expected
            assert len(ours.results) == 5


def test_each_view_has_its_own_way(corpus: Corpus) -> None:
    """A view without a kernel leaves the others theirs, in whatever order they are asked for."""
    page = corpus.kernels.gateway.metrics_page
    assert page is not None
    compiled, refused = "click_through_rate", "cut_into_bins"
    runs = 'hotfeast_transform_runs_total{{path="{}",view="{}"}}'.format
    chance = random.Random(9)
    book = corpus.kernels.gateway.registry.book
    orders = [
        [f"{compiled}:ctr", "customers:city", f"{refused}:age_bin"],
        [f"{refused}:age_bin", f"{compiled}:ctr", "capped_z_score:z_capped"],
    ]
    for features in orders:
        for full in (False, True):
            request = request_for(
                next(t for t in TRANSFORMS if t.name == "capped_z_score"),
                chance,
                [],
                null=0.0,
                full_feature_names=full,
                features=serving_pb2.FeatureList(val=features),
            )
            if "capped_z_score:z_capped" not in features:
                request.request_context.clear()
            # Rows without nulls, with them, too old, and none.
            for ids in ([1], [1, 2, 3, 9, CUSTOMERS + 1], [CUSTOMERS + 2]):
                del request.entities["customer_id"].val[:]
                request.entities["customer_id"].val.extend(Value(int64_val=i) for i in ids)
                for column in request.request_context.values():
                    del column.val[:]
                    column.val.extend([Value(double_val=20.0)] * len(ids))
                corpus.both(request)
                parsed = Request(request.SerializeToString())
                eventually(lambda parsed=parsed: book.find(parsed).computation is not None)
                before = scrape(page.url)
                ours, expected = corpus.both(request)
                assert not isinstance(expected, tuple)
                assert ours == expected
                after = scrape(page.url)
                for path, view, more in (
                    ("kernel", compiled, 1), ("python", compiled, 0),
                    ("kernel", refused, 0), ("python", refused, 1),
                ):  # fmt: skip
                    name = runs(path, view)
                    assert after.get(name, 0) - before.get(name, 0) == more, name


def test_data_of_other_types_is_left_to_pandas(corpus: Corpus) -> None:
    chance = random.Random(5)
    transform = next(t for t in TRANSFORMS if t.name == "high_value_flag")
    request = request_for(transform, chance, [1, 2], null=0.0)
    for value in (
        Value(int64_val=2000),
        Value(string_val="x"),
        Value(float_val=0.5),
        Value(null_val="NULL"),
        Value(int64_val=2**60 + 1),
    ):
        request.request_context["amount"].val[0].CopyFrom(value)
        ours, expected = corpus.both(request)
        # In full: what differs may be far down.
        assert ours == expected, f"{ours}\nby kernel, and by Python\n{expected}"


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("high_value_flag", {}),
        ("high_value_flag", {"amount": 1}),
        ("high_value_flag", {"amount": 2, "other": 2}),
        ("high_value_flag", {"other": 2}),
        ("value_added_tax", {"amounts": 2}),
        ("capped_z_score", {"amount": 2, "channel": 2}),
    ],
)
def test_wrong_request_data_is_told_as_ever(
    corpus: Corpus, name: str, sent: dict[str, int]
) -> None:
    transform = next(t for t in TRANSFORMS if t.name == name)
    request = request_for(transform, random.Random(5), [1, 2], null=0.0)
    request.request_context.clear()
    for field, rows in sent.items():
        request.request_context[field].val.extend([Value(double_val=1.0)] * rows)
    ours, expected = corpus.both(request)
    assert isinstance(ours, tuple)
    assert ours == expected


def test_a_corrupt_row_in_a_partial_answer(corpus: Corpus, redis_server: LocalRedis) -> None:
    transform = next(t for t in TRANSFORMS if t.name == "click_through_rate")
    definitions = corpus.definitions
    plan = plan_service(definitions, f"serve_{transform.name}", False)
    field = plan.compiled.definition.views[0].features[0].hash_field
    store = corpus.store
    store.write_to_online_store(
        "customers", customers(0).assign(customer_id=range(1000, 1000 + CUSTOMERS))
    )
    key = _redis_key(
        "corpus",
        EntityKey(join_keys=["customer_id"], entity_values=[FeastValue(int64_val=1003)]),
        entity_key_serialization_version=3,
    )
    host, _, port = redis_server.address.partition(":")
    with redis.Redis(host=host, port=int(port.split(",")[0])) as connection:
        connection.hset(key, field, b"\x20")
    for partial in (False, True):
        request = request_for(
            transform,
            random.Random(1),
            [1002, 1003, 1004],
            null=0.0,
            allow_partial_response=partial,
        )
        ours, expected = corpus.both(request)
        # In full: what differs may be far down.
        assert ours == expected, f"{ours}\nby kernel, and by Python\n{expected}"
        assert isinstance(ours, tuple) != partial


def test_feast_statuses(corpus: Corpus) -> None:
    folder = Path(corpus.store.repo_path)
    both = [
        serve(
            corpus.store,
            Settings(repo=folder, transforms=how, status_mode="feast", registry_interval=60),
        )
        for how in ("kernel", "python")
    ]
    try:
        chance = random.Random(11)
        for transform in COMPILED[::4]:
            ids = [chance.randrange(CUSTOMERS + 5) for _ in range(8)]
            data = request_for(transform, chance, ids, null=0.1).SerializeToString()
            answers = []
            for served in both:
                try:
                    answers.append(served.call(METHOD, data))
                except grpc.RpcError as error:
                    answers.append(f"{error.code()} {error.details()}".encode())
            assert answers[0] == answers[1]
    finally:
        for served in both:
            stop(served)


def test_a_kernel_is_made_once(corpus: Corpus) -> None:
    maker = KernelMaker()
    plans = [
        maker.prepare(
            corpus.definitions, plan_service(corpus.definitions, "serve_click_through_rate", full)
        )
        for full in (False, True)
    ]
    kernels: list[Kernel | None] = [plan.on_demand[0].kernel for plan in plans]
    assert kernels[0] is not None
    assert kernels[0] is kernels[1]
    listed = maker.prepare(
        corpus.definitions,
        plan_features(corpus.definitions, ["click_through_rate:ctr"], False),
    )
    assert listed.on_demand[0].kernel is kernels[0]


def test_a_wrong_kernel_is_told_and_does_no_harm(
    corpus: Corpus, caplog: pytest.LogCaptureFixture
) -> None:
    """Where verifying, the answer is Python's; the difference is counted and logged once."""
    folder = Path(corpus.store.repo_path)
    served = serve(
        corpus.store,
        Settings(repo=folder, transforms="verify", metrics=("127.0.0.1", 0), registry_interval=60),
    )
    try:
        assert served.gateway.metrics_page is not None
        url = served.gateway.metrics_page.url
        transform = next(t for t in TRANSFORMS if t.name == "high_value_flag")
        book = served.gateway.registry.book
        plan = book.service_plan("serve_high_value_flag")
        assert plan is not None
        assert plan.computation is not None

        def ask() -> None:
            request = request_for(transform, random.Random(1), [1, 2, 3], null=0.0)
            _, expected = corpus.both(request)
            found = serving_pb2.GetOnlineFeaturesResponse.FromString(
                served.call(METHOD, request.SerializeToString())
            )
            assert found == expected

        for _ in range(2 * VERIFY_EVERY):
            ask()
        assert mismatches(url, transform.name) == 0
        runs = scrape(url)
        for path, count in (("python", 2), ("kernel", 2 * VERIFY_EVERY - 2)):
            name = f'hotfeast_transform_runs_total{{path="{path}",view="{transform.name}"}}'
            assert runs[name] == count

        # The kernel of another comparison in its place.
        wrong = wrong_kernel(plan)
        key = (b"serve_high_value_flag", False)
        book._services[key] = replace(plan, computation=wrong)
        with caplog.at_level("ERROR", "hotfeast.server.transform_runs"):
            told = 0
            for _ in range(2 * VERIFY_EVERY):
                request = request_for(transform, random.Random(1), [1, 2, 3], null=0.0)
                request.request_context["amount"].val[0].double_val = 2000
                _, expected = corpus.both(request)
                found = serving_pb2.GetOnlineFeaturesResponse.FromString(
                    served.call(METHOD, request.SerializeToString())
                )
                told += found == expected
        assert told == 2
        assert mismatches(url, transform.name) == 2
        assert [r.getMessage() for r in caplog.records] == [
            "the kernel of on-demand view 'high_value_flag' answers something else than its Python "
            "function; serve with --transforms=python, and report it"
        ]

        # The same beside a view that has no kernel.
        listed = serving_pb2.FeatureList(
            val=["cut_into_bins:age_bin", f"{transform.name}:is_high_value"]
        )
        request = request_for(transform, random.Random(1), [1, 2, 3], null=0.0, features=listed)
        request.request_context["amount"].val[0].double_val = 2000
        _, expected = corpus.both(request)
        served.call(METHOD, request.SerializeToString())
        parsed = Request(request.SerializeToString())
        eventually(lambda: book.find(parsed).computation is not None)
        listed_plan = book.find(parsed)
        book._lists[parsed.selection_bytes, False] = replace(
            listed_plan, computation=wrong_kernel(listed_plan)
        )
        answers = [
            serving_pb2.GetOnlineFeaturesResponse.FromString(
                served.call(METHOD, request.SerializeToString())
            )
            for _ in range(2 * VERIFY_EVERY)
        ]
        assert answers.count(expected) == 2
        assert mismatches(url, transform.name) == 4
        assert mismatches(url, "cut_into_bins") == 0
    finally:
        stop(served)


def mismatches(url: str, view: str) -> float:
    return scrape(url).get(f'hotfeast_transform_mismatches_total{{view="{view}"}}', 0)


def wrong_kernel(plan: ServingPlan) -> Computation:
    """Says that low amounts are high, and high ones low."""

    def inverted(inputs: Any) -> Any:
        out = pd.DataFrame()
        out["is_high_value"] = (inputs["amount"] <= 1000).astype(int)
        return out

    graph = trace(inverted, ["amount"])
    lowered = lower(graph, {"amount": Kind.FLOAT64}, [Wanted("is_high_value", 4)])
    kernel = Kernel([("amount", Kind.FLOAT64)], lowered.programs, lowered.by_states)
    sent = [False] * sum(len(v.features) for v in plan.compiled.definition.views)
    fields = [("amount", 5, Kind.FLOAT64)]
    bound = [
        (kernel, ["amount"]) if read.view.name == "high_value_flag" else None
        for read in plan.on_demand
    ]
    return Computation(plan.compiled, bound, fields, sent, ["is_high_value"])


def test_a_kernel_that_is_not_equal_is_refused(corpus: Corpus) -> None:
    """The proof, given another function's kernel."""
    plan = plan_service(corpus.definitions, "serve_high_value_flag", False)
    read = plan.on_demand[0]

    def almost(inputs: Any) -> Any:
        out = pd.DataFrame()
        out["is_high_value"] = (inputs["amount"] >= 1000).astype(int)
        return out

    graph = trace(almost, ["amount"])
    lowered = lower(graph, {"amount": Kind.FLOAT64}, [Wanted("is_high_value", 4)])
    kernel = Kernel([("amount", Kind.FLOAT64)], lowered.programs, lowered.by_states)
    original = Original(read.view.on_demand, read.view.features, {"amount": 5})
    with pytest.raises(Differs, match="is_high_value is int64_val: 1 and not int64_val: 0"):
        prove(kernel, list(lowered.by_states), original, graph)


def test_kernels_of_feature_lists_are_made_off_the_request(corpus: Corpus) -> None:
    book = corpus.kernels.gateway.registry.book
    request = serving_pb2.GetOnlineFeaturesRequest(
        features=serving_pb2.FeatureList(val=["spend_growth:growth", "customers:tier"])
    )
    request.entities["customer_id"].val.extend([Value(int64_val=1), Value(int64_val=4)])
    first = corpus.both(request)
    parsed = Request(request.SerializeToString())
    eventually(lambda: book.find(parsed).computation is not None)
    second = corpus.both(request)
    assert first[0] == first[1] == second[0] == second[1]


def test_the_log_says_how_each_view_is_computed(
    corpus: Corpus, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "hotfeast.server.watch"):
        RegistryWatch(corpus.store, 60.0, kernels=KernelMaker())
    lines = [r.getMessage() for r in caplog.records]
    assert len(lines) == len(TRANSFORMS)
    said = "plan generation 1: on-demand view {!r} is computed by "
    assert said.format("click_through_rate") + "a kernel" in lines
    assert said.format("cut_into_bins") + "its Python function: uses pd.cut" in lines


def test_plan_command(corpus: Corpus) -> None:
    for service, kernel, words in (
        ("serve_click_through_rate", True, ["clicks", "impressions", "proved", "customer_id"]),
        ("serve_cut_into_bins", False, ["uses pd.cut", "age_bin"]),
    ):
        process = run_cli("plan", service, "--repo", corpus.store.repo_path)
        assert process.returncode == 0, process.stderr
        assert ("kernel" in process.stdout) == kernel
        assert ("Python" in process.stdout) != kernel
        text = " ".join(process.stdout.split())
        for word in words:
            assert word in text
    process = run_cli("plan", "serve_nothing", "--repo", corpus.store.repo_path)
    assert process.returncode == 2
    assert "serve_nothing" in process.stderr
