"""Servers of our own that belong together: Sentinel over a master, and a cluster. For tests and
benchmarks."""

import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import redis

from hotfeast.hotpath.slots import SLOT_COUNT
from hotfeast.server.local_redis import LocalRedis, ServerTls, free_port

MASTER = "mymaster"
"""The name that Sentinel and Feast know the master by, unless told otherwise."""

# Milliseconds of silence after which a server counts as lost.
_LOST_AFTER = 500
_WAIT = 20.0
# A replica is sent what there is as soon as it asks.
_AT_ONCE = ("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")


def wait_until(check: Callable[[], object], what: str, timeout: float = _WAIT) -> None:
    """Waits until something is so; an answer of Redis that is an error means that it is not yet.

    Raises:
        TimeoutError: It took too long.
    """
    end = time.monotonic() + timeout
    while True:
        try:
            if check():
                return
        except redis.RedisError:
            pass
        if time.monotonic() > end:
            raise TimeoutError(f"not within {timeout:.0f} s: {what}")
        time.sleep(0.02)


def _is_well(node: Any) -> bool:
    """Whether a node of a cluster finds the cluster well, and has all that its master has."""
    if node.cluster("INFO")["cluster_state"] != "ok":
        return False
    replication = node.info("replication")
    return bool(replication["role"] == "master" or replication["master_link_status"] == "up")


class _Sentinel(LocalRedis):
    """One Sentinel, which watches one master."""

    def __init__(self, folder: Path, master: LocalRedis, lines: Sequence[str]) -> None:
        super().__init__(program=master.program)
        self._file = folder / "sentinel.conf"
        settings = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {folder}",
            f"sentinel monitor {MASTER} 127.0.0.1 {master.port} 1",
            f"sentinel down-after-milliseconds {MASTER} {_LOST_AFTER}",
            f"sentinel failover-timeout {MASTER} 5000",
            *lines,
        ]
        # It keeps what it learns in the same file.
        self._file.write_text("\n".join(settings) + "\n")

    def command(self) -> list[str]:
        return [str(self.program), str(self._file), "--sentinel"]


class LocalSentinel:
    """A master, a replica and a Sentinel, started and stopped by `with`.

    Attributes:
        master, replica: The servers, by what they are at first.
        sentinel: The Sentinel.
    """

    def __init__(
        self, *arguments: str, sentinel_lines: Sequence[str] = (), program: Path | None = None
    ) -> None:
        """
        Args:
            arguments: Further arguments of both servers.
            sentinel_lines: Further lines of Sentinel's configuration.
            program: Of all of them; as for `LocalRedis`.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="hotfeast-sentinel-")
        arguments = (*_AT_ONCE, *arguments)
        self.master = LocalRedis(*arguments, program=program)
        self.replica = LocalRedis(
            *arguments, "--replicaof", f"127.0.0.1 {self.master.port}", program=program
        )
        self.sentinel = _Sentinel(Path(self._folder.name), self.master, sentinel_lines)

    def address(self) -> tuple[str, int]:
        """Where Sentinel says that the master is."""
        asked: Any = self.sentinel.client()
        host, port = asked.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
        return host.decode(), int(port)

    def __enter__(self) -> "LocalSentinel":
        try:
            for server in (self.master, self.replica, self.sentinel):
                server.start()
            replica: Any = self.replica.client()
            wait_until(
                lambda: replica.info("replication")["master_link_status"] == "up", "replication"
            )
            asked: Any = self.sentinel.client()
            wait_until(lambda: asked.sentinel_slaves(MASTER), "the Sentinel finds the replica")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for server in (self.sentinel, self.replica, self.master):
            server.thaw()
            server.kill()
        self._folder.cleanup()


class LocalCluster:
    """A cluster of masters and their replicas, started and stopped by `with`.

    Attributes:
        nodes: The servers, masters first; replica `i` is that of master `i` at first.
    """

    def __init__(
        self,
        masters: int = 3,
        replicas: bool = True,
        *arguments: str,
        program: Path | None = None,
        tls: ServerTls | None = None,
    ) -> None:
        """
        Args:
            masters: How many masters, three at least for one to be replaced.
            replicas: Whether each has a replica.
            arguments: Further arguments of all servers.
            program: Of all of them; as for `LocalRedis`.
            tls: With what they speak TLS to each other and to clients.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="hotfeast-cluster-")
        self.masters = masters
        self.nodes: list[LocalRedis] = []
        self._bus: list[int] = []
        for number in range(masters * (2 if replicas else 1)):
            bus = free_port()
            self._bus.append(bus)
            cluster = [
                "--cluster-enabled", "yes",
                "--cluster-config-file", str(Path(self._folder.name) / f"{number}.conf"),
                "--cluster-port", str(bus),
                "--cluster-node-timeout", str(2 * _LOST_AFTER),
                "--cluster-require-full-coverage", "no",
                *(("--tls-cluster", "yes") if tls else ()),
            ]  # fmt: skip
            self.nodes.append(LocalRedis(*cluster, *_AT_ONCE, *arguments, program=program, tls=tls))

    @property
    def address(self) -> str:
        """The nodes, as Feast's connection strings have them."""
        return ",".join(node.address for node in self.nodes)

    def client(self) -> Any:
        """A redis-py client for the cluster."""
        node = self.nodes[0]
        return redis.RedisCluster(host="127.0.0.1", port=node.port, **node.client_options)

    def node_of(self, key: bytes | str) -> LocalRedis:
        """The server that has a key now."""
        port = self.client().get_node_from_key(key).port
        return next(node for node in self.nodes if node.port == port)

    def __enter__(self) -> "LocalCluster":
        try:
            self._form()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _form(self) -> None:
        with ThreadPoolExecutor(len(self.nodes)) as threads:
            list(threads.map(LocalRedis.start, self.nodes))
        clients: list[Any] = [node.client() for node in self.nodes]
        for i in range(self.masters):
            first, last = (SLOT_COUNT * at // self.masters for at in (i, i + 1))
            clients[i].execute_command("CLUSTER", "ADDSLOTSRANGE", first, last - 1)
            clients[i].execute_command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
        for node, bus in zip(self.nodes[1:], self._bus[1:], strict=True):
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        count = len(clients)
        wait_until(
            lambda: all(int(c.cluster("INFO")["cluster_known_nodes"]) == count for c in clients),
            "the nodes meet",
        )
        for i in range(self.masters, count):
            master = clients[i - self.masters].execute_command("CLUSTER", "MYID")
            command = partial(clients[i].execute_command, "CLUSTER", "REPLICATE", master)
            wait_until(command, "a replica knows its master")
        wait_until(lambda: all(map(_is_well, clients)), "the cluster is well")

    def move(self, slots: Sequence[int], source: LocalRedis, target: LocalRedis) -> None:
        """Moves slots from one master to another, as `redis-cli --cluster reshard` does."""
        for slot in slots:
            self.begin_move(slot, source, target)
            self.move_keys(slot, source, target)
            self.end_move(slot, source, target)

    def begin_move(self, slot: int, source: LocalRedis, target: LocalRedis) -> None:
        """Opens a slot: from now on keys that are not at the source are asked for at the target."""
        here: Any = source.client()
        there: Any = target.client()
        here_id, there_id = (c.execute_command("CLUSTER", "MYID") for c in (here, there))
        there.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", here_id)
        here.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", there_id)

    def move_keys(
        self, slot: int, source: LocalRedis, target: LocalRedis, most: int = 1_000_000
    ) -> None:
        """Moves keys of an open slot."""
        here: Any = source.client()
        while most > 0 and (
            keys := here.execute_command("CLUSTER", "GETKEYSINSLOT", slot, min(most, 100))
        ):
            here.migrate("127.0.0.1", target.port, keys, 0, 10_000)
            most -= len(keys)

    def end_move(self, slot: int, source: LocalRedis, target: LocalRedis) -> None:
        """Gives a slot to its new master."""
        there: Any = target.client()
        there_id = there.execute_command("CLUSTER", "MYID")
        for node in (target, source, *self.nodes):
            client: Any = node.client()
            try:
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", there_id)
            except redis.RedisError:
                # A replica, or one that is gone: it hears of it from the others.
                continue

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for node in self.nodes:
            node.thaw()
            node.kill()
        self._folder.cleanup()
