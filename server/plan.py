"""From definitions to plans: what one feature service, or one list of features, reads.

A plan is made once for each (selection, full_feature_names), then only looked up. Plans are
immutable and belong to one state of the registry; when that changes, a whole new `PlanBook` takes
the old one's place.
"""

import re
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import grpc
import mmh3

from hotfeast.hotpath.definition import (
    LAYOUTS,
    FeatureRead,
    JoinKey,
    KeyRecipe,
    ReadDefinition,
    ViewRead,
)
from hotfeast.hotpath.kernel import Computation, Kernel
from hotfeast.hotpath.plan import DUMMY_JOIN_KEY, Plan
from hotfeast.hotpath.request import Request
from hotfeast.server.errors import RequestFailure, invalid, not_servable, unknown_name
from hotfeast.server.layouts import view_layout
from hotfeast.server.proof import ProvedRows
from hotfeast.server.registry import Definitions, FieldDefinition, Projection, ViewDefinition
from hotfeast.server.staleness import view_staleness
from hotfeast.server.traffic.deprecation import Deprecations, Ending, deprecations, ending
from hotfeast.server.windows.definition import window_view
from hotfeast.serving.v1 import serving_pb2

# ValueType.Enum
_STRING = 2
# BYTES, STRING, INT32, INT64, UNIX_TIMESTAMP; 0 where the entity's type is not declared.
_KEY_TYPES = {0, 1, 2, 3, 4, 8}
_VERSION = re.compile(r"[vV]([0-9]{1,9})")
# Bytes. A longer list is planned anew each time, so that the cache's memory is bounded too.
_LONGEST_CACHED_LIST = 65536


@dataclass(frozen=True, slots=True)
class OnDemandRead:
    """An on-demand view that has to be computed for a request.

    Attributes:
        view: Its definition.
        projection: What is asked for of it.
        kernel: What computes it; None where its Python function does.
        kernel_refusal: Why it has no kernel; empty where it has one or none was tried yet.
        proved: What the kernel was proved on.
    """

    view: ViewDefinition
    projection: Projection
    kernel: Kernel | None = None
    kernel_refusal: str = ""
    proved: ProvedRows | None = None


class ServedFeature(NamedTuple):
    """A feature of an answer, and where it comes from.

    Attributes:
        output_name: Its name in the answer.
        view: The view's name in the registry.
        feature: Its name in the view.
        prefix: The name that it is prefixed with: the view's, its alias's, or one with a version.
        value_type: What it is declared as, as `ValueType.Enum`.
    """

    output_name: str
    view: str
    feature: str
    prefix: str
    value_type: int


@dataclass(frozen=True, slots=True)
class ServingPlan:
    """All that is needed to answer one kind of request.

    Attributes:
        compiled: What is read from Redis, for the hot path.
        on_demand: Views to compute from it, in the order of the answer.
        references: What was asked for, as `view:feature`.
        output_names: Names of the features in the answer. With on-demand views these are fewer
            than `compiled` reads: a transform's inputs are read without being asked for.
        request_fields: What the request context must have.
        request_names: The names of those fields that are no join keys; they may be sent among the
            entities too, as Feast's SDK has it.
        full_feature_names: Whether features are named `view__feature`.
        served: The features of the answer.
        service: The feature service; None for a list of features.
        computation: Computes the on-demand views that have a kernel; None where none has.
        deprecations: What is deprecated of all that is read; None where nothing is.
    """

    compiled: Plan
    on_demand: tuple[OnDemandRead, ...]
    references: tuple[str, ...]
    output_names: tuple[str, ...]
    request_fields: tuple[FieldDefinition, ...]
    request_names: frozenset[str]
    full_feature_names: bool
    served: tuple[ServedFeature, ...]
    service: str | None = None
    computation: Computation | None = None
    deprecations: Deprecations | None = None

    def output_name(self, projection: Projection, feature: str) -> str:
        """The name of a projection's feature in the answer."""
        return _output_name(projection, feature, self.full_feature_names)


def _output_name(projection: Projection, feature: str, full_feature_names: bool) -> str:
    return f"{projection.name}__{feature}" if full_feature_names else feature


def feature_hash_field(storage_name: str, feature: str) -> bytes:
    """The Redis hash field of a feature: little-endian MurmurHash3 of `view:feature`.

    Source: `feast.infra.online_stores.helpers._mmh3`.
    """
    return struct.pack("<I", mmh3.hash(f"{storage_name}:{feature}", signed=False))


def storage_name_at(view: str, version: int) -> str:
    """The name that a view's rows go by where versions are kept apart.

    Source: `feast.infra.online_stores.helpers.compute_versioned_name`.
    """
    return f"{view}_v{version}" if version > 0 else view


def row_hash_field(storage_name: str) -> bytes:
    """The Redis hash field of a view's packed row: as a feature's, of a name that none can have."""
    return feature_hash_field(storage_name, "\0row")


def time_hash_field(storage_name: str) -> bytes:
    """The Redis hash field of a view's row time."""
    return f"_ts:{storage_name}".encode()


def parse_reference(reference: str) -> tuple[str, int | None, str]:
    """Splits `view:feature` or `view@vN:feature` into view, version and feature.

    `view@latest:feature` is the same as `view:feature`. Source: `feast.utils._parse_feature_ref`.

    Raises:
        RequestFailure: It is no such reference.
    """
    view, colon, feature = reference.partition(":")
    if not colon or not view or not feature:
        raise invalid(
            f"feature reference {reference!r} must have the form 'view:feature' or "
            "'view@vN:feature'"
        )
    name, _, version = view.partition("@")
    if version == "" or version.lower() == "latest":
        return name, None, feature
    pinned = _VERSION.fullmatch(version)
    if pinned is None:
        return view, None, feature
    return name, int(pinned[1]), feature


def plan_service(
    definitions: Definitions, name: str, full_feature_names: bool, as_feast: bool = False
) -> ServingPlan:
    """Plans a feature service.

    Args:
        definitions: The state of the registry.
        name: The service.
        full_feature_names: Whether features are named `view__feature`.
        as_feast: Whether to read what Feast's Python code reads even where that is another
            version's row; see `_forgotten_versions`.

    Raises:
        RequestFailure: There is no such service, or it cannot be served; the message says why.
    """
    service = definitions.services.get(name)
    if service is None:
        raise unknown_name("feature service", name, definitions.services)
    forgotten: set[str] = set()
    if as_feast:
        forgotten = _forgotten_versions(definitions, service.projections, by_service=True)
    plan = _plan(definitions, service.projections, full_feature_names, forgotten)
    of_service = ending("feature service", name, service.tags)
    if of_service is not None:
        others = plan.deprecations.endings if plan.deprecations is not None else ()
        plan = replace(plan, deprecations=deprecations([of_service, *others]))
    return replace(plan, service=name)


def plan_features(
    definitions: Definitions,
    references: Sequence[str],
    full_feature_names: bool,
    as_feast: bool = False,
) -> ServingPlan:
    """Plans a list of `view:feature` references; arguments as for `plan_service`.

    Raises:
        RequestFailure: A reference is malformed or unknown, or two features have one name.
    """
    if not references:
        raise invalid("the feature list is empty: ask for at least one 'view:feature'")
    wanted: OrderedDict[tuple[str, int | None], list[str]] = OrderedDict()
    for reference in references:
        name, version, feature = parse_reference(reference)
        if feature in wanted.setdefault((name, version), []):
            raise invalid(f"feature {reference!r} is asked for twice")
        wanted[name, version].append(feature)
    projections = []
    for (name, version), features in wanted.items():
        projection = Projection(name, None, tuple(features), {}, version)
        view = _servable_view(definitions, projection)
        for feature in features:
            if view.feature(feature) is None:
                raise unknown_name(
                    f"feature in view {projection.name!r} called",
                    feature,
                    [f.name for f in view.features],
                )
        projections.append(projection)
    forgotten: set[str] = set()
    if as_feast:
        forgotten = _forgotten_versions(definitions, projections, by_service=False)
    return _plan(definitions, tuple(projections), full_feature_names, forgotten)


def find_view(definitions: Definitions, projection: Projection) -> ViewDefinition:
    """The view that a projection is of, at its version if it is pinned to one.

    Raises:
        RequestFailure: There is no such view or version, or versions are not kept apart.
    """
    name, version = projection.view, projection.version
    view = definitions.views.get(name)
    if view is None:
        raise unknown_name("feature view", name, definitions.views)
    if version is None:
        return view
    if not definitions.versioned_storage:
        raise not_servable(
            f"feature view '{name}@v{version}': the rows of versions are not kept apart; set "
            "enable_online_feature_view_versioning under 'registry' in feature_store.yaml"
        )
    pinned = definitions.versions.get((name, version))
    if pinned is None:
        known = ", ".join(f"v{n}" for view, n in sorted(definitions.versions) if view == name)
        raise RequestFailure(
            grpc.StatusCode.NOT_FOUND,
            f"feature view {name!r} has no version v{version}; it has {known}",
        )
    return pinned


def _servable_view(definitions: Definitions, projection: Projection) -> ViewDefinition:
    view = find_view(definitions, projection)
    if view.problem:
        raise not_servable(view.problem)
    return view


def _whole_view(definitions: Definitions, projection: Projection) -> ViewDefinition:
    """A view that can be served, with all that a projection takes from it."""
    view = _servable_view(definitions, projection)
    for feature in projection.features:
        if view.feature(feature) is None:
            raise not_servable(
                f"feature view {projection.name!r} no longer has the feature {feature!r}, which is "
                "taken from it; apply again what takes it (a feature service or on-demand view)"
            )
    return view


def _fields(definitions: Definitions, projection: Projection) -> list[FieldDefinition]:
    """What a projection takes of its view, which has all of it."""
    view = find_view(definitions, projection)
    return [field for name in projection.features if (field := view.feature(name)) is not None]


def _forgotten_versions(
    definitions: Definitions, projections: Sequence[Projection], by_service: bool
) -> set[str]:
    """The names of projections whose view's current version Feast's Python code forgets.

    It copies a view to set a feature service's or an on-demand view's projection, and the copy has
    no version number, so that it reads the rows of version 0 (`FeatureView.__copy__`; label views
    keep theirs). Where a view is used more than once, the first use counts.
    """
    forgotten: dict[str, bool] = {}
    for projection in projections:
        view = find_view(definitions, projection)
        if view.stored:
            forgotten.setdefault(projection.name, by_service and view.kind != "label_view")
        for source in view.sources:
            is_label_view = find_view(definitions, source).kind == "label_view"
            forgotten.setdefault(source.name, not is_label_view)
    return {name for name, is_forgotten in forgotten.items() if is_forgotten}


def _merge(projections: Sequence[Projection]) -> list[Projection]:
    """Joins projections that go by the same name, as Feast does: their features add up."""
    merged: OrderedDict[str, Projection] = OrderedDict()
    for projection in projections:
        known = merged.get(projection.name)
        if known is None:
            merged[projection.name] = projection
        else:
            more = tuple(f for f in projection.features if f not in known.features)
            merged[projection.name] = replace(known, features=known.features + more)
    return list(merged.values())


def _plan(
    definitions: Definitions,
    projections: tuple[Projection, ...],
    full_feature_names: bool,
    forgotten: set[str],
) -> ServingPlan:
    references = tuple(f"{p.name}:{f}" for p in projections for f in p.features)
    _refuse_clashes(projections, full_feature_names)
    stored: list[Projection] = []
    on_demand: list[OnDemandRead] = []
    for projection in _merge(projections):
        view = _whole_view(definitions, projection)
        if view.stored:
            stored.append(projection)
        else:
            on_demand.append(OnDemandRead(view, projection))

    taken = stored + [r.projection for r in on_demand]
    served = [
        ServedFeature(
            _output_name(p, field.name, full_feature_names),
            p.view, field.name, p.name, field.value_type,
        )
        for p in taken
        for field in _fields(definitions, p)
    ]  # fmt: skip

    inputs = [source for r in on_demand for source in r.view.sources]
    for source in inputs:
        _whole_view(definitions, source)
    compiled = Plan(
        _read_definition(definitions, _merge(stored + inputs), full_feature_names, forgotten)
    )
    request_fields = {f.name: f for r in on_demand for f in r.view.request_fields}
    return ServingPlan(
        compiled=compiled,
        on_demand=tuple(on_demand),
        references=references,
        output_names=tuple(feature.output_name for feature in served),
        request_fields=tuple(request_fields.values()),
        request_names=frozenset(request_fields)
        - {name for key in compiled.definition.join_keys for name in (key.name, *key.aliases)},
        full_feature_names=full_feature_names,
        served=tuple(served),
        deprecations=deprecations(
            each for projection in taken + inputs for each in _endings(definitions, projection)
        ),
    )


def _endings(definitions: Definitions, projection: Projection) -> list[Ending | None]:
    """What is deprecated of a view, and of what is read of it."""
    view = find_view(definitions, projection)
    found = [ending("feature view", projection.view, view.tags)]
    for name in projection.features:
        feature = view.feature(name)
        if feature is not None:
            found.append(ending("feature", f"{projection.view}:{name}", feature.tags))
    return found


def _refuse_clashes(projections: Sequence[Projection], full_feature_names: bool) -> None:
    seen: dict[str, str] = {}
    for projection in projections:
        for feature in projection.features:
            reference = f"{projection.name}:{feature}"
            name = reference if full_feature_names else feature
            if name not in seen:
                seen[name] = reference
            elif seen[name] == reference:
                raise invalid(f"feature {reference!r} is asked for twice")
            else:
                raise invalid(
                    f"features {seen[name]!r} and {reference!r} have the same name; "
                    "set full_feature_names to tell them apart"
                )


def _read_definition(
    definitions: Definitions,
    projections: Sequence[Projection],
    full_feature_names: bool,
    forgotten: set[str],
) -> ReadDefinition:
    join_keys: OrderedDict[str, JoinKey] = OrderedDict()
    recipes: OrderedDict[KeyRecipe, int] = OrderedDict()
    views: list[ViewRead] = []
    versions: OrderedDict[str, int] = OrderedDict()
    for projection in projections:
        view = find_view(definitions, projection)
        parts = _key_parts(definitions, view, projection, join_keys)
        version = 0 if projection.name in forgotten else view.version
        storage_name = view.name
        if definitions.versioned_storage:
            stored_version = version if projection.version is None else projection.version
            storage_name = storage_name_at(view.name, stored_version)
        windows = window_view(view)
        suffix = windows.layout.suffix(storage_name) if windows is not None else b""
        recipe = recipes.setdefault(KeyRecipe(parts, suffix), len(recipes))
        views.append(
            ViewRead(
                name=projection.name,
                recipe=recipe,
                time_field=time_hash_field(storage_name),
                ttl_seconds=view.ttl_seconds,
                features=tuple(
                    FeatureRead(
                        _output_name(projection, feature, full_feature_names),
                        feature_hash_field(storage_name, feature)
                        if windows is None
                        else feature.encode(),
                    )
                    for feature in projection.features
                ),
                **(
                    _stored_row(definitions, view, storage_name)
                    if windows is None
                    # Windows move on while nothing is written: what was read is not to be kept.
                    else {"tiles": windows.layout}
                ),
            )
        )
        versions.setdefault(projection.alias or projection.view, version)
    return ReadDefinition(
        project=definitions.project,
        join_keys=tuple(join_keys.values()),
        recipes=tuple(recipes),
        views=tuple(views),
        view_versions=tuple(versions.items()),
    )


def _stored_row(
    definitions: Definitions, view: ViewDefinition, storage_name: str
) -> dict[str, Any]:
    """How the rows of a view that has no windows are stored."""
    return {
        "row_field": row_hash_field(storage_name),
        "schema": tuple(feature_hash_field(storage_name, f.name) for f in view.features),
        "packed": view_layout(view.name, view.tags, definitions.layout) != LAYOUTS[0],
        "cache_seconds": view_staleness(view.name, view.tags, definitions.cache_seconds),
    }


def _key_parts(
    definitions: Definitions,
    view: ViewDefinition,
    projection: Projection,
    join_keys: OrderedDict[str, JoinKey],
) -> tuple[tuple[str, int], ...]:
    """Enters a view's join keys among the plan's, and says which ones its key is made of."""
    if not view.entities:
        join_keys.setdefault(DUMMY_JOIN_KEY, JoinKey(DUMMY_JOIN_KEY, _STRING, required=False))
        return ()
    entity_of = {definitions.entity_names.get(e, e): e for e in view.entities}
    for column in view.join_keys:
        if column.value_type not in _KEY_TYPES:
            raise not_servable(
                f"feature view {view.name!r}: join key {column.name!r} has a type that Feast "
                "cannot store as an entity key; use INT32, INT64, STRING, BYTES or UNIX_TIMESTAMP"
            )
        name = projection.join_key_map.get(column.name, column.name)
        known = join_keys.get(name)
        if known is None:
            entity = entity_of.get(column.name, name)
            aliases = (entity,) if entity != name and name == column.name else ()
            join_keys[name] = JoinKey(name, column.value_type, aliases)
        elif known.value_type != column.value_type:
            raise not_servable(
                f"join key {name!r} has different types in the views of this request; "
                f"make the entity columns of view {view.name!r} agree with the others"
            )
    order = list(join_keys)
    return tuple(
        sorted(
            (column.name, order.index(projection.join_key_map.get(column.name, column.name)))
            for column in view.join_keys
        )
    )


class Kernels(Protocol):
    """What makes the kernels of plans."""

    def prepare(
        self, definitions: Definitions, plan: ServingPlan, pause: Callable[[], None]
    ) -> ServingPlan:
        """A plan with the kernels that it can have."""

    def later(self, work: Callable[[], None]) -> None:
        """Has work done off the caller's thread."""


class PlanBook:
    """The plans of one state of the registry.

    Feature services are planned at once, with short and with full names; feature lists when they
    are first asked for, and the least recently used are dropped beyond `capacity`.

    Args:
        as_feast: As for `plan_service`.
        pause: Is called after each plan that is made, to let others have their turn.
        kernels: Makes the kernels of plans; none are made if None.

    Attributes:
        definitions: The state of the registry.
        generation: 1 for the first book of the process, one more for each that replaced it.
        failures: Why a service cannot be served, for those that cannot.
    """

    def __init__(
        self,
        definitions: Definitions,
        generation: int,
        capacity: int = 1024,
        as_feast: bool = False,
        pause: Callable[[], None] = lambda: None,
        kernels: Kernels | None = None,
    ) -> None:
        self.definitions = definitions
        self._as_feast = as_feast
        self._pause = pause
        self._kernels = kernels
        self.generation = generation
        self.failures: dict[str, RequestFailure] = {}
        self._capacity = capacity
        self._services: dict[tuple[bytes, bool], ServingPlan | RequestFailure] = {}
        self._lists: OrderedDict[tuple[bytes, bool], ServingPlan] = OrderedDict()
        self._lock = threading.Lock()
        for name in definitions.services:
            for full in (False, True):
                try:
                    plan: ServingPlan | RequestFailure = self._with_kernels(
                        plan_service(definitions, name, full, as_feast)
                    )
                except RequestFailure as failure:
                    plan = failure
                    if full:
                        # With full names nothing clashes: the caller cannot mend this one.
                        self.failures[name] = failure
                self._services[name.encode(), full] = plan
                pause()

    def find(self, request: Request) -> ServingPlan:
        """The plan for a request.

        Raises:
            RequestFailure: What is asked for is unknown or cannot be served.
        """
        key = (request.selection_bytes, request.full_feature_names)
        if request.by_service:
            plan = self._services.get(key)
            if plan is None:
                raise unknown_name("feature service", key[0].decode(), self.definitions.services)
            if isinstance(plan, RequestFailure):
                # A new exception each time: one object would gather the tracebacks of all threads.
                raise RequestFailure(plan.code, plan.message)
            return plan
        return self._find_list(key, lambda: request.features)

    def find_target(self, target: str, full_feature_names: bool) -> ServingPlan:
        """The plan for what an alias names: a feature service, or all features of `view@vN`.

        Args:
            target: The name; that of a service comes first.
            full_feature_names: Whether features are named `view__feature`.

        Raises:
            RequestFailure: There is no such thing, or it cannot be served.
        """
        plan = self._services.get((target.encode(), full_feature_names))
        if isinstance(plan, ServingPlan):
            return plan
        if plan is not None:
            raise RequestFailure(plan.code, plan.message)
        if "@" not in target:
            raise unknown_name("feature service", target, self.definitions.services)
        name, version, _ = parse_reference(f"{target}:*")
        view = find_view(self.definitions, Projection(name, None, (), {}, version))
        if not view.stored:
            raise not_servable(
                f"{target!r} is an on-demand feature view; make a feature service that has it"
            )
        references = [f"{target}:{feature.name}" for feature in view.features]
        return self.find_list(references, full_feature_names)

    def find_list(self, references: Sequence[str], full_feature_names: bool) -> ServingPlan:
        """The plan for a list of `view:feature` references; arguments as for `plan_features`.

        Raises:
            RequestFailure: What is asked for is unknown or cannot be served.
        """
        return self._find_list((_list_key(references), full_feature_names), lambda: references)

    def _find_list(
        self, key: tuple[bytes, bool], references: Callable[[], Sequence[str]]
    ) -> ServingPlan:
        """The plan for a feature list, by the serialized list and whether names are full."""
        with self._lock:
            known = self._lists.get(key)
            if known is not None:
                self._lists.move_to_end(key)
                return known
        made = plan_features(self.definitions, references(), key[1], self._as_feast)
        self._remember(key, made)
        if made.on_demand and self._kernels is not None:
            # To prove them takes many times as long as a request may wait.
            self._kernels.later(lambda: self._remember(key, self._with_kernels(made)))
        return made

    def _with_kernels(self, plan: ServingPlan) -> ServingPlan:
        if self._kernels is None:
            return plan
        return self._kernels.prepare(self.definitions, plan, self._pause)

    def _remember(self, key: tuple[bytes, bool], plan: ServingPlan) -> None:
        if len(key[0]) > _LONGEST_CACHED_LIST:
            return
        with self._lock:
            self._lists[key] = plan
            while len(self._lists) > self._capacity:
                self._lists.popitem(last=False)

    @property
    def service_plans(self) -> list[ServingPlan]:
        """The plans of all services that can be served."""
        return [plan for plan in self._services.values() if isinstance(plan, ServingPlan)]

    def service_plan(self, name: str) -> ServingPlan | None:
        """The plan of a service, with short names unless they clash; None if there is none."""
        for full in (False, True):
            plan = self._services.get((name.encode(), full))
            if isinstance(plan, ServingPlan):
                return plan
        return None

    @property
    def transforms(self) -> dict[str, str]:
        """The on-demand views of feature services: why each has no kernel, or nothing if it has."""
        found: dict[str, str] = {}
        for plan in self._services.values():
            if isinstance(plan, ServingPlan):
                for read in plan.on_demand:
                    found[read.view.name] = read.kernel_refusal or found.get(read.view.name, "")
        return found

    @property
    def cached_lists(self) -> list[tuple[tuple[str, ...], bool]]:
        """The feature lists that are planned, least recently used first."""
        with self._lock:
            return [(p.references, p.full_feature_names) for p in self._lists.values()]

    def plan_ahead(self, lists: Sequence[tuple[tuple[str, ...], bool]]) -> None:
        """Plans feature lists that are in use, so that no request has to wait for it.

        Lists that the new definitions no longer allow are left out; their next request is told why.
        """
        for references, full_feature_names in lists:
            try:
                made = plan_features(
                    self.definitions, references, full_feature_names, self._as_feast
                )
            except RequestFailure:
                continue
            made = self._with_kernels(made)
            self._remember((_list_key(references), full_feature_names), made)
            self._pause()


def _list_key(references: Sequence[str]) -> bytes:
    """The serialized `FeatureList` of references, which requests are looked up by."""
    return serving_pb2.FeatureList(val=references).SerializeToString()


class PlanSource(Protocol):
    """Where answers get the plans of the moment."""

    @property
    def book(self) -> PlanBook: ...
