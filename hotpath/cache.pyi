from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.reply import Reply
from hotfeast.hotpath.writes import WriteBatch

class RowCache:
    """Rows that have been read, kept in bounded memory; for any number of threads."""

    def __init__(self, capacity: int) -> None:
        """Keeps `capacity` bytes at most; raises ValueError for less than 65,536."""

    @property
    def capacity(self) -> int:
        """Bytes at most."""

    @property
    def used(self) -> int:
        """Bytes that are taken, the table included."""

    @property
    def entries(self) -> int:
        """How many entities are in it, once for each plan and key recipe."""

    @property
    def hits(self) -> int:
        """Entities that were found."""

    @property
    def misses(self) -> int:
        """Entities that may be cached and were not found."""

    @property
    def evictions(self) -> int:
        """Entries that made way for others."""

    @property
    def invalidations(self) -> int:
        """Entries that were dropped because their keys were written."""

    @property
    def live(self) -> bool:
        """Whether it is in use."""

    def open(self) -> None:
        """Takes the cache into use: from now on it is told of every write to what is read."""

    def shut(self) -> None:
        """Takes the cache out of use: it is no longer told of writes. All is forgotten."""

    def clear(self) -> None:
        """Forgets all, and what is being read at the moment, too."""

    def invalidate(self, keys: list[bytes] | None) -> None:
        """Forgets what is kept of Redis keys, None for all there are."""

    def forget_rows(self, batch: WriteBatch) -> None:
        """Forgets what is kept of the keys of rows that have been written."""

    def start(self, batch: Batch, reply: Reply) -> None:
        """Starts reading the replies to `batch`, as `Reply.start`, with what the cache has of it in
        place; for callers that feed bytes themselves."""

    def store(self, batch: Batch, reply: Reply) -> None:
        """Keeps what has been read for a batch since `start`; for callers that feed bytes
        themselves. Raises ValueError where the reply is not complete."""
