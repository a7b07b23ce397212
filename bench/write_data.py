"""What is written: rows of one view of 10 features, int64 and double in turn, by an int64 key."""

from collections.abc import Iterator
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
from bench.verdict import Verdict
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


@dataclass
class Report:
    """What all parts have measured."""

    facts: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)


def frame(rows: int, first: int = 0) -> pa.Table:
    """Rows of distinct entities, numbered from `first`, all with event times of one day."""
    values = np.random.default_rng(SEED)
    columns: dict[str, Any] = {KEY: pa.array(np.arange(first, first + rows))}
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


def push_requests(table: pa.Table, count: int, arrow: bool = False) -> list[bytes]:
    """Serialized pushes of all rows of a table, each with later event times than the one before."""
    request = push_pb2.PushRequest(push_source=PUSH, target=push_pb2.PushTarget.PUSH_TARGET_ONLINE)
    if not arrow:
        for name in (KEY, *FEATURES):
            member = "double_val" if pa.types.is_floating(table[name].type) else "int64_val"
            request.columns.columns[name].val.extend(
                value_pb2.Value(**{member: value}) for value in table[name].to_pylist()
            )
    requests = []
    for later in newer(table, count):
        if arrow:
            request.arrow_ipc = _arrow_stream(later)
        else:
            del request.columns.event_timestamps[:]
            for micros in later["event_timestamp"].cast(pa.int64()).to_pylist():
                request.columns.event_timestamps.add().FromMicroseconds(micros)
        requests.append(request.SerializeToString())
    return requests


def newer(table: pa.Table, count: int) -> Iterator[pa.Table]:
    """The same rows again and again, each time an hour later."""
    at = table.column_names.index("event_timestamp")
    times = table["event_timestamp"].cast(pa.int64()).to_numpy()
    for turn in range(count):
        shifted = pa.array(times + turn * 3_600_000_000, pa.timestamp("us", "UTC"))
        yield table.set_column(at, "event_timestamp", shifted)


def _arrow_stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())
