"""HMGET or HGETALL: how the hashes of a plan are read, by what is stored.

Redis holds a small hash as a listpack, a list that each field of an HMGET is searched for from the
start. For many fields of a long listpack it is several times cheaper to send it whole. A look at a
few stored keys says which it is; `python -m bench read-modes` measures the constants below.

The look is taken in a thread of its own, on keys that requests have asked for: once soon after a
plan's first request, then at intervals. Both commands give the same answers, so a wrong choice
costs time and nothing else.
"""

import logging
import queue
import statistics
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis

from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.plan import Plan
from hotfeast.server.redis_clients import Pool, client_of

logger = logging.getLogger(__name__)

# Microseconds of Redis, in relation to each other: a field that is found and sent, an entry of a
# listpack that is passed over in search of it, and a field and its name that are sent unasked.
FIELD_COST = 0.18
SCAN_COST = 0.0095
WHOLE_COST = 0.115

SAMPLE_KEYS = 8
_LISTPACKS = {b"listpack", b"ziplist"}


@dataclass(frozen=True, slots=True)
class StoredHash:
    """A hash as Redis holds it."""

    encoding: bytes
    fields: int


def whole_is_cheaper(asked: int, hashes: Sequence[StoredHash]) -> bool:
    """Whether HGETALL beats HMGET.

    Args:
        asked: Fields that the HMGET would ask for.
        hashes: Some of the hashes that are read; none means that nothing is known.
    """
    if not hashes or any(h.encoding not in _LISTPACKS for h in hashes):
        return False
    fields = statistics.median(h.fields for h in hashes)
    # On average half of the list is passed over for each field.
    by_field = asked * (FIELD_COST + SCAN_COST * fields / 2)
    return by_field > WHOLE_COST * fields


def probe(client: Any, keys: Sequence[bytes]) -> list[StoredHash]:
    """Looks at hashes; keys that do not exist are left out.

    Raises:
        redis.RedisError: Redis did not answer, or does not allow it.
    """
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.object("ENCODING", key)
        pipeline.hlen(key)
    answers = pipeline.execute(raise_on_error=False)
    found = []
    for encoding, fields in zip(answers[::2], answers[1::2], strict=True):
        for answer in (encoding, fields):
            # Other errors are about the key: there is none, or it is no hash.
            if isinstance(answer, redis.exceptions.NoPermissionError):
                raise answer
        if isinstance(encoding, bytes) and isinstance(fields, int):
            found.append(StoredHash(encoding, fields))
    return found


def choose(client: Any, plan: Plan, keys: Sequence[Sequence[bytes]]) -> None:
    """Looks at stored keys and sets how each key recipe of a plan is read.

    Args:
        client: A redis-py client.
        plan: The plan.
        keys: Keys of each of its recipes.

    Raises:
        redis.RedisError: Redis did not answer, or does not allow it.
    """
    for recipe, (asked, sample) in enumerate(zip(plan.field_counts, keys, strict=True)):
        hashes = probe(client, sample)
        if hashes:
            plan.set_read_all(recipe, whole_is_cheaper(asked, hashes))


class ReadModes:
    """Keeps the plans in use at the cheaper command."""

    def __init__(self, pool: Pool, interval: float = 30.0) -> None:
        """
        Args:
            pool: Connections to look with.
            interval: Seconds after which a plan in use is looked at again.
        """
        self._pool = pool
        self._interval = interval
        self._samples: queue.Queue[tuple[Plan, list[list[bytes]]] | None] = queue.Queue(64)
        self._plans: weakref.WeakSet[Plan] = weakref.WeakSet()
        self._complained = False
        self._thread = threading.Thread(target=self._run, name="read-modes", daemon=True)

    def start(self) -> None:
        """Starts looking."""
        self._thread.start()

    def stop(self) -> None:
        """Stops looking, and waits for a look that is under way."""
        if self._thread.is_alive():
            self._samples.put(None)
            self._thread.join()

    def sample(self, batch: Batch) -> None:
        """Takes note of the keys of a batch whose plan is due for a look. Never waits."""
        plan = batch.plan
        plan.probe_due = False
        recipes = range(len(plan.field_counts))
        try:
            self._samples.put_nowait((plan, [batch.sample_keys(i, SAMPLE_KEYS) for i in recipes]))
        except queue.Full:
            plan.probe_due = True

    def _run(self) -> None:
        while True:
            try:
                item = self._samples.get(timeout=self._interval)
            except queue.Empty:
                for plan in list(self._plans):
                    plan.probe_due = True
                continue
            if item is None:
                return
            plan, keys = item
            self._plans.add(plan)
            try:
                choose(client_of(self._pool), plan, keys)
            except Exception as error:
                # Whatever it is, the plans keep the command that they have, and answers stay right.
                if not self._complained:
                    logger.warning(
                        "cannot look at stored hashes (%s: %s); each plan keeps its command",
                        type(error).__name__, error,
                    )  # fmt: skip
                    self._complained = True
