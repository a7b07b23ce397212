"""What the rows of a stored on-demand view are computed from, out of the offline store.

Feast computes a row for each time at which a source of the view has its latest row of an entity in
the interval, from what all sources have for the entity at that time. The newest of these rows is
what remains. From one source these are just its latest rows, which are read as those of any view;
those of several are joined at their times: Parquet files here, others by Feast's offline store.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hotfeast.hotpath.plan import DUMMY_JOIN_KEY
from hotfeast.server.as_of import CREATED, TIME, Source, join
from hotfeast.server.errors import RequestFailure, not_servable
from hotfeast.server.feast_api import FeatureStore, utils
from hotfeast.server.offline_rows import (
    BATCH_ROWS,
    OfflineRows,
    Portion,
    is_files,
    open_source,
    source_name,
    table_portions,
)
from hotfeast.server.on_demand_writes import input_name
from hotfeast.server.write_plan import ViewWrite

# What Feast joins to: the name of the event time's column, and the type that pandas has for it.
_TIME = "event_timestamp"
_TIME_TYPE = pa.timestamp("ns", "UTC")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The first day that nanoseconds in 64 bits can name.
_FIRST = datetime(1677, 9, 22, tzinfo=UTC)
# Of which entity a row is: Feast's stores keep other columns as they are, and not the order.
_ROW = "hotfeast_row"


def refuse_unless_sources_suffice(store: FeatureStore, view: Any, write: ViewWrite) -> None:
    """Refuses an on-demand view whose rows cannot be had from its sources, so that they have to be
    pushed.

    Args:
        store: The repository.
        view: Feast's object of the view.
        write: How its rows are written.

    Raises:
        RequestFailure: FAILED_PRECONDITION, with what is lacking.
    """
    assert write.inputs is not None
    if write.inputs.request_names:
        names = ", ".join(map(repr, sorted(write.inputs.request_names)))
        raise _only_pushed(view, f"is computed from request data ({names}), which no source has")
    sources = _sources(store, view)
    for _, source in sources:
        if source.batch_source is None or not source.batch_source.timestamp_field:
            raise _only_pushed(
                view, f"has the source {source.name!r}, which has no batch source with a timestamp"
            )
    keys = {key.name for key in write.view.join_keys}
    if len(sources) == 1:
        [(projection, source)] = sources
        missing = keys - set(_keys(projection, source).values())
        if missing:
            name = min(missing)
            raise _only_pushed(view, f"has the join key {name!r}, which its source does not have")
        return
    if any(projection.join_key_map for projection, _ in sources):
        raise _only_pushed(view, "has several sources, of which one has a join_key_map")
    every = keys.union(*(_keys(projection, source).values() for projection, source in sources))
    if not every or not any(every == set(_keys(p, source)) for p, source in sources):
        names = ", ".join(map(repr, sorted(every)))
        raise _only_pushed(view, f"has no source with all of the join keys {names}")


def open_inputs(
    store: FeatureStore, view: Any, write: ViewWrite, start: datetime, end: datetime
) -> OfflineRows:
    """Opens the sources of an on-demand view whose sources suffice.

    Args:
        store: The repository.
        view: Feast's object of the view.
        write: How its rows are written.
        start: The first event time, inclusive.
        end: The last event time, inclusive. Both must know their zones.

    Raises:
        RequestFailure: The source lacks a column, its event time is no timestamp, or only Feast
            itself can make its rows.
        Exception: Whatever pyarrow or Feast raises where a source cannot be read.
    """
    sources = _sources(store, view)
    if len(sources) > 1 and all(is_files(store, source) for _, source in sources):
        return OfflineRows("files", _joined_here(store, sources, write, start, end), None, True)
    if len(sources) > 1:
        rows = _joined_by_feast(store, sources, write, start, end)
        return OfflineRows("point-in-time join", rows, None, True)
    [(_, source)] = sources
    opened = open_source(store, source, write, start, end)
    if opened is None:
        raise not_servable(
            f"on-demand feature view {view.name!r}: the rows of its source {source.name!r} are "
            "computed by an engine that only Feast can use; push to the view"
        )
    return opened


def _only_pushed(view: Any, why: str) -> RequestFailure:
    return not_servable(
        f"on-demand feature view {view.name!r} {why}: it cannot be materialized, push to it"
    )


def _sources(store: FeatureStore, view: Any) -> list[tuple[Any, Any]]:
    """Feast's projections that an on-demand view takes, each with its view."""
    return [
        (projection, store.registry.get_any_feature_view(projection.name, store.project))
        for projection in view.source_feature_view_projections.values()
    ]


def _keys(projection: Any, source: Any) -> dict[str, str]:
    """The join keys of a source, each with what the on-demand view calls it."""
    keys = (key for key in source.join_keys if key != DUMMY_JOIN_KEY)
    return {key: projection.join_key_map.get(key, key) for key in keys}


def _joined_here(
    store: FeatureStore,
    sources: list[tuple[Any, Any]],
    write: ViewWrite,
    start: datetime,
    end: datetime,
) -> Iterator[Portion]:
    """Rows of several sources that are files, in bounded memory."""
    keys = sorted({key for projection, source in sources for key in _keys(projection, source)})
    names = [feature.name for projection, _ in sources for feature in projection.features]
    renamed = {f"key_{i}": key for i, key in enumerate(keys)} | {TIME: write.timestamp_column}
    joined = []
    for projection, source in sources:
        columns = {f"key_{keys.index(key)}": key for key in _keys(projection, source)}
        features = {}
        for feature in projection.features:
            name = f"feature_{len(renamed)}"
            features[name] = feature.name
            renamed[name] = input_name(projection.name, feature.name, names)
        age = source.ttl or timedelta(0)
        # What is older than that counts at none of the times.
        oldest = max(start - age, _FIRST) if age else _FIRST
        joined.append(
            Source(
                keys=tuple(columns),
                features=tuple(features),
                max_age=age // timedelta(microseconds=1) * 1000,
                rows=_read(store, source, columns | features, write, oldest, end),
            )
        )
    first = (start - _EPOCH) // timedelta(microseconds=1) * 1000
    for batch in join(joined, list(renamed)[: len(keys)], first, BATCH_ROWS):
        rows = batch.set_column(len(keys), TIME, batch.column(TIME).cast(_TIME_TYPE))
        yield Portion(
            rows.rename_columns([renamed[name] for name in rows.schema.names]), rows.num_rows
        )


def _read(
    store: FeatureStore,
    source: Any,
    columns: dict[str, str],
    write: ViewWrite,
    start: datetime,
    end: datetime,
) -> pa.RecordBatchReader:
    """The rows of a source that is files.

    Args:
        store: The repository.
        source: Feast's object of the view.
        columns: Names to give to keys and features, with those that the source's view has.
        write: How the rows of the on-demand view are written.
        start: The first event time, inclusive.
        end: The last event time, inclusive.
    """
    batch_source = source.batch_source
    mapping = dict(batch_source.field_mapping or {})
    created = batch_source.created_timestamp_column
    taken = {
        **columns,
        TIME: mapping.get(batch_source.timestamp_field, batch_source.timestamp_field),
    }
    if created:
        taken[CREATED] = mapping.get(created, created)
    reading = replace(
        write,
        timestamp_column=taken[TIME],
        created_column=taken.get(CREATED, ""),
        field_mapping=mapping,
        columns=frozenset(taken.values()),
    )
    opened = open_source(store, source, reading, start, end)
    assert opened is not None
    assert opened.schema is not None
    whole = opened.schema
    in_source = {name: source_name(reading, of) for name, of in taken.items()}
    schema = pa.schema(
        [pa.field(name, whole.field(in_source[name]).type) for name in columns]
        + [pa.field(TIME, pa.int64()), pa.field(CREATED, pa.int64())]
    )

    def batches() -> Iterator[pa.RecordBatch]:
        for portion in opened.portions:
            rows = portion.rows
            arrays = [
                rows.column(in_source[name]).cast(schema.field(name).type) for name in columns
            ]
            arrays.append(_ticks(rows.column(in_source[TIME])))
            arrays.append(
                _ticks(rows.column(in_source[CREATED]))
                if created
                else pa.nulls(rows.num_rows, pa.int64())
            )
            yield pa.record_batch(arrays, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def _ticks(times: Any) -> Any:
    """Nanoseconds since 1970; a time without a zone is in UTC."""
    if pa.types.is_timestamp(times.type):
        times = times.cast(pa.timestamp("ns", times.type.tz))
    return times.cast(pa.int64())


def _joined_by_feast(
    store: FeatureStore,
    sources: list[tuple[Any, Any]],
    write: ViewWrite,
    start: datetime,
    end: datetime,
) -> Iterator[Portion]:
    """Rows of several sources, each at the newest time that one of them has for its entity."""
    keys = sorted({key for projection, source in sources for key in _keys(projection, source)})
    latest = [
        _latest(store, source, keys, start, end)
        for projection, source in sources
        if len(_keys(projection, source)) == len(keys)
    ]
    entities = pa.concat_tables(latest, promote_options="permissive")
    entities = entities.group_by(keys).aggregate([(_TIME, "max")]).select([*keys, f"{_TIME}_max"])
    entities = entities.rename_columns([*keys, _TIME])
    numbered = entities.append_column(_ROW, pa.array(range(entities.num_rows), pa.int64()))
    names = [feature.name for projection, _ in sources for feature in projection.features]
    columns = {name: entities.column(name) for name in keys}
    columns[write.timestamp_column] = entities.column(_TIME)
    for projection, source in sources:
        # Source by source: Feast's file store leaves out rows of which one source has none in time.
        joined = _as_of(store, projection, source, numbered)
        for feature in projection.features:
            name = input_name(projection.name, feature.name, names)
            columns[name] = joined.column(f"{projection.name}__{feature.name}")
    yield from table_portions(pa.table(columns))


def _as_of(store: FeatureStore, projection: Any, source: Any, entities: pa.Table) -> pa.Table:
    """The features that a source has for each entity at its time, null where it has none.

    Rows without a key are not looked up. Entities that share the source's keys and a time are
    looked up once: of equal ones, Feast's file store answers one.
    """
    keys = list(_keys(projection, source))
    groups = entities.group_by([*keys, _TIME]).aggregate([(_ROW, "list")])
    rows = groups.column(f"{_ROW}_list")
    asked = groups.select([*keys, _TIME])
    asked = asked.append_column(_ROW, pa.array(range(groups.num_rows), pa.int64()))
    for key in keys:
        asked = asked.filter(pc.is_valid(asked.column(key)))
    names = [f"{projection.name}__{feature.name}" for feature in projection.features]
    if not asked.num_rows:
        return pa.table({name: pa.nulls(entities.num_rows) for name in names})
    table = store.get_historical_features(
        entity_df=asked.to_pandas(),
        features=[f"{projection.name}:{feature.name}" for feature in projection.features],
        full_feature_names=True,
    ).to_arrow()
    position: list[int | None] = [None] * entities.num_rows
    for at, group in enumerate(table.column(_ROW).to_pylist()):
        for row in rows[group].as_py():
            position[row] = at
    return table.select(names).take(pa.array(position, pa.int64()))


def _latest(
    store: FeatureStore, source: Any, keys: list[str], start: datetime, end: datetime
) -> pa.Table:
    """The entities that a source has rows of in an interval, each with the time of the latest."""
    entities = [store.registry.get_entity(name, store.project) for name in source.entities]
    key_columns, _, time_name, created = utils._get_column_names(source, entities)
    job = store._get_provider().offline_store.pull_latest_from_table_or_query(
        config=store.config,
        data_source=source.batch_source,
        join_key_columns=key_columns,
        feature_name_columns=[],
        timestamp_field=time_name,
        created_timestamp_column=created,
        start_date=start,
        end_date=end,
    )
    table = job.to_arrow()
    mapping = source.batch_source.field_mapping or {}
    columns = {mapping.get(name, name): table.column(name) for name in key_columns}
    # A time without a zone is in UTC.
    times = table.column(time_name).cast(pa.timestamp("ns")).cast(_TIME_TYPE)
    return pa.table({**{key: columns[key] for key in keys}, _TIME: times})
