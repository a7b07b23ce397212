"""Names for those who call, few enough to count by."""

OTHER = "other"
"""Stands for callers beyond the first."""
MOST_CALLERS = 50
"""How many have a name of their own; each process has its own count."""

_LONGEST = 64


class CallerNames:
    """Names of callers, the first that come and one for all others."""

    def __init__(self, most: int = MOST_CALLERS) -> None:
        """
        Args:
            most: How many have a name of their own.
        """
        self._most = most
        self._known: set[str] = set()

    def name(self, caller: bytes | None) -> str:
        """The name of a caller.

        Args:
            caller: `x-caller` or `user-agent` of the call: a user agent counts up to its first
                blank, without what it is built on. None for no caller that is known.
        """
        text = (caller or b"").split(b" ", 1)[0].decode("ascii", "replace")[:_LONGEST]
        if not text.isprintable():
            text = OTHER
        text = text or "unknown"
        if text in self._known:
            return text
        if len(self._known) >= self._most:
            return OTHER
        self._known.add(text)
        return text
