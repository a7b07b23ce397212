"""What a repository expects of its fields, declared as tags.

| tag | of | means |
|---|---|---|
| `min`, `max` | numbers, times | bounds, both included; a time is ISO 8601 or seconds since 1970 |
| `not_null` | any | `true`: there is a value |
| `allowed` | texts, whole numbers, booleans | a JSON list, or values between commas |
| `max_length` | texts, bytes, lists, sets | characters, bytes, elements |
| `regex` | texts | a regular expression that the whole text matches |

Vectors of a declared length are held to it, as Feast does.
"""

import ctypes
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hotfeast.hotpath import rules
from hotfeast.hotpath.columns import ValueColumn
from hotfeast.server.registry import FieldDefinition
from hotfeast.serving.v1 import value_pb2

RULE_TAGS = ("min", "max", "not_null", "allowed", "max_length", "regex")
"""Names of the tags that are read."""

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
# ValueType.Enum
_WHOLE = {3, 4}
_TIME = 8
_FLOAT = 6
_REAL = {5, _FLOAT}
_BOOL = 7
_TEXTS = {2, 32, 36, 37, 44}
_BYTES = {1, 30, 31}
_LISTS = {*range(11, 19), *range(22, 30), 21, 33, 35, 38, 39, 40, 41, 42, 43, 45, 46}


class BadRule(ValueError):
    """A tag that declares a rule cannot be understood; the message names field, tag and fix."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One expectation of one field.

    Attributes:
        name: The tag.
        text: What is expected, for messages.
        failing: Rows of a column that break it.
    """

    name: str
    text: str
    failing: Callable[[ValueColumn], list[int]]


def rules_of(field: FieldDefinition) -> tuple[Rule, ...]:
    """The rules that a field's tags declare, in the order of `RULE_TAGS`.

    Raises:
        BadRule: A tag's value cannot be understood, or does not go with the field's type.
    """
    made = []
    for tag in RULE_TAGS:
        if tag not in field.tags:
            continue
        try:
            rule = _MAKERS[tag](field, field.tags[tag].strip())
        except (ValueError, OverflowError, re.error) as error:
            raise BadRule(
                f"field {field.name!r}: tag {tag}={field.tags[tag]!r} {error}; mend the tag and "
                "apply the repository again"
            ) from error
        if rule is not None:
            made.append(rule)
    if field.vector_length:
        length = field.vector_length
        made.append(
            Rule(
                "vector_length",
                f"vectors have {length} elements",
                lambda column: rules.not_of_length(column, length, length),
            )
        )
    return tuple(made)


def _bound(field: FieldDefinition, text: str, low: bool) -> Rule:
    name = "min" if low else "max"
    words = f"{'at least' if low else 'at most'} {text}"
    if field.value_type in _WHOLE or field.value_type == _TIME:
        number = _time(text) if field.value_type == _TIME else _number(text)
        # A fraction as a bound of whole numbers is the whole number next to it.
        whole = math.ceil(number) if low else math.floor(number)
        first, last = (whole, _INT64_MAX) if low else (_INT64_MIN, whole)
        first, last = max(first, _INT64_MIN), min(last, _INT64_MAX)
        if first > last:
            # The bound lies beyond all integers, and nothing is within.
            first, last = _INT64_MAX, _INT64_MIN
        return Rule(name, words, lambda c: rules.outside_integers(c, first, last))
    if field.value_type in _REAL:
        real = float(_number(text))
        if field.value_type == _FLOAT:
            # As the values are: else 0.1 would be above a max of 0.1.
            real = ctypes.c_float(real).value
        least, most = (real, math.inf) if low else (-math.inf, real)
        return Rule(name, words, lambda c: rules.outside_reals(c, least, most))
    raise ValueError("goes with numbers and times only")


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("must be a number")
    return number


def _time(text: str) -> int | float:
    try:
        return _number(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("must be an ISO 8601 time or seconds since 1970") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _not_null(_: FieldDefinition, text: str) -> Rule | None:
    if text.lower() == "false":
        return None
    if text.lower() != "true":
        raise ValueError("must be 'true' or 'false'")
    return Rule("not_null", "a value", rules.not_null)


def _allowed(field: FieldDefinition, text: str) -> Rule:
    listed = json.loads(text) if text.startswith("[") else [v.strip() for v in text.split(",")]
    if not listed or listed == [""]:
        raise ValueError("must list at least one value")
    values = frozenset(_serialized(field.value_type, value) for value in listed)
    words = "one of " + ", ".join(map(str, listed))
    return Rule("allowed", words, lambda c: rules.not_among(c, values))


def _serialized(value_type: int, value: Any) -> bytes:
    if value_type in _TEXTS:
        if not isinstance(value, str):
            raise ValueError("must list texts")
        made = value_pb2.Value()
        setattr(made, made.DESCRIPTOR.fields_by_number[value_type].name, value)
        return made.SerializeToString()
    if value_type in _WHOLE:
        try:
            number = int(str(value))
        except ValueError:
            raise ValueError("must list whole numbers") from None
        if value_type == 3:
            return value_pb2.Value(int32_val=number).SerializeToString()
        return value_pb2.Value(int64_val=number).SerializeToString()
    if value_type == _BOOL:
        words = {"true": True, "false": False}
        if str(value).lower() not in words:
            raise ValueError("must list 'true' or 'false'")
        return value_pb2.Value(bool_val=words[str(value).lower()]).SerializeToString()
    raise ValueError("goes with texts, whole numbers and booleans only")


def _max_length(field: FieldDefinition, text: str) -> Rule:
    if not text.isdigit():
        raise ValueError("must be a whole number, 0 or more")
    if field.value_type not in _TEXTS | _BYTES | _LISTS:
        raise ValueError("goes with texts, bytes, lists and sets only")
    most = int(text)
    return Rule("max_length", f"at most {most} long", lambda c: rules.not_of_length(c, 0, most))


def _regex(field: FieldDefinition, text: str) -> Rule:
    if field.value_type not in _TEXTS:
        raise ValueError("goes with texts only")
    matches = re.compile(text).fullmatch
    return Rule("regex", f"to match {text!r}", lambda c: rules.not_matching(c, matches))


_MAKERS: dict[str, Callable[[FieldDefinition, str], Rule | None]] = {
    "min": lambda field, text: _bound(field, text, low=True),
    "max": lambda field, text: _bound(field, text, low=False),
    "not_null": _not_null,
    "allowed": _allowed,
    "max_length": _max_length,
    "regex": _regex,
}
