from hotfeast.hotpath.columns import TimeColumn

class PushBatch:
    """One parsed `PushRequest`."""

    def __init__(self, data: bytes) -> None:
        """Raises InvalidRequest where the bytes are no such message."""

    @property
    def batch_id(self) -> str:
        """The caller's name for the batch."""

    @property
    def by_push_source(self) -> bool:
        """A push source was named; otherwise a view was, or nothing."""

    @property
    def destination(self) -> str | None:
        """Name of the push source or the view; None where neither is set."""

    @property
    def target(self) -> int:
        """Number in `PushTarget`, as it came."""

    @property
    def columns(self) -> dict[str, bytes] | None:
        """For each name its column as a serialized `RepeatedValue`; None where none are set."""

    @property
    def event_timestamps(self) -> TimeColumn | None:
        """The explicit event times; None where there are none."""

    @property
    def created_timestamps(self) -> TimeColumn | None:
        """The explicit created times; None where there are none."""

    @property
    def arrow_ipc(self) -> bytes | None:
        """An Arrow IPC stream; None where none is set."""

    @property
    def canonical(self) -> bool:
        """Whether all this can be used; if not, rewrite the bytes and parse again."""
