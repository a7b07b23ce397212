"""The point-in-time join beside one that looks through all rows."""

from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hotfeast.server.as_of import CREATED, TIME, Source, join

START = 3
_numbers = st.integers(0, 6)
_row = st.tuples(
    st.one_of(st.none(), st.integers(0, 2)),
    st.sampled_from(["a", "b", None]),
    _numbers,
    st.one_of(st.none(), st.integers(0, 2)),
)
"""Two keys, event time, created time."""


def table(name: str, rows: list[Any], keys: list[str]) -> pa.Table:
    """Rows whose feature is where they stand."""
    columns = {
        "key_0": pa.array([row[0] for row in rows], pa.int64()),
        "key_1": pa.array([row[1] for row in rows], pa.string()),
        name: pa.array([[i] for i in range(len(rows))], pa.list_(pa.int64())),
        TIME: pa.array([row[2] for row in rows], pa.int64()),
        CREATED: pa.array([row[3] for row in rows], pa.int64()),
    }
    return pa.table({n: c for n, c in columns.items() if not n.startswith("key") or n in keys})


def source(name: str, rows: list[Any], keys: list[str], max_age: int) -> Source:
    made = table(name, rows, keys)
    reader = pa.RecordBatchReader.from_batches(made.schema, made.to_batches(2))
    return Source(keys, [name], max_age, reader)


def as_of(rows: list[Any], key: tuple[Any, ...], time: int, max_age: int) -> list[int] | None:
    """Looks through all rows; the keys of these are as many as are looked for."""
    found = [
        (row[2], -1 if row[3] is None else row[3], i)
        for i, row in enumerate(rows)
        if None not in key and row[: len(key)] == key and row[2] <= time
    ]
    if not found or (max_age and max(found)[0] < time - max_age):
        return None
    return [max(found)[2]]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(_row, max_size=12),
    st.lists(_row, max_size=12),
    st.lists(_row, max_size=12),
    st.sampled_from([0, 1, 3]),
)
def test_it_finds_what_a_look_through_all_rows_finds(
    first: list[Any], second: list[Any], part: list[Any], max_age: int
) -> None:
    both = ["key_0", "key_1"]
    sources = [
        source("feature_0", first, both, max_age),
        source("feature_1", second, both, 0),
        source("feature_2", part, ["key_0"], max_age),
    ]
    times: dict[tuple[Any, ...], int] = {}
    for row in first + second:
        if row[2] >= START:
            times[row[:2]] = max(row[2], times.get(row[:2], 0))
    expected = [
        (*key, time, as_of(first, key, time, max_age), as_of(second, key, time, 0),
         as_of(part, key[:1], time, max_age))
        for key, time in times.items()
    ]  # fmt: skip
    found = [
        tuple(row.values()) for batch in join(sources, both, START, 5) for row in batch.to_pylist()
    ]
    assert sorted(found, key=repr) == sorted(expected, key=repr)


def test_a_source_that_cannot_be_read_is_told() -> None:
    rows = table("feature_0", [(1, "a", 5, None)], ["key_0"])

    def broken() -> Any:
        yield from rows.to_batches()
        raise OSError("planned by the test")

    reader = pa.RecordBatchReader.from_batches(rows.schema, broken())
    with pytest.raises((duckdb.Error, OSError), match="planned by the test"):
        list(join([Source(["key_0"], ["feature_0"], 0, reader)], ["key_0"], START, 5))
