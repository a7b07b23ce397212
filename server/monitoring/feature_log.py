"""Served answers to Parquet, in the schema in which Feast logs features.

Feast defines what is logged: a feature service's `logging_config` says where to and at what rate,
`feast.feature_logging` which columns there are: join keys and request data, each feature as
`view__feature` with `__status` and `__timestamp`, and `__log_timestamp`, `__log_date` and
`__request_id`. So Feast reads the files as its own (`FeatureStore.validate_logged_features`).

A thread decodes what waits and writes it; what finds the queue full is dropped and counted. A file
is written under a hidden name and appears, whole, under its own once it is large or old enough or
the gateway drains. The versions of the views that were read are in the file's metadata. A folder
that has gone is made again, but the rows of a file that was being written in it are lost.
"""

import json
import logging
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from hotfeast.hotpath.answer import NO_TIME, Answer, AnswerColumn
from hotfeast.hotpath.answer_arrow import arrow_array, without_feast_nulls
from hotfeast.server.errors import StartFailure
from hotfeast.server.feast_api import FeatureServiceLoggingSource, FeatureStore
from hotfeast.server.monitoring.tap import Sample
from hotfeast.server.monitoring.turns import Turns

logger = logging.getLogger(__name__)

VERSIONS_KEY = b"hotfeast.view_versions"
"""Key of the file's metadata that has a JSON object of view names to version numbers."""

_REQUEST_ID, _LOG_TIME, _LOG_DATE = "__request_id", "__log_timestamp", "__log_date"
_TURN = 1.0
# Bytes of requests and answers that wait at most, and rows that are kept for one row group.
_MOST_BYTES = 64 * 2**20
_ROW_GROUP = 10_000
_SECONDS = pa.timestamp("s", "UTC")


class Limits(NamedTuple):
    """When a file is complete.

    Attributes:
        size: Bytes that have been written.
        seconds: Its age.
    """

    size: int = 128 * 2**20
    seconds: float = 300.0


DEFAULT_LIMITS = Limits()


class LoggedService(NamedTuple):
    """How a feature service's answers are logged.

    Attributes:
        name: Its name.
        rate: The share of requests, 0 to 1.
        schema: Feast's.
        folder: Where the files go.
    """

    name: str
    rate: float
    schema: pa.Schema
    folder: Path


def logged_services(
    store: FeatureStore, folder: Path, default_rate: float = 0.0
) -> dict[str, LoggedService]:
    """The feature services that are logged, by name.

    Args:
        store: The repository, with its registry read anew.
        folder: Where files go of services whose `logging_config` names no local folder.
        default_rate: The rate of services without a `logging_config`.

    Raises:
        StartFailure: Feast's logging schema has no place for a feature of a service whose
            `logging_config` asks for it.
    """
    found = {}
    for service in store.list_feature_services():
        config = service.logging_config
        rate = default_rate if config is None else config.sample_rate
        if rate <= 0:
            continue
        try:
            schema = FeatureServiceLoggingSource(service, store.project).get_schema(store.registry)
        except Exception as error:
            # A type that Feast does not log, or a view that is gone.
            words = f"feature service {service.name!r} cannot be logged: {_words(error)}"
            if config is None:
                logger.warning(words)
                continue
            raise StartFailure(f"{words}; take its logging_config away, or the feature") from error
        target = _local_folder(store, config) or folder / service.name
        found[service.name] = LoggedService(service.name, min(rate, 1.0), schema, target)
    return found


def _words(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"Feast's logging has no column type for {error.args[0]}"
    return str(error) or type(error).__name__


def _local_folder(store: FeatureStore, config: Any) -> Path | None:
    """The folder that a `logging_config` names; None where it is no local one."""
    path = getattr(config.destination, "path", "") if config is not None else ""
    if not path or "://" in path:
        return None
    # As Feast's own offline store takes it.
    return Path(store.config.repo_path or ".") / path


class _Logged(NamedTuple):
    time: float
    request_id: str
    sample: Sample
    answer: bytes


@dataclass(slots=True)
class LogCounts:
    """What became of the rows that were to be logged of a feature service.

    Attributes:
        written: Rows in files that are complete.
        dropped: Rows that are not logged: the queue was full, they could not be written, or do not
            fit the schema.
        files: Files that are complete.
        bytes: Their size.
    """

    written: int = 0
    dropped: int = 0
    files: int = 0
    bytes: int = 0


class FeatureLog:
    """The feature log of one process.

    Attributes:
        counts: By feature service.
        waiting: Bytes of answers in the queue.
    """

    def __init__(
        self,
        services: Callable[[], Mapping[str, LoggedService]],
        limits: Limits = DEFAULT_LIMITS,
        generation: Callable[[], int] = lambda: 0,
        tell: Callable[["FeatureLog"], None] = lambda _: None,
    ) -> None:
        """
        Args:
            services: Reads what is to be logged; is called now, and for each new generation.
            limits: When a file is complete.
            generation: Says which state of the registry is served.
            tell: Is told of the log after each turn, by one thread.

        Raises:
            StartFailure: What `services` raises, or a folder cannot be written.
        """
        self._read = services
        self._limits = limits
        self._generation = generation
        self._tell = tell
        self._read_at = generation()
        self._services = services()
        self._rates = {s.name: s.rate for s in self._services.values()}
        self.counts = {name: LogCounts() for name in self._services}
        self.waiting = 0
        self._lock = threading.Lock()
        self._queue: list[_Logged] = []
        self._files: dict[str, _File] = {}
        self._turns = Turns("feature-log", self.turn, _TURN)
        for service in self._services.values():
            try:
                _make_folder(service)
            except OSError as error:
                raise StartFailure(_unwritable(service, error)) from error

    # ------------------------------------------------------------ on the request path

    def wants(self, service: str | None) -> bool:
        """Whether a request for a feature service is to be logged."""
        if service is None:
            return False
        rate = self._rates.get(service, 0.0)
        return rate > 0 and (rate >= 1 or random.random() < rate)

    def add(self, sample: Sample, answer: bytes) -> None:
        """Takes the answer to a request that is to be logged."""
        given = sample.caller.request_id if sample.caller is not None else None
        request_id = given.decode("utf-8", "replace") if given else str(uuid.uuid4())
        with self._lock:
            if self.waiting + len(answer) <= _MOST_BYTES:
                self.waiting += len(answer)
                self._queue.append(_Logged(time.time(), request_id, sample, answer))
                return
        self._drop(sample.plan.service or "", Answer(answer).rows)

    # ------------------------------------------------------------ in the thread

    def start(self) -> None:
        """Starts writing."""
        self._turns.start()

    def stop(self) -> None:
        """Writes what waits, and completes the files."""
        self._turns.stop()
        self._turns.attempt(self.turn)
        for name in list(self._files):
            self._complete(name)
        self._tell(self)

    def turn(self, pace: Callable[[], None] = lambda: None) -> None:
        """Writes what waits, and completes files that are large or old enough."""
        generation = self._generation()
        if generation != self._read_at:
            self._read_at = generation
            self._read_again()
        with self._lock:
            waiting, self._queue, self.waiting = self._queue, [], 0
        groups: dict[tuple[int, bytes], list[_Logged]] = {}
        for logged in waiting:
            key = id(logged.sample.plan), Answer(logged.answer).head
            groups.setdefault(key, []).append(logged)
        for group in groups.values():
            self._write(group, pace)
        for name, file in list(self._files.items()):
            if file.is_due(self._limits):
                self._complete(name)
        self._tell(self)

    def _read_again(self) -> None:
        try:
            services = self._read()
        except Exception as error:
            logger.warning("the feature log goes on as before the registry changed: %s", error)
            return
        for name in list(self._files):
            if name not in services or services[name] != self._services[name]:
                self._complete(name)
        for service in services.values():
            if service.name not in self._services:
                try:
                    _make_folder(service)
                except OSError as error:
                    # It is tried again for each file.
                    logger.warning(_unwritable(service, error))
        with self._lock:
            for name in services:
                self.counts.setdefault(name, LogCounts())
        self._services = services
        self._rates = {s.name: s.rate for s in services.values()}

    def _write(self, group: Sequence[_Logged], pace: Callable[[], None]) -> None:
        plan = group[0].sample.plan
        service = self._services.get(plan.service or "")
        if service is None:
            # It is not logged any more, or not there.
            self._drop(plan.service or "", Answer(*(logged.answer for logged in group)).rows)
            return
        versions = dict(plan.compiled.definition.view_versions)
        try:
            table = log_table(service.schema, group, pace)
            file = self._file(service, versions)
        except (pa.ArrowException, OSError, ValueError) as error:
            logger.error("features of %r were not logged: %s", service.name, error)
            self._drop(service.name, Answer(*(logged.answer for logged in group)).rows)
            return
        try:
            file.add(table)
        except (pa.ArrowException, OSError) as error:
            self._lose(self._files.pop(service.name), error)

    def _file(self, service: LoggedService, versions: dict[str, int]) -> "_File":
        """The file that rows of these versions go to."""
        file = self._files.get(service.name)
        if file is not None and (file.versions != versions or file.has_gone()):
            self._complete(service.name)
            file = None
        if file is None:
            file = self._files[service.name] = _File(service, versions)
        return file

    def _complete(self, name: str) -> None:
        file = self._files.pop(name)
        try:
            size = file.complete()
        except (pa.ArrowException, OSError) as error:
            self._lose(file, error)
            return
        counts = self.counts[name]
        counts.written += file.rows
        counts.files += 1
        counts.bytes += size

    def _lose(self, file: "_File", error: Exception) -> None:
        logger.error("a file of the feature log of %r is lost: %s", file.service, error)
        file.remove()
        self._drop(file.service, file.rows)

    def _drop(self, service: str, rows: int) -> None:
        with self._lock:
            self.counts.setdefault(service, LogCounts()).dropped += rows


def log_table(
    schema: pa.Schema, group: Sequence[_Logged], pace: Callable[[], None] = lambda: None
) -> pa.Table:
    """Answers to requests of one plan, with the same columns, as rows of the log.

    Args:
        schema: Feast's, of the feature service.
        group: The answers.
        pace: Is called after each column.

    Raises:
        pyarrow.ArrowException: A value does not fit its column.
        MalformedAnswer: An answer is none.
    """
    plan = group[0].sample.plan
    answer = Answer(*(logged.answer for logged in group))
    keys = {
        name: key.name
        for key in plan.compiled.definition.join_keys
        for name in (key.name, *key.aliases)
    }
    features = {f.output_name: f"{f.prefix}__{f.feature}" for f in plan.served}
    columns: dict[str, pa.Array] = {}
    for index, name in enumerate(answer.names):
        column = answer.column(index)
        if name in features:
            logged_as = features[name]
            columns[logged_as] = without_feast_nulls(arrow_array(column))
            columns[f"{logged_as}__timestamp"] = _seconds(column)
            columns[f"{logged_as}__status"] = pa.array(
                np.frombuffer(column.statuses, np.uint8).astype(np.int32)
            )
        else:
            columns[keys.get(name, name)] = arrow_array(column)
        pace()
    for name in group[0].sample.request.context_columns:
        sent = [logged.sample.request.context_columns[name] for logged in group]
        columns[name] = arrow_array(AnswerColumn.of_values(name, sent))
    counts = answer.rows_of_each
    times = np.repeat([int(logged.time * 1e6) for logged in group], counts).astype(np.int64)
    columns[_LOG_TIME] = pa.array(times).cast(pa.timestamp("us", "UTC"))
    columns[_LOG_DATE] = columns[_LOG_TIME].cast(pa.date32())
    ids = pa.array([logged.request_id for logged in group])
    columns[_REQUEST_ID] = ids.take(pa.array(np.repeat(np.arange(len(group)), counts)))
    made = []
    for field in schema:
        array = columns.get(field.name)
        if array is None:
            array = pa.nulls(answer.rows, field.type)
        made.append(_stored(array if array.type == field.type else array.cast(field.type)))
    return pa.Table.from_arrays(made, schema=schema)


def _stored(array: pa.Array) -> pa.Array:
    """An array that Parquet can hold, which has no times in seconds but in milliseconds."""
    kind = array.type
    inner = kind.value_type if pa.types.is_list(kind) else kind
    if pa.types.is_timestamp(inner) and inner.unit == "s":
        in_file = pa.timestamp("ms", inner.tz)
        # Told here, since when the file is written it would be lost as a whole.
        array.cast(pa.list_(in_file) if pa.types.is_list(kind) else in_file)
    return array


def _seconds(column: AnswerColumn) -> pa.Array:
    times = np.frombuffer(column.event_timestamps, np.int64)
    return pa.array(times // 10**6, mask=times == NO_TIME).cast(_SECONDS)


class _File:
    """A file that is being written.

    Attributes:
        service: The feature service.
        versions: Of the views that its rows were read from.
        rows: How many have been added.
    """

    def __init__(self, service: LoggedService, versions: dict[str, int]) -> None:
        began = datetime.now(UTC)
        name = f"{began:%Y%m%dT%H%M%S}-{os.getpid()}-{uuid.uuid4().hex[:8]}.parquet"
        self._path = service.folder / name
        self._hidden = service.folder / f".{name}.{os.getpid()}.tmp"
        self.service = service.name
        self.versions = versions
        self.rows = 0
        self._began = time.monotonic()
        self._schema = service.schema.with_metadata(
            {**(service.schema.metadata or {}), VERSIONS_KEY: json.dumps(versions).encode()}
        )
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        # Who keeps the folder may have removed it meanwhile.
        service.folder.mkdir(parents=True, exist_ok=True)
        self._output = pa.OSFile(str(self._hidden), "wb")
        self._writer = pa.parquet.ParquetWriter(self._output, self._schema)

    def add(self, table: pa.Table) -> None:
        """Adds rows, of the service's schema."""
        self.rows += table.num_rows
        self._waiting.append(table.replace_schema_metadata(self._schema.metadata))
        self._waiting_rows += table.num_rows
        if self._waiting_rows >= _ROW_GROUP:
            self._flush()

    def is_due(self, limits: Limits) -> bool:
        """Whether it is large or old enough."""
        old = time.monotonic() - self._began >= limits.seconds
        return old or self._output.tell() >= limits.size

    def has_gone(self) -> bool:
        """Whether somebody has removed it, so that more rows would be lost, too."""
        return not self._hidden.exists()

    def complete(self) -> int:
        """Writes the rest, and gives it its name; returns its size in bytes."""
        self._flush()
        self._writer.close()
        size = int(self._output.tell())
        self._output.close()
        os.replace(self._hidden, self._path)
        return size

    def remove(self) -> None:
        """Removes what has been written."""
        with suppress(OSError):
            self._output.close()
        with suppress(FileNotFoundError):
            self._hidden.unlink()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting), self._waiting_rows)
            self._waiting, self._waiting_rows = [], 0


def _unwritable(service: LoggedService, error: OSError) -> str:
    return f"the features of {service.name!r} cannot be logged to {service.folder}: {error}"


def _make_folder(service: LoggedService) -> None:
    """Makes its folder, and removes hidden files of processes that have died: without an end they
    cannot be read."""
    service.folder.mkdir(parents=True, exist_ok=True)
    for path in service.folder.glob(".*.parquet.*.tmp"):
        pid = path.name.rsplit(".", 2)[1]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            with suppress(FileNotFoundError):
                path.unlink()
