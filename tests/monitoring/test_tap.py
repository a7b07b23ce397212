"""What is served and pushed, as it arrives in the folder of a gateway's processes."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import market
import numpy as np
import pyarrow as pa
import pytest
from feast import FeatureStore
from lake import END, START, Lake, stats_table, stats_view
from served import Served, serve, stop

from hotfeast.hotpath.request import Request
from hotfeast.server.gateway import Settings
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.materialize import materialize
from hotfeast.server.monitoring.callers import OTHER, CallerNames
from hotfeast.server.monitoring.collector import Collector, read_all, read_collected
from hotfeast.server.monitoring.observed import Channel, FeatureColumn, Observation
from hotfeast.server.monitoring.service import MonitoringService, take_snapshot
from hotfeast.server.monitoring.tap import Tap
from hotfeast.server.monitoring.windows import FeatureKey, Reader
from hotfeast.server.plan import plan_service
from hotfeast.server.registry import read_definitions
from hotfeast.server.settings import MonitorSettings
from hotfeast.serving.v1 import serving_pb2

METHOD = "/hotfeast.serving.v1.FeatureServing/GetOnlineFeatures"
USERS = [1, 2, 3, -4, 99]
"""One all there, one of nulls, one too old, one all there, one unknown."""


@contextmanager
def watched(store: FeatureStore, folder: Path, **options: Any) -> Iterator[Served]:
    settings = Settings(
        repo=Path(store.repo_path), monitor=MonitorSettings(folder, every=1), **options
    )
    served = serve(store, settings)
    try:
        yield served
    finally:
        stop(served)


def ask(served: Served, service: str, users: list[int], *metadata: tuple[str, str]) -> None:
    request = serving_pb2.GetOnlineFeaturesRequest(feature_service=service)
    for user in users:
        request.entities["user_id"].val.add(int64_val=user)
    call: Any = served.channel.unary_unary(METHOD)
    call(request.SerializeToString(), metadata=metadata, timeout=10)


@pytest.mark.parametrize("server", ["native", "grpcio"])
def test_answers_are_observed(market_store: FeatureStore, tmp_path: Path, server: str) -> None:
    with watched(market_store, tmp_path, server=server) as served:
        for _ in range(3):
            ask(served, "users", USERS, ("x-caller", "ranker"))
        ask(served, "part", [1])
        with pytest.raises(grpc.RpcError):
            ask(served, "nothing", [1])
    store = read_all(tmp_path)
    visits = store.merged(FeatureKey(Channel.served, "user_stats", "visits"))
    # Three times of five users, and user 1 once more.
    assert (visits.rows, visits.present, visits.null) == (16, 7, 3)
    assert (visits.missing, visits.stale, visits.invalid) == (3, 3, 0)
    assert (visits.minimum, visits.maximum) == (-40, 10)
    assert visits.newest_event == int(market.NOW.timestamp() * 1e6)
    city = store.merged(FeatureKey(Channel.served, "user_stats", "city"))
    assert {top.value for top in city.top()} == {"Ulm", ""}
    features = store.keys()
    assert {key.feature for key in features} == {f.name for f in market.user_stats.features}
    readers = store.readers()
    assert readers[Reader("user_stats", "users", "ranker")].observations == 3
    assert readers[Reader("user_stats", "users", "ranker")].rows == 15
    (agent,) = (reader for reader in readers if reader.service == "part")
    assert agent.caller is not None
    assert agent.caller.startswith("grpc-python/")


def test_names_of_the_registry_and_computed_features(
    market_store: FeatureStore, tmp_path: Path
) -> None:
    """An alias, full names, an on-demand view's outputs and its inputs that nobody asked for."""
    with watched(market_store, tmp_path) as served:
        served.client.get_online_features(
            "route", {"origin_id": [7], "destination_id": [-8]}, full_feature_names=True
        )
        served.client.get_online_features(
            "cart_service", {"user_id": [1, 2]}, request_context={"cart_value": [3.0, 4.0]}
        )
        served.client.get_online_features(["product_stats:price"], {"sku": ["a"]})
    store = read_all(tmp_path)
    temperature = store.merged(FeatureKey(Channel.served, "location_stats", "temperature"))
    assert (temperature.rows, temperature.minimum, temperature.maximum) == (2, -3.0, 20.5)
    share = store.merged(FeatureKey(Channel.served, "cart_share", "cart_share"))
    assert (share.rows, share.present, share.maximum) == (2, 1, 2.0)
    features = store.keys()
    keys = {(key.view, key.feature) for key in features}
    assert ("user_stats", "visits") in keys
    assert ("user_stats", "spend") not in keys
    assert {reader.service for reader in store.readers() if reader.view == "product_stats"} == {
        None
    }


def test_pushes_are_observed_with_what_was_rejected(
    market_store: FeatureStore, tmp_path: Path
) -> None:
    with watched(market_store, tmp_path) as served:
        result = served.client.push(
            pa.table(
                {
                    "sku": ["p1", None, "p3"],
                    "event_timestamp": pa.array(
                        [market.NOW + timedelta(seconds=1)] * 3, pa.timestamp("us", "UTC")
                    ),
                    "price": [1.0, 500.0, None],
                    "stock": pa.array([1, 2, 3], pa.int32()),
                }
            ),
            feature_view="product_stats",
        )
    assert len(result.rejections) == 1
    store = read_all(tmp_path)
    price = store.merged(FeatureKey(Channel.pushed, "product_stats", "price"))
    assert (price.rows, price.present, price.null, price.invalid) == (3, 1, 1, 1)
    assert price.maximum == 1.0
    stock = store.merged(FeatureKey(Channel.pushed, "product_stats", "stock"))
    assert (stock.present, stock.minimum, stock.maximum) == (2, 1, 3)


def test_one_of_so_many_is_chosen_whatever_the_pattern(market_store: FeatureStore) -> None:
    plan = plan_service(read_definitions(market_store), "part", False)
    request = Request(
        serving_pb2.GetOnlineFeaturesRequest(feature_service="part").SerializeToString()
    )
    tap = Tap(10, [])
    chosen = [tap.choose(plan, request, None) is not None for _ in range(20_000)]
    assert 1_700 < sum(chosen) < 2_300
    assert 800 < sum(chosen[::2]) < 1_200
    assert not any(Tap(0, []).choose(plan, request, None) for _ in range(100))


def test_what_does_not_fit_is_dropped_and_counted(market_store: FeatureStore) -> None:
    plan = plan_service(read_definitions(market_store), "part", False)
    request = Request(
        serving_pb2.GetOnlineFeaturesRequest(feature_service="part").SerializeToString()
    )
    tap = Tap(1, [])
    sample = tap.choose(plan, request, None)
    assert sample is not None
    for _ in range(20):
        tap.take(sample, bytes(2**20))
    assert tap.dropped == 4


def test_materialized_rows_are_described(tmp_path: Path, redis_server: LocalRedis) -> None:
    """Of the rows that a newer one supersedes there is nothing, and what breaks a rule is told."""
    lake = Lake(tmp_path, redis_server, 6)
    table = stats_table([1, 1, 2, 3], [START, END, END, END], [100, 1, None, -5])
    lake.store.apply(stats_view(lake.write("stats.parquet", table), tags={"min": "0"}))
    summary = materialize(
        lake.store, START, END, on_invalid="skip", monitor_dir=tmp_path / "monitoring"
    )
    assert summary.exit_code == 0
    store = read_all(tmp_path / "monitoring")
    amount = store.merged(FeatureKey(Channel.materialized, "stats", "amount"))
    assert (amount.rows, amount.present, amount.null, amount.invalid) == (3, 1, 1, 1)
    assert (amount.maximum, amount.newest_event) == (1, END.timestamp() * 1e6)


def observation(count: int, caller: str | None = None) -> Observation:
    column = FeatureColumn("v", "f", pa.array(range(count)), None, np.full(count, 10**15))
    return Observation(Channel.served, time.time(), (column,), "s", caller)


def test_files_of_processes_are_merged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "1-old.monitor").write_bytes(b"")
    os.utime(tmp_path / "1-old.monitor", (1, 1))
    other = Collector(tmp_path, seconds=60)
    other.write()
    (tmp_path / "1-broken.monitor").write_bytes(b"HFM1\x00\x00")
    for path in tmp_path.glob("*.monitor"):
        os.utime(path, (time.time() - 60,) * 2)
    for count in (3, 4):
        collector = Collector(tmp_path, every=50, ttls=lambda: {"v": 60.0}, dropped=lambda: 2)
        collector.observe(observation(count, "c"))
        collector.write_if_due()
        collector.observe(observation(100))
        # Not yet due again.
        collector.write_if_due()
    collected = read_collected(tmp_path)
    assert (collected.every, collected.dropped, collected.files) == (50, 4, 2)
    assert collected.ttls == {"v": 60.0}
    assert collected.store.merged(FeatureKey(Channel.served, "v", "f")).rows == 7
    assert collected.store.readers()[Reader("v", "s", "c")].observations == 2
    told = caplog.text
    assert "1-broken.monitor is left out of the monitoring: it is cut" in told
    assert "windows of 60 s" in told
    assert not (tmp_path / "1-old.monitor").exists()
    assert not list(tmp_path.glob(".*"))


def test_figures_for_prometheus(market_store: FeatureStore, tmp_path: Path) -> None:
    with watched(market_store, tmp_path) as served:
        for _ in range(2):
            ask(served, "users", USERS, ("x-caller", "ranker"))
    service = MonitoringService(
        tmp_path,
        firing=lambda: [("nulls", "warning"), ("nulls", "warning")],
        drifts=lambda: [("served", "user_stats", "spend", 0.01, 0.4)],
        clock=lambda: market.NOW.timestamp() + 30,
    )
    figures = {
        (sample.name, *sample.labels.values()): sample.value
        for metric in service.collect()
        for sample in metric.samples
    }
    visits = ("served", "user_stats", "visits")
    assert figures["hotfeast_feature_rows", *visits] == 10
    assert figures["hotfeast_feature_null_share", *visits] == 0.2
    assert figures["hotfeast_feature_missing_share", *visits] == 0.2
    assert figures["hotfeast_feature_stale_share", *visits] == 0.2
    assert figures["hotfeast_feature_view_freshness_seconds", "user_stats"] == 30
    assert figures["hotfeast_feature_view_ttl_seconds", "user_stats"] == 2 * 86400
    assert figures["hotfeast_feature_reads_total", "users", "user_stats", "ranker"] == 2
    assert figures["hotfeast_alerts_firing", "nulls", "warning"] == 2
    assert figures["hotfeast_feature_drift_p_value", "served", "user_stats", "spend"] == 0.01
    assert figures["hotfeast_monitoring_dropped_total",] == 0
    assert take_snapshot(tmp_path).freshness("nothing", 0.0) is None


def test_callers_have_names_and_few_of_them() -> None:
    names = CallerNames(2)
    assert names.name(None) == "unknown"
    assert names.name(b"grpc-python/1.72.2 grpc-c/46 (linux)") == "grpc-python/1.72.2"
    assert names.name(b"third") == OTHER
    assert names.name(b"grpc-python/1.72.2") == "grpc-python/1.72.2"
    assert CallerNames().name(b"a\x01b") == OTHER


def test_an_empty_folder(tmp_path: Path) -> None:
    collected = read_collected(tmp_path / "none")
    assert (collected.files, collected.store.keys()) == (0, [])
