"""The report of a project: its catalogue, and what was seen of it."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from hotfeast.server.monitoring.observed import Channel
from hotfeast.server.monitoring.report.catalogue import (
    Catalogue,
    Described,
    Feature,
    Service,
    View,
    ViewFacts,
)
from hotfeast.server.monitoring.report.figures import Seen, details_of, figures_of
from hotfeast.server.monitoring.report.lineage import feature_lineage, repository_lineage
from hotfeast.server.monitoring.report.model import (
    LEVELS,
    AlertRow,
    DriftFigures,
    EntityRow,
    FeatureDetails,
    FeatureRow,
    Figures,
    Problem,
    Reading,
    Report,
    ServiceRow,
    SourceRow,
    ViewRow,
)
from hotfeast.server.monitoring.windows import FeatureKey

_MICROSECONDS = 1e6


@dataclass(frozen=True, slots=True)
class Readers:
    """How many rows of a view were read by a service and a caller; empty where not known."""

    view: str
    service: str
    caller: str
    rows: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen of a project's features.

    Attributes:
        words: Where it comes from.
        now: What ages are judged at, in seconds since 1970.
        seen: By channel, view and feature.
        alerts: Those that fire.
        readers: Who reads what; None where reads are not watched.
        null_limit: The null share that the rules allow.
        show_pii: Whether values of features that are tagged PII are shown.
    """

    words: str
    now: float
    seen: Mapping[FeatureKey, Seen] = field(default_factory=dict)
    alerts: Sequence[AlertRow] = ()
    readers: Sequence[Readers] | None = None
    null_limit: float | None = None
    show_pii: bool = False


def build_report(catalogue: Catalogue, evidence: Evidence, interval: float | None = None) -> Report:
    """What the page shows at once.

    Args:
        catalogue: Of the project.
        evidence: What was seen; of features that the catalogue does not have, nothing is shown.
        interval: Seconds between two looks of a live page; None for a file.
    """
    ages = {name: _age(name, evidence) for name in catalogue.views}
    views = [_view(catalogue, view, ages[view.name]) for view in catalogue.views.values()]
    rows = {view.name: view for view in views}
    channels = {key.channel for key in evidence.seen}
    return Report(
        project=catalogue.project,
        made_at=evidence.now,
        figures=evidence.words,
        interval=interval,
        channels=tuple(str(channel) for channel in Channel if channel in channels),
        alerts=tuple(sorted(evidence.alerts, key=_worst_first)),
        features=tuple(
            _feature(catalogue, rows[view.name], feature, evidence)
            for view in catalogue.views.values()
            for feature in view.features
        ),
        views=tuple(views),
        services=tuple(_service(s, evidence.readers) for s in catalogue.services.values()),
        entities=tuple(
            EntityRow(
                join_key=entity.join_key,
                type=entity.type,
                views=_names(catalogue, lambda v, name=entity.name: name in v.entities),
                **_as(Described, entity),
            )
            for entity in catalogue.entities.values()
        ),
        sources=tuple(
            SourceRow(
                kind=source.kind,
                views=_names(catalogue, lambda v, name=source.name: name in v.sources),
                **_as(Described, source),
            )
            for source in catalogue.sources.values()
        ),
        lineage=repository_lineage(catalogue),
    )


def build_details(
    catalogue: Catalogue, evidence: Evidence, view: str, feature: str
) -> FeatureDetails:
    """What the page shows of one feature.

    Raises:
        LookupError: There is no such view or feature.
    """
    of = catalogue.views.get(view)
    found = None if of is None else of.feature(feature)
    if found is None:
        raise LookupError(f"the registry has no feature {view}:{feature}")
    hidden = found.marks.pii and not evidence.show_pii
    keys = [key for c in Channel if (key := FeatureKey(c, view, feature)) in evidence.seen]
    return FeatureDetails(
        lineage=feature_lineage(catalogue, view, feature),
        readers=tuple(
            Reading(r.service, r.caller, r.rows) for r in evidence.readers or () if r.view == view
        ),
        channels={
            str(key.channel): details_of(evidence.seen[key], hidden, evidence.null_limit)
            for key in keys
        },
    )


def all_details(catalogue: Catalogue, evidence: Evidence) -> dict[str, dict[str, FeatureDetails]]:
    """What the page shows of each feature, by view and feature."""
    return {
        view.name: {
            feature.name: build_details(catalogue, evidence, view.name, feature.name)
            for feature in view.features
        }
        for view in catalogue.views.values()
    }


def _as(kind: type[Described], thing: Described) -> dict[str, Any]:
    """The fields that a thing has as one of a kind, for a record that has them, too."""
    return {field.name: getattr(thing, field.name) for field in fields(kind)}


def _names(catalogue: Catalogue, wanted: Any) -> tuple[str, ...]:
    return tuple(view.name for view in catalogue.views.values() if wanted(view))


def _worst_first(alert: AlertRow) -> tuple[int, str, str]:
    return -LEVELS.index(alert.level), alert.view, alert.feature or ""


def _age(view: str, evidence: Evidence) -> float | None:
    newest = [
        seen.statistics.newest_event
        for key, seen in evidence.seen.items()
        if key.view == view and seen.statistics.newest_event is not None
    ]
    return evidence.now - max(newest) / _MICROSECONDS if newest else None


def _freshness(age: float | None, ttl: float) -> str:
    if age is None:
        return "unknown"
    if ttl and age > ttl:
        return "late"
    return "aging" if ttl and age > ttl / 2 else "fresh"


def _view(catalogue: Catalogue, view: View, age: float | None) -> ViewRow:
    return ViewRow(
        features=len(view.features),
        services=tuple(
            s.name for s in catalogue.services.values() if any(t.view == view.name for t in s.takes)
        ),
        age=age,
        freshness=_freshness(age, view.ttl_seconds),
        **_as(ViewFacts, view),
    )


def _service(service: Service, readers: Sequence[Readers] | None) -> ServiceRow:
    mine = [r for r in readers or () if r.service == service.name]
    return ServiceRow(
        views=tuple(dict.fromkeys(taken.view for taken in service.takes)),
        features=sum(len(taken.features) for taken in service.takes),
        # Each view of a request has its rows.
        rows=None if readers is None else max((r.rows for r in mine), default=0),
        callers=tuple(sorted({r.caller for r in mine if r.caller})),
        **_as(Described, service),
    )


def _services_of(catalogue: Catalogue, view: str, feature: str) -> tuple[str, ...]:
    way = feature_lineage(catalogue, view, feature)
    return tuple(node.name for node in way.nodes if node.layer == "service")


def _feature(
    catalogue: Catalogue, view: ViewRow, feature: Feature, evidence: Evidence
) -> FeatureRow:
    figures = {
        str(channel): figures_of(evidence.seen[key])
        for channel in Channel
        if (key := FeatureKey(channel, view.name, feature.name)) in evidence.seen
    }
    problems = tuple(_problems(view, feature.name, figures, evidence.alerts))
    level = max((p.level for p in problems), key=LEVELS.index, default="ok" if figures else "none")
    if problems:
        state = problems[0].brief + (f" +{len(problems) - 1}" if len(problems) > 1 else "")
    else:
        state = "Good" if figures else "Not seen"
    return FeatureRow(
        view=view.name,
        name=feature.name,
        type=feature.type,
        description=feature.description,
        tags=feature.tags,
        marks=feature.marks,
        services=_services_of(catalogue, view.name, feature.name),
        level=level,
        state=state,
        problems=problems,
        figures=figures,
    )


def _drifted(channel: str, drift: DriftFigures, alerted: Container[str]) -> str:
    """What has drifted, in words; empty where nothing has, or an alert says so already."""
    if drift.values_drifted and "drift" not in alerted:
        effect = "" if drift.effect is None else f", effect {drift.effect:.2g}"
        return f"{channel} values are not as in the reference ({drift.test}{effect})"
    empty_alerts = ("drift", "null_share", "missing_share")
    if drift.values_drifted or not drift.drifted or any(a in alerted for a in empty_alerts):
        return ""
    return (
        f"{drift.empty or 0:.1%} of {channel} rows are without a value, "
        f"{drift.empty_reference or 0:.1%} of the reference's"
    )


def _problems(
    view: ViewRow, feature: str, figures: Mapping[str, Figures], alerts: Sequence[AlertRow]
) -> list[Problem]:
    found = [
        Problem("alert", alert.level, alert.brief, alert.message)
        for alert in alerts
        if alert.view == view.name and alert.feature in (feature, None)
    ]
    about = {
        alert.about
        for alert in alerts
        if alert.view == view.name and alert.feature in (feature, None)
    }
    for channel, each in figures.items():
        words = "" if each.drift is None else _drifted(channel, each.drift, about)
        if words:
            found.append(Problem("drift", "warning", "Drifted", words))
    if view.freshness == "late" and "freshness" not in about:
        words = f"the newest row of {view.name} is older than its TTL"
        found.append(Problem("late", "warning", "Late", words))
    return sorted(found, key=lambda p: -LEVELS.index(p.level))
