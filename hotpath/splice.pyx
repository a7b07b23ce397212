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

With `include_stale_values` the values of rows that are OUTSIDE_MAX_AGE are sent too.

`feast` answers as Feast's Python server does: PRESENT throughout, values as stored, TTLs not looked
at, and times in the precision in which Feast reads them.

In both, a row with a corrupt value or time fails the request, or, with `allow_partial_response`,
has the status INVALID, no values and no time, and is named in the response's metadata.

Join keys come first, as they were sent; the dummy key of entityless views is not sent back.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.math cimport modf, rint
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcpy, memset

from hotfeast.hotpath.batch cimport Batch, Lookup
from hotfeast.hotpath.kernel cimport Computation
from hotfeast.hotpath.packed cimport SPAN_ABSENT, SPAN_UNKNOWN
from hotfeast.hotpath.plan cimport Plan, Recipe, View
from hotfeast.hotpath.reply cimport Reply, Span
from hotfeast.hotpath.request cimport Column as EntityColumn
from hotfeast.hotpath.values cimport (
    VALUE_CORRUPT,
    VALUE_NULL,
    RowTime,
    ValueState,
    check_value,
    parse_row_time,
)
from hotfeast.hotpath.wire cimport Cursor, left, put_cursor, put_varint, varint_size

from hotfeast.hotpath.errors import CorruptRow
from hotfeast.serving.v1 import serving_pb2

cdef enum FieldStatus:
    INVALID = 0
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
    TAG_SECONDS = 0x08        # Timestamp.seconds
    TAG_NANOS = 0x10          # Timestamp.nanos

cdef enum:
    # The end of the year 9999, and of a second.
    LAST_SECOND = 253402300799
    LAST_NANO = 999999999
    # A Timestamp's two tags and two varints.
    TIME_ROOM = 22
    DATA_LOSS = 15            # google.rpc.Code
    # Cells of a reply above which the GIL is let go: a third of a millisecond of work. For less,
    # letting it go and waiting for it again costs a lone request more than others gain.
    RELEASE_ABOVE = 10000

# What the outcome of judging can be; of a single row also the number of its corrupt feature.
cdef enum Outcome:
    JUDGED = -1
    CORRUPT_TIME = -2
    CORRUPT = -3
    NO_MEMORY = -4
    CORRUPT_PACKED = -5       # a packed row that cannot be read
    UNKNOWN_SCHEMA = -6       # one that nobody knows the features of

# A stored row that cannot be sent; `feature` is an Outcome where no feature of it is what is wrong.
cdef struct BadRow:
    uint32_t view
    uint32_t entity
    int feature

# What is known of a feature's column.
cdef struct Column:
    size_t size               # bytes of its values, tags and lengths included
    bint uneven               # whether a status is not PRESENT

# Where a response's columns are, and what is known of its cells.
cdef struct Layout:
    uint8_t* statuses         # one per span of the reply
    Column* columns           # one per feature
    size_t* time_sizes        # for each view the bytes of its event timestamps
    uint32_t* copies          # for each entity of the recipe at hand the rows that ask for it
    size_t names_size
    size_t metadata_size
    size_t size               # of the whole response
    BadRow* bad_rows
    uint32_t bad_count
    Cursor row_errors         # the bad rows as fields of the response's metadata
    Cursor names              # of all features that are sent
    const uint8_t* sent       # one per feature; NULL where all are sent
    Cursor computed           # columns that follow the stored ones


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


cdef int note_bad_row(Layout* layout, uint32_t v, uint32_t entity, int feature) noexcept nogil:
    """Notes a row that cannot be sent. Returns JUDGED or NO_MEMORY."""
    cdef BadRow* grown
    cdef uint32_t count = layout.bad_count
    # The room doubles: it is full where the count is a power of two.
    if count & (count - 1) == 0:
        grown = <BadRow*>realloc(layout.bad_rows, 2 * (<size_t>count or 1) * sizeof(BadRow))
        if grown == NULL:
            return NO_MEMORY
        layout.bad_rows = grown
    layout.bad_rows[count].view = v
    layout.bad_rows[count].entity = entity
    layout.bad_rows[count].feature = feature
    layout.bad_count = count + 1
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

    Returns JUDGED, NO_MEMORY, CORRUPT_TIME, CORRUPT_PACKED or UNKNOWN_SCHEMA, or the number of a
    feature whose value is corrupt; then the sizes of the features before it have been added.
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


cdef int judge_view(
    Batch batch, Reply reply, uint32_t v, size_t first_feature, Layout* layout,
    int64_t now_seconds, int64_t now_nanos, bint strict,
) noexcept nogil:
    """Judges the rows of a view and adds up the sizes of what is sent.

    Returns JUDGED, or NO_MEMORY, or CORRUPT where a stored value or time is corrupt and the request
    does not allow a partial response.
    """
    cdef View* view = &batch.plan.views[v]
    cdef Recipe* recipe = &batch.plan.recipes[view.recipe]
    cdef Lookup* lookup = &batch.lookups[view.recipe]
    cdef Column* columns = layout.columns + first_feature
    cdef Span* spans
    cdef size_t base, copies
    cdef uint32_t e, f
    cdef int outcome
    cdef int32_t time_size
    cdef bint stale = batch.request.stale_values
    for e in range(lookup.entity_count):
        base = lookup.first_span + <size_t>e * recipe.field_count + view.first_field
        spans = reply.spans + base
        copies = layout.copies[e]
        outcome = judge_row(
            view, reply, spans, columns, layout.statuses + base, copies, now_seconds, now_nanos,
            strict, stale,
        )
        if outcome != JUDGED:
            if outcome == NO_MEMORY or note_bad_row(layout, v, e, outcome) != JUDGED:
                return NO_MEMORY
            if not batch.request.partial:
                return CORRUPT
            # Of a row whose time is corrupt no feature has been counted yet.
            for f in range(<uint32_t>outcome if outcome > 0 else 0):
                columns[f].size -= copies * field_size(<size_t>spans[f].size)
            void_row(view, spans, columns, layout.statuses + base, copies, INVALID)
            spans[view.feature_count].size = 0
        time_size = spans[view.feature_count].size
        layout.time_sizes[v] += copies * field_size(<size_t>time_size if time_size > 0 else 0)
    return JUDGED


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
        at = put_varint(at + 1, layout.columns[first_feature + f].size + status_head + rows + times)
        cursors[f] = at
        at += layout.columns[first_feature + f].size
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
        if not layout.columns[first_feature + f].uneven:
            memset(status_at[f], PRESENT, rows)
            continue
        base = lookup.first_span + view.first_field + f
        for row in range(rows):
            status_at[f][row] = layout.statuses[
                base + <size_t>lookup.entity_of_row[row] * recipe.field_count
            ]
    return at


cdef bint all_sent(const uint8_t* sent, const View* view) noexcept nogil:
    return view.feature_count == 0 or memchr(sent, 0, view.feature_count) == NULL


cdef uint8_t* write_part(
    uint8_t* at, Batch batch, Reply reply, uint32_t v, size_t first_feature, Layout* layout
) noexcept nogil:
    """Writes those columns of a view that are sent, one after the other. Returns the byte behind
    the last one."""
    cdef View* view = &batch.plan.views[v]
    cdef Recipe* recipe = &batch.plan.recipes[view.recipe]
    cdef Lookup* lookup = &batch.lookups[view.recipe]
    cdef uint32_t rows = batch.rows, row, f, size
    cdef size_t base, vector
    cdef uint8_t* statuses
    cdef Span* spans
    for f in range(view.feature_count):
        if not layout.sent[first_feature + f]:
            continue
        at[0] = TAG_RESULTS
        vector = layout.columns[first_feature + f].size + layout.time_sizes[v]
        at = put_varint(at + 1, vector + field_size(rows))
        statuses = at + layout.columns[first_feature + f].size
        statuses[0] = TAG_STATUSES
        statuses = put_varint(statuses + 1, rows)
        for row in range(rows):
            base = lookup.first_span + <size_t>lookup.entity_of_row[row] * recipe.field_count
            base += view.first_field + f
            statuses[row] = layout.statuses[base]
            size = <uint32_t>reply.spans[base].size
            at[0] = TAG_VALUE
            at = put_varint(at + 1, size)
            memcpy(at, reply.buffer + reply.spans[base].at, size)
            at += size
        at = statuses + rows
        for row in range(rows):
            base = lookup.first_span + <size_t>lookup.entity_of_row[row] * recipe.field_count
            spans = reply.spans + base + view.first_field
            size = 0
            if spans[view.feature_count].size > 0:
                size = <uint32_t>spans[view.feature_count].size
            at[0] = TAG_TIME
            at = put_varint(at + 1, size)
            memcpy(at, reply.buffer + spans[view.feature_count].at, size)
            at += size
    return at


cdef uint8_t* write_join_key(uint8_t* at, const EntityColumn* column) noexcept nogil:
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


cdef size_t join_key_size(const EntityColumn* column) noexcept nogil:
    if column.rows == 0:
        return 0
    return left(&column.values) + field_size(column.rows) + 2 * <size_t>column.rows


cdef void count_copies(Batch batch, uint32_t recipe, uint32_t* copies) noexcept nogil:
    cdef Lookup* lookup = &batch.lookups[recipe]
    cdef uint32_t row
    memset(copies, 0, lookup.entity_count * sizeof(uint32_t))
    for row in range(batch.rows):
        copies[lookup.entity_of_row[row]] += 1


cdef str describe_bad_row(Batch batch, const BadRow* bad):
    view = batch.plan.definition.views[bad.view]
    row = batch.lookups[view.recipe].row_of_entity[bad.entity]
    if bad.feature == CORRUPT_PACKED:
        what = "packed row cannot be read"
    elif bad.feature == UNKNOWN_SCHEMA:
        what = "packed row is of features that are recorded nowhere"
    elif bad.feature == CORRUPT_TIME:
        what = "event timestamp is not what Feast writes"
    else:
        what = f"feature {view.features[bad.feature].output_name!r} is not what Feast writes"
    return (
        f"view {view.name!r}, {batch.describe_entity(view.recipe, row)}: the stored {what}; "
        "materialize or push this row again"
    )


cdef bytes serialize_row_errors(Batch batch, const Layout* layout):
    """The bad rows as fields of the response's metadata."""
    cdef uint32_t i
    metadata = serving_pb2.GetOnlineFeaturesResponseMetadata()
    rows_of = {}
    for i in range(layout.bad_count):
        recipe = batch.plan.views[layout.bad_rows[i].view].recipe
        if recipe not in rows_of:
            rows_of[recipe] = rows_by_entity(batch, recipe)
        metadata.row_errors.add(
            feature_view=batch.plan.definition.views[layout.bad_rows[i].view].name,
            rows=rows_of[recipe][layout.bad_rows[i].entity],
            code=DATA_LOSS,
            message=describe_bad_row(batch, &layout.bad_rows[i]),
        )
    return metadata.SerializeToString()


cdef list rows_by_entity(Batch batch, uint32_t recipe):
    """For each entity of a recipe the rows that ask for it."""
    cdef uint32_t row
    rows = [[] for _ in range(batch.lookups[recipe].entity_count)]
    for row in range(batch.rows):
        rows[batch.lookups[recipe].entity_of_row[row]].append(row)
    return rows


cdef int judge(
    Batch batch, Reply reply, Layout* layout, int64_t now_seconds, int64_t now_nanos, bint strict,
) noexcept nogil:
    """Judges all views; returns as `judge_view` does."""
    cdef size_t feature = 0
    cdef int64_t copies_of = -1
    cdef uint32_t v
    cdef int outcome
    for v in range(batch.plan.view_count):
        if copies_of != batch.plan.views[v].recipe:
            copies_of = batch.plan.views[v].recipe
            count_copies(batch, batch.plan.views[v].recipe, layout.copies)
        outcome = judge_view(
            batch, reply, v, feature, layout, now_seconds, now_nanos, strict
        )
        if outcome != JUDGED:
            return outcome
        feature += batch.plan.views[v].feature_count
    return JUDGED


cdef void measure(Batch batch, Layout* layout) noexcept nogil:
    """Adds up the sizes of the response and of its metadata."""
    cdef uint32_t v, i, _
    cdef size_t vector, feature = 0
    cdef int slot
    layout.names_size = left(&layout.names)
    layout.size = left(&layout.computed)
    for i in range(batch.request.entity_count):
        slot = batch.plan.find_slot(&batch.request.columns[i].name)
        if batch.plan.slots[slot].required:
            layout.names_size += field_size(left(&batch.plan.slots[slot].name))
            layout.size += field_size(join_key_size(&batch.request.columns[i]))
    layout.metadata_size = field_size(layout.names_size)
    if batch.request.version_metadata:
        layout.metadata_size += left(&batch.plan.version_metadata)
    layout.metadata_size += left(&layout.row_errors)
    layout.size += field_size(layout.metadata_size)
    for v in range(batch.plan.view_count):
        for _ in range(batch.plan.views[v].feature_count):
            vector = 0
            if batch.rows:
                vector = layout.columns[feature].size + layout.time_sizes[v]
                vector += field_size(batch.rows)
            if layout.sent == NULL or layout.sent[feature]:
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
    at = put_cursor(at, &layout.names)
    if batch.request.version_metadata:
        at = put_cursor(at, &batch.plan.version_metadata)
    at = put_cursor(at, &layout.row_errors)
    for i in range(batch.request.entity_count):
        slot = batch.plan.find_slot(&batch.request.columns[i].name)
        if batch.plan.slots[slot].required:
            at = write_join_key(at, &batch.request.columns[i])
    for v in range(batch.plan.view_count):
        if layout.sent == NULL or all_sent(layout.sent + feature, &batch.plan.views[v]):
            at = write_view(at, batch, reply, v, feature, layout, cursors)
        else:
            at = write_part(at, batch, reply, v, feature, layout)
        feature += batch.plan.views[v].feature_count
    return put_cursor(at, &layout.computed)


cdef bytes write_response(Batch batch, Reply reply, Layout* layout, uint8_t** cursors, bint large):
    """Measures and writes a response of rows that have been judged."""
    cdef uint8_t* at
    measure(batch, layout)
    response = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>layout.size)
    at = <uint8_t*>PyBytes_AS_STRING(response)
    if large:
        with nogil:
            at = write(at, batch, reply, layout, cursors)
    else:
        at = write(at, batch, reply, layout, cursors)
    assert at == <uint8_t*>PyBytes_AS_STRING(response) + layout.size
    return response


cdef tuple build(
    Batch batch, Reply reply, int64_t now_seconds, int64_t now_nanos, bint strict,
    Computation computation, bint keep,
):
    """Judges the rows and writes the response, as the two functions below say.

    Returns:
        The response with computed features, or None; the one with all that was read, or None where
        it is not needed; and what the kernels computed, view by view, or None.
    """
    cdef Plan plan = batch.plan
    cdef Layout layout
    cdef uint32_t v, i, widest = 0, most_entities = 0
    cdef size_t size
    cdef uint8_t** cursors = NULL
    cdef uint8_t* memory
    cdef int outcome
    cdef bint large = batch.span_count > RELEASE_ABOVE
    cdef bytes row_errors = b""
    cdef list parts = None
    cdef bytes results = None
    cdef bytes computed = None
    cdef bytes stored = None

    if reply.batch is not batch or reply.recipe != plan.recipe_count or not reply.settled:
        raise ValueError("these are not the complete replies to this batch")
    if computation is not None and computation.plan is not plan:
        raise ValueError("the computation is another plan's")
    for v in range(plan.view_count):
        widest = max(widest, plan.views[v].feature_count)
    for i in range(plan.recipe_count):
        most_entities = max(most_entities, batch.lookups[i].entity_count)
    size = plan.feature_count * sizeof(Column) + plan.view_count * sizeof(size_t)
    size += 3 * <size_t>widest * sizeof(void*) + <size_t>most_entities * sizeof(uint32_t)
    memory = <uint8_t*>malloc(size + batch.span_count + 1)
    if memory == NULL:
        raise MemoryError
    layout.bad_rows = NULL
    layout.bad_count = 0
    layout.names = plan.feature_names
    layout.sent = NULL
    layout.computed.at = layout.computed.end = NULL
    try:
        layout.columns = <Column*>memory
        layout.time_sizes = <size_t*>(layout.columns + plan.feature_count)
        cursors = <uint8_t**>(layout.time_sizes + plan.view_count)
        layout.copies = <uint32_t*>(cursors + 3 * <size_t>widest)
        layout.statuses = <uint8_t*>(layout.copies + most_entities)
        memset(
            memory, 0, plan.feature_count * sizeof(Column) + plan.view_count * sizeof(size_t)
        )
        if large:
            with nogil:
                outcome = judge(batch, reply, &layout, now_seconds, now_nanos, strict)
        else:
            outcome = judge(batch, reply, &layout, now_seconds, now_nanos, strict)
        if outcome == NO_MEMORY:
            raise MemoryError
        if outcome == CORRUPT:
            raise CorruptRow(describe_bad_row(batch, &layout.bad_rows[0]))
        if layout.bad_count > 0:
            row_errors = serialize_row_errors(batch, &layout)
        layout.row_errors.at = <const uint8_t*>PyBytes_AS_STRING(row_errors)
        layout.row_errors.end = layout.row_errors.at + len(row_errors)
        # Nothing is computed from rows that could not be read, which the kernels do not know.
        if computation is not None and layout.bad_count == 0:
            parts = computation.compute(batch, reply, strict)
            if parts is not None and None not in parts:
                results = parts[0] if len(parts) == 1 else b"".join(parts)
        if results is None or keep:
            stored = write_response(batch, reply, &layout, cursors, large)
        if results is not None:
            layout.names = computation.names
            layout.sent = computation.sent
            layout.computed.at = <const uint8_t*>PyBytes_AS_STRING(results)
            layout.computed.end = layout.computed.at + len(results)
            computed = write_response(batch, reply, &layout, cursors, large)
        return computed, stored, parts
    finally:
        free(layout.bad_rows)
        free(memory)


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
        CorruptRow: A stored value or row time is not what Feast writes, and the request does not
            allow a partial response.
        ValueError: The reply is another batch's, or not complete.
    """
    return build(batch, reply, now_seconds, now_nanos, strict, None, False)[1]


def build_computed(
    Batch batch not None, Reply reply not None, int64_t now_seconds, int64_t now_nanos, bint strict,
    Computation computation not None, bint keep,
) -> tuple[bytes | None, bytes | None, list[bytes | None] | None]:
    """Writes the response with features that kernels compute.

    Args:
        batch, reply, now_seconds, now_nanos, strict: As for `build_response`.
        computation: What is computed, and what of the rest is sent.
        keep: Whether to write the response of all that was read in any case.

    Returns:
        The response, or None where a view is to be left to Python; for that case or if it is to be
        kept, the response of all that was read, as `build_response` writes it; and the `results`
        fields of each computed view, None for one that is left to Python, or instead of the list
        where all are.

    Raises:
        CorruptRow, ValueError: As `build_response`.
    """
    return build(batch, reply, now_seconds, now_nanos, strict, computation, keep)
