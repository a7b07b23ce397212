"""Arrow record batches of one view into Redis: the worker that materialization and engines share.

An engine such as Ray or Spark makes one `ViewWriter`, sends it to its workers pickled, and calls
`write_arrow` for each batch of each partition, in any order: event times decide inside Redis. The
writer reads the repository and connects when it first writes.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from hotfeast.hotpath.errors import ProtocolError
from hotfeast.hotpath.latest import LatestRows
from hotfeast.server.cluster_io import open_servers, writer_of
from hotfeast.server.errors import RedisUnavailable
from hotfeast.server.feast_api import FeatureStore, RepoConfig
from hotfeast.server.redis_pools import connection_pool
from hotfeast.server.registry import read_definitions
from hotfeast.server.repository import open_repository
from hotfeast.server.rows import EncodedRows, Rejection, encode, map_fields
from hotfeast.server.write_plan import ViewWrite, plan_write

ON_INVALID = ("reject", "skip", "fail")
"""What becomes of invalid rows: left out and an error, left out, or the end of the run."""

REDIS_TIMEOUT = 5.0
"""Seconds to connect to Redis, and to wait for each next reply."""

PATIENCE = 30.0
"""Seconds for which a Redis that cannot be reached is tried again."""

# Seconds between two tries, the first and the longest.
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 2.0
_MOST_EXAMPLES = 5


class InvalidRow(Exception):
    """A row that cannot be written, where that ends the run."""


@dataclass
class WriteCounts:
    """What became of rows.

    Attributes:
        read: Rows that came.
        written: Those that are in Redis now; of events also those that had been counted before.
        stale: Those older than what Redis had.
        superseded: Those that another row of their entity in the same run makes needless.
        rejected: Those that are invalid, or break a rule of their field.
        failed: Those that Redis refused.
        rules: Rejected rows by field and rule.
        examples: Messages of the first rejected rows.
        refusal: What Redis said of the first row that it refused.
    """

    read: int = 0
    written: int = 0
    stale: int = 0
    superseded: int = 0
    rejected: int = 0
    failed: int = 0
    rules: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    refusal: str = ""

    def add(self, other: "WriteCounts") -> None:
        """Adds those of other rows."""
        self.read += other.read
        self.written += other.written
        self.stale += other.stale
        self.superseded += other.superseded
        self.rejected += other.rejected
        self.failed += other.failed
        self.rules.update(other.rules)
        self.examples += other.examples[: _MOST_EXAMPLES - len(self.examples)]
        self.refusal = self.refusal or other.refusal

    def to_arrow(self) -> pa.Table:
        """The counts as a table of one row, for engines that want a table of each batch."""
        names = ("read", "written", "stale", "superseded", "rejected", "failed")
        return pa.table({name: pa.array([getattr(self, name)], pa.int64()) for name in names})


def counts_of(encoded: EncodedRows, examples: list[str]) -> WriteCounts:
    """What became of the rows of a batch that has been written."""
    outcomes = encoded.batch.counts
    return WriteCounts(
        read=encoded.batch.rows,
        written=outcomes["written"] + outcomes["duplicate"],
        **{n: outcomes[n] for n in ("stale", "superseded", "rejected", "failed")},
        rules=Counter((r.field, r.rule) for r in encoded.rejections),
        examples=examples,
        refusal=encoded.batch.error,
    )


def columns_of(write: ViewWrite, rows: pa.RecordBatch | pa.Table) -> dict[str, Any]:
    """The Arrow columns of a batch that a view's rows are made of, by their names in the view.

    Raises:
        RequestFailure: Two columns have one name.
    """
    wanted = write.columns
    pairs: Iterable[tuple[str, Any]] = zip(rows.schema.names, rows.columns, strict=True)
    return map_fields(write, {n: c for n, c in pairs if write.field_mapping.get(n, n) in wanted})


def examples_of(
    write: ViewWrite, columns: dict[str, Any], rejections: list[Rejection]
) -> list[str]:
    """Messages of the first rejected rows, with their entities: a row's number in its batch says
    little."""
    keys = [name for name, _ in write.compiled.definition.join_keys]
    examples = []
    for rejection in rejections[:_MOST_EXAMPLES]:
        entity = ", ".join(f"{name}={columns[name][rejection.row].as_py()!r}" for name in keys)
        examples.append(f"{rejection.message} ({entity})" if entity else rejection.message)
    return examples


class PatientWriter:
    """Writes batches, and tries again for a while where Redis cannot be reached."""

    def __init__(
        self,
        config: RepoConfig,
        redis_url: str | None = None,
        patience: float = PATIENCE,
        wait: Callable[[float], Any] = time.sleep,
    ) -> None:
        """
        Args:
            config: The repository's configuration.
            redis_url: Used instead of the repository's connection string.
            patience: Seconds without success after which it gives up.
            wait: Sleeps between two tries; a true answer ends the tries.

        Raises:
            StartFailure: The online store is no Redis, or its address is malformed.
        """
        self._servers = open_servers(connection_pool(config, redis_url, REDIS_TIMEOUT))
        self._writer = writer_of(self._servers, REDIS_TIMEOUT)
        self._patience = patience
        self._wait = wait

    def write(self, encoded: EncodedRows) -> None:
        """Writes what is pending in a batch. Writing rows again is safe.

        Raises:
            RedisUnavailable: Redis could not be reached for too long, or is not Redis.
        """
        end = time.monotonic() + self._patience
        pause = _FIRST_WAIT
        while True:
            try:
                self._writer.write(encoded.batch)
                return
            except ProtocolError as error:
                raise RedisUnavailable(str(error)) from error
            except RedisUnavailable as error:
                left = end - time.monotonic()
                if left <= 0 or self._wait(min(pause, left)):
                    raise RedisUnavailable(
                        f"{error}; tried for {self._patience:.0f} s" if left <= 0 else str(error)
                    ) from error
                pause = min(2 * pause, _LONGEST_WAIT)

    def close(self) -> None:
        """Closes the connections."""
        self._servers.close()


class ViewWriter:
    """Writes rows of one view; can be pickled, and used in any number of processes at once.

    With Ray Data: `rows.map_batches(lambda t: writer.write_arrow(t).to_arrow(),
    batch_format="pyarrow")`; with Spark: `frame.mapInArrow(writer.write_batches, schema)`.
    """

    def __init__(
        self,
        repo: Path | str,
        view: str,
        *,
        event_time_check: bool = True,
        on_invalid: str = "reject",
        redis_url: str | None = None,
        version: int | None = None,
        patience: float = PATIENCE,
        layout: str | None = None,
    ) -> None:
        """
        Args:
            repo: The folder with `feature_store.yaml`, on each machine that writes.
            view: The view.
            event_time_check: Whether event times are compared with what Redis has, so that a newer
                row stays. Without, rows must come in order, and nobody else may write.
            on_invalid: One of `ON_INVALID`.
            redis_url: Used instead of the repository's connection string.
            version: The view's version; the current one if None.
            patience: Seconds for which a Redis that cannot be reached is tried again.
            layout: How rows are stored if the view's tags do not say; feature_store.yaml's if None.

        Raises:
            ValueError: `on_invalid` is none of `ON_INVALID`.
        """
        if on_invalid not in ON_INVALID:
            raise ValueError(f"on_invalid is {on_invalid!r}; it must be one of {ON_INVALID}")
        self._options: dict[str, Any] = {
            "repo": Path(repo).absolute(),
            "view": view,
            "event_time_check": event_time_check,
            "on_invalid": on_invalid,
            "redis_url": redis_url,
            "version": version,
            "patience": patience,
            "layout": layout,
        }
        self._opened: tuple[ViewWrite, PatientWriter] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _view_writer, (self._options,)

    def _open(self) -> tuple[ViewWrite, PatientWriter]:
        if self._opened is None:
            store = open_repository(self._options["repo"])
            write = plan_view(
                store, self._options["view"], self._options["version"], self._options["layout"]
            )
            writer = PatientWriter(
                store.config, self._options["redis_url"], self._options["patience"]
            )
            self._opened = write, writer
        return self._opened

    def write_arrow(self, rows: pa.RecordBatch | pa.Table) -> WriteCounts:
        """Writes rows.

        Args:
            rows: Columns have the names of the source or of the view; others are ignored.

        Returns:
            What became of the rows; those that were lost are `rejected` and `failed`.

        Raises:
            StartFailure: The repository cannot be opened.
            RequestFailure: The view cannot be written, or a column is missing or of a type that
                cannot be converted.
            InvalidRow: A row is invalid and `on_invalid` is `fail`; nothing of these rows is
                written.
            RedisUnavailable: Redis could not be reached for too long; writing the rows again is
                safe.
        """
        write, writer = self._open()
        columns = columns_of(write, rows)
        encoded = encode(write, columns, check=self._options["event_time_check"])
        examples = examples_of(write, columns, encoded.rejections)
        if examples and self._options["on_invalid"] == "fail":
            raise InvalidRow(examples[0])
        if write.windows is None:
            LatestRows(max(1, rows.num_rows)).sift(encoded.batch)
        writer.write(encoded)
        return counts_of(encoded, examples)

    def write_batches(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Writes batch after batch, and gives the counts of each as a batch of one row."""
        for batch in batches:
            yield from self.write_arrow(batch).to_arrow().to_batches()


def _view_writer(options: dict[str, Any]) -> ViewWriter:
    return ViewWriter(**options)


def plan_view(
    store: FeatureStore, view: str, version: int | None = None, layout: str | None = None
) -> ViewWrite:
    """Plans the writing of a view's rows, as the registry has it now; arguments as of `ViewWriter`.

    Raises:
        RequestFailure: There is no such view or version, or it cannot be written.
    """
    ttl = getattr(store.config.online_store, "key_ttl_seconds", None) or 0
    return plan_write(read_definitions(store, layout), view, ttl, version)
