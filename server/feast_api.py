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
    from feast import (
        BatchFeatureView,
        Entity,
        FeatureService,
        FeatureStore,
        FeatureView,
        Field,
        FileSource,
        OnDemandFeatureView,
        Project,
        PushSource,
        RepoConfig,
        StreamFeatureView,
        utils,
    )
    from feast.base_feature_view import BaseFeatureView
    from feast.data_format import ParquetFormat
    from feast.data_source import DataSource
    from feast.errors import FeastObjectNotFoundException
    from feast.feature_logging import FeatureServiceLoggingSource
    from feast.feature_view import DUMMY_ENTITY_NAME, FeatureViewState
    from feast.infra.common.materialization_job import MaterializationTask
    from feast.infra.compute_engines.local.compute import LocalComputeEngine
    from feast.infra.compute_engines.local.feature_builder import LocalFeatureBuilder
    from feast.infra.offline_stores.offline_utils import get_pyarrow_schema_from_batch_source
    from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
    from feast.infra.registry import sql as sql_registry
    from feast.infra.registry.file import FileRegistryStore
    from feast.infra.registry.registry import (
        Registry,
        get_registry_store_class_from_scheme,
        get_registry_store_class_from_type,
    )
    from feast.infra.registry.remote import RemoteRegistry
    from feast.labeling.label_view import LabelView
    from feast.online_response import _convert_uuids_for_arrow
    from feast.permissions.permission import Permission as FeastPermissionObject
    from feast.permissions.user import User as FeastUser
    from feast.protos.feast.core.Entity_pb2 import Entity as EntityMessage
    from feast.protos.feast.core.FeatureService_pb2 import FeatureService as FeatureServiceMessage
    from feast.protos.feast.core.FeatureView_pb2 import FeatureView as FeatureViewMessage
    from feast.protos.feast.core.LabelView_pb2 import LabelView as LabelViewMessage
    from feast.protos.feast.core.OnDemandFeatureView_pb2 import (
        OnDemandFeatureView as OnDemandFeatureViewMessage,
    )
    from feast.protos.feast.core.Permission_pb2 import Permission as PermissionMessage
    from feast.protos.feast.core.Registry_pb2 import Registry as RegistryMessage
    from feast.protos.feast.core.StreamFeatureView_pb2 import (
        StreamFeatureView as StreamFeatureViewMessage,
    )
    from feast.protos.feast.registry import RegistryServer_pb2
    from feast.protos.feast.serving.GrpcServer_pb2 import DESCRIPTOR as GRPC_SERVER_FILE
    from feast.protos.feast.serving.GrpcServer_pb2 import PushRequest as FeastPushRequest
    from feast.protos.feast.serving.GrpcServer_pb2 import PushResponse as FeastPushResponse
    from feast.protos.feast.serving.GrpcServer_pb2 import (
        WriteToOnlineStoreRequest,
        WriteToOnlineStoreResponse,
    )
    from feast.protos.feast.serving.ServingService_pb2 import DESCRIPTOR as SERVING_SERVICE_FILE
    from feast.protos.feast.serving.ServingService_pb2 import (
        FieldStatus,
        GetFeastServingInfoRequest,
        GetFeastServingInfoResponse,
        GetOnlineFeaturesResponse,
    )
    from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value
    from feast.repo_config import RegistryConfig
    from feast.repo_operations import extract_objects_for_apply_delete, parse_repo
    from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values
    from feast.value_type import ValueType
finally:
    typeguard.typechecked = _typechecked

__all__ = [
    "DUMMY_ENTITY_NAME",
    "GRPC_SERVER_FILE",
    "SERVING_SERVICE_FILE",
    "BaseFeatureView",
    "BatchFeatureView",
    "DataSource",
    "Entity",
    "EntityMessage",
    "FeastObjectNotFoundException",
    "FeastPermissionObject",
    "FeastPushRequest",
    "FeastPushResponse",
    "FeastUser",
    "FeatureService",
    "FeatureServiceLoggingSource",
    "FeatureServiceMessage",
    "FeatureStore",
    "FeatureView",
    "FeatureViewMessage",
    "FeatureViewState",
    "Field",
    "FieldStatus",
    "FileRegistryStore",
    "FileSource",
    "GetFeastServingInfoRequest",
    "GetFeastServingInfoResponse",
    "GetOnlineFeaturesResponse",
    "LabelView",
    "LabelViewMessage",
    "LocalComputeEngine",
    "LocalFeatureBuilder",
    "MaterializationTask",
    "OnDemandFeatureView",
    "OnDemandFeatureViewMessage",
    "ParquetFormat",
    "PermissionMessage",
    "Project",
    "PushSource",
    "RedisOnlineStore",
    "RedisOnlineStoreConfig",
    "Registry",
    "RegistryConfig",
    "RegistryMessage",
    "RegistryServer_pb2",
    "RemoteRegistry",
    "RepeatedValue",
    "RepoConfig",
    "StreamFeatureView",
    "StreamFeatureViewMessage",
    "Value",
    "ValueType",
    "WriteToOnlineStoreRequest",
    "WriteToOnlineStoreResponse",
    "_convert_uuids_for_arrow",
    "batch_source_schema",
    "extract_objects_for_apply_delete",
    "feast_value_type_to_python_type",
    "get_registry_store_class_from_scheme",
    "get_registry_store_class_from_type",
    "parse_repo",
    "python_values_to_proto_values",
    "sql_registry",
    "utils",
]


def batch_source_schema(store: FeatureStore, source: Any) -> Any:
    """The columns that a batch source has now, as the `pyarrow.Schema` that is appended to it.

    Raises:
        Exception: Whatever Feast raises where the source cannot be read.
    """
    schema, _ = get_pyarrow_schema_from_batch_source(store.config, source)
    return schema
