"""Definitions with one planted fault or more for each rule of `hotfeast lint`. The tests copy this
file into a repository; each fault says in its name which rule is to find it."""

from datetime import timedelta
from typing import Any

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String

SAID: dict[str, Any] = {"description": "What it is.", "owner": "team@example.com"}
DAILY = {"cadence": "daily"}
TTL = timedelta(days=2)

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64, **SAID)
caller = Entity(name="caller", join_keys=["phone"], value_type=ValueType.STRING, **SAID)
nameless = Entity(
    name="nameless", join_keys=["user_id"], value_type=ValueType.INT64, tags={"pii": "false"}
)

rows = FileSource(name="rows", path="rows.parquet", timestamp_field="event_timestamp")
sometimes = FileSource(
    name="sometimes",
    path="rows.parquet",
    timestamp_field="event_timestamp",
    field_mapping={"amount": "paid_usd"},
    tags={"cadence": "now and then"},
)


def number(name: str, dtype: Any = Float64, **tags: str) -> Field:
    """A field that is described, with tags."""
    return Field(name=name, dtype=dtype, description="What it is.", tags=tags)


def view(name: str, *fields: Field, **options: Any) -> FeatureView:
    """A view without faults, except for its fields and options."""
    given = {"entities": [user], "ttl": TTL, "source": rows, "tags": DAILY, **SAID, **options}
    return FeatureView(name=name, schema=list(fields), **given)


spend = view(
    "spend",
    number("spend_usd_7d"),
    number("visits_count_7d", Int64, pii="false"),
    Field(name="score_usd", dtype=Float64, description="[usd]"),
    Field(name="height", dtype=Float64, description="How tall, unit: furlongs"),
)
web = view("web", number("spend_usd_7d"), number("Visits_count_7d", Int64))
app = view("app", number("visits_count_7d", Int64, unit="sessions"))
unsaid = view(
    "unsaid",
    number("loyalty"),
    number("purchases", Int64, unit="purchases"),
    Field(name="city", dtype=String),
)
unowned = view("unowned", number("city", String), owner="", description=" ")
forever = view("forever", number("city", String), ttl=timedelta(0))
hasty = view("hasty", number("city", String), ttl=timedelta(hours=24))
patient = view("patient", number("city", String), ttl=timedelta(days=21))
measured = view("measured", number("city", String), ttl=timedelta(hours=12), tags={})
paid = view("paid", number("paid_usd"), source=sometimes, tags={})
typed = view(
    "typed",
    number("big_count_7d", Int32),
    number("ratio", Float32),
    number("small_count_7d", Int64),
    number("recent", Array(Int32)),
    number("label", Int64, unit="none"),
    number("absent_usd"),
)
people = view(
    "people",
    number("email", String),
    number("first_name", String),
    number("home_address", String, pii="true"),
    number("product_name", String),
    number("phone_number", Int64),
    number("birth_year", Int64),
    number("email_clicks_count_7d", Int64),
    number("email_verified", Bool),
)
old = view(
    "old",
    number("replaced_usd", deprecated="use spend_usd_7d"),
    number("gone_usd", deprecated="true", sunset="2026-01-31"),
    number("going_usd", sunset="2999-01-31"),
    number("undated_usd", sunset="soon"),
)
ended = view("ended", number("ended_usd"), tags=DAILY | {"sunset": "2026-02-28"})
tolerated = view(
    "tolerated",
    number("luck"),
    Field(
        name="orders",
        dtype=Int64,
        tags={"unit": "orders", "lint.ignore": "window-missing, description-missing"},
    ),
    ttl=timedelta(0),
    tags=DAILY | {"lint.ignore": "ttl-missing,unit-missing"},
)
offline = view("offline", number("city", String), ttl=timedelta(0), online=False)

cart = RequestSource(
    name="cart", schema=[Field(name="cart_usd", dtype=Float64), Field(name="ip", dtype=String)]
)


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[spend[["spend_usd_7d"]], cart],
    schema=[Field(name="cart_ratio", dtype=Float64), Field(name="spend_usd_7d", dtype=Float64)],
    mode="pandas",
    **SAID,
)
def hiding(inputs: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    out = pd.DataFrame()
    out["cart_ratio"] = inputs["cart_usd"] / inputs["spend_usd_7d"]
    out["spend_usd_7d"] = inputs["spend_usd_7d"] + 1.0
    return out


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[spend[["spend_usd_7d"]]],
    schema=[Field(name="rounded_usd", dtype=Float64)],
    mode="pandas",
    **SAID,
)
def slow(inputs: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    out = pd.DataFrame()
    out["rounded_usd"] = inputs["spend_usd_7d"].apply(lambda value: value // 1)
    return out


def service(name: str, *features: Any, **options: Any) -> FeatureService:
    """A service without faults of its own."""
    return FeatureService(name=name, features=list(features), **{**SAID, **options})


clashing = service("clashing", spend[["spend_usd_7d"]], web[["spend_usd_7d"]])
ambiguous = service("ambiguous", spend[["visits_count_7d"]], app)
cased = service("cased", spend[["visits_count_7d"]], web[["Visits_count_7d"]])
aliased = service("aliased", web[["spend_usd_7d"]].with_name("spend"))
hidden_key = service(
    "hidden_key",
    spend[["spend_usd_7d"]].with_join_key_map({"user_id": "city"}),
    unsaid[["city"]],
)
keeping = service("keeping", old)
silent = service("silent", spend[["spend_usd_7d"]], owner="", description="")
leaving = service(
    "leaving", old[["replaced_usd"]], tags={"deprecated": "true", "sunset": "2026-03-31"}
)
