"""What features are watched by, and how it changes while a gateway serves: definitions, rules and
profiles.

All of it is valid when a gateway starts. Later, what is not valid changes nothing: what was there
before counts on, and the log and the metrics say so. The registry is read in a process of its own,
since Feast takes more memory than all the rest; whether it has changed is known from the workers,
which read it anyway.
"""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from hotfeast.server.apart import run_apart
from hotfeast.server.errors import StartFailure
from hotfeast.server.monitoring.known import known_of
from hotfeast.server.monitoring.profiles import ProfileError, ProfileStore, references_of
from hotfeast.server.monitoring.report.catalogue import Catalogue
from hotfeast.server.monitoring.rules import RULES_FILE, RuleError, repository_rules
from hotfeast.server.monitoring.statistics import FeatureStatistics

logger = logging.getLogger(__name__)

DEFINITIONS, RULES, PROFILES = "definitions", "rules", "profiles"
"""What there is, as the metrics name it."""

REREAD = 60.0
"""Seconds between two reads of a registry that changes, at least."""

# Of a file what changes with its content; None where there is no file.
_Signature = tuple[int, int, int] | None


class Defined(NamedTuple):
    """What is taken of a repository.

    Attributes:
        catalogue: Of its registry.
        fingerprint: That of the registry's definitions.
        profiles: The folder of profiles; None where there can be none.
    """

    catalogue: Catalogue
    fingerprint: str
    profiles: Path | None


def read_defined(repo: Path, profiles: Path | None) -> Defined:
    """Reads a repository; with Feast.

    Args:
        repo: Folder with `feature_store.yaml`.
        profiles: A folder of profiles; the one beside the registry if None.

    Raises:
        StartFailure: The repository or its registry cannot be read.
    """
    # Only here: who watches features has this done by another process.
    from hotfeast.server.monitoring.profile_build import profile_store
    from hotfeast.server.monitoring.report.catalogue_build import read_catalogue
    from hotfeast.server.registry_source import open_source
    from hotfeast.server.repository import open_repository, reading_registry

    store = open_repository(repo)
    try:
        folder = profile_store(store, profiles).folder
    except StartFailure:
        folder = None
    with reading_registry(store):
        stored = open_source(store).read()
        return Defined(read_catalogue(store.project, stored), stored.fingerprint, folder)


class Inputs:
    """What is valid now. Looked through by one thread, read by any.

    Attributes:
        catalogue: Of the registry.
        known: What of it rules may name.
        rules: Of the repository.
        references: What features were like in training, by view and feature.
    """

    def __init__(
        self,
        repo: Path,
        rules: Path | None = None,
        profiles: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads all of it.

        Args:
            repo: Folder with `feature_store.yaml`.
            rules: A file of rules; that of the repository, or the default ones, if None.
            profiles: A folder of profiles; the one beside the registry if None.
            clock: Monotonic seconds.

        Raises:
            StartFailure: The repository or a profile cannot be read, or a rule is not valid.
        """
        self._repo = repo.absolute()
        self._rules_path = rules
        self._profiles_path = profiles
        self._clock = clock
        self._problems: dict[str, str] = {}
        self._read_at = -REREAD
        self._told = ""
        self._rules_signature = self._seen_signature = self._signature()
        try:
            self._define()
            self._load_rules()
            self._load_references()
        except (RuleError, ProfileError) as error:
            raise StartFailure(str(error)) from error

    def valid(self) -> Mapping[str, bool]:
        """For each of what there is whether its present state is valid, and thus in use."""
        return {name: name not in self._problems for name in (DEFINITIONS, RULES, PROFILES)}

    def look(self, fingerprint: str) -> bool:
        """Takes what has changed and is valid.

        A file of rules is taken once it has stayed as it is from one look to the next, so that none
        is read while it is written.

        Args:
            fingerprint: Of the definitions that are served; empty where that is not known.

        Returns:
            Whether anything was taken.
        """
        defined = self._look_at_definitions(fingerprint)
        signature = self._signature()
        settled = signature == self._seen_signature
        self._seen_signature = signature
        changed = settled and signature != self._rules_signature
        loaded = (defined or changed) and self._attempt(RULES, self._load_rules)
        if changed:
            self._rules_signature = signature
        latest = self._profiles().latest() if self._defined.profiles is not None else {}
        profiled = latest != self._latest and self._attempt(PROFILES, self._load_references)
        return defined or loaded or profiled

    def _look_at_definitions(self, fingerprint: str) -> bool:
        # Workers do not see a change at the same moment: what one of them told before may come
        # again for a while.
        if not fingerprint or fingerprint in (self._defined.fingerprint, self._told):
            return False
        if self._clock() < self._read_at + REREAD:
            return False
        if not self._attempt(DEFINITIONS, self._define):
            return False
        self._told = fingerprint
        return True

    def _attempt(self, what: str, take: Callable[[], None]) -> bool:
        """Whether something was taken; if not, the log says why."""
        try:
            take()
        except (StartFailure, RuleError, ProfileError, OSError) as error:
            if self._problems.get(what) != str(error):
                logger.error("features are watched by the %s before: %s", what, error)
            self._problems[what] = str(error)
            return False
        self._problems.pop(what, None)
        logger.info("features are watched by new %s", what)
        return True

    def _define(self) -> None:
        self._read_at = self._clock()
        defined: Defined = run_apart(read_defined, self._repo, self._profiles_path)
        self.known = known_of(defined.catalogue)
        self._defined = defined
        self.catalogue = defined.catalogue

    def _load_rules(self) -> None:
        self.rules, _ = repository_rules(self._repo, self._rules_path, self.known)

    def _load_references(self) -> None:
        # Noted first: a version that cannot be read is not tried again and again.
        self._latest: dict[str, int] = {}
        if self._defined.profiles is None:
            self.references: Mapping[tuple[str, str], FeatureStatistics] = {}
            return
        self._latest = self._profiles().latest()
        self.references = references_of(self._profiles().load_latest())

    def _profiles(self) -> ProfileStore:
        assert self._defined.profiles is not None
        return ProfileStore(self._defined.profiles)

    def _signature(self) -> _Signature:
        path = self._rules_path or self._repo / RULES_FILE
        try:
            found = path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
