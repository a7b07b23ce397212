"""Which of several targets a request goes to: the same entity always to the same one.

Weighted rendezvous hashing. Each target draws a number in (0, 1) from the hashes of the entity and
of its own name, and the least `-ln(number) / weight` wins: each target wins the share of its
weight. What a target draws for an entity never changes, so where one weight grows at the cost of
others, entities move to that target only, and none of its own leaves it. The order of the targets
says nothing.

The hash is SipHash-2-4 with a fixed key: the same in every process and on every machine, and after
every restart. Changing anything here sends entities elsewhere.
"""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.math cimport INFINITY, log
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp

from hotfeast.hotpath.request cimport Column, Request
from hotfeast.hotpath.values cimport BYTES_VAL, INT32_VAL, INT64_VAL, STRING_VAL, UNIX_TIMESTAMP_VAL
from hotfeast.hotpath.wire cimport (
    WIRE_LEN,
    WIRE_VARINT,
    Cursor,
    left,
    mix,
    read_span,
    read_tag,
    read_varint,
    skip_field,
)

# `hotfeast aliases`, as two little-endian numbers.
cdef enum:
    KEY_SIZE = 16

cdef bytes FIXED_KEY = b"hotfeast aliases"
cdef uint64_t KEY_0 = int.from_bytes(FIXED_KEY[:8], "little")
cdef uint64_t KEY_1 = int.from_bytes(FIXED_KEY[8:], "little")

# What a key's value is hashed as: a number is the same in 32 and in 64 bits.
cdef enum ValueKind:
    NO_VALUE = 0
    NUMBER = 1
    TEXT = 2


cdef inline uint64_t rotated(uint64_t x, int bits) noexcept nogil:
    return (x << bits) | (x >> (64 - bits))


cdef inline void sip_round(uint64_t* v) noexcept nogil:
    v[0] += v[1]
    v[2] += v[3]
    v[1] = rotated(v[1], 13) ^ v[0]
    v[3] = rotated(v[3], 16) ^ v[2]
    v[0] = rotated(v[0], 32)
    v[2] += v[1]
    v[0] += v[3]
    v[1] = rotated(v[1], 17) ^ v[2]
    v[3] = rotated(v[3], 21) ^ v[0]
    v[2] = rotated(v[2], 32)


cdef inline uint64_t little(const uint8_t* at, size_t size) noexcept nogil:
    """A number of up to 8 bytes, little-endian on every machine."""
    cdef uint64_t word = 0
    cdef size_t i
    for i in range(size):
        word |= <uint64_t>at[i] << (8 * i)
    return word


cdef uint64_t sip_hash(uint64_t k0, uint64_t k1, const uint8_t* at, size_t size) noexcept nogil:
    """SipHash-2-4, as its authors define it."""
    cdef uint64_t v[4]
    cdef uint64_t word
    cdef size_t whole = size & ~<size_t>7, i
    v[0] = k0 ^ 0x736F6D6570736575u
    v[1] = k1 ^ 0x646F72616E646F6Du
    v[2] = k0 ^ 0x6C7967656E657261u
    v[3] = k1 ^ 0x7465646279746573u
    for i in range(0, whole, 8):
        word = little(at + i, 8)
        v[3] ^= word
        sip_round(v)
        sip_round(v)
        v[0] ^= word
    word = little(at + whole, size - whole) | (<uint64_t>size << 56)
    v[3] ^= word
    sip_round(v)
    sip_round(v)
    v[0] ^= word
    v[2] ^= 0xFF
    sip_round(v)
    sip_round(v)
    sip_round(v)
    sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def siphash(bytes key not None, bytes data not None) -> int:
    """SipHash-2-4 of `data`.

    Args:
        key: 16 bytes.
        data: What is hashed.

    Raises:
        ValueError: The key has another length.
    """
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(key)
    if len(key) != KEY_SIZE:
        raise ValueError(f"a key of {KEY_SIZE} bytes is needed, not of {len(key)}")
    return sip_hash(
        little(at, 8), little(at + 8, 8),
        <const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data),
    )


cdef uint64_t hash_value(uint64_t h, const Column* column) noexcept nogil:
    """Goes on from a hash with a column's first value."""
    cdef Cursor c = column.values
    cdef Cursor value, span, text
    cdef uint32_t field = 0, wire = 0, member = 0
    cdef uint64_t varint = 0, number = 0
    cdef uint8_t data[8]
    cdef int i
    text.at = text.end = column.values.at
    if column.rows == 0 or read_tag(&c, &field, &wire) != 0 or read_span(&c, &value) != 0:
        return sip_hash(KEY_0 ^ h, KEY_1 ^ NO_VALUE, NULL, 0)
    while value.at < value.end:
        if read_tag(&value, &field, &wire) != 0:
            break
        if wire == WIRE_VARINT:
            if read_varint(&value, &varint) != 0:
                break
            if field in (INT32_VAL, INT64_VAL, UNIX_TIMESTAMP_VAL):
                member = field
                number = varint
        elif wire == WIRE_LEN:
            if read_span(&value, &span) != 0:
                break
            if field in (STRING_VAL, BYTES_VAL):
                member = field
                text = span
        elif skip_field(&value, field, wire, 0) != 0:
            break
    if member in (STRING_VAL, BYTES_VAL):
        return sip_hash(KEY_0 ^ h, KEY_1 ^ TEXT, text.at, left(&text))
    if member == 0:
        return sip_hash(KEY_0 ^ h, KEY_1 ^ NO_VALUE, NULL, 0)
    if member == INT32_VAL:
        number = <uint64_t><int32_t>number
    for i in range(8):
        data[i] = <uint8_t>(number >> (8 * i))
    return sip_hash(KEY_0 ^ h, KEY_1 ^ NUMBER, data, 8)


cdef class Split:
    """Divides requests over targets.

    Attributes:
        targets: Their names.
        keys: The join keys that requests are told apart by, in the order in which they are hashed.
    """

    def __cinit__(self, str name not None, targets, keys):
        """
        Args:
            name: Of the split: two of different names divide the same entities differently.
            targets: Names and weights; only the weights' proportions count. One weight at least is
                above 0.
            keys: Names that requests are told apart by: for each join key its name, and others that
                its column may come under. Requests are drawn for at random if there are none.

        Raises:
            ValueError: No weight is above 0, or one is below.
        """
        cdef uint32_t i
        self.targets = tuple(target for target, _ in targets)
        ordered = sorted(tuple(each) for each in keys)
        self.keys = tuple(each[0] for each in ordered)
        self.names = [tuple(name.encode() for name in each) for each in ordered]
        self.target_count = len(self.targets)
        self.weights = <double*>calloc(self.target_count + 1, sizeof(double))
        self.salts = <uint64_t*>calloc(self.target_count + 1, sizeof(uint64_t))
        if self.weights == NULL or self.salts == NULL:
            raise MemoryError
        self.salt = self.hashed(name)
        self.seed = int.from_bytes(os.urandom(8), "little")
        with_weight = []
        for i, (target, weight) in enumerate(targets):
            if not weight >= 0:
                raise ValueError(f"the weight of {target!r} is {weight}")
            self.weights[i] = weight
            self.salts[i] = self.hashed(target)
            if weight > 0:
                with_weight.append(i)
        if not with_weight:
            raise ValueError("no target has a weight above 0")
        self.only = with_weight[0] if len(with_weight) == 1 else -1

    def __dealloc__(self):
        free(self.weights)
        free(self.salts)

    @staticmethod
    def hashed(str text not None) -> int:
        """The hash of a name."""
        cdef bytes data = text.encode()
        return sip_hash(
            KEY_0, KEY_1, <const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)
        )

    def choose(self, Request request not None) -> int:
        """The index of the target that a request goes to, by the entity of its first row."""
        cdef uint32_t i
        cdef uint64_t h
        cdef double number, cost, least = INFINITY
        cdef int best = self.only
        if best >= 0:
            return best
        h = self.entity_hash(request)
        for i in range(self.target_count):
            if self.weights[i] == 0:
                continue
            # 53 bits are what a double holds; never 0, of which there is no logarithm.
            number = (<double>(mix(h ^ self.salts[i]) >> 11) + 0.5) * (1.0 / 9007199254740992.0)
            cost = -log(number) / self.weights[i]
            if cost < least:
                least = cost
                best = <int>i
        return best

    cdef uint64_t entity_hash(self, Request request) except? 0:
        cdef uint64_t h = self.salt
        cdef uint32_t i
        cdef Column* column
        cdef Column absent
        cdef bytes name
        if not self.names:
            self.drawn += 1
            return mix(self.seed ^ mix(self.drawn))
        absent.rows = 0
        absent.name.at = absent.name.end = absent.values.at = absent.values.end = NULL
        for names in self.names:
            column = &absent
            for i in range(request.entity_count):
                for name in names:
                    if left(&request.columns[i].name) == <size_t>PyBytes_GET_SIZE(name) and (
                        memcmp(
                            request.columns[i].name.at, PyBytes_AS_STRING(name),
                            PyBytes_GET_SIZE(name),
                        ) == 0
                    ):
                        column = &request.columns[i]
            h = hash_value(h, column)
        return h
