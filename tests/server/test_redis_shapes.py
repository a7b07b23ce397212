"""Users with few rights, certificates of clients, and Sentinel with a failover: of Redis and of
Valkey."""

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import market
import pytest
import trustme
from feast.protos.feast.serving.ServingService_pb2_grpc import ServingServiceStub
from redis_programs import BOTH, program, program_with_tls
from redis_rights import GATEWAY, READER, SINCE_7_2
from served import serve, stop
from test_cluster import prices, push
from test_parity import SELECTIONS, columns, request_for, sdk_answer

from hotfeast.clients import HotfeastError
from hotfeast.server.doctor_shape import examine_shape
from hotfeast.server.errors import StartFailure
from hotfeast.server.findings import ADVICE, FINE
from hotfeast.server.gateway import Gateway, Settings
from hotfeast.server.local_redis import LocalRedis, ServerTls
from hotfeast.server.local_shapes import MASTER, LocalSentinel, wait_until
from hotfeast.server.redis_pools import connection_pool

SKUS = ["a", "b", "c"]


@BOTH
def test_users_with_the_rights_that_are_documented(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Reads and pushes of all layouts ask for nothing that the documented lines do not allow."""
    with LocalRedis(program=program(name)) as server:
        admin: Any = server.client()
        # Of which version of Redis the commands are, also with Valkey.
        version = tuple(map(int, admin.info("server")["redis_version"].split(".")))
        store = market.apply(market.write_repository(tmp_path, "market", server.address))
        market.fill(store)
        for user, rights in (("writer", GATEWAY), ("reader", READER)):
            line = rights.replace("PROJECT", "market").split()
            line += [SINCE_7_2] * (version >= (7, 2))
            admin.execute_command("ACL", "SETUSER", user, "on", ">s3cret", *line)
        for layout in ("packed", "feast"):
            url = f"redis://writer:s3cret@{server.address}/0"
            served = serve(store, Settings(repo=tmp_path, redis_url=url, layout=layout))
            try:
                assert set(push(served, SKUS, [1.0] * 3, 1).outcomes) == {1}
                assert prices(served, SKUS) == [1.0] * 3
            finally:
                stop(served)
        url = f"redis://reader:s3cret@{server.address}/0"
        served = serve(store, Settings(repo=tmp_path, redis_url=url))
        try:
            assert prices(served, SKUS) == [1.0] * 3
            assert [log["object"] for log in admin.acl_log()] == []
            answer = push(served, SKUS, [2.0] * 3, 2)
            assert set(answer.outcomes) == {4}
            assert "NOPERM" in answer.failures[0].message
        finally:
            stop(served)
    assert "s3cret" not in caplog.text


@BOTH
def test_certificates_of_clients(
    tmp_path: Path, authority: tuple[trustme.CA, Path], name: str
) -> None:
    """A server that speaks TLS itself, and only with clients that its authority knows."""
    found = program_with_tls(name)
    ca, path = authority
    ours, theirs = (tmp_path / name for name in ("client.pem", "server.pem"))
    ca.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(str(ours))
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(theirs))
    with LocalRedis(program=found, tls=ServerTls(path, theirs)) as server:
        string = f"{server.address},ssl=true,ssl_ca_certs={path}"
        known = f"{string},ssl_certfile={ours},ssl_keyfile={ours}"
        store = market.apply(market.write_repository(tmp_path / "repo", "market", known))
        market.fill(store)
        stored: Any = server.client()
        assert stored.dbsize() > 0
        served = serve(store, Settings(repo=tmp_path / "repo"))
        try:
            assert set(push(served, SKUS, [1.0] * 3, 1).outcomes) == {1}
            assert prices(served, SKUS) == [1.0] * 3
        finally:
            stop(served)
        market.write_repository(tmp_path / "repo", "market", string)
        gateway = Gateway(Settings(repo=tmp_path / "repo", port=0))
        lines: list[str] = []
        starting = threading.Thread(target=gateway.start, args=(lines.append,))
        starting.start()
        wait_until(lambda: lines, "why it is not ready")
        gateway.stop(drain=0)
        starting.join()
        # What TLS says of it depends on when the server ends the connection.
        assert lines[0].startswith("not ready: ")


@BOTH
def test_sentinel(tmp_path: Path, name: str) -> None:
    """The master hangs, and its replica takes over."""
    with LocalSentinel(program=program(name)) as servers:
        market.write_repository(
            tmp_path, "market", servers.sentinel.address, redis_type="redis_sentinel"
        )
        store = market.apply(tmp_path)
        market.fill(store)
        served = serve(store, Settings(repo=tmp_path, redis_timeout=0.5, status_mode="feast"))
        stub = ServingServiceStub(served.channel)

        def same_as_the_sdk() -> None:
            for selection, full, rows in SELECTIONS:
                ours = columns(stub.GetOnlineFeatures(request_for(selection, rows, full)))
                assert ours == columns(sdk_answer(served, selection, rows, full))

        try:
            same_as_the_sdk()
            assert set(push(served, SKUS, [1.0] * 3, 1).outcomes) == {1}
            found = list(examine_shape(connection_pool(store.config, None, 5.0)))
            assert [finding.kind for finding in found] == [FINE, ADVICE, FINE]
            assert f"master {MASTER!r} is 127.0.0.1:{servers.master.port}" in found[0].what
            servers.master.freeze()
            with pytest.raises(HotfeastError, match="UNAVAILABLE"):
                prices(served, SKUS)

            def read_again() -> bool:
                with suppress(HotfeastError):
                    return prices(served, SKUS) == [1.0] * 3
                return False

            wait_until(read_again, "it is read from what was the replica")
            assert servers.address()[1] == servers.replica.port
            assert set(push(served, SKUS, [2.0] * 3, 2).outcomes) == {1}
            assert prices(served, SKUS) == [2.0] * 3
            # Feast's own connection leads to the master that hangs.
            served.store = market.apply(tmp_path)
            same_as_the_sdk()
        finally:
            stop(served)


@pytest.mark.parametrize(
    ("kind", "string", "url", "message"),
    [
        ("redis_cluster", "h:1,db=2", None, "a cluster has no databases"),
        ("redis_cluster", "h:1", "redis://h:1/2", "a cluster has no databases"),
        ("redis_cluster", "h:1", "unix:///tmp/x", "redis_type is 'redis_cluster'"),
        ("redis_sentinel", "h:1", "unix:///tmp/x", "redis_type is 'redis_sentinel'"),
        ("redis_sentinel", "password=s3cret", None, "must name Sentinels"),
        ("redis_cluster", "h", None, "must name nodes"),
        ("redis", "h:1,i:2,password=s3cret", None, "names 'h:1,i:2'; it must name one server"),
        ("redis", "h:1,pasword=s3cret", None, "pasword"),
        ("redis", "h:1", "redis://u:s3cret@h:port", "--redis 'redis://h:port'"),
    ],
)
def test_what_cannot_be_connected_to(
    tmp_path: Path, kind: str, string: str, url: str | None, message: str
) -> None:
    market.write_repository(tmp_path, "market", string, redis_type=kind)
    with pytest.raises(StartFailure) as caught:
        Gateway(Settings(repo=tmp_path, port=0, redis_url=url))
    assert message in str(caught.value)
    assert "s3cret" not in str(caught.value)
