"""Rows to score, in any form, as Arrow record batches of one size."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from os import PathLike
from typing import Any

from hotfeast.clients.optional import is_of, needed

ScoreRows = Any
"""A `pyarrow.Table`, `RecordBatch` or `RecordBatchReader`, a data frame of pandas or polars,
columns by name, the path of a Parquet file, or an iterable of any of these."""


def row_count(rows: ScoreRows) -> int | None:
    """How many rows there are, where that can be told without reading them."""
    if is_of(rows, "pyarrow", "Table", "RecordBatch"):
        return int(rows.num_rows)
    if is_of(rows, "pandas", "DataFrame") or is_of(rows, "polars", "DataFrame"):
        return len(rows)
    if isinstance(rows, str | PathLike):
        parquet = needed("pyarrow.parquet", "score")
        return int(parquet.read_metadata(rows).num_rows)
    if isinstance(rows, Mapping):
        return max(map(len, rows.values()), default=0)
    return None


def record_batches(rows: ScoreRows, size: int) -> Iterator[Any]:
    """Rows as record batches of `size` rows, the last with what is left. Where there are none, one
    without rows has their columns.

    Raises:
        TypeError: They have none of the forms.
        ValueError: Parts of them differ in their columns.
    """
    shaper = _Shaper(size)
    for piece in _pieces(rows):
        yield from shaper.add(piece)
    yield from shaper.rest()


async def record_batches_of(rows: ScoreRows, size: int) -> AsyncIterator[Any]:
    """The same, also of asynchronous iterables."""
    if not isinstance(rows, AsyncIterable):
        for batch in record_batches(rows, size):
            yield batch
        return
    shaper = _Shaper(size)
    async for part in rows:
        for piece in _pieces(part):
            for batch in shaper.add(piece):
                yield batch
    for batch in shaper.rest():
        yield batch


def _pieces(rows: ScoreRows) -> Iterator[Any]:
    """Rows as record batches of any sizes, at least one where columns are known."""
    arrow = needed("pyarrow", "score")
    if is_of(rows, "pyarrow", "RecordBatch"):
        yield rows
    elif is_of(rows, "pyarrow", "Table"):
        yield from rows.to_batches()
        if not rows.num_rows:
            empty = [arrow.array([], field.type) for field in rows.schema]
            yield arrow.RecordBatch.from_arrays(empty, rows.schema.names)
    elif is_of(rows, "pyarrow", "RecordBatchReader"):
        yield from rows
    elif is_of(rows, "pandas", "DataFrame"):
        yield from _pieces(arrow.Table.from_pandas(rows, preserve_index=False))
    elif is_of(rows, "polars", "DataFrame"):
        yield from _pieces(rows.to_arrow())
    elif isinstance(rows, Mapping):
        yield from _pieces(arrow.table(dict(rows)))
    elif isinstance(rows, str | PathLike):
        parquet = needed("pyarrow.parquet", "score")
        with parquet.ParquetFile(rows) as file:
            yield from file.iter_batches()
    elif isinstance(rows, Iterable) and not isinstance(rows, bytes):
        for part in rows:
            yield from _pieces(part)
    else:
        raise TypeError(
            f"rows cannot be a {type(rows).__name__}: give a table, record batch or reader of "
            "pyarrow, a data frame of pandas or polars, columns by name, the path of a Parquet "
            "file, or an iterable of these"
        )


class _Shaper:
    """Cuts record batches, and joins them, to one size."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: list[Any] = []
        self._rows = 0
        self._none: Any = None
        self._any = False

    def add(self, batch: Any) -> Iterator[Any]:
        """Takes a batch; gives those that are complete."""
        if not batch.num_rows:
            self._none = batch
        at = 0
        while at < batch.num_rows:
            part = batch.slice(at, self._size - self._rows)
            at += part.num_rows
            self._held.append(part)
            self._rows += part.num_rows
            if self._rows == self._size:
                yield self._joined()

    def rest(self) -> Iterator[Any]:
        """What is left; a batch without rows where there was nothing else."""
        if self._held:
            yield self._joined()
        elif self._none is not None and not self._any:
            yield self._none

    def _joined(self) -> Any:
        held, self._held, self._rows, self._any = self._held, [], 0, True
        if len(held) == 1:
            return held[0]
        arrow = needed("pyarrow", "score")
        try:
            (made,) = arrow.Table.from_batches(held).combine_chunks().to_batches()
        except arrow.ArrowInvalid as error:
            raise ValueError(f"rows: their parts differ in their columns: {error}") from None
        return made
