"""Alerts over a gateway's windows, as they go on: judged in turns, and shown to Prometheus."""

from collections.abc import Callable, Sequence

from hotfeast.server.monitoring.alerts import Alert, AlertEngine, State
from hotfeast.server.monitoring.drift import DriftSettings
from hotfeast.server.monitoring.measure import References, measure
from hotfeast.server.monitoring.rules import Known, Metric, RuleSet
from hotfeast.server.monitoring.windows import MonitoringStore

PERIOD = 60.0
"""Seconds between two evaluations: comparing distributions takes a while."""


class AlertWatch:
    """Looks at windows, and keeps what came of it for others; looked through by one thread.

    Attributes:
        references: What features are compared with, by view and feature.
        alerts: As of the last evaluation.
        period: Seconds between two evaluations.
    """

    def __init__(
        self,
        engine: AlertEngine,
        known: Known,
        references: References | None = None,
        settings: DriftSettings | None = None,
        event_clock: Callable[[float], float] = lambda now: now,
        period: float = PERIOD,
    ) -> None:
        """
        Args:
            engine: Judges.
            known: The views that rules are for.
            references: What features are compared with.
            settings: What is called drift.
            event_clock: Makes of the time the one that event times are aged at; another for a
                gateway that serves the past.
            period: Seconds between two evaluations.
        """
        self._engine = engine
        self._known = known
        self.references: References = references or {}
        self._settings = settings
        self._event_clock = event_clock
        self.period = period
        self._last: float | None = None
        self._drifts: Sequence[tuple[str, str, str, float, float]] = ()
        self.alerts: Sequence[Alert] = ()

    def replace(self, rules: RuleSet, known: Known, references: References) -> None:
        """Goes on by others, with an evaluation at the next look.

        Args:
            rules: The rules.
            known: The views that they are for.
            references: What features are compared with.
        """
        self._engine.replace_rules(rules, known)
        self._known = known
        self.references = references
        self._last = None

    def look(self, store: MonitoringStore, now: float) -> None:
        """Evaluates rules, if it is time for that.

        Args:
            store: What all processes have seen. Windows that are over are closed in it.
            now: Seconds since 1970.
        """
        if self._last is not None and 0 <= now - self._last < self.period:
            return
        self._last = now
        measured = measure(
            store, self._known, now, self.references, self._settings, self._event_clock(now)
        )
        self._drifts = tuple(
            (each.channel, each.view, each.feature, each.values[Metric.DRIFT], each.effect)
            for each in measured
            if Metric.DRIFT in each.values
        )
        self.alerts = tuple(self._engine.evaluate(measured, now))

    def firing(self) -> Sequence[tuple[str, str]]:
        """Rule and severity of each alert that fires."""
        return tuple((a.rule, a.severity) for a in self.alerts if a.state is State.FIRING)

    def drifts(self) -> Sequence[tuple[str, str, str, float, float]]:
        """Channel, view, feature, p-value and effect of each feature that has a reference."""
        return self._drifts
