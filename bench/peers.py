"""What is measured: the gateway, Feast in three forms, and the floor below them.

The floor is what no gateway on grpcio can get below: an `echo`, a server of grpcio's that answers
the very same bytes without doing anything, in three builds of which the best one counts, plus
`raw`, one plain socket that sends Redis the very commands that the gateway sends and reads the
whole reply without looking at it. The gateway's own server, which clients speak with unless it is
told otherwise, is not grpcio's, so that it can get below.
"""

import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from feast import FeatureStore

from bench.data import (
    FIVE_VIEWS,
    JOIN_KEY,
    Layout,
    RedisClient,
    Rows,
    Skew,
    choose_entities,
    make_request,
    service,
)
from bench.measure import Contender
from bench.processes import (
    FEAST_METHOD,
    OUR_METHOD,
    caller,
    echo_method,
    open_echo,
    open_feast_grpc,
    open_feast_http,
    open_gateway,
)
from bench.raw import RawRead, RawSocket
from bench.servers import EchoKind, Prepared
from bench.stores import Store
from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.request import Request
from hotfeast.server.plan import PlanBook
from hotfeast.server.read_modes import SAMPLE_KEYS, choose
from hotfeast.server.registry import read_definitions
from hotfeast.serving.v1 import serving_pb2

# The commands that read hashes.
_READS = ("hmget", "hgetall")
# Seconds that the gateway has to settle on one of them.
_SETTLE_LIMIT = 10.0
# Seconds that one call over HTTP may take.
_HTTP_LIMIT = 30.0


class Peer(StrEnum):
    """What can be measured, once for each store or once for all."""

    OURS = "Hotfeast"
    RAW = "raw read"
    FEAST = "Feast gRPC"
    FEAST_HTTP = "Feast HTTP"
    SDK = "Feast SDK"
    ECHO = "echo"
    """In each kind that is asked for, once for all stores."""
    ECHO_AFTER_RAW = "echo after raw read"
    """The floor in one piece: the read is made by the echo server, of the sync kind."""


def named(peer: Peer, store: Store | str) -> str:
    """A contender's name: the peer, and which store it reads."""
    return f"{peer}, {store if isinstance(store, str) else store.label}"


def echo_name(kind: EchoKind) -> str:
    """An echo server's name."""
    return f"{Peer.ECHO}, {kind}"


@dataclass(frozen=True)
class Case:
    """What is asked for.

    Attributes:
        name: In tables and files; made of letters, digits and underscores.
        rows: Entities in a request.
        ring: Different requests.
        views: Views of 10 features, one of `SERVICE_VIEWS`.
        skew: Which entities.
        misses: The share of them that are not stored.
    """

    name: str
    rows: int
    ring: int
    views: int = 5
    skew: Skew = Skew.UNIFORM
    misses: float = 0.0


class Plans:
    """What the gateway sends to Redis for a request."""

    def __init__(self, store: FeatureStore, layout: Layout = Layout.FEAST) -> None:
        self.book = PlanBook(read_definitions(store, layout.value), generation=1)

    def batch(self, request: bytes) -> Batch:
        """The request with its commands."""
        parsed = Request(request)
        return Batch(self.book.find(parsed).compiled, parsed)

    def follow(self, request: bytes, client: RedisClient) -> None:
        """Chooses HMGET or HGETALL for the plan of a request as the gateway does."""
        batch = self.batch(request)
        recipes = range(len(batch.plan.field_counts))
        choose(client, batch.plan, [batch.sample_keys(r, SAMPLE_KEYS) for r in recipes])

    def commands(self, request: bytes) -> tuple[bytes, int]:
        """The gateway's commands, one an entity, and how many they are."""
        batch = self.batch(request)
        return batch.command_bytes, sum(batch.entity_counts)


class _Asked:
    """A case's requests, in the forms in which its contenders take them."""

    def __init__(self, case: Case, rows: Rows) -> None:
        self.case = case
        self.entities = choose_entities(rows, case.rows, case.ring, case.skew, case.misses)
        self.requests = [make_request(rows, e, service(case.views)) for e in self.entities]
        self.answers: list[bytes] = []

    def bodies(self) -> list[bytes]:
        """For the HTTP server."""
        return [http_body(entities, service(self.case.views)) for entities in self.entities]


def http_body(entities: list[Any], feature_service: str = FIVE_VIEWS) -> bytes:
    """A request of Feast's HTTP feature server, as JSON."""
    return json.dumps(
        {"feature_service": feature_service, "entities": {JOIN_KEY: entities}}
    ).encode()


class HttpCaller:
    """Calls of Feast's HTTP feature server on one connection that is kept."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_HTTP_LIMIT)

    def __call__(self, body: bytes) -> bytes:
        """Takes a JSON request and returns the JSON answer, which is not parsed.

        Raises:
            RuntimeError: The server answered with an error.
        """
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", "/get-online-features", body, headers)
        response = self._connection.getresponse()
        content = response.read()
        if response.status != http.HTTPStatus.OK:
            raise RuntimeError(f"Feast's HTTP server: {response.status}: {content[:500]!r}")
        return content

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


Contenders = dict[str, dict[str, Contender]]
"""By case and by their own names."""


@contextmanager
def open_peers(
    stores: Sequence[Store],
    cases: Sequence[Case],
    peers: Sequence[Peer],
    echoes: Sequence[EchoKind] = (EchoKind.SYNC,),
) -> Iterator[Contenders]:
    """Starts peers on stores of the same rows, and checks that they answer the same.

    Feast over HTTP and in process reads the first store alone.

    Args:
        stores: What they read.
        cases: What they will be asked for.
        peers: Which of them.
        echoes: The kinds of echo servers.

    Raises:
        RuntimeError: A peer did not start, or answers wrongly.
    """
    with ExitStack() as stack:
        asked = [_Asked(case, stores[0].rows) for case in cases]
        contenders: Contenders = {case.name: {} for case in cases}

        def add(name: str, call: Callable[[Any], Any], rings: Sequence[Sequence[Any]]) -> None:
            for case, ring in zip(cases, rings, strict=True):
                contenders[case.name][name] = Contender(name, call, ring)

        for store in stores:
            ours = stack.enter_context(open_gateway(store.repo, layout=store.layout))
            call = caller(stack, ours, OUR_METHOD)
            for a in asked:
                answers = [call(request) for request in a.requests]
                if a.answers and a.answers != answers:
                    raise RuntimeError(f"{a.case.name}: {store.label} is answered differently")
                a.answers = answers
            add(named(Peer.OURS, store), call, [a.requests for a in asked])
            raw = stack.enter_context(RawSocket(store.server.port))
            reads = _raw_reads(store, raw, asked)
            for a, ring in zip(asked, reads, strict=True):
                _await_same_commands(
                    store.client, partial(call, a.requests[0]), partial(raw.read, ring[0])
                )
            add(named(Peer.RAW, store), raw.read, reads)
            if Peer.FEAST in peers and store.layout is Layout.FEAST:
                feast = stack.enter_context(open_feast_grpc(store.repo))
                call = caller(stack, feast, FEAST_METHOD)
                for a in asked:
                    _check(a, serving_pb2.GetOnlineFeaturesResponse.FromString(call(a.requests[0])))
                add(named(Peer.FEAST, store), call, [a.requests for a in asked])
        if Peer.FEAST_HTTP in peers:
            port = stack.enter_context(open_feast_http(stores[0].repo, 1))
            call_http = HttpCaller(port)
            stack.callback(call_http.close)
            bodies = [a.bodies() for a in asked]
            for a, ring_of_bodies in zip(asked, bodies, strict=True):
                _check_json(a, call_http(ring_of_bodies[0]))
            add(named(Peer.FEAST_HTTP, stores[0]), call_http, bodies)
        if Peer.SDK in peers:
            _add_sdk(stores[0].feast, asked, contenders, named(Peer.SDK, stores[0]))
        prepared = {a.case.name: [Prepared(answer, None) for answer in a.answers] for a in asked}
        after_raw = EchoKind.SYNC in echoes and Peer.ECHO_AFTER_RAW in peers
        if after_raw:
            for a in asked:
                reads_of_case = contenders[a.case.name][named(Peer.RAW, stores[0])].items
                prepared[f"{a.case.name}_after_raw"] = list(map(Prepared, a.answers, reads_of_case))
        for kind in echoes:
            echo = stack.enter_context(
                open_echo(stores[0].repo, prepared, stores[0].server.port, kind)
            )
            for a in asked:
                call = caller(stack, echo, echo_method(a.case.name))
                _check_step(call, a)
                name = echo_name(kind)
                contenders[a.case.name][name] = Contender(name, call, a.requests)
                if after_raw and kind is EchoKind.SYNC:
                    call = caller(stack, echo, echo_method(f"{a.case.name}_after_raw"))
                    contenders[a.case.name][Peer.ECHO_AFTER_RAW] = Contender(
                        Peer.ECHO_AFTER_RAW, call, a.requests
                    )
        yield contenders


def _raw_reads(store: Store, raw: RawSocket, asked: Sequence[_Asked]) -> list[list[RawRead]]:
    plans = Plans(store.feast, store.layout)
    reads = []
    for a in asked:
        plans.follow(a.requests[0], store.client)
        commands = map(plans.commands, a.requests)
        reads.append([RawRead(data, len(raw.reply(data, count))) for data, count in commands])
    return reads


def _add_sdk(
    feast: FeatureStore, asked: Sequence[_Asked], contenders: Contenders, name: str
) -> None:
    for a in asked:
        features = feast.get_feature_service(service(a.case.views))
        call = partial(_call_sdk, feast, features)
        _check(a, call(a.entities[0]).proto)
        contenders[a.case.name][name] = Contender(name, call, a.entities)


def _call_sdk(feast: FeatureStore, features: Any, entities: list[Any]) -> Any:
    return feast.get_online_features(features=features, entity_rows={JOIN_KEY: entities})


def _await_same_commands(
    client: RedisClient, ours: Callable[[], object], raw: Callable[[], object]
) -> None:
    """Waits until Redis counts the same commands for a request to the gateway and for a raw read.

    The gateway settles on a command soon after a plan's first request.

    Raises:
        RuntimeError: They stay different.
    """
    end = time.monotonic() + _SETTLE_LIMIT
    while True:
        counts = []
        for call in (ours, raw):
            client.config_resetstat()
            call()
            stats = client.info("commandstats")
            counts.append([stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in _READS])
        if counts[0] == counts[1]:
            return
        if time.monotonic() > end:
            raise RuntimeError(f"{_READS}: the gateway sends {counts[0]}, raw {counts[1]}")
        time.sleep(0.1)


def _check_step(call: Callable[[bytes], bytes], asked: _Asked) -> None:
    """Goes once through an echo server's answers, so that it is at the first one again."""
    for request, answer in zip(asked.requests, asked.answers, strict=True):
        if call(request) != answer:
            raise RuntimeError("the echo server is out of step")


def _columns(message: Any) -> dict[str, list[Any]]:
    """The values by feature; None where there is none."""
    names = message.metadata.feature_names.val
    return {
        name: [_native(value) for value in vector.values]
        for name, vector in zip(names, message.results, strict=True)
    }


def _native(value: Any) -> Any:
    member = value.WhichOneof("val")
    return None if member is None else getattr(value, member)


def _ours(asked: _Asked) -> dict[str, list[Any]]:
    """The gateway's first answer.

    Raises:
        RuntimeError: Values are missing that are stored, or the other way round.
    """
    message = serving_pb2.GetOnlineFeaturesResponse.FromString(asked.answers[0])
    present = serving_pb2.FieldStatus.PRESENT
    for vector in message.results:
        if len(vector.values) != asked.case.rows:
            raise RuntimeError(f"{asked.case.name}: an answer of {len(vector.values)} rows")
        if not asked.case.misses and set(vector.statuses) != {present}:
            raise RuntimeError(f"{asked.case.name}: not all values are there")
    return _columns(message)


def _check(asked: _Asked, feast: Any) -> None:
    """Compares the values of two answers; the order of the features may differ.

    Raises:
        RuntimeError: They differ.
    """
    if _ours(asked) != _columns(feast):
        raise RuntimeError(f"{asked.case.name}: the gateway and Feast answer differently")


def _check_json(asked: _Asked, content: bytes) -> None:
    """The same, for the answer of Feast's HTTP server, whose integers may be strings."""
    answer: Mapping[str, Any] = json.loads(content)
    columns = {
        name: [None if value is None else str(value) for value in result["values"]]
        for name, result in zip(answer["metadata"]["feature_names"], answer["results"], strict=True)
    }
    ours = {
        name: [None if value is None else str(value) for value in values]
        for name, values in _ours(asked).items()
    }
    if ours != columns:
        raise RuntimeError(f"{asked.case.name}: Feast's HTTP server answers differently")
