"""What must be answered, worked out from what was written: an independent, slow, plain gateway.

Rows are dictionaries, TTLs are compared in whole nanoseconds, nothing is shared with the code under
test. The rules are those of Feast's Redis store (what a write does) and of the strict statuses.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.Value_pb2 import Value
from feast_versions import SORTS_BATCHES
from parity_strategies import (
    BatchSpec,
    DataSpec,
    EditSpec,
    EntitySpec,
    Key,
    ProjectionSpec,
    RepoSpec,
    RequestSpec,
    Time,
    ViewSpec,
    request_projections,
)

_BILLION = 1_000_000_000


@dataclass
class Row:
    """What Redis holds for one entity in one view."""

    time: Time | None = None
    values: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One value of an answer, with its status and its row's time."""

    status: int
    value: bytes
    time: Time


@dataclass(frozen=True)
class Column:
    """One feature of an answer."""

    name: str
    view: int
    feature: str
    cells: tuple[Cell, ...]


def _nanos(time: Time) -> int:
    return time[0] * _BILLION + time[1]


class Model:
    """The rows of one project."""

    def __init__(self, repo: RepoSpec) -> None:
        self._repo = repo
        self._rows: dict[tuple[object, ...], Row] = {}

    def store(self, data: DataSpec) -> int:
        """Takes over all that is written for a project; returns how many rows Feast skips."""
        skipped = sum(self.write(self._repo.views[b.view], b) for b in data.batches)
        for edit in data.edits:
            self.edit(self._repo.views[edit.view], edit)
        return skipped

    def row(self, view: ViewSpec, keys: dict[str, Key]) -> Row | None:
        """The row of a view for keys by join key; None if there is none."""
        return self._rows.get(self._place(view, keys))

    def _place(self, view: ViewSpec, keys: dict[str, Key]) -> tuple[object, ...]:
        return (view.name, view.version, frozenset(keys.items()))

    def _indexed(self, view: ViewSpec, key: Sequence[int]) -> tuple[object, ...]:
        entities = self._repo.view_entities(view)
        return self._place(
            view, {e.join_key: e.pool[i] for e, i in zip(entities, key, strict=True)}
        )

    def write(self, view: ViewSpec, batch: BatchSpec) -> int:
        """Writes rows as Feast does: newer ones only, and field by field.

        Returns:
            How many rows were older than what was there, or as old.
        """
        skipped = 0
        before: dict[tuple[object, ...], int] = {}
        newest: dict[tuple[object, ...], int] = {}
        for written in batch.rows:
            place = self._indexed(view, written.key)
            row = self._rows.setdefault(place, Row())
            # Read once, before the batch; a row of 1970 or earlier counts as none.
            before.setdefault(place, _nanos(row.time) if row.time is not None else 0)
            latest = max(before[place], newest.get(place, 0) if SORTS_BATCHES else 0)
            if latest and _nanos(written.time) <= latest:
                skipped += 1
                continue
            newest[place] = _nanos(written.time)
            row.time = written.time
            row.values.update(written.values)
        return skipped

    def edit(self, view: ViewSpec, edit: EditSpec) -> None:
        """Changes a row behind Feast's back."""
        row = self._rows.setdefault(self._indexed(view, edit.key), Row())
        if edit.kind == "drop_time":
            row.time = None
        elif edit.kind == "set_time":
            row.time = edit.time
        elif edit.kind == "drop_value":
            row.values.pop(edit.feature, None)
        else:
            row.values[edit.feature] = edit.value


def judge(
    row: Row | None, feature: str, asked: Iterable[str], ttl: float | None, now: Time, stale: bool
) -> Cell:
    """The answer for one value.

    Args:
        row: Its row, if there is any.
        feature: Its feature.
        asked: All features that are read from the row's view.
        ttl: Seconds that a row of the view may be old; 0 or None where rows do not expire.
        now: The time of the request.
        stale: Whether values of rows that are too old are wanted.
    """
    if row is None or (row.time is None and not any(f in row.values for f in asked)):
        return Cell(FieldStatus.NOT_FOUND, b"", (0, 0))
    value = row.values.get(feature, b"")
    time = row.time or (0, 0)
    if ttl and (row.time is None or _nanos(now) > _nanos(row.time) + round(ttl * _BILLION)):
        return Cell(FieldStatus.OUTSIDE_MAX_AGE, value if stale else b"", time)
    null = Value.FromString(value).WhichOneof("val") in (None, "null_val")
    return Cell(FieldStatus.NULL_VALUE if null else FieldStatus.PRESENT, value, time)


@dataclass(frozen=True)
class Source:
    """The features that an answer takes from one view under one name."""

    name: str
    view: int
    features: tuple[str, ...]
    join_key_map: dict[str, str]


def sources(repo: RepoSpec, projections: Iterable[ProjectionSpec]) -> list[Source]:
    """What is read for projections; those of one name are read as one."""
    found: dict[str, Source] = {}
    for projection in projections:
        view = repo.views[projection.view]
        name = view.shown(projection.alias)
        features = projection.features
        if features is None:
            features = view.feature_names()
        known = found.get(name)
        if known is None:
            found[name] = Source(name, projection.view, features, dict(projection.join_key_map))
        else:
            more = tuple(f for f in features if f not in known.features)
            found[name] = Source(name, known.view, known.features + more, known.join_key_map)
    return list(found.values())


def clashes(repo: RepoSpec, request: RequestSpec) -> bool:
    """Whether two features of a request have the same name, so that it must be refused."""
    seen = set()
    for projection in request_projections(repo, request):
        view = repo.views[projection.view]
        features = projection.features
        for feature in view.feature_names() if features is None else features:
            name = (view.shown(projection.alias), feature) if request.full else feature
            if name in seen:
                return True
            seen.add(name)
    return False


def _key(
    entities: Sequence[EntitySpec], source: Source, columns: dict[str, tuple[Key, ...]], row: int
) -> dict[str, Key]:
    return {
        e.join_key: columns[source.join_key_map.get(e.join_key, e.join_key)][row] for e in entities
    }


def answer(repo: RepoSpec, model: Model, request: RequestSpec) -> list[Column]:
    """The feature columns that must be answered, in any order."""
    keys = {c.name: tuple(repo.entities[c.entity].pool[i] for i in c.rows) for c in request.columns}
    columns = []
    for source in sources(repo, request_projections(repo, request)):
        view = repo.views[source.view]
        entities = repo.view_entities(view)
        rows = [model.row(view, _key(entities, source, keys, row)) for row in range(request.rows)]
        for feature in source.features:
            cells = [
                judge(row, feature, source.features, view.ttl, repo.now, request.stale)
                for row in rows
            ]
            name = f"{source.name}__{feature}" if request.full else feature
            columns.append(Column(name, source.view, feature, tuple(cells)))
    return columns
