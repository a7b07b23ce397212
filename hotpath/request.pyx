"""Request bytes to spans: what was asked for, and where in the bytes its columns are.

Protobuf allows encodings that no encoder produces: a map key twice, a oneof set twice, a message
in pieces, unknown fields within a column. Such a request is valid, and is marked `canonical =
False`; the caller has protobuf's own library rewrite it (`GetOnlineFeaturesRequest`, parsed,
without unknown fields, serialized) and parses again. So this parser stays small, and yet accepts
what protobuf accepts.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp

from hotfeast.hotpath.errors import InvalidRequest
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

cdef enum Outcome:
    PARSED = 0
    MALFORMED = -1
    NOT_UTF8 = -2
    TOO_MANY_COLUMNS = -3
    NO_MEMORY = -4
    NOTHING_ASKED = -5


cdef class Request:
    """One parsed `GetOnlineFeaturesRequest`.

    Attributes:
        by_service: A feature service was named; otherwise a feature list was.
        full_feature_names: As in the request.
        version_metadata: `include_feature_view_version_metadata` of the request.
        stale_values: `include_stale_values` of the request.
        partial: `allow_partial_response` of the request.
        canonical: Whether the spans can be used; see the module.
    """

    def __cinit__(self, bytes data not None):
        """
        Args:
            data: The serialized request.

        Raises:
            InvalidRequest: The bytes are no such message, or nothing is asked for.
        """
        cdef int allocated = 0
        cdef int outcome
        self.data = data
        self.columns = NULL
        self.canonical = True
        outcome = self.parse(&allocated)
        if outcome == PARSED:
            return
        if outcome == NOT_UTF8:
            raise InvalidRequest("the request has a string that is not UTF-8")
        if outcome == TOO_MANY_COLUMNS:
            raise InvalidRequest(
                f"the request has more than {MAX_COLUMNS} entity and request-context columns"
            )
        if outcome == NOTHING_ASKED:
            raise InvalidRequest("set feature_service or features: the request asks for nothing")
        if outcome == NO_MEMORY:
            raise MemoryError
        raise InvalidRequest(
            "the request is not a serialized hotfeast.serving.v1.GetOnlineFeaturesRequest"
        )

    def __dealloc__(self):
        free(self.columns)

    cdef int parse(self, int* allocated) noexcept:
        cdef Cursor c, span, entry
        cdef uint32_t field = 0, wire = 0
        cdef uint64_t number = 0
        cdef bint selected = False
        c.at = <const uint8_t*>PyBytes_AS_STRING(self.data)
        c.end = c.at + PyBytes_GET_SIZE(self.data)
        self.selection.at = self.selection.end = c.at
        while c.at < c.end:
            if read_tag(&c, &field, &wire) != 0:
                return MALFORMED
            if wire == WIRE_LEN and (field == 1 or field == 2):
                if read_span(&c, &span) != 0:
                    return MALFORMED
                if selected:
                    self.canonical = False
                selected = True
                self.selection = span
                self.by_service = field == 1
                if field == 1:
                    if not is_utf8(span.at, span.end):
                        return NOT_UTF8
                    continue
                while span.at < span.end:
                    if read_tag(&span, &field, &wire) != 0:
                        return MALFORMED
                    if field == 1 and wire == WIRE_LEN:
                        if read_span(&span, &entry) != 0:
                            return MALFORMED
                        if not is_utf8(entry.at, entry.end):
                            return NOT_UTF8
                    else:
                        self.canonical = False
                        if skip_field(&span, field, wire, 1) != 0:
                            return MALFORMED
            elif wire == WIRE_LEN and (field == 3 or field == 5):
                if read_span(&c, &entry) != 0:
                    return MALFORMED
                outcome = self.add_column(entry, field == 5, allocated)
                if outcome != PARSED:
                    return outcome
            elif wire == WIRE_VARINT and field in (4, 6, 101, 102):
                if read_varint(&c, &number) != 0:
                    return MALFORMED
                if field == 4:
                    self.full_feature_names = number != 0
                elif field == 6:
                    self.version_metadata = number != 0
                elif field == 101:
                    self.stale_values = number != 0
                else:
                    self.partial = number != 0
            elif skip_field(&c, field, wire, 0) != 0:
                return MALFORMED
        return PARSED if selected else NOTHING_ASKED

    cdef int add_column(self, Cursor entry, bint context, int* allocated) noexcept:
        cdef Column column
        cdef Column* other
        cdef Column* grown
        cdef Cursor span, values
        cdef uint32_t field = 0, wire = 0, i, count
        cdef bint named = False, filled = False
        column.name.at = column.name.end = entry.at
        column.values.at = column.values.end = entry.at
        column.rows = 0
        while entry.at < entry.end:
            if read_tag(&entry, &field, &wire) != 0:
                return MALFORMED
            if wire != WIRE_LEN or (field != 1 and field != 2):
                if skip_field(&entry, field, wire, 1) != 0:
                    return MALFORMED
                continue
            if read_span(&entry, &span) != 0:
                return MALFORMED
            if field == 1:
                if not is_utf8(span.at, span.end):
                    return NOT_UTF8
                if named:
                    self.canonical = False
                named = True
                column.name = span
                continue
            if filled:
                self.canonical = False
            filled = True
            column.values = span
            column.rows = 0
            values = span
            while values.at < values.end:
                if read_tag(&values, &field, &wire) != 0:
                    return MALFORMED
                if field == 1 and wire == WIRE_LEN:
                    if read_span(&values, &span) != 0:
                        return MALFORMED
                    column.rows += 1
                else:
                    self.canonical = False
                    if skip_field(&values, field, wire, 2) != 0:
                        return MALFORMED
        count = self.entity_count + self.context_count
        for i in range(count):
            other = &self.columns[i]
            if (i >= self.entity_count) == context and left(&other.name) == left(&column.name):
                if memcmp(other.name.at, column.name.at, left(&column.name)) == 0:
                    self.canonical = False
        if count == MAX_COLUMNS:
            return TOO_MANY_COLUMNS
        if <int>count == allocated[0]:
            allocated[0] = 4 if count == 0 else <int>count * 2
            grown = <Column*>realloc(self.columns, allocated[0] * sizeof(Column))
            if grown == NULL:
                return NO_MEMORY
            self.columns = grown
        if context:
            self.columns[count] = column
            self.context_count += 1
        else:
            # Entities stay in front of the request context, in the order in which they came.
            for i in range(count, self.entity_count, -1):
                self.columns[i] = self.columns[i - 1]
            self.columns[self.entity_count] = column
            self.entity_count += 1
        return PARSED

    def take_as_context(self, names):
        """Makes request context of those entity columns whose names are among `names`.

        Feast's SDK takes both kinds of columns in one set of rows, and clients that were written
        for it send request data among the entities.

        Raises:
            InvalidRequest: The request context has a column of that name already.
        """
        cdef uint32_t i = 0, j
        cdef Column column
        while i < self.entity_count:
            name = self.columns[i].name.at[: left(&self.columns[i].name)].decode("utf-8")
            if name not in names:
                i += 1
                continue
            if name in self.context_columns:
                raise InvalidRequest(
                    f"request data {name!r} is given twice: in entities and in request_context"
                )
            column = self.columns[i]
            for j in range(i + 1, self.entity_count):
                self.columns[j - 1] = self.columns[j]
            self.entity_count -= 1
            self.columns[self.entity_count] = column
            self.context_count += 1

    @property
    def selection_bytes(self) -> bytes:
        """The feature service's name in UTF-8, or the serialized `FeatureList`: a cache key."""
        return PyBytes_FromStringAndSize(
            <const char*>self.selection.at, <Py_ssize_t>left(&self.selection)
        )

    @property
    def features(self) -> list[str]:
        """The feature references of the list; empty where a feature service was named."""
        cdef Cursor c = self.selection
        cdef Cursor span
        cdef uint32_t field = 0, wire = 0
        names = []
        while not self.by_service and c.at < c.end:
            if read_tag(&c, &field, &wire) != 0 or read_span(&c, &span) != 0:
                break
            names.append(span.at[: left(&span)].decode("utf-8"))
        return names

    @property
    def rows(self) -> int:
        """Elements of the first column, of which all columns should have as many; 0 without one."""
        return self.columns[0].rows if self.entity_count + self.context_count else 0

    @property
    def has_context(self) -> bool:
        """Whether there is a request context."""
        return self.context_count > 0

    @property
    def context_columns(self) -> dict[str, bytes]:
        """The request context: for each name its column as a serialized `RepeatedValue`."""
        return {
            self.columns[i].name.at[: left(&self.columns[i].name)].decode("utf-8"):
            self.columns[i].values.at[: left(&self.columns[i].values)]
            for i in range(self.entity_count, self.entity_count + self.context_count)
        }

    @property
    def entity_columns(self) -> dict[str, bytes]:
        """The entity columns: for each name its column as a serialized `RepeatedValue`."""
        return {
            self.columns[i].name.at[: left(&self.columns[i].name)].decode("utf-8"):
            self.columns[i].values.at[: left(&self.columns[i].values)]
            for i in range(self.entity_count)
        }

    @property
    def column_names(self) -> list[str]:
        """Names of the entity columns, in the order of the bytes."""
        return [
            self.columns[i].name.at[: left(&self.columns[i].name)].decode("utf-8")
            for i in range(self.entity_count)
        ]
