"""redis-py's clients for whatever a repository's connections lead to: one server, or a cluster."""

from typing import Any, Protocol

import redis
from redis.exceptions import RedisClusterException

REDIS_ERRORS = (redis.RedisError, RedisClusterException)
"""All that redis-py raises: what it says of a cluster as a whole is no `RedisError`."""


class Nodes(Protocol):
    """The nodes of a cluster; see `hotfeast.server.cluster`."""

    @property
    def client(self) -> Any:
        """redis-py's client for the cluster."""

    def node_clients(self) -> list[Any]:
        """A redis-py client for each master."""

    def disconnect(self) -> None:
        """Closes the connections."""


Pool = redis.ConnectionPool | Nodes
"""Connections to one server, or to the nodes of a cluster."""


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
