"""Read definitions as ready-made bytes, so that a request only copies and indexes."""

import struct

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp

from hotfeast.hotpath.definition import ReadDefinition, schema_number
from hotfeast.hotpath.tile_layout import TILES_FIELD
from hotfeast.hotpath.tiles cimport Tiles
from hotfeast.hotpath.values cimport STRING_VAL
from hotfeast.hotpath.wire cimport Cursor, left

# Feast serves entityless views under this join key, with the empty string as its value.
DUMMY_JOIN_KEY = "__dummy_id"

cdef uint64_t last_token = 0


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _length_delimited(tag: bytes, payload: bytes) -> bytes:
    return tag + _varint(len(payload)) + payload


def bulk_string(data: bytes) -> bytes:
    """A RESP bulk string."""
    return b"$%d\r\n%s\r\n" % (len(data), data)


def hmget(fields: list[bytes]) -> bytes:
    """What stands before the key in an HMGET of `fields`."""
    return b"*%d\r\n$5\r\nHMGET\r\n" % (2 + len(fields))


def key_prefix(join_keys: tuple[str, ...]) -> bytes:
    """The constant start of a serialized entity key, version 3: the sorted join keys.

    Args:
        join_keys: Names in the store, in any order; none stands for an entityless view, whose one
            value is part of the result.

    Source: `feast.infra.key_encoding_utils.serialize_entity_key`.
    """
    names = sorted(join_keys) or [DUMMY_JOIN_KEY]
    out = [struct.pack("<I", len(names))]
    for name in names:
        encoded = name.encode("utf-8")
        out.append(struct.pack("<II", STRING_VAL, len(encoded)) + encoded)
    if not join_keys:
        out.append(struct.pack("<II", STRING_VAL, 0))
    return b"".join(out)


cdef class Plan:
    """A compiled `ReadDefinition`.

    Attributes:
        definition: What it was made from.
        probe_due: For whoever decides on `set_read_all`: whether to look at the stored hashes
            again. Not used here; true at first.
        tiled: Whether any view's features are windows over tiles.
        followed: For whoever follows what is written to Redis: whether writes to all keys of
            `cached_prefixes` are told to the cache. Until then nothing of the plan is cached.
    """

    def __cinit__(self, definition not None: ReadDefinition):
        cdef uint32_t i, j
        cdef Recipe* recipe
        cdef View* view
        global last_token
        last_token += 1
        self.token = last_token
        self.definition = definition
        self.probe_due = True
        self.owned = []

        aliases = [(a, i) for i, k in enumerate(definition.join_keys) for a in k.aliases]
        self.slot_count = len(definition.join_keys)
        self.alias_count = len(aliases)
        self.recipe_count = len(definition.recipes)
        self.view_count = len(definition.views)
        # One more than needed, since calloc may answer a size of 0 with NULL.
        self.slots = <Slot*>calloc(self.slot_count + 1, sizeof(Slot))
        self.aliases = <Alias*>calloc(self.alias_count + 1, sizeof(Alias))
        self.recipes = <Recipe*>calloc(self.recipe_count + 1, sizeof(Recipe))
        self.views = <View*>calloc(self.view_count + 1, sizeof(View))
        if not (self.slots and self.aliases and self.recipes and self.views):
            raise MemoryError

        for i, join_key in enumerate(definition.join_keys):
            self.slots[i].name = self.own(join_key.name.encode("utf-8"))
            self.slots[i].value_type = join_key.value_type
            self.slots[i].required = join_key.required
        for i, (name, slot) in enumerate(aliases):
            self.aliases[i].name = self.own(name.encode("utf-8"))
            self.aliases[i].slot = slot

        fields = [[] for _ in definition.recipes]
        asked = [[] for _ in definition.recipes]
        for i, view_read in enumerate(definition.views):
            view = &self.views[i]
            view.recipe = view_read.recipe
            view.first_field = len(fields[view_read.recipe])
            view.ask_field = len(asked[view_read.recipe])
            view.feature_count = len(view_read.features)
            view.packable = bool(view_read.row_field)
            view.packed = view_read.packed
            if view.packed and not view.packable:
                raise ValueError(f"view {view_read.name!r} has no field for packed rows")
            self.packable = self.packable or view.packable
            self.packed = self.packed or view.packed
            # Feast's TTLs are of microseconds.
            seconds, micros = divmod(round(view_read.ttl_seconds * 1_000_000), 1_000_000)
            view.expires = view_read.ttl_seconds > 0
            view.ttl_seconds = seconds
            view.ttl_nanos = micros * 1000
            self.feature_count += view.feature_count
            stored = [*(f.hash_field for f in view_read.features), view_read.time_field]
            fields[view_read.recipe] += stored
            if view_read.tiles is not None:
                self.enter_tiles(view, view_read.tiles, view_read.features)
                asked[view_read.recipe].append(TILES_FIELD)
            elif view.packed:
                asked[view_read.recipe] += [view_read.time_field, view_read.row_field]
            else:
                asked[view_read.recipe] += stored
            if view.packable:
                self.enter_schema(view, view_read.features, view_read.schema)
        full = [list(each) for each in fields]
        for i, view_read in enumerate(definition.views):
            self.views[i].full_row = len(full[view_read.recipe])
            if self.views[i].packable:
                full[view_read.recipe].append(view_read.row_field)
        for i, key_recipe in enumerate(definition.recipes):
            recipe = &self.recipes[i]
            parts = sorted(key_recipe.parts)
            recipe.key_prefix = self.own(key_prefix(tuple(name for name, _ in parts)))
            recipe.key_end = self.own(definition.project.encode("utf-8") + key_recipe.suffix)
            recipe.command = self.own(hmget(asked[i]))
            recipe.fields = self.own(b"".join(map(bulk_string, asked[i])))
            recipe.ask_count = len(asked[i])
            recipe.full_command = self.own(hmget(full[i]))
            recipe.full_fields = self.own(b"".join(map(bulk_string, full[i])))
            recipe.full_count = len(full[i])
            recipe.field_count = len(fields[i])
            recipe.slot_count = len(parts)
            recipe.slots = <uint32_t*>calloc(len(parts) + 1, sizeof(uint32_t))
            if recipe.slots == NULL:
                raise MemoryError
            recipe.cache_ns = <int64_t>(1e9 * min(
                (v.cache_seconds for v in definition.views if v.recipe == i), default=0
            ))
            self.cacheable = self.cacheable or recipe.cache_ns > 0
            self.enter_fields(recipe, asked[i])
            for j, (_, slot) in enumerate(parts):
                if not 0 <= slot < self.slot_count:
                    raise ValueError(f"key recipe {i} names column {slot}, which is none")
                if not definition.join_keys[slot].required:
                    raise ValueError(f"key recipe {i} needs column {slot}, which may be left out")
                recipe.slots[j] = slot

        self.feature_names = self.own(
            b"".join(
                _length_delimited(b"\x0a", f.output_name.encode("utf-8"))
                for view_read in definition.views
                for f in view_read.features
            )
        )
        metadata = []
        for name, version in definition.view_versions:
            entry = _length_delimited(b"\x0a", name.encode("utf-8"))
            if version:
                entry += b"\x10" + _varint(version)
            metadata.append(_length_delimited(b"\x12", entry))
        self.version_metadata = self.own(b"".join(metadata))

    def __dealloc__(self):
        cdef uint32_t i
        cdef Schema* schema
        if self.recipes != NULL:
            for i in range(self.recipe_count):
                free(self.recipes[i].slots)
                free(self.recipes[i].entries)
                free(self.recipes[i].same_field)
        if self.views != NULL:
            for i in range(self.view_count):
                free(self.views[i].tile_readings)
                while self.views[i].schemas != NULL:
                    schema = self.views[i].schemas
                    self.views[i].schemas = schema.next
                    free(schema.feature)
                    free(schema)
        free(self.slots)
        free(self.aliases)
        free(self.recipes)
        free(self.views)

    cdef Cursor own(self, bytes data):
        """Keeps `data` alive with the plan, and returns a cursor over it."""
        cdef Cursor c
        self.owned.append(data)
        c.at = <const uint8_t*>PyBytes_AS_STRING(data)
        c.end = c.at + PyBytes_GET_SIZE(data)
        return c

    cdef int enter_fields(self, Recipe* recipe, list names) except -1:
        """Makes the table that finds a recipe's fields by name."""
        cdef uint32_t i, place, seen, size = 4
        cdef Cursor name
        while size < 2 * len(names):
            size *= 2
        recipe.entry_mask = size - 1
        recipe.entries = <FieldEntry*>calloc(size, sizeof(FieldEntry))
        recipe.same_field = <uint32_t*>calloc(len(names) + 1, sizeof(uint32_t))
        if recipe.entries == NULL or recipe.same_field == NULL:
            raise MemoryError
        for place in range(size):
            recipe.entries[place].field = NO_FIELD
        for i, data in enumerate(names):
            recipe.same_field[i] = NO_FIELD
            name = self.own(data)
            seen = find_field(recipe, name.at, left(&name))
            if seen != NO_FIELD:
                while recipe.same_field[seen] != NO_FIELD:
                    seen = recipe.same_field[seen]
                recipe.same_field[seen] = i
                continue
            place = hash_field(name.at, left(&name)) & recipe.entry_mask
            while recipe.entries[place].field != NO_FIELD:
                place = (place + 1) & recipe.entry_mask
            recipe.entries[place].name = name
            recipe.entries[place].field = i
        return 0

    cdef int enter_schema(self, View* view, object features, object fields) except -1:
        """Makes an order of features known to a view."""
        cdef Schema* schema = <Schema*>calloc(1, sizeof(Schema))
        cdef uint32_t i
        if schema == NULL:
            raise MemoryError
        schema.feature = <int32_t*>calloc(len(fields) + 1, sizeof(int32_t))
        if schema.feature == NULL:
            free(schema)
            raise MemoryError
        places = {feature.hash_field: i for i, feature in enumerate(features)}
        schema.number = schema_number(fields)
        schema.count = len(fields)
        for i, field in enumerate(fields):
            schema.feature[i] = places.get(field, -1)
        # Readers walk the list without a lock: what they find in it is complete.
        schema.next = view.schemas
        view.schemas = schema
        return 0

    cdef int enter_tiles(self, View* view, object layout, object features) except -1:
        """Makes a view one of windows over tiles."""
        cdef Tiles tiles = Tiles(layout)
        cdef uint32_t i
        self.owned.append(tiles)
        view.tiles = &tiles.shape
        view.tile_readings = <uint32_t*>calloc(len(features) + 1, sizeof(uint32_t))
        if view.tile_readings == NULL:
            raise MemoryError
        places = {reading.feature.encode("utf-8"): i for i, reading in enumerate(layout.readings)}
        for i, feature in enumerate(features):
            view.tile_readings[i] = places[feature.hash_field]
        # Cells are made of what is read, as those of packed rows are.
        self.packable = self.packed = self.tiled = True
        return 0

    def add_schema(self, uint32_t view, fields: tuple[bytes, ...]) -> None:
        """Makes known in which order some of a view's packed rows hold their features.

        Args:
            view: The view's index in the definition.
            fields: The hash fields of the features.

        Raises:
            IndexError: There is no such view.
        """
        if view >= self.view_count:
            raise IndexError(f"the plan has {self.view_count} views, not {view + 1}")
        self.enter_schema(&self.views[view], self.definition.views[view].features, fields)

    def set_read_all(self, uint32_t recipe, bint read_all) -> None:
        """Says how the hashes of one key recipe are read: with HGETALL, or with HMGET.

        Batches that exist keep the way they were made for. Both ways give the same answers.

        Raises:
            IndexError: There is no such recipe.
        """
        if recipe >= self.recipe_count:
            raise IndexError(f"the plan has {self.recipe_count} key recipes, not {recipe + 1}")
        self.recipes[recipe].read_all = read_all

    @property
    def read_all(self) -> list[bool]:
        """For each key recipe whether the whole hash is read."""
        return [bool(self.recipes[i].read_all) for i in range(self.recipe_count)]

    @property
    def field_counts(self) -> list[int]:
        """For each key recipe how many hash fields it asks for."""
        return [self.recipes[i].ask_count for i in range(self.recipe_count)]

    @property
    def cached_prefixes(self) -> list[bytes]:
        """What the Redis keys begin with whose hashes may be answered from a cache."""
        return [
            key_prefix(tuple(name for name, _ in self.definition.recipes[i].parts))
            for i in range(self.recipe_count)
            if self.recipes[i].cache_ns > 0
        ]

    cdef int find_slot(self, const Cursor* name) noexcept nogil:
        """The index of the join key that goes by `name`, or -1."""
        cdef size_t size = left(name)
        cdef uint32_t i
        for i in range(self.slot_count):
            if left(&self.slots[i].name) == size:
                if memcmp(self.slots[i].name.at, name.at, size) == 0:
                    return <int>i
        for i in range(self.alias_count):
            if left(&self.aliases[i].name) == size:
                if memcmp(self.aliases[i].name.at, name.at, size) == 0:
                    return <int>self.aliases[i].slot
        return -1
