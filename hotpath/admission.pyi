from collections.abc import Container

from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.hpack import RepeatedBlock

class Admission:
    """How much of the reads that arrive is taken on. Used by one thread."""

    def __init__(
        self,
        paths: Container[bytes],
        refusals: list[RepeatedBlock],
        most_in_flight: int,
        delay: float,
    ) -> None:
        """`refusals` are header blocks that refused calls are answered with, one after another, and
        differ in the value of their last field alone; `delay` is in seconds, 0 for no limit."""

    @property
    def paths(self) -> Container[bytes]:
        """Of the methods whose calls may be refused."""

    @property
    def in_flight(self) -> int:
        """Reads that are being worked on."""

    @property
    def work(self) -> int:
        """What they weigh together."""

    @property
    def limit(self) -> float:
        """What they may weigh."""

    @property
    def most_in_flight(self) -> int: ...
    @property
    def delay(self) -> float:
        """Seconds that a read may wait for others."""

    @property
    def base(self) -> float:
        """Seconds that a read takes which waits for no other."""

    @property
    def refused_work(self) -> int:
        """Calls that were refused because of `limit`."""

    @property
    def refused_count(self) -> int:
        """Calls that were refused because of `most_in_flight`."""

    @property
    def full(self) -> bool:
        """Whether a read that arrives now is to be refused."""

    def take_refusal(self) -> RepeatedBlock:
        """Counts a call that is refused, and has the header block to answer it with."""

    def begin(self, batch: Batch, arrived: float) -> None:
        """Takes a read on that arrived at a time in monotonic seconds."""

    def end(self, batch: Batch, arrived: float, answered: bool) -> None:
        """A read is over, or somebody else's; `answered` says whether its time counts."""

    def end_at(self, batch: Batch, arrived: float, answered: bool, now: float) -> None:
        """The same at a time that is given."""
