"""What is stored and asked for: the shape of Feast's published benchmark.

25 feature views of 10 features, int64 and double in turn, keyed by one int64 entity, so that an
entity's hash in Redis has 275 fields. Two feature services: `five_views` reads 50 features of 5
views, `all_views` all 250. The 5 views are spread evenly over the 25, because a small hash is a
list that Redis searches from its start: the first 5 views would be found sooner than most.

Rows are written with redis-py, byte for byte as Feast writes them but faster;
`check_against_feast` proves it on a few entities.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float64, Int64
from google.protobuf.timestamp_pb2 import Timestamp

from hotfeast.serving.v1 import serving_pb2, value_pb2

PROJECT = "bench"
JOIN_KEY = "entity"
VIEWS = 25
FEATURES_PER_VIEW = 10
FIVE_VIEWS = "five_views"
ALL_VIEWS = "all_views"
FIVE_VIEW_NUMBERS = (2, 7, 12, 17, 22)
ENTITIES = 2000
"""How many there are unless asked otherwise."""
SEED = 20240501

# redis-py's annotations know keys and commands of str alone; Feast's keys are bytes.
RedisClient = Any

# Days; rows are younger, so each one's age is really judged, and found in order.
_TTL_DAYS = 1
# Entities whose rows go to Redis in one write.
_PIPELINE = 100
# Entities that are written by Feast as well, to compare.
_CHECKED = 3


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
        entities: The values of the join key.
        times: One event time an entity, within the last hour.
        numbers: int64 values by entity and view, half a view's features.
        fractions: double values by entity and view, the other half.
    """

    entities: list[int]
    times: list[datetime]
    numbers: npt.NDArray[np.int64]
    fractions: npt.NDArray[np.float64]

    @classmethod
    def make(cls, entities: int) -> "Rows":
        """Makes rows for entities 1 to `entities`; the same values each time, and times of now."""
        values = np.random.default_rng(SEED)
        half = FEATURES_PER_VIEW // 2
        now = datetime.now(UTC)
        ages = values.integers(1, 3_600_000_000, entities)
        return cls(
            entities=list(range(1, entities + 1)),
            times=[now - timedelta(microseconds=int(age)) for age in ages],
            numbers=values.integers(0, 1_000_000, (entities, VIEWS, half)),
            fractions=values.random((entities, VIEWS, half)),
        )

    def key(self, entity: int) -> bytes:
        """The Redis key of an entity."""
        key = EntityKey(join_keys=[JOIN_KEY], entity_values=[Value(int64_val=entity)])
        stored: bytes = _redis_key(PROJECT, key, entity_key_serialization_version=3)
        return stored

    def hashes(self, index: int) -> Iterator[dict[bytes, bytes]]:
        """The hash fields of an entity, view by view, in the order in which Feast writes them."""
        time = Timestamp()
        time.FromDatetime(self.times[index])
        for view in range(VIEWS):
            fields = {b"_ts:" + view_name(view).encode(): time.SerializeToString()}
            for i, name in enumerate(feature_names(view)):
                column = i // 2
                if i % 2 == 0:
                    value = Value(int64_val=int(self.numbers[index, view, column]))
                else:
                    value = Value(double_val=float(self.fractions[index, view, column]))
                fields[_mmh3(f"{view_name(view)}:{name}")] = value.SerializeToString()
            yield fields

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


def make_repository(folder: Path, redis_address: str) -> FeatureStore:
    """Writes and applies a feature repository whose online store is at `redis_address`."""
    (folder / "feature_store.yaml").write_text(
        f"project: {PROJECT}\n"
        "provider: local\n"
        f"registry: {folder / 'registry.db'}\n"
        "online_store:\n"
        "  type: redis\n"
        f"  connection_string: {redis_address}\n"
        "offline_store:\n"
        "  type: file\n"
        "entity_key_serialization_version: 3\n"
    )
    entity = Entity(name=JOIN_KEY, join_keys=[JOIN_KEY], value_type=ValueType.INT64)
    views = [
        FeatureView(
            name=view_name(number),
            entities=[entity],
            ttl=timedelta(days=_TTL_DAYS),
            schema=[
                Field(name=JOIN_KEY, dtype=Int64),
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
            FeatureService(name=FIVE_VIEWS, features=[views[i] for i in FIVE_VIEW_NUMBERS]),
            FeatureService(name=ALL_VIEWS, features=list(views)),
        ]
    )
    return store


def check_against_feast(store: FeatureStore, rows: Rows, client: RedisClient) -> None:
    """Has Feast write a few entities into an empty store, compares, and empties it again.

    Raises:
        RuntimeError: What Feast wrote is not what `load` writes.
    """
    for view in range(VIEWS):
        store.write_to_online_store(view_name(view), rows.frame(view, _CHECKED))
    for index in range(_CHECKED):
        entity = rows.entities[index]
        ours = {name: value for view in rows.hashes(index) for name, value in view.items()}
        if client.hgetall(rows.key(entity)) != ours:
            raise RuntimeError(f"entity {entity} is stored differently by Feast")
    if client.dbsize() != _CHECKED:
        raise RuntimeError(f"Feast wrote {client.dbsize()} keys for {_CHECKED} entities")
    client.flushall()


def load(rows: Rows, client: RedisClient) -> None:
    """Writes all rows."""
    for start in range(0, len(rows.entities), _PIPELINE):
        with client.pipeline(transaction=False) as pipe:
            for index in range(start, min(start + _PIPELINE, len(rows.entities))):
                key = rows.key(rows.entities[index])
                for fields in rows.hashes(index):
                    pipe.hset(key, mapping=fields)
            pipe.execute()


def make_requests(
    entities: Sequence[int], rows: int, count: int, service: str = FIVE_VIEWS
) -> list[bytes]:
    """Serialized requests for `rows` random entities each, without repetition within a request.

    The same ones for the same arguments.
    """
    chooser = random.Random(SEED + rows)
    requests = []
    for _ in range(count):
        request = serving_pb2.GetOnlineFeaturesRequest(feature_service=service)
        request.entities[JOIN_KEY].CopyFrom(
            value_pb2.RepeatedValue(
                val=[value_pb2.Value(int64_val=e) for e in chooser.sample(list(entities), rows)]
            )
        )
        requests.append(request.SerializeToString())
    return requests
