"""`hotfeast consume`: a Redis stream into a push source."""

import logging
import signal
import socket
import sys
import threading
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from hotfeast.server.cli_options import RedisOption, RepoOption, failures
from hotfeast.server.forms import parse_address


class Target(StrEnum):
    """Where rows go."""

    online = "online"
    offline = "offline"
    both = "online_and_offline"


class Begin(StrEnum):
    """Where a new group begins."""

    all = "all"
    new = "new"


def consume(
    push_source: Annotated[str, typer.Argument(help="The push source that entries go to.")],
    stream: Annotated[str, typer.Option(help="Key of the Redis stream.")],
    source: Annotated[
        str, typer.Option("--from", help="redis://, rediss:// or unix:// URL of the stream.")
    ],
    repo: RepoOption = Path("."),
    group: Annotated[str, typer.Option(help="Consumer group; made if it is not there.")] = (
        "hotfeast"
    ),
    consumer: Annotated[
        str | None,
        typer.Option(help="Name in the group, which no other has; the host's unless given."),
    ] = None,
    begin: Annotated[
        Begin, typer.Option(help="A new group begins with all entries, or with new ones.")
    ] = Begin.all,
    target: Annotated[Target, typer.Option(help="Where rows go.")] = Target.online,
    batch: Annotated[int, typer.Option(min=1, help="Entries stored at once at most.")] = 500,
    claim_after: Annotated[
        float,
        typer.Option(min=1, help="Seconds after which another's entries are taken over."),
    ] = 60.0,
    rejected: Annotated[
        str | None,
        typer.Option(help="Stream for what cannot be stored; the stream's key and :rejected."),
    ] = None,
    redis: RedisOption = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Page of figures for Prometheus.")
    ] = None,
) -> None:
    """Consumes a Redis stream into a push source: at least once, by a consumer group. An entry has
    a field for each column, as text, or one field json. Runs until SIGTERM or Ctrl-C.

    Exit codes: 0, 2 if it could not start or go on.
    """
    page = None
    if metrics is not None:
        try:
            page = parse_address(metrics)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--metrics") from error
    # Only now: Feast takes seconds to import, and a wrong option should be told at once.
    from redis import Redis, RedisError

    from hotfeast.server import consume as consuming
    from hotfeast.server.consume_figures import ConsumerFigures
    from hotfeast.server.errors import RequestFailure
    from hotfeast.server.push_rows import BOTH, OFFLINE, ONLINE
    from hotfeast.server.repository import open_repository

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    targets = {Target.online: ONLINE, Target.offline: OFFLINE, Target.both: BOTH}
    options = consuming.StreamOptions(
        stream=stream,
        group=group,
        consumer=consumer or socket.gethostname(),
        push_source=push_source,
        target=targets[target],
        begin="0" if begin is Begin.all else "$",
        batch=batch,
        claim_after=claim_after,
        rejected=f"{stream}:rejected" if rejected is None else rejected,
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with failures():
        try:
            client: Any = Redis.from_url(source)
            figures = ConsumerFigures(stream, group)
            runner = consuming.StreamConsumer(
                open_repository(repo), options, client, redis, tell=figures.told
            )
            if page is not None:
                figures.serve(*page)
            typer.echo(f"Hotfeast consumes {stream} into {push_source} as {options.consumer}")
            runner.run(stop)
        except (RequestFailure, RedisError, ValueError, OSError) as error:
            message = error.message if isinstance(error, RequestFailure) else str(error)
            typer.echo(f"hotfeast: {message}", err=True)
            raise typer.Exit(2) from None
    counts = ", ".join(f"{n} {name}" for name, n in sorted(runner.consumed.outcomes.items()))
    typer.echo(f"Stopped: {counts or 'nothing was consumed'}")
