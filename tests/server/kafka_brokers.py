"""Kafka's protocol over sockets: the brokers that librdkafka has for its own tests.

They keep topics, groups and offsets, and give partitions to the members of a group; they know
nothing of TLS, SASL and rights. Python's package does not show all that they can, so they are asked
for by the library's own names.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import confluent_kafka

_PRODUCER = 0
PARTITIONS = 4
"""Of a topic, which is made once it is asked for."""


def _library() -> Any:
    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    library = ctypes.CDLL(str(next(folder.glob("librdkafka*"))))
    library.rd_kafka_new.restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_new.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    library.rd_kafka_mock_cluster_bootstraps.argtypes = [ctypes.c_void_p]
    library.rd_kafka_mock_cluster_destroy.argtypes = [ctypes.c_void_p]
    library.rd_kafka_mock_group_initial_rebalance_delay_ms.argtypes = [
        ctypes.c_void_p, ctypes.c_int32,
    ]  # fmt: skip
    library.rd_kafka_mock_topic_set_error.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int,
    ]  # fmt: skip
    library.rd_kafka_destroy.argtypes = [ctypes.c_void_p]
    return library


class Brokers:
    """A cluster of one broker."""

    def __init__(self, library: Any, cluster: int) -> None:
        self._library = library
        self._cluster = cluster
        self.servers: str = library.rd_kafka_mock_cluster_bootstraps(cluster).decode()
        """Its address."""

    def refuse(self, topic: str, code: int) -> None:
        """Has all that is asked of a topic be answered with an error; 0 for no more."""
        self._library.rd_kafka_mock_topic_set_error(self._cluster, topic.encode(), code)


@contextmanager
def run_brokers() -> Iterator[Brokers]:
    """Runs a cluster in this process, on loopback."""
    library = _library()
    handle = library.rd_kafka_new(_PRODUCER, None, None, 0)
    cluster = library.rd_kafka_mock_cluster_new(handle, 1)
    # Unless told, the first members of a group wait three seconds for others.
    library.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 20)
    try:
        yield Brokers(library, cluster)
    finally:
        library.rd_kafka_mock_cluster_destroy(cluster)
        library.rd_kafka_destroy(handle)
