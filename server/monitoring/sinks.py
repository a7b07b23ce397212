"""Who is told of alerts: the log, and webhooks.

A webhook is sent what Alertmanager sends to its own, so that whatever takes those takes these. It
is sent by a thread: an evaluation never waits for it. What waits is bounded, and what is given up
is counted and told in the log. A webhook's URL is often a secret, so only its host is ever told.
"""

import json
import logging
import threading
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from hotfeast.server.monitoring.alerts import Alert, Sink, State, iso
from hotfeast.server.monitoring.rules import SinkSettings

logger = logging.getLogger(__name__)

# Seconds between tries, the first and the longest.
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.ERROR}
_RECEIVER = "hotfeast"
# Answers after which a try again may do better; other refusals stay refusals.
_PASSING = {408, 425, 429}


def open_sinks(settings: Sequence[SinkSettings]) -> list["Sink"]:
    """The sinks that a rule file names."""
    return [LogSink() if each.kind == "log" else WebhookSink(each) for each in settings]


class Sinks:
    """All that a rule file names, as one; a changed file may name others."""

    def __init__(self, settings: Sequence[SinkSettings]) -> None:
        """
        Args:
            settings: Of each.
        """
        self._settings = tuple(settings)
        self._sinks = open_sinks(settings)

    def tell(self, alerts: Sequence[Alert]) -> None:
        """Tells all of them."""
        for sink in self._sinks:
            sink.tell(alerts)

    def replace(self, settings: Sequence[SinkSettings]) -> None:
        """Has others in their place, unless they are the same. What waits for a webhook is sent
        before, as far as some seconds allow."""
        if tuple(settings) == self._settings:
            return
        self.close()
        self._settings = tuple(settings)
        self._sinks = open_sinks(settings)

    def close(self) -> None:
        """Ends those that have threads."""
        for sink in self._sinks:
            if isinstance(sink, WebhookSink):
                sink.close()


class LogSink:
    """Tells the log, by the alert's severity."""

    def tell(self, alerts: Sequence[Alert]) -> None:
        """Logs alerts."""
        for alert in alerts:
            resolved = alert.state is State.RESOLVED
            level = logging.INFO if resolved else _LEVELS.get(alert.severity, logging.WARNING)
            logger.log(level, "alert %s %s: %s", alert.rule, alert.state, alert.summary)


class WebhookSink:
    """Posts to a URL."""

    def __init__(self, settings: SinkSettings, first_wait: float = _FIRST_WAIT) -> None:
        """
        Args:
            settings: Of a webhook.
            first_wait: Seconds before the first try again; each next one waits twice as long, up
                to a minute.
        """
        self._settings = settings
        self._first_wait = first_wait
        self._host = urlsplit(settings.url).hostname or "?"
        self._waiting: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._busy = False
        self.sent = 0
        """Notifications that were taken."""
        self.dropped = 0
        """Notifications that were given up."""
        self._thread = threading.Thread(target=self._run, name="alert-webhook", daemon=True)
        self._thread.start()

    def tell(self, alerts: Sequence[Alert]) -> None:
        """Queues one notification for these alerts. Of too many the oldest is given up."""
        body = json.dumps(notification(alerts)).encode()
        with self._changed:
            if len(self._waiting) >= self._settings.queue:
                self._waiting.popleft()
                self._drop("too many wait")
            self._waiting.append(body)
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Waits until nothing is under way any more; says whether that is so in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._busy, timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Sends what waits, as far as the seconds allow, and ends."""
        self.flush(timeout)
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(self._settings.timeout + 1.0)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stopped.is_set())
                if self._stopped.is_set():
                    return
                body = self._waiting.popleft()
                self._busy = True
            problem = self._deliver(body)
            with self._changed:
                self._busy = False
                if problem:
                    self._drop(problem)
                else:
                    self.sent += 1
                self._changed.notify_all()

    def _deliver(self, body: bytes) -> str:
        """Posts, and tries again; says why it was given up, or nothing."""
        wait = self._first_wait
        for attempt in range(self._settings.retries + 1):
            if attempt:
                if self._stopped.wait(wait):
                    return "the gateway ends"
                wait = min(2 * wait, _LONGEST_WAIT)
            problem, passing = self._post(body)
            if not problem or not passing:
                return problem
        return problem

    def _post(self, body: bytes) -> tuple[str, bool]:
        """Posts once: what went wrong, or nothing, and whether it may pass."""
        request = urllib.request.Request(
            self._settings.url, body, {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with _OPENER.open(request, timeout=self._settings.timeout) as answer:
                answer.read(1)
            return "", False
        except urllib.error.HTTPError as error:
            error.close()
            return f"it answered {error.code}", error.code >= 500 or error.code in _PASSING
        except Exception as error:
            # Not the message: that of an invalid URL has the URL.
            reason = getattr(error, "reason", error)
            return f"{type(reason).__name__}", True

    def _drop(self, why: str) -> None:
        self.dropped += 1
        logger.warning("a notification to the webhook at %s is given up: %s", self._host, why)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET of somewhere else."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def notification(alerts: Sequence[Alert]) -> dict[str, Any]:
    """What Alertmanager's webhooks are sent (version 4 of its format)."""
    told = [_told(alert) for alert in alerts]
    firing = any(alert.state is State.FIRING for alert in alerts)
    return {
        "version": "4",
        "groupKey": _RECEIVER,
        "truncatedAlerts": 0,
        "status": "firing" if firing else "resolved",
        "receiver": _RECEIVER,
        "groupLabels": {},
        "commonLabels": _common([each["labels"] for each in told]),
        "commonAnnotations": _common([each["annotations"] for each in told]),
        "externalURL": "",
        "alerts": told,
    }


def _told(alert: Alert) -> dict[str, Any]:
    labels = {
        "alertname": alert.rule,
        "severity": alert.severity,
        "feature_view": alert.view,
        "feature": alert.feature,
        "channel": alert.channel,
        "metric": str(alert.metric),
        "owner": alert.owner,
    }
    return {
        "status": "resolved" if alert.state is State.RESOLVED else "firing",
        # Alertmanager has no empty labels.
        "labels": {name: value for name, value in labels.items() if value},
        "annotations": {
            name: value
            for name, value in (("summary", alert.summary), ("description", alert.description))
            if value
        },
        "startsAt": iso(alert.fired if alert.fired is not None else alert.since),
        "endsAt": iso(alert.resolved) if alert.resolved is not None else "0001-01-01T00:00:00Z",
        "generatorURL": "",
        "fingerprint": alert.fingerprint,
    }


def _common(mappings: Sequence[dict[str, str]]) -> dict[str, str]:
    first, *others = mappings
    return {
        name: value
        for name, value in first.items()
        if all(other.get(name) == value for other in others)
    }
