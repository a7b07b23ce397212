"""Spans to response bytes: stored values are copied into the response, none is decoded.

The response is measured first and then written once, into the bytes object that goes to gRPC. What
becomes of each cell has been judged before (`judge.pyx`).

Join keys come first, as they were sent; the dummy key of entityless views is not sent back.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcpy, memset

from hotfeast.hotpath.batch cimport BadRow, Batch, Column, Judging, Lookup
from hotfeast.hotpath.judge cimport (
    CORRUPT,
    CORRUPT_PACKED,
    CORRUPT_TIME,
    NO_MEMORY,
    PRESENT,
    UNKNOWN_SCHEMA,
    UNREAD,
    judge_rest,
    start_judging,
)
from hotfeast.hotpath.kernel cimport Computation
from hotfeast.hotpath.plan cimport Recipe, View
from hotfeast.hotpath.reply cimport Reply, Span
from hotfeast.hotpath.request cimport Column as EntityColumn
from hotfeast.hotpath.wire cimport (
    field_size,
    left,
    put_cursor,
    put_varint,
    varint_size,
)

from hotfeast.hotpath.errors import AnswerTooLarge, CorruptRow, RowsUnread
from hotfeast.serving.v1 import serving_pb2

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
    UNAVAILABLE = 14          # google.rpc.Code
    DATA_LOSS = 15
    # Rows that a message names.
    MOST_NAMED = 20
    # Cells of a reply above which the GIL is let go: a third of a millisecond of work. For less,
    # letting it go and waiting for it again costs a lone request more than others gain.
    RELEASE_ABOVE = 10000

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


cdef uint8_t* write_view(
    uint8_t* at, Batch batch, Reply reply, uint32_t v, size_t first_feature, uint8_t** cursors
) noexcept nogil:
    """Writes the columns of a view, row by row into all columns at once, so that the reply is read
    in the order in which it lies in memory. Returns the byte behind the last column."""
    cdef View* view = &batch.plan.views[v]
    cdef Recipe* recipe = &batch.plan.recipes[view.recipe]
    cdef Lookup* lookup = &batch.lookups[view.recipe]
    cdef Column* columns = batch.judging.columns + first_feature
    cdef uint32_t rows = batch.rows, row, f
    cdef size_t base, times = batch.judging.time_sizes[v]
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
        at = put_varint(at + 1, columns[f].size + status_head + rows + times)
        cursors[f] = at
        at += columns[f].size
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
        if not columns[f].uneven:
            memset(status_at[f], PRESENT, rows)
            continue
        base = lookup.first_span + view.first_field + f
        for row in range(rows):
            status_at[f][row] = batch.judging.statuses[
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
        vector = batch.judging.columns[first_feature + f].size + batch.judging.time_sizes[v]
        at = put_varint(at + 1, vector + field_size(rows))
        statuses = at + batch.judging.columns[first_feature + f].size
        statuses[0] = TAG_STATUSES
        statuses = put_varint(statuses + 1, rows)
        for row in range(rows):
            base = lookup.first_span + <size_t>lookup.entity_of_row[row] * recipe.field_count
            base += view.first_field + f
            statuses[row] = batch.judging.statuses[base]
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


cdef str describe_bad_row(Batch batch, const BadRow* bad):
    view = batch.plan.definition.views[bad.view]
    row = batch.lookups[view.recipe].row_of_entity[bad.entity]
    if bad.feature == UNREAD:
        return (
            f"view {view.name!r}, {batch.describe_entity(view.recipe, row)}: could not be read: "
            f"{batch.unread[view.recipe, bad.entity]}"
        )
    if bad.feature == CORRUPT_PACKED and view.tiles is not None:
        what = "tiles cannot be read"
    elif bad.feature == CORRUPT_PACKED:
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


cdef str describe_unread(Batch batch):
    """Which rows could not be read, and why."""
    cdef uint32_t row, r
    reasons = dict.fromkeys(batch.unread.values())
    rows = []
    for row in range(batch.rows):
        for r in range(batch.plan.recipe_count):
            if (r, batch.lookups[r].entity_of_row[row]) in batch.unread:
                rows.append(row)
                break
    named = ", ".join(map(str, rows[:MOST_NAMED]))
    if len(rows) > MOST_NAMED:
        named += f" and {len(rows) - MOST_NAMED} more"
    return (
        f"{len(rows)} of {batch.rows} rows could not be read: {'; '.join(reasons)}. These are, "
        f"counted from 0: {named}"
    )


cdef bytes serialize_row_errors(Batch batch):
    """The bad rows as fields of the response's metadata."""
    cdef Judging* judging = batch.judging
    cdef uint32_t i
    metadata = serving_pb2.GetOnlineFeaturesResponseMetadata()
    rows_of = {}
    for i in range(judging.bad_count):
        recipe = batch.plan.views[judging.bad_rows[i].view].recipe
        if recipe not in rows_of:
            rows_of[recipe] = rows_by_entity(batch, recipe)
        metadata.row_errors.add(
            feature_view=batch.plan.definition.views[judging.bad_rows[i].view].name,
            rows=rows_of[recipe][judging.bad_rows[i].entity],
            code=UNAVAILABLE if judging.bad_rows[i].feature == UNREAD else DATA_LOSS,
            message=describe_bad_row(batch, &judging.bad_rows[i]),
        )
    return metadata.SerializeToString()


cdef list rows_by_entity(Batch batch, uint32_t recipe):
    """For each entity of a recipe the rows that ask for it."""
    cdef uint32_t row
    rows = [[] for _ in range(batch.lookups[recipe].entity_count)]
    for row in range(batch.rows):
        rows[batch.lookups[recipe].entity_of_row[row]].append(row)
    return rows


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
    layout.metadata_size += left(&layout.row_errors) + left(&layout.said)
    layout.size += field_size(layout.metadata_size)
    for v in range(batch.plan.view_count):
        for _ in range(batch.plan.views[v].feature_count):
            vector = 0
            if batch.rows:
                vector = batch.judging.columns[feature].size + batch.judging.time_sizes[v]
                vector += field_size(batch.rows)
            if layout.sent == NULL or layout.sent[feature]:
                layout.size += field_size(vector)
            feature += 1


cdef uint8_t* write_front(uint8_t* at, Batch batch, const Layout* layout) noexcept nogil:
    """Writes what stands before the stored columns; returns the byte behind it."""
    cdef uint32_t i
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
    at = put_cursor(at, &layout.said)
    for i in range(batch.request.entity_count):
        slot = batch.plan.find_slot(&batch.request.columns[i].name)
        if batch.plan.slots[slot].required:
            at = write_join_key(at, &batch.request.columns[i])
    return at


cdef class Response:
    """A response of rows that have been judged, which is written piece by piece.

    The reply to its batch must not be used for anything else until all is written.

    Attributes:
        data: All of it; of its bytes those up to `ready` are written.
    """

    def __cinit__(self, Batch batch not None, Reply reply not None, bytes row_errors not None):
        cdef uint32_t v, widest = 0
        self.batch = batch
        self.reply = reply
        self.row_errors = row_errors
        self.layout.names = batch.plan.feature_names
        self.layout.row_errors.at = <const uint8_t*>PyBytes_AS_STRING(row_errors)
        self.layout.row_errors.end = self.layout.row_errors.at + len(row_errors)
        if batch.said is not None:
            self.layout.said.at = <const uint8_t*>PyBytes_AS_STRING(batch.said)
            self.layout.said.end = self.layout.said.at + len(batch.said)
        for v in range(batch.plan.view_count):
            widest = max(widest, batch.plan.views[v].feature_count)
        self.cursors = <uint8_t**>malloc((3 * <size_t>widest + 1) * sizeof(void*))
        if self.cursors == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.cursors)

    cdef int check_size(self) except -1:
        """Measures, and raises AnswerTooLarge where it is more than the batch may have."""
        measure(self.batch, &self.layout)
        if self.batch.most_bytes and self.layout.size > self.batch.most_bytes:
            raise AnswerTooLarge(
                f"the answer would have {self.layout.size} bytes, and at most "
                f"{self.batch.most_bytes} are sent"
            )
        return 0

    cdef int begin(self) except -1:
        """Measures, and writes what stands before the stored columns."""
        self.check_size()
        self.data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>self.layout.size)
        self.at = write_front(
            <uint8_t*>PyBytes_AS_STRING(self.data), self.batch, &self.layout
        )
        return 0

    cdef int write_more(self, size_t least) noexcept nogil:
        """Writes views until there are `least` more bytes, or all. Returns whether that is all."""
        cdef const uint8_t* start = self.at
        cdef const uint8_t* sent
        cdef uint32_t v
        while self.view < self.batch.plan.view_count:
            if <size_t>(self.at - start) >= least:
                return False
            v = self.view
            sent = self.layout.sent
            if sent == NULL or all_sent(sent + self.feature, &self.batch.plan.views[v]):
                self.at = write_view(
                    self.at, self.batch, self.reply, v, self.feature, self.cursors
                )
            else:
                self.at = write_part(
                    self.at, self.batch, self.reply, v, self.feature, &self.layout
                )
            self.feature += self.batch.plan.views[v].feature_count
            self.view += 1
        self.at = put_cursor(self.at, &self.layout.computed)
        return True

    cdef bytes write_all(self):
        """Writes all of it."""
        self.begin()
        if self.batch.span_count > RELEASE_ABOVE:
            with nogil:
                self.write_more(<size_t>-1)
        else:
            self.write_more(<size_t>-1)
        assert self.ready() == <size_t>PyBytes_GET_SIZE(self.data)
        return self.data

    cdef size_t ready(self) noexcept:
        """Bytes that are written."""
        return <size_t>(self.at - <uint8_t*>PyBytes_AS_STRING(self.data))


cdef bytes judge(
    Batch batch, Reply reply, int64_t now_seconds, int64_t now_nanos, bint strict
):
    """Judges what has not been judged on arrival.

    Returns:
        The bad rows as fields of the response's metadata.
    """
    cdef int outcome
    if reply.batch is not batch or reply.recipe != batch.plan.recipe_count or not reply.settled:
        raise ValueError("these are not the complete replies to this batch")
    if batch.judging == NULL or not batch.judging.early:
        if start_judging(batch, now_seconds, now_nanos, strict) == NO_MEMORY:
            raise MemoryError
    elif not strict or (
        batch.judging.now_seconds != now_seconds or batch.judging.now_nanos != now_nanos
    ):
        raise ValueError("the rows of this batch are judged on arrival, in another way")
    if batch.span_count > RELEASE_ABOVE:
        with nogil:
            outcome = judge_rest(batch, reply)
    else:
        outcome = judge_rest(batch, reply)
    if outcome == NO_MEMORY:
        raise MemoryError
    if outcome == CORRUPT:
        if batch.judging.bad_rows[0].feature == UNREAD:
            raise RowsUnread(describe_unread(batch))
        raise CorruptRow(describe_bad_row(batch, &batch.judging.bad_rows[0]))
    return serialize_row_errors(batch) if batch.judging.bad_count > 0 else b""


cdef tuple build(
    Batch batch, Reply reply, int64_t now_seconds, int64_t now_nanos, bint strict,
    Computation computation, bint keep,
):
    """Judges the rows and writes the response, as the two functions below say.

    Returns:
        The response with computed features, or None; the one with all that was read, or None where
        it is not needed; and what the kernels computed, view by view, or None.
    """
    cdef bytes row_errors
    cdef list parts = None
    cdef bytes results = None
    cdef bytes stored = None
    cdef Response response
    if computation is not None and computation.plan is not batch.plan:
        raise ValueError("the computation is another plan's")
    row_errors = judge(batch, reply, now_seconds, now_nanos, strict)
    # Nothing is computed from rows that could not be read, which the kernels do not know.
    if computation is not None and batch.judging.bad_count == 0:
        parts = computation.compute(batch, reply, strict)
        if parts is not None and None not in parts:
            results = parts[0] if len(parts) == 1 else b"".join(parts)
    if results is None or keep:
        stored = Response(batch, reply, row_errors).write_all()
    if results is None:
        return None, stored, parts
    response = Response(batch, reply, row_errors)
    response.layout.names = computation.names
    response.layout.sent = computation.sent
    response.layout.computed.at = <const uint8_t*>PyBytes_AS_STRING(results)
    response.layout.computed.end = response.layout.computed.at + len(results)
    return response.write_all(), stored, parts


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
        AnswerTooLarge: The answer would be larger than the batch's `most_bytes`.
        RowsUnread: A node of a cluster did not answer; likewise.
        ValueError: The reply is another batch's, or not complete.
    """
    return Response(
        batch, reply, judge(batch, reply, now_seconds, now_nanos, strict)
    ).write_all()


def begin_response(
    Batch batch not None, Reply reply not None, int64_t now_seconds, int64_t now_nanos, bint strict
) -> Response:
    """A response that is yet to be written, for `hotfeast.hotpath.reactor` to send piece by piece.

    Args, Raises: As for `build_response`.
    """
    cdef Response response = Response(
        batch, reply, judge(batch, reply, now_seconds, now_nanos, strict)
    )
    response.check_size()
    return response


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
        CorruptRow, AnswerTooLarge, RowsUnread, ValueError: As `build_response`.
    """
    return build(batch, reply, now_seconds, now_nanos, strict, computation, keep)
