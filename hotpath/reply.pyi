from hotfeast.hotpath.batch import Batch

class Reply:
    """The buffers that one connection reads replies into. Used by one request at a time."""

    def start(self, batch: Batch) -> None:
        """Starts reading the replies to `batch`; for callers that feed bytes themselves."""

    def feed(self, data: bytes) -> bool:
        """Takes bytes from the server; says whether the replies are complete.

        Raises ProtocolError where they are no replies to the batch's commands.
        """

    @property
    def unknown(self) -> tuple[int, int] | None:
        """A packed row that cannot be read yet: its view's index in the plan and its schema's
        number; None where there is none."""

    def raise_error(self) -> None:
        """Raises the first error reply as ReplyError, if there was one."""

    @property
    def field_values(self) -> list[bytes | None]:
        """Every hash field's value, in the order of the commands; None where there is none."""
