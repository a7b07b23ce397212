"""What a run has really compared: counts by kind, shown at its end and asked for by a test."""

import os
import random
from collections import Counter

REPOS = int(os.environ.get("HOTFEAST_PARITY_REPOS", "200"))
"""Repositories of the main test; the others make a part of that."""
_SEED = os.environ.get("HOTFEAST_PARITY_SEED", "20260101")
SEED = random.SystemRandom().randrange(2**32) if _SEED == "random" else int(_SEED)
"""Hypothesis' seed: with the same one, a run draws the same repositories. By default it is
always the same, so that a change is judged by itself; long runs draw a new one."""
SHRINK = os.environ.get("HOTFEAST_PARITY_SHRINK", "1") != "0"
"""Whether a failing example is made smaller, which can take minutes."""

counts: Counter[tuple[str, str]] = Counter()


def count(group: str, *labels: object, times: int = 1) -> None:
    """Counts what an example has in it."""
    for label in labels:
        counts[group, str(label)] += times


def total(group: str, label: str) -> int:
    """How often something has been counted."""
    return counts[group, label]


def summary() -> list[str]:
    """The counts as lines of text, one for each group."""
    groups: dict[str, list[str]] = {}
    for (group, label), number in sorted(counts.items()):
        groups.setdefault(group, []).append(f"{label} {number:,}")
    return [f"{group}: {', '.join(labels)}" for group, labels in groups.items()]
