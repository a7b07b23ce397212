"""Figures of what is stored, from Redis to the report."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import audited
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from audited import AS_OF, DAY, FIRST, USERS, redis_key
from feast import FeatureStore
from feast.protos.feast.core.Registry_pb2 import Registry
from redis import Redis
from typer.testing import CliRunner, Result

from hotfeast.server.cli import app
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.materialize import materialize
from hotfeast.server.monitoring import audit_online
from hotfeast.server.monitoring.observed import Channel
from hotfeast.server.monitoring.report.stored import sample_stored
from hotfeast.server.monitoring.statistics import FeatureStatistics
from hotfeast.server.plan import feature_hash_field
from hotfeast.server.registry import read_definitions


@pytest.fixture(scope="module")
def store(redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    store = audited.make_repository(tmp_path_factory.mktemp("stored"), redis_server.address)
    assert materialize(store, FIRST - 10 * DAY, AS_OF).exit_code == 0
    return store


@pytest.fixture
def client(redis_server: LocalRedis) -> Iterator[Any]:
    with Redis(host="127.0.0.1", port=redis_server.port) as client:
        yield client


def sampled(store: FeatureStore, count: int = 1000) -> dict[str, FeatureStatistics]:
    seen = sample_stored(store, count, AS_OF)
    assert {key.channel for key in seen} == {Channel.served}
    return {f"{key.view}:{key.feature}": each.statistics for key, each in seen.items()}


def monitor(store: FeatureStore, *arguments: str) -> Result:
    command = ["monitor", arguments[0], "--repo", str(store.repo_path), *arguments[1:]]
    return CliRunner().invoke(app, command, env={"COLUMNS": "150", "NO_COLOR": "1"})


def test_values_are_those_that_are_stored(
    store: FeatureStore, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that there are several requests for a view, some of them without a value of a feature.
    monkeypatch.setattr(audit_online, "_REQUEST_ROWS", 2)
    field = feature_hash_field("users", "ratio")
    key = redis_key(user_id=7)
    before = client.hget(key, field)
    client.hset(key, field, b"\xff")
    try:
        found = sampled(store)
    finally:
        client.hset(key, field, before)
    visits = found["users:visits"]
    # One is too old, and of every ten one has nulls.
    assert (visits.rows, visits.stale, visits.null, visits.missing) == (USERS, 1, 6, 0)
    expected = [n * 10 + 2 for n in range(1, USERS) if n % 10 != 3 and n != 7]
    assert (visits.present, visits.invalid) == (len(expected), 1)
    assert visits.mean == pytest.approx(np.mean(expected))
    assert visits.newest_event == int((FIRST + 2 * DAY).timestamp()) * 10**6 + 250_000
    assert found["users:city"].distinct == pytest.approx(len(expected), rel=0.05)
    assert (found["pairs:score"].rows, found["world:rate"].mean) == (USERS, 3.5)
    # What is computed when it is asked for is not stored.
    assert {name.partition(":")[0] for name in found} == {"users", "pairs", "world"}


def test_so_many_of_each_view(store: FeatureStore) -> None:
    found = sampled(store, 10)
    assert {name: each.rows for name, each in found.items()} == {
        **dict.fromkeys(found, 10),
        "world:rate": 1,
    }


def test_functions_of_the_registry_are_not_loaded(store: FeatureStore, tmp_path: Path) -> None:
    file, marker = Path(store.repo_path) / "registry.db", tmp_path / "was run"
    before = file.read_bytes()
    registry = Registry.FromString(before)
    for view in registry.on_demand_feature_views:
        function = view.spec.feature_transformation.user_defined_function
        function.body_text = f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
    file.write_bytes(registry.SerializeToString())
    try:
        sampled(store, 1)
        assert not marker.exists()
        read_definitions(store)
        assert marker.exists()
    finally:
        file.write_bytes(before)


def test_stored_values_that_have_drifted(store: FeatureStore, client: Any, tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    reference = tmp_path / "training.parquet"
    pq.write_table(
        pa.table(
            {
                "pairs__score": generator.normal(0, 1, 500),
                "users__spend": generator.normal(0, 1, 500),
            }
        ),
        reference,
    )
    ids = range(1000, 1200)
    rows = pd.DataFrame(
        {
            "user_id": ids,
            "shop_id": "far",
            "event_timestamp": AS_OF - timedelta(hours=1),
            "score": generator.normal(5, 1, len(ids)),
        }
    )
    store.write_to_online_store("pairs", rows)
    options = ("--sample", "1000", "--as-of", AS_OF.isoformat(), "--reference", str(reference))
    html = tmp_path / "report.html"
    try:
        shown = monitor(store, "show", *options, "-v", "pairs", "-v", "world")
        made = monitor(store, "report", *options, "--html", str(html))
    finally:
        client.delete(*(redis_key(shop_id="far", user_id=number) for number in ids))
    assert shown.exit_code == 0, shown.output
    lines = {line.split()[0]: line for line in shown.output.splitlines() if ":" in line}
    assert lines.keys() == {"pairs:score", "world:rate"}
    assert "Drift" in lines["pairs:score"]
    assert f"{USERS + len(ids)}" in lines["pairs:score"]
    assert "Good" in lines["world:rate"]
    assert made.exit_code == 0, made.output
    page = html.read_text()
    assert "What is stored of up to 1,000 entities of each view" in page
    assert "city 12" not in page


def test_what_cannot_be_sampled(store: FeatureStore, redis_server: LocalRedis) -> None:
    empty = f"redis://127.0.0.1:{redis_server.port}/7"
    for options, words in (
        (("--sample", "5", "--redis", "redis://127.0.0.1:1"), "Redis cannot be sampled"),
        (("--sample", "5", "--redis", empty), "no rows to sample of the views of project"),
        (("--sample", "5", "--redis", empty, "-v", "users"), "no rows to sample of users"),
        (("--sample", "5", "-v", "mixed"), "'mixed' is on demand"),
        (("--sample", "5", "-v", "user"), "there is no feature view 'user'"),
        (("--sample", "5", "--logged", "x.parquet"), "--logged and --sample exclude each other"),
        (("--redis", empty, "--logged", "x.parquet"), "--redis is for --sample"),
    ):
        done = monitor(store, "show", *options)
        assert done.exit_code == 2, options
        assert words in done.stderr
