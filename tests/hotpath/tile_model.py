"""What tiles of events say, read from their bytes as `tile_layout.py` lays them out: an oracle.

Slow and plain. Bytes in no order are read as the hot path reads them: a window's records are found
by bisection, and a sketch's entries count from the first one in the window to the first one behind
it.
"""

import math
from struct import pack, unpack_from
from typing import Any

from hotfeast.hotpath.tile_layout import FUNCTIONS, REAL, Reading, TileLayout

DENSE = 65535
REGISTERS = 2048
MOST_RANK = 22
_HEAD = 28
_ID_SIZE = 12
_FLOAT = 6


class _Cut(Exception):
    """There is less than there must be."""


class _Bytes:
    """Bytes that are taken from the front."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, size: int) -> bytes:
        if size > len(self.data):
            raise _Cut
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")


class TileModel:
    """A blob of tiles.

    Attributes:
        newest: The newest event time.
    """

    def __init__(self, layout: TileLayout, blob: bytes) -> None:
        """
        Raises:
            ValueError: It is none of this layout.
        """
        self.layout = layout
        left = _Bytes(blob)
        try:
            if left.number(1) != 1:
                raise ValueError("another format")
            self.newest = left.number(8)
            left.take(_HEAD - 11)
            left.take(left.number(2) * _ID_SIZE)
            self._records: list[list[tuple[int, bytes]]] = []
            for level in layout.levels:
                records = [left.take(level.record_size) for _ in range(left.number(2))]
                size = level.index_size
                self._records.append([(int.from_bytes(r[:size], "little"), r) for r in records])
            self._entries = [
                self._read_entries(left, layout.levels[sketch.level].index_size)
                for sketch in layout.sketches
            ]
        except _Cut:
            raise ValueError("cut") from None
        if left.data:
            raise ValueError("more behind the end")

    @staticmethod
    def _read_entries(left: _Bytes, index_size: int) -> list[tuple[int, bytes | list[int]]]:
        inside = _Bytes(left.take(left.number(4)))
        entries: list[tuple[int, bytes | list[int]]] = []
        while inside.data:
            index, count = inside.number(index_size), inside.number(2)
            if count == DENSE:
                entries.append((index, inside.take(REGISTERS)))
            else:
                entries.append((index, [inside.number(4) for _ in range(count)]))
        return entries

    def read(self, now: int) -> list[bytes] | None:
        """As `Tiles.read`."""
        furthest = max(self.layout.levels, key=lambda level: level.tile + level.span)
        if self.newest <= _first_tile(now, furthest.span, furthest.tile) * furthest.tile:
            return None
        return [self._read(reading, now) for reading in self.layout.readings]

    def _read(self, reading: Reading, now: int) -> bytes:
        tile = self.layout.levels[reading.level].tile
        first = _first_tile(now, reading.window, tile)
        last = (now - 1) // tile if now > 0 else 0
        function = FUNCTIONS[reading.function]
        if function == "distinct":
            return _whole(reading.value_type, self._distinct(reading.sketch, first, last))
        records = self._records[reading.level]
        end = len(records)
        while end > 0 and records[end - 1][0] > last:
            end -= 1
        begin, high = 0, end
        while begin < high:
            middle = (begin + high) // 2
            if records[middle][0] < first:
                begin = middle + 1
            else:
                high = middle
        counted = [
            (count, record)
            for _, record in records[begin:end]
            if (count := unpack_from("<I", record, reading.count_offset)[0])
        ]
        return _aggregate(function, reading, counted)

    def _distinct(self, sketch: int, first: int, last: int) -> int:
        inside: list[bytes | list[int]] = []
        for index, values in self._entries[sketch]:
            if index > last:
                break
            if inside or index >= first:
                inside.append(values)
        if not any(isinstance(values, bytes) for values in inside):
            return len({each for values in inside for each in values})
        registers = [0] * REGISTERS
        for values in inside:
            if isinstance(values, bytes):
                registers = list(map(max, registers, values))
            else:
                for each in values:
                    place, rest = each >> 21, each & 0x1FFFFF
                    registers[place] = max(registers[place], 22 - rest.bit_length())
        return estimate(registers)


def estimate(registers: list[int]) -> int:
    """Ertl's estimate, of registers that hold at most what hashes can make them."""
    counts = [0] * (MOST_RANK + 1)
    for register in registers:
        counts[min(register, MOST_RANK)] += 1
    if counts[0] == REGISTERS:
        return 0
    total = REGISTERS * _above(1 - counts[MOST_RANK] / REGISTERS)
    for number in counts[MOST_RANK - 1 : 0 : -1]:
        total = 0.5 * (total + number)
    total += REGISTERS * _below(counts[0] / REGISTERS)
    if total == 0:
        return 2**32
    return int(min(REGISTERS * REGISTERS / (2 * math.log(2.0)) / total, 2.0**32) + 0.5)


def _below(x: float) -> float:
    factor, total, before = 1.0, x, -1.0
    while total != before:
        x *= x
        before = total
        total += x * factor
        factor += factor
    return total


def _above(x: float) -> float:
    factor, total, before = 1.0, 1 - x, -1.0
    if x in (0, 1):
        return 0
    while total != before:
        x = math.sqrt(x)
        before = total
        factor *= 0.5
        total -= (1 - x) * (1 - x) * factor
    return total / 3


def _first_tile(now: int, window: int, tile: int) -> int:
    return (now - window) // tile if now > window else 0


def _aggregate(function: str, reading: Reading, counted: list[tuple[int, bytes]]) -> bytes:
    real, kind, offset = reading.form == REAL, reading.value_type, reading.offset
    count = sum(number for number, _ in counted)
    if function == "count":
        return _whole(kind, count)
    if function in ("sum", "mean"):
        if real:
            total: Any = _real_sum([unpack_from("<dd", r, offset) for _, r in counted])
        else:
            total = sum(int.from_bytes(r[offset : offset + 12], "little", signed=True)
                        for _, r in counted)  # fmt: skip
        if function == "mean":
            return _real(kind, float(total) / float(count)) if count else b""
        if real:
            return _real(kind, total)
        return _whole(kind, total) if -(2**63) <= total < 2**63 else b""
    if not count:
        return b""
    form = "<d" if real else "<q"
    put = _real if real else _whole
    best: Any = None
    latest = 0
    for _, record in counted:
        if function == "last":
            time, value = unpack_from("<Q" + form[1:], record, offset)
            if time >= latest:
                latest, best = time, value
        else:
            value = unpack_from(form, record, offset)[0]
            if best is None or (value < best if function == "min" else value > best):
                best = value
    return put(kind, best)


def _real_sum(parts: list[tuple[Any, ...]]) -> float:
    """Adds up sums and what was rounded off them, as Knuth does."""
    total = rest = 0.0
    for value, rounded in parts:
        new = total + value
        part = new - total
        rest += (total - (new - part)) + (value - part)
        total = new
        rest += rounded
    return total + rest if math.isfinite(total) else total


def _real(kind: int, value: float) -> bytes:
    if kind == _FLOAT:
        try:
            return b"\x35" + pack("<f", value)
        except OverflowError:
            return b"\x35" + pack("<f", math.copysign(math.inf, value))
    return b"\x29" + pack("<d", value)


def _whole(kind: int, value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray([kind << 3])
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def same(made: list[bytes] | None, wanted: list[bytes] | None) -> bool:
    """Whether values are equal; one NaN is as good as another."""
    if made is None or wanted is None:
        return made is wanted
    return len(made) == len(wanted) and all(
        a == b or (a[:1] == b[:1] and _is_nan(a) and _is_nan(b))
        for a, b in zip(made, wanted, strict=True)
    )


def _is_nan(value: bytes) -> bool:
    if value[:1] == b"\x35" and len(value) == 5:
        return math.isnan(unpack_from("<f", value, 1)[0])
    return value[:1] == b"\x29" and len(value) == 9 and math.isnan(unpack_from("<d", value, 1)[0])
