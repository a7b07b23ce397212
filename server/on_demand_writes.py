"""On-demand views whose results are stored: what their rows are computed from, and how.

Rows come with the inputs of the view's function, and go with its features. The function gets what
it gets when the view is computed for a request (see `functions`): the inputs as they would be read
from the store, so that it makes no difference when it runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hotfeast.hotpath.columns import ValueColumn
from hotfeast.server.errors import not_servable
from hotfeast.server.feast_api import Value, ValueType
from hotfeast.server.functions import Column, compute, failing_as, native
from hotfeast.server.plan import find_view
from hotfeast.server.registry import Definitions, FieldDefinition, Projection, ViewDefinition

# What Feast calls the event time of rows that come from no source of their own.
_EVENT_TIMESTAMP = "event_timestamp"


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the rows of a stored on-demand view are computed from.

    Attributes:
        fields: The columns that its function gets beside the view's own join keys, by the names
            that they have in its rows: further join keys of its sources, their features (as
            `view__feature` where two sources have one of the same name), and request data.
        request_names: Those of them that are request data, which no source has.
        timestamp_column: Name of the event time's column: what all sources call it, if they agree.
        created_column: Name of the created time's column; empty unless there is one source and it
            has one.
        field_mapping: Names in the one source to names here, for those that differ; empty where
            there is not one source.
    """

    fields: tuple[FieldDefinition, ...]
    request_names: frozenset[str]
    timestamp_column: str
    created_column: str
    field_mapping: dict[str, str]


def plan_inputs(definitions: Definitions, view: ViewDefinition) -> Inputs:
    """Says what the rows of a stored on-demand view are computed from.

    Raises:
        RequestFailure: A source is not there, or no longer has a feature that is taken from it.
    """
    fields: dict[str, FieldDefinition] = {}
    sources = [(source, find_view(definitions, source)) for source in view.sources]
    names = [name for source in view.sources for name in source.features]
    for source, of in sources:
        for key in of.join_keys:
            name = source.join_key_map.get(key.name, key.name)
            fields.setdefault(name, FieldDefinition(name, key.value_type))
        for feature in source.features:
            found = of.feature(feature)
            if found is None:
                raise not_servable(
                    f"feature view {of.name!r} no longer has the feature {feature!r}, which "
                    f"on-demand feature view {view.name!r} takes from it; apply that view again"
                )
            name = input_name(of.name, feature, names)
            fields[name] = FieldDefinition(name, found.value_type)
    for field in view.request_fields:
        fields.setdefault(field.name, field)
    for key in view.join_keys:
        fields.pop(key.name, None)
    mappings = [_mapping(source, of) for source, of in sources]
    times = {
        mapping.get(of.source.timestamp_field, of.source.timestamp_field)
        for mapping, (_, of) in zip(mappings, sources, strict=True)
        if of.source is not None and of.source.timestamp_field
    }
    mapping = mappings[0] if len(mappings) == 1 else {}
    only = sources[0][1].source if len(sources) == 1 else None
    created = only.created_timestamp_column if only is not None else ""
    return Inputs(
        fields=tuple(fields.values()),
        request_names=frozenset(f.name for f in view.request_fields),
        timestamp_column=times.pop() if len(times) == 1 else _EVENT_TIMESTAMP,
        created_column=mapping.get(created, created),
        field_mapping=mapping,
    )


def input_name(view: str, feature: str, names: Sequence[str]) -> str:
    """The name of an input's column.

    Args:
        view: The source that has the feature.
        feature: Its name there.
        names: The names of all features that the on-demand view takes, of each source.
    """
    return feature if names.count(feature) == 1 else f"{view}__{feature}"


def _mapping(source: Projection, view: ViewDefinition) -> dict[str, str]:
    """Column names in a source of an on-demand view to names among its inputs."""
    mapping = dict(view.source.field_mapping) if view.source is not None else {}
    in_source = {new: old for old, new in mapping.items()}
    for key, renamed in source.join_key_map.items():
        mapping[in_source.get(key, key)] = renamed
    return mapping


def compute_features(
    view: ViewDefinition,
    inputs: Mapping[str, ValueColumn],
    kept: Sequence[int],
    rows: int,
) -> list[ValueColumn]:
    """Runs the function of a stored on-demand view.

    Args:
        view: The view.
        inputs: Its join keys and other inputs by name.
        kept: The rows to compute, ascending; the function does not see the others.
        rows: The length of each column.

    Returns:
        The view's features in their order, null in rows that are not computed.

    Raises:
        RequestFailure: The function failed, or returned something else than the view declares.
    """
    if not kept:
        return [ValueColumn.constant(f.value_type, b"", rows) for f in view.features]
    columns: dict[str, Column] = {}
    types: dict[str, int] = {}
    for name, column in inputs.items():
        kind = ValueType(column.value_type) if column.value_type else None
        values = column.values
        columns[name] = [native(Value.FromString(values[row]), kind) for row in kept]
        types[name] = column.value_type
    with failing_as(view.name):
        computed = compute(view.on_demand, view.features, columns, types, len(kept))
    features = []
    for feature in view.features:
        made = [b""] * rows
        for row, value in zip(kept, computed[feature.name], strict=True):
            made[row] = value.SerializeToString()
        features.append(ValueColumn.from_serialized(feature.value_type, made, [], made))
    return features
