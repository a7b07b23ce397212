"""Answers and definitions on a terminal, as JSON and as CSV."""

import base64
import csv
import io
import json
import math
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from hotfeast.clients import OnlineFeatures
from hotfeast.serving.v1 import value_pb2

SHOWN_ROWS = 10
"""Rows of an answer that a table has; JSON and CSV have all."""


def table(*headings: str) -> Table:
    """A plain table."""
    made = Table(box=None)
    for heading in headings:
        made.add_column(heading, overflow="fold")
    return made


def add(made: Table, *cells: object) -> None:
    """Adds a row; what looks like markup is none."""
    made.add_row(*(Text(str(cell)) for cell in cells))


def answer_table(answer: OnlineFeatures) -> Table:
    """A line for each column of the answer. A single row's have status and event time, too."""
    values, statuses = answer.to_dict(), answer.statuses
    if len(answer) == 1:
        made = table("", "value", "status", "event time")
        for name, times in answer.event_timestamps.items():
            add(made, name, _cell(values[name][0]), statuses[name][0], _moment(times[0]))
        return made
    shown = range(min(len(answer), SHOWN_ROWS))
    made = table("", *(f"row {row}" for row in shown))
    for name, column in values.items():
        cells = zip(column, statuses[name], strict=True)
        texts = [f"({status})" if v is None else _cell(v) for v, status in cells]
        add(made, name, *texts[:SHOWN_ROWS])
    return made


def answer_json(answer: OnlineFeatures) -> str:
    """A list with an object for each row: values, statuses and event timestamps by column."""
    rows = [
        {
            "values": _plain(row.values),
            "statuses": row.statuses,
            "event_timestamps": _plain(row.event_timestamps),
        }
        for row in answer.rows()
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False)


def answer_csv(answer: OnlineFeatures) -> str:
    """The values with a line for each row; nothing for null, JSON for lists and maps."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    values = answer.to_dict()
    writer.writerow(values)
    for row in zip(*values.values(), strict=True):
        writer.writerow("" if value is None else _cell(value) for value in row)
    return out.getvalue().removesuffix("\n")


def message_json(messages: list[Any]) -> str:
    """Protobuf messages as a list of objects, with the names of the .proto files."""
    from google.protobuf.json_format import MessageToDict

    made = [MessageToDict(m, preserving_proto_field_name=True) for m in messages]
    return json.dumps(made, indent=2, ensure_ascii=False)


def type_name(field: Any) -> str:
    """The type of a `Feature` message."""
    return str(value_pb2.ValueType.Enum.Name(field.value_type))


def _moment(time: datetime | None) -> str:
    return "" if time is None else time.isoformat()


def _cell(value: Any) -> str:
    plain = _plain(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """A value as JSON has it: times in ISO 8601, bytes in base64, sets as sorted lists, and texts
    for NaN, infinities, UUIDs and decimals."""
    if isinstance(value, dict):
        return {k if isinstance(k, str) else _cell(k): _plain(v) for k, v in value.items()}
    if isinstance(value, set):
        return sorted(map(_plain, value), key=repr)
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
