"""What other forms of a packed row would take of Redis' memory.

The packed layout takes about four fifths of what Feast's takes. Each idea that could make it
smaller is written down here as the bytes that it would store, and Redis says what they take. None
is in use; docs/explanation/performance.md says why.
"""

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from rich.table import Table

from bench.data import FEATURES_PER_VIEW, Layout, RedisClient, Rows, service_views
from bench.stores import LONG_VALUES
from hotfeast.server.local_redis import LocalRedis

_VIEWS = 5
_ENTITIES = 10_000
# A number, and one byte a value, before the values of a packed row; and a byte before its time.
_SCHEMA_BYTES = 5
_TAG = 1

Fields = Mapping[bytes, bytes]


@dataclass(frozen=True)
class Form:
    """What a form takes.

    Attributes:
        name: Of the form.
        bytes_each: Bytes of `used_memory` for an entity of 50 features over 5 views.
        share: Of Feast's layout.
    """

    name: str
    bytes_each: float
    share: float


def measure() -> list[Form]:
    """Stores entities in each form, in hashes that are lists."""
    rows = Rows.make(_ENTITIES)
    taken = {name: _measure(rows, make) for name, make in _FORMS.items()}
    feast = taken["Feast's"]
    return [Form(name, each, each / feast) for name, each in taken.items()]


def table(forms: list[Form]) -> Table:
    """The results as a table."""
    shown = Table(title="Memory of Redis for an entity of 50 features over 5 views, as lists")
    for heading in ("form", "bytes", "of Feast's"):
        shown.add_column(heading, justify="left" if heading == "form" else "right")
    for form in forms:
        shown.add_row(form.name, f"{form.bytes_each:,.0f}", f"{form.share:.2f}")
    return shown


def _measure(rows: Rows, make: Callable[[Fields], Fields]) -> float:
    chosen = set(service_views(_VIEWS))
    with LocalRedis(*LONG_VALUES) as server:
        client: RedisClient = server.client()
        before = client.info("memory")["used_memory"]
        pipeline = client.pipeline(transaction=False)
        for index, entity in enumerate(rows.entities):
            stored: dict[bytes, bytes] = {}
            for view, fields in enumerate(rows.hashes(index, Layout.DUAL)):
                if view in chosen:
                    stored |= make(fields)
            pipeline.hset(rows.key(entity), mapping=stored)
            if index % 1000 == 999:
                pipeline.execute()
        pipeline.execute()
        taken: int = client.info("memory")["used_memory"] - before
        return taken / len(rows.entities)


def _parts(fields: Fields) -> tuple[bytes, bytes, bytes, bytes, list[bytes]]:
    """A row stored in both layouts: names and contents of its time and of its packed row, and its
    values one by one."""
    (time_name, time), *values, (row_name, row) = fields.items()
    assert len(values) == FEATURES_PER_VIEW
    return time_name, time, row_name, row, [value for _, value in values]


def _feast(fields: Fields) -> Fields:
    return dict(list(fields.items())[:-1])


def _packed(fields: Fields) -> Fields:
    time_name, time, row_name, row, _ = _parts(fields)
    return {time_name: time, row_name: row}


def _untyped(fields: Fields) -> Fields:
    """Values without their types and lengths, which the schema has: eight bytes a double."""
    time_name, time, row_name, row, values = _parts(fields)
    return {time_name: time, row_name: _head(row) + b"".join(v[_TAG:] for v in values)}


def _single(fields: Fields) -> Fields:
    """The same with doubles rounded to four bytes, which loses digits."""
    time_name, time, row_name, row, values = _parts(fields)
    return {time_name: time, row_name: _head(row) + b"".join(_rounded(values))}


def _rounded(values: list[bytes]) -> Iterator[bytes]:
    for value in values:
        short = value[_TAG:]
        yield struct.pack("<f", *struct.unpack("<d", short)) if len(short) == 8 else short


def _compressed(fields: Fields) -> Fields:
    time_name, time, row_name, row, _ = _parts(fields)
    return {time_name: time, row_name: zlib.compress(row, 9, -15)}


def _time_inside(fields: Fields) -> Fields:
    """Without `_ts:`, the field by which Feast finds and deletes a view's rows."""
    _, _, row_name, row, _ = _parts(fields)
    return {row_name: row}


def _time_inside_untyped(fields: Fields) -> Fields:
    _, _, row_name, row, values = _parts(fields)
    return {row_name: _head(row) + b"".join(v[_TAG:] for v in values)}


def _head(row: bytes) -> bytes:
    """The start of a packed row up to its values: form, schema, time."""
    return row[: _SCHEMA_BYTES + 1 + row[_SCHEMA_BYTES]]


_FORMS: dict[str, Callable[[Fields], Fields]] = {
    "Feast's": _feast,
    "packed": _packed,
    "packed, values without type and length": _untyped,
    "packed, the same, doubles cut to 4 bytes": _single,
    "packed, compressed (deflate)": _compressed,
    "packed, without _ts:": _time_inside,
    "packed, without _ts:, type and length": _time_inside_untyped,
}
