from typing import Final

from hotfeast.hotpath.definition import ReadDefinition

DUMMY_JOIN_KEY: Final[str]
"""The join key under which Feast stores entityless views."""

def key_prefix(join_keys: tuple[str, ...]) -> bytes:
    """The constant start of a serialized entity key, version 3: the sorted join keys."""

class Plan:
    """A compiled `ReadDefinition`; immutable but for the way its hashes are read, and for the
    schemas of packed rows that become known."""

    probe_due: bool
    """Whether whoever decides on `set_read_all` should look at the stored hashes again."""

    followed: bool
    """Whether writes to all keys of `cached_prefixes` are told to the cache."""

    def __init__(self, definition: ReadDefinition) -> None: ...
    @property
    def tiled(self) -> bool:
        """Whether any view's features are windows over tiles."""

    @property
    def definition(self) -> ReadDefinition:
        """What it was made from."""

    def add_schema(self, view: int, fields: tuple[bytes, ...]) -> None:
        """Makes known in which order some of a view's packed rows hold their features.

        Raises IndexError where there is no such view.
        """

    def set_read_all(self, recipe: int, read_all: bool) -> None:
        """Reads the hashes of a key recipe with HGETALL, or with HMGET."""

    @property
    def read_all(self) -> list[bool]:
        """For each key recipe whether the whole hash is read."""

    @property
    def field_counts(self) -> list[int]:
        """For each key recipe how many hash fields it asks for."""

    @property
    def cached_prefixes(self) -> list[bytes]:
        """What the Redis keys begin with whose hashes may be answered from a cache."""
