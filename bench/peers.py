"""What is measured: the gateway, Feast's gRPC server, and the floor below both.

The floor is what no gateway of this kind can get below: `echo`, a gRPC server that answers the very
same bytes without doing anything, plus `raw`, one plain socket that sends Redis the very commands
that the gateway sends and reads the whole reply without looking at it. All servers are processes of
their own on 127.0.0.1, and stop with the `with` block that started them.
"""

import os
import pickle
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

import grpc
import redis
from feast import FeatureStore
from feast.protos.feast.serving.GrpcServer_pb2 import DESCRIPTOR as FEAST_GRPC_SERVER

from bench.data import (
    JOIN_KEY,
    RedisClient,
    Rows,
    check_against_feast,
    load,
    make_repository,
    make_requests,
)
from bench.measure import Contender
from bench.raw import RawRead, RawSocket, pack_command
from bench.servers import ECHO_SERVICE, Prepared
from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.request import Request
from hotfeast.server.local_redis import LocalRedis, free_port
from hotfeast.server.plan import PlanBook
from hotfeast.server.read_modes import SAMPLE_KEYS, choose
from hotfeast.server.registry import read_definitions
from hotfeast.serving.v1 import serving_pb2

OURS = "hotfeast"
FEAST = "feast"
ECHO = "echo"
RAW = "raw"
RAW_PER_VIEW = "raw per view"
ECHO_AND_RAW = "echo after raw"

METHOD = f"/{serving_pb2.DESCRIPTOR.services_by_name['FeatureServing'].full_name}/GetOnlineFeatures"
_FEAST_METHOD = (
    f"/{FEAST_GRPC_SERVER.services_by_name['GrpcFeatureServer'].full_name}/GetOnlineFeatures"
)
# Seconds that a server has to get ready, and to end.
_START_LIMIT = 90.0
_STOP_LIMIT = 10.0
# The commands that read hashes.
_READS = ("hmget", "hgetall")
# Seconds that the gateway has to settle on one of them.
_SETTLE_LIMIT = 10.0
# Bytes of a server's output that are looked at.
_LOG_SIZE = 1 << 20
# Seconds that one call may take before the benchmark gives up.
_CALL_LIMIT = 30.0
# Seconds between two looks at the registry, which does not change here.
_REGISTRY_INTERVAL = 86400


class Encoding(StrEnum):
    """How Redis holds a hash of 275 fields."""

    LISTPACK = "listpack"
    """A list, searched from its start: Redis' default up to 512 fields."""
    HASH_TABLE = "hash table"
    """With hash-max-listpack-entries at 64: several times the memory, and much faster reads."""


@dataclass(frozen=True)
class Store:
    """A loaded Redis, and the feature repository that is stored in it."""

    server: LocalRedis
    client: RedisClient
    repo: Path
    feast: FeatureStore
    rows: Rows
    encoding: Encoding


@dataclass(frozen=True)
class Workload:
    """What is asked for, and how often.

    Attributes:
        rows: Entities in a request.
        ring: Different requests.
        rounds: Turns that every contender has.
        calls: Calls in a turn, of all but Feast.
        feast_calls: Calls in a turn of Feast, which takes several times as long.
    """

    rows: int
    ring: int
    rounds: int
    calls: int
    feast_calls: int


@contextmanager
def open_store(rows: Rows, encoding: Encoding) -> Iterator[Store]:
    """Starts Redis, loads the rows, and has Feast confirm that they are stored as it stores them.

    Raises:
        RuntimeError: They are not, or Redis holds them in another encoding.
    """
    with LocalRedis() as server, tempfile.TemporaryDirectory(prefix="hotfeast-bench-") as folder:
        client = server.client()
        if encoding is Encoding.HASH_TABLE:
            _limit_lists(client, 64)
        feast = make_repository(Path(folder), server.address)
        check_against_feast(feast, rows, client)
        load(rows, client)
        stored = _encoding(client, rows.key(rows.entities[0]))
        expected = {
            Encoding.LISTPACK: (b"listpack", b"ziplist"),
            Encoding.HASH_TABLE: (b"hashtable",),
        }
        if stored not in expected[encoding]:
            raise RuntimeError(f"Redis holds the hashes as {stored!r}, which is no {encoding}")
        yield Store(server, client, Path(folder), feast, rows, encoding)


def _encoding(client: RedisClient, key: bytes) -> bytes:
    encoding: bytes = client.execute_command("OBJECT", "ENCODING", key)
    return encoding


def _limit_lists(client: RedisClient, entries: int) -> None:
    try:
        client.config_set("hash-max-listpack-entries", entries)
    except redis.ResponseError:
        # Before Redis 7.
        client.config_set("hash-max-ziplist-entries", entries)


class Server:
    """A process that says when it is ready."""

    def __init__(self, module: str, *arguments: str, ready: str) -> None:
        """
        Args:
            module: What `python -m` runs.
            arguments: Its arguments.
            ready: Pattern of the line that says so; its first group is the port.
        """
        self._name = f"{module} {' '.join(arguments)}"
        self._ready = re.compile(ready)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).resolve().parents[1],
        )

    def port(self) -> int:
        """Waits until it is ready, and returns its port.

        Raises:
            RuntimeError: It ended, or takes too long; with its output.
        """
        end = time.monotonic() + _START_LIMIT
        while True:
            ended = self._process.poll() is not None
            # The process writes where the file's position is, so that must not be moved.
            output = os.pread(self._log.fileno(), _LOG_SIZE, 0).decode("utf-8", "replace")
            found = self._ready.search(output)
            if found:
                return int(found[1])
            if ended or time.monotonic() > end:
                raise RuntimeError(f"{self._name} did not start:\n{output[-4000:]}")
            time.sleep(0.05)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


class Plans:
    """What the gateway sends to Redis for a request."""

    def __init__(self, store: FeatureStore) -> None:
        self.book = PlanBook(read_definitions(store), generation=1)

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

    def commands_per_view(self, request: bytes, rows: Rows) -> tuple[bytes, int]:
        """The commands of Feast's SDK, one HMGET a view and entity, and how many they are."""
        views = self.book.find(Request(request)).compiled.definition.views
        asked = serving_pb2.GetOnlineFeaturesRequest.FromString(request).entities[JOIN_KEY].val
        keys = [rows.key(value.int64_val) for value in asked]
        commands = [
            pack_command(b"HMGET", key, *(f.hash_field for f in view.features), view.time_field)
            for view in views
            for key in keys
        ]
        return b"".join(commands), len(commands)


@contextmanager
def open_peers(
    store: Store, workloads: Sequence[Workload], more: bool = False
) -> Iterator[dict[int, list[Contender]]]:
    """Starts all peers on a store, and checks that they answer the same.

    Args:
        store: What they read.
        workloads: What they will be asked for.
        more: Whether the floor is also measured in two other ways: with the commands that Feast's
            SDK sends, and in one piece, with the raw read inside the echo server.

    Yields:
        The contenders of each workload, by its rows.

    Raises:
        RuntimeError: A peer did not start, or answers wrongly.
    """
    with ExitStack() as stack:
        ours = stack.enter_context(open_gateway(store.repo))
        feast = stack.enter_context(
            Server("bench.servers", "feast", str(store.repo), str(free_port()), ready=_READY)
        )
        call_ours = caller(stack, ours, METHOD)
        call_feast = caller(stack, feast.port(), _FEAST_METHOD)

        requests = {w.rows: make_requests(store.rows.entities, w.rows, w.ring) for w in workloads}
        answers = {rows: [call_ours(r) for r in ring] for rows, ring in requests.items()}
        for rows, ring in requests.items():
            _check(answers[rows][0], call_feast(ring[0]), rows)

        plans = Plans(store.feast)
        plans.follow(requests[workloads[0].rows][0], store.client)
        raw = stack.enter_context(RawSocket(store.server.port))
        reads = {rows: _reads(raw, map(plans.commands, ring)) for rows, ring in requests.items()}
        prepared: dict[str, list[Prepared]] = {}
        for rows in requests:
            prepared[f"Echo{rows}"] = [Prepared(answer, None) for answer in answers[rows]]
            prepared[f"EchoAfterRaw{rows}"] = list(map(Prepared, answers[rows], reads[rows]))
        for rows, ring in requests.items():
            _await_same_commands(
                store.client, partial(call_ours, ring[0]), partial(raw.read, reads[rows][0])
            )
        echo_port = stack.enter_context(open_echo(store.repo, prepared, store.server.port))

        contenders: dict[int, list[Contender]] = {}
        for w in workloads:
            ring = requests[w.rows]
            call_echo = caller(stack, echo_port, f"/{ECHO_SERVICE}/Echo{w.rows}")
            for request, answer in zip(ring, answers[w.rows], strict=True):
                if call_echo(request) != answer:
                    raise RuntimeError("the echo server is out of step")
            contenders[w.rows] = [
                Contender(OURS, call_ours, ring, w.calls),
                Contender(FEAST, call_feast, ring, w.feast_calls),
                Contender(ECHO, call_echo, ring, w.calls),
                Contender(RAW, raw.read, reads[w.rows], w.calls),
            ]
            if more:
                call_both = caller(stack, echo_port, f"/{ECHO_SERVICE}/EchoAfterRaw{w.rows}")
                commands = (plans.commands_per_view(request, store.rows) for request in ring)
                contenders[w.rows] += [
                    Contender(ECHO_AND_RAW, call_both, ring, w.calls),
                    Contender(RAW_PER_VIEW, raw.read, _reads(raw, commands), w.calls),
                ]
        yield contenders


@contextmanager
def open_gateway(
    repo: Path, interval: float = _REGISTRY_INTERVAL, workers: int = 1
) -> Iterator[int]:
    """Serves a repository with the gateway; gives its port.

    Args:
        repo: The repository.
        interval: Seconds between two looks at the registry.
        workers: Processes that serve it.
    """
    with Server(
        *("hotfeast.server", "serve", "--repo", str(repo), "--bind", "127.0.0.1:0"),
        *("--registry-interval", str(interval), "--workers", str(workers)),
        ready=r"(?m)^Hotfeast serves .* on 127\.0\.0\.1:(\d+) .*$",
    ) as server:
        yield server.port()


@contextmanager
def open_echo(
    folder: Path, prepared: Mapping[str, Sequence[Prepared]], redis_port: int = 0
) -> Iterator[int]:
    """Serves prepared answers from a server like the gateway's; gives its port.

    Args:
        folder: Where the answers are put.
        prepared: For each method its answers, which are given in turn.
        redis_port: Where answers with a read have it done.
    """
    path = folder / "answers.pickle"
    path.write_bytes(pickle.dumps(prepared))
    with Server(
        *("bench.servers", "echo", str(path), "--redis-port", str(redis_port)), ready=_READY
    ) as server:
        yield server.port()


_READY = r"(?m)^ready (\d+)$"


def caller(stack: ExitStack, port: int, method: str) -> Callable[[bytes], bytes]:
    """A call of bytes to bytes: the client costs the same whoever is called."""
    channel = grpc.insecure_channel(
        f"127.0.0.1:{port}", options=[("grpc.max_receive_message_length", -1)]
    )
    stack.callback(channel.close)
    return partial(channel.unary_unary(method), timeout=_CALL_LIMIT)


def _reads(raw: RawSocket, commands: Iterator[tuple[bytes, int]]) -> list[RawRead]:
    return [RawRead(data, len(raw.reply(data, count))) for data, count in commands]


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


def _check(ours: bytes, feast: bytes, rows: int) -> None:
    """Compares two answers; only the order of the features may differ.

    Raises:
        RuntimeError: They differ otherwise, or a value is not PRESENT.
    """
    columns = []
    for answer in (ours, feast):
        message = serving_pb2.GetOnlineFeaturesResponse.FromString(answer)
        names = message.metadata.feature_names.val
        columns.append(
            {
                name: (list(vector.values), list(vector.statuses), len(vector.values))
                for name, vector in zip(names, message.results, strict=True)
            }
        )
    if columns[0] != columns[1]:
        raise RuntimeError("the gateway and Feast answer differently")
    present = [serving_pb2.FieldStatus.PRESENT] * rows
    for name, (_, statuses, count) in columns[0].items():
        if count != rows or statuses != present:
            raise RuntimeError(f"{name}: not all of the {rows} values are there")
