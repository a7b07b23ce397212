"""Features that are to go, and features that nobody reads.

Tags of a view, for all of its features, or of a feature: `deprecated` (`true`, or words such as
what replaces it) and `sunset`, the ISO 8601 day from which on it is not to be there.
"""

from collections.abc import Iterator
from datetime import date

from hotfeast.server.lint.findings import Fault, Kind
from hotfeast.server.lint.subject import Subject
from hotfeast.server.monitoring.report.catalogue import ON_DEMAND, Marks


def deprecated(subject: Subject) -> Iterator[Fault]:
    """Deprecated features that a service takes which is not deprecated itself."""
    for service in subject.catalogue.services.values():
        if service.marks.deprecated:
            continue
        for use in subject.uses(service):
            marks = use.feature.marks
            if marks.deprecated and not _is_over(marks, subject.today):
                words = marks.deprecated if marks.deprecated.lower() != "true" else ""
                until = f", to go on {marks.sunset}" if marks.sunset else ""
                yield Fault(
                    Kind.service,
                    service.name,
                    "",
                    f"takes {use.view.name}:{use.feature.name}, which is deprecated"
                    f"{f' ({words})' if words else ''}{until}",
                    "take what replaces it, or leave it out",
                )


def after_sunset(subject: Subject) -> Iterator[Fault]:
    """What is still there on the day of its sunset."""
    catalogue = subject.catalogue
    for view in catalogue.views.values():
        if _is_over(view.marks, subject.today):
            yield _over(subject, Kind.view, view.name, "", view.marks, {view.name})
            continue
        for feature in view.features:
            if _is_over(feature.marks, subject.today):
                yield _over(subject, Kind.view, view.name, feature.name, feature.marks, set())
    for service in catalogue.services.values():
        if _is_over(service.marks, subject.today):
            yield _over(subject, Kind.service, service.name, "", service.marks, set())


def bad_sunset(subject: Subject) -> Iterator[Fault]:
    """Tags `sunset` that are no day."""
    catalogue = subject.catalogue
    marked = [(Kind.service, s.name, "", s.marks) for s in catalogue.services.values()]
    for view in catalogue.views.values():
        marked.append((Kind.view, view.name, "", view.marks))
        marked += [
            (Kind.view, view.name, f.name, f.marks)
            for f in view.features
            if f.marks.sunset != view.marks.sunset
        ]
    for kind, name, field, marks in marked:
        if marks.sunset and _day(marks.sunset) is None:
            yield Fault(
                kind,
                name,
                field,
                f"has the tag sunset={marks.sunset!r}, which is no day",
                "write the day as 2027-01-31",
            )


def unread(subject: Subject) -> Iterator[Fault]:
    """Features that were in no answer that was looked at."""
    traffic = subject.traffic
    assert traffic is not None
    if not traffic.complete:
        return
    # What a computed feature that is read is computed from is read for it.
    inputs = {
        (taken.view, name)
        for view in subject.catalogue.views.values()
        if view.kind == ON_DEMAND
        and any((view.name, f.name) in traffic.served for f in view.features)
        for taken in view.inputs
        for name in taken.features
    }
    for view in subject.catalogue.views.values():
        if not subject.definitions.views[view.name].online:
            continue
        for feature in view.features:
            key = view.name, feature.name
            if key not in traffic.served and key not in inputs:
                yield Fault(
                    Kind.view,
                    view.name,
                    feature.name,
                    f"was in no answer ({traffic.words} were looked at)",
                    "take it out of the services that have it and deprecate it, if nobody needs it",
                )


def _over(
    subject: Subject, kind: Kind, name: str, field: str, marks: Marks, whole: set[str]
) -> Fault:
    takers = sorted(
        service.name
        for service in subject.catalogue.services.values()
        if any(
            use.view.name == name and (use.view.name in whole or use.feature.name == field)
            for use in subject.uses(service)
        )
    )
    still = f", and is still in {', '.join(takers)}" if takers else ""
    return Fault(
        kind,
        name,
        field,
        f"was to go on {marks.sunset}{still}",
        "delete it, or set a later day",
    )


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _is_over(marks: Marks, today: date) -> bool:
    day = _day(marks.sunset) if marks.sunset else None
    return day is not None and day <= today
