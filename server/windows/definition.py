"""Windowed views as their tags in the registry define them.

A view is windowed if any of its features has the tag `hotfeast.aggregate`; then all must have it.
"""

import re
from dataclasses import dataclass

from hotfeast.hotpath import rules
from hotfeast.hotpath.columns import ValueColumn
from hotfeast.hotpath.tile_layout import (
    EXACT_TILE,
    FUNCTIONS,
    MOST_TEXT,
    TEXT,
    Aggregate,
    TileLayout,
    number_form,
    tile_layout,
)
from hotfeast.server.errors import RequestFailure, not_servable
from hotfeast.server.feast_api import ValueType
from hotfeast.server.registry import FieldDefinition, ViewDefinition
from hotfeast.server.rules import Rule

AGGREGATE_TAG = "hotfeast.aggregate"
WINDOW_TAG = "hotfeast.window"
TILE_TAG = "hotfeast.tile"
EVENT_ID_TAG = "hotfeast.event_id"
LATENESS_TAG = "hotfeast.lateness"
INPUTS_TAG = "hotfeast.inputs"
MOST_IDS_TAG = "hotfeast.most_ids"
MOST_EVENTS_TAG = "hotfeast.most_events"

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([1-9][0-9]{0,6})([smhd])")
_AGGREGATE = re.compile(r"(\w+)\(\s*(.*?)\s*\)")
_SECOND = 1_000_000
_SHORTEST, _LONGEST = 60 * _SECOND, 30 * 86400 * _SECOND
# Sizes that tiles have unless one is said: the largest that is at most a 24th of the window.
_TILES = [s * _SECOND for s in (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 21600, 86400)]
_PARTS = 24
# Tiles of a window at most: a record more each for Redis to keep, and to add up.
_MOST_TILES = 3600
_DEFAULT_LATENESS = "1h"
_MOST_IDS, _MOST_EVENTS = 1024, 4096
_LARGEST_LIMIT = 65535

_INT64, _DOUBLE = ValueType.INT64.value, ValueType.DOUBLE.value
_NUMBERS = {v.value for v in (ValueType.INT32, ValueType.INT64, ValueType.FLOAT, ValueType.DOUBLE)}
_ORDERED = _NUMBERS | {ValueType.UNIX_TIMESTAMP.value}
_COUNTED = _ORDERED | {v.value for v in (ValueType.BOOL, ValueType.STRING, ValueType.BYTES)}


@dataclass(frozen=True, slots=True)
class WindowView:
    """A view of windowed features.

    Attributes:
        aggregates: Its features.
        columns: For each column that is aggregated its value type.
        event_id: The column by which events are told apart.
        layout: How its tiles are laid out.
    """

    aggregates: tuple[Aggregate, ...]
    columns: dict[str, int]
    event_id: str
    layout: TileLayout

    @property
    def fields(self) -> list[FieldDefinition]:
        """What an event has beside its entity and its time: the columns, and the id as the last."""
        made = [FieldDefinition(name, kind) for name, kind in self.columns.items()]
        # Ids are of whatever type they come in.
        return [*made, FieldDefinition(self.event_id, 0)]

    @property
    def rules(self) -> dict[str, tuple[Rule, ...]]:
        """For each column whose texts are kept how long they may be."""
        rule = Rule("max_length", f"at most {MOST_TEXT} bytes", _too_large)
        return {each.column: (rule,) for each in self.layout.inputs if each.form == TEXT}


def _too_large(column: ValueColumn) -> list[int]:
    return rules.larger_than(column, MOST_TEXT)


def is_windowed(view: ViewDefinition) -> bool:
    """Whether a view's features are windows over events."""
    return any(AGGREGATE_TAG in feature.tags for feature in view.features)


def window_view(view: ViewDefinition) -> WindowView | None:
    """What a view's tags say of its windows; None where it has none.

    Raises:
        RequestFailure: They say something that cannot be; the message names the tag and the fix.
    """
    if not is_windowed(view):
        return None
    try:
        return _window_view(view)
    except _Fault as fault:
        raise _refusal(view, str(fault)) from None


def duration(text: str) -> int:
    """Microseconds of a length such as `30s`, `5m`, `1h` or `7d`.

    Raises:
        ValueError: It is none.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no length such as 30s, 5m, 1h or 7d")
    return int(found[1]) * _UNITS[found[2]] * _SECOND


class _Fault(ValueError):
    """What is wrong with a view's tags."""


def _refusal(view: ViewDefinition, why: str) -> RequestFailure:
    return not_servable(f"feature view {view.name!r}: {why}")


def _window_view(view: ViewDefinition) -> WindowView:
    plain = [f.name for f in view.features if AGGREGATE_TAG not in f.tags]
    if plain:
        raise _Fault(
            f"feature {plain[0]!r} has no tag {AGGREGATE_TAG}, and others have: put features that "
            "are no windows into a view of their own"
        )
    if not view.stored or view.on_demand is not None:
        raise _Fault(f"an on-demand view cannot have the tag {AGGREGATE_TAG}")
    event_id = view.tags.get(EVENT_ID_TAG, "")
    if not event_id:
        raise _Fault(
            f"windowed features need the view's tag {EVENT_ID_TAG}: the column by which an event "
            "that comes twice is known"
        )
    parsed = [(f, *_parse_aggregate(f)) for f in view.features]
    columns = _columns(view, parsed)
    if event_id in columns:
        raise _Fault(f"column {event_id!r} is the event id, and is aggregated too; copy it")
    taken = {k.name for k in view.join_keys} & (set(columns) | {event_id})
    if taken:
        raise _Fault(f"column {min(taken)!r} is a join key, and is aggregated too; copy it")
    aggregates = []
    for feature, function, column in parsed:
        _check_types(feature, function, column, columns)
        window = _length(feature.tags, WINDOW_TAG, feature.name)
        if not _SHORTEST <= window <= _LONGEST:
            raise _Fault(f"feature {feature.name!r}: {WINDOW_TAG} must be from 1m to 30d")
        aggregates.append(
            Aggregate(
                feature.name, function, column, feature.value_type, window, _tile(feature, window)
            )
        )
    lateness = _length({LATENESS_TAG: _DEFAULT_LATENESS} | view.tags, LATENESS_TAG, view.name)
    if lateness > _LONGEST:
        raise _Fault(f"{LATENESS_TAG} must be at most 30d")
    layout = tile_layout(
        aggregates,
        columns,
        lateness,
        _limit(view, MOST_IDS_TAG, _MOST_IDS),
        _limit(view, MOST_EVENTS_TAG, _MOST_EVENTS),
    )
    return WindowView(tuple(aggregates), columns, event_id, layout)


def _length(tags: dict[str, str], tag: str, name: str) -> int:
    if tag not in tags:
        raise _Fault(f"feature {name!r} has no tag {tag}; say how long its window is, such as 7d")
    try:
        return duration(tags[tag])
    except ValueError as error:
        raise _Fault(f"{name!r}: {tag}: {error}") from None


def _limit(view: ViewDefinition, tag: str, default: int) -> int:
    text = view.tags.get(tag, str(default))
    if not text.isdigit() or not 1 <= int(text) <= _LARGEST_LIMIT:
        raise _Fault(f"{tag} is {text!r}; it must be a number from 1 to {_LARGEST_LIMIT}")
    return int(text)


def _tile(feature: FieldDefinition, window: int) -> int:
    if TILE_TAG not in feature.tags:
        return max([tile for tile in _TILES if tile * _PARTS <= window] or [_TILES[0]])
    if feature.tags[TILE_TAG] == "exact":
        return EXACT_TILE
    tile = _length(feature.tags, TILE_TAG, feature.name)
    if tile > window or window % tile:
        raise _Fault(
            f"feature {feature.name!r}: the window {feature.tags[WINDOW_TAG]} is no whole number "
            f"of tiles of {feature.tags[TILE_TAG]}"
        )
    if window // tile > _MOST_TILES:
        raise _Fault(
            f"feature {feature.name!r}: a window of {window // tile} tiles; at most {_MOST_TILES} "
            f"are kept: make {TILE_TAG} larger"
        )
    return tile


def _parse_aggregate(feature: FieldDefinition) -> tuple[str, str]:
    text = feature.tags[AGGREGATE_TAG]
    found = _AGGREGATE.fullmatch(text.strip())
    if found is None or found[1] not in FUNCTIONS:
        raise _Fault(
            f"feature {feature.name!r}: {AGGREGATE_TAG} is {text!r}; use count(), or one of "
            f"{', '.join(FUNCTIONS)} of a column, such as sum(amount)"
        )
    if not found[2] and found[1] != "count":
        raise _Fault(
            f"feature {feature.name!r}: {text!r} needs a column, such as {found[1]}(amount)"
        )
    return found[1], found[2]


def _columns(
    view: ViewDefinition, parsed: list[tuple[FieldDefinition, str, str]]
) -> dict[str, int]:
    """The value types of all columns: as the view's tag has it, else as their features tell."""
    columns = _declared_inputs(view)
    declared = set(columns)
    for feature, function, column in parsed:
        if function in ("sum", "min", "max", "last") and column not in declared:
            kind = feature.value_type
            if columns.setdefault(column, kind) != kind:
                raise _Fault(
                    f"column {column!r} is of the type of feature {feature.name!r}, and of another "
                    f"by the features before it: say which in the view's tag {INPUTS_TAG}, such as "
                    f"'{column}: DOUBLE'"
                )
    for feature, function, column in parsed:
        if column and column not in columns:
            if function != "mean":
                raise _Fault(
                    f"the type of column {column!r} is not known by feature {feature.name!r}: say "
                    f"it in the view's tag {INPUTS_TAG}, such as '{column}: STRING'"
                )
            columns[column] = _DOUBLE
    used = {column for _, _, column in parsed}
    unused = [name for name in declared if name not in used]
    if unused:
        raise _Fault(f"{INPUTS_TAG} names column {unused[0]!r}, which no feature aggregates")
    return dict(sorted(columns.items()))


def _declared_inputs(view: ViewDefinition) -> dict[str, int]:
    columns: dict[str, int] = {}
    for part in filter(None, (p.strip() for p in view.tags.get(INPUTS_TAG, "").split(","))):
        name, _, kind = (p.strip() for p in part.partition(":"))
        value_type = getattr(ValueType, kind, None)
        if not name or value_type is None or value_type.value not in _COUNTED:
            raise _Fault(
                f"{INPUTS_TAG} has {part!r}; write it as 'column: TYPE' with one of "
                f"{', '.join(sorted(ValueType(v).name for v in _COUNTED))}"
            )
        columns[name] = value_type.value
    return columns


def _check_types(
    feature: FieldDefinition, function: str, column: str, columns: dict[str, int]
) -> None:
    made = feature.value_type
    if function in ("count", "distinct"):
        wanted, may = _INT64, _COUNTED
    elif function == "mean":
        wanted, may = _DOUBLE, _NUMBERS
    elif function == "sum":
        may = _NUMBERS
        whole = column in columns and columns[column] in may and number_form(columns[column]) == 1
        wanted = _INT64 if whole else _DOUBLE
    else:
        may = _COUNTED if function == "last" else _ORDERED
        wanted = columns[column]
    if column and columns[column] not in may:
        raise _Fault(
            f"feature {feature.name!r}: {function} is not of {ValueType(columns[column]).name}, "
            f"which column {column!r} is; it can be of "
            f"{', '.join(sorted(ValueType(v).name for v in may))}"
        )
    if made != wanted:
        raise _Fault(
            f"feature {feature.name!r} is {ValueType(made).name}, and "
            f"{function}({column}) is {ValueType(wanted).name}: set its dtype to that"
        )
