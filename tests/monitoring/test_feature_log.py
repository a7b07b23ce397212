"""Logged features as Feast reads them."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import market
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureService, FeatureStore
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination
from figures import scrape
from processes import Process, eventually
from served import Served, serve, stop

from hotfeast.clients import FeatureClient
from hotfeast.hotpath.request import Request
from hotfeast.server.errors import StartFailure
from hotfeast.server.gateway import Settings
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.monitoring import feature_log
from hotfeast.server.monitoring.feature_log import VERSIONS_KEY, FeatureLog, Limits, logged_services
from hotfeast.server.monitoring.tap import Sample
from hotfeast.server.plan import plan_service
from hotfeast.server.registry import read_definitions
from hotfeast.server.settings import FeatureLogSettings
from hotfeast.serving.v1 import serving_pb2

METHOD = "/hotfeast.serving.v1.FeatureServing/GetOnlineFeatures"
HOUR = timedelta(hours=1)
PLAIN = [f.name for f in market.user_stats.features if f.name != "settings"]


def logged(name: str, folder: str, features: list[Any], rate: float = 1.0) -> FeatureService:
    return FeatureService(
        name=name,
        features=features,
        logging_config=LoggingConfig(FileLoggingDestination(path=folder), sample_rate=rate),
    )


@pytest.fixture(scope="module")
def store(redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("logged")
    market.write_repository(folder, "logged", redis_server.address)
    store = market.apply(folder)
    store.apply(
        [
            logged("users_logged", "logs/users", [market.user_stats[PLAIN]]),
            logged("cart_logged", "logs/cart", [market.cart_share, market.user_stats[["city"]]]),
            logged(
                "route_logged",
                "logs/route",
                [
                    market.location_stats.with_name("origin").with_join_key_map(
                        {"location_id": "origin_id"}
                    )
                ],
            ),
            logged("never", "logs/never", [market.user_stats[["city"]]], rate=0.0),
        ]
    )
    market.fill(store)
    return store


@contextmanager
def logging(store: FeatureStore, folder: Path, **options: Any) -> Iterator[Served]:
    settings = Settings(
        repo=Path(store.repo_path),
        feature_log=FeatureLogSettings(folder, options.pop("rate", 0.0), 2**20, 60),
        **options,
    )
    served = serve(store, settings)
    try:
        yield served
    finally:
        stop(served)


def call(served: Served, request: Any, *metadata: tuple[str, str]) -> Any:
    method: Any = served.channel.unary_unary(METHOD)
    answer = method(request.SerializeToString(), metadata=metadata, timeout=10)
    return serving_pb2.GetOnlineFeaturesResponse.FromString(answer)


def read_by_feast(store: FeatureStore, service: str) -> pd.DataFrame:
    """What Feast's validation of logged features would be given."""
    now = datetime.now(UTC)
    job = store._get_provider().retrieve_feature_service_logs(
        feature_service=store.get_feature_service(service),
        start_date=now - HOUR,
        end_date=now + HOUR,
        config=store.config,
        registry=store.registry,
    )
    return job.to_df()


@pytest.mark.parametrize("server", ["native", "grpcio"])
def test_feast_reads_what_was_served(store: FeatureStore, tmp_path: Path, server: str) -> None:
    request = serving_pb2.GetOnlineFeaturesRequest(feature_service="users_logged")
    users = [1, 2, 3, 99]
    for user in users:
        request.entities["user_id"].val.add(int64_val=user)
    request_id = f"request-{server}"
    with logging(store, tmp_path, server=server) as served:
        call(served, request, ("x-request-id", request_id))
        call(served, request)
        streamed = served.client.score(
            "users_logged", {"user_id": users}, batch_size=3, request_id=f"{request_id}-stream"
        )
        assert streamed.to_table().num_rows == 4
        served.client.get_online_features("never", {"user_id": [1]})
        served.client.get_online_features("users", {"user_id": [1]})
        answer = served.client.get_online_features("users_logged", {"user_id": users})
    frame = read_by_feast(store, "users_logged")
    assert len(frame[frame["__request_id"] == request_id]) == 4
    mine = frame[frame["__request_id"] == request_id].set_index("user_id").loc[users]
    values, times = answer.to_dict(), answer.event_timestamps
    for name in PLAIN:
        column = f"user_stats__{name}"
        statuses = [serving_pb2.FieldStatus.Name(s) for s in mine[f"{column}__status"]]
        assert statuses == answer.statuses[name]
        for row, user in enumerate(users):
            seen, stamp = mine[column][user], mine[f"{column}__timestamp"][user]
            wanted = values[name][row]
            if wanted is None:
                assert seen is None or seen is pd.NaT or seen != seen
            elif isinstance(wanted, list):
                assert list(seen) == wanted
            elif isinstance(wanted, datetime):
                assert pd.Timestamp(seen).tz_localize("UTC") == wanted
            else:
                assert seen == wanted
            event = times[name][row]
            assert (
                (stamp is pd.NaT)
                if event is None
                else (pd.Timestamp(stamp) == pd.Timestamp(event).floor("s"))
            )
    batches = frame[frame["__request_id"] == f"{request_id}-stream"].set_index("user_id").loc[users]
    same = [name for name in frame.columns if name.startswith("user_stats__")]
    pd.testing.assert_frame_equal(batches[same], mine[same])
    assert set(mine["__log_date"]) <= {date.today(), datetime.now(UTC).date()}
    assert not list(tmp_path.iterdir())
    others = frame[~frame["__request_id"].str.startswith("request-")]["__request_id"]
    assert others.value_counts().tolist()[:2] == [4, 4]


def test_request_data_aliases_and_versions(store: FeatureStore, tmp_path: Path) -> None:
    with logging(store, tmp_path) as served:
        served.client.get_online_features(
            "cart_logged",
            {"user_id": [1, 2]},
            request_context={"cart_value": [3.0, 4.0]},
            request_id="cart-12",
        )
        served.client.get_online_features(
            "route_logged", {"origin_id": [7]}, full_feature_names=True
        )
    cart = read_by_feast(store, "cart_logged").sort_values("cart_value")
    assert cart["cart_value"].tolist() == [3.0, 4.0]
    assert cart["cart_share__cart_share"].iloc[0] == 2.0
    assert cart["user_id"].tolist() == [1, 2]
    assert cart["__request_id"].tolist() == ["cart-12"] * 2
    route = read_by_feast(store, "route_logged")
    assert (route["origin_id"].tolist(), route["origin__temperature"].tolist()) == ([7], [20.5])
    (path,) = (Path(store.repo_path) / "logs" / "route").iterdir()
    metadata = pq.read_schema(path).metadata
    assert json.loads(metadata[VERSIONS_KEY]) == {"origin": 0}


def test_services_without_a_logging_config_at_a_rate(store: FeatureStore, tmp_path: Path) -> None:
    with logging(store, tmp_path, rate=0.5) as served:
        for _ in range(200):
            served.client.get_online_features("part", {"user_id": [1]})
    (file,) = (tmp_path / "part").iterdir()
    table = pq.read_table(file)
    assert 60 < table.num_rows < 140
    assert table["user_stats__visits"].to_pylist() == [10] * table.num_rows


def test_what_feasts_logging_has_no_column_for(store: FeatureStore, tmp_path: Path) -> None:
    # Of `users` and `everything`, whose feature `settings` is a map.
    assert "users" not in logged_services(store, tmp_path, 1.0)
    store.apply([logged("mapped", "logs/mapped", [market.user_stats])])
    try:
        with pytest.raises(StartFailure, match="'mapped' cannot be logged: Feast's logging has no"):
            logged_services(store, tmp_path)
    finally:
        store.delete_feature_service("mapped")


def test_the_queue_is_bounded_and_what_is_lost_is_counted(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_log, "_MOST_BYTES", 10_000)
    settings = Settings(
        repo=Path(store.repo_path), feature_log=FeatureLogSettings(tmp_path, 0.0, 2**20, 60)
    )
    served = serve(store, settings)
    try:
        log = served.gateway._observers.log  # type: ignore[union-attr]
        assert log is not None
        for _ in range(100):
            served.client.get_online_features("route_logged", {"origin_id": [7] * 50})
    finally:
        stop(served)
    counts = log.counts["route_logged"]
    assert counts.dropped > 0
    assert counts.dropped % 50 == 0
    assert counts.dropped + counts.written == 100 * 50


def sample_of(store: FeatureStore) -> tuple[Sample, bytes]:
    """A request for `route_logged`, and its answer."""
    request = serving_pb2.GetOnlineFeaturesRequest(feature_service="route_logged")
    request.entities["origin_id"].val.add(int64_val=7)
    answer = serving_pb2.GetOnlineFeaturesResponse()
    answer.metadata.feature_names.val.extend(["origin_id", "temperature"])
    answer.results.add(statuses=[1]).values.add(int32_val=7)
    answer.results.add(statuses=[1]).values.add(double_val=20.5)
    plan = plan_service(read_definitions(store), "route_logged", False)
    sample = Sample(plan, Request(request.SerializeToString()), None, False, True)
    return sample, answer.SerializeToString()


def test_files_are_complete_by_size_and_age(store: FeatureStore, tmp_path: Path) -> None:
    services = {
        name: service._replace(folder=tmp_path)
        for name, service in logged_services(store, tmp_path).items()
    }
    sample, answer = sample_of(store)
    (tmp_path / ".x.parquet.999999999.tmp").touch()
    for limits, files in (
        (Limits(2**20, 3600.0), 0),
        (Limits(1, 3600.0), 2),
        (Limits(2**20, 0), 3),
    ):
        log = FeatureLog(lambda: services, limits)
        log.add(sample, answer)
        log.turn()
        assert len(list(tmp_path.glob("*.parquet"))) == files
        assert len(list(tmp_path.glob(".*"))) == (1 if files == 0 else 0)
        log.stop()
    assert log.wants("route_logged")
    assert not log.wants("never")
    assert not log.wants(None)


def test_what_does_not_fit_is_dropped_and_the_rest_is_logged(
    store: FeatureStore, tmp_path: Path
) -> None:
    services = {
        name: service._replace(folder=tmp_path)
        for name, service in logged_services(store, tmp_path).items()
    }
    sample, answer = sample_of(store)
    wrong = serving_pb2.GetOnlineFeaturesResponse.FromString(answer)
    wrong.metadata.feature_names.val[0] = "other"
    wrong.results[1].values[0].string_val = "warm"
    log = FeatureLog(lambda: services)
    log.add(sample, wrong.SerializeToString())
    log.add(sample, answer)
    log.turn()
    log.stop()
    counts = log.counts["route_logged"]
    assert (counts.written, counts.dropped, counts.files) == (1, 1, 1)


def test_a_changed_service_is_logged_in_its_new_schema(store: FeatureStore, tmp_path: Path) -> None:
    before = logged_services(store, tmp_path)
    route = before["route_logged"]._replace(folder=tmp_path)
    wider = route._replace(schema=route.schema.append(pa.field("more", pa.int64())))
    generation = 1
    log = FeatureLog(
        lambda: {"route_logged": route if generation == 1 else wider}, generation=lambda: generation
    )
    sample, answer = sample_of(store)
    log.add(sample, answer)
    log.turn()
    generation = 2
    log.add(sample, answer)
    log.turn()
    log.stop()
    schemas = [pq.read_schema(path).names for path in tmp_path.glob("*.parquet")]
    assert sorted(map(len, schemas)) == [len(route.schema), len(wider.schema)]


def test_a_folder_that_has_gone_is_made_again(store: FeatureStore, tmp_path: Path) -> None:
    service = logged_services(store, tmp_path)["route_logged"]._replace(folder=tmp_path / "a")
    services = {"route_logged": service}
    generation = 1
    log = FeatureLog(lambda: services, generation=lambda: generation)
    sample, answer = sample_of(store)
    log.add(sample, answer)
    log.turn()
    shutil.rmtree(tmp_path / "a")
    log.add(sample, answer)
    log.turn()
    (being_written,) = (tmp_path / "a").iterdir()
    assert being_written.name.startswith(".")
    counts = log.counts["route_logged"]
    assert (counts.written, counts.dropped) == (0, 1)
    # A change of the registry brings a folder that is not there yet.
    services = {
        "route_logged": service._replace(folder=tmp_path / "b"),
        "another": service._replace(name="another", folder=tmp_path / "deep" / "c"),
    }
    generation = 2
    log.add(sample, answer)
    log.turn()
    assert (tmp_path / "deep" / "c").is_dir()
    log.stop()
    assert [len(list((tmp_path / name).glob("*.parquet"))) for name in "ab"] == [1, 1]
    assert (counts.written, counts.dropped, counts.files) == (2, 1, 2)
    assert log.counts["another"].written == 0


def test_what_is_logged_and_dropped_is_counted_over_workers(
    market_store: FeatureStore, tmp_path: Path
) -> None:
    folder = tmp_path / "log" / "part"
    options = (
        *("--workers", "2", "--metrics", "127.0.0.1:0", "--feature-log", str(tmp_path / "log")),
        *("--feature-log-rate", "1", "--feature-log-seconds", "1"),
    )
    with Process(Path(market_store.repo_path), *options) as process:
        url = process.wait_for("metrics on").split(" on ")[1]
        address = process.address()
        asked = 0

        def ask() -> None:
            nonlocal asked
            with FeatureClient(address) as client:
                client.get_online_features("part", {"user_id": [1, 2, 3]})
            asked += 3

        def both_have_written() -> bool:
            ask()
            return len({path.name.split("-")[1] for path in folder.glob("*.parquet")}) == 2

        def rows(outcome: str) -> float:
            labels = f'feature_service="part",outcome="{outcome}"'
            return scrape(url).get(f"hotfeast_feature_log_rows_total{{{labels}}}", 0.0)

        # Connections are spread by the kernel: go on until both workers have had some.
        eventually(both_have_written)
        eventually(lambda: rows("written") == asked)
        files = [path.stat().st_size for path in folder.iterdir()]
        figures = scrape(url)
        assert figures['hotfeast_feature_log_files_total{feature_service="part"}'] == len(files)
        assert figures['hotfeast_feature_log_bytes_total{feature_service="part"}'] == sum(files)
        assert figures["hotfeast_feature_log_queue_bytes"] == 0
        assert rows("dropped") == 0
        # Nothing can be written where a file is in the way of the folder.
        shutil.rmtree(folder)
        folder.touch()
        ask()
        eventually(lambda: rows("dropped") == 3)
        folder.unlink()
        ask()
        eventually(lambda: rows("written") == asked - 3)
        assert rows("dropped") == 3
        assert pq.read_table(folder).num_rows == 3
        assert process.stop() == 0
