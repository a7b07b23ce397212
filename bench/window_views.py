"""The year of real purchases as events: a repository of windowed features of households, and of an
ordinary view with as many features that is stored packed.
"""

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, PushSource
from feast.types import Float64, Int64
from feast.value_type import ValueType

from hotfeast.server.windows import event_tags, window_field

WINDOWS, ROWS = "purchase_windows", "purchase_rows"
"""Names of the views, and of their feature services."""
EVENTS, STATED = "purchase_lines", "purchase_row_values"
"""Names of their push sources."""

FEATURES: list[tuple[str, Any, str, str]] = [
    ("baskets_count_7d", Int64, "distinct(basket_id)", "7d"),
    ("baskets_count_30d", Int64, "distinct(basket_id)", "30d"),
    ("units_count_7d", Int64, "sum(units)", "7d"),
    ("units_count_30d", Int64, "sum(units)", "30d"),
    ("revenue_usd_7d", Float64, "sum(usd)", "7d"),
    ("revenue_usd_30d", Float64, "sum(usd)", "30d"),
    ("avg_line_usd_30d", Float64, "mean(usd)", "30d"),
    ("dearest_line_usd_30d", Float64, "max(usd)", "30d"),
    ("lines_count_1h", Int64, "count()", "1h"),
    ("last_line_usd_1d", Float64, "last(usd)", "1d"),
]
"""Name, type, aggregate and window of each windowed feature."""

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)


def purchase_lines(households: int | None = None) -> pl.DataFrame:
    """The lines of the year as events, in order of time.

    Args:
        households: How many are taken; all if None.

    Returns:
        `user_id`, `event_timestamp`, `line_id`, `basket_id`, `units` and `usd`.
    """
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "feature_repo"))
    try:
        from prepare import load_lines
    finally:
        sys.path.pop(0)
    lines = load_lines().with_row_index("line_id")
    if households is not None:
        kept = lines["user_id"].unique().sort().head(households)
        lines = lines.filter(pl.col("user_id").is_in(kept.implode()))
    return lines.select(
        "user_id",
        event_timestamp="at",
        line_id=pl.col("line_id").cast(pl.Int64),
        basket_id="basket_id",
        units=pl.col("units").cast(pl.Int64),
        usd=pl.col("cents") / 100,
    )


def write_repository(folder: Path, connection_string: str, lines: pl.DataFrame) -> FeatureStore:
    """Writes the source and applies the repository."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "feature_store.yaml").write_text(
        f"""project: purchases
registry: {folder / "registry.db"}
provider: local
online_store:
  type: redis
  connection_string: {connection_string}
offline_store:
  type: file
entity_key_serialization_version: 3
"""
    )
    pq.write_table(lines.to_arrow(), folder / "lines.parquet")
    plain = {name: pa.array([], pa.int64()) for name, *_ in FEATURES} | {
        "user_id": pa.array([], pa.int64()),
        "event_timestamp": pa.array([], pa.timestamp("us", "UTC")),
    }
    pq.write_table(pa.table(plain), folder / "rows.parquet")
    key = Field(name="user_id", dtype=Int64)
    windows = FeatureView(
        name=WINDOWS,
        entities=[user],
        ttl=timedelta(days=31),
        schema=[key, *(window_field(n, dtype, what, w) for n, dtype, what, w in FEATURES)],
        source=PushSource(
            name=EVENTS,
            batch_source=FileSource(
                name="lines",
                path=str(folder / "lines.parquet"),
                timestamp_field="event_timestamp",
            ),
        ),
        tags=event_tags("line_id", inputs={"basket_id": Int64}),
    )
    rows = FeatureView(
        name=ROWS,
        entities=[user],
        ttl=timedelta(days=31),
        schema=[key, *(Field(name=f"plain_{n}", dtype=dtype) for n, dtype, *_ in FEATURES)],
        source=PushSource(
            name=STATED,
            batch_source=FileSource(
                name="rows", path=str(folder / "rows.parquet"), timestamp_field="event_timestamp"
            ),
        ),
        tags={"hotfeast.layout": "packed"},
    )
    store = FeatureStore(repo_path=str(folder))
    services = [FeatureService(name=view.name, features=[view]) for view in (windows, rows)]
    store.apply([user, windows, rows, *services])
    return store
