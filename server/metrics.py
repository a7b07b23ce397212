"""Figures for Prometheus: what a gateway counts, and the page that they are scraped from.

A gateway that is alone keeps its figures in memory. Workers keep theirs in files, one set a worker,
in a folder of their supervisor's, which serves the sum (prometheus_client's multiprocess mode). A
worker that takes a dead one's place goes on with its files, so that totals never fall.
"""

import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import grpc
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    make_wsgi_app,
    values,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from hotfeast.hotpath.cache import RowCache
from hotfeast.server.breaker import Breaker
from hotfeast.server.config_watch import ConfigWatch
from hotfeast.server.http_pages import HttpPages
from hotfeast.server.overload import LoadFigures
from hotfeast.server.settings import WorkerFiles

if TYPE_CHECKING:
    # With Feast, which a supervisor does without.
    from hotfeast.server.monitoring.feature_log import FeatureLog
    from hotfeast.server.plan import PlanBook
    from hotfeast.server.registry import RegistryState
    from hotfeast.server.security.page import PageGuard

# Seconds. The quickest answers take a quarter of a millisecond; Redis has a second by default.
_BUCKETS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
# Reads of workers' figures until one succeeds, and seconds between them.
_READS = 20
_READ_PAUSE = 0.02
_READ_TIME = "hotfeast_registry_read_timestamp_seconds"
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


class TransformFigures(NamedTuple):
    """What is counted of on-demand views.

    Attributes:
        runs: By view and path.
        mismatches: By view.
    """

    runs: Counter
    mismatches: Counter


class Watch(Protocol):
    """What is told of the registry."""

    @property
    def book(self) -> "PlanBook": ...

    @property
    def state(self) -> "RegistryState": ...


class Metrics(grpc.ServerInterceptor):
    """The figures of one gateway process; as an interceptor it counts the calls of a server."""

    def __init__(self, services: tuple[str, ...], files: WorkerFiles | None = None) -> None:
        """
        Args:
            services: Full names of the services whose calls are counted.
            files: Where figures are kept; in memory if None. A process can have one such place.
        """
        # Set in both cases: Feast's own metrics set an environment variable that decides otherwise.
        if files is None:
            values.ValueClass = values.MutexValue
        else:
            os.environ[_FOLDER] = str(files.folder)
            by_worker = values.MultiProcessValue(lambda: files.worker)  # type: ignore[no-untyped-call]
            values.ValueClass = by_worker
        self.collector = CollectorRegistry()
        self._services = services
        self._counted: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._calls: dict[
            tuple[str, grpc.StatusCode], tuple[Callable[[float], None], Callable[[], None]]
        ] = {}
        self._requests = Counter(
            "hotfeast_requests",
            "Calls that were answered, and batches on streams of reads, by method (service/method) "
            "and gRPC status code.",
            ["method", "code"],
            registry=self.collector,
        )
        self._seconds = Histogram(
            "hotfeast_request_seconds",
            "Seconds from the start of a call's handler to its answer, by method.",
            ["method"],
            buckets=_BUCKETS,
            registry=self.collector,
        )
        self._errors = Counter(
            "hotfeast_registry_errors",
            "Looks at the registry at which it could not be read.",
            registry=self.collector,
        )
        self.transforms = TransformFigures(
            Counter(
                "hotfeast_transform_runs",
                "Requests that an on-demand view was computed for, by view and by path: kernel or "
                "python.",
                ["view", "path"],
                registry=self.collector,
            ),
            Counter(
                "hotfeast_transform_mismatches",
                "Requests for which a kernel's answer was not its Python function's, by view.",
                ["view"],
                registry=self.collector,
            ),
        )
        self._push_rows = Counter(
            "hotfeast_push_rows",
            "Pushed rows, by feature view and what became of them there: written, stale (of an "
            "event: too late), rejected, failed, duplicate (of an event: counted before).",
            ["feature_view", "outcome"],
            registry=self.collector,
        )
        # Made at the first look: a worker that is still starting would tell of zeros.
        self._look: _Look | None = None
        self._cache: _CacheFigures | None = None
        self._log: _LogFigures | None = None
        self._load: _LoadGauges | None = None
        build = Gauge(
            "hotfeast_build_info",
            "1, with the versions of Hotfeast and of the Feast library that reads the registry.",
            ["version", "feast_version"],
            registry=self.collector,
            multiprocess_mode="livemax",
        )
        build.labels(installed_version("hotfeast"), installed_version("feast")).set(1)

    def looked(self, watch: Watch) -> None:
        """Notes how a look at the registry has ended."""
        if self._look is None:
            self._look = _Look(self.collector)
        if watch.state.error:
            self._errors.inc()
        self._look.note(watch)

    def cached(self, cache: RowCache) -> None:
        """Notes what a cache has counted; always by one thread, and of one cache."""
        if self._cache is None:
            self._cache = _CacheFigures(self.collector)
        self._cache.note(cache)

    def logged(self, log: "FeatureLog") -> None:
        """Notes what a feature log has counted; always by one thread at a time, and of one log."""
        if self._log is None:
            self._log = _LogFigures(self.collector)
        self._log.note(log)

    def loaded(self, figures: LoadFigures, breaker: Breaker) -> None:
        """Notes how busy the gateway is; always by one thread, and of one gateway."""
        if self._load is None:
            self._load = _LoadGauges(self.collector)
        self._load.note(figures, breaker)

    def pushed(self, feature_view: str, outcome: str, rows: int) -> None:
        """Counts rows of a push."""
        self._push_rows.labels(feature_view, outcome).inc(rows)

    def called(self, method: str, code: grpc.StatusCode, seconds: float) -> None:
        """Counts a call that is over.

        Args:
            method: Service and method, with a slash between.
            code: How it ended.
            seconds: How long it took.
        """
        known = self._calls.get((method, code))
        if known is None:
            # Looked up once: `labels` costs as much as counting.
            known = (
                self._seconds.labels(method).observe,
                self._requests.labels(method, code.name).inc,
            )
            self._calls[method, code] = known
        observe, count = known
        observe(seconds)
        count()

    def intercept_service(
        self, continuation: Callable[[Any], Any], details: grpc.HandlerCallDetails
    ) -> Any:
        """The handler of a call, counting."""
        counted = self._counted.get(details.method)
        if counted is not None:
            return counted
        handler = continuation(details)
        name = details.method.removeprefix("/")
        # Names that nobody serves are the callers' and may be any number; streams have no one end.
        if handler is None or handler.unary_unary is None:
            return handler
        if name.partition("/")[0] not in self._services:
            return handler
        counted = grpc.unary_unary_rpc_method_handler(
            self._count(name, handler.unary_unary),
            handler.request_deserializer,
            handler.response_serializer,
        )
        self._counted[details.method] = counted
        return counted

    def _count(self, name: str, method: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        clock = time.perf_counter

        def counted(request: Any, context: Any) -> Any:
            began = clock()
            # What gRPC answers for a handler that raises without a code.
            unset = grpc.StatusCode.UNKNOWN
            try:
                answer = method(request, context)
                unset = grpc.StatusCode.OK
                return answer
            finally:
                self.called(name, context.code() or unset, clock() - began)

        return counted


class _Look:
    """What the last look at the registry has told, as gauges."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, mode: Any) -> Gauge:
            return Gauge(name, text, registry=registry, multiprocess_mode=mode)

        self._read = gauge(
            _READ_TIME,
            "When the registry was last read, in seconds since 1970; of the worker most behind.",
            "livemin",
        )
        self._readable = gauge(
            "hotfeast_registry_readable",
            "1 if the registry could be read at the last look, by every worker; else 0.",
            "livemin",
        )
        self._generation = gauge(
            "hotfeast_plan_generation",
            "Grows by one whenever changed definitions go live; of the worker with the most.",
            "livemax",
        )

    def note(self, watch: Watch) -> None:
        """Sets the gauges."""
        state = watch.state
        self._read.set(state.read.timestamp())
        self._readable.set(0 if state.error else 1)
        self._generation.set(watch.book.generation)


class _CacheFigures:
    """What a cache has counted."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, mode: Any) -> Gauge:
            return Gauge(name, text, registry=registry, multiprocess_mode=mode)

        lookups = Counter(
            "hotfeast_cache_lookups",
            "Entities of requests that may be cached, by result: hit or miss.",
            ["result"],
            registry=registry,
        )
        self._counters = {
            "hits": lookups.labels("hit"),
            "misses": lookups.labels("miss"),
            "evictions": Counter(
                "hotfeast_cache_evictions",
                "Cached entities that made way for others.",
                registry=registry,
            ),
            "invalidations": Counter(
                "hotfeast_cache_invalidations",
                "Cached entities that were dropped because their rows were written.",
                registry=registry,
            ),
        }
        self._seen = dict.fromkeys(self._counters, 0)
        self._bytes = gauge(
            "hotfeast_cache_bytes", "Memory that the caches take, of all workers.", "livesum"
        )
        self._entries = gauge(
            "hotfeast_cache_entries", "Entities in the caches of all workers.", "livesum"
        )
        self._live = gauge(
            "hotfeast_cache_live",
            "1 if Redis tells every worker of writes, so that its cache is in use; else 0.",
            "livemin",
        )

    def note(self, cache: RowCache) -> None:
        """Counts on from the last time, and sets the gauges."""
        for name, counter in self._counters.items():
            count = getattr(cache, name)
            counter.inc(count - self._seen[name])
            self._seen[name] = count
        self._bytes.set(cache.used)
        self._entries.set(cache.entries)
        self._live.set(cache.live)


class _LogFigures:
    """What a feature log has counted."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._rows = Counter(
            "hotfeast_feature_log_rows",
            "Rows that were to be logged, by feature service and by what became of them: written "
            "(in files that are complete) or dropped.",
            ["feature_service", "outcome"],
            registry=registry,
        )
        self._files = Counter(
            "hotfeast_feature_log_files",
            "Files of the feature log that are complete, by feature service.",
            ["feature_service"],
            registry=registry,
        )
        self._bytes = Counter(
            "hotfeast_feature_log_bytes",
            "Their size, by feature service.",
            ["feature_service"],
            registry=registry,
        )
        self._waiting = Gauge(
            "hotfeast_feature_log_queue_bytes",
            "Answers that wait to be logged, of all workers.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._seen: dict[tuple[str, str], int] = {}

    def note(self, log: "FeatureLog") -> None:
        """Counts on from the last time, and sets the gauge."""
        for service, counts in list(log.counts.items()):
            self._count(self._rows.labels(service, "written"), service, "written", counts.written)
            self._count(self._rows.labels(service, "dropped"), service, "dropped", counts.dropped)
            self._count(self._files.labels(service), service, "files", counts.files)
            self._count(self._bytes.labels(service), service, "bytes", counts.bytes)
        self._waiting.set(log.waiting)

    def _count(self, counter: Counter, service: str, what: str, count: int) -> None:
        counter.inc(count - self._seen.get((service, what), 0))
        self._seen[service, what] = count


class _LoadGauges:
    """How busy a gateway is, and what it refuses."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, mode: Any) -> Gauge:
            return Gauge(name, text, registry=registry, multiprocess_mode=mode)

        self._in_flight = gauge(
            "hotfeast_reads_in_flight", "Reads that all workers are working on.", "livesum"
        )
        self._share = gauge(
            "hotfeast_read_load",
            "What the reads in flight weigh, in parts of what they may before others are refused; "
            "of the worker with the most.",
            "livemax",
        )
        self._waiting = gauge(
            "hotfeast_thread_queue", "Requests of all workers that wait for a thread.", "livesum"
        )
        self._refused = Counter(
            "hotfeast_refused",
            "Calls that were refused, or not worked on any more, by reason: overload, in_flight, "
            "threads, entities, values, deadline, cancelled; breaker: exchanges with Redis that "
            "were not made.",
            ["reason"],
            registry=registry,
        )
        self._breaker = gauge(
            "hotfeast_breaker_state",
            "0 if Redis is asked, 1 if it is tried again, 2 if it is left alone; of the worker "
            "with the most.",
            "livemax",
        )
        self._opened = Counter(
            "hotfeast_breaker_opened", "Times that Redis came to be left alone.", registry=registry
        )
        self._seen: dict[str, int] = {}

    def note(self, figures: LoadFigures, breaker: Breaker) -> None:
        """Counts on from the last time, and sets the gauges."""
        self._breaker.set(breaker.state)
        for reason, count in {"breaker": breaker.refused, **figures.refused}.items():
            self._refused.labels(reason).inc(count - self._seen.get(reason, 0))
            self._seen[reason] = count
        self._opened.inc(breaker.opened - self._seen.get("", 0))
        self._seen[""] = breaker.opened
        self._in_flight.set(figures.in_flight)
        self._share.set(figures.share)
        self._waiting.set(figures.waiting)


class WorkerFigures(Collector):
    """What a supervisor counts.

    Attributes:
        reloaded: Reloads after which all workers were new.
        failed: Those that a worker without a successor has ended.
        ended: Workers that were started again since they had ended by themselves.
        hung: Those that were since nothing was heard of them.
    """

    def __init__(self) -> None:
        self.reloaded = 0
        self.failed = 0
        self.ended = 0
        self.hung = 0

    def collect(self) -> Iterator[Metric]:
        """The figures as Prometheus wants them."""
        reloads = CounterMetricFamily(
            "hotfeast_reloads",
            "Times that all workers were to be replaced (SIGHUP), by outcome: done, failed.",
            labels=["outcome"],
        )
        reloads.add_metric(["done"], self.reloaded)
        reloads.add_metric(["failed"], self.failed)
        yield reloads
        restarts = CounterMetricFamily(
            "hotfeast_worker_restarts",
            "Workers that were started again, by reason: ended (by themselves), hung (nothing was "
            "heard of them for worker_timeout).",
            labels=["reason"],
        )
        restarts.add_metric(["ended"], self.ended)
        restarts.add_metric(["hung"], self.hung)
        yield restarts


class ConfigFigures(Collector):
    """Whether the settings are those of their file."""

    def __init__(self, config: ConfigWatch) -> None:
        """
        Args:
            config: The settings.
        """
        self._config = config

    def collect(self) -> Iterator[Metric]:
        """The figures as Prometheus wants them."""
        yield GaugeMetricFamily(
            "hotfeast_config_valid",
            "1 if the file of settings, as it is now, is in force, less what needs a restart; 0 if "
            "it is not valid.",
            value=float(self._config.valid),
        )


class _WithAge(Collector):
    """Figures, and the registry's age as it is when they are scraped."""

    def __init__(self, figures: Collector) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        for metric in self._figures.collect():
            yield metric
            if metric.name == _READ_TIME and metric.samples:
                yield GaugeMetricFamily(
                    "hotfeast_registry_age_seconds",
                    "Seconds since the registry was last read; of the worker most behind.",
                    value=max(time.time() - min(s.value for s in metric.samples), 0),
                )


class Page:
    """Serves figures over HTTP, until it is stopped.

    Attributes:
        url: Where.
    """

    def __init__(
        self,
        figures: Sequence[Collector],
        host: str,
        port: int,
        beside: Mapping[str, WSGIApplication] | None = None,
        guard: "PageGuard | None" = None,
    ) -> None:
        """
        Args:
            figures: What is served.
            host: The interface to listen on.
            port: 0 for any free one.
            beside: What else is, by path; a path that ends with a slash, other than `/`, stands for
                all below it.
            guard: Encrypts it, and lets requests pass; neither is done if None.

        Raises:
            StartFailure: The address cannot be had.
        """
        registry = CollectorRegistry()
        for each in figures:
            registry.register(_WithAge(each))
        if guard is not None:
            registry.register(guard)
        app = make_wsgi_app(registry)
        if beside:
            app = _side_by_side(app, beside)
        self._pages = HttpPages(app, host, port, guard)
        self.url = f"{self._pages.scheme}://{host}:{self._pages.port}/metrics"

    def stop(self) -> None:
        """Stops serving."""
        self._pages.stop()


def _side_by_side(
    figures: WSGIApplication, beside: Mapping[str, WSGIApplication]
) -> WSGIApplication:
    """An application that answers with figures for all paths that nothing else is at."""
    below = {path: app for path, app in beside.items() if path.endswith("/") and path != "/"}

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO") or "/"
        app = beside.get(path)
        if app is None:
            app = next((a for start, a in below.items() if path.startswith(start)), figures)
        return app(environ, start_response)

    return answer


class _Whole(Collector):
    """Figures in files that others write, make and remove; read again where one was caught half
    way."""

    def __init__(self, figures: Collector) -> None:
        self._figures = figures

    def collect(self) -> list[Metric]:
        for _ in range(_READS - 1):
            try:
                return list(self._figures.collect())
            except (OSError, ValueError, KeyError, struct.error):
                time.sleep(_READ_PAUSE)
        return list(self._figures.collect())


def workers_figures(folder: Path) -> Collector:
    """The sum of the figures that workers keep in a folder."""
    collector: Collector = MultiProcessCollector(None, str(folder))  # type: ignore[no-untyped-call]
    return _Whole(collector)


def forget_gauges(files: WorkerFiles) -> None:
    """Takes what a dead worker said of its state out of the sum; what it counted stays."""
    mark_process_dead(files.worker, str(files.folder))  # type: ignore[no-untyped-call]
