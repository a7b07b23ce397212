"""Definitions of windowed features: what Feast's registry says of them, and what cannot be."""

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import events as ev
import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureService, FeatureStore, Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String
from served import serve, stop

from hotfeast.server.errors import RequestFailure
from hotfeast.server.gateway import Settings
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.registry import FieldDefinition, ViewDefinition, read_definitions
from hotfeast.server.windows import event_tags, window_field
from hotfeast.server.windows.definition import window_view

NOW = ev.START + timedelta(days=2)


def test_the_example_of_the_page_is_applied_and_served(
    checkout: Path, redis_server: LocalRedis, tmp_path: Path
) -> None:
    page = (checkout / "docs" / "how-to" / "windows.md").read_text()
    (example,) = re.findall(r"```python.*?\n(.*?)```", page, re.S)
    ev.write_repository(tmp_path, "page", redis_server.address)
    said: dict[str, Any] = {}
    exec(example, said)
    store = FeatureStore(repo_path=str(tmp_path))
    store.apply([said["user"], said["user_activity"], said["activity"]])
    # Feast's tools read it.
    tags = {f.name: f.tags for f in store.get_feature_view("user_activity").features}
    assert tags["revenue_usd_7d"]["hotfeast.aggregate"] == "sum(amount_usd)"
    served = serve(store, Settings(repo=tmp_path, as_of=NOW))
    try:
        pushed = served.client.push(
            {
                "user_id": [1, 1, 1],
                "happened": [NOW, NOW - timedelta(days=1), NOW],
                "purchase_id": ["a", "b", "a"],
                "amount_usd": [1.5, 2.0, 1.5],
                "sku": ["x", "y", "x"],
            },
            push_source="purchases",
        )
        assert pushed.outcomes == ["written", "written", "duplicate"]
        answer = served.client.get_online_features("activity", {"user_id": [1]}).to_dict()
    finally:
        stop(served)
    assert {name: values[0] for name, values in answer.items()} == {
        "user_id": 1,
        "revenue_usd_7d": 3.5,
        "revenue_usd_30d": 3.5,
        "purchases_count_1h": 1,
        "products_count_30d": 2,
        "last_amount_usd_5m": 1.5,
    }


def test_on_demand_views_take_windows_as_inputs(redis_server: LocalRedis, tmp_path: Path) -> None:
    store = ev.write_repository(tmp_path, "on_demand", redis_server.address)
    activity = store.get_feature_view("activity")

    @on_demand_feature_view(  # type: ignore[untyped-decorator]
        sources=[activity[["amount_7d", "events_1h"]]],
        schema=[Field(name="amount_of_event", dtype=Float64)],
        mode="pandas",
    )
    def of_events(inputs: pd.DataFrame) -> pd.DataFrame:
        out = pd.DataFrame()
        out["amount_of_event"] = inputs["amount_7d"] / inputs["events_1h"]
        return out

    store.apply([of_events, FeatureService(name="computed", features=[of_events])])
    served = serve(store, Settings(repo=tmp_path, as_of=NOW))
    try:
        table = pa.Table.from_pandas(
            ev.frame({1: [ev.Event(NOW, "a", 3.0), ev.Event(NOW, "b", 2.0)]}), preserve_index=False
        )
        served.client.push(table, push_source="events").raise_for_failures()
        answer = served.client.get_online_features("computed", {"user_id": [1]}).to_dict()
    finally:
        stop(served)
    assert answer["amount_of_event"] == [2.5]


INT64 = 4
PLAIN = Field(name="g", dtype=Int64)


def view(*features: Field, **tags: str) -> ViewDefinition:
    """A view with these features, and tags beside the id's."""
    said = event_tags("event_id") | {f"hotfeast.{name}": value for name, value in tags.items()}
    return ViewDefinition(
        name="v",
        kind="feature_view",
        entities=("user",),
        join_keys=(FieldDefinition("user_id", INT64),),
        features=tuple(
            FieldDefinition(f.name, f.dtype.to_value_type().value, "", dict(f.tags))
            for f in features
        ),
        ttl_seconds=0,
        online=True,
        version=0,
        problem="",
        description="",
        tags={name: value for name, value in said.items() if value},
        owner="",
        materialized_until=None,
        stored=True,
    )


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (
            view(window_field("f", Int64, "count()", "1h"), Field(name="g", dtype=Int64)),
            "'g' has no tag",
        ),
        (view(window_field("f", Int64, "count()", "1h"), event_id=""), "hotfeast.event_id"),
        (view(window_field("f", Int64, "count()", "")), "no length such as"),
        (view(window_field("f", Int64, "count()", "59s")), "from 1m to 30d"),
        (view(window_field("f", Int64, "count()", "31d")), "from 1m to 30d"),
        (view(window_field("f", Int64, "median(x)", "1h")), "use count"),
        (view(window_field("f", Int64, "sum()", "1h")), "needs a column"),
        (view(window_field("f", Int64, "count()", "1h", tile="7m")), "no whole number"),
        (view(window_field("f", Int64, "count()", "30d", tile="1m")), "at most 3600"),
        (view(window_field("f", Float64, "count()", "1h")), "set its dtype"),
        (view(window_field("f", Int64, "mean(x)", "1h")), "set its dtype"),
        (view(window_field("f", String, "max(x)", "1h")), "max is not of STRING"),
        (view(window_field("f", Int64, "distinct(x)", "1h")), "hotfeast.inputs"),
        (view(window_field("f", Int64, "last(x)", "1h"), inputs="x: STRING"), "set its dtype"),
        (
            view(
                window_field("f", Int64, "sum(x)", "1h"), window_field("g", Float64, "min(x)", "1h")
            ),
            "of another",
        ),
        (view(window_field("f", Int64, "count()", "1h"), inputs="x: INT64"), "no feature"),
        (view(window_field("f", Int64, "count()", "1h"), inputs="x: LIST"), "column: TYPE"),
        (view(window_field("f", Int64, "count()", "1h"), lateness="soon"), "hotfeast.lateness"),
        (view(window_field("f", Int64, "count()", "1h"), lateness="40d"), "at most 30d"),
        (view(window_field("f", Int64, "count()", "1h"), most_ids="0"), "hotfeast.most_ids"),
        (view(window_field("f", Int64, "sum(event_id)", "1h")), "event id"),
        (view(window_field("f", Int64, "sum(user_id)", "1h")), "join key"),
    ],
)
def test_what_cannot_be_is_refused_by_name(made: ViewDefinition, why: str) -> None:
    with pytest.raises(RequestFailure, match=re.escape(why)):
        window_view(made)


def test_tiles_have_other_keys_only_where_they_differ() -> None:
    fields = [
        window_field("a", Float64, "sum(x)", "7d"),
        window_field("b", Int64, "count()", "1h"),
    ]
    other = [window_field("c", Int64, "count()", "1h"), window_field("d", Float64, "sum(x)", "7d")]
    wider = [fields[0], window_field("b", Int64, "count()", "2h", tile="1m")]
    first, renamed, wide, late = (
        window_view(made)
        for made in (view(*fields), view(*other), view(*wider), view(*fields, lateness="2h"))
    )
    assert first is not None
    assert renamed is not None
    assert wide is not None
    assert late is not None
    key = first.layout.suffix("v")
    assert renamed.layout.suffix("v") == late.layout.suffix("v") == key
    assert wide.layout.suffix("v") != key
    assert first.layout.suffix("v_v1") != key


def test_keys_of_tiles_stay_what_they_are() -> None:
    """They are stored: another key is tiles that begin with nothing."""
    numbers = [
        window_field("a", Float64, "sum(x)", "7d"), window_field("d", Int64, "distinct(x)", "1h"),
    ]  # fmt: skip
    texts = [*numbers, window_field("s", String, "last(y)", "1h")]
    made = [window_view(view(*fields)) for fields in (numbers, texts)]
    assert [each and each.layout.suffix("v").hex() for each in made] == [
        "0077ec4c14e71423", "0077e5f3538e97fc",
    ]  # fmt: skip


def test_a_view_without_the_tag_has_no_windows(redis_server: LocalRedis, tmp_path: Path) -> None:
    definitions = read_definitions(ev.write_repository(tmp_path, "plain", redis_server.address))
    assert window_view(definitions.views["profile"]) is None
    assert window_view(replace(definitions.views["profile"], tags={})) is None
