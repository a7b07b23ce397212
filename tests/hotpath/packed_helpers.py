"""A store that writers of every layout and Feast's SDK share, and what it should hold."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from feast import Entity, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.infra.online_stores.helpers import _mmh3
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Int64
from google.protobuf.timestamp_pb2 import Timestamp

from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.columns import TimeColumn
from hotfeast.hotpath.definition import (
    FeatureRead,
    JoinKey,
    KeyRecipe,
    ReadDefinition,
    ViewRead,
)
from hotfeast.hotpath.judge import judge_early
from hotfeast.hotpath.packed import layout_of
from hotfeast.hotpath.plan import Plan
from hotfeast.hotpath.request import Request
from hotfeast.hotpath.splice import build_response
from hotfeast.hotpath.writes import WriteBatch, WritePlan
from hotfeast.server.redis_io import Lanes, RedisReader, RedisWriter
from hotfeast.server.repack import RepackSummary, repack_views
from hotfeast.serving.v1 import serving_pb2
from tests.hotpath.helpers import request_bytes
from tests.hotpath.write_helpers import INT64, column, created_column, definition, timestamp

SECOND = 10**9
ROW_FIELD = _mmh3("view:\0row")
SCHEMAS = {"old": ("f", "g"), "new": ("f", "g", "h"), "less": ("h", "f")}


def hash_fields(names: Sequence[str]) -> tuple[bytes, ...]:
    return tuple(_mmh3(f"view:{name}") for name in names)


def view(packed: bool, schema: str, ttl: int = 0) -> ViewRead:
    names = SCHEMAS[schema]
    return ViewRead(
        name="view",
        recipe=0,
        time_field=b"_ts:view",
        ttl_seconds=ttl,
        features=tuple(FeatureRead(n, _mmh3(f"view:{n}")) for n in names),
        row_field=ROW_FIELD,
        schema=hash_fields(names),
        packed=packed,
    )


def read_plan(packed: bool, schema: str) -> Plan:
    return Plan(
        ReadDefinition("demo", (JoinKey("id", INT64),), (KeyRecipe((("id", 0),)),),
                       (view(packed, schema),))
    )  # fmt: skip


def write_plan(layout: str, schema: str, created: bool = False) -> WritePlan:
    features = [(name, INT64) for name in SCHEMAS[schema]]
    return WritePlan(definition(features=features, created=created, layout=layout))


@dataclass(frozen=True)
class PackedRow:
    """A row with values by feature; times in nanoseconds since 1970."""

    id: int
    time: int
    values: dict[str, int | None]
    created: int | None = None


def batch_of(
    layout: str, schema: str, rows: Sequence[PackedRow], check: bool = True, created: bool = False
) -> WriteBatch:
    def value(number: int | None) -> Value | None:
        return None if number is None else Value(int64_val=number)

    return WriteBatch(
        write_plan(layout, schema, created),
        [column(INT64, (Value(int64_val=r.id) for r in rows))],
        [column(INT64, (value(r.values[n]) for r in rows)) for n in SCHEMAS[schema]],
        TimeColumn.from_timestamps([timestamp(r.time) for r in rows]),
        created_column([r.created for r in rows]) if created else None,
        check,
    )


Answer = dict[str, tuple[int, int | None]]
"""For each feature its status and value."""


def answers(
    lanes: Lanes, plan: Plan, ids: Sequence[int], partial: bool = False
) -> list[tuple[int | None, Answer]]:
    """For each entity its row's time, None where it has none, and what is served."""
    message = serving_pb2.GetOnlineFeaturesRequest.FromString(
        request_bytes({"id": [Value(int64_val=i) for i in ids]})
    )
    message.allow_partial_response = partial
    batch = Batch(plan, Request(message.SerializeToString()))
    # As the gateway does it.
    judge_early(batch, 0, 0)
    reader = RedisReader(lanes, 30)
    lane = reader.read(batch, None)
    try:
        data = build_response(batch, lane.reply, 0, 0, True)
    finally:
        reader.release(lane)
    response = serving_pb2.GetOnlineFeaturesResponse.FromString(data)
    names = list(response.metadata.feature_names.val)
    served = []
    for row in range(len(ids)):
        answer: Answer = {}
        time = None
        for name, vector in zip(names, response.results, strict=True):
            if name == "id":
                continue
            value = vector.values[row]
            number = value.int64_val if value.HasField("int64_val") else None
            answer[name] = vector.statuses[row], number
            sent = vector.event_timestamps[row]
            if sent != Timestamp():
                time = sent.seconds * SECOND + sent.nanos
        served.append((time, answer))
    return served


PRESENT, NULL_VALUE, NOT_FOUND = 1, 2, 3


def expected(values: dict[str, int | None], schema: str) -> Answer:
    return {
        name: (NULL_VALUE, None) if values.get(name) is None else (PRESENT, values[name])
        for name in SCHEMAS[schema]
    }


FEAST_VIEWS = {
    schema: FeatureView(
        name="view",
        entities=[Entity(name="id", join_keys=["id"], value_type=ValueType.INT64)],
        schema=[Field(name=name, dtype=Int64) for name in ("id", *names)],
        source=FileSource(path="none.parquet", timestamp_field="t"),
    )
    for schema, names in SCHEMAS.items()
}


def repack(lanes: Lanes, layout: str, schema: str = "old", **options: Any) -> RepackSummary:
    """Puts all rows into a layout, as the tool does by the view's definition of a schema."""
    return repack_views(
        lanes.schemas._client.connection_pool,
        [write_plan(layout, schema).definition],
        layout,
        **options,
    )


@dataclass
class Stored:
    """What an entity's hash should be taken for.

    Attributes:
        row: The last row that was accepted; None where there is none.
        layout: As it is stored.
        schema: The features of its packed row, if it has one.
        earlier: Values that Feast's fields ever had.
        unsure: Features that are null or have one of these values, by which fields a reader looks
            at, and what else was in them when rows were packed from them.
    """

    row: PackedRow | None = None
    layout: str = "feast"
    schema: tuple[str, ...] = ()
    earlier: dict[str, set[int | None]] = field(default_factory=dict)
    unsure: dict[str, set[int | None]] = field(default_factory=dict)

    def write(self, row: PackedRow, layout: str) -> None:
        self.row, self.layout, self.schema = row, layout, tuple(row.values)
        self.unsure = {}
        self._note_fields()

    def repack(self, layout: str, schema: tuple[str, ...]) -> None:
        """Into another layout, by a definition with the features of `schema`."""
        row, before = self.row, self.layout
        if row is None or before == layout:
            return
        self.layout = layout
        if before == "feast":
            # In Feast's fields what a row does not have stays from those before it.
            self.unsure = {n: {v} for n, v in row.values.items() if n not in schema}
            self.unsure |= {n: set(self.earlier.get(n, ())) for n in schema if n not in row.values}
            self.row = replace(row, values={n: v for n, v in row.values.items() if n in schema})
            self.schema = schema
            return
        if layout != "packed":
            # Fields of the definition that the row does not have are deleted.
            missing = dict.fromkeys(n for n in schema if n not in self.schema)
            self.row = replace(row, values=row.values | missing)
            self.unsure = {n: v for n, v in self.unsure.items() if n not in missing}
            self._note_fields()

    def _note_fields(self) -> None:
        if self.layout != "packed" and self.row is not None:
            for name, value in self.row.values.items():
                self.earlier.setdefault(name, set()).add(value)


class Shared:
    """A store that all writers share, and what it should hold."""

    def __init__(self, lanes: Lanes, client: Any) -> None:
        self.lanes = lanes
        self.client = client
        client.flushall()
        # Writers record the schemas again after a while; here the store is another one each time.
        lanes.schemas._recorded.clear()
        lanes.schemas._lost.clear()
        self.rows = {i: Stored() for i in range(3)}
        self.configs = {unchecked: self.config(lanes, unchecked) for unchecked in (False, True)}

    @staticmethod
    def config(lanes: Lanes, unchecked: bool = False) -> RepoConfig:
        """The store as Feast is told of it; unchecked: it writes without a look at event times."""
        address = lanes.schemas._client.connection_pool.connection_kwargs
        return RepoConfig(
            registry="none.db",
            project="demo",
            provider="local",
            online_store={
                "type": "redis",
                "connection_string": f"{address['host']}:{address['port']}",
                "skip_dedup": unchecked,
            },
            entity_key_serialization_version=3,
        )

    def take(self, step: tuple[Any, ...]) -> None:
        if step[0] == "delete":
            RedisOnlineStore().delete_table(self.configs[False], FEAST_VIEWS["new"])
            for stored in self.rows.values():
                stored.row = None
            return
        if step[0] == "repack":
            self.repack(*step[1:])
            return
        kind, schema, rows, *rest = step
        if kind != "ours":
            self.write_as_feast(rows[0], schema, kind == "feast-unchecked")
            return
        layout, check = rest
        batch = batch_of(layout, schema, rows, check)
        RedisWriter(self.lanes, 30).write(batch)
        for row in rows:
            stored = self.rows[row.id]
            if not check or stored.row is None or row.time >= stored.row.time:
                stored.write(row, layout)

    def write_as_feast(self, row: PackedRow, schema: str, unchecked: bool) -> None:
        key = EntityKey(join_keys=["id"], entity_values=[Value(int64_val=row.id)])
        values = {n: Value() if v is None else Value(int64_val=v) for n, v in row.values.items()}
        time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=row.time // SECOND)
        RedisOnlineStore().online_write_batch(
            self.configs[unchecked], FEAST_VIEWS[schema], [(key, values, time, None)], None
        )
        stored = self.rows[row.id]
        if unchecked or stored.row is None or row.time > stored.row.time:
            stored.write(row, "feast")

    def repack(self, layout: str, schema: str) -> None:
        assert repack(self.lanes, layout, schema).exit_code == 0
        for stored in self.rows.values():
            stored.repack(layout, SCHEMAS[schema])
        for i in self.rows:
            stored_hash = self.client.hgetall(batch_of("feast", "old", [self.any_row(i)]).key(0))
            if b"_ts:view" in stored_hash:
                assert layout_of(stored_hash[b"_ts:view"]) == layout
                assert (ROW_FIELD in stored_hash) == (layout != "feast")
                if layout == "packed":
                    assert stored_hash.keys().isdisjoint(hash_fields(SCHEMAS[schema]))
        again = repack(self.lanes, layout, schema)
        assert (again.exit_code, again.views[0].converted) == (0, 0)

    @staticmethod
    def any_row(id: int) -> PackedRow:
        return PackedRow(id, 0, {"f": None, "g": None})

    def check(self, packed: bool, schema: str) -> None:
        served = answers(self.lanes, read_plan(packed, schema), range(3))
        for i, (time, answer) in enumerate(served):
            stored = self.rows[i]
            if stored.row is None:
                assert time is None
                # Fields that Feast's definition of the view does not name stay when it deletes.
                assert all(
                    status in (NOT_FOUND, PRESENT, NULL_VALUE) for status, _ in (answer.values())
                )
                assert all(
                    value is None or value in stored.earlier.get(name, ())
                    for name, (_, value) in answer.items()
                )
                continue
            assert time == stored.row.time
            for name, (status, value) in answer.items():
                if name in stored.unsure:
                    assert value is None or value in stored.unsure[name]
                elif name in stored.row.values:
                    assert value == stored.row.values[name], (i, name)
                    assert status == (NULL_VALUE if value is None else PRESENT)
                elif stored.layout == "packed" or (stored.layout == "dual" and packed):
                    assert (status, value) == (NULL_VALUE, None)
                else:
                    # In Feast's fields what a row does not have stays from those before it.
                    assert value is None or value in stored.earlier.get(name, ())
