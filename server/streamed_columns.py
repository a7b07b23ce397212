"""The columns of a streamed batch: Arrow to a request's bytes, and an answer's bytes to Arrow.

A batch goes the way of any other request, so that all that is done with requests and answers is
done with batches too; only what the client sends and gets is of another form.
"""

from collections.abc import Sequence

import grpc
import pyarrow as pa
import pyarrow.compute

from hotfeast.hotpath.answer import NO_TIME, Answer, AnswerColumn
from hotfeast.hotpath.answer_arrow import arrow_array, declared_type, without_feast_nulls
from hotfeast.hotpath.batch import TYPE_NAMES
from hotfeast.hotpath.columns import NoEncoder, ValueColumn
from hotfeast.hotpath.declared import declared_column
from hotfeast.server.errors import RequestFailure, invalid
from hotfeast.server.plan import ServedFeature
from hotfeast.server.push_rows import arrow_columns
from hotfeast.server.rows import python_value, unpack
from hotfeast.serving.v1 import serving_pb2, value_pb2

STATUS_SUFFIX = "__status"
TIME_SUFFIX = "__ts"

_TYPES = value_pb2.ValueType.Enum
_STATUSES = pa.array(serving_pb2.FieldStatus.keys(), pa.string())
_STATUS_TYPE = pa.dictionary(pa.int8(), pa.string())
_TIME_TYPE = pa.timestamp("us", "UTC")
# What is stored as another type than it is declared as.
_MEMBERS: dict[int, int] = {30: 1, 31: 1}
# Tags of `GetOnlineFeaturesRequest.entities` and of what an entry of it has.
_ENTITY, _NAME, _VALUES = b"\x1a", b"\x0a", b"\x12"


def request_bytes(request: bytes, arrow_ipc: bytes) -> bytes:
    """A request with its entity columns.

    Args:
        request: A serialized `GetOnlineFeaturesRequest` without any.
        arrow_ipc: The columns, as an Arrow IPC stream.

    Raises:
        RequestFailure: They are none, or a column cannot be sent; it is named.
    """
    parts = [request]
    for name, column in arrow_columns(arrow_ipc).items():
        values = _values(name, column)
        encoded = name.encode()
        entry = (
            _NAME, varint(len(encoded)), encoded, _VALUES, varint(len(values)), values
        )  # fmt: skip
        parts += (_ENTITY, varint(sum(map(len, entry))), *entry)
    return b"".join(parts)


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    made = bytearray()
    while number >= 0x80:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


def _values(name: str, column: pa.ChunkedArray) -> bytes:
    """A column as a serialized `RepeatedValue`."""
    try:
        array = unpack(column)
        made = ValueColumn.from_arrow(_value_type(array.type), array, keep_nan=True)
    except (NoEncoder, pa.ArrowException):
        raise invalid(
            f"column {name!r} of Arrow type {column.type} cannot be sent: join keys and request "
            "data are whole numbers, floats, texts, bytes, booleans, timestamps, dates or lists of "
            "these"
        ) from None
    if made.fault_count:
        row, why = made.faults[0]
        raise invalid(f"column {name!r}, row {row}: {why}")
    return made.repeated()


def _value_type(kind: pa.DataType) -> int:
    """What the values of an Arrow type are sent as; 0 for what the hot path makes of it."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        element = _value_type(kind.value_type) or _integer_type(kind.value_type)
        # Types of lists follow those of scalars, in the same order.
        return element + 10 if element else 0
    if pa.types.is_float32(kind):
        return _TYPES.FLOAT
    if pa.types.is_float64(kind):
        return _TYPES.DOUBLE
    if pa.types.is_boolean(kind):
        return _TYPES.BOOL
    return 0


def _integer_type(kind: pa.DataType) -> int:
    """What the elements of a list are sent as, where they are no floats or booleans."""
    if pa.types.is_integer(kind):
        return _TYPES.INT32 if kind == pa.int32() else _TYPES.INT64
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _TYPES.STRING
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _TYPES.BYTES
    return _TYPES.UNIX_TIMESTAMP if pa.types.is_temporal(kind) else 0


def answer_ipc(
    answer: Answer, served: Sequence[ServedFeature], statuses: bool, event_timestamps: bool
) -> pa.Buffer:
    """The features of an answer as an Arrow IPC stream.

    Args:
        answer: The answer.
        served: Its features.
        statuses: Whether their statuses are among the columns.
        event_timestamps: Whether their event times are.

    Raises:
        RequestFailure: A stored value is not of the type that its feature is declared with.
    """
    positions = {name: index for index, name in enumerate(answer.names)}
    beside = statuses or event_timestamps
    names: list[str] = []
    arrays: list[pa.Array] = []
    for feature in served:
        index = positions[feature.output_name]
        member = _MEMBERS.get(feature.value_type, feature.value_type)
        column = declared_column(answer, index, member, beside) or answer.column(index)
        names.append(feature.output_name)
        arrays.append(_declared(column, feature))
        if statuses:
            names.append(feature.output_name + STATUS_SUFFIX)
            codes = pa.Array.from_buffers(
                pa.int8(), column.rows, [None, pa.py_buffer(column.statuses)], 0
            )
            arrays.append(pa.DictionaryArray.from_arrays(codes, _STATUSES, safe=False))
        if event_timestamps:
            names.append(feature.output_name + TIME_SUFFIX)
            arrays.append(_times(column))
    batch = pa.RecordBatch.from_arrays(arrays, names)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _times(column: AnswerColumn) -> pa.Array:
    times = pa.Array.from_buffers(
        pa.int64(), column.rows, [None, pa.py_buffer(column.event_timestamps)], 0
    )
    there = pa.compute.not_equal(times, NO_TIME)
    return pa.compute.if_else(there, times, None).cast(_TIME_TYPE)


def _declared(column: AnswerColumn, feature: ServedFeature) -> pa.Array:
    """A column in the type that its feature is declared with."""
    kind = declared_type(feature.value_type)
    if column.layout == "none":
        return pa.nulls(column.rows, kind or pa.binary())
    array = without_feast_nulls(arrow_array(column))
    if column.layout == "message":
        if kind is None:
            return array
    elif array.type == kind:
        return array
    try:
        if kind is None:
            raise TypeError(f"of Arrow type {array.type}")
        if column.layout != "message":
            return array.cast(kind)
        # Values of several types.
        values = [
            None if data is None else python_value(value_pb2.Value.FromString(data))
            for data in array.to_pylist()
        ]
        return pa.array(values, kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        declared = TYPE_NAMES.get(feature.value_type, str(feature.value_type))
        raise RequestFailure(
            grpc.StatusCode.DATA_LOSS,
            f"feature {feature.output_name!r} of view {feature.view!r} is declared {declared}, and "
            f"has other values in the store: {error}; write its rows again, or read them with "
            "GetOnlineFeatures",
        ) from None
