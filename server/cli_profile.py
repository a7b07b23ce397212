"""`hotfeast profile`: what feature services' values were like in training, for drift."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hotfeast.server.cli_options import ProfilesOption, RepoOption, failures, option_time

if TYPE_CHECKING:
    from rich.table import Table

    from hotfeast.server.monitoring.profiles import Profile, ProfileStore

app = typer.Typer(
    help="Profiles of feature services: what their values were like in training.",
    no_args_is_help=True,
)


@app.command()
def build(
    service: Annotated[str, typer.Argument(help="A feature service.")],
    repo: RepoOption = Path("."),
    entities: Annotated[
        Path | None,
        typer.Option(
            help="Parquet or CSV file with the rows of a training set: join keys, request data and "
            "event_timestamp. Rows are drawn from the batch sources unless given."
        ),
    ] = None,
    rows: Annotated[
        int, typer.Option(min=1, help="Rows to draw from each batch source, without --entities.")
    ] = 10_000,
    seed: Annotated[int, typer.Option(help="Of drawing them.")] = 7,
    start: Annotated[
        str | None, typer.Option(help="ISO 8601 time of the first row that may be drawn.")
    ] = None,
    end: Annotated[
        str | None, typer.Option(help="ISO 8601 time of the last row that may be drawn.")
    ] = None,
    profiles: ProfilesOption = None,
) -> None:
    """Builds a profile through Feast's get_historical_features and keeps it as the next version.

    Exit codes: 0, and 2 if it cannot be built.
    """
    first, last = option_time(start, "--start"), option_time(end, "--end")
    with _failures():
        from hotfeast.server.monitoring.profile_build import (
            ProfileBuilder,
            profile_store,
            read_entities,
        )
        from hotfeast.server.repository import open_repository

        store = open_repository(repo)
        kept = profile_store(store, profiles)
        builder = ProfileBuilder(store)
        left_out: list[str] = []
        if entities is not None:
            frame = read_entities(entities)
            source = f"{len(frame):,} rows of {entities.name}"
            profile = builder.of_entities(service, frame, source)
        else:
            profile, left_out = builder.of_samples(service, rows, seed, first, last)
        saved = kept.save(profile)
    typer.echo(
        f"profile {saved.version} of {service}: {len(saved.features)} features of "
        f"{saved.source}, in {kept.folder}"
    )
    if left_out:
        typer.echo(f"without {', '.join(left_out)}: on-demand views need --entities")


@app.command("list")
def list_profiles(repo: RepoOption = Path("."), profiles: ProfilesOption = None) -> None:
    """Lists the profiles that there are.

    Exit codes: 0, and 2 if there is no such repository or a profile cannot be read.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    with _failures():
        store = _store(repo, profiles)
        kept = [
            store.load(service, version)
            for service in store.services()
            for version in store.versions(service)
        ]
    if not kept:
        typer.echo(f"there are no profiles in {store.folder}")
        return
    table = Table()
    for heading in ("service", "version", "made", "features", "rows", "of"):
        table.add_column(heading, overflow="fold")
    for profile in kept:
        table.add_row(
            Text(profile.service),
            str(profile.version),
            f"{profile.made_at:%Y-%m-%d %H:%M}",
            str(len(profile.features)),
            f"{profile.rows:,}",
            Text(profile.source),
        )
    Console().print(table)


@app.command()
def show(
    service: Annotated[str, typer.Argument(help="A feature service.")],
    repo: RepoOption = Path("."),
    version: Annotated[
        int | None, typer.Option(min=1, help="Of the profile; the latest unless given.")
    ] = None,
    profiles: ProfilesOption = None,
) -> None:
    """Shows the figures of a profile.

    Exit codes: 0, and 2 if there is no such profile or it cannot be read.
    """
    from hotfeast.server.terminal import consoles

    with _failures():
        profile = _store(repo, profiles).load(service, version)
    console, _ = consoles()
    console.print(_table(profile))


def _table(profile: "Profile") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=f"Profile {profile.version} of {profile.service}: {profile.source}",
        title_justify="left",
    )
    for heading in ("view", "feature", "kind", "rows", "null", "mean", "std", "5%", "50%", "95%"):
        table.add_column(heading, overflow="fold")
    table.add_column("distinct")
    table.add_column("most frequent", overflow="fold")
    for (view, feature), statistics in profile.features.items():
        summary = statistics.summary()
        figures = [summary["mean"], summary["std"]]
        figures += [summary["quantiles"].get(rank) for rank in ("0.05", "0.5", "0.95")]
        table.add_row(
            Text(view),
            Text(feature),
            summary["kind"],
            f"{statistics.rows:,}",
            f"{statistics.null_share:.1%}" if statistics.rows else "",
            *("" if figure is None else f"{figure:.4g}" for figure in figures),
            "" if summary["distinct"] is None else f"{summary['distinct']:,}",
            Text(", ".join(top["value"][:24] for top in summary["top"][:3])),
        )
    return table


def _store(repo: Path, profiles: Path | None) -> "ProfileStore":
    from hotfeast.server.monitoring.profiles import ProfileStore

    if profiles is not None:
        return ProfileStore(profiles)
    from hotfeast.server.monitoring.profile_build import profile_store
    from hotfeast.server.repository import open_repository

    return profile_store(open_repository(repo))


@contextmanager
def _failures() -> Iterator[None]:
    """As `failures`, also for profiles and files."""
    from hotfeast.server.errors import StartFailure
    from hotfeast.server.monitoring.profiles import ProfileError

    with failures():
        try:
            yield
        except (ProfileError, OSError) as error:
            raise StartFailure(str(error)) from error
