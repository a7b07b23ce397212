"""Declared types beside the columns of the batch source."""

from collections.abc import Iterator

from hotfeast.server.lint.findings import Fault, Kind
from hotfeast.server.lint.subject import Column, Subject
from hotfeast.server.monitoring.report.catalogue import Feature, View
from hotfeast.server.windows.definition import AGGREGATE_TAG

_LIST = "_LIST"
_SCALARS = ("BYTES", "STRING", "INT32", "INT64", "DOUBLE", "FLOAT", "BOOL", "UNIX_TIMESTAMP")
_COMPARED = frozenset({*_SCALARS, *(f"{name}{_LIST}" for name in _SCALARS)})
# By the types of the column and of the field. Whole numbers up to 2**53 are exact in a DOUBLE.
_WIDER = frozenset(
    {("INT32", "INT64"), ("FLOAT", "DOUBLE"), ("INT32", "DOUBLE"), ("INT64", "DOUBLE")}
)
_NARROWER = {
    ("INT64", "INT32"): "rows with values beyond 32 bits are rejected",
    ("DOUBLE", "FLOAT"): "values are rounded to 24 bits",
    ("DOUBLE", "INT32"): "rows with fractions are rejected",
    ("DOUBLE", "INT64"): "rows with fractions are rejected",
    ("FLOAT", "INT32"): "rows with fractions are rejected",
    ("FLOAT", "INT64"): "rows with fractions are rejected",
    ("INT32", "FLOAT"): "whole numbers above 2^24 are rounded",
    ("INT64", "FLOAT"): "whole numbers above 2^24 are rounded",
}


def narrowed(subject: Subject) -> Iterator[Fault]:
    """Fields that cannot hold what their column has."""
    for view, field, column in _columns(subject):
        pair = _pair(column, field)
        if pair in _NARROWER:
            yield _fault(view, field, column, _NARROWER[pair])


def widened(subject: Subject) -> Iterator[Fault]:
    """Fields that are wider than their column."""
    for view, field, column in _columns(subject):
        pair = _pair(column, field)
        if pair in _WIDER:
            why = "values are exact, and models are given another type than the source has"
            yield _fault(view, field, column, why)


def different(subject: Subject) -> Iterator[Fault]:
    """Fields of a kind that their column is not of."""
    for view, field, column in _columns(subject):
        pair = _pair(column, field)
        if pair[0] != pair[1] and pair not in _WIDER and pair not in _NARROWER:
            yield _fault(view, field, column, "values are not of this kind")


def absent(subject: Subject) -> Iterator[Fault]:
    """Fields that the source has no column for."""
    for view in subject.stored_views():
        if subject.data is None or view.name not in subject.data:
            continue
        source = subject.data[view.name]
        for field in (*view.join_keys, *view.features):
            # A window's column is that of its events, and has another name.
            if field.name not in source.columns and AGGREGATE_TAG not in field.tags:
                yield Fault(
                    Kind.view,
                    view.name,
                    field.name,
                    f"is not among the columns of {source.name}",
                    "name a column of the source, or map one to it by field_mapping",
                )


def _columns(subject: Subject) -> Iterator[tuple[View, Feature, Column]]:
    """Fields whose types can be compared with those of their columns."""
    for view in subject.stored_views():
        if subject.data is None or view.name not in subject.data:
            continue
        columns = subject.data[view.name].columns
        for field in (*view.join_keys, *view.features):
            column = columns.get(field.name)
            if column is not None and {column.value_type, field.type} <= _COMPARED:
                yield view, field, column


def _pair(column: Column, field: Feature) -> tuple[str, str]:
    """The types to compare: of lists those of their elements."""
    types = column.value_type, field.type
    if all(name.endswith(_LIST) for name in types):
        return types[0].removesuffix(_LIST), types[1].removesuffix(_LIST)
    return types


def _fault(view: View, field: Feature, column: Column, why: str) -> Fault:
    return Fault(
        Kind.view,
        view.name,
        field.name,
        f"is declared {field.type} over a column of type {column.type} ({column.value_type}): "
        f"{why}",
        f"declare it {column.value_type}, or convert the column in the source",
    )
