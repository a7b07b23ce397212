"""How much of the reads that arrive is taken on: as much as is answered without a long wait.

Reads beyond a gateway's capacity would wait for one another, the longer the more there are, until
nobody waits for their answers any more. So those in flight are limited, and others are refused at
once. The limit follows from what is measured (Little's law): what is done in a second, times the
seconds that a read may take. That is what the quickest ones take, which wait for no other, and a
delay beyond.

Work is counted in cells of answers, and not in reads, so that the limit means the same delay for
single rows and for hundreds. A read takes from the time at which its last bytes arrived, also where
the loop has not looked at them for a while.
"""

from libc.stdint cimport int64_t

from hotfeast.hotpath.batch cimport Batch
from hotfeast.hotpath.hpack cimport RepeatedBlock
from hotfeast.hotpath.link cimport monotonic_ns

cdef enum:
    # What a read weighs beside its cells, and the most that they count for: a very large one is
    # worked on beside others, and must not keep them out.
    READ_WEIGHT = 64
    MOST_WEIGHT = 8192
    # The limit at first, which an idle gateway returns to: some 2,000 single rows of 50 features at
    # once. And the least limit: less would leave Redis or the loop without work.
    FIRST_LIMIT = 262144
    LEAST_LIMIT = 32768
    # Reads that a window has at least.
    LEAST_DONE = 16

cdef:
    # Seconds of work after which the limit is looked at.
    double WINDOW = 0.1
    # How far it moves towards what a window says; how far back towards the first one in a window
    # in which nothing was refused; how fast the time of the quickest reads may grow.
    double STEP = 0.5
    double RETURN = 0.05
    double RISE = 0.1


cdef inline int64_t weight_of(Batch batch) noexcept:
    return READ_WEIGHT + min(<int64_t>batch.span_count, <int64_t>MOST_WEIGHT)


cdef class Admission:
    """Used by one thread.

    Attributes:
        paths: Of the methods whose calls are refused where there is too much to do.
        in_flight: Reads that are being worked on.
        work: What they weigh.
        limit: What they may weigh.
        most_in_flight: How many they may be.
        delay: Seconds that a read may wait for others; 0 where only their number is limited.
        base: Seconds that a read takes which waits for no other.
        refused_work, refused_count: Calls that were refused because of the one and the other limit.
    """

    def __cinit__(
        self, object paths not None, list refusals not None, int64_t most_in_flight, double delay
    ):
        """
        Args:
            paths: Of methods, such as `/package.Service/Method`.
            refusals: Header blocks that a refused call is answered with, one after another;
                `RepeatedBlock`s that differ in the value of their last field alone.
            most_in_flight: How many reads there may be at once.
            delay: Seconds that a read may wait for others; 0 for any.
        """
        if not refusals:
            raise ValueError("there must be an answer to calls that are refused")
        self.paths = paths
        self.refusals = refusals
        self.most_in_flight = most_in_flight
        self.delay = delay
        self.limit = FIRST_LIMIT if delay > 0 else float("inf")
        self.quickest = float("inf")

    @property
    def full(self) -> bool:
        """Whether a read that arrives now is to be refused."""
        return is_full(self)

    def take_refusal(self) -> RepeatedBlock:
        """Counts a call that is refused, and has the header block to answer it with."""
        return self.refuse()

    def begin(self, Batch batch not None, double arrived) -> None:
        """Takes a read on.

        Args:
            batch: What it reads.
            arrived: When it arrived, in monotonic seconds.
        """
        self.begin_read(batch, arrived)

    def end(self, Batch batch not None, double arrived, bint answered) -> None:
        """A read is over, or somebody else's.

        Args:
            batch, arrived: As for `begin`.
            answered: Whether its time says what reads take: not where it failed.
        """
        self.end_read(batch, arrived, <double>monotonic_ns() / 1e9, answered)

    def end_at(self, Batch batch not None, double arrived, bint answered, double now) -> None:
        """The same at a time that is given."""
        self.end_read(batch, arrived, now, answered)

    cdef RepeatedBlock refuse(self):
        if self.in_flight >= self.most_in_flight:
            self.refused_count += 1
        else:
            self.refused_work += 1
        self.was_full = True
        self.refused += 1
        return <RepeatedBlock>self.refusals[self.refused % len(self.refusals)]

    cdef int begin_read(self, Batch batch, double arrived) except -1:
        if self.in_flight == 0:
            self.busy_since = max(self.busy_since, arrived)
        self.in_flight += 1
        self.work += weight_of(batch)
        return 0

    cdef int end_read(self, Batch batch, double arrived, double now, bint answered) except -1:
        cdef int64_t weight = weight_of(batch)
        self.in_flight -= 1
        self.work -= weight
        self.window += now - self.busy_since
        self.busy_since = now
        if answered and self.delay > 0:
            self.done += 1
            self.done_work += weight
            self.quickest = min(self.quickest, now - arrived)
            if self.window >= WINDOW and self.done >= LEAST_DONE:
                self.adapt()
        return 0

    cdef void adapt(self) noexcept:
        """Sets the limit from what a window has seen."""
        cdef double wanted
        if self.base == 0 or self.quickest < self.base:
            self.base = self.quickest
        elif not self.was_full or self.limit <= LEAST_LIMIT:
            # With nothing to wait for, the quickest one says what reads have come to take.
            self.base += RISE * (self.quickest - self.base)
        if self.was_full:
            wanted = <double>self.done_work / self.window * (self.base + self.delay)
            self.limit += STEP * (wanted - self.limit)
            self.limit = max(self.limit, <double>LEAST_LIMIT)
        elif self.limit < FIRST_LIMIT:
            self.limit += RETURN * (FIRST_LIMIT - self.limit)
        self.was_full = False
        self.window = 0
        self.quickest = float("inf")
        self.done = self.done_work = 0
