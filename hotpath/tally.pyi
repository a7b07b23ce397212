from collections.abc import Sequence

class Tally:
    """How often something happened, by how long it took."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """The upper bounds of the buckets, ascending; what is above all is counted, too."""

    def add(self, seconds: float) -> None:
        """Counts a call."""

    def add_rows(self, rows: int) -> None:
        """Counts rows that were answered."""

    def take(self) -> tuple[list[int], float, int]:
        """What was counted since the last time: calls by bucket, their seconds, and rows."""
