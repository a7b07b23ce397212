"""The functions of on-demand feature views, run as Feast runs them.

A view's function gets its inputs as Feast's online code hands them over: join keys, request data
and the features of its own sources, each feature by its own name and as `view__feature`. What Feast
gets wrong on the way is put right here: it runs a singleton function for the first row only, and a
column that is null throughout has no type, so that arithmetic on it fails for an entity without a
row.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pyarrow as pa

from hotfeast.server.errors import RequestFailure
from hotfeast.server.feast_api import (
    ValueType,
    _convert_uuids_for_arrow,
    feast_value_type_to_python_type,
    python_values_to_proto_values,
)
from hotfeast.server.registry import FieldDefinition

Column = list[Any]
"""Python values, None for null, one for each row."""

# What pyarrow makes of the values of a type, for columns without any.
_ARROW_TYPES = {
    ValueType.BYTES: pa.binary(),
    ValueType.STRING: pa.string(),
    ValueType.INT32: pa.int64(),
    ValueType.INT64: pa.int64(),
    ValueType.DOUBLE: pa.float64(),
    ValueType.FLOAT: pa.float64(),
    ValueType.BOOL: pa.bool_(),
    ValueType.UNIX_TIMESTAMP: pa.timestamp("us", tz="UTC"),
    ValueType.BYTES_LIST: pa.list_(pa.binary()),
    ValueType.STRING_LIST: pa.list_(pa.string()),
    ValueType.INT32_LIST: pa.list_(pa.int64()),
    ValueType.INT64_LIST: pa.list_(pa.int64()),
    ValueType.DOUBLE_LIST: pa.list_(pa.float64()),
    ValueType.FLOAT_LIST: pa.list_(pa.float64()),
    ValueType.BOOL_LIST: pa.list_(pa.bool_()),
    ValueType.UNIX_TIMESTAMP_LIST: pa.list_(pa.timestamp("us", tz="UTC")),
}
_SCALARS = {
    kind
    for kind in ValueType
    if not kind.name.endswith(("_LIST", "_SET"))
    and kind not in (ValueType.UNKNOWN, ValueType.MAP, ValueType.STRUCT)
    and kind.name not in ("JSON", "SCALAR_MAP")
}


class WrongOutput(Exception):
    """A function ran, and what it returned is not what its view declares."""


@contextmanager
def failing_as(view: str) -> Iterator[None]:
    """Tells whatever goes wrong in the function of an on-demand view as a failure of the request.

    Raises:
        RequestFailure: INTERNAL, with the view's name, for anything that is raised inside.
    """
    try:
        yield
    except WrongOutput as error:
        message = f"on-demand feature view {view!r}: {error}"
        raise RequestFailure(grpc.StatusCode.INTERNAL, message) from error
    except Exception as error:
        message = f"on-demand feature view {view!r} failed: {type(error).__name__}: {error}"
        raise RequestFailure(grpc.StatusCode.INTERNAL, message) from error


def native(value: Any, value_type: Any = None) -> Any:
    """A `Value` of Feast's as functions get it; None for null.

    Args:
        value: The message.
        value_type: Its `ValueType`; None where it is not declared.
    """
    if value.WhichOneof("val") == "null_val":
        return None
    return feast_value_type_to_python_type(value, value_type)


def compute(
    view: Any,
    features: Sequence[FieldDefinition],
    inputs: Mapping[str, Column],
    types: Mapping[str, int],
    rows: int,
) -> dict[str, list[Any]]:
    """Runs the function of an on-demand view.

    Args:
        view: Feast's object, with the projection that it is asked for by.
        features: What to take of its output.
        inputs: Columns by name.
        types: Numbers in `ValueType.Enum` of inputs whose type is declared.
        rows: The length of each column.

    Returns:
        For each feature its values, as protobuf messages of Feast.

    Raises:
        WrongOutput: The output has not the columns, lengths or types that the view declares.
        Exception: Whatever the function raises.
    """
    if view.mode == "python":
        output = _run_python(view, dict(inputs), rows)
    else:
        output = _run_on_table(view, _table(inputs, types), rows)
    computed = {}
    for feature in features:
        column = output.get(
            feature.name, output.get(view._get_projected_feature_name(feature.name))
        )
        if column is None:
            has = ", ".join(map(repr, output)) if output else "nothing"
            raise WrongOutput(
                f"feature {feature.name!r} is missing from its output, which has {has}"
            )
        if len(column) != rows:
            raise WrongOutput(
                f"feature {feature.name!r} has {len(column)} values in its output, for {rows} rows"
            )
        computed[feature.name] = _values(feature, column)
    return computed


def _run_python(view: Any, inputs: dict[str, Column], rows: int) -> dict[str, Any]:
    columns, _ = view._preprocess_feature_dict(inputs)
    function = view.feature_transformation.udf
    if not view.singleton:
        output = _checked_dict(function(columns))
        # As Feast does, a feature that the function leaves out may be one of its inputs.
        return {**columns, **{name: _column(value) for name, value in output.items()}}
    collected: dict[str, Column] = {name: [] for name in columns}
    for row in range(rows):
        single = {name: column[row] for name, column in columns.items()}
        # A value of one row, or a column of one row, which a list as a value has to be.
        output = {name: _column(value) for name, value in _checked_dict(function(single)).items()}
        for name, value in {**{n: [v] for n, v in single.items()}, **output}.items():
            if len(value) != 1:
                raise WrongOutput(
                    f"feature {name!r} has {len(value)} values in its output for one row; "
                    "a singleton function returns one value, and a list in a list"
                )
            collected.setdefault(name, []).append(value[0])
    return collected


def _checked_dict(output: Any) -> dict[str, Any]:
    if not isinstance(output, dict):
        raise WrongOutput(f"its function returned {type(output).__name__} and not a dict")
    return output


def _column(value: Any) -> Column:
    if isinstance(value, list):
        return value
    if isinstance(value, pd.Series | np.ndarray) and value.ndim == 1:
        return list(value.tolist())
    return [value]


def _run_on_table(view: Any, table: pa.Table, rows: int) -> dict[str, Any]:
    table, cleanup = view._preprocess_arrow_table(table)
    if view.mode == "pandas":
        frame = view.feature_transformation.udf(table.to_pandas())
        if not isinstance(frame, pd.DataFrame):
            raise WrongOutput(f"its function returned {type(frame).__name__} and not a DataFrame")
        try:
            output = pa.Table.from_pandas(frame)
        except pa.ArrowException as error:
            raise WrongOutput(
                f"its output is no table of columns of one type each: {error}"
            ) from error
    else:
        output = view.feature_transformation.transform_arrow(table, view.features)
    output = view._postprocess_arrow_table(output, cleanup, False)
    return {name: output[name].to_numpy() for name in output.column_names}


def _table(inputs: Mapping[str, Column], types: Mapping[str, int]) -> pa.Table:
    arrays = {}
    for name, column in _convert_uuids_for_arrow(dict(inputs)).items():
        array = pa.array(column)
        if pa.types.is_null(array.type):
            arrow_type = _ARROW_TYPES.get(ValueType(types.get(name, 0)))
            array = array.cast(arrow_type) if arrow_type is not None else array
        arrays[name] = array
    return pa.table(arrays)


def _values(feature: FieldDefinition, column: Any) -> list[Any]:
    kind = ValueType(feature.value_type)
    values = [None if _is_missing(v) else v for v in column]
    if kind in _SCALARS:
        for row, value in enumerate(values):
            if hasattr(value, "__len__") and not isinstance(value, str | bytes):
                raise WrongOutput(
                    f"feature {feature.name!r} is declared as {kind.name}, and row {row} of its "
                    f"output is of type {type(value).__name__}"
                )
    try:
        return list(python_values_to_proto_values(values, kind))
    except Exception as error:
        raise WrongOutput(
            f"feature {feature.name!r} is declared as {kind.name}, which its output cannot be "
            f"stored as: {type(error).__name__}: {error}"
        ) from error


def _is_missing(value: Any) -> bool:
    """Whether it is null, NaN, NaT or pandas' NA: all of them mean that there is no value."""
    if value is None or value is pd.NA or value is pd.NaT:
        return True
    return bool(np.isscalar(value) and pd.isna(value))
