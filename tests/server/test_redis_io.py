"""Connections of every kind that a connection string can name, against a real server."""

import threading
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import market
import pytest
import trustme
from feast import FeatureStore
from feast.protos.feast.types.Value_pb2 import Value
from processes import eventually
from redis_programs import BOTH, program
from served import serve, stop
from tls import TlsFront

from hotfeast.clients import FeatureClient, HotfeastError
from hotfeast.server.errors import StartFailure
from hotfeast.server.gateway import Gateway, Settings
from hotfeast.server.local_redis import LocalRedis


def check(store: FeatureStore, settings: Settings) -> None:
    """Serves and reads: one row, and a reply of many TLS records."""
    served = serve(store, settings)
    try:
        users = served.client.get_online_features("users", {"user_id": [1, 99] * 500}, timeout=30)
        assert users.to_dict()["city"] == ["Ulm", None] * 500
        assert set(users.statuses["city"]) == {"PRESENT", "NOT_FOUND"}
        with pytest.raises(HotfeastError, match="NOT_FOUND: no feature service"):
            served.client.get_online_features("nothing")
    finally:
        stop(served)


def test_tls(
    market_store: FeatureStore, redis_server: LocalRedis, authority: tuple[trustme.CA, Path]
) -> None:
    ca, path = authority
    repo = Path(market_store.repo_path)
    with closing(TlsFront(redis_server.port, ca.issue_cert("127.0.0.1"))) as front:
        url = f"rediss://127.0.0.1:{front.port}?ssl_ca_certs={path}"
        check(market_store, Settings(repo=repo, redis_url=url))


def test_cache_over_tls(
    market_store: FeatureStore, redis_server: LocalRedis, authority: tuple[trustme.CA, Path]
) -> None:
    """Rows are kept, and word of what is written comes, encrypted as all else."""
    ca, path = authority
    repo = Path(market_store.repo_path)
    with closing(TlsFront(redis_server.port, ca.issue_cert("127.0.0.1"))) as front:
        url = f"rediss://127.0.0.1:{front.port}?ssl_ca_certs={path}"
        settings = Settings(repo=repo, redis_url=url, cache_mb=1, cache_staleness=1e6)
        served = serve(market_store, settings)
        try:
            for price in (1.0, 2.0, 3.0):
                key = {"sku": Value(string_val="tls")}
                when = market.NOW + timedelta(seconds=price)
                market.write_row(market_store, "product_stats", key, {"price": price}, when)

                def prices() -> list[Any]:
                    features, skus = ["product_stats:price"], ["tls", "a"]
                    asked = served.client.get_online_features(features, {"sku": skus})
                    return list(asked.to_dict()["price"])

                eventually(lambda there=price: prices() == [there, 9.99])
                assert prices() == [price, 9.99]
        finally:
            stop(served)


def test_tls_by_connection_string(
    market_store: FeatureStore,
    redis_server: LocalRedis,
    authority: tuple[trustme.CA, Path],
    tmp_path: Path,
) -> None:
    ca, path = authority
    with closing(TlsFront(redis_server.port, ca.issue_cert("127.0.0.1"))) as front:
        string = f"127.0.0.1:{front.port},ssl=true,ssl_ca_certs={path}"
        repo = market.write_repository(tmp_path, "market", string)
        registry = Path(market_store.repo_path) / "registry.db"
        (repo / "registry.db").write_bytes(registry.read_bytes())
        check(market_store, Settings(repo=repo))


def test_password_and_database(tmp_path: Path) -> None:
    with LocalRedis() as server:
        admin: Any = server.client()
        admin.config_set("requirepass", "s3cret")
        string = f"{server.address},db=3,password=s3cret"
        store = market.apply(market.write_repository(tmp_path, "market", string))
        market.fill(store)
        assert [k for k in admin.info("keyspace") if k.startswith("db")] == ["db3"]
        check(store, Settings(repo=tmp_path))
        wrong = f"redis://:wrong@{server.address}/3"
        lines: list[str] = []
        gateway = Gateway(Settings(repo=tmp_path, port=0, redis_url=wrong))
        starting = threading.Thread(target=gateway.start, args=(lines.append,))
        starting.start()
        with (
            FeatureClient(f"127.0.0.1:{gateway.port}", retries=None) as client,
            pytest.raises(HotfeastError, match="UNAVAILABLE: cannot connect to Redis"),
        ):
            client.get_online_features("part", {"user_id": [1]}, timeout=10)
        gateway.stop(drain=0)
        starting.join()
        assert "not ready" in lines[0]
        assert "s3cret" not in "".join(lines)
        assert ":wrong" not in "".join(lines)


@BOTH
def test_unix_socket(tmp_path: Path, name: str) -> None:
    path = tmp_path / "redis.sock"
    with LocalRedis("--unixsocket", str(path), program=program(name)) as server:
        store = market.apply(market.write_repository(tmp_path, "market", server.address))
        market.fill(store)
        check(store, Settings(repo=tmp_path, redis_url=f"unix://{path}"))


@pytest.mark.parametrize("url", ["http://x", "127.0.0.1:6379", "redis://127.0.0.1:port"])
def test_malformed_url(market_store: FeatureStore, url: str) -> None:
    with pytest.raises(StartFailure, match="--redis"):
        Gateway(Settings(repo=Path(market_store.repo_path), port=0, redis_url=url))


def test_a_server_whose_port_another_has_does_not_start(redis_server: LocalRedis) -> None:
    with pytest.raises(RuntimeError, match=r"did not start:[\s\S]*in use"):
        LocalRedis(port=redis_server.port).start()
