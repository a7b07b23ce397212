"""What one gateway process tells of its calls, and of itself."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from hotfeast.server.settings import Settings
from hotfeast.server.telemetry.access_log import AccessLog
from hotfeast.server.telemetry.calls import CallWatch
from hotfeast.server.telemetry.process_figures import ProcessFigures
from hotfeast.server.telemetry.service_figures import ServiceFigures
from hotfeast.server.telemetry.traces import Traces
from hotfeast.server.watch import RegistryWatch


class Telemetry:
    """Makes what the settings ask for.

    Attributes:
        calls: Looks at some calls; None where nobody wants to know of any.
        services: Counts reads by feature service; None without figures.
    """

    def __init__(
        self,
        settings: Settings,
        registry: CollectorRegistry | None,
        watch: RegistryWatch,
        ping: Callable[[], object],
        connections: Callable[[], int],
    ) -> None:
        """
        Args:
            settings: The gateway's.
            registry: Where figures are kept; there are none if None.
            watch: The watch over the feature registry.
            ping: Asks Redis for a sign of life.
            connections: Counts the connections of clients.

        Raises:
            StartFailure: What sends traces is not installed.
        """
        worker = settings.metrics_files.worker if settings.metrics_files is not None else 0
        self.calls: CallWatch | None = None
        self.services: ServiceFigures | None = None
        self._process: ProcessFigures | None = None
        share = settings.logs.access
        access_log = AccessLog(share) if share is not None else None
        traces = Traces(settings.traces, worker) if settings.traces is not None else None
        if registry is not None or access_log is not None or traces is not None:
            self.calls = CallWatch(registry, access_log, traces)
        if registry is not None:
            self.services = ServiceFigures(registry, lambda: ttls_of(watch))
            self._process = ProcessFigures(registry, worker, ping, connections)

    def start(self) -> None:
        """Starts the threads."""
        for each in (self.calls, self.services, self._process):
            if each is not None:
                each.start()

    def stop(self) -> None:
        """Ends them, with all told that is to be."""
        for each in (self._process, self.services, self.calls):
            if each is not None:
                each.stop()


def ttls_of(watch: RegistryWatch) -> dict[str, float]:
    """The TTLs of the views of the moment in seconds, 0 for none."""
    return {name: view.ttl_seconds for name, view in watch.book.definitions.views.items()}
