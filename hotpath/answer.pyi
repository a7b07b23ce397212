from typing import Final

import numpy as np
import numpy.typing as npt

from hotfeast.hotpath.columns import TimeColumn, ValueColumn

NO_TIME: Final[int]
"""Stands for an event time that is not there, in microseconds; NumPy's NaT."""

class AnswerColumn:
    """One column, in Arrow's layout."""

    @property
    def name(self) -> str:
        """As the answer has it."""

    @property
    def rows(self) -> int:
        """How many there are."""

    @property
    def value_type(self) -> int:
        """Number in `ValueType.Enum`; 0 where there is no value, and in a `message` whose values
        are of several types or of one that is not known."""

    @property
    def layout(self) -> str:
        """What the buffers are: `none`, `scalar`, `text`, `list`, `text_list` or `message`."""

    @property
    def null_count(self) -> int:
        """Rows without a value."""

    @property
    def validity(self) -> bytes | None:
        """A bit a row, 1 where there is a value; None where every row has one."""

    @property
    def values(self) -> bytes:
        """Numbers, or the bytes of texts one after the other."""

    @property
    def offsets(self) -> bytes | None:
        """`rows` + 1 int32: where each row begins, in bytes or elements."""

    @property
    def element_offsets(self) -> bytes | None:
        """The same for the texts in lists."""

    @property
    def statuses(self) -> bytes:
        """A byte a row, the number in `FieldStatus`."""

    @property
    def event_timestamps(self) -> bytes:
        """An int64 a row, microseconds since 1970, or NO_TIME."""

    @staticmethod
    def of_values(name: str, payloads: list[bytes], step: int = 1) -> AnswerColumn:
        """Makes a column of serialized `RepeatedValue`s, one after the other.

        Of `step` rows one is taken, from the first on. Raises MalformedAnswer where they are none.
        """

    @staticmethod
    def of_cells(name: str, columns: list[ValueColumn], step: int = 1) -> AnswerColumn:
        """Makes a column of `ValueColumn`s, one after the other; rows with a fault are null.

        Of `step` rows one is taken, from the first on.
        """

def times_of(columns: list[TimeColumn], step: int = 1) -> bytes:
    """Times of `TimeColumn`s, one after the other, as `AnswerColumn.event_timestamps` has them."""

class Answer:
    """An answer, or several with the same columns, one below the other."""

    def __init__(self, *payloads: bytes) -> None:
        """Raises MalformedAnswer where one is no serialized `GetOnlineFeaturesResponse`, has not as
        many names as columns, or has other names than the first."""

    @property
    def rows(self) -> int:
        """How many there are."""

    @property
    def head(self) -> bytes:
        """The column names as the answer has them: what answers can be told apart by."""

    @property
    def names(self) -> list[str]:
        """The names of the columns: the join keys, then the features."""

    @property
    def rows_of_each(self) -> list[int]:
        """How many rows each answer has."""

    @property
    def metadata(self) -> bytes:
        """The first answer's metadata, a serialized `GetOnlineFeaturesResponseMetadata`."""

    def fill_matrix(self, out: npt.NDArray[np.float64], indexes: list[int], null: float) -> None:
        """Decodes columns of numbers into a matrix: booleans as 0 and 1, times as seconds since
        1970, integers beyond 2**53 rounded, `null` for what has no value.

        Raises IndexError where there is no such column, MalformedAnswer where one is malformed or
        has another number of rows than the first, TypeError where one is not of numbers, and
        ValueError where the matrix has another shape.
        """

    def column(self, index: int, step: int = 1) -> AnswerColumn:
        """Decodes a column; of `step` rows one is taken, from the first on.

        Raises IndexError where there is none, and MalformedAnswer where it is malformed, has
        another number of rows than the first column, or neither none nor one status (event
        timestamp) for each of its rows.
        """
