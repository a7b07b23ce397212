"""On-demand views of every mode, over two stored views and request data, and their rows."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    RequestSource,
)
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, Set, String, UnixTimestamp
from feast.value_type import ValueType

NOW = datetime.now(UTC).replace(microsecond=0)

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
shop = Entity(name="shop", join_keys=["shop_id"], value_type=ValueType.STRING)
_nowhere = FileSource(name="nowhere", path="nowhere.parquet", timestamp_field="event_timestamp")

people = FeatureView(
    name="people",
    entities=[user],
    ttl=timedelta(days=2),
    schema=[
        Field(name="user_id", dtype=Int64),
        Field(name="visits", dtype=Int64),
        Field(name="score", dtype=Float64),
        Field(name="weight", dtype=Float32),
        Field(name="city", dtype=String),
        Field(name="active", dtype=Bool),
        Field(name="since", dtype=UnixTimestamp),
        Field(name="recent", dtype=Array(Int64)),
    ],
    source=_nowhere,
)
shops = FeatureView(
    name="shops",
    entities=[shop],
    ttl=timedelta(0),
    schema=[
        Field(name="shop_id", dtype=String),
        Field(name="score", dtype=Float64),
        Field(name="stock", dtype=Int32),
    ],
    source=_nowhere,
)
basket = RequestSource(
    name="basket",
    schema=[
        Field(name="amount", dtype=Float64),
        Field(name="count", dtype=Int64),
        Field(name="code", dtype=String),
    ],
)
clock = RequestSource(name="clock", schema=[Field(name="asked_at", dtype=UnixTimestamp)])


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[people, basket],
    schema=[
        Field(name="per_visit", dtype=Float64),
        Field(name="more_visits", dtype=Int64),
        Field(name="half_weight", dtype=Float32),
        Field(name="label", dtype=String),
        Field(name="often", dtype=Bool),
    ],
    mode="pandas",
)
def in_pandas(inputs: pd.DataFrame) -> pd.DataFrame:
    """Arithmetic, comparison and strings over a view and request data."""
    import pandas as pd

    out = pd.DataFrame()
    out["per_visit"] = inputs["amount"] / inputs["visits"]
    out["more_visits"] = inputs["visits"] + inputs["count"]
    out["half_weight"] = (inputs["weight"] * 0.5).astype("float32")
    out["label"] = inputs["city"] + "/" + inputs["code"]
    out["often"] = inputs["visits"] > 3
    return out


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[people[["score", "visits"]], shops, clock],
    schema=[
        Field(name="both_scores", dtype=Float64),
        Field(name="hour", dtype=Float64),
        Field(name="stock_left", dtype=Int64),
    ],
    mode="pandas",
)
def over_two_views(inputs: pd.DataFrame) -> pd.DataFrame:
    """Two sources with a feature of one name, told apart by their full names; a calendar part."""
    import pandas as pd

    out = pd.DataFrame()
    out["both_scores"] = inputs["people__score"] + inputs["shops__score"]
    out["hour"] = pd.to_datetime(inputs["asked_at"]).dt.hour.astype("float64")
    out["stock_left"] = inputs["stock"] - 1
    return out


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[people, basket],
    schema=[
        Field(name="py_total", dtype=Float64),
        Field(name="py_city", dtype=String),
        Field(name="py_recent", dtype=Array(Int64)),
        Field(name="py_flags", dtype=Array(Bool)),
        Field(name="py_numbers", dtype=Set(Int64)),
        Field(name="py_words", dtype=Set(String)),
    ],
    mode="python",
)
def in_python(inputs: dict[str, Any]) -> dict[str, Any]:
    """Lists in, lists out."""
    return {
        "py_total": [
            None if score is None or amount is None else float(score + amount)
            for score, amount in zip(inputs["score"], inputs["amount"])  # noqa: B905
        ],
        "py_city": [f"{city}!" for city in inputs["people__city"]],
        "py_recent": [[*(r or []), 1] for r in inputs["recent"]],
        "py_flags": [
            None if active is None else [active, (count or 0) > 3, not active]
            for active, count in zip(inputs["active"], inputs["count"])  # noqa: B905
        ],
        "py_numbers": [
            None if count is None else {count, count, visits or 0}
            for count, visits in zip(inputs["count"], inputs["visits"])  # noqa: B905
        ],
        "py_words": [{code or "none", "", "ß"} for code in inputs["code"]],
    }


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[people, basket],
    schema=[Field(name="one_total", dtype=Float64), Field(name="one_visits", dtype=Int64)],
    mode="python",
    singleton=True,
)
def in_python_singleton(inputs: dict[str, Any]) -> dict[str, Any]:
    """Values in, values out."""
    return {
        "one_total": float((inputs["score"] or 0.0) + (inputs["amount"] or 0.0)),
        "one_visits": int(inputs["visits"] or 0) + 1,
    }


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[basket], schema=[Field(name="doubled", dtype=Float64)], mode="pandas"
)
def without_a_view(inputs: pd.DataFrame) -> pd.DataFrame:
    """Request data only."""
    import pandas as pd

    out = pd.DataFrame()
    out["doubled"] = inputs["amount"] * 2
    return out


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    input_schema=[Field(name="limit", dtype=Float64)],
    sources=[people],
    schema=[Field(name="above", dtype=Bool)],
    mode="pandas",
)
def with_input_schema(inputs: pd.DataFrame) -> pd.DataFrame:
    """Request data by `input_schema`."""
    import pandas as pd

    out = pd.DataFrame()
    out["above"] = inputs["score"] > inputs["limit"]
    return out


views = [people, shops]
computed = [
    in_pandas,
    over_two_views,
    in_python,
    in_python_singleton,
    without_a_view,
    with_input_schema,
]

USERS = [1, 2, 3, 4, 5]
"""The last has no row; the fourth's is older than its view allows."""
SHOPS = ["a", "b", "none"]
FILLER = {"user_id": 1, "shop_id": "a"}
"""An entity of each kind with a value in every column."""


def services() -> list[FeatureService]:
    """On-demand views under their own and other names, whole and in part."""
    return [
        FeatureService(name="renamed", features=[in_pandas.with_name("other"), people[["visits"]]]),
        FeatureService(
            name="parts",
            features=[in_python[["py_city"]].with_name("spoken"), in_pandas[["label"]]],
        ),
    ]


def fill(store: FeatureStore) -> None:
    """Writes the rows through Feast's SDK."""
    store.write_to_online_store(
        "people",
        pd.DataFrame(
            {
                "user_id": USERS[:4],
                "event_timestamp": [NOW, NOW, NOW, NOW - timedelta(days=9)],
                "visits": pd.array([4, None, 0, 7], dtype="Int64"),
                "score": [0.25, None, -3.5, 9.0],
                "weight": pd.Series([0.1, None, 3e38, 1.0], dtype="float32"),
                "city": ["Ulm", None, "", "Köln"],
                "active": [True, None, False, True],
                "since": [NOW, None, NOW, NOW],
                "recent": [[1, 2], None, [], [3]],
            }
        ),
    )
    store.write_to_online_store(
        "shops",
        pd.DataFrame(
            {
                "shop_id": SHOPS[:2],
                "event_timestamp": [NOW, NOW],
                "score": [0.5, None],
                "stock": pd.array([7, None], dtype="Int32"),
            }
        ),
    )
