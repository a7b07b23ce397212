"""Loaded Redis servers, each with the feature repository that is stored in it.

Rows are written once, into hash tables, which takes a fifth of the time that lists take; what was
saved then is loaded by as many servers as are wanted, which hold it as their limits say.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from feast import FeatureStore

from bench.data import (
    Layout,
    RedisClient,
    Rows,
    check_against_feast,
    check_stored,
    load,
    make_repository,
)
from hotfeast.server.local_redis import LocalRedis

# The names that Redis before 7 knows and later ones still take.
_HASH_TABLES = ("--hash-max-ziplist-entries", "64")
LONG_VALUES = ("--hash-max-ziplist-value", "1024")
"""Has Redis hold packed rows in lists, too: as it ships it takes no value of more than 64 bytes."""
# Seconds until a server has loaded its rows.
_LOAD_LIMIT = 300.0
# Bytes that an entity takes in hash tables and in lists, by layout; about, and rather more.
_BYTES = {
    Layout.FEAST: {"hash table": 13_000, "listpack": 5_500},
    Layout.DUAL: {"hash table": 20_000, "listpack": 9_500},
    Layout.PACKED: {"hash table": 8_000, "listpack": 4_500},
}
# Bytes that an entity takes in this process.
_BYTES_HERE = 2_500


class Encoding(StrEnum):
    """How Redis holds an entity's hash: 275 fields in Feast's layout, 50 in the packed one."""

    LISTPACK = "listpack"
    """A list, searched from its start: Redis' default up to 512 fields of 64 bytes each; for packed
    rows with hash-max-listpack-value at 1024."""
    HASH_TABLE = "hash table"
    """With hash-max-listpack-entries at 64: several times the memory, and much faster reads."""


@dataclass(frozen=True)
class Store:
    """A loaded Redis, and the feature repository that is stored in it."""

    server: LocalRedis
    client: RedisClient
    repo: Path
    feast: FeatureStore
    rows: Rows
    encoding: Encoding
    layout: Layout

    @property
    def label(self) -> str:
        """What tells it from others: the encoding of Feast's layout, else the layout."""
        return self.encoding.value if self.layout is Layout.FEAST else self.layout.value


def check_memory(entities: int, encodings: list[Encoding], layout: Layout = Layout.FEAST) -> None:
    """Sees to it that stores of a layout fit into this machine.

    Raises:
        RuntimeError: They do not; says what would.
    """
    # While rows are written they are held as hash tables.
    taken = _BYTES[layout]
    each = max(taken["hash table"], sum(taken[e] for e in encodings)) + _BYTES_HERE
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return
    free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024
    if each * entities > 0.9 * free:
        raise RuntimeError(
            f"{entities:,} entities need about {each * entities / 2**30:.1f} GiB and "
            f"{free / 2**30:.1f} are free: --entities {int(0.8 * free / each):,} fit"
        )


@contextmanager
def open_stores(
    rows: Rows, encodings: list[Encoding], layout: Layout = Layout.FEAST
) -> Iterator[list[Store]]:
    """Starts a Redis for each encoding, with the same rows in all of them.

    Feast has confirmed that they are stored as it stores them; in other layouts than its own, that
    their bytes are the ones described in `hotfeast.hotpath.packed` has been looked at.

    Raises:
        RuntimeError: They are not, or Redis holds them in another encoding.
    """
    check_memory(len(rows.entities), encodings, layout)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hotfeast-bench-")))
        _save(rows, layout, folder)
        yield [
            stack.enter_context(_start(rows, encoding, layout, folder)) for encoding in encodings
        ]


@contextmanager
def open_store(rows: Rows, encoding: Encoding, layout: Layout = Layout.FEAST) -> Iterator[Store]:
    """Starts one Redis, as `open_stores` does."""
    with open_stores(rows, [encoding], layout) as stores:
        yield stores[0]


def _save(rows: Rows, layout: Layout, folder: Path) -> None:
    """Writes the rows to a file in a folder, as Redis saves them."""
    server = LocalRedis(*_HASH_TABLES, data_dir=folder).start()
    try:
        client: RedisClient = server.client()
        # Saved is once, at the end.
        client.config_set("save", "")
        repo = folder / "written"
        repo.mkdir()
        store = make_repository(repo, server.address, rows.key_type)
        check_against_feast(store, rows, client)
        load(rows, repo, layout=layout)
        client.save()
    finally:
        server.kill()


@contextmanager
def _start(rows: Rows, encoding: Encoding, layout: Layout, folder: Path) -> Iterator[Store]:
    limits: tuple[str, ...] = _HASH_TABLES
    if encoding is Encoding.LISTPACK:
        limits = () if layout is Layout.FEAST else LONG_VALUES
    server = LocalRedis("--save", "", *limits, data_dir=folder).start(_LOAD_LIMIT)
    try:
        client: RedisClient = server.client()
        check_stored(rows, client, layout=layout)
        _check_encoding(client, rows, encoding)
        with tempfile.TemporaryDirectory(prefix="hotfeast-bench-") as repo:
            feast = make_repository(Path(repo), server.address, rows.key_type)
            yield Store(server, client, Path(repo), feast, rows, encoding, layout)
    finally:
        server.stop()


def encoding_of(client: RedisClient, rows: Rows) -> Encoding:
    """How Redis holds the first entity's hash.

    Raises:
        RuntimeError: In a way that is not known here.
    """
    stored: bytes = client.execute_command("OBJECT", "ENCODING", rows.key(rows.entities[0]))
    if stored in (b"listpack", b"ziplist"):
        return Encoding.LISTPACK
    if stored == b"hashtable":
        return Encoding.HASH_TABLE
    raise RuntimeError(f"Redis holds the hashes as {stored!r}")


def _check_encoding(client: RedisClient, rows: Rows, encoding: Encoding) -> None:
    stored = encoding_of(client, rows)
    if stored is not encoding:
        raise RuntimeError(f"Redis holds the hashes as {stored}, not as {encoding}")
