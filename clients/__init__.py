"""Python client for Hotfeast gateways. Needs neither Feast nor Redis."""

from hotfeast.clients.client import FeatureClient, FeatureRow, HotfeastError, OnlineFeatures
from hotfeast.clients.push import PushRejection, PushResult, RowsNotWritten, TargetFailure

__all__ = [
    "FeatureClient",
    "FeatureRow",
    "HotfeastError",
    "OnlineFeatures",
    "PushRejection",
    "PushResult",
    "RowsNotWritten",
    "TargetFailure",
]
