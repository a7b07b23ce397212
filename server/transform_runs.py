"""How on-demand views are computed: counted, and in part verified.

Where verifying, a share of the requests that kernels answer is computed by the Python functions
too. Those are answered with what Python computed, so that a kernel that is wrong after all is told
and does no harm there.
"""

import logging
import threading
from collections.abc import Callable

from hotfeast.server.metrics import TransformFigures
from hotfeast.server.plan import ServingPlan
from hotfeast.serving.v1 import serving_pb2

logger = logging.getLogger(__name__)

VERIFY_EVERY = 16
"""One of how many requests is verified."""


class TransformRuns:
    """Counts the ways in which on-demand views are computed."""

    def __init__(
        self,
        verify: bool = False,
        every: int = VERIFY_EVERY,
        figures: TransformFigures | None = None,
    ) -> None:
        """
        Args:
            verify: Whether a share of requests is computed both ways.
            every: One of how many.
            figures: Where to count; nowhere if None.
        """
        self._every = every if verify else 0
        self._seen = 0
        self._figures = figures
        self._lock = threading.Lock()
        self._told: set[str] = set()
        # Looked up once: `labels` costs as much as counting.
        self._counters: dict[tuple[str, str], Callable[[], None]] = {}

    def is_sampled(self) -> bool:
        """Whether this request is to be computed both ways."""
        if not self._every:
            return False
        with self._lock:
            self._seen += 1
            return self._seen % self._every == 1 or self._every == 1

    def count(self, plan: ServingPlan, path: str) -> None:
        """Counts a run of each of a plan's on-demand views, by `kernel` or `python`."""
        if self._figures is None:
            return
        for read in plan.on_demand:
            key = (read.view.name, path)
            counter = self._counters.get(key)
            if counter is None:
                counter = self._counters[key] = self._figures.runs.labels(*key).inc
            counter()

    def compare(self, plan: ServingPlan, computed: bytes, expected: bytes) -> bool:
        """Tells of differences between a kernel's response and Python's; whether there is none.

        Each view is logged once, and counted each time.
        """
        if computed == expected:
            return True
        ours = serving_pb2.GetOnlineFeaturesResponse.FromString(computed)
        theirs = serving_pb2.GetOnlineFeaturesResponse.FromString(expected)
        if ours.SerializeToString(deterministic=True) == theirs.SerializeToString(
            deterministic=True
        ):
            return True
        vectors = [
            {
                name: vector.SerializeToString(deterministic=True)
                for name, vector in zip(r.metadata.feature_names.val, r.results, strict=False)
            }
            for r in (ours, theirs)
        ]
        wrong = {
            read.view.name
            for read in plan.on_demand
            for feature in read.projection.features
            if vectors[0].get(name := plan.output_name(read.projection, feature))
            != vectors[1].get(name)
        }
        for view in sorted(wrong) or [read.view.name for read in plan.on_demand]:
            if self._figures is not None:
                self._figures.mismatches.labels(view).inc()
            if view not in self._told:
                self._told.add(view)
                logger.error(
                    "the kernel of on-demand view %r answers something else than its Python "
                    "function; serve with --transforms=python, and report it",
                    view,
                )
        return False
