"""Clusters of Valkey, and of Redis that speaks nothing but TLS.

The main of what `test_cluster.py` looks at more closely.
"""

import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import events
import market
import pyarrow as pa
import pytest
import redis
import trustme
from event_samples import close, some_events
from feast.protos.feast.serving.ServingService_pb2_grpc import ServingServiceStub
from redis_programs import program, program_with_tls
from served import serve, stop
from test_cluster import WRITTEN, Traffic, key_of, prices, push
from test_consume import consume, entry
from test_consume import options as options_for
from test_parity import SELECTIONS, columns, request_for, sdk_answer

from hotfeast.hotpath.slots import key_slot
from hotfeast.server.consume import open_source
from hotfeast.server.gateway import Settings
from hotfeast.server.local_redis import PROGRAMS, ServerTls
from hotfeast.server.local_shapes import LocalCluster, wait_until
from hotfeast.server.windows.backfill import backfill

SKUS = [f"sku {number}" for number in range(60)]


def server_tls(folder: Path, authority: tuple[trustme.CA, Path]) -> ServerTls:
    """Certificates for servers and clients."""
    ca, path = authority
    pair = folder / "pair.pem"
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pair))
    return ServerTls(path, pair)


@pytest.fixture(
    scope="module", params=[(PROGRAMS[1], False), (PROGRAMS[0], True)], ids=["valkey", "tls"]
)
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory,
    authority: tuple[trustme.CA, Path],
) -> Iterator[LocalCluster]:  # fmt: skip
    name, encrypted = request.param
    found = (program_with_tls if encrypted else program)(name)
    tls = server_tls(tmp_path_factory.mktemp("tls"), authority) if encrypted else None
    with LocalCluster(program=found, tls=tls) as cluster:
        yield cluster


def options_of(cluster: LocalCluster) -> dict[str, str]:
    """What clients need beside the address."""
    options = cluster.nodes[0].client_options.items()
    return {name: value if isinstance(value, str) else "true" for name, value in options}


def connection_string(cluster: LocalCluster) -> str:
    """As Feast has it."""
    return ",".join([cluster.address, *("=".join(pair) for pair in options_of(cluster).items())])


def test_windows_are_fed_from_a_stream_of_the_cluster(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    """Events come by a stream, by pushes and from the batch source; what cannot be stored goes to a
    stream at another node."""
    store = events.write_repository(
        tmp_path, "windows", connection_string(cluster), redis_type="redis_cluster"
    )
    end = events.START + timedelta(days=20)
    generator = random.Random(6)
    users = {n: some_events(generator, 10, timedelta(days=18)) for n in range(1, 7)}
    events.write_events(tmp_path, {n: users[n] for n in (5, 6)})
    (done,) = backfill(store, ["activity"])
    assert (done.filled, done.failed) == (2, 0)
    options = options_of(cluster)
    scheme = "rediss" if options.pop("ssl", "") else "redis"
    opened = open_source(f"{scheme}://{cluster.nodes[0].address}?{urlencode(options)}")
    assert isinstance(opened, redis.RedisCluster)
    source: Any = opened
    stream, rejected = "lines", "lines:rejected"
    assert key_slot(stream.encode()) != key_slot(rejected.encode())
    for n in (3, 4):
        for event in users[n]:
            source.xadd(stream, entry(n, event))
    source.xadd(stream, {"json": "{"})
    made = options_for("one", stream=stream, rejected=rejected)
    assert consume(store, source, 21, made).consumed.outcomes == {"written": 20, "unreadable": 1}
    assert source.xlen(rejected) == 1
    served = serve(store, Settings(repo=tmp_path, as_of=end, redis_timeout=5.0))
    try:
        table = pa.Table.from_pandas(
            events.frame({n: users[n] for n in (1, 2)}), preserve_index=False
        )
        assert set(served.client.push(table, push_source="events").outcomes) == {"written"}
        answer = served.client.get_online_features("windows", {"user_id": list(users)}).to_dict()
    finally:
        stop(served)
    for row, its in enumerate(users.values()):
        wanted = events.expected(its, end)
        assert wanted is not None
        close({name: answer[name][row] for name, *_ in events.FEATURES}, wanted)


def test_reads_pushes_resharding_and_a_lost_node(cluster: LocalCluster, tmp_path: Path) -> None:
    market.write_repository(
        tmp_path, "market", connection_string(cluster), redis_type="redis_cluster"
    )
    store = market.apply(tmp_path)
    market.fill(store)
    # Six encrypted connections take their time on a busy machine.
    settings = Settings(repo=tmp_path, status_mode="feast", push_wait_replicas=1, redis_timeout=5.0)
    served = serve(store, settings)
    try:
        stub = ServingServiceStub(served.channel)
        for selection, full, rows in SELECTIONS:
            ours = columns(stub.GetOnlineFeatures(request_for(selection, rows, full)))
            assert ours == columns(sdk_answer(served, selection, rows, full))
        assert set(push(served, SKUS, [0.5] * 60, 0.5).outcomes) == {WRITTEN}
        source, target = cluster.nodes[0], cluster.nodes[1]
        shared = cluster.client()
        moved = [s for s in SKUS if shared.get_node_from_key(key_of(s)).port == source.port]
        with Traffic(served, SKUS, 1) as traffic:
            cluster.move([key_slot(key_of(sku)) for sku in moved[:2]], source, target)
        assert traffic.troubles == []
        assert prices(served, SKUS) == [traffic.acknowledged[sku] for sku in SKUS]
        replica: Any = cluster.nodes[3].client()
        cluster.nodes[0].kill()
        wait_until(lambda: replica.info("replication")["role"] == "master", "it takes over")
        cluster.nodes[0].start()
        wait_until(
            lambda: set(push(served, SKUS, [9e4] * 60, 9e3).outcomes) == {WRITTEN},
            "all rows can be written again",
        )
        assert prices(served, SKUS) == [9e4] * 60
    finally:
        stop(served)
