"""The demo's on-demand views for Feast's SDK: in its python mode, and one that has no kernel."""

from typing import Any

import numpy as np
import pandas as pd
from feast import Field, RequestSource
from feast.feature_view import FeatureView
from feast.on_demand_feature_view import OnDemandFeatureView, on_demand_feature_view
from feast.types import Int32, Int64, from_value_type

Columns = dict[str, list[Any]]


def cart_comparison(inputs: Columns) -> Columns:
    # Rounded as NumPy does it.
    ratio, above, price = [], [], []
    for value, items, usual, mean in zip(
        inputs["cart_value_usd"],
        inputs["cart_items_count"],
        inputs["avg_basket_usd_30d"],
        inputs["avg_basket_usd_90d"],
        strict=True,
    ):
        known = value is not None
        ratio.append(value / usual if known and usual is not None and usual > 0 else None)
        above.append(round((value - mean) * 100) / 100 if known and mean is not None else None)
        price.append(value / items if known and items is not None and items > 0 else None)
    return {
        "cart_to_avg_basket_ratio_30d": ratio,
        "cart_above_avg_basket_usd_90d": above,
        "cart_item_avg_price_usd": price,
    }


def visit_calendar(inputs: Columns) -> Columns:
    times = inputs["requested_at"]
    return {
        "visit_hour": [t.hour for t in times],
        "visit_day_of_week": [t.weekday() for t in times],
        "visit_day_of_month": [t.day for t in times],
        "visit_month": [t.month for t in times],
        "visit_is_weekend": [t.weekday() >= 5 for t in times],
        "visit_is_peak_hour": [t.hour >= 20 for t in times],
    }


def discount_eligibility(inputs: Columns) -> Columns:
    eligible, missing = [], []
    for value, minimum, least, baskets, days in zip(
        inputs["cart_value_usd"],
        inputs["promotion_min_cart_usd"],
        inputs["promotion_min_baskets_30d"],
        inputs["baskets_count_30d"],
        inputs["days_since_last_basket"],
        strict=True,
    ):
        loyal = baskets is not None and baskets >= least
        away = days is not None and days >= 30
        eligible.append(value >= minimum and (loyal or away))
        missing.append(max(minimum - value, 0.0))
    return {"discount_is_eligible": eligible, "discount_missing_usd": missing}


def personalization(inputs: Columns) -> Columns:
    from math import exp, log, log2

    shares, fits, scores = [], [], []
    for baskets, units, revenue, buyers, price, bought, days in zip(
        inputs["baskets_count_90d"],
        inputs["units_count_90d"],
        inputs["revenue_usd_90d"],
        inputs["product_buyers_count_30d"],
        inputs["product_avg_price_usd_30d"],
        inputs["pair_baskets_count_90d"],
        inputs["pair_days_since_last_purchase"],
        strict=True,
    ):
        share = min((bought or 0) / baskets, 1.0) if baskets else 0.0
        paid = revenue / units if units and revenue is not None else 0.0
        fit = exp(abs(log2(price / paid)) * log(0.5)) if paid and price else None
        recent = exp(days / -30.0) if days is not None else 0.0
        popular = min(log2((buyers or 0) + 1) / 10, 1.0)
        shares.append(share)
        fits.append(fit)
        scores.append(0.6 * share * recent + 0.3 * popular + 0.1 * (fit or 0.0))
    return {
        "pair_basket_share_90d": shares,
        "product_price_fit": fits,
        "personalization_score": scores,
    }


def cart_comparison_by_row(inputs: pd.DataFrame) -> pd.DataFrame:
    """`cart_comparison` with loops over rows, for which there is no kernel."""
    value = inputs["cart_value_usd"]
    out = pd.DataFrame()
    out["cart_to_avg_basket_ratio_30d"] = [
        v / usual if usual > 0 else np.nan
        for v, usual in zip(value, inputs["avg_basket_usd_30d"], strict=True)
    ]
    out["cart_above_avg_basket_usd_90d"] = [
        np.round(v - mean, 2) for v, mean in zip(value, inputs["avg_basket_usd_90d"], strict=True)
    ]
    out["cart_item_avg_price_usd"] = [
        v / items if items > 0 else np.nan
        for v, items in zip(value, inputs["cart_items_count"], strict=True)
    ]
    return out


IN_PYTHON = {
    "cart_comparison": cart_comparison,
    "visit_calendar": visit_calendar,
    "discount_eligibility": discount_eligibility,
    "personalization": personalization,
}
"""By the name of the demo's view, its equal in python mode."""

BY_ROW = "cart_comparison_by_row"
"""The view that falls back to Python; its inputs and outputs are those of `cart_comparison`."""


def variant(
    view: OnDemandFeatureView, sources: list[FeatureView], name: str, mode: str, function: Any
) -> OnDemandFeatureView:
    """A view with the inputs and outputs of another.

    Args:
        view: The other.
        sources: Its feature views, with the features that it takes.
        name: Of the new view.
        mode: Feast's.
        function: In this mode.
    """
    asked = [
        Field(name=field, dtype=from_value_type(value_type))
        for field, value_type in view.get_request_data_schema().items()
    ]
    taken: list[Any] = [*sources]
    if asked:
        taken.append(RequestSource(name=f"{name}_request", schema=asked))
    # Feast infers the schema from what the function returns, and Python has one type of integers.
    narrow = {Int32: Int64} if mode == "python" else {}
    schema = [Field(name=f.name, dtype=narrow.get(f.dtype, f.dtype)) for f in view.features]
    decorate: Any = on_demand_feature_view(name=name, sources=taken, schema=schema, mode=mode)
    made: OnDemandFeatureView = decorate(function)
    return made
