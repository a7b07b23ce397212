"""The monitoring and the feature log of one gateway process."""

from collections.abc import Callable
from typing import NamedTuple

from hotfeast.server.errors import StartFailure
from hotfeast.server.feast_api import FeatureStore
from hotfeast.server.monitoring.collector import WRITE_EVERY, Collector
from hotfeast.server.monitoring.feature_log import (
    FeatureLog,
    Limits,
    LoggedService,
    logged_services,
)
from hotfeast.server.monitoring.tap import Tap
from hotfeast.server.settings import FeatureLogSettings, MonitorSettings
from hotfeast.server.telemetry.opening import ttls_of
from hotfeast.server.watch import RegistryWatch


class Observers(NamedTuple):
    """What looks at answers and pushes.

    Attributes:
        tap: Takes samples.
        collector: Keeps what is seen of them; None where only features are logged.
        log: Logs features; None where that is not asked for.
    """

    tap: Tap
    collector: Collector | None
    log: FeatureLog | None

    def start(self) -> None:
        """Starts the threads."""
        if self.collector is not None:
            # So that the views are known from the beginning.
            self.collector.write()
        self.tap.start()
        if self.log is not None:
            self.log.start()

    def stop(self) -> None:
        """Takes what waits, writes it, and ends."""
        self.tap.stop()
        if self.collector is not None:
            self.collector.write()
        if self.log is not None:
            self.log.stop()


def open_observers(
    monitor: MonitorSettings | None,
    feature_log: FeatureLogSettings | None,
    store: FeatureStore,
    watch: RegistryWatch,
    tell: Callable[[FeatureLog], None] = lambda _: None,
) -> Observers:
    """Makes what the settings ask for; nothing is started.

    Args:
        monitor: How features are monitored; None for not.
        feature_log: How they are logged; None for not.
        store: The repository.
        watch: The watch over its registry.
        tell: Is told of the feature log, again and again.

    Raises:
        StartFailure: A folder cannot be written, a window cannot be that long, or a feature service
            cannot be logged.
    """
    log = None
    if feature_log is not None:
        log = FeatureLog(
            _services(store, feature_log),
            Limits(feature_log.size, feature_log.seconds),
            lambda: watch.book.generation,
            tell,
        )
    if monitor is None:
        return Observers(Tap(0, [], log), None, log)

    if monitor.folder is None:
        raise StartFailure("a gateway without a supervisor is monitored in a folder that is named")

    try:
        collector = Collector(
            monitor.folder,
            monitor.seconds,
            monitor.every,
            lambda: ttls_of(watch),
            lambda: tap.dropped,
            lambda: watch.book.definitions.fingerprint,
            min(monitor.interval, WRITE_EVERY),
        )
    except (OSError, ValueError) as error:
        raise StartFailure(f"features cannot be monitored in {monitor.folder}: {error}") from error
    tap = Tap(monitor.every, [collector.observe], log, collector.write_if_due)
    return Observers(tap, collector, log)


def _services(
    store: FeatureStore, settings: FeatureLogSettings
) -> Callable[[], dict[str, LoggedService]]:
    def read() -> dict[str, LoggedService]:
        store.refresh_registry()
        return logged_services(store, settings.folder, settings.rate)

    return read
