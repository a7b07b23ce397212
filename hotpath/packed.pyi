from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.plan import Plan
from hotfeast.hotpath.reply import Reply

def settle_reply(batch: Batch, reply: Reply) -> bool:
    """Makes cells of complete replies; for callers that feed bytes themselves.

    Returns whether that was all. If not, the batch's `command_bytes` are further commands, whose
    replies the reply is to be fed next. Raises ValueError where the reply is not complete.
    """

def unpack_row(plan: Plan, view: int, timestamp: bytes, row: bytes) -> list[bytes | None] | int:
    """The values of a packed row that the caller has read.

    For each of the view's features in the plan its serialized Value, empty for null and None where
    the row does not have it; or the number of the row's schema where the plan does not know it.
    ValueError where it is no packed row, or of another time than the stored `timestamp`.
    """

def marked_time(timestamp: bytes, layout: str) -> bytes:
    """A serialized Timestamp as it is stored with rows of a layout; ValueError for none such."""

def layout_of(timestamp: bytes) -> str:
    """The layout of the row that a stored, serialized Timestamp belongs to."""
