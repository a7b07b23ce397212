"""Checks of columns against the same checks in Python."""

import math
import re

import pytest
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import given
from hypothesis import strategies as st

from hotfeast.hotpath import rules
from hotfeast.hotpath.columns import ValueColumn
from tests.hotpath.write_helpers import column

INT64_RANGE = (-(2**63), 2**63 - 1)
WHOLE = st.integers(*INT64_RANGE)


def test_not_null() -> None:
    assert rules.not_null(column(4, [None, Value(int64_val=0), None])) == [0, 2]


@given(st.lists(st.none() | WHOLE), WHOLE, WHOLE)
def test_outside_integers(numbers: list[int | None], low: int, high: int) -> None:
    broken = [i for i, n in enumerate(numbers) if n is not None and not low <= n <= high]
    made = column(4, (None if n is None else Value(int64_val=n) for n in numbers))
    assert rules.outside_integers(made, low, high) == broken
    made = column(8, (None if n is None else Value(unix_timestamp_val=n) for n in numbers))
    assert rules.outside_integers(made, low, high) == broken


def test_outside_integers_of_32_bits() -> None:
    made = column(3, [Value(int32_val=n) for n in (-(2**31), -1, 0, 2**31 - 1)])
    assert rules.outside_integers(made, -1, 0) == [0, 3]


@given(st.lists(st.none() | st.floats(width=32, allow_nan=False)), st.floats(allow_nan=False))
def test_outside_reals(numbers: list[float | None], bound: float) -> None:
    for low, high in ((bound, math.inf), (-math.inf, bound)):
        broken = [i for i, n in enumerate(numbers) if n is not None and not low <= n <= high]
        doubles = column(5, (None if n is None else Value(double_val=n) for n in numbers))
        assert rules.outside_reals(doubles, low, high) == broken
        singles = column(6, (None if n is None else Value(float_val=n) for n in numbers))
        assert rules.outside_reals(singles, low, high) == broken


def test_not_among() -> None:
    made = column(2, [Value(string_val="a"), None, Value(string_val="b"), Value(string_val="")])
    assert rules.not_among(made, frozenset([Value(string_val="a").SerializeToString()])) == [2, 3]


def sized(member: str, size: int) -> Value:
    """A value with as many characters, bytes or elements."""
    value = Value()
    content = getattr(value, member)
    if isinstance(content, str):
        setattr(value, member, "é" * size)
    elif isinstance(content, bytes):
        setattr(value, member, b"\xff" * size)
    else:
        content.SetInParent()
        field = content.DESCRIPTOR.fields_by_name["val"]
        for i in range(size):
            if field.cpp_type == field.CPPTYPE_MESSAGE:
                content.val.add()
            elif field.cpp_type == field.CPPTYPE_STRING:
                content.val.append("x" if field.type == field.TYPE_STRING else b"\xff")
            else:
                # Of one byte, and of more where a number takes more.
                content.val.append(i % 2 if field.type == field.TYPE_BOOL else 200 * i)
    return value


SIZED = [
    field for field in Value.DESCRIPTOR.fields
    if field.type in (field.TYPE_STRING, field.TYPE_BYTES)
    or (field.message_type is not None and "val" in field.message_type.fields_by_name
        and field.name not in ("map_val", "struct_val", "scalar_map_val"))
]  # fmt: skip


@pytest.mark.parametrize("field", SIZED, ids=lambda f: f.name)
def test_not_of_length(field: object) -> None:
    number, name = field.number, field.name  # type: ignore[attr-defined]
    values = [None, *(sized(name, size) for size in range(6))]
    assert rules.not_of_length(column(number, values), 2, 4) == [1, 2, 6]


def test_elements_that_are_not_packed() -> None:
    plain = Value()
    plain.int64_list_val.val.extend([1, 2, 3])
    loose = b"\x72\x06\x08\x01\x08\x02\x08\x03"
    assert Value.FromString(loose) == plain
    made = ValueColumn.from_serialized(14, [plain.SerializeToString(), loose], [], None)
    assert rules.not_of_length(made, 3, 3) == []
    assert rules.not_of_length(made, 0, 2) == [0, 1]


def test_not_matching() -> None:
    made = column(2, [Value(string_val=t) for t in ("abc", "é1", "")] + [None])
    assert rules.not_matching(made, re.compile("[a-z]+").fullmatch) == [1, 2]
    with pytest.raises(ZeroDivisionError):
        rules.not_matching(made, lambda _: 1 / 0)
