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
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hotfeast.server.monitoring.library import (
        DriftReport,
        QualityReport,
        detect_feature_drift,
        monitor_feature_quality,
    )

__all__ = ["DriftReport", "QualityReport", "detect_feature_drift", "monitor_feature_quality"]


def __getattr__(name: str) -> Any:
    """Imports the library where it is asked for: SciPy takes a second, and gateways compare nothing
    until a window is over."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hotfeast.server.monitoring import library

    return getattr(library, name)
