from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.reply import Reply

def judge_early(batch: Batch, now_seconds: int, now_nanos: int) -> None:
    """Has the rows of a batch judged as they arrive, strictly, against this time since 1970 in UTC.

    It is then the time that the response must be built with.
    """

def judge_arrived(batch: Batch, reply: Reply) -> int:
    """Judges the rows that have arrived by now, for callers that feed bytes themselves.

    Returns how many entities have been judged of those that could be.
    """
