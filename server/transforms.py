"""On-demand feature views: features computed from those that were read and from the request.

Each view is computed by itself, from a response that holds the inputs of all; then the answer is
put together of what was asked for.
"""

from collections.abc import Sequence
from copy import copy
from itertools import repeat
from typing import Any

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from hotfeast.hotpath.batch import TYPE_NAMES
from hotfeast.hotpath.request import Request
from hotfeast.server.errors import RequestFailure, invalid
from hotfeast.server.feast_api import (
    FieldStatus,
    GetOnlineFeaturesResponse,
    RepeatedValue,
    Value,
    ValueType,
)
from hotfeast.server.functions import Column, compute, failing_as, native
from hotfeast.server.plan import OnDemandRead, ServingPlan, find_view
from hotfeast.server.registry import Definitions, FieldDefinition
from hotfeast.serving.v1 import serving_pb2

_INTERNAL = 13
_MEMBERS = {
    1: "bytes_val",
    2: "string_val",
    3: "int32_val",
    4: "int64_val",
    5: "double_val",
    6: "float_val",
    7: "bool_val",
    8: "unix_timestamp_val",
}
"""Where a `Value` keeps the types that request data is checked for, by `ValueType.Enum`."""
_INTEGERS = ("int32_val", "int64_val")


def request_columns(plan: ServingPlan, request: Request) -> dict[str, list[Any]]:
    """The request data that a plan's on-demand views need, in the types that they declare.

    Raises:
        RequestFailure: A field is missing or not wanted, is no column of values, or has a value of
            another type that cannot be converted without loss.
    """
    sent = request.context_columns
    wanted = {f.name: f for f in plan.request_fields}
    for name in wanted:
        if name not in sent:
            raise invalid(
                f"missing request data {name!r}; request_context needs "
                + ", ".join(map(repr, wanted))
            )
    for name in sent:
        if name not in wanted:
            needs = ", ".join(map(repr, wanted)) if wanted else "nothing"
            raise invalid(f"request_context has {name!r}, but this request needs {needs}")
    columns = {}
    for name, payload in sent.items():
        try:
            column = RepeatedValue.FromString(payload)
        except DecodeError as error:
            raise invalid(f"request_context {name!r} is not a column of values") from error
        columns[name] = _declared(wanted[name], list(column.val))
    return columns


def _declared(field: FieldDefinition, values: list[Any]) -> list[Any]:
    """Request data in the type that its field is declared with; nulls stay null."""
    member = _MEMBERS.get(field.value_type)
    if member is None:
        return values
    for row, value in enumerate(values):
        kind = value.WhichOneof("val")
        if kind not in (None, "null_val", member):
            try:
                values[row] = _converted(value, kind, member)
            except ValueError:
                raise invalid(
                    f"request data {field.name!r} in row {row} is a {kind}, which cannot be taken "
                    f"for the declared {TYPE_NAMES[field.value_type]}"
                ) from None
    return values


def _converted(value: Any, kind: str, member: str) -> Any:
    """A number as a number of another type; ValueError where that would change it."""
    if member == "float_val" and kind == "double_val":
        # Clients have no other floating-point numbers, and functions compute with these.
        return value
    if kind == "float_val" and member == "double_val":
        return Value(double_val=value.float_val)
    if kind not in _INTEGERS or member not in (*_INTEGERS, "float_val", "double_val"):
        raise ValueError
    number = getattr(value, kind)
    if member in _INTEGERS:
        return Value(**{member: number})
    if int(float(number)) != number:
        raise ValueError
    return Value(double_val=number)


def apply_on_demand(
    plan: ServingPlan,
    definitions: Definitions,
    request: Request,
    stored: bytes,
    strict: bool,
    by_kernel: Sequence[bytes | None] | None = None,
) -> bytes:
    """Computes a plan's on-demand views and adds them to the response.

    Args:
        plan: The plan; it has on-demand views.
        definitions: What the plan was made from.
        request: The request.
        stored: The serialized response with all features that were read.
        strict: Whether a null result has the status NULL_VALUE, or PRESENT as Feast says.
        by_kernel: For each view the `results` fields that its kernel computed, or None where there
            are none; None for no view at all.

    Raises:
        RequestFailure: Request data is missing or of a wrong type, or a view's function failed and
            the request does not allow a partial response.
    """
    inputs = _Inputs(plan, definitions, request, GetOnlineFeaturesResponse.FromString(stored))
    answer = inputs.asked()
    for read, part in zip(plan.on_demand, by_kernel or repeat(None), strict=False):
        names = [plan.output_name(read.projection, f) for f in read.projection.features]
        answer.metadata.feature_names.val.extend(names)
        if part is not None:
            answer.MergeFromString(part)
            continue
        try:
            columns = inputs.compute(read)
        except RequestFailure as failure:
            if not request.partial:
                raise
            _add_row_error(answer, read, inputs.rows, failure)
            answer.results.extend(_failed(inputs.rows) for _ in names)
            continue
        corrupt = inputs.corrupt_rows(read) if request.partial else set()
        for feature in read.projection.features:
            answer.results.append(_vector(columns[feature], corrupt, strict))
    serialized: bytes = answer.SerializeToString()
    return serialized


class _Inputs:
    """What the views of one request are computed from."""

    def __init__(
        self, plan: ServingPlan, definitions: Definitions, request: Request, response: Any
    ) -> None:
        self._plan = plan
        self._definitions = definitions
        self._response = response
        self._natives: dict[int, Column] = {}
        reads = plan.compiled.definition.views
        first = len(response.results) - sum(len(view.features) for view in reads)
        self._keys = range(first)
        # Features are told apart by their view: without full names, two may be called the same.
        self._position: dict[tuple[str, str], int] = {}
        for view in reads:
            for feature in view.features:
                self._position[view.name, feature.output_name] = first + len(self._position)
        names = response.metadata.feature_names.val
        self._request: dict[str, Column] = {
            name: [native(value) for value in values]
            for name, values in request_columns(plan, request).items()
        }
        sizes = [len(c) for c in self._request.values()]
        sizes += [len(vector.values) for vector in response.results]
        self.rows = sizes[0] if sizes else 1
        self._key_names = [names[i] for i in self._keys]

    def asked(self) -> Any:
        """A response with the join keys and the stored features that were asked for."""
        computed = {read.projection.name for read in self._plan.on_demand}
        wanted = set(self._keys)
        for reference in self._plan.references:
            view, _, feature = reference.partition(":")
            if view not in computed:
                name = f"{view}__{feature}" if self._plan.full_feature_names else feature
                wanted.add(self._position[view, name])
        answer = GetOnlineFeaturesResponse()
        answer.metadata.CopyFrom(self._response.metadata)
        del answer.metadata.feature_names.val[:]
        for i, name in enumerate(self._response.metadata.feature_names.val):
            if i in wanted:
                answer.metadata.feature_names.val.append(name)
                answer.results.append(self._response.results[i])
        return answer

    def compute(self, read: OnDemandRead) -> dict[str, list[Any]]:
        """The values of a view's features.

        Raises:
            RequestFailure: Its function failed, or returned something else than it declares.
        """
        columns = {name: self._column(i) for i, name in enumerate(self._key_names)}
        columns |= self._request
        types = {field.name: field.value_type for field in self._plan.request_fields}
        features: list[tuple[str, str, int, int]] = []
        for source in read.view.sources:
            view = find_view(self._definitions, source)
            for name in source.features:
                field = view.feature(name)
                position = self._position[source.name, self._plan.output_name(source, name)]
                kind = field.value_type if field is not None else 0
                features.append((source.view, name, position, kind))
        names = [name for _, name, _, _ in features]
        # Short names, as long as they tell the inputs apart; Feast's code adds the other form.
        short = len(names) == len(set(names))
        for view_name, name, position, kind in features:
            column = name if short else f"{view_name}__{name}"
            columns[column] = self._column(position, kind)
            types[column] = kind
        on_demand = read.view.on_demand.with_projection(feast_projection(read))
        wanted = [f for f in read.view.features if f.name in read.projection.features]
        with failing_as(read.view.name):
            return compute(on_demand, wanted, columns, types, self.rows)

    def corrupt_rows(self, read: OnDemandRead) -> set[int]:
        """The rows in which an input of a view could not be read."""
        sources = {source.name for source in read.view.sources}
        return {
            row
            for error in _metadata(self._response).row_errors
            if error.feature_view in sources
            for row in error.rows
        }

    def _column(self, position: int, kind: int = 0) -> Column:
        known = self._natives.get(position)
        if known is None:
            value_type = ValueType(kind) if kind else None
            values = self._response.results[position].values
            known = self._natives[position] = [native(value, value_type) for value in values]
        # A list of its own: a function may change what it is given.
        return list(known)


def _vector(values: Sequence[Any], corrupt: set[int], strict: bool) -> Any:
    vector = GetOnlineFeaturesResponse.FeatureVector()
    for row, value in enumerate(values):
        if row in corrupt:
            vector.values.append(Value())
            vector.statuses.append(FieldStatus.INVALID)
            continue
        vector.values.append(value)
        null = strict and value.WhichOneof("val") in (None, "null_val")
        vector.statuses.append(FieldStatus.NULL_VALUE if null else FieldStatus.PRESENT)
    vector.event_timestamps.extend([Timestamp()] * len(values))
    return vector


def _failed(rows: int) -> Any:
    return _vector([Value()] * rows, set(range(rows)), True)


def _metadata(response: Any) -> serving_pb2.GetOnlineFeaturesResponseMetadata:
    """The metadata with the fields that Feast's message does not have."""
    return serving_pb2.GetOnlineFeaturesResponseMetadata.FromString(
        response.metadata.SerializeToString()
    )


def _add_row_error(answer: Any, read: OnDemandRead, rows: int, failure: RequestFailure) -> None:
    metadata = serving_pb2.GetOnlineFeaturesResponseMetadata()
    metadata.row_errors.add(
        feature_view=read.projection.name, rows=range(rows), code=_INTERNAL, message=failure.message
    )
    answer.metadata.MergeFromString(metadata.SerializeToString())


def feast_projection(read: OnDemandRead) -> Any:
    """Feast's own projection of an on-demand view, as a feature service takes it."""
    view = read.view.on_demand
    projection = copy(view.projection)
    projection.name_alias = read.projection.alias
    projection.version_tag = read.projection.version
    projection.features = [f for f in view.features if f.name in read.projection.features]
    return projection
