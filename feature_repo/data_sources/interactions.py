"""Source about pairs of user and product."""

from conventions import INTERACTIONS_OWNER, TIMESTAMP_FIELD, view_tags
from feast import FileSource

user_product_interactions_source = FileSource(
    name="user_product_interactions_source",
    path="data/user_product_interactions.parquet",
    timestamp_field=TIMESTAMP_FIELD,
    description="Weekly snapshots of what each household buys again and again, cut on Mondays.",
    owner=INTERACTIONS_OWNER,
    tags=view_tags("interactions", "weekly"),
)
