# Which node of a Redis Cluster a key belongs to.

from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:
    SLOTS = 16384
    # A slot that no node serves.
    NO_NODE = 0xFFFF


cdef class SlotMap:
    cdef readonly tuple nodes     # their addresses
    cdef uint16_t node_of[SLOTS]  # places in `nodes`, or NO_NODE

    cdef uint32_t node_of_key(self, const uint8_t* key, size_t size) noexcept nogil


cdef uint32_t slot_of(const uint8_t* key, size_t size) noexcept nogil
cdef bint puts_off(const uint8_t* at, size_t size) noexcept nogil
