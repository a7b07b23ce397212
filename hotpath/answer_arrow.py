"""Columns of an answer as Arrow arrays, without a copy; the only module here that needs pyarrow."""

import sys

import pyarrow as pa
import pyarrow.compute

from hotfeast.hotpath.answer import AnswerColumn

# Seconds of NumPy's NaT.
_FEAST_NULL = -(2**63)
_SCALARS = {
    1: pa.binary(),
    2: pa.string(),
    3: pa.int32(),
    4: pa.int64(),
    5: pa.float64(),
    6: pa.float32(),
    7: pa.bool_(),
    8: pa.timestamp("s", "UTC"),
}
_LISTS = {11: 1, 13: 3, 14: 4, 15: 5, 16: 6, 17: 7, 18: 8}
_LISTS |= {number + 11: element for number, element in _LISTS.items()}
# What is stored in `bytes_val` (PDF_BYTES, IMAGE_BYTES), and what is a text, or a list or set of
# texts, of whatever meaning.
_BINARIES = {30, 31}
_TEXTS = {32, 36, 37, 44}
_TEXT_LISTS = {12, 23, 33, 38, 39, 40, 41, 45, 46}


def arrow_type(value_type: int, layout: str) -> pa.DataType:
    """The Arrow type of a column.

    Args:
        value_type: Number in `ValueType.Enum`.
        layout: The column's.

    Returns:
        Times are in seconds UTC, sets are lists, and JSON, UUIDs and decimals are texts. What has
        no plain type is the binary of a serialized `Value`.
    """
    if layout == "none":
        return pa.null()
    if layout == "message":
        return pa.binary()
    if layout in ("list", "text_list"):
        return pa.list_(_SCALARS[_LISTS.get(value_type, 2)])
    return _SCALARS.get(value_type, pa.string())


def declared_type(value_type: int) -> pa.DataType | None:
    """The Arrow type of a feature's values, by what it is declared as in `ValueType.Enum`; None
    where it has no plain type, and values are serialized `Value`s."""
    if value_type in _SCALARS:
        return _SCALARS[value_type]
    if value_type in _BINARIES:
        return pa.binary()
    if value_type in _TEXTS:
        return pa.string()
    if value_type in _LISTS or value_type in _TEXT_LISTS:
        return pa.list_(_SCALARS[_LISTS.get(value_type, 2)])
    return None


def without_feast_nulls(values: pa.Array) -> pa.Array:
    """Times without the number that Feast stores for a null of a UNIX_TIMESTAMP, which its SDK
    reads as null; all else as it is."""
    if not pa.types.is_timestamp(values.type):
        return values
    numbers = values.view(pa.int64())
    stored = pa.compute.equal(numbers, pa.scalar(_FEAST_NULL, pa.int64()))
    if not pa.compute.any(stored, skip_nulls=True).as_py():
        return values
    return pa.compute.if_else(stored, pa.scalar(None, values.type), values)


def arrow_array(column: AnswerColumn) -> pa.Array:
    """A column's values, null where there is none. Shares the column's memory."""
    kind = arrow_type(column.value_type, column.layout)
    if column.layout == "none":
        return pa.nulls(column.rows)
    validity = None if column.validity is None else pa.py_buffer(column.validity)
    values = pa.py_buffer(column.values)
    if column.layout == "scalar":
        buffers = [validity, values]
        return pa.Array.from_buffers(kind, column.rows, buffers, column.null_count)
    assert column.offsets is not None
    offsets = pa.py_buffer(column.offsets)
    if column.layout in ("text", "message"):
        buffers = [validity, offsets, values]
        return pa.Array.from_buffers(kind, column.rows, buffers, column.null_count)
    count = int.from_bytes(column.offsets[-4:], sys.byteorder)
    inner = [None, values]
    if column.element_offsets is not None:
        inner = [None, pa.py_buffer(column.element_offsets), values]
    elements = pa.Array.from_buffers(kind.value_type, count, inner, 0)
    return pa.Array.from_buffers(
        kind, column.rows, [validity, offsets], column.null_count, children=[elements]
    )
