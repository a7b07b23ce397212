from hotfeast.hotpath.writes import WriteBatch

class LatestRows:
    """The newest event time of each entity in a run of batches of one view."""

    limit: int
    """Entities that are remembered at most."""

    def __init__(self, limit: int = 1000000) -> None: ...
    def __len__(self) -> int:
        """Entities that are remembered."""

    def sift(self, batch: WriteBatch) -> int:
        """Takes the rows out of a batch that another row of their entity supersedes.

        The batches must be sent in the order in which they were sifted. Returns how many rows were
        taken out.
        """
