"""What windows held at the times of rows, of the events of a batch source, in SQL.

Of each level, tiles before the one that a row's time is in are taken whole, and of that one the
events up to the time. So a row costs as many tiles as its windows have, however many events are in
them.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from hotfeast.hotpath.tile_layout import FUNCTIONS, LAST, MOST_HASHES, REAL, Level, Reading, Slot
from hotfeast.hotpath.tiles import estimate_distinct
from hotfeast.server.feast_api import ValueType
from hotfeast.server.windows.source import (
    Events,
    of_event,
    put_together,
    start_of,
    tile_of,
)

_TYPES = {
    ValueType.INT32.value: pa.int32(),
    ValueType.INT64.value: pa.int64(),
    ValueType.DOUBLE.value: pa.float64(),
    ValueType.FLOAT.value: pa.float32(),
    ValueType.BOOL.value: pa.bool_(),
    ValueType.UNIX_TIMESTAMP.value: pa.timestamp("s", "UTC"),
    ValueType.STRING.value: pa.string(),
    ValueType.BYTES.value: pa.binary(),
}


def windows_at(
    events: Events, asked: pa.Table, readings: Sequence[Reading], ttl: int
) -> list[pa.Array]:
    """The features of rows.

    Args:
        events: The events, from the widest window before the first row on.
        asked: `n`, the numbers of the rows; `ts`, their times in microseconds since 1970; and the
            join keys as `events` has them.
        readings: The features.
        ttl: Microseconds by which the newest event may be older than a row's time; 0 for any.

    Returns:
        A column for each feature; null where nothing would be served.
    """
    events.db.register("asked", asked)
    events.db.execute("CREATE OR REPLACE TABLE rows AS SELECT * FROM asked")
    events.db.unregister("asked")
    _find_served(events, ttl)
    columns: dict[int, pa.Array] = {}
    for number, level in enumerate(events.windows.layout.levels):
        here = [
            i for i, r in enumerate(readings) if r.level == number and r.sketch < 0 and r.text < 0
        ]
        if here:
            made = _of_level(events, number, level, [readings[i] for i in here])
            columns |= {i: made.column(j) for j, i in enumerate(here)}
    for i, reading in enumerate(readings):
        if reading.sketch >= 0:
            columns[i] = _distinct(events, reading)
        elif reading.text >= 0:
            columns[i] = _last_text(events, reading)
    return [_typed(columns[i], reading) for i, reading in enumerate(readings)]


def _typed(column: pa.ChunkedArray | pa.Array, reading: Reading) -> pa.Array:
    kind = _TYPES[reading.value_type]
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks) if column.chunks else pa.nulls(0)
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.int64())
    return column.cast(kind)


def _find_served(events: Events, ttl: int) -> None:
    """Makes the table of the rows that are served: `n`."""
    layout = events.windows.layout
    widest = max(layout.levels, key=lambda level: level.span + level.tile)
    start = f"{start_of('r.ts', widest.span, widest)} * {widest.tile}"
    old_enough = f"AND e.ts + {ttl} >= r.ts" if ttl else ""
    events.db.execute(
        "CREATE OR REPLACE TABLE served AS SELECT r.n FROM rows r ASOF JOIN events e "
        f"ON {events.same_keys('r', 'e')} AND r.ts >= e.ts WHERE e.ts > {start} {old_enough}"
    )


def _of_level(events: Events, number: int, level: Level, readings: Sequence[Reading]) -> pa.Table:
    tiles = events.make_tiles(number)
    slots = ", ".join(f"t.s{j}" for j in range(len(level.slots)))
    of_events = ", ".join(f"{of_event(slot)} AS s{j}" for j, slot in enumerate(level.slots))
    now = tile_of("r.ts", level)
    values = ", ".join(f"{_value(level, reading)} AS f{i}" for i, reading in enumerate(readings))
    filled = ", ".join(
        f"CASE WHEN s.n IS NULL THEN NULL ELSE {_without(reading, f'v.f{i}')} END AS f{i}"
        for i, reading in enumerate(readings)
    )
    query = f"""
        WITH pieces AS (
            SELECT r.n, r.ts, t.tile, {slots} FROM rows r JOIN {tiles} t
            ON {events.same_keys("r", "t")} AND t.tile < {now}
            AND t.tile >= {start_of("r.ts", level.span, level)}
            UNION ALL
            SELECT r.n, r.ts, {now} AS tile, {of_events} FROM rows r JOIN events e
            ON {events.same_keys("r", "e")} AND e.ts <= r.ts AND e.ts > {now} * {level.tile}
        ), made AS (SELECT n, {values} FROM pieces GROUP BY n)
        SELECT {filled} FROM rows r LEFT JOIN served s USING (n) LEFT JOIN made v USING (n)
        ORDER BY r.n
    """
    return events.db.sql(query).to_arrow_table()


def _slot_at(level: Level, offset: int) -> tuple[int, Slot]:
    return next((j, slot) for j, slot in enumerate(level.slots) if slot.offset == offset)


def _value(level: Level, reading: Reading) -> str:
    """SQL for what a window has of the pieces of a row."""
    within = f"tile >= {start_of('ts', reading.window, level)}"
    j, slot = _slot_at(level, reading.offset)
    value = put_together(slot, f"s{j}", within)
    function = FUNCTIONS[reading.function]
    if function == "mean":
        n, counts = _slot_at(level, reading.count_offset)
        count = put_together(counts, f"s{n}", within)
        return f"CAST({value} AS DOUBLE) / nullif({count}, 0)"
    if function == "sum" and reading.form != REAL:
        return f"CASE WHEN {value} IS NOT NULL THEN {value} ELSE 0 END"
    if slot.kind == LAST:
        return f"({value}).v"
    return value


def _without(reading: Reading, value: str) -> str:
    """SQL for a value of a row that is served, also where no event is in the window."""
    function = FUNCTIONS[reading.function]
    if function in ("count", "sum"):
        value = f"coalesce({value}, 0)"
    if function == "sum" and reading.form != REAL:
        # What does not fit is null.
        return f"TRY_CAST({value} AS BIGINT)"
    return value


def _last_text(events: Events, reading: Reading) -> pa.ChunkedArray:
    """Last values that are texts or bytes; of several at one time the greatest."""
    layout = events.windows.layout
    source = layout.texts[reading.text].source
    level = layout.levels[reading.level]
    listed = "".join(f"e.{key}, " for key in events.keys)
    query = f"""
        WITH texts AS (
            SELECT {listed}e.ts, max(e.i{source}) AS v FROM events e
            WHERE e.i{source} IS NOT NULL GROUP BY ALL
        )
        SELECT CASE WHEN s.n IS NOT NULL
            AND t.ts > {start_of("r.ts", reading.window, level)} * {level.tile} THEN t.v END AS v
        FROM rows r ASOF LEFT JOIN texts t ON {events.same_keys("r", "t")} AND r.ts >= t.ts
        LEFT JOIN served s USING (n) ORDER BY r.n
    """
    return events.db.sql(query).to_arrow_table()["v"]


def _distinct(events: Events, reading: Reading) -> pa.Array:
    """Distinct values: counted as long as no tile has too many, and else estimated."""
    layout = events.windows.layout
    level = layout.levels[reading.level]
    source = layout.sketches[reading.sketch].source
    listed = ", ".join(f"e.{key}" for key in events.keys)
    grouped = f"{listed}, " if listed else ""
    query = f"""
        WITH hashes AS (
            SELECT {grouped}{tile_of("e.ts", level)} AS tile, e.i{source} AS hash, min(e.ts) AS ts
            FROM events e WHERE e.i{source} IS NOT NULL GROUP BY ALL
        ), seen AS (
            SELECT r.n, h.tile, h.hash, count(*) OVER (PARTITION BY r.n, h.tile) AS in_tile
            FROM rows r JOIN hashes h ON {events.same_keys("r", "h")} AND h.ts <= r.ts
            AND h.tile >= {start_of("r.ts", reading.window, level)}
        ), made AS (
            SELECT n, count(DISTINCT hash) AS exact,
            CASE WHEN max(in_tile) > {MOST_HASHES} THEN list(DISTINCT hash) END AS all_of_them
            FROM seen GROUP BY n
        )
        SELECT CASE WHEN s.n IS NOT NULL THEN coalesce(m.exact, 0) END AS exact, m.all_of_them
        FROM rows r LEFT JOIN served s USING (n) LEFT JOIN made m USING (n) ORDER BY r.n
    """
    made = events.db.sql(query).to_arrow_table()
    counts = made["exact"].to_pylist()
    many = made["all_of_them"]
    for row in pc.indices_nonzero(pc.is_valid(many)).to_pylist():
        if counts[row] is not None:
            counts[row] = estimate_distinct(many[row].values.to_pylist())
    return pa.array(counts, pa.int64())
