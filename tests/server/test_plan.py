"""Plans: storage names as Feast has them, a bounded cache, and what cannot be planned."""

import dataclasses
from pathlib import Path

import market
import pytest
from feast import FeatureStore
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.utils import _parse_feature_ref
from hypothesis import given
from hypothesis import strategies as st

from hotfeast.hotpath.request import Request
from hotfeast.server.errors import RequestFailure
from hotfeast.server.plan import (
    PlanBook,
    feature_hash_field,
    parse_reference,
    plan_service,
    time_hash_field,
)
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


def test_a_pinned_version_needs_rows_kept_apart(definitions: Definitions) -> None:
    service = definitions.services["part"]
    pinned = Projection("user_stats", None, ("spend",), {}, 2)
    changed = dataclasses.replace(
        definitions,
        services={"part": dataclasses.replace(service, projections=(pinned,))},
    )
    with pytest.raises(RequestFailure, match="enable_online_feature_view_versioning"):
        plan_service(changed, "part", False)


@given(
    st.one_of(
        st.text(alphabet="v@:1Vlatest0 ", max_size=12),
        st.builds("{}@{}:{}".format, st.text(max_size=3), st.text(max_size=4), st.text(max_size=3)),
        st.builds("w@{}{}:f".format, st.sampled_from("vV"), st.integers(0, 10**6)),
    )
)
def test_references_are_read_as_feast_reads_them(reference: str) -> None:
    try:
        ours = parse_reference(reference)
    except RequestFailure:
        # Feast takes an empty view or feature; there can be none of that name.
        view, _, feature = reference.partition(":")
        assert not view or not feature
        return
    assert ours == _parse_feature_ref(reference)


def test_a_feature_that_was_dropped_is_named(definitions: Definitions) -> None:
    view = definitions.views["user_stats"]
    kept = tuple(f for f in view.features if f.name != "spend")
    changed = dataclasses.replace(
        definitions,
        views={**definitions.views, "user_stats": dataclasses.replace(view, features=kept)},
    )
    for service in ("part", "cart_service"):
        with pytest.raises(RequestFailure, match="'user_stats' no longer has the feature 'spend'"):
            plan_service(changed, service, False)


def test_a_view_that_cannot_be_loaded_leaves_the_others_alone(
    market_store: FeatureStore, tmp_path: Path
) -> None:
    registry = Registry.FromString((Path(market_store.repo_path) / "registry.db").read_bytes())
    for view in registry.on_demand_feature_views:
        if view.spec.name == "cart_share":
            function = view.spec.feature_transformation.user_defined_function
            function.body, function.body_text = b"", ""
    (tmp_path / "registry.db").write_bytes(registry.SerializeToString())
    market.write_repository(tmp_path, "market", "127.0.0.1:1")
    book = PlanBook(read_definitions(FeatureStore(repo_path=str(tmp_path))), generation=1)
    assert book.service_plan("everything") is not None
    assert set(book.failures) == {"cart_service", "hidden_service"}
    with pytest.raises(RequestFailure, match=r"'cart_share' cannot be loaded here \("):
        book.find(ask("cart_share:cart_share"))
