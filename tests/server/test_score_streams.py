"""Streams of batches that break off, are slow on either side, or end with the gateway."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest
from feast import FeatureStore
from processes import eventually
from served import Served, serve, stop

from hotfeast.clients import AsyncFeatureClient, FeatureClient, Resume, Unauthenticated, Unavailable
from hotfeast.hotpath.answer_arrow import declared_type
from hotfeast.server.gateway import Settings
from hotfeast.server.local_redis import LocalRedis
from hotfeast.serving.v1 import serving_pb2

PATH = "/hotfeast.serving.v1.FeatureServing/GetOnlineFeaturesStream"
SERVERS = ["native", "grpcio"]
STREAMS = 2
QUICK = Resume(seconds=30, backoff=0.01, longest_backoff=0.1)


def gateway(store: FeatureStore, server: str, **options: Any) -> Served:
    settings = Settings(
        repo=Path(str(store.repo_path)), server=server, threads=2, read_streams=STREAMS, **options
    )
    return serve(store, settings)


@pytest.fixture(scope="module", params=SERVERS)
def served(request: pytest.FixtureRequest, market_store: FeatureStore) -> Iterator[Served]:
    made = gateway(market_store, request.param)
    yield made
    stop(made)


def rows(count: int) -> dict[str, list[int]]:
    return {"user_id": [(1, 2, 3, 99)[i % 4] for i in range(count)], "row": list(range(count))}


def scored(client: FeatureClient, count: int, **options: Any) -> Any:
    return client.score("part", rows(count), columns=["user_id"], resume=QUICK, **options)


def check(table: pa.Table, count: int) -> None:
    """Every row is there once, in order, with what is its own."""
    assert table["row"].to_pylist() == list(range(count))
    assert table["spend"].to_pylist() == [(1.5, None, None, None)[i % 4] for i in range(count)]


class Breaking:
    """A gRPC server that hands a stream on to a gateway, and breaks it off behind some answers."""

    def __init__(
        self, served: Served, after: list[int], code: grpc.StatusCode, by_batch: bool
    ) -> None:
        self._call: Any = served.channel.stream_stream(PATH)
        self._after = after
        self._code = code
        self._by_batch = by_batch
        self.asked: list[tuple[int, list[int]]] = []
        """For each stream how many batches had been answered, and the numbers of its own."""
        self.answered: list[int] = []
        """The numbers of the batches that were answered."""
        self._server = grpc.server(_threads())
        handler: Any = grpc.stream_stream_rpc_method_handler(self._answer)
        service, _, method = PATH[1:].partition("/")
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(service, {method: handler})]
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _answer(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        asked: list[int] = []
        self.asked.append((len(self.answered), asked))

        def noted() -> Iterator[bytes]:
            for data in requests:
                asked.append(serving_pb2.GetOnlineFeaturesStreamRequest.FromString(data).batch)
                yield data

        left = self._after.pop(0) if self._after else -1
        call = self._call(noted())
        try:
            while left != 0:
                answer = next(call, None)
                if answer is None:
                    return
                if self._by_batch and left == 1:
                    yield self._refused(answer)
                    return
                self.answered.append(
                    serving_pb2.GetOnlineFeaturesStreamResponse.FromString(answer).batch
                )
                yield answer
                left -= 1
        finally:
            call.cancel()
        context.abort(self._code, "planned by the test")

    def _refused(self, answer: bytes) -> bytes:
        made: Any = serving_pb2.GetOnlineFeaturesStreamResponse.FromString(answer)
        made.error.code, made.error.message = self._code.value[0], "planned by the test"
        return bytes(made.SerializeToString())

    def stop(self) -> None:
        self._server.stop(0).wait()


def _threads() -> Any:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(4)


@contextmanager
def breaking(
    served: Served,
    *after: int,
    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE,
    by_batch: bool = False,
) -> Iterator[Breaking]:
    made = Breaking(served, list(after), code, by_batch)
    try:
        yield made
    finally:
        made.stop()


def test_it_goes_on_where_a_stream_broke_off(served: Served) -> None:
    with breaking(served, 0, 3, 0, 1, 5) as proxy, FeatureClient(proxy.address) as client:
        check(scored(client, 200, batch_size=10).to_table(), 200)
        # Each batch is answered once, and none that is answered is asked for again.
        assert proxy.answered == list(range(20))
        for answered, asked in proxy.asked:
            assert asked == list(range(answered, answered + len(asked)))
        assert len(proxy.asked) == 6


def test_it_goes_on_for_asyncio(served: Served) -> None:
    async def main(address: str) -> Any:
        async with AsyncFeatureClient(address) as client:
            return await client.score(
                "part", rows(200), columns=["user_id"], batch_size=10, resume=QUICK
            ).to_table()

    with breaking(served, 2, 0, 7) as proxy:
        check(asyncio.run(main(proxy.address)), 200)
        # grpcio may lose answers of a stream that ends while it sends; these are asked for again.
        assert sorted(set(proxy.answered)) == list(range(20))


def test_a_token_may_run_out_on_the_way(served: Served) -> None:
    """A new stream has a new one; if that is refused at once, it is the caller's to mend."""
    unknown = grpc.StatusCode.UNAUTHENTICATED
    with (
        breaking(served, 4, 7, code=unknown, by_batch=True) as proxy,
        FeatureClient(proxy.address) as client,
    ):
        check(scored(client, 100, batch_size=10).to_table(), 100)
        assert [answered for answered, _ in proxy.asked] == [0, 3, 9]
    with (
        breaking(served, 4, 1, code=unknown, by_batch=True) as proxy,
        FeatureClient(proxy.address) as client,
    ):
        scores = scored(client, 100, batch_size=10)
        with pytest.raises(Unauthenticated, match="batch 3, rows 30 to 39: planned by the test"):
            list(scores)
        assert scores.rows == 30


def test_other_ends_are_told(served: Served) -> None:
    with (
        breaking(served, 2, code=grpc.StatusCode.PERMISSION_DENIED) as proxy,
        FeatureClient(proxy.address) as client,
    ):
        scores = scored(client, 100, batch_size=10)
        assert [next(scores).num_rows for _ in range(2)] == [10, 10]
        with pytest.raises(Exception, match="planned by the test; answered: 2 batches, 20 rows"):
            next(scores)
    with breaking(served, 1, *[0] * 1000) as proxy, FeatureClient(proxy.address) as client:
        short = Resume(seconds=0.2, backoff=0.01, longest_backoff=0.05)
        scores = client.score("part", {"user_id": [1] * 9}, batch_size=1, resume=short)
        next(scores)
        words = r"planned by the test; \d+ more streams were tried within 0.2 s; answered: 1 batch"
        with pytest.raises(Unavailable, match=words):
            next(scores)


def test_no_more_is_asked_ahead_than_is_said(served: Served) -> None:
    """Memory is bounded by `ahead`, however many rows there are and however slow they are used."""
    read = 0

    def parts() -> Iterator[Any]:
        nonlocal read
        for i in range(100):
            read += 1
            yield {"user_id": [1], "row": [i]}

    with served.client.score("part", parts(), columns=["user_id"], batch_size=1, ahead=3) as scores:
        next(scores)
        eventually(lambda: read == 4)
        threading.Event().wait(0.1)
        assert read == 4
        next(scores)
        eventually(lambda: read == 5)
    # It is given up, and the gateway has let go of it.
    check(pa.Table.from_batches(list(scored(served.client, 8, batch_size=1))), 8)


def test_streams_are_limited_and_leave_reads_alone(served: Served) -> None:
    open_streams = []
    for _ in range(STREAMS):
        scores = scored(served.client, 100, batch_size=1)
        next(scores)
        open_streams.append(scores)
    with pytest.raises(Exception, match="2 streams are open, which is the limit"):
        next(scored(served.client, 1))
    for _ in range(8):
        got = served.client.get_online_features("part", {"user_id": [1]}).to_dict()
        assert got["spend"] == [1.5]
    for scores in open_streams:
        scores.close()

    def opens() -> bool:
        try:
            return bool(next(scored(served.client, 1)))
        except Exception:
            return False

    eventually(opens)


def test_a_client_that_does_not_read_is_not_read_from(served: Served) -> None:
    """Answers are many times as large as what is asked for; the gateway must not keep them."""
    count = 0
    users = pa.table({"user_id": [1] * 2000})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, users.schema) as writer:
        writer.write_table(users)
    data = sink.getvalue().to_pybytes()

    def requests() -> Iterator[bytes]:
        nonlocal count
        for i in range(3000):
            count += 1
            message: Any = serving_pb2.GetOnlineFeaturesStreamRequest(batch=i, arrow_ipc=data)
            message.read.request.feature_service = "users"
            yield message.SerializeToString()

    # A channel of its own, since its windows are full in the end.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(served.address, options=options) as channel:
        method: Any = channel.stream_stream(PATH)
        call = method(requests())
        last = -1

        def settled() -> bool:
            nonlocal last
            before, last = last, count
            threading.Event().wait(0.3)
            return 0 < before == count

        eventually(settled)
        # At 16 KB each, the window of 4 MiB and what is under way.
        assert count < 1000
        before = count
        for number, answer in enumerate(call):
            assert serving_pb2.GetOnlineFeaturesStreamResponse.FromString(answer).batch == number
            if count > before:
                break
        assert count > before
        call.cancel()


@pytest.mark.parametrize("server", SERVERS)
def test_a_shutdown_answers_what_is_worked_on(market_store: FeatureStore, server: str) -> None:
    with LocalRedis() as redis:
        made = gateway(market_store, server, redis_url=redis.url, redis_timeout=30.0)
        try:
            idle: Any = made.channel.stream_stream(PATH)
            waiting: Any = idle(iter(threading.Event().wait, True))
            scores = made.client.score("part", rows(8), columns=["user_id"], batch_size=1,
                                       ahead=1, resume=None)  # fmt: skip
            first = next(scores)
            assert first["row"].to_pylist() == [0]
            redis.freeze()
            ending = threading.Thread(target=made.gateway.stop, args=(20,))
            answers: list[Any] = []

            def ask() -> None:
                try:
                    answers.extend(iter(lambda: next(scores), None))
                except Exception as error:
                    answers.append(error)

            asking = threading.Thread(target=ask)
            asking.start()
            threading.Event().wait(0.2)
            ending.start()
            with pytest.raises(grpc.RpcError) as error:
                next(waiting)
            assert error.value.code() == grpc.StatusCode.UNAVAILABLE
            assert error.value.details() == "shutting down"
            redis.thaw()
            asking.join(30)
            ending.join(30)
            assert not ending.is_alive()
            # What had come by then is answered; then the stream ends.
            assert isinstance(answers[-1], Unavailable)
            assert "shutting down" in str(answers[-1])
            for i, batch in enumerate(answers[:-1]):
                assert batch["row"].to_pylist() == [i + 1]
        finally:
            made.client.close()
            made.channel.close()
            made.gateway.stop(drain=0)


def test_what_redis_does_not_answer_is_asked_again(market_store: FeatureStore) -> None:
    with LocalRedis() as redis:
        made = gateway(market_store, "native", redis_url=redis.url, redis_timeout=0.2)
        try:
            scores = scored(made.client, 6, batch_size=2)
            assert next(scores)["row"].to_pylist() == [0, 1]
            redis.freeze()
            thaw = threading.Timer(0.6, redis.thaw)
            thaw.start()
            assert [batch["row"].to_pylist() for batch in scores] == [[2, 3], [4, 5]]
            thaw.join()
        finally:
            redis.thaw()
            stop(made)


def test_declared_types_have_the_arrow_types_of_what_is_stored() -> None:
    """For each type whose columns have one, the one that its own values would have."""
    from hotfeast.hotpath.answer import AnswerColumn
    from hotfeast.hotpath.answer_arrow import arrow_array
    from hotfeast.serving.v1 import value_pb2

    for member in value_pb2.Value.DESCRIPTOR.oneofs_by_name["val"].fields:
        value: Any = value_pb2.Value()
        if member.message_type is not None:
            getattr(value, member.name).SetInParent()
        else:
            setattr(value, member.name, member.default_value)
        payload = value_pb2.RepeatedValue(val=[value]).SerializeToString()
        column = AnswerColumn.of_values("x", [payload])
        if column.layout == "none":
            continue
        wanted = None if column.layout == "message" else arrow_array(column).type
        assert declared_type(member.number) == wanted, member.name
    assert declared_type(30) == declared_type(31) == pa.binary()
