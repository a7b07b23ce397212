"""Features of one request, computed from stored features and from what the request says.

The functions are plain pandas over whole columns, without loops and branches, and name nothing but
`pd` and `np`: Feast keeps the source of a function, and what surrounds it is not there when it runs
from the registry. A household or product without a row has null inputs, and a null says so. Fields
are described by comments, since Feast applies only fields that have no description and no tags.
"""

import numpy as np
import pandas as pd
from conventions import SERVING_OWNER, view_tags
from data_sources.requests import cart_request, promotion_request, visit_request
from feast import Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Float64, Int32

from features.interactions import user_product_interactions
from features.products import product_popularity
from features.users import user_purchase_stats


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[
        user_purchase_stats[["avg_basket_usd_30d", "avg_basket_usd_90d"]],
        cart_request,
    ],
    schema=[
        # Cart value over the mean basket of 30 days; null without a basket.
        Field(name="cart_to_avg_basket_ratio_30d", dtype=Float64),
        # Cart value less the mean basket of 90 days; null without a basket.
        Field(name="cart_above_avg_basket_usd_90d", dtype=Float64),
        # Cart value per item; null for an empty cart.
        Field(name="cart_item_avg_price_usd", dtype=Float64),
    ],
    mode="pandas",
    description="The value of the cart against what the household's baskets are usually worth.",
    owner=SERVING_OWNER,
    tags=view_tags("recommendations", "on_request"),
)
def cart_comparison(inputs: pd.DataFrame) -> pd.DataFrame:
    value = inputs["cart_value_usd"]
    usual = inputs["avg_basket_usd_30d"]
    items = inputs["cart_items_count"]
    out = pd.DataFrame()
    out["cart_to_avg_basket_ratio_30d"] = value / usual.where(usual > 0)
    out["cart_above_avg_basket_usd_90d"] = (value - inputs["avg_basket_usd_90d"]).round(2)
    out["cart_item_avg_price_usd"] = value / items.where(items > 0)
    return out


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[visit_request],
    schema=[
        # Hour of the day in UTC, 0 to 23.
        Field(name="visit_hour", dtype=Int32),
        # Day of the week in UTC, Monday 0 to Sunday 6.
        Field(name="visit_day_of_week", dtype=Int32),
        # Day of the month in UTC, 1 to 31.
        Field(name="visit_day_of_month", dtype=Int32),
        # Month in UTC, 1 to 12.
        Field(name="visit_month", dtype=Int32),
        # Whether it is Saturday or Sunday in UTC, the two busiest days.
        Field(name="visit_is_weekend", dtype=Bool),
        # Whether it is 20:00 to 23:59 UTC, when 36% of all baskets are bought.
        Field(name="visit_is_peak_hour", dtype=Bool),
    ],
    mode="pandas",
    description="The calendar at the time of the request.",
    owner=SERVING_OWNER,
    tags=view_tags("recommendations", "on_request"),
)
def visit_calendar(inputs: pd.DataFrame) -> pd.DataFrame:
    at = inputs["requested_at"]
    out = pd.DataFrame()
    out["visit_hour"] = at.dt.hour
    out["visit_day_of_week"] = at.dt.dayofweek
    out["visit_day_of_month"] = at.dt.day
    out["visit_month"] = at.dt.month
    out["visit_is_weekend"] = at.dt.dayofweek >= 5
    out["visit_is_peak_hour"] = at.dt.hour >= 20
    return out


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[
        user_purchase_stats[["baskets_count_30d", "days_since_last_basket"]],
        cart_request,
        promotion_request,
    ],
    schema=[
        # Whether the cart is worth enough and the household shops often enough, or has stayed
        # away for 30 days and should be won back.
        Field(name="discount_is_eligible", dtype=Bool),
        # What the cart lacks of the minimum of the promotion; 0 where it has it.
        Field(name="discount_missing_usd", dtype=Float64),
    ],
    mode="pandas",
    description="Whether the promotion of the day applies to the household and its cart.",
    owner=SERVING_OWNER,
    tags=view_tags("recommendations", "on_request"),
)
def discount_eligibility(inputs: pd.DataFrame) -> pd.DataFrame:
    value = inputs["cart_value_usd"]
    minimum = inputs["promotion_min_cart_usd"]
    loyal = inputs["baskets_count_30d"] >= inputs["promotion_min_baskets_30d"]
    away = inputs["days_since_last_basket"] >= 30
    out = pd.DataFrame()
    out["discount_is_eligible"] = (value >= minimum) & (loyal | away)
    out["discount_missing_usd"] = (minimum - value).clip(lower=0)
    return out


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[
        user_purchase_stats[["baskets_count_90d", "units_count_90d", "revenue_usd_90d"]],
        product_popularity[["product_buyers_count_30d", "product_avg_price_usd_30d"]],
        user_product_interactions[["pair_baskets_count_90d", "pair_days_since_last_purchase"]],
    ],
    schema=[
        # Share of all baskets of the household that have the product; 0 without a habit.
        Field(name="pair_basket_share_90d", dtype=Float64),
        # How near the price of the product is to what the household pays for a unit: 1 for the
        # same, 0.5 for twice or half of it; null where one of them is unknown.
        Field(name="product_price_fit", dtype=Float64),
        # Habit (weight 0.6, less the longer ago), popularity (0.3) and price fit (0.1), each from
        # 0 to 1; what is unknown counts as 0.
        Field(name="personalization_score", dtype=Float64),
    ],
    mode="pandas",
    description="How well a product suits a household, by its own, the product's and their habit.",
    owner=SERVING_OWNER,
    tags=view_tags("recommendations", "on_request"),
)
def personalization(inputs: pd.DataFrame) -> pd.DataFrame:
    baskets = inputs["baskets_count_90d"]
    share = inputs["pair_baskets_count_90d"].fillna(0) / baskets.where(baskets > 0)
    share = share.fillna(0).clip(0, 1)
    units = inputs["units_count_90d"]
    paid = inputs["revenue_usd_90d"] / units.where(units > 0)
    price = inputs["product_avg_price_usd_30d"]
    known = (paid > 0) & (price > 0)
    apart = np.log2(price.where(known) / paid.where(known)).abs()
    fit = np.exp(apart * np.log(0.5))
    recent = np.exp(inputs["pair_days_since_last_purchase"] / -30.0).fillna(0)
    # 1,024 buyers in 30 days count as 1; few products have more.
    popular = (np.log2(inputs["product_buyers_count_30d"].fillna(0) + 1) / 10).clip(0, 1)
    out = pd.DataFrame()
    out["pair_basket_share_90d"] = share
    out["product_price_fit"] = fit
    out["personalization_score"] = 0.6 * share * recent + 0.3 * popular + 0.1 * fit.fillna(0)
    return out
