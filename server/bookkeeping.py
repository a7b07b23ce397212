"""What a materialization reads from the registry and leaves there, as Feast's own does it.

So either tool can go on after the other: which views are materialized, over which interval, that a
view is being materialized, and what it has been materialized over.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from hotfeast.server.feast_api import (
    FeatureStore,
    FeatureViewState,
    OnDemandFeatureView,
)

# How far back Feast goes where neither a TTL nor an earlier run says.
_A_YEAR = timedelta(weeks=52)


@dataclass(frozen=True, slots=True)
class Task:
    """One view and the interval to materialize it over.

    Attributes:
        view: Feast's object.
        start: The first event time, inclusive.
        end: The last event time, inclusive.
        version: The version that was asked for; None for the current one.
    """

    view: Any
    start: datetime
    end: datetime
    version: int | None = None

    @property
    def on_demand(self) -> bool:
        """Whether it is an on-demand view whose results are stored."""
        return isinstance(self.view, OnDemandFeatureView)

    @property
    def recorded(self) -> bool:
        """Whether the registry is told. The registry keeps states and intervals by name: those of
        the current version. So of an older version it is told nothing, and it has no intervals of
        on-demand views."""
        return not self.on_demand and self.version is None


def aware(time: datetime) -> datetime:
    """A time that knows its zone; one without is in UTC."""
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def choose(
    store: FeatureStore,
    names: Sequence[str] | None,
    version: str | None,
    start: datetime | None,
    end: datetime,
) -> list[Task]:
    """The views to materialize.

    Args:
        store: The repository.
        names: Names of views; None for all that are online and enabled.
        version: A version such as `v2`, with exactly one name; None for the current one.
        start: The first event time; None to go on from where the last run ended.
        end: The last event time.

    Raises:
        ValueError: A view cannot be materialized, the version is malformed, or start is after end.
        FeastObjectNotFoundException: There is no such view or version.
    """
    end = aware(end)
    if start is not None and aware(start) > end:
        raise ValueError(f"start {aware(start).isoformat()} is after end {end.isoformat()}")
    listed = list(names) if names is not None else None
    number = store._validate_materialize_version(version, listed)
    if number is not None and listed is not None:
        current = store.registry.get_any_feature_view(listed[0], store.project)
        if current.current_version_number == number:
            number = None
    if number is None:
        views = store._get_feature_views_to_materialize(listed)
    else:
        views = store._get_feature_views_to_materialize(listed, version=number)
    return [
        Task(view, aware(start) if start is not None else _go_on(store, view, end), end, number)
        for view in views
    ]


def _go_on(store: FeatureStore, view: Any, end: datetime) -> datetime:
    """Where an incremental run of a view starts."""
    if isinstance(view, OnDemandFeatureView):
        ttls = [
            store.registry.get_any_feature_view(p.name, store.project).ttl
            for p in view.source_feature_view_projections.values()
        ]
        return end - (max((t for t in ttls if t), default=None) or _A_YEAR)
    if view.most_recent_end_time is not None:
        return aware(view.most_recent_end_time)
    return datetime.now(UTC) - (view.ttl or _A_YEAR)


@contextmanager
def materializing(store: FeatureStore, task: Task) -> Iterator[None]:
    """Marks a view as being materialized, and records the interval at the end.

    Whatever is raised inside puts the view's state back, and nothing is recorded.

    Raises:
        ValueError: The view's state does not allow it.
    """
    if not task.recorded:
        yield
        return
    view, registry = task.view, store.registry
    before = getattr(view, "state", FeatureViewState.STATE_UNSPECIFIED)
    if before == FeatureViewState.MATERIALIZING:
        # Left so by a run that was killed, or by another one that is still at it.
        before = FeatureViewState.GENERATED
    elif before != FeatureViewState.STATE_UNSPECIFIED:
        if not before.can_transition_to(FeatureViewState.MATERIALIZING):
            raise ValueError(
                f"feature view {view.name!r} is in state {before.name} and cannot be materialized"
            )
        view.state = FeatureViewState.MATERIALIZING
        registry.apply_feature_view(view, store.project, commit=True)
    try:
        yield
    except BaseException:
        if before != FeatureViewState.STATE_UNSPECIFIED:
            view.state = before
            registry.apply_feature_view(view, store.project, commit=True)
        raise
    registry.apply_materialization(view, store.project, task.start, task.end)
