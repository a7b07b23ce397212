"""A Redis Cluster: which node has which slot, and connections to each node.

redis-py finds the nodes and makes the connections. What it has found is kept as a `SlotMap`, which
requests read and never wait for; it is looked for again from time to time, and at once when a node
says that a slot is elsewhere or does not answer.
"""

import logging
import math
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.cluster import ClusterNode
from redis.exceptions import RedisClusterException
from redis.retry import Retry

from hotfeast.hotpath.slots import SLOT_COUNT, SlotMap
from hotfeast.server.breaker import Breaker
from hotfeast.server.errors import RedisUnavailable
from hotfeast.server.layouts import Schemas
from hotfeast.server.redis_clients import version_of
from hotfeast.server.redis_io import Lane, Lanes
from hotfeast.server.replicas import FreshReplicas
from hotfeast.server.settings import BreakerSettings

logger = logging.getLogger(__name__)

# Seconds between two looks at the cluster when nothing has happened, and at least.
_LOOK_EVERY = 10.0
_LOOK_AGAIN = 0.05
# Seconds for which a node that did not answer is not tried again: each try keeps a request waiting.
_SUSPECTED = 0.5
# Nodes that rows are written to at once.
_MOST_WRITERS = 16
# How often redis-py tries again, and how long it waits between two tries, in seconds.
_TRIES, _FIRST_PAUSE, _LONGEST_PAUSE = 5, 0.02, 0.5
_NOBODY = SlotMap((), ())
# Behind the address of a node that is read as a replica.
_AS_REPLICA = " as a replica"


class Cluster:
    """The nodes of a cluster. For any number of threads.

    Attributes:
        schemas: Which features packed rows hold.
        max_idle: Connections to each node that are kept open while no request uses them.
        staleness: Seconds that a replica may be behind to be read; 0 to read from masters only.
        breaker: One that never opens: nodes that do not answer are left alone one by one.
        threads: Write to several nodes at once; they are started when they are needed.
    """

    def __init__(
        self, nodes: list[tuple[str, int]], options: dict[str, Any], dynamic: bool = True
    ) -> None:
        """
        Args:
            nodes: Hosts and ports of some of the nodes.
            options: redis-py's, for each connection.
            dynamic: Whether the nodes that are found are asked for others, instead of `nodes`.
        """
        self._nodes = nodes
        self._options = options
        self._dynamic = dynamic
        self.max_idle = 64
        self.staleness = 0.0
        self._lock = threading.RLock()
        self._client: Any = None
        self._slots = _NOBODY
        self._ranges: list[tuple[int, int, int]] = []
        # The replicas of each master, and the slots with replicas in their place, and until when.
        self._replicas: dict[str, tuple[str, ...]] = {}
        self._fresh: FreshReplicas | None = None
        self._replica_slots: tuple[SlotMap, float] = _NOBODY, 0.0
        self._lanes: dict[str, Lanes] = {}
        self._suspects: dict[str, tuple[float, str]] = {}
        self.breaker = Breaker(BreakerSettings(share=0), 0.0, self.ping)
        self.threads = ThreadPoolExecutor(_MOST_WRITERS, thread_name_prefix="cluster-writes")
        self._looked = threading.Condition()
        self._looks = 0
        self._askers: dict[str, Any] = {}
        self._wanted = threading.Event()
        self._stopping = threading.Event()
        self._tell: list[Callable[[SlotMap], None]] = []
        self._looker: threading.Thread | None = None
        self.schemas = Schemas(self)

    @property
    def client(self) -> Any:
        """redis-py's client for the cluster; it is connected when it is first asked for.

        Raises:
            redis.ConnectionError: No node answers, or they are no cluster.
        """
        with self._lock:
            if self._client is None:
                node: Any = ClusterNode
                options = {name: o for name, o in self._options.items() if name != "retry"}
                try:
                    self._client = redis.RedisCluster(
                        startup_nodes=[node(host, port) for host, port in self._nodes],
                        require_full_coverage=False,
                        dynamic_startup_nodes=self._dynamic,
                        retry=Retry(
                            ExponentialWithJitterBackoff(_LONGEST_PAUSE, _FIRST_PAUSE), _TRIES
                        ),
                        **options,
                    )
                except RedisClusterException as error:
                    raise redis.ConnectionError(str(error)) from error
                self._read_slots()
            return self._client

    @property
    def slots(self) -> SlotMap:
        """Which node has which slot, as far as it is known."""
        return self._slots

    @property
    def slots_to_read(self) -> SlotMap:
        """The same for reads, with replicas that are fresh enough in the place of masters."""
        slots, until = self._replica_slots
        return slots if time.monotonic() < until else self._slots

    def node_clients(self) -> list[Any]:
        """A redis-py client for each master.

        Raises:
            redis.ConnectionError: No node answers.
        """
        return [self.client.get_redis_connection(node) for node in self.client.get_primaries()]

    def follow(self, tell: Callable[[SlotMap], None]) -> None:
        """Has somebody told of the slots, now and whenever they change."""
        with self._lock:
            self._tell.append(tell)
            tell(self._slots)

    def start(self) -> None:
        """Keeps up with the cluster, in a thread of its own; does nothing if it does.

        Raises:
            RedisUnavailable: No node answers.
        """
        if self._looker is not None:
            return
        try:
            assert self.client is not None
        except redis.RedisError as error:
            raise RedisUnavailable(f"cannot connect to the Redis Cluster: {error}") from error
        with self._lock:
            if self._looker is None:
                self._looker = threading.Thread(target=self._run, name="cluster", daemon=True)
                self._looker.start()

    def look(self, wait: float = 0.0) -> None:
        """Has the slots looked for again.

        Args:
            wait: Seconds to wait for it.
        """
        with self._looked:
            before = self._looks
        self._wanted.set()
        if wait > 0:
            with self._looked:
                self._looked.wait_for(lambda: self._looks != before, wait)

    def lanes(self, node: str) -> Lanes:
        """The connections to a node."""
        lanes = self._lanes.get(node)
        if lanes is None:
            with self._lock:
                lanes = self._lanes.get(node)
                if lanes is None:
                    client = self._client_of_node(node)
                    lanes = self._lanes[node] = Lanes(client.connection_pool, self.max_idle)
        return lanes

    def _client_of_node(self, node: str) -> Any:
        address = node.removesuffix(_AS_REPLICA)
        host, _, port = address.rpartition(":")
        options = dict(self._options)
        if node != address:
            # Never for a master, which would go on answering once it is none any more.
            options["redis_connect_func"] = _read_only
        return redis.Redis(host=host, port=int(port), **options)

    def take(self, node: str) -> Lane:
        """A connection to a node, on loan.

        Raises:
            RedisUnavailable: There is none to be had, or there was none a moment ago.
        """
        suspect = self._suspects.get(node)
        if suspect is not None:
            if time.monotonic() < suspect[0]:
                raise RedisUnavailable(suspect[1])
            self._suspects.pop(node, None)
        try:
            return self.lanes(node).take()
        except RedisUnavailable as error:
            self.suspect(node, str(error))
            raise

    def suspect(self, node: str, why: str) -> None:
        """A node did not answer: it is left alone for a moment, and the slots are looked for."""
        self._suspects[node] = time.monotonic() + _SUSPECTED, why
        self._wanted.set()

    def describe(self, node: str) -> str:
        """A node and its slots, for messages."""
        node = node.removesuffix(_AS_REPLICA)
        slots = self._slots.slots_of(node)
        return f"node {node} (slots {slots})" if slots else f"node {node}"

    def ping(self) -> str:
        """Asks a node which server it is, of which version, and keeps up with the cluster from now
        on.

        Raises:
            RedisUnavailable: None answered.
        """
        self.start()
        failure: Exception | None = None
        for client in self.node_clients():
            try:
                info = client.info("server")
            except redis.RedisError as error:
                failure = error
                continue
            return f"{version_of(info)}, a cluster of {len(self._slots.nodes)} masters"
        raise RedisUnavailable(f"no node of the Redis Cluster answered: {failure}")

    def disconnect(self) -> None:
        """Closes all idle connections; those in use are closed when they are given back."""
        self._stopping.set()
        self._wanted.set()
        if self._looker is not None:
            self._looker.join()
        with self._lock:
            for lanes in self._lanes.values():
                lanes.close()
            if self._client is not None:
                self._client.close()
        self.threads.shutdown(wait=False)

    close = disconnect

    def _run(self) -> None:
        complained = False
        every = min(_LOOK_EVERY, self.staleness / 4 or _LOOK_EVERY)
        looked = time.monotonic()
        while not self._stopping.is_set():
            wanted = self._wanted.wait(every)
            if self._stopping.is_set():
                return
            self._wanted.clear()
            try:
                if wanted or time.monotonic() - looked >= _LOOK_EVERY:
                    looked = time.monotonic()
                    self.find_again()
                if self.staleness:
                    self._look_at_replicas()
                complained = False
            except Exception as error:
                # Whatever it is, the slots of before are the best there is.
                if not complained:
                    logger.warning("cannot ask the Redis Cluster for its slots: %s", error)
                    complained = True
            with self._looked:
                self._looks += 1
                self._looked.notify_all()
            self._stopping.wait(_LOOK_AGAIN)

    def find_again(self) -> None:
        """Looks for the nodes and their slots, at once and in this thread.

        Raises:
            redis.ConnectionError: No node answers.
        """
        try:
            self.client.nodes_manager.initialize()
        except RedisClusterException as error:
            raise redis.ConnectionError(str(error)) from error
        with self._lock:
            self._read_slots()

    def _look_at_replicas(self) -> None:
        """Finds out which replicas can be read for now."""
        if self._fresh is None:
            self._fresh = FreshReplicas(self.staleness)
        masters = {master: self._asking(master) for master in self._slots.nodes}
        replicas = {
            replica: (master, self._asking(replica))
            for master in masters
            for replica in self._replicas.get(master, ())
        }
        fresh = self._fresh.look(masters, replicas)
        nodes = list(masters)
        until = math.inf
        for place, master in enumerate(masters):
            if found := [replica for replica in self._replicas.get(master, ()) if replica in fresh]:
                replica = random.choice(found)
                nodes[place] = replica + _AS_REPLICA
                until = min(until, fresh[replica])
        self._replica_slots = SlotMap(nodes, self._ranges), until if fresh else 0.0

    def _asking(self, node: str) -> Any:
        """A client for questions to a node."""
        client = self._askers.get(node)
        if client is None:
            client = self._askers[node] = self._client_of_node(node)
        return client

    def _read_slots(self) -> None:
        """Makes a map of what redis-py has found."""
        found = self._client.nodes_manager.slots_cache
        nodes: dict[str, int] = {}
        replicas: dict[str, tuple[str, ...]] = {}
        ranges: list[tuple[int, int, int]] = []
        for slot in range(SLOT_COUNT):
            if not (serving := found.get(slot)):
                continue
            master = f"{serving[0].host}:{serving[0].port}"
            place = nodes.setdefault(master, len(nodes))
            if master not in replicas:
                replicas[master] = tuple(f"{node.host}:{node.port}" for node in serving[1:])
            if ranges and ranges[-1][1:] == (slot - 1, place):
                ranges[-1] = ranges[-1][0], slot, place
            else:
                ranges.append((slot, slot, place))
        self._replicas = replicas
        if ranges != self._ranges or tuple(nodes) != self._slots.nodes:
            self._ranges = ranges
            self._replica_slots = _NOBODY, 0.0
            self._slots = SlotMap(tuple(nodes), ranges)
            for tell in self._tell:
                tell(self._slots)


def _read_only(connection: Any) -> None:
    """Greets a replica, which otherwise sends whoever reads to its master."""
    connection.on_connect()
    connection.send_command("READONLY")
    connection.read_response()
