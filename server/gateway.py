"""One gateway process: registry, plans, Redis and gRPC behind one port.

Ready means ready: the registry is read, the plans of all feature services are made and Redis has
answered before health says SERVING.
"""

import gc
import logging
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version as installed_version
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import grpc
import redis
from grpc_channelz.v1.channelz import add_channelz_servicer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hotfeast.hotpath.cache import RowCache
from hotfeast.server.catalog import Catalog
from hotfeast.server.channelz import SERVICE as CHANNELZ
from hotfeast.server.channelz import Channelz
from hotfeast.server.clock import Clock
from hotfeast.server.cluster import Cluster
from hotfeast.server.cluster_io import ClusterReader, open_servers, reader_of, writer_of
from hotfeast.server.drain import DrainGate
from hotfeast.server.errors import RedisUnavailable, StartFailure
from hotfeast.server.feast_push import FeastPushService
from hotfeast.server.feature_streams import FeatureStreams
from hotfeast.server.health import READINESS, Health
from hotfeast.server.http_pages import page_guard
from hotfeast.server.invalidation import Invalidations
from hotfeast.server.kernels import KernelMaker
from hotfeast.server.metrics import Metrics, Page
from hotfeast.server.native import NativeServer, stream_methods, unary_methods
from hotfeast.server.offline import OfflineWriter
from hotfeast.server.overload import LoadReport, Overload
from hotfeast.server.push import PushService
from hotfeast.server.push_access import PushAccess
from hotfeast.server.push_plan import Destinations
from hotfeast.server.push_rows import RowPusher
from hotfeast.server.read_modes import ReadModes
from hotfeast.server.redis_io import Lanes, RedisReader
from hotfeast.server.redis_pools import connection_pool
from hotfeast.server.repo_files import load_repo_views
from hotfeast.server.repository import open_repository
from hotfeast.server.request_threads import RequestThreads, TransformTurns
from hotfeast.server.security.guard import Guard, Reflection, add_reflection
from hotfeast.server.security.opening import Security
from hotfeast.server.security.policy import Action
from hotfeast.server.servicer import (
    PUSH,
    SERVICE_NAMES,
    TRAFFIC,
    ContextCaller,
    FeatureServicer,
    methods,
)
from hotfeast.server.settings import ConnectionLimits, Settings
from hotfeast.server.stored_rows import StoredRows
from hotfeast.server.telemetry.opening import Telemetry
from hotfeast.server.traffic.opening import Traffic
from hotfeast.server.transform_runs import TransformRuns
from hotfeast.server.turn_away import turn_away
from hotfeast.server.watch import RegistryWatch

if TYPE_CHECKING:
    from hotfeast.server.monitoring.opening import Observers

__all__ = ["Gateway", "Settings"]

logger = logging.getLogger(__name__)

# Bytes of the largest request: 10,000 entities with long string keys fit many times.
_LARGEST_REQUEST = 64 * 1024 * 1024
# Bytes of a call's metadata.
_LARGEST_METADATA = 16 * 1024
# Milliseconds that grpcio takes for no limit.
_UNLIMITED = 2**31 - 1
# Exit code of a process whose server has ended by itself (EX_SOFTWARE).
_SOFTWARE_ERROR = 70
# Seconds between two attempts to reach Redis before the gateway is ready.
_REDIS_RETRY = 0.5


class Gateway:
    """A gRPC server for one Feast repository."""

    def __init__(self, settings: Settings) -> None:
        """Reads the repository and prepares the server; nothing is served yet.

        Raises:
            StartFailure: The repository cannot be served; the message says why.
        """
        self.settings = settings
        store = open_repository(settings.repo)
        pool = connection_pool(store.config, settings.redis_url, settings.redis_timeout)
        if isinstance(pool, Cluster):
            pool.staleness = settings.replica_staleness
        elif settings.replica_staleness:
            raise StartFailure(
                "--replica-staleness is for a cluster (redis_type: redis_cluster); leave it out"
            )
        streams = settings.push_streams + settings.read_streams
        self._lanes = open_servers(
            pool, settings.threads + streams, settings.breaker, settings.redis_timeout
        )
        self._modes = ReadModes(pool)
        self._metrics: Metrics | None = None
        if settings.metrics is not None or settings.metrics_files is not None:
            self._metrics = Metrics(SERVICE_NAMES, settings.metrics_files)
        figures = self._metrics.collector if self._metrics is not None else None
        self._security = Security(settings, store.project, figures)
        guard = self._security.guard
        cache: RowCache | None = None
        self._invalidations: Invalidations | None = None
        reader: RedisReader | ClusterReader
        reader = reader_of(self._lanes, settings.redis_timeout)
        if settings.cache_mb:
            if isinstance(pool, Cluster):
                raise StartFailure(
                    "--cache-mb is for one server: of a cluster, whose slots move from node to "
                    "node, nobody tells the cache of all writes. Leave it out"
                )
            cache = RowCache(settings.cache_mb * 2**20)
            assert isinstance(pool, redis.ConnectionPool)
            self._invalidations = Invalidations(pool, cache, self._tell_of(cache))
            follow = self._invalidations.follow
            assert isinstance(self._lanes, Lanes)
            reader = RedisReader(self._lanes, settings.redis_timeout, cache, follow)
        self._watch = RegistryWatch(
            store,
            settings.registry_interval,
            as_feast=settings.status_mode == "feast",
            repo_views=load_repo_views(settings.repo)
            if settings.transforms_from == "repo"
            else None,
            tell=self._metrics.looked if self._metrics is not None else lambda _: None,
            kernels=None if settings.transforms == "python" else KernelMaker(StoredRows(pool)),
            layout=settings.layout,
            cache_seconds=settings.cache_staleness if cache is not None else 0.0,
        )
        runs = TransformRuns(
            verify=settings.transforms == "verify",
            figures=self._metrics.transforms if self._metrics is not None else None,
        )
        self._stopping = threading.Event()
        self._asked_to_stop = threading.Event()
        self._broken = False
        clock = Clock(settings.as_of)
        strict = settings.status_mode == "strict"
        self._health = Health()
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._gate = DrainGate()
        # A stream has a thread for its life; it must not be one of those that requests need.
        self._threads = RequestThreads(settings.threads + streams)
        turns = TransformTurns(self._threads, settings.transform_threads)
        self._overload = Overload(settings.limits, self._threads)
        self._load_report: LoadReport | None = None
        if self._metrics is not None:
            self._load_report = LoadReport(self._tell_of_load(self._metrics))
        # gRPC's types name the one executor; it calls `submit` and nothing else.
        executor: Any = self._threads
        native = settings.server == "native"
        self._server = grpc.server(
            executor,
            interceptors=[self._metrics] if self._metrics is not None else None,
            options=[
                ("grpc.so_reuseport", int(settings.share_port)),
                ("grpc.max_receive_message_length", _LARGEST_REQUEST),
                ("grpc.max_send_message_length", -1),
                # Behind our own server it is passed on with some more.
                ("grpc.max_metadata_size", _LARGEST_METADATA * (1 + native)),
                ("grpc.absolute_max_metadata_size", _LARGEST_METADATA * (1 + native)),
                *(_limits(settings.connections) if settings.server == "grpcio" else ()),
            ],
        )
        catalog = Catalog(
            lambda: self._watch.book, lambda: self._watch.state, clock, settings.status_mode
        )
        self._observers: Observers | None = None
        if settings.monitor is not None or settings.feature_log is not None:
            # Only here: what it needs takes a while to import.
            from hotfeast.server.monitoring.opening import open_observers

            self._observers = open_observers(
                settings.monitor,
                settings.feature_log,
                store,
                self._watch,
                self._metrics.logged if self._metrics is not None else lambda _: None,
            )
        tap = self._observers.tap if self._observers is not None else None
        self._telemetry = Telemetry(
            settings,
            self._metrics.collector if self._metrics is not None else None,
            self._watch,
            self._lanes.ping,
            lambda: self._native.client_count if self._native is not None else 0,
        )
        # Neither fills the cache, nor takes a request's turn to run transforms.
        beside = FeatureServicer(
            self._watch, reader_of(self._lanes, settings.redis_timeout), self._modes, clock,
            strict, turns.beside,
        )  # fmt: skip
        self._traffic = Traffic(
            settings.traffic,
            self._watch,
            beside,
            lambda context: _who(guard, context),
            figures,
        )
        if self._traffic.aliases is not None:
            self._watch.prepare_with(self._traffic.aliases.prepare)
        servicer = FeatureServicer(
            self._watch, reader, self._modes, clock, strict, turns.turn, runs, tap,
            self._traffic.aliases, self._traffic.reads, settings.refuse_sunset,
            self._telemetry.calls, self._telemetry.services, self._overload, self._security.access,
        )  # fmt: skip
        pusher = RowPusher(
            writer_of(self._lanes, settings.redis_timeout, cache, settings.push_wait_replicas),
            OfflineWriter(store),
            clock,
            settings.push_future_limit,
            self._metrics.pushed if self._metrics is not None else None,
            turns.turn,
            tap.wrote if tap is not None else None,
        )
        destinations = PushAccess(
            Destinations(store.config.online_store.key_ttl_seconds or 0), self._security.access
        )
        self._pushes = PushService(self._watch, destinations, pusher, settings.push_streams)
        feast_pushes = FeastPushService(self._watch, destinations, pusher)
        self._feature_streams = FeatureStreams(
            servicer,
            settings.read_streams,
            self._metrics.called if self._metrics is not None else None,
        )
        served = methods(
            servicer,
            self._pushes,
            feast_pushes,
            catalog,
            self._traffic.service,
            self._feature_streams.get_online_features_stream,
            installed_version("hotfeast"),
            self._gate.guard,
            self._overload.guard if settings.server == "grpcio" else lambda method: method,
            guard,
        )
        channelz = Channelz()
        if settings.channelz and native:
            served[CHANNELZ] = guard.only_unary(Action.traffic, channelz.handlers)
        elif settings.channelz:
            add_channelz_servicer(self._server)
        self._server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(service, handlers)
                for service, handlers in served.items()
            ]
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if settings.reflection:
            add_reflection(
                self._server,
                Reflection(guard, SERVICE_NAMES, {PUSH: Action.push, TRAFFIC: Action.traffic}),
            )
        self._native: NativeServer | None = None
        self._socket_folder: TemporaryDirectory[str] | None = None
        address = f"{settings.host}:{settings.port}"
        if native:
            self._socket_folder = TemporaryDirectory(prefix="hotfeast-")
            address = f"unix:{self._socket_folder.name}/grpc"
            self._native = NativeServer(
                *unary_methods(served),
                stream_methods(served),
                servicer,
                self._lanes,
                settings.redis_timeout,
                self._threads,
                address,
                self._overload,
                self._metrics.called if self._metrics is not None else None,
                cache,
                self._end,
                self._health,
                settings.connections,
                self._telemetry.calls,
                self._security,
                reader if isinstance(reader, ClusterReader) else None,
            )
            channelz.attach(self._native)
        self._address = address
        self.port = settings.port
        if self._native is not None or not settings.takes_over:
            self._listen()
        if self._native is not None:
            if settings.listeners:
                self.port = self._native.adopt(settings.listeners)
            else:
                self.port = self._native.bind(settings.host, settings.port)
        self.metrics_page: Page | None = None
        if self._metrics is not None and settings.metrics is not None:
            guard_of_page = page_guard(settings.page)
            self.metrics_page = Page(
                [self._metrics.collector], *settings.metrics, guard=guard_of_page
            )

    def _listen(self) -> None:
        """Takes grpcio's address; connections to it wait until the server starts."""
        certificates = self._security.certificates
        try:
            if self._native is None and certificates is not None:
                credentials = certificates.grpc_credentials()
                self.port = self._server.add_secure_port(self._address, credentials)
            else:
                self.port = self._server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise StartFailure(f"cannot listen on {self._address}: {error}") from error

    def _tell_of_load(self, metrics: Metrics) -> Callable[[], None]:
        return lambda: metrics.loaded(self._overload.figures, self._lanes.breaker)

    def _tell_of(self, cache: RowCache) -> Callable[[], None]:
        metrics = self._metrics
        if metrics is None:
            return lambda: None
        return lambda: metrics.cached(cache)

    @property
    def registry(self) -> RegistryWatch:
        """The watch over the registry."""
        return self._watch

    def start(
        self,
        say: Callable[[str], None] = lambda _: None,
        say_ready: Callable[[str], None] | None = None,
    ) -> None:
        """Listens, waits until Redis has answered, and then reports SERVING.

        Args:
            say: Is told why it takes longer.
            say_ready: Is told in the end what is served where; `say` if None.

        Raises:
            StartFailure: There is to be a cache, and Redis refuses what it needs.
        """
        if self.metrics_page is not None:
            say(f"metrics on {self.metrics_page.url}")
        if not self.settings.takes_over:
            self._accept()
        complained = False
        while not self._stopping.is_set():
            try:
                server = self._lanes.ping()
                if self._invalidations is not None:
                    self._open_cache(self._invalidations)
                break
            except RedisUnavailable as error:
                if not complained:
                    say(f"not ready: {error}; trying again every {_REDIS_RETRY} s")
                    complained = True
                self._stopping.wait(_REDIS_RETRY)
        else:
            return
        self._watch.start()
        self._modes.start()
        self._security.start()
        if self._observers is not None:
            self._observers.start()
        self._traffic.start()
        self._telemetry.start()
        if self._load_report is not None:
            self._load_report.start()
        # What exists now stays; the garbage collector need not walk through Feast again and again.
        gc.collect()
        gc.freeze()
        self._set_health(health_pb2.HealthCheckResponse.SERVING)
        if self.settings.takes_over:
            self._accept()
        book = self._watch.book
        for name, failure in book.failures.items():
            logger.warning("feature service %r cannot be served: %s", name, failure.message)
        (say_ready or say)(
            f"Hotfeast serves project {book.definitions.project!r} on "
            f"{self.settings.host}:{self.port} ({len(book.definitions.services)} feature services, "
            f"{len(book.definitions.views)} feature views, {server})"
        )

    def change(self, settings: Settings) -> None:
        """Puts those settings in force that count at once.

        Args:
            settings: All of them; the rest is as it was.
        """
        self.settings = replace(
            self.settings, drain=settings.drain, connections=settings.connections
        )
        if self._native is not None:
            self._native.limit(settings.connections)

    def is_alive(self, patience: float) -> bool:
        """Whether the server's loop turns; asked by another thread.

        Args:
            patience: Seconds that it has to answer.
        """
        if self._native is None:
            # grpcio's threads are its own affair.
            return True
        turned = threading.Event()
        self._native.call(turned.set)
        return turned.wait(patience)

    def _accept(self) -> None:
        """Takes clients."""
        if self._native is not None:
            self._server.start()
            self._native.start()
            return
        if self.settings.takes_over:
            self._listen()
        self._server.start()

    def _open_cache(self, invalidations: Invalidations) -> None:
        for plan in self._watch.book.service_plans:
            invalidations.want(plan.compiled.cached_prefixes)
        try:
            invalidations.start()
        except StartFailure:
            self.stop(drain=0)
            raise

    def stop(self, drain: float | None = None) -> None:
        """Stops: health says NOT_SERVING, nothing new is taken, what is in flight is finished.

        Args:
            drain: Seconds that requests in flight have; the settings' if None.
        """
        self._stopping.set()
        grace = self.settings.drain if drain is None else drain
        if self._native is not None:
            drained = self._native.stop_serving(grace)
            self._health.enter_graceful_shutdown()
            self._stop_streams()
            drained.wait()
            self._server.stop(0).wait()
        else:
            if self.settings.share_port:
                turn_away(self.port)
            self._health.enter_graceful_shutdown()
            stopped = self._gate.stop(self._server, grace)
            # Once clients have been told to go elsewhere, so that streams are not opened here
            # again.
            self._stop_streams()
            stopped.wait()
        self._traffic.stop()
        self._telemetry.stop()
        self._security.stop()
        if self._load_report is not None:
            self._load_report.stop()
        if self._observers is not None:
            self._observers.stop()
            # What the sketches' library counts as leaked at the end of the process, loudly, are
            # objects that the garbage collector was told to leave alone.
            gc.unfreeze()
        if self._socket_folder is not None:
            self._socket_folder.cleanup()
        self._threads.shutdown(wait=False)
        self._watch.stop()
        self._modes.stop()
        if self._invalidations is not None:
            self._invalidations.stop()
        self._lanes.close()
        if self.metrics_page is not None:
            self.metrics_page.stop()

    def _stop_streams(self) -> None:
        self._pushes.stop()
        self._feature_streams.stop()

    def run(
        self, say: Callable[[str], None], say_ready: Callable[[str], None] | None = None
    ) -> None:
        """Serves until SIGTERM or SIGINT, then drains.

        Args:
            say: As for `start`.
            say_ready: As for `start`.

        Raises:
            SystemExit: The server has ended by itself, so that somebody should start it again.
        """

        def on_signal(*_: object) -> None:
            self._stopping.set()
            self._asked_to_stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, on_signal)
        self.start(say, say_ready)
        self._asked_to_stop.wait()
        self.stop()
        if self._broken:
            raise SystemExit(_SOFTWARE_ERROR)

    def _end(self) -> None:
        """The server has ended by itself."""
        self._broken = True
        self._stopping.set()
        self._asked_to_stop.set()

    def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", READINESS, *SERVICE_NAMES):
            self._health.set(name, status)


def _who(guard: Guard, context: Any) -> bytes | None:
    """Who makes a call, for a record: its credentials say it, or else its metadata."""
    known = guard.who(context)
    return ContextCaller(context).caller if known is None else known.encode()


def _limits(limits: ConnectionLimits) -> list[tuple[str, int]]:
    """Limits of connections as options of grpcio, which takes none for its own default."""
    options = {
        "grpc.server_handshake_timeout_ms": limits.handshake,
        "grpc.max_connection_idle_ms": limits.idle,
        "grpc.max_connection_age_ms": limits.age,
        "grpc.max_connection_age_grace_ms": limits.age_grace,
        "grpc.keepalive_time_ms": limits.keepalive,
        "grpc.keepalive_timeout_ms": limits.keepalive_answer,
    }
    return [(name, int(seconds * 1000) or _UNLIMITED) for name, seconds in options.items()]
