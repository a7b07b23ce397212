"""Whole Feast repositories, their rows, and requests for them, as plain descriptions.

Nothing here touches Feast's stores or the gateway: `parity_oracle` carries descriptions out, and
`parity_model` says what must come of them.

Everything is drawn so that it can be served; what Feast itself cannot do is left out where a
comment says so.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from feast.protos.feast.types.Value_pb2 import Value
from feast.value_type import ValueType
from feast_versions import ADDS_UP_FEATURES
from hypothesis import strategies as st
from parity_values import NULL, SIMPLE, TYPES, UNSET, stored_values

Key = int | str | bytes
"""The native value of a join key."""

KEY_MEMBERS = {
    ValueType.STRING: "string_val",
    ValueType.BYTES: "bytes_val",
    ValueType.INT32: "int32_val",
    ValueType.INT64: "int64_val",
    ValueType.UNIX_TIMESTAMP: "unix_timestamp_val",
}
DUMMY_JOIN_KEY = "__dummy_id"

# 2026-03-01T12:00:00Z, and the microseconds that the fixed clock may add to it.
NOW_SECONDS = 1_772_366_400
NOW_MICROS = (0, 0, 1, 500_000, 999_999)

Time = tuple[int, int]
"""Seconds since 1970 and nanoseconds."""


@dataclass(frozen=True)
class EntitySpec:
    """An entity, and the keys that rows and requests use."""

    name: str
    join_key: str
    value_type: ValueType
    declared: bool
    """Whether the entity states its type; else only the views' schemas do."""
    pool: tuple[Key, ...]
    """The last of them never has a row."""


@dataclass(frozen=True)
class FeatureSpec:
    """A feature; `member` is the key of its type in `TYPES`."""

    name: str
    member: str


@dataclass(frozen=True)
class ViewSpec:
    """A feature view of any kind."""

    name: str
    kind: str
    entities: tuple[int, ...]
    features: tuple[FeatureSpec, ...]
    ttl: float | None
    keys_in_schema: bool
    field_mapping: bool
    version: int = 0
    """Whose rows are read: 0 where versions of views are not kept apart."""
    pinned: bool = False
    """Whether it is asked for by its version."""

    def shown(self, alias: str | None = None) -> str:
        """What it is called in references and in answers."""
        name = self.name if alias is None else alias
        return f"{name}@v{self.version}" if self.pinned else name

    def feature_names(self) -> tuple[str, ...]:
        """The names of all features."""
        return tuple(f.name for f in self.features)


@dataclass(frozen=True)
class ProjectionSpec:
    """What a feature service takes from a view; `features` is None for all of them."""

    view: int
    alias: str | None = None
    features: tuple[str, ...] | None = None
    join_key_map: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ServiceSpec:
    """A feature service."""

    name: str
    projections: tuple[ProjectionSpec, ...]


@dataclass(frozen=True)
class RepoSpec:
    """A repository."""

    entities: tuple[EntitySpec, ...]
    views: tuple[ViewSpec, ...]
    services: tuple[ServiceSpec, ...]
    now: Time

    def view_entities(self, view: ViewSpec) -> list[EntitySpec]:
        """The entities of a view, in the order in which it declares them."""
        return [self.entities[i] for i in view.entities]


@dataclass(frozen=True)
class RowSpec:
    """A row to write: indices into the pools of the view's entities, in declared order."""

    key: tuple[int, ...]
    values: tuple[tuple[str, bytes], ...]
    time: Time


@dataclass(frozen=True)
class BatchSpec:
    """Rows that Feast writes to a view in one call."""

    view: int
    rows: tuple[RowSpec, ...]
    frame: bool
    """Whether they go as a data frame through `write_to_online_store`."""


@dataclass(frozen=True)
class EditSpec:
    """A change behind Feast's back: `drop_time`, `drop_value`, `set_time` or `set_value`."""

    view: int
    key: tuple[int, ...]
    kind: str
    feature: str = ""
    value: bytes = b""
    time: Time = (0, 0)


@dataclass(frozen=True)
class DataSpec:
    """What is stored for a project: batches, then edits."""

    batches: tuple[BatchSpec, ...]
    edits: tuple[EditSpec, ...]


@dataclass(frozen=True)
class ColumnSpec:
    """An entity column of a request."""

    name: str
    """The join key, after the projections' maps."""
    entity: int
    """Whose keys it takes."""
    sent_as: str
    """The name in our request: `name`, or the deprecated name of the entity."""
    member: str
    """The member of `Value` that our request sends."""
    rows: tuple[int, ...]
    """Indices into the entity's pool."""


@dataclass(frozen=True)
class RequestSpec:
    """A request for a service, or for a list of features."""

    service: int | None
    features: tuple[tuple[int, str], ...]
    full: bool
    metadata: bool
    stale: bool
    """Whether values of rows that are too old are wanted."""
    columns: tuple[ColumnSpec, ...]
    """In the order in which our request has them."""
    rows: int
    sends_dummy: bool = False
    """Whether the request says how many rows it wants through the dummy key."""
    latest: bool = False
    """Whether its list says `view@latest:feature`."""


def one_in(draw: Callable[..., Any], number: int) -> bool:
    """True once in a while; examples shrink towards False."""
    return bool(draw(st.integers(1, number)) == number)


# ---------------------------------------------------------------- names

_LETTERS = "abcxyzABC019_"
# Accents, other scripts, a zero-width space, a combining mark, and what parsers care about.
_ODD = _LETTERS + " -./\\'\"`$%#{}[]()<>|?*+,;=~^&!éßÄ中文\U0001f600\u200b\u0301"


def names(extra: str = "") -> st.SearchStrategy[str]:
    """Names of things: ordinary ones, and as odd as Feast takes them."""
    ordinary = st.text(_LETTERS, min_size=1, max_size=6)
    odd = st.text(_ODD + extra, min_size=1, max_size=8)
    # Underscores in front are Feast's own: `__dummy_id`, `_ts:`.
    return (ordinary | odd).filter(lambda name: not name.startswith("_"))


def _distinct(draw: st.DrawFn, count: int, taken: set[str], extra: str = "") -> list[str]:
    """Names that are not taken; upper and lower case count as one, as for Feast's views."""
    found = []
    for _ in range(count):
        name = draw(names(extra))
        while name.lower() in taken:
            name += draw(st.sampled_from("abc0"))
        taken.add(name.lower())
        found.append(name)
    return found


@st.composite
def view_names(draw: st.DrawFn, count: int) -> list[str]:
    """Different names of views."""
    return _distinct(draw, count, set())


# ---------------------------------------------------------------- definitions

_KEYS: dict[ValueType, st.SearchStrategy[Any]] = {
    ValueType.STRING: st.sampled_from(("", "a", "B", "ключ", "\U0001f511", "x" * 300, "0", "\x00"))
    | st.text(max_size=5),
    ValueType.BYTES: st.sampled_from((b"", b"\x00", b"\xff\xfe", b"abc", b"y" * 300))
    | st.binary(max_size=4),
    ValueType.INT32: st.sampled_from((0, 1, -1, 2**31 - 1, -(2**31))) | st.integers(-99, 99),
    ValueType.INT64: st.sampled_from((0, 1, -1, 2**31, -(2**31) - 1, 2**63 - 1, -(2**63)))
    | st.integers(-99, 99),
    ValueType.UNIX_TIMESTAMP: st.sampled_from((0, -1, NOW_SECONDS, 2**40, -(2**63)))
    | st.integers(0, 2**31),
}

_KINDS = ("feature_view", "feature_view", "batch", "stream", "label")


@st.composite
def entity_specs(draw: st.DrawFn, count: int) -> tuple[EntitySpec, ...]:
    """Entities, whose names and join keys all differ."""
    taken: set[str] = set()
    entities = []
    for _ in range(count):
        value_type = draw(st.sampled_from(tuple(_KEYS)))
        name = _distinct(draw, 1, taken, ":@")[0]
        join_key = name if draw(st.booleans()) else _distinct(draw, 1, taken, ":@")[0]
        pool = draw(st.lists(_KEYS[value_type], min_size=2, max_size=4, unique=True))
        declared = not one_in(draw, 8)
        entities.append(EntitySpec(name, join_key, value_type, declared, tuple(pool)))
    return tuple(entities)


@st.composite
def feature_specs(
    draw: st.DrawFn,
    most: int,
    reserved: set[str],
    known: Sequence[str] = (),
    simple: bool = False,
) -> tuple[FeatureSpec, ...]:
    """The features of a view; some bear names that other views have already.

    Args:
        most: How many there can be.
        reserved: Names that would make a feature a join key.
        known: Names that other views have.
        simple: Whether a data frame must be able to hold them.
    """
    taken = set(reserved)
    features = []
    for _ in range(draw(st.integers(1, most))):
        free = [name for name in known if name.lower() not in taken]
        if free and one_in(draw, 6):
            name = draw(st.sampled_from(free))
            taken.add(name.lower())
        else:
            name = _distinct(draw, 1, taken | {k.lower() for k in known}, ":@")[0]
            taken.add(name.lower())
        member = draw(st.sampled_from(SIMPLE if simple else tuple(TYPES)))
        features.append(FeatureSpec(name, member))
    return tuple(features)


@st.composite
def _views(draw: st.DrawFn, entities: tuple[EntitySpec, ...]) -> tuple[ViewSpec, ...]:
    taken: set[str] = set()
    known: list[str] = []
    reserved = {e.join_key.lower() for e in entities}
    views = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(_KINDS))
        chosen = draw(st.permutations(range(len(entities))))
        # An entityless label view cannot be read by Feast, which finds no rows to answer.
        least = 0 if kind != "label" and one_in(draw, 5) else 1
        chosen = chosen[: draw(st.integers(least, len(entities)))] if least else []
        features = draw(feature_specs(4, reserved, known, simple=draw(st.integers(1, 5)) > 3))
        known += [f.name for f in features if f.name not in known]
        undeclared = any(not entities[i].declared for i in chosen)
        views.append(
            ViewSpec(
                name=_distinct(draw, 1, taken)[0],
                kind=kind,
                entities=tuple(chosen),
                features=features,
                ttl=draw(
                    st.sampled_from((None, 0, 0.5, 1, 1.5, 3600, 86400 * 365, 10 * 365 * 86400))
                ),
                keys_in_schema=undeclared or draw(st.booleans()),
                field_mapping=one_in(draw, 4),
            )
        )
    return tuple(views)


@st.composite
def _projection(
    draw: st.DrawFn,
    repo: RepoSpec,
    view_index: int,
    alias: str | None,
    fresh: dict[str, ValueType],
) -> ProjectionSpec:
    view = repo.views[view_index]
    features: tuple[str, ...] | None = None
    if draw(st.booleans()):
        shuffled = draw(st.permutations(view.feature_names()))
        features = tuple(shuffled[: draw(st.integers(1, len(shuffled)))])
    join_key_map = []
    # Label views have no `with_join_key_map`.
    if view.entities and view.kind != "label" and one_in(draw, 3):
        used: set[str] = set()
        for i in view.entities:
            if draw(st.booleans()):
                target = draw(_map_target(repo, view, i, fresh, used))
                used.add(target)
                join_key_map.append((repo.entities[i].join_key, target))
    return ProjectionSpec(view_index, alias, features, tuple(join_key_map))


@st.composite
def _map_target(
    draw: st.DrawFn,
    repo: RepoSpec,
    view: ViewSpec,
    source: int,
    fresh: dict[str, ValueType],
    used: set[str],
) -> str:
    """What a join key is called in requests: a new name, or the join key of another entity.

    Feast mixes columns up where one projection maps `a` to `b` and another `b` to `a`; so keys are
    mapped to those of later entities only, and Feast is sent the columns in the order of entities.
    """
    entity = repo.entities[source]
    others = [
        other.join_key
        for i, other in enumerate(repo.entities)
        if i > source and i not in view.entities and other.value_type == entity.value_type
    ]
    others += [name for name, value_type in fresh.items() if value_type == entity.value_type]
    others = [name for name in others if name not in used]
    reuse: bool = draw(st.booleans())
    if others and reuse:
        return draw(st.sampled_from(others))
    taken = {e.name.lower() for e in repo.entities} | {e.join_key.lower() for e in repo.entities}
    name = _distinct(draw, 1, taken | {n.lower() for n in fresh}, ":@")[0]
    fresh[name] = entity.value_type
    return name


@st.composite
def _service(draw: st.DrawFn, repo: RepoSpec, name: str) -> ServiceSpec:
    count = draw(st.integers(1, 4))
    chosen = [draw(st.integers(0, len(repo.views) - 1)) for _ in range(count)]
    # Feast cannot compare two projections of a view where only one has an alias. Where none has, it
    # adds up their features.
    repeated = sorted({index for index in chosen if chosen.count(index) > 1})
    may_merge = repeated if ADDS_UP_FEATURES else []
    merged = {index: _shares(draw, repo.views[index]) for index in may_merge if one_in(draw, 2)}
    taken = {v.name.lower() for v in repo.views}
    fresh: dict[str, ValueType] = {}
    projections = []
    for index in chosen:
        if index in merged:
            projections.append(ProjectionSpec(index, None, merged[index].pop()))
            continue
        has_alias = index in repeated or one_in(draw, 3)
        alias = _distinct(draw, 1, taken)[0] if has_alias else None
        projections.append(draw(_projection(repo, index, alias, fresh)))
    return ServiceSpec(name, tuple(projections))


def _shares(draw: st.DrawFn, view: ViewSpec) -> list[tuple[str, ...]]:
    """Parts of a view's features for up to four projections; most have nothing in common."""
    features = draw(st.permutations(view.feature_names()))
    first = draw(st.integers(1, len(features)))
    rest = [(name,) for name in features[first:]]
    missing = [tuple(features[:1])] * (4 - len(rest))
    return [*missing, *rest, tuple(features[:first])]


@st.composite
def repositories(draw: st.DrawFn) -> RepoSpec:
    """A repository of up to four entities, four views and three feature services."""
    entities = draw(entity_specs(draw(st.integers(1, 4))))
    now = (NOW_SECONDS, draw(st.sampled_from(NOW_MICROS)) * 1000)
    repo = RepoSpec(entities, draw(_views(entities)), (), now)
    service_names = _distinct(draw, draw(st.integers(1, 3)), set(), ":@")
    services = tuple(draw(_service(repo, name)) for name in service_names)
    return replace(repo, services=services)


@st.composite
def every_type(draw: st.DrawFn) -> tuple[RepoSpec, DataSpec]:
    """A view with a feature of each type, and rows in which all of them are set, or some."""
    entities = draw(entity_specs(1))
    features = tuple(FeatureSpec(f"a {member}", member) for member in TYPES)
    view = ViewSpec("types", "feature_view", (0,), features, 3600, True, False)
    service = ServiceSpec("all of them", (ProjectionSpec(0),))
    repo = RepoSpec(entities, (view,), (service,), (NOW_SECONDS, 0))
    full = tuple((f.name, draw(stored_values(f.member))) for f in features)
    part = tuple((f.name, draw(_cell(f))) for f in features)
    last = len(entities[0].pool) - 2
    rows = (RowSpec((0,), full, repo.now), RowSpec((last,), part, shifted(repo.now, 1000)))
    return repo, DataSpec((BatchSpec(0, rows, False),), ())


# ---------------------------------------------------------------- rows

_EDGES = (-1_000_000_000, -1000, 0, 1000, 1_000_000_000)
_FINE_EDGES = (*_EDGES, -1, 1)


def shifted(time: Time, nanos: int) -> Time:
    """A time `nanos` later."""
    seconds, rest = divmod(time[0] * 1_000_000_000 + time[1] + nanos, 1_000_000_000)
    return seconds, rest


@st.composite
def _times(draw: st.DrawFn, now: Time, ttl: float | None, fine: bool) -> Time:
    """A row's event time: about the edge of the TTL, about now, or anywhere.

    Feast's writer takes microseconds; `fine` times have nanoseconds.
    """
    kind = draw(st.sampled_from(("edge", "edge", "now", "whole", "any", "far")))
    if kind == "edge" and ttl:
        edge = draw(st.sampled_from(_FINE_EDGES if fine else _EDGES))
        return shifted(now, edge - round(ttl * 1_000_000_000))
    if kind == "now":
        return shifted(now, draw(st.sampled_from(_FINE_EDGES if fine else _EDGES)))
    if kind == "whole":
        return now[0] - draw(st.integers(-1000, 100_000)), 0
    if kind == "far":
        # The years 1900 and 2200, 1970 itself, and just before it.
        seconds = draw(st.sampled_from((-2_208_988_800, 7_258_118_400, 0, 0, -1, 1)))
    else:
        seconds = now[0] - draw(st.integers(-100_000, 40_000_000))
    nanos = draw(st.integers(0, 999_999_999)) if fine else 1000 * draw(st.integers(0, 999_999))
    return seconds, nanos


@st.composite
def _cell(draw: st.DrawFn, feature: FeatureSpec) -> bytes:
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return UNSET
    if kind == 1:
        return NULL
    return draw(stored_values(feature.member))


def _key(draw: st.DrawFn, repo: RepoSpec, view: ViewSpec) -> tuple[int, ...]:
    # The last key of each pool stays without a row.
    return tuple(draw(st.integers(0, len(e.pool) - 2)) for e in repo.view_entities(view))


@st.composite
def _row(draw: st.DrawFn, repo: RepoSpec, view: ViewSpec, frame: bool) -> RowSpec:
    values = []
    for feature in view.features:
        if frame:
            values.append((feature.name, draw(_frame_cell(feature))))
        elif not one_in(draw, 10):
            values.append((feature.name, draw(_cell(feature))))
    time = draw(_times(repo.now, view.ttl, fine=False))
    return RowSpec(_key(draw, repo, view), tuple(values), time)


@st.composite
def _frame_cell(draw: st.DrawFn, feature: FeatureSpec) -> bytes:
    # A column of integers with a null in it goes through floats, which not every integer survives.
    if feature.member != "int64_val" and one_in(draw, 8):
        return UNSET
    stored = draw(stored_values(feature.member))
    value = Value.FromString(stored)
    # In a data frame NaN stands for null, and so does an empty list.
    empty = feature.member.endswith("_list_val") and not getattr(value, feature.member).val
    return UNSET if empty or math.isnan(value.double_val) else stored


_FRAME_KEYS = {ValueType.INT64, ValueType.INT32, ValueType.STRING}


@st.composite
def batches(draw: st.DrawFn, repo: RepoSpec, view_index: int) -> BatchSpec:
    """Rows of a view, some of them for the same key."""
    view = repo.views[view_index]
    frame = (
        bool(view.entities)
        and all(f.member in SIMPLE for f in view.features)
        and all(e.value_type in _FRAME_KEYS for e in repo.view_entities(view))
        and not one_in(draw, 4)
    )
    rows = tuple(draw(st.lists(_row(repo, view, frame), min_size=1, max_size=5)))
    # Feast writes nothing at all where every feature of a frame is null.
    written = any(value != UNSET for row in rows for _, value in row.values)
    return BatchSpec(view_index, rows, frame and written)


@st.composite
def _edit(draw: st.DrawFn, repo: RepoSpec) -> EditSpec:
    index = draw(st.integers(0, len(repo.views) - 1))
    view = repo.views[index]
    kind = draw(st.sampled_from(("drop_time", "drop_value", "set_time", "set_time", "set_value")))
    key = _key(draw, repo, view)
    if kind == "set_time":
        return EditSpec(index, key, kind, time=draw(_times(repo.now, view.ttl, fine=True)))
    feature = draw(st.sampled_from(view.features))
    value = draw(_cell(feature)) if kind == "set_value" else b""
    return EditSpec(index, key, kind, feature.name, value)


def edits(repo: RepoSpec) -> st.SearchStrategy[tuple[EditSpec, ...]]:
    """Changes behind Feast's back."""
    return st.lists(_edit(repo), max_size=5).map(tuple)


@st.composite
def stored_data(draw: st.DrawFn, repo: RepoSpec) -> DataSpec:
    """What is stored for a repository: most views have rows, some rows are written again."""
    written = [
        draw(batches(repo, index))
        for index in range(len(repo.views))
        for _ in range(draw(st.sampled_from((1, 1, 1, 2, 0))))
    ]
    return DataSpec(tuple(written), draw(edits(repo)))


# ---------------------------------------------------------------- requests


def request_keys(
    repo: RepoSpec, projections: Iterable[ProjectionSpec]
) -> list[tuple[str, int, bool]]:
    """The entity columns that projections need: name, entity, and whether a map has named it."""
    found: dict[str, tuple[int, bool]] = {}
    for projection in projections:
        renamed = dict(projection.join_key_map)
        for i in repo.views[projection.view].entities:
            join_key = repo.entities[i].join_key
            name = renamed.get(join_key, join_key)
            mapped = name != join_key or found.get(name, (0, False))[1]
            found[name] = (found.get(name, (i, False))[0], mapped)
    return [(name, *where) for name, where in found.items()]


def in_feasts_order(repo: RepoSpec, columns: Iterable[ColumnSpec]) -> list[ColumnSpec]:
    """Columns in the order in which Feast does not mix them up; see `_map_target`."""
    own = [e.join_key for e in repo.entities]
    return sorted(columns, key=lambda c: own.index(c.name) if c.name in own else len(own))


Anchor = dict[int, int]
"""For some entities the index of a key in their pools."""


def anchors_of(repo: RepoSpec, data: DataSpec) -> list[Anchor]:
    """Keys that rows are written for, so that requests of several entities find some."""
    return [
        dict(zip(repo.views[batch.view].entities, row.key, strict=True))
        for batch in data.batches
        for row in batch.rows
    ]


@st.composite
def _request_rows(
    draw: st.DrawFn, repo: RepoSpec, anchors: list[Anchor], rows: int
) -> list[list[int]]:
    """For each row of a request an index into each entity's pool; about half of them hit."""

    def pick(choose: Callable[[int], int]) -> list[int]:
        anchor = anchors[choose(len(anchors))] if anchors and choose(3) else {}
        return [anchor.get(i, choose(len(e.pool))) for i, e in enumerate(repo.entities)]

    if rows <= 8:
        return [pick(lambda n: draw(st.integers(0, n - 1))) for _ in range(rows)]
    # One draw for many rows: hypothesis bounds how much an example may draw.
    random = Random(draw(st.integers(0, 2**32)))
    return [pick(random.randrange) for _ in range(rows)]


_OTHER_WIDTH = {"int32_val": "int64_val", "int64_val": "int32_val"}


@st.composite
def _column(
    draw: st.DrawFn,
    repo: RepoSpec,
    name: str,
    index: int,
    mapped: bool,
    rows: list[list[int]],
) -> ColumnSpec:
    entity = repo.entities[index]
    chosen = tuple(row[index] for row in rows)
    member = KEY_MEMBERS[entity.value_type]
    other = _OTHER_WIDTH.get(member)
    if other is not None and one_in(draw, 3):
        values = [entity.pool[i] for i in chosen]
        if other == "int64_val" or all(-(2**31) <= v < 2**31 for v in values):  # type: ignore[operator]
            member = other
    own = entity.name if not mapped and one_in(draw, 6) else name
    return ColumnSpec(name, index, own, member, chosen)


def request_projections(repo: RepoSpec, request: RequestSpec) -> tuple[ProjectionSpec, ...]:
    """What a request reads, as projections in the order of the request."""
    if request.service is not None:
        return repo.services[request.service].projections
    wanted: dict[int, list[str]] = {}
    for view, feature in request.features:
        wanted.setdefault(view, []).append(feature)
    return tuple(ProjectionSpec(v, None, tuple(f)) for v, f in wanted.items())


_ROW_COUNTS = (
    st.sampled_from((1, 1, 1, 0)),
    st.integers(2, 8),
    st.integers(2, 8),
    st.integers(9, 300),
)


@st.composite
def requests(
    draw: st.DrawFn, repo: RepoSpec, anchors: list[Anchor], mostly_full: bool = False
) -> RequestSpec:
    """A request that has all that it needs; its features may have clashing names.

    Args:
        repo: The repository.
        anchors: Keys that have rows.
        mostly_full: Whether names would clash too often without the views' names.
    """
    service: int | None = None
    features: tuple[tuple[int, str], ...] = ()
    if repo.services and draw(st.integers(0, 4)) > 1:
        service = draw(st.integers(0, len(repo.services) - 1))
    else:
        every = [(i, f.name) for i, view in enumerate(repo.views) for f in view.features]
        most = draw(st.integers(1, len(every)))
        features = tuple(draw(st.permutations(every))[:most])
    rows = draw(st.one_of(*_ROW_COUNTS))
    request = RequestSpec(
        service=service,
        features=features,
        full=draw(st.integers(0, 2)) > (0 if mostly_full else 1),
        metadata=draw(st.booleans()),
        stale=one_in(draw, 4),
        columns=(),
        rows=rows,
        latest=service is None and one_in(draw, 6),
    )
    keys = request_keys(repo, request_projections(repo, request))
    if not keys:
        return replace(request, sends_dummy=rows != 1 or draw(st.booleans()))
    own = draw(_request_rows(repo, anchors, rows))
    columns = []
    for key in keys:
        # A column under another name has keys of its own.
        other = key[2] and rows and draw(st.booleans())
        chosen = draw(_request_rows(repo, anchors, rows)) if other else own
        columns.append(draw(_column(repo, *key, chosen)))
    return replace(request, columns=tuple(draw(st.permutations(columns))))
