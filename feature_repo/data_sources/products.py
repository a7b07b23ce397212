"""Sources about products: attributes and popularity."""

from conventions import PRODUCTS_OWNER, TIMESTAMP_FIELD, view_tags
from feast import FileSource

product_attributes_source = FileSource(
    name="product_attributes_source",
    path="data/product_attributes.parquet",
    timestamp_field=TIMESTAMP_FIELD,
    description="One row for each catalogue product that was ever sold in the data.",
    owner=PRODUCTS_OWNER,
    tags=view_tags("products", "static"),
)

product_popularity_source = FileSource(
    name="product_popularity_source",
    path="data/product_popularity.parquet",
    timestamp_field=TIMESTAMP_FIELD,
    description="Weekly snapshots of each product's sales, cut on Mondays at midnight UTC.",
    owner=PRODUCTS_OWNER,
    tags=view_tags("products", "weekly"),
)
