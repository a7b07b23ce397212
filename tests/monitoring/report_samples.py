"""A project and what was seen of it, for the tests of the report: Feast's own definitions, as a
registry stores them, and statistics of drawn values."""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Float64, Int64, String, UnixTimestamp
from feast.value_type import ValueType

from hotfeast.server.monitoring.observed import Channel, FeatureColumn, Observation
from hotfeast.server.monitoring.report.build import Evidence, Readers
from hotfeast.server.monitoring.report.catalogue import Catalogue
from hotfeast.server.monitoring.report.catalogue_build import read_catalogue
from hotfeast.server.monitoring.report.evidence import seen_of_state
from hotfeast.server.monitoring.report.figures import Seen
from hotfeast.server.monitoring.report.model import AlertRow, DriftFigures
from hotfeast.server.monitoring.statistics import FeatureStatistics
from hotfeast.server.monitoring.windows import FeatureKey, MonitoringStore
from hotfeast.server.registry_source import KINDS, Stored

NOW = 1_800_000_000.0
"""When the samples are looked at, in seconds since 1970."""
HOSTILE = "</script><script>window.pwned = 1</script><img src=x onerror='pwned = 2'>&amp;<!--"
"""What nobody should describe a feature by."""

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64, owner="people@x")
item = Entity(name="item", join_keys=["sku"], value_type=ValueType.STRING)
history = FileSource(name="history", path="history.parquet", timestamp_field="event_timestamp")
clicks = PushSource(name="clicks", batch_source=history, description="As they happen")
cart = RequestSource(name="cart", schema=[Field(name="cart_value", dtype=Float64)])

user_stats = FeatureView(
    name="user_stats",
    entities=[user],
    ttl=timedelta(days=2),
    schema=[
        Field(name="user_id", dtype=Int64),
        Field(name="spend", dtype=Float64, description="What was spent", tags={"unit": "usd"}),
        Field(name="visits", dtype=Int64, description=HOSTILE),
        Field(
            name="old_score",
            dtype=Float64,
            tags={"deprecated": "use spend", "sunset": "2027-01-31"},
        ),
        Field(name="since", dtype=UnixTimestamp),
        Field(name="recent", dtype=Array(Int64)),
    ],
    source=clicks,
    description="Statistics of users",
    owner="people@example.com",
    tags={"domain": "users"},
)
user_facts = FeatureView(
    name="user_facts",
    entities=[user],
    ttl=timedelta(hours=1),
    schema=[
        Field(name="user_id", dtype=Int64),
        Field(name="city", dtype=String),
        Field(name="segment", dtype=String, tags={"pii": "false"}),
    ],
    source=history,
    tags={"pii": "true"},
    owner="people@example.com",
)
item_stats = FeatureView(
    name="item_stats",
    entities=[item],
    schema=[Field(name="sku", dtype=String), Field(name="price", dtype=Float64)],
    source=history,
    online=False,
)


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[user_stats[["spend"]], cart],
    schema=[Field(name="cart_share", dtype=Float64)],
    mode="pandas",
)
def cart_share(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"cart_share": inputs["cart_value"] / inputs["spend"]})


services = [
    FeatureService(
        name="ranking", features=[user_stats[["spend", "visits"]], cart_share], owner="ml@x"
    ),
    FeatureService(name="letters", features=[user_facts.with_name("facts")]),
]


def stored() -> Stored:
    """The project as a registry has it."""
    messages: dict[str, list[bytes]] = {kind: [] for kind in KINDS}

    def add(kind: str, *things: Any) -> None:
        messages[kind] += [thing.to_proto().SerializeToString() for thing in things]

    for view in (user_stats, user_facts, item_stats):
        known = {"user": user, "item": item}
        keys = {key for name in view.entities for key in [known[name].join_key]}
        view.entity_columns = [f for f in view.schema if f.name in keys]
        view.features = [f for f in view.schema if f.name not in keys]
    cart_share.source_feature_view_projections["user_stats"].features = [
        f for f in user_stats.features if f.name == "spend"
    ]
    add("entities", user, item)
    add("feature_views", user_stats, user_facts, item_stats)
    add("on_demand_feature_views", cart_share)
    add("feature_services", *services)
    return Stored.of({kind: tuple(m) for kind, m in messages.items()}, None, None)


def catalogue() -> Catalogue:
    """The project's catalogue."""
    return read_catalogue("shop", stored())


def columns(random: np.random.Generator, rows: int, at: float) -> Iterator[FeatureColumn]:
    """Columns of the project's stored views, of rows of one time, in seconds since 1970."""
    when = np.full(rows, int(at * 1e6), dtype=np.int64)
    nulls = random.random(rows) < 0.2
    spend = pa.array(random.lognormal(3, 1, rows), mask=nulls)
    cities = pa.array(random.choice(["Ulm", "Köln", HOSTILE], rows, p=[0.6, 0.3, 0.1]))
    values: dict[tuple[str, str], pa.Array] = {
        ("user_stats", "spend"): spend,
        ("user_stats", "visits"): pa.array(random.poisson(4, rows)),
        ("user_stats", "since"): pa.array(when - 86_400_000_000, pa.timestamp("us", "UTC")),
        ("user_stats", "recent"): pa.array([[1, 2, 3][: i % 4] for i in range(rows)]),
        ("user_facts", "city"): cities,
        ("user_facts", "segment"): pa.array(random.choice(["a", "b"], rows)),
    }
    for (view, feature), array in values.items():
        yield FeatureColumn(view, feature, array, None, when)


def reference() -> FeatureStatistics:
    """Of `spend`."""
    statistics = FeatureStatistics()
    values = pa.array(np.random.default_rng(3).lognormal(2.5, 1, 5000))
    statistics.update(FeatureColumn("user_stats", "spend", values), None)
    return statistics


def evidence(show_pii: bool = False) -> Evidence:
    """What was seen: served rows of an hour that came three hours before `NOW`, and one push."""
    random = np.random.default_rng(7)
    store = MonitoringStore()
    for window in range(12):
        at = NOW - 3600 + window * 300
        seen_columns = tuple(columns(random, 200, NOW - 3 * 3600))
        store.observe(Observation(Channel.served, at, seen_columns, "ranking", "web"))
    store.observe(Observation(Channel.pushed, NOW - 300, tuple(columns(random, 50, NOW - 7200))))
    drift = DriftFigures("Kolmogorov-Smirnov", 0.2, 1e-9, 1e-8, 0.2, 0.3, 0.4, True, True, 0.2, 0.0)
    seen = seen_of_state(store, {("user_stats", "spend"): reference()}, "v3")
    key = FeatureKey(Channel.served, "user_stats", "spend")
    seen[key] = seen[key]._replace(drift=drift)
    alert = AlertRow(
        rule="nulls",
        level="critical",
        view="user_stats",
        feature="spend",
        about="null_share",
        since=NOW - 600,
        brief="Null 20%",
        message="null share is 20%, over 10%",
    )
    readers = [Readers("user_stats", "ranking", "web", 2400)]
    return Evidence("Of a test", NOW, seen, [alert], readers, 0.1, show_pii)


def many(features: int) -> tuple[Catalogue, Evidence]:
    """A project of many features, 20 a view, all of which were seen alike."""
    views = [
        FeatureView(
            name=f"view_{number:03}",
            entities=[user],
            ttl=timedelta(days=1),
            schema=[Field(name=f"feature_{number:03}_{i:02}", dtype=Float64) for i in range(20)],
            source=history,
            owner=f"team{number % 7}@example.com",
        )
        for number in range(features // 20)
    ]
    for view in views:
        view.features = list(view.schema)
    messages: dict[str, Iterable[bytes]] = {
        **dict.fromkeys(KINDS, ()),
        "entities": (user.to_proto().SerializeToString(),),
        "feature_views": tuple(v.to_proto().SerializeToString() for v in views),
    }
    made = read_catalogue("large", Stored.of(messages, None, None))
    like = evidence().seen[FeatureKey(Channel.served, "user_stats", "spend")]
    calm = Seen(like.statistics, like.history, like.reference, "v3")
    seen = {
        FeatureKey(Channel.served, view.name, feature.name): calm
        for view in made.views.values()
        for feature in view.features
    }
    return made, Evidence("Of a test", NOW, seen)
