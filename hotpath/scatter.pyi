from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.reply import Reply
from hotfeast.hotpath.slots import SlotMap

class Part:
    """The commands of a batch that one node is sent."""

    @property
    def node(self) -> str:
        """Its address."""

    @property
    def asking(self) -> bool:
        """Whether each command is announced with ASKING."""

    @property
    def count(self) -> int:
        """How many commands there are."""

    def start(self, reply: Reply) -> bytes:
        """Starts reading the replies into a connection's buffer, for callers that feed it
        themselves; returns the commands to send."""

class Scatter:
    """A batch on its way through a cluster. One thread at a time may use it."""

    def __init__(self, batch: Batch, reply: Reply) -> None:
        """The batch was made with `scattered`; the reply is used by nobody else."""

    @property
    def batch(self) -> Batch: ...
    @property
    def reply(self) -> Reply:
        """What its cells are gathered in; complete once `settle` says so."""

    @property
    def parts(self) -> list[Part]:
        """What is to be exchanged next; see `taken_up`."""

    @property
    def put_off(self) -> list[tuple[int, str, str]]:
        """Commands that were not answered: each one's number, the node, and what it said or why it
        did not."""

    @property
    def deadline(self) -> float:
        """Monotonic seconds until which the loop reads it; 0 where it does not."""

    def begin(self, slots: SlotMap) -> None:
        """Starts on the batch's commands; also once more from the start."""

    def taken_up(self) -> list[Part]:
        """The parts, to be exchanged by whoever calls this, and told of with `take` or `fail`."""

    def take(self, part: Part, reply: Reply) -> None:
        """Takes the complete replies to a part, which are used up."""

    def fail(self, part: Part, why: str) -> None:
        """Takes note of a part that was not answered, or not all of it."""

    def ask_again(self, slots: SlotMap, redirected: dict[int, tuple[str, bool]]) -> None:
        """Makes parts of the commands that were put off; those that are `redirected` go to that
        node, with or without ASKING, the others to those that have their slots."""

    def give_up(self, reasons: dict[int, str]) -> None:
        """Makes rows unread whose commands were put off, by the commands' numbers."""

    def settle(self, slots: SlotMap) -> bool:
        """Works out the cells once every command has been answered or given up; says whether that
        was all. If not, there are further commands in `parts`."""

    def slot(self, number: int) -> int:
        """The slot of a command's key."""

def exchange_parts(links: list[tuple[Part, int, Reply]], timeout: float) -> list[Exception | None]:
    """Sends parts to their nodes and reads the replies, all at once.

    Each link is a part, its connection's descriptor, and what its replies are read into. Returns
    for each part None once its replies are complete, or why they are not; such a connection is out
    of step and must be closed.
    """
