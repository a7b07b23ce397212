"""Versions of a view side by side: read by number, as Feast keeps and names them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import market
import pandas as pd
import pytest
from aliased import dividing, request
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    ValueType,
)
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesRequest
from feast.protos.feast.serving.ServingService_pb2_grpc import ServingServiceStub
from feast.types import Float64, Int64
from feast_versions import FEAST, PINS_SERVICES
from processes import eventually
from served import Served, serve, serving, stop

from hotfeast.clients import HotfeastError
from hotfeast.hotpath.request import Request
from hotfeast.server.gateway import Settings
from hotfeast.server.local_redis import LocalRedis
from hotfeast.serving.v1 import serving_pb2

NOW = datetime.now(UTC).replace(microsecond=0)
USERS = [1, 2, 3]

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
source = FileSource(name="nowhere", path="nowhere.parquet", timestamp_field="event_timestamp")


pinned = pytest.mark.skipif(
    not PINS_SERVICES, reason=f"Feast {FEAST} cannot pin a service to a version"
)


def stats(*features: str, days: int = 2) -> FeatureView:
    fields = [Field(name=name, dtype=Int64) for name in ("user_id", *features)]
    return FeatureView(
        name="stats", entities=[user], ttl=timedelta(days=days), schema=fields, source=source
    )


def scaled(view: FeatureView, compute: Any) -> Any:
    decorate = on_demand_feature_view(
        sources=[view], schema=[Field(name="scaled", dtype=Int64)], mode="python", name="doubled"
    )
    return decorate(compute)


def in_pandas(name: str, view: FeatureView, compute: Any) -> Any:
    decorate = on_demand_feature_view(
        sources=[view], schema=[Field(name=name, dtype=Float64)], mode="pandas", name=name
    )
    return decorate(compute)


def halved(inputs: pd.DataFrame) -> pd.DataFrame:
    out = pd.DataFrame()
    out["halved"] = inputs["a"] / 2
    return out


def quartered(inputs: pd.DataFrame) -> pd.DataFrame:
    out = pd.DataFrame()
    out["halved"] = inputs["a"] / 4
    return out


def of_the_second(inputs: pd.DataFrame) -> pd.DataFrame:
    out = pd.DataFrame()
    out["of_the_second"] = inputs["a"] * 1.5 + inputs["b"]
    return out


def twice(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"scaled": [None if a is None else a * 2 for a in inputs["a"]]}


def thrice(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"scaled": [None if a is None else a * 3 for a in inputs["a"]]}


@pytest.fixture(scope="module")
def store(redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Three versions of one view with other rows in each, services on them."""
    folder = tmp_path_factory.mktemp("versions")
    registry = f"  path: {folder / 'registry.db'}\n  enable_online_feature_view_versioning: true\n"
    market.write_repository(folder, "versions", redis_server.address, registry)
    store = FeatureStore(repo_path=str(folder))
    versions = [stats("a"), stats("a", "b"), stats("b", "a", "c", days=5)]
    for number, view in enumerate(versions):
        store.apply([user, view])
        rows: dict[str, list[Any]] = {
            "user_id": USERS[: 3 - number],
            "event_timestamp": [NOW] * (3 - number),
        }
        for i, feature in enumerate(view.features):
            rows[feature.name] = [100 * number + 10 * i + u for u in rows["user_id"]]
        store.write_to_online_store("stats", pd.DataFrame(rows))
    if PINS_SERVICES:
        store.apply([FeatureService(name="old", features=["stats@v1"])])
        store.apply([FeatureService(name="both", features=["stats@v0", "stats@v1:b"])])
    store.apply([FeatureService(name="current", features=[versions[-1]])])
    store.apply([scaled(versions[-1], twice)])
    store.apply([scaled(versions[-1], thrice)])
    store.apply([in_pandas("halved", versions[-1], halved)])
    store.apply([in_pandas("halved", versions[-1], quartered)])
    second = stats("a", "b")
    second.projection.version_tag = 1
    store.apply([in_pandas("of_the_second", second, of_the_second)])
    return store


@pytest.fixture(scope="module")
def strict_gateway(store: FeatureStore) -> Iterator[Served]:
    with serving(store) as served:
        yield served


@pytest.fixture(scope="module")
def feast_gateway(store: FeatureStore) -> Iterator[Served]:
    with serving(store, "feast") as served:
        yield served


SELECTIONS: list[Any] = [
    (["stats@v0:a"], False),
    (["stats@v1:a", "stats@V1:b"], True),
    (["stats@v0:a", "stats@v1:b", "stats@v2:c"], False),
    (["stats@v0:a", "stats@v1:a", "stats@v2:a", "stats:a"], True),
    (["stats@latest:c", "stats:a"], False),
    pytest.param("old", False, marks=pinned),
    pytest.param("old", True, marks=pinned),
    pytest.param("both", True, marks=pinned),
    ("current", False),
    ("current", True),
]


@pytest.mark.parametrize(("selection", "full"), SELECTIONS)
def test_feast_mode_is_the_sdk_answer(
    store: FeatureStore, feast_gateway: Served, selection: str | list[str], full: bool
) -> None:
    features: Any = selection
    request = GetOnlineFeaturesRequest(
        full_feature_names=full, include_feature_view_version_metadata=True
    )
    if isinstance(selection, str):
        features = store.get_feature_service(selection)
        request.feature_service = selection
    else:
        request.features.val.extend(selection)
    for u in [*USERS, 9]:
        request.entities["user_id"].val.add(int64_val=u)
    theirs = store.get_online_features(
        features,
        [{"user_id": u} for u in [*USERS, 9]],
        full_feature_names=full,
        include_feature_view_version_metadata=True,
    ).proto
    ours = ServingServiceStub(feast_gateway.channel).GetOnlineFeatures(request)
    assert ours.metadata.feature_view_metadata == theirs.metadata.feature_view_metadata
    by_name = dict(zip(theirs.metadata.feature_names.val, theirs.results, strict=True))
    assert len(ours.results) == len(by_name)
    for name, vector in zip(ours.metadata.feature_names.val, ours.results, strict=True):
        assert vector == by_name[name], name


@pytest.mark.parametrize(
    ("selection", "full", "expected"),
    [
        (["stats@v0:a"], False, {"a": [1, 2, 3]}),
        (["stats@v1:a", "stats@v2:b"], False, {"a": [101, 102, None], "b": [201, None, None]}),
        (["stats:c", "stats@v0:a"], False, {"c": [221, None, None], "a": [1, 2, 3]}),
        (
            ["stats@v1:a", "stats:a"],
            True,
            {"stats@v1__a": [101, 102, None], "stats__a": [211, None, None]},
        ),
        pytest.param("old", False, {"a": [101, 102, None], "b": [111, 112, None]}, marks=pinned),
        pytest.param(
            "both",
            True,
            {"stats@v0__a": [1, 2, 3], "stats@v1__b": [111, 112, None]},
            marks=pinned,
        ),
        # Feast's Python code would read the rows of version 0 here.
        (
            "current",
            False,
            {"b": [201, None, None], "a": [211, None, None], "c": [221, None, None]},
        ),
        (["doubled:scaled"], False, {"scaled": [633, None, None]}),
        (["doubled@v0:scaled"], False, {"scaled": [422, None, None]}),
    ],
)
def test_strict_mode_reads_each_version(
    strict_gateway: Served,
    selection: str | list[str],
    full: bool,
    expected: dict[str, list[int | None]],
) -> None:
    answer = strict_gateway.client.get_online_features(
        selection, {"user_id": USERS}, full_feature_names=full
    )
    values = answer.to_dict()
    del values["user_id"]
    assert values == expected


@pytest.mark.parametrize("transforms", ["kernel", "python"])
def test_versions_of_on_demand_views(store: FeatureStore, transforms: str) -> None:
    """Of the view's own function, and of the rows that it is computed from."""
    served = serve(store, Settings(repo=Path(store.repo_path), transforms=transforms))
    try:
        references = ["halved:halved", "halved@v0:halved", "of_the_second:of_the_second"]
        request = serving_pb2.GetOnlineFeaturesRequest(
            features=serving_pb2.FeatureList(val=references), full_feature_names=True
        )
        book = served.gateway.registry.book
        parsed = Request(request.SerializeToString())
        by_kernel = transforms == "kernel"
        book.find(parsed)
        if by_kernel:
            eventually(lambda: book.find(parsed).computation is not None)
        reads = book.find(parsed).on_demand
        assert [read.kernel is not None for read in reads] == [by_kernel] * 3
        if by_kernel:
            # The rows of the very versions.
            assert [read.proved.stored for read in reads if read.proved] == [1, 1, 2]
        answer = served.client.get_online_features(
            references, {"user_id": USERS}, full_feature_names=True
        )
        values = answer.to_dict()
        del values["user_id"]
        assert values == {
            "halved__halved": [211 / 4, None, None],
            "halved@v0__halved": [211 / 2, None, None],
            "of_the_second__of_the_second": [101 * 1.5 + 111, 102 * 1.5 + 112, None],
        }
    finally:
        stop(served)


@pytest.mark.parametrize(
    ("reference", "code", "parts"),
    [
        ("stats@v3:a", "NOT_FOUND", ["'stats' has no version v3", "v0, v1, v2"]),
        ("stats@v0:b", "NOT_FOUND", ["'stats@v0'", "'b'"]),
        ("stat@v1:b", "NOT_FOUND", ["'stat'", "did you mean 'stats'"]),
        ("stats@1:a", "NOT_FOUND", ["'stats@1'"]),
    ],
)
def test_what_is_not_there_is_named(
    strict_gateway: Served, reference: str, code: str, parts: list[str]
) -> None:
    with pytest.raises(HotfeastError) as caught:
        strict_gateway.client.get_online_features([reference], {"user_id": [1]})
    assert caught.value.code.name == code
    assert all(part in str(caught.value) for part in parts)


def test_a_version_that_is_only_declared_is_served_once_it_is_there(
    store: FeatureStore, strict_gateway: Served
) -> None:
    """`feast apply --no-promote`: a new version without becoming the current one."""
    watch = strict_gateway.gateway.registry
    before = watch.book.generation
    store.registry.apply_feature_view(stats("d"), store.project, no_promote=True)
    assert watch.look()
    assert watch.book.generation == before + 1
    answer = strict_gateway.client.get_online_features(["stats@v3:d", "stats:a"], {"user_id": [1]})
    assert answer.to_dict() == {"user_id": [1], "d": [None], "a": [211]}


def test_an_alias_divides_requests_over_versions_of_a_view(
    store: FeatureStore, tmp_path: Path
) -> None:
    text = "stats: {stats@v1: 50, stats@latest: 50}\nfixed: {current: 100}\n"
    with dividing(store, tmp_path / "aliases.yaml", text) as (_, traffic):
        features = {
            "stats@v1": ["a", "b"], "stats@latest": ["b", "a", "c"], "current": ["b", "a", "c"]
        }  # fmt: skip
        targets = set()
        for user in range(1, 30):
            for alias in ("stats", "fixed"):
                read = traffic.read(alias, user)
                targets.add(read.target)
                references = [f"{read.target}:{name}" for name in features[read.target]]
                if read.target == "current":
                    references = [f"stats:{name}" for name in features["current"]]
                message = serving_pb2.GetOnlineFeaturesRequest.FromString(request("", user))
                message.features.val.extend(references)
                read.answer.metadata.ClearField("feature_service")
                assert read.answer == traffic.send(message.SerializeToString()).answer
        assert targets == set(features)
        for target, words in (
            ("stats@v9", "has no version v9; it has v0, v1, v2"),
            ("doubled@v0", "'doubled@v0' is an on-demand feature view; make a feature service"),
            ("stats", "no feature service 'stats'"),
        ):
            with pytest.raises(grpc.RpcError) as failed:
                traffic.set("stats", {target: 100})
            error: Any = failed.value
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert words in error.details()
