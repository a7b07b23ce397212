"""The command line: `hotfeast serve`, `plan`, `materialize(-incremental)` and `repack`; those of
the modules `cli_*` are added to it."""

import logging
import os
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
    cli_client,
    cli_diff,
    cli_lint,
    cli_monitor,
    cli_profile,
    cli_traffic,
)
from hotfeast.server.cli_options import (
    RedisOption,
    RepoOption,
    ViewsOption,
    failures,
    option_time,
)

app = typer.Typer(
    help="Serves the features of a Feast repository from Redis over gRPC.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
app.add_typer(cli_monitor.app, name="monitor")
app.add_typer(cli_profile.app, name="profile")
app.add_typer(cli_alerts.app, name="alerts")
app.add_typer(cli_traffic.app, name="traffic")
app.command()(cli_client.get)
app.command()(cli_client.services)
app.command()(cli_client.describe)
app.command()(cli_client.push)
app.command()(cli_audit.audit)
app.command()(cli_lint.lint)
app.command()(cli_diff.diff)


class TransformsFrom(StrEnum):
    """Where the functions of on-demand views are loaded from."""

    registry = "registry"
    repo = "repo"


class Layout(StrEnum):
    """How rows are stored."""

    feast = "feast"
    dual = "dual"
    packed = "packed"


class Server(StrEnum):
    """What clients speak with."""

    native = "native"
    grpcio = "grpcio"


class StatusMode(StrEnum):
    """How statuses are judged."""

    strict = "strict"
    feast = "feast"


class Transforms(StrEnum):
    """How on-demand views are computed."""

    kernel = "kernel"
    python = "python"
    verify = "verify"


TransformsFromOption = Annotated[
    TransformsFrom,
    typer.Option(help="Where transforms' code comes from: the registry, or the repo's files."),
]


@app.callback()
def _root() -> None:
    """Serves the features of a Feast repository from Redis over gRPC."""


def parse_address(text: str) -> tuple[str, int]:
    """Splits `HOST:PORT`; an IPv6 host stands in brackets.

    Raises:
        ValueError: It is none.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} must have the form HOST:PORT, for example 127.0.0.1:6570")
    return host, int(port)


def parse_cpus(text: str) -> tuple[int, ...]:
    """Numbers of CPUs from a list as taskset takes it, such as 1 or 2-5,7.

    Raises:
        ValueError: It is none, or one of them cannot be used here.
    """
    # Only Linux has it.
    usable = getattr(os, "sched_getaffinity", lambda _: set[int]())(0)
    cpus: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(f"{text!r} is no list of CPUs such as 1 or 2-5,7")
        cpus += range(int(first), int(last or first) + 1)
    if unusable := sorted(set(cpus) - usable):
        raise ValueError(
            f"CPU {unusable[0]} cannot be used here; those that can are "
            f"{', '.join(map(str, sorted(usable))) or 'not known on this system'}"
        )
    if not cpus:
        raise ValueError(f"{text!r} names no CPU")
    return tuple(cpus)


@app.command()
def serve(
    repo: RepoOption,
    bind: Annotated[
        str, typer.Option(help="Address to listen on; port 0 for any free one.")
    ] = "127.0.0.1:6570",
    redis: RedisOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the port.")] = 1,
    cpus: Annotated[
        str | None,
        typer.Option(
            help="CPUs that workers stay on, each on one of them in turn, such as 1 or 2-5,7; the "
            "system's choice unless given."
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, help="Requests that each worker works on at once.")
    ] = 16,
    transform_threads: Annotated[
        int,
        typer.Option(min=1, help="Requests that run Python transforms at once, per worker."),
    ] = 1,
    redis_timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds to connect to Redis, and for a round trip.")
    ] = 1.0,
    registry_interval: Annotated[
        float, typer.Option(min=0.1, help="Seconds between two looks at the registry.")
    ] = 5.0,
    drain: Annotated[
        float, typer.Option(min=0.0, help="Seconds for requests in flight after SIGTERM.")
    ] = 30.0,
    status_mode: Annotated[
        StatusMode,
        typer.Option(help="strict: the truth. feast: what Feast's Python server answers."),
    ] = StatusMode.strict,
    server: Annotated[
        Server,
        typer.Option(
            help="What clients speak with. native: the gateway's own gRPC server. grpcio: Google's."
        ),
    ] = Server.native,
    transforms: Annotated[
        Transforms,
        typer.Option(
            help="How on-demand views are computed. kernel: compiled where that is possible. "
            "python: by their functions. verify: a share of requests by both, to compare them."
        ),
    ] = Transforms.kernel,
    layout: Annotated[
        Layout | None,
        typer.Option(
            help="How pushed rows are stored, and looked for first, where a view's tag "
            "hotfeast.layout does not say; unless given, as feature_store.yaml has it. "
            "feast: in Feast's fields. packed: in one field a view. dual: in both."
        ),
    ] = None,
    cache_mb: Annotated[
        int,
        typer.Option(min=0, help="Megabytes of rows that each worker keeps in memory; 0 for none."),
    ] = 0,
    cache_staleness: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1e9,
            help="Seconds that an answer from the cache may be old, where a view's tag "
            "hotfeast.cache does not say.",
        ),
    ] = 1.0,
    push_streams: Annotated[
        int, typer.Option(min=0, help="Push streams that each worker has open at once.")
    ] = 16,
    push_future_limit: Annotated[
        float,
        typer.Option(min=0.0, help="Seconds that a pushed row's event time may be in the future."),
    ] = 86400.0,
    transforms_from: TransformsFromOption = TransformsFrom.registry,
    handshake_timeout: Annotated[
        float,
        typer.Option(min=0.0, help="Seconds until a client must have said that it speaks HTTP/2."),
    ] = 20.0,
    max_connection_idle: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Seconds without a call after which a client is sent elsewhere; 0: never.",
        ),
    ] = 0.0,
    max_connection_age: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Seconds, a tenth more or less, after which a client is sent elsewhere, to spread "
            "clients over gateways; 0: never.",
        ),
    ] = 0.0,
    max_connection_age_grace: Annotated[
        float,
        typer.Option(
            min=0.0, help="Seconds for the calls of a client that is sent elsewhere; 0: no limit."
        ),
    ] = 30.0,
    keepalive_time: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Seconds of silence after which a client is asked whether it is there; 0: never.",
        ),
    ] = 7200.0,
    keepalive_timeout: Annotated[
        float, typer.Option(min=0.0, help="Seconds for its answer.")
    ] = 20.0,
    metrics: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of a page of figures for Prometheus; none unless given."),
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(help="Judge TTLs at this ISO 8601 time instead of now, for past data."),
    ] = None,
    monitor: Annotated[
        bool, typer.Option("--monitor", help="Watch the features that are served and pushed.")
    ] = False,
    monitor_rate: Annotated[
        int, typer.Option(min=1, help="One of how many requests is looked at, with --monitor.")
    ] = 100,
    monitor_window: Annotated[
        int, typer.Option(min=1, help="Seconds of a window of statistics; must divide an hour.")
    ] = 300,
    monitor_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder for what is seen, kept over restarts and shared with materializations; "
            "unless given, it goes with the gateway."
        ),
    ] = None,
    alert_rules: Annotated[
        Path | None,
        typer.Option(help="Alert rules in YAML, with --monitor; the repository's unless given."),
    ] = None,
    alert_interval: Annotated[
        float,
        typer.Option(min=1.0, help="Seconds between two evaluations of alert rules and drift."),
    ] = 60.0,
    profiles: Annotated[
        Path | None,
        typer.Option(help="Folder of profiles, with --monitor; beside the registry unless given."),
    ] = None,
    feature_log: Annotated[
        Path | None,
        typer.Option(
            help="Log served features to Parquet as the logging_config of each feature service "
            "says; a folder for those that name none."
        ),
    ] = None,
    feature_log_rate: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Share of requests that is logged of feature services without a logging_config.",
        ),
    ] = 0.0,
    feature_log_mb: Annotated[
        int, typer.Option(min=1, help="Megabytes after which a file of the log is complete.")
    ] = 128,
    feature_log_seconds: Annotated[
        float, typer.Option(min=1.0, help="Seconds after which a file of the log is complete.")
    ] = 300.0,
    aliases: Annotated[
        Path | None,
        typer.Option(
            help="Names that stand for several feature services with their shares, in YAML; to be "
            "changed by 'hotfeast traffic' or by hand while it serves."
        ),
    ] = None,
    refuse_sunset: Annotated[
        bool,
        typer.Option(
            "--refuse-sunset", help="Refuse requests that read something past its tag sunset."
        ),
    ] = False,
) -> None:
    """Serves a Feast repository until SIGTERM; SIGHUP has all workers replaced.

    Exit codes: 0 after a drain, 2 if the repository or an option cannot be served.
    """
    try:
        host, port = parse_address(bind)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--bind") from error
    try:
        metrics_address = parse_address(metrics) if metrics is not None else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--metrics") from error
    try:
        cpu_list = parse_cpus(cpus) if cpus is not None else ()
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--cpus") from error
    clock = option_time(as_of, "--as-of")
    if 3600 % monitor_window:
        raise typer.BadParameter(
            f"{monitor_window} s do not divide an hour; 300 do", param_hint="--monitor-window"
        )
    # Only now: a wrong option should be told at once.
    from hotfeast.server.logs import set_up_logs
    from hotfeast.server.settings import (
        ConnectionLimits,
        FeatureLogSettings,
        MonitorSettings,
        Settings,
        TrafficSettings,
    )
    from hotfeast.server.workers import Supervisor

    set_up_logs()
    settings = Settings(
        repo=repo,
        host=host,
        port=port,
        redis_url=redis,
        redis_timeout=redis_timeout,
        registry_interval=registry_interval,
        threads=threads,
        transform_threads=transform_threads,
        push_streams=push_streams,
        push_future_limit=push_future_limit,
        drain=drain,
        as_of=clock,
        cpus=cpu_list,
        status_mode=status_mode.value,
        server=server.value,
        transforms=transforms.value,
        transforms_from=transforms_from.value,
        layout=layout.value if layout is not None else None,
        cache_mb=cache_mb,
        cache_staleness=cache_staleness,
        connections=ConnectionLimits(
            handshake=handshake_timeout,
            idle=max_connection_idle,
            age=max_connection_age,
            age_grace=max_connection_age_grace,
            keepalive=keepalive_time,
            keepalive_answer=keepalive_timeout,
        ),
        metrics=metrics_address,
        monitor=MonitorSettings(
            monitor_dir, monitor_rate, monitor_window, alert_rules, profiles, alert_interval
        )
        if monitor
        else None,
        feature_log=FeatureLogSettings(
            feature_log, feature_log_rate, feature_log_mb * 2**20, feature_log_seconds
        )
        if feature_log is not None
        else None,
        traffic=TrafficSettings(aliases) if aliases is not None else None,
        refuse_sunset=refuse_sunset,
    )
    with failures():
        Supervisor(settings, workers).run(_say)


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
