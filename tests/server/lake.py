"""Feast repositories over Parquet files, and what is in Redis for them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Bytes, Float64, Int32, Int64, String, UnixTimestamp
from redis import Redis

from hotfeast.server.local_redis import LocalRedis

START = datetime(2024, 1, 1, tzinfo=UTC)
END = datetime(2024, 1, 31, tzinfo=UTC)
DAY = timedelta(days=1)

KEY_TYPES = {
    "int64": (ValueType.INT64, Int64),
    "int32": (ValueType.INT32, Int32),
    "string": (ValueType.STRING, String),
    "bytes": (ValueType.BYTES, Bytes),
    "timestamp": (ValueType.UNIX_TIMESTAMP, UnixTimestamp),
}
"""Types of join keys: Feast's value type and its field type."""

Stored = dict[bytes, dict[bytes, bytes]]


class Lake:
    """A repository in a folder whose online store is one database of a Redis server."""

    def __init__(self, folder: Path, redis: LocalRedis, database: int, online: str = "") -> None:
        """
        Args:
            folder: Where; must exist.
            redis: The server.
            database: The database's number; it is emptied.
            online: Further lines of the online store's configuration.
        """
        self.folder = folder
        self.redis = redis
        self.client: Any = Redis(host="127.0.0.1", port=redis.port, db=database)
        self.client.flushdb()
        (folder / "feature_store.yaml").write_text(
            f"project: lake\nregistry: {folder / 'registry.db'}\nprovider: local\n"
            f"online_store:\n  type: redis\n"
            f'  connection_string: "{redis.address},db={database}"\n{online}'
            "offline_store:\n  type: file\nentity_key_serialization_version: 3\n"
        )
        self.store = FeatureStore(repo_path=str(folder))

    def fresh(self) -> FeatureStore:
        """The repository as another process would open it."""
        return FeatureStore(repo_path=str(self.folder))

    def write(self, name: str, table: pa.Table, **options: Any) -> Path:
        """Writes a Parquet file."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        pq.write_table(table, path, **options)
        return path

    def stored(self) -> Stored:
        """Everything in the database."""
        return {key: self.client.hgetall(key) for key in self.client.scan_iter(count=1000)}

    def taken(self) -> Stored:
        """Everything in the database but created times, which Feast does not keep; then it is
        emptied."""
        found = {
            key: {f: v for f, v in row.items() if not f.startswith(b"_ct:")}
            for key, row in self.stored().items()
        }
        self.client.flushdb()
        return found


def stats_table(users: Sequence[int], times: Sequence[datetime], values: Sequence[Any]) -> pa.Table:
    """A table for `stats_view`."""
    return pa.table(
        {
            "user_id": pa.array(users, pa.int64()),
            "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
            "amount": pa.array(values, pa.int64()),
        }
    )


def stats_view(
    path: Path,
    name: str = "stats",
    ttl: timedelta | None = timedelta(0),
    tags: dict[str, str] | None = None,
    **options: Any,
) -> list[Any]:
    """An entity and a view of one whole number, to be applied."""
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    view = FeatureView(
        name=name,
        entities=[user],
        ttl=ttl,
        schema=[
            Field(name="user_id", dtype=Int64),
            Field(name="amount", dtype=Int64, tags=tags or {}),
        ],
        source=FileSource(path=str(path), timestamp_field="event_timestamp"),
        **options,
    )
    return [user, view]


def real_view(name: str, path: Path, keys: dict[str, str], **source: Any) -> list[Any]:
    """Entities with these join keys, and a view of three features of theirs, to be applied."""
    entities = [
        Entity(name=f"of_{key}", join_keys=[key], value_type=KEY_TYPES[kind][0])
        for key, kind in keys.items()
    ]
    view = FeatureView(
        name=name,
        entities=entities,
        ttl=timedelta(0),
        schema=[
            *(Field(name=key, dtype=KEY_TYPES[kind][1]) for key, kind in keys.items()),
            Field(name="amount", dtype=Int64),
            Field(name="share", dtype=Float64),
            Field(name="label", dtype=String),
        ],
        source=FileSource(path=str(path), **source),
    )
    return [*entities, view]
