"""The file of aliases: what all workers read, and any of them may rewrite.

It is replaced as a whole, so that nobody reads half of one. Beside it is the record of changes,
which is also what writers lock. What somebody edits in the file is written into the record by the
first worker that sees it.
"""

import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import grpc

from hotfeast.server.errors import RequestFailure, not_servable, unknown_name
from hotfeast.server.traffic.aliases import Alias, AliasError, read_aliases, write_aliases
from hotfeast.server.traffic.changes import (
    EDITED,
    REMOVED,
    ROLLED_BACK,
    SET,
    Change,
    Record,
    read_changes,
)
from hotfeast.server.whole_files import replace_file

logger = logging.getLogger(__name__)

Check = Callable[[Alias], None]
"""Raises AliasError where an alias cannot be served."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What the file and the record say.

    Attributes:
        aliases: The aliases.
        record: All changes so far; empty where there is no record.
    """

    aliases: Mapping[str, Alias]
    record: Record


@dataclass(frozen=True, slots=True)
class Author:
    """Who makes a change, and why.

    Attributes:
        who: `x-caller`, else `user-agent`.
        peer: The address.
        reason: What was given as one.
    """

    who: str
    peer: str
    reason: str


class AliasStore:
    """The file of aliases and the record of their changes.

    Attributes:
        path: The file.
        log_path: The record.
    """

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: The file; it must be there, but nothing has to be in it.
        """
        self.path = path
        self.log_path = path.with_name(f"{path.stem}.log.jsonl")
        self._complained = False

    def signature(self) -> tuple[int, int, int] | None:
        """Changes when the file does; None where there is none."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def load(self, check: Check) -> Stored:
        """Reads the aliases, and records those that somebody has edited.

        Args:
            check: Judges those that have not been valid before.

        Raises:
            AliasError: The file cannot be read, or an alias in it is not valid.
        """
        with self._locked() as log:
            record = _record(log)
            aliases = self._read()
            edited = record.edited(aliases)
            for alias in edited.values():
                if alias is not None:
                    check(alias)
            if log is None or not edited:
                return Stored(aliases, record)
            author = Author("", "", "")
            changes = [_change(record, n, EDITED, author, a) for n, a in sorted(edited.items())]
            return Stored(aliases, _append(log, record, changes))

    def set(self, alias: Alias, expected: int | None, author: Author, check: Check) -> Stored:
        """Sets an alias, whether it is there already or not.

        Args:
            alias: What it is to be.
            expected: The revision that it must be at; 0 where it must not be there, None for any.
            author: Who wants it.
            check: Judges it.

        Raises:
            AliasError: It cannot be served.
            RequestFailure: It is at another revision (ABORTED), or files cannot be written.
        """

        def changed(record: Record, aliases: dict[str, Alias]) -> Alias:
            check(alias)
            return alias

        return self._change(alias.name, SET, expected, author, changed)

    def remove(self, name: str, expected: int | None, author: Author) -> Stored:
        """Removes an alias; arguments as for `set`.

        Raises:
            RequestFailure: There is none (NOT_FOUND), and as for `set`.
        """

        def changed(record: Record, aliases: dict[str, Alias]) -> None:
            if name not in aliases:
                raise unknown_name("alias", name, aliases)

        return self._change(name, REMOVED, expected, author, changed)

    def roll_back(
        self, name: str, revision: int | None, expected: int | None, author: Author, check: Check
    ) -> Stored:
        """Sets an alias to what it was; arguments as for `set`.

        Args:
            name: The alias.
            revision: The number of the state to go back to; that before the last change if None.

        Raises:
            AliasError: That state cannot be served any more.
            RequestFailure: There is no such alias or state, and as for `set`.
        """

        def changed(record: Record, aliases: dict[str, Alias]) -> Alias:
            if not record.of(name):
                raise unknown_name("alias", name, aliases)
            before = record.before(name, revision)
            if before is None:
                wanted = "before the last change" if revision is None else f"at revision {revision}"
                raise not_servable(f"alias {name!r}: there was no such alias {wanted}")
            check(before)
            return before

        return self._change(name, ROLLED_BACK, expected, author, changed)

    def _change(
        self,
        name: str,
        action: str,
        expected: int | None,
        author: Author,
        changed: Callable[[Record, dict[str, Alias]], Alias | None],
    ) -> Stored:
        with self._locked() as log:
            if log is None:
                raise not_servable(
                    f"aliases cannot be changed: {self.log_path} cannot be written, which has the "
                    "record of changes; edit the file of aliases where it is made"
                )
            record = _record(log)
            try:
                aliases = self._read()
            except AliasError as error:
                raise not_servable(f"mend {self.path} first: {error}") from error
            if name in record.edited(aliases):
                raise RequestFailure(
                    grpc.StatusCode.ABORTED,
                    f"alias {name!r} has just been edited in {self.path}; read it again",
                )
            at = record.revision(name) if name in aliases else 0
            if expected is not None and expected != at:
                raise RequestFailure(
                    grpc.StatusCode.ABORTED,
                    f"alias {name!r} is at revision {at}, not {expected}: somebody else has "
                    "changed it; read it again",
                )
            alias = changed(record, aliases)
            if alias is None:
                aliases.pop(name, None)
            else:
                aliases[name] = alias
            change = _change(record, name, action, author, alias)
            try:
                replace_file(self.path, write_aliases(aliases))
                return Stored(aliases, _append(log, record, [change]))
            except OSError as error:
                raise not_servable(f"aliases cannot be changed: {error}") from error

    @contextmanager
    def _locked(self) -> Iterator[IO[bytes] | None]:
        """The record, while nobody else has it; None where it cannot be written."""
        try:
            log = self.log_path.open("a+b")
        except OSError as error:
            if not self._complained:
                self._complained = True
                logger.warning(
                    "changes of aliases are not recorded, and none can be made by calls: %s", error
                )
            yield None
            return
        with log:
            fcntl.flock(log, fcntl.LOCK_EX)
            yield log

    def _read(self) -> dict[str, Alias]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise AliasError(f"it cannot be read: {error}") from error
        return read_aliases(text)


def _record(log: IO[bytes] | None) -> Record:
    if log is None:
        return Record([])
    log.seek(0)
    return Record(read_changes(log.read()))


def _change(record: Record, name: str, action: str, author: Author, alias: Alias | None) -> Change:
    return Change(
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        alias=name,
        revision=record.revision(name) + 1,
        action=action,
        who=author.who,
        peer=author.peer,
        reason=author.reason,
        old=record.state(name),
        new=None if alias is None else alias.as_dict(),
    )


def _append(log: IO[bytes], record: Record, changes: list[Change]) -> Record:
    log.seek(0, os.SEEK_END)
    data = b"".join(change.to_line() for change in changes)
    if log.tell():
        # A line that was cut must not swallow the next one.
        log.seek(-1, os.SEEK_END)
        if log.read(1) != b"\n":
            data = b"\n" + data
    log.write(data)
    log.flush()
    os.fsync(log.fileno())
    return Record([*record.changes, *changes])
