"""Counts of calls and how long they took, cheap enough for every request.

Figures for Prometheus cost a microsecond each where they are counted; these are taken over by a
thread once in a while. The interpreter's lock makes every method a step that nothing comes between.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free


cdef class Tally:
    """How often something happened, by how long it took."""

    cdef uint32_t size
    cdef double* bounds
    cdef uint64_t* counts
    cdef double total
    cdef uint64_t rows

    def __cinit__(self, bounds):
        """
        Args:
            bounds: Upper bounds of the buckets, ascending; what is above all is counted, too.
        """
        cdef uint32_t i
        self.size = len(bounds)
        self.bounds = <double*>calloc(self.size + 1, sizeof(double))
        self.counts = <uint64_t*>calloc(self.size + 1, sizeof(uint64_t))
        if self.bounds == NULL or self.counts == NULL:
            raise MemoryError
        for i in range(self.size):
            self.bounds[i] = bounds[i]

    def __dealloc__(self):
        free(self.bounds)
        free(self.counts)

    def add(self, double seconds):
        """Counts a call."""
        cdef uint32_t i = 0
        while i < self.size and seconds > self.bounds[i]:
            i += 1
        self.counts[i] += 1
        self.total += seconds

    def add_rows(self, uint64_t rows):
        """Counts rows that were answered."""
        self.rows += rows

    def take(self) -> tuple[list[int], float, int]:
        """What was counted since the last time: calls by bucket, their seconds, and rows."""
        cdef uint32_t i
        counts = []
        for i in range(self.size + 1):
            counts.append(self.counts[i])
            self.counts[i] = 0
        taken = (counts, self.total, self.rows)
        self.total = 0
        self.rows = 0
        return taken
