"""Training sets: features at the times of rows, windowed ones from the events of batch sources.

The definition of a windowed view is the one that is served.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from hotfeast.hotpath.tile_layout import Reading
from hotfeast.server.errors import invalid, not_servable
from hotfeast.server.feast_api import FeatureStore
from hotfeast.server.plan import ServedFeature, ServingPlan, plan_features, plan_service
from hotfeast.server.registry import Definitions, RegistryReader, feast_view
from hotfeast.server.repository import open_repository
from hotfeast.server.windows.definition import WindowView, is_windowed
from hotfeast.server.windows.point_in_time import windows_at
from hotfeast.server.windows.source import Events, comparable, microseconds, until
from hotfeast.server.write_plan import plan_write

TIMESTAMP = "event_timestamp"
"""The column of the rows with their times."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Wanted(NamedTuple):
    """What is taken of one view under one name."""

    prefix: str
    features: list[ServedFeature]


def training_set(
    repo: FeatureStore | Path | str,
    rows: pa.Table,
    features: str | Sequence[str],
    full_feature_names: bool = False,
) -> pa.Table:
    """Adds features to rows as they were at the rows' times.

    Windowed views are computed from their batch sources; other views are asked of Feast's
    `get_historical_features`, each on its own for its distinct keys.

    Args:
        repo: The repository, or its folder.
        rows: Join keys and `event_timestamp`.
        features: A feature service, or references such as `view:feature`.
        full_feature_names: Whether features are named `view__feature`.

    Returns:
        The rows in their order, with a column for each feature, null where it would not be served.

    Raises:
        StartFailure: The repository cannot be opened.
        RequestFailure: The features are unknown, or rows lack a column.
        Exception: Whatever Feast raises where a source cannot be read.
    """
    store = repo if isinstance(repo, FeatureStore) else open_repository(Path(repo))
    reader = RegistryReader(store)
    stored = reader.read()
    definitions = reader.define(stored)
    if isinstance(features, str):
        plan = plan_service(definitions, features, full_feature_names)
    else:
        plan = plan_features(definitions, features, full_feature_names)
    if plan.on_demand:
        raise not_servable(
            f"on-demand feature view {plan.on_demand[0].view.name!r} is not part of a training "
            "set: ask for the features that it is computed from"
        )
    if TIMESTAMP not in rows.column_names:
        raise invalid(f"the rows have no column {TIMESTAMP!r} with their times")
    made = rows
    for prefix, wanted in _by_view(plan):
        view = definitions.views[wanted[0].view]
        keys = _join_keys(plan, prefix)
        missing = [name for name in keys.values() if name not in rows.column_names]
        if missing:
            raise invalid(f"the rows have no column {missing[0]!r}, which {prefix!r} needs")
        if is_windowed(view):
            feast = feast_view(stored, view.name)
            columns = _windows(store, definitions, feast, rows, keys, wanted)
        else:
            columns = _by_feast(store, rows, keys, prefix, wanted)
        for feature, column in zip(wanted, columns, strict=True):
            made = made.append_column(feature.output_name, column)
    return made.select([*rows.column_names, *plan.output_names])


def _by_view(plan: ServingPlan) -> list[_Wanted]:
    """What is served, by the names that views go by."""
    found: dict[str, list[ServedFeature]] = {}
    for feature in plan.served:
        found.setdefault(feature.prefix, []).append(feature)
    return [_Wanted(prefix, features) for prefix, features in found.items()]


def _join_keys(plan: ServingPlan, prefix: str) -> dict[str, str]:
    """For each join key of a view the column of the rows that it is in."""
    definition = plan.compiled.definition
    (read,) = [each for each in definition.views if each.name == prefix]
    return {
        name: definition.join_keys[slot].name
        for name, slot in sorted(definition.recipes[read.recipe].parts)
    }


def _by_feast(
    store: FeatureStore,
    rows: pa.Table,
    keys: dict[str, str],
    prefix: str,
    wanted: list[ServedFeature],
) -> list[Any]:
    """The features of an ordinary view, of Feast: asked for all views at once, its file offline
    store leaves rows out."""
    frame = rows.select([*keys.values(), TIMESTAMP]).to_pandas()
    frame.columns = [*keys, TIMESTAMP]
    frame[TIMESTAMP] = pd.to_datetime(frame[TIMESTAMP], utc=True)
    on = [*keys, TIMESTAMP]
    view = wanted[0].view
    answered = store.get_historical_features(
        entity_df=frame.drop_duplicates(),
        features=[f"{view}:{feature.feature}" for feature in wanted],
    ).to_df()
    answered[TIMESTAMP] = pd.to_datetime(answered[TIMESTAMP], utc=True)
    joined = frame.merge(answered, on=on, how="left", validate="many_to_one")
    return [pa.array(joined[f.feature], from_pandas=True) for f in wanted]


def _windows(
    store: FeatureStore,
    definitions: Definitions,
    feast: Any,
    rows: pa.Table,
    keys: dict[str, str],
    wanted: list[ServedFeature],
) -> list[Any]:
    """The features of a windowed view."""
    write = plan_write(definitions, feast.name, 0, online=False)
    windows = write.windows
    assert windows is not None
    times = microseconds(feast.name, TIMESTAMP, rows[TIMESTAMP])
    if times.null_count:
        raise invalid(f"column {TIMESTAMP!r} is null in some rows")
    if not rows.num_rows:
        raise invalid("there are no rows")
    first, last = (_EPOCH + timedelta(microseconds=t.as_py()) for t in pc.min_max(times).values())
    types = dict(write.compiled.definition.join_keys)
    asked = {"n": pa.array(range(rows.num_rows), pa.int64()), "ts": times}
    for i, (name, column) in enumerate(keys.items()):
        asked[f"k{i}"] = comparable(feast.name, column, types[name], rows[column])
    ttl = round(definitions.views[feast.name].ttl_seconds * 10**6)
    start = until(first, windows.layout.retention)
    with Events(store, feast, write, start, last) as events:
        readings = [_reading(windows, feature) for feature in wanted]
        return windows_at(events, pa.table(asked), readings, ttl)


def _reading(windows: WindowView, feature: ServedFeature) -> Reading:
    return next(r for r in windows.layout.readings if r.feature == feature.feature)
