"""Count, mean, spread and range of numbers that come in batches, in float64.

A batch is summed up by two passes over it, and sums are put together by the formulas of Chan, Golub
and LeVeque ("Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979), so
that nothing is lost by subtracting large sums of squares.
"""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(slots=True)
class Moments:
    """Moments of finite numbers.

    Attributes:
        count: How many.
        mean: 0 where there are none.
        squares: Sum of the squared differences from the mean.
        minimum: Infinity where there are none.
        maximum: Minus infinity where there are none.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf

    @classmethod
    def of(cls, values: np.ndarray) -> "Moments":
        """The moments of a batch, an array of finite float64. Numbers beyond 1e150 have squares
        beyond float64: their spread is infinite, as NumPy's is."""
        if not len(values):
            return cls()
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float(values.mean())
            away = values - mean
            squares = float(away @ away)
        return cls(len(values), mean, squares, float(values.min()), float(values.max()))

    def merge(self, other: "Moments") -> None:
        """Adds the moments of other numbers."""
        if not other.count:
            return
        count = self.count + other.count
        difference = other.mean - self.mean
        share = other.count / count
        self.squares += other.squares + difference * difference * self.count * share
        self.mean += difference * share
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        self.count = count

    @property
    def std(self) -> float:
        """Standard deviation of the numbers themselves (divided by their count, as NumPy's); NaN
        where there are none."""
        return math.sqrt(self.squares / self.count) if self.count else math.nan
