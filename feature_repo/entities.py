"""The entities of the demo: a shopping household and a retail product.

The join keys (`user_id`, `product_id`) differ from the entity names (`user`, `product`) on
purpose: requests carry join keys, and a gateway that confuses the two must fail here.
"""

from conventions import PRODUCTS_OWNER, USERS_OWNER
from feast import Entity
from feast.value_type import ValueType

user = Entity(
    name="user",
    join_keys=["user_id"],
    value_type=ValueType.INT64,
    description="A household that shops with a loyalty card (household_id in the raw data).",
    owner=USERS_OWNER,
    tags={"domain": "users", "pii": "false"},
)

product = Entity(
    name="product",
    join_keys=["product_id"],
    value_type=ValueType.INT64,
    description="A product as the retailer numbers it (product_id in the raw data).",
    owner=PRODUCTS_OWNER,
    tags={"domain": "products", "pii": "false"},
)
