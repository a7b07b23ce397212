"""A thread that does something in turns, beside serving."""

import logging
import threading
from collections.abc import Callable
from functools import partial

from hotfeast.server.pace import Pace

logger = logging.getLogger(__name__)


class Turns:
    """Calls a function again and again. What it raises is logged, and the next turn comes.

    Attributes:
        seconds: Between two turns.
    """

    def __init__(self, what: str, turn: Callable[[Pace], None], seconds: float) -> None:
        """
        Args:
            what: Whose turns they are, for the log and the thread's name.
            turn: Is called in the thread, with what pauses between its pieces of work.
            seconds: Between two turns.
        """
        self._what = what
        self._turn = turn
        self.seconds = seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=what, daemon=True)

    def start(self) -> None:
        """Starts; the first turn comes after the usual pause."""
        self._thread.start()

    def stop(self) -> None:
        """Ends, and waits for a turn that is under way."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def attempt(self, turn: Callable[[], None]) -> None:
        """Takes a turn in the caller's thread."""
        try:
            turn()
        except Exception:
            # Serving does not depend on it.
            logger.exception("a turn of the %s has failed", self._what)

    def _run(self) -> None:
        # Made here, since it goes by this thread's own time.
        turn = partial(self._turn, Pace())
        while not self._stopping.wait(self.seconds):
            self.attempt(turn)
