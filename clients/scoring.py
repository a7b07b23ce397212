"""A stream of batches to score, without its connection: what is sent, what is made of the answers,
and what is asked again on a new stream."""

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc

from hotfeast.clients.errors import HotfeastError, Unauthenticated, Unavailable, failure
from hotfeast.clients.optional import needed
from hotfeast.clients.requests import read_request
from hotfeast.serving.v1 import serving_pb2

STREAM_METHOD = "/hotfeast.serving.v1.FeatureServing/GetOnlineFeaturesStream"
BATCH_TIMEOUT = 60.0
"""Seconds."""


@dataclass(frozen=True)
class Resume:
    """How `score` goes on when a gateway goes away, or its Redis does not answer: on a new stream,
    at another gateway where there are several, with the batches that are not answered.

    Example:
        ```python
        client.score("recommendation", entities, resume=Resume(seconds=600))
        client.score("recommendation", entities, resume=None)  # ends with Unavailable
        ```
    """

    seconds: float = 60.0
    """How long a next answer is tried for."""
    backoff: float = 0.1
    """Seconds before the first attempt, a fifth more or less by chance; twice as long before each
    more."""
    longest_backoff: float = 5.0
    """Seconds."""

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ValueError(f"Resume: seconds is {self.seconds}, and must be above 0")
        if not 0 < self.backoff <= self.longest_backoff:
            raise ValueError("Resume: backoff must be above 0, and longest_backoff no less")


class Scored(NamedTuple):
    """How far `score` has come."""

    rows: int
    """Rows that are answered."""
    total: int | None
    """Rows that there are; None where that is not known before the end."""


Progress = Callable[[Scored], object]


class Sent:
    """A batch that is not answered."""

    __slots__ = ("first_row", "number", "rows", "time")

    def __init__(self, number: int, first_row: int, rows: Any) -> None:
        self.number = number
        self.first_row = first_row
        self.rows = rows
        self.time: float | None = None
        """When it was handed to gRPC, in monotonic seconds; None before that."""

    def __str__(self) -> str:
        return (
            f"batch {self.number}, rows {self.first_row} to "
            f"{self.first_row + self.rows.num_rows - 1}"
        )


class Interrupted(Exception):
    """The stream is of no more use.

    Attributes:
        failure: Why.
        again: Whether a new one may be.
    """

    def __init__(self, failure: HotfeastError, again: bool | None = None) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.again = isinstance(failure, Unavailable) if again is None else again


@dataclass(frozen=True)
class ScoreOptions:
    """What `FeatureClient.score` is told beside the rows; see there."""

    features: str | Sequence[str]
    columns: Sequence[str] | None
    keep: bool | Sequence[str]
    statuses: bool
    event_timestamps: bool
    full_feature_names: bool
    include_stale_values: bool
    allow_partial_response: bool
    batch_size: int
    ahead: int
    resume: Resume | None
    timeout: float | None

    def __post_init__(self) -> None:
        for name, names in (("columns", self.columns), ("keep", self.keep)):
            if isinstance(names, str):
                raise TypeError(f"{name}={names!r}: give a list of names")
        for name, number in (("batch_size", self.batch_size), ("ahead", self.ahead)):
            if number < 1:
                raise ValueError(f"{name} is {number}, and must be at least 1")

    @property
    def read(self) -> Any:
        """The `StreamedRead` of the stream."""
        request = read_request(
            self.features, None, None, None, self.full_feature_names, self.include_stale_values,
            self.allow_partial_response,
        )  # fmt: skip
        return serving_pb2.StreamedRead(
            request=request, statuses=self.statuses, event_timestamps=self.event_timestamps
        )


class ScoreState:
    """How far a stream has come. Not for several threads at once.

    Attributes:
        pending: Batches that are not answered, in order.
        taken: Batches that have been taken of the rows.
        batches: Those that are answered.
        rows: Rows of them.
        feature_service: Which version has answered the last batch, where an alias was asked for.
        warnings: What is deprecated of what was read.
        row_errors: What is missing from the last batch, with `allow_partial_response`.
    """

    def __init__(self, options: ScoreOptions) -> None:
        """
        Raises:
            MissingPackage: pyarrow is not installed.
        """
        self._arrow = needed("pyarrow", "score")
        self._options = options
        self._read = options.read
        self._rows_taken = 0
        self._broken: float | None = None
        self._attempts = 0
        self._opened_at = 0
        self.pending: deque[Sent] = deque()
        self.taken = 0
        self.batches = 0
        self.rows = 0
        self.feature_service: str | None = None
        self.warnings: list[str] = []
        self.row_errors: list[Any] = []

    # ------------------------------------------------------------ what is sent

    def take(self, rows: Any) -> Sent:
        """Enters a batch as the next."""
        sent = Sent(self.taken, self._rows_taken, rows)
        self.pending.append(sent)
        self.taken += 1
        self._rows_taken += rows.num_rows
        return sent

    def again(self, number: int) -> Sent | None:
        """A batch that has been taken; None where it is answered."""
        place = number - self.batches
        return self.pending[place] if 0 <= place < len(self.pending) else None

    def may_send(self, number: int) -> bool:
        """Whether so few batches are ahead of the answers that another may be sent."""
        return number - self.batches < self._options.ahead

    def message(self, sent: Sent, first: bool) -> Any:
        """The message of a batch.

        Args:
            sent: It.
            first: Whether it is the first of its stream.

        Raises:
            KeyError: The rows have no such column as is to be sent.
        """
        columns = self._columns(sent.rows, self._options.columns)
        data = self._arrow.RecordBatch.from_arrays(list(columns.values()), list(columns))
        sink = self._arrow.BufferOutputStream()
        with self._arrow.ipc.new_stream(sink, data.schema) as writer:
            writer.write_batch(data)
        message = serving_pb2.GetOnlineFeaturesStreamRequest(
            batch=sent.number, arrow_ipc=sink.getvalue().to_pybytes()
        )
        if first:
            self._opened_at = sent.number
            message.read.CopyFrom(self._read)
        sent.time = time.monotonic()
        return message

    def _columns(self, rows: Any, wanted: Sequence[str] | None) -> dict[str, Any]:
        """Columns by name."""
        columns = dict(zip(rows.schema.names, rows.columns, strict=True))
        if wanted is None:
            return columns
        for name in wanted:
            if name not in columns:
                raise KeyError(f"the rows have no column {name!r}; they have {', '.join(columns)}")
        return {name: columns[name] for name in wanted}

    # ------------------------------------------------------------ what comes

    def answered(self, answer: Any) -> Any:
        """Takes a `GetOnlineFeaturesStreamResponse`.

        Returns:
            The record batch: what is kept of the rows, and the features.

        Raises:
            HotfeastError: The batch was refused, or this is no answer to it.
            Interrupted: It is to be asked for again.
            ValueError: A column of the rows that is kept has the name of a feature.
        """
        if not self.pending or answer.batch != self.pending[0].number:
            raise failure(
                grpc.StatusCode.INTERNAL,
                f"the gateway has answered batch {answer.batch}, and the next is {self.batches}",
            )
        sent = self.pending[0]
        self.feature_service = answer.metadata.feature_service or None
        self.warnings += [text for text in answer.warnings if text not in self.warnings]
        self.row_errors = list(answer.metadata.row_errors)
        if answer.HasField("error"):
            refused = failure(answer.error.code, f"{sent}: {answer.error.message}")
            # A token may have run out since the stream was opened; a new stream has a new one.
            again = isinstance(refused, Unauthenticated) and sent.number > self._opened_at
            if again or isinstance(refused, Unavailable):
                raise Interrupted(refused, True)
            raise refused
        with self._arrow.ipc.open_stream(answer.arrow_ipc) as reader:
            features = reader.read_next_batch()
        made = self._joined(sent, features)
        self.pending.popleft()
        self.batches += 1
        self.rows += sent.rows.num_rows
        self._broken, self._attempts = None, 0
        return made

    def _joined(self, sent: Sent, features: Any) -> Any:
        rows, keep = sent.rows, self._options.keep
        if features.num_rows != rows.num_rows:
            raise failure(
                grpc.StatusCode.INTERNAL,
                f"{sent}: the gateway has answered {features.num_rows} rows",
            )
        if keep is False:
            return features
        columns = self._columns(rows, None if keep is True else keep)
        for name, column in zip(features.schema.names, features.columns, strict=True):
            if name in columns:
                raise ValueError(
                    f"the rows have a column {name!r}, and so has the answer: rename it, set "
                    "full_feature_names, or leave it out with keep="
                )
            columns[name] = column
        return self._arrow.RecordBatch.from_arrays(list(columns.values()), list(columns))

    def overdue(self) -> Sent | None:
        """The next batch that is to be answered, where that should have been long ago."""
        timeout = self._options.timeout
        if timeout is None or not self.pending:
            return None
        sent = self.pending[0]
        late = sent.time is not None and time.monotonic() - sent.time >= timeout
        return sent if late else None

    def late(self, sent: Sent) -> HotfeastError:
        """The error for a batch that is overdue."""
        return failure(
            grpc.StatusCode.DEADLINE_EXCEEDED, f"{sent}: no answer in {self._options.timeout:g} s"
        )

    # ------------------------------------------------------------ streams that end

    def interrupted(self, interrupted: Interrupted) -> float:
        """The stream is over before all is answered.

        Returns:
            Seconds to wait before a new one is opened.

        Raises:
            HotfeastError: None is.
        """
        resume = self._options.resume
        now = time.monotonic()
        if self._broken is None:
            self._broken = now
        for sent in self.pending:
            sent.time = None
        why = interrupted.failure
        if resume is None or not interrupted.again:
            raise self._ended(why.code, why.message) from None
        wait: float = min(resume.backoff * 2**self._attempts, resume.longest_backoff)
        wait *= random.uniform(0.8, 1.2)
        if now + wait - self._broken > resume.seconds:
            raise self._ended(
                why.code,
                f"{why.message}; {self._attempts} more streams were tried within "
                f"{resume.seconds:g} s",
            ) from None
        self._attempts += 1
        return wait

    def ended(self) -> None:
        """The gateway has ended the stream with status OK.

        Raises:
            HotfeastError: Not all is answered.
        """
        if self.pending:
            raise self._ended(grpc.StatusCode.INTERNAL, "the gateway has ended the stream")

    def _ended(self, code: grpc.StatusCode, message: str) -> HotfeastError:
        return failure(code, f"{message}; answered: {self.batches} batches, {self.rows} rows")


def table_of(batches: Sequence[Any]) -> Any:
    """Record batches as one table, with the columns of all of them."""
    arrow = needed("pyarrow", "to_table")
    if not batches:
        return arrow.table({})
    tables = [arrow.Table.from_batches([batch]) for batch in batches]
    return arrow.concat_tables(tables, promote_options="default")


class ScoredSoFar:
    """What is known of a stream of batches while it is read."""

    _state: ScoreState

    @property
    def rows(self) -> int:
        """Rows that have been answered."""
        return self._state.rows

    @property
    def feature_service(self) -> str | None:
        """Which version has answered the last batch, where an alias was asked for; else None."""
        return self._state.feature_service

    @property
    def warnings(self) -> list[str]:
        """What is deprecated of what was read so far, and until when it is there."""
        return list(self._state.warnings)

    @property
    def row_errors(self) -> list[Any]:
        """What is missing from the last batch, with `allow_partial_response`: `RowError` messages,
        whose `rows` are counted from the batch's first."""
        return list(self._state.row_errors)
