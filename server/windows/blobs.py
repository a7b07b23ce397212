"""Tiles of many entities as the blobs that are stored: those that are filled in from the source,
and their union with what was counted before.

The layout is that of `hotfeast.hotpath.tile_layout`.
"""

import struct
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hotfeast.hotpath.tile_layout import (
    COUNT,
    LAST,
    MAX_INTEGER,
    MAX_REAL,
    MIN_INTEGER,
    MIN_REAL,
    MOST_HASHES,
    SUM_INTEGER,
    SUM_REAL,
    TILES_FORMAT,
    Level,
    Text,
    TileLayout,
)

NEVER = 2**64 - 1
"""Stands for the oldest event where none was pushed."""

_HEAD = struct.Struct("<BQQQBH")
_ID_SIZE = 12
_DENSE, _REGISTERS = 65535, 2048
_LOW = 2**32 - 1
# How slots lie in a record, by kind.
_SLOT_TYPES: list[list[tuple[str, str]]] = [
    [("n", "<u4")],
    [("low", "<u4"), ("middle", "<u4"), ("high", "<i4")],
    [("sum", "<f8"), ("rest", "<f8")],
    [("v", "<i8")],
    [("v", "<i8")],
    [("v", "<f8")],
    [("v", "<f8")],
    [("t", "<u8"), ("v", "<u8")],
]


@dataclass
class Blob:
    """An entity's tiles.

    Attributes:
        newest, floor, oldest, filled: As the blob has them; times in microseconds.
        ids: Remembered ids, as they are stored.
        records: For each level its records, as they are stored.
        entries: For each sketch its tiles: number, and hashes or registers as they are stored.
        texts: For each text its tiles: number, event time, and value.
    """

    newest: int = 0
    floor: int = 0
    oldest: int = NEVER
    filled: bool = False
    ids: bytes = b""
    records: list[bytes] = field(default_factory=list)
    entries: list[list[tuple[int, bytes]]] = field(default_factory=list)
    texts: list[list[tuple[int, int, bytes]]] = field(default_factory=list)


def record_type(level: Level) -> np.dtype[np.void]:
    """The records of a level; slot number j is the field `s<j>`."""
    fields: list[tuple[str, object]] = [("tile", f"<u{level.index_size}")]
    for j, slot in enumerate(level.slots):
        fields.append((f"s{j}", np.dtype(_SLOT_TYPES[slot.kind])))
    made: np.dtype[np.void] = np.dtype(fields)
    assert made.itemsize == level.record_size
    return made


def records_of(level: Level, tiles: pa.Table) -> npt.NDArray[np.void]:
    """The records of tiles.

    Args:
        level: Their level.
        tiles: `tile`, and for each slot what `slot_columns` names.
    """
    made = np.zeros(tiles.num_rows, record_type(level))
    made["tile"] = tiles["tile"].to_numpy()
    for j, slot in enumerate(level.slots):
        if slot.kind == SUM_INTEGER:
            low = tiles[f"s{j}_low"].fill_null(0).to_numpy()
            top = tiles[f"s{j}_top"].fill_null(0).to_numpy() + (low >> 32)
            made[f"s{j}"]["low"] = low & _LOW
            made[f"s{j}"]["middle"] = top & _LOW
            made[f"s{j}"]["high"] = top >> 32
        elif slot.kind == SUM_REAL:
            made[f"s{j}"]["sum"] = tiles[f"s{j}"].fill_null(0).to_numpy()
        elif slot.kind == LAST:
            made[f"s{j}"]["t"] = tiles[f"s{j}_t"].fill_null(0).to_numpy()
            values = tiles[f"s{j}_v"].fill_null(0).to_numpy()
            made[f"s{j}"]["v"] = values.view("<u8")
        else:
            values = tiles[f"s{j}"].fill_null(0).to_numpy()
            made[f"s{j}"]["n" if slot.kind == COUNT else "v"] = values
    return made


def pack_blob(layout: TileLayout, blob: Blob) -> bytes:
    """A blob as it is stored."""
    parts = [
        _HEAD.pack(
            TILES_FORMAT, blob.newest, blob.floor, blob.oldest, blob.filled,
            len(blob.ids) // _ID_SIZE,
        ),
        blob.ids,
    ]  # fmt: skip
    for level, records in zip(layout.levels, blob.records, strict=True):
        parts += [struct.pack("<H", len(records) // level.record_size), records]
    for sketch, entries in zip(layout.sketches, blob.entries, strict=True):
        head = struct.Struct("<IH" if layout.levels[sketch.level].index_size == 4 else "<QH")
        packed = b"".join(
            head.pack(tile, _DENSE if len(held) == _REGISTERS else len(held) // 4) + held
            for tile, held in entries
        )
        parts += [struct.pack("<I", len(packed)), packed]
    for text, kept in zip(layout.texts, blob.texts, strict=True):
        head = _text_head(layout, text)
        packed = b"".join(
            head.pack(tile, time) + value + bytes([len(value)]) for tile, time, value in kept
        )
        parts += [struct.pack("<I", len(packed)), packed]
    return b"".join(parts)


def _text_head(layout: TileLayout, text: Text) -> struct.Struct:
    """What stands in front of the value in an entry of a text."""
    return struct.Struct("<IQ" if layout.levels[text.level].index_size == 4 else "<QQ")


def parse_blob(layout: TileLayout, data: bytes) -> Blob:
    """A blob from how it is stored.

    Raises:
        ValueError: It is none of this layout.
    """
    try:
        version, newest, floor, oldest, filled, ids = _HEAD.unpack_from(data)
        at = _HEAD.size + ids * _ID_SIZE
        made = Blob(newest, floor, oldest, bool(filled), data[_HEAD.size : at])
        for level in layout.levels:
            (count,) = struct.unpack_from("<H", data, at)
            end = at + 2 + count * level.record_size
            made.records.append(data[at + 2 : end])
            at = end
        for sketch in layout.sketches:
            (size,) = struct.unpack_from("<I", data, at)
            end = at + 4 + size
            head = struct.Struct("<IH" if layout.levels[sketch.level].index_size == 4 else "<QH")
            at += 4
            entries = []
            while at < end:
                tile, count = head.unpack_from(data, at)
                at += head.size
                held = _REGISTERS if count == _DENSE else 4 * count
                entries.append((tile, data[at : at + held]))
                at += held
            made.entries.append(entries)
        for text in layout.texts:
            (size,) = struct.unpack_from("<I", data, at)
            made.texts.append(_parse_texts(_text_head(layout, text), data[at + 4 : at + 4 + size]))
            at += 4 + size
    except struct.error as error:
        raise ValueError(f"these are no tiles of this layout: {error}") from None
    if version != TILES_FORMAT or at != len(data):
        raise ValueError("these are no tiles of this layout")
    return made


def _parse_texts(head: struct.Struct, data: bytes) -> list[tuple[int, int, bytes]]:
    """The tiles of a text, which are looked for from the last one.

    Raises:
        struct.error: The bytes are no entries.
    """
    made = []
    while data:
        start = len(data) - 1 - data[-1] - head.size
        if start < 0:
            raise struct.error("a text is longer than all of them")
        made.append((*head.unpack_from(data, start), data[start + head.size : -1]))
        data = data[:start]
    return made[::-1]


def unite(layout: TileLayout, filled: Blob, counted: Blob) -> Blob:
    """The union of what was filled in, and what was counted since.

    Args:
        layout: The layout of both.
        filled: Tiles of events that are all before those of the other.
        counted: What was pushed.
    """
    made = Blob(
        newest=max(filled.newest, counted.newest),
        floor=max(filled.floor, counted.floor),
        oldest=counted.oldest,
        filled=True,
        ids=counted.ids,
    )
    for level, old, new in zip(layout.levels, filled.records, counted.records, strict=True):
        made.records.append(_unite_records(level, old, new))
    for earlier, later in zip(filled.entries, counted.entries, strict=True):
        entries = list(earlier)
        for tile, held in later:
            if entries and entries[-1][0] == tile:
                entries[-1] = (tile, _unite_hashes(entries[-1][1], held))
            else:
                entries.append((tile, held))
        made.entries.append(entries)
    for before, after in zip(filled.texts, counted.texts, strict=True):
        # Events that were counted are later.
        first = after[0][0] if after else None
        made.texts.append([each for each in before if each[0] != first] + after)
    return made


def _unite_records(level: Level, before: bytes, after: bytes) -> bytes:
    kind = record_type(level)
    size = level.record_size
    if not before or not after:
        return before + after
    one = np.frombuffer(before[-size:], kind)[0]
    other = np.frombuffer(after[:size], kind)[0]
    if one["tile"] != other["tile"]:
        return before + after
    both = np.frombuffer(before[-size:], kind).copy()
    counts: dict[int, tuple[int, int]] = {}
    for j, slot in enumerate(level.slots):
        mine, theirs, into = one[f"s{j}"], other[f"s{j}"], both[f"s{j}"]
        if slot.kind == COUNT:
            counts[slot.source] = int(mine["n"]), int(theirs["n"])
            into["n"] = sum(counts[slot.source])
            continue
        have, have_others = counts[slot.source]
        if slot.kind == SUM_INTEGER:
            total = _whole(mine) + _whole(theirs)
            into["low"] = total & _LOW
            into["middle"] = total >> 32 & _LOW
            into["high"] = total >> 64
        elif slot.kind == SUM_REAL:
            a, b = float(mine["sum"]), float(theirs["sum"])
            total_real = a + b
            part = total_real - a
            rest = (a - (total_real - part)) + (b - part)
            into["sum"] = total_real
            into["rest"] = rest + float(mine["rest"]) + float(theirs["rest"])
        elif not have or (have_others and _is_better(slot.kind, theirs, mine)):
            into[...] = theirs
    return before[:-size] + both.tobytes() + after[size:]


def _whole(slot: np.void) -> int:
    return int(slot["low"]) + (int(slot["middle"]) << 32) + (int(slot["high"]) << 64)


def _is_better(kind: int, new: np.void, old: np.void) -> bool:
    if kind == LAST:
        # Events that were counted are later.
        return True
    if kind in (MIN_INTEGER, MIN_REAL):
        return bool(new["v"] < old["v"])
    assert kind in (MAX_INTEGER, MAX_REAL)
    return bool(new["v"] > old["v"])


def hashes_of(held: npt.NDArray[np.uint32]) -> bytes:
    """Different hashes of a tile as an entry has them: as they are, or as registers if many."""
    if len(held) <= MOST_HASHES:
        return held.astype("<u4").tobytes()
    return _registers_of(held).tobytes()


def _unite_hashes(one: bytes, other: bytes) -> bytes:
    if len(one) != _REGISTERS and len(other) != _REGISTERS:
        both = np.union1d(np.frombuffer(one, "<u4"), np.frombuffer(other, "<u4"))
        return hashes_of(both.astype(np.uint32))
    registers = [
        np.frombuffer(each, np.uint8)
        if len(each) == _REGISTERS
        else _registers_of(np.frombuffer(each, "<u4"))
        for each in (one, other)
    ]
    return np.maximum(*registers).tobytes()


def _registers_of(held: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint8]:
    """As `count_events.lua` makes them."""
    registers = np.zeros(_REGISTERS, np.uint8)
    # How many bits the rest has, which a double tells exactly.
    _, bits = np.frexp((held & 0x1FFFFF).astype(np.float64))
    np.maximum.at(registers, held >> 21, (22 - bits).astype(np.uint8))
    return registers
