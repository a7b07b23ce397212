"""The offline side of an audit: which entities have rows, how new they are, and what Feast answers.

A view's source is read once, portion by portion, and only keys and event times are kept of it: of
the entities that are asked for, and of a uniform sample of all others. Values come from Feast's
point-in-time join, which does not say what time the row had that it answers with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from hotfeast.server.feast_api import FeatureStore, ValueType
from hotfeast.server.materialize import EPOCH
from hotfeast.server.offline_rows import open_source, source_name
from hotfeast.server.registry import FieldDefinition
from hotfeast.server.write_plan import ViewWrite

TIME = "event_timestamp"
"""Name of the column of event times, as Feast has it for the rows that it joins to."""

_HASH = "\0hash"
# Rows that are held before those are left out that cannot count any more.
_HELD_ROWS = 1_000_000
_UNIX_TIMESTAMP = ValueType.UNIX_TIMESTAMP.value


class NotComparable(Exception):
    """Why a view cannot be compared."""


@dataclass(frozen=True, slots=True)
class SourceRows:
    """The newest row of some entities in a view's source.

    Attributes:
        times: For each entity, as its join keys in the order of the view's, the row's event time
            in microseconds since 1970.
        sampled: Those entities that were drawn from the source.
    """

    times: dict[tuple[Any, ...], int]
    sampled: list[tuple[Any, ...]]


def newest_rows(
    store: FeatureStore,
    view: Any,
    write: ViewWrite,
    wanted: Sequence[tuple[Any, ...]],
    count: int,
    as_of: datetime,
    seed: int,
) -> SourceRows:
    """Looks for entities in a view's source.

    Args:
        store: The repository.
        view: Feast's object of the view.
        write: How its rows are written.
        wanted: Entities to look for.
        count: How many more to draw, each entity with the same chance.
        as_of: Rows after it do not count, nor those that are older than the TTL then.
        seed: Another one draws others.

    Raises:
        NotComparable: Only Feast can read the source.
        Exception: Whatever pyarrow or Feast raises where the source cannot be read.
    """
    ttl = timedelta(seconds=write.view.ttl_seconds)
    start = as_of - ttl if ttl and as_of - ttl > EPOCH else EPOCH
    rows = open_source(store, view, write, start, as_of)
    if rows is None:
        raise NotComparable("its rows are computed by an engine that only Feast can run")
    keys = list(write.view.join_keys)
    names = [key.name for key in keys]
    columns = [*names, write.timestamp_column]
    if not rows.mapped:
        columns = [source_name(write, name) for name in columns]
    sample = _Sample(names, wanted, count, seed)
    for portion in rows.portions:
        table = pa.Table.from_batches([portion.rows]).select(columns).drop_null()
        arrays = [plain(table.column(i), key) for i, key in enumerate(keys)]
        ticks = table.column(len(keys)).cast(pa.timestamp("us"), safe=False).cast(pa.int64())
        sample.add(pd.DataFrame({**dict(zip(names, arrays, strict=True)), TIME: ticks.to_numpy()}))
    return sample.rows()


def plain(column: pa.ChunkedArray, key: FieldDefinition) -> Any:
    """Join keys as they are compared: whole numbers (times in seconds), texts or bytes."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = kind.value_type
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("s"), safe=False).cast(pa.int64()).to_numpy()
    # Whole numbers that had nulls beside them come as fractions.
    whole = key.value_type in (ValueType.INT32.value, ValueType.INT64.value, _UNIX_TIMESTAMP)
    if pa.types.is_integer(kind) or (whole and pa.types.is_floating(kind)):
        return column.cast(pa.int64()).to_numpy()
    return column.to_pandas().to_numpy(dtype=object)


class _Sample:
    """The newest times of wanted entities, and of those with the least hashes: a uniform sample,
    however many rows each has, in bounded memory."""

    def __init__(
        self, names: list[str], wanted: Sequence[tuple[Any, ...]], count: int, seed: int
    ) -> None:
        self._names = names
        self._count = count
        # Pandas' hash of whole numbers knows no seed.
        self._mask = np.random.default_rng(seed).integers(2**63, dtype=np.uint64)
        self._wanted = set(wanted)
        frame = pd.DataFrame(list(wanted), columns=names) if names else pd.DataFrame()
        self._wanted_hashes = self._hash(frame) if len(frame) else np.array([], np.uint64)
        self._held: list[pd.DataFrame] = []
        self._limit = np.uint64(2**64 - 1)
        self._rows = 0

    def _hash(self, frame: pd.DataFrame) -> Any:
        if not self._names:
            return np.zeros(len(frame), np.uint64)
        hashes = pd.util.hash_pandas_object(frame[self._names], index=False).to_numpy()
        return hashes ^ self._mask

    def add(self, frame: pd.DataFrame) -> None:
        """Takes some rows."""
        frame[_HASH] = self._hash(frame)
        hashes = frame[_HASH].to_numpy()
        frame = frame[(hashes <= self._limit) | np.isin(hashes, self._wanted_hashes)]
        self._held.append(frame)
        self._rows += len(frame)
        if self._rows > _HELD_ROWS:
            self._sift()

    def _none(self) -> pd.DataFrame:
        return pd.DataFrame({name: [] for name in (*self._names, TIME, _HASH)})

    def _sift(self) -> pd.DataFrame:
        frame = pd.concat(self._held or [self._none()])
        newest = frame.sort_values(TIME, kind="stable").drop_duplicates(
            [_HASH, *self._names], keep="last"
        )
        hashes = np.sort(newest[_HASH].to_numpy())
        if len(hashes) > self._count:
            self._limit = hashes[self._count - 1]
        kept = newest[_HASH].to_numpy()
        newest = newest[(kept <= self._limit) | np.isin(kept, self._wanted_hashes)]
        self._held, self._rows = [newest], len(newest)
        return newest

    def rows(self) -> SourceRows:
        """What was found."""
        newest = self._sift()
        times: dict[tuple[Any, ...], int] = {}
        sampled = []
        columns = [newest[name].tolist() for name in self._names]
        entities = zip(*columns, strict=True) if columns else [()] * len(newest)
        for entity, time, value in zip(
            entities, newest[TIME].tolist(), newest[_HASH].tolist(), strict=True
        ):
            drawn = value <= self._limit
            if drawn:
                sampled.append(entity)
            if drawn or entity in self._wanted:
                times[entity] = time
        return SourceRows(times, sampled)


@dataclass(frozen=True, slots=True)
class OfflineAnswer:
    """What Feast's offline store answers for some entities.

    Attributes:
        rows: For each entity that is answered for, the position of its row.
        columns: The features by name, a value a row.
    """

    rows: dict[tuple[Any, ...], int]
    columns: dict[str, pa.ChunkedArray]


def point_in_time(
    store: FeatureStore,
    view: str,
    features: Sequence[str],
    keys: Sequence[FieldDefinition],
    entities: Sequence[tuple[Any, ...]],
    as_of: datetime,
) -> OfflineAnswer:
    """Asks Feast for the features of one view at one time (`get_historical_features`).

    Args:
        store: The repository.
        view: A view's name.
        features: Names of its features.
        keys: The join keys.
        entities: Values of the join keys in that order; no two entities are alike.
        as_of: The time.

    Raises:
        Exception: Whatever Feast raises where it has no answer.
    """
    frame = pd.DataFrame(list(entities), columns=[key.name for key in keys])
    for key in keys:
        if key.value_type == _UNIX_TIMESTAMP:
            frame[key.name] = pd.to_datetime(frame[key.name], unit="s", utc=True)
    frame[TIME] = pd.Series([pd.Timestamp(as_of.astimezone(UTC))] * len(entities))
    job = store.get_historical_features(
        entity_df=frame, features=[f"{view}:{feature}" for feature in features]
    )
    table = job.to_arrow()
    if keys:
        columns = [plain(table.column(key.name), key).tolist() for key in keys]
        answered = list(zip(*columns, strict=True))
    else:
        answered = [()] * table.num_rows
    return OfflineAnswer(
        {entity: row for row, entity in enumerate(answered)},
        {feature: table.column(feature) for feature in features},
    )
