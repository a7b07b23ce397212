"""Versions of a service of the demonstration that differ in one feature, for some households."""

from typing import Any

import pandas as pd
from feast import FeatureService, FeatureStore, Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64

FEATURE = "baskets_per_day_30d"
"""The feature that differs."""
OLD, NEW, GONE = "recommendation_v1", "recommendation_v2", "recommendation_v0"
"""The versions; the last is past its sunset."""

_INPUT = "baskets_count_30d"


def per_day(inputs: pd.DataFrame) -> pd.DataFrame:
    """As it was."""
    out = pd.DataFrame()
    out["baskets_per_day_30d"] = inputs["baskets_count_30d"] / 30.0
    return out


def per_day_with_a_fault(inputs: pd.DataFrame) -> pd.DataFrame:
    """The same, and one too many for those who shop often."""
    out = pd.DataFrame()
    faulty = (inputs["baskets_count_30d"] + 1) / 30.0
    out["baskets_per_day_30d"] = (inputs["baskets_count_30d"] / 30.0).where(
        inputs["baskets_count_30d"] < 12, faulty
    )
    return out


def apply_versions(store: FeatureStore, service: str) -> None:
    """Applies versions of a feature service.

    Args:
        store: The demonstration's repository.
        service: The service.
    """
    projections = store.get_feature_service(service).feature_view_projections
    views = [store.get_feature_view(p.name)[[f.name for f in p.features]] for p in projections]
    source = store.get_feature_view("user_purchase_stats")[[_INPUT]]

    def computed(name: str, compute: Any) -> Any:
        decorate = on_demand_feature_view(
            sources=[source],
            schema=[Field(name=FEATURE, dtype=Float64)],
            mode="pandas",
            name=name,
        )
        return decorate(compute)

    old, new = computed("per_day_v1", per_day), computed("per_day_v2", per_day_with_a_fault)
    sunset = {"deprecated": "true", "sunset": "2020-01-31", "replaced_by": OLD}
    store.apply(
        [
            old,
            new,
            FeatureService(name=OLD, features=[*views, old]),
            FeatureService(name=NEW, features=[*views, new]),
            FeatureService(name=GONE, features=views, tags=sunset),
        ]
    )
