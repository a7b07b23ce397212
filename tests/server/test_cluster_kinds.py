"""Clusters of Valkey, and of Redis that speaks nothing but TLS.

The main of what `test_cluster.py` looks at more closely.
"""

from pathlib import Path
from typing import Any

import market
import pytest
import trustme
from feast.protos.feast.serving.ServingService_pb2_grpc import ServingServiceStub
from redis_programs import program, program_with_tls
from served import serve, stop
from test_cluster import WRITTEN, Traffic, key_of, prices, push
from test_parity import SELECTIONS, columns, request_for, sdk_answer

from hotfeast.hotpath.slots import key_slot
from hotfeast.server.gateway import Settings
from hotfeast.server.local_redis import PROGRAMS, ServerTls
from hotfeast.server.local_shapes import LocalCluster, wait_until

SKUS = [f"sku {number}" for number in range(60)]


def server_tls(folder: Path, authority: tuple[trustme.CA, Path]) -> ServerTls:
    """Certificates for servers and clients."""
    ca, path = authority
    pair = folder / "pair.pem"
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pair))
    return ServerTls(path, pair)


@pytest.mark.parametrize(
    ("name", "encrypted"), [(PROGRAMS[1], False), (PROGRAMS[0], True)], ids=["valkey", "tls"]
)
def test_reads_pushes_resharding_and_a_lost_node(
    tmp_path: Path, authority: tuple[trustme.CA, Path], name: str, encrypted: bool
) -> None:
    found = (program_with_tls if encrypted else program)(name)
    tls = server_tls(tmp_path, authority) if encrypted else None
    with LocalCluster(program=found, tls=tls) as cluster:
        string = cluster.address
        for option, value in cluster.nodes[0].client_options.items():
            string += f",{option}={value if isinstance(value, str) else 'true'}"
        market.write_repository(tmp_path, "market", string, redis_type="redis_cluster")
        store = market.apply(tmp_path)
        market.fill(store)
        # Six encrypted connections take their time on a busy machine.
        settings = Settings(
            repo=tmp_path, status_mode="feast", push_wait_replicas=1, redis_timeout=5.0
        )
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
                cluster.move([key_slot(key_of(sku)) for sku in moved[:3]], source, target)
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
