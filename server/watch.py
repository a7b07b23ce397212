"""The plans in step with the registry, off the request path."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hotfeast.server.errors import StartFailure
from hotfeast.server.feast_api import FeatureStore
from hotfeast.server.pace import Pace
from hotfeast.server.plan import Kernels, PlanBook
from hotfeast.server.registry import RegistryReader, RegistryState
from hotfeast.server.registry_source import RegistryUnreadable, Stored

logger = logging.getLogger(__name__)

# Seconds between two reads of a registry that has changed, and how many there are at most.
_SETTLE = 0.1
_SETTLE_READS = 50
# Seconds after which a look that is still waiting is told as an error.
_LONG_LOOK = 15.0
# Seconds that a stop waits for a look that is under way; it may be waiting for a dead network.
_STOP_LIMIT = 1.0


class RegistryWatch:
    """Keeps the plans in step with the registry.

    A registry that cannot be read leaves the plans as they are, and is told by `state.error`.
    """

    def __init__(
        self,
        store: FeatureStore,
        interval: float,
        as_feast: bool = False,
        tell: Callable[["RegistryWatch"], None] = lambda _: None,
        kernels: Kernels | None = None,
        repo_views: Mapping[str, Any] | None = None,
        layout: str | None = None,
        cache_seconds: float = 0.0,
    ) -> None:
        """Reads the registry and makes the first plans.

        Args:
            store: The repository.
            interval: Seconds between two looks.
            as_feast: As for `PlanBook`.
            tell: Is called now, and after each look in the thread that looks.
            kernels: As for `PlanBook`.
            repo_views: As for `RegistryReader`.
            layout, cache_seconds: As for `RegistryReader`.

        Raises:
            StartFailure: The registry cannot be read.
        """
        self._interval = interval
        self._as_feast = as_feast
        self._tell = tell
        self._kernels = kernels
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="registry-watch", daemon=True)
        self._began: float | None = None
        self._prepare: Callable[[PlanBook], None] = lambda _: None
        try:
            self._reader = RegistryReader(store, repo_views, layout, cache_seconds)
            stored = self._reader.read()
            definitions = self._reader.define(stored)
        except StartFailure:
            raise
        except Exception as error:
            raise StartFailure(
                f"the registry of project {store.project!r} cannot be read "
                f"({_words(error)}); has 'feast apply' been run?"
            ) from error
        self._state = RegistryState(stored.updated, datetime.now(UTC))
        self._book = PlanBook(definitions, generation=1, as_feast=as_feast, kernels=kernels)
        _log_transforms(self._book, kernels is not None)
        tell(self)

    @property
    def book(self) -> PlanBook:
        """The plans of the moment."""
        return self._book

    @property
    def state(self) -> RegistryState:
        """What the looks at the registry have said so far."""
        began = self._began
        if began is not None and (waited := time.monotonic() - began) > _LONG_LOOK:
            return replace(self._state, error=f"no answer from the registry for {waited:.0f} s")
        return self._state

    def prepare_with(self, prepare: Callable[[PlanBook], None]) -> None:
        """Sets what is called with plans that are about to go live, in the thread that looks."""
        self._prepare = prepare

    def start(self) -> None:
        """Starts looking at the registry."""
        self._thread.start()

    def stop(self) -> None:
        """Stops looking."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_LIMIT)

    def look(self) -> bool:
        """Reads the registry, and swaps the plans where definitions changed.

        Returns:
            Whether they changed.

        Raises:
            Exception: Whatever Feast raises where the registry cannot be read.
        """
        old = self._book
        stored = self._reader.read()
        changed = stored.fingerprint != old.definitions.fingerprint
        if changed:
            stored = self._settle(stored)
            pace = Pace()
            definitions = self._reader.define(stored, pace)
            book = PlanBook(
                definitions,
                old.generation + 1,
                as_feast=self._as_feast,
                pause=pace,
                kernels=self._kernels,
            )
            book.plan_ahead(old.cached_lists)
            self._prepare(book)
            self._book = book
            logger.info("registry changed; plan generation %d is live", book.generation)
            _log_transforms(book, self._kernels is not None)
        if self._state.error:
            logger.info("the registry can be read again")
        self._state = RegistryState(stored.updated, datetime.now(UTC))
        return changed

    def _settle(self, stored: Stored) -> Stored:
        """Waits until two reads in a row agree.

        Feast writes a registry file in place, and rows of tables one by one. What is read in
        between can look like a registry with less in it.

        Raises:
            RegistryUnreadable: No two do.
        """
        for _ in range(_SETTLE_READS):
            self._stop.wait(_SETTLE)
            again = self._reader.read()
            if again.fingerprint == stored.fingerprint:
                return again
            stored = again
        raise RegistryUnreadable(
            f"it was another one at each of {_SETTLE_READS} reads in a row; is it being written to "
            "without a pause?"
        )

    def _run(self) -> None:
        wait = self._interval
        while not self._stop.wait(wait):
            self._began = time.monotonic()
            try:
                self.look()
            except Exception as error:
                self._complain(_words(error))
            took = time.monotonic() - self._began
            self._began = None
            self._tell(self)
            wait = max(self._interval - took, self._interval / 10)

    def _complain(self, words: str) -> None:
        if words != self._state.error:
            age = (datetime.now(UTC) - self._state.read).total_seconds()
            logger.warning(
                "the registry cannot be read (%s); serving the definitions of %.0f s ago",
                words,
                age,
            )
        self._state = replace(self._state, error=words)


def _log_transforms(book: PlanBook, kernels: bool) -> None:
    """Says how each on-demand view of the feature services is computed, once a generation."""
    for view, refusal in sorted(book.transforms.items()):
        if not kernels:
            how = "by its Python function"
        else:
            how = f"by its Python function: {refusal}" if refusal else "by a kernel"
        logger.info(
            "plan generation %d: on-demand view %r is computed %s", book.generation, view, how
        )


def _words(error: Exception) -> str:
    """An error in one line."""
    text = str(error).strip().split("\n", 1)[0]
    return text if isinstance(error, RegistryUnreadable) else f"{type(error).__name__}: {text}"
