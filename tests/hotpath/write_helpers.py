"""Rows of a write, their batches, and a model of what a store makes of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from hotfeast.hotpath.columns import TimeColumn, ValueColumn
from hotfeast.hotpath.definition import FeatureWrite, WriteDefinition
from hotfeast.hotpath.writes import OUTCOMES, WriteBatch, WritePlan

STRING, INT32, INT64, BYTES, UNIX_TIMESTAMP = 2, 3, 4, 1, 8


def definition(
    keys: Sequence[tuple[str, int]] = (("id", INT64),),
    features: Sequence[tuple[str, int]] = (("f", INT64), ("g", STRING)),
    *,
    view: str = "view",
    project: str = "demo",
    created: bool = True,
    key_ttl: int = 0,
    layout: str | None = None,
) -> WriteDefinition:
    return WriteDefinition(
        project=project,
        join_keys=tuple(sorted(keys)),
        features=tuple(FeatureWrite(n, t, _mmh3(f"{view}:{n}")) for n, t in features),
        time_field=f"_ts:{view}".encode(),
        created_field=f"_ct:{view}".encode() if created else b"",
        key_ttl_seconds=key_ttl,
        row_field=b"" if layout is None else _mmh3(f"{view}:\0row"),
        layout=layout or "feast",
    )


@dataclass(frozen=True)
class Row:
    """A row of the view that `definition` makes; times in nanoseconds since 1970."""

    id: int
    time: int
    created: int | None = None
    f: int | None = 0
    g: str | None = ""


def timestamp(nanoseconds: int) -> bytes:
    seconds, nanos = divmod(nanoseconds, 10**9)
    return Timestamp(seconds=seconds, nanos=nanos).SerializeToString()


def stored_row(row: Row) -> dict[bytes, bytes]:
    """What Feast stores of a row."""
    return {
        b"_ts:view": timestamp(row.time),
        _mmh3("view:f"): b"" if row.f is None else Value(int64_val=row.f).SerializeToString(),
        _mmh3("view:g"): b"" if row.g is None else Value(string_val=row.g).SerializeToString(),
    }


def without_created(stored: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {k: v for k, v in stored.items() if not k.startswith(b"_ct:")}


def column(value_type: int, values: Iterable[Value | None]) -> ValueColumn:
    serialized = [b"" if v is None else v.SerializeToString() for v in values]
    return ValueColumn.from_serialized(value_type, serialized, [], None)


def created_column(times: Sequence[int | None]) -> TimeColumn:
    return TimeColumn.from_arrow(pa.array(times, pa.timestamp("ns")))


def make_batch(
    plan: WritePlan, rows: Sequence[Row], check: bool = True, rows_per_call: int = 16
) -> WriteBatch:
    return WriteBatch(
        plan,
        [column(INT64, (Value(int64_val=r.id) for r in rows))],
        [
            column(INT64, (None if r.f is None else Value(int64_val=r.f) for r in rows)),
            column(STRING, (None if r.g is None else Value(string_val=r.g) for r in rows)),
        ],
        TimeColumn.from_timestamps([timestamp(r.time) for r in rows]),
        created_column([r.created for r in rows]) if plan.definition.created_field else None,
        check,
        rows_per_call,
    )


def outcomes(batch: WriteBatch) -> list[str]:
    return [OUTCOMES[number] for number in batch.outcomes]


class Model:
    """The rule: newest event time; equal: later created; where that cannot be told: later arrival.

    A row replaces its predecessor whole.
    """

    def __init__(self) -> None:
        self.rows: dict[Any, Row] = {}

    def write(self, row: Row) -> str:
        old = self.rows.get(row.id)
        if old is not None:
            if row.time < old.time:
                return "stale"
            both = row.created is not None and old.created is not None
            if row.time == old.time and both and row.created < old.created:  # type: ignore[operator]
                return "stale"
        self.rows[row.id] = row
        return "written"
