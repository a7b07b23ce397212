"""A point-in-time join of several sources, by DuckDB, which goes to disk where memory is short.

Each entity is joined at the newest time that a source has for it: with the last row of each source
at or before that time, if that is not too old. Of rows of one time the one that was created later
counts, else the one that comes later.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

TIME, CREATED = "time", "created"
"""Names of the columns of event and created time, in nanoseconds since 1970."""

# What DuckDB takes before it goes to disk.
_MEMORY = "512MB"
_ARRIVAL = "arrival"


@dataclass(frozen=True, slots=True)
class Source:
    """One source of a join. Names are plain identifiers of SQL.

    Attributes:
        keys: Names of its join keys, some or all of those of the join.
        features: Names of what is taken of it, which no other source has.
        max_age: Nanoseconds by which a row may be older than the time; 0 for any age.
        rows: Its rows: keys, features, `TIME`, and `CREATED`, which may be null.
    """

    keys: Sequence[str]
    features: Sequence[str]
    max_age: int
    rows: pa.RecordBatchReader


def join(
    sources: Sequence[Source], keys: Sequence[str], start: int, batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """Joins sources.

    Args:
        sources: The sources; those with all keys are where entities and times come from.
        keys: Names of the join keys. A null among them is a key that no other source has.
        start: Nanoseconds since 1970; only rows from then on give times.
        batch_rows: Rows of a batch at most.

    Yields:
        Keys, `TIME` and the features of all sources.

    Raises:
        duckdb.Error: A source cannot be read, or has keys of other types than the others.
    """
    with (
        tempfile.TemporaryDirectory(prefix="hotfeast-") as folder,
        duckdb.connect(config={"memory_limit": _MEMORY, "temp_directory": folder}) as db,
    ):
        for number, source in enumerate(sources):
            _load(db, f"source_{number}", source)
        listed = ", ".join(keys)
        times = " UNION ALL ".join(
            f"SELECT {listed}, {TIME} FROM source_{number} WHERE {TIME} >= {start}"
            for number, source in enumerate(sources)
            if len(source.keys) == len(keys)
        )
        wanted = [f"entity.{name}" for name in (*keys, TIME)]
        joins = []
        for number, source in enumerate(sources):
            table = f"source_{number}"
            oldest = f"entity.{TIME} - {source.max_age}" if source.max_age else f"{table}.{TIME}"
            wanted += (
                f"CASE WHEN {table}.{TIME} >= {oldest} THEN {table}.{name} END AS {name}"
                for name in source.features
            )
            same = [f"entity.{key} = {table}.{key}" for key in source.keys]
            same.append(f"entity.{TIME} >= {table}.{TIME}")
            joins.append(f"ASOF LEFT JOIN {table} ON {' AND '.join(same)}")
        joined = db.sql(
            f"SELECT {', '.join(wanted)} FROM ("
            f"SELECT {listed}, max({TIME}) AS {TIME} FROM ({times}) GROUP BY {listed}"
            f") AS entity {' '.join(joins)}"
        )
        yield from joined.to_arrow_reader(batch_rows)


def _load(db: duckdb.DuckDBPyConnection, table: str, source: Source) -> None:
    """Makes a table of a source's rows, without those that another one of their time supersedes."""
    db.register("incoming", _numbered(source.rows))
    alike = ", ".join([*source.keys, TIME])
    db.execute(
        f"CREATE TABLE {table} AS SELECT * EXCLUDE ({CREATED}, {_ARRIVAL}) FROM incoming "
        f"QUALIFY row_number() OVER (PARTITION BY {alike} "
        f"ORDER BY {CREATED} DESC NULLS LAST, {_ARRIVAL} DESC) = 1"
    )
    db.unregister("incoming")


def _numbered(rows: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """Rows with their number in the order of arrival."""

    def batches() -> Iterator[pa.RecordBatch]:
        seen = 0
        for batch in rows:
            numbers = pa.array(range(seen, seen + batch.num_rows), pa.int64())
            seen += batch.num_rows
            yield batch.append_column(_ARRIVAL, numbers)

    schema = rows.schema.append(pa.field(_ARRIVAL, pa.int64()))
    return pa.RecordBatchReader.from_batches(schema, batches())
