"""Cells to statuses: which values are sent, and how large the answer will be.

What is read of the stored bytes is the row's time, for the age check, and the outline of each
value, so that no malformed one reaches a client.

Statuses, `strict`:

| row                               | value          | status          | value sent | time sent |
|-----------------------------------|----------------|-----------------|------------|-----------|
| time and values absent            |                | NOT_FOUND       | no         | no        |
| older than the TTL                |                | OUTSIDE_MAX_AGE | no         | yes       |
| values without a time, with a TTL |                | OUTSIDE_MAX_AGE | no         | no        |
| any other                         | absent or null | NULL_VALUE      | as stored  | yes       |
| any other                         | set            | PRESENT         | as stored  | yes       |

With `include_stale_values` the values of rows that are OUTSIDE_MAX_AGE are sent too.

`feast` answers as Feast's Python server does: PRESENT throughout, values as stored, TTLs not looked
at, and times in the precision in which Feast reads them.

In both, a row with a corrupt value or time fails the request, or, with `allow_partial_response`,
has the status INVALID, no values and no time, and is named in the response's metadata.

Rows can be judged as they arrive, while Redis still works on later ones: then all that is left to
do behind the last reply is to write the response. That is for rows which their first reply settles,
and needs no room behind what has been received.
"""

from libc.math cimport modf, rint
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport malloc, qsort, realloc
from libc.string cimport memset

from hotfeast.hotpath.batch cimport BadRow, Batch, Column, Judging, Lookup
from hotfeast.hotpath.packed cimport (
    SETTLED,
    SPAN_ABSENT,
    SPAN_UNKNOWN,
    SPAN_UNREAD,
    settle_arrived,
)
from hotfeast.hotpath.plan cimport View
from hotfeast.hotpath.reply cimport Reply, Span
from hotfeast.hotpath.values cimport (
    VALUE_CORRUPT,
    VALUE_NULL,
    RowTime,
    ValueState,
    check_value,
    parse_row_time,
)
from hotfeast.hotpath.wire cimport field_size, put_varint

# Tags of a Timestamp's fields.
cdef enum Tag:
    TAG_SECONDS = 0x08
    TAG_NANOS = 0x10

cdef enum:
    # The end of the year 9999, and of a second.
    LAST_SECOND = 253402300799
    LAST_NANO = 999999999
    # A Timestamp's two tags and two varints.
    TIME_ROOM = 22


cdef int note_bad_row(Judging* judging, uint32_t v, uint32_t entity, int feature) noexcept nogil:
    """Notes a row that cannot be sent. Returns JUDGED or NO_MEMORY."""
    cdef BadRow* grown
    cdef uint32_t count = judging.bad_count
    # The room doubles: it is full where the count is a power of two.
    if count & (count - 1) == 0:
        grown = <BadRow*>realloc(judging.bad_rows, 2 * (<size_t>count or 1) * sizeof(BadRow))
        if grown == NULL:
            return NO_MEMORY
        judging.bad_rows = grown
    judging.bad_rows[count].view = v
    judging.bad_rows[count].entity = entity
    judging.bad_rows[count].feature = feature
    judging.bad_count = count + 1
    return JUDGED


cdef int round_time(Reply reply, Span* time, RowTime* event) noexcept nogil:
    """Gives a row time the precision that Feast's Python code reads it in: through a float of
    seconds to microseconds, half to even (`datetime.fromtimestamp`). Returns JUDGED or NO_MEMORY.

    The new bytes go behind the reply, since other spans may share the old ones.
    """
    cdef double whole = 0, fraction
    cdef uint8_t* at
    fraction = rint(modf(<double>event.seconds + <double>event.nanos / 1e9, &whole) * 1e6)
    if fraction >= 1e6:
        fraction -= 1e6
        whole += 1
    elif fraction < 0:
        fraction += 1e6
        whole -= 1
    if whole > LAST_SECOND:
        # Feast itself cannot read it.
        return JUDGED
    if reply.make_room(TIME_ROOM) != 0:
        return NO_MEMORY
    event.seconds = <int64_t>whole
    event.nanos = <int64_t>fraction * 1000
    time.at = <uint32_t>reply.received
    at = reply.buffer + reply.received
    if event.seconds != 0:
        at[0] = TAG_SECONDS
        at = put_varint(at + 1, <uint64_t>event.seconds)
    if event.nanos != 0:
        at[0] = TAG_NANOS
        at = put_varint(at + 1, <uint64_t>event.nanos)
    time.size = <int32_t>(at - reply.buffer - reply.received)
    reply.received += time.size
    return JUDGED


cdef inline int judge_row(
    View* view, Reply reply, Span* spans, Column* columns, uint8_t* statuses, size_t copies,
    int64_t now_seconds, int64_t now_nanos, bint strict, bint stale,
) noexcept nogil:
    """Gives the cells of one row of a view their statuses, empties what must not be sent, and adds
    the cells' sizes to their columns', for each of the `copies` rows of the answer.

    Returns JUDGED, NO_MEMORY, CORRUPT_TIME, CORRUPT_PACKED, UNKNOWN_SCHEMA or UNREAD, or the number
    of a feature whose value is corrupt; then the sizes of the features before it have been added.
    """
    cdef Span* time = &spans[view.feature_count]
    cdef const uint8_t* buffer = reply.buffer
    cdef uint8_t row_status = PRESENT
    cdef RowTime event
    cdef ValueState state
    cdef uint32_t f, size
    if time.size >= 0:
        if parse_row_time(buffer + time.at, time.size, &event) != 0:
            return CORRUPT_TIME
        if strict:
            if view.expires:
                event.seconds += view.ttl_seconds
                event.nanos += view.ttl_nanos
                if event.nanos > LAST_NANO:
                    event.seconds += 1
                    event.nanos -= LAST_NANO + 1
                if event.seconds < now_seconds or (
                    event.seconds == now_seconds and event.nanos < now_nanos
                ):
                    row_status = OUTSIDE_MAX_AGE
        elif event.nanos != 0:
            if round_time(reply, time, &event) != JUDGED:
                return NO_MEMORY
            buffer = reply.buffer
    elif time.size < SPAN_ABSENT:
        if time.size == SPAN_UNREAD:
            return UNREAD
        return UNKNOWN_SCHEMA if time.size == SPAN_UNKNOWN else CORRUPT_PACKED
    elif strict:
        row_status = NOT_FOUND
        for f in range(view.feature_count):
            if spans[f].size >= 0:
                row_status = OUTSIDE_MAX_AGE if view.expires else PRESENT
                break
    if row_status == NOT_FOUND or (row_status == OUTSIDE_MAX_AGE and not stale):
        void_row(view, spans, columns, statuses, copies, row_status)
        return JUDGED
    for f in range(view.feature_count):
        statuses[f] = row_status
        if spans[f].size <= 0:
            spans[f].size = 0
            state = VALUE_NULL
            columns[f].size += copies * 2
        else:
            size = <uint32_t>spans[f].size
            state = check_value(buffer + spans[f].at, size)
            if state == VALUE_CORRUPT:
                return <int>f
            columns[f].size += copies * field_size(size)
        if row_status != PRESENT:
            columns[f].uneven = True
        elif state == VALUE_NULL and strict:
            statuses[f] = NULL_VALUE
            columns[f].uneven = True
    return JUDGED


cdef void void_row(
    View* view, Span* spans, Column* columns, uint8_t* statuses, size_t copies, uint8_t status
) noexcept nogil:
    """Gives all cells of a row one status and no value."""
    cdef uint32_t f
    memset(statuses, status, view.feature_count)
    for f in range(view.feature_count):
        spans[f].size = 0
        columns[f].size += copies * 2
        columns[f].uneven = True


cdef int judge_run(
    Batch batch, Reply reply, uint32_t v, size_t first_feature, size_t entity_first,
    uint32_t begin, uint32_t end,
) noexcept nogil:
    """Judges those rows of a view that have not been judged, and adds the sizes of what is sent.

    Args:
        v, first_feature: The view, and the first of its features among all.
        entity_first: How many entities the recipes before the view's have.
        begin, end: Which entities' rows.

    Returns JUDGED, or NO_MEMORY, or CORRUPT where a stored value or time is corrupt and the request
    does not allow a partial response; the first such row has been noted then.
    """
    cdef Judging* judging = batch.judging
    cdef View* view = &batch.plan.views[v]
    cdef uint32_t width = batch.plan.recipes[view.recipe].field_count
    cdef Column* columns = judging.columns + first_feature
    cdef const uint32_t* copies = judging.copies + entity_first
    cdef const uint8_t* taken = judging.taken + entity_first
    cdef int64_t now_seconds = judging.now_seconds, now_nanos = judging.now_nanos
    cdef bint strict = judging.strict, stale = batch.request.stale_values
    cdef size_t base = batch.lookups[view.recipe].first_span + view.first_field
    cdef size_t times = 0
    cdef Span* spans
    cdef uint32_t e, f
    cdef int outcome
    cdef int32_t time_size
    base += <size_t>begin * width
    for e in range(begin, end):
        if not taken[e]:
            spans = reply.spans + base
            outcome = judge_row(
                view, reply, spans, columns, judging.statuses + base, copies[e], now_seconds,
                now_nanos, strict, stale,
            )
            if outcome != JUDGED:
                if outcome == NO_MEMORY or note_bad_row(judging, v, e, outcome) != JUDGED:
                    return NO_MEMORY
                if not batch.request.partial:
                    return CORRUPT
                # Of a row whose time is corrupt no feature has been counted yet.
                for f in range(<uint32_t>outcome if outcome > 0 else 0):
                    columns[f].size -= copies[e] * field_size(<size_t>spans[f].size)
                void_row(view, spans, columns, judging.statuses + base, copies[e], INVALID)
                spans[view.feature_count].size = 0
            time_size = spans[view.feature_count].size
            times += copies[e] * field_size(<size_t>time_size if time_size > 0 else 0)
        base += width
    judging.time_sizes[v] += times
    return JUDGED


cdef void count_copies(Batch batch) noexcept nogil:
    """Counts for each entity the rows that ask for it, once."""
    cdef uint32_t* copies = batch.judging.copies
    cdef Lookup* lookup
    cdef uint32_t r, row
    if batch.judging.counted:
        return
    batch.judging.counted = True
    for r in range(batch.plan.recipe_count):
        lookup = &batch.lookups[r]
        for row in range(batch.rows):
            copies[lookup.entity_of_row[row]] += 1
        copies += lookup.entity_count


cdef int start_judging(
    Batch batch, int64_t now_seconds, int64_t now_nanos, bint strict
) noexcept nogil:
    """Makes all rows ones that have not been judged. Returns JUDGED or NO_MEMORY.

    Args:
        now_seconds, now_nanos: The time that rows are aged against, since 1970 in UTC.
        strict: Statuses tell the truth; otherwise they are those of Feast's Python server.
    """
    cdef Judging* judging = batch.judging
    cdef size_t size
    if judging == NULL:
        size = batch.plan.feature_count * sizeof(Column) + batch.plan.view_count * sizeof(size_t)
        size += batch.entity_total * (sizeof(uint32_t) + 1)
        judging = <Judging*>malloc(sizeof(Judging) + size + batch.span_count)
        if judging == NULL:
            return NO_MEMORY
        judging.early = False
        judging.bad_rows = NULL
        judging.columns = <Column*>(judging + 1)
        judging.time_sizes = <size_t*>(judging.columns + batch.plan.feature_count)
        judging.copies = <uint32_t*>(judging.time_sizes + batch.plan.view_count)
        judging.taken = <uint8_t*>(judging.copies + batch.entity_total)
        judging.statuses = judging.taken + batch.entity_total
        judging.zeroed = size
        batch.judging = judging
    judging.now_seconds = now_seconds
    judging.now_nanos = now_nanos
    judging.strict = strict
    batch.forget_judged()
    return JUDGED


cdef void judge_ready(Batch batch, Reply reply) noexcept nogil:
    """Judges the rows that have arrived by now, if that is wanted of this batch."""
    cdef Judging* judging = batch.judging
    cdef uint32_t begin, end
    if (
        judging == NULL or not judging.early or judging.exhausted
        # What a cache keeps are rows that nobody has judged.
        or batch.seeking or batch.partial
        or batch.out != &batch.first
    ):
        return
    count_copies(batch)
    while judging.recipe < batch.plan.recipe_count and judging.recipe <= reply.recipe:
        end = batch.lookups[judging.recipe].entity_count
        if judging.recipe == reply.recipe:
            end = reply.entity
        begin = judging.entity
        while judging.entity < end:
            if settle_arrived(
                batch, reply, judging.recipe, judging.entity, judging.raw_first
            ) != SETTLED:
                judge_arrivals(batch, reply, begin, judging.entity)
                begin = judging.entity + 1
            judging.entity += 1
        judge_arrivals(batch, reply, begin, end)
        if judging.recipe == reply.recipe:
            return
        judging.raw_first += <size_t>end * batch.asks[judging.recipe].field_count
        judging.entity_first += end
        judging.entity = 0
        judging.recipe += 1


cdef void judge_arrivals(Batch batch, Reply reply, uint32_t begin, uint32_t end) noexcept nogil:
    """Judges the rows of some entities of the recipe at hand."""
    cdef Judging* judging = batch.judging
    cdef size_t feature = 0
    cdef uint32_t v
    if begin >= end:
        return
    for v in range(batch.plan.view_count):
        if batch.plan.views[v].recipe == judging.recipe:
            # A row that cannot be sent has been noted, and is all that will be said.
            if judge_run(
                batch, reply, v, feature, judging.entity_first, begin, end
            ) == NO_MEMORY:
                judging.exhausted = True
                return
        feature += batch.plan.views[v].feature_count
    memset(judging.taken + judging.entity_first + begin, 1, end - begin)


cdef int compare_bad_rows(const void* a, const void* b) noexcept nogil:
    cdef const BadRow* first = <const BadRow*>a
    cdef const BadRow* second = <const BadRow*>b
    if first.view != second.view:
        return -1 if first.view < second.view else 1
    if first.entity != second.entity:
        return -1 if first.entity < second.entity else 1
    return 0


cdef int judge_rest(Batch batch, Reply reply) noexcept nogil:
    """Judges the rows that have not been judged on arrival.

    Returns JUDGED, or NO_MEMORY, or CORRUPT where a stored value or time is corrupt and the request
    does not allow a partial response; the first bad row is the one to name.
    """
    cdef Judging* judging = batch.judging
    cdef int outcome = NO_MEMORY if judging.exhausted else judge_views(batch, reply)
    if outcome == NO_MEMORY:
        return NO_MEMORY
    if judging.bad_count > 1:
        qsort(judging.bad_rows, judging.bad_count, sizeof(BadRow), compare_bad_rows)
    return CORRUPT if judging.bad_count > 0 and not batch.request.partial else JUDGED


cdef int judge_views(Batch batch, Reply reply) noexcept nogil:
    """As `judge_rest`, which puts the bad rows in order."""
    cdef size_t feature = 0, first
    cdef uint32_t v, r
    cdef int outcome
    count_copies(batch)
    for v in range(batch.plan.view_count):
        first = 0
        for r in range(batch.plan.views[v].recipe):
            first += batch.lookups[r].entity_count
        outcome = judge_run(
            batch, reply, v, feature, first, 0,
            batch.lookups[batch.plan.views[v].recipe].entity_count,
        )
        if outcome != JUDGED:
            return outcome
        feature += batch.plan.views[v].feature_count
    return JUDGED


def judge_early(Batch batch not None, int64_t now_seconds, int64_t now_nanos) -> None:
    """Has the rows of a batch judged as they arrive, strictly.

    Args:
        batch: Its exchange has not begun.
        now_seconds, now_nanos: The time that rows are aged against, since 1970 in UTC; the one that
            the response must be built with.
    """
    if start_judging(batch, now_seconds, now_nanos, True) != JUDGED:
        raise MemoryError
    batch.judging.early = True


def judge_arrived(Batch batch not None, Reply reply not None) -> int:
    """Judges the rows that have arrived by now; for callers that feed bytes themselves.

    Args:
        batch: One of `judge_early`.
        reply: What its replies are fed to.

    Returns:
        How many entities have been judged, each once for each key recipe.

    Raises:
        ValueError: The reply is another batch's, or the batch is judged later.
    """
    cdef size_t i
    cdef int count = 0
    if reply.batch is not batch or batch.judging == NULL or not batch.judging.early:
        raise ValueError("this is no batch of judge_early() that the reply is read for")
    judge_ready(batch, reply)
    for i in range(batch.entity_total):
        count += batch.judging.taken[i]
    return count
