"""Second attempts at reads whose answer takes long, beside the first.

gRPC's service config has a `hedgingPolicy`, which grpcio's core (1.85) does not know; so this is
done here. Each attempt is a call of its own, with gRPC's retries.
"""

import asyncio
import queue
import threading
from dataclasses import dataclass
from typing import Any

import grpc

from hotfeast.clients.connection import BUDGET

# What another gateway may well answer.
_ANOTHER_MAY = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}


@dataclass(frozen=True)
class Hedge:
    """A second attempt at a read that has not been answered after a delay, at the gateway whose
    turn it is; the first answer counts, and the other attempt is given up. Pushes, and `score`, are
    never hedged.

    All reads of a client share a budget, like that of `Retries`: while more than one in ten is
    hedged for long, no more are, so that a slow gateway does not get twice the load.

    Example:
        ```python
        FeatureClient(["10.0.0.5:6570", "10.0.0.6:6570"], hedge=Hedge(delay=0.02))
        ```
    """

    delay: float
    """Seconds; the 95th percentile of the usual latency is a good start."""

    def __post_init__(self) -> None:
        if not self.delay > 0:
            raise ValueError(f"Hedge: delay is {self.delay}, and must be above 0")


class Budget:
    """How many second attempts there may be; for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens = float(BUDGET["maxTokens"])

    def take(self) -> bool:
        """Whether there may be one more."""
        with self._lock:
            if self._tokens <= BUDGET["maxTokens"] / 2:
                return False
            self._tokens -= 1
            return True

    def answered(self) -> None:
        """A read has been answered."""
        with self._lock:
            self._tokens = min(self._tokens + BUDGET["tokenRatio"], float(BUDGET["maxTokens"]))


class Hedged:
    """A unary method, for threads."""

    def __init__(self, method: Any, hedge: Hedge, budget: Budget) -> None:
        """
        Args:
            method: The method of a channel.
            hedge: When there is a second attempt.
            budget: Of the client.
        """
        self._method = method
        self._hedge = hedge
        self._budget = budget

    def with_call(self, request: Any, **options: Any) -> tuple[Any, Any]:
        """The answer and its call, as of the method's own `with_call`.

        Raises:
            grpc.RpcError: There is none.
        """
        over: queue.SimpleQueue[Any] = queue.SimpleQueue()
        attempts = [self._begin(request, options, over)]
        try:
            try:
                done = over.get(timeout=self._hedge.delay)
            except queue.Empty:
                if self._budget.take():
                    attempts.append(self._begin(request, options, over))
                done = over.get()
            if len(attempts) > 1 and _may_wait(done):
                done = over.get()
            answer = done.result()
        finally:
            for attempt in attempts:
                attempt.cancel()
        self._budget.answered()
        return answer, done

    def _begin(self, request: Any, options: dict[str, Any], over: "queue.SimpleQueue[Any]") -> Any:
        attempt = self._method.future(request, **options)
        attempt.add_done_callback(over.put)
        return attempt


def _may_wait(done: Any) -> bool:
    """Whether an attempt has failed in a way in which another need not."""
    return done.code() in _ANOTHER_MAY


async def hedged(method: Any, hedge: Hedge, budget: Budget, request: Any, **options: Any) -> Any:
    """The call of a unary method for asyncio that is to be awaited: that which is answered first.

    Args:
        method: The method of a channel.
        hedge: When there is a second attempt.
        budget: Of the client.
        request: The request.
        options: Those of the call.
    """
    attempts = {method(request, **options)}
    try:
        done = await _first(attempts, hedge.delay)
        if done is None:
            if budget.take():
                attempts.add(method(request, **options))
            done = await _first(attempts, None)
        assert done is not None
        if len(attempts) > 1 and await done.code() in _ANOTHER_MAY:
            other = await _first(attempts - {done}, None)
            assert other is not None
            done = other
    except BaseException:
        for attempt in attempts:
            attempt.cancel()
        raise
    for attempt in attempts - {done}:
        attempt.cancel()
    if await done.code() is grpc.StatusCode.OK:
        budget.answered()
    return done


async def _first(attempts: set[Any], timeout: float | None) -> Any | None:
    """The attempt that is over first; None where none is in time."""
    waits = {asyncio.ensure_future(attempt.code()): attempt for attempt in attempts}
    try:
        done, _ = await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return waits[done.pop()] if done else None
