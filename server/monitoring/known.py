"""What rules may name, from the catalogue of a registry."""

from hotfeast.server.monitoring.report.catalogue import Catalogue
from hotfeast.server.monitoring.rules import Known, KnownView


def known_of(catalogue: Catalogue) -> Known:
    """All views with their features, tags and owners, and the services that take from them.

    Raises:
        RuleError: A view's tag for its freshness says no duration.
    """
    services: dict[str, dict[str, set[str]]] = {name: {} for name in catalogue.views}
    for service in catalogue.services.values():
        for taken in service.takes:
            if taken.view in services:
                services[taken.view].setdefault(service.name, set()).update(taken.features)
    return Known(
        {
            name: KnownView(
                features={feature.name: dict(feature.tags) for feature in view.features},
                tags=dict(view.tags),
                ttl_seconds=view.ttl_seconds,
                owner=view.owner,
                services=services[name],
            )
            for name, view in catalogue.views.items()
        }
    )
