"""The HPACK decoder against RFC 7541's examples and the `hpack` package."""

from collections.abc import Iterable
from random import Random

import hpack
import pytest
from hpack.hpack import encode_integer as oracle_integer
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given, settings
from hypothesis import strategies as st

from hotfeast.hotpath.hpack import (
    HeaderDecoder,
    RepeatedBlock,
    encode_integer,
    encode_literal,
    encode_table_size,
)
from tests.hotpath.helpers import RANDOMS, mutant

Field = tuple[bytes, bytes]

NO_LIMIT = 2**32 - 1
"""For a list: no test comes near it."""

EOS = 256


def decoder(list_limit: int = NO_LIMIT) -> HeaderDecoder:
    return HeaderDecoder(4096, list_limit)


def oracle_decoder() -> hpack.Decoder:
    return hpack.Decoder(max_header_list_size=NO_LIMIT)


def resized(size: int) -> bytes:
    """A size update."""
    return encode_integer(size, 0x20, 5)


def string(data: bytes, huffman: bool = False) -> bytes:
    return encode_integer(len(data), 0x80 if huffman else 0, 7) + data


def indexing(name: bytes | int, value: bytes) -> bytes:
    """A literal that goes into the table, its name new or that of an index."""
    if isinstance(name, int):
        return encode_integer(name, 0x40, 6) + string(value)
    return b"\x40" + string(name) + string(value)


def size_of(fields: Iterable[Field]) -> int:
    return sum(len(name) + len(value) + 32 for name, value in fields)


def agree(ours: HeaderDecoder, oracle: hpack.Decoder, block: bytes) -> bool:
    """Whether both accept a block, with the same fields and the same table after it."""
    try:
        expected = [(bytes(n), bytes(v)) for n, v in oracle.decode(block, raw=True)]
    except hpack.HPACKError:
        with pytest.raises(ValueError, match="malformed"):
            ours.decode_block(block)
        return False
    assert ours.decode_block(block) == expected
    table = [(bytes(n), bytes(v)) for n, v in oracle.header_table.dynamic_entries]
    assert ours.dynamic_table == table
    assert ours.table_size == size_of(table)
    return True


# ---------------------------------------------------------------- the RFC's examples

REQUESTS: list[list[Field]] = [
    [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":path", b"/"),
        (b":authority", b"www.example.com"),
    ],
    [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":path", b"/"),
        (b":authority", b"www.example.com"),
        (b"cache-control", b"no-cache"),
    ],
    [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":path", b"/index.html"),
        (b":authority", b"www.example.com"),
        (b"custom-key", b"custom-value"),
    ],
]
REQUEST_SIZES = [57, 110, 164]

DATE = b"Mon, 21 Oct 2013 20:13:%d GMT"
COOKIE = b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
RESPONSES: list[list[Field]] = [
    [
        (b":status", status),
        (b"cache-control", b"private"),
        (b"date", DATE % second),
        (b"location", b"https://www.example.com"),
        *more,
    ]
    for status, second, more in (
        (b"302", 21, []),
        (b"307", 21, []),
        (b"200", 22, [(b"content-encoding", b"gzip"), (b"set-cookie", COOKIE)]),
    )
]
RESPONSE_SIZES = [222, 222, 215]

EXAMPLES = {
    "C.2.1": (
        "",
        ["400a637573746f6d2d6b65790d637573746f6d2d686561646572"],
        [[(b"custom-key", b"custom-header")]],
        [55],
    ),
    "C.2.2": ("", ["040c2f73616d706c652f70617468"], [[(b":path", b"/sample/path")]], [0]),
    "C.2.3": ("", ["100870617373776f726406736563726574"], [[(b"password", b"secret")]], [0]),
    "C.2.4": ("", ["82"], [[(b":method", b"GET")]], [0]),
    "C.3": (
        "",
        [
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ],
        REQUESTS,
        REQUEST_SIZES,
    ),
    "C.4": (
        "",
        [
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ],
        REQUESTS,
        REQUEST_SIZES,
    ),
    "C.5": (
        "3fe101",  # their table has 256 bytes
        [
            "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120"
            "474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d",
            "4803333037c1c0bf",
            "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738"
            "666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d33"
            "3630303b2076657273696f6e3d31",
        ],
        RESPONSES,
        RESPONSE_SIZES,
    ),
    "C.6": (
        "3fe101",
        [
            "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad1718"
            "63c78f0b97c8e9ae82ae43d3",
            "4883640effc1c0bf",
            "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7"
            "b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
        ],
        RESPONSES,
        RESPONSE_SIZES,
    ),
}


@pytest.mark.parametrize("section", EXAMPLES)
def test_examples_of_the_rfc(section: str) -> None:
    before, blocks, lists, sizes = EXAMPLES[section]
    ours = decoder()
    assert ours.decode_block(bytes.fromhex(before)) == []
    for block, fields, size in zip(blocks, lists, sizes, strict=True):
        assert ours.decode_block(bytes.fromhex(block)) == fields
        assert ours.table_size == size


# ---------------------------------------------------------------- what encoders write

NAMES = [b":path", b":authority", b"grpc-timeout", b"te", b"x-" + b"n" * 300, b"", b"user-agent"]
VALUES = [b"", b"trailers", b"/a.B/C", b"100m", b"\x00\xff\x80", b"v" * 1000, bytes(range(256))]


def some_field(random: Random) -> Field:
    name = random.choice(NAMES) if random.random() < 0.7 else b"x-%d" % random.randrange(40)
    value = random.choice(VALUES)
    if random.random() < 0.5:
        value = random.randbytes(random.randrange(200))
    return name, value


def some_block(random: Random, encoder: hpack.Encoder) -> tuple[bytes, list[Field]]:
    """A block as the encoder writes it, and what is in it."""
    for _ in range(random.choice((0, 0, 0, 1, 2))):
        sizes = {0, 31, 100, 500, 2000, 4096}
        # The encoder forgets a change that is followed by another to the same size.
        encoder.header_table_size = random.choice(sorted(sizes - {encoder.header_table_size}))
    fields = [some_field(random) for _ in range(random.randrange(12))]
    kinds = (hpack.HeaderTuple, hpack.HeaderTuple, hpack.NeverIndexedHeaderTuple)
    marked = [random.choice(kinds)(*field) for field in fields]
    return encoder.encode(marked, huffman=random.random() < 0.5), fields


@settings(max_examples=40, deadline=None)
@given(RANDOMS)
def test_what_an_encoder_writes(random: Random) -> None:
    encoder, ours = hpack.Encoder(), decoder()
    for _ in range(20):
        block, fields = some_block(random, encoder)
        assert ours.decode_block(block) == fields
        assert ours.dynamic_table == list(encoder.header_table.dynamic_entries)
        assert ours.decode_block(b"") == []


@pytest.mark.parametrize("longest", [300, 3000])
def test_a_long_connection(longest: int) -> None:
    """The bytes of the table come round many times."""
    random = Random(7)
    encoder, ours = hpack.Encoder(), decoder()
    for _ in range(400):
        fields = [
            (b"x-%d" % random.randrange(50), random.randbytes(random.randrange(longest)))
            for _ in range(6)
        ]
        assert ours.decode_block(encoder.encode(fields)) == fields
        assert ours.dynamic_table == list(encoder.header_table.dynamic_entries)


def test_a_table_of_the_smallest_entries() -> None:
    ours = decoder()
    for _ in range(5):
        assert len(ours.decode_block(b"\x40\x00\x00" * 200)) == 200
        assert ours.dynamic_table == [(b"", b"")] * 128
        assert ours.table_size == 4096


def test_a_block_that_is_all_in_the_table() -> None:
    fields = [(b"x-%d" % i, b"value %d" % i) for i in range(8)]
    encoder, ours = hpack.Encoder(), decoder()
    ours.decode_block(encoder.encode(fields))
    block = encoder.encode(fields)
    assert len(block) == 8
    for _ in range(3):
        assert ours.decode_block(block) == fields


# ---------------------------------------------------------------- hostile bytes


@settings(max_examples=300, deadline=None)
@given(RANDOMS)
def test_noise(random: Random) -> None:
    ours, oracle = decoder(), oracle_decoder()
    # First bytes of all kinds, and lengths that are short enough to be true now and then.
    soup = bytes(range(20)) + b"\x40\x41\x80\x82\xbe\xbf\x10\x20\x3f\x7f\x0f\xff\x81\x83"
    for _ in range(6):
        size = random.randrange(40)
        noise = random.choice((random.randbytes(size), bytes(random.choices(soup, k=size))))
        if not agree(ours, oracle, noise):
            break


@settings(max_examples=200, deadline=None)
@given(RANDOMS)
def test_mutants(random: Random) -> None:
    encoder, ours, oracle = hpack.Encoder(), decoder(), oracle_decoder()
    for _ in range(3):
        block, _ = some_block(random, encoder)
        if not agree(ours, oracle, mutant(random, block)):
            break


@pytest.mark.parametrize("huffman", [False, True])
def test_cut_anywhere(huffman: bool) -> None:
    fields = [(b"x-new-name", b"a value"), (b":path", b"/p"), (b"x-long", b"l" * 200)]
    encoder = hpack.Encoder()
    encoder.header_table_size = 3000
    block = encoder.encode(fields, huffman=huffman)
    whole = [agree(decoder(), oracle_decoder(), block[:size]) for size in range(len(block) + 1)]
    # Cut between fields it is a block, too; the size update is one field more, of three bytes.
    assert sum(whole) == len(fields) + 2


# ---------------------------------------------------------------- Huffman codes


def code(symbols: Iterable[int], padding: str | None = None) -> bytes:
    """Symbols in the RFC's code, with what it wants for padding if not said otherwise."""
    bits = "".join(f"{REQUEST_CODES[s]:0{REQUEST_CODES_LENGTH[s]}b}" for s in symbols)
    bits += "1" * (-len(bits) % 8) if padding is None else padding
    return int("1" + bits, 2).to_bytes(len(bits) // 8 + 1, "big")[1:]


def huffman_block(data: bytes) -> bytes:
    """A field with an empty name and this value."""
    return b"\x00\x00" + string(data, huffman=True)


@pytest.mark.parametrize("symbol", range(256))
def test_every_symbol(symbol: int) -> None:
    data = bytes([symbol])
    for value in (data, b"0" + data, data * 9 + b"~" + data):
        assert decoder().decode_block(huffman_block(code(value))) == [(b"", value)]


def test_end_of_string_is_no_symbol() -> None:
    for symbols in ([EOS], [48, EOS], [EOS, 48], [255, EOS, 255]):
        with pytest.raises(ValueError, match="malformed"):
            decoder().decode_block(huffman_block(code(symbols)))


def test_padding() -> None:
    # "0" has five bits, "00000000" forty.
    assert decoder().decode_block(huffman_block(code(b"0"))) == [(b"", b"0")]
    assert decoder().decode_block(huffman_block(code(b"0" * 8))) == [(b"", b"0" * 8)]
    for symbols, padding in (
        (b"0", "1" * 11),  # a byte too many
        (b"0" * 8, "1" * 8),
        (b"0", "000"),
        (b"0", "110"),
        (b"0", "011"),
        (b"", "1" * 8),
        (b"", "1" * 24),
        (b"", "1" * 64),
    ):
        with pytest.raises(ValueError, match="malformed"):
            decoder().decode_block(huffman_block(code(symbols, padding)))


def test_all_strings_of_two_bytes() -> None:
    """Accepted are those that are the code of what they are decoded to, and no others."""
    ours = decoder()
    accepted = 0
    for number in range(2**16):
        data = number.to_bytes(2, "big")
        try:
            ((_, value),) = ours.decode_block(huffman_block(data))
        except ValueError:
            continue
        accepted += 1
        assert code(value) == data
    # How many strings have a code of so many bits.
    strings = [1] + [0] * 16
    for bits in range(1, 17):
        strings[bits] = sum(strings[bits - n] for n in REQUEST_CODES_LENGTH[:EOS] if n <= bits)
    assert accepted == sum(strings[9:17])


# ---------------------------------------------------------------- integers


def test_integers_are_written_as_the_rfc_says() -> None:
    assert encode_integer(10, 0, 5) == b"\x0a"
    assert encode_integer(1337, 0, 5) == b"\x1f\x9a\x0a"
    assert encode_integer(42, 0, 8) == b"\x2a"
    assert encode_integer(2**64 - 1, 0, 1) == b"\x01\xfe" + b"\xff" * 8 + b"\x01"
    for bits in range(1, 9):
        for value in {2**k + d for k in range(64) for d in (-1, 0, 1)}:
            assert encode_integer(value, 0, bits) == bytes(oracle_integer(value, bits))
    assert encode_integer(3, 0x40, 6) == b"\x43"
    with pytest.raises(ValueError, match="prefix_bits"):
        encode_integer(1, 0, 9)


PATTERNS = {"indexed": (0x80, 7), "indexing": (0x40, 6), "update": (0x20, 5), "plain": (0, 4)}


@pytest.mark.parametrize("kind", PATTERNS)
def test_huge_integers(kind: str) -> None:
    pattern, bits = PATTERNS[kind]
    for value in (2**31, 2**32 - 1, 2**32, 2**32 + 2, 2**34, 2**35 + 2, 2**63, 2**64 - 1):
        block = encode_integer(value, pattern, bits)
        assert not agree(decoder(), oracle_decoder(), block + b"\x01a" * 4)
    assert not agree(decoder(), oracle_decoder(), bytes([pattern | 2**bits - 1]) + b"\xff" * 50)


def test_huge_lengths() -> None:
    for value in (200, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**35 + 1, 2**64 - 1):
        for pattern in (0, 0x80):
            length = encode_integer(value, pattern, 7)
            for block in (b"\x00" + length + b"a" * 99, b"\x00\x01a" + length + b"a" * 99):
                assert not agree(decoder(), oracle_decoder(), block)


def test_integers_longer_than_they_need_be() -> None:
    """Up to five bytes behind the prefix, as the oracle has it."""
    for zeros in range(5):
        assert agree(decoder(), oracle_decoder(), b"\x3f" + b"\x80" * zeros + b"\x00")
    assert not agree(decoder(), oracle_decoder(), b"\x3f" + b"\x80" * 5 + b"\x00")


# ---------------------------------------------------------------- the dynamic table


def test_the_boundary_of_eviction() -> None:
    # Two entries of 40 bytes.
    first, second = (b"name", b"1234"), (b"name", b"5678")
    for size, table in ((80, [second, first]), (79, [second]), (40, [second]), (39, [])):
        ours = decoder()
        block = resized(size) + indexing(*first) + indexing(*second)
        assert ours.decode_block(block) == [first, second]
        assert ours.dynamic_table == table
        assert agree(decoder(), oracle_decoder(), block)
    ours = decoder()
    ours.decode_block(indexing(*first) + indexing(*second))
    for size, table in ((80, [second, first]), (79, [second]), (40, [second]), (39, [])):
        ours.decode_block(resized(size))
        assert ours.dynamic_table == table


def test_an_entry_larger_than_the_table_empties_it() -> None:
    ours = decoder()
    largest = (b"n", b"v" * (4096 - 33))
    assert ours.decode_block(indexing(b"a", b"b") + indexing(*largest)) == [(b"a", b"b"), largest]
    assert ours.dynamic_table == [largest]
    larger = (b"n", largest[1] + b"v")
    assert ours.decode_block(b"\xbe" + indexing(*larger)) == [largest, larger]
    assert ours.dynamic_table == []
    with pytest.raises(ValueError, match="malformed"):
        ours.decode_block(b"\xbe")


def test_an_entry_that_is_named_by_the_one_that_evicts_it() -> None:
    ours = decoder()
    ours.decode_block(resized(60) + indexing(b"some-name", b"old"))
    assert ours.decode_block(indexing(62, b"n" * 10)) == [(b"some-name", b"n" * 10)]
    assert ours.dynamic_table == [(b"some-name", b"n" * 10)]
    # Now one that does not fit.
    assert ours.decode_block(indexing(62, b"n" * 100)) == [(b"some-name", b"n" * 100)]
    assert ours.dynamic_table == []


def test_indices() -> None:
    ours = decoder()
    for index in range(1, 62):
        assert agree(ours, oracle_decoder(), encode_integer(index, 0x80, 7))
    for block in (b"\x80", b"\xbe", b"\x7e\x00", b"\x0f\x2f\x00"):
        assert not agree(decoder(), oracle_decoder(), block)


def test_size_updates() -> None:
    field = indexing(b"a", b"b")
    assert agree(decoder(), oracle_decoder(), resized(0) + resized(4096) + field)
    assert not agree(decoder(), oracle_decoder(), resized(4097))
    for block in (field + resized(100), b"\x82" + resized(0), resized(9) + b"\x82" + resized(9)):
        assert not agree(decoder(), oracle_decoder(), block)


def test_the_limit_of_the_table() -> None:
    """The peer has 4,096 bytes until it has heard of the limit, a smaller or a larger one."""
    small = HeaderDecoder(table_limit=100)
    small.decode_block(indexing(b"a", b"b" * 1000))
    assert small.table_size == 1033
    small.decode_block(resized(100))
    assert small.table_size == 0
    with pytest.raises(ValueError, match="malformed"):
        small.decode_block(resized(101))
    large = HeaderDecoder(table_limit=10_000)
    assert large.decode_block(indexing(b"a", b"b" * 4064)) == [(b"a", b"b" * 4064)]
    assert large.dynamic_table == []
    large.decode_block(resized(10_000) + indexing(b"a", b"b" * 9967))
    assert large.table_size == 10_000
    large.decode_block(indexing(b"a", b"b" * 9967))
    assert large.table_size == 10_000
    assert HeaderDecoder(table_limit=0).decode_block(resized(0)) == []
    with pytest.raises(ValueError, match="table_limit"):
        HeaderDecoder(table_limit=2**30 + 1)


# ---------------------------------------------------------------- the limit of a list


def test_the_limit_of_a_list() -> None:
    fields = [(b"name", b"v" * 10), (b":path", b"/x"), (b"name", b"v" * 10)]
    block = hpack.Encoder().encode(fields)
    assert decoder(size_of(fields)).decode_block(block) == fields
    with pytest.raises(OverflowError, match="larger"):
        decoder(size_of(fields) - 1).decode_block(block)
    for limit in (0, 32):
        with pytest.raises(OverflowError, match="larger"):
            decoder(limit).decode_block(b"\x82")


@settings(max_examples=40, deadline=None)
@given(RANDOMS, st.sampled_from((0, 100, 1000, 5000)))
def test_after_a_list_that_is_too_large_the_table_is_right(random: Random, limit: int) -> None:
    encoder, ours = hpack.Encoder(), decoder(limit)
    for _ in range(12):
        block, fields = some_block(random, encoder)
        if size_of(fields) <= limit:
            assert ours.decode_block(block) == fields
        else:
            with pytest.raises(OverflowError):
                ours.decode_block(block)
        assert ours.dynamic_table == list(encoder.header_table.dynamic_entries)


def test_faults_behind_the_limit_of_a_list_are_faults() -> None:
    for fault in (b"\x80", b"\x00\x00\x81\xff", resized(0), b"\x00\x05a"):
        with pytest.raises(ValueError, match="malformed"):
            decoder(50).decode_block(b"\x82\x82" + fault)


def test_a_block_that_stands_for_much() -> None:
    """64 KB that name an entry of 4 KB each time; the list is refused, not built."""
    ours = decoder(16384)
    ours.decode_block(indexing(b"n", b"v" * 4000))
    with pytest.raises(OverflowError):
        ours.decode_block(b"\xbe" * 65536)
    assert ours.decode_block(b"\xbe") == [(b"n", b"v" * 4000)]


# ---------------------------------------------------------------- what a server sends


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 254, 255, 300, 70_000])
def test_literals(size: int) -> None:
    for field in ((b"n" * size, b"v"), (b"name", bytes(i % 256 for i in range(size)))):
        block = encode_literal(*field)
        assert list(oracle_decoder().decode(block, raw=True)) == [field]
        ours = decoder()
        assert ours.decode_block(block * 2) == [field] * 2
        assert ours.dynamic_table == []


ANY_NAME = st.from_regex(rb"[a-z][a-z-]{0,80}", fullmatch=True)
ANY_VALUE = st.binary(max_size=200)


@given(
    st.lists(st.tuples(ANY_NAME, ANY_VALUE), min_size=1, max_size=8),
    st.lists(ANY_VALUE, max_size=4),
)
def test_repeated_blocks_say_the_same_in_each_form(
    fields: list[Field], values: list[bytes]
) -> None:
    oracle = oracle_decoder()
    status = (b":status", b"200")
    *others, (name, _) = fields
    block = RepeatedBlock(b"\x88", fields)
    assert oracle.decode(block.literal, raw=True) == [status, *fields]
    assert not oracle.header_table.dynamic_entries
    assert block.room == size_of(fields)
    # Twice: a peer that has changed its table's size has it empty.
    for size in (block.room, block.room + 1):
        oracle.max_allowed_table_size = size
        resized = encode_table_size(size)
        assert oracle.decode(resized + block.entering, raw=True) == [status, *fields]
        for value in values:
            next_one = RepeatedBlock(b"\x88", [*others, (name, value)])
            assert oracle.decode(next_one.referring, raw=True) == [status, *others, (name, value)]
        assert len(oracle.header_table.dynamic_entries) == len(fields)


def test_a_repeated_block_has_fields() -> None:
    with pytest.raises(ValueError, match="without fields"):
        RepeatedBlock(b"\x88", [])
