"""What a registry says of its features, for those who look for one: records, and nothing of Feast.

`catalogue_build` makes them of a registry.
"""

from dataclasses import dataclass

ON_DEMAND = "on-demand"
"""The kind of a view that is computed."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What tags say of anything in the catalogue.

    Attributes:
        pii: Whether it describes a person.
        deprecated: What the tag says; empty where it is not deprecated.
        sunset: The day it goes, as the tag has it; empty where none is set.
    """

    pii: bool = False
    deprecated: str = ""
    sunset: str = ""


NO_MARKS = Marks()


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature, a join key or a field of a request."""

    name: str
    type: str
    """Name in Feast's `ValueType`."""
    description: str
    tags: dict[str, str]
    marks: Marks


@dataclass(frozen=True, slots=True)
class Taken:
    """What a service, or an on-demand view, takes of a view."""

    view: str
    features: tuple[str, ...]
    alias: str = ""
    version: int | None = None
    """None for the current one."""


@dataclass(frozen=True, slots=True)
class Described:
    """What is said of anything but a single feature."""

    name: str
    description: str
    tags: dict[str, str]
    owner: str
    marks: Marks


@dataclass(frozen=True, slots=True)
class ViewFacts(Described):
    """What is said of a feature view of any kind."""

    kind: str
    """`batch`, `stream`, `on-demand` or `label`."""
    entities: tuple[str, ...]
    ttl_seconds: float
    """0 where rows do not expire."""
    version: int
    versions: tuple[int, ...]
    """All that the registry keeps; empty where it keeps none."""
    problem: str
    """Why it has no rows to serve; empty where it may have."""
    materialized_until: float | None
    """Seconds since 1970; None where it never was."""
    sources: tuple[str, ...]
    """Names of the data sources: of its batch, and of its stream or pushes; for an on-demand view
    those of requests."""


@dataclass(frozen=True, slots=True)
class View(ViewFacts):
    """A feature view."""

    join_keys: tuple[Feature, ...]
    features: tuple[Feature, ...]
    inputs: tuple[Taken, ...]
    """What an on-demand view is computed from."""
    request_fields: tuple[Feature, ...]

    def feature(self, name: str) -> Feature | None:
        """The feature called `name`, or None."""
        return next((f for f in self.features if f.name == name), None)


@dataclass(frozen=True, slots=True)
class Service(Described):
    """A feature service."""

    takes: tuple[Taken, ...]


@dataclass(frozen=True, slots=True)
class Entity(Described):
    """What features are looked up by."""

    join_key: str
    type: str


@dataclass(frozen=True, slots=True)
class Source(Described):
    """Where rows, or the fields of a request, come from."""

    kind: str
    """Such as `file`, `push`, `kafka` or `request`."""
    batch_source: str = ""
    """The source with the history of what is pushed or streamed; empty where there is none."""
    fields: tuple[str, ...] = ()
    """Names of the fields of a source of requests."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All of a project, each kind by name and in its order."""

    project: str
    entities: dict[str, Entity]
    sources: dict[str, Source]
    views: dict[str, View]
    services: dict[str, Service]
