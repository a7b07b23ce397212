class HeaderDecoder:
    """Decodes the header blocks of one connection, in the order in which they come in (RFC 7541).

    Args:
        table_limit: SETTINGS_HEADER_TABLE_SIZE that we announce, in bytes; at most 2^30. Before the
            peer says otherwise its table has 4,096 bytes, whatever the limit.
        list_limit: The most that the fields of a block may come to, in bytes: name, value and 32
            for each.

    Raises:
        ValueError: `table_limit` is above 2^30.
    """

    def __init__(self, table_limit: int = 4096, list_limit: int = 16384) -> None: ...
    @property
    def dynamic_table(self) -> list[tuple[bytes, bytes]]:
        """Names and values, the newest first."""

    @property
    def table_size(self) -> int:
        """Size of the dynamic table in bytes, with 32 for each entry."""

    def decode_block(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """Decodes a whole block to names and values.

        Raises:
            ValueError: The block is malformed; no other can be decoded after it.
            OverflowError: The list is above `list_limit`; others can be decoded after it.
        """

class RepeatedBlock:
    """A header block that is sent again and again on one connection, on which no other block enters
    anything into the peer's table: in full the first time, and in a few bytes from then on.

    Args:
        head: Fields that stand in the static table as they are, as a block.
        fields: Names and values behind them. The last one's value may be another each time.

    Raises:
        ValueError: There are no fields.
    """

    def __init__(self, head: bytes, fields: list[tuple[bytes, bytes]]) -> None: ...
    @property
    def literal(self) -> bytes:
        """In full, and entered nowhere: for peers without room in their tables."""

    @property
    def entering(self) -> bytes:
        """In full, its fields entered into a table that is empty."""

    @property
    def referring(self) -> bytes:
        """Referring to what `entering` has entered; of the last field to its name."""

    @property
    def room(self) -> int:
        """Bytes that the fields take in the table."""

def encode_table_size(size: int) -> bytes:
    """What empties the peer's table and has it take `size` bytes from then on."""

def encode_integer(value: int, pattern: int, prefix_bits: int) -> bytes:
    """An integer of up to 64 bits behind a prefix of 1 to 8 bits; `pattern` is above the prefix."""

def encode_literal(name: bytes, value: bytes) -> bytes:
    """A literal field without indexing, with a new name and no Huffman code."""
