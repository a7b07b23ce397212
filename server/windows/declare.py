"""What a feature repository says of windowed features: tags of Feast's own fields and views.

    user_activity = FeatureView(
        name="user_activity",
        entities=[user],
        ttl=timedelta(days=31),
        schema=[
            window_field("revenue_usd_7d", Float64, "sum(amount_usd)", "7d"),
            window_field("views_count_1h", Int64, "count()", "1h"),
        ],
        source=PushSource(name="activity", batch_source=...),
        tags=event_tags(event_id="event_id", lateness="1h"),
    )

The registry stays Feast's own: any tool of Feast's reads these views.
"""

from collections.abc import Mapping
from typing import Any

from hotfeast.server.feast_api import Field
from hotfeast.server.windows.definition import (
    AGGREGATE_TAG,
    EVENT_ID_TAG,
    INPUTS_TAG,
    LATENESS_TAG,
    MOST_EVENTS_TAG,
    MOST_IDS_TAG,
    TILE_TAG,
    WINDOW_TAG,
)


def window_field(
    name: str,
    dtype: Any,
    aggregate: str,
    window: str,
    *,
    tile: str = "",
    description: str = "",
    tags: Mapping[str, str] | None = None,
) -> Field:
    """A feature that is an aggregate of events over a sliding window.

    Args:
        name: Its name.
        dtype: Its type: Int64 for counts, distinct counts and sums of whole numbers, Float64 for
            other sums and means, and for min, max and last what the column is.
        aggregate: `count()`, or one of `count`, `sum`, `mean`, `min`, `max`, `last` and `distinct`
            of a column, such as `sum(amount_usd)`.
        window: Its length, from `1m` to `30d`.
        tile: What it is exact to, such as `1h`, or `exact` to the event; by default at least a 24th
            of the window.
        description: For people.
        tags: Further tags.
    """
    # The last is what lint tells windows apart by.
    own = {AGGREGATE_TAG: aggregate, WINDOW_TAG: window, "window": window}
    if tile:
        own[TILE_TAG] = tile
    return Field(name=name, dtype=dtype, description=description, tags=dict(tags or {}) | own)


def event_tags(
    event_id: str,
    *,
    lateness: str = "1h",
    inputs: Mapping[str, Any] | None = None,
    most_ids: int | None = None,
    most_events: int | None = None,
    tags: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The tags of a view of windowed features.

    Args:
        event_id: The column by which an event that comes again is known.
        lateness: How much older than the newest event of its entity an event may be. Ids are
            remembered for as long.
        inputs: Feast's types of columns, where the features do not tell: those that are only
            counted, or whose distinct values are.
        most_ids: Ids that are remembered of an entity at most; 1,024 unless said.
        most_events: Event times of an entity in exact windows at most; 4,096 unless said.
        tags: Further tags.
    """
    own = {EVENT_ID_TAG: event_id, LATENESS_TAG: lateness}
    if inputs:
        own[INPUTS_TAG] = ", ".join(
            f"{column}: {dtype.to_value_type().name}" for column, dtype in inputs.items()
        )
    for tag, limit in ((MOST_IDS_TAG, most_ids), (MOST_EVENTS_TAG, most_events)):
        if limit is not None:
            own[tag] = str(limit)
    return dict(tags or {}) | own
