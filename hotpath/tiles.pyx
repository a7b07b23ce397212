"""Tiles to values: what each window of a view holds at a time, straight from the stored blob.

A window of length w at time t has the events of (floor((t - w) / tile) * tile, t]: it begins with a
whole tile, so that it is up to a tile longer than w, and ends at t. Records are fixed in size and
ordered by time, so that those of a window are one run of bytes.

Sums of fractions are kept with what has been rounded off them, and added up in the same way, so
that the order of events shows in the last bit at most. Whole numbers are added up in 96 bits.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.math cimport isfinite, log, sqrt
from libc.stdint cimport INT64_MAX, INT64_MIN, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from hotfeast.hotpath.values cimport DOUBLE_VAL, FLOAT_VAL, STRING_VAL
from hotfeast.hotpath.wire cimport get_u32, is_utf8, mix, put_varint

from hotfeast.hotpath.tile_layout import TileLayout

cdef extern from *:
    """
    typedef __int128 hotfeast_wide;
    """
    ctypedef long long wide_t "hotfeast_wide"

cdef enum Function:
    COUNT = 0
    SUM = 1
    MEAN = 2
    MIN = 3
    MAX = 4
    LAST = 5
    DISTINCT = 6

cdef enum:
    TILES_FORMAT = 1
    REAL = 2
    # Bytes of a text's entry beside the tile's number and the text: its time and its size.
    TEXT_FRAME = 9
    # Of the hashes in a window the most that are told apart one by one.
    FIRST_SEEN = 1024
    # What a register holds at most: 21 bits without a 1, and one more.
    MOST_RANK = 22


cdef class Tiles:
    """A `TileLayout` that tiles are read by. Immutable, shared by all threads.

    Attributes:
        layout: What it was made from.
    """

    def __cinit__(self, layout not None: TileLayout):
        cdef uint32_t i
        cdef int64_t reach, furthest = -1
        if (
            len(layout.levels) > MOST_LEVELS
            or len(layout.sketches) > MOST_SKETCHES
            or len(layout.texts) > MOST_TEXTS
        ):
            raise ValueError("the layout has too many levels, sketches or texts")
        self.layout = layout
        self.shape.level_count = len(layout.levels)
        self.shape.sketch_count = len(layout.sketches)
        self.shape.text_count = len(layout.texts)
        self.shape.reading_count = len(layout.readings)
        self.shape.value_room = TEXT_ROOM if layout.texts else NUMBER_ROOM
        self.shape.levels = <TileLevel*>calloc(self.shape.level_count + 1, sizeof(TileLevel))
        self.shape.sketch_levels = <uint32_t*>calloc(
            self.shape.sketch_count + 1, sizeof(uint32_t)
        )
        self.shape.text_levels = <uint32_t*>calloc(self.shape.text_count + 1, sizeof(uint32_t))
        self.shape.readings = <TileReading*>calloc(
            self.shape.reading_count + 1, sizeof(TileReading)
        )
        if not (
            self.shape.levels
            and self.shape.sketch_levels
            and self.shape.text_levels
            and self.shape.readings
        ):
            raise MemoryError
        for i, level in enumerate(layout.levels):
            self.shape.levels[i].tile = level.tile
            self.shape.levels[i].span = level.span
            self.shape.levels[i].index_size = level.index_size
            self.shape.levels[i].record_size = level.record_size
            reach = level.tile + level.span
            if reach > furthest:
                furthest = reach
                self.shape.widest_start_window = level.span
                self.shape.widest_start_tile = level.tile
        for i, sketch in enumerate(layout.sketches):
            self.shape.sketch_levels[i] = sketch.level
        for i, text in enumerate(layout.texts):
            self.shape.text_levels[i] = text.level
        for i, reading in enumerate(layout.readings):
            self.shape.readings[i].function = reading.function
            self.shape.readings[i].value_type = reading.value_type
            self.shape.readings[i].window = reading.window
            self.shape.readings[i].level = reading.level
            self.shape.readings[i].offset = reading.offset
            self.shape.readings[i].count_offset = reading.count_offset
            self.shape.readings[i].form = reading.form
            self.shape.readings[i].sketch = reading.sketch
            self.shape.readings[i].text = reading.text

    def __dealloc__(self):
        free(self.shape.levels)
        free(self.shape.sketch_levels)
        free(self.shape.text_levels)
        free(self.shape.readings)

    def read(self, bytes blob not None, int64_t now) -> list[bytes] | None:
        """What the windows hold at a time.

        Args:
            blob: The tiles.
            now: Microseconds since 1970.

        Returns:
            A serialized `Value` for each reading of the layout, empty for null; None where no event
            is in the widest window.

        Raises:
            ValueError: These are no tiles of this layout.
        """
        cdef TileRow row
        cdef uint8_t value[TEXT_ROOM]
        cdef uint32_t i
        cdef int size
        if parse_tiles(
            &self.shape, <const uint8_t*>PyBytes_AS_STRING(blob), PyBytes_GET_SIZE(blob), &row
        ) != 0:
            raise ValueError("these are no tiles of this layout")
        if not reaches(&self.shape, &row, now):
            return None
        values = []
        for i in range(self.shape.reading_count):
            size = put_reading(&self.shape, &row, i, now, value)
            if size == NO_MEMORY:
                raise MemoryError
            if size == BROKEN_TILES:
                raise ValueError("these are no tiles of this layout")
            values.append(value[:size])
        return values


cdef inline uint64_t get_u64(const uint8_t* at) noexcept nogil:
    return get_u32(at) | <uint64_t>get_u32(at + 4) << 32


cdef inline double get_double(const uint8_t* at) noexcept nogil:
    cdef uint64_t bits = get_u64(at)
    cdef double value
    memcpy(&value, &bits, 8)
    return value


cdef inline uint64_t get_index(const uint8_t* at, uint32_t size) noexcept nogil:
    return get_u32(at) if size == 4 else get_u64(at)


cdef inline int64_t start_tile(int64_t now, int64_t window, int64_t tile) noexcept nogil:
    """The number of the first tile of a window."""
    return (now - window) // tile if now > window else 0


cdef int parse_tiles(
    const TileShape* shape, const uint8_t* at, size_t size, TileRow* out
) noexcept nogil:
    """Finds the parts of a blob. Returns 0, or -1 where it is none of this shape."""
    cdef const uint8_t* end = at + size
    cdef const uint8_t* entry
    cdef const uint8_t* entries_end
    cdef uint32_t i, count, bytes_, frame
    cdef size_t total
    if size < BLOB_HEAD or at[0] != TILES_FORMAT:
        return -1
    out.newest = get_u64(at + 1)
    total = <size_t>(at[26] | <uint32_t>at[27] << 8) * ID_SIZE
    at += BLOB_HEAD
    if total > <size_t>(end - at):
        return -1
    at += total
    for i in range(shape.level_count):
        if end - at < 2:
            return -1
        count = at[0] | <uint32_t>at[1] << 8
        at += 2
        total = <size_t>count * shape.levels[i].record_size
        if total > <size_t>(end - at):
            return -1
        out.records[i] = at
        out.record_counts[i] = count
        at += total
    for i in range(shape.sketch_count):
        if end - at < 4:
            return -1
        bytes_ = get_u32(at)
        at += 4
        if bytes_ > <size_t>(end - at):
            return -1
        out.entries[i] = at
        out.entry_sizes[i] = bytes_
        entry = at
        entries_end = at + bytes_
        while entry < entries_end:
            bytes_ = entry_size(shape, i, entry, entries_end)
            if bytes_ == 0:
                return -1
            entry += bytes_
        at = entries_end
    for i in range(shape.text_count):
        if end - at < 4:
            return -1
        bytes_ = get_u32(at)
        at += 4
        if bytes_ > <size_t>(end - at):
            return -1
        out.texts[i] = at
        out.text_sizes[i] = bytes_
        entry = at + bytes_
        frame = shape.levels[shape.text_levels[i]].index_size + TEXT_FRAME
        while entry > at:
            if entry - at < frame or entry - at < frame + (entry - 1)[0]:
                return -1
            entry -= frame + (entry - 1)[0]
        at += bytes_
    return 0 if at == end else -1


cdef inline uint32_t entry_size(
    const TileShape* shape, uint32_t sketch, const uint8_t* at, const uint8_t* end
) noexcept nogil:
    """Bytes of a sketch's entry; 0 where they are not all there."""
    cdef uint32_t head = shape.levels[shape.sketch_levels[sketch]].index_size + 2
    cdef uint32_t count, size
    if <size_t>(end - at) < head:
        return 0
    count = at[head - 2] | <uint32_t>at[head - 1] << 8
    size = head + (<uint32_t>REGISTERS if count == DENSE else 4 * count)
    return size if size <= <size_t>(end - at) else 0


cdef bint reaches(const TileShape* shape, const TileRow* row, int64_t now) noexcept nogil:
    """Whether any window at this time reaches back to the newest event."""
    cdef int64_t tile = shape.widest_start_tile
    cdef int64_t start = start_tile(now, shape.widest_start_window, tile) * tile
    return row.newest > <uint64_t>start


cdef uint32_t put_newest(const TileRow* row, uint8_t* to) noexcept nogil:
    """Writes the time of the newest event as a serialized Timestamp. Returns its size."""
    cdef uint8_t* at = to
    cdef uint64_t seconds = row.newest // 1000000
    cdef uint64_t nanos = row.newest % 1000000 * 1000
    if seconds != 0:
        at[0] = 0x08
        at = put_varint(at + 1, seconds)
    if nanos != 0:
        at[0] = 0x10
        at = put_varint(at + 1, nanos)
    return <uint32_t>(at - to)


cdef inline void run_of(
    const TileShape* shape, const TileRow* row, const TileReading* reading, int64_t now,
    const uint8_t** begin, const uint8_t** end,
) noexcept nogil:
    """The records of a window."""
    cdef const TileLevel* level = &shape.levels[reading.level]
    cdef uint64_t first = <uint64_t>start_tile(now, reading.window, level.tile)
    cdef uint64_t last = <uint64_t>((now - 1) // level.tile) if now > 0 else 0
    cdef const uint8_t* records = row.records[reading.level]
    cdef uint32_t size = level.record_size
    cdef uint32_t low = 0, high = row.record_counts[reading.level], middle, upper
    upper = high
    # Events of the future are rare: the last record is mostly of the window.
    while upper > 0 and get_index(records + <size_t>(upper - 1) * size, level.index_size) > last:
        upper -= 1
    high = upper
    while low < high:
        middle = (low + high) // 2
        if get_index(records + <size_t>middle * size, level.index_size) < first:
            low = middle + 1
        else:
            high = middle
    begin[0] = records + <size_t>low * size
    end[0] = records + <size_t>upper * size


cdef inline int put_integer(uint8_t* to, uint32_t value_type, int64_t value) noexcept nogil:
    to[0] = <uint8_t>(value_type << 3)
    return <int>(put_varint(to + 1, <uint64_t>value) - to)


cdef inline int put_real(uint8_t* to, uint32_t value_type, double value) noexcept nogil:
    cdef float single
    if value_type == FLOAT_VAL:
        single = <float>value
        to[0] = FLOAT_VAL << 3 | 5
        memcpy(to + 1, &single, 4)
        return 5
    to[0] = DOUBLE_VAL << 3 | 1
    memcpy(to + 1, &value, 8)
    return 9


cdef inline void add_real(double* sum, double* rest, double value) noexcept nogil:
    """Adds to a sum, and to what has been rounded off it."""
    cdef double new = sum[0] + value
    cdef double part = new - sum[0]
    rest[0] += (sum[0] - (new - part)) + (value - part)
    sum[0] = new


cdef inline double whole_real(double sum, double rest) noexcept nogil:
    # Where a sum has overflowed, or an infinity is in it, what was rounded off is no number.
    return sum + rest if isfinite(sum) else sum


cdef int put_reading(
    const TileShape* shape, const TileRow* row, uint32_t reading_index, int64_t now, uint8_t* to
) noexcept nogil:
    """Writes what a window holds as a serialized `Value`, for which there are `value_room` bytes.

    Returns its size, 0 for null, NO_MEMORY, or BROKEN_TILES.
    """
    cdef const TileReading* reading = &shape.readings[reading_index]
    cdef const uint8_t* at = NULL
    cdef const uint8_t* end = NULL
    cdef uint32_t size = shape.levels[reading.level].record_size
    cdef uint64_t count = 0, here
    cdef bint real = reading.form == REAL
    cdef double sum = 0, rest = 0, number, best = 0
    cdef int64_t whole, most = 0
    cdef uint64_t time, latest = 0
    cdef wide_t total = 0
    if reading.function == DISTINCT:
        return put_distinct(shape, row, reading, now, to)
    if reading.text >= 0:
        return put_text(shape, row, reading, now, to)
    run_of(shape, row, reading, now, &at, &end)
    while at < end:
        here = get_u32(at + reading.count_offset)
        if here == 0:
            at += size
            continue
        if reading.function == SUM or reading.function == MEAN:
            if real:
                add_real(&sum, &rest, get_double(at + reading.offset))
                rest += get_double(at + reading.offset + 8)
            else:
                total += <wide_t>get_u64(at + reading.offset)
                total += <wide_t><int32_t>get_u32(at + reading.offset + 8) * (<wide_t>1 << 64)
        elif reading.function == LAST:
            time = get_u64(at + reading.offset)
            if time >= latest:
                latest = time
                whole = <int64_t>get_u64(at + reading.offset + 8)
                most = whole
                best = get_double(at + reading.offset + 8)
        elif reading.function != COUNT:
            if real:
                number = get_double(at + reading.offset)
                if count == 0 or (
                    number < best if reading.function == MIN else number > best
                ):
                    best = number
            else:
                whole = <int64_t>get_u64(at + reading.offset)
                if count == 0 or (whole < most if reading.function == MIN else whole > most):
                    most = whole
        count += here
        at += size
    if reading.function == COUNT:
        return put_integer(to, reading.value_type, <int64_t>count)
    if reading.function == SUM:
        if real:
            return put_real(to, reading.value_type, whole_real(sum, rest))
        if total > INT64_MAX or total < INT64_MIN:
            return 0
        return put_integer(to, reading.value_type, <int64_t>total)
    if count == 0:
        return 0
    if reading.function == MEAN:
        number = whole_real(sum, rest) if real else <double>total
        return put_real(to, reading.value_type, number / <double>count)
    if real:
        return put_real(to, reading.value_type, best)
    return put_integer(to, reading.value_type, most)


# ------------------------------------------------------------ texts

cdef int put_text(
    const TileShape* shape, const TileRow* row, const TileReading* reading, int64_t now, uint8_t* to
) noexcept nogil:
    """Writes the last text: that of the newest tile of the window that has one."""
    cdef const TileLevel* level = &shape.levels[reading.level]
    cdef uint64_t first = <uint64_t>start_tile(now, reading.window, level.tile)
    cdef uint64_t last = <uint64_t>((now - 1) // level.tile) if now > 0 else 0
    cdef const uint8_t* begin = row.texts[reading.text]
    cdef const uint8_t* end = begin + row.text_sizes[reading.text]
    cdef const uint8_t* text
    cdef const uint8_t* entry
    cdef uint8_t* at
    cdef uint8_t size
    cdef uint64_t index
    while end > begin:
        size = (end - 1)[0]
        text = end - 1 - size
        entry = text - 8 - level.index_size
        index = get_index(entry, level.index_size)
        if index < first:
            return 0
        if index <= last:
            # It goes into the answer as it is, and one that is none would break all of it.
            if reading.value_type == STRING_VAL and not is_utf8(text, text + size):
                return BROKEN_TILES
            to[0] = <uint8_t>(reading.value_type << 3 | 2)
            at = put_varint(to + 1, size)
            memcpy(at, text, size)
            return <int>(at - to) + size
        end = entry
    return 0


# ------------------------------------------------------------ distinct values

cdef int put_distinct(
    const TileShape* shape, const TileRow* row, const TileReading* reading, int64_t now, uint8_t* to
) noexcept nogil:
    cdef const TileLevel* level = &shape.levels[reading.level]
    cdef uint64_t first = <uint64_t>start_tile(now, reading.window, level.tile)
    cdef uint64_t last = <uint64_t>((now - 1) // level.tile) if now > 0 else 0
    cdef const uint8_t* at = row.entries[reading.sketch]
    cdef const uint8_t* end = at + row.entry_sizes[reading.sketch]
    cdef const uint8_t* begin = NULL
    cdef uint64_t index
    cdef uint32_t total = 0
    cdef bint dense = False
    cdef int64_t count
    cdef uint32_t head = level.index_size + 2
    while at < end:
        index = get_index(at, level.index_size)
        if index > last:
            break
        # All behind the first entry of the window are counted, also where a hostile blob has older
        # ones among them: what is counted below must be what `total` and `dense` are of.
        if begin != NULL or index >= first:
            if begin == NULL:
                begin = at
            if (at[head - 2] | <uint32_t>at[head - 1] << 8) == DENSE:
                dense = True
            else:
                total += at[head - 2] | <uint32_t>at[head - 1] << 8
        at += entry_size(shape, reading.sketch, at, end)
    if begin == NULL:
        return put_integer(to, reading.value_type, 0)
    count = count_dense(begin, at, head) if dense else count_hashes(begin, at, head, total)
    return NO_MEMORY if count < 0 else put_integer(to, reading.value_type, count)


cdef int64_t count_hashes(
    const uint8_t* at, const uint8_t* end, uint32_t head, uint32_t total
) noexcept nogil:
    """Counts the different hashes of entries. Returns -1 where there is no memory."""
    cdef uint32_t stack[FIRST_SEEN]
    cdef uint32_t* seen = stack
    cdef uint32_t size = 16, count, _, hash_, place
    cdef int64_t distinct = 0
    cdef bint zero = False
    while size < 2 * total:
        size *= 2
    if size > FIRST_SEEN:
        seen = <uint32_t*>malloc(<size_t>size * sizeof(uint32_t))
        if seen == NULL:
            return -1
    memset(seen, 0, <size_t>size * sizeof(uint32_t))
    while at < end:
        count = at[head - 2] | <uint32_t>at[head - 1] << 8
        at += head
        for _ in range(count):
            hash_ = get_u32(at)
            at += 4
            if hash_ == 0:
                zero = True
                continue
            place = hash_ & (size - 1)
            while seen[place] != 0 and seen[place] != hash_:
                place = (place + 1) & (size - 1)
            if seen[place] == 0:
                seen[place] = hash_
                distinct += 1
    if seen != stack:
        free(seen)
    return distinct + zero


cdef inline void add_to_registers(uint8_t* registers, uint32_t hash_) noexcept nogil:
    """As the script does: the first 11 bits are the register, and it holds how far the first 1 in
    the others is from the left, at most."""
    cdef uint32_t place = hash_ >> 21, rest = hash_ & 0x1FFFFF
    cdef uint8_t rank = 22
    while rest != 0:
        rest >>= 1
        rank -= 1
    if registers[place] < rank:
        registers[place] = rank


cdef int64_t count_dense(const uint8_t* at, const uint8_t* end, uint32_t head) noexcept nogil:
    """Estimates the different values of entries of which at least one has registers."""
    cdef uint8_t registers[REGISTERS]
    cdef uint32_t count, i, _
    memset(registers, 0, REGISTERS)
    while at < end:
        count = at[head - 2] | <uint32_t>at[head - 1] << 8
        at += head
        if count == DENSE:
            for i in range(<uint32_t>REGISTERS):
                if registers[i] < at[i]:
                    registers[i] = at[i]
            at += REGISTERS
        else:
            for _ in range(count):
                add_to_registers(registers, get_u32(at))
                at += 4
    return estimate(registers)


cdef double below(double x) noexcept nogil:
    """What registers that are empty stand for: x + x^2 + 2 x^4 + 4 x^8 and so on."""
    cdef double factor = 1, total = x, before = -1
    while total != before:
        x *= x
        before = total
        total += x * factor
        factor += factor
    return total


cdef double above(double x) noexcept nogil:
    """What registers that can rise no further stand for."""
    cdef double factor = 1, total = 1 - x, before = -1
    if x == 0 or x == 1:
        return 0
    while total != before:
        x = sqrt(x)
        before = total
        factor *= 0.5
        total -= (1 - x) * (1 - x) * factor
    return total / 3


cdef int64_t estimate(const uint8_t* registers) noexcept nogil:
    """How many different values registers have seen. The error is the same for few and for many.

    Source: Ertl, New cardinality estimation algorithms for HyperLogLog sketches, 2017.
    """
    cdef double size = REGISTERS, total
    cdef uint32_t counts[MOST_RANK + 1]
    cdef uint32_t i
    memset(counts, 0, sizeof(counts))
    for i in range(<uint32_t>REGISTERS):
        # More than the most is in no register that was made from hashes, but in bytes of others.
        counts[min(registers[i], <uint8_t>MOST_RANK)] += 1
    if counts[0] == REGISTERS:
        return 0
    total = size * above(1 - counts[MOST_RANK] / size)
    for i in range(<uint32_t>MOST_RANK - 1, 0, -1):
        total = 0.5 * (total + counts[i])
    total += size * below(counts[0] / size)
    # If all registers are at their most, so is the estimate: all hashes have been seen.
    return <int64_t>(min(size * size / (2 * log(2.0)) / total, 4294967296.0) + 0.5)


def estimate_distinct(hashes: list[int]) -> int:
    """What is told of a window with these hashes where a tile of it has too many to count."""
    cdef uint8_t registers[REGISTERS]
    cdef uint32_t hash_
    memset(registers, 0, REGISTERS)
    for hash_ in hashes:
        add_to_registers(registers, hash_)
    return estimate(registers)


cdef uint64_t hash_bytes(const uint8_t* at, size_t size, uint64_t kind) noexcept nogil:
    """A hash of a value of a kind. It is stored, and must stay what it is."""
    cdef uint64_t h = mix(kind + 0x9E3779B97F4A7C15u) ^ size
    cdef uint64_t word
    cdef size_t i
    while size >= 8:
        h = mix(h ^ get_u64(at)) + 0x9E3779B97F4A7C15u
        at += 8
        size -= 8
    word = 0
    for i in range(size):
        word |= <uint64_t>at[i] << (8 * i)
    return mix(h ^ word)
