"""From definitions to how rows of a view are written; the twin of `plan` for the write path."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hotfeast.hotpath.definition import FeatureWrite, WriteDefinition
from hotfeast.hotpath.events import EventPlan
from hotfeast.hotpath.writes import KEY_TYPES, WritePlan
from hotfeast.server.errors import not_servable, unknown_name
from hotfeast.server.layouts import view_layout
from hotfeast.server.on_demand_writes import Inputs, plan_inputs
from hotfeast.server.plan import (
    feature_hash_field,
    row_hash_field,
    storage_name_at,
    time_hash_field,
)
from hotfeast.server.registry import Definitions, FieldDefinition, ViewDefinition
from hotfeast.server.rules import BadRule, Rule, rules_of
from hotfeast.server.windows.definition import WindowView, window_view


@dataclass(frozen=True, slots=True)
class ViewWrite:
    """How rows of one view are written.

    Attributes:
        view: The view.
        compiled: The same for the hot path. Its join keys are sorted by name, its features in the
            view's order; after those of an on-demand view come its join keys, which Feast stores
            beside the features.
        rules: For each feature that has any, what is expected of it.
        timestamp_column: Name of the event time's column, after the source's field mapping.
        created_column: Name of the created time's column; empty where the source has none.
        field_mapping: Names in the source to names in the view, for those that differ.
        columns: Names of all columns that its rows are made of, after the field mapping.
        inputs: What its features are computed from; None where the rows have the features.
        windows: What events are counted in, where rows are events; None where they are not.
    """

    view: ViewDefinition
    compiled: WritePlan
    rules: dict[str, tuple[Rule, ...]]
    timestamp_column: str
    created_column: str
    field_mapping: dict[str, str]
    columns: frozenset[str]
    inputs: Inputs | None = None
    windows: WindowView | None = None

    @property
    def name(self) -> str:
        """The view's name."""
        return self.view.name


def created_hash_field(storage_name: str) -> bytes:
    """The Redis hash field of a row's created time, which is not Feast's; see `writes`."""
    return f"_ct:{storage_name}".encode()


def plan_write(
    definitions: Definitions,
    name: str,
    key_ttl_seconds: int,
    version: int | None = None,
    online: bool = True,
) -> ViewWrite:
    """Plans the writing of a view's rows.

    Args:
        definitions: The state of the registry.
        name: The view.
        key_ttl_seconds: Seconds after which an entity's hash expires; 0 for never.
        version: The version to write, where versions are kept apart; the current one if None.
        online: Whether rows are written online; a view that is not served can still be written
            offline.

    Raises:
        RequestFailure: There is no such view or version, or it cannot be written; the message says
            why.
    """
    view = definitions.views.get(name)
    if view is None:
        raise unknown_name("feature view", name, definitions.views)
    if version is not None:
        if not definitions.versioned_storage or (name, version) not in definitions.versions:
            raise not_servable(
                f"feature view {name!r} has no version v{version} that can be written; versions "
                "are kept apart where enable_online_feature_view_versioning is set"
            )
        view = definitions.versions[name, version]
    if online and not view.online:
        raise not_servable(
            f"feature view {name!r} is defined with online=False; set online=True and apply"
        )
    inputs = None
    if view.on_demand is not None:
        inputs = _inputs(definitions, view)
        times, created, mapping = (
            inputs.timestamp_column, inputs.created_column, inputs.field_mapping
        )  # fmt: skip
    else:
        times, created, mapping = _times_and_mapping(view)
    for key in view.join_keys:
        if key.value_type not in (0, *KEY_TYPES):
            raise not_servable(
                f"feature view {name!r}: join key {key.name!r} has a type that Feast cannot store "
                "as an entity key; use INT32, INT64, STRING, BYTES or UNIX_TIMESTAMP"
            )
    try:
        rules = {f.name: made for f in view.features if (made := rules_of(f))}
    except BadRule as error:
        raise not_servable(f"feature view {name!r}: {error}") from error
    storage = name
    if definitions.versioned_storage:
        storage = storage_name_at(name, view.version)
    windows = window_view(view)
    if windows is not None:
        return _plan_events(definitions, view, windows, storage, times, mapping)
    stored = view.features if inputs is None else (*view.features, *view.join_keys)
    compiled = WritePlan(
        WriteDefinition(
            project=definitions.project,
            join_keys=tuple(sorted((k.name, k.value_type) for k in view.join_keys)),
            features=tuple(
                FeatureWrite(f.name, f.value_type, feature_hash_field(storage, f.name))
                for f in stored
            ),
            time_field=time_hash_field(storage),
            created_field=created_hash_field(storage) if created else b"",
            key_ttl_seconds=key_ttl_seconds,
            row_field=row_hash_field(storage),
            layout=view_layout(name, view.tags, definitions.layout),
        )
    )
    write = ViewWrite(
        view=view,
        compiled=compiled,
        rules=rules,
        timestamp_column=times,
        created_column=created,
        field_mapping=mapping,
        columns=frozenset(),
        inputs=inputs,
    )
    return replace(write, columns=_columns(write))


def _plan_events(
    definitions: Definitions,
    view: ViewDefinition,
    windows: WindowView,
    storage: str,
    times: str,
    mapping: dict[str, str],
) -> ViewWrite:
    """Plans the writing of events of a windowed view. Rules of its features are of no event."""
    compiled = EventPlan(
        WriteDefinition(
            project=definitions.project,
            join_keys=tuple(sorted((k.name, k.value_type) for k in view.join_keys)),
            features=tuple(FeatureWrite(f.name, f.value_type, b"") for f in windows.fields),
            time_field=time_hash_field(storage),
            created_field=b"",
            # Tiles have a life of their own.
            key_ttl_seconds=0,
            key_suffix=windows.layout.suffix(storage),
            tiles=windows.layout,
        )
    )
    write = ViewWrite(
        view=view,
        compiled=compiled,
        rules=windows.rules,
        timestamp_column=times,
        created_column="",
        field_mapping=mapping,
        columns=frozenset(),
        windows=windows,
    )
    return replace(write, columns=_columns(write))


def with_features(write: ViewWrite) -> ViewWrite:
    """How rows of an on-demand view are written that have its features, and not its inputs."""
    plain = replace(write, inputs=None, field_mapping={})
    return replace(plain, columns=_columns(plain))


def _columns(write: ViewWrite) -> frozenset[str]:
    fields: Sequence[FieldDefinition] = write.view.features
    if write.inputs is not None:
        fields = write.inputs.fields
    elif write.windows is not None:
        fields = write.windows.fields
    names = {field.name for field in (*write.view.join_keys, *fields)}
    return frozenset((names | {write.timestamp_column, write.created_column}) - {""})


def _times_and_mapping(view: ViewDefinition) -> tuple[str, str, dict[str, str]]:
    """The columns of event and created time, after the field mapping, and that mapping."""
    if view.source is None or not view.source.timestamp_field:
        why = (
            view.problem or f"feature view {view.name!r} has no batch source with a timestamp field"
        )
        raise not_servable(why)
    mapping = view.source.field_mapping
    times, created = view.source.timestamp_field, view.source.created_timestamp_column
    return mapping.get(times, times), mapping.get(created, created), mapping


def _inputs(definitions: Definitions, view: ViewDefinition) -> Inputs:
    if not view.stored:
        raise not_servable(
            f"feature view {view.name!r} is an on-demand view that is computed when it is read: "
            "push the rows that it is computed from, or set write_to_online_store=True and apply"
        )
    if view.on_demand.aggregations:
        raise not_servable(
            f"on-demand feature view {view.name!r} has aggregations, which Feast does not compute "
            "for rows that are written either; aggregate in a batch or stream feature view"
        )
    if view.entities and not view.join_keys:
        raise not_servable(
            f"on-demand feature view {view.name!r} has entities, and its schema has none of their "
            "join keys, so that Feast would store all its rows as one; add them and apply"
        )
    return plan_inputs(definitions, view)


def views_of_push_source(definitions: Definitions, name: str) -> Sequence[ViewDefinition]:
    """The views that a push source feeds, sorted by name.

    Raises:
        RequestFailure: It feeds none.
    """
    sources: dict[str, list[ViewDefinition]] = {}
    for view in definitions.views.values():
        if view.source is not None and view.source.push_source:
            sources.setdefault(view.source.push_source, []).append(view)
    if name not in sources:
        raise unknown_name("push source", name, sources)
    return sorted(sources[name], key=lambda view: view.name)
