"""What a gateway needs to watch its features: rules, profiles and sinks of a repository."""

from collections.abc import Callable
from pathlib import Path

from hotfeast.server.errors import StartFailure
from hotfeast.server.gateway import open_repository
from hotfeast.server.monitoring.alert_watch import PERIOD, AlertWatch
from hotfeast.server.monitoring.alerts import AlertEngine
from hotfeast.server.monitoring.known import open_rules
from hotfeast.server.monitoring.profile_build import profile_store
from hotfeast.server.monitoring.profiles import ProfileError
from hotfeast.server.monitoring.sinks import open_sinks
from hotfeast.server.monitoring.statistics import FeatureStatistics


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
        latest = [kept.load(service) for service in kept.services()]
    except ProfileError as error:
        raise StartFailure(str(error)) from error
    latest.sort(key=lambda profile: profile.made_at)
    return {name: figures for profile in latest for name, figures in profile.features.items()}


def open_watch(
    repo: Path,
    rules: Path | None = None,
    profiles: Path | None = None,
    state: Path | None = None,
    event_clock: Callable[[float], float] = lambda now: now,
    period: float = PERIOD,
) -> AlertWatch:
    """A watch over the features of a repository.

    Args:
        repo: Folder with `feature_store.yaml`.
        rules: A file of rules; that of the repository, or the default ones, if None.
        profiles: A folder of profiles; the one beside the registry if None.
        state: A file that keeps alerts over restarts; none if None.
        event_clock: As for `AlertWatch`.
        period: As for `AlertWatch`.

    Raises:
        StartFailure: The repository or a profile cannot be read, or a rule is not valid.
    """
    loaded, known, _ = open_rules(repo, rules)
    engine = AlertEngine(loaded, known, state, open_sinks(loaded.sinks))
    references = open_references(repo, profiles)
    return AlertWatch(engine, known, references, event_clock=event_clock, period=period)
