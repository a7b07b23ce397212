"""Python values as a serialized `RepeatedValue`, for what a client sends; no message is made."""

from cpython.bool cimport PyBool_Check
from cpython.bytes cimport (
    PyBytes_AS_STRING,
    PyBytes_CheckExact,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_CheckExact
from cpython.unicode cimport PyUnicode_CheckExact
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from hotfeast.hotpath.wire cimport field_size, put_varint, varint_size

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object value, int* overflow) except? -1
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef enum:
    # Tags of `RepeatedValue.val` and of members of `Value`.
    TAG_VAL = 0x0A
    TAG_BYTES = 0x0A
    TAG_STRING = 0x12
    TAG_INT64 = 0x20
    TAG_DOUBLE = 0x29
    TAG_BOOL = 0x38


cdef struct Sent:
    uint8_t tag           # 0 for null
    uint64_t number       # or a double's bits
    const char* at        # of bytes and texts
    Py_ssize_t size


cdef int look(object value, Sent* out) except -1:
    """Sees what a value is. Returns 1, or 0 for one that is not of the plain types."""
    cdef int overflow = 0
    cdef double real
    out.tag = 0
    if value is None:
        return 1
    if PyBool_Check(value):
        out.tag = TAG_BOOL
        out.number = value is True
    elif PyLong_CheckExact(value):
        out.tag = TAG_INT64
        out.number = <uint64_t>PyLong_AsLongLongAndOverflow(value, &overflow)
        return overflow == 0
    elif PyFloat_CheckExact(value):
        out.tag = TAG_DOUBLE
        real = PyFloat_AS_DOUBLE(value)
        memcpy(&out.number, &real, 8)
    elif PyUnicode_CheckExact(value):
        out.tag = TAG_STRING
        out.at = PyUnicode_AsUTF8AndSize(value, &out.size)
    elif PyBytes_CheckExact(value):
        out.tag = TAG_BYTES
        out.at = PyBytes_AS_STRING(value)
        out.size = PyBytes_GET_SIZE(value)
    else:
        return 0
    return 1


cdef inline size_t size_of(const Sent* value) noexcept nogil:
    """Bytes of a serialized `Value`."""
    if value.tag == 0:
        return 0
    if value.tag == TAG_DOUBLE:
        return 9
    if value.tag == TAG_BYTES or value.tag == TAG_STRING:
        return field_size(<size_t>value.size)
    return 1 + varint_size(value.number)


cdef inline uint8_t* put(uint8_t* at, const Sent* value) noexcept nogil:
    at[0] = TAG_VAL
    at = put_varint(at + 1, size_of(value))
    if value.tag == 0:
        return at
    at[0] = value.tag
    at += 1
    if value.tag == TAG_DOUBLE:
        memcpy(at, &value.number, 8)
        return at + 8
    if value.tag == TAG_BYTES or value.tag == TAG_STRING:
        at = put_varint(at, <uint64_t>value.size)
        memcpy(at, value.at, <size_t>value.size)
        return at + value.size
    return put_varint(at, value.number)


def serialized_values(list values not None):
    """Serializes a column: int as INT64, float as DOUBLE, None as null.

    Args:
        values: int, float, bool, str, bytes and None.

    Returns:
        The bytes of a `RepeatedValue`; None where a value is of another type, or an int of more
        than 64 bits.

    Raises:
        UnicodeEncodeError: A text has lone surrogates.
    """
    cdef Sent sent
    cdef size_t size = 0
    cdef bytes made
    cdef uint8_t* at
    cdef object value
    for value in values:
        if not look(value, &sent):
            return None
        size += field_size(size_of(&sent))
    made = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    at = <uint8_t*>PyBytes_AS_STRING(made)
    for value in values:
        look(value, &sent)
        at = put(at, &sent)
    return made
