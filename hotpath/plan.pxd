# A read definition as ready-made bytes. Immutable once built, shared by all threads.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from libc.string cimport memcmp, memcpy

from hotfeast.hotpath.tiles cimport TileShape
from hotfeast.hotpath.wire cimport Cursor, left

cdef struct Slot:
    Cursor name
    uint32_t value_type
    bint required

cdef struct Alias:
    Cursor name
    uint32_t slot

cdef enum:
    NO_FIELD = 0xFFFFFFFF

# An entry of the table that finds hash fields by name; `field` is NO_FIELD in an empty one.
cdef struct FieldEntry:
    Cursor name
    uint32_t field

# An order in which packed rows of a view hold its features.
cdef struct Schema:
    uint32_t number
    uint32_t count
    int32_t* feature          # for each value of the row the view's feature that it is, or -1
    Schema* next

cdef struct Recipe:
    Cursor command            # `*N\r\n$5\r\nHMGET\r\n`
    bint read_all             # whether the whole hash is read, with HGETALL
    FieldEntry* entries       # open addressing, entry_mask + 1 places
    uint32_t entry_mask
    uint32_t* same_field      # for each field the next one with the same name, or NO_FIELD
    Cursor key_prefix         # the serialized entity key up to the first value
    Cursor key_end            # the project, and what makes it another key where it is of tiles
    Cursor fields             # the hash fields as RESP bulk strings
    uint32_t ask_count        # how many of them there are
    Cursor full_command       # the same for all fields of all views, packed rows last
    Cursor full_fields
    uint32_t full_count
    uint32_t* slots           # one per join key, in the order of the serialized key
    uint32_t slot_count
    uint32_t field_count      # features and times of all views
    int64_t cache_ns          # how long cells may be answered from a cache; 0 for never

cdef struct View:
    uint32_t recipe
    uint32_t first_field      # index of its first feature among the recipe's; the time is last
    uint32_t ask_field        # index of its first field in the recipe's reply
    uint32_t full_row         # index of its packed row in the reply to the full command
    uint32_t feature_count
    bint packed               # what is asked for: time and packed row, or features and time
    bint packable             # whether there may be packed rows
    Schema* schemas           # those that are known, as a list that only grows
    bint expires
    int64_t ttl_seconds       # how old a row may be, where it expires
    int64_t ttl_nanos
    const TileShape* tiles    # how its tiles are laid out; NULL where its rows are stored
    uint32_t* tile_readings   # for each feature its reading


cdef class Plan:
    cdef list owned           # the bytes objects that the cursors point into
    cdef readonly object definition
    cdef public bint probe_due
    cdef public bint followed
    cdef uint64_t token       # which no other plan of the process has
    cdef bint cacheable       # whether cells of any recipe may be answered from a cache
    cdef bint packed          # whether any view asks for packed rows
    cdef bint packable        # whether there may be packed rows of any view
    cdef readonly bint tiled  # whether any view's features are windows over tiles
    cdef object __weakref__
    cdef Cursor feature_names  # `0A length name` for each feature
    cdef Cursor version_metadata
    cdef Slot* slots
    cdef uint32_t slot_count
    cdef Alias* aliases
    cdef uint32_t alias_count
    cdef Recipe* recipes
    cdef uint32_t recipe_count
    cdef View* views
    cdef uint32_t view_count
    cdef uint32_t feature_count

    cdef Cursor own(self, bytes data)
    cdef int find_slot(self, const Cursor* name) noexcept nogil
    cdef int enter_fields(self, Recipe* recipe, list names) except -1
    cdef int enter_schema(self, View* view, object features, object fields) except -1
    cdef int enter_tiles(self, View* view, object layout, object features) except -1


cdef inline uint32_t hash_field(const uint8_t* at, size_t size) noexcept nogil:
    """Feast's hash fields are 4 bytes of MurmurHash3, random enough; times are `_ts:view`."""
    cdef uint32_t h = 2166136261u
    cdef size_t i
    if size == 4:
        memcpy(&h, at, 4)
    else:
        for i in range(size):
            h = (h ^ at[i]) * 16777619u
    return h ^ (h >> 16)


cdef inline uint32_t find_field(
    const Recipe* recipe, const uint8_t* at, size_t size
) noexcept nogil:
    """The first field of the recipe that goes by this name in the hash, or NO_FIELD."""
    cdef uint32_t place = hash_field(at, size) & recipe.entry_mask
    cdef FieldEntry* entry
    while True:
        entry = &recipe.entries[place]
        if entry.field == NO_FIELD:
            return NO_FIELD
        if left(&entry.name) == size and memcmp(entry.name.at, at, size) == 0:
            return entry.field
        place = (place + 1) & recipe.entry_mask
