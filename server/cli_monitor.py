"""`hotfeast monitor`: what is known of the features, as a page or on the terminal."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hotfeast.server.cli_options import RepoOption, failures, option_time

if TYPE_CHECKING:
    from rich.table import Table

    from hotfeast.server.feast_api import FeatureStore
    from hotfeast.server.monitoring.profiles import Profile
    from hotfeast.server.monitoring.report.build import Evidence
    from hotfeast.server.monitoring.report.catalogue import Catalogue
    from hotfeast.server.monitoring.report.model import FeatureRow, Report

app = typer.Typer(
    help="Quality, drift and freshness of features, and the catalogue of them.",
    no_args_is_help=True,
)

LoggedOption = Annotated[
    Path | None,
    typer.Option(help="Parquet of logged features: a file, or a folder of them."),
]
ReferenceOption = Annotated[
    Path | None,
    typer.Option(help="Parquet of a training set to compare with: a file, or a folder of them."),
]
ProfilesOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of profiles to compare with, the latest of each feature service; those beside "
        "the registry's file, if there are any, unless given."
    ),
]
AsOfOption = Annotated[
    str | None,
    typer.Option(help="Judge ages at this ISO 8601 time instead of now, for past data."),
]


MonitorDirOption = Annotated[
    Path | None,
    typer.Option(help="What a gateway has seen: the folder of its --monitor-dir."),
]
SampleOption = Annotated[
    int | None,
    typer.Option(min=1, help="Read so many stored entities of each view from Redis."),
]
RedisOption = Annotated[
    str | None,
    typer.Option(
        help="redis://, rediss:// or unix:// URL for --sample, instead of the repository's."
    ),
]


@dataclass(frozen=True, slots=True)
class _Asked:
    repo: Path
    monitor_dir: Path | None
    logged: Path | None
    sample: int | None
    redis: str | None
    reference: Path | None
    profiles: Path | None
    as_of: datetime | None
    views: tuple[str, ...] = ()
    show_pii: bool = False

    @property
    def sources(self) -> list[str]:
        """The options that say where figures are taken from."""
        given = {
            "--monitor-dir": self.monitor_dir,
            "--logged": self.logged,
            "--sample": self.sample,
        }
        return [name for name, value in given.items() if value is not None]


@app.command()
def report(
    html: Annotated[Path, typer.Option(help="The file to write.")],
    repo: RepoOption = Path("."),
    monitor_dir: MonitorDirOption = None,
    logged: LoggedOption = None,
    sample: SampleOption = None,
    redis: RedisOption = None,
    reference: ReferenceOption = None,
    profiles: ProfilesOption = None,
    as_of: AsOfOption = None,
    show_pii: Annotated[
        bool, typer.Option("--show-pii", help="Values of features that are tagged PII, too.")
    ] = False,
) -> None:
    """Writes the report as one HTML file, which needs nothing else to be read.

    Without --monitor-dir, --logged or --sample it is the catalogue alone.

    Exit codes: 0, and 2 if something cannot be read or written.
    """
    from hotfeast.server.errors import StartFailure
    from hotfeast.server.monitoring.report.build import all_details, build_report
    from hotfeast.server.monitoring.report.render import render_page

    at = option_time(as_of, "--as-of")
    with failures():
        catalogue, evidence = _gather(
            _Asked(
                *(repo, monitor_dir, logged, sample, redis, reference, profiles, at),
                show_pii=show_pii,
            )
        )
        made = build_report(catalogue, evidence)
        page = render_page(made, all_details(catalogue, evidence))
        try:
            html.write_text(page, "utf-8")
        except OSError as error:
            raise StartFailure(f"{html} cannot be written: {error}") from error
    typer.echo(f"{html}: {len(made.features)} features, {len(page) / 1024:,.0f} KiB")


@app.command()
def show(
    repo: RepoOption = Path("."),
    monitor_dir: MonitorDirOption = None,
    logged: LoggedOption = None,
    sample: SampleOption = None,
    redis: RedisOption = None,
    reference: ReferenceOption = None,
    profiles: ProfilesOption = None,
    as_of: AsOfOption = None,
    view: Annotated[
        list[str] | None, typer.Option("--view", "-v", help="Only this view; may be repeated.")
    ] = None,
) -> None:
    """Shows the quality and drift of each feature that was seen, as a table.

    Exit codes: 0, and 2 if something cannot be read.
    """
    from hotfeast.server.errors import StartFailure
    from hotfeast.server.monitoring.report.build import build_report
    from hotfeast.server.terminal import consoles

    console, _ = consoles()
    at = option_time(as_of, "--as-of")
    with failures():
        asked = _Asked(
            *(repo, monitor_dir, logged, sample, redis, reference, profiles, at),
            views=tuple(view or ()),
        )
        if not asked.sources:
            raise StartFailure("say what to show: --monitor-dir, --logged or --sample")
        catalogue, evidence = _gather(asked)
        console.print(_table(build_report(catalogue, evidence), view or []))


def _gather(asked: _Asked) -> tuple["Catalogue", "Evidence"]:
    """Reads what the options name.

    Raises:
        StartFailure: Something cannot be read, or options exclude each other.
    """
    from hotfeast.server.errors import StartFailure
    from hotfeast.server.monitoring.profiles import references_of
    from hotfeast.server.monitoring.report import tables
    from hotfeast.server.monitoring.report.build import Evidence
    from hotfeast.server.monitoring.report.catalogue import ON_DEMAND
    from hotfeast.server.monitoring.report.catalogue_build import catalogue_of
    from hotfeast.server.monitoring.report.evidence import compared
    from hotfeast.server.monitoring.report.figures import Seen
    from hotfeast.server.monitoring.report.gateway_reports import gather
    from hotfeast.server.monitoring.report.stored import sample_stored
    from hotfeast.server.monitoring.statistics import FeatureStatistics
    from hotfeast.server.monitoring.windows import FeatureKey
    from hotfeast.server.repository import open_repository

    if len(asked.sources) > 1:
        raise StartFailure(f"{asked.sources[0]} and {asked.sources[1]} exclude each other")
    if asked.redis is not None and asked.sample is None:
        raise StartFailure("--redis is for --sample, which says how many entities to read")
    if asked.monitor_dir is not None and not asked.monitor_dir.is_dir():
        raise StartFailure(f"--monitor-dir: there is no folder {asked.monitor_dir}")
    store = open_repository(asked.repo)
    catalogue = catalogue_of(store)
    for name in asked.views:
        if name not in catalogue.views:
            raise StartFailure(f"--view: there is no feature view {name!r}")
        if asked.sample is not None and catalogue.views[name].kind == ON_DEMAND:
            raise StartFailure(f"--view: {name!r} is on demand; --sample leaves such views out")
    names = tables.Names(catalogue)
    references: Mapping[tuple[str, str], FeatureStatistics] = {}
    if asked.reference is not None:
        references = tables.read_reference(asked.reference, names)
        reference_name = asked.reference.name
    else:
        latest_profiles = _latest_profiles(store, asked.profiles)
        references = references_of(latest_profiles)
        reference_name = ", ".join(f"{p.service} v{p.version}" for p in latest_profiles)
    now, words = time.time(), "Definitions only"
    seen: dict[FeatureKey, Seen] = {}
    if asked.logged is not None:
        seen, latest = tables.read_logged(asked.logged, names)
        now = latest or now
        words = f"Logged features: {asked.logged.name}"
    if asked.as_of is not None:
        now = asked.as_of.timestamp()
    if asked.sample is not None:
        at = datetime.fromtimestamp(now, UTC)
        seen = sample_stored(store, asked.sample, at, asked.views, asked.redis)
        words = f"What is stored of up to {asked.sample:,} entities of each view"
    seen = {
        key: each._replace(
            reference=references.get((key.view, key.feature)), reference_name=reference_name
        )
        for key, each in seen.items()
    }
    if asked.monitor_dir is not None:
        return catalogue, gather(
            asked.monitor_dir, references, reference_name, now, show_pii=asked.show_pii
        )
    return catalogue, Evidence(words=words, now=now, seen=compared(seen), show_pii=asked.show_pii)


def _latest_profiles(store: "FeatureStore", folder: Path | None) -> list["Profile"]:
    """The latest profile of each feature service.

    Args:
        store: The repository.
        folder: Of profiles; None for those beside the registry's file, if there are any.

    Raises:
        StartFailure: The folder has no profiles, or one cannot be read.
    """
    from hotfeast.server.errors import StartFailure
    from hotfeast.server.monitoring.profile_build import profile_store
    from hotfeast.server.monitoring.profiles import ProfileError

    try:
        kept = profile_store(store, folder)
    except StartFailure:
        if folder is not None:
            raise
        return []
    try:
        latest = kept.load_latest()
    except ProfileError as error:
        raise StartFailure(str(error)) from error
    if folder is not None and not latest:
        raise StartFailure(f"{folder} has no profiles; hotfeast profile build makes one")
    return latest


_STYLES = {"critical": "bold red", "warning": "yellow", "ok": "green", "none": "dim"}


def _table(made: "Report", views: list[str]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"Features of {made.project}", title_justify="left", box=None)
    for name in ("feature", "channel", "state"):
        table.add_column(name, overflow="fold")
    for name in ("values", "null", "missing", "stale", "outliers", "drift"):
        table.add_column(name, justify="right")
    for row in sorted(made.features, key=_worst_first):
        if views and row.view not in views:
            continue
        for channel, each in row.figures.items():
            drift = "" if each.drift is None else _number(each.drift.effect)
            table.add_row(
                Text(f"{row.view}:{row.name}"),
                channel,
                Text(row.state, style=_STYLES[row.level]),
                f"{each.rows:,}",
                _share(each.null_share),
                _share(each.missing_share),
                _share(each.stale_share),
                _share(each.outlier_share),
                drift,
            )
    return table


def _worst_first(row: "FeatureRow") -> tuple[int, str, str]:
    from hotfeast.server.monitoring.report.model import LEVELS

    return -LEVELS.index(row.level), row.view, row.name


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
