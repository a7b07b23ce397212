"""The skew audit: what is served online beside the offline store's point-in-time answer.

Entities are drawn from both sides, since each may have some that the other lacks: those that SCAN
finds in Redis, and a uniform sample of the batch source. For all of them the served row is compared
with what `get_historical_features` answers for the same time, event times first, then values.
Nothing is changed on either side.
"""

import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from hotfeast.server.errors import RequestFailure, StartFailure, unknown_name
from hotfeast.server.feast_api import FeatureStore
from hotfeast.server.materialize import EPOCH
from hotfeast.server.monitoring.audit_offline import (
    NotComparable,
    OfflineAnswer,
    newest_rows,
    point_in_time,
)
from hotfeast.server.monitoring.audit_online import (
    INVALID,
    NOT_FOUND,
    OUTSIDE_MAX_AGE,
    READ_ERRORS,
    OnlineStore,
    ServedRow,
)
from hotfeast.server.monitoring.audit_values import OfflineColumn
from hotfeast.server.plan import find_view
from hotfeast.server.redis_clients import REDIS_ERRORS
from hotfeast.server.registry import (
    Definitions,
    FieldDefinition,
    RegistryReader,
    ViewDefinition,
    feast_view,
)
from hotfeast.server.repository import open_repository, reading_registry
from hotfeast.server.windows.definition import is_windowed
from hotfeast.server.write_plan import plan_write

Entity = tuple[Any, ...]
"""Values of a view's join keys, in their order."""

_EXAMPLES = 3
"""Of each outcome and view."""


class Outcome(StrEnum):
    """What the comparison of an entity says."""

    EQUAL = "equal"
    """The same row, or none within the TTL on either side."""
    STALE = "stale"
    """The offline store has a newer row."""
    MISSING_ONLINE = "missing_online"
    """The offline store has a row, and nothing is stored online."""
    MISSING_OFFLINE = "missing_offline"
    """A row is served that the offline store does not have, or only an older one of."""
    DIFFERENT = "different"
    """Rows of the same event time have different values."""
    NOT_COMPARED = "not_compared"
    """The online row is of after the time of the audit, or Feast leaves the entity out."""


_EQUAL = Outcome.EQUAL

FAULTS = (Outcome.STALE, Outcome.MISSING_ONLINE, Outcome.MISSING_OFFLINE, Outcome.DIFFERENT)
"""Outcomes that are counted as differences."""


@dataclass(frozen=True, slots=True)
class Example:
    """One entity that is not equal.

    Attributes:
        outcome: What it is.
        entity: Its join keys.
        online_time: Event time of the online row; None where there is none.
        offline_time: Event time of the offline row; None where there is none, or it is not known.
        features: For each feature that differs, how.
        message: What is so, in words.
    """

    outcome: Outcome
    entity: dict[str, Any]
    online_time: datetime | None
    offline_time: datetime | None
    features: dict[str, str]
    message: str


@dataclass
class ViewAudit:
    """What was found of one view.

    Attributes:
        view: Its name.
        online_entities: Those that were drawn from Redis.
        offline_entities: Those that were drawn from the batch source.
        counts: Entities by outcome.
        features: For each feature that differs anywhere, of how many entities.
        examples: Some entities of each outcome that is a difference.
        skipped: Why it was not looked at, where there is nothing to compare; empty else.
        error: Why it could not be compared; empty where it could.
    """

    view: str
    online_entities: int = 0
    offline_entities: int = 0
    counts: Counter[Outcome] = field(default_factory=Counter)
    features: Counter[str] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)
    skipped: str = ""
    error: str = ""

    @property
    def compared(self) -> int:
        """Entities that were compared."""
        return self.counts.total() - self.counts[Outcome.NOT_COMPARED]

    @property
    def share(self) -> float:
        """The share of them that are not equal, 0 to 1."""
        return sum(self.counts[fault] for fault in FAULTS) / self.compared if self.compared else 0.0

    def add(self, example: Example) -> None:
        """Counts an entity."""
        self.counts[example.outcome] += 1
        self.features.update(example.features.keys())
        alike = sum(known.outcome is example.outcome for known in self.examples)
        if example.outcome in FAULTS and alike < _EXAMPLES:
            self.examples.append(example)


@dataclass
class AuditReport:
    """What an audit found.

    Attributes:
        project: Feast's project.
        as_of: The time that both sides were asked about.
        seed: What the entities were drawn with.
        max_share: The share of differences that a view may have.
        views: By view.
    """

    project: str
    as_of: datetime
    seed: int
    max_share: float
    views: list[ViewAudit]

    @property
    def exit_code(self) -> int:
        """1 where a view has more differences than it may, or could not be compared; else 0."""
        return int(any(view.error or view.share > self.max_share for view in self.views))

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON; times in ISO 8601."""
        return {
            "project": self.project,
            "as_of": self.as_of.isoformat(),
            "seed": self.seed,
            "max_share": self.max_share,
            "exit_code": self.exit_code,
            "views": [_view_dict(view) for view in self.views],
        }


def _view_dict(view: ViewAudit) -> dict[str, Any]:
    return {
        "view": view.view,
        "online_entities": view.online_entities,
        "offline_entities": view.offline_entities,
        "compared": view.compared,
        "share": view.share,
        "counts": {str(outcome): view.counts[outcome] for outcome in Outcome},
        "features": dict(view.features),
        "examples": [
            {
                name: value.isoformat() if isinstance(value, datetime) else value
                for name, value in asdict(example).items()
            }
            for example in view.examples
        ],
        "skipped": view.skipped,
        "error": view.error,
    }


def audit(
    repo: Path | FeatureStore,
    views: Sequence[str] | None = None,
    *,
    entities: int = 500,
    as_of: datetime | None = None,
    tolerance: float = 0.0,
    max_share: float = 0.0,
    redis_url: str | None = None,
    seed: int | None = None,
    progress: Callable[[str, int, int], None] = lambda view, done, total: None,
) -> AuditReport:
    """Compares what is served online with the offline store.

    Args:
        repo: Folder with `feature_store.yaml`, or the opened repository.
        views: Names of views; None for all that are served.
        entities: How many are drawn from each side, for each view.
        as_of: The time to compare at; now if None.
        tolerance: By how much two fractions may differ, in parts of the greater one.
        max_share: The share of entities that may differ, 0 to 1, for the exit code.
        redis_url: Used instead of the repository's connection string.
        seed: What entities are drawn with from the batch source; a new one if None.
        progress: Is told of each view, how many are done and of how many.

    Raises:
        StartFailure: The repository or its registry cannot be read, Redis not be reached, or a
            name is no view's.
    """
    store = repo if isinstance(repo, FeatureStore) else open_repository(repo)
    with reading_registry(store):
        reader = RegistryReader(store)
        stored = reader.read()
        definitions = reader.define(stored)
    chosen = _choose(definitions, views)
    time = (as_of or datetime.now(UTC)).astimezone(UTC)
    drawn_with = secrets.randbits(32) if seed is None else seed
    online = OnlineStore(store, definitions, redis_url, time)
    task = _Audit(store, stored, definitions, online, entities, time, tolerance, drawn_with)
    report = AuditReport(definitions.project, time, drawn_with, max_share, [])
    try:
        for done, view in enumerate(chosen):
            progress(view.name, done, len(chosen))
            report.views.append(task.view(view))
    except REDIS_ERRORS as error:
        raise StartFailure(f"Redis cannot be audited: {error}") from error
    finally:
        online.close()
    return report


def _choose(definitions: Definitions, names: Sequence[str] | None) -> list[ViewDefinition]:
    if names is None:
        return [view for _, view in sorted(definitions.views.items()) if view.online]
    for name in names:
        if name not in definitions.views:
            failure = unknown_name("feature view", name, definitions.views)
            raise StartFailure(failure.message)
    return [definitions.views[name] for name in dict.fromkeys(names)]


class _Audit:
    """One audit, view by view; the entities of views are kept for on-demand views of theirs."""

    def __init__(
        self,
        store: FeatureStore,
        stored: Any,
        definitions: Definitions,
        online: OnlineStore,
        entities: int,
        as_of: datetime,
        tolerance: float,
        seed: int,
    ) -> None:
        self._store = store
        self._stored = stored
        self._definitions = definitions
        self._online = online
        self._entities = entities
        self._as_of = as_of
        self._tolerance = tolerance
        self._seed = seed
        self._drawn: dict[str, tuple[list[Entity], list[Entity], dict[Entity, int]]] = {}

    def view(self, view: ViewDefinition) -> ViewAudit:
        """Audits a view."""
        result = ViewAudit(view.name)
        try:
            if view.problem:
                raise NotComparable(view.problem)
            if is_windowed(view):
                result.skipped = (
                    "its features are windows over events, which are not in its source; "
                    "hotfeast training-set computes them"
                )
            elif view.on_demand is not None:
                self._on_demand(view, result)
            else:
                self._plain(view, result)
        except REDIS_ERRORS:
            raise
        except NotComparable as error:
            result.error = str(error)
        except RequestFailure as failure:
            result.error = failure.message
        except READ_ERRORS as error:
            result.error = f"it cannot be read online: {error}"
        except Exception as error:
            # Of this view's source; others may do better.
            result.error = f"the offline store cannot be read: {type(error).__name__}: {error}"
        return result

    def _draw(self, view: ViewDefinition) -> tuple[list[Entity], list[Entity], dict[Entity, int]]:
        """Entities drawn online and offline, and the event times of the offline rows."""
        if view.name not in self._drawn:
            online = self._online.sample(view, self._entities)
            # Not of the options that are for writing: nothing is written.
            write = plan_write(self._definitions, view.name, 0)
            rows = newest_rows(
                self._store,
                feast_view(self._stored, view.name),
                write,
                online,
                self._entities,
                self._as_of,
                self._seed,
            )
            self._drawn[view.name] = online, rows.sampled, rows.times
        return self._drawn[view.name]

    def _plain(self, view: ViewDefinition, result: ViewAudit) -> None:
        online, offline, times = self._draw(view)
        result.online_entities, result.offline_entities = len(online), len(offline)
        entities = list(dict.fromkeys([*online, *offline]))
        if not entities:
            result.skipped = "neither side has a row of it"
            return
        served = self._read(view, view.join_keys, entities)
        answer = self._ask(view, view.join_keys, entities)
        columns = self._columns(view, answer)
        for entity, row in zip(entities, served, strict=True):
            at = times.get(entity)
            outcome, message = _by_time(row, at, self._as_of)
            features: dict[str, str] = {}
            if outcome is _EQUAL and at is not None:
                if entity in answer.rows:
                    features = _differences(columns, answer.rows[entity], row, self._tolerance)
                    outcome = Outcome.DIFFERENT if features else _EQUAL
                else:
                    outcome = Outcome.NOT_COMPARED
            result.add(_example(outcome, view.join_keys, entity, row, at, features, message))

    def _on_demand(self, view: ViewDefinition, result: ViewAudit) -> None:
        if view.request_fields:
            result.skipped = "it is computed from request data, which is not stored"
            return
        keys, entities = self._combine(view)
        result.online_entities = len(entities)
        if not entities:
            result.skipped = "neither side has rows of its sources"
            return
        served = self._read(view, keys, entities)
        answer = self._ask(view, keys, entities)
        columns = self._columns(view, answer)
        for entity, row in zip(entities, served, strict=True):
            at = self._computed_at(view, keys, entity) if view.stored else None
            outcome, message = _by_time(row, at, self._as_of) if view.stored else (_EQUAL, "")
            features: dict[str, str] = {}
            if entity not in answer.rows:
                outcome, message = Outcome.NOT_COMPARED, ""
            elif row.status == INVALID:
                outcome, message = Outcome.DIFFERENT, row.problem
            elif outcome is _EQUAL and row.status != NOT_FOUND:
                features = _differences(columns, answer.rows[entity], row, self._tolerance)
                outcome = Outcome.DIFFERENT if features else _EQUAL
            result.add(_example(outcome, keys, entity, row, at, features, message))

    def _combine(self, view: ViewDefinition) -> tuple[list[FieldDefinition], list[Entity]]:
        """Entities to compute an on-demand view for: the join keys of all its sources.

        No two have the same entity of a source, since Feast's file offline store keeps only one row
        of those that have.
        """
        sources = [find_view(self._definitions, source) for source in view.sources]
        if any(source.join_key_map for source in view.sources):
            raise NotComparable("its sources take entities under other names")
        sources.sort(key=lambda source: -len(source.join_keys))
        fields: dict[str, FieldDefinition] = {}
        columns: list[tuple[list[str], list[Entity]]] = []
        for source in sources:
            online, offline, _ = self._draw(source)
            names = [key.name for key in source.join_keys]
            if not fields.keys() >= set(names) or not columns:
                columns.append((names, list(dict.fromkeys([*offline, *online]))))
            fields |= {key.name: key for key in source.join_keys if key.name not in fields}
        rows: list[dict[str, Any]] = []
        for drawn in zip(*(entities for _, entities in columns), strict=False):
            row: dict[str, Any] = {}
            for (names, _), entity in zip(columns, drawn, strict=True):
                row = dict(zip(names, entity, strict=True)) | row
            rows.append(row)
        taken: list[set[Entity]] = [set() for _ in sources]
        combined: list[Entity] = []
        for row in rows:
            parts = [tuple(row[key.name] for key in source.join_keys) for source in sources]
            if not any(part in seen for part, seen in zip(parts, taken, strict=True)):
                for part, seen in zip(parts, taken, strict=True):
                    seen.add(part)
                combined.append(tuple(row[name] for name in fields))
        return list(fields.values()), combined

    def _computed_at(
        self, view: ViewDefinition, keys: Sequence[FieldDefinition], entity: Entity
    ) -> int | None:
        """The event time that a stored on-demand view's row should have: the newest that a source
        with all join keys has for the entity."""
        values = {key.name: value for key, value in zip(keys, entity, strict=True)}
        times = []
        for source in (find_view(self._definitions, s) for s in view.sources):
            if len(source.join_keys) == len(keys):
                _, _, known = self._draw(source)
                times.append(known.get(tuple(values[key.name] for key in source.join_keys)))
        return max((time for time in times if time is not None), default=None)

    def _read(
        self, view: ViewDefinition, keys: Sequence[FieldDefinition], entities: Sequence[Entity]
    ) -> list[ServedRow]:
        references = [f"{view.name}:{feature.name}" for feature in view.features]
        return self._online.read(references, keys, entities)

    def _ask(
        self, view: ViewDefinition, keys: Sequence[FieldDefinition], entities: Sequence[Entity]
    ) -> OfflineAnswer:
        names = [feature.name for feature in view.features]
        return point_in_time(self._store, view.name, names, keys, entities, self._as_of)

    def _columns(self, view: ViewDefinition, answer: OfflineAnswer) -> list[OfflineColumn]:
        return [
            OfflineColumn(view, feature, answer.columns[feature.name]) for feature in view.features
        ]


def _by_time(row: ServedRow, at: int | None, as_of: datetime) -> tuple[Outcome, str]:
    """What the event times of an entity's rows say.

    Args:
        row: What is served.
        at: Event time of the offline row in microseconds; None where there is none.
        as_of: The time of the audit.
    """
    if row.status == INVALID:
        return Outcome.DIFFERENT, row.problem
    if row.status == NOT_FOUND:
        if at is None:
            return _EQUAL, ""
        return Outcome.MISSING_ONLINE, f"nothing is stored; the offline row is of {_moment(at)}"
    served = row.time // 1000
    if served > _microseconds(as_of):
        return Outcome.NOT_COMPARED, "the online row is of after the time of the audit"
    if at is None:
        if row.status == OUTSIDE_MAX_AGE:
            return _EQUAL, ""
        return (
            Outcome.MISSING_OFFLINE,
            f"the online row is of {_moment(served)}; the offline store has none within the TTL",
        )
    if row.time % 1_000_000_000 == 0:
        # Feast's SDK stores whole seconds.
        at -= at % 1_000_000
    if served < at:
        age = timedelta(microseconds=at - served)
        old = f"{age} older than" if row.time else "without an event time beside"
        return Outcome.STALE, f"the online row is {old} the offline one of {_moment(at)}"
    if served > at:
        return (
            Outcome.MISSING_OFFLINE,
            f"the online row is of {_moment(served)}; the newest offline one is of {_moment(at)}",
        )
    return _EQUAL, ""


def _differences(
    columns: Iterable[OfflineColumn], position: int, row: ServedRow, tolerance: float
) -> dict[str, str]:
    """The features that differ, and how."""
    pairs = zip(columns, row.values, strict=True)
    told = {c.feature: c.difference(position, value, tolerance) for c, value in pairs}
    return {feature: words for feature, words in told.items() if words}


def _example(
    outcome: Outcome,
    keys: Sequence[FieldDefinition],
    entity: Entity,
    row: ServedRow,
    at: int | None,
    features: dict[str, str],
    message: str,
) -> Example:
    return Example(
        outcome,
        {key.name: value for key, value in zip(keys, entity, strict=True)},
        _time(row.time // 1000) if row.time else None,
        _time(at) if at is not None else None,
        features,
        message,
    )


def _microseconds(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1)


def _time(microseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)


def _moment(microseconds: int) -> str:
    return _time(microseconds).isoformat().replace("+00:00", "Z")
