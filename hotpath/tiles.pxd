# Tiles of events: a view's blob, and what its windows hold at a time. See `tile_layout.py`.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    MOST_LEVELS = 16
    MOST_SKETCHES = 64
    MOST_TEXTS = 64
    # Bytes in front of the ids.
    BLOB_HEAD = 28
    ID_SIZE = 12
    DENSE = 65535
    REGISTERS = 2048
    # Bytes of a serialized Value of a number at most, and of a Timestamp.
    NUMBER_ROOM = 11
    # The same of a text: a tag, 2 bytes of its size, and what `tile_layout` allows.
    TEXT_ROOM = 258
    TIME_ROOM = 22
    # What `put_reading` answers where it cannot say what the window holds.
    NO_MEMORY = -1
    BROKEN_TILES = -2

cdef struct TileLevel:
    int64_t tile
    int64_t span
    uint32_t index_size
    uint32_t record_size

cdef struct TileReading:
    uint32_t function         # index in FUNCTIONS
    uint32_t value_type
    int64_t window
    uint32_t level
    uint32_t offset
    uint32_t count_offset
    uint32_t form
    int32_t sketch            # -1 where it has none
    int32_t text              # -1 where it has none

# How a view's tiles are laid out.
cdef struct TileShape:
    TileLevel* levels
    uint32_t level_count
    uint32_t* sketch_levels
    uint32_t sketch_count
    uint32_t* text_levels
    uint32_t text_count
    TileReading* readings
    uint32_t reading_count
    uint32_t value_room       # bytes of a reading as a serialized Value, at most
    int64_t widest_start_window  # the window that reaches back furthest, and the size of its tiles
    int64_t widest_start_tile

# Where the parts of a blob are.
cdef struct TileRow:
    uint64_t newest
    const uint8_t* records[MOST_LEVELS]
    uint32_t record_counts[MOST_LEVELS]
    const uint8_t* entries[MOST_SKETCHES]
    uint32_t entry_sizes[MOST_SKETCHES]
    const uint8_t* texts[MOST_TEXTS]
    uint32_t text_sizes[MOST_TEXTS]


cdef class Tiles:
    cdef readonly object layout
    cdef TileShape shape


cdef int parse_tiles(
    const TileShape* shape, const uint8_t* at, size_t size, TileRow* out
) noexcept nogil
cdef bint reaches(const TileShape* shape, const TileRow* row, int64_t now) noexcept nogil
cdef int put_reading(
    const TileShape* shape, const TileRow* row, uint32_t reading, int64_t now, uint8_t* to
) noexcept nogil
cdef uint32_t put_newest(const TileRow* row, uint8_t* to) noexcept nogil
cdef uint64_t hash_bytes(const uint8_t* at, size_t size, uint64_t kind) noexcept nogil
