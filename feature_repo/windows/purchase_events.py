"""Write the purchases of the demonstration's year as events, the batch source of the windows.

    cd feature_repo/windows && python purchase_events.py
    HOTFEAST_REDIS=localhost:6379 feast apply
    HOTFEAST_REDIS=localhost:6379 hotfeast backfill
    HOTFEAST_REDIS=localhost:6379 hotfeast serve --as-of 2018-01-01

The data is for educational use only; see `prepare.py` beside this folder.
"""

import sys
from pathlib import Path

import polars as pl

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from prepare import load_lines  # noqa: E402


def purchase_lines(households: int | None = None) -> pl.DataFrame:
    """The lines of the year as events, in order of time.

    Args:
        households: How many are taken; all if None.

    Returns:
        `user_id`, `event_timestamp`, `line_id`, `basket_id`, `units` and `usd`.
    """
    lines = load_lines().with_row_index("line_id")
    if households is not None:
        kept = lines["user_id"].unique().sort().head(households)
        lines = lines.filter(pl.col("user_id").is_in(kept.implode()))
    return lines.select(
        "user_id",
        event_timestamp="at",
        line_id=pl.col("line_id").cast(pl.Int64),
        basket_id="basket_id",
        units=pl.col("units").cast(pl.Int64),
        usd=pl.col("cents") / 100,
    )


def write_lines(lines: pl.DataFrame, folder: Path) -> Path:
    """Writes events as the batch source of a repository in a folder."""
    path = folder / "data" / "purchase_lines.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines.write_parquet(path, compression="zstd")
    return path


if __name__ == "__main__":
    events = purchase_lines()
    print(f"{write_lines(events, FOLDER)}: {events.height:,} events")
