"""On-demand views in substrait mode, which Feast compiles from functions of ibis."""

from collections.abc import Iterator

import market
import pytest
from feast import FeatureStore, Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64
from served import Served, serving

from hotfeast.server.local_redis import LocalRedis

pytest.importorskip(
    "ibis_substrait",
    reason="substrait mode needs ibis-framework<10, ibis-substrait and substrait<0.24, which are "
    "no part of the development tools: they hold toolz below the version that others here have",
)


def compute(table):  # type: ignore[no-untyped-def]
    """Arithmetic over a stored view."""
    return table.mutate(double_spend=table["spend"] * 2.0, more_visits=table["visits"] + 1).select(
        "double_spend", "more_visits"
    )


@pytest.fixture(scope="module")
def served(redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway for one view in substrait mode."""
    folder = tmp_path_factory.mktemp("substrait")
    market.write_repository(folder, "substrait", redis_server.address)
    store = FeatureStore(repo_path=str(folder))
    decorate = on_demand_feature_view(
        name="by_plan",
        sources=[market.user_stats[["spend", "visits"]]],
        schema=[Field(name="double_spend", dtype=Float64), Field(name="more_visits", dtype=Int64)],
        mode="substrait",
    )
    store.apply([market.user, market.user_stats, decorate(compute)])
    store.write_to_online_store("user_stats", market._users())
    with serving(store, "feast") as made:
        yield made


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("users", [[1], [1, 2, 99], [-4, 3]])
def test_substrait_mode_gives_what_the_sdk_gives(
    served: Served, users: list[int], full: bool
) -> None:
    features = ["by_plan:double_spend", "by_plan:more_visits"]
    sdk = served.store.get_online_features(
        features, [{"user_id": user} for user in users], full_feature_names=False
    ).to_dict()
    prefix = "by_plan__" if full else ""
    answer = served.client.get_online_features(
        features, {"user_id": users}, full_feature_names=full
    )
    assert answer.to_dict() == {
        "user_id": users,
        f"{prefix}double_spend": sdk["double_spend"],
        f"{prefix}more_visits": sdk["more_visits"],
    }


def test_an_entity_without_a_row_is_null_even_if_it_is_alone(served: Served) -> None:
    answer = served.client.get_online_features(["by_plan:double_spend"], {"user_id": [99]})
    assert answer.to_dict() == {"user_id": [99], "double_spend": [None]}
