"""Transforms in pandas, of the kinds that feature repositories and tutorials have.

Each says what is expected of it: a kernel, or the start of the reason why it has none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from feast import Field
from feast.types import Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp

CUSTOMER = {
    "age": Int64,
    "orders_30d": Int64,
    "returns_30d": Int64,
    "clicks": Int64,
    "impressions": Int64,
    "credit_score": Int32,
    "spend_30d": Float64,
    "spend_365d": Float64,
    "avg_basket": Float64,
    "std_basket": Float64,
    "acc_rate": Float64,
    "conv_rate": Float32,
    "income": Float64,
    "debt": Float64,
    "lat": Float64,
    "lon": Float64,
    "tier": String,
    "city": String,
    "email": String,
    "country": String,
    "is_active": Bool,
    "is_premium": Bool,
    "signup_time": UnixTimestamp,
    "last_order_time": UnixTimestamp,
}
"""Features of the view that the transforms read."""

REQUEST = {
    "amount": Float64,
    "quantity": Int64,
    "val_to_add": Int64,
    "discount_pct": Float64,
    "merchant_lat": Float64,
    "merchant_lon": Float64,
    "currency": String,
    "channel": String,
    "event_time": UnixTimestamp,
    "unix_time": Int64,
}
"""Request data that the transforms read."""


@dataclass(frozen=True)
class Transform:
    """One of the corpus."""

    function: Callable[[Any], Any]
    outputs: tuple[Field, ...]
    refusal: str
    """The start of the reason why it has no kernel; empty where it has one."""

    @property
    def name(self) -> str:
        return self.function.__name__


TRANSFORMS: list[Transform] = []


def compiled(**outputs: Any) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """A transform that gets a kernel."""
    return refused("", **outputs)


def refused(reason: str, **outputs: Any) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """A transform that stays with pandas."""

    def enter(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        fields = tuple(Field(name=name, dtype=dtype) for name, dtype in outputs.items())
        TRANSFORMS.append(Transform(function, fields, reason))
        return function

    return enter


# ---- ratios and arithmetic


@compiled(conv_rate_plus_val=Float64, acc_rate_plus_val=Float64)
def transformed_conv_rate(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["conv_rate_plus_val"] = inputs["conv_rate"] + inputs["val_to_add"]
    df["acc_rate_plus_val"] = inputs["acc_rate"] + inputs["val_to_add"]
    return df


@compiled(ctr=Float64)
def click_through_rate(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["ctr"] = inputs["clicks"] / inputs["impressions"]
    return df


@compiled(ctr_safe=Float64)
def safe_click_through_rate(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["ctr_safe"] = (inputs["clicks"] / inputs["impressions"].replace(0, np.nan)).fillna(0.0)
    return df


@compiled(return_ratio=Float64)
def return_ratio_clipped(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    ratio = inputs["returns_30d"] / (inputs["orders_30d"] + 1)
    df["return_ratio"] = ratio.clip(0, 1).round(4)
    return df


@compiled(debt_to_income=Float64)
def debt_to_income_ratio(inputs: pd.DataFrame) -> pd.DataFrame:
    out = pd.DataFrame()
    ratio = inputs["debt"] / inputs["income"]
    out["debt_to_income"] = ratio.replace([np.inf, -np.inf], np.nan).fillna(-1)
    return out


@compiled(share=Float64)
def spend_share_where(inputs: pd.DataFrame) -> pd.DataFrame:
    share = np.where(inputs["spend_365d"] > 0, inputs["spend_30d"] / inputs["spend_365d"], 0.0)
    return pd.DataFrame({"share": share})


@compiled(amount_vs_average=Float64)
def amount_against_average(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["amount_vs_average"] = inputs["amount"] / inputs["avg_basket"].fillna(1.0)
    return df


@compiled(line_total=Float64, line_total_cents=Int64)
def line_totals(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["line_total"] = inputs["amount"] * inputs["quantity"]
    df["line_total_cents"] = (df["line_total"] * 100).round().astype("int64")
    return df


@compiled(z=Float64)
def basket_z_score(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["z"] = (inputs["amount"] - inputs["avg_basket"]) / inputs["std_basket"]
    return df


@compiled(z_capped=Float64, is_outlier=Int64)
def capped_z_score(inputs: pd.DataFrame) -> pd.DataFrame:
    z = (inputs["amount"] - inputs["avg_basket"]) / (inputs["std_basket"] + 1e-9)
    return pd.DataFrame({"z_capped": z.clip(-3, 3), "is_outlier": (z.abs() > 3).astype(int)})


@compiled(growth=Float64)
def spend_growth(inputs: pd.DataFrame) -> pd.DataFrame:
    monthly = inputs["spend_365d"] / 12
    return pd.DataFrame({"growth": (inputs["spend_30d"] - monthly) / monthly})


@compiled(scaled=Float64)
def min_max_scaled_age(inputs: pd.DataFrame) -> pd.DataFrame:
    low, high = 18, 99
    df = pd.DataFrame()
    df["scaled"] = (inputs["age"] - low) / (high - low)
    return df


@compiled(age_squared=Float64, age_root=Float64)
def polynomial_age(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    age = inputs["age"].astype(float)
    df["age_squared"] = age**2
    df["age_root"] = age**0.5
    return df


@compiled(hash_bucket=Int64, whole_tens=Int64)
def integer_buckets(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["hash_bucket"] = inputs["credit_score"] % 16
    df["whole_tens"] = inputs["age"] // 10
    return df


# ---- logarithms and other functions


@compiled(log_spend=Float64)
def log_of_spend(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["log_spend"] = np.log1p(inputs["spend_30d"])
    return df


@compiled(log_ratio=Float64)
def log_ratio_of_spend(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["log_ratio"] = np.log(inputs["spend_30d"] + 1) - np.log(inputs["spend_365d"] + 1)
    return df


@compiled(probability=Float64)
def logistic_score(inputs: pd.DataFrame) -> pd.DataFrame:
    score = -3.2 + 0.8 * np.log1p(inputs["amount"]) - 0.01 * inputs["credit_score"]
    return pd.DataFrame({"probability": 1 / (1 + np.exp(-score))})


@compiled(hour_sin=Float64, hour_cos=Float64)
def cyclic_hour(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    hour = inputs["event_time"].dt.hour
    df["hour_sin"] = np.sin(2 * np.pi * hour / 24)
    df["hour_cos"] = np.cos(2 * np.pi * hour / 24)
    return df


@compiled(distance_km=Float64)
def distance_to_merchant(inputs: pd.DataFrame) -> pd.DataFrame:
    def haversine(lat1: Any, lon1: Any, lat2: Any, lon2: Any) -> Any:
        lat1, lon1, lat2, lon2 = map(np.radians, [lat1, lon1, lat2, lon2])
        a = (
            np.sin((lat2 - lat1) / 2) ** 2
            + np.cos(lat1) * np.cos(lat2) * np.sin((lon2 - lon1) / 2) ** 2
        )
        return 2 * 6371.0 * np.arcsin(np.sqrt(a))

    df = pd.DataFrame()
    df["distance_km"] = haversine(
        inputs["lat"], inputs["lon"], inputs["merchant_lat"], inputs["merchant_lon"]
    )
    return df


@compiled(distance_km=Float64, is_far=Bool)
def distance_with_arctan(inputs: pd.DataFrame) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    d_lat = np.deg2rad(inputs["merchant_lat"] - inputs["lat"])
    d_lon = np.deg2rad(inputs["merchant_lon"] - inputs["lon"])
    a = np.sin(d_lat / 2) ** 2 + np.cos(np.deg2rad(inputs["lat"])) * np.cos(
        np.deg2rad(inputs["merchant_lat"])
    ) * (np.sin(d_lon / 2) ** 2)
    distance = 6371 * 2 * np.arctan2(np.sqrt(a), np.sqrt(1 - a))
    return pd.DataFrame({"distance_km": distance, "is_far": distance > 100})


@compiled(decayed=Float64)
def time_decay(inputs: pd.DataFrame) -> pd.DataFrame:
    import math

    age = (inputs["event_time"] - inputs["last_order_time"]).dt.total_seconds() / 86400.0
    half_life = 30.0
    weight = np.exp(-math.log(2) * age / half_life)
    return pd.DataFrame({"decayed": inputs["spend_30d"] * weight})


# ---- flags and buckets


@compiled(is_high_value=Int64)
def high_value_flag(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["is_high_value"] = (inputs["amount"] > 1000).astype(int)
    return df


@compiled(is_risky=Bool)
def risk_flag(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["is_risky"] = (
        (inputs["amount"] > 3 * inputs["avg_basket"]) & (inputs["credit_score"] < 600)
    ) | ~inputs["country"].isin(["DE", "AT", "CH"])
    return df


@compiled(bucket=Int64)
def amount_bucket(inputs: pd.DataFrame) -> pd.DataFrame:
    conditions = [inputs["amount"] < 10, inputs["amount"] < 100, inputs["amount"] < 1000]
    return pd.DataFrame({"bucket": np.select(conditions, [0, 1, 2], default=3)})


@compiled(age_group=String)
def age_group_names(inputs: pd.DataFrame) -> pd.DataFrame:
    group = np.where(inputs["age"] < 25, "young", np.where(inputs["age"] < 60, "middle", "old"))
    df = pd.DataFrame()
    df["age_group"] = group
    return df


@compiled(segment=String)
def segment_by_select(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["segment"] = np.select(
        [inputs["spend_365d"] >= 5000, inputs["spend_365d"].between(500, 5000)],
        ["gold", "silver"],
        default="bronze",
    )
    return df


@compiled(has_orders=Bool, spend_is_known=Bool)
def presence_flags(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["has_orders"] = inputs["orders_30d"].fillna(0) > 0
    df["spend_is_known"] = inputs["spend_30d"].notna()
    return df


@compiled(active_premium=Bool)
def active_and_premium(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["active_premium"] = inputs["is_active"].fillna(False) & inputs["is_premium"].fillna(False)
    return df


@compiled(larger=Float64, smaller=Float64)
def larger_and_smaller(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["larger"] = np.maximum(inputs["amount"], inputs["avg_basket"])
    df["smaller"] = np.minimum(inputs["amount"], inputs["avg_basket"])
    return df


@compiled(without_negative=Float64, loss_only=Float64)
def masks(inputs: pd.DataFrame) -> pd.DataFrame:
    balance = inputs["income"] - inputs["debt"]
    df = pd.DataFrame()
    df["without_negative"] = balance.mask(balance < 0, 0)
    df["loss_only"] = balance.where(balance < 0)
    return df


# ---- discounts and prices


@compiled(eligible=Bool, discounted=Float64)
def discount_eligibility(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["eligible"] = (
        (inputs["orders_30d"] >= 3) & (inputs["amount"] >= 50) & inputs["is_active"].fillna(False)
    )
    df["discounted"] = np.where(
        df["eligible"], inputs["amount"] * (1 - inputs["discount_pct"] / 100), inputs["amount"]
    )
    return df


@compiled(amount_eur=Float64)
def amount_in_euros(inputs: pd.DataFrame) -> pd.DataFrame:
    rates = {"EUR": 1.0, "USD": 0.92, "GBP": 1.17, "JPY": 0.0062}
    df = pd.DataFrame()
    df["amount_eur"] = (inputs["amount"] * inputs["currency"].map(rates)).round(2)
    return df


@compiled(tier_rank=Int64)
def tier_rank_or_zero(inputs: pd.DataFrame) -> pd.DataFrame:
    ranks = {"bronze": 1, "silver": 2, "gold": 3}
    return pd.DataFrame({"tier_rank": inputs["tier"].map(ranks).fillna(0).astype(int)})


@compiled(limit=Float64)
def limit_by_tier(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["limit"] = inputs["tier"].map({"silver": 500, "gold": 2000.5})
    df["limit"] = df["limit"].fillna(100.0) * inputs["credit_score"] / 800
    return df


@compiled(vat=Float64)
def value_added_tax(inputs: pd.DataFrame) -> pd.DataFrame:
    rate = np.where(
        inputs["country"] == "DE", 0.19, np.where(inputs["country"] == "CH", 0.081, 0.2)
    )
    return pd.DataFrame({"vat": inputs["amount"] * rate})


# ---- strings


@compiled(is_gmail=Bool, has_edu=Bool)
def email_flags(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["is_gmail"] = inputs["email"].str.endswith("@gmail.com", na=False)
    df["has_edu"] = inputs["email"].str.contains("edu", na=False)
    return df


@compiled(city_length=Int64)
def length_of_city(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"city_length": inputs["city"].fillna("").str.len()})


@compiled(is_mobile=Int64, same_city=Bool)
def channel_flags(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["is_mobile"] = (inputs["channel"].str.lower() == "mobile").astype("int64")
    df["same_city"] = inputs["city"] == inputs["channel"]
    return df


@compiled(city_or_unknown=String)
def city_with_default(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["city_or_unknown"] = inputs["city"].fillna("unknown")
    return df


# ---- dates


@compiled(hour=Int32, weekday=Int32, is_weekend=Bool, is_night=Int64)
def calendar_features(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["hour"] = inputs["event_time"].dt.hour
    df["weekday"] = inputs["event_time"].dt.dayofweek
    df["is_weekend"] = df["weekday"] >= 5
    df["is_night"] = ((df["hour"] < 6) | (df["hour"] >= 22)).astype(int)
    return df


@compiled(month=Int32, quarter=Int32, day_of_year=Int32, year=Int32)
def month_and_quarter(inputs: pd.DataFrame) -> pd.DataFrame:
    time = pd.to_datetime(inputs["event_time"])
    return pd.DataFrame(
        {
            "month": time.dt.month,
            "quarter": time.dt.quarter,
            "day_of_year": time.dt.dayofyear,
            "year": time.dt.year,
        }
    )


@compiled(days_since_order=Int64, tenure_years=Float64)
def recency_and_tenure(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["days_since_order"] = (inputs["event_time"] - inputs["last_order_time"]).dt.days
    df["tenure_years"] = (inputs["event_time"] - inputs["signup_time"]).dt.days / 365.25
    return df


@compiled(peak=Bool)
def peak_hour_of_unix_time(inputs: pd.DataFrame) -> pd.DataFrame:
    hour = pd.to_datetime(inputs["unix_time"], unit="s").dt.hour
    return pd.DataFrame({"peak": hour.isin([8, 9, 17, 18, 19])})


@compiled(is_new=Bool)
def ordered_after_signup(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["is_new"] = inputs["last_order_time"] <= inputs["signup_time"]
    return df


# ---- crosses and whole frames


@compiled(engagement=Float64, engagement_cross=Float64)
def cross_features(inputs: pd.DataFrame) -> pd.DataFrame:
    df = inputs.copy()
    df["engagement"] = df["clicks"] * 0.3 + df["orders_30d"] * 0.7
    df["engagement_cross"] = df["engagement"] * df["conv_rate"].fillna(0)
    return df[["engagement", "engagement_cross"]]


@compiled(score=Float64)
def personalization_score(inputs: pd.DataFrame) -> pd.DataFrame:
    return inputs.assign(
        score=lambda d: (
            0.5 * d["conv_rate"].fillna(0)
            + 0.3 * np.tanh(d["spend_30d"].fillna(0) / 100)
            + 0.2 * (d["tier"] == "gold")
        )
    )


# ---- what stays with pandas


@refused("uses .apply", risk_label=String)
def label_by_apply(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["risk_label"] = inputs["amount"].apply(lambda x: "high" if x > 1000 else "low")
    return df


@refused("uses DataFrame.apply", total=Float64)
def row_by_row(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["total"] = inputs.apply(lambda row: row["amount"] * row["discount_pct"], axis=1)
    return df


@refused("loops over a column", doubled=Float64)
def list_comprehension(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"doubled": [2 * x for x in inputs["amount"]]})


@refused("uses .any", checked=Float64)
def branch_on_data(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["checked"] = inputs["amount"]
    if (df["checked"] > 10).any():
        df["checked"] = df["checked"] * 2
    return df


@refused("uses .mean", centered=Float64)
def centered_in_the_batch(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["centered"] = inputs["amount"] - inputs["amount"].mean()
    return df


@refused("uses pd.cut", age_bin=Int64)
def cut_into_bins(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["age_bin"] = pd.cut(inputs["age"], bins=[0, 18, 35, 65, 120], labels=False)
    return df


@refused("uses DataFrame.max", most=Float64)
def largest_of_a_row(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["most"] = inputs[["amount", "avg_basket"]].max(axis=1)
    return df


@refused("uses .str.split", user=String)
def user_of_email(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["user"] = inputs["email"].str.split("@").str[0]
    return df


@refused("uses pd.Timestamp", days_left=Int64)
def days_until_now(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["days_left"] = (pd.Timestamp.now(tz="UTC") - inputs["signup_time"]).dt.days
    return df


@refused("uses add of a column", cross=String)
def text_cross(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["cross"] = inputs["country"] + "_" + inputs["age"].astype(str)
    return df
