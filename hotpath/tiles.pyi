from hotfeast.hotpath.tile_layout import TileLayout

class Tiles:
    """A `TileLayout` that tiles are read by. Immutable, shared by all threads."""

    def __init__(self, layout: TileLayout) -> None: ...
    @property
    def layout(self) -> TileLayout:
        """What it was made from."""

    def read(self, blob: bytes, now: int) -> list[bytes] | None:
        """A serialized `Value` for each reading of the layout as of `now`, in microseconds since
        1970, empty for null; None where no event is in the widest window.

        Raises ValueError where the blob is none of this layout.
        """

def estimate_distinct(hashes: list[int]) -> int:
    """What is told of a window with these hashes where a tile of it has too many to count."""
