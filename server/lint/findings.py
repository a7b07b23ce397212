"""What a rule is, and what it finds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from hotfeast.server.places import Place
from hotfeast.server.severities import Ranked

if TYPE_CHECKING:
    from hotfeast.server.lint.subject import Subject


class Severity(Ranked):
    """How bad a finding is."""

    error = "error"
    warning = "warning"
    info = "info"


class Kind(StrEnum):
    """What a finding is about."""

    view = "feature view"
    service = "feature service"
    entity = "entity"
    source = "data source"


class Needs(StrEnum):
    """What a rule looks at beside the definitions: the option that has it looked at."""

    nothing = ""
    data = "--data"
    traffic = "--monitor-dir"


class Fault(NamedTuple):
    """What a check says.

    Attributes:
        kind: Of what it is about.
        name: Of that.
        field: A feature or other field of it; empty where it is about the whole.
        message: What is wrong.
        fix: What to do.
    """

    kind: Kind
    name: str
    field: str
    message: str
    fix: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule.

    Attributes:
        id: How it is called in options, tags and results. It does not change.
        severity: Of what it finds.
        about: What it finds, in a sentence.
        check: Finds it.
        needs: What it looks at beside the definitions.
    """

    id: str
    severity: Severity
    about: str
    check: Callable[["Subject"], Iterator[Fault]]
    needs: Needs = Needs.nothing


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault, as it is told.

    Attributes:
        rule: The id of the rule that found it.
        severity: Of the rule.
        kind: Of what it is about.
        name: Of that.
        field: A feature or other field of it; empty where it is about the whole.
        message: What is wrong.
        fix: What to do.
        place: Where it is written; None where that is not known.
    """

    rule: str
    severity: Severity
    kind: Kind
    name: str
    field: str
    message: str
    fix: str
    place: Place | None

    @property
    def subject(self) -> str:
        """What it is about, by name."""
        return f"{self.name}:{self.field}" if self.field else self.name

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "rule": self.rule,
            "severity": str(self.severity),
            "kind": str(self.kind),
            "name": self.name,
            "field": self.field or None,
            "message": self.message,
            "fix": self.fix,
            "file": self.place.file if self.place is not None else None,
            "line": self.place.line if self.place is not None else None,
        }
