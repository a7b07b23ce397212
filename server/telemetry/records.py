"""What is kept of a call that is looked at: when its stages ended, and what it was for."""

import time
from typing import NamedTuple, Protocol

PARSE = "parse"
"""Until it is known what to read: the request, its plan, the keys and commands."""
REDIS = "redis"
"""Until all of it has come."""
ENCODE = "encode"
"""Until the answer is judged and written, with the views that kernels compute."""
TRANSFORM = "transform"
"""Until Python functions of on-demand views have run, with the wait for their turn."""

STAGES = (PARSE, REDIS, ENCODE, TRANSFORM)


class Stage(NamedTuple):
    """A stage of a call.

    Attributes:
        name: One of `STAGES`.
        began, ended: Seconds since the call began.
    """

    name: str
    began: float
    ended: float


class Reading(Protocol):
    """What a read is for."""

    @property
    def service(self) -> str | None:
        """The feature service; None for a list of features."""


class Record:
    """One call.

    Attributes:
        began_ns: When it began, in nanoseconds since 1970.
        service: The feature service that was asked for; None for a list of features, and for calls
            that read none.
        rows: Rows that were asked for; None for calls that read none.
        traced, timed, logged: What it is kept for.
    """

    __slots__ = ("_began", "_marks", "began_ns", "logged", "rows", "service", "timed", "traced")

    def __init__(self, traced: bool, timed: bool, logged: bool) -> None:
        """
        Args:
            traced, timed, logged: What it is kept for.
        """
        self.traced = traced
        self.timed = timed
        self.logged = logged
        self.service: str | None = None
        self.rows: int | None = None
        self._marks: list[tuple[str, float]] = []
        self.began_ns = time.time_ns()
        self._began = time.perf_counter()

    def mark(self, stage: str) -> None:
        """A stage is over."""
        self._marks.append((stage, time.perf_counter() - self._began))

    def is_for(self, plan: Reading, rows: int) -> None:
        """Notes what is read."""
        self.service = plan.service
        self.rows = rows

    @property
    def stages(self) -> list[Stage]:
        """The stages that are over; each begins where the one before it ended."""
        begins = [0.0, *(ended for _, ended in self._marks)]
        return [
            Stage(name, began, ended)
            for began, (name, ended) in zip(begins, self._marks, strict=False)
        ]
