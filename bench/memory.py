"""What Redis needs for a million entities of 50 features over 5 views, from a sample of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.data import Layout, RedisClient, Rows, check_stored, load, make_repository
from bench.stores import LONG_VALUES, Encoding, encoding_of
from bench.verdict import Verdict
from hotfeast.server.local_redis import LocalRedis

VIEWS = 5
SAMPLE = 20_000
PACKED_SHARE = 0.6
"""The packed layout, in lists, may take this share of what Feast's takes in lists."""
PLANNED = 40.0
"""Seconds for all of it; about."""


@dataclass(frozen=True)
class Limits:
    """How far Redis holds hashes as lists.

    Attributes:
        name: In the table.
        options: The server's.
    """

    name: str
    options: tuple[str, ...]


AS_SHIPPED = Limits("as shipped: 512 fields, 64 bytes", ())
LISTS = Limits("hash-max-listpack-value 1024", LONG_VALUES)
# Hashes of 55 fields are lists up to the usual limit, and tables past this one.
TABLES = Limits("hash-max-listpack-entries 16", ("--hash-max-ziplist-entries", "16"))
# Values of Feast's layout are shorter than 64 bytes, packed rows longer.
_LIMITS = {
    Layout.FEAST: (AS_SHIPPED, TABLES),
    Layout.DUAL: (AS_SHIPPED, LISTS),
    Layout.PACKED: (AS_SHIPPED, LISTS),
}


@dataclass(frozen=True)
class Memory:
    """What a layout takes.

    Attributes:
        layout: It.
        limits: Redis'.
        encoding: How Redis then holds an entity's hash.
        bytes_each: Bytes of `used_memory` for an entity.
    """

    layout: Layout
    limits: Limits
    encoding: Encoding
    bytes_each: float

    @property
    def gib_per_million(self) -> float:
        """GiB for a million entities."""
        return self.bytes_each * 1e6 / 2**30

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "layout": self.layout.value,
            "limits": self.limits.name,
            "encoding": self.encoding.value,
            "bytes": round(self.bytes_each),
        }


def measure(say: Callable[[str], None]) -> list[Memory]:
    """Loads a sample in each layout, within each of its limits."""
    rows = Rows.make(SAMPLE)
    results = []
    for layout, all_limits in _LIMITS.items():
        for limits in all_limits:
            say(f"memory: {layout}, {limits.name}")
            results.append(_measure(rows, layout, limits))
    return results


def _measure(rows: Rows, layout: Layout, limits: Limits) -> Memory:
    with (
        LocalRedis(*limits.options) as server,
        TemporaryDirectory(prefix="hotfeast-bench-") as folder,
    ):
        client: RedisClient = server.client()
        make_repository(Path(folder), server.address)
        before = client.info("memory")["used_memory"]
        load(rows, Path(folder), VIEWS, layout)
        check_stored(rows, client, VIEWS, layout)
        taken = client.info("memory")["used_memory"] - before
        return Memory(layout, limits, encoding_of(client, rows), taken / len(rows.entities))


def judge(results: Sequence[Memory]) -> list[Verdict]:
    """Holds the packed layout against Feast's."""
    lists = {m.layout: m for m in results if m.encoding is Encoding.LISTPACK}
    if not {Layout.PACKED, Layout.FEAST} <= lists.keys():
        return []
    packed, feast = lists[Layout.PACKED], lists[Layout.FEAST]
    return [
        Verdict(
            "memory: packed / Feast's listpacks", packed.bytes_each / feast.bytes_each,
            PACKED_SHARE, True, store=Layout.PACKED.value,
            note=f"{packed.gib_per_million:.2f} and {feast.gib_per_million:.2f} GiB a million, "
            f"packed with {packed.limits.name}",
        )
    ]  # fmt: skip


def to_markdown(results: Sequence[Memory]) -> str:
    """A table."""
    rows = [
        "| layout | Redis' limits of lists | hashes are | bytes an entity | GiB a million |",
        "|---|---|---|---|---|",
    ]
    rows += [
        f"| {m.layout} | {m.limits.name} | {m.encoding} | {m.bytes_each:,.0f} "
        f"| {m.gib_per_million:.2f} |"
        for m in results
    ]
    return "\n".join(rows) + "\n"
