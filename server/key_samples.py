"""Some keys of a Redis, found with a bounded number of steps of SCAN."""

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

# Keys that Redis looks at in one step, during which it does nothing else.
_COUNT = 500
MOST_STEPS = 400
"""Steps that are made at most, unless the caller says otherwise."""


def sample_keys(
    client: Any,
    choose: Callable[[list[bytes]], Iterable[bytes]],
    most: int,
    seconds: float = math.inf,
    steps: int | None = None,
    **options: Any,
) -> list[bytes]:
    """Finds keys.

    Args:
        client: redis-py's client.
        choose: Picks the wanted ones of a step's keys.
        most: How many are enough.
        seconds: After which no further step is made.
        steps: How many are made at most; `MOST_STEPS` if None.
        options: Of SCAN, by redis-py's names.

    Returns:
        Up to `most` keys, each once.

    Raises:
        redis.RedisError: Redis did not answer, or refused.
    """
    end = time.monotonic() + seconds
    # SCAN may give a key more than once.
    found: dict[bytes, None] = {}
    cursor = 0
    for _ in range(MOST_STEPS if steps is None else steps):
        cursor, keys = client.scan(cursor, count=_COUNT, **options)
        found |= dict.fromkeys(choose(keys))
        if cursor == 0 or len(found) >= most or time.monotonic() > end:
            break
    return list(found)[:most]
