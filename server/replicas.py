"""Which replicas of a cluster are fresh enough to be read.

A replica that has everything its master had at some time is behind by no more than has gone by
since. So masters are asked how far they are (the offset of their replication), and the time before
the question is kept; a replica that has come as far since has all that was there then. No clock but
our own is looked at, and a master that does not answer makes its replicas age.
"""

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import redis


class FreshReplicas:
    """Keeps account of how far masters and replicas are. For one thread."""

    def __init__(self, bound: float) -> None:
        """
        Args:
            bound: Seconds that a replica may be behind.
        """
        self._bound = bound
        # For each master when it was asked, and the history and offset that it was at.
        self._masters: dict[str, deque[tuple[float, str, int]]] = {}

    def look(
        self, masters: Mapping[str, Any], replicas: Mapping[str, tuple[str, Any]]
    ) -> dict[str, float]:
        """Asks all of them.

        Args:
            masters: Clients of the masters, by address.
            replicas: The replicas by address: their master's address, and a client.

        Returns:
            The replicas that can be read, each with the monotonic seconds until it can.
        """
        for address, client in masters.items():
            seen = self._masters.setdefault(address, deque())
            while seen and time.monotonic() - seen[0][0] > self._bound:
                seen.popleft()
            asked = time.monotonic()
            info = _replication(client)
            if info.get("role") == "master":
                seen.append((asked, str(info["master_replid"]), int(info["master_repl_offset"])))
        fresh: dict[str, float] = {}
        for address, (master, client) in replicas.items():
            info = _replication(client)
            if info.get("role") != "slave" or info.get("master_link_status") != "up":
                continue
            history, offset = str(info["master_replid"]), int(info["slave_repl_offset"])
            for asked, master_history, master_offset in reversed(self._masters.get(master, ())):
                if master_history == history and master_offset <= offset:
                    fresh[address] = asked + self._bound
                    break
        return fresh


def _replication(client: Any) -> dict[str, Any]:
    """What a server says of its replication; nothing if it does not answer."""
    try:
        return dict(client.info("replication"))
    except redis.RedisError:
        return {}
