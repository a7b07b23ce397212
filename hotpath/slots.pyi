from collections.abc import Iterable, Sequence
from typing import Final

SLOT_COUNT: Final[int]
"""Slots of a cluster."""

def key_slot(key: bytes) -> int:
    """The slot of a key."""

class SlotMap:
    """Which node has which slot. Immutable, shared by all threads."""

    def __init__(self, nodes: Sequence[str], ranges: Iterable[tuple[int, int, int]]) -> None:
        """Takes the nodes' addresses, and their slots: the first, the last, and the node's place
        in `nodes`. Raises ValueError for a range that is not of this cluster."""

    @property
    def nodes(self) -> tuple[str, ...]:
        """Addresses of the nodes."""

    def node_of_slot(self, slot: int) -> str | None:
        """The address of the node that serves a slot; None where there is none."""

    def slots_of(self, node: str | None) -> str:
        """The slots of a node, or with None those that nobody serves, for messages: `0-5460, 7`."""
