"""Where in a repository's files the things are written that Feast is given.

Feast's objects do not know. While the files are imported, each object that is made notes the lines
of the repository that it is made by, so that one from a helper function or a loop has a place, too.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from hotfeast.server.feast_api import (
    BaseFeatureView,
    DataSource,
    Entity,
    FeatureService,
    Field,
    Project,
)

_CLASSES: tuple[Any, ...] = (BaseFeatureView, DataSource, Entity, FeatureService, Field, Project)


class Place(NamedTuple):
    """A line of a repository.

    Attributes:
        file: Its path below the repository's folder, with slashes.
        line: Counted from 1.
    """

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Places:
    """The places of objects."""

    def __init__(self, folder: Path) -> None:
        """
        Args:
            folder: Of the repository.
        """
        self._folder = str(folder.resolve()) + "/"
        # With the objects themselves, so that no other takes the number of one that has gone.
        self._known: dict[int, tuple[object, list[Place]]] = {}
        self._made: Counter[tuple[type, Place]] = Counter()

    def of(self, thing: object) -> Place | None:
        """Where an object was made; None if not in the repository.

        Of the lines that lead to it, it is the one that made the fewest of its kind: the call of a
        helper that makes one object, and within a helper that makes several the line of each.
        """
        known = self._known.get(id(thing))
        if known is None:
            return None
        return min(known[1], key=lambda place: self._made[type(thing), place])

    def note(self, thing: object) -> None:
        """Notes that an object is being made."""
        places: list[Place] = []
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            name = frame.f_code.co_filename
            if name.startswith(self._folder):
                places.append(Place(name[len(self._folder) :], frame.f_lineno))
            frame = frame.f_back
        if places:
            self._known[id(thing)] = thing, places
            self._made.update((type(thing), place) for place in set(places))


@contextmanager
def noted_places(folder: Path) -> Iterator[Places]:
    """Has all of Feast's objects that are made meanwhile noted.

    Args:
        folder: Of the repository.
    """
    places = Places(folder)
    originals = [(each, each.__init__) for each in _CLASSES]
    for each, original in originals:
        each.__init__ = _noting(original, places)
    try:
        yield places
    finally:
        for each, original in originals:
            each.__init__ = original


def _noting(original: Callable[..., None], places: Places) -> Callable[..., None]:
    def made(self: object, *arguments: Any, **named: Any) -> None:
        places.note(self)
        original(self, *arguments, **named)

    return made
