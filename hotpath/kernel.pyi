from collections.abc import Iterable, Mapping, Sequence
from enum import IntFlag
from typing import Any

from hotfeast.hotpath.plan import Plan

class Kind(IntFlag):
    """Types of a program's registers."""

    BOOL = 0
    INT32 = 1
    INT64 = 2
    FLOAT32 = 3
    FLOAT64 = 4
    TEXT = 5
    TIME = 6

class Op(IntFlag):
    """What an instruction does."""

    LOAD = 0
    LOAD_MISSING = 1
    LOOP = 2
    CAST = 3
    SELECT = 4
    MISSING = 5
    TEXT_EQUAL = 6
    FIND = 7
    TAKE = 8
    DATE_FIELD = 9
    TEXT_LENGTH = 10
    TEXT_FIND = 11
    TEXT_CASE = 12
    UNLESS = 13
    MULTIPLY_TIME = 14

class DateField(IntFlag):
    """Which part of a time is read."""

    YEAR = 0
    MONTH = 1
    DAY = 2
    HOUR = 3
    MINUTE = 4
    SECOND = 5
    QUARTER = 6
    DAY_OF_WEEK = 7
    DAY_OF_YEAR = 8
    DAYS = 9
    SECONDS = 10

class State(IntFlag):
    """What the nulls of an input column are, where its type in pandas depends on them."""

    FULL = 0
    SOME_NULL = 1

class Kernel:
    """The programs of one transform."""

    def __init__(
        self,
        inputs: Iterable[tuple[str, int]],
        programs: Sequence[Any],
        by_states: Mapping[bytes, int],
    ) -> None:
        """Takes names and Kinds of the inputs, `ProgramDefinition`s, and for the States of the
        inputs, one byte each, the place of the program to begin with."""

    @property
    def inputs(self) -> tuple[tuple[str, int], ...]: ...
    @property
    def last_program(self) -> int:
        """The program that ran last; for proofs, which run in one thread."""

    @property
    def case_count(self) -> int:
        """The number of programs."""

    def run_columns(self, columns: Sequence[Sequence[bytes]], strict: bool) -> bytes | None:
        """Runs over serialized `Value`s: `results` fields of a response, or None where this data is
        left to pandas."""

class Computation:
    """What a plan computes with kernels, and what it sends of what it reads."""

    def __init__(
        self,
        plan: Plan,
        kernels: Sequence[tuple[Kernel, Sequence[tuple[int, int] | str]] | None],
        request_fields: Sequence[tuple[str, int, int]],
        sent: Sequence[bool],
        computed_names: Sequence[str],
    ) -> None:
        """Takes each computed view's kernel and what its inputs are, or None where it has none, and
        name, `ValueType` and Kind of each request field, -1 for a Kind that no kernel reads. Raises
        ValueError where a binding is to nothing that the plan reads."""
