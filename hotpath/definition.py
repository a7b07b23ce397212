"""What a plan is made from: the registry's answer to "what must be read", without Feast's types."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hotfeast.hotpath.tile_layout import TileLayout

LAYOUTS = ("feast", "dual", "packed")
"""How rows are stored: in Feast's fields, in those and a packed row, or in a packed row alone."""


def schema_number(fields: Sequence[bytes]) -> int:
    """The number that packed rows name their schema by.

    Args:
        fields: The hash fields of the schema's features, in order.
    """
    return int.from_bytes(hashlib.blake2b(b"".join(fields), digest_size=4).digest(), "little")


class JoinKey(NamedTuple):
    """A column that the request must carry."""

    name: str
    """As the request names it: the join key, after a projection's `join_key_map`."""
    value_type: int
    """The entity's declared `ValueType.Enum`; 0 where none is declared."""
    aliases: tuple[str, ...] = ()
    """Other names the column may come under: Feast's deprecated entity names."""
    required: bool = True
    """Whether the column must be there, and is sent back. False for the dummy key of entityless
    views."""


class FeatureRead(NamedTuple):
    """A feature in one view."""

    output_name: str
    """Its name in the response."""
    hash_field: bytes
    """Its field in the entity's Redis hash."""


@dataclass(frozen=True, slots=True)
class KeyRecipe:
    """How the Redis key of one combination of entities is made from a row of the request."""

    parts: tuple[tuple[str, int], ...]
    """For each join key its name in the store, and the index of its column in the plan's join keys.
    Empty for entityless views."""
    suffix: bytes = b""
    """What stands behind the project in the key: nothing but for the tiles of a windowed view."""


@dataclass(frozen=True, slots=True)
class ViewRead:
    """The features that are read from one view."""

    name: str
    """For messages: the view's name, or its alias in the feature service."""
    recipe: int
    """Index of the view's key recipe in the plan."""
    time_field: bytes
    """The hash field of the row's event time."""
    ttl_seconds: float
    """How old a row may be, to the microsecond; 0 for any age."""
    features: tuple[FeatureRead, ...]
    row_field: bytes = b""
    """The hash field of the packed row; empty where there are no packed rows in the store."""
    schema: tuple[bytes, ...] = ()
    """The hash fields of all of the view's features, in the order in which rows are packed now."""
    packed: bool = False
    """Whether the packed row is asked for first, and Feast's fields only where there is none."""
    cache_seconds: float = 0.0
    """How long after it was read a row may be answered from a cache; 0 for never."""
    tiles: TileLayout | None = None
    """How its tiles are laid out, where its features are windows over them; the key recipe is then
    of no other view, and features are told apart by their hash fields, which are their names."""


@dataclass(frozen=True, slots=True)
class ReadDefinition:
    """All that one plan reads, in the order of the response."""

    project: str
    join_keys: tuple[JoinKey, ...]
    recipes: tuple[KeyRecipe, ...]
    views: tuple[ViewRead, ...]
    view_versions: tuple[tuple[str, int], ...] = ()
    """Name and version of each view, for the response's version metadata."""


class FeatureWrite(NamedTuple):
    """A feature that is written with its view's rows."""

    name: str
    value_type: int
    """Number in `ValueType.Enum`."""
    hash_field: bytes
    """Its field in the entity's Redis hash."""


@dataclass(frozen=True, slots=True)
class WriteDefinition:
    """How rows of one view are stored."""

    project: str
    join_keys: tuple[tuple[str, int], ...]
    """Names in the store and declared value types, 0 where none is declared; empty for a view
    without entities."""
    features: tuple[FeatureWrite, ...]
    time_field: bytes
    """The hash field of the row's event time."""
    created_field: bytes
    """The hash field of the row's created time; empty where the view's source has none."""
    key_ttl_seconds: int
    """Seconds after which an entity's hash expires; 0 for never."""
    row_field: bytes = b""
    """The hash field of the packed row; empty where there are none in the store."""
    layout: str = "feast"
    """What is written, one of `LAYOUTS`."""
    key_suffix: bytes = b""
    """What stands behind the project in the key."""
    tiles: TileLayout | None = None
    """How tiles are laid out, where rows are events that are counted in them. The features are the
    columns of its inputs, each once, and the event's id as the last; they have no hash fields."""
