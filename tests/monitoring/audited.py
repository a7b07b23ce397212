"""A repository over Parquet files whose online store is audited."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import (
    Entity,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    RequestSource,
    ValueType,
)
from feast.infra.online_stores.helpers import _redis_key
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp

PROJECT = "audited"
DAY = timedelta(days=1)
FIRST = datetime(2024, 3, 1, tzinfo=UTC)
DAYS = 3
AS_OF = FIRST + (DAYS - 1) * DAY + timedelta(hours=6)
"""Between the last snapshot and the next one."""
USERS = 60
SHOPS = 20

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
shop = Entity(name="shop", join_keys=["shop_id"], value_type=ValueType.STRING)


def _source(name: str, folder: Path, **options: Any) -> FileSource:
    return FileSource(
        path=str(folder / f"{name}.parquet"), timestamp_field="event_timestamp", **options
    )


def definitions(folder: Path) -> list[Any]:
    """Entities and views, over the files of `write_sources`."""
    users = FeatureView(
        name="users",
        entities=[user],
        ttl=2 * DAY,
        schema=[
            Field(name="user_id", dtype=Int64),
            Field(name="visits", dtype=Int64),
            Field(name="spend", dtype=Float64),
            Field(name="ratio", dtype=Float32),
            Field(name="city", dtype=String, tags={"pii": "true"}),
            Field(name="active", dtype=Bool),
            Field(name="since", dtype=UnixTimestamp),
            Field(name="recent", dtype=Array(Int64)),
        ],
        source=_source("users", folder, field_mapping={"person": "user_id"}),
    )
    pairs = FeatureView(
        name="pairs",
        entities=[user, shop],
        ttl=2 * DAY,
        schema=[
            Field(name="user_id", dtype=Int64),
            Field(name="shop_id", dtype=String),
            Field(name="score", dtype=Float64),
        ],
        source=_source("pairs", folder),
    )
    world = FeatureView(
        name="world",
        entities=[],
        ttl=timedelta(0),
        schema=[Field(name="rate", dtype=Float64)],
        source=_source("world", folder),
    )
    cart = RequestSource(name="cart", schema=[Field(name="cart_value", dtype=Float64)])

    @on_demand_feature_view(  # type: ignore[untyped-decorator]
        sources=[users, pairs],
        schema=[Field(name="weighted", dtype=Float64), Field(name="halved", dtype=Int32)],
        mode="pandas",
    )
    def mixed(inputs: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        out = pd.DataFrame()
        out["weighted"] = inputs["spend"] * inputs["score"]
        out["halved"] = (inputs["visits"].fillna(0) // 2).astype("int32")
        return out

    @on_demand_feature_view(  # type: ignore[untyped-decorator]
        sources=[users, cart],
        schema=[Field(name="share", dtype=Float64)],
        mode="pandas",
    )
    def cart_share(inputs: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        out = pd.DataFrame()
        out["share"] = inputs["cart_value"] / inputs["spend"]
        return out

    return [user, shop, users, pairs, world, mixed, cart_share]


def write_sources(folder: Path) -> None:
    """Daily snapshots of all views, with nulls, fractions of a second and an entity that is left
    out of the last two."""
    rows: dict[str, list[Any]] = {
        name: []
        for name in (
            "person", "event_timestamp", "visits", "spend", "ratio", "city", "active", "since",
            "recent",
        )
    }  # fmt: skip
    pairs: dict[str, list[Any]] = {
        name: [] for name in ("user_id", "shop_id", "event_timestamp", "score")
    }
    for day in range(DAYS):
        at = FIRST + day * DAY + timedelta(microseconds=250_000)
        for number in range(USERS):
            if number == 0 and day > 0:
                # Older than the TTL by the end, as all rows of it.
                continue
            moment = at - 5 * DAY if number == 0 else at
            null = number % 10 == 3
            values: dict[str, Any] = {
                "person": number,
                "event_timestamp": moment,
                "visits": None if null else number * 10 + day,
                "spend": None if null else number + day / 3,
                "ratio": number / 7,
                "city": None if null else f"city {number}",
                "active": None if null else number % 2 == 0,
                "since": None if null else FIRST - number * DAY,
                "recent": None if null else list(range(number % 4)),
            }
            for name, value in values.items():
                rows[name].append(value)
            for name, value in {
                "user_id": number,
                "shop_id": f"shop {number % SHOPS}",
                "event_timestamp": at,
                "score": number / 3 + day,
            }.items():
                pairs[name].append(value)
    times = pa.timestamp("us", "UTC")
    types = {
        "person": pa.int64(), "event_timestamp": times, "visits": pa.int64(),
        "spend": pa.float64(), "ratio": pa.float32(), "city": pa.string(), "active": pa.bool_(),
        "since": times, "recent": pa.list_(pa.int64()),
    }  # fmt: skip
    _write(folder, "users", {name: pa.array(rows[name], kind) for name, kind in types.items()})
    _write(folder, "pairs", {**pairs, "event_timestamp": pa.array(pairs["event_timestamp"], times)})
    _write(
        folder,
        "world",
        {
            "event_timestamp": pa.array([FIRST + day * DAY for day in range(DAYS)], times),
            "rate": [1.5 + day for day in range(DAYS)],
        },
    )


def _write(folder: Path, name: str, columns: dict[str, Any]) -> None:
    pq.write_table(pa.table(columns), folder / f"{name}.parquet")


def make_repository(folder: Path, connection_string: str) -> FeatureStore:
    """Writes the sources, applies the definitions and opens the repository."""
    (folder / "feature_store.yaml").write_text(
        f"project: {PROJECT}\nregistry: {folder / 'registry.db'}\nprovider: local\n"
        f'online_store:\n  type: redis\n  connection_string: "{connection_string}"\n'
        "offline_store:\n  type: file\nentity_key_serialization_version: 3\n"
    )
    write_sources(folder)
    store = FeatureStore(repo_path=str(folder))
    store.apply(definitions(folder))
    return FeatureStore(repo_path=str(folder))


def redis_key(**keys: int | str) -> bytes:
    """The key of an entity's hash."""
    values = [
        Value(int64_val=value) if isinstance(value, int) else Value(string_val=value)
        for value in keys.values()
    ]
    entity = EntityKey(join_keys=list(keys), entity_values=values)
    return bytes(_redis_key(PROJECT, entity, entity_key_serialization_version=3))
