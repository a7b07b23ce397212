"""Moments of batches against NumPy over all numbers at once, in whatever order they are merged."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotfeast.server.monitoring.moments import Moments

_numbers = st.lists(st.floats(-1e9, 1e9), max_size=30)


def _merged(batches: list[list[float]]) -> Moments:
    merged = Moments()
    for batch in batches:
        merged.merge(Moments.of(np.array(batch, dtype=np.float64)))
    return merged


def _agrees(moments: Moments, numbers: list[float]) -> bool:
    if not numbers:
        return moments == Moments() and math.isnan(moments.std)
    array = np.array(numbers)
    # Of both sides: what float64 loses of the largest number.
    tolerance = 1e-12 * max(1.0, float(np.abs(array).max()))
    return (
        moments.count == len(numbers)
        and math.isclose(moments.mean, array.mean(), rel_tol=1e-12, abs_tol=tolerance)
        and math.isclose(moments.std, array.std(), rel_tol=1e-9, abs_tol=1e3 * tolerance)
        and moments.minimum == array.min()
        and moments.maximum == array.max()
    )


@settings(deadline=None)
@given(st.lists(_numbers, max_size=6))
def test_batches_give_what_numpy_gives_of_all(batches: list[list[float]]) -> None:
    assert _agrees(_merged(batches), [number for batch in batches for number in batch])


@settings(deadline=None)
@given(st.lists(_numbers, min_size=4, max_size=4))
def test_the_order_of_merging_does_not_matter(batches: list[list[float]]) -> None:
    everything = [number for batch in batches for number in batch]
    for order in itertools.permutations(batches):
        assert _agrees(_merged(list(order)), everything)
        left, right = _merged(list(order[:2])), _merged(list(order[2:]))
        left.merge(right)
        assert _agrees(left, everything)


def test_a_small_spread_on_a_large_mean_is_not_lost() -> None:
    numbers = 1e9 + np.tile([0.0, 1.0], 500)
    merged = Moments()
    for batch in np.split(numbers, 10):
        merged.merge(Moments.of(batch))
    # The naive formula (mean of squares less square of the mean) is off by more than the spread.
    assert merged.std == pytest.approx(0.5, rel=1e-9)


def test_numbers_too_large_to_square_have_an_infinite_spread_as_in_numpy() -> None:
    moments = Moments.of(np.array([1e300, -1e300]))
    assert moments.std == math.inf
    assert moments.mean == 0.0
    assert (moments.minimum, moments.maximum) == (-1e300, 1e300)
