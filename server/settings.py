"""How a gateway runs."""

import socket
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple


class WorkerFiles(NamedTuple):
    """Where a worker keeps its figures.

    Attributes:
        folder: The supervisor's.
        worker: Its number, which no other live worker has.
    """

    folder: Path
    worker: int


class MonitorSettings(NamedTuple):
    """How features are monitored.

    Attributes:
        folder: Where each process keeps what it has seen; None for a supervisor's own folder, which
            goes with it.
        every: One of how many reads is looked at.
        seconds: How long a window is.
        rules: A file of alert rules; that of the repository, or the default ones, if None.
        profiles: A folder of profiles; the one beside the registry if None.
        interval: Seconds between two evaluations of alert rules.
    """

    folder: Path | None
    every: int = 100
    seconds: int = 300
    rules: Path | None = None
    profiles: Path | None = None
    interval: float = 60.0


class FeatureLogSettings(NamedTuple):
    """How served features are logged.

    Attributes:
        folder: Where files go of services whose `logging_config` names no local folder.
        rate: The share of requests, 0 to 1, for services without a `logging_config`.
        size: Bytes after which a file is complete.
        seconds: Its age after which it is.
    """

    folder: Path
    rate: float
    size: int
    seconds: float


class TrafficSettings(NamedTuple):
    """How versions are served side by side.

    Attributes:
        aliases: The file of aliases.
        folder: Where workers keep what shadow reads found; None for a process of its own.
    """

    aliases: Path
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How long clients' connections may be silent, and last. Seconds, 0 for no limit."""

    handshake: float = 20.0
    """Until a client has said that it speaks HTTP/2."""
    idle: float = 0.0
    """Without a call, after which a client is sent elsewhere (GOAWAY)."""
    age: float = 0.0
    """After which a client is sent elsewhere, a tenth more or less."""
    age_grace: float = 30.0
    """For the calls of a client that is sent elsewhere."""
    keepalive: float = 7200.0
    """Without a word, after which a client is asked whether it is there (PING)."""
    keepalive_answer: float = 20.0
    """For the answer."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a gateway runs. All of it can be pickled, for worker processes as they are started."""

    repo: Path
    """The folder with `feature_store.yaml`."""
    host: str = "127.0.0.1"
    port: int = 6570
    """0 for any free port."""
    redis_url: str | None = None
    """Used instead of the repository's connection string."""
    redis_timeout: float = 1.0
    """Seconds to connect, and for one round trip."""
    registry_interval: float = 5.0
    """Seconds between two looks at the registry."""
    threads: int = 16
    """Requests that are worked on at once, streams apart."""
    transform_threads: int = 1
    """Requests that run Python transforms at once, beside those `threads`."""
    transforms: str = "kernel"
    """How on-demand views are computed: `kernel` where there is one, `python`, or `verify`."""
    push_streams: int = 16
    """Push streams that may be open at once."""
    push_future_limit: float = 86400.0
    """Seconds that a pushed row's event time may be in the future."""
    drain: float = 30.0
    """Seconds that requests in flight have to finish after SIGTERM."""
    as_of: datetime | None = None
    """A fixed time to age rows against."""
    status_mode: str = "strict"
    server: str = "native"
    """What clients speak with: `native`, the gateway's own server, or `grpcio`."""
    transforms_from: str = "registry"
    """Where functions of on-demand views come from: `registry`, as in Feast, or `repo`."""
    layout: str | None = None
    """How rows are stored that their view's tags say nothing of; feature_store.yaml's if None."""
    cache_mb: int = 0
    """Megabytes (2^20 bytes) of rows that are kept in memory; 0 for no cache."""
    cache_staleness: float = 1.0
    """Seconds that an answer from the cache may be old, for views whose tags do not say."""
    connections: ConnectionLimits = ConnectionLimits()
    share_port: bool = False
    """Whether other processes listen on the same port (SO_REUSEPORT)."""
    listeners: tuple[socket.socket, ...] = ()
    """Sockets to listen on, which somebody else has bound and keeps; for `native`."""
    cpus: tuple[int, ...] = ()
    """CPUs that workers stay on, each on one of them in turn; the system's choice if empty."""
    takes_over: bool = False
    """Whether clients are only taken once all is ready, since until then others are theirs."""
    metrics: tuple[str, int] | None = None
    """Host and port of a page of figures for Prometheus; none if None."""
    metrics_files: WorkerFiles | None = None
    """Where a worker keeps its figures, for its supervisor's page."""
    monitor: MonitorSettings | None = None
    """How features are monitored; not if None."""
    feature_log: FeatureLogSettings | None = None
    """How served features are logged; not if None."""
    traffic: TrafficSettings | None = None
    """Names that stand for several feature services; none if None."""
    refuse_sunset: bool = False
    """Whether requests are refused that read something past its sunset."""
