"""How old an answer from the cache may be: a view's tag `hotfeast.cache`, in seconds.

Without the tag it is what the command line says. Views that share a Redis hash are read together,
so the least of theirs counts for all of them in one request.
"""

import math

from hotfeast.server.errors import not_servable

CACHE_TAG = "hotfeast.cache"
"""The tag of a view that says for how many seconds its rows may be answered from the cache."""

LONGEST = 1e9
"""Seconds; whoever means for ever can say so much."""


def view_staleness(view: str, tags: dict[str, str], default: float) -> float:
    """Seconds that a view's rows may be answered from the cache; 0 for never.

    Args:
        view: Its name.
        tags: Its tags.
        default: That of views without the tag.

    Raises:
        RequestFailure: Its tag is no such number.
    """
    tag = tags.get(CACHE_TAG)
    if tag is None:
        return default
    try:
        seconds = float(tag)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= LONGEST:
        raise not_servable(
            f"feature view {view!r}: tag {CACHE_TAG}={tag!r} is no number of seconds; use 0 for "
            f"rows that are never cached, or a number up to {LONGEST:.0f}"
        )
    return seconds
