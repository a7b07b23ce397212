"""The watch over the features of a whole gateway: in its supervisor, over what the workers see."""

import time
from functools import partial

from hotfeast.server.monitoring.alert_watch import AlertWatch
from hotfeast.server.monitoring.alerts import AlertEngine
from hotfeast.server.monitoring.inputs import Inputs
from hotfeast.server.monitoring.report.gateway_reports import GatewayReports
from hotfeast.server.monitoring.report.live import PATHS, LivePage
from hotfeast.server.monitoring.service import TURN, MonitoringService, Snapshot
from hotfeast.server.monitoring.sinks import Sinks
from hotfeast.server.settings import Settings

__all__ = ["PATHS", "open_monitoring"]


def open_monitoring(settings: Settings, kept: bool) -> tuple[MonitoringService, LivePage]:
    """What reads the folder of the workers, and what shows it to people.

    Args:
        settings: With that folder.
        kept: Whether it is there after a restart, so that alerts can go on.

    Raises:
        StartFailure: The repository cannot be read, or a rule or profile is not valid.
    """
    monitor, as_of = settings.monitor, settings.as_of
    assert monitor is not None
    assert monitor.folder is not None
    past = None if as_of is None else as_of.timestamp()

    def clock(now: float) -> float:
        return now if past is None else past

    inputs = Inputs(settings.repo, monitor.rules, monitor.profiles)
    sinks = Sinks(inputs.rules.sinks)
    state = monitor.folder / "alerts.json" if kept else None
    engine = AlertEngine(inputs.rules, inputs.known, state, [sinks])
    alerts = AlertWatch(
        engine, inputs.known, inputs.references, event_clock=clock, period=monitor.interval
    )

    def follow(snapshot: Snapshot) -> None:
        if inputs.look(snapshot.collected.definitions):
            sinks.replace(inputs.rules.sinks)
            alerts.replace(inputs.rules, inputs.known, inputs.references)

    service = MonitoringService(
        monitor.folder,
        [follow, lambda snapshot: alerts.look(snapshot.collected.store, snapshot.time)],
        alerts.firing,
        alerts.drifts,
        lambda: clock(time.time()),
        min(monitor.interval, TURN),
        valid=inputs.valid,
        tell_interval=partial(setattr, alerts, "period"),
    )
    reports = GatewayReports(
        monitor.folder,
        lambda: inputs.catalogue,
        lambda: inputs.references,
        lambda: alerts.alerts,
        time.monotonic,
        lambda: clock(time.time()),
    )
    return service, LivePage(reports)
