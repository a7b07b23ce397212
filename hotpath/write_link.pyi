from hotfeast.hotpath.writes import WriteBatch

def exchange_writes(fd: int, batch: WriteBatch, patience: float) -> None:
    """Sends a batch's pending rows and takes the outcome of each.

    Waits `patience` seconds for each next reply. Raises ProtocolError, ConnectionError,
    TimeoutError or OSError; after each of them the connection must be closed, and rows that are
    still pending may have been written all the same.
    """
