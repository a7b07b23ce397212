"""The year of real purchases as events: the repository of `feature_repo/windows`, and an ordinary
view with as many features that is stored packed.
"""

import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureService, FeatureStore, FeatureView, Field, FileSource, PushSource
from feast.types import Int64

WINDOWS, ROWS = "purchase_windows", "purchase_rows"
"""Names of the views."""
SERVICES = {WINDOWS: "purchase_now", ROWS: "purchase_rows"}
"""The feature service that has each of them."""

_FOLDER = Path(__file__).resolve().parent.parent / "feature_repo" / "windows"


def _load(name: str) -> ModuleType:
    """A module of that folder, which is no package."""
    sys.path.insert(0, str(_FOLDER))
    try:
        return __import__(name)
    finally:
        sys.path.pop(0)


_definitions = _load("purchase_windows")

FEATURES: dict[str, str] = {
    feature.name: str(feature.dtype) for feature in _definitions.purchase_windows.features
}
"""Names and types of the windowed features."""


def purchase_lines(households: int | None = None) -> pl.DataFrame:
    """The lines of the year as events, in order of time; of some households, or of all if None."""
    lines: pl.DataFrame = _load("purchase_events").purchase_lines(households)
    return lines


def write_repository(folder: Path, connection_string: str, lines: pl.DataFrame) -> FeatureStore:
    """Writes the source and applies the repository."""
    _load("purchase_events").write_lines(lines, folder)
    settings = (_FOLDER / "feature_store.yaml").read_text()
    (folder / "feature_store.yaml").write_text(
        settings.replace("${HOTFEAST_REDIS}", connection_string)
    )
    plain = {f"plain_{name}": pa.array([], pa.int64()) for name in FEATURES} | {
        "user_id": pa.array([], pa.int64()),
        "event_timestamp": pa.array([], pa.timestamp("us", "UTC")),
    }
    pq.write_table(pa.table(plain), folder / "data" / "rows.parquet")
    windows = _definitions.purchase_windows
    rows = FeatureView(
        name=ROWS,
        entities=[_definitions.user],
        ttl=timedelta(days=31),
        schema=[
            Field(name="user_id", dtype=Int64),
            *(Field(name=f"plain_{f.name}", dtype=f.dtype) for f in windows.features),
        ],
        source=PushSource(
            name="purchase_row_values",
            batch_source=FileSource(
                name="rows", path="data/rows.parquet", timestamp_field="event_timestamp"
            ),
        ),
        tags={"hotfeast.layout": "packed"},
    )
    store = FeatureStore(repo_path=str(folder))
    service = FeatureService(name=SERVICES[ROWS], features=[rows])
    store.apply([_definitions.user, windows, _definitions.purchase_now, rows, service])
    return store
