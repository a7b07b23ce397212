"""Features of the model that ranks products for the cart of the moment."""

from conventions import SERVING_OWNER, view_tags
from feast import FeatureService
from features.interactions import user_product_interactions
from features.products import product_attributes, product_popularity
from features.recommendations import (
    cart_comparison,
    discount_eligibility,
    personalization,
    visit_calendar,
)
from features.users import user_purchase_stats

product_ranking = FeatureService(
    name="product_ranking",
    features=[
        user_purchase_stats[["baskets_count_30d", "revenue_usd_30d"]],
        product_attributes[["department", "brand"]],
        product_popularity[["product_units_count_7d"]],
        user_product_interactions[["pair_units_count_90d"]],
        cart_comparison,
        visit_calendar,
        discount_eligibility,
        personalization,
    ],
    description="Ranks products for a household and its cart: needs request data.",
    owner=SERVING_OWNER,
    tags=view_tags("product_ranking", "on_request"),
)
