# Cells of windowed views.

from libc.stdint cimport uint32_t

from hotfeast.hotpath.batch cimport Batch
from hotfeast.hotpath.reply cimport Reply, Span


cdef int settle_tiles(
    Batch batch, Reply reply, uint32_t v, const Span* blob, Span* cells
) noexcept nogil
