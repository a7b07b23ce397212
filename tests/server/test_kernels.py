"""Kernels in serving: the corpus through two gateways, one with kernels and one without."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
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
from served import Served, serve, stop
from transform_corpus import CUSTOMER, REQUEST, TRANSFORMS, Transform

from hotfeast.hotpath.kernel import Kernel
from hotfeast.server.gateway import Settings
from hotfeast.server.kernels import KernelMaker
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.plan import plan_features, plan_service
from hotfeast.server.registry import Definitions, RegistryReader
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
        assert ours == expected
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
            corpus.both(request_for(transform, chance, [customer], null=0.0))
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
        assert ours == expected


@pytest.mark.parametrize("sent", [{}, {"amount": 1}, {"amount": 2, "other": 2}, {"other": 2}])
def test_wrong_request_data_is_told_as_ever(corpus: Corpus, sent: dict[str, int]) -> None:
    transform = next(t for t in TRANSFORMS if t.name == "high_value_flag")
    request = request_for(transform, random.Random(5), [1, 2], null=0.0)
    request.request_context.clear()
    for name, rows in sent.items():
        request.request_context[name].val.extend([Value(double_val=1.0)] * rows)
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
        assert ours == expected
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
