"""The command line: `hotfeast serve`, `plan`, `materialize(-incremental)` and `repack`; those of
the modules `cli_*` are added to it."""

import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

try:
    import typer
except ImportError:
    sys.exit("the hotfeast command needs the server: pip install 'hotfeast[server]'")

from hotfeast.server import (
    cli_alerts,
    cli_audit,
    cli_auth,
    cli_client,
    cli_config,
    cli_consume,
    cli_diff,
    cli_health,
    cli_lint,
    cli_monitor,
    cli_profile,
    cli_traffic,
    cli_windows,
)
from hotfeast.server.cli_options import (
    RedisOption,
    RepoOption,
    ViewsOption,
    failures,
    option_time,
)
from hotfeast.server.settings import Settings

app = typer.Typer(
    help="Serves the features of a Feast repository from Redis over gRPC.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
app.add_typer(cli_monitor.app, name="monitor")
app.add_typer(cli_profile.app, name="profile")
app.add_typer(cli_alerts.app, name="alerts")
app.add_typer(cli_traffic.app, name="traffic")
app.add_typer(cli_auth.app, name="auth")
app.add_typer(cli_auth.token_app, name="token")
app.add_typer(cli_config.app, name="config")
app.command()(cli_client.get)
app.command()(cli_client.services)
app.command()(cli_client.describe)
app.command()(cli_client.push)
app.command()(cli_health.health)
app.command()(cli_audit.audit)
app.command()(cli_lint.lint)
app.command()(cli_diff.diff)
app.command("training-set")(cli_windows.training_set)
app.command()(cli_windows.backfill)
app.command()(cli_consume.consume)


class TransformsFrom(StrEnum):
    """Where the functions of on-demand views are loaded from."""

    registry = "registry"
    repo = "repo"


class Layout(StrEnum):
    """How rows are stored."""

    feast = "feast"
    dual = "dual"
    packed = "packed"


TransformsFromOption = Annotated[
    TransformsFrom,
    typer.Option(help="Where transforms' code comes from: the registry, or the repo's files."),
]


@app.callback()
def _root() -> None:
    """Serves the features of a Feast repository from Redis over gRPC."""


@app.command()
@cli_config.takes_settings
def serve(config: Path | None, flags: cli_config.Flags) -> None:
    """Serves a Feast repository until SIGTERM; SIGHUP has the settings read again and all workers
    replaced.

    Exit codes: 0 after a drain, 2 if the repository or a setting cannot be served.
    """
    with failures():
        found = cli_config.configuration(config, flags)
        settings = found.settings()
        # Only now: a wrong setting should be told at once.
        from hotfeast.server.config_watch import ConfigWatch
        from hotfeast.server.logs import set_up_logs
        from hotfeast.server.workers import Supervisor

        set_up_logs(settings.logs)

        def read() -> Settings:
            return cli_config.configuration(found.file, flags).settings()

        Supervisor(ConfigWatch(settings, found.file, read)).run(_say)


@app.command()
def plan(
    service: Annotated[str, typer.Argument(help="A feature service.")],
    repo: RepoOption,
    redis: RedisOption = None,
    transforms_from: TransformsFromOption = TransformsFrom.registry,
) -> None:
    """Shows what a feature service reads and computes, and how each on-demand view is computed.

    Of Redis only a sample of rows is read, to prove kernels on; it need not be there.

    Exit codes: 0, and 2 if the repository or the service cannot be served.
    """
    from rich.console import Console

    from hotfeast.server.cli_plan import show_plan

    with failures():
        show_plan(repo, service, Console(), redis, transforms_from is TransformsFrom.repo)


@app.command()
def doctor(
    repo: RepoOption = Path("."),
    redis: RedisOption = None,
) -> None:
    """Looks at the settings of a repository's Redis and at a sample of what it holds, and says what
    to change and what that would gain. Changes nothing.

    Exit codes: 0, 1 if rows are in danger, 2 if there is nothing to look at.
    """
    from rich.console import Console

    from hotfeast.server.doctor_report import examine_and_report

    with failures():
        code = examine_and_report(repo, redis, Console())
    raise typer.Exit(code)


class OnInvalid(StrEnum):
    """What becomes of invalid rows."""

    reject = "reject"
    skip = "skip"
    fail = "fail"


class Switch(StrEnum):
    """On or off."""

    on = "on"
    off = "off"


VersionOption = Annotated[
    str | None, typer.Option(help="Version such as v2 of the one view that --views names.")
]
LayoutOption = Annotated[
    Layout | None,
    typer.Option(
        help="How rows are stored of views whose tag hotfeast.layout does not say; unless given, "
        "as feature_store.yaml has it."
    ),
]
CheckOption = Annotated[
    Switch,
    typer.Option(
        "--event-time-check",
        help="off: write without a look at what is stored; for bulk loads into an empty store.",
    ),
]
MonitorDirOption = Annotated[
    Path | None,
    typer.Option(
        "--monitor-dir",
        help="Describe what is written for the monitoring: the --monitor-dir of the gateway.",
    ),
]
OnInvalidOption = Annotated[
    OnInvalid,
    typer.Option(
        help="Invalid rows: left out and exit code 1; left out and exit code 0; end of the run."
    ),
]


@app.command()
def materialize(
    start: Annotated[
        str | None, typer.Argument(help="ISO 8601 time; without a zone it is UTC.")
    ] = None,
    end: Annotated[str | None, typer.Argument(help="ISO 8601 time, inclusive.")] = None,
    repo: RepoOption = Path("."),
    views: ViewsOption = None,
    version: VersionOption = None,
    redis: RedisOption = None,
    layout: LayoutOption = None,
    event_time_check: CheckOption = Switch.on,
    on_invalid: OnInvalidOption = OnInvalid.reject,
    disable_event_timestamp: Annotated[
        bool,
        typer.Option(
            "--disable-event-timestamp", help="Everything up to now, instead of START and END."
        ),
    ] = False,
    monitor_dir: MonitorDirOption = None,
) -> None:
    """Writes the latest rows between START and END to Redis.

    Exit codes: 0 if all is written, 1 if anything was lost, 2 if it could not start, 130 after an
    interruption.
    """
    if disable_event_timestamp:
        if start is not None or end is not None:
            raise typer.BadParameter(
                "goes without START and END", param_hint="--disable-event-timestamp"
            )
        first, last = datetime(1970, 1, 1, tzinfo=UTC), datetime.now(UTC)
    else:
        first, last = _time(start, "START"), _time(end, "END")
    _materialize(
        first, last, repo, views, version, redis, layout, event_time_check, on_invalid, monitor_dir
    )


@app.command()
def materialize_incremental(
    end: Annotated[str, typer.Argument(help="ISO 8601 time, inclusive; without a zone it is UTC.")],
    repo: RepoOption = Path("."),
    views: ViewsOption = None,
    version: VersionOption = None,
    redis: RedisOption = None,
    layout: LayoutOption = None,
    event_time_check: CheckOption = Switch.on,
    on_invalid: OnInvalidOption = OnInvalid.reject,
    monitor_dir: MonitorDirOption = None,
) -> None:
    """Writes the rows since the last materialization of each view, up to END, to Redis.

    Exit codes as those of `materialize`.
    """
    last = _time(end, "END")
    _materialize(
        None, last, repo, views, version, redis, layout, event_time_check, on_invalid, monitor_dir
    )


@app.command()
def repack(
    to: Annotated[
        Layout,
        typer.Option(
            help="feast: Feast's fields. packed: one field a view, which Feast's SDK cannot read. "
            "dual: both."
        ),
    ],
    repo: RepoOption = Path("."),
    views: ViewsOption = None,
    redis: RedisOption = None,
    batch: Annotated[int, typer.Option(min=1, help="Keys that Redis is asked for at once.")] = 256,
    rate: Annotated[
        float | None, typer.Option(min=1.0, help="Rows a second at most; no limit unless given.")
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew where a run was interrupted.")
    ] = False,
) -> None:
    """Puts all stored rows into another layout, while they are served and written.

    A run that was interrupted within the last day goes on where it stopped.

    Exit codes: 0 if all rows are in the layout, 1 if some could not be read or Redis failed, 2 if
    it could not start, 130 after an interruption.
    """
    from hotfeast.server.repack_report import run_and_report

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    code = run_and_report(
        repo,
        to.value,
        views or None,
        redis_url=redis,
        keys_at_once=batch,
        rate=rate,
        restart=restart,
    )
    raise typer.Exit(code)


def _time(text: str | None, name: str) -> datetime:
    time = option_time(text, name)
    if time is None:
        raise typer.BadParameter("is missing", param_hint=name)
    return time


def _materialize(
    start: datetime | None,
    end: datetime,
    repo: Path,
    views: list[str] | None,
    version: str | None,
    redis: str | None,
    layout: Layout | None,
    check: Switch,
    on_invalid: OnInvalid,
    monitor_dir: Path | None,
) -> None:
    # Only now: Feast takes seconds to import, and a wrong option should be told at once.
    from hotfeast.server.materialize_report import run_and_report

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    code = run_and_report(
        repo,
        start,
        end,
        views or None,
        version=version,
        redis_url=redis,
        layout=layout.value if layout is not None else None,
        event_time_check=check is Switch.on,
        on_invalid=on_invalid.value,
        monitor_dir=monitor_dir,
    )
    raise typer.Exit(code)


def _say(line: str) -> None:
    typer.echo(line)
    sys.stdout.flush()


def main() -> None:
    """The `hotfeast` command."""
    app()
