"""Feast's registry as immutable definitions: all that serving needs, and nothing it could change.

Feast's own objects are mutable, differ by kind of view, and are made anew on each read of the
registry. They are read once per refresh, here; the rest of the server knows only these classes.
The exception is an on-demand view's own object, which carries its function.
"""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hotfeast.server.feast_api import DUMMY_ENTITY_NAME, FeatureStore

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

# Fields of Feast's registry message that hold what is served.
_KINDS_IN_REGISTRY = (
    "entities",
    "feature_views",
    "stream_feature_views",
    "on_demand_feature_views",
    "label_views",
    "feature_services",
)


@dataclass(frozen=True, slots=True)
class FieldDefinition:
    """A join key, a feature or a request field."""

    name: str
    value_type: int
    """Number in `ValueType.Enum`."""
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict)


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
class ViewDefinition:
    """A feature view of any kind."""

    name: str
    kind: str
    entities: tuple[str, ...]
    """Names of the entities; empty for an entityless view."""
    join_keys: tuple[FieldDefinition, ...]
    features: tuple[FieldDefinition, ...]
    ttl_seconds: int
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
    services: dict[str, ServiceDefinition]
    versioned_storage: bool
    """Whether the storage names of views carry their version."""
    fingerprint: str
    """Changes when any definition does."""


@dataclass(frozen=True, slots=True)
class RegistryState:
    """What one look at the registry says, without making definitions of it."""

    fingerprint: str
    updated: datetime | None
    """When the registry says it was last changed."""
    read: datetime
    """When it was looked at."""


def read_state(store: FeatureStore) -> RegistryState:
    """Fetches the registry anew, into the cache that `read_definitions` reads.

    Raises:
        Exception: Whatever Feast raises where the registry cannot be read.
    """
    store.refresh_registry()
    proto = store.registry.proto()
    updated = proto.last_updated.ToDatetime(tzinfo=UTC) if proto.HasField("last_updated") else None
    return RegistryState(_fingerprint(proto, store.project), updated, datetime.now(UTC))


def read_definitions(store: FeatureStore) -> Definitions:
    """Makes definitions of the registry as it was last fetched.

    Raises:
        Exception: Whatever Feast raises where a definition cannot be read.
    """
    registry, project = store.registry, store.project
    entities = registry.list_entities(project, allow_cache=True)
    views = registry.list_all_feature_views(project, allow_cache=True)
    services = registry.list_feature_services(project, allow_cache=True)
    return Definitions(
        project=project,
        entity_names={e.name: e.join_key for e in entities},
        views={v.name: _view(v) for v in views},
        services={s.name: _service(s) for s in services},
        versioned_storage=bool(
            getattr(store.config.registry, "enable_online_feature_view_versioning", False)
        ),
        fingerprint=_fingerprint(registry.proto(), project),
    )


def _fingerprint(registry: Any, project: str) -> str:
    """A hash of a project's definitions as the registry stores them.

    Not of Feast's objects: serializing a transform's function anew gives other bytes each time.
    """
    content = hashlib.sha256()
    for kind in _KINDS_IN_REGISTRY:
        stored = [thing for thing in getattr(registry, kind) if thing.spec.project == project]
        for thing in sorted(stored, key=lambda thing: thing.spec.name):
            content.update(kind.encode())
            content.update(thing.SerializeToString(deterministic=True))
    return content.hexdigest()


def _field(feast_field: Any) -> FieldDefinition:
    return FieldDefinition(
        name=feast_field.name,
        value_type=feast_field.dtype.to_value_type().value,
        description=feast_field.description or "",
        tags=dict(feast_field.tags or {}),
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
        ttl_seconds=int(ttl.total_seconds()) if ttl else 0,
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
    state = int(getattr(view, "state", 0) or 0)
    if state in _STATES_WITHOUT_ROWS:
        return (
            f"feature view {view.name!r} is in state {_STATES_WITHOUT_ROWS[state]}: "
            "it has not been materialized yet"
        )
    return ""
