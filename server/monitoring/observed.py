"""What monitoring is told of the features that pass: columns of values, and where they passed.

Views and features have the names of the registry; outputs of an on-demand view stand under its own
name. Nothing here needs Feast.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple

import numpy as np
import pyarrow as pa


class Channel(StrEnum):
    """Where values passed."""

    served = "served"
    """In an answer to a request."""
    pushed = "pushed"
    """In rows that were pushed and written."""
    materialized = "materialized"
    """In rows that a materialization wrote."""


class Status(IntEnum):
    """`FieldStatus` of the serving protocol, by number."""

    INVALID = 0
    PRESENT = 1
    NULL_VALUE = 2
    NOT_FOUND = 3
    OUTSIDE_MAX_AGE = 4


class FeatureColumn(NamedTuple):
    """The values of one feature, a row each.

    Attributes:
        view: The view's name in the registry.
        feature: The feature's name in the view.
        values: Null where there is no value.
        statuses: A number of `Status` for each row, as uint8; None where all there is to know are
            the nulls, which are then `NULL_VALUE` and all else `PRESENT`.
        event_timestamps: Event time of each row in microseconds since 1970 (int64), 0 where there
            is none; None where they are not known.
    """

    view: str
    feature: str
    values: pa.Array
    statuses: np.ndarray | None = None
    event_timestamps: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """Columns that passed together.

    Attributes:
        channel: Where.
        time: When, in seconds since 1970.
        columns: One for each feature.
        service: The feature service that was asked for; None where there is none.
        caller: Who asked, as the request says; None where it does not.
        requests: How many requests the rows come from.
    """

    channel: Channel
    time: float
    columns: tuple[FeatureColumn, ...]
    service: str | None = None
    caller: str | None = None
    requests: int = 1
