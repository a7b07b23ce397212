"""Replies to cells: which of a row's two forms counts, and where its values are.

A view's row may be stored in Feast's fields, in a packed row, or in both; the mark of its time says
which (see `packed.pxd`). What was asked for first decides nothing: where the first reply shows that
the row is in the other form, all fields of its entity are asked for once more, in one command, so
that what is then read is of one moment. No row is ever put together from two replies.

No value is copied or decoded. A packed row's values become spans as those of a reply are.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from hotfeast.hotpath.batch cimport Ask, Batch, Lookup
from hotfeast.hotpath.plan cimport Plan, Recipe, Schema, View
from hotfeast.hotpath.reply cimport Reply, Span
from hotfeast.hotpath.tile_rows cimport settle_tiles
from hotfeast.hotpath.values cimport RowTime, parse_row_time
from hotfeast.hotpath.wire cimport Cursor, get_u32, left, read_span

from hotfeast.hotpath.definition import LAYOUTS

# What came of reading a packed row.
cdef enum Unpacked:
    READ = 0
    BROKEN = SPAN_BROKEN
    UNKNOWN = SPAN_UNKNOWN
    ELSEWHEN = -4             # it is of another time than the view's row


cdef inline void fail_row(View* view, Span* cells, int32_t why) noexcept nogil:
    """Makes a row one that cannot be sent."""
    cdef uint32_t f
    for f in range(view.feature_count):
        cells[f].size = SPAN_ABSENT
    cells[view.feature_count].size = why


cdef inline void copy_row(View* view, const Span* source, Span* cells) noexcept nogil:
    cdef uint32_t f
    for f in range(view.feature_count + 1):
        cells[f] = source[f]


cdef uint32_t copy_unmarked(const uint8_t* time, uint32_t size, uint8_t* to) noexcept nogil:
    """Copies a Timestamp marked DUAL without its mark. Returns the copy's size, which is less."""
    cdef RowTime whole, less
    if (
        time[size - 2] == 0x80
        and parse_row_time(time, size, &whole) == 0
        and parse_row_time(time, size - 3, &less) == 0
        and whole.seconds == less.seconds and whole.nanos == less.nanos
    ):
        # A field that is zero, there for the mark alone: all of its three bytes go.
        size -= 3
        memcpy(to, time, size)
        return size
    size -= 1
    memcpy(to, time, size)
    to[size - 1] &= 0x7F
    return size


cdef inline int strip_time(Reply reply, Span* time) noexcept nogil:
    """Takes the mark off the time of a row that is in Feast's fields, too. Returns 0, or -1 where
    there is no memory.

    The bytes without it go behind the reply, since other spans may share the marked ones.
    """
    cdef uint32_t size = <uint32_t>time.size
    if reply.make_room(size) != 0:
        return -1
    time.size = <int32_t>copy_unmarked(
        reply.buffer + time.at, size, reply.buffer + reply.received
    )
    time.at = <uint32_t>reply.received
    reply.received += <size_t>time.size
    return 0


cdef inline Mark mark_of_span(Reply reply, const Span* time) noexcept nogil:
    return mark_of(reply.buffer + time.at, <uint32_t>time.size)


cdef Unpacked unpack(
    View* view, const uint8_t* base, const Span* time, const Span* row, Span* cells,
    uint32_t* unknown,
) noexcept nogil:
    """Makes a packed row's values and time the cells of the row. All spans are of `base`."""
    cdef const uint8_t* at = base + row.at
    cdef Schema* schema = view.schemas
    cdef Cursor c, value
    cdef RowTime stored, packed
    cdef uint32_t number, i, f, time_size
    cdef int32_t feature
    if row.size < PACKED_HEAD or at[0] != PACKED_FORMAT:
        return BROKEN
    number = get_u32(at + 1)
    time_size = at[5]
    if <uint32_t>row.size < PACKED_HEAD + time_size:
        return BROKEN
    if parse_row_time(base + time.at, time.size, &stored) != 0:
        return BROKEN
    if parse_row_time(at + PACKED_HEAD, time_size, &packed) != 0:
        return BROKEN
    if stored.seconds != packed.seconds or stored.nanos != packed.nanos:
        return ELSEWHEN
    while schema != NULL and schema.number != number:
        schema = schema.next
    if schema == NULL:
        unknown[0] = number
        return UNKNOWN
    for f in range(view.feature_count):
        cells[f].at = 0
        cells[f].size = SPAN_ABSENT
    c.at = at + PACKED_HEAD + time_size
    c.end = at + row.size
    for i in range(schema.count):
        if read_span(&c, &value) != 0:
            return BROKEN
        feature = schema.feature[i]
        if feature >= 0:
            cells[feature].at = <uint32_t>(value.at - base)
            cells[feature].size = <int32_t>left(&value)
    if c.at != c.end:
        return BROKEN
    cells[view.feature_count].at = row.at + PACKED_HEAD
    cells[view.feature_count].size = <int32_t>time_size
    return READ


cdef Settled settle_row(
    Batch batch, Reply reply, uint32_t v, const Span* raw, Span* cells, bint arriving
) noexcept nogil:
    """Works out one row of a view from the first reply. Of one that is `arriving`, ASK_AGAIN may
    also mean that there is no room for its time yet, where the rest of the reply is to be."""
    cdef View* view = &batch.plan.views[v]
    cdef const Span* time = raw if view.packed else raw + view.feature_count
    cdef uint32_t number = 0
    cdef Mark mark
    cdef Unpacked outcome
    if time.size < 0 and view.packed:
        # Feast takes a row away with its time; or it could not be read.
        fail_row(view, cells, time.size)
        return SETTLED
    if time.size < 0:
        if cells != raw:
            copy_row(view, raw, cells)
        return SETTLED
    mark = mark_of_span(reply, time)
    if not view.packed:
        if mark == PACKED or (mark == DUAL and arriving):
            return ASK_AGAIN
        if cells != raw:
            copy_row(view, raw, cells)
        if mark == DUAL and strip_time(reply, &cells[view.feature_count]) != 0:
            return SETTLE_NO_MEMORY
        return SETTLED
    if mark == UNMARKED or raw[1].size < 0:
        return ASK_AGAIN
    outcome = unpack(view, reply.buffer, time, raw + 1, cells, &number)
    if outcome == READ:
        return SETTLED
    if outcome == UNKNOWN:
        # If nobody knows the schema, Feast's fields are what is left, where there are any.
        note_unknown(reply, v, number)
        if mark == PACKED:
            fail_row(view, cells, SPAN_UNKNOWN)
            return SETTLED
    return ASK_AGAIN


cdef int settle_row_again(
    Batch batch, Reply reply, uint32_t v, const Span* stored, const Span* row, Span* cells
) noexcept nogil:
    """Works out one row of a view from the reply that has all of its fields. Returns 0, or -1 where
    there is no memory."""
    cdef View* view = &batch.plan.views[v]
    cdef const Span* time = stored + view.feature_count
    cdef uint32_t number = 0
    cdef Unpacked outcome
    cdef Mark mark = UNMARKED
    if time.size > 0:
        mark = mark_of_span(reply, time)
    if not view.packable or mark != PACKED:
        copy_row(view, stored, cells)
        return strip_time(reply, &cells[view.feature_count]) if mark == DUAL else 0
    outcome = BROKEN
    if row.size >= 0:
        outcome = unpack(view, reply.buffer, time, row, cells, &number)
    if outcome == UNKNOWN:
        note_unknown(reply, v, number)
        fail_row(view, cells, SPAN_UNKNOWN)
    elif outcome != READ:
        fail_row(view, cells, SPAN_BROKEN)
    return 0


cdef inline void note_unknown(Reply reply, uint32_t v, uint32_t number) noexcept nogil:
    reply.unknown_view = v
    reply.unknown_schema = number


cdef Settled settle_arrived(
    Batch batch, Reply reply, uint32_t r, uint32_t e, size_t raw_first
) noexcept nogil:
    """Makes cells of an entity's reply to the first commands, which ask for all entities, while
    others are still to come. Returns SETTLED, or ASK_AGAIN where that must wait for `settle`.

    Args:
        r, e: The recipe and the entity.
        raw_first: Where the spans of the recipe's replies start.
    """
    cdef Recipe* recipe = &batch.plan.recipes[r]
    cdef View* view
    cdef Span* cells
    cdef const Span* raw
    cdef uint32_t v
    cdef bint apart = reply.wire != reply.spans
    if not (batch.plan.packable or apart):
        return SETTLED
    for v in range(batch.plan.view_count):
        view = &batch.plan.views[v]
        if view.recipe != r or not (view.packable or apart):
            continue
        if view.tiles != NULL:
            # What is made of tiles goes where the rest of the reply is to be.
            return ASK_AGAIN
        cells = reply.spans + batch.lookups[r].first_span + <size_t>e * recipe.field_count
        cells += view.first_field
        raw = cells
        if apart:
            raw = reply.wire + raw_first + <size_t>e * batch.asks[r].field_count + view.ask_field
        if not view.packable:
            copy_row(view, raw, cells)
        elif settle_row(batch, reply, v, raw, cells, True) != SETTLED:
            return ASK_AGAIN
    return SETTLED


cdef Settled settle_first(Batch batch, Reply reply) noexcept nogil:
    cdef uint8_t* wanted = NULL
    cdef Recipe* recipe
    cdef View* view
    cdef Lookup* lookup
    cdef Ask* ask
    cdef Span* cells
    cdef const Span* raw
    cdef size_t raw_first = 0, entity_first = 0
    cdef uint32_t r, v, n, e, width
    cdef bint apart = reply.wire != reply.spans
    cdef const uint8_t* taken = batch.judging.taken if batch.judging != NULL else NULL
    cdef Settled row
    for r in range(batch.plan.recipe_count):
        recipe = &batch.plan.recipes[r]
        lookup = &batch.lookups[r]
        ask = &batch.asks[r]
        width = ask.field_count
        for v in range(batch.plan.view_count):
            view = &batch.plan.views[v]
            if view.recipe != r or not (view.packable or apart):
                continue
            for n in range(ask.entity_count):
                e = n if ask.entities == NULL else ask.entities[n]
                if taken != NULL and taken[entity_first + e]:
                    continue
                cells = reply.spans + lookup.first_span + <size_t>e * recipe.field_count
                cells += view.first_field
                raw = cells
                if apart:
                    raw = reply.wire + raw_first + <size_t>n * width + view.ask_field
                if view.tiles != NULL:
                    if settle_tiles(batch, reply, v, raw, cells) != 0:
                        free(wanted)
                        return SETTLE_NO_MEMORY
                    continue
                if not view.packable:
                    copy_row(view, raw, cells)
                    continue
                row = settle_row(batch, reply, v, raw, cells, False)
                if row == ASK_AGAIN and wanted == NULL:
                    wanted = <uint8_t*>calloc(batch.entity_total, 1)
                    if wanted == NULL:
                        return SETTLE_NO_MEMORY
                if row == SETTLE_NO_MEMORY:
                    free(wanted)
                    return SETTLE_NO_MEMORY
                if row == ASK_AGAIN:
                    wanted[entity_first + e] = 1
        raw_first += <size_t>ask.entity_count * width
        entity_first += lookup.entity_count
    if wanted == NULL:
        return SETTLED
    e = batch.ask_again(wanted) != 0 or reply.begin_again() != 0
    free(wanted)
    return SETTLE_NO_MEMORY if e else ASK_AGAIN


cdef Settled settle_second(Batch batch, Reply reply) noexcept nogil:
    cdef Recipe* recipe
    cdef View* view
    cdef Ask* ask
    cdef Span* cells
    cdef const Span* raw = reply.wire
    cdef uint32_t r, v, n
    for r in range(batch.plan.recipe_count):
        recipe = &batch.plan.recipes[r]
        ask = &batch.asks[r]
        for n in range(ask.entity_count):
            cells = reply.spans + batch.lookups[r].first_span
            cells += <size_t>ask.entities[n] * recipe.field_count
            for v in range(batch.plan.view_count):
                view = &batch.plan.views[v]
                if view.recipe == r and settle_row_again(
                    batch, reply, v, raw + view.first_field, raw + view.full_row,
                    cells + view.first_field,
                ) != 0:
                    return SETTLE_NO_MEMORY
            raw += ask.field_count
    return SETTLED


cdef Settled settle(Batch batch, Reply reply) noexcept nogil:
    """Makes cells of the replies to the commands at hand, all of which have come.

    Returns ASK_AGAIN where the batch has further commands, whose replies the reply then expects.
    """
    cdef Settled settled
    if batch.out == &batch.first:
        settled = settle_first(batch, reply)
    else:
        settled = settle_second(batch, reply)
    reply.settled = settled == SETTLED
    return settled


def settle_reply(Batch batch not None, Reply reply not None) -> bool:
    """Makes cells of complete replies; for callers that feed bytes themselves.

    Returns:
        Whether that was all. If not, the batch's `command_bytes` are further commands, whose
        replies the reply is to be fed next.

    Raises:
        ValueError: The reply is another batch's, or not complete.
    """
    if reply.batch is not batch or reply.recipe != batch.plan.recipe_count:
        raise ValueError("these are not the complete replies to this batch")
    if reply.settled:
        return True
    settled = settle(batch, reply)
    if settled == SETTLE_NO_MEMORY:
        raise MemoryError
    return settled == SETTLED


def unpack_row(
    Plan plan not None, uint32_t view, bytes timestamp not None, bytes row not None
) -> list[bytes | None] | int:
    """The values of a packed row that the caller has read.

    Args:
        plan: It knows the schemas of rows.
        view: The index in it of the row's view.
        timestamp: The time that is stored beside the row.
        row: The packed row.

    Returns:
        For each of the view's features in the plan its serialized Value, empty for null and None
        where the row does not have it; or the number of the row's schema, which the plan does not
        know.

    Raises:
        IndexError: There is no such view.
        ValueError: It is no packed row, or of another time.
    """
    cdef bytes data = timestamp + row
    cdef const uint8_t* base = <const uint8_t*><const char*>data
    cdef Span time, packed
    cdef Span* cells
    cdef uint32_t f, count, number = 0
    cdef Unpacked outcome
    if view >= plan.view_count:
        raise IndexError(f"the plan has {plan.view_count} views, not {view + 1}")
    time.at, time.size = 0, <int32_t>len(timestamp)
    packed.at, packed.size = <uint32_t>len(timestamp), <int32_t>len(row)
    count = plan.views[view].feature_count
    cells = <Span*>calloc(count + 1, sizeof(Span))
    if cells == NULL:
        raise MemoryError
    try:
        outcome = unpack(&plan.views[view], base, &time, &packed, cells, &number)
        if outcome == UNKNOWN:
            return number
        if outcome == ELSEWHEN:
            raise ValueError("the packed row is of another time")
        if outcome != READ:
            raise ValueError("not a packed row")
        return [
            None if cells[f].size < 0 else data[cells[f].at : cells[f].at + cells[f].size]
            for f in range(count)
        ]
    finally:
        free(cells)


def marked_time(bytes timestamp not None, str layout not None) -> bytes:
    """A serialized Timestamp as it is stored with rows of a layout.

    Raises:
        ValueError: It is no Timestamp, or there is no such layout.
    """
    cdef RowTime time
    cdef uint8_t data[64]
    cdef uint8_t* at = data
    cdef Py_ssize_t size = len(timestamp)
    cdef int mark = LAYOUTS.index(layout)
    if size > 48 or parse_row_time(<const uint8_t*><const char*>timestamp, size, &time) != 0:
        raise ValueError(f"not a google.protobuf.Timestamp: {timestamp!r}")
    memcpy(at, <const uint8_t*><const char*>timestamp, size)
    at = put_mark(data, data + size, time.seconds, time.nanos, <Mark>mark)
    return data[: at - data]


def layout_of(bytes timestamp not None) -> str:
    """The layout of the row that a stored, serialized Timestamp belongs to."""
    return LAYOUTS[
        mark_of(<const uint8_t*><const char*>timestamp, <uint32_t>len(timestamp))
    ]
