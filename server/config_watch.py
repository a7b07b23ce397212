"""The settings of the moment, in step with their file."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hotfeast.server.errors import StartFailure
from hotfeast.server.options import Applies, made_of, options_of, values_of
from hotfeast.server.settings import Settings

logger = logging.getLogger(__name__)

LOOK = 1.0
"""Seconds between two looks at the file."""

_Signature = tuple[int, int, int] | None


class Change(NamedTuple):
    """Settings that are now others.

    Attributes:
        settings: All of them, as far as they can count now.
        names: Those that are others.
        workers: Whether workers are to be replaced for it.
    """

    settings: Settings
    names: tuple[str, ...]
    workers: bool


class ConfigWatch:
    """Reads the settings again where their file has changed, or somebody wants it. What is not
    valid leaves those before in force.

    Attributes:
        settings: Those in force.
        valid: Whether the file, as it is now, is in force.
    """

    def __init__(
        self,
        settings: Settings,
        file: Path | None = None,
        read: Callable[[], Settings] | None = None,
    ) -> None:
        """
        Args:
            settings: The first ones.
            file: Where they, or some of them, are from; None where they are from no file.
            read: Reads all of them again; None where they stay as they are.
        """
        self.settings = settings
        self.valid = True
        self._file = file
        self._read = read
        self._signature = self._signed()
        self._changing: _Signature = self._signature
        self._next_look = 0.0
        self._told_of_restart: tuple[str, ...] = ()

    def look(self) -> Change | None:
        """Reads the file again if it has changed, and has stayed as it is since the last look: who
        writes it in place may not be done."""
        if self._file is None or time.monotonic() < self._next_look:
            return None
        self._next_look = time.monotonic() + LOOK
        signature, before = self._signed(), self._changing
        self._changing = signature
        if signature == self._signature or signature != before:
            return None
        return self.read_again()

    def read_again(self) -> Change | None:
        """Reads all settings; None where none that can count now is another."""
        if self._read is None:
            return None
        self._signature = self._changing = self._signed()
        try:
            wanted = self._read()
        except StartFailure as failure:
            self.reject(str(failure))
            return None
        self.valid = True
        return self._change_to(wanted)

    def reject(self, why: str) -> None:
        """Notes that what the file says cannot be in force."""
        self.valid = False
        logger.error("the settings before stay in force: %s", why)

    def go_back(self, settings: Settings) -> None:
        """Puts earlier settings in force again, since no worker starts with those of now."""
        self.settings = settings
        self.reject("no worker starts with those that were read last")

    def _change_to(self, wanted: Settings) -> Change | None:
        old, new = values_of(self.settings), values_of(wanted)
        options = options_of(Settings)
        later = tuple(
            name
            for name, option in options.items()
            if option.setting.applies is Applies.RESTART and old.get(name) != new.get(name)
        )
        for name in later:
            new.pop(name, None)
            if name in old:
                new[name] = old[name]
        if later and later != self._told_of_restart:
            logger.warning("settings that count after a restart have changed: %s", ", ".join(later))
        self._told_of_restart = later
        settings = made_of(Settings, new)
        new = values_of(settings)
        names = tuple(n for n in options if old.get(n) != new.get(n))
        if not names:
            return None
        self.settings = settings
        workers = any(options[n].setting.applies is Applies.NEW_WORKERS for n in names)
        return Change(self.settings, names, workers)

    def _signed(self) -> _Signature:
        if self._file is None:
            return None
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
