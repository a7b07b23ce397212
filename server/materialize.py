"""Materialization: the latest rows of views from the offline store into Redis.

One thread reads and encodes, the other writes, so that Redis does not wait. What is under way is
bounded: two batches wait, one is being made and one written. Event times decide inside Redis, so a
run that was interrupted is safely repeated, and two runs or a push at the same time do no harm.
"""

import io
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tqdm import tqdm

from hotfeast.hotpath.latest import LatestRows
from hotfeast.server.bookkeeping import Task, choose, materializing
from hotfeast.server.errors import RedisUnavailable, RequestFailure, StartFailure, not_servable
from hotfeast.server.feast_api import FeatureStore
from hotfeast.server.offline_rows import OfflineRows, open_rows
from hotfeast.server.on_demand_rows import open_inputs, refuse_unless_sources_suffice
from hotfeast.server.repository import open_repository
from hotfeast.server.rows import EncodedRows, encode
from hotfeast.server.view_writer import (
    ON_INVALID,
    PATIENCE,
    InvalidRow,
    PatientWriter,
    WriteCounts,
    columns_of,
    counts_of,
    examples_of,
    plan_view,
)
from hotfeast.server.write_plan import ViewWrite

if TYPE_CHECKING:
    from hotfeast.server.monitoring.written import WriteObserver

ProgressCallback = Callable[[str, int, int | None], None]
"""Called with a view's name, rows of its source that are done, and those in all where known."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""The start of an interval that takes everything."""

# Batches that wait to be written.
_WAITING = 2
# Entities whose newest event time is remembered; 40 bytes each, and twice that at times. Without
# the comparison in Redis those beyond are compared there all the same, which is slower.
_REMEMBERED = {True: 250_000, False: 1_000_000}


class Interrupted(Exception):
    """The run was asked to stop."""


class RowsRefused(Exception):
    """Redis refused rows."""


@dataclass
class ViewSummary:
    """What became of one view.

    Attributes:
        view: Its name.
        start: The first event time of the interval, inclusive.
        end: The last one, inclusive.
        state: `done`, `failed`, `interrupted`, `not started`, or `skipped`: a view that nobody
            named, on-demand with rows that can only be pushed, or of windows over events.
        way: Where its rows came from: that of `OfflineRows`, or `Feast` where Feast itself wrote
            them, and only it knows how many.
        counts: What became of the rows.
        seconds: How long it took.
        error: Why it failed, or is skipped.
    """

    view: str
    start: datetime
    end: datetime
    state: str = "not started"
    way: str = ""
    counts: WriteCounts = field(default_factory=WriteCounts)
    seconds: float = 0.0
    error: str = ""


@dataclass
class Summary:
    """What became of a run.

    Attributes:
        views: Its views, in their order.
        on_invalid: What was to become of invalid rows.
    """

    views: list[ViewSummary]
    on_invalid: str

    @property
    def interrupted(self) -> bool:
        """Whether the run was asked to stop before its end."""
        return any(view.state == "interrupted" for view in self.views)

    @property
    def exit_code(self) -> int:
        """0 where all is written; 130 after an interruption; 1 where anything was lost."""
        if self.interrupted:
            return 130
        if any(view.state not in ("done", "skipped") for view in self.views):
            return 1
        rejected = any(view.counts.rejected for view in self.views)
        return 1 if rejected and self.on_invalid != "skip" else 0


def materialize(
    repo: FeatureStore | Path | str,
    start: datetime,
    end: datetime,
    views: Sequence[str] | None = None,
    *,
    version: str | None = None,
    event_time_check: bool = True,
    on_invalid: str = "reject",
    redis_url: str | None = None,
    layout: str | None = None,
    patience: float = PATIENCE,
    progress: ProgressCallback | None = None,
    stop: threading.Event | None = None,
    monitor_dir: Path | None = None,
) -> Summary:
    """Writes the latest rows of an interval to Redis, as `FeatureStore.materialize` does.

    Args:
        repo: The repository: its folder, or Feast's store of it.
        start: The first event time, inclusive; UTC where it has no zone.
        end: The last event time, inclusive; likewise.
        views: Names of views; None for all that are online and enabled.
        version: A version such as `v2` of the one view that is named.
        event_time_check: Whether event times are compared with what Redis has. Without, everything
            is written: for a bulk load into an empty store.
        on_invalid: What becomes of invalid rows. `reject`: they are left out, and the run counts as
            failed; `skip`: they are left out; `fail`: the first ends the run.
        redis_url: Used instead of the repository's connection string.
        layout: How rows are stored of views whose tags do not say; feature_store.yaml's if None.
        patience: Seconds for which a Redis that cannot be reached is tried again.
        progress: Is told of each batch.
        stop: Ends the run once it is set.
        monitor_dir: Folder where what is written is described for the monitoring; nowhere if None.

    Returns:
        What became of each view. A view that failed is in it, with its error.

    Raises:
        StartFailure: The repository cannot be opened, its online store is not Redis, or nothing can
            be written to `monitor_dir`.
        RequestFailure: A view cannot be written; nothing is.
        ValueError: A view cannot be materialized, or an argument makes no sense; nothing is done.
        FeastObjectNotFoundException: There is no such view or version.
    """
    store = repo if isinstance(repo, FeatureStore) else open_repository(Path(repo))
    run = _Run(
        store, event_time_check, on_invalid, redis_url, layout, patience, progress, stop,
        monitor_dir,
    )  # fmt: skip
    return run.materialize(choose(store, views, version, start, end), views is not None)


def materialize_incremental(
    repo: FeatureStore | Path | str,
    end: datetime,
    views: Sequence[str] | None = None,
    *,
    version: str | None = None,
    event_time_check: bool = True,
    on_invalid: str = "reject",
    redis_url: str | None = None,
    layout: str | None = None,
    patience: float = PATIENCE,
    progress: ProgressCallback | None = None,
    stop: threading.Event | None = None,
    monitor_dir: Path | None = None,
) -> Summary:
    """Goes on from where the last run of each view ended, as Feast's `materialize_incremental`.

    A view that was never materialized starts its TTL before now, or a year where its TTL is 0.
    Arguments, result and errors are those of `materialize`.
    """
    store = repo if isinstance(repo, FeatureStore) else open_repository(Path(repo))
    run = _Run(
        store, event_time_check, on_invalid, redis_url, layout, patience, progress, stop,
        monitor_dir,
    )  # fmt: skip
    return run.materialize(choose(store, views, version, None, end), views is not None)


class _Run:
    """One call of `materialize` or `materialize_incremental`."""

    def __init__(
        self,
        store: FeatureStore,
        check: bool,
        on_invalid: str,
        redis_url: str | None,
        layout: str | None,
        patience: float,
        progress: ProgressCallback | None,
        stop: threading.Event | None,
        monitor_dir: Path | None,
    ) -> None:
        if on_invalid not in ON_INVALID:
            raise ValueError(f"on_invalid is {on_invalid!r}; it must be one of {ON_INVALID}")
        self._store = store
        self._check = check
        self._on_invalid = on_invalid
        self._progress = progress or (lambda view, done, total: None)
        self._stop = stop or threading.Event()
        self._layout = layout
        self._observer = _open_observer(monitor_dir) if monitor_dir is not None else None
        self._writer = PatientWriter(store.config, redis_url, patience, self._stop.wait)

    def materialize(self, tasks: list[Task], named: bool) -> Summary:
        summary = Summary(
            [ViewSummary(task.view.name, task.start, task.end) for task in tasks],
            self._on_invalid,
        )
        # Before anything is written, so that a mistake in the last view is told at once.
        writes = [
            self._plan(task, view, named) for task, view in zip(tasks, summary.views, strict=True)
        ]
        try:
            for task, write, view in zip(tasks, writes, summary.views, strict=True):
                if view.state != "skipped" and not self._view(task, write, view):
                    break
            done = [
                task.view.name
                for task, view in zip(tasks, summary.views, strict=True)
                if view.state == "done" and not task.on_demand
            ]
            if done and hasattr(self._store, "_precompute_affected_services"):
                self._store._precompute_affected_services(done)
        finally:
            self._writer.close()
            if self._observer is not None:
                self._observer.close()
        return summary

    def _plan(self, task: Task, summary: ViewSummary, named: bool) -> ViewWrite | None:
        """How a view's rows are written; None where Feast does it, or nobody."""
        if not task.on_demand and not task.view.online:
            return None
        write = plan_view(self._store, task.view.name, task.version, self._layout)
        if write.windows is not None:
            message = (
                f"feature view {write.name!r} has windows over events: fill its tiles in with "
                "'hotfeast backfill'"
            )
            if named:
                raise not_servable(message)
            summary.state, summary.error = "skipped", message
            return None
        if task.on_demand:
            try:
                refuse_unless_sources_suffice(self._store, task.view, write)
            except RequestFailure as failure:
                if named:
                    raise
                summary.state, summary.error = "skipped", failure.message
        return write

    def _view(self, task: Task, write: ViewWrite | None, summary: ViewSummary) -> bool:
        """Materializes one view; says whether to go on with the next."""
        if self._stop.is_set():
            summary.state = "interrupted"
            return False
        started = time.perf_counter()
        try:
            with materializing(self._store, task):
                rows = None
                if write is not None:
                    opened = open_inputs if task.on_demand else open_rows
                    rows = opened(self._store, task.view, write, task.start, task.end)
                if write is None or rows is None:
                    summary.way = "Feast"
                    self._by_feast(task)
                else:
                    summary.way = rows.way
                    self._write(write, rows, summary.counts)
                    if summary.counts.failed:
                        raise RowsRefused(
                            f"Redis refused {summary.counts.failed:,} rows: "
                            f"{summary.counts.refusal}"
                        )
            summary.state = "done"
            return True
        except Interrupted:
            summary.state = "interrupted"
            return False
        except (RedisUnavailable, InvalidRow) as error:
            summary.state = "interrupted" if self._stop.is_set() else "failed"
            summary.error = str(error)
            return False
        except Exception as error:
            # Of this view's source or rows; other views may do better.
            summary.state = "failed"
            told = isinstance(error, (RequestFailure, RowsRefused))
            summary.error = str(error) if told else f"{type(error).__name__}: {error}"
            return True
        finally:
            summary.seconds = time.perf_counter() - started

    def _by_feast(self, task: Task) -> None:
        """Has Feast write the rows, to the repository's own Redis."""
        # It prints warnings and bars of its own.
        with redirect_stdout(io.StringIO()):
            self._store._get_provider().materialize_single_feature_view(
                config=self._store.config,
                feature_view=task.view,
                start_date=task.start,
                end_date=task.end,
                registry=self._store.registry,
                project=self._store.project,
                tqdm_builder=lambda length: tqdm(total=length, disable=True),
            )

    def _write(self, write: ViewWrite, rows: OfflineRows, counts: WriteCounts) -> None:
        """Writes all rows of a view."""
        name, seen = write.name, 0
        self._progress(name, 0, rows.total)
        with _Reader(write, rows, self._check, self._on_invalid == "fail", self._stop) as reader:
            while (item := reader.next()) is not None:
                try:
                    self._writer.write(item.encoded)
                finally:
                    counts.add(counts_of(item.encoded, item.examples))
                if self._observer is not None:
                    self._observer.wrote(write, item.encoded)
                seen += item.seen
                self._progress(name, seen, rows.total)
        self._progress(name, seen, seen)


def _open_observer(folder: Path) -> "WriteObserver":
    # Only here: what it needs takes a while to import.
    from hotfeast.server.monitoring.written import WriteObserver

    try:
        return WriteObserver(folder)
    except OSError as error:
        raise StartFailure(f"the monitoring cannot write to {folder}: {error}") from error


class _Ready(NamedTuple):
    """A batch that is ready to be written.

    Attributes:
        encoded: Its rows.
        examples: Messages of the first that are rejected.
        seen: How many rows of the source it accounts for.
    """

    encoded: EncodedRows
    examples: list[str]
    seen: int


class _Reader:
    """Reads and encodes in a thread of its own, a few batches ahead."""

    def __init__(
        self, write: ViewWrite, rows: OfflineRows, check: bool, strict: bool, stop: threading.Event
    ) -> None:
        self._write = write
        self._rows = rows
        self._check = check
        self._strict = strict
        self._stop = stop
        self._ready: queue.Queue[_Ready | BaseException | None] = queue.Queue(_WAITING)
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._read, name="hotfeast-read", daemon=True)

    def next(self) -> _Ready | None:
        """The next batch; None at the end.

        Raises:
            Interrupted: The run is to stop.
            Exception: Whatever went wrong with the source or its rows.
        """
        while True:
            if self._stop.is_set():
                raise Interrupted
            try:
                item = self._ready.get(timeout=0.1)
            except queue.Empty:
                continue
            if isinstance(item, BaseException):
                raise item
            return item

    def _read(self) -> None:
        try:
            latest = LatestRows(_REMEMBERED[self._check])
            for portion in self._rows.portions:
                columns = columns_of(self._write, portion.rows)
                encoded = encode(self._write, columns, check=self._check)
                examples = examples_of(self._write, columns, encoded.rejections)
                if examples and self._strict:
                    raise InvalidRow(examples[0])
                latest.sift(encoded.batch)
                if not self._put(_Ready(encoded, examples, portion.seen)):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: _Ready | BaseException | None) -> bool:
        """Hands over; false where nobody takes it any more."""
        while not self._left.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    def __enter__(self) -> "_Reader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()
