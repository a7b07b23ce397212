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
class View:
    """A feature view of any kind."""

    name: str
    kind: str
    """`batch`, `stream`, `on-demand` or `label`."""
    entities: tuple[str, ...]
    join_keys: tuple[Feature, ...]
    features: tuple[Feature, ...]
    ttl_seconds: float
    """0 where rows do not expire."""
    version: int
    versions: tuple[int, ...]
    """All that the registry keeps; empty where it keeps none."""
    problem: str
    """Why it has no rows to serve; empty where it may have."""
    description: str
    tags: dict[str, str]
    owner: str
    marks: Marks
    materialized_until: float | None
    """Seconds since 1970; None where it never was."""
    sources: tuple[str, ...]
    """Names of the data sources: of its batch, and of its stream or pushes; for an on-demand view
    those of requests."""
    inputs: tuple[Taken, ...]
    """What an on-demand view is computed from."""
    request_fields: tuple[Feature, ...]

    def feature(self, name: str) -> Feature | None:
        """The feature called `name`, or None."""
        return next((f for f in self.features if f.name == name), None)


@dataclass(frozen=True, slots=True)
class Service:
    """A feature service."""

    name: str
    takes: tuple[Taken, ...]
    description: str
    tags: dict[str, str]
    owner: str
    marks: Marks


@dataclass(frozen=True, slots=True)
class Entity:
    """What features are looked up by."""

    name: str
    join_key: str
    type: str
    description: str
    tags: dict[str, str]
    owner: str
    marks: Marks


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows, or the fields of a request, come from."""

    name: str
    kind: str
    """Such as `file`, `push`, `kafka` or `request`."""
    description: str
    tags: dict[str, str]
    owner: str
    marks: Marks
    batch_source: str = ""
    """The source with the history of what is pushed or streamed; empty where there is none."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All of a project, each kind by name and in its order."""

    project: str
    entities: dict[str, Entity]
    sources: dict[str, Source]
    views: dict[str, View]
    services: dict[str, Service]
