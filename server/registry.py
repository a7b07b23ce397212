"""Feast's registry as immutable definitions: all that serving needs, and nothing it could change.

Feast's own objects are mutable, differ by kind of view, and are made anew on each read of the
registry. They are read once per refresh, here; the rest of the server knows only these classes.
The exception is an on-demand view's own object, which carries its function.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from hotfeast.hotpath.definition import LAYOUTS
from hotfeast.server.feast_api import (
    DUMMY_ENTITY_NAME,
    Entity,
    EntityMessage,
    FeatureService,
    FeatureServiceMessage,
    FeatureStore,
    FeatureView,
    FeatureViewMessage,
    LabelView,
    LabelViewMessage,
    OnDemandFeatureView,
    OnDemandFeatureViewMessage,
    PushSource,
    StreamFeatureView,
    StreamFeatureViewMessage,
)
from hotfeast.server.layouts import repository_layout
from hotfeast.server.registry_source import KINDS, Stored, keeps_versions_apart, open_source
from hotfeast.server.repo_files import FunctionRefused, with_repo_function, without_function
from hotfeast.server.security.feast_permissions import FeastPermission, read_permission

# Feast's lifecycle states, by number: 1 CREATED, 2 GENERATED, 3 MATERIALIZING, 4 AVAILABLE_ONLINE.
# A view that is being materialized has the rows of the last time, and is served.
_STATES_WITHOUT_ROWS = {1: "CREATED", 2: "GENERATED"}

_KINDS = {
    "FeatureView": "feature_view",
    "BatchFeatureView": "batch_feature_view",
    "StreamFeatureView": "stream_feature_view",
    "OnDemandFeatureView": "on_demand_feature_view",
    "LabelView": "label_view",
}

# By the kind in the registry: the message that is stored, and what Feast makes of it.
_VIEWS: dict[str, tuple[Any, Any]] = {
    "feature_views": (FeatureViewMessage, FeatureView),
    "stream_feature_views": (StreamFeatureViewMessage, StreamFeatureView),
    "on_demand_feature_views": (OnDemandFeatureViewMessage, OnDemandFeatureView),
    "label_views": (LabelViewMessage, LabelView),
}


@dataclass(frozen=True, slots=True)
class FieldDefinition:
    """A join key, a feature or a request field."""

    name: str
    value_type: int
    """Number in `ValueType.Enum`."""
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    vector_length: int = 0
    """How many elements each vector of an indexed vector field has; 0 where it is not declared."""


@dataclass(frozen=True, slots=True)
class Projection:
    """The part of a view that a feature service, or an on-demand view, takes."""

    view: str
    alias: str | None
    features: tuple[str, ...]
    join_key_map: dict[str, str]
    version: int | None

    @property
    def name(self) -> str:
        """The name that features of this projection are prefixed with."""
        name = self.alias or self.view
        return name if self.version is None else f"{name}@v{self.version}"


@dataclass(frozen=True, slots=True)
class SourceDefinition:
    """Where the rows of a view come from."""

    timestamp_field: str
    created_timestamp_column: str
    """Empty where there is none."""
    field_mapping: dict[str, str]
    """Column names in the source to names in the view, for those that differ."""
    push_source: str
    """Name of the push source that feeds the view; empty where there is none."""


@dataclass(frozen=True, slots=True)
class ViewDefinition:
    """A feature view of any kind."""

    name: str
    kind: str
    entities: tuple[str, ...]
    """Names of the entities; empty for an entityless view."""
    join_keys: tuple[FieldDefinition, ...]
    features: tuple[FieldDefinition, ...]
    ttl_seconds: float
    """0 where rows do not expire."""
    online: bool
    version: int
    problem: str
    """Why it cannot be served; empty where it can."""
    description: str
    tags: dict[str, str]
    owner: str
    materialized_until: datetime | None
    stored: bool
    """Whether rows are in Redis; false for on-demand views that are computed when read."""
    sources: tuple[Projection, ...] = ()
    """What an on-demand view is computed from."""
    request_fields: tuple[FieldDefinition, ...] = ()
    on_demand: Any = None
    """Feast's object of an on-demand view."""
    source: SourceDefinition | None = None
    """None where the view has no batch source."""

    def feature(self, name: str) -> FieldDefinition | None:
        """The feature called `name`, or None."""
        return next((f for f in self.features if f.name == name), None)


@dataclass(frozen=True, slots=True)
class ServiceDefinition:
    """A feature service."""

    name: str
    projections: tuple[Projection, ...]
    description: str
    tags: dict[str, str]
    owner: str


@dataclass(frozen=True, slots=True)
class Definitions:
    """One state of the registry."""

    project: str
    entity_names: dict[str, str]
    """For each entity its join key."""
    views: dict[str, ViewDefinition]
    versions: dict[tuple[str, int], ViewDefinition]
    """Views as they were at a version, by name and number; empty unless `versioned_storage`."""
    services: dict[str, ServiceDefinition]
    versioned_storage: bool
    """Whether the storage names of views carry their version, so that old ones can be read."""
    fingerprint: str
    """Changes when any definition does."""
    permissions: tuple[FeastPermission, ...] = ()
    """Feast's, which say who may do what."""
    layout: str = LAYOUTS[0]
    """How rows of views without a tag for it are stored; see `layouts`."""
    cache_seconds: float = 0.0
    """How long rows of views without a tag for it may be answered from the cache; see
    `staleness`."""


@dataclass(frozen=True, slots=True)
class RegistryState:
    """What the looks at the registry have said."""

    updated: datetime | None
    """When the registry says it was last changed."""
    read: datetime
    """When it was last read."""
    error: str = ""
    """Why it could not be read at the last look; empty where it could."""


class RegistryReader:
    """Reads a repository's registry, and makes definitions of what it holds.

    What has not changed is not made anew, so that a change costs as much as it changes.
    """

    def __init__(
        self,
        store: FeatureStore,
        repo_views: Mapping[str, Any] | None = None,
        layout: str | None = None,
        cache_seconds: float = 0.0,
    ) -> None:
        """
        Args:
            store: The repository.
            repo_views: Feast's on-demand views of the repository's own files by name, whose
                functions are used instead of the registry's; those of the registry are then not
                deserialized. None to use the registry's.
            layout: The layout of views without a tag for it; feature_store.yaml's if None.
            cache_seconds: How long rows of views without a tag for it may be answered from the
                cache.

        Raises:
            StartFailure: feature_store.yaml names a layout that there is not.
            Exception: Whatever Feast raises where it knows no registry of this kind.
        """
        self._source = open_source(store)
        self._project = store.project
        self._versioned = keeps_versions_apart(store)
        self._repo_views = repo_views
        self._layout = layout or repository_layout(store.config)
        self._cache_seconds = cache_seconds
        self._made: dict[tuple[str, bytes], Any] = {}

    def read(self) -> Stored:
        """Fetches the registry anew.

        Raises:
            Exception: It cannot be read.
        """
        return self._source.read()

    def define(self, stored: Stored, pause: Callable[[], None] = lambda: None) -> Definitions:
        """Makes definitions of what was read.

        Args:
            stored: What was read.
            pause: Is called after each definition that is made, to let others have their turn.

        Raises:
            Exception: Whatever Feast raises where a definition cannot be read.
        """
        made: dict[tuple[str, bytes], Any] = {}

        def make(kind: str, message: bytes) -> Any:
            key = kind, message
            if key not in self._made:
                made[key] = _make(kind, message, self._repo_views)
                pause()
            else:
                made[key] = self._made[key]
            return made[key]

        views = {
            view.name: view
            for kind in KINDS
            if kind in _VIEWS
            for view in (make(kind, message) for message in stored.messages[kind])
        }
        versions: dict[tuple[str, int], ViewDefinition] = {}
        if self._versioned and stored.versions is None:
            # Feast then takes a view for its own version 0, and knows no other.
            versions = {(name, 0): view for name, view in views.items()}
        for version in stored.versions or ():
            if self._versioned and version.view in views:
                view = make(version.kind, version.message)
                versions[version.view, version.number] = replace(view, version=version.number)
        definitions = Definitions(
            project=self._project,
            entity_names=dict(make("entities", m) for m in stored.messages["entities"]),
            views=views,
            versions=versions,
            services={
                service.name: service
                for service in (
                    make("feature_services", m) for m in stored.messages["feature_services"]
                )
            },
            versioned_storage=self._versioned,
            fingerprint=stored.fingerprint,
            permissions=tuple(make("permissions", m) for m in stored.messages["permissions"]),
            layout=self._layout,
            cache_seconds=self._cache_seconds,
        )
        self._made = made
        return definitions


def read_definitions(store: FeatureStore, layout: str | None = None) -> Definitions:
    """Reads a repository's registry, once.

    Args:
        store: The repository.
        layout: As for `RegistryReader`.

    Raises:
        Exception: The registry, or a definition in it, cannot be read.
    """
    reader = RegistryReader(store, layout=layout)
    return reader.define(reader.read())


def feast_view(stored: Stored, name: str) -> Any:
    """Feast's own object of a view.

    Raises:
        LookupError: The registry has no such view.
        Exception: Whatever Feast raises where the definition cannot be read.
    """
    for kind, (message_class, feast_class) in _VIEWS.items():
        for message in stored.messages[kind]:
            view = message_class.FromString(message)
            if view.spec.name == name:
                return without_function(feast_class, view)
    raise LookupError(f"the registry has no feature view {name!r} any more")


def _make(kind: str, message: bytes, repo_views: Mapping[str, Any] | None) -> Any:
    """A definition of a stored message; of an entity its name and join key."""
    if kind == "entities":
        entity = Entity.from_proto(EntityMessage.FromString(message))
        return entity.name, entity.join_key
    if kind == "permissions":
        return read_permission(message)
    if kind == "feature_services":
        return _service(FeatureService.from_proto(FeatureServiceMessage.FromString(message)))
    message_class, feast_class = _VIEWS[kind]
    stored = message_class.FromString(message)
    try:
        if kind != "on_demand_feature_views":
            return _view(without_function(feast_class, stored))
        if repo_views is not None:
            return _view(with_repo_function(stored, repo_views))
        return _view(feast_class.from_proto(stored))
    except FunctionRefused as refusal:
        return replace(_unreadable_view(stored.spec, kind, refusal), problem=str(refusal))
    except Exception as error:
        # Such as a transform whose function needs a module that is not installed here. The other
        # views do not depend on it.
        return _unreadable_view(stored.spec, kind, error)


def _field(feast_field: Any) -> FieldDefinition:
    return FieldDefinition(
        name=feast_field.name,
        value_type=feast_field.dtype.to_value_type().value,
        description=feast_field.description or "",
        tags=dict(feast_field.tags or {}),
        vector_length=int(feast_field.vector_length or 0) if feast_field.vector_index else 0,
    )


def _source(view: Any) -> SourceDefinition | None:
    batch = getattr(view, "batch_source", None)
    if batch is None:
        return None
    stream = getattr(view, "stream_source", None)
    return SourceDefinition(
        timestamp_field=batch.timestamp_field or "",
        created_timestamp_column=batch.created_timestamp_column or "",
        field_mapping=dict(batch.field_mapping or {}),
        push_source=stream.name if isinstance(stream, PushSource) else "",
    )


def _projection(projection: Any) -> Projection:
    return Projection(
        view=projection.name,
        alias=projection.name_alias or None,
        features=tuple(f.name for f in projection.features),
        join_key_map=dict(projection.join_key_map or {}),
        version=projection.version_tag,
    )


def _service(service: Any) -> ServiceDefinition:
    return ServiceDefinition(
        name=service.name,
        projections=tuple(_projection(p) for p in service.feature_view_projections),
        description=service.description or "",
        tags=dict(service.tags or {}),
        owner=service.owner or "",
    )


def _view(view: Any) -> ViewDefinition:
    kind = _KINDS.get(type(view).__name__, "feature_view")
    on_demand = kind == "on_demand_feature_view"
    stored = not on_demand or bool(view.write_to_online_store)
    online = bool(getattr(view, "online", True)) if not on_demand else True
    ttl = getattr(view, "ttl", None)
    intervals = getattr(view, "materialization_intervals", None) or []
    return ViewDefinition(
        name=view.name,
        kind=kind,
        entities=tuple(e for e in view.entities or [] if e != DUMMY_ENTITY_NAME),
        join_keys=tuple(
            _field(c) for c in view.entity_columns if view.entities != [DUMMY_ENTITY_NAME]
        ),
        features=tuple(_field(f) for f in view.features),
        ttl_seconds=ttl.total_seconds() if ttl else 0,
        online=online,
        version=getattr(view, "current_version_number", None) or 0,
        problem=_problem(view, online),
        description=view.description or "",
        tags=dict(view.tags or {}),
        owner=view.owner or "",
        materialized_until=max((end for _, end in intervals), default=None),
        stored=stored,
        sources=tuple(
            _projection(p) for p in getattr(view, "source_feature_view_projections", {}).values()
        ),
        request_fields=tuple(
            _field(f)
            for source in getattr(view, "source_request_sources", {}).values()
            for f in source.schema
        ),
        on_demand=view if on_demand else None,
        source=None if on_demand else _source(view),
    )


def _unreadable_view(spec: Any, kind: str, error: Exception) -> ViewDefinition:
    return ViewDefinition(
        name=spec.name,
        kind=kind.removesuffix("s"),
        entities=(),
        join_keys=(),
        features=(),
        ttl_seconds=0,
        online=True,
        version=0,
        problem=(
            f"feature view {spec.name!r} cannot be loaded here ({type(error).__name__}: {error}); "
            "a transform needs the modules that it was defined with"
        ),
        description=spec.description,
        tags=dict(spec.tags),
        owner=spec.owner,
        materialized_until=None,
        stored=True,
    )


def _problem(view: Any, online: bool) -> str:
    if not online:
        return (
            f"feature view {view.name!r} is defined with online=False: it has no rows to serve; "
            "set online=True, apply and materialize"
        )
    if not getattr(view, "enabled", True):
        return (
            f"feature view {view.name!r} is disabled; run 'feast feature-views enable {view.name}'"
        )
    aggregated = isinstance(view, OnDemandFeatureView) and bool(view.aggregations)
    if aggregated and not view.write_to_online_store:
        return (
            f"on-demand feature view {view.name!r} has aggregations, which Feast does not compute "
            "for a request either: they would mix the entities that are asked for"
        )
    state = int(getattr(view, "state", 0) or 0)
    if state in _STATES_WITHOUT_ROWS:
        return (
            f"feature view {view.name!r} is in state {_STATES_WITHOUT_ROWS[state]}: "
            "it has not been materialized yet"
        )
    return ""
