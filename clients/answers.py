"""The answer to a request for features, decoded column by column when it is asked for."""

import html
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from hotfeast.clients.decoding import (
    arrow_column,
    event_times,
    feast_column,
    numbers,
    pandas_column,
    python_values,
    type_name,
    validity,
)
from hotfeast.clients.optional import needed
from hotfeast.hotpath.answer import Answer, AnswerColumn
from hotfeast.hotpath.declared import usual_column
from hotfeast.serving.v1 import serving_pb2

_STATUS_NAMES = {v.number: v.name for v in serving_pb2.FieldStatus.DESCRIPTOR.values}
# Of what is shown of an answer.
_SHOWN_ROWS = 10
_SHOWN_COLUMNS = 12
_SHOWN_WIDTH = 24
# What Feast appends to the names of times.
_TIMESTAMP_POSTFIX = "__ts"


class FeatureRow(NamedTuple):
    """One row of the answer; each dictionary is keyed by column name."""

    values: dict[str, Any]
    statuses: dict[str, str]
    event_timestamps: dict[str, datetime | None]


class OnlineFeatures:
    """The answer to a request: columns of values, statuses and event timestamps.

    It holds the bytes that came. A column is decoded when it is asked for, once, in compiled code.
    What a value's absence means is in `statuses`.

    Example:
        ```python
        answer = client.get_online_features("recommendation", frame[["user_id", "product_id"]])
        scores = model.predict(answer.to_numpy(["revenue_usd_30d", "units_count_30d"]))
        ```
    """

    def __init__(
        self,
        data: bytes,
        metadata: Iterable[tuple[str, str]] = (),
        entities: Iterable[str] = (),
    ) -> None:
        """
        Args:
            data: A serialized `GetOnlineFeaturesResponse`, of a Hotfeast gateway or of Feast's.
            metadata: The trailing metadata that came with it.
            entities: The names that were sent: columns that are no features.

        Raises:
            MalformedAnswer: The bytes are none.
        """
        self._data = data
        self._metadata = tuple(metadata)
        self._answer = Answer(data)
        self._names = self._answer.names
        self._columns: dict[int, AnswerColumn] = {}
        sent = set(entities)
        self._keys = next(
            (i for i, name in enumerate(self._names) if name not in sent), len(self._names)
        )

    @property
    def proto(self) -> Any:
        """The message, a `GetOnlineFeaturesResponse`; parsed anew each time."""
        return serving_pb2.GetOnlineFeaturesResponse.FromString(self._data)

    @property
    def feature_service(self) -> str | None:
        """Which version has answered, where an alias was asked for; None elsewhere."""
        return self._response_metadata.feature_service or None

    @property
    def warnings(self) -> list[str]:
        """What is deprecated of what was read, and until when it is there."""
        return self._said("hotfeast-warning")

    def _said(self, wanted: str) -> list[str]:
        return [unquote(value) for name, value in self._metadata if name == wanted]

    @property
    def names(self) -> list[str]:
        """Column names: the join keys, then the features."""
        return list(self._names)

    @property
    def feature_names(self) -> list[str]:
        """The names without those of the entities that were sent: what `to_numpy` has."""
        return self._names[self._keys :]

    def __len__(self) -> int:
        """Number of rows."""
        return self._answer.rows

    @property
    def statuses(self) -> dict[str, list[str]]:
        """The statuses, one list per column: PRESENT, NULL_VALUE, NOT_FOUND or OUTSIDE_MAX_AGE, and
        INVALID in a partial answer."""
        return {
            name: [_STATUS_NAMES.get(s, str(s)) for s in self._column(i).statuses]
            for i, name in enumerate(self._names)
        }

    @property
    def event_timestamps(self) -> dict[str, list[datetime | None]]:
        """The event times in UTC, one list per column; None for join keys and missing rows."""
        return {name: event_times(self._column(i)) for i, name in enumerate(self._names)}

    @property
    def row_errors(self) -> list[Any]:
        """What is missing from a partial answer: `RowError` messages with `feature_view`, `rows`,
        `code` and `message`; empty where everything could be read."""
        return list(self._response_metadata.row_errors)

    @property
    def _response_metadata(self) -> Any:
        return serving_pb2.GetOnlineFeaturesResponseMetadata.FromString(self._answer.metadata)

    def rows(self) -> Iterator[FeatureRow]:
        """The answer row by row."""
        values, statuses, times = self.to_dict(), self.statuses, self.event_timestamps
        for i in range(len(self)):
            yield FeatureRow(
                {name: column[i] for name, column in values.items()},
                {name: column[i] for name, column in statuses.items()},
                {name: column[i] for name, column in times.items()},
            )

    def to_dict(self, include_event_timestamps: bool = False) -> dict[str, list[Any]]:
        """The values, one list per column, as Feast's `OnlineResponse.to_dict` has them: None
        where a value is null, missing or too old. (An explicit null, which Feast's Java and Go
        writers leave, is None too; there it is 0.)

        Args:
            include_event_timestamps: Also the event times, in seconds, as `name__ts`; 0 for none.

        Example:
            ```python
            answer.to_dict()  # {"user_id": [1, 2], "spend": [1.5, None], "visits": [3, 4]}
            ```
        """
        return self._by_name(python_values, include_event_timestamps)

    def to_df(self, include_event_timestamps: bool = False) -> Any:
        """A `pandas.DataFrame` as Feast's `OnlineResponse.to_df` makes it: whole numbers become
        floats in a column with nulls. `to_pandas` keeps them.

        Args:
            include_event_timestamps: As for `to_dict`.

        Raises:
            MissingPackage: pandas is not installed.

        Example:
            ```python
            answer.to_df()[["spend", "visits"]].fillna(0)
            ```
        """
        pandas = needed("pandas", "to_df")
        return pandas.DataFrame(self._by_name(feast_column, include_event_timestamps))

    def to_numpy(
        self,
        columns: Sequence[str] | None = None,
        *,
        dtype: npt.DTypeLike = np.float64,
        null: float = float("nan"),
    ) -> npt.NDArray[Any]:
        """A matrix with a row for each row and a column for each feature.

        Booleans are 0 and 1, times are seconds since 1970.

        Args:
            columns: Names, in this order; `feature_names` if None.
            dtype: A floating type, into which numbers are rounded; an integer type or bool, which
                has to hold every value as it is; or object, for what `to_dict` has.
            null: Stands in floating types for what is null, missing or too old.

        Raises:
            KeyError: There is no such column.
            TypeError: A column is not of numbers.
            ValueError: A value does not fit `dtype`, or is null and that has no place for it.

        Example:
            ```python
            model.predict(answer.to_numpy(["spend", "visits"], dtype=np.float32))
            ```
        """
        indexes = self._indexes(self.feature_names if columns is None else columns)
        wanted = np.dtype(dtype)
        shape = (len(self), len(indexes))
        if wanted.kind == "f":
            made = np.empty(shape)
            try:
                self._answer.fill_matrix(made, indexes, null)
            except TypeError:
                raise self._no_numbers(indexes) from None
            with np.errstate(over="ignore"):
                return made.astype(wanted, copy=False)
        if wanted.kind not in "iubO":
            raise TypeError(f"dtype {wanted} is neither of numbers nor object")
        matrix = np.empty(shape, wanted)
        for place, index in enumerate(indexes):
            column = self._column(index)
            if wanted.kind == "O":
                # Element by element: NumPy would look into lists.
                for row, value in enumerate(python_values(column)):
                    matrix[row, place] = value
            else:
                matrix[:, place] = self._exact(column, indexes, wanted)
        return matrix

    def _exact(
        self, column: AnswerColumn, indexes: list[int], wanted: np.dtype[Any]
    ) -> npt.NDArray[Any]:
        """A column's numbers in a type that has no place for null, none of them changed."""
        absent = np.flatnonzero(~validity(column))
        if absent.size:
            raise ValueError(
                f"column {column.name!r}, row {absent[0]}: null, for which {wanted} has no place; "
                "take a floating dtype, or object"
            )
        values = numbers(column)
        if values is None:
            if column.rows == 0:
                return np.empty(0, wanted)
            raise self._no_numbers(indexes)
        with np.errstate(invalid="ignore"):
            cast = values.astype(wanted)
        changed = np.flatnonzero((cast != values) | ((cast < 0) != (values < 0)))
        if changed.size:
            raise ValueError(
                f"column {column.name!r}, row {changed[0]}: {values[changed[0]]} is no {wanted}"
            )
        return cast

    def _no_numbers(self, indexes: list[int]) -> TypeError:
        others = [self._column(i) for i in indexes]
        named = [
            f"{c.name!r} ({type_name(c)})" for c in others if c.layout not in ("scalar", "none")
        ]
        return TypeError(
            f"not of numbers: {', '.join(named)}; name the columns to take with columns=, or take "
            "to_pandas() or to_arrow()"
        )

    def to_torch(
        self, columns: Sequence[str] | None = None, *, dtype: Any = None, null: float = float("nan")
    ) -> Any:
        """A `torch.Tensor` with a row for each row and a column for each feature.

        Args:
            columns: As for `to_numpy`.
            dtype: A type of torch's; `torch.float32` if None.
            null: As for `to_numpy`.

        Raises:
            MissingPackage: torch is not installed.
            KeyError, TypeError, ValueError: As for `to_numpy`.

        Example:
            ```python
            network(answer.to_torch(["spend", "visits"], null=0.0))
            ```
        """
        torch = needed("torch", "to_torch")
        wanted = torch.float32 if dtype is None else dtype
        # NumPy lacks some of torch's floating types, and knows the others by the same names.
        name = str(wanted).removeprefix("torch.")
        held = "float64" if wanted.is_floating_point and wanted != torch.float32 else name
        made = self.to_numpy(columns, dtype=held, null=null)
        return torch.from_numpy(made).to(wanted)

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` in which every column keeps its type: nullable ones for whole
        numbers and booleans with nulls, NaN in those of fractions, UTC for times.

        Raises:
            MissingPackage: pandas is not installed.

        Example:
            ```python
            answer.to_pandas().dtypes  # visits: Int64, spend: float64, since: datetime64[s, UTC]
            ```
        """
        pandas = needed("pandas", "to_pandas")
        made = {i: pandas_column(self._column(i)) for i in range(len(self._names))}
        frame = pandas.DataFrame(made)
        frame.columns = self._names
        return frame

    def to_arrow(self, columns: Sequence[str] | None = None) -> Any:
        """A `pyarrow.Table`; numbers, texts and lists of them are not copied.

        Times are in seconds UTC, sets are lists, maps are maps; JSON, UUIDs and decimals are texts.
        A column without any value is of Arrow's null type.

        Args:
            columns: Names, in this order; all if None.

        Raises:
            MissingPackage: pyarrow is not installed.
            KeyError: There is no such column.
            TypeError: A column's values are of several types.

        Example:
            ```python
            pyarrow.parquet.write_table(answer.to_arrow(), "served.parquet")
            ```
        """
        arrow = needed("pyarrow", "to_arrow")
        indexes = self._indexes(self._names if columns is None else columns)
        arrays = [arrow_column(self._column(i)) for i in indexes]
        return arrow.Table.from_arrays(arrays, names=[self._names[i] for i in indexes])

    def to_polars(self, columns: Sequence[str] | None = None) -> Any:
        """A `polars.DataFrame`, by way of Arrow; times in milliseconds UTC, which polars has.

        Args:
            columns: As for `to_arrow`.

        Raises:
            MissingPackage: polars or pyarrow is not installed.
            KeyError, TypeError: As for `to_arrow`.

        Example:
            ```python
            answer.to_polars().drop_nulls("spend")
            ```
        """
        polars = needed("polars", "to_polars")
        needed("pyarrow", "to_polars")
        return polars.from_arrow(self.to_arrow(columns))

    def _column(self, index: int) -> AnswerColumn:
        if index not in self._columns:
            usual = usual_column(self._answer, index)
            self._columns[index] = self._answer.column(index) if usual is None else usual
        return self._columns[index]

    def _indexes(self, names: Sequence[str]) -> list[int]:
        if isinstance(names, str):
            raise TypeError(f"columns={names!r}: give a list of names")
        positions = {name: i for i, name in enumerate(self._names)}
        for name in names:
            if name not in positions:
                raise KeyError(f"no column {name!r}; there are {', '.join(self._names)}")
        return [positions[name] for name in names]

    def _by_name(self, decoded: Callable[[AnswerColumn], Any], times: bool) -> dict[str, Any]:
        made = {}
        for i, name in enumerate(self._names):
            made[name] = decoded(self._column(i))
            if times:
                moments = event_times(self._column(i))
                made[name + _TIMESTAMP_POSTFIX] = [
                    0 if t is None else int(t.timestamp() // 1) for t in moments
                ]
        return made

    def _shown(self) -> tuple[list[str], list[list[str]]]:
        """Headings and cells of what is shown."""
        columns = range(min(len(self._names), _SHOWN_COLUMNS))
        count = min(len(self), _SHOWN_ROWS)
        cells = []
        for i in columns:
            column = self._column(i)
            pairs = zip(python_values(column)[:count], column.statuses, strict=False)
            cells.append([_cell(value, status) for value, status in pairs])
        return [self._names[i] for i in columns], [list(row) for row in zip(*cells, strict=True)]

    def _left_out(self) -> str:
        more = []
        if len(self) > _SHOWN_ROWS:
            more.append(_counted(len(self) - _SHOWN_ROWS, "more row"))
        if len(self._names) > _SHOWN_COLUMNS:
            more.append(_counted(len(self._names) - _SHOWN_COLUMNS, "more column"))
        return " and ".join(more)

    def _title(self) -> str:
        features = len(self._names) - self._keys
        return f"OnlineFeatures: {_counted(len(self), 'row')}, {_counted(features, 'feature')}"

    def __repr__(self) -> str:
        names, rows = self._shown()
        widths = [max(map(len, cells)) for cells in zip(names, *rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in ([names, *rows] if names else [])
        ]
        more = [f"... {self._left_out()}"] if self._left_out() else []
        return "\n".join([self._title(), *lines, *more])

    def _repr_html_(self) -> str:
        """The same as a table, for notebooks."""
        names, rows = self._shown()
        head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        more = f"<p>{self._left_out()}</p>" if self._left_out() else ""
        return (
            f"<p>{self._title()}</p><table><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table>{more}"
        )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _cell(value: Any, status: int) -> str:
    """A value on one line, or why there is none."""
    if value is None:
        return f"({_STATUS_NAMES.get(status, str(status))})"
    text = f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())
    return text if len(text) <= _SHOWN_WIDTH else text[: _SHOWN_WIDTH - 1] + "…"
