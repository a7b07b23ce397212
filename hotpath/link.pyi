from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.cache import RowCache
from hotfeast.hotpath.reply import Reply

def exchange(
    fd: int, batch: Batch, reply: Reply, timeout: float, cache: RowCache | None = None
) -> None:
    """Sends a batch's commands and reads all of their replies within `timeout` seconds. What the
    cache has is not asked for; what has been read is kept in it.

    Raises ReplyError, ProtocolError, ConnectionError, TimeoutError or OSError; after any but
    ReplyError the connection must be closed.
    """
