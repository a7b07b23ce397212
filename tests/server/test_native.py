"""The gateway's own gRPC server, with grpcio's clients: the same as a gateway run with grpcio's
server, under faults, and many clients at once."""

import contextlib
import os
import resource
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import market
import pushing
import pytest
from feast import FeatureStore
from feast.protos.feast.serving.GrpcServer_pb2 import PushRequest, WriteToOnlineStoreRequest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from processes import Process, eventually
from served import Served, serve, stop

from hotfeast.hotpath.http2 import Connection
from hotfeast.server.errors import StartFailure
from hotfeast.server.gateway import Gateway, Settings
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.settings import BreakerSettings, ConnectionLimits
from hotfeast.serving.v1 import serving_pb2

READS = [
    "/hotfeast.serving.v1.FeatureServing/GetOnlineFeatures",
    "/feast.serving.ServingService/GetOnlineFeatures",
    "/GrpcFeatureServer/GetOnlineFeatures",
]
READ = READS[0]
CHECK = "/grpc.health.v1.Health/Check"


def read_request(service: str, entities: dict[str, tuple[str, list[Any]]], **more: Any) -> bytes:
    made = serving_pb2.GetOnlineFeaturesRequest(feature_service=service, **more)
    for name, (member, values) in entities.items():
        made.entities[name].CopyFrom(pushing.column(member, values))
    return bytes(made.SerializeToString())


USERS = read_request("users", {"user_id": ("int64_val", [1, 2, 99])})
LARGE = read_request("users", {"user_id": ("int64_val", list(range(4000)))})


class Answer(NamedTuple):
    """All that a client sees of a call."""

    messages: list[bytes]
    code: grpc.StatusCode
    details: str
    initial: list[tuple[str, str | bytes]]
    trailing: list[tuple[str, str | bytes]]


def begin(channel: grpc.Channel, method: str, request: bytes, timeout: float) -> Any:
    """A unary call that is waited for later."""
    stub: Any = channel.unary_unary(method)
    return stub.future(request, timeout=timeout)


def call(channel: grpc.Channel, method: str, *requests: bytes, **options: Any) -> Answer:
    """Calls with a stream of messages, which unary methods have one of."""
    stub: Any = channel.stream_stream(method)
    rpc = stub(iter(requests), **{"timeout": 20} | options)
    messages: list[bytes] = []
    with contextlib.suppress(grpc.RpcError):
        messages.extend(rpc)
    own = {"grpc-accept-encoding", "accept-encoding"}
    return Answer(
        messages, rpc.code(), rpc.details(),
        [(k, v) for k, v in rpc.initial_metadata() if k not in own],
        [(k, v) for k, v in rpc.trailing_metadata() if k not in own],
    )  # fmt: skip


@pytest.fixture(scope="module")
def behind(market_store: FeatureStore) -> Iterator[Served]:
    """A gateway of the same store whose clients speak with grpcio's server."""
    settings = Settings(repo=Path(market_store.repo_path), server="grpcio", reflection=True)
    served = serve(market_store, settings)
    yield served
    stop(served)


@pytest.fixture(scope="module")
def faulty(
    market_store: FeatureStore, redis_server: LocalRedis
) -> Iterator[tuple[Served, LocalRedis]]:
    """A gateway whose Redis has no rows, and can be frozen and killed."""
    with LocalRedis() as redis:
        served = serve(
            market_store,
            Settings(
                repo=Path(market_store.repo_path), redis_url=redis.url, redis_timeout=1.0,
                # What becomes of each read, however many fail.
                breaker=BreakerSettings(share=0),
            ),
        )  # fmt: skip
        yield served, redis
        redis.thaw()
        stop(served)


def location_push() -> Any:
    columns: dict[str, tuple[str, list[Any]]] = {
        "location_id": ("int32_val", [900]),
        "temperature": ("double_val", [1.5]),
    }
    return pushing.request(
        columns, [market.NOW], feature_view="location_stats", batch_id="b"
    )  # fmt: skip


ROW = {"location_id": "901", "temperature": "2.5", "event_timestamp": market.NOW.isoformat()}
WRITE = WriteToOnlineStoreRequest(features=ROW, feature_view_name="location_stats")
MISSING = health_pb2.HealthCheckRequest(service="nobody's").SerializeToString()
LISTING = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()

CALLS: dict[str, tuple[str, list[bytes]]] = {
    **{f"read {path}": (path, [USERS]) for path in READS},
    "read of many": (READ, [LARGE]),
    "read of no service": (READ, [read_request("none", {})]),
    "read without keys": (READ, [read_request("users", {})]),
    "malformed read": (READ, [b"\xff\xff"]),
    "empty read": (READ, [b""]),
    "on demand": (
        READ,
        [read_request(
            "cart_service",
            {"user_id": ("int64_val", [1]), "cart_value": ("double_val", [3.0])},
        )],
    ),
    "failing on demand": (
        READ, [read_request("failing_service", {"user_id": ("int64_val", [1, 2])})],
    ),
    "catalog": ("/hotfeast.serving.v1.FeatureServing/ListFeatureViews", [b""]),
    "malformed catalog": ("/hotfeast.serving.v1.FeatureServing/ListFeatureViews", [b"\xff"]),
    "Feast's info": ("/feast.serving.ServingService/GetFeastServingInfo", [b""]),
    "push": ("/hotfeast.serving.v1.Push/Push", [location_push().SerializeToString()]),
    "malformed push": ("/hotfeast.serving.v1.Push/Push", [b"\xff"]),
    "push stream": (
        "/hotfeast.serving.v1.Push/PushStream",
        [location_push().SerializeToString()] * 20 + [b"\xff"],
    ),
    "empty push stream": ("/hotfeast.serving.v1.Push/PushStream", []),
    "Feast's push": (
        "/GrpcFeatureServer/Push",
        [PushRequest(features=ROW, stream_feature_view="nothing", to="online")
         .SerializeToString()],
    ),
    "Feast's write": ("/GrpcFeatureServer/WriteToOnlineStore", [WRITE.SerializeToString()]),
    "health": (CHECK, [b""]),
    "health of nobody": (CHECK, [MISSING]),
    "reflection": (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", [LISTING] * 3,
    ),
    "unknown method": ("/hotfeast.serving.v1.FeatureServing/Nothing", [USERS]),
    "unknown service": ("/nobody.Nothing/Nothing", [b"x" * 5_000_000]),
    "no method at all": ("/", [b""]),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_answers_are_those_of_grpcios_server(name: str, strict: Served, behind: Served) -> None:
    method, requests = CALLS[name]
    for options in (
        {},
        {"metadata": (("a", "1"), ("a-bin", bytes(range(256))), ("b-bin", b""))},
        {"compression": grpc.Compression.Gzip},
        {"compression": grpc.Compression.Deflate},
    ):
        ours = call(strict.channel, method, *requests, **options)
        theirs = call(behind.channel, method, *requests, **options)
        assert ours == theirs
    assert ours.code is not None


def test_statuses_are_what_they_should_be(strict: Served) -> None:
    codes = {name: call(strict.channel, m, *r).code.name for name, (m, r) in CALLS.items()}
    assert {name: code for name, code in codes.items() if code != "OK"} == {
        "read of no service": "NOT_FOUND",
        "read without keys": "INVALID_ARGUMENT",
        "malformed read": "INVALID_ARGUMENT",
        "empty read": "INVALID_ARGUMENT",
        "failing on demand": "INTERNAL",
        "malformed catalog": "INTERNAL",
        "malformed push": "INVALID_ARGUMENT",
        "Feast's push": "NOT_FOUND",
        "health of nobody": "NOT_FOUND",
        "unknown method": "UNIMPLEMENTED",
        "unknown service": "UNIMPLEMENTED",
        "no method at all": "UNIMPLEMENTED",
    }


@pytest.mark.parametrize("method", [READ, "/hotfeast.serving.v1.Push/PushStream"])
def test_requests_that_are_too_large(method: str, strict: Served, behind: Served) -> None:
    request = bytes((64 << 20) + 1)
    for served in (strict, behind):
        assert call(served.channel, method, request).code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert call(strict.channel, READ, USERS).code == grpc.StatusCode.OK


def test_health_is_watched(strict: Served) -> None:
    """By more clients than there are threads, none of which they hold."""
    watch: Any = strict.channel.unary_stream("/grpc.health.v1.Health/Watch")
    watches = [watch(b"") for _ in range(300)]
    statuses = strict.gateway._health
    serving, not_serving = b"\x08\x01", b"\x08\x02"
    try:
        assert [next(w) for w in watches] == [serving] * 300
        assert call(strict.channel, CHECK, b"").messages == [serving]
        statuses.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert [next(w) for w in watches] == [not_serving] * 300
        assert call(strict.channel, CHECK, b"").messages == [not_serving]
        statuses.set("", health_pb2.HealthCheckResponse.SERVING)
        assert [next(w) for w in watches] == [serving] * 300
        assert next(watch(MISSING)) == b"\x08\x03"
        for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            other = watch(b"", compression=compression)
            assert next(other) == serving
            other.cancel()
        for wrong in (b"\xff", b"\x0a\xff"):
            with pytest.raises(grpc.RpcError, match="deserializing"):
                next(watch(wrong))
    finally:
        for each in watches:
            each.cancel()
    native = strict.gateway._native
    assert native is not None
    eventually(lambda: not any(c.open_calls for c in connections(strict)))
    assert not native._watches


def test_streams_that_are_too_many_do_not_starve_health(strict: Served) -> None:
    reflect: Any = strict.channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    )
    done = threading.Event()

    def silent() -> Iterator[bytes]:
        done.wait(30)
        yield from ()

    open_calls = [reflect(silent()) for _ in range(256)]
    try:
        eventually(lambda: sum(c.open_calls for c in connections(strict)) >= 256)
        refused = call(strict.channel, READ.replace("GetOnlineFeatures", "Nothing"), USERS)
        assert refused.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert call(strict.channel, CHECK, b"").code == grpc.StatusCode.OK
        assert call(strict.channel, READ, USERS).code == grpc.StatusCode.OK
    finally:
        for each in open_calls:
            each.cancel()
        done.set()
    eventually(lambda: not any(c.open_calls for c in connections(strict)))


# ---------------------------------------------------------------- connections that last


@pytest.fixture(scope="module")
def strictly_limited(market_store: FeatureStore) -> Iterator[Served]:
    limits = ConnectionLimits(
        handshake=0.3, idle=1.0, age=1.5, age_grace=0.5, keepalive=0.3, keepalive_answer=0.3
    )
    served = serve(market_store, Settings(repo=Path(market_store.repo_path), connections=limits))
    yield served
    stop(served)


HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
NO_SETTINGS = b"\0\0\0\4\0\0\0\0\0"


def heard_until_closed(client: socket.socket) -> bytes:
    client.settimeout(20)
    received = b""
    while data := client.recv(65536):
        received += data
    return received


@pytest.mark.parametrize("said", [b"", HELLO[:9], HELLO])
def test_silent_handshakes_end(strictly_limited: Served, said: bytes) -> None:
    with socket.create_connection(("127.0.0.1", strictly_limited.gateway.port)) as client:
        client.sendall(said)
        # Its own greeting, and no farewell for somebody who may not know what that is.
        assert b"\7\0\0\0\0\0" not in heard_until_closed(client)


def test_clients_that_are_gone_are_found(strictly_limited: Served) -> None:
    with socket.create_connection(("127.0.0.1", strictly_limited.gateway.port)) as client:
        client.sendall(HELLO + NO_SETTINGS)
        received = heard_until_closed(client)
    assert received.endswith(b"\0\0\x08\6\0\0\0\0\0hotfeast")


def test_idle_and_old_connections_are_sent_elsewhere(strictly_limited: Served) -> None:
    """The same channel makes others, and none of its calls fails."""
    served = strictly_limited
    seen: list[Connection] = []
    with grpc.insecure_channel(served.address) as channel:
        end = time.monotonic() + 5
        while time.monotonic() < end and len(seen) < 3:
            assert call(channel, READ, USERS).code == grpc.StatusCode.OK
            seen += [c for c in connections(served) if not any(c is known for known in seen)]
            time.sleep(0.01)
        assert len(seen) >= 3
        # A call that outlasts them is cut off.
        watch: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")
        with pytest.raises(grpc.RpcError) as error:
            list(watch(b"", timeout=20))
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        # And one that asks for nothing has none after a while.
        eventually(lambda: not connections(served))
        assert call(channel, READ, USERS).code == grpc.StatusCode.OK


# ---------------------------------------------------------------- faults of Redis


def test_redis_that_hangs(faulty: tuple[Served, LocalRedis]) -> None:
    served, redis = faulty
    assert call(served.channel, READ, USERS).code == grpc.StatusCode.OK
    redis.freeze()
    try:
        began = time.monotonic()
        answer = call(served.channel, READ, USERS, timeout=0.2)
        assert answer.code == grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - began < 0.9
        answer = call(served.channel, READ, USERS)
        assert answer.code == grpc.StatusCode.UNAVAILABLE
        assert "Redis did not answer within 1 s" in answer.details
        # Cancelled calls leave nothing behind, and others wait for nobody.
        waiting = [begin(served.channel, READ, USERS, 20) for _ in range(20)]
        for each in waiting:
            each.cancel()
        eventually(lambda: not any(c.open_calls for c in connections(served)))
        assert call(served.channel, CHECK, b"").code == grpc.StatusCode.OK
    finally:
        redis.thaw()
    eventually(lambda: call(served.channel, READ, USERS).code == grpc.StatusCode.OK)


def test_many_calls_on_one_connection_while_redis_is_slow(
    faulty: tuple[Served, LocalRedis],
) -> None:
    served, redis = faulty
    redis.freeze()
    thaw = threading.Timer(0.4, redis.thaw)
    thaw.start()
    try:
        waiting = [begin(served.channel, READ, USERS, 30) for _ in range(200)]
        answers = {each.result() for each in waiting}
    finally:
        thaw.join()
    assert len(answers) == 1


def test_redis_that_starts_again(faulty: tuple[Served, LocalRedis]) -> None:
    """Connections that have died while nobody used them cost no read."""
    served, redis = faulty
    for kill in (redis.stop, redis.kill):
        expected = call(served.channel, READ, USERS)
        assert expected.code == grpc.StatusCode.OK
        kill()
        redis.start()
        waiting = [begin(served.channel, READ, USERS, 20) for _ in range(20)]
        assert [each.result() for each in waiting] == expected.messages * 20


# ---------------------------------------------------------------- answers in pieces


@pytest.fixture
def in_pieces(strict: Served) -> Iterator[Served]:
    """The gateway with answers cut as finely as can be: a piece for each view."""
    native = strict.gateway._native
    assert native is not None
    whole, native.piece_size = native.piece_size, 1
    yield strict
    native.piece_size = whole


MANY = read_request(
    "everything",
    {
        "user_id": ("int64_val", list(range(1500))),
        "sku": ("string_val", [f"sku-{i % 3}" for i in range(1500)]),
    },
)


@pytest.mark.parametrize("window", [None, 1000])
def test_large_answers_in_pieces(window: int | None, in_pieces: Served, behind: Served) -> None:
    expected = call(behind.channel, READ, MANY)
    options: list[tuple[str, Any]] = [("grpc.max_receive_message_length", -1)]
    if window is not None:
        options += [("grpc.http2.lookahead_bytes", window), ("grpc.http2.bdp_probe", 0)]
    with grpc.insecure_channel(in_pieces.address, options) as channel:
        waiting = [begin(channel, READ, MANY, 20) for _ in range(20)]
        assert {each.result() for each in waiting} == set(expected.messages)
        assert call(channel, READ, MANY) == expected


def test_client_that_goes_away_while_an_answer_is_written(in_pieces: Served) -> None:
    before = len(connections(in_pieces))
    for _ in range(10):
        with grpc.insecure_channel(
            in_pieces.address, [("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            waiting = [begin(channel, READ, MANY, 20) for _ in range(20)]
            # It may be one too many, beside those that nobody waits for any more.
            with contextlib.suppress(grpc.RpcError):
                waiting[0].result()
            for each in waiting[1::2]:
                each.cancel()
    eventually(lambda: len(connections(in_pieces)) <= before)
    assert call(in_pieces.channel, READ, USERS).code == grpc.StatusCode.OK


# ---------------------------------------------------------------- clients


def connections(served: Served) -> list[Connection]:
    assert served.gateway._native is not None
    return served.gateway._native.connections


def test_client_that_goes_away_in_the_middle(strict: Served) -> None:
    before = len(connections(strict))
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
    for sent in (b"", preface[:10], preface, preface + b"\0\0\x10\1\4\0\0\0\1abc", b"GET /"):
        with socket.create_connection(("127.0.0.1", strict.gateway.port)) as client:
            client.sendall(sent)
            if sent == b"GET /":
                # One that speaks something else is told so, and let go.
                received = b""
                with contextlib.suppress(ConnectionResetError):
                    while data := client.recv(1000):
                        received += data
                assert b"no HTTP/2 preface" in received
    eventually(lambda: len(connections(strict)) <= before)
    assert call(strict.channel, READ, USERS).code == grpc.StatusCode.OK


def test_three_hundred_connections(strict: Served) -> None:
    with contextlib.ExitStack() as stack:
        channels = [
            stack.enter_context(
                grpc.insecure_channel(
                    strict.address, options=[("grpc.use_local_subchannel_pool", 1)]
                )
            )
            for _ in range(300)
        ]
        waiting = [begin(c, READ, USERS, 60) for c in channels]
        assert len({each.result() for each in waiting}) == 1
        assert len(connections(strict)) >= 300


def test_more_clients_than_descriptors(market_store: FeatureStore) -> None:
    """Those that are too many wait, and are served when others have gone."""
    with Process(Path(market_store.repo_path)) as process:
        host, port = process.address().split(":")
        with grpc.insecure_channel(f"{host}:{port}") as channel:
            assert call(channel, READ, USERS).code == grpc.StatusCode.OK
            (pid,) = process.workers()
            used = len(os.listdir(f"/proc/{pid}/fd"))
            limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 10, limits[1]))
            clients = [socket.create_connection((host, int(port))) for _ in range(40)]
            ticks = cpu_seconds(pid)
            assert call(channel, READ, USERS).code == grpc.StatusCode.OK
            time.sleep(0.5)
            # It does not look for them without pause meanwhile.
            assert cpu_seconds(pid) - ticks < 0.25
            for client in clients[:35]:
                client.close()
            for client in clients[35:]:
                assert client.recv(9)[:4] == b"\0\0\x12\4"
                client.close()
        assert process.stop() == 0


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_addresses(market_store: FeatureStore, strict: Served) -> None:
    repo = Path(market_store.repo_path)
    taken = Settings(repo=repo, port=strict.gateway.port)
    with pytest.raises(StartFailure, match=f"cannot listen on 127.0.0.1:{strict.gateway.port}"):
        Gateway(taken)
    with pytest.raises(StartFailure, match=r"cannot listen on nowhere\.invalid"):
        Gateway(Settings(repo=repo, port=0, host="nowhere.invalid"))
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    for host, addresses in (("[::1]", ["[::1]"]), ("localhost", ["localhost"])):
        gateway = Gateway(Settings(repo=repo, port=0, host=host))
        gateway.start()
        try:
            for address in addresses:
                with grpc.insecure_channel(f"{address}:{gateway.port}") as channel:
                    assert call(channel, READ, USERS).code == grpc.StatusCode.OK
        finally:
            gateway.stop(drain=1)


def test_plain_reads_go_on_beside_a_transform(strict: Served) -> None:
    _, (slow,) = CALLS["on demand"]
    done = threading.Event()

    def transform() -> list[grpc.StatusCode]:
        codes = []
        while not done.is_set():
            codes.append(call(strict.channel, READ, slow).code)
        return codes

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(transform) for _ in range(2)]
        for _ in range(50):
            assert call(strict.channel, READ, USERS).code == grpc.StatusCode.OK
        done.set()
        for each in running:
            assert set(each.result()) == {grpc.StatusCode.OK}


def test_drain_loses_no_call(market_store: FeatureStore, strict: Served) -> None:
    """SIGTERM under load: whatever was begun is answered; what is turned away was not begun, and a
    client that knows of another gateway goes there without its caller's noticing."""
    codes: list[grpc.StatusCode] = []
    done = threading.Event()

    def load(channel: grpc.Channel) -> None:
        while not done.is_set():
            codes.append(call(channel, READ, LARGE).code)

    with Process(Path(market_store.repo_path)) as process:
        addresses = f"ipv4:{process.address()},{strict.address}"
        options = [("grpc.lb_policy_name", "round_robin")]
        with grpc.insecure_channel(addresses, options=options) as channel:
            threads = [threading.Thread(target=load, args=(channel,)) for _ in range(6)]
            for thread in threads:
                thread.start()
            eventually(lambda: len(codes) > 60)
            assert process.stop() == 0
            after = len(codes)
            eventually(lambda: len(codes) > after + 20)
            done.set()
            for thread in threads:
                thread.join()
        assert set(codes) == {grpc.StatusCode.OK}


def test_load_of_a_c_client(strict: Served, tmp_path: Path) -> None:
    h2load = shutil.which("h2load")
    if h2load is None:
        pytest.skip("h2load (nghttp2-client) IS NOT INSTALLED: no load of a C client was tried")
    frame = tmp_path / "frame"
    frame.write_bytes(b"\0" + len(USERS).to_bytes(4, "big") + USERS)
    done = subprocess.run(
        [
            *(h2load, "-n", "3000", "-c", "10", "-m", "20", "-H", "te: trailers"),
            *("-H", "content-type: application/grpc", "-d", str(frame)),
            f"http://{strict.address}{READ}",
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "3000 succeeded, 0 failed, 0 errored" in done.stdout
    assert "3000 2xx" in done.stdout
