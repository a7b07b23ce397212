"""How much of the reads that arrive is taken on, by a clock of the tests' own; and calls that are
refused, as a client of HTTP/2 sees them."""

import random
from collections import deque

import h2.events
import h2.settings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotfeast.hotpath.admission import Admission
from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.http2 import refusal_block
from hotfeast.hotpath.plan import Plan
from hotfeast.hotpath.request import Request
from tests.hotpath.helpers import int64_request, one_view
from tests.hotpath.http2_client import ECHO, STREAMED, Client, Server, framed, request_headers

PLAN = Plan(one_view(features=[f"f{i}" for i in range(50)]))
LEAST = 32
BLOCKS = [refusal_block(8, "too much", ((b"grpc-retry-pushback-ms", b"%d" % i),)) for i in (3, 4)]


def batch(rows: int) -> Batch:
    return Batch(PLAN, Request(int64_request(*range(rows))))


ONE, HUNDRED = batch(1), batch(100)


def admission(most: int = 1 << 40, delay: float = 0.01) -> Admission:
    return Admission(frozenset({ECHO}), BLOCKS, most, delay)


def is_full(limit: Admission) -> bool:
    return limit.full


class Simulation:
    """A server that works on one read after another, and clients that send at random times.

    Attributes:
        waits: Seconds that each read took that was answered.
        refused: How many were not.
    """

    def __init__(self, limit: Admission, seconds: float, what: Batch = HUNDRED) -> None:
        """
        Args:
            limit: What is tried.
            seconds: That the server takes for a read.
            what: A read.
        """
        self.limit = limit
        self.seconds = seconds
        self.what = what
        self.now = 0.0
        self.waits: list[float] = []
        self.refused = 0
        self._queue: deque[float] = deque()
        self._free = 0.0
        self._random = random.Random(5)

    def run(self, rate: float, seconds: float) -> None:
        """Sends so many reads a second, for so long."""
        self.waits, self.refused = [], 0
        end = self.now + seconds
        while self.now < end:
            self.now += self._random.expovariate(rate)
            while self._queue and self._free <= self.now:
                self._finish()
            if self.limit.full:
                self.limit.take_refusal()
                self.refused += 1
                continue
            self.limit.begin(self.what, self.now)
            if not self._queue:
                self._free = self.now + self.seconds
            self._queue.append(self.now)

    def _finish(self) -> None:
        arrived, done = self._queue.popleft(), self._free
        self.limit.end_at(self.what, arrived, True, done)
        self.waits.append(done - arrived)
        self._free = done + self.seconds

    def p99(self) -> float:
        return sorted(self.waits)[int(len(self.waits) * 0.99)]


@pytest.mark.parametrize(("seconds", "what"), [(0.0003, HUNDRED), (0.00002, ONE)])
def test_beyond_capacity_as_much_is_answered_and_none_waits_long(
    seconds: float, what: Batch
) -> None:
    simulation = Simulation(admission(), seconds, what)
    simulation.run(0.5 / seconds, 1)
    assert simulation.refused == 0
    for times in (1.2, 5, 10):
        simulation.run(times / seconds, 2)
        # What it was like before is forgotten.
        simulation.run(times / seconds, 1)
        assert len(simulation.waits) >= 0.98 / seconds
        assert simulation.p99() <= 0.01 * 1.2 + seconds
    assert simulation.refused > 8 / seconds


def test_a_slower_server_gets_less_and_a_quicker_one_more() -> None:
    simulation = Simulation(admission(), 0.0003)
    found = []
    for seconds in (0.0003, 0.001, 0.0001):
        simulation.seconds = seconds
        simulation.run(5 / seconds, 3)
        found.append(simulation.limit.limit)
    # Ten milliseconds of each.
    for limit, seconds in zip(found, (0.0003, 0.001, 0.0001), strict=True):
        weight = 64 + HUNDRED.cell_count
        assert 0.9 <= max(limit, 32768) / max(weight * 0.01 / seconds, 32768) <= 1.2


def test_a_burst_is_taken_on_before_and_after_an_overload() -> None:
    limit = admission()
    simulation = Simulation(limit, 0.0003)
    for _ in range(2):
        taken = 0
        while not limit.full:
            limit.begin(ONE, simulation.now)
            taken += 1
        assert taken > 2000
        for _ in range(taken):
            limit.end_at(ONE, simulation.now, False, simulation.now)
        simulation.run(5 / 0.0003, 2)
        assert limit.limit < 262144 * 0.8
        simulation.run(0.7 / 0.0003, 30)
        assert simulation.refused == 0


def test_some_are_always_taken_on_and_never_more_than_is_allowed() -> None:
    large = batch(10000)
    limit = admission()
    for _ in range(LEAST):
        assert not is_full(limit)
        limit.begin(large, 0.0)
    assert is_full(limit)
    assert (limit.refused_work, limit.refused_count) == (0, 0)
    limit.take_refusal()
    assert (limit.refused_work, limit.refused_count) == (1, 0)
    limit = admission(most=5, delay=0)
    for _ in range(5):
        assert not is_full(limit)
        limit.begin(large, 0.0)
    assert is_full(limit)
    limit.take_refusal()
    assert (limit.refused_work, limit.refused_count) == (0, 1)
    limit.end(large, 0.0, True)
    assert not is_full(limit)
    with pytest.raises(ValueError, match="there must be an answer"):
        Admission(frozenset(), [], 1, 0.0)


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.floats(0, 5), st.booleans(), st.sampled_from([ONE, HUNDRED])
        ),
        max_size=200,
    )
)
def test_whatever_happens_what_has_begun_is_counted_and_some_may_begin(
    steps: list[tuple[int, float, bool, Batch]],
) -> None:
    limit = admission()
    now = 1000.0
    under_way: list[tuple[Batch, float]] = []
    for kind, passed, answered, what in steps:
        now += passed
        if kind < 2 and not limit.full:
            limit.begin(what, now - passed / 2)
            under_way.append((what, now - passed / 2))
        elif under_way:
            what, arrived = under_way.pop(0)
            limit.end_at(what, arrived, answered, now)
        assert limit.in_flight == len(under_way)
        assert limit.work == sum(64 + min(w.cell_count, 8192) for w, _ in under_way)
        assert limit.limit >= 32768
    for what, arrived in under_way:
        limit.end_at(what, arrived, True, now)
    assert limit.work == limit.in_flight == 0
    assert not limit.full


# ---------------------------------------------------------------- as a client sees it


class Limited(Server):
    """One that takes on one read at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.admission = admission(most=1)


def test_calls_are_refused_before_their_messages_are_read() -> None:
    server = Limited()
    client, limit = Client(server=server), server.admission
    assert client.call(ECHO, framed(b"before")).messages == [b"before"]
    limit.begin(ONE, 0.0)
    for i in range(3):
        # Also one that has sent a part of its message.
        number = client.start(ECHO, framed(b"x" * 100_000), ends=i % 2 == 0)
        client.pump()
        call = client.calls[number]
        assert (call.status, call.message, call.messages) == (8, b"too much", [])
        assert (call.headers | call.trailers)[b"grpc-retry-pushback-ms"] in (b"3", b"4")
    assert client.connection.open_calls == 0
    assert limit.refused_count == 3
    # Other methods are not.
    assert client.call(STREAMED, framed(b"a", b"b")).messages == [b"a", b"b"]
    limit.end(ONE, 0.0, True)
    # And the connection is in step.
    for _ in range(3):
        after = client.call(ECHO, framed(b"after"), headers=[(b"x-new", b"1")])
        assert after.messages == [b"after"]
    assert client.ended is None


def resize(client: Client, size: int) -> None:
    """Has the client's table of headers take another size, which its decoder insists on."""
    client.h2.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: size})
    client.pump()


def refused(client: Client) -> int:
    """Has a call refused; says in how many bytes."""
    number = client.start(ECHO, framed(b"x"))
    client._write()
    client.feed(client.h2.data_to_send())
    answer = client.connection.to_send()
    client.take(answer)
    call = client.calls[number]
    assert call.ended
    assert (call.status, call.message) == (8, b"too much")
    assert call.headers[b"content-type"] == b"application/grpc"
    assert call.headers[b"grpc-retry-pushback-ms"] in (b"3", b"4")
    return len(answer)


def test_refusals_are_short_where_the_client_has_a_table() -> None:
    server = Limited()
    client, limit = Client(server=server), server.admission
    client.pump()
    limit.begin(ONE, 0.0)
    first, *others = [refused(client) for _ in range(5)]
    assert first > 100
    assert set(others) == {9 + 8}
    room = BLOCKS[0].room
    for size, short in ((room - 1, False), (0, False), (room, True), (1 << 20, True)):
        resize(client, size)
        first, *others = [refused(client) for _ in range(3)]
        assert first > 100
        assert max(others) == 9 + 8 if short else min(others) > 100
    # Other answers tell of the new size, too, and stay what they are.
    for size in (0, 100, 4096):
        resize(client, size)
        assert client.call(STREAMED, framed(b"a")).messages == [b"a"]
        limit.end(ONE, 0.0, True)
        resize(client, size + 1)
        assert client.call(ECHO, framed(b"b")).messages == [b"b"]
        limit.begin(ONE, 0.0)
        refused(client)
    assert client.ended is None


def test_only_a_request_that_goes_on_is_stopped() -> None:
    server = Limited()
    client, limit = Client(server=server), server.admission
    client.pump()
    limit.begin(ONE, 0.0)
    numbers = []
    for data, ends in ((b"", True), (framed(b"all"), True), (b"", False), (b"\0\0", False)):
        number = client.h2.get_next_available_stream_id()
        alone = ends and not data
        client.h2.send_headers(number, request_headers(ECHO), end_stream=alone)
        if data:
            client.h2.send_data(number, data, end_stream=ends)
        numbers.append(number)
    client.feed(client.h2.data_to_send())
    resets = {event.stream_id: event.error_code for event in client.h2.receive_data(
        client.connection.to_send()
    ) if isinstance(event, h2.events.StreamReset)}  # fmt: skip
    assert resets == dict.fromkeys(numbers[2:], 0)
    assert limit.refused_count == 4
    # What was under way to a stream that was stopped is not missed.
    client.connection.receive(b"\0\0\1\0\1" + numbers[2].to_bytes(4, "big") + b"x")
    limit.end(ONE, 0.0, True)
    assert client.call(ECHO, framed(b"after")).messages == [b"after"]
