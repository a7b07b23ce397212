"""Versions of on-demand views whose results are stored: each in its own rows."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Int64
from lake import END, START, Lake, stats_table, stats_view
from served import serving

from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.materialize import materialize

NOW = datetime.now(UTC).replace(microsecond=0)


def scaled(view: Any, compute: Any) -> Any:
    decorate = on_demand_feature_view(
        sources=[view],
        entities=[stats_view(Path("nowhere.parquet"))[0]],
        schema=[Field(name="scaled", dtype=Int64)],
        mode="pandas",
        name="scale",
        write_to_online_store=True,
    )
    return decorate(compute)


def computations() -> list[Any]:
    """The function of each version; new ones each time, for Feast changes what it decorates."""

    def twice(inputs: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        out = pd.DataFrame()
        out["scaled"] = inputs["amount"] * 2
        return out

    def thrice(inputs: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        out = pd.DataFrame()
        out["scaled"] = inputs["amount"] * 3
        return out

    return [twice, thrice]


@pytest.fixture
def lake(tmp_path: Path, redis_server: LocalRedis) -> Lake:
    """An on-demand view whose rows of each of its two versions Feast's SDK has written."""
    lake = Lake(tmp_path, redis_server, 10)
    settings = tmp_path / "feature_store.yaml"
    apart = (
        f"registry:\n  path: {tmp_path}/registry.db\n  enable_online_feature_view_versioning: true"
    )
    settings.write_text(settings.read_text().replace(f"registry: {tmp_path}/registry.db", apart))
    user, view = stats_view(lake.write("t.parquet", stats_table([1, 2], [START, START], [5, 6])))
    lake.fresh().apply([user, view])
    for compute in computations():
        lake.fresh().apply([scaled(view, compute)])
        lake.fresh().write_to_online_store("scale", pd.DataFrame({"user_id": [1], "amount": [4]}))
    return lake


READS = {"scale:scaled": [12, 21], "scale@v1:scaled": [12, 21], "scale@v0:scaled": [8, None]}


def test_pushed_rows_are_those_of_the_current_version(lake: Lake) -> None:
    entities = [{"user_id": 1}, {"user_id": 2}]
    with serving(lake.fresh()) as served:
        row = {"user_id": [2], "amount": [7], "event_timestamp": [NOW]}
        served.client.push(row, feature_view="scale").raise_for_failures()
        for reference, expected in READS.items():
            feast = lake.fresh().get_online_features([reference], entities).to_dict()
            assert feast["scaled"] == expected
            ours = served.client.get_online_features([reference], {"user_id": [1, 2]})
            assert ours.to_dict()["scaled"] == expected


def test_each_version_is_materialized_by_its_own_function(lake: Lake) -> None:
    """Feast writes an older version's results to the rows of the current one."""
    lake.client.flushdb()
    lake.fresh().materialize(START, END, ["scale"])
    assert materialize(lake.folder, START, END, ["scale"], version="v0").exit_code == 0
    # An older time than Feast's, which is that of writing.
    assert materialize(lake.folder, START, END, ["scale"]).views[0].counts.stale == 2
    theirs = {key: dict(row) for key, row in lake.stored().items()}
    summary = materialize(lake.folder, START, END, ["scale"], event_time_check=False)
    assert summary.exit_code == 0
    for key, row in lake.stored().items():
        assert row | {b"_ts:scale_v1": b""} == theirs[key] | {b"_ts:scale_v1": b""}
    for reference, values in (("scale:scaled", [15, 18]), ("scale@v0:scaled", [10, 12])):
        read = lake.fresh().get_online_features([reference], [{"user_id": 1}, {"user_id": 2}])
        assert read.to_dict()["scaled"] == values
