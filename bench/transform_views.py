"""Transforms to measure, each in pandas and in Feast's python mode."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
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
from feast.types import Bool, Float64, Int32, Int64, String, UnixTimestamp

PROJECT = "transforms"
INPUTS = {
    "spend": Float64,
    "average_basket": Float64,
    "basket_deviation": Float64,
    "lat": Float64,
    "lon": Float64,
    "orders": Int64,
    "clicks": Int64,
    "impressions": Int64,
    "tier": String,
    "is_active": Bool,
}
REQUEST = {
    "cart_value": Float64,
    "shop_lat": Float64,
    "shop_lon": Float64,
    "event_time": UnixTimestamp,
}

customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
customers = FeatureView(
    name="customers",
    entities=[customer],
    ttl=timedelta(days=365),
    schema=[
        Field(name="customer_id", dtype=Int64),
        *(Field(name=name, dtype=dtype) for name, dtype in INPUTS.items()),
    ],
    source=FileSource(name="customers", path="unused.parquet", timestamp_field="event_timestamp"),
)


def ratio(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["ratio"] = inputs["clicks"] / inputs["impressions"]
    return df


def ratio_python(inputs: dict[str, Any]) -> dict[str, Any]:
    pairs = zip(inputs["clicks"], inputs["impressions"], strict=True)
    return {"ratio": [c / i for c, i in pairs]}


def z_score(inputs: pd.DataFrame) -> pd.DataFrame:
    z = (inputs["cart_value"] - inputs["average_basket"]) / (inputs["basket_deviation"] + 1e-9)
    return pd.DataFrame({"z": z.clip(-3, 3), "is_outlier": z.abs() > 3})


def z_score_python(inputs: dict[str, Any]) -> dict[str, Any]:
    rows = zip(
        inputs["cart_value"], inputs["average_basket"], inputs["basket_deviation"], strict=True
    )
    z = [(value - mean) / (deviation + 1e-9) for value, mean, deviation in rows]
    return {"z": [min(max(x, -3.0), 3.0) for x in z], "is_outlier": [abs(x) > 3 for x in z]}


def discount(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["eligible"] = (
        (inputs["orders"] >= 3) & (inputs["cart_value"] >= 50) & inputs["is_active"].fillna(False)
    )
    share = inputs["tier"].map({"bronze": 0.02, "silver": 0.05, "gold": 0.1}).fillna(0.0)
    df["discounted"] = np.where(
        df["eligible"], inputs["cart_value"] * (1 - share), inputs["cart_value"]
    )
    return df


def discount_python(inputs: dict[str, Any]) -> dict[str, Any]:
    shares = {"bronze": 0.02, "silver": 0.05, "gold": 0.1}
    eligible, discounted = [], []
    for orders, value, active, tier in zip(
        inputs["orders"], inputs["cart_value"], inputs["is_active"], inputs["tier"], strict=True
    ):
        eligible.append(orders >= 3 and value >= 50 and bool(active))
        discounted.append(value * (1 - shares.get(tier, 0.0)) if eligible[-1] else value)
    return {"eligible": eligible, "discounted": discounted}


def distance(inputs: pd.DataFrame) -> pd.DataFrame:
    lat1, lon1, lat2, lon2 = map(
        np.radians, [inputs["lat"], inputs["lon"], inputs["shop_lat"], inputs["shop_lon"]]
    )
    a = (
        np.sin((lat2 - lat1) / 2) ** 2
        + np.cos(lat1) * np.cos(lat2) * np.sin((lon2 - lon1) / 2) ** 2
    )
    return pd.DataFrame({"distance_km": 2 * 6371.0 * np.arcsin(np.sqrt(a))})


def distance_python(inputs: dict[str, Any]) -> dict[str, Any]:
    from math import asin, cos, radians, sin, sqrt

    result = []
    for row in zip(
        inputs["lat"], inputs["lon"], inputs["shop_lat"], inputs["shop_lon"], strict=True
    ):
        lat1, lon1, lat2, lon2 = map(radians, row)
        a = sin((lat2 - lat1) / 2) ** 2 + cos(lat1) * cos(lat2) * sin((lon2 - lon1) / 2) ** 2
        result.append(2 * 6371.0 * asin(sqrt(a)))
    return {"distance_km": result}


def calendar(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["hour"] = inputs["event_time"].dt.hour
    df["weekday"] = inputs["event_time"].dt.dayofweek
    df["is_weekend"] = df["weekday"] >= 5
    df["hour_sin"] = np.sin(2 * np.pi * df["hour"] / 24)
    return df


def calendar_python(inputs: dict[str, Any]) -> dict[str, Any]:
    from math import pi, sin

    times = inputs["event_time"]
    return {
        "hour": [t.hour for t in times],
        "weekday": [t.weekday() for t in times],
        "is_weekend": [t.weekday() >= 5 for t in times],
        "hour_sin": [sin(2 * pi * t.hour / 24) for t in times],
    }


TRANSFORMS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "ratio": (ratio, ratio_python, {"ratio": Float64}),
    "z_score": (z_score, z_score_python, {"z": Float64, "is_outlier": Bool}),
    "discount": (discount, discount_python, {"eligible": Bool, "discounted": Float64}),
    "distance": (distance, distance_python, {"distance_km": Float64}),
    "calendar": (
        calendar,
        calendar_python,
        {"hour": Int32, "weekday": Int32, "is_weekend": Bool, "hour_sin": Float64},
    ),
}
"""By name: in pandas, in Feast's python mode, and the outputs."""


def _constants(code: Any) -> set[Any]:
    found = set()
    for constant in code.co_consts:
        found |= _constants(constant) if hasattr(constant, "co_consts") else {constant}
    return found


def read_by(name: str) -> tuple[list[str], list[str]]:
    """The features and the request data that a transform reads."""
    names = _constants(TRANSFORMS[name][0].__code__)
    return [n for n in INPUTS if n in names], [n for n in REQUEST if n in names]


def apply(folder: Path, redis: str) -> FeatureStore:
    """Applies the views: each transform as `NAME` in pandas and as `NAME_python`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "feature_store.yaml").write_text(
        f"""project: {PROJECT}
registry:
  path: {folder / "registry.db"}
  cache_ttl_seconds: 86400
provider: local
online_store:
  type: redis
  connection_string: "{redis}"
entity_key_serialization_version: 3
"""
    )
    store = FeatureStore(repo_path=str(folder))
    views = []
    for name, (in_pandas, in_python, outputs) in TRANSFORMS.items():
        features, fields = read_by(name)
        for function, mode, suffix in ((in_pandas, "pandas", ""), (in_python, "python", "_python")):
            sources: list[Any] = [customers[features]] if features else []
            if fields:
                sources.append(
                    RequestSource(
                        name=f"{name}{suffix}_request",
                        schema=[Field(name=n, dtype=REQUEST[n]) for n in fields],
                    )
                )
            decorate: Any = on_demand_feature_view(
                name=f"{name}{suffix}",
                sources=sources,
                # What Feast infers: Python has one type of integers.
                schema=[
                    Field(name=n, dtype=Int64 if t is Int32 and suffix else t)
                    for n, t in outputs.items()
                ],
                mode=mode,
            )
            views.append(decorate(function))
    services = []
    for view in views:
        features, _ = read_by(view.name.removesuffix("_python"))
        taken = [customers[features or ["spend"]], view]
        services.append(FeatureService(name=f"with_{view.name}", features=taken))
    for name in TRANSFORMS:
        features, _ = read_by(name)
        services.append(
            FeatureService(name=f"without_{name}", features=[customers[features or ["spend"]]])
        )
    store.apply([customer, customers, *views, *services])
    return store
