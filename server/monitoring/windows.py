"""What each feature's values were like, window by window: the state that monitoring keeps.

Windows start at multiples of their length, so that those of several processes are the same and can
be merged. The statistics of the last windows are kept whole; what they were before is kept as a
`HistoryPoint` an hour.

Memory is bounded. A feature in a channel takes at most 6 KB (numbers) or 30 KB (texts, where there
are 192 frequent ones of 128 characters) for each window and the current hour, `POINT_BYTES` for
each hour of history, and 64 columns or 1,024 rows that wait to be added: by the defaults 150 KB for
numbers and half a megabyte for such texts. Features past `most_features` are refused and counted.

A store is for one thread at a time.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from hotfeast.server.monitoring.history import POINT_BYTES, HistoryPoint
from hotfeast.server.monitoring.moments import Moments
from hotfeast.server.monitoring.observed import Channel, FeatureColumn, Observation
from hotfeast.server.monitoring.statistics import FeatureStatistics, Kind, kind_of

WINDOW_SECONDS = 300
"""How long a window is by default."""
WINDOWS_KEPT = 12
"""How many windows are kept whole by default."""
HISTORY_DAYS = 7
"""How far back points go by default."""
MOST_FEATURES = 1000
"""How many features, each in each channel, are kept by default."""

_HOUR = 3600
# Rows wait until there are so many, or come in so many columns, since adding a row costs little
# more than adding none.
_WAITING_ROWS = 1024
_WAITING_COLUMNS = 64
_MOST_READERS = 1000
_FORMAT = 1
_LENGTH = struct.Struct("<I")


class FeatureKey(NamedTuple):
    """A feature in a channel."""

    channel: Channel
    view: str
    feature: str


class Reader(NamedTuple):
    """Who reads a view: a feature service and a caller, None where they are not known."""

    view: str
    service: str | None
    caller: str | None


class Reading(NamedTuple):
    """How much a reader has read.

    Attributes:
        observations: Requests that were observed, which may be a sample.
        rows: Rows in them.
        last: Time of the last one, in seconds since 1970.
    """

    observations: int
    rows: int
    last: float


@dataclass(frozen=True, slots=True)
class FeatureWindow:
    """What a feature's values were like in one window.

    Attributes:
        key: The feature.
        start: Seconds since 1970.
        seconds: How long the window is.
        statistics: Of the rows in it.
    """

    key: FeatureKey
    start: int
    seconds: int
    statistics: FeatureStatistics


class MonitoringStore:
    """Windows and history of all features.

    Attributes:
        seconds: How long a window is.
        kept: How many windows are kept whole.
        history_days: How far back points go.
        most_features: How many features are kept, each in each channel.
        late: Rows that came after their window had gone.
        refused: Rows of features past `most_features`.
    """

    def __init__(
        self,
        seconds: int = WINDOW_SECONDS,
        kept: int = WINDOWS_KEPT,
        history_days: int = HISTORY_DAYS,
        most_features: int = MOST_FEATURES,
    ) -> None:
        """
        Raises:
            ValueError: An hour is not a number of windows, or a number is not positive.
        """
        if seconds < 1 or _HOUR % seconds:
            raise ValueError(f"a window of {seconds} s does not divide an hour; 300 does")
        if min(kept, history_days, most_features) < 1:
            raise ValueError("kept, history_days and most_features must be at least 1")
        self.seconds = seconds
        self.kept = kept
        self.history_days = history_days
        self.most_features = most_features
        self.late = 0
        self.refused = 0
        self._newest = 0
        self._series: dict[FeatureKey, _Series] = {}
        self._references: dict[tuple[str, str], tuple[float, float]] = {}
        self._readers: dict[Reader, Reading] = {}

    def set_references(self, references: Mapping[tuple[str, str], tuple[float, float]]) -> None:
        """Says what outliers are told by from now on.

        Args:
            references: By view and feature, mean and standard deviation. Outliers of other features
                are told by those of the windows that are kept, once there are numbers in them.
        """
        self._references = dict(references)

    def observe(self, observation: Observation) -> None:
        """Adds rows. A feature whose values are of another kind than before starts anew.

        Raises:
            ValueError: A column is not whole; see `FeatureStatistics.update`. It may be told only
                by a later call, since rows wait to be added.
        """
        start = self._start(observation.time)
        self._newest = max(self._newest, start)
        rows = max((len(column.values) for column in observation.columns), default=0)
        if start <= self._oldest_gone():
            self.late += rows
            return
        for column in observation.columns:
            key = FeatureKey(observation.channel, column.view, column.feature)
            series = self._series.get(key)
            if series is None:
                if len(self._series) >= self.most_features:
                    self.refused += len(column.values)
                    continue
                series = self._series[key] = _Series(self.seconds)
            series.add(start, column, self._references.get((column.view, column.feature)))
        if observation.channel is Channel.served:
            self._count_readers(observation, rows)

    def advance(self, now: float) -> None:
        """Lets windows grow old where no rows come: `now` is in seconds since 1970."""
        self._newest = max(self._newest, self._start(now))

    def keys(self) -> list[FeatureKey]:
        """The features of which there is anything, in order."""
        for key in list(self._series):
            if self._current(key).is_empty():
                del self._series[key]
        return sorted(self._series)

    def windows(self, key: FeatureKey) -> list[FeatureWindow]:
        """The windows that are kept of a feature, in order of time; those without rows are not
        there.

        Raises:
            KeyError: The feature is not known.
        """
        return [
            FeatureWindow(key, start, self.seconds, statistics)
            for start, statistics in self._current(key).windows()
        ]

    def merged(self, key: FeatureKey, since: float = 0.0) -> FeatureStatistics:
        """Statistics over the windows of a feature that are kept.

        Args:
            key: The feature.
            since: Windows that ended by then do not count, in seconds since 1970.

        Raises:
            KeyError: The feature is not known.
        """
        merged = FeatureStatistics()
        for start, statistics in self._current(key).windows():
            if start + self.seconds > since:
                merged.merge(statistics)
        return merged

    def history(self, key: FeatureKey) -> list[HistoryPoint]:
        """Figures of a feature in order of time: of hours, and of each window that is kept.

        Raises:
            KeyError: The feature is not known.
        """
        return self._current(key).history()

    def readers(self) -> dict[Reader, Reading]:
        """Who has read what of what was served; the first thousand readers."""
        return dict(self._readers)

    def merge(self, other: "MonitoringStore") -> None:
        """Adds what another store has seen, which is not to be added to afterwards.

        Raises:
            ValueError: Its windows are of another length.
        """
        if other.seconds != self.seconds:
            raise ValueError(
                f"windows of {other.seconds} s do not go with those of {self.seconds} s"
            )
        self.late += other.late
        self.refused += other.refused
        self._newest = other._newest = max(self._newest, other._newest)
        others = other.keys()
        for key in others:
            if key not in self._series and len(self._series) >= self.most_features:
                self.refused += other.merged(key).rows
                continue
            theirs = other._current(key)
            if key not in self._series:
                self._series[key] = _Series(self.seconds)
            self._current(key).merge(theirs)
        for reader, theirs_read in other._readers.items():
            self._count_reader(reader, theirs_read)

    def to_bytes(self) -> bytes:
        """All of it but the references, for `from_bytes` of this version of Hotfeast."""
        bodies: list[bytes] = []
        index = []
        known = self.keys()
        for key in known:
            parts = self._series[key].parts()
            bodies += (body for _, _, body in parts)
            index.append([list(key), [(what, start, len(body)) for what, start, body in parts]])
        header = json.dumps(
            {
                "format": _FORMAT,
                "seconds": self.seconds,
                "kept": self.kept,
                "history_days": self.history_days,
                "most_features": self.most_features,
                "late": self.late,
                "refused": self.refused,
                "newest": self._newest,
                "readers": [[*reader, *reading] for reader, reading in self._readers.items()],
                "features": index,
            }
        ).encode()
        return b"".join([_LENGTH.pack(len(header)), header, *bodies])

    @classmethod
    def from_bytes(cls, data: bytes) -> "MonitoringStore":
        """The store that `to_bytes` wrote.

        Raises:
            ValueError: It did not write this, or another version of Hotfeast did.
        """
        try:
            (length,) = _LENGTH.unpack_from(data)
            place = _LENGTH.size + length
            header = json.loads(data[_LENGTH.size : place])
            if header["format"] != _FORMAT:
                raise ValueError(f"its format is {header['format']}, not {_FORMAT}")
            store = cls(*(header[name] for name in _SETTINGS))
            store.late = header["late"]
            store.refused = header["refused"]
            store._newest = header["newest"]
            for view, service, caller, *reading in header["readers"]:
                store._readers[Reader(view, service, caller)] = Reading(*reading)
            for (channel, view, feature), parts in header["features"]:
                series = _Series(store.seconds)
                for what, start, size in parts:
                    body = data[place : place + size]
                    if len(body) != size:
                        raise ValueError("it has been cut off")
                    series.restore(what, start, body)
                    place += size
                store._series[FeatureKey(Channel(channel), view, feature)] = series
        except (KeyError, TypeError, ValueError, struct.error) as error:
            raise ValueError(f"the state of monitoring cannot be read: {error}") from error
        return store

    def _start(self, time: float) -> int:
        return int(time // self.seconds) * self.seconds

    def _oldest_gone(self) -> int:
        return self._newest - self.kept * self.seconds

    def _oldest_point(self) -> int:
        return self._newest - self.history_days * 24 * _HOUR

    def _current(self, key: FeatureKey) -> "_Series":
        """A feature's series, without what is too old."""
        series = self._series[key]
        series.expire(self._oldest_gone(), self._oldest_point())
        return series

    def _count_readers(self, observation: Observation, rows: int) -> None:
        for view in {column.view for column in observation.columns}:
            reader = Reader(view, observation.service, observation.caller)
            self._count_reader(reader, Reading(observation.requests, rows, observation.time))

    def _count_reader(self, reader: Reader, reading: Reading) -> None:
        before = self._readers.get(reader)
        if before is not None:
            reading = Reading(
                before.observations + reading.observations,
                before.rows + reading.rows,
                max(before.last, reading.last),
            )
        elif len(self._readers) >= _MOST_READERS:
            return
        self._readers[reader] = reading


_SETTINGS = ("seconds", "kept", "history_days", "most_features")


class _Series:
    """Windows, hours and points of one feature.

    The window that rows are added to is open; the others are kept as bytes, which take half the
    memory and are what is written.
    """

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self._waiting: list[FeatureColumn] = []
        self._waiting_rows = 0
        self._reference: tuple[float, float] | None = None
        self._kind = Kind.none
        self._start = 0
        self._open: FeatureStatistics | None = None
        self._sealed: dict[int, bytes] = {}
        self._seen: dict[int, Moments] = {}
        self._hour_start = 0
        self._hour: FeatureStatistics | None = None
        self._points: dict[int, bytes] = {}

    def add(self, start: int, column: FeatureColumn, reference: tuple[float, float] | None) -> None:
        """Takes rows for the window that starts then."""
        if self._waiting and not (
            start == self._start
            and reference == self._reference
            and _goes_with(self._waiting[0], column)
        ):
            self._flush()
        if start != self._start:
            self._flush()
            self._seal()
            self._start = start
        self._reference = reference
        self._waiting.append(column)
        self._waiting_rows += len(column.values)
        if self._waiting_rows >= _WAITING_ROWS or len(self._waiting) >= _WAITING_COLUMNS:
            self._flush()

    def is_empty(self) -> bool:
        """Whether nothing is left of what was added."""
        return not (self._waiting or self._open or self._sealed or self._hour or self._points)

    def windows(self) -> Iterator[tuple[int, FeatureStatistics]]:
        """Start and statistics of each window, in order of time."""
        self._flush()
        starts = set(self._sealed)
        if self._open is not None:
            starts.add(self._start)
        for start in sorted(starts):
            if self._open is not None and start == self._start:
                yield start, self._open.copy()
            else:
                yield start, FeatureStatistics.from_bytes(self._sealed[start])

    def history(self) -> list[HistoryPoint]:
        """Points of hours, of the current one, and of windows."""
        points = [HistoryPoint.from_bytes(self._points[start]) for start in sorted(self._points)]
        if self._hour is not None:
            points.append(HistoryPoint.of(self._hour, self._hour_start, _HOUR))
        for start, statistics in self.windows():
            points.append(HistoryPoint.of(statistics, start, self._seconds))
        return points

    def expire(self, oldest_gone: int, oldest_point: int) -> None:
        """Moves windows that started by `oldest_gone` into their hours, and drops hours that
        started by `oldest_point`."""
        if self._start <= oldest_gone:
            self._flush()
            self._seal()
        for start in sorted(start for start in self._sealed if start <= oldest_gone):
            statistics = FeatureStatistics.from_bytes(self._sealed.pop(start))
            self._seen.pop(start, None)
            self._add_to_hour(start // _HOUR * _HOUR, statistics)
        for start in [start for start in self._points if start <= oldest_point]:
            del self._points[start]
        if self._hour_start <= oldest_point:
            self._hour = None

    def merge(self, other: "_Series") -> None:
        """Adds another process' series of the feature. Of two of different kinds, that with the
        later window stays alone."""
        self._flush()
        self._seal()
        theirs = list(other.windows())
        if not _same_kind(self._kind, other._kind):
            latest = max(self._sealed, default=0)
            if latest >= max((start for start, _ in theirs), default=0):
                return
            self._forget()
        for start, statistics in theirs:
            mine = self._sealed.get(start)
            if mine is not None:
                statistics.merge(FeatureStatistics.from_bytes(mine))
            self._keep(start, statistics)
        for data in other._points.values():
            self._add_point(HistoryPoint.from_bytes(data))
        if other._hour is not None:
            self._add_to_hour(other._hour_start, other._hour)

    def parts(self) -> list[tuple[str, int, bytes]]:
        """What there is, as bytes: what it is, when it started, and it."""
        self._flush()
        parts = [("window", start, data) for start, data in self._sealed.items()]
        if self._open is not None:
            parts.append(("window", self._start, self._open.to_bytes()))
        if self._hour is not None:
            parts.append(("hour", self._hour_start, self._hour.to_bytes()))
        parts.append(("points", 0, b"".join(self._points.values())))
        return parts

    def restore(self, what: str, start: int, data: bytes) -> None:
        """Takes back one of the parts.

        Raises:
            ValueError: It is none.
        """
        if what == "window":
            self._keep(start, FeatureStatistics.from_bytes(data))
        elif what == "hour":
            self._hour_start, self._hour = start, FeatureStatistics.from_bytes(data)
            self._become(self._hour.kind)
        elif what == "points":
            for place in range(0, len(data), POINT_BYTES):
                point = data[place : place + POINT_BYTES]
                self._points[int(HistoryPoint.from_bytes(point).start)] = point
        else:
            raise ValueError(f"there is no part {what!r}")

    def _flush(self) -> None:
        """Adds the rows that wait to the open window."""
        if not self._waiting:
            return
        column = _joined(self._waiting)
        self._waiting = []
        self._waiting_rows = 0
        kind = kind_of(column.values.type)
        if not _same_kind(kind, self._kind):
            self._forget()
        self._become(kind)
        if self._open is None:
            sealed = self._sealed.pop(self._start, None)
            self._open = FeatureStatistics.from_bytes(sealed) if sealed else FeatureStatistics()
        self._open.update(column, self._reference or self._before())

    def _before(self) -> tuple[float, float] | None:
        """Mean and standard deviation of the other windows; None where they have no numbers."""
        seen = Moments()
        for moments in self._seen.values():
            seen.merge(moments)
        return (seen.mean, seen.std) if seen.count else None

    def _forget(self) -> None:
        """Drops all there is, since the feature is another one now."""
        self._open = self._hour = None
        self._sealed.clear()
        self._seen.clear()
        self._points.clear()

    def _seal(self) -> None:
        if self._open is not None:
            self._keep(self._start, self._open)
            self._open = None

    def _keep(self, start: int, statistics: FeatureStatistics) -> None:
        self._sealed[start] = statistics.to_bytes()
        self._seen[start] = statistics.moments
        self._become(statistics.kind)

    def _become(self, kind: Kind) -> None:
        if kind is not Kind.none:
            self._kind = kind

    def _add_to_hour(self, start: int, statistics: FeatureStatistics) -> None:
        """Adds statistics to the hour that started then. The latest hour is kept whole."""
        if self._hour is not None and start > self._hour_start:
            self._add_point(HistoryPoint.of(self._hour, self._hour_start, _HOUR))
            self._hour = None
        if self._hour is None:
            self._hour_start, self._hour = start, statistics.copy()
            self._become(statistics.kind)
        elif start == self._hour_start:
            self._hour.merge(statistics)
        else:
            self._add_point(HistoryPoint.of(statistics, start, _HOUR))

    def _add_point(self, point: HistoryPoint) -> None:
        start = int(point.start)
        before = self._points.get(start)
        if before is not None:
            point = HistoryPoint.from_bytes(before).combined(point)
        self._points[start] = point.to_bytes()


def _same_kind(kind: Kind, other: Kind) -> bool:
    return kind is other or Kind.none in (kind, other)


def _goes_with(column: FeatureColumn, other: FeatureColumn) -> bool:
    """Whether columns can be joined."""
    return (
        column.values.type == other.values.type
        and (column.statuses is None) == (other.statuses is None)
        and (column.event_timestamps is None) == (other.event_timestamps is None)
    )


def _joined(columns: list[FeatureColumn]) -> FeatureColumn:
    """Columns of one feature as one."""
    first = columns[0]
    if len(columns) == 1:
        return first
    statuses = event_timestamps = None
    if first.statuses is not None:
        statuses = np.concatenate([each.statuses for each in columns if each.statuses is not None])
    if first.event_timestamps is not None:
        event_timestamps = np.concatenate(
            [each.event_timestamps for each in columns if each.event_timestamps is not None]
        )
    values = pa.concat_arrays([column.values for column in columns])
    return first._replace(values=values, statuses=statuses, event_timestamps=event_timestamps)
