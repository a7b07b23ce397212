from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.kernel import Computation
from hotfeast.hotpath.reply import Reply

class Response:
    """A response that is yet to be written, piece by piece."""

    @property
    def data(self) -> bytes: ...

def build_response(
    batch: Batch, reply: Reply, now_seconds: int, now_nanos: int, strict: bool
) -> bytes:
    """Writes the serialized `GetOnlineFeaturesResponse`. Uses the reply up.

    Raises CorruptRow where a stored value or row time is not what Feast writes, unless the request
    allows a partial response.
    """

def begin_response(
    batch: Batch, reply: Reply, now_seconds: int, now_nanos: int, strict: bool
) -> Response:
    """A response that is yet to be written, for the reactor to send piece by piece. The reply must
    not be used for anything else until then.

    Raises as `build_response`.
    """

def build_computed(
    batch: Batch,
    reply: Reply,
    now_seconds: int,
    now_nanos: int,
    strict: bool,
    computation: Computation,
    keep: bool,
) -> tuple[bytes | None, bytes | None, list[bytes | None] | None]:
    """Writes the response with features that kernels compute, as `build_response` otherwise.

    Returns it, or None where a view is to be left to Python; in that case or with `keep` the
    response of all that was read; and the `results` fields of each computed view, None for one that
    is left to Python, or instead of the list where all are.
    """
