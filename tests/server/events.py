"""A Feast repository of windowed features, and what they must be by their definition."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    PushSource,
    ValueType,
)
from feast.types import Bool, Bytes, Float64, Int64, String, UnixTimestamp

from hotfeast.server.windows import event_tags, window_field

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
product = Entity(name="product", join_keys=["sku"], value_type=ValueType.STRING)

START = datetime(2026, 3, 1, tzinfo=UTC)

FEATURES: list[tuple[str, Any, str, str, str]] = [
    ("events_1h", Int64, "count()", "1h", ""),
    ("events_1m_exact", Int64, "count()", "1m", "exact"),
    ("amounts_1d", Int64, "count(amount)", "1d", ""),
    ("amount_1h", Float64, "sum(amount)", "1h", ""),
    ("amount_7d", Float64, "sum(amount)", "7d", ""),
    ("amount_mean_1d", Float64, "mean(amount)", "1d", ""),
    ("amount_min_7d", Float64, "min(amount)", "7d", ""),
    ("amount_max_5m_exact", Float64, "max(amount)", "5m", "exact"),
    ("units_30d", Int64, "sum(units)", "30d", ""),
    ("units_mean_7d", Float64, "mean(units)", "7d", "1d"),
    ("units_min_1h", Int64, "min(units)", "1h", "10m"),
    ("units_max_7d", Int64, "max(units)", "7d", ""),
    ("units_last_1d", Int64, "last(units)", "1d", ""),
    ("amount_last_5m_exact", Float64, "last(amount)", "5m", "exact"),
    ("pages_1h", Int64, "distinct(page)", "1h", ""),
    ("pages_30d", Int64, "distinct(page)", "30d", ""),
    ("kinds_5m_exact", Int64, "distinct(page)", "5m", "exact"),
    ("page_last_1h", String, "last(page)", "1h", ""),
    ("page_last_30d", String, "last(page)", "30d", ""),
    ("page_last_5m_exact", String, "last(page)", "5m", "exact"),
    ("token_last_7d", Bytes, "last(token)", "7d", ""),
    ("member_last_7d", Bool, "last(member)", "7d", ""),
    ("seen_last_1d", UnixTimestamp, "last(seen)", "1d", ""),
    ("seen_max_7d", UnixTimestamp, "max(seen)", "7d", ""),
]
"""Name, type, aggregate, window and tile of each feature."""


class Event(NamedTuple):
    """An event of one user; what is None is null."""

    time: datetime
    event_id: str
    amount: float | None = None
    units: int | None = None
    page: str | None = None
    token: bytes | None = None
    member: bool | None = None
    seen: datetime | None = None
    """Of whole seconds, which is what values have."""


def write_repository(
    folder: Path,
    project: str,
    connection_string: str,
    lateness: str = "1h",
    redis_type: str = "redis",
    **limits: Any,
) -> FeatureStore:
    """Writes and applies a repository with a windowed view `activity` and an ordinary one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "feature_store.yaml").write_text(
        f"""project: {project}
registry: {folder / "registry.db"}
provider: local
online_store:
  type: redis
  redis_type: {redis_type}
  connection_string: {connection_string}
offline_store:
  type: file
entity_key_serialization_version: 3
"""
    )
    write_events(folder, {})
    events_file = FileSource(
        name="events_file", path=str(folder / "events.parquet"), timestamp_field="happened"
    )
    stats_file = FileSource(
        name="stats_file", path=str(folder / "stats.parquet"), timestamp_field="event_timestamp"
    )
    pd.DataFrame(
        {"user_id": [1, 2], "city": ["Ulm", None], "event_timestamp": [START, START]}
    ).to_parquet(folder / "stats.parquet")
    activity = FeatureView(
        name="activity",
        entities=[user],
        ttl=timedelta(days=10),
        schema=[
            Field(name="user_id", dtype=Int64),
            *(
                window_field(name, dtype, aggregate, window, tile=tile)
                for name, dtype, aggregate, window, tile in FEATURES
            ),
        ],
        source=PushSource(name="events", batch_source=events_file),
        tags=event_tags("event_id", lateness=lateness, inputs={"page": String}, **limits),
    )
    profile = FeatureView(
        name="profile",
        entities=[user],
        ttl=timedelta(days=9000),
        schema=[Field(name="user_id", dtype=Int64), Field(name="city", dtype=String)],
        source=PushSource(name="profiles", batch_source=stats_file),
    )
    services = [
        FeatureService(name="windows", features=[activity]),
        FeatureService(
            name="mixed",
            features=[
                profile,
                activity[["amount_7d", "events_1h"]],
                activity[["pages_1h"]]
                .with_name("other")
                .with_join_key_map({"user_id": "friend_id"}),
            ],
        ),
    ]
    store = FeatureStore(repo_path=str(folder))
    store.apply([user, activity, profile, *services])
    return store


def frame(events: dict[int, list[Event]]) -> pd.DataFrame:
    """Events of users as a source has them."""
    rows = [(user_id, *event) for user_id, its in events.items() for event in its]
    types = {
        "user_id": "int64",
        "happened": "datetime64[us, UTC]",
        "event_id": "string",
        "amount": "Float64",
        "units": "Int64",
        "page": "string",
        "token": "object",
        "member": "boolean",
        "seen": "datetime64[us, UTC]",
    }
    return pd.DataFrame(
        {
            name: pd.Series([row[i] for row in rows], dtype=kind)
            for i, (name, kind) in enumerate(types.items())
        }
    )


def write_events(folder: Path, events: dict[int, list[Event]]) -> None:
    """Writes the batch source."""
    frame(events).to_parquet(folder / "events.parquet")


_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_DEFAULT_TILES = {
    "1m": timedelta(seconds=1),
    "5m": timedelta(seconds=10),
    "1h": timedelta(minutes=1),
    "1d": timedelta(hours=1),
    "7d": timedelta(hours=6),
    "30d": timedelta(days=1),
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def length(text: str) -> timedelta:
    """A window's or tile's length."""
    return int(text[:-1]) * _UNITS[text[-1]]


def window_start(at: datetime, window: str, tile: str) -> datetime:
    """Events after it are in the window that ends at a time."""
    size = timedelta(microseconds=1)
    if tile != "exact":
        size = length(tile) if tile else _DEFAULT_TILES[window]
    return _EPOCH + (at - length(window) - _EPOCH) // size * size


def expected(events: Iterable[Event], at: datetime) -> dict[str, Any] | None:
    """What all features are at a time, from their definition; None where there is no row."""
    seen: dict[str, Event] = {}
    for event in events:
        if event.time <= at:
            seen.setdefault(event.event_id, event)
    widest = min(window_start(at, window, tile) for _, _, _, window, tile in FEATURES)
    if not any(event.time > widest for event in seen.values()):
        return None
    return {
        name: _aggregate(
            aggregate,
            [e for e in seen.values() if e.time > window_start(at, window, tile)],
        )
        for name, _, aggregate, window, tile in FEATURES
    }


def _aggregate(text: str, events: list[Event]) -> Any:
    function, _, column = text.removesuffix(")").partition("(")
    if not column:
        return len(events)
    having = [(e.time, getattr(e, column)) for e in events if getattr(e, column) is not None]
    values = [value for _, value in having]
    if function == "count":
        return len(values)
    if function == "distinct":
        return len(set(values))
    if function == "sum":
        total = sum(map(Fraction, values))
        if column == "units":
            return int(total) if -(2**63) <= total < 2**63 else None
        return float(total)
    if not values:
        return None
    if function == "mean":
        return float(sum(map(Fraction, values))) / len(values)
    if function == "last":
        return max(having)[1]
    return min(values) if function == "min" else max(values)
