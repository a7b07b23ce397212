"""HPACK (RFC 7541): header blocks of HTTP/2 to lists of headers. Sections named here are the RFC's.

The common case is a client that sends the same few headers with each request: each is a byte that
names an entry of the dynamic table, whose name and value are copied at once.
"""

cimport cython
from libc.stdint cimport UINT32_MAX, UINT64_MAX, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from hotfeast.hotpath.wire cimport Cursor, left

cdef enum:
    # The size of a dynamic table before either side has spoken.
    INITIAL_TABLE = 4096
    MAX_TABLE = 1 << 30
    STATIC_ENTRIES = 61
    STATIC_ROOM = 2048
    MAX_CODE_BITS = 30
    END_OF_STRING = 256
    SYMBOLS = 257


# Appendix A, from index 1: names, and values behind the first space.
STATIC_TABLE = b"""\
:authority
:method GET
:method POST
:path /
:path /index.html
:scheme http
:scheme https
:status 200
:status 204
:status 206
:status 304
:status 400
:status 404
:status 500
accept-charset
accept-encoding gzip, deflate
accept-language
accept-ranges
accept
access-control-allow-origin
age
allow
authorization
cache-control
content-disposition
content-encoding
content-language
content-length
content-location
content-range
content-type
cookie
date
etag
expect
expires
from
host
if-match
if-modified-since
if-none-match
if-range
if-unmodified-since
last-modified
link
location
max-forwards
proxy-authenticate
proxy-authorization
range
referer
refresh
retry-after
server
set-cookie
strict-transport-security
transfer-encoding
user-agent
vary
via
www-authenticate"""

# Appendix B: how many bits the code of each symbol has. The code is canonical: codes of the same
# length are numbered in the order of their symbols, the shorter ones first, so that the lengths say
# all of it.
CODE_BITS = bytes.fromhex("""
0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c
060a0a0c0d06080b0a0a080b080606060505050606060606060607080f060c0a
0d0607070707070707070707070707070707070707070707080708 0d130d0e06
0f0506050605060606050707060606050607060505060707070707 0f0b0e0d1c
1416141416161617161717171717181718181617181717171715161716171718
1615141616171715171616181516171715151615171617171416161617161617
1a1a141316171619 1a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b
1418141516151517161619191818 1a171a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a
1e""")

cdef Entry static_entries[STATIC_ENTRIES]
cdef uint8_t static_bytes[STATIC_ROOM]

# The symbol and the length of the code that a byte begins with; 0 where the code is longer.
cdef uint16_t short_symbols[256]
cdef uint8_t short_bits[256]
# Symbols in the order of their codes; for each length of a code the first code, where its symbol
# is, and the end of its codes, aligned left in 32 bits.
cdef uint16_t symbols[SYMBOLS]
cdef uint32_t first_code[MAX_CODE_BITS + 1]
cdef uint32_t first_symbol[MAX_CODE_BITS + 1]
cdef uint64_t code_end[MAX_CODE_BITS + 1]


cdef void fill_static_table() except *:
    cdef uint32_t end = 0
    lines = STATIC_TABLE.split(b"\n")
    assert len(lines) == STATIC_ENTRIES and len(STATIC_TABLE) <= STATIC_ROOM
    for i, line in enumerate(lines):
        name, _, value = line.partition(b" ")
        for byte in name + value:
            static_bytes[end] = byte
            end += 1
        static_entries[i].at = end - len(name) - len(value)
        static_entries[i].name_size = len(name)
        static_entries[i].value_size = len(value)


cdef void fill_code() except *:
    cdef uint32_t code = 0, at = 0
    cdef int bits, spare, i
    assert len(CODE_BITS) == SYMBOLS
    for bits in range(1, MAX_CODE_BITS + 1):
        first_code[bits] = code
        first_symbol[bits] = at
        for symbol in range(SYMBOLS):
            if CODE_BITS[symbol] != bits:
                continue
            symbols[at] = symbol
            if bits <= 8:
                spare = 8 - bits
                for i in range(1 << spare):
                    short_symbols[(code << spare) + i] = symbol
                    short_bits[(code << spare) + i] = bits
            code += 1
            at += 1
        code_end[bits] = <uint64_t>code << (32 - bits)
        code <<= 1
    # The longest codes end where all bits are ones, or else a length is wrong.
    assert at == SYMBOLS and code_end[MAX_CODE_BITS] == <uint64_t>1 << 32


fill_static_table()
fill_code()


cdef void clear_headers(HeaderList* list) noexcept nogil:
    list.size = 0
    list.count = 0


cdef void free_headers(HeaderList* list) noexcept nogil:
    free(list.bytes)
    free(list.headers)
    memset(list, 0, sizeof(HeaderList))


cdef inline int make_room(HeaderList* list, size_t size) noexcept nogil:
    """Makes room for `size` bytes behind those that are there. Returns 0 or -1."""
    cdef size_t capacity
    cdef void* grown
    # Never as many as needed exactly, so that there is a block even for a list of no bytes.
    if list.capacity - list.size > size:
        return 0
    # Offsets have 32 bits.
    if size >= UINT32_MAX - list.size:
        return -1
    capacity = max(list.size + size + 1, list.capacity + list.capacity // 2, <size_t>1024)
    grown = realloc(list.bytes, capacity)
    if grown == NULL:
        return -1
    list.bytes = <uint8_t*>grown
    list.capacity = capacity
    return 0


cdef inline int append(HeaderList* list, size_t name_size, size_t value_size) noexcept nogil:
    """Makes a header of the name and the value that stand behind the list's bytes. Returns 0 or -1.
    """
    cdef Header* header
    cdef uint32_t capacity
    cdef void* grown
    if list.count == list.header_capacity:
        if list.header_capacity > UINT32_MAX // 2:
            return -1
        capacity = max(list.header_capacity * 2, <uint32_t>16)
        grown = realloc(list.headers, capacity * sizeof(Header))
        if grown == NULL:
            return -1
        list.headers = <Header*>grown
        list.header_capacity = capacity
    header = &list.headers[list.count]
    header.name_at = <uint32_t>list.size
    header.name_size = <uint32_t>name_size
    header.value_at = <uint32_t>(list.size + name_size)
    header.value_size = <uint32_t>value_size
    list.size += name_size + value_size
    list.count += 1
    return 0


cdef inline int read_integer(Cursor* c, int prefix_bits, uint32_t* out) noexcept nogil:
    """Reads an integer (section 5.1) of at most 32 bits and six bytes. Returns 0, or -1 where it is
    cut, larger or longer. The caller has seen to it that its first byte is there."""
    cdef uint32_t prefix = (<uint32_t>1 << prefix_bits) - 1
    cdef uint64_t value = c.at[0] & prefix
    cdef int shift = 0
    cdef uint8_t byte
    c.at += 1
    if value < prefix:
        out[0] = <uint32_t>value
        return 0
    while c.at < c.end and shift < 35:
        byte = c.at[0]
        c.at += 1
        value += <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            out[0] = <uint32_t>value
            return 0 if value <= UINT32_MAX else -1
        shift += 7
    return -1


cdef Py_ssize_t decode_huffman(const uint8_t* at, const uint8_t* end, uint8_t* out) noexcept nogil:
    """Decodes a string (section 5.2) to `out`, which has room for 8 bytes for each 5 that come in.
    Returns how many they are, or -1 where it is no such string."""
    cdef uint8_t* start = out
    # The next bits, aligned left, zeros behind them.
    cdef uint64_t window = 0
    cdef int bits = 0, length
    cdef uint32_t symbol, head
    while True:
        if bits <= MAX_CODE_BITS:
            while bits <= 56 and at < end:
                window |= <uint64_t>at[0] << (56 - bits)
                at += 1
                bits += 8
        head = <uint32_t>(window >> 56)
        length = short_bits[head]
        if length != 0:
            symbol = short_symbols[head]
        else:
            length = 9
            head = <uint32_t>(window >> 32)
            while head >= code_end[length]:
                length += 1
            symbol = symbols[first_symbol[length] + (head >> (32 - length)) - first_code[length]]
        if length > bits:
            # What is left is no whole code: at most 7 bits of padding, all of them ones.
            if bits < 8 and window == ~(UINT64_MAX >> bits):
                return out - start
            return -1
        if symbol == END_OF_STRING:
            return -1
        out[0] = <uint8_t>symbol
        out += 1
        window <<= length
        bits -= length


cdef int read_string(Cursor* c, HeaderList* out, size_t ahead, size_t* size) noexcept nogil:
    """Reads a string (section 5.2) to behind the list's bytes and `ahead` more. Returns an outcome.
    """
    cdef bint huffman
    cdef uint32_t length
    cdef Py_ssize_t decoded
    if c.at == c.end:
        return HPACK_MALFORMED
    huffman = c.at[0] & 0x80 != 0
    if read_integer(c, 7, &length) != 0 or length > left(c):
        return HPACK_MALFORMED
    if not huffman:
        if make_room(out, ahead + length) != 0:
            return HPACK_NO_MEMORY
        memcpy(out.bytes + out.size + ahead, c.at, length)
        size[0] = length
    else:
        # The shortest code has 5 bits.
        if make_room(out, ahead + <size_t>length * 8 // 5) != 0:
            return HPACK_NO_MEMORY
        decoded = decode_huffman(c.at, c.at + length, out.bytes + out.size + ahead)
        if decoded < 0:
            return HPACK_MALFORMED
        size[0] = <size_t>decoded
    c.at += length
    return HPACK_DONE


@cython.final
cdef class HeaderDecoder:
    """Decodes the header blocks of one connection, in the order in which they come in.

    Args:
        table_limit: SETTINGS_HEADER_TABLE_SIZE that we announce, in bytes; at most 2^30. Before the
            peer says otherwise its table has 4,096 bytes, whatever the limit.
        list_limit: The most that the fields of a block may come to, in bytes: name, value and 32
            for each.

    Raises:
        ValueError: `table_limit` is above 2^30.
    """

    def __cinit__(self, uint32_t table_limit=4096, uint32_t list_limit=16384):
        cdef uint32_t largest = max(table_limit, <uint32_t>INITIAL_TABLE)
        cdef uint32_t entries = 1
        if table_limit > MAX_TABLE:
            raise ValueError(f"table_limit is {table_limit}: at most {MAX_TABLE} bytes will do")
        self.table_limit = table_limit
        self.list_limit = list_limit
        self.table_max = INITIAL_TABLE
        while entries < largest // ENTRY_OVERHEAD:
            entries *= 2
        self.ring_mask = entries - 1
        self.arena_capacity = largest * 2
        self.ring = <Entry*>malloc(entries * sizeof(Entry))
        self.arena = <uint8_t*>malloc(self.arena_capacity)
        if self.ring == NULL or self.arena == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.ring)
        free(self.arena)

    cdef const uint8_t* find(self, uint32_t index, Entry* out) noexcept nogil:
        """The name and value of an index of both tables (section 2.3.3), NULL where there is none.
        """
        if index == 0:
            return NULL
        index -= 1
        if index < STATIC_ENTRIES:
            out[0] = static_entries[index]
            return static_bytes + out.at
        index -= STATIC_ENTRIES
        if index >= self.entry_count:
            return NULL
        out[0] = self.ring[(self.first + self.entry_count - 1 - index) & self.ring_mask]
        return self.arena + out.at

    cdef void evict(self, uint32_t size) noexcept nogil:
        """Drops the oldest entries until the table has at most `size` bytes."""
        cdef Entry* oldest
        while self.table_used > size:
            oldest = &self.ring[self.first]
            self.table_used -= oldest.name_size + oldest.value_size + ENTRY_OVERHEAD
            self.first = (self.first + 1) & self.ring_mask
            self.entry_count -= 1

    cdef void insert(
        self, const uint8_t* field, size_t name_size, size_t value_size
    ) noexcept nogil:
        """Adds an entry (section 4.4). `field` is not in the table: its entry may be evicted."""
        cdef size_t size = name_size + value_size
        cdef Entry* entry
        if size + ENTRY_OVERHEAD > self.table_max:
            self.evict(0)
            return
        self.evict(self.table_max - <uint32_t>size - ENTRY_OVERHEAD)
        if size > self.arena_capacity - self.arena_end:
            self.arena_end = 0
        entry = &self.ring[(self.first + self.entry_count) & self.ring_mask]
        entry.at = self.arena_end
        entry.name_size = <uint32_t>name_size
        entry.value_size = <uint32_t>value_size
        memcpy(self.arena + self.arena_end, field, size)
        self.arena_end += <uint32_t>size
        self.table_used += <uint32_t>size + ENTRY_OVERHEAD
        self.entry_count += 1

    cdef int resize(self, Cursor* c) noexcept nogil:
        """Reads a size update (section 6.3). Returns an outcome."""
        cdef uint32_t size
        if read_integer(c, 5, &size) != 0 or size > self.table_limit:
            return HPACK_MALFORMED
        self.table_max = size
        self.evict(size)
        return HPACK_DONE

    cdef int decode_fields(self, Cursor* c, HeaderList* out) noexcept nogil:
        """Reads the fields of a block. Returns an outcome.

        A field's name and value are put behind the list's bytes, which become a header's unless the
        list is too large: the table is kept up to the block's end even then.
        """
        cdef uint64_t list_size = 0
        cdef size_t name_size, value_size
        cdef uint32_t index
        cdef uint8_t first
        cdef bint indexed
        cdef const uint8_t* field
        cdef Entry entry
        cdef int outcome
        while c.at < c.end:
            first = c.at[0]
            indexed = first & 0x80 != 0
            if indexed:
                outcome = read_integer(c, 7, &index)
            elif first & 0x40:
                outcome = read_integer(c, 6, &index)
            elif first & 0x20:
                # A size update, which is out of place behind a field.
                return HPACK_MALFORMED
            else:
                outcome = read_integer(c, 4, &index)
            if outcome != 0:
                return HPACK_MALFORMED
            if indexed or index != 0:
                field = self.find(index, &entry)
                if field == NULL:
                    return HPACK_MALFORMED
                name_size = entry.name_size
                value_size = entry.value_size if indexed else 0
                if indexed and (
                    list_size + name_size + value_size + ENTRY_OVERHEAD > self.list_limit
                ):
                    # Not copied: a byte of a block can stand for an entry as large as the table.
                    list_size = <uint64_t>self.list_limit + 1
                    continue
                if make_room(out, name_size + value_size) != 0:
                    return HPACK_NO_MEMORY
                memcpy(out.bytes + out.size, field, name_size + value_size)
            else:
                outcome = read_string(c, out, 0, &name_size)
                if outcome != HPACK_DONE:
                    return outcome
            if not indexed:
                outcome = read_string(c, out, name_size, &value_size)
                if outcome != HPACK_DONE:
                    return outcome
                if first & 0x40:
                    self.insert(out.bytes + out.size, name_size, value_size)
            list_size += name_size + value_size + ENTRY_OVERHEAD
            if list_size <= self.list_limit and append(out, name_size, value_size) != 0:
                return HPACK_NO_MEMORY
        return HPACK_DONE if list_size <= self.list_limit else HPACK_TOO_LARGE

    cdef int decode(self, const uint8_t* at, size_t size, HeaderList* out) noexcept nogil:
        """Reads a whole block (HEADERS and its CONTINUATIONs in one) and appends its fields.

        Returns an outcome, an `HpackOutcome`. Whatever it is, `out` stays fit for use and has the
        fields from before the fault or the limit. What it takes up in memory is bound by the size
        of the block, which the caller limits: 8 bytes for each 5, and the limits of list and table.
        """
        cdef Cursor c
        if size == 0:
            return HPACK_DONE
        c.at = at
        c.end = at + size
        while c.at < c.end and c.at[0] & 0xE0 == 0x20:
            if self.resize(&c) != HPACK_DONE:
                return HPACK_MALFORMED
        return self.decode_fields(&c, out)

    @property
    def dynamic_table(self):
        """Names and values, the newest first."""
        cdef Entry entry
        cdef const uint8_t* field
        cdef uint32_t i
        entries = []
        for i in range(self.entry_count):
            entry = self.ring[(self.first + self.entry_count - 1 - i) & self.ring_mask]
            field = self.arena + entry.at
            entries.append((
                field[:entry.name_size],
                field[entry.name_size:entry.name_size + entry.value_size],
            ))
        return entries

    @property
    def table_size(self):
        """Size of the dynamic table in bytes, with 32 for each entry."""
        return self.table_used

    def decode_block(self, bytes block not None):
        """Decodes a whole block to names and values.

        Raises:
            ValueError: The block is malformed; no other can be decoded after it.
            OverflowError: The list is above `list_limit`; others can be decoded after it.
        """
        cdef HeaderList fields
        cdef Header* header
        cdef const uint8_t* data = block
        cdef size_t size = len(block)
        cdef uint32_t i
        cdef int outcome
        memset(&fields, 0, sizeof(HeaderList))
        try:
            with nogil:
                outcome = self.decode(data, size, &fields)
            if outcome == HPACK_MALFORMED:
                raise ValueError("the header block is malformed")
            if outcome == HPACK_TOO_LARGE:
                raise OverflowError(f"the header list is larger than {self.list_limit} bytes")
            if outcome == HPACK_NO_MEMORY:
                raise MemoryError
            result = []
            for i in range(fields.count):
                header = &fields.headers[i]
                result.append((
                    fields.bytes[header.name_at:header.name_at + header.name_size],
                    fields.bytes[header.value_at:header.value_at + header.value_size],
                ))
            return result
        finally:
            free_headers(&fields)


cdef bytes field_block(bytes name, bytes value, uint8_t pattern, int prefix_bits, uint32_t index):
    """A field whose name is an entry of a table, or a new one where `index` is 0."""
    block = encode_integer(index, pattern, prefix_bits)
    if index == 0:
        block += encode_integer(len(name), 0, 7) + name
    return block + encode_integer(len(value), 0, 7) + value


@cython.final
cdef class RepeatedBlock:
    """A header block that is sent again and again on one connection, on which no other block enters
    anything into the peer's table: in full the first time, and in a few bytes from then on.

    Attributes:
        literal: In full, and entered nowhere: for peers without room in their tables.
        entering: In full, its fields entered into a table that is empty.
        referring: Referring to what `entering` has entered. But the last field is there only by
            its name, since its value may be another each time.
        room: Bytes that the fields take in the table.
    """

    def __cinit__(self, bytes head not None, list fields not None):
        """
        Args:
            head: Fields that stand in the static table as they are, as a block.
            fields: Names and values behind them.

        Raises:
            ValueError: There are no fields.
        """
        cdef bytes name, value
        cdef uint32_t index = STATIC_ENTRIES + <uint32_t>len(fields)
        if not fields:
            raise ValueError("a block without fields of its own need not be repeated")
        self.literal = self.entering = self.referring = head
        for name, value in fields:
            self.literal += field_block(name, value, 0, 4, 0)
            self.entering += field_block(name, value, 0x40, 6, 0)
            if index > STATIC_ENTRIES + 1:
                self.referring += encode_integer(index, 0x80, 7)
            else:
                self.referring += field_block(name, value, 0, 4, index)
            self.room += <uint32_t>(len(name) + len(value)) + ENTRY_OVERHEAD
            index -= 1


def encode_table_size(uint32_t size):
    """What empties the peer's table and has it take `size` bytes from then on."""
    return b"\x20" + encode_integer(size, 0x20, 5)


def encode_integer(uint64_t value, uint8_t pattern, int prefix_bits):
    """An integer behind a prefix of 1 to 8 bits; `pattern` is above the prefix."""
    cdef uint8_t room[INTEGER_ROOM]
    if not 1 <= prefix_bits <= 8:
        raise ValueError(f"prefix_bits is {prefix_bits}: 1 to 8 will do")
    return room[:put_integer(room, pattern, prefix_bits, value) - room]


def encode_literal(bytes name not None, bytes value not None):
    """A literal field without indexing, with a new name and no Huffman code."""
    cdef size_t name_size = len(name), value_size = len(value)
    cdef uint8_t* room = <uint8_t*>malloc(literal_room(name_size, value_size))
    if room == NULL:
        raise MemoryError
    try:
        return room[:put_literal(room, name, name_size, value, value_size) - room]
    finally:
        free(room)
