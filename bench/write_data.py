"""What is written: rows of one view of 10 features, int64 and double in turn, by an int64 key."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource, ValueType
from feast.types import Float64, Int64

from bench.data import SEED
from hotfeast.serving.v1 import push_pb2, value_pb2

PROJECT = "bench"
VIEW = "written"
PUSH = "written_push"
KEY = "entity"
FEATURES = tuple(f"feature_{i}" for i in range(10))
START = datetime(2024, 1, 1, tzinfo=UTC)
"""Event times are within a day from here."""
END = START + timedelta(days=1)
PUSH_METHOD = f"/{push_pb2.DESCRIPTOR.services_by_name['Push'].full_name}/Push"
CALL_LIMIT = 30.0
"""Seconds that one call may take."""


@dataclass(frozen=True)
class Verdict:
    """A budget, what was measured, and how the figure came about."""

    budget: str
    figure: float
    limit: float
    at_most: bool
    unit: str = "x"
    note: str = ""

    @property
    def kept(self) -> bool:
        """Whether the figure is within the budget."""
        return self.figure <= self.limit if self.at_most else self.figure >= self.limit


@dataclass
class Report:
    """What all parts have measured."""

    facts: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)


def frame(rows: int, seed: int = SEED) -> pa.Table:
    """Rows of distinct entities, all with event times of one day."""
    values = np.random.default_rng(seed)
    columns: dict[str, Any] = {KEY: pa.array(np.arange(rows))}
    micros = int(START.timestamp()) * 1_000_000 + values.integers(1, 86_000_000_000, rows)
    columns["event_timestamp"] = pa.array(micros, pa.timestamp("us", "UTC"))
    for i, name in enumerate(FEATURES):
        made: npt.NDArray[Any] = (
            values.random(rows) if i % 2 else values.integers(0, 1_000_000, rows)
        )
        columns[name] = pa.array(made)
    return pa.table(columns)


def make_repository(folder: Path, redis_address: str, rows: int) -> FeatureStore:
    """Writes `rows` rows to Parquet, and applies a repository with one view of them."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rows.parquet"
    pq.write_table(frame(rows), path, row_group_size=65_536)
    (folder / "feature_store.yaml").write_text(
        f"project: {PROJECT}\nprovider: local\nregistry: {folder / 'registry.db'}\n"
        f"online_store:\n  type: redis\n  connection_string: {redis_address}\n"
        "offline_store:\n  type: file\nentity_key_serialization_version: 3\n"
    )
    source = FileSource(name="rows", path=str(path), timestamp_field="event_timestamp")
    entity = Entity(name=KEY, join_keys=[KEY], value_type=ValueType.INT64)
    view = FeatureView(
        name=VIEW,
        entities=[entity],
        ttl=timedelta(days=36500),
        schema=[
            Field(name=KEY, dtype=Int64),
            *(Field(name=n, dtype=Float64 if i % 2 else Int64) for i, n in enumerate(FEATURES)),
        ],
        source=PushSource(name=PUSH, batch_source=source),
    )
    store = FeatureStore(repo_path=str(folder))
    store.apply([entity, view])
    return store


def push_request(table: pa.Table, arrow: bool = False) -> bytes:
    """A serialized push of all rows of a table."""
    request = push_pb2.PushRequest(push_source=PUSH, target=push_pb2.PushTarget.PUSH_TARGET_ONLINE)
    if arrow:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        request.arrow_ipc = sink.getvalue().to_pybytes()
        return bytes(request.SerializeToString())
    for micros in table["event_timestamp"].cast(pa.int64()).to_pylist():
        request.columns.event_timestamps.add().FromMicroseconds(micros)
    for name in table.column_names:
        if name == "event_timestamp":
            continue
        member = "double_val" if pa.types.is_floating(table[name].type) else "int64_val"
        request.columns.columns[name].val.extend(
            value_pb2.Value(**{member: value}) for value in table[name].to_pylist()
        )
    return bytes(request.SerializeToString())
