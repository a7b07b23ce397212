"""The demonstration's rows in its own Redis, with a registry of one's own for more definitions."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from feast import FeatureStore

REPO = Path(__file__).resolve().parents[1] / "feature_repo"
"""The demonstration's repository."""

# Its programs are scripts beside its definitions.
sys.path.insert(0, str(REPO))

import demo  # noqa: E402
from prepare import prepare  # noqa: E402

AS_OF = demo.AS_OF
"""The time of its last snapshot."""


@contextmanager
def open_demonstration(say: Callable[[str], None]) -> Iterator[FeatureStore]:
    """Starts its Redis, fills it where that has not been done, and gives a copy of its repository.

    Args:
        say: Is told what is going on.
    """
    prepare(REPO / "data")
    before = Path.cwd()
    with demo.running_redis(), tempfile.TemporaryDirectory(prefix="hotfeast-bench-") as folder:
        say("the demonstration's rows")
        try:
            demo.materialize_features(demo.apply_definitions())
        finally:
            os.chdir(before)
        copy = Path(folder)
        shutil.copy(REPO / "data" / "registry.db", copy)
        (copy / "feature_store.yaml").write_text(
            (REPO / "feature_store.yaml")
            .read_text()
            .replace("registry: data/registry.db", "registry:\n  path: registry.db\n"
                     "  cache_ttl_seconds: 86400")
        )  # fmt: skip
        yield FeatureStore(repo_path=folder)
