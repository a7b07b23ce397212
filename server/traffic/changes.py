"""The record of all changes of aliases: one JSON object a line, appended and never rewritten.

It says who changed what, when and why, numbers the states of each alias (its revisions), and is
what a rollback goes back by.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hotfeast.server.traffic.aliases import Alias, parse_alias

SET, REMOVED, ROLLED_BACK, EDITED = "set", "removed", "rolled back", "file edited"


@dataclass(frozen=True, slots=True)
class Change:
    """One change."""

    time: str
    """ISO 8601, in UTC."""
    alias: str
    revision: int
    """Of the alias: 1 for its first state, one more with each change."""
    action: str
    """SET, REMOVED, ROLLED_BACK or EDITED."""
    who: str
    """`x-caller` of the call, else its `user-agent`; empty where there is none."""
    peer: str
    """The address of who called; empty where the file was edited."""
    reason: str
    old: dict[str, Any] | None
    """The state before, in the long form; None where there was no such alias."""
    new: dict[str, Any] | None
    """The state since; None where the alias was removed."""

    def to_line(self) -> bytes:
        """The line of the record."""
        return json.dumps(asdict(self), ensure_ascii=False).encode() + b"\n"


def read_changes(data: bytes) -> list[Change]:
    """Reads a record. A line that is cut, as by a full disk, is left out.

    Args:
        data: What is in it.
    """
    changes = []
    for line in data.splitlines():
        try:
            changes.append(Change(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return changes


class Record:
    """What the record says of each alias."""

    def __init__(self, changes: Sequence[Change]) -> None:
        """
        Args:
            changes: All of them, oldest first.
        """
        self.changes = changes
        self._of: dict[str, list[Change]] = {}
        for change in changes:
            self._of.setdefault(change.alias, []).append(change)

    def of(self, alias: str) -> Sequence[Change]:
        """The changes of one alias, oldest first."""
        return self._of.get(alias, ())

    def revision(self, alias: str) -> int:
        """The number of an alias's state; 0 where nothing is known of it."""
        changes = self.of(alias)
        return changes[-1].revision if changes else 0

    def state(self, alias: str) -> dict[str, Any] | None:
        """The last state; None where there is no such alias."""
        changes = self.of(alias)
        return changes[-1].new if changes else None

    def is_known(self, alias: Alias) -> bool:
        """Whether this is the alias's last state: it has been valid before."""
        return self.state(alias.name) == alias.as_dict()

    def edited(self, aliases: Mapping[str, Alias]) -> dict[str, Alias | None]:
        """The aliases of a file that are others than the record's; None for one that is gone."""
        found: dict[str, Alias | None] = {
            name: alias for name, alias in aliases.items() if not self.is_known(alias)
        }
        for name in self._of:
            if name not in aliases and self.state(name) is not None:
                found[name] = None
        return found

    def before(self, alias: str, revision: int | None) -> Alias | None:
        """The state that a rollback goes back to.

        Args:
            alias: The alias.
            revision: The number of that state; that before the last change if None.

        Returns:
            None where there is no such state, or the alias was not there in it.
        """
        changes = self.of(alias)
        if revision is None:
            said = changes[-1].old if changes else None
        else:
            said = next((c.new for c in changes if c.revision == revision), None)
        return None if said is None else parse_alias(alias, said)

    def shadowed_since(self, alias: Alias) -> int:
        """The revision from which on an alias has had its shadow; 0 where that is not known."""
        since = 0
        for change in reversed(self.of(alias.name)):
            shadow = (change.new or {}).get("shadow")
            if alias.shadow is None or shadow is None or shadow["target"] != alias.shadow.target:
                break
            since = change.revision
        return since
