"""Comparing a registry with what applying a repository's files would make of it."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hotfeast.server.diff.changes import Change, Comparison, Kind, Severity, State
from hotfeast.server.diff.services import compare_services
from hotfeast.server.diff.views import compare_views, not_applied
from hotfeast.server.feast_api import FeatureStore
from hotfeast.server.monitoring.report.catalogue_build import read_catalogue
from hotfeast.server.monitoring.traffic import read_traffic
from hotfeast.server.places import Place
from hotfeast.server.registry import RegistryReader
from hotfeast.server.registry_source import Stored, open_source
from hotfeast.server.repo_definitions import RepoDefinitions, load_repo_definitions, registered
from hotfeast.server.repository import open_repository, reading_registry


@dataclass(frozen=True, slots=True)
class DiffResult:
    """What applying would change.

    Attributes:
        project: Feast's project.
        changes: The worst first.
        traffic: What was looked at of reads, in words; empty where nothing was.
    """

    project: str
    changes: tuple[Change, ...]
    traffic: str = ""

    def fails(self, fail_on: Severity) -> bool:
        """Whether there is a change at or above a severity."""
        return any(change.severity.rank >= fail_on.rank for change in self.changes)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "project": self.project,
            "traffic": self.traffic or None,
            "changes": [change.to_dict() for change in self.changes],
        }


def diff(repo: Path, monitor_dir: Path | None = None) -> DiffResult:
    """Says what applying a repository's files would change for those who are served. Nothing is
    changed.

    Args:
        repo: Folder with `feature_store.yaml`.
        monitor_dir: The folder of a gateway that watches who reads what; None for no look at it.

    Raises:
        StartFailure: The repository, its registry or the folder cannot be read, or Feast would not
            apply the files.
    """
    store = open_repository(repo)
    traffic = read_traffic(monitor_dir) if monitor_dir is not None else None
    with reading_registry(repo):
        stored = open_source(store, with_versions=True).read()
        reader = RegistryReader(store)
        before = _state(reader, store, stored)
    defined = load_repo_definitions(repo)
    becoming = registered(store, defined, stored)
    after = _state(reader, store, becoming)
    intended = _state(reader, store, registered(store, defined, None))
    comparison = Comparison(before, after, time.time(), traffic)
    changes = [
        replace(change, place=_place(defined, change))
        for found in (
            compare_views(comparison),
            not_applied(comparison, intended),
            compare_services(comparison),
        )
        for change in found
    ]
    changes.sort(key=lambda c: (-c.severity.rank, c.kind != Kind.view, c.subject, c.what))
    return DiffResult(store.project, tuple(changes), traffic.words if traffic is not None else "")


def _state(reader: RegistryReader, store: FeatureStore, stored: Stored) -> State:
    return State(reader.define(stored), read_catalogue(store.project, stored))


def _place(defined: RepoDefinitions, change: Change) -> Place | None:
    things = defined.views if change.kind is Kind.view else defined.services
    return defined.place_of(things.get(change.name), change.field)
