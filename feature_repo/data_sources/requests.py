"""What only a request knows: the cart, the visit and the promotion that runs."""

from conventions import SERVING_OWNER, view_tags
from feast import Field, RequestSource
from feast.types import Float64, Int64, UnixTimestamp

cart_request = RequestSource(
    name="cart_request",
    schema=[
        Field(name="cart_value_usd", dtype=Float64),
        Field(name="cart_items_count", dtype=Int64),
    ],
    description="The cart of the household at the time of the request.",
    owner=SERVING_OWNER,
    tags=view_tags("requests", "on_request"),
)

visit_request = RequestSource(
    name="visit_request",
    schema=[Field(name="requested_at", dtype=UnixTimestamp)],
    description="When the household asks, in UTC, to the second.",
    owner=SERVING_OWNER,
    tags=view_tags("requests", "on_request"),
)

promotion_request = RequestSource(
    name="promotion_request",
    schema=[
        Field(name="promotion_min_cart_usd", dtype=Float64),
        Field(name="promotion_min_baskets_30d", dtype=Int64),
    ],
    description="What the promotion of the day asks of a cart and of a household.",
    owner=SERVING_OWNER,
    tags=view_tags("requests", "on_request"),
)
