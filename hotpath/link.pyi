from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.reply import Reply

def exchange(fd: int, batch: Batch, reply: Reply, timeout: float) -> None:
    """Sends a batch's commands and reads all of their replies within `timeout` seconds.

    Raises ReplyError, ProtocolError, ConnectionError, TimeoutError or OSError; after any but
    ReplyError the connection must be closed.
    """
