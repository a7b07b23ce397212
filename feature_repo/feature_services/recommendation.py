"""Features of the product recommendation model."""

from conventions import SERVING_OWNER, view_tags
from feast import FeatureService
from features.interactions import user_product_interactions
from features.products import product_attributes, product_popularity
from features.users import user_purchase_stats

recommendation = FeatureService(
    name="recommendation",
    features=[
        user_purchase_stats,
        product_attributes,
        product_popularity,
        user_product_interactions,
    ],
    description="Ranks products for a household: activity, catalogue, popularity and habit.",
    owner=SERVING_OWNER,
    tags=view_tags("recommendation", "daily"),
)
