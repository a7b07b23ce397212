"""What is done to a gateway, its Redis and the links, and undone."""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from bench.chaos.link import Change, Link, break_frame, flip_bit, swap_halves
from bench.chaos.model import PROJECT, USERS
from bench.chaos.world import Kind, World
from hotfeast.hotpath.slots import key_slot
from hotfeast.server.local_redis import LocalRedis
from hotfeast.server.local_shapes import wait_until

# Seconds that a fault lasts, and between two of its blows.
LENGTH = 3.0
_BLOWS = 0.25


class Fault(NamedTuple):
    """One of them.

    Attributes:
        name: In the table.
        done: What is done, in words.
        inflict: Does it, for the length of a block.
        true: Whether it is promised that no value is wrong meanwhile.
        keeps: Whether it is promised that no push is lost that was acknowledged.
        kind: Of the world that it is done to.
    """

    name: str
    done: str
    inflict: Callable[[World], AbstractContextManager[Any]]
    true: bool = True
    keeps: bool = True
    kind: Kind = Kind.PLAIN


def _link(world: World, client: bool) -> Link:
    return world.to_gateway if client else world.to_redis


def _cut(client: bool) -> Callable[[World], AbstractContextManager[Any]]:
    @contextmanager
    def inflict(world: World) -> Iterator[None]:
        link = _link(world, client)
        end = time.monotonic() + LENGTH
        while time.monotonic() < end:
            link.cut()
            time.sleep(_BLOWS)
        yield

    return inflict


def _delayed(client: bool, seconds: float) -> Callable[[World], AbstractContextManager[Any]]:
    @contextmanager
    def inflict(world: World) -> Iterator[None]:
        link = _link(world, client)
        link.delay = seconds
        time.sleep(LENGTH)
        link.mend()
        yield

    return inflict


def _truncated(client: bool) -> Callable[[World], AbstractContextManager[Any]]:
    @contextmanager
    def inflict(world: World) -> Iterator[None]:
        link = _link(world, client)
        link.truncate = True
        link.cut()
        time.sleep(LENGTH)
        link.mend()
        yield

    return inflict


def _changed(
    client: bool, change: Change, both: bool = False
) -> Callable[[World], AbstractContextManager[Any]]:
    @contextmanager
    def inflict(world: World) -> Iterator[None]:
        link = _link(world, client)
        link.change, link.both = change, both
        time.sleep(LENGTH)
        link.mend()
        yield

    return inflict


@contextmanager
def _kill_workers(world: World) -> Iterator[None]:
    for worker in world.workers():
        worker.kill()
        time.sleep(LENGTH / 2)
    yield


@contextmanager
def _kill_redis(world: World) -> Iterator[None]:
    world.redis.kill()
    time.sleep(LENGTH)
    world.redis.start()
    yield


@contextmanager
def _freeze_redis(world: World) -> Iterator[None]:
    world.redis.freeze()
    time.sleep(LENGTH)
    world.redis.thaw()
    yield


@contextmanager
def _fill_redis(world: World) -> Iterator[None]:
    client = world.redis.client()
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1")
    time.sleep(LENGTH)
    client.config_set("maxmemory", "0")
    yield


@contextmanager
def _fill_disk(world: World) -> Iterator[None]:
    """Where it writes before each answer, Redis ends itself: it is started again."""
    resource.prlimit(world.redis.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    time.sleep(LENGTH)
    world.redis.kill()
    world.redis.start()
    yield


@contextmanager
def _fill_disk_of_a_quick_one(world: World) -> Iterator[None]:
    """Where it writes once a second, Redis takes no rows until it can write again."""
    client = world.redis.client()
    client.config_set("appendfsync", "everysec")
    none = resource.RLIM_INFINITY
    resource.prlimit(world.redis.pid, resource.RLIMIT_FSIZE, (0, none))
    time.sleep(LENGTH)
    resource.prlimit(world.redis.pid, resource.RLIMIT_FSIZE, (none, none))
    said: Any = client.info("persistence")
    assert said["aof_last_write_status"] == "err", "its file could be written"
    wait_until(lambda: _writes(client), "its file can be written again")
    client.config_set("appendfsync", "always")
    yield


def _writes(client: Any) -> bool:
    return bool(client.info("persistence")["aof_last_write_status"] == "ok")


def _key(user: int) -> bytes:
    key = EntityKey(join_keys=["user"], entity_values=[Value(int64_val=user)])
    return bytes(_redis_key(PROJECT, key, entity_key_serialization_version=3))


def _master(world: World) -> tuple[LocalRedis, Any]:
    """A master that has rows, and a client of its replica."""
    master = world.cluster.node_of(_key(0))
    for node in world.cluster.nodes:
        client: Any = node.client()
        if client.info("replication").get("master_port") == master.port:
            return master, client
    raise RuntimeError(f"master {master.address} has no replica")


def _is_master(client: Any) -> bool:
    return bool(client.info("replication")["role"] == "master")


def _lost_master(
    lose: Callable[[LocalRedis], object], regain: Callable[[LocalRedis], object]
) -> Callable[[World], AbstractContextManager[Any]]:
    @contextmanager
    def inflict(world: World) -> Iterator[None]:
        master, replica = _master(world)
        lose(master)
        wait_until(lambda: _is_master(replica), "its replica takes over")
        time.sleep(LENGTH / 2)
        regain(master)
        back: Any = master.client()
        wait_until(
            lambda: back.info("replication").get("master_link_status") == "up", "it is a replica"
        )
        yield

    return inflict


_kill_master = _lost_master(LocalRedis.kill, LocalRedis.start)
_freeze_master = _lost_master(LocalRedis.freeze, LocalRedis.thaw)


@contextmanager
def _move_slots(world: World) -> Iterator[None]:
    end = time.monotonic() + LENGTH
    shared = world.cluster.client()
    masters = [node for node in world.cluster.nodes if _is_master(node.client())]
    while time.monotonic() < end:
        for user in range(USERS):
            shared.nodes_manager.initialize()
            port = shared.get_node_from_key(_key(user)).port
            (at,) = (i for i, node in enumerate(masters) if node.port == port)
            target = masters[(at + 1) % len(masters)]
            world.cluster.move([key_slot(_key(user))], masters[at], target)
    yield


@contextmanager
def _make_replica(world: World) -> Iterator[None]:
    client: Any = world.redis.client()
    # Of a server that is not there: what it has stays, and is read only.
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    time.sleep(LENGTH)
    client.execute_command("REPLICAOF", "NO", "ONE")
    yield


@contextmanager
def _flush_scripts(world: World) -> Iterator[None]:
    client = world.redis.client()
    end = time.monotonic() + LENGTH
    while time.monotonic() < end:
        client.script_flush()
        time.sleep(_BLOWS / 10)
    yield


def _clock(jump: str) -> Callable[[World], AbstractContextManager[Any]]:
    @contextmanager
    def inflict(world: World) -> Iterator[None]:
        assert world.clock is not None
        world.clock.write_text(jump)
        time.sleep(LENGTH)
        world.clock.write_text("+0")
        yield

    return inflict


@contextmanager
def _hide_registry(world: World) -> Iterator[None]:
    registry = world.repo / "registry.db"
    hidden = registry.rename(registry.with_suffix(".hidden"))
    time.sleep(LENGTH)
    hidden.rename(registry)
    yield


def _limited(which: int, least: int) -> Callable[[World], AbstractContextManager[Any]]:
    @contextmanager
    def inflict(world: World) -> Iterator[None]:
        before = {}
        for worker in world.workers():
            before[worker.pid] = resource.prlimit(worker.pid, which)
            resource.prlimit(worker.pid, which, (least, before[worker.pid][1]))
        if which == resource.RLIMIT_NOFILE:
            # Clients that come anew find none left.
            world.to_gateway.cut()
        time.sleep(LENGTH)
        for pid, limits in before.items():
            resource.prlimit(pid, which, limits)
        yield

    return inflict


FAULTS = (
    Fault("Redis' connections cut", "all reset, four times a second", _cut(False)),
    Fault("Redis slow", "50 ms more each way", _delayed(False, 0.05)),
    Fault("Redis very slow", "2 s more each way, at a limit of 0.5 s", _delayed(False, 2.0)),
    Fault("Redis' answers truncated", "one in five cut half way", _truncated(False)),
    Fault(
        "RESP broken", "a type or a length changed in one answer in five",
        _changed(False, break_frame),
    ),
    Fault(
        "Redis' answers out of order", "halves of one in five swapped",
        _changed(False, swap_halves), true=False, keeps=False,
    ),
    Fault(
        "Redis' answers corrupt", "a bit anywhere in one in five", _changed(False, flip_bit),
        true=False, keeps=False,
    ),
    Fault("clients' connections cut", "all reset, four times a second", _cut(True)),
    Fault("clients slow", "50 ms more each way", _delayed(True, 0.05)),
    Fault("answers to clients truncated", "one in five cut half way", _truncated(True)),
    Fault(
        "HTTP/2 out of order", "halves of one portion in five swapped, both ways",
        _changed(True, swap_halves, both=True), true=False, keeps=False,
    ),
    Fault(
        "HTTP/2 corrupt", "a bit anywhere in one portion in five, both ways",
        _changed(True, flip_bit, both=True), true=False, keeps=False,
    ),
    Fault("workers killed", "both, with SIGKILL, one after the other", _kill_workers),
    Fault("Redis killed", "with SIGKILL, and started again", _kill_redis),
    Fault("Redis hangs", "stopped with SIGSTOP", _freeze_redis),
    Fault("Redis' memory full", "maxmemory 1, noeviction", _fill_redis),
    Fault(
        "Redis' disk full", "it may write no file (RLIMIT_FSIZE 0), and ends itself; started again",
        _fill_disk,
    ),
    Fault(
        "Redis' disk full, appendfsync everysec", "the same; goes on, takes no rows (MISCONF)",
        _fill_disk_of_a_quick_one,
    ),
    Fault("Redis read only", "made a replica of a server that is away", _make_replica),
    Fault("scripts flushed", "SCRIPT FLUSH 40 times a second", _flush_scripts),
    Fault("clock two days ahead", "of the gateway", _clock("+2d"), kind=Kind.CLOCK),
    Fault("clock two days behind", "of the gateway", _clock("-2d"), kind=Kind.CLOCK),
    Fault("registry gone", "its file renamed", _hide_registry),
    Fault(
        "disk full", "workers may write no file (RLIMIT_FSIZE 0)",
        _limited(resource.RLIMIT_FSIZE, 0),
    ),
    Fault(
        "descriptors gone", "workers may open no more (RLIMIT_NOFILE), clients come anew",
        _limited(resource.RLIMIT_NOFILE, 3),
    ),
    Fault(
        "TLS: Redis' connections cut", "all reset, four times a second", _cut(False), kind=Kind.TLS
    ),
    Fault(
        "TLS: Redis' answers truncated", "one in five cut half way", _truncated(False),
        kind=Kind.TLS,
    ),
    Fault(
        "TLS: Redis out of order", "halves of one portion in five swapped, both ways",
        _changed(False, swap_halves, both=True), kind=Kind.TLS,
    ),
    Fault(
        "TLS: Redis corrupt", "a bit anywhere in one portion in five, both ways",
        _changed(False, flip_bit, both=True), kind=Kind.TLS,
    ),
    Fault(
        "TLS: clients' connections cut", "all reset, four times a second", _cut(True),
        kind=Kind.TLS,
    ),
    Fault(
        "TLS: answers to clients truncated", "one in five cut half way", _truncated(True),
        kind=Kind.TLS,
    ),
    Fault(
        "TLS: HTTP/2 out of order", "halves of one portion in five swapped, both ways",
        _changed(True, swap_halves, both=True), kind=Kind.TLS,
    ),
    Fault(
        "TLS: HTTP/2 corrupt", "a bit anywhere in one portion in five, both ways",
        _changed(True, flip_bit, both=True), kind=Kind.TLS,
    ),
    Fault(
        "cluster: slots moved", "those of all rows, on to the next master, again and again",
        _move_slots, kind=Kind.CLUSTER,
    ),
    Fault(
        "cluster: a master killed",
        "with SIGKILL; its replica takes over; started again, as a replica", _kill_master,
        kind=Kind.CLUSTER,
    ),
    Fault(
        "cluster: a master hangs",
        "stopped with SIGSTOP until its replica has taken over, and longer", _freeze_master,
        kind=Kind.CLUSTER,
    ),
    Fault(
        "cluster: a master killed, no WAIT", "the same, where a push does not wait for a replica",
        _kill_master, keeps=False, kind=Kind.UNCONFIRMED,
    ),
)  # fmt: skip
