"""How latency grows with rows and with features: a line through the medians, and what it misses.

All points take turns, so that a slow minute lifts all of them and not one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.data import SERVICE_VIEWS
from bench.measure import SHORT_WARM_UP, interleave_for
from bench.peers import Case, Contenders, Peer, named
from bench.stores import Encoding
from bench.verdict import Verdict

BY_ROWS = {
    rows: Case(f"growth_rows_{rows}", rows, max(10, 100 // rows))
    for rows in (1, 10, 30, 100, 300, 1000)
}
"""50 features, by rows."""
BY_FEATURES = {
    10 * views: Case(f"growth_views_{views}", 100, 20, views=views) for views in SERVICE_VIEWS
}
"""100 rows, by features."""
CASES = (*BY_ROWS.values(), *BY_FEATURES.values())
RESIDUAL = 0.15
"""No point may be further off the line, as a share of itself."""

_ROUNDS = 15
_SECONDS = 0.6


def planned(stores: int) -> float:
    """Seconds that it takes."""
    return len(CASES) * stores * 2 * (_SECONDS + SHORT_WARM_UP)


@dataclass(frozen=True)
class Fit:
    """A line through medians, fitted by least squares of the relative errors.

    Attributes:
        against: Rows or features.
        name: The contender.
        points: Median milliseconds.
        constant: Milliseconds at none.
        slope: Milliseconds for each.
        residual: By how much the point that is furthest off is off, as a share of itself.
    """

    against: str
    name: str
    points: dict[int, float]
    constant: float
    slope: float
    residual: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "against": self.against,
            "name": self.name,
            "points_ms": {str(at): round(ms, 4) for at, ms in self.points.items()},
            "constant_ms": round(self.constant, 4),
            "slope_us": round(self.slope * 1e3, 4),
            "largest_residual": round(self.residual, 4),
        }


def fit(against: str, name: str, points: dict[int, float]) -> Fit:
    """Fits a line to medians in milliseconds."""
    at = np.array(list(points), dtype=float)
    taken = np.array(list(points.values()))
    # Divided by what was measured, so that the short ones count as much as the long ones.
    terms = np.column_stack([1 / taken, at / taken])
    (constant, slope), *_ = np.linalg.lstsq(terms, np.ones(len(at)), rcond=None)
    residual = float(np.abs((constant + slope * at) / taken - 1).max())
    return Fit(against, name, points, float(constant), float(slope), residual)


def measure(contenders: Contenders, stores: Sequence[str], say: Callable[[str], None]) -> list[Fit]:
    """Measures the gateway and the raw read at all points, by the labels of their stores."""
    fits = []
    for against, cases in (("rows", BY_ROWS), ("features", BY_FEATURES)):
        say(f"growth with {against}")
        names = [named(peer, store) for store in stores for peer in (Peer.OURS, Peer.RAW)]
        taking_part = {
            f"{case.name}, {name}": contenders[case.name][name]
            for case in cases.values()
            for name in names
        }
        samples = interleave_for(taking_part, dict.fromkeys(taking_part, _SECONDS), _ROUNDS)
        fits += [
            fit(
                against,
                name,
                {at: samples[f"{case.name}, {name}"].p50_ms for at, case in cases.items()},
            )
            for name in names
        ]
    return fits


def judge(fits: Sequence[Fit], stores: Sequence[str]) -> list[Verdict]:
    """Whether the gateway's latency is a line down to a constant.

    Not by features where hashes are lists: Redis searches these from the start, or sends them
    whole, and what it then does is no line.
    """
    by_name = {named(Peer.OURS, store): store for store in stores}
    return [
        Verdict(
            f"growth with {f.against}: largest residual of a line", 100 * f.residual,
            100 * RESIDUAL, True, "%", by_name[f.name],
            note=f"{f.constant:.3f} ms + {f.slope * 1e3:.3f} us for each of the {f.against}",
        )
        for f in fits
        if f.name in by_name
        and not (f.against == "features" and by_name[f.name] == Encoding.LISTPACK)
    ]  # fmt: skip


def to_markdown(fits: Sequence[Fit]) -> str:
    """The lines and the points."""
    rows = [
        "| against | | medians, ms | line | largest residual |",
        "|---|---|---|---|---|",
    ]
    for f in fits:
        points = ", ".join(f"{at:,}: {ms:.3g}" for at, ms in f.points.items())
        rows.append(
            f"| {f.against} | {f.name} | {points} | {f.constant:.3g} ms + {f.slope * 1e3:.3g} us "
            f"each | {f.residual:.0%} |"
        )
    return "\n".join(rows) + "\n"
