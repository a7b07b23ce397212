"""Clients that read and push without pause, note how each call ends, and have answers judged."""

import random
import threading
import time
from collections import Counter
from typing import NamedTuple

from bench.chaos.model import SERVICE, USERS, VIEW, Model
from hotfeast.clients import FeatureClient, HotfeastError, Tls

_READERS = 3
# Seconds that a call has, and between two calls of a client.
_TIMEOUT = 3.0
_PAUSE = 0.01
_ROWS = 5


class Ended(NamedTuple):
    """A call that is over.

    Attributes:
        kind: `read` or `push`.
        outcome: `OK`, or the status's name.
        at: When, in monotonic seconds.
    """

    kind: str
    outcome: str
    at: float


class Load:
    """Clients of one address, until they are stopped."""

    def __init__(self, address: str, tls: Tls | None, model: Model) -> None:
        """
        Args:
            address: Of the gateway.
            tls: With what clients encrypt; None where they do not.
            model: Judges answers.
        """
        self._address = address
        self._tls = tls
        self._model = model
        self._ended: list[Ended] = []
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._push)]
        self._threads += [threading.Thread(target=self._read, args=(i,)) for i in range(_READERS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def mark(self) -> int:
        """A place among the calls, for `since`."""
        return len(self._ended)

    def since(self, mark: int) -> list[Ended]:
        """The calls that have ended since."""
        return self._ended[mark:]

    def outcomes(self, mark: int, kind: str) -> Counter[str]:
        """How many calls of a kind have ended how since."""
        return Counter(each.outcome for each in self.since(mark) if each.kind == kind)

    def wait_until_fine(self, begun: float, patience: float, calm: float) -> float | None:
        """Waits until calls of both kinds succeed for a while.

        Args:
            begun: Monotonic seconds from which on they should.
            patience: Seconds to wait at most.
            calm: Seconds that nothing must fail.

        Returns:
            Seconds from `begun` to when they did; None if they did not.
        """
        while time.monotonic() < begun + patience + calm:
            time.sleep(0.05)
            now = time.monotonic()
            last = max((e.at for e in self._ended if e.outcome != "OK"), default=0.0)
            fine = {e.kind for e in self._ended if e.outcome == "OK" and e.at > max(last, begun)}
            if fine == {"read", "push"} and now - max(last, begun) >= calm:
                return max(last - begun, 0.0)
        return None

    def _note(self, kind: str, outcome: str) -> None:
        self._ended.append(Ended(kind, outcome, time.monotonic()))

    def _client(self) -> FeatureClient:
        return FeatureClient(self._address, retries=None, timeout=_TIMEOUT, tls=self._tls)

    def _read(self, number: int) -> None:
        chance = random.Random(number)
        with self._client() as client:
            while not self._stopping.wait(_PAUSE):
                users = chance.choices(range(USERS), k=_ROWS)
                before = dict(self._model.acknowledged)
                try:
                    answer = client.get_online_features(SERVICE, {"user": users})
                    values = answer.to_dict()
                    statuses = answer.statuses
                except HotfeastError as error:
                    self._note("read", error.code.name)
                except Exception as error:
                    # What is no answer at all.
                    self._note("read", type(error).__name__)
                else:
                    self._model.judge(users, before, values, statuses)
                    self._note("read", "OK")

    def _push(self) -> None:
        chance = random.Random(99)
        with self._client() as client:
            while not self._stopping.wait(_PAUSE):
                users = chance.sample(range(USERS), _ROWS)
                rows = self._model.next_rows(users)
                try:
                    result = client.push(rows, feature_view=VIEW)
                except HotfeastError as error:
                    self._note("push", error.code.name)
                    continue
                except Exception as error:
                    self._note("push", type(error).__name__)
                    continue
                if len(result.outcomes) != len(users):
                    self._note("push", "malformed")
                    continue
                failed = "OK"
                for user, step, outcome in zip(users, rows["step"], result.outcomes, strict=True):
                    if outcome == "written":
                        self._model.acknowledged[user] = step
                    else:
                        failed = outcome
                self._note("push", failed)
