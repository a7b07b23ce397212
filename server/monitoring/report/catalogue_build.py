"""The catalogue of a registry: nothing that the registry carries is executed for it.

It is read off the stored messages themselves, since Feast's objects leave out part of it, and
making an on-demand view's loads its function. Tags carry what Feast has no field for: `pii`
(`true`), `deprecated` (`true`, or words such as what replaces it) and `sunset` (the day it goes),
of a view, for all its features, or of a single feature, which then decides for itself.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from hotfeast.server.feast_api import (
    DUMMY_ENTITY_NAME,
    EntityMessage,
    FeatureServiceMessage,
    FeatureStore,
    FeatureViewMessage,
    LabelViewMessage,
    OnDemandFeatureViewMessage,
    StreamFeatureViewMessage,
)
from hotfeast.server.monitoring.report.catalogue import (
    NO_MARKS,
    ON_DEMAND,
    Catalogue,
    Entity,
    Feature,
    Marks,
    Service,
    Source,
    Taken,
    View,
)
from hotfeast.server.registry_source import Stored, open_source
from hotfeast.server.repository import reading_registry

_VIEWS: dict[str, tuple[str, Any]] = {
    "feature_views": ("batch", FeatureViewMessage),
    "stream_feature_views": ("stream", StreamFeatureViewMessage),
    "on_demand_feature_views": (ON_DEMAND, OnDemandFeatureViewMessage),
    "label_views": ("label", LabelViewMessage),
}
# Feast's lifecycle states in which a view has no rows yet.
_NOT_MATERIALIZED = {1: "created, not materialized yet", 2: "generated, not materialized yet"}
_NO = frozenset({"", "false", "no", "0"})


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


def catalogue_of(store: FeatureStore) -> Catalogue:
    """The catalogue of a repository.

    Raises:
        StartFailure: The registry cannot be read.
    """
    with reading_registry(store):
        return read_catalogue(store.project, open_source(store).read())


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


def _described(message: Any) -> dict[str, Any]:
    """What any message but a feature's says, for a record of it."""
    tags = dict(message.tags)
    return {
        "name": message.name,
        "description": message.description,
        "tags": tags,
        "owner": message.owner,
        "marks": _marks(tags),
    }


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
    kind = message.SourceType.Name(message.type).lower()
    return Source(
        kind=kind.removeprefix("batch_").removeprefix("stream_").removesuffix("_source"),
        batch_source=message.batch_source.name if message.HasField("batch_source") else "",
        fields=tuple(field.name for field in message.request_data_options.schema),
        **_described(message),
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
    described = _described(spec)
    marks = described["marks"]
    on_demand = kind == ON_DEMAND
    requests = [s for s in _sources(spec) if s.WhichOneof("options") == "request_data_options"]
    ends = [
        interval.end_time.ToMicroseconds() / 1e6
        # On-demand views have none, and label views neither these nor versions.
        for interval in getattr(meta, "materialization_intervals", ())
    ]
    return View(
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
        materialized_until=max(ends, default=None),
        sources=tuple(source.name for source in _sources(spec)),
        inputs=tuple(_inputs(spec)) if on_demand else (),
        request_fields=tuple(
            _feature(f, _marks(dict(source.tags)))
            for source in requests
            for f in source.request_data_options.schema
        ),
        **described,
    )


def _problem(spec: Any, meta: Any, on_demand: bool) -> str:
    if not on_demand and not spec.online:
        return "defined with online=False: it has no rows to serve"
    if getattr(spec, "disabled", False):
        return "disabled"
    return _NOT_MATERIALIZED.get(int(getattr(meta, "state", 0)), "")


def _service(spec: Any) -> Service:
    takes = tuple(_taken(projection) for projection in spec.features)
    return Service(takes=takes, **_described(spec))


def _entity(spec: Any) -> Entity:
    return Entity(join_key=spec.join_key, type=_type_name(spec), **_described(spec))
