"""What a registry says of its features, for those who look for one: nothing of it is executed.

It is read off the stored messages themselves, since Feast's objects leave out part of it, and
making an on-demand view's loads its function. Tags carry what Feast has no field for: `pii`
(`true`), `deprecated` (`true`, or words such as what replaces it) and `sunset` (the day it goes),
of a view, for all its features, or of a single feature, which then decides for itself.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hotfeast.server.feast_api import (
    DUMMY_ENTITY_NAME,
    EntityMessage,
    FeatureServiceMessage,
    FeatureViewMessage,
    LabelViewMessage,
    OnDemandFeatureViewMessage,
    StreamFeatureViewMessage,
)
from hotfeast.server.gateway import open_repository
from hotfeast.server.registry_source import Stored, open_source

ON_DEMAND = "on-demand"
"""The kind of a view that is computed."""

_VIEWS: dict[str, tuple[str, Any]] = {
    "feature_views": ("batch", FeatureViewMessage),
    "stream_feature_views": ("stream", StreamFeatureViewMessage),
    "on_demand_feature_views": (ON_DEMAND, OnDemandFeatureViewMessage),
    "label_views": ("label", LabelViewMessage),
}
# Feast's lifecycle states in which a view has no rows yet.
_NOT_MATERIALIZED = {1: "created, not materialized yet", 2: "generated, not materialized yet"}
_NO = frozenset({"", "false", "no", "0"})


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


def read_catalogue(project: str, stored: Stored) -> Catalogue:
    """Makes the catalogue of what was read of a registry.

    Args:
        project: Feast's project.
        stored: What was read.

    Raises:
        google.protobuf.message.DecodeError: A message is corrupt.
    """
    sources: dict[str, Source] = {}
    versions: dict[str, list[int]] = {}
    for version in stored.versions or ():
        versions.setdefault(version.view, []).append(version.number)
    views = []
    for key, (kind, message_class) in _VIEWS.items():
        for message in stored.messages[key]:
            view = message_class.FromString(message)
            for source in _sources(view.spec):
                sources[source.name] = _source(source)
                if source.HasField("batch_source"):
                    sources[source.batch_source.name] = _source(source.batch_source)
            views.append(_view(kind, view, versions.get(view.spec.name, [])))
    return Catalogue(
        project=project,
        entities=_by_name(
            _entity(spec)
            for spec in (EntityMessage.FromString(m).spec for m in stored.messages["entities"])
            if spec.name != DUMMY_ENTITY_NAME
        ),
        sources=_by_name(sources.values()),
        views=_by_name(views),
        services=_by_name(
            _service(FeatureServiceMessage.FromString(m).spec)
            for m in stored.messages["feature_services"]
        ),
    )


def open_catalogue(repo: Path) -> Callable[[], Catalogue]:
    """What reads the catalogue of a repository, again each time it is called.

    Args:
        repo: Folder with `feature_store.yaml`.

    Raises:
        StartFailure: It cannot be read.
    """
    store = open_repository(repo)
    source = open_source(store)
    return lambda: read_catalogue(store.project, source.read())


def _by_name(things: Iterable[Any]) -> dict[str, Any]:
    return {thing.name: thing for thing in sorted(things, key=lambda t: t.name)}


def _marks(tags: dict[str, str], inherited: Marks = NO_MARKS) -> Marks:
    def said(tag: str, otherwise: str) -> str:
        text = tags.get(tag, otherwise).strip()
        return "" if text.lower() in _NO else text

    return Marks(
        pii=bool(said("pii", "true" if inherited.pii else "")),
        deprecated=said("deprecated", inherited.deprecated),
        sunset=said("sunset", inherited.sunset),
    )


def _type_name(spec: Any) -> str:
    kinds = spec.DESCRIPTOR.fields_by_name["value_type"].enum_type.values_by_number
    return str(kinds[spec.value_type].name) if spec.value_type in kinds else str(spec.value_type)


def _feature(spec: Any, inherited: Marks) -> Feature:
    tags = dict(spec.tags)
    return Feature(spec.name, _type_name(spec), spec.description, tags, _marks(tags, inherited))


def _sources(spec: Any) -> Iterator[Any]:
    """Data source messages of a view of any kind."""
    fields = spec.DESCRIPTOR.fields_by_name
    for name in ("batch_source", "stream_source", "source"):
        if name in fields and spec.HasField(name) and getattr(spec, name).name:
            yield getattr(spec, name)
    if "sources" in fields:
        for source in spec.sources.values():
            if source.HasField("request_data_source"):
                yield source.request_data_source


def _source(message: Any) -> Source:
    tags = dict(message.tags)
    kind = message.SourceType.Name(message.type).lower()
    return Source(
        name=message.name,
        kind=kind.removeprefix("batch_").removeprefix("stream_").removesuffix("_source"),
        description=message.description,
        tags=tags,
        owner=message.owner,
        marks=_marks(tags),
        batch_source=message.batch_source.name if message.HasField("batch_source") else "",
        fields=tuple(field.name for field in message.request_data_options.schema),
    )


def _taken(projection: Any) -> Taken:
    return Taken(
        view=projection.feature_view_name,
        features=tuple(f.name for f in projection.feature_columns),
        alias=projection.feature_view_name_alias,
        version=projection.version_tag if projection.HasField("version_tag") else None,
    )


def _inputs(spec: Any) -> Iterator[Taken]:
    """What an on-demand view is computed from."""
    for source in spec.sources.values():
        if source.HasField("feature_view_projection"):
            yield _taken(source.feature_view_projection)
        elif source.HasField("feature_view"):
            # As registries of old versions of Feast have it.
            view = source.feature_view.spec
            yield Taken(view.name, tuple(f.name for f in view.features))


def _view(kind: str, message: Any, versions: list[int]) -> View:
    spec, meta = message.spec, message.meta
    tags = dict(spec.tags)
    marks = _marks(tags)
    on_demand = kind == ON_DEMAND
    requests = [s for s in _sources(spec) if s.WhichOneof("options") == "request_data_options"]
    ends = [
        interval.end_time.ToMicroseconds() / 1e6
        # On-demand views have none, and label views neither these nor versions.
        for interval in getattr(meta, "materialization_intervals", ())
    ]
    return View(
        name=spec.name,
        kind=kind,
        entities=tuple(e for e in spec.entities if e != DUMMY_ENTITY_NAME),
        join_keys=tuple(
            _feature(c, marks)
            for c in spec.entity_columns
            if list(spec.entities) != [DUMMY_ENTITY_NAME]
        ),
        features=tuple(_feature(f, marks) for f in spec.features),
        ttl_seconds=0 if on_demand else spec.ttl.ToMicroseconds() / 1e6,
        version=getattr(meta, "current_version_number", 0),
        versions=tuple(sorted(versions)),
        problem=_problem(spec, meta, on_demand),
        description=spec.description,
        tags=tags,
        owner=spec.owner,
        marks=marks,
        materialized_until=max(ends, default=None),
        sources=tuple(source.name for source in _sources(spec)),
        inputs=tuple(_inputs(spec)) if on_demand else (),
        request_fields=tuple(
            _feature(f, _marks(dict(source.tags)))
            for source in requests
            for f in source.request_data_options.schema
        ),
    )


def _problem(spec: Any, meta: Any, on_demand: bool) -> str:
    if not on_demand and not spec.online:
        return "defined with online=False: it has no rows to serve"
    if getattr(spec, "disabled", False):
        return "disabled"
    return _NOT_MATERIALIZED.get(int(getattr(meta, "state", 0)), "")


def _service(spec: Any) -> Service:
    tags = dict(spec.tags)
    return Service(
        name=spec.name,
        takes=tuple(_taken(projection) for projection in spec.features),
        description=spec.description,
        tags=tags,
        owner=spec.owner,
        marks=_marks(tags),
    )


def _entity(spec: Any) -> Entity:
    tags = dict(spec.tags)
    return Entity(
        name=spec.name,
        join_key=spec.join_key,
        type=_type_name(spec),
        description=spec.description,
        tags=tags,
        owner=spec.owner,
        marks=_marks(tags),
    )
