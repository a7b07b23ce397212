"""Profiles: what a feature service's values were like where a model was trained, kept in files.

A profile is one file, `<folder>/<service>/<version>.hfp`, written under another name first and
never changed. It holds the statistics of each feature and no rows. Nothing here needs Feast;
`profile_build` makes profiles.
"""

import json
import os
import re
import struct
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from hotfeast.server.monitoring.statistics import NUMERIC_KINDS, FeatureStatistics

_MAGIC = b"HOTFEAST PROFILE"
_FORMAT = 1
_HEAD = struct.Struct(f"<{len(_MAGIC)}sII")
_SUFFIX = ".hfp"
# What a name must not be as a folder's.
_UNSAFE = re.compile(r"[^\w.@-]|^\.")


class ProfileError(Exception):
    """A profile that is not there or cannot be read; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a feature service's values were like.

    Attributes:
        service: The feature service.
        version: Counts up from 1 for each service; 0 until it is saved.
        made_at: When it was made.
        source: What it was made of, for people.
        rows: How many rows it was made of, of the feature with most.
        features: Statistics by view and feature, which have their names in the registry.
    """

    service: str
    version: int
    made_at: datetime
    source: str
    rows: int
    features: Mapping[tuple[str, str], FeatureStatistics]

    def references(self) -> dict[tuple[str, str], tuple[float, float]]:
        """Mean and standard deviation of the features with numbers, for
        `MonitoringStore.set_references`."""
        return {
            name: (statistics.mean, statistics.std)
            for name, statistics in self.features.items()
            if statistics.kind in NUMERIC_KINDS and statistics.moments.count
        }

    def to_bytes(self) -> bytes:
        """The content of its file."""
        bodies = {name: statistics.to_bytes() for name, statistics in self.features.items()}
        header = json.dumps(
            {
                "service": self.service,
                "version": self.version,
                "made_at": self.made_at.isoformat(),
                "source": self.source,
                "rows": self.rows,
                "features": [[*name, len(body)] for name, body in bodies.items()],
            }
        ).encode()
        return b"".join([_HEAD.pack(_MAGIC, _FORMAT, len(header)), header, *bodies.values()])

    @classmethod
    def from_bytes(cls, data: bytes) -> "Profile":
        """What `to_bytes` wrote.

        Raises:
            ProfileError: It did not write this, or another version of Hotfeast did.
        """
        if data[: len(_MAGIC)] != _MAGIC or len(data) < _HEAD.size:
            raise ProfileError("this is no profile")
        _, format_number, length = _HEAD.unpack_from(data)
        if format_number != _FORMAT:
            raise ProfileError(
                f"its format is {format_number}, and this version of Hotfeast reads {_FORMAT}; "
                "build the profile again, or use the version that made it"
            )
        place = _HEAD.size + length
        features = {}
        try:
            header = json.loads(data[_HEAD.size : place])
            for view, feature, size in header["features"]:
                features[view, feature] = FeatureStatistics.from_bytes(data[place : place + size])
                place += size
            return cls(
                header["service"],
                header["version"],
                datetime.fromisoformat(header["made_at"]),
                header["source"],
                header["rows"],
                features,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ProfileError(f"it is damaged ({error}); build the profile again") from error


class ProfileStore:
    """The profiles in a folder."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: It need not be there.
        """
        self.folder = folder

    def services(self) -> list[str]:
        """The feature services that have profiles, in order."""
        if not self.folder.is_dir():
            return []
        folders = (entry.name for entry in self.folder.iterdir() if entry.is_dir())
        return sorted(name for name in folders if self.versions(name))

    def versions(self, service: str) -> list[int]:
        """The versions of a service's profiles, in order; none for an unknown service."""
        files = self._folder_of(service).glob(f"*{_SUFFIX}")
        return sorted(int(file.stem) for file in files if file.stem.isdigit())

    def load(self, service: str, version: int | None = None) -> Profile:
        """Reads a profile.

        Args:
            service: The feature service.
            version: The latest if None.

        Raises:
            ProfileError: It is not there, or cannot be read.
        """
        versions = self.versions(service)
        if not versions:
            raise ProfileError(
                f"there is no profile of {service!r} in {self.folder}; make one with "
                f"hotfeast profile build {service}"
            )
        number = versions[-1] if version is None else version
        if number not in versions:
            raise ProfileError(
                f"there is no version {number} of the profile of {service!r} in {self.folder}; "
                f"there are {', '.join(map(str, versions))}"
            )
        path = self._folder_of(service) / f"{number}{_SUFFIX}"
        try:
            return Profile.from_bytes(path.read_bytes())
        except (OSError, ProfileError) as error:
            raise ProfileError(f"{path} cannot be read: {error}") from error

    def latest(self) -> dict[str, int]:
        """The latest version of each service's profile; cheap, for those who look for new ones."""
        return {service: self.versions(service)[-1] for service in self.services()}

    def load_latest(self) -> list[Profile]:
        """Reads the latest profile of each service: the one that was made last comes last.

        Raises:
            ProfileError: One cannot be read.
        """
        profiles = [self.load(service, version) for service, version in self.latest().items()]
        return sorted(profiles, key=lambda profile: profile.made_at)

    def save(self, profile: Profile) -> Profile:
        """Writes a profile as the next version of its service.

        Returns:
            The profile with its version.

        Raises:
            OSError: It cannot be written.
        """
        folder = self._folder_of(profile.service)
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            version = max(self.versions(profile.service), default=0) + 1
            saved = replace(profile, version=version)
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".profile-") as file:
                file.write(saved.to_bytes())
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, 0o644)
                try:
                    # Unlike a rename, this fails where another process has taken the number.
                    os.link(file.name, folder / f"{version}{_SUFFIX}")
                except FileExistsError:
                    continue
            return saved

    def _folder_of(self, service: str) -> Path:
        return self.folder / _UNSAFE.sub("_", service)


def references_of(profiles: Iterable[Profile]) -> dict[tuple[str, str], FeatureStatistics]:
    """What features were like, by view and feature; of two profiles that have a feature the later
    one counts."""
    return {name: figures for profile in profiles for name, figures in profile.features.items()}


def new_profile(
    service: str, source: str, features: Mapping[tuple[str, str], FeatureStatistics]
) -> Profile:
    """A profile that is made now, and not saved yet."""
    rows = max((statistics.rows for statistics in features.values()), default=0)
    return Profile(service, 0, datetime.now(UTC), source, rows, features)
