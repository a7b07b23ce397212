"""What Redis needs for a million entities of 50 features over 5 views, from a sample of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.data import Layout, RedisClient, Rows, check_stored, load, make_repository
from bench.stores import Encoding
from bench.verdict import Verdict
from hotfeast.server.local_redis import LocalRedis

VIEWS = 5
SAMPLE = 20_000
PACKED_SHARE = 0.6
"""The packed layout may take this share of what Feast's takes as listpacks."""
PLANNED = 12.0
"""Seconds for each layout; about."""

# Hashes of 55 fields are lists up to the usual limit of 512, and tables past this one.
_LIMITS = {Encoding.LISTPACK: (), Encoding.HASH_TABLE: ("--hash-max-ziplist-entries", "16")}


@dataclass(frozen=True)
class Memory:
    """What a layout takes.

    Attributes:
        name: The layout, and for Feast's the encoding.
        bytes_each: Bytes of `used_memory` for an entity.
    """

    name: str
    bytes_each: float

    @property
    def gib_per_million(self) -> float:
        """GiB for a million entities."""
        return self.bytes_each * 1e6 / 2**30


def measure(layouts: Sequence[Layout], say: Callable[[str], None]) -> list[Memory]:
    """Loads a sample in each layout, Feast's in both encodings."""
    rows = Rows.make(SAMPLE)
    results = []
    for layout in layouts:
        for encoding in Encoding if layout is Layout.FEAST else (Encoding.LISTPACK,):
            name = f"{layout}, {encoding}" if layout is Layout.FEAST else layout.value
            say(f"memory: {name}")
            results.append(Memory(name, _bytes_each(rows, layout, encoding)))
    return results


def _bytes_each(rows: Rows, layout: Layout, encoding: Encoding) -> float:
    with (
        LocalRedis(*_LIMITS[encoding]) as server,
        TemporaryDirectory(prefix="hotfeast-bench-") as folder,
    ):
        client: RedisClient = server.client()
        make_repository(Path(folder), server.address)
        before = client.info("memory")["used_memory"]
        load(rows, Path(folder), VIEWS, layout)
        if layout is Layout.FEAST:
            check_stored(rows, client, VIEWS)
        return float(client.info("memory")["used_memory"] - before) / len(rows.entities)


def judge(results: Sequence[Memory]) -> list[Verdict]:
    """Holds the packed layout against Feast's."""
    by_name = {memory.name: memory for memory in results}
    packed = by_name.get(Layout.PACKED.value)
    lists = by_name.get(f"{Layout.FEAST}, {Encoding.LISTPACK}")
    if packed is None or lists is None:
        return []
    return [
        Verdict(
            "memory: packed / Feast's listpacks", packed.bytes_each / lists.bytes_each,
            PACKED_SHARE, True, store=Layout.PACKED.value,
            note=f"{packed.gib_per_million:.2f} and {lists.gib_per_million:.2f} GiB a million",
        )
    ]  # fmt: skip


def to_markdown(results: Sequence[Memory]) -> str:
    """A table."""
    rows = ["| layout | bytes an entity | GiB a million |", "|---|---|---|"]
    rows += [f"| {m.name} | {m.bytes_each:,.0f} | {m.gib_per_million:.2f} |" for m in results]
    return "\n".join(rows) + "\n"
