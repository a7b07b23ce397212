"""Rows of a push: judged for all views, then written to Redis view by view, then offline.

A row that any view rejects is written nowhere.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa

from hotfeast.hotpath.columns import TimeColumn
from hotfeast.hotpath.errors import ProtocolError
from hotfeast.hotpath.writes import OUTCOMES
from hotfeast.server.clock import Clock
from hotfeast.server.cluster_io import ClusterWriter
from hotfeast.server.errors import NodesUnavailable, RedisUnavailable, invalid, not_servable
from hotfeast.server.offline import OfflineRows, OfflineWriter
from hotfeast.server.push_plan import Destination
from hotfeast.server.redis_io import RedisWriter
from hotfeast.server.rows import ColumnData, EncodedRows, Rejection, encode, map_fields
from hotfeast.server.write_plan import ViewWrite
from hotfeast.serving.v1 import push_pb2

WRITTEN = OUTCOMES.index("written")
STALE = OUTCOMES.index("stale")
REJECTED = OUTCOMES.index("rejected")
FAILED = OUTCOMES.index("failed")
DUPLICATE = OUTCOMES.index("duplicate")

# What is still pending after a write has failed may be stored or not; what never was to go to Redis
# is fine so far.
_AFTER_ONLINE = bytes.maketrans(b"\0", bytes([FAILED]))
_NOT_ONLINE = bytes.maketrans(b"\0", bytes([WRITTEN]))
# A row has the worst of its outcomes in the views, and is a duplicate if it is in all of them. The
# numbers are ordered so once duplicates have the least, but for one: what is rejected is so in
# every view.
_TO_COMPARE = bytes.maketrans(bytes([DUPLICATE]), b"\0")
_COMPARED = bytes.maketrans(b"\0", bytes([DUPLICATE]))
_NOT_LOST = bytes([FAILED, STALE, WRITTEN, DUPLICATE])

ONLINE = push_pb2.PUSH_TARGET_ONLINE
OFFLINE = push_pb2.PUSH_TARGET_OFFLINE
BOTH = push_pb2.PUSH_TARGET_ONLINE_AND_OFFLINE

CountRows = Callable[[str, str, int], None]
"""Is told of a view, an outcome and the number of rows that have it."""

TellRows = Callable[[ViewWrite, EncodedRows, bytes], None]
"""Is told of a view, rows of it, and the outcome of each as a number of `OUTCOMES`."""


class PushedRows(NamedTuple):
    """A batch as it came.

    Attributes:
        columns: Columns by name.
        event_times: Explicit event times; None where they are a column.
        created_times: Explicit created times; None where they are a column, or not there.
    """

    columns: Mapping[str, ColumnData]
    event_times: TimeColumn | None = None
    created_times: TimeColumn | None = None


class Failure(NamedTuple):
    """A target that failed."""

    target: int
    feature_view: str
    message: str


@dataclass(slots=True)
class Pushed:
    """What became of a batch.

    Attributes:
        outcomes: One number of `RowOutcome` for each row.
        rejections: Why rows are rejected, one for each, ascending.
        failures: Targets that failed.
        unavailable: Why Redis did not answer; empty where it did.
    """

    outcomes: bytes
    rejections: Sequence[Rejection]
    failures: list[Failure] = field(default_factory=list)
    unavailable: str = ""


class RowPusher:
    """Writes batches, from any number of threads."""

    def __init__(
        self,
        writer: RedisWriter | ClusterWriter,
        offline: OfflineWriter,
        clock: Clock,
        future_limit: float,
        count: CountRows | None = None,
        transform_turn: Callable[[float | None], AbstractContextManager[None]] = lambda _: (
            nullcontext()
        ),
        tell: TellRows | None = None,
    ) -> None:
        """
        Args:
            writer: Writes to Redis.
            offline: Writes to batch sources.
            clock: Event times are judged against it, or the real time where that is later.
            future_limit: Seconds that an event time may be in the future.
            count: Is told of the outcomes.
            transform_turn: What is entered, with the seconds that are left, to compute the rows of
                on-demand views.
            tell: Is told of the rows themselves.
        """
        self._writer = writer
        self._offline = offline
        self._clock = clock
        self._real_clock = Clock()
        self._future_limit = future_limit
        self._count = count
        self._transform_turn = transform_turn
        self._tell = tell

    def push(
        self,
        destination: Destination,
        target: int,
        rows: PushedRows,
        time_left: Callable[[], float | None],
        extra_columns: bool = False,
    ) -> Pushed:
        """Judges and writes a batch.

        Args:
            destination: Where to.
            target: `ONLINE`, `OFFLINE` or `BOTH`.
            rows: The batch.
            time_left: Says how many seconds are left until the caller's deadline; None where it has
                none.
            extra_columns: Whether columns that nothing takes are ignored, as Feast does; rows of an
                on-demand view are then computed whatever they have.

        Raises:
            RequestFailure: The batch is wrong as a whole; nothing of it is written.
        """
        if destination.computed and target != ONLINE:
            raise not_servable(
                f"on-demand feature view {destination.writes[0].name!r} has no batch source of its "
                "own: push to it with the target ONLINE, and offline to the views that it is "
                "computed from"
            )
        if not extra_columns:
            destination = destination.of_features(rows.columns)
            self._refuse_unknown(destination, target, rows)
        with self._transform_turn(time_left()) if destination.computed else nullcontext():
            encoded = self._judge(destination, rows)
        rejections = _spread_rejections(encoded)
        pushed = Pushed(b"", rejections)
        states: list[bytes] = []
        if target == OFFLINE:
            states = [made.batch.outcomes.translate(_NOT_ONLINE) for made in encoded]
        else:
            for write, made in zip(destination.writes, encoded, strict=True):
                self._write_online(write.name, made, pushed, time_left)
                states.append(made.batch.outcomes.translate(_AFTER_ONLINE))
        if target != ONLINE:
            self._write_offline(destination, rows, states, pushed)
        if self._count is not None:
            for write, outcomes in zip(destination.writes, states, strict=True):
                for number in range(WRITTEN, DUPLICATE + 1):
                    if having := outcomes.count(number):
                        self._count(write.name, OUTCOMES[number], having)
        if self._tell is not None:
            for write, made, outcomes in zip(destination.writes, encoded, states, strict=True):
                # Events have no values of features.
                if write.windows is None:
                    self._tell(write, made, outcomes)
        pushed.outcomes = states[0]
        if len(states) > 1:
            compared = (each.translate(_TO_COMPARE) for each in states)
            pushed.outcomes = bytes(map(max, *compared)).translate(_COMPARED)
        return pushed

    def _judge(self, destination: Destination, rows: PushedRows) -> list[EncodedRows]:
        now = max(self._clock.now(), self._real_clock.now())[0]
        latest = int(now + self._future_limit)
        if rows.created_times is not None and not destination.takes_created:
            raise invalid(
                "created_timestamps are set, and no view that is pushed to has a created timestamp"
            )
        encoded = []
        for write in destination.writes:
            columns = map_fields(write, rows.columns)
            for name, times, what in (
                (write.timestamp_column, rows.event_times, "event_timestamps"),
                (write.created_column, rows.created_times, "created_timestamps"),
            ):
                if times is not None and name:
                    if name in columns:
                        raise invalid(f"set {what} or the column {name!r}, not both")
                    columns[name] = times
            encoded.append(encode(write, columns, latest_time=latest))
        return encoded

    def _refuse_unknown(self, destination: Destination, target: int, rows: PushedRows) -> None:
        unknown = rows.columns.keys() - destination.columns
        known = set(destination.columns)
        if unknown and target != ONLINE:
            for write in destination.writes:
                try:
                    known |= self._offline.source_columns(destination.definitions, write.name)
                except Exception:
                    # Appending to it will say the same as a failure of the target.
                    return
            unknown -= known
        if unknown:
            name = min(unknown)
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            views = ", ".join(repr(write.name) for write in destination.writes)
            raise invalid(f"column {name!r} is not one of feature view {views}{hint}")

    def _write_online(
        self,
        view: str,
        made: EncodedRows,
        pushed: Pushed,
        time_left: Callable[[], float | None],
    ) -> None:
        batch = made.batch
        # Where Redis has just not answered, the other views need not wait for it, too.
        if not pushed.unavailable:
            try:
                self._writer.write(batch, time_left())
            except NodesUnavailable as error:
                done = batch.counts
                if done["written"] or done["stale"] or done["failed"] or done["duplicate"]:
                    # The rows of the other nodes are told apart by their outcomes.
                    pushed.failures.append(Failure(ONLINE, view, str(error)))
                else:
                    pushed.unavailable = str(error)
            except (RedisUnavailable, ProtocolError) as error:
                pushed.unavailable = str(error)
        if batch.error:
            pushed.failures.append(Failure(ONLINE, view, f"Redis: {batch.error}"))
        if pushed.unavailable and batch.unfinished:
            pushed.failures.append(Failure(ONLINE, view, pushed.unavailable))

    def _write_offline(
        self, destination: Destination, rows: PushedRows, states: list[bytes], pushed: Pushed
    ) -> None:
        kept = [row for row, state in enumerate(states[0]) if state != REJECTED]
        if not kept:
            return
        appended = OfflineRows(rows.columns, rows.event_times, rows.created_times, kept)
        failed = self._offline.append(destination.definitions, destination.writes, appended)
        for view, message in failed:
            pushed.failures.append(Failure(OFFLINE, view, message))
        views = {view for view, _ in failed}
        for i, write in enumerate(destination.writes):
            if write.name in views:
                states[i] = states[i].translate(_FAILED_OFFLINE)


_FAILED_OFFLINE = bytes.maketrans(_NOT_LOST, bytes([FAILED] * len(_NOT_LOST)))


def _spread_rejections(encoded: list[EncodedRows]) -> Sequence[Rejection]:
    """Rejects in every view what any view rejects, and says why, once for each row."""
    if len(encoded) == 1:
        return encoded[0].rejections
    rejected: dict[int, Rejection] = {}
    for made in encoded:
        for rejection in made.rejections:
            rejected.setdefault(rejection.row, rejection)
    for made in encoded:
        for row in rejected:
            made.batch.reject(row)
    return [rejected[row] for row in sorted(rejected)]


def arrow_columns(data: bytes) -> dict[str, ColumnData]:
    """The columns of an Arrow IPC stream.

    Raises:
        RequestFailure: It is none, its data is not what its schema says, or a name comes twice.
    """
    try:
        with pa.ipc.open_stream(data) as reader:
            table = reader.read_all()
        # Offsets are the caller's, and are followed in compiled code.
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise invalid(f"arrow_ipc is not an Arrow IPC stream: {error}") from error
    names = table.column_names
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise invalid(f"column {twice!r} is given twice")
    return dict(zip(names, table.columns, strict=True))
