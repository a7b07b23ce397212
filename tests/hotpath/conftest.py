"""Makes `tests.hotpath.helpers` importable however pytest is started; sets hypothesis up."""

import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

# No deadline: two cores, shared with whatever else runs, make single examples slow at times.
settings.register_profile(
    "hotpath",
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("hotpath")
