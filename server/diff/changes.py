"""What a change is."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from hotfeast.server.monitoring.report.catalogue import Catalogue, Service, View
from hotfeast.server.monitoring.traffic import Traffic
from hotfeast.server.places import Place
from hotfeast.server.registry import Definitions
from hotfeast.server.severities import Ranked


class Severity(Ranked):
    """How bad a change is."""

    breaking = "breaking"
    """Requests are refused, or are answered without what they had or with another type."""
    risky = "risky"
    """Requests are answered as before, and what they are told may be something else."""
    safe = "safe"


class Kind(StrEnum):
    """What changes."""

    view = "feature view"
    service = "feature service"


@dataclass(frozen=True, slots=True)
class ReadBy:
    """Somebody who reads what changes.

    Attributes:
        service: The feature service that it is read through; empty for a list of features.
        caller: Who it is; empty where the request does not say.
        rows: How many rows were seen to be read.
        last: When the last time was, in seconds since 1970.
    """

    service: str
    caller: str
    rows: int
    last: float

    def __str__(self) -> str:
        by = self.caller or "unknown"
        through = f" through {self.service}" if self.service else ""
        return f"{by}{through}, {self.rows:,} rows, last {time_words(self.last)}"


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one thing.

    Attributes:
        severity: How bad it is.
        kind: Of what.
        name: Of that.
        field: A feature of it; empty where it is about the whole.
        what: What changes.
        effect: What that does to requests.
        services: Names of the feature services that it reaches.
        read_by: Who was seen to read it; None where that is not known.
        place: Where it is written now; None for what is written no more.
    """

    severity: Severity
    kind: Kind
    name: str
    field: str
    what: str
    effect: str
    services: tuple[str, ...] = ()
    read_by: tuple[ReadBy, ...] | None = None
    place: Place | None = None

    @property
    def subject(self) -> str:
        """What changes, by name."""
        return f"{self.name}:{self.field}" if self.field else self.name

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "severity": str(self.severity),
            "kind": str(self.kind),
            "name": self.name,
            "field": self.field or None,
            "what": self.what,
            "effect": self.effect,
            "services": list(self.services),
            "read_by": None
            if self.read_by is None
            else [
                {
                    "service": by.service or None,
                    "caller": by.caller or None,
                    "rows": by.rows,
                    "last": datetime.fromtimestamp(by.last, UTC).isoformat(),
                }
                for by in self.read_by
            ],
            "file": self.place.file if self.place is not None else None,
            "line": self.place.line if self.place is not None else None,
        }


@dataclass(frozen=True, slots=True)
class State:
    """A project as a registry has it.

    Attributes:
        definitions: As the gateway serves it.
        catalogue: As it is described.
    """

    definitions: Definitions
    catalogue: Catalogue

    def services_of(self, view: str, feature: str = "") -> frozenset[str]:
        """The services that take a view, or one of its features, also through on-demand views.

        Args:
            view: The view.
            feature: The feature; empty for any.
        """
        views = self.catalogue.views
        return frozenset(
            service.name
            for service in self.catalogue.services.values()
            if _takes(service, view, feature)
            or any(
                _takes(views[taken.view], view, feature)
                for taken in service.takes
                if taken.view in views
            )
        )

    def computed_from(self, view: str, feature: str) -> list[str]:
        """The on-demand views that take a feature."""
        return [
            other.name for other in self.catalogue.views.values() if _takes(other, view, feature)
        ]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is compared.

    Attributes:
        before: What the registry has.
        after: What it would have.
        now: When it is compared, in seconds since 1970.
        traffic: Who reads what; None where that is not known.
    """

    before: State
    after: State
    now: float
    traffic: Traffic | None = None

    def services_of(self, view: str, feature: str = "") -> tuple[str, ...]:
        """The services that take a view or feature, before or after."""
        return tuple(
            sorted(self.before.services_of(view, feature) | self.after.services_of(view, feature))
        )

    def readers_of(self, view: str, feature: str = "") -> tuple[ReadBy, ...] | None:
        """Who was seen to read a view or feature, most first; None where that is not known."""
        if self.traffic is None:
            return None
        found: dict[tuple[str, str], ReadBy] = {}
        through = [(view, feature)]
        if feature:
            through += [(name, "") for name in self.before.computed_from(view, feature)]
        for name, wanted in through:
            if wanted and (name, wanted) not in self.traffic.served and self.traffic.complete:
                continue
            services = self.before.services_of(name, wanted)
            for reader, reading in self.traffic.readers_of(name, services):
                by = ReadBy(reader.service or "", reader.caller or "", reading.rows, reading.last)
                key = by.service, by.caller
                if key not in found or found[key].rows < by.rows:
                    found[key] = by
        return tuple(sorted(found.values(), key=lambda by: -by.rows))

    def readers_of_service(self, service: str) -> tuple[ReadBy, ...] | None:
        """Who was seen to read a service, most first; None where that is not known."""
        if self.traffic is None:
            return None
        found: dict[str, ReadBy] = {}
        for reader, reading in self.traffic.readers.items():
            if reader.service == service:
                by = ReadBy(service, reader.caller or "", reading.rows, reading.last)
                # Each view of a request has its rows.
                if by.caller not in found or found[by.caller].rows < by.rows:
                    found[by.caller] = by
        return tuple(sorted(found.values(), key=lambda by: -by.rows))

    def loss(self, services: tuple[str, ...], read_by: tuple[ReadBy, ...] | None) -> Severity:
        """How bad it is that something is served no more: breaking, unless it is known that
        nobody reads it and no service takes it."""
        known = self.traffic is not None and self.traffic.complete
        unused = known and not read_by and not services
        return Severity.risky if unused else Severity.breaking


def time_words(seconds: float) -> str:
    """A time in UTC, to the minute."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def changed_keys(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """The keys whose values differ, or that only one has, in order."""
    return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def _takes(of: Service | View, view: str, feature: str) -> bool:
    takes = of.takes if isinstance(of, Service) else of.inputs
    return any(taken.view == view and (not feature or feature in taken.features) for taken in takes)
