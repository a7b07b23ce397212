"""Python client for Hotfeast gateways. Needs neither Feast nor Redis."""

from hotfeast.clients.aio import AsyncFeatureClient
from hotfeast.clients.aio_scores import AsyncScores
from hotfeast.clients.answers import FeatureRow, OnlineFeatures
from hotfeast.clients.client import FeatureClient
from hotfeast.clients.connection import Retries, Tls
from hotfeast.clients.errors import (
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    ForkedClient,
    HotfeastError,
    InternalError,
    InvalidArgument,
    MissingPackage,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from hotfeast.clients.hedging import Hedge
from hotfeast.clients.push import PushRejection, PushResult, RowsNotWritten, TargetFailure
from hotfeast.clients.scores import Scores
from hotfeast.clients.scoring import Resume, Scored

__all__ = [
    "AsyncFeatureClient",
    "AsyncScores",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "FeatureClient",
    "FeatureRow",
    "ForkedClient",
    "Hedge",
    "HotfeastError",
    "InternalError",
    "InvalidArgument",
    "MissingPackage",
    "NotFound",
    "OnlineFeatures",
    "PermissionDenied",
    "PushRejection",
    "PushResult",
    "ResourceExhausted",
    "Resume",
    "Retries",
    "RowsNotWritten",
    "Scored",
    "Scores",
    "TargetFailure",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
]
