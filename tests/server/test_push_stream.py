"""Streams of pushes: an answer for each batch, limits, flow control and shutdown."""

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pushing
import pytest
from feast import FeatureStore
from processes import Process, eventually
from pushing import NOW, request
from served import Served, serve, stop

from hotfeast.clients import FeatureClient, HotfeastError
from hotfeast.server.gateway import Settings
from hotfeast.server.local_redis import LocalRedis
from hotfeast.serving.v1 import push_pb2, push_pb2_grpc

WRITTEN, STALE, REJECTED = 1, 2, 3
STREAMS = 2


@pytest.fixture(scope="module")
def stream_store(redis_server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("streamed")
    return pushing.write_repository(folder, "streamed", redis_server.address)


def settings(store: FeatureStore, **options: Any) -> Settings:
    options = {"threads": 2, "push_streams": STREAMS} | options
    return Settings(repo=Path(str(store.repo_path)), **options)


@pytest.fixture
def served(stream_store: FeatureStore) -> Iterator[Served]:
    gateway = serve(stream_store, settings(stream_store))
    yield gateway
    stop(gateway)


def score(user: int, value: float, seconds: int = 0, **fields: Any) -> push_pb2.PushRequest:
    return request(
        {
            "user_id": ("int64_val", [user]),
            "score": ("double_val", [value]),
            "since": ("unix_timestamp_val", [NOW]),
        },
        [NOW + timedelta(seconds=seconds)],
        feature_view="scores",
        **fields,
    )


class Stream:
    """A stream whose batches are sent when the test says so."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._batches: queue.SimpleQueue[Any] = queue.SimpleQueue()
        stub: Any = push_pb2_grpc.PushStub(channel)  # type: ignore[no-untyped-call]
        self.answers = stub.PushStream(iter(self._batches.get, None))

    def send(self, batch: Any) -> Any:
        self._batches.put(batch)
        return next(self.answers)

    def end(self) -> None:
        self._batches.put(None)


def test_hundreds_of_batches_each_answered_in_order(served: Served) -> None:
    batches = []
    for i in range(300):
        if i == 100:
            batches.append(score(1, 0.0, batch_id=str(i), push_source="no such source"))
        elif i == 200:
            bad = score(1, 0.0, batch_id=str(i))
            bad.columns.columns["user_id"].val[0].Clear()
            batches.append(bad)
        else:
            batches.append(score(1, float(i), i, batch_id=str(i)))
    stub: Any = push_pb2_grpc.PushStub(served.channel)  # type: ignore[no-untyped-call]
    answers = list(stub.PushStream(iter(batches)))
    assert [a.batch_id for a in answers] == [str(i) for i in range(300)]
    for i, answer in enumerate(answers):
        assert answer.HasField("error") == (i == 100)
        if i == 100:
            assert answer.error.code == grpc.StatusCode.NOT_FOUND.value[0]
            assert "no such source" in answer.error.message
            assert not answer.outcomes
        else:
            assert list(answer.outcomes) == [REJECTED if i == 200 else WRITTEN]
    got = served.client.get_online_features(["scores:score"], {"user_id": [1]}).to_dict()
    assert got["score"] == [299.0]


def test_bytes_that_are_no_batch_are_answered(served: Served) -> None:
    call: Any = served.channel.stream_stream("/hotfeast.serving.v1.Push/PushStream")
    good = score(2, 1.0).SerializeToString()
    answers = [push_pb2.PushResponse.FromString(a) for a in call(iter([b"\xff", good]))]
    assert answers[0].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert list(answers[1].outcomes) == [WRITTEN]


def test_streams_are_limited_and_leave_reads_alone(served: Served) -> None:
    streams = [Stream(served.channel) for _ in range(STREAMS)]
    for i, stream in enumerate(streams):
        assert list(stream.send(score(3 + i, 1.0)).outcomes) == [WRITTEN]
    with pytest.raises(grpc.RpcError) as error:
        Stream(served.channel).send(score(9, 1.0))
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    # All streams are open and idle, and all other threads are free.
    for _ in range(8):
        got = served.client.get_online_features(["scores:score"], {"user_id": [3]}).to_dict()
        assert got["score"] == [1.0]
    streams[0].end()
    assert list(streams[0].answers) == []
    streams[1].answers.cancel()

    def opens() -> bool:
        stream = Stream(served.channel)
        try:
            done = list(stream.send(score(9, 1.0)).outcomes)
        except grpc.RpcError:
            return False
        stream.end()
        assert list(stream.answers) == []
        return bool(done)

    eventually(opens)


def test_the_next_batch_waits_for_the_answer_before_it(stream_store: FeatureStore) -> None:
    with LocalRedis() as redis:
        gateway = serve(stream_store, settings(stream_store, redis_url=redis.url, redis_timeout=30))
        try:
            asked = 0
            large = "x" * 100_000

            def batches() -> Iterator[Any]:
                nonlocal asked
                for i in range(400):
                    asked += 1
                    yield score(4, float(i), i, batch_id=large)

            stub: Any = push_pb2_grpc.PushStub(gateway.channel)  # type: ignore[no-untyped-call]
            redis.freeze()
            answers = stub.PushStream(batches())
            try:
                # What is on its way fills gRPC's windows, and then no more is asked for.
                last = -1

                def settled() -> bool:
                    nonlocal last
                    before, last = last, asked
                    threading.Event().wait(0.3)
                    return 0 < before == asked

                eventually(settled)
                assert asked < 400
            finally:
                redis.thaw()
            assert [list(a.outcomes) for a in answers] == [[WRITTEN]] * 400
        finally:
            stop(gateway)


def test_a_drain_ends_idle_streams_and_answers_busy_ones(stream_store: FeatureStore) -> None:
    with LocalRedis() as redis:
        repo = Path(str(stream_store.repo_path))
        options = ("--redis", redis.url, "--redis-timeout", "30", "--drain", "50")
        with Process(repo, *options) as process:
            channel = grpc.insecure_channel(process.address())
            idle, busy = Stream(channel), Stream(channel)
            assert list(idle.send(score(5, 1.0)).outcomes) == [WRITTEN]
            assert list(busy.send(score(6, 1.0)).outcomes) == [WRITTEN]
            redis.freeze()
            answered: list[Any] = []

            def push_one() -> None:
                # A batch that comes after the end is refused with the stream.
                with suppress(grpc.RpcError):
                    answered.append(busy.send(score(6, 2.0, 1)))

            pushing_thread = threading.Thread(target=push_one)
            pushing_thread.start()
            try:
                client = redis.client()
                del client
                process.process.terminate()
                with pytest.raises(grpc.RpcError) as error:
                    next(idle.answers)
                assert error.value.code() == grpc.StatusCode.UNAVAILABLE
                assert error.value.details() == "shutting down"
            finally:
                redis.thaw()
            pushing_thread.join(60)
            # The batch had come before the end, or it is not written at all.
            if answered:
                assert list(answered[0].outcomes) == [WRITTEN]
            with pytest.raises((grpc.RpcError, StopIteration)):
                next(busy.answers)
            assert process.process.wait(40) == 0
            channel.close()


def test_the_client_streams(served: Served) -> None:
    def rows(i: int) -> dict[str, Any]:
        return {
            "user_id": [7, None if i == 2 else 8],
            "score": [float(i), 0.0],
            "since": [NOW, NOW],
            "event_timestamp": [NOW + timedelta(seconds=i)] * 2,
        }

    results = list(served.client.push_stream(map(rows, range(4)), feature_view="scores"))
    assert [r.counts for r in results] == [
        {"written": 2},
        {"written": 2},
        {"written": 1, "rejected": 1},
        {"written": 2},
    ]

    def with_an_unknown_column() -> Iterator[Any]:
        yield rows(10)
        yield rows(11) | {"unknown": [1, 2]}
        yield rows(12)

    stream = served.client.push_stream(with_an_unknown_column(), feature_view="scores")
    assert next(stream).ok
    with pytest.raises(HotfeastError) as error:
        next(stream)
    assert error.value.code == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(TypeError, match="'score': cannot send a object"):
        list(
            served.client.push_stream([rows(1) | {"score": [object()] * 2}], feature_view="scores")
        )
    with FeatureClient("127.0.0.1:1") as nobody, pytest.raises(HotfeastError) as error:
        list(nobody.push_stream([rows(1)], feature_view="scores"))
    assert error.value.code == grpc.StatusCode.UNAVAILABLE
