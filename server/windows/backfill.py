"""Filling tiles in from the batch source, so that a feature is right from its first day.

Beside pushes that go on: an entity's tiles get the events of the source from before the first one
that was pushed, or up to the end of the run where none was. From then on, what is pushed counts.
Each entity is filled in once, so that a run can be repeated.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hotfeast.hotpath.columns import TimeColumn, ValueColumn
from hotfeast.hotpath.events import EventBatch
from hotfeast.hotpath.scripts import load_script
from hotfeast.hotpath.tile_layout import LAST, SUM_INTEGER, TILES_FIELD, Level, Slot, TileLayout
from hotfeast.server.errors import RedisUnavailable, not_servable
from hotfeast.server.feast_api import FeatureStore
from hotfeast.server.redis_clients import REDIS_ERRORS, client_of
from hotfeast.server.redis_pools import connection_pool
from hotfeast.server.registry import RegistryReader, feast_view
from hotfeast.server.repository import open_repository
from hotfeast.server.rows import encode_values
from hotfeast.server.windows.blobs import (
    Blob,
    hashes_of,
    pack_blob,
    parse_blob,
    records_of,
    unite,
)
from hotfeast.server.windows.definition import is_windowed
from hotfeast.server.windows.source import Events, microseconds_since, of_events, tile_of, until
from hotfeast.server.write_plan import ViewWrite, plan_write

SCRIPT = load_script("fill_tiles.lua")
"""The script that puts tiles in the place of others."""

REDIS_TIMEOUT = 10.0
# Entities that are filled in at once: their tiles are in memory.
_CHUNK = 2000
# Tries to fill in an entity whose events come faster than it is read and written.
_TRIES = 20
# A serialized Value of one letter, for what does not matter.
_ANY = b"\x12\x01x"
_STRING = 2


@dataclass
class Filled:
    """What became of a view's entities.

    Attributes:
        feature_view: The view.
        until: The time up to which events were taken.
        events: Events of the source that windows may still hold then.
        filled: Entities that were filled in.
        before: Those that had been before.
        failed: Those whose tiles changed each time before they could be written: run again.
    """

    feature_view: str
    until: datetime
    events: int
    filled: int = 0
    before: int = 0
    failed: int = 0


Progress = Callable[[str, int, int], None]
"""Is told of a view, how many entities are done, and of how many."""


def backfill(
    repo: FeatureStore | Path | str,
    views: Sequence[str] | None = None,
    end: datetime | None = None,
    redis_url: str | None = None,
    progress: Progress = lambda view, done, total: None,
) -> list[Filled]:
    """Fills in the tiles of windowed views from their batch sources.

    Args:
        repo: The repository, or its folder.
        views: Which views; all windowed ones that are online if None.
        end: The time up to which each source has all events; that of its newest event if None.
        redis_url: Used instead of the repository's connection string.
        progress: Is told how far it is.

    Raises:
        StartFailure: The repository cannot be opened, or its online store is no Redis.
        RequestFailure: A view is unknown, not windowed, or its source lacks a column.
        RedisUnavailable: Redis did not answer. What was filled in is; run it again.
        Exception: Whatever Feast raises where a source cannot be read.
    """
    store = repo if isinstance(repo, FeatureStore) else open_repository(Path(repo))
    client = client_of(connection_pool(store.config, redis_url, REDIS_TIMEOUT))
    reader = RegistryReader(store)
    stored = reader.read()
    definitions = reader.define(stored)
    if views is None:
        views = [v.name for v in definitions.views.values() if v.online and is_windowed(v)]
    done = []
    for name in sorted(views):
        write = plan_write(definitions, name, 0)
        if write.windows is None:
            raise not_servable(f"feature view {name!r} has no windows to fill in; materialize it")
        try:
            done.append(_backfill(store, feast_view(stored, name), write, end, client, progress))
        except REDIS_ERRORS as error:
            raise RedisUnavailable(f"Redis did not answer: {error}") from error
    return done


def _backfill(
    store: FeatureStore,
    feast: Any,
    write: ViewWrite,
    end: datetime | None,
    client: Any,
    progress: Progress,
) -> Filled:
    assert write.windows is not None
    last = end or datetime.now(UTC) + timedelta(days=1)
    # Windows are as of the newest event; all is read where that is not known.
    first = until(last, write.windows.layout.retention) if end else datetime(1970, 1, 1, tzinfo=UTC)
    with Events(store, feast, write, first, last) as events:
        if end is None:
            [(newest,)] = events.db.sql("SELECT max(ts) FROM events").fetchall()
            last = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=newest or 0)
        return _Filling(events, client, last, progress).run()


class _Filling:
    """The filling in of one view."""

    def __init__(self, events: Events, client: Any, end: datetime, progress: Progress) -> None:
        self._db = events.db
        self._events = events
        self._layout: TileLayout = events.windows.layout
        self._client = client
        self._end = microseconds_since(end)
        self._progress = progress
        self.filled = Filled(events.write.name, end, 0)

    def run(self) -> Filled:
        """Fills in all entities of the source."""
        keys = ", ".join(self._events.keys)
        # The rest is in no window from now on.
        oldest = self._end - self._layout.retention
        number = f"dense_rank() OVER (ORDER BY {keys}) - 1" if keys else "0"
        self._db.execute(
            f"CREATE TABLE numbered AS SELECT {number} AS e, * FROM events "
            f"WHERE ts > {oldest} AND ts <= {self._end} ORDER BY e"
        )
        [(self.filled.events, entities)] = self._db.sql(
            "SELECT count(*), coalesce(max(e) + 1, 0) FROM numbered"
        ).fetchall()
        for start in range(0, entities, _CHUNK):
            self._fill(start, min(start + _CHUNK, entities))
            self._progress(self.filled.feature_view, min(start + _CHUNK, entities), entities)
        return self.filled

    def _fill(self, start: int, stop: int) -> None:
        keys = self._redis_keys(start, stop)
        left = list(range(start, stop))
        for _ in range(_TRIES):
            left = self._try(keys, start, left)
            if not left:
                return
        self.filled.failed += len(left)

    def _try(self, keys: list[bytes], start: int, entities: list[int]) -> list[int]:
        """Fills entities in whose tiles stay as they are meanwhile. Returns the others."""
        pipeline = self._client.pipeline(transaction=False)
        for e in entities:
            pipeline.hget(keys[e - start], TILES_FIELD)
        held = dict(zip(entities, pipeline.execute(), strict=True))
        counted: dict[int, Blob] = {}
        cuts = {}
        for e, data in held.items():
            blob = parse_blob(self._layout, data) if data is not None else None
            if blob is not None and blob.filled:
                self.filled.before += 1
                continue
            cuts[e] = self._end
            if blob is not None:
                counted[e] = blob
                cuts[e] = min(self._end, blob.oldest - 1)
        if not cuts:
            return []
        made = self._blobs(cuts)
        pipeline = self._client.pipeline(transaction=False)
        now = time.time_ns() // 1000
        for e, cut in cuts.items():
            blob = made.get(e, self._empty(cut))
            if e in counted:
                blob = unite(self._layout, blob, counted[e])
            life = -(-(max(blob.newest - now, 0) + self._layout.retention) // 1000)
            packed = pack_blob(self._layout, blob)
            # By its text, and as a command: redis-py's pipeline of a cluster knows no scripts.
            arguments = (1, keys[e - start], held[e] or b"", packed, life)
            pipeline.execute_command("EVAL", SCRIPT, *arguments)
        answers = dict(zip(cuts, pipeline.execute(), strict=True))
        self.filled.filled += sum(answers.values())
        return [e for e, answer in answers.items() if not answer]

    def _empty(self, cut: int) -> Blob:
        layout = self._layout
        return Blob(
            floor=cut,
            filled=True,
            records=[b""] * len(layout.levels),
            entries=[[] for _ in layout.sketches],
            texts=[[] for _ in layout.texts],
        )

    def _blobs(self, cuts: dict[int, int]) -> dict[int, Blob]:
        """The tiles of entities, of events up to a time of each."""
        self._db.register(
            "asked",
            pa.table(
                {
                    "e": pa.array(list(cuts), pa.int64()),
                    "cut": pa.array(list(cuts.values()), pa.int64()),
                }
            ),
        )
        low, high = min(cuts), max(cuts)
        self._db.execute(
            "CREATE OR REPLACE TEMP TABLE part AS SELECT n.* FROM numbered n JOIN asked USING (e) "
            f"WHERE n.e BETWEEN {low} AND {high} AND n.ts <= asked.cut"
        )
        self._db.unregister("asked")
        made: dict[int, Blob] = {}
        for e, newest in self._db.sql("SELECT e, max(ts) FROM part GROUP BY e").fetchall():
            made[e] = self._empty(cuts[e])
            made[e].newest = newest
        for number, level in enumerate(self._layout.levels):
            self._add_records(made, number, level)
        for number in range(len(self._layout.sketches)):
            self._add_entries(made, number)
        for number in range(len(self._layout.texts)):
            self._add_texts(made, number)
        return made

    def _add_records(self, made: dict[int, Blob], number: int, level: Level) -> None:
        columns = [f"{tile_of('e.ts', level)} AS tile"]
        columns += [f"{name} AS {alias}" for slot in _numbered(level) for name, alias in slot]
        tiles = self._db.sql(
            f"SELECT e.e, {', '.join(columns)} FROM part e GROUP BY ALL ORDER BY e.e, tile"
        ).to_arrow_table()
        records = records_of(level, tiles)
        for e, begin, end in _runs(tiles["e"].to_numpy()):
            made[e].records[number] = records[begin:end].tobytes()

    def _add_entries(self, made: dict[int, Blob], number: int) -> None:
        level, source = self._layout.sketches[number]
        tile = tile_of("e.ts", self._layout.levels[level])
        entries = self._db.sql(
            f"SELECT e.e, {tile} AS tile, list(DISTINCT e.i{source}) AS hashes FROM part e "
            f"WHERE e.i{source} IS NOT NULL GROUP BY ALL ORDER BY e.e, tile"
        ).to_arrow_table()
        for e, at, hashes in zip(
            entries["e"].to_pylist(), entries["tile"].to_pylist(), entries["hashes"], strict=True
        ):
            held = hashes.values.to_numpy(zero_copy_only=False).astype(np.uint32)
            made[e].entries[number].append((at, hashes_of(held)))

    def _add_texts(self, made: dict[int, Blob], number: int) -> None:
        level, source = self._layout.texts[number]
        tile = tile_of("e.ts", self._layout.levels[level])
        value = f"struct_pack(t := e.ts, v := e.i{source})"
        kept = self._db.sql(
            f"SELECT e.e, {tile} AS tile, max({value}) AS last FROM part e "
            f"WHERE e.i{source} IS NOT NULL GROUP BY ALL ORDER BY e.e, tile"
        ).to_arrow_table()
        for each in kept.to_pylist():
            last = each["last"]
            made[each["e"]].texts[number].append((each["tile"], last["t"], last["v"]))

    def _redis_keys(self, start: int, stop: int) -> list[bytes]:
        """The keys of entities' tiles."""
        names = self._events.keys
        if not names:
            table = pa.table({"e": [0]})
        else:
            table = self._db.sql(
                f"SELECT DISTINCT e, {', '.join(names)} FROM numbered "
                f"WHERE e >= {start} AND e < {stop} ORDER BY e"
            ).to_arrow_table()
        write = self._events.write
        columns = [
            encode_values(write.name, name, kind, table[column])
            for (name, kind), column in zip(write.compiled.definition.join_keys, names, strict=True)
        ]
        rows = table.num_rows
        times = TimeColumn.from_arrow(pa.array([10**6] * rows, pa.timestamp("us", "UTC")))
        anything = [
            ValueColumn.constant(_STRING, _ANY, rows) for _ in write.compiled.definition.features
        ]
        batch = EventBatch(write.compiled, columns, anything, times)
        return [batch.key(row) for row in range(rows)]


def _numbered(level: Level) -> Iterator[list[tuple[str, str]]]:
    """SQL for what `records_of` wants of each slot, with the names it has there."""
    for j, slot in enumerate(level.slots):
        yield _slot_columns(slot, j)


def _slot_columns(slot: Slot, j: int) -> list[tuple[str, str]]:
    value = f"e.i{slot.source}"
    if slot.kind == SUM_INTEGER:
        # In two parts, of which no sum overflows.
        low = f"({value} & 4294967295)"
        return [
            (f"CAST(sum({low}) AS BIGINT)", f"s{j}_low"),
            (f"CAST(sum(({value} - {low}) // 4294967296) AS BIGINT)", f"s{j}_top"),
        ]
    made = of_events(slot)
    if slot.kind == LAST:
        return [(f"({made}).t", f"s{j}_t"), (f"({made}).v", f"s{j}_v")]
    return [(made, f"s{j}")]


def _runs(entities: npt.NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """Runs of rows of one entity: it, and where they begin and end."""
    starts = np.flatnonzero(np.diff(entities, prepend=-1))
    for begin, end in zip(starts, np.append(starts, len(entities))[1:], strict=True):
        yield int(entities[begin]), int(begin), int(end)
