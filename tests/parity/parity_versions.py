"""Repositories whose views are applied again and again with other schemas, as descriptions.

A view of such a repository stands in its `RepoSpec` once as it is now, and, where versions are kept
apart, once more for each version that can be asked for as `view@vN`.
"""

from dataclasses import dataclass, replace
from typing import Any

from feast import FeatureService
from feast_versions import PINS_SERVICES
from hypothesis import strategies as st
from parity_oracle import (
    Workplace,
    edit_row,
    feast_entities,
    feast_projection,
    feast_view,
    write_batch,
)
from parity_strategies import (
    NOW_SECONDS,
    BatchSpec,
    EditSpec,
    FeatureSpec,
    ProjectionSpec,
    RepoSpec,
    ServiceSpec,
    ViewSpec,
    batches,
    edits,
    entity_specs,
    feature_specs,
    one_in,
    view_names,
)


@dataclass(frozen=True)
class HistorySpec:
    """What is applied for one view, one after the other."""

    states: tuple[ViewSpec, ...]
    """The versions from 0 on."""
    last: str
    """What comes after them: `nothing`, `again` (applied once more with another TTL), or
    `revert` (set back to an earlier version)."""
    now: ViewSpec
    """The view as it is in the end."""


@dataclass(frozen=True)
class VersionedSpec:
    """A repository with a past."""

    apart: bool
    """Whether the rows of versions are kept apart."""
    repo: RepoSpec
    histories: tuple[HistorySpec, ...]
    writes: tuple[tuple[BatchSpec, ...], ...]
    """For each state of a view what is written while it is the present one."""
    edits: tuple[EditSpec, ...]
    """Changes to what is stored in the end, in terms of `repo`."""

    def as_applied(self) -> RepoSpec:
        """The repository with all states that views have been in, history by history."""
        states = [s for h in self.histories for s in (*h.states, h.now)]
        return replace(self.repo, views=tuple(states))


@st.composite
def _history(draw: st.DrawFn, state: ViewSpec, reserved: set[str], apart: bool) -> HistorySpec:
    states = [state]
    for number in range(1, draw(st.integers(1, 3))):
        known = [f.name for f in states[-1].features]
        features = draw(feature_specs(2, reserved, known))
        # What makes it another schema: a feature that no other version has.
        own = FeatureSpec(f"only in {number}", "int64_val")
        ttl = draw(st.sampled_from((None, 0, 60, 3600)))
        # Feast does not read a label view's version back from its registry: all write as version 0.
        version = number if apart and state.kind != "label" else 0
        states.append(replace(state, features=(*features, own), ttl=ttl, version=version))
    # Feast finds a stream view changed whenever it is applied again.
    ends = ("nothing", "revert", "again") if state.kind != "stream" else ("nothing", "revert")
    last = draw(st.sampled_from(ends))
    now = states[-1]
    if last == "again":
        # Feast then takes it for version 0, with its present schema.
        now = replace(now, ttl=draw(st.sampled_from((None, 120, 7200))), version=0)
    elif last == "revert":
        now = draw(st.sampled_from(states))
    return HistorySpec(tuple(states), last, now)


@st.composite
def versioned_repositories(draw: st.DrawFn) -> VersionedSpec:
    """A repository of one or two views with a past."""
    apart = not one_in(draw, 4)
    entities = draw(entity_specs(draw(st.integers(1, 2))))
    reserved = {e.join_key.lower() for e in entities}
    histories = []
    for name in draw(view_names(draw(st.integers(1, 2)))):
        chosen = draw(st.permutations(range(len(entities))))
        chosen = chosen[: draw(st.integers(1, len(chosen)))]
        state = ViewSpec(
            name=name,
            kind=draw(st.sampled_from(("feature_view", "batch", "stream", "label"))),
            entities=tuple(chosen),
            features=draw(feature_specs(3, reserved)),
            ttl=draw(st.sampled_from((None, 60, 3600))),
            keys_in_schema=any(not entities[i].declared for i in chosen) or draw(st.booleans()),
            field_mapping=False,
        )
        histories.append(draw(_history(state, reserved, apart)))
    repo = RepoSpec(entities, (), (), (NOW_SECONDS, 0))
    spec = VersionedSpec(apart, repo, tuple(histories), (), ())
    applied = spec.as_applied()
    writes = []
    for i in range(len(applied.views)):
        drawn = draw(st.lists(batches(applied, i), max_size=2))
        writes.append(tuple(replace(batch, frame=False) for batch in drawn))
    views = [h.now for h in histories]
    if apart:
        views += [
            replace(state, pinned=True, version=number)
            for history in histories
            for number, state in enumerate(history.states)
        ]
    repo = replace(repo, views=tuple(views))
    names = [f"service {n}" for n in range(draw(st.integers(1, 3)))]
    repo = replace(repo, services=tuple(draw(_service(repo, name)) for name in names))
    return replace(spec, repo=repo, writes=tuple(writes), edits=draw(edits(repo)))


@st.composite
def _service(draw: st.DrawFn, repo: RepoSpec, name: str) -> ServiceSpec:
    """A service that takes each view at most once in each version, under an alias or none."""
    indices = [i for i, view in enumerate(repo.views) if PINS_SERVICES or not view.pinned]
    chosen = draw(st.lists(st.sampled_from(indices), min_size=1, max_size=3, unique=True))
    # Feast cannot compare two projections of one view where only one has an alias, or where only
    # one has a version and neither an alias.
    kinds = {(repo.views[i].name, repo.views[i].pinned) for i in chosen}
    aliased = len({name for name, _ in kinds}) < len(kinds) or draw(st.booleans())
    projections = []
    for place, index in enumerate(chosen):
        view = repo.views[index]
        alias = f"alias {place}" if aliased else None
        features = None
        if draw(st.booleans()):
            features = tuple(draw(st.permutations(view.feature_names()))[:2])
        projections.append(ProjectionSpec(index, alias, features))
    return ServiceSpec(name, tuple(projections))


# ---------------------------------------------------------------- carried out


def apply_history(place: Workplace, store: Any, spec: VersionedSpec) -> None:
    """Applies all states of all views, with rows for each, and then the services."""
    applied = spec.as_applied()
    entities = feast_entities(applied)
    index = 0
    for history in spec.histories:
        for state in history.states:
            store.apply([*entities, feast_view(applied, state, entities)])
            _write(store, applied, spec.writes[index])
            index += 1
        if history.last == "again":
            store.apply([*entities, feast_view(applied, history.now, entities)])
        elif history.last == "revert":
            view = store.registry.get_any_feature_view(history.now.name, store.project)
            view.version = f"v{history.states.index(history.now)}"
            store.apply([view])
        _write(store, applied, spec.writes[index])
        index += 1
    views = [_view_of_service(spec.repo, view, entities) for view in spec.repo.views]
    store.apply(
        [
            FeatureService(
                name=service.name,
                features=[feast_projection(views[p.view], p) for p in service.projections],
            )
            for service in spec.repo.services
        ]
    )
    for edit in spec.edits:
        edit_row(place.bench.client, store.project, spec.repo, edit)


def _write(store: Any, applied: RepoSpec, written: tuple[BatchSpec, ...]) -> None:
    for batch in written:
        view = store.registry.get_any_feature_view(applied.views[batch.view].name, store.project)
        write_batch(store, applied, view, batch)


def _view_of_service(repo: RepoSpec, view: ViewSpec, entities: list[Any]) -> Any:
    made = feast_view(repo, view, entities)
    if view.pinned:
        # A view of a version is taken at that version.
        made.version = f"v{view.version}"
    return made
