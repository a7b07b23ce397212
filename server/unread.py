"""The partial answer to a request whose rows could not be read: nothing but what was asked."""

from collections.abc import Sequence

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from hotfeast.hotpath.batch import Batch
from hotfeast.server.plan import ServingPlan
from hotfeast.serving.v1 import serving_pb2, value_pb2


def unread_answer(plan: ServingPlan, batch: Batch, why: str) -> bytes:
    """A serialized response whose features are all INVALID.

    Args:
        plan: The request's.
        batch: What was to be read.
        why: Why it was not.
    """
    request, definition = batch.request, plan.compiled.definition
    answer = serving_pb2.GetOnlineFeaturesResponse()
    names = answer.metadata.feature_names.val
    for name, column in request.entity_columns.items():
        key = next(k for k in definition.join_keys if name == k.name or name in k.aliases)
        if not key.required:
            continue
        names.append(key.name)
        values = value_pb2.RepeatedValue.FromString(column).val
        _add(answer, values, serving_pb2.FieldStatus.PRESENT)
    for name in plan.output_names:
        names.append(name)
        _add(answer, [value_pb2.Value()] * batch.rows, serving_pb2.FieldStatus.INVALID)
    views = [view.name for view in definition.views]
    for name in (*views, *(read.projection.name for read in plan.on_demand)):
        answer.metadata.row_errors.add(
            feature_view=name,
            rows=range(batch.rows),
            code=grpc.StatusCode.UNAVAILABLE.value[0],
            message=f"view {name!r} could not be read: {why}",
        )
    if request.version_metadata:
        for name, version in definition.view_versions:
            answer.metadata.feature_view_metadata.add(name=name, version=version)
    if batch.said is not None:
        answer.metadata.MergeFromString(batch.said)
    return answer.SerializeToString()


def _add(
    answer: serving_pb2.GetOnlineFeaturesResponse,
    values: Sequence[value_pb2.Value],
    status: serving_pb2.FieldStatus,
) -> None:
    vector = answer.results.add()
    vector.values.extend(values)
    vector.statuses.extend([status] * len(values))
    vector.event_timestamps.extend([Timestamp()] * len(values))
