"""From a repository's configuration to connections: one server, Sentinel's master, or a cluster.

What a connection string means is up to Feast: it is parsed by Feast's code, and its options are
those that Feast hands to redis-py.
"""

from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import Sentinel

from hotfeast.server.cluster import Cluster
from hotfeast.server.errors import StartFailure
from hotfeast.server.feast_api import RedisOnlineStore, RedisOnlineStoreConfig, RepoConfig
from hotfeast.server.redis_clients import Pool

_SINGLE, _SENTINEL, _CLUSTER = "redis", "redis_sentinel", "redis_cluster"
_DEFAULT_PORT = 6379
# Options of redis-py's client for a cluster that are none of a connection.
_CLUSTER_OPTIONS = (
    "dynamic_startup_nodes", "read_from_replicas", "reinitialize_steps", "require_full_coverage",
    "skip_full_coverage_check", "cluster_error_retry_attempts",
)  # fmt: skip


def connection_pool(config: RepoConfig, url: str | None, timeout: float) -> Pool:
    """The connections for a Feast repository's online store; nothing is connected yet.

    Args:
        config: The repository's configuration.
        url: A `redis://`, `rediss://` or `unix://` URL to use instead of the connection string.
            What it names is what `redis_type` says: the server, a Sentinel, or a node of the
            cluster.
        timeout: Seconds to connect, and for each reply that redis-py waits for.

    Raises:
        StartFailure: The online store is not of a kind that is served, or the address is malformed.
    """
    store = config.online_store
    if not isinstance(store, RedisOnlineStoreConfig):
        kind = getattr(store, "type", type(store).__name__)
        raise StartFailure(
            f"the online store is {kind!r}; Hotfeast serves from Redis: "
            "set online_store.type to 'redis' in feature_store.yaml"
        )
    kind = store.redis_type.value
    options: dict[str, Any] = {
        "socket_connect_timeout": timeout,
        # For the greeting that redis-py exchanges on a new connection, and for loading scripts.
        "socket_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
    }
    if url is not None:
        source = f"--redis {without_password(url)!r}"
        nodes, given = _from_url(url, source, kind)
    else:
        source = "online_store.connection_string"
        nodes, given = _from_string(store.connection_string, source, kind)
    if kind == _CLUSTER and given.pop("db", 0):
        raise StartFailure(f"{source}: a cluster has no databases: leave db out")
    try:
        pool = _pool(kind, nodes, options | given, store.sentinel_master)
    except (TypeError, ValueError, redis.RedisError) as error:
        raise StartFailure(f"{source}: redis-py does not take its options: {error}") from error
    return pool


def _pool(kind: str, nodes: list[tuple[str, int]], options: dict[str, Any], master: str) -> Pool:
    if kind == _CLUSTER:
        # Of the options that are for the cluster as a whole only one has a meaning here.
        own = {name: options.pop(name, None) for name in _CLUSTER_OPTIONS}
        _check(redis.Redis(host="localhost", **options).connection_pool)
        return Cluster(nodes, options, own["dynamic_startup_nodes"] is not False)
    if kind == _SENTINEL:
        timeouts = {name: options[name] for name in ("socket_connect_timeout", "socket_timeout")}
        # Connections to Sentinels have options of their own, with Feast as well.
        own = options.pop("sentinel_kwargs", {})
        own = {**timeouts, "retry": options["retry"], **own}
        sentinel: Any = Sentinel
        master_client = sentinel(nodes, sentinel_kwargs=own, **options).master_for(master)
        return _check(master_client.connection_pool)
    if nodes:
        options["host"], options["port"] = nodes[0]
    client: Any = redis.Redis(**options)
    return _check(client.connection_pool)


def _check(pool: redis.ConnectionPool) -> redis.ConnectionPool:
    """Shows whether redis-py knows all options; nothing is connected."""
    pool.make_connection()
    return pool


def _from_url(url: str, source: str, kind: str) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """The address and the options of a URL.

    Raises:
        StartFailure: It is none, or of a kind that `redis_type` cannot be reached by.
    """
    try:
        parse: Any = parse_url
        options: dict[str, Any] = dict(parse(url))
    except ValueError as error:
        raise StartFailure(f"{source}: {error}") from error
    if options.pop("connection_class", None) is redis.SSLConnection:
        options["ssl"] = True
    path = options.pop("path", None)
    if path is not None:
        if kind != _SINGLE:
            raise StartFailure(
                f"{source} is a socket of this machine, and online_store.redis_type is {kind!r}: "
                "give a redis:// or rediss:// URL"
            )
        return [], options | {"unix_socket_path": path}
    address = options.pop("host", "localhost"), options.pop("port", _DEFAULT_PORT)
    return [address], options


def _from_string(
    string: str, source: str, kind: str
) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """The addresses and the options of a connection string.

    Raises:
        StartFailure: It names no server, or more than there can be.
    """
    nodes, options = RedisOnlineStore._parse_connection_string(string)
    try:
        addresses = [(node["host"], int(node["port"])) for node in nodes]
    except (KeyError, ValueError):
        addresses = []
    if not addresses or (kind == _SINGLE and len(addresses) > 1):
        # Without the options, one of which may be a password.
        named = ",".join(part for part in string.split(",") if "=" not in part)
        wanted = (
            "name one server as 'host:port', followed by options such as ',db=0,password=...'"
            if kind == _SINGLE
            else f"name {'nodes' if kind == _CLUSTER else 'Sentinels'} as 'host:port,host:port', "
            "followed by options such as ',password=...'"
        )
        raise StartFailure(f"{source} names {named!r}; it must {wanted}")
    return addresses, options


def without_password(url: str) -> str:
    """A URL as it may be shown: without user, password and options."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "..."
    address = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{address}{parts.path}" if parts.scheme else address or parts.path
