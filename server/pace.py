"""Work beside serving, spread over time."""

import time

# Seconds of work between two pauses, and the pauses' length as a multiple of it. Without them,
# requests at 1,000 a second wait tens of milliseconds (`python -m bench reload`).
_STRETCH = 0.0005
_PAUSES = 5


class Pace:
    """Spreads the work of one thread, so that requests have the interpreter for most of it."""

    def __init__(self) -> None:
        self._worked_before = time.thread_time()

    def __call__(self) -> None:
        """Pauses, where the work since the last pause is worth one."""
        worked = time.thread_time() - self._worked_before
        if worked > _STRETCH:
            time.sleep(worked * _PAUSES)
            self._worked_before = time.thread_time()
