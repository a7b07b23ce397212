"""The rules and profiles of a repository, for the command line."""

from pathlib import Path

from hotfeast.server.errors import StartFailure
from hotfeast.server.monitoring.known import known_of
from hotfeast.server.monitoring.profile_build import profile_store
from hotfeast.server.monitoring.profiles import ProfileError, references_of
from hotfeast.server.monitoring.report.catalogue_build import catalogue_of
from hotfeast.server.monitoring.rules import Known, RuleError, RuleSet, repository_rules
from hotfeast.server.monitoring.statistics import FeatureStatistics
from hotfeast.server.repository import open_repository


def open_rules(repo: Path, path: Path | None = None) -> tuple[RuleSet, Known, Path | None]:
    """The rules of a repository, checked against its registry.

    Args:
        repo: Folder with `feature_store.yaml`.
        path: A file of rules; as for `repository_rules`.

    Returns:
        The rules, what they may name, and the file that they are of; None for the default ones.

    Raises:
        StartFailure: The repository or its registry cannot be read, or a rule is not valid.
    """
    catalogue = catalogue_of(open_repository(repo))
    try:
        known = known_of(catalogue)
        rules, file = repository_rules(repo, path, known)
    except RuleError as error:
        raise StartFailure(str(error)) from error
    return rules, known, file


def open_references(
    repo: Path, profiles: Path | None = None
) -> dict[tuple[str, str], FeatureStatistics]:
    """What features were like in training, of the latest profile of each feature service; of two
    that have a feature the later one counts. Nothing where there are no profiles, nor for a
    registry that is no file where no folder is named.

    Args:
        repo: Folder with `feature_store.yaml`.
        profiles: A folder of profiles; the one beside the registry if None.

    Raises:
        StartFailure: The repository or a profile cannot be read.
    """
    repository = open_repository(repo)
    try:
        kept = profile_store(repository, profiles)
    except StartFailure:
        return {}
    try:
        return references_of(kept.load_latest())
    except ProfileError as error:
        raise StartFailure(str(error)) from error
