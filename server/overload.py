"""What is refused so that the rest is answered in time, and the figures of it."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Container
from typing import Any, NamedTuple

import grpc

from hotfeast.hotpath.admission import Admission
from hotfeast.hotpath.batch import Batch
from hotfeast.hotpath.http2 import refusal_block
from hotfeast.hotpath.request import Request
from hotfeast.server.errors import RequestFailure, invalid, late
from hotfeast.server.request_threads import RequestThreads
from hotfeast.server.settings import RequestLimits

# Seconds after which a call that was refused may be tried again, one or the other by chance: all at
# once would be refused once more.
_RETRIES = tuple(random.Random(1).uniform(0.02, 0.25) for _ in range(64))
# Seconds between two looks at the figures.
_LOOKS = 1.0
# No limit, for counts.
_ANY = 2**62

Method = Callable[[Any, Any], Any]


class LoadFigures(NamedTuple):
    """How busy a gateway is.

    Attributes:
        in_flight: Reads that are being worked on.
        share: What they weigh, in parts of what they may; 0 where there is no such limit.
        waiting: Requests that wait for a thread.
        refused: Calls that were refused, or not worked on any more, by why.
    """

    in_flight: int
    share: float
    waiting: int
    refused: dict[str, int]


class Overload:
    """Refuses what is too much."""

    def __init__(self, limits: RequestLimits, threads: RequestThreads) -> None:
        """
        Args:
            limits: What is too much.
            threads: Where requests run that are not answered in the loop.
        """
        self.limits = limits
        self._threads = threads
        self._refused: Counter[str] = Counter()
        self._admission: Admission | None = None

    def admission(self, paths: Container[bytes]) -> Admission:
        """What refuses reads in the loop.

        Args:
            paths: Of the methods that read.
        """
        refusals = []
        for seconds in _RETRIES:
            failure = self.too_many_reads(seconds)
            refusals.append(refusal_block(failure.code.value[0], failure.message, failure.metadata))
        self._admission = Admission(
            paths, refusals, self.limits.in_flight or _ANY, self.limits.delay
        )
        return self._admission

    def too_many_reads(self, retry_after: float) -> RequestFailure:
        """Why a read is refused."""
        return RequestFailure(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "this worker has as many reads in flight as it answers in time "
            f"(--overload-delay {self.limits.delay:g} s, --max-in-flight {self.limits.in_flight}): "
            "try again later, or add workers",
            retry_after,
        )

    def check(self, request: Request) -> None:
        """Refuses a request for too many rows.

        Raises:
            RequestFailure: It is one.
        """
        most = self.limits.entities
        if most and request.rows > most:
            self._refused["entities"] += 1
            raise invalid(
                f"the request has {request.rows} entities, and at most {most} are read at once "
                "(--max-entities): ask for the others in another request"
            )

    def check_batch(self, batch: Batch) -> None:
        """Refuses a request that reads too many values, and limits its answer.

        Raises:
            RequestFailure: It is one.
        """
        most = self.limits.values
        if most and batch.cell_count > most:
            self._refused["values"] += 1
            raise invalid(
                f"the request reads {batch.cell_count} values, and at most {most} are read at once "
                "(--max-values): ask for fewer entities or features"
            )
        batch.most_bytes = self.limits.response_bytes

    def check_threads(self) -> None:
        """Refuses what would wait for a thread for long.

        Raises:
            RequestFailure: It would.
        """
        if self.limits.delay and self._threads.overdue:
            self.refuse_for_threads()

    def refuse_for_threads(self) -> None:
        """Refuses what has to wait, or has waited, for a thread for long.

        Raises:
            RequestFailure: In any case.
        """
        self._refused["threads"] += 1
        raise RequestFailure(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "requests wait for a thread for longer than they should (--threads, "
            "--overload-delay): try again later, or add workers",
            random.choice(_RETRIES),
        )

    def count(self, reason: str) -> None:
        """Counts a call that was refused, or not worked on any more."""
        self._refused[reason] += 1

    def guard(self, method: Method) -> Method:
        """A handler of grpcio's server that does the same as `method`, unless it is too late."""

        def guarded(request: Any, context: Any) -> Any:
            try:
                left = context.time_remaining()
                if left is not None and left <= 0:
                    self.count("deadline")
                    raise late()
                if self.limits.delay and self._threads.has_waited_too_long:
                    self.refuse_for_threads()
            except RequestFailure as failure:
                context.set_trailing_metadata(
                    [(name.decode(), value) for name, value in failure.metadata]
                )
                context.abort(failure.code, failure.message)
            return method(request, context)

        return guarded

    @property
    def figures(self) -> LoadFigures:
        """How busy it is by now."""
        refused = dict(self._refused)
        admission = self._admission
        if admission is None:
            return LoadFigures(0, 0.0, self._threads.waiting, refused)
        refused["overload"] = admission.refused_work
        refused["in_flight"] = admission.refused_count
        return LoadFigures(
            admission.in_flight,
            admission.work / admission.limit,
            self._threads.waiting,
            refused,
        )


class LoadReport:
    """Tells figures again and again, in a thread of its own."""

    def __init__(self, tell: Callable[[], None]) -> None:
        """
        Args:
            tell: Tells them.
        """
        self._tell = tell
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load-report", daemon=True)

    def start(self) -> None:
        """Starts."""
        self._thread.start()

    def stop(self) -> None:
        """Tells them once more, and ends."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(_LOOKS):
            self._tell()
        self._tell()
