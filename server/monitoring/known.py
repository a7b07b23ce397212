"""What rules may name, from the registry's definitions; and the rules of a repository."""

from pathlib import Path

from hotfeast.server.errors import StartFailure
from hotfeast.server.gateway import open_repository
from hotfeast.server.monitoring.rules import (
    RULES_FILE,
    Known,
    KnownView,
    RuleError,
    RuleSet,
    default_rules,
    load_rules,
)
from hotfeast.server.registry import Definitions, read_definitions


def open_rules(repo: Path, path: Path | None = None) -> tuple[RuleSet, Known, Path | None]:
    """The rules of a repository, checked against its registry.

    Args:
        repo: Folder with `feature_store.yaml`.
        path: A file of rules; if None, `RULES_FILE` in the repository's folder, if it is there.

    Returns:
        The rules, what they may name, and the file that they are of; None for the default ones.

    Raises:
        StartFailure: The repository or its registry cannot be read, or a rule is not valid.
    """
    store = open_repository(repo)
    try:
        definitions = read_definitions(store)
    except StartFailure:
        raise
    except Exception as error:
        raise StartFailure(f"the registry of {repo} cannot be read: {error}") from error
    file = repo / RULES_FILE if path is None else path
    try:
        known = known_of(definitions)
        if path is None and not file.exists():
            return default_rules(), known, None
        return load_rules(file, known), known, file
    except RuleError as error:
        raise StartFailure(str(error)) from error


def known_of(definitions: Definitions) -> Known:
    """All views with their features, tags and owners, and the services that take from them.

    Raises:
        RuleError: A view's tag for its freshness says no duration.
    """
    services: dict[str, dict[str, set[str]]] = {name: {} for name in definitions.views}
    for service in definitions.services.values():
        for projection in service.projections:
            if projection.view in services:
                taken = services[projection.view].setdefault(service.name, set())
                taken.update(projection.features)
    return Known(
        {
            name: KnownView(
                features={feature.name: dict(feature.tags) for feature in view.features},
                tags=dict(view.tags),
                ttl_seconds=view.ttl_seconds,
                owner=view.owner,
                services=services[name],
            )
            for name, view in definitions.views.items()
        }
    )
