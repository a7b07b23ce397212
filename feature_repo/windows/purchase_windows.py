"""What a household buys, as windows over single purchases.

The features of 7 and 30 days are those that `prepare.py` of the demonstration computes at daily
snapshots; here their definition is all there is: `purchase_events.py` writes the events.
"""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource
from feast.types import Float64, Int64
from feast.value_type import ValueType

from hotfeast.server.windows import event_tags, window_field

OWNER = "user-features@hotfeast.example"

user = Entity(
    name="user",
    join_keys=["user_id"],
    value_type=ValueType.INT64,
    description="A household that shops with a loyalty card (household_id in the raw data).",
    owner=OWNER,
    tags={"domain": "users", "pii": "false"},
)

purchase_lines = PushSource(
    name="purchase_lines",
    batch_source=FileSource(
        name="purchase_lines_source",
        path="data/purchase_lines.parquet",
        timestamp_field="event_timestamp",
        description="Every line of every basket, one a row.",
        owner=OWNER,
        tags={"domain": "users", "cadence": "streaming", "pii": "false"},
    ),
    description="Lines of baskets as they are bought.",
    owner=OWNER,
    tags={"domain": "users", "cadence": "on_push", "pii": "false"},
)

purchase_windows = FeatureView(
    name="purchase_windows",
    entities=[user],
    # The widest window, and the tile by which it may be longer.
    ttl=timedelta(days=31),
    schema=[
        Field(name="user_id", dtype=Int64),
        *(
            window_field(name, dtype, aggregate, window, description=text, tags={"unit": unit})
            for name, dtype, aggregate, window, unit, text in (
                ("baskets_count_7d", Int64, "distinct(basket_id)", "7d", "baskets",
                 "Baskets in the last 7 days."),
                ("baskets_count_30d", Int64, "distinct(basket_id)", "30d", "baskets",
                 "Baskets in the last 30 days."),
                ("units_count_7d", Int64, "sum(units)", "7d", "units",
                 "Product units in the last 7 days."),
                ("units_count_30d", Int64, "sum(units)", "30d", "units",
                 "Product units in the last 30 days."),
                ("revenue_usd_7d", Float64, "sum(usd)", "7d", "usd",
                 "What the household paid in the last 7 days."),
                ("revenue_usd_30d", Float64, "sum(usd)", "30d", "usd",
                 "What the household paid in the last 30 days."),
                ("avg_line_usd_30d", Float64, "mean(usd)", "30d", "usd_per_line",
                 "Mean of a line in the last 30 days; null without one."),
                ("dearest_line_usd_30d", Float64, "max(usd)", "30d", "usd",
                 "The dearest line of the last 30 days; null without one."),
                ("lines_count_1h", Int64, "count()", "1h", "lines",
                 "Lines in the last hour."),
                ("last_line_usd_1d", Float64, "last(usd)", "1d", "usd",
                 "The last line of the last day; null without one."),
            )
        ),
    ],
    source=purchase_lines,
    online=True,
    description="What a household bought in the last hour, day, 7 and 30 days, by the moment.",
    owner=OWNER,
    tags=event_tags(
        "line_id",
        inputs={"basket_id": Int64},
        tags={"domain": "users", "cadence": "on_push", "pii": "false"},
    ),
)  # fmt: skip

purchase_now = FeatureService(
    name="purchase_now",
    features=[purchase_windows],
    description="What a household has been buying up to now.",
    owner=OWNER,
    tags={"domain": "users", "cadence": "on_push", "pii": "false"},
)
