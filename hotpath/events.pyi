from typing import Final

from hotfeast.hotpath.columns import ValueColumn
from hotfeast.hotpath.definition import WriteDefinition
from hotfeast.hotpath.writes import WriteBatch, WritePlan

COUNT_SCRIPT: Final[bytes]
"""The script that counts events, as SCRIPT LOAD wants it."""

class EventPlan(WritePlan):
    """How events of one view are counted. Immutable, shared by all threads."""

    def __init__(self, definition: WriteDefinition) -> None:
        """Raises ValueError where the definition has no tiles."""

class EventBatch(WriteBatch):
    """Events of one view, ready to be sent; counted before is `duplicate`, too late `stale`."""

def hash_column(column: ValueColumn) -> list[int | None]:
    """The hashes that the distinct values of a column are told apart by; None for null."""
