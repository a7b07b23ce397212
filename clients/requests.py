"""A call for features: what is sent, from what the caller has, and what is made of the answer."""

from collections.abc import Iterable, Sequence
from typing import Any

import grpc

from hotfeast.clients.answers import OnlineFeatures
from hotfeast.clients.columns import Rows, columns_of, fill
from hotfeast.clients.errors import failure
from hotfeast.hotpath.errors import MalformedAnswer
from hotfeast.serving.v1 import serving_pb2

READ_METHOD = "/hotfeast.serving.v1.FeatureServing/GetOnlineFeatures"


def read_request(
    features: str | Sequence[str],
    entities: Rows | None,
    request: Rows | None,
    request_context: Rows | None,
    full_feature_names: bool,
    include_stale_values: bool,
    allow_partial_response: bool,
) -> Any:
    """The `GetOnlineFeaturesRequest` of a call; see `FeatureClient.get_online_features`."""
    if request is not None and request_context is not None:
        raise TypeError("give request or request_context: they are one")
    message = serving_pb2.GetOnlineFeaturesRequest(
        full_feature_names=full_feature_names,
        include_stale_values=include_stale_values,
        allow_partial_response=allow_partial_response,
    )
    if isinstance(features, str):
        message.feature_service = features
    else:
        message.features.val.extend(features)
    asked = request if request is not None else request_context
    for field, rows in (("entities", entities), ("request", asked)):
        if rows is None:
            continue
        target = message.entities if field == "entities" else message.request_context
        for name, values in columns_of(rows, field).items():
            fill(target[name], name, values)
    return message


def read_metadata(request_id: str | None) -> tuple[tuple[str, str], ...] | None:
    """The metadata of a call for features."""
    return None if request_id is None else (("x-request-id", request_id),)


def answer_of(
    data: bytes, metadata: Iterable[tuple[str, str]] | None, request: Any
) -> OnlineFeatures:
    """The answer to a request, of its bytes.

    Raises:
        HotfeastError: The bytes are none; INTERNAL, as gRPC has it.
    """
    try:
        return OnlineFeatures(data, metadata or (), request.entities)
    except MalformedAnswer as error:
        raise failure(grpc.StatusCode.INTERNAL, str(error)) from None
