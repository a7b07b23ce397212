from collections.abc import Callable

from hotfeast.hotpath.columns import ValueColumn

def not_null(column: ValueColumn) -> list[int]:
    """Rows without a value."""

def outside_integers(column: ValueColumn, low: int, high: int) -> list[int]:
    """Rows whose number, in a column of whole numbers or times, is not within `low` to `high`."""

def outside_reals(column: ValueColumn, low: float, high: float) -> list[int]:
    """Rows whose number, in a column of FLOAT or DOUBLE, is not within `low` to `high`."""

def not_among(column: ValueColumn, allowed: frozenset[bytes]) -> list[int]:
    """Rows whose serialized `Value` is none of those allowed."""

def not_of_length(column: ValueColumn, low: int, high: int) -> list[int]:
    """Rows whose length is not within `low` to `high`: characters of a text, bytes of bytes,
    elements of a list or set."""

def larger_than(column: ValueColumn, most: int) -> list[int]:
    """Rows whose text or bytes take more than `most` bytes."""

def not_matching(column: ValueColumn, matches: Callable[[str], object]) -> list[int]:
    """Rows whose text `matches`, called with it, says no to."""
