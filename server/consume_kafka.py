"""Events and rows from a Kafka topic into a push source: at least once, by a consumer group.

Offsets are committed after what is before them is stored, or is in the topic of rejected messages.
What a consumer had read and not committed comes again, to whoever has its partitions then; an event
is counted once by its id, and of a row event times decide.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hotfeast.server.consume_rows import (
    LONGEST_PAUSE,
    BadEntry,
    Consumed,
    Done,
    EntryStore,
    Stopped,
    Types,
    read_object,
    read_row,
)
from hotfeast.server.errors import StartFailure
from hotfeast.server.feast_api import FeatureStore
from hotfeast.server.forms import parse_address
from hotfeast.server.push_rows import ONLINE

try:
    from confluent_kafka import (
        Consumer,
        KafkaError,
        KafkaException,
        Message,
        Producer,
        TopicPartition,
    )
except ImportError as missing:
    raise StartFailure(
        f"Kafka cannot be read: {missing}; pip install 'hotfeast[kafka]'"
    ) from missing

logger = logging.getLogger(__name__)

# What at-least-once depends on, and what options say.
_OURS = {
    "auto.offset.reset",
    "bootstrap.servers",
    "client.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "group.id",
    "metadata.broker.list",
}
# Seconds to wait for answers of brokers.
_PATIENCE = 10.0
_LONGEST_WAIT = 0.2
# The same at the start: certificates, names and passwords.
_WRONG_CONNECTION = {KafkaError._SSL, KafkaError._AUTHENTICATION}
# Trying again does not help against these; what cannot be unpacked is not left out.
_REFUSALS = {
    KafkaError._BAD_COMPRESSION,
    KafkaError._BAD_MSG,
    KafkaError._AUTHENTICATION,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.INVALID_MSG,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
}


@dataclass(frozen=True)
class TopicOptions:
    """Which topic is read, and how.

    Attributes:
        topic: Its name.
        servers: Brokers to ask first, as `HOST:PORT`, with commas between.
        group: The consumer group.
        consumer: This one's name to the brokers.
        push_source: Where the messages go.
        target: As of a push: `ONLINE`, `OFFLINE` or `BOTH`.
        begin_new: A group that has committed nothing begins with messages to come, not with all.
        batch: Messages that are stored at once at most.
        rejected: Topic that takes what cannot be stored; none if it is empty.
        config: More of librdkafka's configuration. It may have secrets.
    """

    topic: str
    servers: str
    group: str
    consumer: str
    push_source: str
    target: int = ONLINE
    begin_new: bool = False
    batch: int = 500
    rejected: str = ""
    config: dict[str, str] = field(default_factory=dict, repr=False)


class TopicRefused(Exception):
    """The brokers refuse, or cannot be reached at the start."""


def parse_servers(url: str) -> str:
    """The brokers of a URL `kafka://HOST:PORT,HOST:PORT`.

    Raises:
        ValueError: It is none.
    """
    servers = url.removeprefix("kafka://")
    if "@" in servers:
        raise ValueError("--from has no user and no password; say them in --kafka-config-file")
    for server in servers.split(","):
        parse_address(server)
    return servers


def check_config(config: dict[str, str]) -> None:
    """That a configuration leaves alone what the consumer depends on.

    Raises:
        ValueError: It does not; the message names the property.
    """
    for name in sorted(_OURS & config.keys()):
        raise ValueError(f"{name} cannot be configured: other options or the consumer say it")


class TopicConsumer:
    """One consumer of a group. It belongs to one thread."""

    def __init__(
        self,
        store: FeatureStore,
        options: TopicOptions,
        redis_url: str | None = None,
        registry_interval: float = 30.0,
        tell: Callable[[Consumed], None] = lambda _: None,
    ) -> None:
        """
        Args:
            store: The repository.
            options: What is read.
            redis_url: Where rows go, instead of the repository's.
            registry_interval: Seconds between two looks at the registry.
            tell: Is told before and after each batch, and while there is none, how it stands.

        Raises:
            StartFailure: The repository's online store is no Redis server.
            RequestFailure: There is no such push source.
            ValueError: The configuration is not understood.
            Exception: Whatever Feast raises where the registry cannot be read.
        """
        check_config(options.config)
        self._options = options
        # What the library has told of its connections last: calls that wait for brokers do not.
        self._trouble: KafkaError | None = None
        self._tell = tell
        self._entries = EntryStore(
            store, options.push_source, options.target, read_message, redis_url, registry_interval
        )
        self.consumed = Consumed(self._entries.outcomes)
        # By partition: what is to be committed, and where reading began.
        self._stored: dict[int, int] = {}
        self._begun: dict[int, int] = {}
        common = {
            **options.config,
            "bootstrap.servers": options.servers,
            "client.id": options.consumer,
            "error_cb": self._note_trouble,
        }
        try:
            self._consumer = Consumer(
                {
                    **common,
                    "group.id": options.group,
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    # Where retention has taken what comes next, all that is left is read.
                    "auto.offset.reset": "earliest",
                },
                logger=logger,
            )
            # How long a message may be is for the brokers to say: they had this one.
            producing = {"message.max.bytes": 1_000_000_000, **common}
            self._producer = Producer(producing, logger=logger) if options.rejected else None
        except (KafkaException, TypeError) as error:
            raise ValueError(f"Kafka's configuration: {_text(error)}") from None

    def run(self, stop: threading.Event) -> None:
        """Consumes until it is told to stop, and leaves the group.

        Raises:
            TopicRefused: The brokers refuse, or cannot be reached at the start; later they are
                tried again.
        """
        try:
            self._begin()
            self._consumer.subscribe([self._options.topic], on_revoke=self._revoked)
            while not stop.is_set():
                messages = self._read()
                self._store(messages, stop)
                self._commit()
                self._entries.look()
                self._measure()
                self._tell(self.consumed)
        except Stopped:
            pass
        except KafkaException as error:
            raise TopicRefused(f"topic {self._options.topic}: {_text(error)}") from error
        finally:
            self._consumer.close()

    def _begin(self) -> None:
        """Sees that the topic is there, and where a new group begins."""
        options = self._options
        topic = self._ask_for_topic()
        if topic.error is not None:
            raise KafkaException(topic.error)
        if not options.begin_new:
            return
        all_of_it = [TopicPartition(options.topic, number) for number in topic.partitions]
        if any(each.offset >= 0 for each in self._consumer.committed(all_of_it, _PATIENCE)):
            return
        # Committed at once: what comes while this one is away is not left out.
        for each in all_of_it:
            each.offset = self._consumer.get_watermark_offsets(each, _PATIENCE)[1]
        self._consumer.commit(offsets=all_of_it, asynchronous=False)

    def _ask_for_topic(self) -> Any:
        """What brokers know of the topic.

        Raises:
            KafkaException: They do not answer, or there is something that waiting does not mend.
        """
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                name = self._options.topic
                return self._consumer.list_topics(name, _LONGEST_WAIT).topics[name]
            except KafkaException as error:
                # Only now the library hands over what it has noticed.
                self._consumer.poll(0)
                trouble = self._trouble
                if trouble is not None and trouble.code() in _WRONG_CONNECTION:
                    raise KafkaException(trouble) from error
                if _is_final(error.args[0]) or time.monotonic() > end:
                    raise KafkaException(trouble or error.args[0]) from error

    def _note_trouble(self, error: KafkaError) -> None:
        # That all brokers are away comes on top of why they are.
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._trouble = error

    def _read(self) -> list[Message]:
        """What is there, of at most a batch; waits for a message if there is none."""
        first = self._consumer.poll(_LONGEST_WAIT)
        if first is None:
            return []
        messages = [first]
        if self._options.batch > 1:
            messages += self._consumer.consume(self._options.batch - 1, 0)
        for message in messages:
            error = message.error()
            if error is not None:
                if _is_final(error):
                    raise KafkaException(error)
                logger.warning("the topic cannot be read: %s; trying again", error.str())
        return [message for message in messages if message.error() is None]

    def _store(self, messages: list[Message], stop: threading.Event) -> None:
        if not messages:
            return
        self.consumed.pending = len(messages)
        self._tell(self.consumed)
        rejected: list[Done] = []

        def sort_out(done: list[Done]) -> None:
            rejected.extend(each for each in done if each[2])

        self._entries.store([(each, each.value()) for each in messages], sort_out, stop)
        self._reject(rejected, stop)
        self.consumed.pending = 0
        mine = {each.partition for each in self._consumer.assignment()}
        for message in messages:
            partition, offset = message.partition(), message.offset()
            # Partitions can have gone to another while messages were taken from what was fetched.
            if partition in mine and offset is not None:
                self._stored[partition] = offset + 1

    def _reject(self, rejected: Sequence[Done], stop: threading.Event) -> None:
        """Brings messages to the topic of rejected ones; goes on until brokers have them.

        Raises:
            Stopped: It was asked to stop.
        """
        if self._producer is None:
            return
        left = list(rejected)
        while left:
            left, why = self._deliver(self._producer, left, stop)
            if left:
                logger.warning(
                    "%d messages are not in topic %s: %s; trying again",
                    len(left), self._options.rejected, why,
                )  # fmt: skip
                if stop.wait(LONGEST_PAUSE):
                    raise Stopped

    def _deliver(
        self, producer: Producer, rejected: Sequence[Done], stop: threading.Event
    ) -> tuple[list[Done], str]:
        """Brings them there once: what is left, and why."""
        failed: list[tuple[Done, str]] = []
        for each in rejected:

            def delivered(error: KafkaError | None, _: Message, each: Done = each) -> None:
                if error is not None:
                    failed.append((each, error.str()))

            message, value, reason = each
            producer.produce(
                self._options.rejected,
                value,
                message.key(),
                headers=[*(message.headers() or ()), *_about(message, reason)],
                on_delivery=delivered,
            )
        while producer.flush(_LONGEST_WAIT):
            if stop.is_set():
                raise Stopped
        return [each for each, _ in failed], "; ".join(sorted({why for _, why in failed}))

    def _commit(self) -> None:
        """Commits what is stored; what cannot be is tried again as long as partitions are here."""
        if not self._stored:
            return
        topic = self._options.topic
        offsets = [TopicPartition(topic, *each) for each in self._stored.items()]
        try:
            answers = self._consumer.commit(offsets=offsets, asynchronous=False) or []
        except KafkaException as error:
            if _is_final(error.args[0]):
                raise
            logger.warning("offsets are not committed: %s; trying again", _text(error))
            return
        for each in answers:
            if each.error is None:
                del self._stored[each.partition]
            else:
                logger.warning("partition %d is not committed: %s", each.partition, each.error)

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """Forgets partitions that another has from now on; what was stored is committed before."""
        self._commit()
        for each in partitions:
            self._stored.pop(each.partition, None)
            self._begun.pop(each.partition, None)

    def _measure(self) -> None:
        """How many messages there are in this consumer's partitions that it has not stored."""
        lags = {}
        mine = self._consumer.assignment()
        try:
            for each in self._consumer.position(mine):
                _, end = self._consumer.get_watermark_offsets(each, cached=True)
                if end >= 0:
                    lags[each.partition] = max(0, end - self._next(each))
        except KafkaException as error:
            if _is_final(error.args[0]):
                raise
            logger.warning("the lag is not known: %s", _text(error))
        self.consumed.partition_lags = lags
        # The end of a partition is known once it has been fetched from.
        self.consumed.lag = sum(lags.values()) if 0 < len(lags) == len(mine) else None

    def _next(self, at: TopicPartition) -> int:
        """The offset of the message of a partition that is read next."""
        if at.offset >= 0:
            return at.offset
        if at.partition not in self._begun:
            asked = TopicPartition(at.topic, at.partition)
            begun = self._consumer.committed([asked], _PATIENCE)[0].offset
            if begun < 0:
                begun = self._consumer.get_watermark_offsets(asked, _PATIENCE)[0]
            self._begun[at.partition] = begun
        return self._begun[at.partition]


def read_message(value: bytes | None, types: Types) -> dict[str, Any]:
    """The values of a message, by column; columns that nothing takes are left out.

    Raises:
        BadEntry: It is no JSON object, or a value is not of its column's type.
    """
    if value is None:
        raise BadEntry("the message has no value")
    return read_row(read_object(value, "the message's value"), types)


def _about(message: Message, reason: str) -> list[tuple[str, bytes]]:
    """Headers that say where a rejected message is from, and why it was."""
    return [
        ("hotfeast.reason", reason.encode()),
        ("hotfeast.topic", str(message.topic()).encode()),
        ("hotfeast.partition", str(message.partition()).encode()),
        ("hotfeast.offset", str(message.offset()).encode()),
    ]


def _is_final(error: KafkaError) -> bool:
    return error.fatal() or error.code() in _REFUSALS


def _text(error: Exception) -> str:
    first = error.args[0]
    return first.str() if isinstance(first, KafkaError) else str(first)
