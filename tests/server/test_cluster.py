"""A cluster of three masters and their replicas: reads, pushes, resharding and a lost node.

What Feast's SDK reads from the same cluster is the oracle.
"""

import itertools
import random
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import events
import grpc
import market
import pyarrow as pa
import pytest
from event_samples import close, some_events
from feast import FeatureStore
from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.serving.ServingService_pb2_grpc import ServingServiceStub
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from market import NOW
from pushing import request
from served import Served, serve, stop
from test_parity import SELECTIONS, columns, request_for, sdk_answer

from hotfeast.clients import HotfeastError
from hotfeast.hotpath.slots import key_slot
from hotfeast.server.doctor import Report, examine
from hotfeast.server.doctor_shape import examine_shape
from hotfeast.server.errors import StartFailure
from hotfeast.server.findings import FINE, PROBLEM
from hotfeast.server.gateway import Gateway, Settings
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.local_shapes import LocalCluster, wait_until
from hotfeast.server.plan import row_hash_field
from hotfeast.server.redis_pools import connection_pool
from hotfeast.server.repack import repack
from hotfeast.server.view_writer import ViewWriter
from hotfeast.server.windows.backfill import backfill
from hotfeast.serving.v1 import push_pb2_grpc, serving_pb2, serving_pb2_grpc, value_pb2

SKUS = [f"sku {number}" for number in range(200)]
WRITTEN, FAILED = 1, 4


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def store(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("cluster")
    market.write_repository(folder, "market", cluster.address, redis_type="redis_cluster")
    store = market.apply(folder)
    market.fill(store)
    return store


@pytest.fixture(scope="module")
def served(store: FeatureStore) -> Iterator[Served]:
    served = serve(store, Settings(repo=Path(store.repo_path), push_wait_replicas=1))
    yield served
    stop(served)


def push(served: Served, skus: list[str], prices: list[float], seconds: float) -> Any:
    """Pushes prices at an event time that many seconds after `NOW`."""
    made = request(
        {
            "sku": ("string_val", skus),
            "price": ("double_val", prices),
            "stock": ("int32_val", [1] * len(skus)),
        },
        [NOW + timedelta(seconds=seconds)] * len(skus),
        feature_view="product_stats",
    )
    stub: Any = push_pb2_grpc.PushStub(served.channel)  # type: ignore[no-untyped-call]
    return stub.Push(made, timeout=10)


def prices(served: Served, skus: list[str]) -> list[Any]:
    read = served.client.get_online_features(["product_stats:price"], {"sku": skus}, timeout=10)
    return list(read.to_dict()["price"])


def key_of(sku: str) -> bytes:
    entity = EntityKey(join_keys=["sku"], entity_values=[Value(string_val=sku)])
    return bytes(_redis_key("market", entity, entity_key_serialization_version=3))


@pytest.mark.parametrize("server", ["native", "grpcio"])
def test_answers_are_those_of_the_sdk(store: FeatureStore, server: str) -> None:
    settings = Settings(repo=Path(store.repo_path), status_mode="feast", server=server)
    served = serve(store, settings)
    stub = ServingServiceStub(served.channel)
    try:
        # Twice: over connections that are made for it, and over those that are there.
        for (selection, full, rows), _ in itertools.product(SELECTIONS, range(2)):
            ours = columns(stub.GetOnlineFeatures(request_for(selection, rows, full)))
            feast = columns(sdk_answer(served, selection, rows, full))
            assert ours == feast
        rng = random.Random(7)
        rows = [{"user_id": rng.choice([1, 2, 3]), "sku": rng.choice(SKUS)} for _ in range(500)]
        ours = columns(stub.GetOnlineFeatures(request_for("everything", rows, False)))
        assert ours == columns(sdk_answer(served, "everything", rows, False))
    finally:
        stop(served)


def test_pushed_rows_are_read_by_the_sdk(served: Served, cluster: LocalCluster) -> None:
    answer = push(served, SKUS, [float(i) for i in range(len(SKUS))], 1)
    assert set(answer.outcomes) == {WRITTEN}
    client = cluster.client()
    homes = {client.get_node_from_key(key_of(sku)).port for sku in SKUS}
    assert homes == {node.port for node in cluster.nodes[:3]}
    rows = [{"sku": sku} for sku in SKUS]
    feast = columns(sdk_answer(served, ["product_stats:price"], rows, False))
    assert [value.double_val for value in feast["price"].values] == prices(served, SKUS)
    assert prices(served, SKUS) == list(range(len(SKUS)))
    # Older rows are told from newer ones where each is.
    assert set(push(served, SKUS, [0.0] * len(SKUS), 0.5).outcomes) == {2}


def test_rows_of_arrow(served: Served, store: FeatureStore) -> None:
    """What materialization and engines write with."""
    writer = ViewWriter(Path(store.repo_path), "product_stats")
    skus = [f"arrow {number}" for number in range(300)]
    rows = pa.table(
        {
            "sku": skus,
            "price": [0.5] * 300,
            "stock": pa.array([1] * 300, pa.int32()),
            "event_timestamp": [NOW] * 300,
        }
    )
    counts = writer.write_arrow(rows)
    assert (counts.read, counts.written, counts.failed) == (300, 300, 0)
    assert writer.write_arrow(rows.slice(0, 3)).written == 3
    assert prices(served, skus) == [0.5] * 300


def test_rows_of_all_layouts(store: FeatureStore, served: Served) -> None:
    """Packed rows beside Feast's: what a first reply does not settle is asked for again."""
    packing = serve(store, Settings(repo=Path(store.repo_path), layout="packed"))
    skus = SKUS[:60]
    try:
        assert set(push(packing, skus, [2.0] * 60, 2).outcomes) == {WRITTEN}
        for sku in skus[::3]:
            key = {"sku": Value(string_val=sku)}
            market.write_row(
                store, "product_stats", key, {"price": 3.0}, NOW + timedelta(seconds=3)
            )
        expected = [3.0 if i % 3 == 0 else 2.0 for i in range(60)]
        assert prices(packing, skus) == prices(served, skus) == expected
        summary = repack(store, "packed", keys_at_once=50)
        assert (summary.exit_code, summary.error) == (0, "")
        assert sum(view.converted for view in summary.views if view.name == "product_stats") >= 160
        assert prices(packing, skus) == expected
        assert repack(store, "feast").exit_code == 0
        rows = [{"sku": sku} for sku in skus]
        feast = columns(sdk_answer(served, ["product_stats:price"], rows, False))
        assert [value.double_val for value in feast["price"].values] == expected
    finally:
        stop(packing)


def test_windows_over_events(cluster: LocalCluster, tmp_path: Path) -> None:
    """Events of one entity are counted where its tiles are."""
    store = events.write_repository(
        tmp_path, "windows", cluster.address, redis_type="redis_cluster"
    )
    end = events.START + timedelta(days=40)
    generator = random.Random(3)
    users = {n: some_events(generator, 20, timedelta(days=39)) for n in range(1, 16)}
    served = serve(store, Settings(repo=tmp_path, as_of=end))
    try:
        table = pa.Table.from_pandas(events.frame(users), preserve_index=False)
        # They are counted once, however often they are pushed.
        for wanted_outcomes in ({"written"}, {"duplicate", "stale"}):
            pushed = served.client.push(table, push_source="events")
            assert set(pushed.outcomes) == wanted_outcomes
        answer = served.client.get_online_features("windows", {"user_id": list(users)})
        for row, user_events in enumerate(users.values()):
            wanted = events.expected(user_events, end)
            assert wanted is not None
            close({name: answer.to_dict()[name][row] for name, *_ in events.FEATURES}, wanted)
    finally:
        stop(served)


def test_tiles_are_filled_in_on_a_cluster(cluster: LocalCluster, tmp_path: Path) -> None:
    store = events.write_repository(tmp_path, "filled", cluster.address, redis_type="redis_cluster")
    end = events.START + timedelta(days=40)
    generator = random.Random(4)
    users = {n: some_events(generator, 20, timedelta(days=39)) for n in range(1, 16)}
    events.write_events(tmp_path, users)
    (done,) = backfill(store, ["activity"])
    assert (done.filled, done.failed) == (15, 0)
    served = serve(store, Settings(repo=tmp_path, as_of=end))
    try:
        answer = served.client.get_online_features("windows", {"user_id": list(users)}).to_dict()
    finally:
        stop(served)
    for row, user_events in enumerate(users.values()):
        wanted = events.expected(user_events, end)
        assert wanted is not None
        close({name: answer[name][row] for name, *_ in events.FEATURES}, wanted)


def test_keys_on_their_way_to_another_node(served: Served, cluster: LocalCluster) -> None:
    """ASK and MOVED, for reads and for pushes."""
    sku = SKUS[100]
    slot = key_slot(key_of(sku))
    source = cluster.node_of(key_of(sku))
    target = next(node for node in cluster.nodes[:3] if node is not source)
    beside = SKUS[100:140]
    before = prices(served, beside)
    cluster.begin_move(slot, source, target)
    assert prices(served, beside) == before
    cluster.move_keys(slot, source, target)
    # The slot's owner sends whoever asks to the other node, which wants ASKING.
    assert prices(served, beside) == before
    answer = push(served, beside, [4.0] * 40, 4)
    assert set(answer.outcomes) == {WRITTEN}, answer
    assert prices(served, beside) == [4.0] * 40
    cluster.end_move(slot, source, target)
    assert prices(served, beside) == [4.0] * 40
    answer = push(served, beside, [5.0] * 40, 5)
    assert set(answer.outcomes) == {WRITTEN}, answer
    assert prices(served, beside) == [5.0] * 40
    native: Any = served.gateway._native
    wait_until(lambda: native.slots.node_of_slot(slot) == target.address, "the map is new")


def reads_of(node: LocalRedis) -> int:
    """How many hashes a server has been asked for."""
    client: Any = node.client()
    stats = client.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{n}", {}).get("calls", 0)) for n in ("hmget", "hgetall"))


def test_replicas_that_are_fresh_are_read(store: FeatureStore, cluster: LocalCluster) -> None:
    """Replicas are read in the place of masters, and one that cannot follow is not, in time."""
    bound = 0.5
    served = serve(store, Settings(repo=Path(store.repo_path), replica_staleness=bound))
    skus = SKUS[140:]
    try:
        before = prices(served, skus)
        nodes: Any = served.gateway._lanes
        wait_until(lambda: nodes.slots_to_read.nodes[0].endswith("replica"), "replicas are read")
        masters = sum(map(reads_of, cluster.nodes[:3]))
        replicas = sum(map(reads_of, cluster.nodes[3:]))
        for _ in range(20):
            assert prices(served, skus) == before
        assert sum(map(reads_of, cluster.nodes[3:])) - replicas >= 20 * len(skus) * 0.9
        assert sum(map(reads_of, cluster.nodes[:3])) - masters <= 20 * len(skus) * 0.1
        # The link of a replica breaks, and it cannot come back.
        master: Any = cluster.nodes[0].client()
        replica: Any = cluster.nodes[3].client()
        replica.config_set("masterauth", "wrong")
        master.execute_command("CLIENT", "KILL", "TYPE", "replica")
        assert set(push(served, skus, [6.0] * len(skus), 6).outcomes) == {WRITTEN}
        written = time.monotonic()
        while (asked := time.monotonic()) < written + 2 * bound:
            if asked > written + bound:
                assert prices(served, skus) == [6.0] * len(skus)
        replica.config_set("masterauth", "")
        wait_until(lambda: replica.info("replication")["master_link_status"] == "up", "it is back")
    finally:
        stop(served)


class Traffic:
    """Reads and pushes without pause, in threads.

    Attributes:
        acknowledged: By product the last price that a push was answered for.
        troubles: What went wrong.
    """

    def __init__(self, served: Served, skus: list[str], first: int) -> None:
        self._served = served
        self._skus = skus
        self._first = first
        self._stop = threading.Event()
        self.acknowledged: dict[str, float] = {}
        self.troubles: list[str] = []
        self.reads = self.pushes = 0
        self._threads = [threading.Thread(target=f) for f in (self._read, self._push)]

    def _read(self) -> None:
        while not self._stop.is_set():
            floor = dict(self.acknowledged)
            try:
                read = prices(self._served, self._skus)
            except HotfeastError as error:
                self.troubles.append(str(error))
                continue
            self.reads += 1
            for sku, price in zip(self._skus, read, strict=True):
                if price is None or price < floor.get(sku, 0.0):
                    self.troubles.append(f"{sku}: {price} after {floor.get(sku)}")

    def _push(self) -> None:
        for number in itertools.count(self._first):
            if self._stop.is_set():
                return
            try:
                answer = push(self._served, self._skus, [float(number)] * len(self._skus), number)
            except grpc.RpcError as error:
                self.troubles.append(str(error))
                continue
            self.pushes += 1
            for sku, outcome in zip(self._skus, answer.outcomes, strict=True):
                if outcome == WRITTEN:
                    self.acknowledged[sku] = float(number)
                else:
                    self.troubles.append(f"{sku}: {outcome} {answer.failures}")

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_resharding_under_load(served: Served, cluster: LocalCluster) -> None:
    """Slots go from node to node, and nobody notices."""
    skus = SKUS[:100]
    with Traffic(served, skus, 10) as traffic:
        wait_until(lambda: traffic.pushes, "traffic")
        for sku in skus[:15]:
            source = cluster.node_of(key_of(sku))
            target = cluster.nodes[(cluster.nodes.index(source) + 1) % 3]
            cluster.move([key_slot(key_of(sku))], source, target)
    assert traffic.troubles == []
    assert traffic.reads > 5
    assert prices(served, skus) == [traffic.acknowledged[sku] for sku in skus]


def partial(served: Served, skus: list[str]) -> Any:
    request = serving_pb2.GetOnlineFeaturesRequest(allow_partial_response=True)
    request.features.val.append("product_stats:price")
    request.entities["sku"].val.extend(value_pb2.Value(string_val=sku) for sku in skus)
    stub: Any = serving_pb2_grpc.FeatureServingStub(served.channel)  # type: ignore[no-untyped-call]
    return stub.GetOnlineFeatures(request, timeout=10)


def test_a_lost_node(served: Served, cluster: LocalCluster) -> None:
    """Its rows are named while it is away, all others are read and written; then its replica has
    them, and nothing that was acknowledged is lost."""
    lost: LocalRedis = cluster.nodes[0]
    replica: Any = cluster.nodes[3].client()
    skus = SKUS[100:]
    client = cluster.client()
    its = [
        row
        for row, sku in enumerate(skus)
        if client.get_node_from_key(key_of(sku)).port == lost.port
    ]
    others = [sku for row, sku in enumerate(skus) if row not in its]
    assert 10 < len(its) < 90
    before = prices(served, skus)
    with Traffic(served, SKUS[:100], 1000) as traffic:
        wait_until(lambda: traffic.pushes, "traffic")
        lost.kill()
        check_what_is_missing(served, lost, skus, its, before)
        assert prices(served, others) == [10_000.0] * len(others)
        wait_until(lambda: replica.info("replication")["role"] == "master", "it takes over")
        # Nobody is left to confirm what is written there.
        wait_until(
            lambda: any(
                "0 of 1 replicas confirmed" in failure.message
                for failure in push(served, skus, [15_000.0] * 100, 15_000).failures
            ),
            "it takes rows",
        )
        found = list(examine_shape(connection_pool(served.store.config, None, 5.0)))
        assert [(f.kind, lost.address in f.what) for f in found if f.kind == PROBLEM] == [
            (PROBLEM, True),
            (PROBLEM, False),
        ]
        # It comes back as a replica of what was its own.
        lost.start()
        wait_until(
            lambda: set(push(served, skus, [20_000.0] * 100, 20_000).outcomes) == {WRITTEN},
            "all rows can be written again",
        )
        done = traffic.pushes
        wait_until(lambda: traffic.pushes > done + 1, "traffic")
    assert prices(served, skus) == [20_000.0] * 100
    assert not [trouble for trouble in traffic.troubles if " after " in trouble]
    read = prices(served, SKUS[:100])
    assert all(
        price >= traffic.acknowledged[sku] for sku, price in zip(SKUS[:100], read, strict=True)
    )


def check_what_is_missing(
    served: Served, lost: LocalRedis, skus: list[str], its: list[int], before: list[float]
) -> None:
    """The rows of a lost node are named, and all others are there."""
    answer = partial(served, skus)
    column = columns(answer)["price"]
    for row, status in enumerate(column.statuses):
        assert status == (serving_pb2.INVALID if row in its else serving_pb2.PRESENT)
        if row not in its:
            assert column.values[row].double_val == before[row]
    named = [row for error in answer.metadata.row_errors for row in error.rows]
    assert sorted(named) == its
    for error in answer.metadata.row_errors:
        assert error.code == grpc.StatusCode.UNAVAILABLE.value[0]
        assert f"node {lost.address} (slots " in error.message
    with pytest.raises(HotfeastError, match="UNAVAILABLE") as caught:
        prices(served, skus)
    assert f"node {lost.address} (slots " in str(caught.value)
    assert f"{len(its)} of {len(skus)} rows could not be read" in str(caught.value)
    pushed = push(served, skus, [10_000.0] * len(skus), 10_000)
    assert [row for row, outcome in enumerate(pushed.outcomes) if outcome != WRITTEN] == its
    assert {pushed.outcomes[row] for row in its} == {FAILED}
    assert f"node {lost.address}" in pushed.failures[0].message


def test_doctor_and_repack_while_a_node_is_lost(cluster: LocalCluster, tmp_path: Path) -> None:
    """The doctor names it and looks at the others; rows are put into another layout all the same,
    also where it is lost while its keys are being looked at."""
    market.write_repository(tmp_path, "kept", cluster.address, redis_type="redis_cluster")
    store = FeatureStore(repo_path=str(tmp_path))
    store.apply([market.product, market.product_stats])
    report = examine(tmp_path)
    assert (report.exit_code, report.entities) == (0, [])
    shared = cluster.client()
    masters = shared.get_primaries()
    for master in masters:
        wanted = f"master {master.host}:{master.port} has 1 replica"
        assert [f.kind for f in report.findings if f.what == wanted] == [FINE]
    served = serve(store, Settings(repo=tmp_path, layout="packed", push_wait_replicas=1))
    assert set(push(served, SKUS, [7.0] * 200, 1).outcomes) == {WRITTEN}
    stop(served)
    # The first whose keys are looked at.
    lost = next(node for node in cluster.nodes if node.port == masters[0].port)
    clients: list[Any] = [node.client() for node in cluster.nodes]
    (replica,) = (
        client for client in clients if client.info("replication").get("master_port") == lost.port
    )
    reports: list[Report] = []

    def lose(*_: int) -> None:
        if not reports:
            replica.config_set("cluster-replica-no-failover", "yes")
            lost.kill()
            reports.append(examine(tmp_path))
            replica.config_set("cluster-replica-no-failover", "no")

    summary = repack(store, "feast", keys_at_once=20, progress=lose)
    assert (summary.state, summary.error) == ("done", "")
    # What had been converted when it was lost, and was not in its replica, is converted again.
    assert summary.views[0].converted >= 200
    assert summary.views[0].unreadable == 0
    report = reports[0]
    (problem, *_) = [f.what for f in report.findings if f.kind == PROBLEM]
    assert f"master {lost.address} does not answer" in problem
    assert "and no replica has taken over: rows of its " in problem
    assert [entities.sampled for entities in report.entities] == [50]
    online = store.get_online_features(["product_stats:price"], [{"sku": sku} for sku in SKUS])
    assert online.to_dict()["price"] == [7.0] * 200
    assert replica.info("replication")["role"] == "master"
    keys = [key for key in replica.scan_iter() if key.endswith(b"kept")]
    assert len(keys) > 20
    for key in keys:
        assert row_hash_field("product_stats") not in replica.hgetall(key)


def test_a_cache_is_refused(store: FeatureStore) -> None:
    with pytest.raises(StartFailure, match="--cache-mb is for one server"):
        Gateway(Settings(repo=Path(store.repo_path), port=0, cache_mb=1))
