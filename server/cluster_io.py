"""Reads from a cluster and writes to it: each key at its node, as far as the nodes answer.

A batch is split by node, all nodes are asked at once, and what a node puts off is sent again where
it says, or to whom has the slot by now: only that, a bounded number of times, within the time that
there is. What is left then is unread, or unwritten, and says so.
"""

import time
from collections import deque

import redis

from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.cache import RowCache
from hotfeast.hotpath.definition import LAYOUTS
from hotfeast.hotpath.plan import Plan
from hotfeast.hotpath.reply import Reply
from hotfeast.hotpath.request import Request
from hotfeast.hotpath.scatter import Part, Scatter, exchange_parts
from hotfeast.hotpath.slots import SlotMap
from hotfeast.hotpath.writes import WriteBatch
from hotfeast.server.cluster import Cluster
from hotfeast.server.errors import NodesUnavailable, RedisUnavailable
from hotfeast.server.redis_clients import REDIS_ERRORS, Pool
from hotfeast.server.redis_io import (
    NEVER_OPENS,
    Lane,
    Lanes,
    RedisReader,
    RedisWriter,
    send_rows,
)
from hotfeast.server.settings import BreakerSettings

# How often commands are sent again that were put off, and seconds before a node is asked again that
# cannot answer at the moment; it is twice as long before each next time.
_MOST_TRIES = 6
_FIRST_PAUSE = 0.005
# The share of a caller's time that nodes have, where an answer can go without some of them.
_SHARE_IF_PARTIAL = 0.8
# What nodes say that cannot answer at the moment.
_PASSING = ("TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY")
# Buffers that are kept for reads.
_MOST_KEPT = 64


def redirection(said: str, node: str) -> tuple[str, bool] | None:
    """The node that has a key by what another one says, and whether it wants ASKING; None where
    that is no redirection."""
    words = said.split()
    if len(words) < 3 or words[0] not in ("MOVED", "ASK"):
        return None
    host, _, port = words[2].rpartition(":")
    # Without a host it is the one that said so.
    return f"{host or node.rpartition(':')[0]}:{port}", words[0] == "ASK"


class ClusterReader:
    """Reads batches, from any number of threads."""

    def __init__(self, cluster: Cluster, timeout: float) -> None:
        """
        Args:
            cluster: The nodes.
            timeout: Seconds for a batch.
        """
        self.cluster = cluster
        self._timeout = timeout
        self._replies: deque[Reply] = deque()

    def batch(self, plan: Plan, request: Request) -> Batch:
        """A batch to read.

        Raises:
            InvalidRequest: The request's columns are not what the plan needs.
        """
        return Batch(plan, request, later=True, scattered=True)

    def begin(self, batch: Batch) -> Scatter:
        """Starts on a batch. It must be given back with `release`."""
        try:
            reply = self._replies.pop()
        except IndexError:
            reply = Reply()
        scatter = Scatter(batch, reply)
        scatter.begin(self.cluster.slots_to_read)
        return scatter

    def release(self, scatter: Scatter) -> None:
        """Gives the buffers back that a batch was read into."""
        if len(self._replies) < _MOST_KEPT:
            self._replies.append(scatter.reply)

    def time_for(self, batch: Batch, time_left: float | None) -> float:
        """Seconds that a batch may take.

        Args:
            batch: The batch.
            time_left: Seconds until the caller's deadline; None where it has none.
        """
        if time_left is None:
            return self._timeout
        share = _SHARE_IF_PARTIAL if batch.request.partial else 1.0
        return min(self._timeout, time_left * share)

    def read(self, batch: Batch, time_left: float | None) -> Scatter:
        """Reads a batch; arguments and what is raised as of `RedisReader.read`.

        Returns:
            The batch, whose `reply` is complete; rows of nodes that did not answer are unread. It
            must be given back with `release`, after which the reply is gone.
        """
        return self.resume(self.begin(batch), time_left)

    def resume(self, scatter: Scatter, time_left: float | None) -> Scatter:
        """Reads what is left of a batch that has begun, in whatever state it is; as `read`."""
        self.cluster.start()
        end = scatter.deadline or time.monotonic() + self.time_for(scatter.batch, time_left)
        while True:
            self._finish(scatter, end)
            unknown = scatter.reply.unknown
            if unknown is None:
                return scatter
            try:
                learnt = self.cluster.schemas.learn(scatter.batch.plan, *unknown)
            except REDIS_ERRORS as error:
                raise RedisUnavailable(
                    f"cannot look up which features packed rows hold: {error}"
                ) from error
            if not learnt:
                # Rows that are nowhere else are told as what they are: not readable.
                return scatter
            scatter.begin(self.cluster.slots)

    def _finish(self, scatter: Scatter, end: float) -> None:
        tries = 0
        while scatter.parts or scatter.put_off or not scatter.settle(self.cluster.slots):
            if scatter.parts:
                self._exchange(scatter, end)
            if scatter.put_off:
                self._see_to(scatter, tries, end)
                tries += 1
        scatter.reply.raise_error()

    def _exchange(self, scatter: Scatter, end: float) -> None:
        """Exchanges the parts."""
        plain: list[tuple[Part, Lane]] = []
        encrypted: list[tuple[Part, Lane]] = []
        for part in scatter.taken_up():
            try:
                lane = self.cluster.take(part.node)
            except RedisUnavailable as error:
                scatter.fail(part, str(error))
                continue
            (plain if lane.tls is None else encrypted).append((part, lane))
        links = [(part, lane.descriptor, lane.reply) for part, lane in plain]
        failures = exchange_parts(links, max(end - time.monotonic(), 0.001)) if links else []
        failures += _exchange_encrypted(encrypted, end)
        for (part, lane), failure in zip(plain + encrypted, failures, strict=True):
            lanes = self.cluster.lanes(part.node)
            if failure is None:
                scatter.take(part, lane.reply)
                lanes.release(lane)
                continue
            scatter.fail(part, str(failure))
            if lane.fresh or isinstance(failure, TimeoutError):
                self.cluster.suspect(part.node, str(failure))
            lanes.drop(lane)
            # The other idle connections probably have died, too.
            lanes.drop_idle()

    def _see_to(self, scatter: Scatter, tries: int, end: float) -> None:
        """Has commands that were put off sent again, or gives them up."""
        pause = _FIRST_PAUSE * 2**tries
        began = time.monotonic()
        over = tries == _MOST_TRIES or began + pause >= end
        targets = {number: redirection(said, node) for number, node, said in scatter.put_off}
        waits = not over and None in targets.values()
        if waits or not all(target is None or target[1] for target in targets.values()):
            self.cluster.look(wait=pause if waits else 0)
        slots = self.cluster.slots
        unread: dict[int, str] = {}
        for number, node, said in scatter.put_off:
            # What is put off in words passes soon. A node that does not answer may have been a
            # connection that had died; after that, another one must have its slot.
            if over or (
                targets[number] is None
                and tries > 0
                and not said.startswith(_PASSING)
                and slots.node_of_slot(scatter.slot(number)) in (node, None)
            ):
                unread[number] = f"{self.cluster.describe(node)}: {said}" if node else said
        scatter.give_up(unread)
        if scatter.put_off:
            if waits:
                time.sleep(max(0.0, began + pause - time.monotonic()))
            scatter.ask_again(
                slots, {n: to for n, to in targets.items() if to is not None and n not in unread}
            )


def _exchange_encrypted(links: list[tuple[Part, Lane]], end: float) -> list[Exception | None]:
    """As `exchange_parts`, over encrypted connections: all nodes are sent their parts before any
    reply is read."""
    failures: list[Exception | None] = [None] * len(links)
    for i, (part, lane) in enumerate(links):
        assert lane.tls is not None
        try:
            lane.tls.settimeout(max(end - time.monotonic(), 0.001))
            lane.tls.sendall(part.start(lane.reply))
        except OSError as error:
            failures[i] = error
    for i, (_, lane) in enumerate(links):
        assert lane.tls is not None
        if failures[i] is None:
            try:
                lane.receive(lane.tls, end)
            except OSError as error:
                failures[i] = error
    return failures


class ClusterWriter:
    """Writes batches, from any number of threads."""

    def __init__(self, cluster: Cluster, timeout: float, replicas: int = 0) -> None:
        """
        Args:
            cluster: The nodes.
            timeout: Seconds to wait for each next reply.
            replicas: How many must confirm rows before these count as written.
        """
        self._cluster = cluster
        self._replicas = replicas
        self._timeout = timeout

    def write(self, batch: WriteBatch, time_left: float | None = None) -> None:
        """Sends a batch's rows, each to its node; as `RedisWriter.write`.

        Raises:
            NodesUnavailable: Nodes did not answer, or did not take rows. Rows that are still
                pending are theirs, and may have been written or not.
            RedisUnavailable: None answered.
            ProtocolError: What answers is not Redis, or out of step.
        """
        patience = self._timeout
        if time_left is not None and time_left < patience:
            patience = time_left
        if batch.plan.definition.layout != LAYOUTS[0] and batch.unfinished:
            try:
                self._cluster.schemas.record(batch.plan.definition)
            except REDIS_ERRORS as error:
                raise RedisUnavailable(
                    f"cannot record which features packed rows hold: {error}"
                ) from error
        self._cluster.start()
        end = time.monotonic() + patience
        redirected: dict[tuple[str, bool], list[int]] = {}
        failures: dict[str, str] = {}
        for tries in range(_MOST_TRIES + 1):
            slots = self._cluster.slots
            sent = self._send(batch, slots, redirected, patience)
            redirected, failures = {}, {}
            passing = False
            for part, node, failure in sent:
                batch.take_error(part)
                if isinstance(failure, RedisUnavailable):
                    failures[node] = str(failure)
                elif failure is not None:
                    raise failure
                for row, said in part.put_off:
                    target = redirection(said, node)
                    if target is not None:
                        redirected.setdefault(target, []).append(row)
                    else:
                        failures[node] = said
                        passing = True
            if not batch.unfinished:
                return
            pause = _FIRST_PAUSE * 2**tries
            if failures and time.monotonic() + pause >= end:
                break
            began = time.monotonic()
            self._cluster.look(wait=pause)
            if failures and tries > 0 and not passing and self._cluster.slots is slots:
                break
            if failures or not redirected:
                time.sleep(max(0.0, began + pause - time.monotonic()))
        raise NodesUnavailable(self._why(batch, failures))

    def _send(
        self,
        batch: WriteBatch,
        slots: SlotMap,
        redirected: dict[tuple[str, bool], list[int]],
        patience: float,
    ) -> list[tuple[WriteBatch, str, BaseException | None]]:
        """Sends what is pending, to all nodes at once.

        Args:
            batch: What to send.
            slots: Which node has which slot.
            redirected: Rows that go elsewhere: to an address, with ASKING or without.
            patience: Seconds to wait for each next reply of a node.

        Returns:
            The parts, each with its node and what it failed with.
        """
        targets = {place: (slots.nodes[place], False) for place in batch.assign(slots)}
        for number, (target, rows) in enumerate(redirected.items(), len(slots.nodes)):
            batch.give(rows, number)
            targets[number] = target
        parts = [batch.part(place, asking) for place, (_, asking) in targets.items()]
        nodes = [node for node, _ in targets.values()]

        def send(part: WriteBatch, node: str) -> BaseException | None:
            try:
                send_rows(self._cluster.lanes(node), part, patience, self._replicas)
            except Exception as error:
                return error
            return None

        if len(parts) == 1:
            errors = [send(parts[0], nodes[0])]
        else:
            errors = list(self._cluster.threads.map(send, parts, nodes))
        return list(zip(parts, nodes, errors, strict=True))

    def _why(self, batch: WriteBatch, failures: dict[str, str]) -> str:
        told = [f"{self._cluster.describe(node)}: {why}" for node, why in failures.items()]
        if not told:
            told = [f"no node serves slots {self._cluster.slots.slots_of(None)}"]
        return f"{len(batch.pending)} rows were not written: {'; '.join(told)}"


Servers = Lanes | Cluster
"""Where connections are had: to one server, or to each node of a cluster."""


def open_servers(
    pool: Pool,
    max_idle: int = 64,
    breaker: BreakerSettings = NEVER_OPENS,
    timeout: float = 1.0,
) -> Servers:
    """Where connections are had.

    Args:
        pool: Makes them.
        max_idle: Connections to each server that are kept open while no request uses them.
        breaker: When one server is left alone; a cluster's nodes are by themselves.
        timeout: Seconds that it has to answer, by which that is judged.
    """
    if isinstance(pool, Cluster):
        pool.max_idle = max_idle
        return pool
    assert isinstance(pool, redis.ConnectionPool)
    return Lanes(pool, max_idle, breaker, timeout)


def reader_of(servers: Servers, timeout: float) -> RedisReader | ClusterReader:
    """Reads batches, without a cache.

    Args:
        servers: From where.
        timeout: Seconds for a batch.
    """
    if isinstance(servers, Cluster):
        return ClusterReader(servers, timeout)
    return RedisReader(servers, timeout)


def writer_of(
    servers: Servers, timeout: float, cache: RowCache | None = None, replicas: int = 0
) -> RedisWriter | ClusterWriter:
    """Writes batches; arguments as of `RedisWriter`."""
    if isinstance(servers, Cluster):
        return ClusterWriter(servers, timeout, replicas)
    return RedisWriter(servers, timeout, cache, replicas)
