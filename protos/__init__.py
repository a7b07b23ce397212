"""The wire contract: generated protobuf and gRPC modules, next to the `.proto` files themselves.

The generated modules live under their proto package, `hotfeast.serving.v1`; this package re-exports
them and ships the sources, so that clients in other languages can be generated from an installed
distribution (`PROTO_ROOT` is the `--proto_path`).
"""

from pathlib import Path

from hotfeast.serving.v1 import (
    push_pb2,
    push_pb2_grpc,
    serving_pb2,
    serving_pb2_grpc,
    value_pb2,
)

PROTO_ROOT = Path(__file__).parent
"""Folder to pass to `protoc` as `--proto_path`."""

__all__ = [
    "PROTO_ROOT",
    "push_pb2",
    "push_pb2_grpc",
    "serving_pb2",
    "serving_pb2_grpc",
    "value_pb2",
]
