"""A Feast repository with one of each thing that can be served, and the rows in its store.

Users by int64, products by string, locations by int32 under two aliases, a view without entities,
on-demand views, TTLs that hold and that have passed, nulls and rows that are not there.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    RequestSource,
    ValueType,
)
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import (
    Array,
    Bool,
    Bytes,
    Float32,
    Float64,
    Int32,
    Int64,
    Map,
    String,
    UnixTimestamp,
)

NOW = datetime.now(UTC).replace(microsecond=0)
"""Event time of fresh rows."""
OLD = NOW - timedelta(days=10)
"""Event time of rows that are older than `user_stats` allows."""

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
product = Entity(name="product", join_keys=["sku"], value_type=ValueType.STRING)
location = Entity(name="location", join_keys=["location_id"], value_type=ValueType.INT32)

_source = FileSource(name="nowhere", path="nowhere.parquet", timestamp_field="event_timestamp")

user_stats = FeatureView(
    name="user_stats",
    entities=[user],
    ttl=timedelta(days=2),
    schema=[
        Field(name="user_id", dtype=Int64),
        Field(name="visits", dtype=Int64, description="Visits so far", tags={"unit": "visits"}),
        Field(name="spend", dtype=Float64),
        Field(name="ratio", dtype=Float32),
        Field(name="city", dtype=String),
        Field(name="active", dtype=Bool),
        Field(name="since", dtype=UnixTimestamp),
        Field(name="recent", dtype=Array(Int64)),
        Field(name="labels", dtype=Array(String)),
        Field(name="photo", dtype=Bytes),
        Field(name="settings", dtype=Map),
    ],
    source=_source,
    description="Statistics of users",
    owner="users@example.com",
    tags={"domain": "users"},
)
product_stats = FeatureView(
    name="product_stats",
    entities=[product],
    ttl=timedelta(0),
    schema=[
        Field(name="sku", dtype=String),
        Field(name="price", dtype=Float64),
        Field(name="stock", dtype=Int32),
    ],
    source=_source,
)
affinity = FeatureView(
    name="affinity",
    entities=[user, product],
    ttl=timedelta(days=2),
    schema=[
        Field(name="user_id", dtype=Int64),
        Field(name="sku", dtype=String),
        Field(name="score", dtype=Float64),
    ],
    source=_source,
)
location_stats = FeatureView(
    name="location_stats",
    entities=[location],
    ttl=timedelta(days=2),
    schema=[Field(name="location_id", dtype=Int32), Field(name="temperature", dtype=Float64)],
    source=_source,
)
world = FeatureView(
    name="world",
    entities=[],
    ttl=timedelta(days=2),
    schema=[Field(name="exchange_rate", dtype=Float64)],
    source=_source,
)
hidden = FeatureView(
    name="hidden",
    entities=[user],
    ttl=timedelta(days=2),
    online=False,
    schema=[Field(name="user_id", dtype=Int64), Field(name="secret", dtype=Float64)],
    source=_source,
)
cart = RequestSource(name="cart", schema=[Field(name="cart_value", dtype=Float64)])


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[user_stats, cart],
    schema=[Field(name="cart_share", dtype=Float64)],
    mode="pandas",
)
def cart_share(inputs: pd.DataFrame) -> pd.DataFrame:
    """The value of the cart against all that the user has spent."""
    import pandas as pd

    out = pd.DataFrame()
    out["cart_share"] = inputs["cart_value"] / inputs["spend"]
    return out


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[user_stats],
    schema=[Field(name="failing", dtype=Float64)],
    mode="pandas",
)
def failing(inputs: pd.DataFrame) -> pd.DataFrame:
    """Raises for every request, but not when Feast tries it out while applying it."""
    import pandas as pd

    if len(inputs) != 1 or inputs["city"].iloc[0] in ("Ulm", "Köln", None):
        raise ZeroDivisionError("planned by the test")
    out = pd.DataFrame()
    out["failing"] = inputs["spend"]
    return out


services = [
    FeatureService(
        name="everything",
        features=[user_stats, product_stats, affinity],
        description="All stored views with entities",
        owner="serving@example.com",
        tags={"tier": "gold"},
    ),
    FeatureService(name="users", features=[user_stats]),
    FeatureService(name="part", features=[user_stats[["spend", "visits"]]]),
    FeatureService(
        name="route",
        features=[
            location_stats.with_name("origin").with_join_key_map({"location_id": "origin_id"}),
            location_stats.with_name("destination").with_join_key_map(
                {"location_id": "destination_id"}
            ),
        ],
    ),
    FeatureService(name="world_service", features=[world]),
    FeatureService(name="mixed", features=[world, user_stats[["spend"]]]),
    FeatureService(name="hidden_service", features=[hidden]),
    FeatureService(name="cart_service", features=[cart_share, user_stats[["visits"]]]),
    FeatureService(name="failing_service", features=[failing]),
]
views = [user_stats, product_stats, affinity, location_stats, world, hidden, cart_share, failing]
entities = [user, product, location]

SKUS = ["a", "bé", "", "x" * 300]


def _users() -> pd.DataFrame:
    ids = [1, 2, 3, -4, 2**40]
    return pd.DataFrame(
        {
            "user_id": ids,
            "event_timestamp": [NOW, NOW - timedelta(microseconds=1), OLD, NOW, NOW],
            "visits": pd.array([10, None, 30, -40, 2**62], dtype="Int64"),
            "spend": [1.5, None, 3.0, -0.0, 1e300],
            "ratio": pd.Series([0.5, None, 0.25, -1.0, 3e38], dtype="float32"),
            "city": ["Ulm", None, "Köln", "", "y" * 500],
            "active": [True, None, False, True, False],
            "since": [NOW, None, NOW, OLD, NOW],
            "recent": [[1, 2, 3], None, [], [5], list(range(200))],
            "labels": [["a", "ß"], None, [], [""], ["z" * 100] * 3],
            "photo": [b"\x00\xff", None, b"", b"abc", b"q" * 1000],
            "settings": [{"k": "v"}, None, {}, {"a": "b", "c": "d"}, {"u": "w"}],
        }
    )


def write_repository(
    folder: Path,
    project: str,
    connection_string: str,
    registry: str | None = None,
    redis_type: str = "redis",
) -> Path:
    """Writes `feature_store.yaml` for a repository with this module's definitions.

    Args:
        folder: Where.
        project: Feast's project.
        connection_string: Of the online store.
        registry: Indented lines to go under `registry`; a file in the folder if None.
        redis_type: Of the online store.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "feature_store.yaml").write_text(
        f"""project: {project}
registry:
{registry or f"  path: {folder / 'registry.db'}"}
provider: local
online_store:
  type: redis
  redis_type: {redis_type}
  connection_string: {connection_string}
offline_store:
  type: file
entity_key_serialization_version: 3
"""
    )
    return folder


def apply(folder: Path) -> FeatureStore:
    """Applies all definitions."""
    store = FeatureStore(repo_path=str(folder))
    store.apply([*entities, *views, *services])
    return store


def fill(store: FeatureStore) -> None:
    """Writes the rows through Feast's own SDK."""
    store.write_to_online_store("user_stats", _users())
    store.write_to_online_store(
        "product_stats",
        pd.DataFrame(
            {
                "sku": SKUS,
                "event_timestamp": [NOW, OLD, NOW, NOW],
                "price": [9.99, 1.0, None, 0.0],
                "stock": pd.array([5, 0, None, -1], dtype="Int32"),
            }
        ),
    )
    store.write_to_online_store(
        "affinity",
        pd.DataFrame(
            {
                "user_id": [1, 1, 2],
                "sku": ["a", "bé", "a"],
                "event_timestamp": [NOW, NOW, OLD],
                "score": [0.1, 0.2, 0.3],
            }
        ),
    )
    store.write_to_online_store(
        "location_stats",
        pd.DataFrame(
            {"location_id": [7, -8], "event_timestamp": [NOW, NOW], "temperature": [20.5, -3.0]}
        ).astype({"location_id": "int32"}),
    )
    # As materialization writes it: write_to_online_store leaves out the dummy key, and what it
    # writes Feast itself cannot read.
    write_row(store, "world", {"__dummy_id": Value(string_val="")}, {"exchange_rate": 1.08}, NOW)


def write_row(
    store: FeatureStore,
    view: str,
    key: dict[str, Value],
    features: dict[str, float],
    time: datetime,
) -> None:
    """Writes one row of doubles through Feast's online store."""
    values = {name: Value(double_val=value) for name, value in features.items()}
    write_values(store, view, key, values, time)


def write_values(
    store: FeatureStore,
    view: str,
    key: dict[str, Value],
    values: dict[str, Value],
    time: datetime,
) -> None:
    """Writes one row of any values through Feast's online store, which does not look at them."""
    entity_key = EntityKey(join_keys=list(key), entity_values=list(key.values()))
    store._get_provider().online_write_batch(
        store.config,
        store.get_feature_view(view),
        [(entity_key, values, time, None)],
        progress=None,
    )
