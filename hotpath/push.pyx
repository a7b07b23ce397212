"""Push bytes to columns: what is pushed where, and where in the bytes its columns are.

As in `request`, a request in an encoding that no encoder produces (a map key twice, a message in
pieces) is marked `canonical = False`; the caller has protobuf's own library rewrite it and parses
again. Unknown fields are passed over, and what is inside a `Value` is left to `columns`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from hotfeast.hotpath.columns cimport MALFORMED, TimeColumn
from hotfeast.hotpath.values cimport RowTime, parse_row_time
from hotfeast.hotpath.wire cimport (
    WIRE_LEN,
    WIRE_VARINT,
    Cursor,
    is_utf8,
    left,
    read_span,
    read_tag,
    read_varint,
    skip_field,
)

from hotfeast.hotpath.errors import InvalidRequest

cdef enum:
    # Columns of one batch; views with thousands of features are rare, and memory is not free.
    MAX_COLUMNS = 16384

_MALFORMED = "the request is not a serialized hotfeast.serving.v1.PushRequest"


cdef inline bytes slice_of(Cursor c):
    return PyBytes_FromStringAndSize(<const char*>c.at, <Py_ssize_t>left(&c))


cdef inline str text_of(Cursor c):
    if not is_utf8(c.at, c.end):
        raise InvalidRequest("the request has a string that is not UTF-8")
    return c.at[: left(&c)].decode("utf-8")


cdef class PushBatch:
    """One parsed `PushRequest`.

    Attributes:
        batch_id: The caller's name for the batch.
        by_push_source: A push source was named; otherwise a view was, or nothing.
        destination: Name of the push source or the view; None where neither is set.
        target: Number in `PushTarget`, as it came.
        columns: For each name its column as a serialized `RepeatedValue`; None where no columns are
            set.
        event_timestamps: The explicit event times; None where there are none.
        created_timestamps: The explicit created times; None where there are none.
        arrow_ipc: An Arrow IPC stream; None where none is set.
        canonical: Whether all this can be used; see the module.
    """

    cdef readonly str batch_id
    cdef readonly bint by_push_source
    cdef readonly str destination
    cdef readonly int32_t target
    cdef readonly dict columns
    cdef readonly TimeColumn event_timestamps
    cdef readonly TimeColumn created_timestamps
    cdef readonly bytes arrow_ipc
    cdef readonly bint canonical

    def __cinit__(self, bytes data not None):
        """
        Args:
            data: The serialized request.

        Raises:
            InvalidRequest: The bytes are no such message.
        """
        cdef Cursor c, span
        cdef uint32_t field = 0, wire = 0
        cdef uint64_t number = 0
        self.batch_id = ""
        self.canonical = True
        c.at = <const uint8_t*>PyBytes_AS_STRING(data)
        c.end = c.at + PyBytes_GET_SIZE(data)
        while c.at < c.end:
            if read_tag(&c, &field, &wire) != 0:
                raise InvalidRequest(_MALFORMED)
            if wire == WIRE_LEN and field in (1, 2, 3, 5, 6):
                if read_span(&c, &span) != 0:
                    raise InvalidRequest(_MALFORMED)
                if field == 1:
                    self.batch_id = text_of(span)
                elif field == 2 or field == 3:
                    # Of a oneof the last one counts.
                    self.destination = text_of(span)
                    self.by_push_source = field == 2
                elif field == 6:
                    self.arrow_ipc = slice_of(span)
                    self.columns = None
                    self.event_timestamps = self.created_timestamps = None
                else:
                    if self.columns is not None:
                        # Messages are merged; protobuf's library knows how.
                        self.canonical = False
                    self.arrow_ipc = None
                    self.columns = {}
                    self.event_timestamps = self.created_timestamps = None
                    self.read_columns(span)
            elif wire == WIRE_VARINT and field == 4:
                if read_varint(&c, &number) != 0:
                    raise InvalidRequest(_MALFORMED)
                self.target = <int32_t>number
            elif skip_field(&c, field, wire, 0) != 0:
                raise InvalidRequest(_MALFORMED)

    cdef int read_columns(self, Cursor batch) except -1:
        cdef Cursor c = batch, span
        cdef uint32_t field = 0, wire = 0, events = 0, created = 0
        while c.at < c.end:
            if read_tag(&c, &field, &wire) != 0:
                raise InvalidRequest(_MALFORMED)
            if wire != WIRE_LEN or field not in (1, 2, 3):
                if skip_field(&c, field, wire, 1) != 0:
                    raise InvalidRequest(_MALFORMED)
                continue
            if read_span(&c, &span) != 0:
                raise InvalidRequest(_MALFORMED)
            if field == 1:
                self.read_column(span)
            elif field == 2:
                events += 1
            else:
                created += 1
        if events:
            self.event_timestamps = read_times(batch, 2, events)
        if created:
            self.created_timestamps = read_times(batch, 3, created)
        return 0

    cdef int read_column(self, Cursor entry) except -1:
        cdef Cursor span, values, name
        cdef uint32_t field = 0, wire = 0
        cdef bint named = False, filled = False
        name.at = name.end = values.at = values.end = entry.at
        while entry.at < entry.end:
            if read_tag(&entry, &field, &wire) != 0:
                raise InvalidRequest(_MALFORMED)
            if wire != WIRE_LEN or (field != 1 and field != 2):
                if skip_field(&entry, field, wire, 2) != 0:
                    raise InvalidRequest(_MALFORMED)
                continue
            if read_span(&entry, &span) != 0:
                raise InvalidRequest(_MALFORMED)
            if field == 1:
                name = span
                if not is_utf8(name.at, name.end):
                    raise InvalidRequest("the request has a string that is not UTF-8")
                named = True
                continue
            if filled:
                self.canonical = False
            filled = True
            values = span
            while span.at < span.end:
                if read_tag(&span, &field, &wire) != 0 or skip_field(&span, field, wire, 3) != 0:
                    raise InvalidRequest(_MALFORMED)
        key = text_of(name) if named else ""
        if key in self.columns:
            self.canonical = False
        elif len(self.columns) == MAX_COLUMNS:
            raise InvalidRequest(f"the request has more than {MAX_COLUMNS} columns")
        self.columns[key] = slice_of(values)
        return 0


cdef TimeColumn read_times(Cursor batch, uint32_t wanted, uint32_t rows):
    """The Timestamps in a `ColumnBatch` that are in a field, whose encoding has been looked at."""
    cdef TimeColumn column = TimeColumn()
    cdef Cursor c = batch, span = batch
    cdef RowTime time
    cdef uint32_t field = 0, wire = 0, row = 0
    column.begin(rows)
    while c.at < c.end and row < rows:
        if read_tag(&c, &field, &wire) != 0:
            raise InvalidRequest(_MALFORMED)
        if field != wanted or wire != WIRE_LEN:
            skip_field(&c, field, wire, 1)
            continue
        read_span(&c, &span)
        if not is_message(span):
            raise InvalidRequest(_MALFORMED)
        if parse_row_time(span.at, left(&span), &time) != 0:
            column.nanos[row] = -1
            column.faults[row] = MALFORMED
        else:
            column.seconds[row] = time.seconds
            column.nanos[row] = <int32_t>time.nanos
        row += 1
    return column


cdef bint is_message(Cursor c) noexcept:
    """Whether bytes are a message of any kind, in the place of a row's time."""
    cdef uint32_t field = 0, wire = 0
    while c.at < c.end:
        if read_tag(&c, &field, &wire) != 0 or skip_field(&c, field, wire, 2) != 0:
            return False
    return True
