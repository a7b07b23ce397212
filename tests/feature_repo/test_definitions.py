"""The definitions as `feast apply` registered them."""

import re
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from feast import FeatureService, FeatureStore, FeatureView
from feast.repo_config import load_repo_config
from feast.types import Float64, Int64, String

from hotfeast.server.lint.linting import lint

POLARS_TYPES = {Int64: pl.Int64, Float64: pl.Float64, String: pl.String}


@pytest.fixture(scope="module")
def store(applied_repo: Path) -> FeatureStore:
    return FeatureStore(repo_path=str(applied_repo))


@pytest.fixture(scope="module")
def views(store: FeatureStore) -> dict[str, FeatureView]:
    return {view.name: view for view in store.list_feature_views()}


@pytest.fixture(scope="module")
def services(store: FeatureStore) -> dict[str, FeatureService]:
    return {service.name: service for service in store.list_feature_services()}


def test_what_is_registered(
    store: FeatureStore, views: dict[str, FeatureView], services: dict[str, FeatureService]
) -> None:
    assert store.project == store.get_project("hotfeast_demo").name == "hotfeast_demo"
    join_keys = {entity.name: entity.join_key for entity in store.list_entities()}
    join_keys.pop("__dummy", None)
    assert join_keys == {"user": "user_id", "product": "product_id"}
    assert {name: (view.entities, view.ttl) for name, view in views.items()} == {
        "user_purchase_stats": (["user"], timedelta(days=2)),
        "user_demographics": (["user"], timedelta(days=400)),
        "product_attributes": (["product"], timedelta(days=400)),
        "product_popularity": (["product"], timedelta(days=8)),
        "user_product_interactions": (["user", "product"], timedelta(days=8)),
    }
    assert all(view.online for view in views.values())
    assert {view.name for view in store.list_on_demand_feature_views()} == {
        "cart_comparison",
        "visit_calendar",
        "discount_eligibility",
        "personalization",
    }
    assert set(services) == {"recommendation", "purchase_propensity", "product_ranking"}
    assert {source.name for source in store.list_data_sources()} == {
        *(f"{name}_source" for name in views),
        "user_purchase_stats_push",
        "cart_request",
        "visit_request",
        "promotion_request",
    }
    assert store.config.entity_key_serialization_version == 3


def test_everything_is_described_owned_and_tagged(
    store: FeatureStore, views: dict[str, FeatureView], services: dict[str, FeatureService]
) -> None:
    entities = [entity for entity in store.list_entities() if entity.name != "__dummy"]
    tagged = [*views.values(), *services.values(), *store.list_data_sources()]
    tagged += store.list_on_demand_feature_views()
    for thing in [*entities, *tagged, store.get_project("hotfeast_demo")]:
        assert len(thing.description) > 20, thing.name
        assert re.fullmatch(r"[a-z.-]+@[a-z.-]+\.[a-z]+", thing.owner), thing.name
    for thing in tagged:
        fresh = {"hotfeast.freshness"} if thing.name in views else set()
        assert set(thing.tags) == {"domain", "cadence", "pii"} | fresh, thing.name
        assert thing.tags["pii"] in ("true", "false"), thing.name
    assert [name for name, view in views.items() if view.tags["pii"] == "true"] == [
        "user_demographics"
    ]


def test_fields_are_described_and_their_names_tell_the_window(
    views: dict[str, FeatureView],
) -> None:
    for view in views.values():
        for field in view.features:
            assert len(field.description) > 20, field.name
            assert field.dtype in POLARS_TYPES, field.name
            assert field.tags["unit"], field.name
            in_name = re.search(r"_(\d+d)$", field.name)
            assert field.tags.get("window") == (in_name[1] if in_name else None), field.name
            assert ("_usd" in field.name) == field.tags["unit"].startswith("usd") or (
                field.name == "income"
            ), field.name


def test_lint_finds_nothing(applied_repo: Path) -> None:
    result = lint(applied_repo, data=True)
    assert result.findings == ()
    assert set(result.not_looked) == {"feature-unread"}


def test_feature_names_are_unique_across_views(
    store: FeatureStore, views: dict[str, FeatureView]
) -> None:
    names = [field.name for view in views.values() for field in view.features]
    assert len(names) == 13 + 7 + 6 + 8 + 4
    names += [f.name for view in store.list_on_demand_feature_views() for f in view.features]
    assert len(names) == 38 + 3 + 6 + 2 + 3
    assert len(names) == len(set(names))


def test_schemas_are_those_of_the_files(
    store: FeatureStore, views: dict[str, FeatureView], data_dir: Path
) -> None:
    """Each file holds the join keys, the time and the features of its view; types agree."""
    for name, view in views.items():
        assert view.batch_source.path == f"data/{name}.parquet"
        schema = dict(pl.read_parquet_schema(data_dir / f"{name}.parquet"))
        expected: dict[str, object] = {
            field.name: POLARS_TYPES[field.dtype] for field in view.features
        }
        expected |= {store.get_entity(entity).join_key: pl.Int64 for entity in view.entities}
        expected["event_timestamp"] = pl.Datetime("us", "UTC")
        assert schema == expected, name
        assert view.batch_source.timestamp_field == "event_timestamp"


def test_services_select_what_they_say(services: dict[str, FeatureService]) -> None:
    """One takes whole views, one computed ones too; a service with demographics is `pii`."""
    selected = {
        service: {view.name: len(view.features) for view in definition.feature_view_projections}
        for service, definition in services.items()
    }
    assert selected == {
        "recommendation": {
            "user_purchase_stats": 13,
            "product_attributes": 6,
            "product_popularity": 8,
            "user_product_interactions": 4,
        },
        "purchase_propensity": {
            "user_purchase_stats": 13,
            "user_demographics": 7,
            "product_popularity": 3,
            "user_product_interactions": 2,
        },
        "product_ranking": {
            "user_purchase_stats": 2,
            "product_attributes": 2,
            "product_popularity": 1,
            "user_product_interactions": 1,
            "cart_comparison": 3,
            "visit_calendar": 6,
            "discount_eligibility": 2,
            "personalization": 3,
        },
    }
    for service, definition in services.items():
        has_pii = "user_demographics" in selected[service]
        assert definition.tags["pii"] == ("true" if has_pii else "false")


def test_a_projection_does_not_replace_the_whole_view(views: dict[str, FeatureView]) -> None:
    assert len(views["product_popularity"].features) == 8
    assert len(views["user_product_interactions"].features) == 4


def test_redis_comes_from_the_environment(
    applied_repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOTFEAST_REDIS", "192.0.2.7:7000,db=3")
    config = load_repo_config(applied_repo, applied_repo / "feature_store.yaml")
    assert config.online_store.connection_string == "192.0.2.7:7000,db=3"
