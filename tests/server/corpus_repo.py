"""The corpus as a repository that Feast has applied."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    RequestSource,
    ValueType,
)
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Int64
from transform_corpus import CUSTOMER, REQUEST, TRANSFORMS, Transform

customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
customers = FeatureView(
    name="customers",
    entities=[customer],
    ttl=timedelta(days=3650),
    schema=[
        Field(name="customer_id", dtype=Int64),
        *(Field(name=name, dtype=dtype) for name, dtype in CUSTOMER.items()),
    ],
    source=FileSource(name="customers", path="unused.parquet", timestamp_field="event_timestamp"),
)


def request_fields(transform: Transform) -> list[Field]:
    """The request data that a transform reads."""
    names = set(transform.function.__code__.co_consts)
    names |= {
        c
        for code in transform.function.__code__.co_consts
        if hasattr(code, "co_consts")
        for c in code.co_consts
    }
    return [Field(name=n, dtype=t) for n, t in REQUEST.items() if n in names]


def view_of(transform: Transform) -> Any:
    """The on-demand view of a transform."""
    fields = request_fields(transform)
    sources: list[Any] = [customers]
    if fields:
        sources.append(RequestSource(name=f"{transform.name}_request", schema=fields))
    decorate = on_demand_feature_view(
        name=transform.name, sources=sources, schema=list(transform.outputs), mode="pandas"
    )
    return decorate(transform.function)


def apply(folder: Path, redis: str) -> FeatureStore:
    """Applies the corpus: an on-demand view and a feature service of its own for each."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "feature_store.yaml").write_text(
        f"""project: corpus
registry: {folder / "registry.db"}
provider: local
online_store:
  type: redis
  connection_string: "{redis}"
entity_key_serialization_version: 3
"""
    )
    store = FeatureStore(repo_path=str(folder))
    views = [view_of(transform) for transform in TRANSFORMS]
    services = [FeatureService(name=f"serve_{v.name}", features=[v]) for v in views]
    store.apply([customer, customers, *views, *services], partial=True)
    return store
