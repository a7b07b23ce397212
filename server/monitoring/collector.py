"""What the processes of a gateway have seen, in one folder: each writes a file, anybody reads all.

A file is replaced as a whole, so that a reader never sees half of one. Those of processes that have
ended count on until they are older than the history that is kept. A materialization that is given
the folder writes there, too.
"""

import json
import logging
import os
import struct
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hotfeast.server.monitoring.observed import Observation
from hotfeast.server.monitoring.windows import HISTORY_DAYS, WINDOW_SECONDS, MonitoringStore

logger = logging.getLogger(__name__)

WRITE_EVERY = 10.0
"""Seconds between two writes of a process' file, at least, unless the caller says otherwise."""

# A write takes at most this share of the time, in which requests have to share the interpreter.
_WRITING_SHARE = 0.01
_MAGIC = b"HFM1"
_HEAD = struct.Struct("<4sI")
_SUFFIX = ".monitor"
_DAY = 86400.0


@dataclass
class Collected:
    """What all processes have seen.

    Attributes:
        store: Their windows and history, merged.
        every: One of how many reads was chosen; 0 where no process reads.
        dropped: Samples that found a queue full.
        ttls: For each view that is served its TTL in seconds; 0 where rows do not expire.
        definitions: The fingerprint of those that are served, of the process that wrote last;
            empty where none serves.
        files: How many files there were.
    """

    store: MonitoringStore
    every: int = 0
    dropped: int = 0
    ttls: dict[str, float] = field(default_factory=dict)
    definitions: str = ""
    files: int = 0


class Collector:
    """The file of this process."""

    def __init__(
        self,
        folder: Path,
        seconds: int = WINDOW_SECONDS,
        every: int = 0,
        ttls: Callable[[], Mapping[str, float]] = dict,
        dropped: Callable[[], int] = lambda: 0,
        definitions: Callable[[], str] = str,
        write_every: float = WRITE_EVERY,
    ) -> None:
        """
        Args:
            folder: Where it is; made if it is not there.
            seconds: How long a window is.
            every: One of how many reads is chosen.
            ttls: Says the TTLs of views, for `Collected`.
            dropped: Says how many samples were dropped.
            definitions: Says the fingerprint of the definitions that are served.
            write_every: Seconds between two writes of the file, at least.

        Raises:
            OSError: The folder cannot be made.
            ValueError: An hour is not a number of windows.
        """
        self.store = MonitoringStore(seconds)
        folder.mkdir(parents=True, exist_ok=True)
        _remove_old(folder)
        self._path = folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}{_SUFFIX}"
        self._every = every
        self._ttls = ttls
        self._dropped = dropped
        self._definitions = definitions
        self._write_every = write_every
        self._due = 0.0

    def observe(self, observation: Observation) -> None:
        """Adds rows to the store."""
        self.store.observe(observation)

    def write_if_due(self) -> None:
        """Writes the file, if it is old."""
        if time.monotonic() >= self._due:
            self.write()

    def write(self) -> None:
        """Writes the file; that it cannot is told in the log."""
        began = time.monotonic()
        self.store.advance(time.time())
        header = json.dumps(
            {
                "every": self._every,
                "dropped": self._dropped(),
                "ttls": dict(self._ttls()),
                "definitions": self._definitions(),
            }
        ).encode()
        data = self.store.to_bytes()
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(_HEAD.pack(_MAGIC, len(header)))
                file.write(header)
                file.write(data)
            temporary.replace(self._path)
        except OSError as error:
            logger.warning("the monitoring's file cannot be written: %s", error)
        now = time.monotonic()
        self._due = now + max(self._write_every, (now - began) / _WRITING_SHARE)


def read_collected(folder: Path) -> Collected:
    """Merges the files of a folder. Files whose windows are of another length than the newest
    file's, and files that cannot be read, are left out and told in the log.

    Args:
        folder: The folder; one that is not there is empty.
    """
    files = sorted(folder.glob(f"*{_SUFFIX}"), key=_modified, reverse=True)
    collected: Collected | None = None
    for path in files:
        try:
            header, store = _read(path)
            if collected is None:
                collected = Collected(MonitoringStore(store.seconds), ttls=header["ttls"])
            collected.store.merge(store)
            collected.every = collected.every or int(header["every"])
            collected.dropped += int(header["dropped"])
            collected.ttls = {**header["ttls"], **collected.ttls}
            collected.definitions = collected.definitions or str(header.get("definitions", ""))
            collected.files += 1
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s is left out of the monitoring: %s", path, error)
    if collected is None:
        return Collected(MonitoringStore())
    collected.store.advance(time.time())
    return collected


def window_seconds(folder: Path) -> int:
    """How long the windows of a folder's newest file are; the default where there is none."""
    for path in sorted(folder.glob(f"*{_SUFFIX}"), key=_modified, reverse=True):
        try:
            return _read(path)[1].seconds
        except (OSError, ValueError):
            continue
    return WINDOW_SECONDS


def read_all(folder: Path) -> MonitoringStore:
    """The windows and history of all processes, merged; as `read_collected`."""
    return read_collected(folder).store


def _read(path: Path) -> tuple[dict[str, Any], MonitoringStore]:
    data = path.read_bytes()
    if len(data) < _HEAD.size:
        raise ValueError("it is cut")
    magic, size = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError("it is not of this version of Hotfeast")
    header = json.loads(data[_HEAD.size : _HEAD.size + size])
    return header, MonitoringStore.from_bytes(data[_HEAD.size + size :])


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _remove_old(folder: Path) -> None:
    """Removes files of which nothing is left in the history."""
    oldest = time.time() - HISTORY_DAYS * _DAY
    for path in folder.glob(f"*{_SUFFIX}"):
        if _modified(path) < oldest:
            with suppress(FileNotFoundError):
                path.unlink()
