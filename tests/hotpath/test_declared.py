"""Columns decoded in one pass, beside the decoder that takes every form."""

from typing import Any

import pytest
from feast.protos.feast.serving.ServingService_pb2 import (
    GetOnlineFeaturesResponse as FeastResponse,
)
from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import given
from hypothesis import strategies as st

from hotfeast.hotpath.answer import Answer, AnswerColumn
from hotfeast.hotpath.declared import declared_column, usual_column
from hotfeast.hotpath.errors import MalformedAnswer
from tests.hotpath.helpers import RANDOMS, mutant
from tests.hotpath.test_answer import plain_values, responses

QUICK = {
    "bytes_val": 1,
    "string_val": 2,
    "int32_val": 3,
    "int64_val": 4,
    "double_val": 5,
    "float_val": 6,
    "bool_val": 7,
    "unix_timestamp_val": 8,
}


def content(column: AnswerColumn, beside: bool = True) -> tuple[Any, ...]:
    """All of a column."""
    return (
        column.name,
        column.rows,
        column.value_type,
        column.layout,
        column.null_count,
        column.validity,
        column.values,
        column.offsets,
        column.element_offsets,
        column.statuses if beside else b"",
        column.event_timestamps if beside else b"",
    )


@st.composite
def usual(draw: st.DrawFn) -> tuple[bytes, int]:
    """An answer of one column as the hot path writes it, and what it is declared as."""
    member = draw(st.sampled_from(list(QUICK)))
    rows = draw(st.integers(0, 20))
    response: Any = FeastResponse()
    response.metadata.feature_names.val.append("x")
    vector = response.results.add()
    cell = plain_values(member) | st.just(Value())
    vector.values.extend(draw(st.lists(cell, min_size=rows, max_size=rows)))
    vector.statuses.extend(draw(st.lists(st.integers(0, 4), min_size=rows, max_size=rows)))
    for _ in range(rows):
        seconds = draw(st.just(0) | st.integers(-62135596800, 253402300799))
        vector.event_timestamps.add(seconds=seconds, nanos=draw(st.integers(0, 999_999_999)))
    return response.SerializeToString(), QUICK[member]


@given(usual())
def test_columns_in_the_usual_form_are_those_of_the_other_decoder(asked: tuple[bytes, int]) -> None:
    data, member = asked
    answer = Answer(data)
    for beside in (True, False):
        column = declared_column(answer, 0, member, beside)
        assert column is not None
        assert content(column) == content(answer.column(0), beside)
    column = usual_column(answer, 0)
    if column is None:
        # No value says what they are.
        assert answer.column(0).layout == "none"
    else:
        assert content(column) == content(answer.column(0))


def assert_same_or_none(answer: Answer, index: int, member: int) -> None:
    for beside in (True, False):
        column = declared_column(answer, index, member, beside)
        if column is not None:
            assert content(column) == content(answer.column(index), beside)
    column = usual_column(answer, index)
    if column is not None:
        assert content(column) == content(answer.column(index))


@given(responses(), st.integers(0, 60))
def test_columns_of_any_form_are_the_same_or_left_alone(message: Any, member: int) -> None:
    answer = Answer(message.SerializeToString())
    for index in range(len(answer.names)):
        assert_same_or_none(answer, index, member)


@given(usual(), RANDOMS)
def test_hostile_bytes_are_read_as_the_other_decoder_reads_them(
    asked: tuple[bytes, int], random: Any
) -> None:
    data, member = asked
    try:
        answer = Answer(mutant(random, data))
    except MalformedAnswer:
        return
    for index in range(len(answer.names)):
        column = declared_column(answer, index, member, True)
        if column is not None:
            assert content(column) == content(answer.column(index))
        column = usual_column(answer, index)
        if column is not None:
            assert content(column) == content(answer.column(index))
        # Without what stands beside the values, those need not be right.
        declared_column(answer, index, member, False)


def test_what_there_is_not() -> None:
    response: Any = FeastResponse()
    response.metadata.feature_names.val.append("x")
    response.results.add().values.add(int64_val=1)
    data = response.SerializeToString()
    with pytest.raises(IndexError):
        declared_column(Answer(data), 1, 4, False)
    with pytest.raises(IndexError):
        usual_column(Answer(data), 1)
    # Neither several answers nor lists.
    assert declared_column(Answer(data, data), 0, 4, False) is None
    assert declared_column(Answer(data), 0, 14, False) is None
    # No statuses and times, where they are wanted.
    assert declared_column(Answer(data), 0, 4, True) is None
    assert declared_column(Answer(data), 0, 4, False) is not None
