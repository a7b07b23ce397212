"""Clients that never stop asking, for benchmarks of how a gateway is operated.

They are in a process of their own, so that they cost the gateway no more than its answers.
Each is the Python client over gRPC's own channel, without retries unless said: what fails is seen.
"""

import multiprocessing
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection as Pipe
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.data import FIVE_VIEWS, JOIN_KEY, feature_names, view_name
from hotfeast.clients import FeatureClient, HotfeastError, Retries

# Seconds that a call may take: what is turned away is seen as that.
_TIMEOUT = 20.0
_START_LIMIT = 60.0
_MOST_ENTITIES = 1000


class _Asker:
    """What clients ask for, over one client."""

    def __init__(self, client: FeatureClient, seed: int) -> None:
        self._client = client
        self._random = random.Random(seed)

    def _entities(self, count: int) -> dict[str, list[int]]:
        return {JOIN_KEY: [self._random.randrange(_MOST_ENTITIES) for _ in range(count)]}

    def row(self) -> None:
        """One row of 50 features."""
        self._client.get_online_features(FIVE_VIEWS, self._entities(1))

    def rows(self) -> None:
        """A hundred rows."""
        self._client.get_online_features(FIVE_VIEWS, self._entities(100))

    def push(self) -> None:
        """Five rows of a view."""
        columns: dict[str, Any] = self._entities(5)
        for number, name in enumerate(feature_names(3)):
            columns[name] = [number if number % 2 == 0 else number / 7] * 5
        columns["event_timestamp"] = [datetime.now(UTC).replace(microsecond=0)] * 5
        self._client.push(columns, feature_view=view_name(3)).raise_for_failures()

    def listing(self) -> None:
        """Definitions."""
        self._client.serving_info()
        self._client.feature_views()

    def hurried(self) -> None:
        """A hundred rows, in less time than they take."""
        self._client.get_online_features(FIVE_VIEWS, self._entities(100), timeout=0.0005)


@dataclass(frozen=True)
class Kind:
    """A kind of client.

    Attributes:
        name: For people.
        ask: The method of `_Asker` that is a call.
        clients: How many there are.
        keeps: Calls after which each connects anew; 0 for never.
        pause: Seconds between two calls.
        expected: Codes that calls may end with besides OK.
    """

    name: str
    ask: str
    clients: int
    keeps: int = 0
    pause: float = 0.0
    expected: frozenset[str] = frozenset()


MIXED = (
    Kind("one row", "row", 4),
    Kind("100 rows", "rows", 2, pause=0.005),
    Kind("one row, connecting anew", "row", 2, keeps=5),
    Kind("pushes", "push", 1, pause=0.01),
    Kind("definitions", "listing", 1, pause=0.2),
)
HURRIED = Kind(
    "100 rows in a hurry", "hurried", 1, pause=0.01, expected=frozenset(["DEADLINE_EXCEEDED"])
)


@dataclass(frozen=True)
class Outcome:
    """What became of the calls of a kind.

    Attributes:
        codes: How many ended how.
        begun: When each began, in seconds since 1970.
        took: Milliseconds of each.
    """

    codes: Mapping[str, int]
    begun: npt.NDArray[np.float64]
    took: npt.NDArray[np.float64]


Outcomes = Mapping[str, Outcome]
"""By kind."""


def failures(outcomes: Outcomes, kinds: Sequence[Kind]) -> dict[str, int]:
    """Calls that ended otherwise than they may, by kind and why."""
    return {
        f"{kind.name}: {code}": count
        for kind in kinds
        for code, count in outcomes[kind.name].codes.items()
        if code != "OK" and code.partition(":")[0] not in kind.expected
    }


class Clients:
    """Clients that ask until they are told to stop."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def stop(self) -> Outcomes:
        """Has them finish; what came of all calls."""
        self._pipe.send(None)
        outcomes: Outcomes = self._pipe.recv()
        return outcomes


@contextmanager
def open_clients(
    target: str | Sequence[str], kinds: Sequence[Kind], retries: bool = False
) -> Iterator[Clients]:
    """Starts clients, each of which has had an answer.

    Args:
        target: The gateway, or several that they take turns among.
        kinds: What they are like.
        retries: Whether reads that end with UNAVAILABLE are tried again, as the client does it.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_ask_all, args=(target, kinds, retries, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(_START_LIMIT) or ours.recv() != "ready":
            raise RuntimeError("the clients had no answer")
        yield Clients(ours)
    finally:
        process.terminate()
        process.join()


def _ask_all(target: str | Sequence[str], kinds: Sequence[Kind], retries: bool, pipe: Pipe) -> None:
    """The process of the clients."""
    stop = threading.Event()
    calls: dict[str, list[tuple[str, float, float]]] = {kind.name: [] for kind in kinds}
    made = Retries() if retries else None

    def run(kind: Kind, seed: int) -> None:
        # append is atomic, so that clients of a kind share a list.
        note = calls[kind.name].append
        while not stop.is_set():
            with FeatureClient(target, _TIMEOUT, retries=made) as client:
                ask: Callable[[], None] = getattr(_Asker(client, seed), kind.ask)
                left = kind.keeps or -1
                while left and not stop.wait(kind.pause):
                    left -= 1
                    began = time.time()
                    try:
                        ask()
                        code = "OK"
                    except HotfeastError as error:
                        code = f"{error.code.name}: {error}"[:200]
                    note((code, began, (time.time() - began) * 1e3))

    threads = [
        threading.Thread(target=run, args=(kind, seed))
        for kind in kinds
        for seed in range(kind.clients)
    ]
    for thread in threads:
        thread.start()
    while not all(calls.values()):
        time.sleep(0.05)
    pipe.send("ready")
    pipe.recv()
    stop.set()
    for thread in threads:
        thread.join()
    pipe.send(
        {
            name: Outcome(
                Counter(code for code, _, _ in done),
                np.array([began for _, began, _ in done]),
                np.array([took for _, _, took in done]),
            )
            for name, done in calls.items()
        }
    )
