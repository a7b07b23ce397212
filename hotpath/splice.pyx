"""Spans to response bytes: stored values are copied into the response, none is decoded.

What is read of the stored bytes is the row's time, for the age check, and the outline of each
value, so that no malformed one reaches a client. The response is measured first and then written
once, into the bytes object that goes to gRPC.

Statuses, `strict`:

| row                               | value          | status          | value sent | time sent |
|-----------------------------------|----------------|-----------------|------------|-----------|
| time and values absent            |                | NOT_FOUND       | no         | no        |
| older than the TTL                |                | OUTSIDE_MAX_AGE | no         | yes       |
| values without a time, with a TTL |                | OUTSIDE_MAX_AGE | no         | no        |
| any other                         | absent or null | NULL_VALUE      | as stored  | yes       |
| any other                         | set            | PRESENT         | as stored  | yes       |

`feast` answers as Feast's Python server does: PRESENT throughout, values and times as stored, TTLs
not looked at.

Join keys come first, as they were sent; the dummy key of entityless views is not sent back.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from hotfeast.hotpath.batch cimport Batch, Lookup
from hotfeast.hotpath.plan cimport Plan, Recipe, View
from hotfeast.hotpath.reply cimport Reply, Span
from hotfeast.hotpath.request cimport Column
from hotfeast.hotpath.values cimport (
    VALUE_CORRUPT,
    VALUE_NULL,
    RowTime,
    ValueState,
    check_value,
    parse_row_time,
)
from hotfeast.hotpath.wire cimport left, put_cursor, put_varint, varint_size

from hotfeast.hotpath.errors import CorruptRow

cdef enum FieldStatus:
    PRESENT = 1
    NULL_VALUE = 2
    NOT_FOUND = 3
    OUTSIDE_MAX_AGE = 4

# Tags of the response's fields.
cdef enum Tag:
    TAG_METADATA = 0x0A       # GetOnlineFeaturesResponse.metadata
    TAG_RESULTS = 0x12        # GetOnlineFeaturesResponse.results
    TAG_FEATURE_NAMES = 0x0A  # GetOnlineFeaturesResponseMetadata.feature_names
    TAG_NAME = 0x0A           # FeatureList.val
    TAG_VALUE = 0x0A          # FeatureVector.values
    TAG_STATUSES = 0x12       # FeatureVector.statuses, packed
    TAG_TIME = 0x1A           # FeatureVector.event_timestamps

cdef enum:
    CORRUPT_TIME = -1
    # Cells of a reply above which the GIL is let go: a third of a millisecond of work. For less,
    # letting it go and waiting for it again costs a lone request more than others gain.
    RELEASE_ABOVE = 10000

# Where a response's columns are, and what is known of its cells.
cdef struct Layout:
    uint8_t* statuses         # one per span of the reply
    size_t* value_sizes       # for each feature the bytes of its values, tags and lengths included
    size_t* time_sizes        # for each view the bytes of its event timestamps
    uint8_t* uneven           # for each feature whether a status of it is not PRESENT
    uint32_t* copies          # for each entity of the recipe at hand the rows that ask for it
    size_t names_size
    size_t metadata_size
    size_t size               # of the whole response
    uint32_t bad_view         # where a corrupt value is
    int bad_feature           # CORRUPT_TIME where the row's time is
    uint32_t bad_entity


cdef inline size_t field_size(size_t payload) noexcept nogil:
    """Bytes of a length-delimited field with a one-byte tag."""
    return 1 + varint_size(payload) + payload


cdef inline uint8_t* put_short(
    uint8_t* to, const uint8_t* end, const uint8_t* data, size_t size
) noexcept nogil:
    """Copies `size` bytes. Up to 16 go as two words where the column has room behind them; the
    reply's buffer always has."""
    if size <= 16 and end - to >= 16:
        memcpy(to, data, 16)
    else:
        memcpy(to, data, size)
    return to + size


cdef int judge_view(
    Batch batch, Reply reply, uint32_t v, size_t first_feature, Layout* layout,
    int64_t now_seconds, int64_t now_nanos, bint strict,
) noexcept nogil:
    """Gives each cell of a view its status, drops what must not be sent, and adds up the sizes.

    Returns 0, or -1 where a stored value or time is corrupt.
    """
    cdef View* view = &batch.plan.views[v]
    cdef Recipe* recipe = &batch.plan.recipes[view.recipe]
    cdef Lookup* lookup = &batch.lookups[view.recipe]
    cdef Span* spans
    cdef Span* time
    cdef uint8_t* statuses
    cdef size_t* sizes = layout.value_sizes + first_feature
    cdef uint8_t* uneven = layout.uneven + first_feature
    cdef const uint8_t* buffer = reply.buffer
    cdef size_t base
    cdef uint32_t e, f, copies, size
    cdef uint8_t row_status
    cdef RowTime event
    cdef ValueState state
    for e in range(lookup.entity_count):
        base = lookup.first_span + <size_t>e * recipe.field_count + view.first_field
        spans = reply.spans + base
        statuses = layout.statuses + base
        time = &spans[view.feature_count]
        copies = layout.copies[e]
        row_status = PRESENT
        if time.size >= 0:
            if parse_row_time(reply.buffer + time.at, time.size, &event) != 0:
                layout.bad_view = v
                layout.bad_feature = CORRUPT_TIME
                layout.bad_entity = e
                return -1
            if strict and view.ttl_seconds > 0:
                event.seconds += view.ttl_seconds
                if event.seconds < now_seconds or (
                    event.seconds == now_seconds and event.nanos < now_nanos
                ):
                    row_status = OUTSIDE_MAX_AGE
        elif strict:
            row_status = NOT_FOUND
            for f in range(view.feature_count):
                if spans[f].size >= 0:
                    row_status = OUTSIDE_MAX_AGE if view.ttl_seconds > 0 else PRESENT
                    break
        size = <uint32_t>time.size if time.size > 0 else 0
        layout.time_sizes[v] += <size_t>copies * field_size(size)
        if row_status != PRESENT:
            memset(statuses, row_status, view.feature_count)
            memset(uneven, True, view.feature_count)
            for f in range(view.feature_count):
                spans[f].size = 0
                sizes[f] += <size_t>copies * 2
            continue
        for f in range(view.feature_count):
            if spans[f].size <= 0:
                spans[f].size = 0
                statuses[f] = NULL_VALUE if strict else PRESENT
                uneven[f] |= strict
                sizes[f] += <size_t>copies * 2
                continue
            size = <uint32_t>spans[f].size
            state = check_value(buffer + spans[f].at, size)
            if state == VALUE_CORRUPT:
                layout.bad_view = v
                layout.bad_feature = <int>f
                layout.bad_entity = e
                return -1
            statuses[f] = PRESENT
            if strict and state == VALUE_NULL:
                statuses[f] = NULL_VALUE
                uneven[f] = True
            sizes[f] += <size_t>copies * field_size(size)
    return 0


cdef uint8_t* write_view(
    uint8_t* at, Batch batch, Reply reply, uint32_t v, size_t first_feature, Layout* layout,
    uint8_t** cursors,
) noexcept nogil:
    """Writes the columns of a view, row by row into all columns at once, so that the reply is read
    in the order in which it lies in memory. Returns the byte behind the last column."""
    cdef View* view = &batch.plan.views[v]
    cdef Recipe* recipe = &batch.plan.recipes[view.recipe]
    cdef Lookup* lookup = &batch.lookups[view.recipe]
    cdef uint32_t rows = batch.rows, row, f
    cdef size_t base, times = layout.time_sizes[v]
    cdef size_t status_head = 1 + varint_size(rows)
    cdef uint8_t** value_ends = cursors + view.feature_count
    cdef uint8_t** status_at = value_ends + view.feature_count
    cdef uint8_t* first_times = NULL
    cdef const uint8_t* buffer = reply.buffer
    cdef uint8_t* to
    cdef uint8_t* times_to
    cdef Span* spans
    cdef uint32_t size
    # Statuses and times lie behind a column's values and are written after them, so with 16 rows a
    # value may be copied in whole words even where it is the last.
    cdef bint roomy = rows >= 16
    for f in range(view.feature_count):
        at[0] = TAG_RESULTS
        if rows == 0:
            at[1] = 0
            at += 2
            continue
        at = put_varint(at + 1, layout.value_sizes[first_feature + f] + status_head + rows + times)
        cursors[f] = at
        at += layout.value_sizes[first_feature + f]
        value_ends[f] = at
        status_at[f] = at + status_head
        at += status_head + rows
        if first_times == NULL:
            first_times = at
        at += times
    if rows == 0 or view.feature_count == 0:
        return at
    times_to = first_times
    for row in range(rows):
        base = lookup.first_span + <size_t>lookup.entity_of_row[row] * recipe.field_count
        base += view.first_field
        spans = reply.spans + base
        for f in range(view.feature_count):
            size = <uint32_t>spans[f].size
            to = cursors[f]
            to[0] = TAG_VALUE
            if size <= 16 and roomy:
                to[1] = <uint8_t>size
                memcpy(to + 2, buffer + spans[f].at, 16)
                to += 2 + size
            else:
                to = put_varint(to + 1, size)
                to = put_short(to, value_ends[f], buffer + spans[f].at, size)
            cursors[f] = to
        times_to[0] = TAG_TIME
        if spans[view.feature_count].size <= 0:
            times_to[1] = 0
            times_to += 2
        else:
            size = <uint32_t>spans[view.feature_count].size
            times_to = put_varint(times_to + 1, size)
            times_to = put_short(
                times_to, first_times + times, buffer + spans[view.feature_count].at, size
            )
    for f in range(view.feature_count):
        value_ends[f][0] = TAG_STATUSES
        put_varint(value_ends[f] + 1, rows)
        if f > 0:
            memcpy(status_at[f] + rows, first_times, times)
        if not layout.uneven[first_feature + f]:
            memset(status_at[f], PRESENT, rows)
            continue
        base = lookup.first_span + view.first_field + f
        for row in range(rows):
            status_at[f][row] = layout.statuses[
                base + <size_t>lookup.entity_of_row[row] * recipe.field_count
            ]
    return at


cdef uint8_t* write_join_key(uint8_t* at, const Column* column) noexcept nogil:
    """Writes a join key's column: its values as they were sent, PRESENT, without times."""
    cdef uint32_t rows = column.rows, _
    at[0] = TAG_RESULTS
    at = put_varint(at + 1, join_key_size(column))
    if rows == 0:
        return at
    memcpy(at, column.values.at, left(&column.values))
    at += left(&column.values)
    at[0] = TAG_STATUSES
    at = put_varint(at + 1, rows)
    memset(at, PRESENT, rows)
    at += rows
    for _ in range(rows):
        at[0] = TAG_TIME
        at[1] = 0
        at += 2
    return at


cdef size_t join_key_size(const Column* column) noexcept nogil:
    if column.rows == 0:
        return 0
    return left(&column.values) + field_size(column.rows) + 2 * <size_t>column.rows


cdef void count_copies(Batch batch, uint32_t recipe, uint32_t* copies) noexcept nogil:
    cdef Lookup* lookup = &batch.lookups[recipe]
    cdef uint32_t row
    memset(copies, 0, lookup.entity_count * sizeof(uint32_t))
    for row in range(batch.rows):
        copies[lookup.entity_of_row[row]] += 1


cdef raise_corrupt(Batch batch, const Layout* layout):
    view = batch.plan.definition.views[layout.bad_view]
    what = "event timestamp" if layout.bad_feature == CORRUPT_TIME else (
        f"feature {view.features[layout.bad_feature].output_name!r}"
    )
    row = batch.lookups[view.recipe].row_of_entity[layout.bad_entity]
    raise CorruptRow(
        f"view {view.name!r}, {batch.describe_entity(view.recipe, row)}: the stored {what} is not "
        "what Feast writes; materialize or push this row again"
    )


cdef int judge(
    Batch batch, Reply reply, Layout* layout, int64_t now_seconds, int64_t now_nanos, bint strict,
) noexcept nogil:
    """Judges all views. Returns 0, or -1 where a stored value or time is corrupt."""
    cdef size_t feature = 0
    cdef int64_t copies_of = -1
    cdef uint32_t v
    for v in range(batch.plan.view_count):
        if copies_of != batch.plan.views[v].recipe:
            copies_of = batch.plan.views[v].recipe
            count_copies(batch, batch.plan.views[v].recipe, layout.copies)
        if judge_view(batch, reply, v, feature, layout, now_seconds, now_nanos, strict) != 0:
            return -1
        feature += batch.plan.views[v].feature_count
    return 0


cdef void measure(Batch batch, Layout* layout) noexcept nogil:
    """Adds up the sizes of the response and of its metadata."""
    cdef uint32_t v, i, _
    cdef size_t vector, feature = 0
    cdef int slot
    layout.names_size = left(&batch.plan.feature_names)
    layout.size = 0
    for i in range(batch.request.entity_count):
        slot = batch.plan.find_slot(&batch.request.columns[i].name)
        if batch.plan.slots[slot].required:
            layout.names_size += field_size(left(&batch.plan.slots[slot].name))
            layout.size += field_size(join_key_size(&batch.request.columns[i]))
    layout.metadata_size = field_size(layout.names_size)
    if batch.request.version_metadata:
        layout.metadata_size += left(&batch.plan.version_metadata)
    layout.size += field_size(layout.metadata_size)
    for v in range(batch.plan.view_count):
        for _ in range(batch.plan.views[v].feature_count):
            vector = 0
            if batch.rows:
                vector = layout.value_sizes[feature] + layout.time_sizes[v]
                vector += field_size(batch.rows)
            layout.size += field_size(vector)
            feature += 1


cdef uint8_t* write(
    uint8_t* at, Batch batch, Reply reply, Layout* layout, uint8_t** cursors
) noexcept nogil:
    """Writes the whole response; returns the byte behind it."""
    cdef size_t feature = 0
    cdef uint32_t v, i
    cdef int slot
    at[0] = TAG_METADATA
    at = put_varint(at + 1, layout.metadata_size)
    at[0] = TAG_FEATURE_NAMES
    at = put_varint(at + 1, layout.names_size)
    for i in range(batch.request.entity_count):
        slot = batch.plan.find_slot(&batch.request.columns[i].name)
        if not batch.plan.slots[slot].required:
            continue
        at[0] = TAG_NAME
        at = put_varint(at + 1, left(&batch.plan.slots[slot].name))
        at = put_cursor(at, &batch.plan.slots[slot].name)
    at = put_cursor(at, &batch.plan.feature_names)
    if batch.request.version_metadata:
        at = put_cursor(at, &batch.plan.version_metadata)
    for i in range(batch.request.entity_count):
        slot = batch.plan.find_slot(&batch.request.columns[i].name)
        if batch.plan.slots[slot].required:
            at = write_join_key(at, &batch.request.columns[i])
    for v in range(batch.plan.view_count):
        at = write_view(at, batch, reply, v, feature, layout, cursors)
        feature += batch.plan.views[v].feature_count
    return at


def build_response(
    Batch batch not None, Reply reply not None, int64_t now_seconds, int64_t now_nanos, bint strict
) -> bytes:
    """Writes the serialized `GetOnlineFeaturesResponse`.

    Args:
        batch: What was asked for.
        reply: The complete replies to the batch's commands. They are used up: statuses can be
            judged once.
        now_seconds, now_nanos: The time that rows are aged against, since 1970 in UTC.
        strict: Statuses tell the truth; otherwise they are those of Feast's Python server.

    Raises:
        CorruptRow: A stored value or row time is not what Feast writes.
        ValueError: The reply is another batch's, or not complete.
    """
    cdef Plan plan = batch.plan
    cdef Layout layout
    cdef uint32_t v, i, widest = 0, most_entities = 0
    cdef size_t size
    cdef uint8_t** cursors = NULL
    cdef uint8_t* at
    cdef uint8_t* memory
    cdef int outcome
    cdef bint large = batch.span_count > RELEASE_ABOVE

    if reply.batch is not batch or reply.recipe != plan.recipe_count:
        raise ValueError("these are not the complete replies to this batch")
    for v in range(plan.view_count):
        widest = max(widest, plan.views[v].feature_count)
    for i in range(plan.recipe_count):
        most_entities = max(most_entities, batch.lookups[i].entity_count)
    size = plan.feature_count * sizeof(size_t) + plan.view_count * sizeof(size_t)
    size += 3 * <size_t>widest * sizeof(void*) + <size_t>most_entities * sizeof(uint32_t)
    memory = <uint8_t*>malloc(size + plan.feature_count + batch.span_count + 1)
    if memory == NULL:
        raise MemoryError
    try:
        layout.value_sizes = <size_t*>memory
        layout.time_sizes = layout.value_sizes + plan.feature_count
        cursors = <uint8_t**>(layout.time_sizes + plan.view_count)
        layout.copies = <uint32_t*>(cursors + 3 * <size_t>widest)
        layout.uneven = <uint8_t*>(layout.copies + most_entities)
        layout.statuses = layout.uneven + plan.feature_count
        memset(memory, 0, (plan.feature_count + plan.view_count) * sizeof(size_t))
        memset(layout.uneven, False, plan.feature_count)
        if large:
            with nogil:
                outcome = judge(batch, reply, &layout, now_seconds, now_nanos, strict)
        else:
            outcome = judge(batch, reply, &layout, now_seconds, now_nanos, strict)
        if outcome != 0:
            raise_corrupt(batch, &layout)
        measure(batch, &layout)
        response = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>layout.size)
        at = <uint8_t*>PyBytes_AS_STRING(response)
        if large:
            with nogil:
                at = write(at, batch, reply, &layout, cursors)
        else:
            at = write(at, batch, reply, &layout, cursors)
        assert at == <uint8_t*>PyBytes_AS_STRING(response) + layout.size
        return response
    finally:
        free(memory)
