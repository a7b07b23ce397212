"""What `hotfeast doctor` finds of servers that belong together: replicas, Sentinel, a cluster."""

from collections.abc import Iterator
from typing import Any

import redis
from redis.sentinel import SentinelConnectionPool

from hotfeast.hotpath.slots import SLOT_COUNT
from hotfeast.server.findings import ADVICE, FINE, PROBLEM, Finding
from hotfeast.server.redis_clients import UNREACHABLE, Pool, client_of, node_clients_of

# Sentinels that can still agree when one of them is lost.
_LEAST_SENTINELS = 3


def examine_shape(pool: Pool) -> Iterator[Finding]:
    """Looks at how the servers are put together.

    Args:
        pool: Connections to them.

    Raises:
        redis.RedisError: A server did not answer.
    """
    if isinstance(pool, SentinelConnectionPool):
        yield from _sentinels(pool)
        yield from _replicas(client_of(pool).info("replication"), "the master")
    elif isinstance(pool, redis.ConnectionPool):
        yield from _replicas(client_of(pool).info("replication"), "")
    else:
        yield from _cluster(pool)


def _replicas(info: dict[str, Any], of: str) -> Iterator[Finding]:
    """What a server's replication is like; of one that is known as a master, more is expected."""
    if info.get("role") != "master":
        yield Finding(
            PROBLEM,
            f"it is a replica of {info.get('master_host')}:{info.get('master_port')}: rows cannot "
            "be written",
            "name its master, or Sentinel (redis_type: redis_sentinel), which knows the master",
        )
    elif of:
        count = int(info.get("connected_slaves", 0))
        if count == 0:
            yield Finding(
                PROBLEM,
                f"{of} has no replica: if it is lost, so are its rows",
                "add a replica",
            )
        else:
            yield Finding(FINE, f"{of} has {count} replica{'s' if count > 1 else ''}")


def _sentinels(pool: SentinelConnectionPool) -> Iterator[Finding]:
    name = pool.service_name
    answering = 0
    asked: list[Any] = pool.sentinel_manager.sentinels
    for sentinel in asked:
        address = "{host}:{port}".format(**sentinel.connection_pool.connection_kwargs)
        try:
            state = sentinel.sentinel_master(name)
        except redis.RedisError as error:
            yield Finding(
                PROBLEM,
                f"Sentinel {address} does not answer for master {name!r} ({error})",
                "start it, or take it out of connection_string",
            )
            continue
        answering += 1
        if answering > 1:
            continue
        sentinels = 1 + int(state["num-other-sentinels"])
        yield Finding(
            FINE,
            f"master {name!r} is {state['ip']}:{state['port']}; {sentinels} Sentinels watch it, of "
            f"which {state['quorum']} must agree that it is lost",
        )
        if sentinels < _LEAST_SENTINELS:
            yield Finding(
                ADVICE,
                f"with {sentinels} Sentinels nobody takes over when one of them is lost, too",
                f"run {_LEAST_SENTINELS} or more, on machines of their own",
            )


def _cluster(pool: Pool) -> Iterator[Finding]:
    client = client_of(pool)
    covered = 0
    masters: dict[str, int] = {}
    for (first, last), serving in client.cluster_slots().items():
        covered += last - first + 1
        host, port = serving["primary"][:2]
        masters[f"{host}:{port}"] = masters.get(f"{host}:{port}", 0) + last - first + 1
    yield Finding(FINE, f"a cluster of {len(masters)} masters")
    if covered < SLOT_COUNT:
        yield Finding(
            PROBLEM,
            f"nobody serves {SLOT_COUNT - covered:,} of {SLOT_COUNT:,} slots: their rows can "
            "neither be read nor written",
            "start their nodes, or give the slots to others (redis-cli --cluster fix)",
        )
    lost = []
    for address, node in client.cluster_nodes().items():
        if "fail" in node["flags"].replace("fail?", "fail").split(","):
            lost.append(address)
    if lost:
        yield Finding(
            PROBLEM,
            f"nodes that do not answer the others: {', '.join(lost)}",
            "start them, or take them out of the cluster (redis-cli --cluster del-node)",
        )
    for node in node_clients_of(pool):
        kwargs = node.connection_pool.connection_kwargs
        address = f"{kwargs['host']}:{kwargs['port']}"
        try:
            replication = node.info("replication")
        except UNREACHABLE as error:
            yield Finding(
                PROBLEM,
                f"master {address} does not answer ({error}), and no replica has taken over: rows "
                f"of its {masters.get(address, 0):,} slots can neither be read nor written",
                "start it, or make a replica of it the master (CLUSTER FAILOVER FORCE, sent to the "
                "replica)",
            )
            continue
        yield from _replicas(replication, f"master {address}")
        try:
            full = node.config_get("cluster-require-full-coverage")
        except redis.ResponseError:
            # Not allowed; said once, with the other settings.
            continue
        if list(full.values()) == ["yes"]:
            yield Finding(
                ADVICE,
                f"master {address} refuses everything while any slot is served by nobody",
                "set cluster-require-full-coverage to no, so that a lost node costs its own rows "
                "only",
            )
