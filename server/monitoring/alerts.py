"""Alerts: what rules make of what is measured, and what becomes of it over time.

An alert is one rule and one feature (or view). It is pending from the moment its value is alarming,
fires once that has lasted as long as the rule says, and is resolved once the value is well again,
seen from the rule's `clear`. So one bad window tells nobody, and a value at the threshold does not
tell everybody again and again. Where nothing is measured any more, an alert stays what it is for
`SILENCE` and is then resolved as unknown.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from hotfeast.server.monitoring.rules import VIEW_METRICS, Comparison, Known, Metric, Rule, RuleSet

logger = logging.getLogger(__name__)

SILENCE = 3600.0
"""Seconds after which an alert is resolved of which nothing is measured any more."""

KEPT = 86400.0
"""Seconds that resolved alerts are still shown."""

_STATE_VERSION = 1


class State(StrEnum):
    """What has become of an alert."""

    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True)
class Measurement:
    """What is measured of a feature in a channel, or of a view.

    Attributes:
        view: The view.
        feature: The feature; empty for the view as a whole.
        channel: Where its values were seen; empty for the view as a whole.
        rows: How many rows there were.
        values: By metric.
        reference: The same of the reference profile, by metric, where there is one.
        effect: The effect of drift, where a drift is measured.
        least_effect: The least that counts where the rule does not say.
    """

    view: str
    feature: str
    channel: str
    rows: int
    values: Mapping[Metric, float]
    reference: Mapping[Metric, float] = field(default_factory=dict)
    effect: float = 0.0
    least_effect: float = 0.0


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert, as JSON has it; times in seconds since 1970.

    Attributes:
        fingerprint: The same for the same rule and feature, and for no other.
        rule: The rule's name.
        severity: The rule's.
        state: What has become of it.
        view: The view.
        feature: The feature; empty for the view as a whole.
        channel: Where the values were seen; empty for the view as a whole.
        metric: What the rule looks at.
        value: What it was when it was last measured, the reference's taken off if the rule does so.
        threshold: The rule's.
        since: When the value became alarming.
        fired: When it began to fire; None while it is pending.
        resolved: When it ended; None before.
        seen: When it was last measured.
        owner: The view's.
        summary: What is so, in words.
        description: The rule's.
    """

    fingerprint: str
    rule: str
    severity: str
    state: State
    view: str
    feature: str
    channel: str
    metric: Metric
    value: float
    threshold: float
    since: float
    fired: float | None
    resolved: float | None
    seen: float
    owner: str
    summary: str
    description: str

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Alert":
        """Makes one of what `to_dict` gave.

        Raises:
            ValueError, TypeError, KeyError: It is something else.
        """
        known = {f.name for f in fields(cls)}
        values = {name: value for name, value in data.items() if name in known}
        values["state"], values["metric"] = State(values["state"]), Metric(values["metric"])
        return cls(**values)


class Sink(Protocol):
    """Who is told of alerts. Takes no time: what does is done elsewhere."""

    def tell(self, alerts: Sequence[Alert]) -> None:
        """Is told of alerts that have begun to fire, or have been resolved after they did."""


class AlertEngine:
    """Judges what is measured, time after time. Used by one thread."""

    def __init__(
        self,
        rules: RuleSet,
        known: Known,
        state: Path | None = None,
        sinks: Iterable[Sink] = (),
    ) -> None:
        """
        Args:
            rules: The rules.
            known: The views that they were checked against.
            state: A file that keeps alerts over restarts; none if None. One that cannot be read is
                told in the log, and then replaced.
            sinks: Who is told.
        """
        self._state = state
        self._sinks = list(sinks)
        self._alerts: dict[str, Alert] = {}
        self.replace_rules(rules, known)
        if state is not None:
            self._alerts = _load(state)

    def replace_rules(self, rules: RuleSet, known: Known) -> None:
        """Goes on with other rules, or other definitions. Alerts whose rule, view or feature there
        is no more are resolved at the next evaluation."""
        self._rules = list(rules.rules.values())
        self._known = known

    @property
    def alerts(self) -> list[Alert]:
        """Alerts as of the last evaluation: firing ones first, then pending, then resolved."""
        order = [State.FIRING, State.PENDING, State.RESOLVED]
        return sorted(
            self._alerts.values(),
            key=lambda a: (order.index(a.state), -a.since, a.view, a.feature, a.channel, a.rule),
        )

    def evaluate(self, measurements: Iterable[Measurement], now: float) -> list[Alert]:
        """Judges what is measured now, and tells the sinks what that changes.

        Args:
            measurements: What is measured; no two of the same feature and channel.
            now: Seconds since 1970.

        Returns:
            As `alerts`.
        """
        told: list[Alert] = []
        seen: set[str] = set()
        live: set[str] = set()
        for measured in measurements:
            for rule in self._rules:
                if not _looks_at(rule, measured):
                    continue
                if not self._known.covers(rule, measured.view, measured.feature):
                    continue
                key = fingerprint(rule.name, measured)
                live.add(key)
                value = _value(rule, measured)
                if value is None or measured.rows < rule.minimum_rows:
                    continue
                seen.add(key)
                self._judge(key, rule, measured, value, now, told)
        rules = {rule.name: rule for rule in self._rules}
        for key, alert in list(self._alerts.items()):
            if key not in seen:
                self._unmeasured(key, alert, rules.get(alert.rule), now, told)
        # Told before it is kept: who is told twice is better off than who is never told.
        if told:
            for sink in self._sinks:
                sink.tell(told)
        if self._state is not None:
            _save(self._state, self._alerts.values())
        return self.alerts

    def _judge(
        self,
        key: str,
        rule: Rule,
        measured: Measurement,
        value: float,
        now: float,
        told: list[Alert],
    ) -> None:
        known = self._alerts.get(key)
        firing = known is not None and known.state is State.FIRING
        alarming = rule.alarming(value, firing) and not (
            rule.metric is Metric.DRIFT and _effect_is_small(rule, measured)
        )
        if not alarming:
            if known is None or known.state is State.RESOLVED:
                self._forget(key, known, now)
            elif known.state is State.PENDING:
                del self._alerts[key]
            else:
                self._resolve(key, replace(known, value=value, seen=now), now, told, "")
            return
        since = now if known is None or known.state is State.RESOLVED else known.since
        fires = firing or now - since >= rule.for_seconds
        view = self._known.views[measured.view]
        alert = Alert(
            fingerprint=key,
            rule=rule.name,
            severity=rule.severity,
            state=State.FIRING if fires else State.PENDING,
            view=measured.view,
            feature=measured.feature,
            channel=measured.channel,
            metric=rule.metric,
            value=value,
            threshold=rule.threshold,
            since=since,
            fired=(known.fired if firing and known is not None else now) if fires else None,
            resolved=None,
            seen=now,
            owner=view.owner,
            summary=summary(rule, measured, value),
            description=rule.description,
        )
        self._alerts[key] = alert
        if fires and not firing:
            told.append(alert)

    def _unmeasured(
        self, key: str, alert: Alert, rule: Rule | None, now: float, told: list[Alert]
    ) -> None:
        if alert.state is State.RESOLVED:
            self._forget(key, alert, now)
        elif rule is None or not self._known.covers(rule, alert.view, alert.feature):
            self._end(key, alert, now, told, "its rule or feature is there no more")
        elif now - alert.seen >= SILENCE:
            self._end(key, alert, now, told, "nothing is measured any more")

    def _end(self, key: str, alert: Alert, now: float, told: list[Alert], why: str) -> None:
        if alert.state is State.PENDING:
            del self._alerts[key]
        else:
            self._resolve(key, alert, now, told, why)

    def _resolve(self, key: str, alert: Alert, now: float, told: list[Alert], why: str) -> None:
        summary = f"{alert.summary} ({why})" if why else alert.summary
        self._alerts[key] = replace(alert, state=State.RESOLVED, resolved=now, summary=summary)
        told.append(self._alerts[key])

    def _forget(self, key: str, alert: Alert | None, now: float) -> None:
        if alert is not None and alert.resolved is not None and now - alert.resolved >= KEPT:
            del self._alerts[key]


def fingerprint(rule: str, measured: Measurement) -> str:
    """What an alert is known by: 16 hexadecimal digits."""
    parts = json.dumps([rule, measured.channel, measured.view, measured.feature])
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def _looks_at(rule: Rule, measured: Measurement) -> bool:
    if rule.metric in VIEW_METRICS:
        return not measured.feature
    return bool(measured.feature) and measured.channel in rule.channels


def _value(rule: Rule, measured: Measurement) -> float | None:
    value = measured.values.get(rule.metric)
    if value is None or value != value:
        return None
    if rule.beyond_reference:
        value -= measured.reference.get(rule.metric, 0.0)
    return value


def _effect_is_small(rule: Rule, measured: Measurement) -> bool:
    least = measured.least_effect if rule.effect is None else rule.effect
    return measured.effect < least


_SIGNS = {Comparison.ABOVE: "above", Comparison.BELOW: "below", Comparison.EQUALS: "equal to"}
_SHARES = {Metric.NULL_SHARE, Metric.MISSING_SHARE, Metric.STALE_SHARE, Metric.OUTLIER_SHARE}


def summary(rule: Rule, measured: Measurement, value: float) -> str:
    """What is alarming, in words."""
    name = f"{measured.view}:{measured.feature}" if measured.feature else measured.view
    if measured.channel:
        name = f"{name} ({measured.channel})"
    sign = _SIGNS[rule.comparison]
    if rule.metric is Metric.FRESHNESS:
        age = _age(measured.values.get(Metric.AGE))
        return f"{name}: its newest row is {age} old, {value:.3g} of what it may be"
    if rule.metric is Metric.AGE:
        return f"{name}: its newest row is {_age(value)} old, {sign} {_age(rule.threshold)}"
    if rule.metric is Metric.DRIFT:
        # Of many rows it is often too small for a float.
        p_value = "<0.0001" if value < 0.0001 else f"{value:.2g}"
        return (
            f"{name}: drifted from its reference, p {p_value} {sign} {rule.threshold:g}, "
            f"effect {measured.effect:.3g}"
        )
    what = str(rule.metric).replace("_", " ")
    share = rule.metric in _SHARES
    told, limit = (f"{v:.1%}" if share else f"{v:.6g}" for v in (value, rule.threshold))
    beyond = ""
    if rule.beyond_reference and rule.metric in measured.reference:
        reference = measured.reference[rule.metric]
        usual = f"{reference:.1%}" if share else f"{reference:.6g}"
        beyond = f" more than the reference's {usual}"
    return f"{name}: {what} {told}{beyond}, {sign} {limit}"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "too"
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _load(path: Path) -> dict[str, Alert]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] != _STATE_VERSION:
            raise ValueError(f"it is of version {data['version']}")
        alerts = [Alert.from_dict(each) for each in data["alerts"]]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning("alerts start anew: %s cannot be read: %s", path, error)
        return {}
    return {alert.fingerprint: alert for alert in alerts}


def _save(path: Path, alerts: Iterable[Alert]) -> None:
    data = {"version": _STATE_VERSION, "alerts": [alert.to_dict() for alert in alerts]}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(data), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        logger.warning("alerts are not kept over a restart: %s cannot be written: %s", path, error)


def iso(seconds: float) -> str:
    """A time as ISO 8601 has it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
