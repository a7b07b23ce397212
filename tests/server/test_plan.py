"""Plans: storage names as Feast has them, a bounded cache, and what cannot be planned."""

import dataclasses
from pathlib import Path

import pytest
from feast import FeatureStore
from feast.infra.online_stores.helpers import _mmh3
from hypothesis import given
from hypothesis import strategies as st

from hotfeast.hotpath.request import Request
from hotfeast.server.errors import RequestFailure
from hotfeast.server.plan import PlanBook, feature_hash_field, plan_service, time_hash_field
from hotfeast.server.registry import Definitions, Projection, read_definitions
from hotfeast.serving.v1 import serving_pb2


@pytest.fixture(scope="module")
def definitions(market_store: FeatureStore) -> Definitions:
    return read_definitions(FeatureStore(repo_path=str(Path(market_store.repo_path))))


def ask(*features: str, full: bool = False) -> Request:
    request = serving_pb2.GetOnlineFeaturesRequest(full_feature_names=full)
    request.features.val.extend(features)
    return Request(request.SerializeToString())


@given(st.text(min_size=1), st.text(min_size=1))
def test_hash_fields_are_feasts(view: str, feature: str) -> None:
    assert feature_hash_field(view, feature) == _mmh3(f"{view}:{feature}")
    assert time_hash_field(view) == f"_ts:{view}".encode()


def test_golden_hash_fields() -> None:
    """Literal bytes, so that a change of Feast's own function would show."""
    assert feature_hash_field("driver_stats", "conv_rate") == bytes.fromhex("fa731014")
    assert feature_hash_field("vue", "prénom") == bytes.fromhex("0794c4f0")


def test_feature_lists_are_planned_once_and_forgotten_at_the_bound(
    definitions: Definitions,
) -> None:
    book = PlanBook(definitions, generation=1, capacity=2)
    city, visits, spend = (f"user_stats:{name}" for name in ("city", "visits", "spend"))
    first = book.find(ask(city))
    assert book.find(ask(city)) is first
    assert book.find(ask(city, full=True)) is not first
    book.find(ask(city))
    book.find(ask(visits, spend))
    assert book.cached_lists == [((city,), False), ((visits, spend), False)]
    # The one that was used last is kept, whenever it was made.
    assert book.find(ask(city)) is first


def test_a_list_too_long_to_remember_is_served_all_the_same(definitions: Definitions) -> None:
    long = dataclasses.replace(
        definitions,
        views={
            "v" * 70_000: dataclasses.replace(definitions.views["user_stats"], name="v" * 70_000)
        },
    )
    book = PlanBook(dataclasses.replace(long, services={}), generation=1)
    plan = book.find(ask("v" * 70_000 + ":city"))
    assert plan.output_names == ("city",)
    assert book.cached_lists == []


def test_lists_in_use_are_planned_ahead_unless_they_went_away(definitions: Definitions) -> None:
    book = PlanBook(definitions, generation=2)
    kept, gone = ("user_stats:city",), ("user_stats:nothing",)
    book.plan_ahead([(kept, True), (gone, False)])
    assert book.cached_lists == [(kept, True)]
    with pytest.raises(RequestFailure, match="'nothing'"):
        book.find(ask(*gone))


def test_versions_are_part_of_the_storage_name_where_enabled(definitions: Definitions) -> None:
    view = dataclasses.replace(definitions.views["user_stats"], version=3)
    versioned = dataclasses.replace(
        definitions, versioned_storage=True, views={**definitions.views, "user_stats": view}
    )
    for state, name in ((definitions, "user_stats"), (versioned, "user_stats_v3")):
        read = plan_service(state, "part", False).compiled.definition.views[0]
        assert read.time_field == time_hash_field(name)
        assert read.features[0].hash_field == feature_hash_field(name, "spend")


def test_a_pinned_version_is_refused(definitions: Definitions) -> None:
    service = definitions.services["part"]
    pinned = Projection("user_stats", None, ("spend",), {}, 2)
    changed = dataclasses.replace(
        definitions,
        services={"part": dataclasses.replace(service, projections=(pinned,))},
    )
    with pytest.raises(RequestFailure, match="pinned version"):
        plan_service(changed, "part", False)
