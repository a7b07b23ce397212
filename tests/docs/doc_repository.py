"""The repository that pages speak of: a cut of the demonstration's, with the real values of a few
households and products, and beside it what pages have as examples of their own.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import polars as pl
from feast.repo_config import load_repo_config
from feast.repo_operations import apply_total

from hotfeast.server.materialize import materialize
from hotfeast.server.repo_files import imports_from

_DEMO = Path(__file__).resolve().parents[2] / "feature_repo"
# The programs of the repository are scripts beside its definitions, not an installed package.
sys.path.insert(0, str(_DEMO))

import prepare  # noqa: E402

HOUSEHOLDS = (1, 2, 10, 1453)
PRODUCTS = (852662, 1029743, 1082185, 1110572)
AS_OF = prepare.LAST_SNAPSHOT
"""When TTLs are judged, as `make serve` does."""

_EXAMPLES = '''
"""What pages and docstrings have as examples, beside what the demonstration has."""

from datetime import timedelta

from entities import user
from feast import FeatureService, FeatureView, Field, FileSource, PushSource
from feast.types import Float64, Int64, UnixTimestamp
from features.products import product_attributes
from features.users import user_purchase_stats

clicks_source = FileSource(
    name="clicks_source", path="data/clicks.parquet", timestamp_field="event_timestamp"
)
clicks_push = PushSource(name="clicks", batch_source=clicks_source)
user_clicks = FeatureView(
    name="user_clicks",
    entities=[user],
    ttl=timedelta(0),
    schema=[Field(name="clicks", dtype=Int64)],
    source=clicks_push,
)
user_stats = FeatureView(
    name="user_stats",
    entities=[user],
    ttl=timedelta(0),
    schema=[
        Field(name="spend", dtype=Float64, tags={"min": "0"}),
        Field(name="visits", dtype=Int64),
        Field(name="since", dtype=UnixTimestamp),
    ],
    source=FileSource(
        name="user_stats_source", path="data/user_stats.parquet", timestamp_field="event_timestamp"
    ),
)
version_features = [user_purchase_stats[["revenue_usd_30d"]], product_attributes]
recommendation_v1 = FeatureService(name="recommendation_v1", features=version_features)
recommendation_v2 = FeatureService(name="recommendation_v2", features=version_features)
ranking_v1 = FeatureService(name="ranking_v1", features=version_features)
ranking_v2 = FeatureService(name="ranking_v2", features=version_features)
'''


def write_repository(folder: Path) -> None:
    """Writes definitions and data, and applies them; its Redis is HOTFEAST_REDIS, as in the
    demonstration.

    Args:
        folder: Where; it must not be there yet.
    """
    shutil.copytree(_DEMO, folder, ignore=shutil.ignore_patterns("data", "__pycache__"))
    (folder / "examples.py").write_text(_EXAMPLES, encoding="utf-8")
    data = folder / "data"
    data.mkdir()
    for name, frame in _frames().items():
        frame.write_parquet(data / f"{name}.parquet")
    with apart(folder), imports_from(folder):
        config = load_repo_config(folder, folder / "feature_store.yaml")
        apply_total(config, folder, skip_source_validation=True)


@contextmanager
def apart(folder: Path) -> Iterator[None]:
    """Keeps the repository's modules apart from others of their names: those of the demonstration
    itself, and of other tests' repositories."""
    path = list(sys.path)
    names = {file.relative_to(folder).parts[0].removesuffix(".py") for file in folder.rglob("*.py")}
    before = {name: sys.modules.pop(name) for name in _of(names)}
    try:
        yield
    finally:
        for name in _of(names):
            del sys.modules[name]
        sys.modules.update(before)
        sys.path[:] = path


def _of(names: set[str]) -> list[str]:
    """The modules of these names, and those below them."""
    return [module for module in sys.modules if module.partition(".")[0] in names]


def fill(folder: Path) -> None:
    """Writes the newest rows to Redis."""
    start = prepare.FIRST_SNAPSHOT - 2 * prepare.DAY
    summary = materialize(folder, start, AS_OF + timedelta(seconds=1))
    assert summary.exit_code == 0, summary


def _frames() -> dict[str, pl.DataFrame]:
    """The data by view; households and products have the values of the whole demonstration."""
    lines = prepare.load_lines()
    ours = lines.filter(pl.col("user_id").is_in(HOUSEHOLDS))
    sold = lines.filter(pl.col("product_id").is_in(PRODUCTS))
    event_timestamp = pl.lit(AS_OF).cast(pl.Datetime("us", "UTC")).alias("event_timestamp")
    stats = pl.DataFrame(
        {"user_id": [1, 2], "spend": [1.5, None], "visits": [3, 4], "since": [AS_OF, AS_OF]}
    ).with_columns(event_timestamp)
    clicks = pl.DataFrame({"user_id": [1], "clicks": [1]}).with_columns(event_timestamp)

    def quiet(stage: str, done: int, total: int) -> None:
        return

    return {
        "user_purchase_stats": prepare.user_purchase_stats(ours, quiet),
        "user_demographics": prepare.user_demographics(),
        "product_attributes": prepare.product_attributes(sold),
        "product_popularity": prepare.product_popularity(sold, quiet),
        "user_product_interactions": prepare.user_product_interactions(ours, quiet),
        "user_stats": stats,
        "clicks": clicks,
    }
