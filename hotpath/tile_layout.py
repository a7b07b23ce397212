"""How the tiles of one windowed view are laid out, worked out once from its aggregates.

An entity's tiles of a view are one blob, all numbers little-endian:

    1 byte    the format, TILES_FORMAT
    8 bytes   the newest event time, in microseconds since 1970, as all times here
    8 bytes   the floor: events at or before it are refused
    8 bytes   the oldest event time that was pushed; all ones where none was
    1 byte    1 once events of the time before were filled in from the batch source, else 0
    2 bytes   how many ids of events are remembered, and for each
      8 bytes   the id's hash
      4 bytes   the event's time in whole seconds
    for each level
      2 bytes   how many records there are, and the records, by time
    for each sketch
      4 bytes   the size of its entries, and the entries, by time
    for each text
      4 bytes   the size of its entries, and the entries, by time

A level holds all that is kept in tiles of one size. Tile number k has the events of the time
(k * size, (k + 1) * size]; a record is the tile's number, in 4 bytes, or in 8 below a second, and
its slots. A sketch holds the distinct values of one input in the tiles of one level; an entry is
the tile's number, 2 bytes for the number of hashes, and these, of 4 bytes each, or 65535 and 2048
registers of a HyperLogLog. A text holds the last value of one input, texts or bytes, in the tiles
of one level; an entry is the tile's number, 8 bytes for the event time, the value, and 1 byte for
its size, which stands last since entries are looked for from the newest one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

TILES_FORMAT = 1
TILES_FIELD = b"t"
"""The hash field that has the blob; it is the only one of its key."""

FUNCTIONS = ("count", "sum", "mean", "min", "max", "last", "distinct")

# Forms in which the values of a column are sent with an event.
PRESENCE, INTEGER, REAL, HASH, TEXT = range(5)

# What a slot of a record holds, and its bytes.
COUNT, SUM_INTEGER, SUM_REAL, MIN_INTEGER, MAX_INTEGER, MIN_REAL, MAX_REAL, LAST = range(8)
SLOT_SIZES = (4, 12, 16, 8, 8, 8, 8, 16)

ALL_EVENTS = -1
"""Stands for an input where all events are counted."""

EXACT_TILE = 1
"""Microseconds of a tile that holds the events of one time only."""

MOST_HASHES = 256
"""Distinct values of a tile above which registers take their place."""

MOST_TEXT = 255
"""Bytes of a text that is kept as a last value, at most; an event with a longer one is rejected."""

_SECOND = 1_000_000
_MOST_LEVELS = 16
_REAL_TYPES = {5, 6}
_NUMBER_TYPES = {3, 4, 5, 6, 7, 8}
_TEXT_TYPES = {1, 2}


class Aggregate(NamedTuple):
    """A feature that is aggregated over a window."""

    feature: str
    function: str
    """One of `FUNCTIONS`."""
    column: str
    """What is aggregated; empty where events are counted."""
    value_type: int
    """The feature's, as a number in `ValueType.Enum`."""
    window: int
    """Microseconds."""
    tile: int
    """Microseconds; `EXACT_TILE` where the window is exact to the event."""


class Input(NamedTuple):
    """A column of events in one form."""

    column: str
    value_type: int
    form: int


class Slot(NamedTuple):
    """A place in a record."""

    kind: int
    source: int
    """Index of the input, or `ALL_EVENTS`."""
    offset: int
    """From the record's start."""


@dataclass(frozen=True, slots=True)
class Level:
    """All that is kept in tiles of one size.

    Attributes:
        tile: The size in microseconds.
        span: The widest window, in microseconds.
        index_size: Bytes of a tile's number.
        record_size: Bytes of a record.
        slots: What is in it.
    """

    tile: int
    span: int
    index_size: int
    record_size: int
    slots: tuple[Slot, ...]


class Sketch(NamedTuple):
    """Where the distinct values of an input are kept."""

    level: int
    source: int


class Text(NamedTuple):
    """Where the last values of an input are kept that are texts or bytes."""

    level: int
    source: int


class Reading(NamedTuple):
    """How a feature is read from tiles."""

    feature: str
    function: int
    """Index in `FUNCTIONS`."""
    value_type: int
    window: int
    level: int
    offset: int
    """Of the slot with its values; of its counts where it is a count."""
    count_offset: int
    """Of the slot that says how many values there are."""
    form: int
    """The input's form, where the function is of values."""
    sketch: int
    """Index of its sketch; -1 where it has none."""
    text: int
    """Index of its text; -1 where it has none."""


@dataclass(frozen=True, slots=True)
class TileLayout:
    """The layout of one view's tiles.

    Attributes:
        inputs: What is sent with an event.
        levels: By the size of their tiles.
        sketches: Those of distinct values.
        texts: Those of last values that are texts or bytes.
        readings: One for each aggregate, in their order.
        lateness: How much older than the newest event of its entity an event may be, in
            microseconds.
        most_ids: Ids of events that are remembered of an entity at most.
        most_events: Records of a level with exact tiles at most.
    """

    inputs: tuple[Input, ...]
    levels: tuple[Level, ...]
    sketches: tuple[Sketch, ...]
    texts: tuple[Text, ...]
    readings: tuple[Reading, ...]
    lateness: int
    most_ids: int
    most_events: int

    @property
    def retention(self) -> int:
        """Microseconds behind its time after which an event is in no window any more."""
        return max(level.span + level.tile for level in self.levels)

    @property
    def event_size(self) -> int:
        """Bytes of an event as it is sent, but for its texts: time, id, and each input behind a
        byte that says whether it has a value."""
        return 16 + 9 * len(self.inputs)

    def suffix(self, storage_name: str) -> bytes:
        """What stands behind an entity's key in the key of its tiles.

        Views, and definitions of a view whose tiles differ, have different ones: tiles are never
        read by a definition that they were not made by, and old ones expire.

        Args:
            storage_name: The view's name in the store.
        """
        shape: list[object] = [
            storage_name, self.inputs, [(e.tile, e.span, e.slots) for e in self.levels],
            self.sketches,
        ]  # fmt: skip
        if self.texts:
            # Only then: tiles without any keep the key that they have had.
            shape.append(self.texts)
        return b"\0w" + hashlib.blake2b(_packed(shape), digest_size=6).digest()

    def for_script(self) -> bytes:
        """What the script that counts events is told of the layout, as MessagePack."""
        exact = [self.most_events if e.tile == EXACT_TILE else 65535 for e in self.levels]
        return _packed(
            {
                "lateness": self.lateness,
                "most_ids": self.most_ids,
                "most_events": self.most_events,
                "retention": max(self.retention, self.lateness),
                "inputs": len(self.inputs),
                "reals": [int(each.form == REAL) for each in self.inputs],
                "levels": [
                    {
                        "tile": e.tile,
                        "span": e.span,
                        "index": e.index_size,
                        "size": e.record_size,
                        "most": most,
                        "slots": [s for slot in e.slots for s in (slot.kind, slot.source + 1)],
                    }
                    for e, most in zip(self.levels, exact, strict=True)
                ],
                "sketches": [n + 1 for sketch in self.sketches for n in sketch],
                "texts": [n + 1 for text in self.texts for n in text],
            }
        )  # fmt: skip


def _packed(thing: object) -> bytes:
    """A thing as MessagePack."""
    # Only here: the client, for which this module is loaded too, does without the package.
    import msgpack

    packed: bytes = msgpack.packb(thing)
    return packed


def tile_layout(
    aggregates: Sequence[Aggregate],
    columns: dict[str, int],
    lateness: int,
    most_ids: int,
    most_events: int,
) -> TileLayout:
    """Lays out the tiles of a view.

    Args:
        aggregates: Its features.
        columns: For each column that is aggregated its value type.
        lateness, most_ids, most_events: See `TileLayout`.

    Raises:
        ValueError: There are more sizes of tiles than a blob can hold.
    """
    inputs = tuple(sorted({i for each in aggregates for i in _inputs_of(each, columns)}))
    place = {(i.column, i.form): n for n, i in enumerate(inputs)}
    tiles = sorted({each.tile for each in aggregates})
    if len(tiles) > _MOST_LEVELS:
        raise ValueError(f"there are tiles of {len(tiles)} sizes; at most {_MOST_LEVELS} are kept")
    levels: list[Level] = []
    sketches: list[Sketch] = []
    texts: list[Text] = []
    for number, tile in enumerate(tiles):
        here = [each for each in aggregates if each.tile == tile]
        wanted = {pair for each in here for pair in _slots_of(each, columns, place)}
        # Each count stands in front of the slots that need it.
        ordered = sorted(wanted, key=lambda pair: (pair[1], pair[0]))
        size = offset = 4 if tile >= _SECOND else 8
        slots = []
        for kind, source in ordered:
            slots.append(Slot(kind, source, offset))
            offset += SLOT_SIZES[kind]
        levels.append(Level(tile, max(e.window for e in here), size, offset, tuple(slots)))
        sketches += sorted(
            {Sketch(number, place[e.column, HASH]) for e in here if e.function == "distinct"}
        )
        texts += sorted(
            {Text(number, place[e.column, TEXT]) for e in here if _form_of(e, columns) == TEXT}
        )
    return TileLayout(
        inputs=inputs,
        levels=tuple(levels),
        sketches=tuple(sketches),
        texts=tuple(texts),
        readings=tuple(
            _reading(each, columns, place, tiles.index(each.tile), levels, sketches, texts)
            for each in aggregates
        ),
        lateness=lateness,
        most_ids=most_ids,
        most_events=most_events,
    )


def number_form(value_type: int) -> int:
    """The form that numbers of a type are kept in.

    Raises:
        ValueError: Values of the type are no numbers.
    """
    if value_type not in _NUMBER_TYPES:
        raise ValueError("it is no number")
    return REAL if value_type in _REAL_TYPES else INTEGER


def _form_of(each: Aggregate, columns: dict[str, int]) -> int:
    if each.function == "count":
        return PRESENCE
    if each.function == "distinct":
        return HASH
    if each.function == "last" and columns[each.column] in _TEXT_TYPES:
        return TEXT
    return number_form(columns[each.column])


def _inputs_of(each: Aggregate, columns: dict[str, int]) -> list[Input]:
    if not each.column:
        return []
    return [Input(each.column, columns[each.column], _form_of(each, columns))]


def _slots_of(
    each: Aggregate, columns: dict[str, int], place: dict[tuple[str, int], int]
) -> list[tuple[int, int]]:
    """Kinds and inputs of the slots that an aggregate needs."""
    if not each.column:
        return [(COUNT, ALL_EVENTS)]
    form = _form_of(each, columns)
    if form in (HASH, TEXT):
        return []
    source = place[each.column, form]
    return [(kind, source) for kind in (COUNT, _value_slot(each.function, form)) if kind >= 0]


def _value_slot(function: str, form: int) -> int:
    """The kind of slot with a function's values; -1 where counts are all it needs."""
    real = form == REAL
    return {
        "count": -1,
        "sum": SUM_REAL if real else SUM_INTEGER,
        "mean": SUM_REAL if real else SUM_INTEGER,
        "min": MIN_REAL if real else MIN_INTEGER,
        "max": MAX_REAL if real else MAX_INTEGER,
        "last": LAST,
    }[function]


def _reading(
    each: Aggregate,
    columns: dict[str, int],
    place: dict[tuple[str, int], int],
    level: int,
    levels: list[Level],
    sketches: list[Sketch],
    texts: list[Text],
) -> Reading:
    form = _form_of(each, columns)
    sketch, text, count_offset, offset = -1, -1, 0, 0
    if form == HASH:
        sketch = sketches.index(Sketch(level, place[each.column, HASH]))
    elif form == TEXT:
        text = texts.index(Text(level, place[each.column, TEXT]))
    else:
        source = place[each.column, form] if each.column else ALL_EVENTS
        offsets = {(s.kind, s.source): s.offset for s in levels[level].slots}
        count_offset = offset = offsets[COUNT, source]
        kind = _value_slot(each.function, form)
        if kind >= 0:
            offset = offsets[kind, source]
    return Reading(
        feature=each.feature,
        function=FUNCTIONS.index(each.function),
        value_type=each.value_type,
        window=each.window,
        level=level,
        offset=offset,
        count_offset=count_offset,
        form=form,
        sketch=sketch,
        text=text,
    )
