"""What is served, for people and tools: names, types, descriptions, tags, owners, TTLs."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.metadata import version as installed_version
from typing import Any

from hotfeast.hotpath.plan import DUMMY_JOIN_KEY
from hotfeast.server.clock import Clock
from hotfeast.server.plan import PlanBook, ServingPlan, find_view
from hotfeast.server.registry import (
    Definitions,
    FieldDefinition,
    RegistryState,
    ServiceDefinition,
    ViewDefinition,
)
from hotfeast.server.security.grants import Grants
from hotfeast.serving.v1 import serving_pb2, value_pb2


class Catalog:
    """Answers `GetServingInfo`, `ListFeatureServices` and `ListFeatureViews`, with what a caller's
    grants let it see; all of it without grants."""

    def __init__(
        self,
        book: Callable[[], PlanBook],
        registry: Callable[[], RegistryState],
        clock: Clock,
        status_mode: str,
    ) -> None:
        """
        Args:
            book: Gives the plans of the moment.
            registry: Gives what the looks at the registry have said.
            clock: The clock that rows are aged against.
            status_mode: `strict` or `feast`.
        """
        self._book = book
        self._registry = registry
        self._clock = clock
        self._status_mode = status_mode
        # Looking them up reads files.
        self._version = installed_version("hotfeast")
        self._feast_version = installed_version("feast")

    def serving_info(self, _: serving_pb2.GetServingInfoRequest, __: Grants | None = None) -> Any:
        """Answers `GetServingInfo`."""
        book = self._book()
        registry = self._registry()
        info = serving_pb2.GetServingInfoResponse(
            version=self._version,
            project=book.definitions.project,
            feast_version=self._feast_version,
            layouts=["feast"],
            status_mode=self._status_mode,
            plan_generation=book.generation,
            registry_error=registry.error,
        )
        info.registry_read.FromDatetime(registry.read)
        info.registry_age.FromTimedelta(datetime.now(UTC) - registry.read)
        if registry.updated is not None:
            info.registry_updated.FromDatetime(registry.updated)
        if self._clock.as_of is not None:
            info.as_of.FromDatetime(self._clock.as_of)
        return info

    def feature_services(
        self, _: serving_pb2.ListFeatureServicesRequest, grants: Grants | None = None
    ) -> Any:
        """Answers `ListFeatureServices`."""
        book = self._book()
        services = sorted(book.definitions.services.values(), key=lambda s: s.name)
        if grants is not None:
            services = [
                s for s in services if grants.may_describe_service(book.definitions, s.name)
            ]
        return serving_pb2.ListFeatureServicesResponse(
            feature_services=[_service(book, s) for s in services]
        )

    def feature_views(
        self, _: serving_pb2.ListFeatureViewsRequest, grants: Grants | None = None
    ) -> Any:
        """Answers `ListFeatureViews`."""
        definitions = self._book().definitions
        views = sorted(definitions.views.values(), key=lambda v: v.name)
        if grants is not None:
            views = [v for v in views if grants.may_describe_view(definitions, v.name)]
        return serving_pb2.ListFeatureViewsResponse(feature_views=[_view(v) for v in views])


def _feature(field: FieldDefinition, name: str | None = None) -> Any:
    # A type that is newer than our protos is told as INVALID, the enum's unset value.
    known = field.value_type in value_pb2.ValueType.Enum.values()
    value_type: Any = field.value_type if known else 0
    return serving_pb2.Feature(
        name=name or field.name,
        value_type=value_type,
        description=field.description,
        tags=field.tags,
    )


def _view(view: ViewDefinition) -> Any:
    info = serving_pb2.FeatureViewInfo(
        name=view.name,
        kind=view.kind,
        entities=view.entities,
        join_keys=[_feature(k) for k in view.join_keys],
        features=[_feature(f) for f in view.features],
        request_fields=[_feature(f) for f in view.request_fields],
        description=view.description,
        tags=view.tags,
        owner=view.owner,
        online=view.online,
    )
    if view.ttl_seconds:
        info.ttl.FromTimedelta(timedelta(seconds=view.ttl_seconds))
    if view.materialized_until is not None:
        info.materialized_until.FromDatetime(view.materialized_until)
    return info


def _service(book: PlanBook, service: ServiceDefinition) -> Any:
    info = serving_pb2.FeatureServiceInfo(
        name=service.name,
        feature_views=[p.name for p in service.projections],
        description=service.description,
        tags=service.tags,
        owner=service.owner,
    )
    plan = book.service_plan(service.name)
    if plan is None:
        info.error = book.failures[service.name].message
        return info
    for key in plan.compiled.definition.join_keys:
        if key.name != DUMMY_JOIN_KEY:
            field = FieldDefinition(key.name, key.value_type)
            info.join_keys.append(_feature(field))
    info.request_fields.extend(_feature(f) for f in plan.request_fields)
    by_name = _fields_by_output_name(book.definitions, service, plan)
    info.features.extend(_feature(by_name[name], name) for name in plan.output_names)
    return info


def _fields_by_output_name(
    definitions: Definitions, service: ServiceDefinition, plan: ServingPlan
) -> dict[str, FieldDefinition]:
    fields = {}
    for projection in service.projections:
        view = find_view(definitions, projection)
        for name in projection.features:
            output = plan.output_name(projection, name)
            fields[output] = view.feature(name) or FieldDefinition(name, 0)
    return fields
