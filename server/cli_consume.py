"""`hotfeast consume`: a Redis stream, or a Kafka topic, into a push source."""

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
from hotfeast.server.settings import PageSettings, PageTls

# Properties of librdkafka that are secrets.
_SECRETS = {
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.config",
    "sasl.password",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.password",
}


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
    stream: Annotated[str, typer.Option(help="Key of the Redis stream, or a Kafka topic.")],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            envvar="HOTFEAST_FROM",
            help="redis://, rediss:// or unix:// URL of the stream, or kafka://HOST:PORT,...",
        ),
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
        float | None,
        typer.Option(
            min=1,
            help="Seconds after which another's entries of a Redis stream are taken over; 60 "
            "unless given.",
        ),
    ] = None,
    rejected: Annotated[
        str | None,
        typer.Option(
            help="Stream or topic for what cannot be stored, none if empty; the stream's key and "
            ":rejected, or the topic's name and .rejected, unless given."
        ),
    ] = None,
    kafka_config: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A property of librdkafka, such as for TLS."),
    ] = None,
    kafka_config_file: Annotated[
        Path | None,
        typer.Option(help="File of such properties, a line each; the place for passwords."),
    ] = None,
    redis: RedisOption = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Page of figures for Prometheus.")
    ] = None,
    metrics_token_file: Annotated[
        Path | None,
        typer.Option(
            help="File of tokens ('hotfeast token new'), one of which whoever asks for figures has "
            "to have."
        ),
    ] = None,
    metrics_tls_cert: Annotated[
        Path | None,
        typer.Option(help="The page's certificate chain in PEM: figures are served over HTTPS."),
    ] = None,
    metrics_tls_key: Annotated[
        Path | None, typer.Option(help="Its private key in PEM, without a passphrase.")
    ] = None,
    metrics_tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            help="Authorities in PEM: whoever asks for figures has to have a certificate of theirs."
        ),
    ] = None,
    metrics_allow_unauthenticated: Annotated[
        bool,
        typer.Option(
            "--metrics-allow-unauthenticated",
            help="Serve figures on an address that others reach, though nobody is asked who calls.",
        ),
    ] = False,
    metrics_allow_plaintext: Annotated[
        bool,
        typer.Option(
            "--metrics-allow-plaintext",
            help="Take tokens for figures on an address that others reach, though nothing is "
            "encrypted here.",
        ),
    ] = False,
) -> None:
    """Consumes a Redis stream or a Kafka topic into a push source: at least once, by a consumer
    group. An entry has a field for each column, as text, or one field json; a message of Kafka is
    a JSON object. Runs until SIGTERM or Ctrl-C.

    Exit codes: 0, 2 if it could not start or go on.
    """
    page = None
    if metrics is not None:
        try:
            page = parse_address(metrics)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--metrics") from error
    guarded = _page_settings(
        metrics,
        metrics_token_file,
        metrics_tls_cert,
        metrics_tls_key,
        metrics_tls_client_ca,
        metrics_allow_unauthenticated,
        metrics_allow_plaintext,
    )
    kafka = source.startswith("kafka://")
    if kafka and claim_after is not None:
        raise typer.BadParameter("Kafka's brokers say it", param_hint="--claim-after")
    if not kafka and (kafka_config or kafka_config_file):
        raise typer.BadParameter("only for --from kafka://", param_hint="--kafka-config")
    config = read_config(kafka_config or [], kafka_config_file)
    if page is not None:
        from hotfeast.server.security.exposure import check_page_exposure

        with failures():
            check_page_exposure(page, guarded)
    # Only now: Feast takes seconds to import, and a wrong option should be told at once.
    from redis import RedisError
    from redis.exceptions import RedisClusterException

    from hotfeast.server import consume as consuming
    from hotfeast.server.consume_figures import ConsumerFigures
    from hotfeast.server.errors import RequestFailure
    from hotfeast.server.push_rows import BOTH, OFFLINE, ONLINE
    from hotfeast.server.repository import open_repository

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    common: dict[str, Any] = {
        "group": group,
        "consumer": consumer or socket.gethostname(),
        "push_source": push_source,
        "target": {Target.online: ONLINE, Target.offline: OFFLINE, Target.both: BOTH}[target],
        "batch": batch,
    }
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    refusals: tuple[type[Exception], ...] = (
        RequestFailure, RedisError, RedisClusterException, ValueError, OSError,
    )  # fmt: skip
    with failures():
        if kafka:
            # Only now: it says what to install if that is not there.
            from hotfeast.server import consume_kafka

            refusals = (*refusals, consume_kafka.TopicRefused)
        figures = ConsumerFigures(stream, group)
        runner: Any
        try:
            if kafka:
                topic = consume_kafka.TopicOptions(
                    topic=stream,
                    servers=consume_kafka.parse_servers(source),
                    begin_new=begin is Begin.new,
                    rejected=f"{stream}.rejected" if rejected is None else rejected,
                    config=config,
                    **common,
                )
                runner = consume_kafka.TopicConsumer(
                    open_repository(repo), topic, redis, tell=figures.told
                )
            else:
                options = consuming.StreamOptions(
                    stream=stream,
                    begin="0" if begin is Begin.all else "$",
                    claim_after=60.0 if claim_after is None else claim_after,
                    rejected=f"{stream}:rejected" if rejected is None else rejected,
                    **common,
                )
                runner = consuming.StreamConsumer(
                    open_repository(repo),
                    options,
                    consuming.open_source(source),
                    redis,
                    tell=figures.told,
                )
            if page is not None:
                figures.serve(page, guarded)
            typer.echo(f"Hotfeast consumes {stream} into {push_source} as {common['consumer']}")
            runner.run(stop)
        except refusals as error:
            message = error.message if isinstance(error, RequestFailure) else str(error)
            typer.echo(f"hotfeast: {message}", err=True)
            raise typer.Exit(2) from None
    counts = ", ".join(f"{n} {name}" for name, n in sorted(runner.consumed.outcomes.items()))
    typer.echo(f"Stopped: {counts or 'nothing was consumed'}")


def _page_settings(
    metrics: str | None,
    tokens: Path | None,
    certificate: Path | None,
    key: Path | None,
    client_ca: Path | None,
    allow_unauthenticated: bool,
    allow_plaintext: bool,
) -> PageSettings:
    """Who may see the page of figures.

    Raises:
        typer.BadParameter: Options do not go together.
    """
    given = {
        "--metrics-token-file": tokens,
        "--metrics-tls-cert": certificate,
        "--metrics-tls-key": key,
        "--metrics-tls-client-ca": client_ca,
    }
    for option, value in given.items():
        if value is not None and metrics is None:
            raise typer.BadParameter("goes with --metrics", param_hint=option)
    tls = None
    if certificate is not None and key is not None:
        tls = PageTls(certificate, key, client_ca)
    elif certificate is not None or key is not None or client_ca is not None:
        raise typer.BadParameter(
            "goes with the certificate and its key: give both",
            param_hint="--metrics-tls-key" if certificate is not None else "--metrics-tls-cert",
        )
    return PageSettings(tokens, tls, allow_unauthenticated, allow_plaintext)


def read_config(given: list[str], file: Path | None) -> dict[str, str]:
    """Properties of librdkafka; those on the command line go before those of a file.

    Raises:
        typer.BadParameter: A line is none, or a secret is on the command line. Neither is repeated.
    """
    lines = []
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise typer.BadParameter(str(error), param_hint="--kafka-config-file") from error
    config = {}
    for hint, texts in (("--kafka-config-file", lines), ("--kafka-config", given)):
        for number, text in enumerate(texts, 1):
            if hint == "--kafka-config-file" and (not text.strip() or text.startswith("#")):
                continue
            name, equals, value = text.partition("=")
            if hint == "--kafka-config" and name.strip() in _SECRETS:
                raise typer.BadParameter(
                    f"others can see {name.strip()} here: put it into --kafka-config-file",
                    param_hint=hint,
                )
            if not equals or not name.strip():
                raise typer.BadParameter(f"number {number} is not KEY=VALUE", param_hint=hint)
            config[name.strip()] = value.strip()
    return config
