"""Columns to batches: what is missing or wrong is named, and the rest is what Feast would write."""

import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType

from hotfeast.hotpath.columns import TimeColumn
from hotfeast.hotpath.writes import OUTCOMES
from hotfeast.server import rows
from hotfeast.server.errors import RequestFailure
from hotfeast.server.registry import (
    Definitions,
    FieldDefinition,
    SourceDefinition,
    ViewDefinition,
)
from hotfeast.server.rows import EncodedRows, encode, map_fields
from hotfeast.server.write_plan import ViewWrite, plan_write
from hotfeast.serving.v1 import value_pb2

NOW = datetime(2024, 1, 1, tzinfo=UTC)
STAMPS = pa.timestamp("us", "UTC")


def view_write(
    *features: FieldDefinition,
    keys: tuple[tuple[str, int], ...] = (("id", 4),),
    created: str = "",
    mapping: dict[str, str] | None = None,
) -> ViewWrite:
    view = ViewDefinition(
        name="stats", kind="FeatureView", entities=tuple(name for name, _ in keys),
        join_keys=tuple(FieldDefinition(name, kind) for name, kind in keys),
        features=features or (FieldDefinition("f", 4),), ttl_seconds=0, online=True, version=0,
        problem="", description="", tags={}, owner="", materialized_until=None, stored=True,
        source=SourceDefinition("ts", created, mapping or {}, ""),
    )  # fmt: skip
    definitions = Definitions(
        project="demo", entity_names={}, views={"stats": view}, versions={}, services={},
        versioned_storage=False, fingerprint="",
    )  # fmt: skip
    return plan_write(definitions, "stats", 0)


def columns(rows: int = 3, **others: Any) -> dict[str, Any]:
    return {
        "id": pa.array(range(rows), pa.int64()),
        "f": pa.array(range(rows), pa.int64()),
        "ts": pa.array([NOW] * rows, STAMPS),
    } | others


def states(made: EncodedRows) -> list[str]:
    return [OUTCOMES[state] for state in made.batch.outcomes]


def repeated(*values: value_pb2.Value) -> bytes:
    return value_pb2.RepeatedValue(val=values).SerializeToString()


def test_rows_that_are_fine() -> None:
    made = encode(view_write(), columns())
    assert states(made) == ["pending"] * 3
    assert made.rejections == []


def test_protobuf_columns() -> None:
    numbers = repeated(*(value_pb2.Value(int64_val=i) for i in range(3)))
    times = repeated(*(value_pb2.Value(unix_timestamp_val=i) for i in range(3)))
    made = encode(view_write(), {"id": numbers, "f": numbers, "ts": times})
    assert states(made) == ["pending"] * 3
    arrow = encode(view_write(), columns())
    assert [made.batch.key(i) for i in range(3)] == [arrow.batch.key(i) for i in range(3)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"id": None}, "feature view 'stats': missing column 'id'"),
        ({"id": None, "f": None, "ts": None}, "missing columns 'f', 'id', 'ts'"),
        ({"f": pa.array([1])}, "column 'f' has 1 rows, and 'ts' has 3"),
        ({"id": pa.array([1] * 4)}, "column 'id' has 4 rows, and 'ts' has 3"),
        (
            {"f": pa.array(["a"] * 3)},
            "column 'f' of Arrow type string cannot be converted to INT64",
        ),
        ({"id": pa.array([1.5, 2, 3]).cast(pa.string())}, "converted to INT64"),
        ({"ts": pa.array([1] * 3)}, "'ts' must hold timestamps, and is of Arrow type int64"),
        ({"ts": pa.array(["2020-01-01"] * 3)}, "'ts' must hold timestamps"),
        ({"f": b"\xff"}, "column 'f' is not a serialized RepeatedValue"),
        ({"ts": b"\xff"}, "column 'ts' is not a serialized RepeatedValue"),
        ({"f": TimeColumn.none(3)}, "'f' is a join key or feature, not a timestamp"),
    ],
)
def test_columns_that_do_not_do(given: dict[str, Any], message: str) -> None:
    wrong = {name: column for name, column in columns(**given).items() if column is not None}
    with pytest.raises(RequestFailure, match=r"stats|column") as failure:
        encode(view_write(), wrong)
    assert message in failure.value.message


def test_a_created_column_of_another_length() -> None:
    made = encode(view_write(created="made"), columns())
    assert states(made) == ["pending"] * 3
    with pytest.raises(RequestFailure, match="'made' has 1 rows"):
        encode(view_write(created="made"), columns(made=pa.array([NOW], STAMPS)))


REJECTED: list[tuple[dict[str, Any], str, str, str]] = [
    ({"id": pa.array([1, None, 3])}, "id", "null_key", "'id' is null"),
    ({"ts": pa.array([NOW, None, NOW], STAMPS)}, "ts", "timestamp", "'ts' is missing"),
    ({"ts": pa.array([0, 2**62, 0], pa.timestamp("s"))}, "ts", "timestamp", "years 1 to 9999"),
    ({"ts": pa.array([0, 2_000_000_000, 0], pa.timestamp("s"))}, "ts", "timestamp", "future"),
    ({"f": pa.array([1, 2.5, None])}, "f", "type", "'f' is 2.5: it is no whole number"),
    ({"f": pa.array([1, 2**63, 3], pa.uint64())}, "f", "type", "9223372036854775808"),
    (
        {"f": repeated(value_pb2.Value(), value_pb2.Value(string_val="x"), value_pb2.Value())},
        "f", "type", "'f' is 'x': its type cannot be converted without loss",
    ),
    ({"f": b"\x0a\x00\x0a\x02\x12\x05\x0a\x00"}, "f", "type", "'f' is not readable"),
    ({"made": pa.array([0, 2**62, 0], pa.timestamp("s"))}, "made", "timestamp", "years 1 to 9999"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "field", "rule", "message"), REJECTED)
def test_rows_that_are_rejected(given: dict[str, Any], field: str, rule: str, message: str) -> None:
    made = encode(view_write(created="made"), columns(**given), latest_time=1_900_000_000)
    assert states(made) == ["pending", "rejected", "pending"]
    (rejection,) = made.rejections
    assert rejection[:4] == (1, "stats", field, rule)
    assert rejection.message.startswith("feature view 'stats', row 1: ")
    assert message in rejection.message


def test_a_row_is_rejected_for_one_reason() -> None:
    write = view_write(FieldDefinition("f", 4, tags={"max": "0", "not_null": "true"}))
    wrong = columns(id=pa.array([None, 1, 2]), f=pa.array([5, 5, None]))
    made = encode(write, wrong)
    assert [(r.row, r.rule) for r in made.rejections] == [
        (0, "null_key"),
        (1, "max"),
        (2, "not_null"),
    ]
    assert made.rejections[1].message == (
        "feature view 'stats', row 1: 'f' is 5, and max wants at most 0"
    )
    assert "'f' is null" in made.rejections[2].message


def test_long_values_are_cut_in_messages() -> None:
    write = view_write(FieldDefinition("f", 2, tags={"max_length": "3"}))
    made = encode(write, columns(1, f=pa.array(["x" * 5000])))
    assert len(made.rejections[0].message) < 250


def test_keys_without_a_declared_type() -> None:
    write = view_write(keys=(("id", 0),))
    for array in (pa.array([1, 2, 3]), pa.array(["a", "b", "c"]), pa.array([b"a", b"b", b"c"])):
        assert states(encode(write, columns(id=array))) == ["pending"] * 3
    assert states(encode(write, columns(id=pa.nulls(3)))) == ["rejected"] * 3
    with pytest.raises(RequestFailure, match="'id' of Arrow type double"):
        encode(write, columns(id=pa.array([1.0, 2.0, 3.0])))


def test_int32_keys_of_int64_columns() -> None:
    """Feast's keys of INT32 and INT64 differ in bytes: the declared type decides."""
    made = encode(view_write(keys=(("id", 3),)), columns())
    assert made.batch.key(1).endswith(b"\x03\0\0\0\x04\0\0\0\x01\0\0\0demo")


def test_views_without_entities() -> None:
    made = encode(view_write(keys=()), columns())
    assert made.batch.key(0) == (b"\x01\0\0\0\x02\0\0\0\x0a\0\0\0__dummy_id\x02\0\0\0\0\0\0\0demo")


def test_field_mapping() -> None:
    write = view_write(mapping={"raw": "f", "when": "ts"}, created="")
    mapped = map_fields(write, {"raw": 1, "when": 2, "id": 3})
    assert mapped == {"f": 1, "ts": 2, "id": 3}
    with pytest.raises(RequestFailure, match="'f' of feature view 'stats' is given twice"):
        map_fields(write, {"raw": 1, "f": 2})


@pytest.mark.parametrize(
    ("value_type", "array"),
    [
        (20, pa.array([{"a": 1, "b": 2}, None])),
        (34, pa.array([{"a": 1, "b": "x"}, None])),
        (35, pa.array([[{"a": 1}], None])),
        (32, pa.array(['{"a": 1}', None])),
        (33, pa.array([['{"a": 1}', "[]"], None])),
        (42, pa.array([[[1, 2], [3]], None])),
        (23, pa.array([["a", "b"], None])),
        (25, pa.array([[1, 2], None])),
        (38, pa.array([["b7ba2cf0-3a2e-4f36-9b0e-3d2cf7a8a5d1"], None])),
        (44, pa.array([Decimal("1.50"), None])),
        (45, pa.array([[Decimal("1.50")], None])),
    ],
    ids=str,
)
def test_types_that_feast_converts(value_type: int, array: Any) -> None:
    made = rows.encode_values("stats", "f", value_type, array)
    wanted = python_values_to_proto_values(
        list(array.to_numpy(zero_copy_only=False)), ValueType(value_type)
    )
    assert made.faults == []
    assert made.values == [value.SerializeToString() for value in wanted]


def test_what_feast_refuses_is_a_fault_of_its_row() -> None:
    write = view_write(FieldDefinition("f", 32))
    made = encode(write, columns(f=pa.array(["{}", "no json", "[1]"])))
    assert states(made) == ["pending", "rejected", "pending"]
    assert "'f' is 'no json'" in made.rejections[0].message


def test_uuids_of_sixteen_bytes() -> None:
    """Feast would write the Python notation of the bytes, which it cannot read back."""
    value = uuid.UUID("b7ba2cf0-3a2e-4f36-9b0e-3d2cf7a8a5d1")
    wanted = value_pb2.Value(uuid_val=str(value)).SerializeToString()
    for array in (
        pa.array([value.bytes, None], pa.uuid()),
        pa.array([value.bytes, None], pa.binary(16)),
    ):
        made = rows.encode_values("stats", "f", 36, array)
        assert (made.values, made.faults) == ([wanted, b""], [])
    with pytest.raises(RequestFailure, match="cannot be converted to UUID"):
        rows.encode_values("stats", "f", 36, pa.array([b"short"]))
    with pytest.raises(RequestFailure, match="cannot be converted to UUID_LIST"):
        rows.encode_values("stats", "f", 38, pa.array([[value.bytes]], pa.list_(pa.binary(16))))


def test_zoned_timestamps() -> None:
    """Feast itself fails for such a column, since NumPy's times have no zone."""
    array = pa.array([NOW, None], pa.timestamp("us", "Europe/Berlin"))
    made = rows.encode_values("stats", "f", 48, array)
    wanted = python_values_to_proto_values(array.to_pylist(), ValueType.ZONED_TIMESTAMP)
    assert (made.values, made.faults) == ([v.SerializeToString() for v in wanted], [])
    assert value_pb2.Value.FromString(made.values[0]).zoned_timestamp_val.zone == "Europe/Berlin"
    nanos = pa.array([5_000, 5_001], pa.timestamp("ns", "UTC"))
    assert [row for row, _ in rows.encode_values("stats", "f", 48, nanos).faults] == [1]


def test_arrow_s_json() -> None:
    array = pa.array(["[1]"], pa.json_())
    made = rows.encode_values("stats", "f", 32, array)
    assert made.values == [value_pb2.Value(json_val="[1]").SerializeToString()]


def test_many_faults_cost_one_reading() -> None:
    """Reading the payload again for each fault would take minutes."""
    count = 30_000
    payload = repeated(*(value_pb2.Value(string_val="x") for _ in range(count)))
    made = encode(view_write(), columns(count, f=payload))
    assert len(made.rejections) == count
