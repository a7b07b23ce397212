"""Values that are served beside those of the offline store, as the same types."""

import math
from typing import Any

import pyarrow as pa

from hotfeast.hotpath.columns import ValueColumn
from hotfeast.server.errors import RequestFailure
from hotfeast.server.registry import FieldDefinition, ViewDefinition
from hotfeast.server.rows import encode_values, python_value
from hotfeast.serving.v1 import value_pb2

PII_TAG = "pii"
"""The tag of a view or a field whose values, if it is `true`, are not told."""

# Longest text of a value in a message.
_LONGEST = 60


class OfflineColumn:
    """One feature of the offline store's answer, as it would be served.

    Attributes:
        feature: Its name.
    """

    def __init__(
        self, view: ViewDefinition, field: FieldDefinition, column: pa.ChunkedArray
    ) -> None:
        """
        Args:
            view: The view.
            field: The feature.
            column: Its values.
        """
        self.feature = field.name
        self._hidden = "true" in (view.tags.get(PII_TAG), field.tags.get(PII_TAG))
        self._column = column
        self._rounded = pa.types.is_floating(column.type)
        self._encoded: ValueColumn | None = None
        self._faults: dict[int, str] = {}
        self._problem = ""
        try:
            self._encoded = encode_values(view.name, field.name, field.value_type, column)
            self._faults = dict(self._encoded.faults)
        except RequestFailure as failure:
            self._problem = failure.message

    def difference(self, row: int, served: value_pb2.Value, tolerance: float) -> str:
        """Why a served value is not that of a row; empty where it is.

        Args:
            row: The row.
            served: The served value.
            tolerance: By how much two fractions may differ, in parts of the greater one.
        """
        if self._encoded is None:
            return self._problem
        if row in self._faults:
            return f"{self._text(self._column[row].as_py())} offline: {self._faults[row]}"
        stored = self._encoded.value(row)
        if stored == served.SerializeToString():
            return ""
        online = python_value(served)
        offline = python_value(value_pb2.Value.FromString(stored))
        # Whole numbers in a column with nulls come from pandas as fractions, rounded above 2^53.
        if self._rounded and isinstance(online, int) and isinstance(offline, int):
            online, offline = float(online), float(offline)
        if same(online, offline, tolerance):
            return ""
        return f"{self._text(online)} online, {self._text(offline)} offline"

    def _text(self, value: Any) -> str:
        if value is None:
            return "null"
        if self._hidden:
            return f"({PII_TAG})"
        text = repr(value)
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def same(one: Any, other: Any, tolerance: float) -> bool:
    """Whether two values are the same, element by element; NaN is the same as NaN."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(
            same(a, b, tolerance) for a, b in zip(one, other, strict=True)
        )
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            same(value, other[key], tolerance) for key, value in one.items()
        )
    if isinstance(one, float) and isinstance(other, float):
        if math.isnan(one) or math.isnan(other):
            return math.isnan(one) and math.isnan(other)
        return one == other or math.isclose(one, other, rel_tol=tolerance)
    return type(one) is type(other) and bool(one == other)
