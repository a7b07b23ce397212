from typing import Final

from hotfeast.hotpath.columns import TimeColumn, ValueColumn
from hotfeast.hotpath.definition import WriteDefinition
from hotfeast.hotpath.slots import SlotMap

OUTCOMES: Final[tuple[str, ...]]
"""Names of the outcomes, by number."""

KEY_TYPES: Final[tuple[int, ...]]
"""Value types that a join key can have."""

SCRIPT: Final[bytes]
"""The script that compares and writes, as SCRIPT LOAD wants it."""

SCRIPT_SHA: Final[bytes]
"""What EVALSHA calls the script by."""

class WritePlan:
    """How rows of one view are stored. Immutable, shared by all threads."""

    def __init__(self, definition: WriteDefinition) -> None:
        """Raises ValueError for join keys that are not sorted, or of a type that no key has."""

    @property
    def definition(self) -> WriteDefinition:
        """What it was made from."""

class WriteBatch:
    """Rows of one view, ready to be sent. One thread at a time may use it."""

    def __init__(
        self,
        plan: WritePlan,
        keys: list[ValueColumn],
        features: list[ValueColumn],
        times: TimeColumn,
        created: TimeColumn | None = None,
        check: bool = True,
        rows_per_call: int = 16,
        whole: WriteBatch | None = None,
    ) -> None:
        """Raises ValueError where the columns are not those of the plan, or differ in length."""

    @property
    def plan(self) -> WritePlan:
        """How they are stored."""

    @property
    def rows(self) -> int:
        """How many there are."""

    @property
    def check(self) -> bool:
        """Whether event times are compared."""

    @property
    def no_script(self) -> bool:
        """Whether Redis did not know the script at the last exchange."""

    @property
    def script(self) -> bytes:
        """The script that the rows go through, as SCRIPT LOAD wants it."""

    @property
    def outcomes(self) -> bytes:
        """The outcome of each row, as the numbers of `OUTCOMES`."""

    @property
    def counts(self) -> dict[str, int]:
        """How many rows have each outcome."""

    @property
    def unfinished(self) -> bool:
        """Whether rows are left to be sent."""

    @property
    def put_off(self) -> list[tuple[int, str]]:
        """Rows that Redis did not look at in the last exchange and that are still pending, each
        with what it said: MOVED, READONLY, LOADING and the like."""

    @property
    def pending(self) -> list[int]:
        """The rows that are left to be sent."""

    @property
    def error(self) -> str:
        """The first refusal of a row, as Redis worded it; empty where there is none."""

    def reject(self, row: int) -> None:
        """Takes a row out of what is sent, because it is invalid."""

    def key(self, row: int) -> bytes:
        """The Redis key of a row that is not rejected."""

    def assign(self, slots: SlotMap) -> list[int]:
        """Gives each pending row to the node that has its key; says which these are, by their
        places in `slots.nodes`. Rows of slots that nobody serves are of none."""

    def part(self, target: int, asking: bool = False) -> WriteBatch:
        """The pending rows that one node has, to be sent to it beside other parts; with `asking`,
        to one that has yet to take the rows' slots over. Their outcomes are in this batch."""

    def give(self, rows: list[int], target: int) -> None:
        """Gives rows to a node of this number, instead of the one that `assign` found."""

    def take_back(self) -> None:
        """Makes rows pending again that the last exchange has written."""

    def take_error(self, part: WriteBatch) -> None:
        """Takes over the first refusal of a row of a part, unless there has been one."""

    def begin(self) -> None:
        """Starts sending what is pending, from the first row; also after a broken connection."""

    def next_portion(self) -> bytes:
        """The next commands to send, for callers that send them themselves; empty at the end."""

    def feed(self, data: bytes) -> bool:
        """Takes bytes that came from Redis; says whether all that was sent has been answered.

        Raises ProtocolError where they are no replies to what was sent.
        """
