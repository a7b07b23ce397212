"""Tags of fields as rules: what they mean, and what cannot be understood."""

import re

import pytest
from feast.protos.feast.types.Value_pb2 import Value

from hotfeast.hotpath.columns import ValueColumn
from hotfeast.server.registry import FieldDefinition
from hotfeast.server.rules import BadRule, Rule, rules_of

BYTES, STRING, INT32, INT64, DOUBLE, FLOAT, BOOL, TIME = 1, 2, 3, 4, 5, 6, 7, 8


def rules(value_type: int, **tags: str) -> tuple[Rule, ...]:
    return rules_of(FieldDefinition("f", value_type, tags=tags))


def failing(value_type: int, values: list[Value], **tags: str) -> list[int]:
    (rule,) = rules(value_type, **tags)
    data = [value.SerializeToString() for value in values]
    return rule.failing(ValueColumn.from_serialized(value_type, data, [], None))


INTEGERS = [Value(int64_val=n) for n in (-(2**63), -3, 0, 3, 2**63 - 1)] + [Value()]


@pytest.mark.parametrize(
    ("tags", "broken"),
    [
        ({"min": "0"}, [0, 1]), ({"min": "0.5"}, [0, 1, 2]), ({"min": "-1e300"}, []),
        ({"max": "0"}, [3, 4]), ({"max": " 2.5 "}, [3, 4]), ({"max": "9223372036854775806"}, [4]),
        ({"min": "1e300"}, [0, 1, 2, 3, 4]), ({"not_null": "true"}, [5]),
        ({"allowed": "0, 3"}, [0, 1, 4]), ({"allowed": "[-3, 0]"}, [0, 3, 4]),
    ],
)  # fmt: skip
def test_rules_of_integers(tags: dict[str, str], broken: list[int]) -> None:
    assert failing(INT64, INTEGERS, **tags) == broken


def test_rules_of_reals() -> None:
    singles = [Value(float_val=n) for n in (0.1, 0.2)]
    # The single that 0.1 becomes is above the double 0.1.
    assert failing(FLOAT, singles, max="0.1") == [1]
    assert failing(FLOAT, singles, min="0.2") == [0]
    doubles = [Value(double_val=n) for n in (-1, 0.1, float("inf"))]
    assert failing(DOUBLE, doubles, max="0.1") == [2]
    assert failing(DOUBLE, doubles, min="0") == [0]


@pytest.mark.parametrize(
    "text", ["2024-01-01T00:00:00Z", "2024-01-01", "2024-01-01T01:00:00+01:00", "1704067200"]
)
def test_rules_of_times(text: str) -> None:
    times = [Value(unix_timestamp_val=1704067200 + n) for n in (-1, 0, 1)]
    assert failing(TIME, times, min=text) == [0]
    assert failing(TIME, times, max=text) == [2]


def test_rules_of_texts() -> None:
    texts = [Value(string_val=t) for t in ("a", "éé", "a,b", "")]
    assert failing(STRING, texts, max_length="2") == [2]
    assert failing(STRING, texts, regex="[a-z,]+") == [1, 3]
    assert failing(STRING, texts, allowed='["a,b", "a"]') == [1, 3]
    assert failing(STRING, texts, allowed="a, b") == [1, 2, 3]


def test_rules_of_others() -> None:
    assert failing(BOOL, [Value(bool_val=True), Value(bool_val=False)], allowed="true") == [1]
    assert failing(BYTES, [Value(bytes_val=b"ab"), Value(bytes_val=b"abc")], max_length="2") == [1]
    assert failing(INT32, [Value(int32_val=n) for n in (-1, 5)], allowed="[5]") == [0]
    sets = [Value(), Value()]
    sets[0].int64_set_val.val.extend([1, 2])
    sets[1].int64_set_val.val.extend([1, 2, 3])
    assert failing(25, sets, max_length="2") == [1]


def test_vectors_of_a_length() -> None:
    (rule,) = rules_of(FieldDefinition("f", 16, vector_length=2))
    vectors = [Value(), Value(), Value()]
    vectors[0].float_list_val.val.extend([1, 2])
    vectors[1].float_list_val.val.extend([1, 2, 3])
    data = [vector.SerializeToString() for vector in vectors]
    assert rule.failing(ValueColumn.from_serialized(16, data, [], None)) == [1]
    assert rule.name == "vector_length"


def test_order_and_words() -> None:
    made = rules(INT64, allowed="1,2", min="1", max="5", not_null="TRUE", owner="me")
    assert [rule.name for rule in made] == ["min", "max", "not_null", "allowed"]
    assert [rule.text for rule in made] == ["at least 1", "at most 5", "a value", "one of 1, 2"]
    assert rules(INT64, not_null="false") == ()


@pytest.mark.parametrize(
    ("value_type", "tag", "text", "why"),
    [
        (INT64, "min", "x", "must be a number"), (INT64, "max", "", "must be a number"),
        (DOUBLE, "min", "nan", "must be a number"), (DOUBLE, "max", "1" + "0" * 400, "too large"),
        (STRING, "min", "1", "goes with numbers and times only"),
        (TIME, "min", "soon", "must be an ISO 8601 time or seconds since 1970"),
        (INT64, "not_null", "yes", "must be 'true' or 'false'"),
        (INT64, "allowed", "", "must list at least one value"),
        (INT64, "allowed", "[]", "must list at least one value"),
        (INT64, "allowed", "1,b", "must list whole numbers"),
        (INT64, "allowed", "[1.5]", "must list whole numbers"),
        (INT64, "allowed", "[true]", "must list whole numbers"),
        (INT32, "allowed", "3000000000", "out of range"),
        (INT64, "allowed", "[1", "delimiter"), (STRING, "allowed", "[1]", "must list texts"),
        (BOOL, "allowed", "yes", "must list 'true' or 'false'"),
        (DOUBLE, "allowed", "1.5", "goes with texts, whole numbers and booleans only"),
        (STRING, "max_length", "-1", "must be a whole number, 0 or more"),
        (INT64, "max_length", "1", "goes with texts, bytes, lists and sets only"),
        (INT64, "regex", "a", "goes with texts only"), (STRING, "regex", "(", "unterminated"),
    ],
)  # fmt: skip
def test_tags_that_cannot_be_understood(value_type: int, tag: str, text: str, why: str) -> None:
    with pytest.raises(BadRule, match=re.escape(why)) as error:
        rules(value_type, **{tag: text})
    assert str(error.value).startswith(f"field 'f': tag {tag}={text!r} ")
    assert str(error.value).endswith("; mend the tag and apply the repository again")
