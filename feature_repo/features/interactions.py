"""Feature views keyed by `user_id` and `product_id` together."""

from conventions import COUNTED, INTERACTIONS_OWNER, WEEKLY_TTL, field_tags, fresh_within, view_tags
from data_sources.interactions import user_product_interactions_source
from entities import product, user
from feast import FeatureView, Field
from feast.types import Float64, Int64

user_product_interactions = FeatureView(
    name="user_product_interactions",
    entities=[user, product],
    ttl=WEEKLY_TTL,
    schema=[
        Field(
            name="pair_baskets_count_90d",
            dtype=Int64,
            description="The household's baskets with the product in the 90 days before.",
            tags=field_tags("baskets", 90, expect={"min": "4", "not_null": "true"}),
        ),
        Field(
            name="pair_units_count_90d",
            dtype=Int64,
            description="Units of the product the household bought in the 90 days before.",
            tags=field_tags("units", 90, expect={"min": "4", "not_null": "true"}),
        ),
        Field(
            name="pair_revenue_usd_90d",
            dtype=Float64,
            description="What the household paid for the product in the 90 days before.",
            tags=field_tags("usd", 90, expect=COUNTED),
        ),
        Field(
            name="pair_days_since_last_purchase",
            dtype=Int64,
            description="Whole 24-hour periods from the last such purchase to the snapshot.",
            tags=field_tags("days", expect={"max": "90"} | COUNTED),
        ),
    ],
    source=user_product_interactions_source,
    online=True,
    description=(
        "A household's habit of buying one product over 90 days, every Monday at midnight "
        "UTC, for pairs with at least 4 baskets in the window (a purchase about every three "
        "weeks); rarer pairs have no row."
    ),
    owner=INTERACTIONS_OWNER,
    tags=view_tags("interactions", "weekly") | fresh_within(WEEKLY_TTL),
)
