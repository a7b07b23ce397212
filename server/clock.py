"""The time that rows are aged against."""

import time
from datetime import datetime


class Clock:
    """The system's clock, or one that stands still.

    A fixed clock serves a data set of the past as it was served then: demonstrations, replays,
    tests.
    """

    def __init__(self, as_of: datetime | None = None) -> None:
        """
        Args:
            as_of: The time it always is; None for the system's clock. Must know its zone.
        """
        self.as_of = as_of
        self._fixed: tuple[int, int] | None = None
        if as_of is not None:
            if as_of.tzinfo is None:
                raise ValueError(f"as_of {as_of} has no time zone")
            whole = as_of.replace(microsecond=0)
            self._fixed = (int(whole.timestamp()), as_of.microsecond * 1000)

    def now(self) -> tuple[int, int]:
        """Seconds since 1970 in UTC, and nanoseconds of that second."""
        if self._fixed is not None:
            return self._fixed
        return divmod(time.time_ns(), 1_000_000_000)
