"""Feature views keyed by `product_id`."""

from conventions import (
    COUNTED,
    NOT_NEGATIVE,
    PRODUCTS_OWNER,
    STATIC_TTL,
    WEEKLY_TTL,
    field_tags,
    fresh_within,
    view_tags,
)
from data_sources.products import product_attributes_source, product_popularity_source
from entities import product
from feast import FeatureView, Field
from feast.types import Float64, Int64, String

_ATTRIBUTES = {
    "department": "Department of the store, for example GROCERY.",
    "brand": "National, or Private for the retailer's own brand.",
    "product_category": "Category within the department; null when unknown.",
    "product_type": "Type within the category; null when unknown.",
    "package_size": "Package size as printed, for example 22 LB; null when unknown.",
}

product_attributes = FeatureView(
    name="product_attributes",
    entities=[product],
    ttl=STATIC_TTL,
    schema=[
        Field(
            name="manufacturer_id",
            dtype=Int64,
            description="Number of the manufacturer; only equality means anything.",
            tags=field_tags("identifier"),
        ),
        *(
            Field(name=name, dtype=String, description=text, tags=field_tags("category"))
            for name, text in _ATTRIBUTES.items()
        ),
    ],
    source=product_attributes_source,
    online=True,
    description=(
        "Catalogue attributes of every product that was ever sold in the data (others are "
        "left out to keep materialization small); the event time is 2017-01-01T00:00Z."
    ),
    owner=PRODUCTS_OWNER,
    tags=view_tags("products", "static") | fresh_within(STATIC_TTL),
)


def _window_fields(days: int) -> list[Field]:
    span = f"in the {days} days before the snapshot"
    return [
        Field(
            name=f"product_units_count_{days}d",
            dtype=Int64,
            description=f"Units sold {span}; a fuel line counts as one unit.",
            tags=field_tags("units", days, expect=COUNTED),
        ),
        Field(
            name=f"product_revenue_usd_{days}d",
            dtype=Float64,
            description=f"Money the retailer received for the product {span}.",
            tags=field_tags("usd", days, expect=COUNTED),
        ),
        Field(
            name=f"product_buyers_count_{days}d",
            dtype=Int64,
            description=f"Distinct households that bought the product {span}.",
            tags=field_tags("households", days, expect=COUNTED),
        ),
        Field(
            name=f"product_avg_price_usd_{days}d",
            dtype=Float64,
            description=f"Revenue per unit {span}; null without a sale.",
            tags=field_tags("usd_per_unit", days, expect=NOT_NEGATIVE),
        ),
    ]


product_popularity = FeatureView(
    name="product_popularity",
    entities=[product],
    ttl=WEEKLY_TTL,
    schema=[*_window_fields(7), *_window_fields(30)],
    source=product_popularity_source,
    online=True,
    description=(
        "How a product sold in the last 7 and 30 days, every Monday at midnight UTC, for "
        "products with a sale in the last 30 days. Weekly, because a 30-day window moves "
        "little in a week and daily rows would be seven times as many."
    ),
    owner=PRODUCTS_OWNER,
    tags=view_tags("products", "weekly") | fresh_within(WEEKLY_TTL),
)
