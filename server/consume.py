"""Events and rows from a Redis stream into a push source: at least once, by a consumer group.

An entry is acknowledged after it is stored. What a consumer had when it died is claimed by the
others once it has been idle for long enough; an event that two of them write is counted once by its
id, and of a row event times decide. What cannot be stored goes to a stream of its own, with the
reason.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis
from redis.exceptions import ClusterDownError, NoPermissionError, RedisClusterException

from hotfeast.server.consume_rows import (
    LONGEST_PAUSE,
    Consumed,
    Done,
    Entry,
    EntryStore,
    Stopped,
    Types,
    read_object,
    read_row,
)
from hotfeast.server.feast_api import FeatureStore
from hotfeast.server.push_rows import ONLINE

logger = logging.getLogger(__name__)

# The server cannot be reached, or the cluster has nobody for the stream's slot at the moment.
_AWAY = (redis.ConnectionError, redis.TimeoutError, ClusterDownError, RedisClusterException)

JSON_FIELD = "json"
"""An entry's only field, where it has all columns as a JSON object."""


@dataclass(frozen=True)
class StreamOptions:
    """Which stream is read, and how.

    Attributes:
        stream: Its key.
        group: The consumer group; it is made if it is not there.
        consumer: This one's name in it, which no other may have at the same time.
        push_source: Where the entries go.
        target: As of a push: `ONLINE`, `OFFLINE` or `BOTH`.
        begin: Where a new group begins: `0`, with all entries, or `$`, with those to come.
        batch: Entries that are stored at once at most.
        claim_after: Seconds for which another consumer must not have acknowledged an entry that is
            taken over from it.
        rejected: Key of the stream that takes what cannot be stored.
    """

    stream: str
    group: str
    consumer: str
    push_source: str
    target: int = ONLINE
    begin: str = "0"
    batch: int = 500
    claim_after: float = 60.0
    rejected: str = ""


def open_source(url: str) -> Any:
    """redis-py's client of the server of a stream, or of the cluster that the server is one of.

    Args:
        url: A redis://, rediss:// or unix:// URL; with redis-py's options behind a question mark,
            such as `ssl_ca_certs`.

    Raises:
        ValueError: It is none.
        redis.RedisError: The server does not answer, or refuses.
        RedisClusterException: The cluster does not answer.
    """
    client: Any = redis.Redis.from_url(url)
    try:
        clustered = client.info("cluster").get("cluster_enabled")
    except NoPermissionError:
        # A cluster tells its users what they have to know by MOVED, which names the fault then.
        clustered = 0
    if not clustered:
        return client
    client.close()
    return redis.RedisCluster.from_url(url)


class StreamConsumer:
    """One consumer of a group. It belongs to one thread."""

    def __init__(
        self,
        store: FeatureStore,
        options: StreamOptions,
        source: Any,
        redis_url: str | None = None,
        registry_interval: float = 30.0,
        tell: Callable[[Consumed], None] = lambda _: None,
    ) -> None:
        """
        Args:
            store: The repository.
            options: What is read.
            source: redis-py's client of the stream's server; see `open_source`.
            redis_url: Where rows go, instead of the repository's.
            registry_interval: Seconds between two looks at the registry.
            tell: Is told after each batch, and while there is none, how it stands.

        Raises:
            StartFailure: The repository's online store is no Redis server.
            RequestFailure: There is no such push source.
            Exception: Whatever Feast raises where the registry cannot be read.
        """
        self._options = options
        self._source = source
        self._tell = tell
        self._entries = EntryStore(
            store, options.push_source, options.target, read_entry, redis_url, registry_interval
        )
        self.consumed = Consumed(self._entries.outcomes)

    def run(self, stop: threading.Event) -> None:
        """Consumes until it is told to stop.

        Raises:
            redis.RedisError: The stream's server refuses; while it cannot be reached it is tried
                again.
            RedisClusterException: It is a cluster, and cannot be reached at the start.
        """
        self._make_group()
        read = self._read_own
        claimed = 0.0
        while not stop.is_set():
            try:
                if time.monotonic() - claimed > self._options.claim_after / 2:
                    claimed = time.monotonic()
                    self._claim(stop)
                entries = read()
                if not entries:
                    # What it had not acknowledged before it was started again comes first.
                    read = self._read_new
                self._store(entries, stop)
                self._entries.look()
                self._measure()
            except _AWAY as error:
                logger.warning("the stream cannot be read: %s; trying again", error)
                stop.wait(LONGEST_PAUSE)
            except Stopped:
                return
            self._tell(self.consumed)

    def _make_group(self) -> None:
        options = self._options
        try:
            self._source.xgroup_create(
                options.stream, options.group, id=options.begin, mkstream=True
            )
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def _read_own(self) -> list[Entry]:
        return self._read("0", None)

    def _read_new(self) -> list[Entry]:
        return self._read(">", 500)

    def _read(self, after: str, block: int | None) -> list[Entry]:
        options = self._options
        answer = self._source.xreadgroup(
            options.group, options.consumer, {options.stream: after}, options.batch, block
        )
        streams = answer.items() if isinstance(answer, dict) else answer or ()
        found: list[Entry] = []
        for _, entries in streams:
            for each in entries:
                # By RESP3 each stream's entries are in a list of their own.
                found += each if isinstance(each, list) else [each]
        return found

    def _claim(self, stop: threading.Event) -> None:
        """Takes over what other consumers have not acknowledged for long."""
        options, start = self._options, b"0-0"
        while not stop.is_set():
            start, entries, *_ = self._source.xautoclaim(
                options.stream, options.group, options.consumer,
                int(options.claim_after * 1000), start, options.batch,
            )  # fmt: skip
            self.consumed.claimed += len(entries)
            self._store(entries, stop)
            if start == b"0-0":
                return

    def _measure(self) -> None:
        for group in self._source.xinfo_groups(self._options.stream):
            name = group["name"]
            if (name.decode() if isinstance(name, bytes) else name) == self._options.group:
                self.consumed.lag = group.get("lag")
                self.consumed.pending = group["pending"]

    def _store(self, entries: list[Entry], stop: threading.Event) -> None:
        """Stores entries and acknowledges them; goes on until it is done.

        Raises:
            Stopped: It was asked to stop; what is not acknowledged comes again.
        """
        # An entry that was trimmed from the stream has nothing left.
        gone = [number for number, content in entries if not content]
        left = [(number, content) for number, content in entries if content]
        if gone:
            self._source.xack(self._options.stream, self._options.group, *gone)
        self._entries.store(left, self._acknowledge, stop)

    def _acknowledge(self, done: list[Done]) -> None:
        """Acknowledges entries; those with a reason go to the stream of rejected ones."""
        options = self._options
        # The two streams may be on different nodes of a cluster, and then there is no transaction:
        # a consumer that dies in between rejects an entry twice.
        clustered = isinstance(self._source, redis.RedisCluster)
        sending = self._source if clustered else self._source.pipeline(transaction=True)
        for number, content, why in done:
            if why and options.rejected:
                sending.xadd(options.rejected, {**content, "_id": number, "_reason": why})
        sending.xack(options.stream, options.group, *(number for number, _, _ in done))
        if not clustered:
            sending.execute()


def read_entry(content: dict[bytes, bytes], types: Types) -> dict[str, Any]:
    """The values of an entry, by column; columns that nothing takes are left out.

    Raises:
        BadEntry: It is no JSON object, or a value is not of its column's type.
    """
    texts: dict[str, Any] = {
        name.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape")
        for name, value in content.items()
    }
    if set(texts) == {JSON_FIELD}:
        texts = read_object(texts[JSON_FIELD], f"field {JSON_FIELD!r}")
    return read_row(texts, types)
