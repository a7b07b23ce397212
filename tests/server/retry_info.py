"""When a refused call may be made again, as google.rpc says it."""

from typing import Any

from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status


def assert_retry_info(failed: Any) -> None:
    """A failed call's details have its status once more, and the time of gRPC's own pushback,
    rounded up by less than 10 ms."""
    said = dict(failed.trailing_metadata())
    status = Status.FromString(said["grpc-status-details-bin"])
    assert (status.code, status.message) == (failed.code().value[0], failed.details())
    (detail,) = status.details
    info = RetryInfo()
    assert detail.Unpack(info)
    milliseconds = info.retry_delay.ToMilliseconds()
    assert 0 <= milliseconds - int(said["grpc-retry-pushback-ms"]) < 10
