"""The inputs that fuzzing has found to reach different code, against the oracles."""

import pytest

from tests.fuzz.targets import TARGETS, kept


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs(name: str) -> None:
    inputs = kept(name)
    assert len(inputs) > 10
    for data in [*TARGETS[name].seeds, *inputs]:
        TARGETS[name].run(data)
        TARGETS[name].check(data)
