"""The recommender's transforms: by hand on a few rows, and the same in training and in serving."""

import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from feast import FeatureStore
from prepare import LAST_SNAPSHOT

from hotfeast.clients import FeatureClient

SERVICE = "product_ranking"
TRANSFORMS = ["cart_comparison", "visit_calendar", "discount_eligibility", "personalization"]
ROWS = 300


@pytest.fixture(scope="module")
def store(applied_repo: Path) -> FeatureStore:
    return FeatureStore(repo_path=str(applied_repo))


def run(store: FeatureStore, view: str, inputs: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """A view's function as it is in the registry, on a few rows."""
    function = store.get_on_demand_feature_view(view).feature_transformation.udf
    output: dict[str, list[Any]] = function(pd.DataFrame(inputs)).to_dict("list")
    return output


def test_cart_comparison(store: FeatureStore) -> None:
    output = run(
        store,
        "cart_comparison",
        {
            "cart_value_usd": [30.0, 30.0, 0.0],
            "cart_items_count": [4, 1, 0],
            "avg_basket_usd_30d": [20.0, 0.0, np.nan],
            "avg_basket_usd_90d": [10.101, 50.0, np.nan],
        },
    )
    np.testing.assert_equal(output["cart_to_avg_basket_ratio_30d"], [1.5, np.nan, np.nan])
    np.testing.assert_equal(output["cart_above_avg_basket_usd_90d"], [19.9, -20.0, np.nan])
    np.testing.assert_equal(output["cart_item_avg_price_usd"], [7.5, 30.0, np.nan])


def test_visit_calendar(store: FeatureStore) -> None:
    # A Saturday at the end of the peak hours, and the Monday after, in a leap year's February.
    times = [datetime(2020, 2, 29, 23, 59, 59, tzinfo=UTC), datetime(2020, 3, 2, 19, tzinfo=UTC)]
    assert run(store, "visit_calendar", {"requested_at": times}) == {
        "visit_hour": [23, 19],
        "visit_day_of_week": [5, 0],
        "visit_day_of_month": [29, 2],
        "visit_month": [2, 3],
        "visit_is_weekend": [True, False],
        "visit_is_peak_hour": [True, False],
    }


def test_the_peak_hours_are_those_of_the_data(oracle: Any) -> None:
    share = oracle.execute(
        """
        SELECT avg(CASE WHEN hour(paid_at) >= 20 THEN 1.0 ELSE 0.0 END)
        FROM (SELECT DISTINCT basket_id, paid_at FROM lines)
        """
    ).fetchone()[0]
    assert round(share, 2) == 0.36


def test_discount_eligibility(store: FeatureStore) -> None:
    output = run(
        store,
        "discount_eligibility",
        {
            "cart_value_usd": [30.0, 30.0, 30.0, 10.0, 30.0],
            "promotion_min_cart_usd": [25.0, 25.0, 25.0, 25.0, 25.0],
            "promotion_min_baskets_30d": [3, 3, 3, 3, 3],
            "baskets_count_30d": [3, 2, 0, 9, np.nan],
            "days_since_last_basket": [5, 5, 31, 1, np.nan],
        },
    )
    assert output["discount_is_eligible"] == [True, False, True, False, False]
    assert output["discount_missing_usd"] == [0, 0, 0, 15, 0]


def test_personalization(store: FeatureStore) -> None:
    output = run(
        store,
        "personalization",
        {
            "baskets_count_90d": [10, 10, np.nan],
            "units_count_90d": [100, 100, np.nan],
            "revenue_usd_90d": [200.0, 200.0, np.nan],
            "product_buyers_count_30d": [1023, np.nan, np.nan],
            "product_avg_price_usd_30d": [4.0, np.nan, np.nan],
            "pair_baskets_count_90d": [5, np.nan, np.nan],
            "pair_days_since_last_purchase": [30, np.nan, np.nan],
        },
    )
    assert output["pair_basket_share_90d"] == [0.5, 0, 0]
    np.testing.assert_allclose(output["product_price_fit"], [0.5, np.nan, np.nan])
    expected = 0.6 * 0.5 * math.exp(-1) + 0.3 + 0.1 * 0.5
    np.testing.assert_allclose(output["personalization_score"], [expected, 0, 0])


@pytest.fixture(scope="module")
def asked(data_dir: Path) -> pd.DataFrame:
    """Households and products at the end of the data, with what their requests say.

    A third of the pairs is a habit, most others are a household and a product that have nothing to
    do with each other, and among the last are some that do not exist.
    """
    random = np.random.default_rng(20171231)
    fresh = pl.col("event_timestamp") > LAST_SNAPSHOT - timedelta(days=8)
    pairs = pl.read_parquet(data_dir / "user_product_interactions.parquet").filter(fresh)
    habits = pairs.sample(ROWS // 3, seed=1)
    users = pl.read_parquet(data_dir / "user_purchase_stats.parquet")["user_id"].unique().sort()
    sold = pl.read_parquet(data_dir / "product_popularity.parquet").filter(fresh)
    products = sold["product_id"].unique()
    others = ROWS - len(habits)
    frame = pd.DataFrame(
        {
            "user_id": [*habits["user_id"], *users.sample(others, seed=2, with_replacement=True)],
            "product_id": [
                *habits["product_id"],
                *products.sort().sample(others, seed=3, with_replacement=True),
            ],
            "event_timestamp": pd.Timestamp(LAST_SNAPSHOT),
            "cart_value_usd": random.integers(0, 12000, ROWS) / 100,
            "cart_items_count": random.integers(0, 20, ROWS),
            "requested_at": [
                pd.Timestamp(LAST_SNAPSHOT) + pd.Timedelta(seconds=int(s))
                for s in random.integers(-(10**8), 10**8, ROWS)
            ],
            "promotion_min_cart_usd": random.integers(0, 100, ROWS) / 2,
            "promotion_min_baskets_30d": random.integers(0, 12, ROWS),
        }
    )
    frame.loc[ROWS - 20 :, "user_id"] = 999_999
    frame.loc[ROWS - 30 : ROWS - 10, "product_id"] = 999_999_999
    return frame


@pytest.fixture(scope="module")
def served(latest: Callable[..., Any], asked: pd.DataFrame) -> Iterator[FeatureClient]:
    """A gateway at the end of the data, with the latest rows of those who are asked for."""
    with latest(asked) as (gateway, _):
        # Each of them has a kernel: none falls back to Python.
        assert gateway.registry.book.transforms == dict.fromkeys(TRANSFORMS, "")
        plan = gateway.registry.book.service_plan(SERVICE)
        assert plan is not None
        assert [read.view.name for read in plan.on_demand] == TRANSFORMS
        proved = {read.view.name: read.proved for read in plan.on_demand}
        assert {name: p.stored > 0 for name, p in proved.items() if p is not None} == {
            name: name != "visit_calendar" for name in TRANSFORMS
        }
        with FeatureClient(f"127.0.0.1:{gateway.port}", timeout=60) as client:
            yield client


def test_serving_gives_what_training_gives(
    store: FeatureStore, served: FeatureClient, asked: pd.DataFrame
) -> None:
    """Every feature of every row, bit by bit."""
    service = store.get_feature_service(SERVICE)
    trained = store.get_historical_features(entity_df=asked, features=service).to_df()
    # In an order of Feast's own, and without those whose only rows are too old: Feast's file
    # source drops them, where serving answers OUTSIDE_MAX_AGE.
    assert len(trained) > 0.8 * ROWS
    request_columns = [name for name in asked.columns if name != "event_timestamp"]
    features = [f.name for p in service.feature_view_projections for f in p.features]
    assert len(features) == 6 + 3 + 6 + 2 + 3
    columns = {name: trained[name].tolist() for name in request_columns}
    keys = {name: columns.pop(name) for name in ("user_id", "product_id")}
    columns["requested_at"] = [t.to_pydatetime() for t in columns["requested_at"]]
    answer = served.get_online_features(SERVICE, keys, request_context=columns)
    assert (set(answer.names[:2]), answer.names[2:]) == (set(keys), features)
    values = answer.to_dict()
    different = {
        name: [
            (row, trained[name][row], values[name][row])
            for row in range(len(trained))
            if not _same(trained[name][row], values[name][row])
        ]
        for name in features
    }
    assert {name: rows for name, rows in different.items() if rows} == {}
    # Something was compared: values, and nulls where there is nothing to say.
    for name in features:
        assert any(v is not None for v in values[name]), name
    assert any(v is None for v in values["product_price_fit"])
    assert {*values["discount_is_eligible"], *values["visit_is_weekend"]} == {True, False}


def _same(trained: Any, served: Any) -> bool:
    if served is None:
        return bool(pd.isna(trained))
    if isinstance(served, str):
        return bool(trained == served)
    return bool(np.float64(trained).tobytes() == np.float64(served).tobytes())
