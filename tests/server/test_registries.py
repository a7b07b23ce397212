"""Every kind of registry: served, changed, unreadable and back."""

import itertools
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import market
import pandas as pd
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.types import Float64, Int64
from feast_versions import TELLS_OF_CHANGES
from figures import scrape
from grpc_health.v1 import health_pb2, health_pb2_grpc
from processes import Process, eventually
from registries import FilePlace, Place, open_place
from served import Served, serve, stop

from hotfeast.clients import FeatureClient, HotfeastError
from hotfeast.server.errors import StartFailure
from hotfeast.server.gateway import Gateway, Settings
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.registry import RegistryReader
from hotfeast.server.registry_source import RegistryUnreadable
from hotfeast.server.watch import RegistryWatch

SERVING = health_pb2.HealthCheckResponse.SERVING
INTERVAL = 0.2

late = FeatureService(name="late", features=[market.user_stats[["city"]]])


def short_lived(days: int) -> FeatureView:
    """`user_stats` with another TTL."""
    return FeatureView(
        name="user_stats",
        entities=[market.user],
        ttl=timedelta(days=days),
        schema=market.user_stats.schema,
        source=market.user_stats.batch_source,
    )


@pytest.mark.parametrize(
    "kind",
    ["file: removed", "file: garbage", "sqlite: removed", "sqlite: garbage", "postgres", "remote"],
)
def test_served_changed_unreadable_and_back(
    kind: str, redis_server: LocalRedis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    project = "kind_" + "".join(c for c in kind if c.isalpha())
    with open_place(kind, tmp_path, project, redis_server) as place:
        store = place.writer()
        store.apply([*market.entities, *market.views, *market.services])
        market.fill(store)
        settings = Settings(
            repo=place.repo, registry_interval=INTERVAL, metrics=("127.0.0.1", 0), threads=4
        )
        served = serve(store, settings)
        try:
            ask = served.client.get_online_features
            info = served.client.serving_info
            users: dict[str, Any] = {"user_id": [1, 3]}
            answer = ask("part", users)
            assert answer.to_dict()["spend"] == [1.5, None]
            assert answer.statuses["spend"] == ["PRESENT", "OUTSIDE_MAX_AGE"]
            # A function has come along with its view.
            carts = ask("cart_service", {"user_id": [1]}, request_context={"cart_value": [3.0]})
            assert carts.to_dict()["cart_share"] == [2.0]
            assert len(served.client.feature_views()) == len(market.views)
            before = info()
            assert before.registry_error == ""
            tells = kind != "remote" or TELLS_OF_CHANGES
            assert (before.registry_updated.seconds > 0) == tells

            store.apply([late])
            eventually(lambda: info().plan_generation > before.plan_generation)
            assert ask("late", {"user_id": [1]}).to_dict()["city"] == ["Ulm"]
            store.apply([short_lived(days=30)])
            eventually(lambda: ask("part", users).statuses["spend"] == ["PRESENT", "PRESENT"])
            assert info().registry_updated.ToNanoseconds() >= (
                before.registry_updated.ToNanoseconds()
            )

            generation = info().plan_generation
            place.break_down()
            eventually(lambda: info().registry_error != "")
            read = info().registry_read
            failures = _failed_looks(served)
            eventually(lambda: _failed_looks(served) >= failures + 3)
            broken = info()
            assert broken.registry_read == read
            assert broken.registry_age.ToNanoseconds() > 2e9 * INTERVAL
            assert broken.plan_generation == generation
            assert ask("late", {"user_id": [1]}).to_dict()["city"] == ["Ulm"]
            health = health_pb2_grpc.HealthStub(served.channel)
            assert health.Check(health_pb2.HealthCheckRequest()).status == SERVING
            # It is told once, however many looks fail; and again when something else is wrong, as
            # where a registry server goes away in the middle of the first look.
            told = [r.getMessage() for r in caplog.records if r.name == "hotfeast.server.watch"]
            words = [t.partition("; serving")[0] for t in told if "cannot be read" in t]
            assert any(broken.registry_error in w for w in words)
            assert all(a != b for a, b in itertools.pairwise(words))
            assert len(words) < failures + 3
            # Another gateway does not start, and leaves nothing behind that looks like a registry.
            with pytest.raises(StartFailure, match="has 'feast apply' been run"):
                Gateway(replace(settings, port=0, metrics=None))
            if kind.endswith("removed"):
                assert isinstance(place, FilePlace)
                assert not place.path.exists()

            place.mend()
            eventually(lambda: info().registry_error == "")
            assert info().registry_read.ToNanoseconds() > read.ToNanoseconds()
            assert info().plan_generation == generation
            # Not through the old store, whose connections to a database are gone.
            place.writer().delete_feature_service("late")
            eventually(lambda: info().plan_generation > generation)
            with pytest.raises(HotfeastError, match="NOT_FOUND"):
                ask("late", {"user_id": [1]})
        finally:
            stop(served)


def _failed_looks(served: Served) -> float:
    assert served.gateway.metrics_page is not None
    return scrape(served.gateway.metrics_page.url)["hotfeast_registry_errors_total"]


def test_a_registry_file_is_replaced(redis_server: LocalRedis, tmp_path: Path) -> None:
    """SQLite's file is another one now; an open connection would still read the old one."""
    with open_place("sqlite", tmp_path, "replaced", redis_server) as place:
        assert isinstance(place, FilePlace)
        place.writer().apply([market.user, market.user_stats])
        reader = RegistryReader(FeatureStore(repo_path=str(place.repo)))
        assert not reader.define(reader.read()).services
        first = place.path.read_bytes()
        place.writer().apply([late])
        assert list(reader.define(reader.read()).services) == ["late"]
        place.replace(first)
        assert not reader.define(reader.read()).services


@pytest.mark.parametrize("kind", ["file", "sqlite", "postgres", "remote"])
def test_other_projects_are_left_out(kind: str, redis_server: LocalRedis, tmp_path: Path) -> None:
    with open_place(kind, tmp_path, "ours", redis_server, other_project="theirs") as place:
        theirs = place.writer()
        ours = FeatureStore(config=theirs.config.model_copy(update={"project": "ours"}))
        ours.apply([market.user, market.user_stats])
        reader = RegistryReader(FeatureStore(repo_path=str(place.repo)))
        stored = reader.read()
        theirs.refresh_registry()
        theirs.apply([market.user, short_lived(days=30), late])
        assert reader.read().fingerprint == stored.fingerprint
        definitions = reader.define(reader.read())
        assert definitions.views["user_stats"].ttl_seconds == 2 * 86400
        assert not definitions.services


def _users(**changes: Any) -> FeatureView:
    options: dict[str, Any] = {
        "name": "user_stats",
        "entities": [market.user],
        "ttl": timedelta(days=2),
        "schema": [
            Field(name="user_id", dtype=Int64),
            Field(name="visits", dtype=Int64),
            Field(name="spend", dtype=Float64),
        ],
        "source": market.user_stats.batch_source,
    }
    return FeatureView(**(options | changes))


def _share(field: str = "cart_value", other: bool = False) -> Any:
    def share(inputs: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame({"share": inputs["spend"] * 2})

    def other_share(inputs: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame({"share": inputs["spend"] * 3})

    return on_demand_feature_view(
        name="share",
        sources=[_users(), RequestSource(name="cart", schema=[Field(name=field, dtype=Float64)])],
        schema=[Field(name="share", dtype=Float64)],
        mode="pandas",
    )(other_share if other else share)


def _service(*features: Any, name: str = "service") -> FeatureService:
    return FeatureService(name=name, features=list(features))


CHANGES: dict[str, list[Any]] = {
    "a TTL": [_users(ttl=timedelta(days=3))],
    "a dropped feature": [_users(schema=[*_users().schema[:2]])],
    "another type": [_users(schema=[*_users().schema[:2], Field(name="spend", dtype=Int64)])],
    "a description": [_users(description="Other words")],
    "not online": [_users(online=False)],
    "another entity": [
        Entity(name="product", join_keys=["sku"], value_type=ValueType.STRING),
        _users(
            entities=[market.product], schema=[*_users().schema, market.product_stats.schema[0]]
        ),
    ],
    "a join key": [Entity(name="user", join_keys=["account_id"], value_type=ValueType.INT64)],
    "a new view": [market.product, market.product_stats],
    "features of a service": [_service(_users()[["spend"]])],
    "an alias": [_service(_users().with_name("people"))],
    "a join key map": [_service(_users().with_join_key_map({"user_id": "friend_id"}))],
    "a new service": [_service(_users(), name="other")],
    "a function": [_share(other=True)],
    "a request field": [_share("basket_value")],
}


@pytest.fixture(params=["file", "sqlite"])
def small_place(
    request: pytest.FixtureRequest, redis_server: LocalRedis, tmp_path: Path
) -> Iterator[Place]:
    with open_place(request.param, tmp_path, "small", redis_server) as place:
        place.writer().apply([market.user, _users(), _share(), _service(_users())])
        yield place


def test_any_change_is_seen(small_place: Place) -> None:
    reader = RegistryReader(FeatureStore(repo_path=str(small_place.repo)))
    seen = reader.read()
    reader.define(seen)
    for what, changed in CHANGES.items():
        small_place.writer().apply(changed)
        now = reader.read()
        assert now.fingerprint != seen.fingerprint, what
        # What is not made anew is what it would be if it were.
        kept = reader.define(now)
        fresh = RegistryReader(FeatureStore(repo_path=str(small_place.repo))).define(now)
        assert _without_functions(kept) == _without_functions(fresh), what
        seen = now
    assert reader.read().fingerprint == seen.fingerprint


def _without_functions(definitions: Any) -> Any:
    return replace(
        definitions,
        views={n: replace(v, on_demand=None) for n, v in definitions.views.items()},
    )


@pytest.mark.parametrize("kind", ["file", "sqlite", "postgres"])
def test_reading_makes_nothing(kind: str, redis_server: LocalRedis, tmp_path: Path) -> None:
    """A registry that is not there stays so: no file, no tables."""
    with open_place(kind, tmp_path, "nothing", redis_server) as place:
        reader = RegistryReader(FeatureStore(repo_path=str(place.repo)))
        for _ in range(2):
            with pytest.raises(RegistryUnreadable):
                reader.read()
        if isinstance(place, FilePlace):
            assert not place.path.exists()


def test_a_worker_is_replaced_while_the_registry_is_unreadable(
    redis_server: LocalRedis, tmp_path: Path
) -> None:
    repo = market.write_repository(tmp_path, "replaced_worker", redis_server.address)
    market.fill(market.apply(repo))
    with Process(repo, "--workers", "2", "--registry-interval", "0.2") as process:
        address = process.address()

        def spend() -> list[object]:
            with FeatureClient(address) as client:
                values = client.get_online_features("part", {"user_id": [1]}).to_dict()["spend"]
                return list(values)

        first = process.workers()
        assert len(first) == 2
        hidden = (repo / "registry.db").rename(tmp_path / "hidden.db")
        os.kill(min(first), signal.SIGKILL)
        assert "there is no registry file" in process.wait_for("cannot start")
        assert all(spend() == [1.5] for _ in range(5))
        hidden.rename(repo / "registry.db")

        def replaced() -> bool:
            # A worker that cannot start is a child for a while as well.
            live = process.workers()
            return len(live) == 2 and len(_listening(live, address)) == 2

        eventually(replaced, timeout=60)
        assert all(spend() == [1.5] for _ in range(5))
        assert process.stop() == 0


def _listening(pids: set[int], address: str) -> set[int]:
    """Those processes that listen on a port."""
    port = f":{int(address.rpartition(':')[2]):04X}"
    # gRPC listens on IPv4 with sockets of IPv6.
    tables = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    lines = [line.split() for line in tables.splitlines()]
    inodes = {line[9] for line in lines if line[1].endswith(port) and line[3] == "0A"}
    found = set()
    for pid in pids:
        # The process, or one of its files, may end while it is looked at.
        with suppress(FileNotFoundError):
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(FileNotFoundError):
                    if os.readlink(fd).removeprefix("socket:[").rstrip("]") in inodes:
                        found.add(pid)
    return found


def test_failures_are_told_in_the_log_once(
    redis_server: LocalRedis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another failure is told again, and so is the end of them."""
    repo = market.write_repository(tmp_path, "told", redis_server.address)
    store = market.apply(repo)
    served = serve(store, Settings(repo=repo, registry_interval=0.1, metrics=("127.0.0.1", 0)))
    caplog.set_level(logging.INFO, "hotfeast.server.watch")
    registry = repo / "registry.db"
    good = registry.read_bytes()
    try:
        registry.unlink()
        eventually(
            lambda: "there is no registry file" in served.client.serving_info().registry_error
        )
        registry.write_bytes(b"")
        eventually(lambda: "not a registry" in served.client.serving_info().registry_error)
        registry.write_bytes(good)
        eventually(lambda: served.client.serving_info().registry_error == "")
        told = [r.getMessage() for r in caplog.records if r.name == "hotfeast.server.watch"]
        assert len(told) == 3, told
        assert "there is no registry file" in told[0]
        assert "not a registry that Feast has written" in told[1]
        assert told[2] == "the registry can be read again"
    finally:
        stop(served)


def test_a_registry_that_never_rests_is_told(
    redis_server: LocalRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hotfeast.server.watch._SETTLE_READS", 3)
    with open_place("file", tmp_path, "restless", redis_server) as place:
        assert isinstance(place, FilePlace)
        place.writer().apply([market.user, market.user_stats])
        watch = RegistryWatch(FeatureStore(repo_path=str(place.repo)), interval=60)
        registry = Registry.FromString(place.path.read_bytes())
        rest = threading.Event()

        def write() -> None:
            while not rest.wait(0.005):
                registry.feature_views[0].spec.description += "."
                place.replace(registry.SerializeToString())

        writer = threading.Thread(target=write)
        writer.start()
        try:
            eventually(lambda: b"...." in place.path.read_bytes())
            with pytest.raises(RegistryUnreadable, match="3 reads in a row"):
                watch.look()
        finally:
            rest.set()
            writer.join()
        assert watch.book.generation == 1
        assert watch.look()
        assert watch.book.definitions.views["user_stats"].description.endswith(".")
