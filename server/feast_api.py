"""The one door to Feast: all that the server uses of it, public and private, by name.

Feast decorates its classes with `typeguard.typechecked`, which parses and compiles the source of
each one anew: two thirds of the time that importing Feast takes. The checks guard those who write
definitions. The server only reads definitions that Feast has accepted already, so for the length of
this import the decorator does nothing, and every gateway process starts seconds sooner.
"""

from collections.abc import Callable
from typing import Any

import typeguard

_typechecked = typeguard.typechecked


def _unchecked(target: Any = None, **_: Any) -> Any:
    if target is not None:
        return target
    keep: Callable[[Any], Any] = lambda decorated: decorated  # noqa: E731
    return keep


typeguard.typechecked = _unchecked
try:
    from feast import FeatureStore, RepoConfig, utils
    from feast.feature_view import DUMMY_ENTITY_NAME
    from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
    from feast.protos.feast.serving.GrpcServer_pb2 import DESCRIPTOR as GRPC_SERVER_FILE
    from feast.protos.feast.serving.ServingService_pb2 import DESCRIPTOR as SERVING_SERVICE_FILE
    from feast.protos.feast.serving.ServingService_pb2 import (
        FieldStatus,
        GetFeastServingInfoRequest,
        GetFeastServingInfoResponse,
        GetOnlineFeaturesResponse,
    )
    from feast.protos.feast.types.Value_pb2 import RepeatedValue
    from feast.value_type import ValueType
finally:
    typeguard.typechecked = _typechecked

__all__ = [
    "DUMMY_ENTITY_NAME",
    "GRPC_SERVER_FILE",
    "SERVING_SERVICE_FILE",
    "FeatureStore",
    "FieldStatus",
    "GetFeastServingInfoRequest",
    "GetFeastServingInfoResponse",
    "GetOnlineFeaturesResponse",
    "RedisOnlineStore",
    "RedisOnlineStoreConfig",
    "RepeatedValue",
    "RepoConfig",
    "ValueType",
    "utils",
]
