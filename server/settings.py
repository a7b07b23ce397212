"""How a gateway runs. Each setting that people have is defined here, once; see `options`."""

import socket
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, NamedTuple

from hotfeast.server.forms import ADDRESS, CPUS, LEVELS, LOGGERS, TIME, check_window
from hotfeast.server.options import Applies, Setting


class WorkerFiles(NamedTuple):
    """Where a worker keeps its figures.

    Attributes:
        folder: The supervisor's.
        worker: Its number, which no other live worker has.
    """

    folder: Path
    worker: int


class MonitorSettings(NamedTuple):
    """How features are monitored. Without a folder what is seen goes with its supervisor."""

    folder: Annotated[
        Path | None,
        Setting(
            "Folder for what is seen, kept over restarts and shared with materializations; unless "
            "given, it goes with the gateway.",
            name="monitor_dir",
            applies=Applies.RESTART,
        ),
    ] = None
    every: Annotated[
        int, Setting("One of how many reads is looked at.", name="monitor_rate", ge=1)
    ] = 100
    seconds: Annotated[
        int,
        Setting(
            "Seconds of a window of statistics; must divide an hour.",
            name="monitor_window",
            ge=1,
            check=check_window,
            applies=Applies.RESTART,
        ),
    ] = 300
    rules: Annotated[
        Path | None,
        Setting(
            "Alert rules in YAML; the repository's unless given.",
            name="alert_rules",
            applies=Applies.RESTART,
        ),
    ] = None
    profiles: Annotated[
        Path | None,
        Setting("Folder of profiles; beside the registry unless given.", applies=Applies.RESTART),
    ] = None
    interval: Annotated[
        float,
        Setting(
            "Seconds between two evaluations of alert rules and drift.",
            name="alert_interval",
            ge=1,
        ),
    ] = 60.0


class FeatureLogSettings(NamedTuple):
    """How served features are logged."""

    folder: Annotated[
        Path,
        Setting(
            "Log served features to Parquet as the logging_config of each feature service says; a "
            "folder for those that name none.",
            name="feature_log",
        ),
    ]
    rate: Annotated[
        float,
        Setting(
            "Share of requests that is logged of feature services without a logging_config.",
            name="feature_log_rate",
            ge=0,
            le=1,
        ),
    ] = 0.0
    size: Annotated[
        int,
        Setting(
            "Megabytes after which a file of the log is complete.",
            name="feature_log_mb",
            ge=1,
            scale=2**20,
        ),
    ] = 128 * 2**20
    seconds: Annotated[
        float,
        Setting(
            "Seconds after which a file of the log is complete.", name="feature_log_seconds", ge=1
        ),
    ] = 300.0


class TrafficSettings(NamedTuple):
    """How versions are served side by side.

    Attributes:
        folder: Where workers keep what shadow reads found; None for a process of its own.
    """

    aliases: Annotated[
        Path,
        Setting(
            "Names that stand for several feature services with their shares, in YAML; to be "
            "changed by 'hotfeast traffic' or by hand while it serves.",
        ),
    ]
    folder: Path | None = None


class TlsSettings(NamedTuple):
    """How connections of clients are encrypted. The files are read again when they change.

    Attributes:
        interval: Seconds between two looks at the files.
    """

    certificate: Annotated[
        Path,
        Setting(
            "The gateway's certificate chain in PEM: clients are served over TLS.", name="tls_cert"
        ),
    ]
    key: Annotated[Path, Setting("Its private key in PEM, without a passphrase.", name="tls_key")]
    client_ca: Annotated[
        Path | None,
        Setting(
            "Authorities in PEM: clients have to have a certificate of theirs (mTLS).",
            name="tls_client_ca",
        ),
    ] = None
    client_auth: Annotated[
        str,
        Setting(
            "optional: clients may come without a certificate.",
            name="tls_client_auth",
            choices=("require", "optional"),
        ),
    ] = "require"
    interval: float = 10.0

    @property
    def requires_clients(self) -> bool:
        """Whether no client goes without a certificate."""
        return self.client_ca is not None and self.client_auth == "require"

    @property
    def option(self) -> str:
        """What the names of its options begin with."""
        return "--tls"

    @property
    def protocols(self) -> tuple[str, ...]:
        """What is spoken behind TLS (ALPN)."""
        return ("h2",)


class PageTls(NamedTuple):
    """How the page of figures is encrypted. The files are read again when they change.

    Attributes:
        interval: Seconds between two looks at the files.
    """

    certificate: Annotated[
        Path,
        Setting(
            "The page's certificate chain in PEM, which may be the gateway's: figures are served "
            "over HTTPS.",
            name="metrics_tls_cert",
            needs="metrics",
            applies=Applies.RESTART,
        ),
    ]
    key: Annotated[
        Path,
        Setting(
            "Its private key in PEM, without a passphrase.",
            name="metrics_tls_key",
            needs="metrics",
            applies=Applies.RESTART,
        ),
    ]
    client_ca: Annotated[
        Path | None,
        Setting(
            "Authorities in PEM: whoever asks for figures has to have a certificate of theirs; "
            "/live and /ready are for all.",
            name="metrics_tls_client_ca",
            needs="metrics",
            applies=Applies.RESTART,
        ),
    ] = None
    interval: float = 10.0

    @property
    def requires_clients(self) -> bool:
        """Whether no connection goes without a certificate: probes have none."""
        return False

    @property
    def option(self) -> str:
        """What the names of its options begin with."""
        return "--metrics-tls"

    @property
    def protocols(self) -> tuple[str, ...]:
        """What is spoken behind TLS (ALPN)."""
        return ("http/1.1",)


@dataclass(frozen=True, slots=True)
class PageSettings:
    """Who may see the page of figures."""

    tokens: Annotated[
        Path | None,
        Setting(
            "File of tokens, as 'hotfeast token new' makes it, one of which whoever asks for "
            "figures has to have; /live and /ready are for all. Read again when it changes.",
            name="metrics_token_file",
            needs="metrics",
            applies=Applies.RESTART,
        ),
    ] = None
    tls: PageTls | None = None
    allow_unauthenticated: Annotated[
        bool,
        Setting(
            "Serve figures on an address that others reach, though nobody is asked who calls; "
            "allow_unauthenticated says that, too.",
            name="metrics_allow_unauthenticated",
            needs="metrics",
            applies=Applies.RESTART,
        ),
    ] = False
    allow_plaintext: Annotated[
        bool,
        Setting(
            "Take tokens for figures on an address that others reach, though nothing is encrypted "
            "here.",
            name="metrics_allow_plaintext",
            needs="metrics",
            applies=Applies.RESTART,
        ),
    ] = False


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How long clients' connections may be silent, and last. Seconds, 0 for no limit."""

    handshake: Annotated[
        float,
        Setting(
            "Seconds until a client must have said that it speaks HTTP/2.",
            name="handshake_timeout",
            ge=0,
            applies=Applies.AT_ONCE,
        ),
    ] = 20.0
    idle: Annotated[
        float,
        Setting(
            "Seconds without a call after which a client is sent elsewhere (GOAWAY); 0: never.",
            name="max_connection_idle",
            ge=0,
            applies=Applies.AT_ONCE,
        ),
    ] = 0.0
    age: Annotated[
        float,
        Setting(
            "Seconds, a tenth more or less, after which a client is sent elsewhere, to spread "
            "clients over gateways; 0: never.",
            name="max_connection_age",
            ge=0,
            applies=Applies.AT_ONCE,
        ),
    ] = 0.0
    age_grace: Annotated[
        float,
        Setting(
            "Seconds for the calls of a client that is sent elsewhere; 0: no limit.",
            name="max_connection_age_grace",
            ge=0,
            applies=Applies.AT_ONCE,
        ),
    ] = 30.0
    keepalive: Annotated[
        float,
        Setting(
            "Seconds of silence after which a client is asked whether it is there (PING); 0: "
            "never.",
            name="keepalive_time",
            ge=0,
            applies=Applies.AT_ONCE,
        ),
    ] = 7200.0
    keepalive_answer: Annotated[
        float,
        Setting("Seconds for its answer.", name="keepalive_timeout", ge=0, applies=Applies.AT_ONCE),
    ] = 20.0


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What a request may ask for, and how many there may be. 0 for no limit."""

    entities: Annotated[
        int, Setting("Rows of a request; 0: no limit.", name="max_entities", ge=0)
    ] = 100_000
    values: Annotated[
        int,
        Setting(
            "Stored values and times that are read for a request; 0: no limit.",
            name="max_values",
            ge=0,
        ),
    ] = 10_000_000
    response_bytes: Annotated[
        int,
        Setting("Megabytes of an answer; 0: no limit.", name="max_response_mb", ge=0, scale=2**20),
    ] = 256 * 2**20
    in_flight: Annotated[
        int,
        Setting(
            "Reads that each worker works on at once; others are refused. 0: no limit.",
            name="max_in_flight",
            ge=0,
        ),
    ] = 4096
    streams: Annotated[
        int,
        Setting(
            "Calls that a client may have at once on a connection; 0: no limit.",
            name="max_concurrent_streams",
            ge=0,
        ),
    ] = 1024
    delay: Annotated[
        float,
        Setting(
            "Seconds that reads may wait for one another; beyond what each worker answers in that "
            "time others are refused at once. 0: never.",
            name="overload_delay",
            ge=0,
        ),
    ] = 0.02


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When a Redis is left alone that does not answer."""

    share: Annotated[
        float,
        Setting(
            "Share of exchanges with Redis that fail, above which it is left alone for a while; 0: "
            "never.",
            name="breaker_share",
            ge=0,
            le=1,
        ),
    ] = 0.5
    window: Annotated[
        float,
        Setting("Seconds over which they are counted.", name="breaker_window", ge=0.1),
    ] = 10.0
    pause: Annotated[
        float,
        Setting(
            "Seconds between two looks whether it answers again.", name="breaker_pause", ge=0.01
        ),
    ] = 1.0


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is logged, and how."""

    level: Annotated[
        str,
        Setting(
            "The least that is logged.",
            name="log_level",
            choices=LEVELS,
            applies=Applies.AT_ONCE,
        ),
    ] = "info"
    levels: Annotated[
        tuple[tuple[str, str], ...],
        Setting(
            "The same for loggers by name, such as hotfeast.server.watch=debug,feast=error.",
            name="log_levels",
            form=LOGGERS,
            applies=Applies.AT_ONCE,
        ),
    ] = ()
    format: Annotated[
        str,
        Setting(
            "text: lines for people. json: an object a line.",
            name="log_format",
            choices=("text", "json"),
            applies=Applies.AT_ONCE,
        ),
    ] = "text"
    access: Annotated[
        float | None,
        Setting(
            "Share of the calls that is logged, a line each, beside those that fail; none unless "
            "given.",
            name="access_log",
            ge=0,
            le=1,
        ),
    ] = None


class TraceSettings(NamedTuple):
    """Where traces are sent."""

    endpoint: Annotated[
        str,
        Setting(
            "Receiver of OpenTelemetry's traces (OTLP over gRPC), such as http://127.0.0.1:4317; "
            "calls are traced if their traceparent says so.",
            name="trace_endpoint",
        ),
    ]
    ratio: Annotated[
        float,
        Setting(
            "Share of the calls without a traceparent that is traced.",
            name="trace_ratio",
            ge=0,
            le=1,
        ),
    ] = 0.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How a gateway runs. All of it can be pickled, for worker processes as they are started."""

    repo: Annotated[Path, Setting("Folder with feature_store.yaml.", applies=Applies.RESTART)]
    host: Annotated[
        str,
        Setting(
            "Address to listen on; port 0 for any free one.",
            name="bind",
            form=ADDRESS,
            fields=("host", "port"),
            applies=Applies.RESTART,
        ),
    ] = "127.0.0.1"
    port: int = 6570
    workers: Annotated[
        int, Setting("Processes that share the port.", ge=1, applies=Applies.RESTART)
    ] = 1
    worker_timeout: Annotated[
        float,
        Setting(
            "Seconds without a sign of life after which a worker is ended and started again; 0: "
            "never.",
            ge=0,
            applies=Applies.AT_ONCE,
        ),
    ] = 10.0
    cpus: Annotated[
        tuple[int, ...],
        Setting(
            "CPUs that workers stay on, each on one of them in turn, such as 1 or 2-5,7; the "
            "system's choice unless given.",
            form=CPUS,
        ),
    ] = ()
    redis_url: Annotated[
        str | None,
        Setting(
            "redis://, rediss:// or unix:// URL, instead of the repository's.",
            also=("--redis",),
            secret=True,
        ),
    ] = None
    redis_timeout: Annotated[
        float, Setting("Seconds to connect to Redis, and for a round trip.", ge=0.001)
    ] = 1.0
    replica_staleness: Annotated[
        float,
        Setting(
            "Seconds that a cluster's replicas may be behind their masters to be read; 0 to read "
            "from masters only.",
            ge=0,
        ),
    ] = 0.0
    registry_interval: Annotated[
        float, Setting("Seconds between two looks at the registry.", ge=0.1)
    ] = 5.0
    threads: Annotated[
        int, Setting("Requests that each worker works on in threads at once.", ge=1)
    ] = 16
    transform_threads: Annotated[
        int, Setting("Requests that run Python transforms at once, per worker.", ge=1)
    ] = 1
    drain: Annotated[
        float,
        Setting(
            "Seconds for requests in flight after SIGTERM, and of each worker that is replaced.",
            ge=0,
            applies=Applies.AT_ONCE,
        ),
    ] = 30.0
    status_mode: Annotated[
        str,
        Setting(
            "strict: the truth. feast: what Feast's Python server answers.",
            choices=("strict", "feast"),
        ),
    ] = "strict"
    server: Annotated[
        str,
        Setting(
            "What clients speak with. native: the gateway's own gRPC server. grpcio: Google's.",
            choices=("native", "grpcio"),
            applies=Applies.RESTART,
        ),
    ] = "native"
    transforms: Annotated[
        str,
        Setting(
            "How on-demand views are computed. kernel: compiled where that is possible. python: by "
            "their functions. verify: a share of requests by both, to compare them.",
            choices=("kernel", "python", "verify"),
        ),
    ] = "kernel"
    transforms_from: Annotated[
        str,
        Setting(
            "Where transforms' code comes from: the registry, or the repo's files.",
            choices=("registry", "repo"),
        ),
    ] = "registry"
    layout: Annotated[
        str | None,
        Setting(
            "How pushed rows are stored, and looked for first, where a view's tag hotfeast.layout "
            "does not say; unless given, as feature_store.yaml has it. feast: in Feast's fields. "
            "packed: in one field a view. dual: in both.",
            choices=("feast", "dual", "packed"),
        ),
    ] = None
    cache_mb: Annotated[
        int, Setting("Megabytes of rows that each worker keeps in memory; 0 for none.", ge=0)
    ] = 0
    cache_staleness: Annotated[
        float,
        Setting(
            "Seconds that an answer from the cache may be old, where a view's tag hotfeast.cache "
            "does not say.",
            ge=0,
            le=1e9,
        ),
    ] = 1.0
    push_streams: Annotated[
        int, Setting("Push streams that each worker has open at once.", ge=0)
    ] = 16
    read_streams: Annotated[
        int, Setting("Streams of batches to score that each worker has open at once.", ge=0)
    ] = 16
    push_future_limit: Annotated[
        float, Setting("Seconds that a pushed row's event time may be in the future.", ge=0)
    ] = 86400.0
    push_wait_replicas: Annotated[
        int,
        Setting(
            "Replicas that must confirm pushed rows before these count as written (WAIT); 0 for "
            "none, as Redis and Feast have it.",
            ge=0,
        ),
    ] = 0
    connections: ConnectionLimits = ConnectionLimits()
    limits: RequestLimits = RequestLimits()
    breaker: BreakerSettings = BreakerSettings()
    tls: TlsSettings | None = None
    auth: Annotated[
        Path | None,
        Setting(
            "Who is known by which token or certificate, and who may do what, in YAML; without it "
            "everybody may do everything. Read again when it changes."
        ),
    ] = None
    allow_unauthenticated: Annotated[
        bool,
        Setting(
            "Listen on an address that others reach, though nobody is asked who calls.",
            applies=Applies.RESTART,
        ),
    ] = False
    allow_plaintext: Annotated[
        bool,
        Setting(
            "Take tokens on an address that others reach, though nothing is encrypted here.",
            applies=Applies.RESTART,
        ),
    ] = False
    reflection: Annotated[
        bool, Setting("Tell clients such as grpcurl which methods and messages there are.")
    ] = False
    metrics: Annotated[
        tuple[str, int] | None,
        Setting(
            "HOST:PORT of a page of figures for Prometheus; none unless given.",
            form=ADDRESS,
            applies=Applies.RESTART,
        ),
    ] = None
    page: PageSettings = PageSettings()
    as_of: Annotated[
        datetime | None,
        Setting(
            "Judge TTLs at this ISO 8601 time instead of now, for past data.",
            form=TIME,
            applies=Applies.RESTART,
        ),
    ] = None
    monitor: Annotated[
        MonitorSettings | None,
        Setting("Watch the features that are served and pushed.", applies=Applies.RESTART),
    ] = None
    feature_log: FeatureLogSettings | None = None
    traffic: TrafficSettings | None = None
    channelz: Annotated[
        bool, Setting("Tell debuggers such as grpcdebug of connections and calls (channelz).")
    ] = False
    logs: LogSettings = LogSettings()
    traces: TraceSettings | None = None
    refuse_sunset: Annotated[
        bool, Setting("Refuse requests that read something past its tag sunset.")
    ] = False
    share_port: bool = False
    """Whether other processes listen on the same port (SO_REUSEPORT)."""
    listeners: tuple[socket.socket, ...] = ()
    """Sockets to listen on, which somebody else has bound and keeps; for `native`."""
    takes_over: bool = False
    """Whether clients are only taken once all is ready, since until then others are theirs."""
    metrics_files: WorkerFiles | None = None
    """Where a worker keeps its figures, for its supervisor's page."""
