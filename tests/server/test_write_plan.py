"""Which views can be written, under which names, and what the refusals say."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from hotfeast.server.errors import RequestFailure
from hotfeast.server.plan import feature_hash_field, time_hash_field
from hotfeast.server.registry import (
    Definitions,
    FieldDefinition,
    Projection,
    SourceDefinition,
    ViewDefinition,
)
from hotfeast.server.write_plan import plan_write, views_of_push_source

VIEW = ViewDefinition(
    name="stats", kind="FeatureView", entities=("user",),
    join_keys=(FieldDefinition("z", 4), FieldDefinition("a", 2)),
    features=(FieldDefinition("f", 4, tags={"min": "0"}), FieldDefinition("b", 2)),
    ttl_seconds=0, online=True, version=0, problem="", description="", tags={}, owner="",
    materialized_until=None, stored=True,
    source=SourceDefinition("when", "made", {"when": "ts", "raw": "f"}, "pushed"),
)  # fmt: skip

PLAIN, AGGREGATED = SimpleNamespace(aggregations=[]), SimpleNamespace(aggregations=["sum"])
"""All that is looked at of Feast's on-demand views."""


def definitions(versioned: bool = False, **changes: Any) -> Definitions:
    view = dataclasses.replace(VIEW, **changes)
    old = dataclasses.replace(view, version=2)
    return Definitions(
        project="demo", entity_names={}, views={"stats": view},
        versions={("stats", 2): old} if versioned else {}, services={},
        versioned_storage=versioned, fingerprint="",
    )  # fmt: skip


def test_a_plan() -> None:
    write = plan_write(definitions(), "stats", 60)
    compiled = write.compiled.definition
    assert compiled.join_keys == (("a", 2), ("z", 4))
    assert [f.name for f in compiled.features] == ["f", "b"]
    assert compiled.features[0].hash_field == feature_hash_field("stats", "f")
    assert compiled.time_field == time_hash_field("stats")
    assert compiled.created_field == b"_ct:stats"
    assert compiled.key_ttl_seconds == 60
    assert (write.name, write.timestamp_column, write.created_column) == ("stats", "ts", "made")
    assert write.columns == {"a", "z", "f", "b", "ts", "made"}
    assert list(write.rules) == ["f"]


def test_versions() -> None:
    write = plan_write(definitions(versioned=True, version=3), "stats", 0)
    assert write.compiled.definition.time_field == b"_ts:stats_v3"
    old = plan_write(definitions(versioned=True, version=3), "stats", 0, version=2)
    assert old.compiled.definition.created_field == b"_ct:stats_v2"
    assert old.compiled.definition.features[0].hash_field == feature_hash_field("stats_v2", "f")
    for made, version in ((definitions(versioned=True), 7), (definitions(), 2)):
        with pytest.raises(RequestFailure, match=f"no version v{version} that can be written"):
            plan_write(made, "stats", 0, version=version)


def test_a_source_without_created_times() -> None:
    source = SourceDefinition("ts", "", {}, "")
    write = plan_write(definitions(source=source), "stats", 0)
    assert write.compiled.definition.created_field == b""
    assert write.columns == {"a", "z", "f", "b", "ts"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"on_demand": object(), "stored": False},
            "is computed when it is read: push the rows that it is computed from, or set write_to",
        ),
        ({"on_demand": AGGREGATED}, "has aggregations, which Feast does not compute for rows that"),
        (
            {"on_demand": PLAIN, "entities": ("user",), "join_keys": ()},
            "its schema has none of their join keys, so that Feast would store all its rows as one",
        ),
        (
            {"on_demand": PLAIN, "sources": (Projection("stats", None, ("gone",), {}, None),)},
            "'stats' no longer has the feature 'gone', which on-demand feature view 'stats' takes",
        ),
        ({"online": False}, "is defined with online=False; set online=True and apply"),
        ({"source": None}, "has no batch source with a timestamp field"),
        ({"source": None, "problem": "broken"}, "broken"),
        ({"source": SourceDefinition("", "", {}, "")}, "has no batch source with a timestamp"),
        ({"join_keys": (FieldDefinition("a", 5),)}, "join key 'a' has a type that Feast cannot"),
        (
            {"features": (FieldDefinition("f", 4, tags={"min": "x"}),)},
            "feature view 'stats': field 'f': tag min='x' must be a number",
        ),
    ],
)
def test_views_that_cannot_be_written(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestFailure) as failure:
        plan_write(definitions(**changes), "stats", 0)
    assert message in failure.value.message


def test_unknown_names() -> None:
    with pytest.raises(RequestFailure, match="no feature view 'stat'; did you mean 'stats'"):
        plan_write(definitions(), "stat", 0)
    assert views_of_push_source(definitions(), "pushed")[0].name == "stats"
    with pytest.raises(RequestFailure, match="no push source 'push'; did you mean 'pushed'"):
        views_of_push_source(definitions(), "push")
