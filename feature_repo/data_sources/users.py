"""Sources about users: purchase statistics (also pushable) and demographics."""

from conventions import TIMESTAMP_FIELD, USERS_OWNER, view_tags
from feast import FileSource, PushSource

user_purchase_stats_source = FileSource(
    name="user_purchase_stats_source",
    path="data/user_purchase_stats.parquet",
    timestamp_field=TIMESTAMP_FIELD,
    description="Daily snapshots of what each household bought, cut at midnight UTC.",
    owner=USERS_OWNER,
    tags=view_tags("users", "daily"),
)

user_purchase_stats_push = PushSource(
    name="user_purchase_stats_push",
    batch_source=user_purchase_stats_source,
    description="Statistics recomputed between two daily snapshots, for online writes.",
    owner=USERS_OWNER,
    tags=view_tags("users", "on_push"),
)

user_demographics_source = FileSource(
    name="user_demographics_source",
    path="data/user_demographics.parquet",
    timestamp_field=TIMESTAMP_FIELD,
    description="One row for each household whose demographics are known (801 of 2,469).",
    owner=USERS_OWNER,
    tags=view_tags("users", "static", pii=True),
)
