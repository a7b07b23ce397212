from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.reply import Reply

def settle_reply(batch: Batch, reply: Reply) -> bool:
    """Makes cells of complete replies; for callers that feed bytes themselves.

    Returns whether that was all. If not, the batch's `command_bytes` are further commands, whose
    replies the reply is to be fed next. Raises ValueError where the reply is not complete.
    """

def marked_time(timestamp: bytes, layout: str) -> bytes:
    """A serialized Timestamp as it is stored with rows of a layout; ValueError for none such."""

def layout_of(timestamp: bytes) -> str:
    """The layout of the row that a stored, serialized Timestamp belongs to."""
