from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.reply import Reply

def build_response(
    batch: Batch, reply: Reply, now_seconds: int, now_nanos: int, strict: bool
) -> bytes:
    """Writes the serialized `GetOnlineFeaturesResponse`. Uses the reply up.

    Raises CorruptRow where a stored value or row time is not what Feast writes, unless the request
    allows a partial response.
    """
