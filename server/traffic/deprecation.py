"""What the tags of features, views and feature services say of their end.

`deprecated`   `true`, or words such as what to use instead
`sunset`       the day, or ISO 8601 time, from which on it is gone; a day begins at midnight UTC
`replaced_by`  what takes its place

A thing with either of the first two is deprecated. What a plan reads of that kind is found once,
when the plan is made.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from hotfeast.hotpath.http2 import header_block
from hotfeast.server.errors import not_servable

logger = logging.getLogger(__name__)

WARNING = b"hotfeast-warning"
"""The metadata that a warning is sent as."""
MOST_WARNINGS = 16
"""Warnings of one answer; how many more there are is told in one more."""

_NO = {"", "false", "no", "0"}
_YES = {"true", "yes", "1"}
# Bytes of a warning.
_LONGEST = 240


@dataclass(frozen=True, slots=True)
class Ending:
    """Something that is deprecated.

    Attributes:
        kind: `feature service`, `feature view` or `feature`.
        name: Its name; a feature's with its view's, `view:feature`.
        words: What the tag says beside that; empty where it says nothing more.
        sunset: As the tag has it; empty where there is none.
        ends: The same in seconds since 1970; infinity where there is none.
        replaced_by: What takes its place; empty where that is not said.
    """

    kind: str
    name: str
    words: str
    sunset: str
    ends: float
    replaced_by: str

    @property
    def text(self) -> str:
        """For people."""
        parts = [f"{self.kind} {self.name!r} is deprecated"]
        if self.sunset:
            parts.append(f"sunset {self.sunset}")
        if self.replaced_by:
            parts.append(f"replaced by {self.replaced_by!r}")
        return ", ".join(parts) + (f": {self.words}" if self.words else "")


@dataclass(frozen=True, slots=True, eq=False)
class Deprecations:
    """All that is deprecated of what a plan reads.

    Attributes:
        endings: At least one.
        metadata: What a caller is told, as names and values of metadata.
        trailers: The same as a header block.
        first_sunset: Seconds since 1970; infinity where nothing has a sunset.
    """

    endings: tuple[Ending, ...]
    metadata: tuple[tuple[bytes, bytes], ...]
    trailers: bytes
    first_sunset: float

    def refuse(self, now: float) -> None:
        """Refuses what is past its sunset.

        Args:
            now: Seconds since 1970.

        Raises:
            RequestFailure: FAILED_PRECONDITION, naming what it is.
        """
        if now < self.first_sunset:
            return
        gone = [ending for ending in self.endings if now >= ending.ends]
        said = [
            f"{e.kind} {e.name!r} had its sunset on {e.sunset}; "
            + (f"use {e.replaced_by!r}" if e.replaced_by else "ask for something else")
            + (f" ({e.words})" if e.words else "")
            for e in gone[:MOST_WARNINGS]
        ]
        if len(gone) > MOST_WARNINGS:
            said.append(f"and {len(gone) - MOST_WARNINGS} more")
        raise not_servable("; ".join(said))


def ending(kind: str, name: str, tags: Mapping[str, str]) -> Ending | None:
    """What tags say; None where the thing is not deprecated.

    Args:
        kind: For people.
        name: Likewise.
        tags: The thing's.
    """
    said = tags.get("deprecated", "").strip()
    sunset = tags.get("sunset", "").strip()
    if said.lower() in _NO and not sunset:
        return None
    words = "" if said.lower() in _YES | _NO else said
    ends = _time_of(kind, name, sunset) if sunset else math.inf
    return Ending(kind, name, words, sunset, ends, tags.get("replaced_by", "").strip())


# So that a tag is complained about once, and not with every plan that reads the thing.
@lru_cache(maxsize=4096)
def _time_of(kind: str, name: str, sunset: str) -> float:
    try:
        time = datetime.fromisoformat(sunset)
    except ValueError:
        logger.warning(
            "%s %r has the tag sunset: %s, which is no ISO 8601 date such as 2027-01-31; callers "
            "are told, and never refused",
            kind, name, sunset,
        )  # fmt: skip
        return math.inf
    return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp()


def deprecations(endings: Iterable[Ending | None]) -> Deprecations | None:
    """What a plan keeps; None where nothing that it reads is deprecated.

    Args:
        endings: What there is, in the order in which it is told; twice what is read twice.
    """
    found = tuple(dict.fromkeys(each for each in endings if each is not None))
    if not found:
        return None
    told = [(WARNING, metadata_value(each.text)) for each in found[:MOST_WARNINGS]]
    if len(found) > MOST_WARNINGS:
        told.append((WARNING, b"%d more are deprecated" % (len(found) - MOST_WARNINGS)))
    first = min(each.ends for each in found)
    return Deprecations(found, tuple(told), header_block(told), first)


def metadata_value(text: str) -> bytes:
    """A text as metadata may have it: printable ASCII, other bytes of UTF-8 percent-encoded.

    Args:
        text: What is cut where it is too long.
    """
    made = "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte != 0x25 else f"%{byte:02X}"
        for byte in text.encode()
    )
    if len(made) > _LONGEST:
        made = made[: _LONGEST - 3].rstrip() + "..."
    return made.strip().encode()
