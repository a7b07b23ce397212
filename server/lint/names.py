"""Names that are not unambiguous."""

from collections.abc import Iterable, Iterator

from hotfeast.server.lint.findings import Fault, Kind
from hotfeast.server.lint.subject import Subject, Use
from hotfeast.server.monitoring.report.catalogue import ON_DEMAND, Service


def clashes(subject: Subject) -> Iterator[Fault]:
    """Two features of a service with one name and one meaning."""
    for service, name, uses in _same_names(subject):
        if len({_meaning(use) for use in uses}) == 1:
            yield Fault(
                Kind.service,
                service.name,
                "",
                f"takes a feature {name!r} from each of {_views(uses)}: requests without "
                "full_feature_names are refused",
                "take one of them only, or give them different names",
            )


def meanings(subject: Subject) -> Iterator[Fault]:
    """Two features of a service with one name, of which each is something else."""
    for service, name, uses in _same_names(subject):
        if len({_meaning(use) for use in uses}) > 1:
            said = "; ".join(f"{use.view.name}: {_words(use)}" for use in uses)
            yield Fault(
                Kind.service,
                service.name,
                "",
                f"takes features called {name!r} of different meaning ({said})",
                "give them names that tell them apart",
            )


def cases(subject: Subject) -> Iterator[Fault]:
    """Two features of a service whose names differ by case only."""
    for service in subject.catalogue.services.values():
        names: dict[str, set[str]] = {}
        for use in subject.uses(service):
            names.setdefault(use.feature.name.lower(), set()).add(use.feature.name)
        for same in names.values():
            if len(same) > 1:
                yield Fault(
                    Kind.service,
                    service.name,
                    "",
                    f"takes features whose names differ by case only: {_listed(same)}",
                    "rename all but one of them",
                )


def hides(subject: Subject) -> Iterator[Fault]:
    """A name that stands before another of the same name."""
    catalogue = subject.catalogue
    for view in catalogue.views.values():
        if view.kind != ON_DEMAND:
            continue
        inputs = {name: taken.view for taken in view.inputs for name in taken.features}
        inputs |= {field.name: "the request data" for field in view.request_fields}
        for feature in view.features:
            if feature.name in inputs:
                yield Fault(
                    Kind.view,
                    view.name,
                    feature.name,
                    f"has the name of an input, from {inputs[feature.name]}, and hides it",
                    "give what is computed a name of its own",
                )
    for service in catalogue.services.values():
        taken_features = {use.feature.name: use.view.name for use in subject.uses(service)}
        asked = _sent(subject, service.name)
        for name in sorted(asked & taken_features.keys()):
            # An on-demand view's own input was told above.
            if name not in {f.name for f in catalogue.views[taken_features[name]].request_fields}:
                yield Fault(
                    Kind.service,
                    service.name,
                    "",
                    f"takes a feature {name!r} from {taken_features[name]}, which is also what "
                    "requests are to send: a join key or a field of request data",
                    "rename the feature",
                )
        for taken in service.takes:
            if taken.alias and taken.alias != taken.view and taken.alias in catalogue.views:
                yield Fault(
                    Kind.service,
                    service.name,
                    "",
                    f"calls {taken.view} by the name {taken.alias!r}, which hides the view of that "
                    "name",
                    "use an alias that is not the name of a view",
                )


def _sent(subject: Subject, service: str) -> set[str]:
    """What requests for a service are to send: join keys, as the service calls them, and request
    data."""
    definitions = subject.definitions
    sent: set[str] = set()
    for projection in definitions.services[service].projections:
        view = definitions.views.get(projection.view)
        if view is None:
            continue
        sent |= {field.name for field in view.request_fields}
        for source in (projection,) if view.stored else view.sources:
            keyed = definitions.views.get(source.view)
            keys = keyed.join_keys if keyed is not None else ()
            sent |= {source.join_key_map.get(key.name, key.name) for key in keys}
    return sent


def _same_names(subject: Subject) -> Iterator[tuple[Service, str, list[Use]]]:
    """Features of one name from different views; one view under two aliases is meant to be read
    with full names."""
    for service in subject.catalogue.services.values():
        by_name: dict[str, dict[str, Use]] = {}
        for use in subject.uses(service):
            by_name.setdefault(use.feature.name, {}).setdefault(use.view.name, use)
        for name, uses in by_name.items():
            if len(uses) > 1:
                yield service, name, list(uses.values())


def _meaning(use: Use) -> tuple[str, str | None, str | None]:
    tags = use.feature.tags
    return use.feature.type, tags.get("unit"), tags.get("window")


def _words(use: Use) -> str:
    return ", ".join(word for word in _meaning(use) if word)


def _views(uses: list[Use]) -> str:
    return _listed(use.view.name for use in uses)


def _listed(names: Iterable[str]) -> str:
    return " and ".join(sorted(names))
