"""Proves a kernel before it is used: its results against those of the original function.

Columns are made of edges of their types, of the constants that the transform itself has, and of
plain numbers, with and without nulls, of one row and of many. Rows that are stored already are
tried, too. Both ways run over them, and what would be sent must be the same to the byte.
"""

import hashlib
import math
import random
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hotfeast.hotpath.kernel import Kernel, Kind, State
from hotfeast.server.expressions import Constant, Graph
from hotfeast.server.feast_api import (
    FieldStatus,
    GetOnlineFeaturesResponse,
    Value,
)
from hotfeast.server.functions import compute, native
from hotfeast.server.registry import FieldDefinition

# Rows of the sets of columns that are tried; the flavors of their values go in turns.
_ROWS = (1, 1, 1, 1, 1, 2, 3, 7, 40, 40, 40, 40)
# With more than this many combinations of nulls each is tried with fewer sets.
_MANY = 8
_ROWS_OF_MANY = (1, 1, 3, 20, 40)
# Stored rows that are also tried each by itself, as a request for one entity has them.
_SINGLE_ROWS = 8

_INTEGERS = (0, 1, -1, 2, 3, 5, 7, 10, 12, 60, 100, 255, 1000, 86400, -7, -100)
_EXTREME_INTEGERS = (
    2**31 - 1, -(2**31), 2**31, 2**32, 2**53, 2**53 + 1, -(2**53) - 1, 2**62, 2**63 - 1, -(2**63),
)  # fmt: skip
_DOUBLES = (0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 0.1, 0.3, 2 / 3, 10.0, 99.99, 100.0, -33.3)
_EXTREME_DOUBLES = (
    math.inf, -math.inf, math.nan, 1e-320, 5e-324, 2.2250738585072014e-308, 1e16, 1e22, -1e22,
    1.7976931348623157e308, -1.7976931348623157e308, 2.0**53, 2.0**63, -(2.0**63), 2.0**31, 1e300,
)  # fmt: skip
_TEXTS = ("", "a", "A", "Ab c", "Zürich", "日本", "x" * 70, " a ", "a.b", "0", "nan", "None")
_TIMES = (
    0, 1, -1, 86399, 86400, -86400, 951782400, 951868799, 1709164800, 1703980800, 1704067199,
    1_750_000_000, 4102444800, -2208988800,
)  # fmt: skip
_EXTREME_TIMES = (-62135596800, 253402300799)


class Differs(Exception):
    """A kernel answers something else than pandas; the message says for what."""


@dataclass(frozen=True)
class Original:
    """A transform as Feast runs it.

    Attributes:
        view: Feast's object, with its projection.
        features: What is taken of its output.
        columns: The columns that it is given, by name, with their numbers in `ValueType.Enum`.
    """

    view: Any
    features: Sequence[FieldDefinition]
    columns: Mapping[str, int]

    def run(self, given: Mapping[str, Sequence[bytes]], rows: int) -> list[Any]:
        """Feature vectors for serialized values; columns that are not given are null.

        Raises:
            Exception: Whatever the function raises, or `WrongOutput`.
        """
        natives: dict[str, list[Any]] = {}
        for name in self.columns:
            values = given.get(name)
            natives[name] = (
                [None] * rows if values is None else [native(Value.FromString(v)) for v in values]
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            output = compute(self.view, self.features, natives, self.columns, rows)
        vectors = []
        for feature in self.features:
            vector = GetOnlineFeaturesResponse.FeatureVector()
            for value in output[feature.name]:
                vector.values.append(value)
                null = value.WhichOneof("val") is None
                vector.statuses.append(FieldStatus.NULL_VALUE if null else FieldStatus.PRESENT)
                vector.event_timestamps.add()
            vectors.append(vector)
        return vectors


@dataclass(frozen=True, slots=True)
class ProvedRows:
    """What a kernel was proved on.

    Attributes:
        generated: Rows of generated columns.
        stored: Rows of its sources that are stored.
        note: Why no row is stored, or none was compared; empty where some were.
    """

    generated: int
    stored: int
    note: str = ""


@dataclass
class Proof:
    """What was compared so far, without a difference.

    Attributes:
        programs: The programs that ran; others are not proved.
        rows: In sum over all sets of columns.
    """

    programs: set[int] = field(default_factory=set)
    rows: int = 0


def prove(
    kernel: Kernel,
    states: Sequence[bytes],
    original: Original,
    graph: Graph,
    pause: Callable[[], None] = lambda: None,
) -> Proof:
    """Runs both over generated columns.

    Args:
        kernel: What is to be proved.
        states: The combinations of the inputs' states that it has programs for.
        original: What it must be equal to.
        graph: What it was made from; its constants are tried as values.
        pause: Is called after each comparison.

    Raises:
        Differs: On the first difference.
    """
    chance = _chance(graph)
    constants = list(_constants(graph))
    plan = _ROWS if len(states) <= _MANY else _ROWS_OF_MANY
    proof = Proof()
    for combination in states:
        for number, rows in enumerate(plan):
            columns = [
                sample_column(chance, kind, State(state), rows, number, constants)
                for (_, kind), state in zip(kernel.inputs, combination, strict=True)
            ]
            if compare(kernel, original, columns, rows):
                proof.programs.add(kernel.last_program)
                proof.rows += rows
            pause()
    return proof


def prove_on_stored(
    kernel: Kernel,
    original: Original,
    graph: Graph,
    stored: Sequence[Sequence[bytes] | None],
    rows: int,
    pause: Callable[[], None] = lambda: None,
) -> Proof:
    """Runs both over stored rows: all of them at once, or in parts where the kernel leaves that to
    pandas, and some one by one.

    Args:
        kernel: What is to be proved.
        original: What it must be equal to.
        graph: What it was made from.
        stored: For each input its stored values; None for one that is not stored, whose values are
            generated.
        rows: How many there are of each.
        pause: Is called after each comparison.

    Raises:
        Differs: On the first difference.
    """
    chance = _chance(graph)
    constants = list(_constants(graph))
    columns = [
        sample_column(chance, kind, State.FULL, rows, 0, constants) if column is None else column
        for (_, kind), column in zip(kernel.inputs, stored, strict=True)
    ]
    proof = Proof()

    def run(first: int, end: int) -> int:
        part = [column[first:end] for column in columns]
        compared = compare(kernel, original, part, end - first)
        pause()
        if compared:
            proof.programs.add(kernel.last_program)
            return end - first
        if end - first == 1:
            return 0
        middle = (first + end) // 2
        return run(first, middle) + run(middle, end)

    proof.rows = run(0, rows)
    for row in range(min(rows, _SINGLE_ROWS)):
        run(row, row + 1)
    return proof


def _chance(graph: Graph) -> random.Random:
    return random.Random(hashlib.sha256(repr(graph).encode()).digest())


def compare(
    kernel: Kernel, original: Original, columns: Sequence[Sequence[bytes]], rows: int
) -> bool:
    """Runs both over the same columns of serialized values.

    Returns:
        Whether the kernel answered; if it leaves the data to pandas there is nothing to compare.

    Raises:
        Differs: The answers are not the same.
    """
    answer = kernel.run_columns(columns, True)
    if answer is None:
        return False
    given = {name: column for (name, _), column in zip(kernel.inputs, columns, strict=True)}
    try:
        expected = original.run(given, rows)
    except Exception as error:
        raise Differs(
            f"pandas raises {type(error).__name__} ({_line(error)}) where the kernel answers; "
            f"{_example(given, 0)}"
        ) from error
    if GetOnlineFeaturesResponse(results=expected).SerializeToString() != answer:
        raise Differs(_first_difference(answer, expected, original, given))
    return True


def _line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0]


def _first_difference(
    answer: bytes, expected: Sequence[Any], original: Original, given: Mapping[str, Sequence[bytes]]
) -> str:
    results = GetOnlineFeaturesResponse.FromString(answer).results
    for feature, ours, theirs in zip(original.features, results, expected, strict=True):
        for row, (a, b) in enumerate(zip(ours.values, theirs.values, strict=True)):
            if a.SerializeToString() != b.SerializeToString():
                return (
                    f"{feature.name} is {_word(a)} and not {_word(b)} in a set of "
                    f"{len(theirs.values)} rows; {_example(given, row)}"
                )
    return "the answer has another form"


def _word(value: Any) -> str:
    return " ".join(str(value).split()) or "null"


def _example(given: Mapping[str, Sequence[bytes]], row: int) -> str:
    parts = [
        f"{name} = {_word(Value.FromString(column[row]))}"
        for name, column in given.items()
        if len(column) > row
    ]
    return ", ".join(parts) or "it has no inputs"


def _constants(graph: Graph) -> Iterator[Any]:
    def walk(value: Any) -> Iterator[Any]:
        if isinstance(value, tuple):
            for part in value:
                yield from walk(part)
        elif value is not None:
            yield value

    for node in graph.nodes:
        if node.op == "input":
            continue
        for argument in node.args:
            if isinstance(argument, Constant):
                yield from walk(argument.value)
        yield from walk(node.params)


def sample_column(
    chance: random.Random, kind: int, state: State, rows: int, number: int, constants: Sequence[Any]
) -> list[bytes]:
    """Serialized values. Extremes come in every other set only: they often end in an overflow,
    which is left to pandas, so that nothing would be compared."""
    values = [_value(chance, kind, number, constants) for _ in range(rows)]
    if kind in (Kind.INT64, Kind.BOOL):
        if state is State.SOME_NULL:
            nulls = {chance.randrange(rows)} if number % 3 else set(range(rows))
            nulls |= {row for row in range(rows) if chance.random() < 0.2}
            values = [b"" if row in nulls else v for row, v in enumerate(values)]
    elif number % 3 == 1:
        values = [b"" if chance.random() < 0.3 else v for v in values]
    elif number % 12 == 6:
        values = [b""] * rows
    return values


def _value(chance: random.Random, kind: int, number: int, constants: Sequence[Any]) -> bytes:
    extreme = number % 4 == 3 and chance.random() < 0.3
    if kind == Kind.BOOL:
        return _serialized(bool_val=chance.random() < 0.5)
    if kind == Kind.TIME:
        chosen = chance.choice(_EXTREME_TIMES if extreme else _TIMES)
        if chance.random() < 0.5:
            chosen = chance.randrange(0, 2_000_000_000)
        return _serialized(unix_timestamp_val=chosen)
    own = [c for c in constants if isinstance(c, str) == (kind == Kind.TEXT)]
    # Sets of one flavor are all of the transform's own constants: nothing is missing from a map.
    if own and (number % 6 == 4 or chance.random() < 0.3):
        constant = chance.choice(own)
        if kind == Kind.TEXT:
            if number % 6 == 4 or chance.random() < 0.7:
                return _serialized(string_val=constant)
            around = ("", "x", " ", "é")
            text = chance.choice((constant, constant.upper(), constant.lower(), constant[1:]))
            return _serialized(string_val=chance.choice(around) + text + chance.choice(around))
        near = constant + chance.choice((0, 0, 0, 1, -1, 0.5))
        if kind == Kind.FLOAT64:
            return _serialized(double_val=float(near))
        if math.isfinite(near) and abs(near) < 2**62:
            return _serialized(int64_val=int(near))
    if kind == Kind.TEXT:
        return _serialized(string_val=chance.choice(_TEXTS))
    if kind == Kind.INT64:
        if extreme:
            return _serialized(int64_val=chance.choice(_EXTREME_INTEGERS))
        if number % 2:
            return _serialized(int64_val=chance.choice(_INTEGERS))
        return _serialized(int64_val=chance.randrange(1, 10 ** chance.randrange(1, 6)))
    if extreme:
        return _serialized(double_val=chance.choice(_EXTREME_DOUBLES))
    if number % 2:
        return _serialized(double_val=chance.choice(_DOUBLES))
    if chance.random() < 0.1:
        # Any bits at all: what a sum of decimals looks like, or a very large number.
        bits = chance.getrandbits(62) | chance.getrandbits(1) << 63
        return _serialized(double_val=struct.unpack("<d", struct.pack("<Q", bits))[0])
    return _serialized(double_val=chance.uniform(0, 10.0 ** chance.randrange(-2, 7)))


def _serialized(**member: Any) -> bytes:
    return bytes(Value(**member).SerializeToString())
