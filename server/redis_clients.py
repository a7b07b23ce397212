"""redis-py's clients for whatever a repository's connections lead to: one server, or a cluster."""

from collections.abc import Mapping
from typing import Any, Protocol

import redis
from redis.exceptions import RedisClusterException

REDIS_ERRORS = (redis.RedisError, RedisClusterException)
"""All that redis-py raises: what it says of a cluster as a whole is no `RedisError`."""

UNREACHABLE = (redis.ConnectionError, redis.TimeoutError)
"""What redis-py raises where a server does not answer."""


class Nodes(Protocol):
    """The nodes of a cluster; see `hotfeast.server.cluster`."""

    @property
    def client(self) -> Any:
        """redis-py's client for the cluster."""

    def node_clients(self) -> list[Any]:
        """A redis-py client for each master."""

    def find_again(self) -> None:
        """Looks for the nodes, of which some may have taken others' places."""

    def disconnect(self) -> None:
        """Closes the connections."""


Pool = redis.ConnectionPool | Nodes
"""Connections to one server, or to the nodes of a cluster."""


def version_of(info: Mapping[str, Any]) -> str:
    """Which server it is, by its answer to INFO: `Redis 7.0.15`, `Valkey 8.1.8`."""
    # The Redis version of Valkey is that of the commands that it took over.
    version = info.get("valkey_version") or info.get("redis_version", "unknown")
    return f"{info.get('server_name', 'Redis').capitalize()} {version}"


def client_of(pool: Pool) -> Any:
    """A client for commands of one key, wherever the key is.

    Raises:
        redis.ConnectionError: It is a cluster, and no node answers.
    """
    return (
        redis.Redis(connection_pool=pool)
        if isinstance(pool, redis.ConnectionPool)
        else (pool.client)
    )


def node_clients_of(pool: Pool) -> list[Any]:
    """A client for each server that has keys of its own.

    Raises:
        redis.ConnectionError: It is a cluster, and no node answers.
    """
    if isinstance(pool, redis.ConnectionPool):
        return [redis.Redis(connection_pool=pool)]
    return pool.node_clients()


def answering_clients_of(pool: Pool) -> list[Any]:
    """The same, of those that answer.

    Raises:
        redis.RedisError: None does; what the last one failed with.
    """
    answering = []
    failure: redis.RedisError | None = None
    for client in node_clients_of(pool):
        try:
            client.ping()
        except UNREACHABLE as error:
            failure = error
        else:
            answering.append(client)
    if failure is not None and not answering:
        raise failure
    return answering
