"""What features are like, as they pass: statistics, windows of them, and what is made of them.

observed    columns of values, and where they passed
moments     count, mean, spread and range of numbers
statistics  all figures of one feature, in bounded memory
history     what is kept of them later
windows     the figures of each feature, window by window
drift       whether values are distributed otherwise than a reference's
profiles    what values were like in training, in files
profile_build  profiles out of Feast's offline store
library     drift and quality of data frames
rules       what is alarming, from YAML; `known` says what rules may name
measure     from figures to what rules look at; `frames` is the same for data frames
alerts      what becomes of that over time; `sinks` says who is told, `alert_watch` looks at windows
prometheus_rules  the same rules for Prometheus
audit       what is served beside the offline store's answer
tap         samples of what is served and pushed, off the request path
written     the same of what a materialization writes
callers     names for who asks
collector   what all processes have seen, in one folder
service     the same for the metrics page, and for whoever judges it
inputs      definitions, rules and profiles, as they change
watching    all of these for a supervisor; `open_alerts` for the command line
feature_log served answers to Parquet, as Feast logs them
turns       the threads of those above
opening     all of these for one gateway process
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hotfeast.server.monitoring.frames import check_feature_alerts
    from hotfeast.server.monitoring.library import (
        DriftReport,
        QualityReport,
        detect_feature_drift,
        monitor_feature_quality,
    )

__all__ = [
    "DriftReport",
    "QualityReport",
    "check_feature_alerts",
    "detect_feature_drift",
    "monitor_feature_quality",
]


def __getattr__(name: str) -> Any:
    """Imports the library where it is asked for: SciPy takes a second, and gateways compare nothing
    until a window is over."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hotfeast.server.monitoring import frames, library

    return getattr(frames if name == "check_feature_alerts" else library, name)
