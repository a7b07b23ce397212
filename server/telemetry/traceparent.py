"""`traceparent`, by which a call says which trace it belongs to (W3C Trace Context)."""

import re
from typing import NamedTuple

_FORM = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1


class Parent(NamedTuple):
    """The span that a call was made in.

    Attributes:
        trace_id, span_id: Theirs.
        sampled: Whether the caller keeps the trace.
    """

    trace_id: int
    span_id: int
    sampled: bool


def parse_traceparent(text: bytes | None) -> Parent | None:
    """What a `traceparent` says; None where it says nothing valid, and there is no parent."""
    found = _FORM.fullmatch(text) if text is not None else None
    if found is None:
        return None
    version, trace, span, flags, more = found.groups()
    # The first version has no more than this; ff is none.
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    parent = Parent(int(trace, 16), int(span, 16), bool(int(flags, 16) & _SAMPLED))
    return parent if parent.trace_id and parent.span_id else None
