"""Some keys of a Redis, found with a bounded number of steps of SCAN."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

# Keys that Redis looks at in one step, during which it does nothing else.
_COUNT = 500
MOST_STEPS = 400
"""Steps that are made at most, unless the caller says otherwise."""


def sample_keys(
    clients: Sequence[Any],
    choose: Callable[[list[bytes]], Iterable[bytes]],
    most: int,
    seconds: float = math.inf,
    steps: int | None = None,
    **options: Any,
) -> list[bytes]:
    """Finds keys.

    Args:
        clients: redis-py's clients, one for each server that has keys.
        choose: Picks the wanted ones of a step's keys.
        most: How many are enough.
        seconds: After which no further step is made.
        steps: How many are made at most on each server; `MOST_STEPS` if None.
        options: Of SCAN, by redis-py's names.

    Returns:
        Up to `most` keys, each once; of several servers about as many of each.

    Raises:
        redis.RedisError: Redis did not answer, or refused.
    """
    end = time.monotonic() + seconds
    # SCAN may give a key more than once.
    found: dict[bytes, None] = {}
    for number, client in enumerate(clients, 1):
        enough = math.ceil(most * number / len(clients))
        cursor = 0
        for _ in range(MOST_STEPS if steps is None else steps):
            cursor, keys = client.scan(cursor, count=_COUNT, **options)
            found |= dict.fromkeys(choose(keys))
            if cursor == 0 or len(found) >= enough or time.monotonic() > end:
                break
    return list(found)[:most]
