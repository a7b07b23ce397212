# HPACK (RFC 7541): header blocks of HTTP/2 to lists of headers, and what a server writes of them.

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from hotfeast.hotpath.wire cimport Cursor

cdef enum:
    # What an entry counts beside its name and value, in a table and in a list (section 4.1).
    ENTRY_OVERHEAD = 32
    # Bytes of the longest integer, of 64 bits behind a prefix of one bit.
    INTEGER_ROOM = 11

cdef struct Header:            # offsets into HeaderList.bytes
    uint32_t name_at
    uint32_t name_size
    uint32_t value_at
    uint32_t value_size

# Zeroed by the caller at first; kept and used again.
cdef struct HeaderList:
    uint8_t* bytes
    size_t size
    size_t capacity
    Header* headers
    uint32_t count
    uint32_t header_capacity

cdef enum HpackOutcome:
    HPACK_DONE = 0
    HPACK_MALFORMED = -1       # the connection is to be closed
    HPACK_TOO_LARGE = -2       # this stream is to be refused, the connection can go on
    HPACK_NO_MEMORY = -3       # the connection is to be closed, the tables are out of step

# An entry of the static or the dynamic table: its value follows its name.
cdef struct Entry:
    uint32_t at
    uint32_t name_size
    uint32_t value_size

cdef void clear_headers(HeaderList* list) noexcept nogil      # empties, keeps memory
cdef void free_headers(HeaderList* list) noexcept nogil


@cython.final
cdef class HeaderDecoder:
    cdef uint32_t table_limit
    cdef uint32_t list_limit
    # The dynamic table: a ring of entries, the oldest first, and their bytes. These are written one
    # entry after the other, and from the front again where one does not fit before the end. With
    # room for twice the largest table, an entry has been evicted before its bytes are overwritten.
    cdef Entry* ring
    cdef uint32_t ring_mask
    cdef uint32_t first
    cdef uint32_t entry_count
    cdef uint8_t* arena
    cdef uint32_t arena_capacity
    cdef uint32_t arena_end
    cdef uint32_t table_used       # as section 4.1 counts it
    cdef uint32_t table_max        # as the peer has set it

    cdef int decode(self, const uint8_t* at, size_t size, HeaderList* out) noexcept nogil
    cdef int decode_fields(self, Cursor* c, HeaderList* out) noexcept nogil
    cdef int resize(self, Cursor* c) noexcept nogil
    cdef const uint8_t* find(self, uint32_t index, Entry* out) noexcept nogil
    cdef void insert(self, const uint8_t* field, size_t name_size, size_t value_size) noexcept nogil
    cdef void evict(self, uint32_t size) noexcept nogil


@cython.final
cdef class RepeatedBlock:
    cdef readonly bytes literal    # enters nothing into the peer's table
    cdef readonly bytes entering   # enters its fields, into a table that is empty
    cdef readonly bytes referring  # refers to them afterwards
    cdef readonly uint32_t room    # bytes that they take in the table


cdef inline uint8_t* put_integer(
    uint8_t* at, uint8_t pattern, int prefix_bits, uint64_t value
) noexcept nogil:
    """Writes an integer (section 5.1). Returns the byte after it, `INTEGER_ROOM` at most from `at`.

    `pattern` is what the first byte has above the prefix of `prefix_bits` (1 to 8).
    """
    cdef uint8_t prefix = <uint8_t>((1 << prefix_bits) - 1)
    if value < prefix:
        at[0] = pattern | <uint8_t>value
        return at + 1
    at[0] = pattern | prefix
    at += 1
    value -= prefix
    while value >= 0x80:
        at[0] = <uint8_t>(value & 0x7F) | 0x80
        at += 1
        value >>= 7
    at[0] = <uint8_t>value
    return at + 1


cdef inline size_t literal_room(size_t name_size, size_t value_size) noexcept nogil:
    """How many bytes `put_literal` writes at most."""
    return 1 + 2 * INTEGER_ROOM + name_size + value_size


cdef inline uint8_t* put_literal(
    uint8_t* at, const uint8_t* name, size_t name_size, const uint8_t* value, size_t value_size
) noexcept nogil:
    """Writes a literal field without indexing, with a new name and no Huffman code (section 6.2.2).

    Returns the byte after it. The caller has made room for `literal_room` bytes; neither `name` nor
    `value` may be NULL, nor may the name have capital letters.
    """
    at[0] = 0
    at = put_integer(at + 1, 0, 7, name_size)
    memcpy(at, name, name_size)
    at = put_integer(at + name_size, 0, 7, value_size)
    memcpy(at, value, value_size)
    return at + value_size
