"""Linting a repository: its files are loaded, each rule looks, and what they find is told."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from hotfeast.server.lint.findings import Fault, Finding, Kind, Needs, Severity
from hotfeast.server.lint.rules import RULES
from hotfeast.server.lint.settings import IGNORE_TAG, check_rules, ignored_by, read_settings
from hotfeast.server.lint.sources import read_sources
from hotfeast.server.lint.subject import Subject
from hotfeast.server.monitoring.report.catalogue import Catalogue
from hotfeast.server.monitoring.report.catalogue_build import read_catalogue
from hotfeast.server.monitoring.traffic import read_traffic
from hotfeast.server.places import Place
from hotfeast.server.registry import RegistryReader
from hotfeast.server.repo_definitions import RepoDefinitions, load_repo_definitions, registered
from hotfeast.server.repository import open_repository

_Ignored = dict[tuple[Kind, str, str], frozenset[str]]


@dataclass(frozen=True, slots=True)
class LintResult:
    """What linting has found.

    Attributes:
        repo: The folder of the repository.
        project: Feast's project.
        findings: The worst first, then by place.
        rules: The ids of the rules that have looked.
        not_looked: By id, why a rule has not.
    """

    repo: Path
    project: str
    findings: tuple[Finding, ...]
    rules: tuple[str, ...]
    not_looked: dict[str, str]

    def worst(self) -> Severity | None:
        """The severity of the worst finding; None where there is none."""
        return self.findings[0].severity if self.findings else None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "project": self.project,
            "findings": [finding.to_dict() for finding in self.findings],
            "rules": list(self.rules),
            "not_looked": self.not_looked,
        }


def lint(
    repo: Path,
    *,
    ignore: Collection[str] = (),
    data: bool = False,
    monitor_dir: Path | None = None,
    today: date | None = None,
) -> LintResult:
    """Looks for faults in the definitions of a repository's files. Neither its registry nor its
    online store is asked or changed.

    Args:
        repo: Folder with `feature_store.yaml`.
        ignore: Rules that are off, beside those that the repository turns off.
        data: Whether batch sources are looked at, too.
        monitor_dir: The folder of a monitored gateway; None for features that are not judged by
            who reads them.
        today: The day that sunsets are judged at; that in UTC if None.

    Raises:
        StartFailure: The repository, a source or the folder cannot be read, Feast would not apply
            the definitions, or a rule is named that there is not.
    """
    store = open_repository(repo)
    settings = read_settings(store.config, RULES)
    check_rules(ignore, RULES, "--ignore")
    traffic = read_traffic(monitor_dir) if monitor_dir is not None else None
    defined = load_repo_definitions(repo)
    stored = registered(store, defined, None)
    catalogue = read_catalogue(store.project, stored)
    ignored = _ignored(catalogue)
    subject = Subject(
        catalogue=catalogue,
        definitions=RegistryReader(store).define(stored),
        settings=settings,
        today=today or datetime.now(UTC).date(),
        data=read_sources(store, defined.views) if data else None,
        traffic=traffic,
    )
    off = settings.ignore | set(ignore)
    not_looked: dict[str, str] = {}
    findings: list[Finding] = []
    for rule in RULES.values():
        if rule.id in off:
            not_looked[rule.id] = "it is off"
        elif (rule.needs is Needs.data and not data) or (
            rule.needs is Needs.traffic and traffic is None
        ):
            not_looked[rule.id] = f"it needs {rule.needs}"
        elif rule.needs is Needs.traffic and traffic is not None and not traffic.complete:
            not_looked[rule.id] = "the monitoring has refused features past its limit"
        else:
            findings += [
                Finding(rule.id, rule.severity, *fault, _place(defined, fault))
                for fault in rule.check(subject)
                if not _is_ignored(ignored, rule.id, fault)
            ]
    findings.sort(key=_worst_first)
    looked = tuple(name for name in RULES if name not in not_looked)
    return LintResult(repo, store.project, tuple(findings), looked, not_looked)


def _tagged(catalogue: Catalogue) -> Iterator[tuple[Kind, str, str, dict[str, str]]]:
    """All that has tags: kind, name, field and tags."""
    kinds: Sequence[tuple[Kind, dict[str, Any]]] = (
        (Kind.view, catalogue.views),
        (Kind.service, catalogue.services),
        (Kind.entity, catalogue.entities),
        (Kind.source, catalogue.sources),
    )
    for kind, things in kinds:
        for thing in things.values():
            yield kind, thing.name, "", thing.tags
    for view in catalogue.views.values():
        for field in (*view.join_keys, *view.features):
            yield Kind.view, view.name, field.name, field.tags
        for field in view.request_fields:
            for source in view.sources:
                if field.name in catalogue.sources[source].fields:
                    yield Kind.source, source, field.name, field.tags


def _ignored(catalogue: Catalogue) -> _Ignored:
    """The rules that are off by tag.

    Raises:
        StartFailure: A tag names a rule that there is not.
    """
    found: _Ignored = {}
    for kind, name, field, tags in _tagged(catalogue):
        rules = ignored_by(tags)
        subject = f"{name}:{field}" if field else name
        check_rules(rules, RULES, f"{kind} {subject!r}: tag {IGNORE_TAG}")
        if rules:
            found[kind, name, field] = rules
    return found


def _is_ignored(ignored: _Ignored, rule: str, fault: Fault) -> bool:
    return any(
        rule in ignored.get((fault.kind, fault.name, field), ()) for field in {"", fault.field}
    )


def _place(defined: RepoDefinitions, fault: Fault) -> Place | None:
    things = {
        Kind.view: defined.views,
        Kind.service: defined.services,
        Kind.entity: defined.entities,
        Kind.source: defined.sources,
    }[fault.kind]
    return defined.place_of(things.get(fault.name), fault.field)


def _worst_first(finding: Finding) -> tuple[object, ...]:
    place = finding.place or Place("", 0)
    return -finding.severity.rank, place, finding.rule, finding.subject, finding.message


def fails(result: LintResult, fail_on: Severity) -> bool:
    """Whether there is a finding at or above a severity."""
    worst = result.worst()
    return worst is not None and worst.rank >= fail_on.rank
