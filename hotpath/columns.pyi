from collections.abc import Iterable
from typing import Any, Final, Protocol

FAULT_TEXTS: Final[dict[int, str]]
"""Why a row's value cannot be written, by number."""

class NoEncoder(TypeError):
    """There is no compiled conversion from this Arrow type to this value type."""

class ArrowColumn(Protocol):
    """Anything with the Arrow PyCapsule interface, such as a `pyarrow.Array`."""

    def __arrow_c_array__(self, requested_schema: Any = None) -> tuple[object, object]: ...

class ValueColumn:
    """One column as serialized `Value`s."""

    @property
    def rows(self) -> int:
        """How many there are."""

    @property
    def value_type(self) -> int:
        """What they are, as `ValueType.Enum`."""

    @property
    def source(self) -> Any:
        """What it was made from: the payload of a `RepeatedValue`, or an Arrow array."""

    @property
    def fault_count(self) -> int:
        """Rows whose value cannot be written; see `faults`."""

    @staticmethod
    def from_values(value_type: int, payload: bytes) -> ValueColumn:
        """Makes a column of a serialized `RepeatedValue`; InvalidRequest where it is none.

        `value_type` 0 stands for what the first value is.
        """

    @staticmethod
    def from_arrow(value_type: int, array: ArrowColumn, keep_nan: bool = False) -> ValueColumn:
        """Makes a column of an Arrow array; NoEncoder where no conversion is compiled.

        NaN in a scalar is null unless `keep_nan`. An array that came from outside must have passed
        `validate(full=True)`.
        """

    @staticmethod
    def constant(value_type: int, value: bytes, rows: int) -> ValueColumn:
        """Makes a column with the same serialized `Value` in each row."""

    @staticmethod
    def from_serialized(
        value_type: int, values: list[bytes], faults: Iterable[int], source: Any
    ) -> ValueColumn:
        """Makes a column of serialized `Value`s that somebody else has encoded.

        `faults` are rows that cannot be written; IndexError for one that there is not.
        """

    @property
    def faults(self) -> list[tuple[int, str]]:
        """Rows whose value cannot be written, ascending, each with why."""

    @property
    def values(self) -> list[bytes]:
        """The serialized `Value` of each row; empty where it is null."""

    def value(self, row: int) -> bytes:
        """The serialized `Value` of a row; empty where it is null."""

    def repeated(self) -> bytes:
        """The column as a serialized `RepeatedValue`; rows with a fault are null."""

    @property
    def null_rows(self) -> list[int]:
        """Rows without a value, ascending; those with a fault are among them."""

class TimeColumn:
    """One column of times, to the nanosecond."""

    @property
    def rows(self) -> int:
        """How many there are."""

    @property
    def source(self) -> Any:
        """What it was made from."""

    @staticmethod
    def from_arrow(array: ArrowColumn) -> TimeColumn:
        """Makes a column of an Arrow array of timestamps or dates; NoEncoder for other types."""

    @staticmethod
    def from_values(payload: bytes) -> TimeColumn:
        """Makes a column of a serialized `RepeatedValue` of unix timestamps, in whole seconds.

        Raises InvalidRequest where it is none.
        """

    @staticmethod
    def from_timestamps(times: list[bytes]) -> TimeColumn:
        """Makes a column of serialized `google.protobuf.Timestamp`s."""

    @staticmethod
    def none(rows: int) -> TimeColumn:
        """Makes a column without any time."""

    @property
    def faults(self) -> list[tuple[int, str]]:
        """Rows whose time cannot be written, ascending, each with why; not those without one."""

    @property
    def null_rows(self) -> list[int]:
        """Rows without a time, ascending."""

    def later_than(self, seconds: int) -> list[int]:
        """Rows whose time is after a moment, given in seconds since 1970."""

    @property
    def times(self) -> list[tuple[int, int] | None]:
        """Seconds and nanoseconds since 1970 of each row; None where there is no time."""
