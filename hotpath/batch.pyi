from typing import Final

from hotfeast.hotpath.plan import Plan
from hotfeast.hotpath.request import Request

TYPE_NAMES: Final[dict[int, str]]
"""Names of `ValueType.Enum`, for messages."""

class Batch:
    """A request bound to a plan."""

    now_us: int
    """What windows end at, in microseconds since 1970; the system's time at first."""

    def __init__(
        self, plan: Plan, request: Request, later: bool = False, scattered: bool = False
    ) -> None:
        """With `later`, commands are written only when they are needed, since a cache may have what
        they would ask for; with `scattered`, for each node of a cluster apart. Raises
        InvalidRequest where the columns are not what the plan needs."""

    most_bytes: int
    """Bytes that the answer may have; 0, for any, at first."""

    @property
    def plan(self) -> Plan: ...
    @property
    def request(self) -> Request: ...
    @property
    def rows(self) -> int:
        """Rows of the answer."""

    said: bytes | None
    """Fields of the answer's metadata beside its own, serialized; None for none."""

    @property
    def command_bytes(self) -> bytes:
        """The commands, as they go to Redis."""

    @property
    def cell_count(self) -> int:
        """Stored values and times of all rows."""

    @property
    def entity_counts(self) -> list[int]:
        """The number of distinct entities of each key recipe."""

    @property
    def entity_rows(self) -> list[list[int]]:
        """For each key recipe and distinct entity the first row that asks for it."""

    def sample_keys(self, recipe: int, limit: int) -> list[bytes]:
        """The Redis keys of a key recipe's first entities, `limit` of them at most."""

    def describe_entity(self, recipe: int, row: int) -> str:
        """The entity of a row, for messages: its join keys and values."""
