"""Replies to cells, where a view's features are windows: tiles become values as of the batch's
time.

What is made goes behind the reply, so that it is spans as all cells are.
"""

from libc.stdint cimport int32_t, uint32_t

from hotfeast.hotpath.batch cimport Batch
from hotfeast.hotpath.packed cimport SPAN_ABSENT, SPAN_BROKEN
from hotfeast.hotpath.plan cimport View
from hotfeast.hotpath.reply cimport Reply, Span
from hotfeast.hotpath.tiles cimport (
    NO_MEMORY,
    TIME_ROOM,
    TileRow,
    parse_tiles,
    put_newest,
    put_reading,
    reaches,
)


cdef int settle_tiles(
    Batch batch, Reply reply, uint32_t v, const Span* blob, Span* cells
) noexcept nogil:
    """Works out one row of a windowed view. Its time is that of the newest event.

    Returns 0, or -1 where there is no memory.
    """
    cdef View* view = &batch.plan.views[v]
    cdef Span* time = cells + view.feature_count
    cdef TileRow row
    cdef uint32_t f
    cdef int size
    for f in range(view.feature_count):
        cells[f].at = 0
        cells[f].size = SPAN_ABSENT
    time.at = 0
    time.size = SPAN_ABSENT
    if blob.size < 0:
        # There are none, or they could not be read.
        time.size = blob.size
        return 0
    # First, since it may move the buffer.
    if reply.make_room(<size_t>view.feature_count * view.tiles.value_room + TIME_ROOM) != 0:
        return -1
    if parse_tiles(view.tiles, reply.buffer + blob.at, <size_t>blob.size, &row) != 0:
        time.size = SPAN_BROKEN
        return 0
    if not reaches(view.tiles, &row, batch.now_us):
        return 0
    for f in range(view.feature_count):
        size = put_reading(
            view.tiles, &row, view.tile_readings[f], batch.now_us, reply.buffer + reply.received
        )
        if size == NO_MEMORY:
            return -1
        if size < 0:
            time.size = SPAN_BROKEN
            return 0
        cells[f].at = <uint32_t>reply.received
        cells[f].size = <int32_t>size
        reply.received += <size_t>size
    time.at = <uint32_t>reply.received
    time.size = <int32_t>put_newest(&row, reply.buffer + reply.received)
    reply.received += <size_t>time.size
    return 0
