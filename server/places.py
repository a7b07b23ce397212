"""Where in a repository's files the things are written that Feast is given.

Feast's objects do not know. While the files are imported, each object that is made notes the
innermost line of the repository that it is made by, so that one from a helper function or a loop
has a place, too.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
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
        self._known: dict[int, tuple[object, Place]] = {}

    def of(self, thing: object) -> Place | None:
        """Where an object was made; None if not in the repository."""
        known = self._known.get(id(thing))
        return known[1] if known is not None else None

    def note(self, thing: object) -> None:
        """Notes that an object is being made."""
        frame = sys._getframe(1)
        while frame is not None:
            name = frame.f_code.co_filename
            if name.startswith(self._folder):
                place = Place(name[len(self._folder) :], frame.f_lineno)
                self._known[id(thing)] = thing, place
                return
            frame = frame.f_back  # type: ignore[assignment]


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
