"""What is stored and asked for: the shape of Feast's published benchmark.

25 feature views of 10 features, int64 and double in turn, keyed by one entity, so that an entity's
hash in Redis has 275 fields. A feature service for each of several numbers of views (`service`): 5
of them are the 50 features of Feast's benchmark, all 25 its 250. The views of a service are spread
evenly over the 25, because a small hash is a list that Redis searches from its start: the first 5
views would be found sooner than most.

Rows are written by the gateway's own writer; that it writes Feast's layout byte for byte as Feast
does is proved by `check_against_feast` and `check_stored`, and that it writes the other layouts by
the latter, which puts their bytes together by itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float64, Int64, String
from google.protobuf.timestamp_pb2 import Timestamp

from hotfeast.hotpath.definition import schema_number
from hotfeast.hotpath.packed import marked_time
from hotfeast.server.plan import row_hash_field
from hotfeast.server.view_writer import ViewWriter
from hotfeast.serving.v1 import serving_pb2, value_pb2

PROJECT = "bench"
JOIN_KEY = "entity"
VIEWS = 25
FEATURES_PER_VIEW = 10
SERVICE_VIEWS = (1, 5, 10, 15, 20, 25)
"""Of how many views there are feature services."""
FIVE_VIEWS = "views_5"
ENTITIES = 2000
"""How many there are unless asked otherwise."""
MANY_ENTITIES = 100_000
"""The same for the whole benchmark."""
SEED = 20240501

# redis-py's annotations know keys and commands of str alone; Feast's keys are bytes.
RedisClient = Any

# Days; rows are younger, so each one's age is really judged, and found in order.
_TTL_DAYS = 1
# Rows that are handed to a writer at once.
_PORTION = 50_000
# Entities that are written by Feast as well, to compare.
_CHECKED = 3


class KeyType(StrEnum):
    """What entities are keyed by."""

    INT = "int"
    STRING = "string"


class Layout(StrEnum):
    """How rows are stored."""

    FEAST = "feast"
    """A hash field for each feature, as Feast does it."""
    DUAL = "dual"
    """The same, and a field for each view with all of its row."""
    PACKED = "packed"
    """A field for each view with all of its row, and one with its time."""


LAYOUTS = (Layout.FEAST, Layout.PACKED)
"""Those whose reads are measured unless told otherwise."""


class Skew(StrEnum):
    """Which entities are asked for."""

    UNIFORM = "uniform"
    """Each as often as any other, and none twice in a request."""
    ZIPF = "zipf"
    """The k-th most popular as often as 1 / k^0.99, as YCSB has it; a request may repeat some."""


def service(views: int) -> str:
    """The feature service that reads a number of views, one of `SERVICE_VIEWS`."""
    return f"views_{views}"


def service_views(views: int) -> list[int]:
    """The numbers of the views that it reads, spread evenly."""
    step = VIEWS / views
    return [int(step * (i + 0.5)) for i in range(views)]


def view_name(number: int) -> str:
    """The name of a view, counted from 0."""
    return f"feature_view_{number:02d}"


def feature_names(view: int) -> list[str]:
    """The features of a view: int64 where the number is even, double where it is odd."""
    first = view * FEATURES_PER_VIEW
    return [f"feature_{first + i}" for i in range(FEATURES_PER_VIEW)]


@dataclass(frozen=True)
class Rows:
    """All rows of all views.

    Attributes:
        entities: The values of the join key, numbers or strings.
        key_type: Which of the two.
        times: One event time an entity, within the last hour.
        numbers: int64 values by entity and view, half a view's features.
        fractions: double values by entity and view, the other half.
    """

    entities: list[Any]
    key_type: KeyType
    times: list[datetime]
    numbers: npt.NDArray[np.int64]
    fractions: npt.NDArray[np.float64]

    @classmethod
    def make(cls, entities: int, key_type: KeyType = KeyType.INT) -> "Rows":
        """Makes rows for that many entities; the same values each time, and times of now."""
        values = np.random.default_rng(SEED)
        half = FEATURES_PER_VIEW // 2
        now = datetime.now(UTC)
        ages = values.integers(1, 3_600_000_000, entities)
        return cls(
            entities=[_entity(number, key_type) for number in range(1, entities + 1)],
            key_type=key_type,
            times=[now - timedelta(microseconds=int(age)) for age in ages],
            numbers=values.integers(0, 1_000_000, (entities, VIEWS, half)),
            fractions=values.random((entities, VIEWS, half)),
        )

    def absent(self, number: int) -> Any:
        """An entity that is not stored, another one for each number from 0."""
        return _entity(len(self.entities) + 1 + number, self.key_type)

    def value(self, entity: Any) -> dict[str, Any]:
        """An entity as the arguments of a `Value`."""
        return {"int64_val" if self.key_type is KeyType.INT else "string_val": entity}

    def key(self, entity: Any) -> bytes:
        """The Redis key of an entity."""
        key = EntityKey(join_keys=[JOIN_KEY], entity_values=[Value(**self.value(entity))])
        stored: bytes = _redis_key(PROJECT, key, entity_key_serialization_version=3)
        return stored

    def hashes(self, index: int, layout: Layout = Layout.FEAST) -> Iterator[dict[bytes, bytes]]:
        """The hash fields of an entity, view by view, in the order in which Feast writes them."""
        at = Timestamp()
        at.FromDatetime(self.times[index])
        time = at.SerializeToString()
        for view in range(VIEWS):
            fields = {}
            for i, name in enumerate(feature_names(view)):
                column = i // 2
                if i % 2 == 0:
                    value = Value(int64_val=int(self.numbers[index, view, column]))
                else:
                    value = Value(double_val=float(self.fractions[index, view, column]))
                fields[_mmh3(f"{view_name(view)}:{name}")] = value.SerializeToString()
            packed = {row_hash_field(view_name(view)): _packed(time, fields)}
            fields = {b"_ts:" + view_name(view).encode(): marked_time(time, layout.value)} | (
                fields if layout is not Layout.PACKED else {}
            )
            yield fields | packed if layout is not Layout.FEAST else fields

    def frame(self, view: int, count: int) -> pd.DataFrame:
        """The first `count` rows of a view, as Feast takes them."""
        columns: dict[str, object] = {
            JOIN_KEY: self.entities[:count],
            "event_timestamp": self.times[:count],
        }
        for i, name in enumerate(feature_names(view)):
            source = self.fractions if i % 2 else self.numbers
            columns[name] = source[:count, view, i // 2]
        return pd.DataFrame(columns)

    def tables(self, view: int) -> Iterator[pa.Table]:
        """All rows of a view, in portions."""
        for start in range(0, len(self.entities), _PORTION):
            end = start + _PORTION
            columns: dict[str, Any] = {
                JOIN_KEY: pa.array(self.entities[start:end]),
                "event_timestamp": pa.array(self.times[start:end], pa.timestamp("us", "UTC")),
            }
            for i, name in enumerate(feature_names(view)):
                source = self.fractions if i % 2 else self.numbers
                columns[name] = pa.array(source[start:end, view, i // 2])
            yield pa.table(columns)


def _packed(time: bytes, values: dict[bytes, bytes]) -> bytes:
    """A packed row, as `hotfeast.hotpath.packed` describes it; no value is longer than 127 bytes.

    Args:
        time: The event time, serialized.
        values: The serialized values by hash field.
    """
    number = schema_number(list(values)).to_bytes(4, "little")
    parts = b"".join(bytes([len(value)]) + value for value in values.values())
    return b"\x01" + number + bytes([len(time)]) + time + parts


def _entity(number: int, key_type: KeyType) -> Any:
    return number if key_type is KeyType.INT else f"customer-{number:012d}"


def make_repository(
    folder: Path, redis_address: str, key_type: KeyType = KeyType.INT
) -> FeatureStore:
    """Writes and applies a feature repository whose online store is at `redis_address`.

    The registry is cached as Feast's guide to performance tuning says: for 300 s, and renewed by a
    thread in the background.
    """
    (folder / "feature_store.yaml").write_text(
        f"project: {PROJECT}\n"
        "provider: local\n"
        "registry:\n"
        f"  path: {folder / 'registry.db'}\n"
        "  cache_mode: thread\n"
        "  cache_ttl_seconds: 300\n"
        "online_store:\n"
        "  type: redis\n"
        f"  connection_string: {redis_address}\n"
        "offline_store:\n"
        "  type: file\n"
        "entity_key_serialization_version: 3\n"
    )
    is_int = key_type is KeyType.INT
    value_type = ValueType.INT64 if is_int else ValueType.STRING
    entity = Entity(name=JOIN_KEY, join_keys=[JOIN_KEY], value_type=value_type)
    views = [
        FeatureView(
            name=view_name(number),
            entities=[entity],
            ttl=timedelta(days=_TTL_DAYS),
            schema=[
                Field(name=JOIN_KEY, dtype=Int64 if is_int else String),
                *(
                    Field(name=name, dtype=Float64 if i % 2 else Int64)
                    for i, name in enumerate(feature_names(number))
                ),
            ],
            source=FileSource(
                name=f"{view_name(number)}_source",
                path=str(folder / f"{view_name(number)}.parquet"),
                timestamp_field="event_timestamp",
            ),
        )
        for number in range(VIEWS)
    ]
    store = FeatureStore(repo_path=str(folder))
    store.apply(
        [
            entity,
            *views,
            *(
                FeatureService(name=service(n), features=[views[i] for i in service_views(n)])
                for n in SERVICE_VIEWS
            ),
        ]
    )
    return store


def check_against_feast(store: FeatureStore, rows: Rows, client: RedisClient) -> None:
    """Has Feast write a few entities into an empty store, compares, and empties it again.

    Raises:
        RuntimeError: What Feast wrote is not what `Rows.hashes` says.
    """
    for view in range(VIEWS):
        store.write_to_online_store(view_name(view), rows.frame(view, _CHECKED))
    check_stored(rows, client)
    if client.dbsize() != _CHECKED:
        raise RuntimeError(f"Feast wrote {client.dbsize()} keys for {_CHECKED} entities")
    client.flushall()


def check_stored(
    rows: Rows, client: RedisClient, views: int = VIEWS, layout: Layout = Layout.FEAST
) -> None:
    """Compares the hashes of a few entities with what `Rows.hashes` says.

    Args:
        rows: What should be stored.
        client: Where.
        views: Only that many views are, those of the service that reads so many.
        layout: How they are.

    Raises:
        RuntimeError: They differ.
    """
    stored = {view_name(number).encode() for number in service_views(views)}
    for index in range(_CHECKED):
        entity = rows.entities[index]
        expected = {
            name: value
            for number, fields in enumerate(rows.hashes(index, layout))
            if view_name(number).encode() in stored
            for name, value in fields.items()
        }
        if client.hgetall(rows.key(entity)) != expected:
            raise RuntimeError(f"entity {entity} is not stored as the layout {layout} has it")


def load(rows: Rows, repo: Path, views: int = VIEWS, layout: Layout = Layout.FEAST) -> None:
    """Writes rows.

    Args:
        rows: All of them.
        repo: The repository's folder.
        views: Only that many views are written, those of the service that reads so many.
        layout: How they are stored.

    Raises:
        RuntimeError: A row was not written.
    """
    for number in service_views(views):
        writer = ViewWriter(repo, view_name(number), event_time_check=False, layout=layout.value)
        for table in rows.tables(number):
            counts = writer.write_arrow(table)
            if counts.written != table.num_rows:
                raise RuntimeError(f"rows of {view_name(number)} were lost: {counts}")


def choose_entities(
    rows: Rows, size: int, count: int, skew: Skew = Skew.UNIFORM, misses: float = 0.0
) -> list[list[Any]]:
    """The entities of some requests; the same ones for the same arguments.

    Args:
        rows: What is stored.
        size: Entities in a request.
        count: Requests.
        skew: Which entities.
        misses: The share of entities that are not stored.
    """
    chooser = np.random.default_rng(SEED + size)
    stored = len(rows.entities)
    share = None
    if skew is Skew.ZIPF:
        share = chooser.permutation(1.0 / np.arange(1, stored + 1) ** 0.99)
        share /= share.sum()
    chosen = []
    for _ in range(count):
        indices = chooser.choice(stored, size, replace=skew is Skew.ZIPF, p=share)
        absent = chooser.random(size) < misses
        chosen.append(
            [
                rows.absent(int(index)) if missing else rows.entities[index]
                for index, missing in zip(indices, absent, strict=True)
            ]
        )
    return chosen


def make_request(rows: Rows, entities: list[Any], feature_service: str = FIVE_VIEWS) -> bytes:
    """A serialized request for entities."""
    request = serving_pb2.GetOnlineFeaturesRequest(feature_service=feature_service)
    request.entities[JOIN_KEY].CopyFrom(
        value_pb2.RepeatedValue(val=[value_pb2.Value(**rows.value(e)) for e in entities])
    )
    return request.SerializeToString()


def make_requests(
    rows: Rows, size: int, count: int, feature_service: str = FIVE_VIEWS
) -> list[bytes]:
    """Serialized requests for `size` random entities each, without repetition within a request."""
    return [make_request(rows, e, feature_service) for e in choose_entities(rows, size, count)]
