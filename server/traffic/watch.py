"""The aliases of the moment, in step with their file and with the registry."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from hotfeast.hotpath.request import Request
from hotfeast.server.errors import StartFailure
from hotfeast.server.plan import PlanBook, PlanSource
from hotfeast.server.traffic.aliases import Alias, AliasError
from hotfeast.server.traffic.routes import Side, SideMaker, Table, check_alias, make_table
from hotfeast.server.traffic.store import AliasStore, Author, Stored

logger = logging.getLogger(__name__)

LOOK = 0.1
"""Seconds between two looks at the file."""

# Seconds that a file which has changed must stay as it is: somebody may be writing it in place.
_SETTLE = 0.05
_SETTLE_LOOKS = 20


class AliasState(NamedTuple):
    """What is in force.

    Attributes:
        stored: The aliases and the record of their changes.
        error: Why the file as it is now is not in force; empty where it is.
    """

    stored: Stored
    error: str


class _Routes(NamedTuple):
    book: PlanBook
    stored: Stored
    table: Table


class AliasWatch:
    """Keeps the routes in step. What is not valid leaves those before it in force."""

    def __init__(
        self,
        path: Path,
        plans: PlanSource,
        make_side: Callable[[Stored], SideMaker],
        tell: Callable[[AliasState], None] = lambda _: None,
    ) -> None:
        """Reads the file and makes the first routes.

        Args:
            path: The file.
            plans: The plans of the moment.
            make_side: Gives what makes the sides of routes.
            tell: Is told what is in force, now and when that changes.

        Raises:
            StartFailure: The file cannot be read, or an alias in it is not valid.
        """
        self.store = AliasStore(path)
        self._plans = plans
        self._make_side = make_side
        self._tell = tell
        # Held while files are read or written and what they say is put in force.
        self._lock = threading.Lock()
        # Held while routes are made or changed.
        self._making = threading.Lock()
        self._next: _Routes | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alias-watch", daemon=True)
        self._error = ""
        self._failed_with: PlanBook | None = None
        self._signature = self.store.signature()
        try:
            stored = self.store.load(self._check)
        except AliasError as error:
            raise StartFailure(f"{path}: {error}") from error
        self._routes = self._routed(stored, plans.book)
        tell(self.state)

    @property
    def state(self) -> AliasState:
        """What is in force."""
        return AliasState(self._routes.stored, self._error)

    def side(self, book: PlanBook, request: Request) -> Side | None:
        """Where a request for a feature service goes; None where it names no alias.

        Args:
            book: The plans of the moment.
            request: The request.
        """
        routes = self._routes
        if routes.book is not book:
            routes = self._renewed(book)
        route = routes.table.get((request.selection_bytes, request.full_feature_names))
        return None if route is None else route.side(request)

    def prepare(self, book: PlanBook) -> None:
        """Makes the routes of plans that are about to go live, so that no request waits for it."""
        with self._making:
            self._next = self._routed(self._routes.stored, book)

    def _renewed(self, book: PlanBook) -> "_Routes":
        with self._making:
            stored = self._routes.stored
            if book.generation < self._routes.book.generation:
                # Of a request that began before the definitions changed: the last of its kind.
                return self._routed(stored, book)
            ready, self._next = self._next, None
            if ready is None or ready.book is not book or ready.stored is not stored:
                ready = self._routed(stored, book)
            self._routes = ready
            return ready

    # ------------------------------------------------------------ changes

    def set(self, alias: Alias, expected: int | None, author: Author) -> Stored:
        """As `AliasStore.set`; in force here when it returns."""
        return self._changed(lambda: self.store.set(alias, expected, author, self._check))

    def remove(self, name: str, expected: int | None, author: Author) -> Stored:
        """As `AliasStore.remove`; in force here when it returns."""
        return self._changed(lambda: self.store.remove(name, expected, author))

    def roll_back(
        self, name: str, revision: int | None, expected: int | None, author: Author
    ) -> Stored:
        """As `AliasStore.roll_back`; in force here when it returns."""
        return self._changed(
            lambda: self.store.roll_back(name, revision, expected, author, self._check)
        )

    def _changed(self, change: Callable[[], Stored]) -> Stored:
        with self._lock:
            stored = change()
            # Somebody else may have written since: the next look reads again.
            self._signature = None
            self._put_in_force(stored)
        return stored

    # ------------------------------------------------------------ the file

    def start(self) -> None:
        """Starts looking at the file."""
        self._thread.start()

    def stop(self) -> None:
        """Stops looking."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """Puts the file in force, if it has changed; or if definitions have, by which it was not
        valid before."""
        with self._lock:
            signature = self.store.signature()
            waits = self._error and self._failed_with is not self._plans.book
            if signature == self._signature and not waits:
                return
            self._signature = self._settled(signature)
            book = self._plans.book
            try:
                stored = self.store.load(self._check)
            except AliasError as error:
                self._failed_with = book
                if str(error) != self._error:
                    logger.error("the aliases before stay in force: %s: %s", self.store.path, error)
                    self._error = str(error)
                    self._tell(self.state)
                return
            self._put_in_force(stored)

    def _settled(self, signature: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
        for _ in range(_SETTLE_LOOKS):
            time.sleep(_SETTLE)
            again = self.store.signature()
            if again == signature:
                break
            signature = again
        return signature

    def _put_in_force(self, stored: Stored) -> None:
        before = self._routes.stored.aliases
        with self._making:
            self._routes = self._routed(stored, self._plans.book)
        self._error = ""
        for name in sorted({*before, *stored.aliases}):
            if before.get(name) != stored.aliases.get(name):
                logger.info("alias %r is now %s", name, _words(stored.aliases, name))
        self._tell(self.state)

    def _routed(self, stored: Stored, book: PlanBook) -> _Routes:
        return _Routes(book, stored, make_table(stored.aliases, book, self._make_side(stored)))

    def _check(self, alias: Alias) -> None:
        check_alias(alias, self._plans.book)

    def _run(self) -> None:
        while not self._stop.wait(LOOK):
            try:
                self.look()
            except Exception:
                # Serving goes on with what is in force.
                logger.exception("a look at %s has failed", self.store.path)


def _words(aliases: Mapping[str, Alias], name: str) -> str:
    alias = aliases.get(name)
    return "gone" if alias is None else str(alias.as_dict())
