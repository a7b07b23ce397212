"""Events to try windows with, and the comparison of what they hold."""

import random
from datetime import timedelta
from typing import Any

import events as ev
import pytest


def some_events(generator: random.Random, count: int, span: timedelta) -> list[ev.Event]:
    """Events in order of time, of which many come at the edges of tiles."""
    day = timedelta(days=1)
    edges = [timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=6), day]
    made = []
    for i in range(count):
        at = generator.random() * span
        if generator.random() < 0.5:
            edge = generator.choice(edges)
            at = at // edge * edge + timedelta(microseconds=generator.choice([-1, 0, 0, 1]))
        made.append(
            ev.Event(
                ev.START + day + at,
                f"{generator.random()}-{i}",
                generator.choice([None, 0.1, -0.3, 1e15, generator.uniform(-9, 9)]),
                generator.choice([None, generator.randrange(-(2**62), 2**62), 3, -4]),
                generator.choice([None, "", "a", "b", f"page {generator.randrange(400)}"]),
            )
        )
    return sorted(made, key=lambda event: event.time)


def close(made: dict[str, Any] | None, wanted: dict[str, Any] | None) -> None:
    """Fails unless all is equal; fractions may differ in the last bits of what was added up."""
    if made is None or wanted is None:
        assert made is wanted
        return
    assert list(made) == list(wanted)
    for name, value in wanted.items():
        if isinstance(value, float):
            # Numbers of up to 1e15 are added up.
            assert made[name] == pytest.approx(value, rel=1e-15, abs=1e-9), name
        else:
            assert made[name] == value, name
