"""The reports of a running gateway, from what its workers have seen and what alerts came of it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock

from hotfeast.server.monitoring.alerts import Alert, State
from hotfeast.server.monitoring.collector import read_collected
from hotfeast.server.monitoring.report.build import Evidence, build_details, build_report
from hotfeast.server.monitoring.report.catalogue import Catalogue
from hotfeast.server.monitoring.report.evidence import (
    compared,
    readers_of_state,
    seen_of_state,
)
from hotfeast.server.monitoring.report.model import AlertRow, FeatureDetails, Report
from hotfeast.server.monitoring.rules import Metric
from hotfeast.server.monitoring.statistics import FeatureStatistics

INTERVAL = 10.0
"""Seconds for which a report is shown before another is made, if somebody asks."""
REFERENCE = "the latest profile"
# Of what these are, an alert's words tell a value.
_TOLD_BY_VALUE = (Metric.MEAN, Metric.STD, Metric.MINIMUM, Metric.MAXIMUM)


def gather(
    folder: Path,
    references: Mapping[tuple[str, str], FeatureStatistics],
    reference_name: str,
    now: float,
    alerts: Sequence[AlertRow] = (),
    show_pii: bool = False,
) -> Evidence:
    """What the processes of a gateway have seen.

    Args:
        folder: That of their files.
        references: What features are compared with, by view and feature.
        reference_name: How the references are called.
        now: What ages are judged at, in seconds since 1970.
        alerts: Those that fire.
        show_pii: Whether values of features that are tagged PII are shown.
    """
    collected = read_collected(folder)
    if collected.every > 1:
        words = f"One of {collected.every} reads, drawn at random, and what was written"
    else:
        words = "What was read and written"
    return Evidence(
        words=words,
        now=now,
        seen=compared(seen_of_state(collected.store, references, reference_name)),
        alerts=alerts,
        readers=readers_of_state(collected.store),
        show_pii=show_pii,
    )


def alert_rows(alerts: Sequence[Alert], catalogue: Catalogue) -> list[AlertRow]:
    """The alerts that fire, without the values of features that are tagged PII."""
    return [_row(alert, catalogue) for alert in alerts if alert.state is State.FIRING]


def _row(alert: Alert, catalogue: Catalogue) -> AlertRow:
    view = catalogue.views.get(alert.view)
    feature = view.feature(alert.feature) if view is not None and alert.feature else None
    hidden = feature is not None and feature.marks.pii and alert.metric in _TOLD_BY_VALUE
    return AlertRow(
        rule=alert.rule,
        level="critical" if alert.severity == "critical" else "warning",
        view=alert.view,
        feature=alert.feature or None,
        about=str(alert.metric),
        since=alert.fired,
        brief=alert.rule,
        message=(alert.description or alert.rule) if hidden else alert.summary,
    )


class GatewayReports:
    """Makes a report when one is asked for, and shows it for `INTERVAL`."""

    def __init__(
        self,
        folder: Path,
        catalogue: Callable[[], Catalogue],
        references: Callable[[], Mapping[tuple[str, str], FeatureStatistics]],
        alerts: Callable[[], Sequence[Alert]],
        clock: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        """
        Args:
            folder: That of the workers' files.
            catalogue: Says what there is.
            references: Says what features are compared with, by view and feature.
            alerts: Says what alerts there are.
            clock: Monotonic seconds.
            now: What ages are judged at, in seconds since 1970.
        """
        self._folder = folder
        self._references = references
        self._alerts = alerts
        self._clock = clock
        self._now = now
        self._lock = Lock()
        self._read_catalogue = catalogue
        self._catalogue = catalogue()
        self._evidence: Evidence | None = None
        self._report: Report | None = None
        self._made = 0.0

    def report(self) -> Report:
        """What is seen at once."""
        with self._lock:
            return self._latest()

    def details(self, view: str, feature: str) -> FeatureDetails:
        """What is seen of one feature.

        Raises:
            LookupError: There is no such view or feature.
        """
        with self._lock:
            self._latest()
            assert self._evidence is not None
            return build_details(self._catalogue, self._evidence, view, feature)

    def _latest(self) -> Report:
        if self._report is not None and self._clock() < self._made + INTERVAL:
            return self._report
        self._catalogue = self._read_catalogue()
        self._evidence = gather(
            self._folder,
            self._references(),
            REFERENCE,
            self._now(),
            alert_rows(self._alerts(), self._catalogue),
        )
        self._report = build_report(self._catalogue, self._evidence, INTERVAL)
        self._made = self._clock()
        return self._report
