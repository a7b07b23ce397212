"""Generated repositories, rows and requests: the gateway answers what Feast's SDK answers.

With the statuses of Feast's server, answers are equal to the byte of each parsed column. With
strict statuses they are what `parity_model` works out from the writes alone, and the values are
Feast's wherever they may be served.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random
from typing import Any

import grpc
import pytest
from feast.errors import FeatureNameCollisionError
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.Value_pb2 import StringList, Value
from feast.value_type import ValueType
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st
from parity_coverage import REPOS, SEED, count, total
from parity_model import Column, Model, answer, clashes, sources
from parity_oracle import (
    Answer,
    Asked,
    Bench,
    OverSockets,
    Workplace,
    apply,
    as_timestamp,
    ask_feast,
    references_of,
    request_message,
    value_of,
)
from parity_strategies import (
    KEY_MEMBERS,
    NOW_SECONDS,
    BatchSpec,
    ColumnSpec,
    DataSpec,
    EditSpec,
    EntitySpec,
    FeatureSpec,
    ProjectionSpec,
    RepoSpec,
    RequestSpec,
    RowSpec,
    ServiceSpec,
    ViewSpec,
    anchors_of,
    every_type,
    one_in,
    repositories,
    request_projections,
    requests,
    stored_data,
)
from parity_values import MEMBERS, TYPES, member_of, normal
from parity_versions import apply_history, versioned_repositories

from hotfeast.server.errors import RequestFailure
from hotfeast.server.repack import repack

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:feast")

_STATUSES: dict[int, str] = {number: name for name, number in FieldStatus.items()}
_SERVED = (FieldStatus.PRESENT, FieldStatus.NULL_VALUE)


def profile(share: float, shrink: bool = True) -> Callable[[Any], Any]:
    """Hypothesis' settings for a test that makes a share of all repositories.

    Args:
        share: The share.
        shrink: Whether a failing example is worth making smaller; not where examples are slow.
    """
    parity = settings.get_profile("parity")
    phases = [p for p in parity.phases if shrink or p != Phase.shrink]

    def decorate(test: Any) -> Any:
        examples = max(1, round(REPOS * share))
        return seed(SEED)(settings(parity, max_examples=examples, phases=phases)(test))

    return decorate


# ---------------------------------------------------------------- comparing


def same_columns(ours: Answer, feast: Answer, request: RequestSpec) -> None:
    """Compares answers of the same statuses: every column to the byte, and the metadata."""
    sent = {c.name: c.member for c in request.columns}
    assert set(ours.columns) == set(feast.columns)
    for name, vectors in feast.columns.items():
        assert len(ours.columns[name]) == len(vectors), name
        for position, vector in enumerate(vectors):
            if position == 0 and name in sent:
                _take_width(vector, sent[name])
            mine = ours.columns[name][position]
            count("compared", "cells", times=len(vector.values))
            assert _bytes(mine) == _bytes(vector), name
    ours_left, feast_left = type(ours.message)(), type(feast.message)()
    ours_left.CopyFrom(ours.message)
    feast_left.CopyFrom(feast.message)
    for left in (ours_left, feast_left):
        left.ClearField("results")
        left.metadata.ClearField("feature_names")
    assert ours_left == feast_left


def _bytes(message: Any) -> bytes:
    return bytes(message.SerializeToString(deterministic=True))


def _take_width(vector: Any, member: str) -> None:
    """Join keys come back as they were sent; Feast was sent those of the other width."""
    for value in vector.values:
        if value.WhichOneof("val") != member:
            value.CopyFrom(value_of(member, getattr(value, value.WhichOneof("val"))))


def matches_model(ours: Answer, expected: list[Column], request: RequestSpec) -> None:
    """Compares a strict answer with what the writes alone say."""
    keys = [c.name for c in request.columns]
    assert sorted(ours.names) == sorted([*keys, *(c.name for c in expected)])
    assert sorted(ours.names[: len(keys)]) == sorted(keys)
    places = {name: len(set(keys) & {name}) for name in ours.columns}
    for column in expected:
        vector = ours.columns[column.name][places[column.name]]
        places[column.name] += 1
        assert list(vector.statuses) == [c.status for c in column.cells], column.name
        assert [_bytes(v) for v in vector.values] == [normal(c.value) for c in column.cells]
        assert list(vector.event_timestamps) == [as_timestamp(c.time) for c in column.cells]
        for cell in column.cells:
            count("status", _STATUSES[cell.status])


def feast_values_where_served(ours: Answer, feast: Answer, names: list[str]) -> None:
    """Compares the values of a strict answer with Feast's, wherever they may be served."""
    for name in names:
        for mine, theirs in zip(ours.columns[name], feast.columns[name], strict=True):
            for status, value, other in zip(mine.statuses, mine.values, theirs.values, strict=True):
                if status in _SERVED:
                    assert _bytes(value) == _bytes(other), name


def compare(store: Any, repo: RepoSpec, model: Model, ours: Asked, request: RequestSpec) -> None:
    """Asks Feast and the gateway, in both status modes, and compares all answers."""
    count("compared", "requests")
    references = references_of(repo, request)
    selection: Any = references
    if request.service is not None:
        selection = store.get_feature_service(repo.services[request.service].name)
    message = request_message(repo, request, references)
    if clashes(repo, request):
        count("request", "refused for a name clash")
        for strict in (False, True):
            with pytest.raises(RequestFailure) as refused:
                ours.ask(message, strict)
            assert refused.value.code == grpc.StatusCode.INVALID_ARGUMENT
        if request.rows:
            with pytest.raises(FeatureNameCollisionError):
                ask_feast(store, repo, request, selection)
        return
    count_request(repo, request)
    expected = answer(repo, model, request)
    strict_answer = ours.ask(message, strict=True, stale=request.stale)
    matches_model(strict_answer, expected, request)
    feast_mode_answer = ours.ask(message, strict=False)
    assert set(feast_mode_answer.names) == set(strict_answer.names)
    if request.rows == 0:
        # Feast's SDK fails on it.
        assert all(v.ByteSize() == 0 for v in feast_mode_answer.message.results)
        return
    feast = ask_feast(store, repo, request, selection)
    same_columns(feast_mode_answer, feast, request)
    told = [
        [v.name for v in a.message.metadata.feature_view_metadata] for a in (strict_answer, feast)
    ]
    assert told[0] == told[1]
    if not _reads_other_rows(repo, request):
        feast_values_where_served(strict_answer, feast, [c.name for c in expected])


def _reads_other_rows(repo: RepoSpec, request: RequestSpec) -> bool:
    """Whether Feast reads rows of version 0 for the current ones, as it does for services."""
    views = [repo.views[p.view] for p in request_projections(repo, request)]
    return request.service is not None and any(v.version and not v.pinned for v in views)


# ---------------------------------------------------------------- counting


def count_repository(repo: RepoSpec) -> None:
    """Counts what a repository has."""
    count("compared", "repositories")
    count("entity", *(KEY_MEMBERS[e.value_type].removesuffix("_val") for e in repo.entities))
    for entity in repo.entities:
        count("entity", "own join key" if entity.name != entity.join_key else "one name")
        if not entity.declared:
            count("entity", "undeclared type")
    for view in repo.views:
        count("view", view.kind, f"{len(view.entities)} entities", f"ttl {bool(view.ttl)}")
        count("feature", *(f.member.removesuffix("_val") for f in view.features))
        if view.field_mapping:
            count("view", "field mapping")
        if not view.name.isascii() or any(not n.isascii() for n in view.feature_names()):
            count("view", "unicode names")
        keys = [e.join_key for e in repo.view_entities(view)]
        if keys != sorted(keys):
            count("view", "keys declared out of order")


def count_data(repo: RepoSpec, data: DataSpec) -> None:
    """Counts what is written."""
    for batch in data.batches:
        count("write", "data frame" if batch.frame else "batch")
        for row in batch.rows:
            count("write", "rows")
            count("value", *(member_of(v) or "unset" for _, v in row.values))
            if len(row.values) < len(repo.views[batch.view].features):
                count("write", "partial rows")
            if row.time > repo.now:
                count("time", "future")
            count("time", "whole second" if row.time[1] == 0 else "microseconds")
            _count_edge(repo, repo.views[batch.view].ttl, row.time)
    count_edits(repo, data.edits)


def count_edits(repo: RepoSpec, edits: Iterable[EditSpec]) -> None:
    """Counts what is changed behind Feast's back."""
    for edit in edits:
        count("edit", edit.kind)
        if edit.kind == "set_time":
            count("time", "nanoseconds" if edit.time[1] % 1000 else "set directly")
            _count_edge(repo, repo.views[edit.view].ttl, edit.time)


def _count_edge(repo: RepoSpec, ttl: float | None, time: tuple[int, int]) -> None:
    if not ttl:
        return
    over = (repo.now[0] - time[0]) * 10**9 + repo.now[1] - time[1] - round(ttl * 10**9)
    names = {0: "age = ttl", 10**9: "1 s over", -(10**9): "1 s under", 1000: "1 us over"}
    names |= {-1000: "1 us under", 1: "1 ns over", -1: "1 ns under"}
    if over in names:
        count("ttl edge", names[over])


def _size(rows: int) -> str:
    return str(rows) if rows < 2 else "2 to 8" if rows <= 8 else "9 and more"


def count_request(repo: RepoSpec, request: RequestSpec) -> None:
    """Counts what a request asks for, and how."""
    count("request", "service" if request.service is not None else "list")
    count("request", "full names" if request.full else "short names")
    count("rows", _size(request.rows))
    projections = request_projections(repo, request)
    count("request", f"{len(sources(repo, projections))} views")
    for projection in projections:
        _count_projection(projection, request.service is not None)
    chosen = [p.view for p in projections]
    if len(sources(repo, projections)) < len(projections):
        count("service", "view merged with itself")
    if len({v for v in chosen if chosen.count(v) > 1}) > 0:
        count("service", "view twice")
    if any(not repo.views[v].entities for v in chosen):
        count("request", "entityless with others" if request.columns else "entityless alone")
    for column in request.columns:
        entity = repo.entities[column.entity]
        if column.member != KEY_MEMBERS[entity.value_type]:
            count("request", f"{column.member} for {entity.value_type.name}")
        if column.sent_as != column.name:
            count("request", "entity name for join key")
        if len(set(column.rows)) < len(column.rows):
            count("request", "repeated keys")
        if len(entity.pool) - 1 in column.rows:
            count("request", "keys without a row")
    if request.stale:
        count("request", "stale values")
    if request.latest:
        count("request", "latest versions by name")
    if request.metadata:
        count("request", "version metadata")


def _count_projection(projection: ProjectionSpec, service: bool) -> None:
    if not service:
        return
    count("service", "alias" if projection.alias is not None else "own name")
    count("service", "all features" if projection.features is None else "part of a view")
    if projection.join_key_map:
        count("service", "join key map")


# ---------------------------------------------------------------- tests


@profile(1.0)
@given(st.data())
def test_generated_repositories(bench: Bench, data: st.DataObject) -> None:
    """Everything at once: definitions, rows, requests; now and then two projects in one Redis."""
    repo = data.draw(repositories())
    count_repository(repo)
    twice = {
        service.name
        for i, service in enumerate(repo.services)
        if clashes(repo, RequestSpec(i, (), True, False, False, (), 0))
    }
    projects = ["alpha"]
    if one_in(data.draw, 4):
        # The longer name ends with the shorter one, and so do their keys.
        projects.append("omega_alpha")
        count("compared", "second projects")
    with bench.workplace() as place:
        served = []
        for project in projects:
            store = place.repository(project)
            apply(store, repo)
            stored = data.draw(stored_data(repo))
            count_data(repo, stored)
            served.append((store, stored, fill(place, store, repo, stored)))
        for store, stored, model in served:
            ours = place.ours(store, repo.now)
            # Only a feature that is asked for twice cannot be told apart by its full name.
            assert set(ours.books[True].failures) <= twice
            asked = requests(repo, anchors_of(repo, stored))
            drawn = data.draw(st.lists(asked, min_size=2, max_size=6))
            for request in drawn:
                compare(store, repo, model, ours, request)
            if one_in(data.draw, 4):
                compare_layouts(place, store, repo, stored.edits, drawn)


def compare_layouts(
    place: Workplace,
    store: Any,
    repo: RepoSpec,
    edits: Iterable[EditSpec],
    drawn: list[RequestSpec],
) -> None:
    """Puts a store into each other layout: whichever is looked for first, answers stay."""
    count("compared", "stores in other layouts")
    messages = [
        request_message(repo, request, references_of(repo, request))
        for request in drawn
        if not clashes(repo, request)
    ]
    readers = [place.ours(store, repo.now)]
    if not any(edit.kind in ("drop_time", "set_value") for edit in edits):
        # A row without a time has no layout: who looks for packed rows first takes it for none.
        # It is one whose time was dropped, or a value that was set where there was no row.
        readers.append(place.ours(store, repo.now, "packed"))
    before = [readers[0].ask(message, strict=True).message for message in messages]
    for layout in ("packed", "dual", "feast"):
        summary = repack(store, layout)
        assert summary.exit_code == 0, summary
        for reader in readers:
            for message, answered in zip(messages, before, strict=True):
                assert reader.ask(message, strict=True).message == answered, layout


def fill(place: Workplace, store: Any, repo: RepoSpec, data: DataSpec) -> Model:
    """Stores rows, in Redis and in a model."""
    place.fill(store, repo, data)
    model = Model(repo)
    count("write", "older or equal rows", times=model.store(data))
    return model


@profile(0.1)
@given(st.data())
def test_every_type(bench: Bench, data: st.DataObject) -> None:
    """One view with a feature of each type, and a value of each member of `Value`."""
    repo, stored = data.draw(every_type())
    count_repository(repo)
    count_data(repo, stored)
    with bench.workplace() as place:
        store = place.repository("types")
        apply(store, repo)
        model = fill(place, store, repo, stored)
        ours = place.ours(store, repo.now)
        asked = requests(repo, anchors_of(repo, stored))
        for request in data.draw(st.lists(asked, min_size=1, max_size=3)):
            compare(store, repo, model, ours, request)


@profile(0.4)
@given(st.data())
def test_versions_of_views(bench: Bench, data: st.DataObject) -> None:
    """Views that were applied again with other schemas, asked for as they are and by version."""
    spec = data.draw(versioned_repositories())
    repo, applied = spec.repo, spec.as_applied()
    count("compared", "versioned repositories")
    for history in spec.histories:
        count("version", f"{len(history.states)} versions", f"then {history.last}")
        count("version", "kept apart" if spec.apart else "not kept apart", history.now.kind)
    written = DataSpec(tuple(batch for batches in spec.writes for batch in batches), ())
    count_data(applied, written)
    with bench.workplace() as place:
        store = place.repository("versions", versioned=spec.apart)
        apply_history(place, store, spec)
        model = Model(applied)
        model.store(written)
        count_edits(repo, spec.edits)
        for edit in spec.edits:
            model.edit(repo.views[edit.view], edit)
        ours = place.ours(store, repo.now)
        asked = requests(repo, anchors_of(applied, written), mostly_full=True)
        drawn = data.draw(st.lists(asked, min_size=2, max_size=6))
        for request in drawn:
            views = {repo.views[p.view] for p in request_projections(repo, request)}
            for view in views:
                count("version", "pinned" if view.pinned else "current")
            compare(store, repo, model, ours, request)
        if one_in(data.draw, 6):
            compare_layouts(place, store, repo, spec.edits, drawn)


@profile(0.05, shrink=False)
@given(st.data())
def test_over_sockets(bench: Bench, data: st.DataObject) -> None:
    """The same through running gateways, with both of Feast's stubs."""
    repo = data.draw(repositories())
    count("compared", "gateways", times=2)
    with bench.workplace() as place:
        store = place.repository("sockets")
        apply(store, repo)
        stored = data.draw(stored_data(repo))
        model = fill(place, store, repo, stored)
        gateways = OverSockets(store, repo.now)
        try:
            asked = requests(repo, anchors_of(repo, stored))
            for request in data.draw(st.lists(asked, min_size=2, max_size=6)):
                compare(store, repo, model, gateways, request)
        finally:
            gateways.close()


def test_ten_thousand_rows(bench: Bench) -> None:
    """A request far larger than those that are drawn: keys in no order, twice, and without rows."""
    random = Random(10_000)
    users = EntitySpec("user", "user_id", ValueType.INT64, True, tuple(range(-1500, 1500)))
    cities = EntitySpec("city", "city", ValueType.STRING, True, tuple(map(str, range(20))))
    features = (FeatureSpec("count", "int64_val"), FeatureSpec("labels", "string_list_val"))
    stats = ViewSpec("stats", "feature_view", (0,), features, 3600, True, False)
    near = ViewSpec("near", "stream", (0, 1), features[:1], None, True, False)
    service = ServiceSpec("both", (ProjectionSpec(0), ProjectionSpec(1, "nearby")))
    repo = RepoSpec((users, cities), (stats, near), (service,), (NOW_SECONDS, 0))
    batches = []
    for index, view in enumerate(repo.views):
        rows = []
        for user in range(0, 3000, 2):
            key = (user,) if index == 0 else (user, user % 20)
            values = {
                "count": Value(int64_val=user) if user % 5 else Value(),
                "labels": Value(string_list_val=StringList(val=[str(user)] * (user % 4))),
            }
            stored = tuple((n, values[n].SerializeToString()) for n in view.feature_names())
            time = NOW_SECONDS - random.choice((0, 3599, 3600, 3601))
            rows.append(RowSpec(key, stored, (time, 0)))
        batches.append(BatchSpec(index, tuple(rows), False))
    data = DataSpec(tuple(batches), ())
    chosen = [random.randrange(3000) for _ in range(10_000)]
    columns = (
        ColumnSpec("city", 1, "city", "string_val", tuple(u % 20 for u in chosen)),
        ColumnSpec("user_id", 0, "user_id", "int64_val", tuple(chosen)),
    )
    with bench.workplace() as place:
        store = place.repository("large")
        apply(store, repo)
        model = fill(place, store, repo, data)
        ours = place.ours(store, repo.now)
        full = RequestSpec(0, (), True, True, False, columns, 10_000)
        compare(store, repo, model, ours, full)
        listed = replace(full, service=None, features=((0, "labels"), (1, "count")), full=False)
        compare(store, repo, model, ours, listed)


# What any run of a hundred repositories has many times over.
_KINDS = {
    "entity": ("string", "bytes", "int32", "int64", "unix_timestamp", "undeclared type"),
    "view": (
        *("feature_view", "batch", "stream", "label", "field mapping", "unicode names"),
        *("0 entities", "1 entities", "2 entities", "3 entities", "keys declared out of order"),
        *("ttl True", "ttl False"),
    ),
    "write": ("batch", "data frame", "older or equal rows", "partial rows"),
    "edit": ("drop_time", "drop_value", "set_time", "set_value"),
    "time": ("whole second", "microseconds", "nanoseconds", "future"),
    "ttl edge": ("age = ttl", "1 s over", "1 s under", "1 us over", "1 us under"),
    "service": ("alias", "join key map", "part of a view", "all features", "view twice"),
    "request": (
        *("service", "list", "full names", "short names", "refused for a name clash"),
        *("1 views", "2 views", "3 views", "repeated keys", "keys without a row"),
        *("int32_val for INT64", "int64_val for INT32", "entity name for join key"),
        *("entityless alone", "entityless with others", "stale values", "version metadata"),
    ),
    "rows": ("0", "1", "2 to 8", "9 and more"),
    "version": (
        *("2 versions", "3 versions", "kept apart", "not kept apart", "pinned", "current"),
        *("then again", "then revert"),
    ),
    "compared": (
        "stores in other layouts",
        "second projects",
        "gateways",
        "versioned repositories",
    ),
}


def test_all_of_it_was_covered() -> None:
    """A run of some size has compared each kind of thing."""
    if total("compared", "repositories") < 100:
        pytest.skip("too few repositories in this run to expect all of it")
    wanted = {("value", member) for member in (*MEMBERS, "unset")}
    wanted |= {("feature", name.removesuffix("_val")) for name in TYPES}
    wanted |= {("status", name) for name in _STATUSES.values() if name != "INVALID"}
    wanted |= {(group, label) for group, labels in _KINDS.items() for label in labels}
    missing = sorted(f"{group}: {label}" for group, label in wanted if not total(group, label))
    assert not missing
