"""Features of the model that scores whether a household buys a product."""

from conventions import SERVING_OWNER, view_tags
from feast import FeatureService
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination
from features.interactions import user_product_interactions
from features.products import product_popularity
from features.users import user_demographics, user_purchase_stats

# The projections stay inside the service: Feast registers every view it finds at module
# level, so a projected copy with a name of its own would replace the full view.
purchase_propensity = FeatureService(
    name="purchase_propensity",
    features=[
        user_purchase_stats,
        user_demographics,
        product_popularity[
            ["product_units_count_30d", "product_buyers_count_30d", "product_avg_price_usd_30d"]
        ],
        user_product_interactions[["pair_baskets_count_90d", "pair_days_since_last_purchase"]],
    ],
    description="Scores whether a household puts a product into its next basket.",
    owner=SERVING_OWNER,
    tags=view_tags("purchase_propensity", "daily", pii=True),
    # Of a gateway that is started with --feature-log.
    logging_config=LoggingConfig(
        FileLoggingDestination(path="data/logged/purchase_propensity"), sample_rate=1.0
    ),
)
