"""How on-demand views are computed: counted, and in part verified.

Where verifying, a share of the requests that kernels answer is computed by the Python functions
too. Those are answered with what Python computed, so that a kernel that is wrong after all is told
and does no harm there.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat

from google.protobuf.message import Message

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

    def count(self, plan: ServingPlan, by_kernel: Sequence[bytes | None] | None) -> None:
        """Counts a run of each of a plan's on-demand views, by `kernel` or `python`.

        Args:
            plan: The plan.
            by_kernel: What kernels computed, None for a view that Python does; None if that is all.
        """
        if self._figures is None:
            return
        for read, part in zip(plan.on_demand, by_kernel or repeat(None), strict=False):
            key = (read.view.name, "python" if part is None else "kernel")
            counter = self._counters.get(key)
            if counter is None:
                counter = self._counters[key] = self._figures.runs.labels(*key).inc
            counter()

    def compare(
        self,
        plan: ServingPlan,
        by_kernel: Sequence[bytes | None],
        computed: bytes | None,
        expected: bytes,
    ) -> bool:
        """Tells of differences between kernels and Python; whether there is none.

        Each view is logged once, and counted each time.

        Args:
            plan: The plan.
            by_kernel: What the kernel of each on-demand view computed; None for those without.
            computed: The response of the kernels, where all views have one.
            expected: The response in which Python computed all of them.
        """
        if computed == expected:
            return True
        theirs = serving_pb2.GetOnlineFeaturesResponse.FromString(expected)
        # On-demand views are the last of a response.
        place = len(theirs.results) - sum(len(read.projection.features) for read in plan.on_demand)
        wrong = set()
        for read, part in zip(plan.on_demand, by_kernel, strict=True):
            end = place + len(read.projection.features)
            if part is not None:
                ours = serving_pb2.GetOnlineFeaturesResponse.FromString(part).results
                if _serialized(ours) != _serialized(theirs.results[place:end]):
                    wrong.add(read.view.name)
            place = end
        if not wrong:
            if computed is None:
                return True
            whole = serving_pb2.GetOnlineFeaturesResponse.FromString(computed)
            if _serialized([whole]) == _serialized([theirs]):
                return True
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


def _serialized(messages: Iterable[Message]) -> list[bytes]:
    return [message.SerializeToString(deterministic=True) for message in messages]
