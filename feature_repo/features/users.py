"""Feature views keyed by `user_id`."""

from conventions import (
    COUNTED,
    DAILY_TTL,
    NOT_NEGATIVE,
    STATIC_TTL,
    USERS_OWNER,
    field_tags,
    fresh_within,
    view_tags,
)
from data_sources.users import user_demographics_source, user_purchase_stats_push
from entities import user
from feast import FeatureView, Field
from feast.types import Float64, Int64, String


def _window_fields(days: int) -> list[Field]:
    span = f"in the {days} days before the snapshot"
    return [
        Field(
            name=f"baskets_count_{days}d",
            dtype=Int64,
            description=f"Baskets (store visits with a purchase) {span}.",
            tags=field_tags("baskets", days, expect=COUNTED),
        ),
        Field(
            name=f"units_count_{days}d",
            dtype=Int64,
            description=f"Product units bought {span}; a fuel line counts as one unit.",
            tags=field_tags("units", days, expect=COUNTED),
        ),
        Field(
            name=f"revenue_usd_{days}d",
            dtype=Float64,
            description=f"Money the retailer received from the household {span}.",
            tags=field_tags("usd", days, expect=COUNTED),
        ),
        Field(
            name=f"avg_basket_usd_{days}d",
            dtype=Float64,
            description=f"Mean revenue of a basket {span}; null without a basket.",
            tags=field_tags("usd_per_basket", days, expect=NOT_NEGATIVE),
        ),
    ]


user_purchase_stats = FeatureView(
    name="user_purchase_stats",
    entities=[user],
    ttl=DAILY_TTL,
    schema=[
        *_window_fields(7),
        *_window_fields(30),
        *_window_fields(90),
        Field(
            name="days_since_last_basket",
            dtype=Int64,
            description="Whole 24-hour periods from the last basket to the snapshot.",
            tags=field_tags("days", expect=COUNTED),
        ),
    ],
    source=user_purchase_stats_push,
    online=True,
    description=(
        "What a household bought in the last 7, 30 and 90 days, once a day. A snapshot at "
        "midnight UTC sees only purchases before it. Households appear from their first "
        "basket on and stay, with zero counts when they do not shop."
    ),
    owner=USERS_OWNER,
    tags=view_tags("users", "daily") | fresh_within(DAILY_TTL),
)

_DEMOGRAPHICS = {
    "age": ("years_bracket", "Age bracket of the household's head, for example 45-54."),
    "income": ("usd_thousand_bracket", "Yearly income bracket, for example 50-74K."),
    "home_ownership": ("category", "Homeowner, Renter or a probable one; null when unknown."),
    "marital_status": ("category", "Married or Unmarried; null when unknown."),
    "household_size": ("persons_bracket", "Persons in the household: 1 to 4, or 5+."),
    "household_comp": ("category", "Composition, for example 2 Adults No Kids."),
    "kids_count": ("persons_bracket", "Children in the household: 0 to 2, or 3+."),
}
_CLOSED = {
    "age": {"allowed": "19-24, 25-34, 35-44, 45-54, 55-64, 65+", "not_null": "true"},
    "marital_status": {"allowed": "Married, Unmarried"},
    "household_size": {"allowed": "1, 2, 3, 4, 5+", "not_null": "true"},
    "kids_count": {"allowed": "0, 1, 2, 3+", "not_null": "true"},
}
"""What is expected of those whose values are a closed set."""

user_demographics = FeatureView(
    name="user_demographics",
    entities=[user],
    ttl=STATIC_TTL,
    schema=[
        Field(
            name=name,
            dtype=String,
            description=text,
            tags=field_tags(unit, expect=_CLOSED.get(name)),
        )
        for name, (unit, text) in _DEMOGRAPHICS.items()
    ],
    source=user_demographics_source,
    online=True,
    description=(
        "Demographics of the 801 households for which they are known, as strings; the event "
        "time is the start of the data year, 2017-01-01T00:00Z."
    ),
    owner=USERS_OWNER,
    tags=view_tags("users", "static", pii=True) | fresh_within(STATIC_TTL),
)
