"""The catalogue: what Feast's own definitions say, and where features go."""

import pytest
import report_samples as samples
from feast.on_demand_feature_view import OnDemandFeatureView

from hotfeast.server.monitoring.report.catalogue import Catalogue, Marks, Taken
from hotfeast.server.monitoring.report.catalogue_build import read_catalogue
from hotfeast.server.monitoring.report.lineage import (
    Lineage,
    feature_lineage,
    repository_lineage,
)
from hotfeast.server.registry_source import StoredVersion


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return samples.catalogue()


def _edges(lineage: Lineage) -> set[tuple[str, str]]:
    return {(lineage.nodes[a].name, lineage.nodes[b].name) for a, b in lineage.edges}


def test_views_are_as_feast_defines_them(catalogue: Catalogue) -> None:
    view = catalogue.views["user_stats"]
    assert (view.kind, view.entities, view.owner) == ("batch", ("user",), "people@example.com")
    assert view.ttl_seconds == samples.user_stats.ttl.total_seconds()
    assert [f.name for f in view.features] == [f.name for f in samples.user_stats.features]
    assert [k.name for k in view.join_keys] == ["user_id"]
    types = {f.name: f.type for f in view.features}
    assert types["spend"] == "DOUBLE"
    assert types["recent"] == "INT64_LIST"
    assert view.sources == ("history", "clicks")
    assert catalogue.sources["clicks"].kind == "push"
    assert catalogue.sources["clicks"].batch_source == "history"
    assert catalogue.sources["cart"].kind == "request"
    assert catalogue.views["item_stats"].problem.startswith("defined with online=False")
    assert catalogue.entities["user"].join_key == "user_id"
    assert catalogue.services["letters"].takes[0] == Taken(
        "user_facts", ("city", "segment"), "facts"
    )


def test_on_demand_views_are_read_without_their_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the view's function would be loaded")

    stored = samples.stored()
    monkeypatch.setattr(OnDemandFeatureView, "from_proto", refuse)
    view = read_catalogue("shop", stored).views["cart_share"]
    assert view.inputs == (Taken("user_stats", ("spend",)),)
    assert [f.name for f in view.request_fields] == ["cart_value"]
    assert view.ttl_seconds == 0


def test_a_feature_has_the_marks_of_its_view_unless_it_says_otherwise(
    catalogue: Catalogue,
) -> None:
    facts = {f.name: f.marks for f in catalogue.views["user_facts"].features}
    assert facts == {"city": Marks(pii=True), "segment": Marks(pii=False)}
    old = catalogue.views["user_stats"].feature("old_score")
    assert old is not None
    assert old.marks == Marks(deprecated="use spend", sunset="2027-01-31")


def test_versions_that_are_kept_are_told() -> None:
    stored = samples.stored()
    message = stored.messages["feature_views"][0]
    name = read_catalogue("shop", stored).views
    versions = [StoredVersion("user_facts", n, "feature_views", message) for n in (0, 1)]
    again = stored.of(dict(stored.messages), versions, None)
    views = read_catalogue("shop", again).views
    assert views["user_facts"].versions == (0, 1)
    assert name["user_facts"].versions == ()


def test_a_feature_is_followed_to_all_that_takes_it(catalogue: Catalogue) -> None:
    assert _edges(feature_lineage(catalogue, "user_stats", "spend")) == {
        ("history", "user_stats"),
        ("clicks", "user_stats"),
        ("user_stats", "cart_share"),
        ("user_stats", "ranking"),
        ("cart_share", "ranking"),
    }
    assert _edges(feature_lineage(catalogue, "user_stats", "since")) == {
        ("history", "user_stats"),
        ("clicks", "user_stats"),
    }
    computed = _edges(feature_lineage(catalogue, "cart_share", "cart_share"))
    assert {("cart", "cart_share"), ("clicks", "user_stats")} < computed
    whole = _edges(repository_lineage(catalogue))
    assert ("user_facts", "letters") in whole
    assert computed < whole
