"""How bad things are, which lists are sorted by and exit codes decided by."""

from enum import StrEnum


class Ranked(StrEnum):
    """Names for how bad something is, the worst first."""

    @property
    def rank(self) -> int:
        """Higher for worse."""
        return -list(type(self)).index(self)
