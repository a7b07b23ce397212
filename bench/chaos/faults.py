"""What is done to a gateway, its Redis and the links, and undone."""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

from bench.chaos.link import Change, Link, break_frame, flip_bit, swap_halves
from bench.chaos.world import World

# Seconds that a fault lasts, and between two of its blows.
LENGTH = 3.0
_BLOWS = 0.25


class Fault(NamedTuple):
    """One of them.

    Attributes:
        name: In the table.
        done: What is done, in words.
        inflict: Does it, for the length of a block.
        true: Whether no wrong value and no lost push is promised meanwhile.
        needs_clock: Whether the gateway's clock must be one that can be set.
    """

    name: str
    done: str
    inflict: Callable[[World], AbstractContextManager[Any]]
    true: bool = True
    needs_clock: bool = False


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
        _changed(False, swap_halves), true=False,
    ),
    Fault(
        "Redis' answers corrupt", "a bit anywhere in one in five", _changed(False, flip_bit),
        true=False,
    ),
    Fault("clients' connections cut", "all reset, four times a second", _cut(True)),
    Fault("clients slow", "50 ms more each way", _delayed(True, 0.05)),
    Fault("answers to clients truncated", "one in five cut half way", _truncated(True)),
    Fault(
        "HTTP/2 out of order", "halves of one portion in five swapped, both ways",
        _changed(True, swap_halves, both=True), true=False,
    ),
    Fault(
        "HTTP/2 corrupt", "a bit anywhere in one portion in five, both ways",
        _changed(True, flip_bit, both=True), true=False,
    ),
    Fault("workers killed", "both, with SIGKILL, one after the other", _kill_workers),
    Fault("Redis killed", "with SIGKILL, and started again", _kill_redis),
    Fault("Redis hangs", "stopped with SIGSTOP", _freeze_redis),
    Fault("Redis' memory full", "maxmemory 1, noeviction", _fill_redis),
    Fault("Redis read only", "made a replica of a server that is away", _make_replica),
    Fault("scripts flushed", "SCRIPT FLUSH 40 times a second", _flush_scripts),
    Fault("clock two days ahead", "of the gateway", _clock("+2d"), needs_clock=True),
    Fault("clock two days behind", "of the gateway", _clock("-2d"), needs_clock=True),
    Fault("registry gone", "its file renamed", _hide_registry),
    Fault(
        "disk full", "workers may write no file (RLIMIT_FSIZE 0)",
        _limited(resource.RLIMIT_FSIZE, 0),
    ),
    Fault(
        "descriptors gone", "workers may open no more (RLIMIT_NOFILE), clients come anew",
        _limited(resource.RLIMIT_NOFILE, 3),
    ),
)  # fmt: skip
