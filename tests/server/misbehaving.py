"""A repository whose on-demand views do what the request data says, mostly wrong things."""

from typing import Any

import pandas as pd
from feast import FeatureService, FeatureStore, Field, RequestSource
from feast.aggregation import Aggregation
from feast.on_demand_feature_view import OnDemandFeatureView, on_demand_feature_view
from feast.types import Array, Float64, Int64, String
from market import user, user_stats

how = RequestSource(
    name="how", schema=[Field(name="how", dtype=String), Field(name="amount", dtype=Float64)]
)


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[user_stats[["spend", "visits"]], how],
    schema=[Field(name="ratio", dtype=Float64), Field(name="whole", dtype=Int64)],
    mode="pandas",
)
def frames(inputs: pd.DataFrame) -> pd.DataFrame:
    """Pandas mode."""
    import pandas as pd

    how = inputs["how"].iloc[0]
    out = pd.DataFrame()
    out["ratio"] = inputs["amount"] / inputs["spend"]
    out["whole"] = (inputs["amount"] * 0 + 7).astype("int64")
    if how == "raise":
        raise LookupError("planned by the test")
    if how == "leave a column out":
        return out[["ratio"]]
    if how == "too short":
        return out.iloc[:-1]
    if how == "text for a number":
        out["whole"] = "seven"
    if how == "a list for a number":
        out["ratio"] = [[1.0]] * len(out)
    if how == "no frame":
        return out["ratio"]
    return out


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[user_stats[["spend", "visits"]], how],
    schema=[Field(name="listed", dtype=Float64), Field(name="vector", dtype=Array(Float64))],
    mode="python",
)
def lists(inputs: dict[str, Any]) -> Any:
    """Python mode."""
    how = inputs["how"][0]
    out: dict[str, Any] = {
        "listed": [float(amount) for amount in inputs["amount"]],
        "vector": [[amount, amount] for amount in inputs["amount"]],
    }
    if how == "raise":
        raise LookupError("planned by the test")
    if how == "leave a column out":
        del out["listed"]
    if how == "too short":
        out["listed"] = out["listed"][:-1]
    if how == "an array":
        import numpy as np

        out["listed"] = np.array(out["listed"])
    if how == "no dict":
        return out["listed"]
    return out


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[user_stats[["spend", "visits"]], how],
    schema=[Field(name="one", dtype=Float64), Field(name="pair", dtype=Array(Float64))],
    mode="python",
    singleton=True,
)
def values(inputs: dict[str, Any]) -> dict[str, Any]:
    """Python mode, row by row."""
    amount = inputs["amount"]
    pair = [amount, amount]
    return {"one": float(amount), "pair": pair if inputs["how"] == "a bare list" else [pair]}


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[user_stats.with_name("somebody")],
    schema=[Field(name="visits_again", dtype=Int64)],
    mode="pandas",
)
def of_an_alias(inputs: pd.DataFrame) -> pd.DataFrame:
    """Of a source under another name."""
    import pandas as pd

    out = pd.DataFrame()
    out["visits_again"] = inputs["visits"]
    return out


totals = OnDemandFeatureView(
    name="totals",
    sources=[user_stats],
    schema=[Field(name="sum_visits", dtype=Int64)],
    aggregations=[Aggregation(column="visits", function="sum")],
    mode="pandas",
)


def make(store: FeatureStore) -> None:
    """Applies the definitions."""
    store.apply([user, user_stats, frames, lists, values, of_an_alias, totals])
    store.apply(
        [
            FeatureService(
                name="both",
                features=[user_stats[["city"]], frames.with_name("framed"), lists[["listed"]]],
            )
        ]
    )
