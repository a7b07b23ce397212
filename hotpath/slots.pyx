"""Redis Cluster's slots: CRC16 of a key, or of what stands between its first braces.

Entity keys are bytes, in which braces come up by chance: in the number 123 as well as in a string.
"""

from collections.abc import Iterable, Sequence

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memchr, memcmp

SLOT_COUNT = SLOTS
"""Slots of a cluster."""

cdef enum:
    # The polynomial of CRC-16/XMODEM.
    POLYNOMIAL = 0x1021

cdef uint16_t CRC[256]


cdef void fill_table() noexcept:
    cdef uint32_t byte, value
    cdef int _
    for byte in range(256):
        value = byte << 8
        for _ in range(8):
            value = value << 1 ^ (POLYNOMIAL if value & 0x8000 else 0)
        CRC[byte] = <uint16_t>value

fill_table()


cdef uint32_t slot_of(const uint8_t* key, size_t size) noexcept nogil:
    """The slot of a key."""
    cdef const uint8_t* begin
    cdef const uint8_t* end
    cdef uint32_t crc = 0
    begin = <const uint8_t*>memchr(key, 123, size)  # {
    if begin != NULL:
        begin += 1
        end = <const uint8_t*>memchr(begin, 125, <size_t>(key + size - begin))  # }
        if end != NULL and end > begin:
            key = begin
            size = <size_t>(end - begin)
    end = key + size
    while key < end:
        crc = (crc << 8 & 0xFFFF) ^ CRC[crc >> 8 ^ key[0]]
        key += 1
    return crc & (SLOTS - 1)


cdef inline bint starts(
    const uint8_t* at, size_t size, const char* with_, size_t length
) noexcept nogil:
    return size >= length and memcmp(at, with_, length) == 0


cdef bint puts_off(const uint8_t* at, size_t size) noexcept nogil:
    """Whether an error says that the server has not looked at the key: another one has it, or this
    one may not write or cannot answer at the moment."""
    return (
        starts(at, size, b"MOVED ", 6) or starts(at, size, b"ASK ", 4)
        or starts(at, size, b"TRYAGAIN", 8) or starts(at, size, b"CLUSTERDOWN", 11)
        or starts(at, size, b"READONLY", 8) or starts(at, size, b"LOADING", 7)
        or starts(at, size, b"MASTERDOWN", 10)
    )


def key_slot(bytes key not None) -> int:
    """The slot of a key."""
    return slot_of(<const uint8_t*><const char*>key, <size_t>len(key))


cdef class SlotMap:
    """Which node has which slot. Immutable, shared by all threads.

    Attributes:
        nodes: Addresses of the nodes.
    """

    def __cinit__(self, nodes not None: Sequence[str], ranges not None: Iterable):
        """
        Args:
            nodes: Addresses of the nodes.
            ranges: The slots of each, as triples: the first, the last, and the node's place in
                `nodes`. A slot that is in none of them is served by nobody.

        Raises:
            ValueError: A range is not of this cluster.
        """
        cdef uint32_t slot
        self.nodes = tuple(nodes)
        for slot in range(SLOTS):
            self.node_of[slot] = NO_NODE
        for first, last, node in ranges:
            if not (0 <= first <= last < SLOTS and 0 <= node < len(self.nodes) < NO_NODE):
                raise ValueError(f"slots {first} to {last} of node {node}")
            for slot in range(<uint32_t>first, <uint32_t>last + 1):
                self.node_of[slot] = node

    cdef uint32_t node_of_key(self, const uint8_t* key, size_t size) noexcept nogil:
        """The place of a key's node in `nodes`, or NO_NODE."""
        return self.node_of[slot_of(key, size)]

    def node_of_slot(self, uint32_t slot) -> str | None:
        """The address of the node that serves a slot; None where there is none."""
        if slot >= SLOTS:
            raise IndexError(slot)
        return None if self.node_of[slot] == NO_NODE else self.nodes[self.node_of[slot]]

    def slots_of(self, str node) -> str:
        """The slots of a node, or with None those that nobody serves, for messages: `0-5460, 7`."""
        cdef uint32_t slot = 0, first
        place = NO_NODE if node is None else (
            self.nodes.index(node) if node in self.nodes else NO_NODE + 1
        )
        found = []
        while slot < SLOTS:
            first = slot
            while slot < SLOTS and self.node_of[slot] == place:
                slot += 1
            if slot > first:
                found.append(f"{first}-{slot - 1}" if slot - 1 > first else f"{first}")
            slot += 1
        return ", ".join(found)
