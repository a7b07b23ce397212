"""What a client pushes, and what became of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from hotfeast.clients.columns import column
from hotfeast.serving.v1 import push_pb2

Batch = Mapping[str, Sequence[Any]] | Any
"""Columns by name, or a `pyarrow.Table` or `pyarrow.RecordBatch`."""

_OUTCOMES = {
    v.number: v.name.removeprefix("ROW_OUTCOME_").lower()
    for v in push_pb2.RowOutcome.DESCRIPTOR.values
}
_TARGETS: dict[str, Any] = {
    v.name.removeprefix("PUSH_TARGET_").lower(): v.number
    for v in push_pb2.PushTarget.DESCRIPTOR.values
    if v.number
}
_LONGEST_LIST = 5


class PushRejection(NamedTuple):
    """Why a row was not stored."""

    row: int
    """Position in the batch, from 0."""
    feature_view: str
    field: str
    rule: str
    message: str


class TargetFailure(NamedTuple):
    """A target that failed although rows were valid."""

    target: str
    feature_view: str
    message: str


class RowsNotWritten(Exception):
    """Rows of a batch were rejected, or a target failed.

    Attributes:
        result: What became of each row.
    """

    def __init__(self, result: "PushResult") -> None:
        reasons = [r.message for r in result.rejections]
        reasons += [f"{f.target}, {f.feature_view}: {f.message}" for f in result.failures]
        more = len(reasons) - _LONGEST_LIST
        words = "; ".join(reasons[:_LONGEST_LIST]) + (f"; and {more} more" if more > 0 else "")
        lost = result.counts.get("rejected", 0) + result.counts.get("failed", 0)
        super().__init__(f"{lost} of {len(result)} rows were not written: {words}")
        self.result = result


class PushResult:
    """What became of the rows of a batch.

    Attributes:
        proto: The message as it came, a `PushResponse`.
    """

    def __init__(self, proto: Any) -> None:
        self.proto = proto

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.proto.outcomes)

    @property
    def outcomes(self) -> list[str]:
        """For each row `written`, `stale` (older than what is stored), `rejected`, `failed`, or
        `duplicate` (an event that had been counted before)."""
        return [_OUTCOMES.get(o, str(o)) for o in self.proto.outcomes]

    @property
    def counts(self) -> dict[str, int]:
        """How many rows have each outcome."""
        return dict(Counter(self.outcomes))

    @property
    def rejections(self) -> list[PushRejection]:
        """Why rows were rejected, one for each."""
        return [
            PushRejection(r.row, r.feature_view, r.field, r.rule, r.message)
            for r in self.proto.rejections
        ]

    @property
    def failures(self) -> list[TargetFailure]:
        """Targets that failed."""
        names = {number: name for name, number in _TARGETS.items()}
        return [
            TargetFailure(names.get(f.target, str(f.target)), f.feature_view, f.message)
            for f in self.proto.failures
        ]

    @property
    def ok(self) -> bool:
        """Whether every row is stored, now or before, or older than what is."""
        return not self.proto.rejections and not self.proto.failures

    def raise_for_failures(self) -> None:
        """Raises RowsNotWritten unless `ok`."""
        if not self.ok:
            raise RowsNotWritten(self)

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {name}" for name, n in self.counts.items())
        return f"<PushResult: {counts or 'no rows'}>"


def push_request(
    columns: Batch, push_source: str | None, feature_view: str | None, target: str
) -> Any:
    """The `PushRequest` of a batch; see `FeatureClient.push`."""
    if (push_source is None) == (feature_view is None):
        raise ValueError("give push_source or feature_view: the rows go to one of them")
    if target not in _TARGETS:
        raise ValueError(f"target {target!r} is none of {', '.join(map(repr, _TARGETS))}")
    request = push_pb2.PushRequest(
        push_source=push_source, feature_view=feature_view, target=_TARGETS[target]
    )
    if not hasattr(columns, "items"):
        request.arrow_ipc = _arrow_stream(columns)
        return request
    by_name = {name: _plain(name, values) for name, values in columns.items()}
    if any(_needs_arrow(value) for values in by_name.values() for value in values):
        request.arrow_ipc = _arrow_stream(_table(by_name))
        return request
    request.columns.SetInParent()
    for name, values in by_name.items():
        request.columns.columns[name].CopyFrom(column(name, values))
    return request


def _plain(name: str, values: Any) -> list[Any]:
    """A column as a list; what pandas and numpy have for no time is None."""
    return [_time(name, v) if _is_time(v) else v for v in values]


def _is_time(value: Any) -> bool:
    return isinstance(value, datetime) or getattr(getattr(value, "dtype", None), "kind", "") == "M"


def _time(name: str, value: Any) -> datetime | None:
    """A time of Python's, numpy's or pandas' with its zone; None for what they have for no time."""
    if value != value:
        return None
    if not isinstance(value, datetime):
        # numpy has a bare number for a time that is finer than a microsecond.
        whole = value.astype("datetime64[us]")
        if whole != value:
            raise TypeError(
                f"column {name!r}: times finer than a microsecond; send a pyarrow.Table"
            )
        value = whole.item()
    time: datetime = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    return time


def _needs_arrow(value: Any) -> bool:
    """Whether a value says more, or less, than a protobuf column of unknown type can."""
    if isinstance(value, datetime):
        return value.microsecond != 0 or getattr(value, "nanosecond", 0) != 0
    return (isinstance(value, Sequence | Mapping) and not isinstance(value, str | bytes)) or (
        getattr(value, "ndim", 0) > 0
    )


def _table(columns: Mapping[str, list[Any]]) -> Any:
    arrow = _pyarrow()
    made = {}
    for name, values in columns.items():
        try:
            if any(isinstance(v, Mapping) for v in values):
                made[name] = _maps(arrow, values)
            else:
                made[name] = arrow.array(values)
        except (arrow.ArrowException, TypeError, OverflowError) as error:
            raise TypeError(f"column {name!r}: {error}") from None
    try:
        return arrow.table(made)
    except arrow.ArrowInvalid as error:
        raise TypeError(f"columns of different lengths: {error}") from None


def _maps(arrow: Any, values: list[Any]) -> Any:
    """Dictionaries as maps: as structs, each would have the keys of all."""
    inner = [element for value in values if value is not None for element in value.values()]
    if any(isinstance(element, Mapping) for element in inner):
        raise TypeError("dictionaries in dictionaries; send a pyarrow.Table")
    kind = arrow.map_(arrow.string(), arrow.array(inner).type)
    return arrow.array([None if v is None else list(v.items()) for v in values], kind)


def _arrow_stream(rows: Any) -> bytes:
    arrow = _pyarrow()
    if not isinstance(rows, arrow.Table | arrow.RecordBatch):
        raise TypeError(
            f"cannot send a {type(rows).__name__}: give columns by name, a pyarrow.Table or a "
            "pyarrow.RecordBatch"
        )
    sink = arrow.BufferOutputStream()
    with arrow.ipc.new_stream(sink, rows.schema) as writer:
        writer.write(rows)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise TypeError(
            "lists, dictionaries, datetimes with fractions of a second and Arrow data are sent "
            "with pyarrow: pip install pyarrow"
        ) from error
    return pyarrow
