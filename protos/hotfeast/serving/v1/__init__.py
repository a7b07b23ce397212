"""Generated protobuf and gRPC code of the proto package `hotfeast.serving.v1`."""
