"""The stages of the hot path on their own, each beside what it stands in for.

Run by `python -m bench stages`. One call handles one whole request for 50 features of 5 views;
its reply was recorded from a real Redis. Before anything is timed, its result is compared.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import hiredis
import pytest
from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from pytest_benchmark.fixture import BenchmarkFixture

from bench.data import JOIN_KEY, PROJECT, Rows, make_requests
from bench.peers import Plans
from bench.raw import RawSocket
from bench.stages import KEYS, PARSE, ROWS, SCAN, SPLICE
from bench.stores import Encoding, Store, open_store
from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.packed import settle_reply
from hotfeast.hotpath.reply import Reply
from hotfeast.hotpath.request import Request
from hotfeast.hotpath.splice import build_response
from hotfeast.server.plan import PlanBook
from hotfeast.serving.v1 import serving_pb2, value_pb2


@dataclass(frozen=True)
class Material:
    """One request on its way."""

    rows: int
    book: PlanBook
    request: bytes
    reply: bytes
    now: tuple[int, int]

    def batch(self) -> Batch:
        """The request bound to its plan."""
        request = Request(self.request)
        return Batch(self.book.find(request).compiled, request)

    def scanned(self, batch: Batch, reply: Reply) -> Reply:
        """The reply, scanned into the buffers of `reply` and looked through for packed rows."""
        reply.start(batch)
        assert reply.feed(self.reply)
        assert settle_reply(batch, reply)
        return reply

    def answer(self, reply: Reply) -> bytes:
        """The whole way, without sockets; the buffers are kept, as a connection keeps them."""
        batch = self.batch()
        return build_response(batch, self.scanned(batch, reply), *self.now, True)


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with open_store(Rows.make(max(ROWS)), Encoding.HASH_TABLE) as loaded:
        yield loaded


@pytest.fixture(scope="module", params=ROWS)
def material(request: pytest.FixtureRequest, store: Store) -> Material:
    plans = Plans(store.feast)
    asked = make_requests(store.rows, request.param, 1)[0]
    with RawSocket(store.server.port) as raw:
        reply = raw.reply(*plans.commands(asked))
    now = int(max(store.rows.times).timestamp()) + 1
    return Material(request.param, plans.book, asked, reply, (now, 0))


Stage = Callable[[str], BenchmarkFixture]


@pytest.fixture
def stage(benchmark: BenchmarkFixture, material: Material) -> Stage:
    """Gives the benchmark its name in the table."""

    def name(text: str) -> BenchmarkFixture:
        benchmark.extra_info["stage"] = text
        benchmark.extra_info["rows"] = material.rows
        return benchmark

    return name


def test_parse_request(stage: Stage, material: Material) -> None:
    parsed = stage(PARSE)(Request, material.request)
    assert parsed.canonical


def test_parse_request_with_protobuf(stage: Stage, material: Material) -> None:
    parse = serving_pb2.GetOnlineFeaturesRequest.FromString
    parsed = stage("  protobuf: parse it")(parse, material.request)
    assert len(parsed.entities[JOIN_KEY].val) == material.rows


def test_batch(stage: Stage, material: Material) -> None:
    request = Request(material.request)
    plan = material.book.find(request).compiled
    batch = stage(KEYS)(Batch, plan, request)
    assert batch.entity_counts == [material.rows]


def test_keys_with_feast(stage: Stage, material: Material) -> None:
    parsed = serving_pb2.GetOnlineFeaturesRequest.FromString(material.request)
    keys = [
        EntityKey(join_keys=[JOIN_KEY], entity_values=[Value(int64_val=value.int64_val)])
        for value in parsed.entities[JOIN_KEY].val
    ]
    stored = stage("  Feast: keys of one view")(
        lambda: [_redis_key(PROJECT, key, entity_key_serialization_version=3) for key in keys]
    )
    commands = material.batch().command_bytes
    assert all(key in commands for key in stored)


def test_scan_reply(stage: Stage, material: Material) -> None:
    batch = material.batch()
    reply = Reply()

    def scan() -> bool:
        reply.start(batch)
        done: bool = reply.feed(material.reply)
        return done

    assert stage(SCAN)(scan)


def test_parse_reply_with_hiredis(stage: Stage, material: Material) -> None:
    reader = hiredis.Reader()

    def parse() -> list[object]:
        reader.feed(material.reply)
        return [reader.gets() for _ in range(material.rows)]

    answers = stage("  hiredis: parse it")(parse)
    assert reader.gets() is False
    assert len(answers) == material.rows


def test_splice(stage: Stage, material: Material) -> None:
    # Rows that are whole and fresh leave the reply as it was, so it can be spliced again.
    batch = material.batch()
    reply = material.scanned(batch, Reply())
    response = stage(SPLICE)(build_response, batch, reply, *material.now, True)
    assert response == material.answer(Reply())


def test_build_response_with_protobuf(stage: Stage, material: Material) -> None:
    batch = material.batch()
    fields = [value or b"" for value in material.scanned(batch, Reply()).field_values]
    views = batch.plan.definition.views
    column = serving_pb2.GetOnlineFeaturesRequest.FromString(material.request).entities[JOIN_KEY]
    present = [serving_pb2.FieldStatus.PRESENT] * material.rows
    width = len(fields) // material.rows

    def build() -> bytes:
        response = serving_pb2.GetOnlineFeaturesResponse()
        names = response.metadata.feature_names.val
        names.append(JOIN_KEY)
        response.results.add(
            values=column.val, statuses=present, event_timestamps=[Timestamp()] * material.rows
        )
        first = 0
        for view in views:
            end = first + len(view.features)
            times = [Timestamp.FromString(time) for time in fields[end::width]]
            for at, feature in enumerate(view.features, first):
                names.append(feature.output_name)
                response.results.add(
                    values=[value_pb2.Value.FromString(value) for value in fields[at::width]],
                    statuses=present,
                    event_timestamps=times,
                )
            first = end + 1
        serialized: bytes = response.SerializeToString()
        return serialized

    assert stage("  protobuf: build it")(build) == material.answer(Reply())


def test_whole_hot_path(stage: Stage, material: Material) -> None:
    response = stage("whole, without sockets")(material.answer, Reply())
    parsed = serving_pb2.GetOnlineFeaturesResponse.FromString(response)
    present = [serving_pb2.FieldStatus.PRESENT] * material.rows
    assert all(vector.statuses == present for vector in parsed.results)
