"""Second attempts at reads, by servers between client and gateway that take their time."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from processes import eventually
from served import Served
from test_client_connections import Proxy

from hotfeast.clients import AsyncFeatureClient, FeatureClient, Hedge, NotFound, Unavailable

USER = {"user_id": [1]}
SOON = Hedge(delay=0.05)


class Slow(Proxy):
    """A proxy that can keep calls waiting, until it is told otherwise or the client gives up."""

    def __init__(self, served: Served) -> None:
        self.slow = False
        self.pause = 0.0
        """Seconds before each answer."""
        self.failing = 0
        """How many of those that have waited fail with UNAVAILABLE."""
        self.waiting = 0
        self.given_up = 0
        self._go = threading.Event()
        super().__init__(served)

    def answer(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        time.sleep(self.pause)
        if self.slow:
            self._wait(context)
        return super().answer(method, request, context)

    def _wait(self, context: grpc.ServicerContext) -> None:
        self.waiting += 1
        over = threading.Event()
        if not context.add_callback(over.set):
            over.set()
        while not self._go.wait(0.01) and not over.is_set():
            pass
        self.given_up += over.is_set()
        if self.failing:
            self.failing -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "planned by the test")

    def stop(self) -> None:
        self.go()
        super().stop()

    def go(self) -> None:
        """Has calls go on."""
        self._go.set()


@contextmanager
def slowed(served: Served) -> Iterator[Slow]:
    made = Slow(served)
    try:
        yield made
    finally:
        made.stop()


@contextmanager
def two(served: Served) -> Iterator[tuple[Slow, Proxy]]:
    """One that can be slow, and one that is not."""
    quick = Proxy(served)
    try:
        with slowed(served) as slow:
            yield slow, quick
    finally:
        quick.stop()


def spend(client: FeatureClient) -> Any:
    return client.get_online_features("part", USER).to_dict()["spend"]


def test_the_other_gateway_answers(strict: Served) -> None:
    with (
        two(strict) as (slow, quick),
        FeatureClient([slow.address, quick.address], hedge=SOON, timeout=20) as client,
    ):
        eventually(lambda: spend(client) and slow.seen and quick.seen)
        slow.slow, quick.seen = True, []
        for _ in range(6):
            assert spend(client) == [1.5]
        assert len(quick.seen) == 6
        # Those that came to the slow one were given up there.
        assert slow.waiting > 0
        eventually(lambda: slow.given_up == slow.waiting)


def test_for_asyncio(strict: Served) -> None:
    async def main(slow: Slow, quick: Proxy) -> None:
        addresses = [slow.address, quick.address]
        async with AsyncFeatureClient(addresses, hedge=SOON, timeout=20) as client:
            while not (slow.seen and quick.seen):
                await client.get_online_features("part", USER)
            slow.slow, quick.seen = True, []
            for _ in range(6):
                answer = await client.get_online_features("part", USER)
                assert answer.to_dict()["spend"] == [1.5]
            assert len(quick.seen) == 6
            assert slow.waiting > 0
            while slow.given_up < slow.waiting:
                await asyncio.sleep(0.01)
            slow.slow = False
            with pytest.raises(NotFound):
                await client.get_online_features("nothing of this name", USER)

    with two(strict) as (slow, quick):
        asyncio.run(main(slow, quick))


def test_an_attempt_that_fails_waits_for_the_other(strict: Served) -> None:
    with slowed(strict) as slow, FeatureClient(slow.address, hedge=SOON, retries=None) as client:
        client.warm_up()
        slow.slow, slow.failing = True, 1
        done: list[Any] = []
        asking = threading.Thread(target=lambda: done.append(spend(client)))
        asking.start()
        eventually(lambda: slow.waiting == 2)
        slow.go()
        asking.join(30)
        assert done == [[1.5]]


def test_what_needs_no_second_attempt_has_none(strict: Served) -> None:
    long = Hedge(delay=20)
    with slowed(strict) as proxy, FeatureClient(proxy.address, hedge=long, retries=None) as client:
        assert spend(client) == [1.5]
        with pytest.raises(NotFound):
            client.get_online_features("nothing of this name", USER)
        proxy.failures = 1
        with pytest.raises(Unavailable, match="planned by the test"):
            spend(client)
        assert len(proxy.seen) == 3


def test_pushes_have_none(strict: Served) -> None:
    with slowed(strict) as slow, FeatureClient(slow.address, hedge=SOON) as client:
        client.warm_up()
        slow.pause, slow.seen = 0.3, []
        with pytest.raises(NotFound):
            client.push({"user_id": [1]}, push_source="nothing of this name")
        assert len(slow.seen) == 1


def test_the_budget_ends_hedges(strict: Served) -> None:
    """A gateway that is slow throughout gets little more than one attempt for each read."""
    with slowed(strict) as slow, FeatureClient(slow.address, hedge=Hedge(delay=0.001)) as client:
        client.warm_up()
        slow.pause, slow.seen = 0.03, []
        for _ in range(40):
            assert spend(client) == [1.5]
        # The bucket of 20 is half empty after 10, and each answer gives a tenth back.
        assert 40 < len(slow.seen) <= 40 + 10 + 4 + 1


def test_a_delay_that_is_none() -> None:
    with pytest.raises(ValueError, match="delay is 0, and must be above 0"):
        Hedge(delay=0)
