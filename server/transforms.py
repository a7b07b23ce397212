"""On-demand feature views: features computed from those that were read and from the request.

The functions run as Feast runs them, through Feast's own code, on a response that holds their
inputs; then the response is cut down to what was asked for.
"""

from copy import copy
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from hotfeast.hotpath.request import Request
from hotfeast.server.errors import RequestFailure, invalid
from hotfeast.server.feast_api import (
    FieldStatus,
    GetOnlineFeaturesResponse,
    RepeatedValue,
    ValueType,
    utils,
)
from hotfeast.server.plan import OnDemandRead, ServingPlan, find_view
from hotfeast.server.registry import Definitions
from hotfeast.serving.v1 import serving_pb2


def request_columns(plan: ServingPlan, request: Request) -> dict[str, RepeatedValue]:
    """The request context that a plan's on-demand views need.

    Raises:
        RequestFailure: A field is missing or not wanted, or is no column of values.
    """
    sent = request.context_columns
    wanted = [f.name for f in plan.request_fields]
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
            columns[name] = RepeatedValue.FromString(payload)
        except DecodeError as error:
            raise invalid(f"request_context {name!r} is not a column of values") from error
    return columns


def apply_on_demand(
    plan: ServingPlan, definitions: Definitions, request: Request, stored: bytes, strict: bool
) -> bytes:
    """Computes a plan's on-demand views and adds them to the response.

    Args:
        plan: The plan; it has on-demand views.
        definitions: What the plan was made from.
        request: The request.
        stored: The serialized response with all features that were read.
        strict: Whether a null result has the status NULL_VALUE, or PRESENT as Feast says.

    Raises:
        RequestFailure: Request data is missing, or a view's function failed.
    """
    columns = request_columns(plan, request)
    response = GetOnlineFeaturesResponse.FromString(stored)
    join_keys = list(response.metadata.feature_names.val)[: len(request.column_names)]
    utils._populate_result_rows_from_columnar(
        response, {name: list(column.val) for name, column in columns.items()}
    )
    views = [r.view.on_demand.with_projection(_feast_projection(r)) for r in plan.on_demand]
    first_computed = len(response.results)
    try:
        utils._augment_response_with_on_demand_transforms(
            response,
            list(plan.references),
            views,
            plan.full_feature_names,
            feature_types=_input_types(plan, definitions),
        )
    except Exception as error:
        names = ", ".join(repr(r.view.name) for r in plan.on_demand)
        raise RequestFailure(
            grpc.StatusCode.INTERNAL,
            f"on-demand feature view {names} failed: {type(error).__name__}: {error}",
        ) from error
    if strict:
        for vector in response.results[first_computed:]:
            for i, value in enumerate(vector.values):
                if value.WhichOneof("val") in (None, "null_val"):
                    vector.statuses[i] = FieldStatus.NULL_VALUE
    if request.partial:
        _void_computed_cells(plan, response)
    utils._drop_unneeded_columns(response, {*join_keys, *plan.output_names})
    missing = set(plan.output_names) - set(response.metadata.feature_names.val)
    if missing:
        names = ", ".join(sorted(map(repr, missing)))
        raise RequestFailure(
            grpc.StatusCode.INTERNAL, f"on-demand feature views did not return {names}"
        )
    return response.SerializeToString()


def _void_computed_cells(plan: ServingPlan, response: GetOnlineFeaturesResponse) -> None:
    """Takes back what was computed from rows that could not be read."""
    errors = serving_pb2.GetOnlineFeaturesResponseMetadata.FromString(
        response.metadata.SerializeToString()
    ).row_errors
    vectors = dict(zip(response.metadata.feature_names.val, response.results, strict=True))
    for read in plan.on_demand:
        sources = {source.name for source in read.view.sources}
        rows = {row for e in errors if e.feature_view in sources for row in e.rows}
        for feature in read.projection.features:
            vector = vectors.get(plan.output_name(read.projection, feature))
            if vector is None:
                continue
            for row in rows:
                vector.values[row].Clear()
                vector.statuses[row] = FieldStatus.INVALID


def _feast_projection(read: OnDemandRead) -> Any:
    """Feast's own projection of an on-demand view, as a feature service takes it."""
    view = read.view.on_demand
    projection = copy(view.projection)
    projection.name_alias = read.projection.alias
    projection.version_tag = read.projection.version
    projection.features = [f for f in view.features if f.name in read.projection.features]
    return projection


def _input_types(plan: ServingPlan, definitions: Definitions) -> dict[str, ValueType]:
    types: dict[str, ValueType] = {}
    for read in plan.on_demand:
        for source in read.view.sources:
            for field in find_view(definitions, source).features:
                types[field.name] = ValueType(field.value_type)
    return types
