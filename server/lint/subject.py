"""What rules look at."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

from hotfeast.server.lint.settings import LintSettings
from hotfeast.server.monitoring.report.catalogue import (
    ON_DEMAND,
    Catalogue,
    Feature,
    Service,
    Taken,
    View,
)
from hotfeast.server.monitoring.traffic import Traffic
from hotfeast.server.registry import Definitions

NUMERIC = frozenset({"INT32", "INT64", "FLOAT", "DOUBLE"})
"""Types of numbers, by name in Feast's `ValueType`."""


class Column(NamedTuple):
    """A column of a view's batch source.

    Attributes:
        type: Its type in the source.
        value_type: What Feast makes of it, by name in `ValueType`; `UNKNOWN` for nothing.
    """

    type: str
    value_type: str


@dataclass(frozen=True, slots=True)
class SourceData:
    """What a view's batch source has.

    Attributes:
        name: Of the source.
        columns: By the names that they have in the view.
        cadence: Seconds between two of its snapshots; None where it has no snapshots.
    """

    name: str
    columns: Mapping[str, Column]
    cadence: float | None


class Use(NamedTuple):
    """A feature as a service takes it."""

    taken: Taken
    view: View
    feature: Feature


@dataclass(frozen=True, slots=True)
class Subject:
    """A repository as its files define it, and what else there is to look at.

    Attributes:
        catalogue: What the definitions say.
        definitions: The same as the gateway would serve it.
        settings: How to lint.
        today: The day that sunsets are judged at.
        data: By view, what its source has; None where that is not looked at.
        traffic: Who reads what; None where that is not known.
    """

    catalogue: Catalogue
    definitions: Definitions
    settings: LintSettings
    today: date
    data: Mapping[str, SourceData] | None = None
    traffic: Traffic | None = None

    def stored_views(self) -> Iterator[View]:
        """Views that have rows, in order."""
        for view in self.catalogue.views.values():
            if view.kind != ON_DEMAND:
                yield view

    def uses(self, service: Service) -> Iterator[Use]:
        """The features that a service takes, in order."""
        for taken in service.takes:
            view = self.catalogue.views.get(taken.view)
            for name in taken.features:
                feature = view.feature(name) if view is not None else None
                if view is not None and feature is not None:
                    yield Use(taken, view, feature)


def words_of(name: str) -> list[str]:
    """The words of a name: of `avg_basketUSD_30d` avg, basket, usd and 30d."""
    parts: list[str] = []
    for part in name.split("_"):
        start = 0
        for i in range(1, len(part)):
            if part[i].isupper() and part[i - 1].islower():
                parts.append(part[start:i])
                start = i
        parts.append(part[start:])
    return [part.lower() for part in parts if part]
