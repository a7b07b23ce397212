"""Who is told of alerts, over real sockets."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from alerting import SECRET, Hook, an_alert

from hotfeast.server.monitoring.alerts import State
from hotfeast.server.monitoring.rules import SinkSettings
from hotfeast.server.monitoring.sinks import LogSink, WebhookSink, open_sinks


@contextmanager
def sending(url: str, **settings: Any) -> Iterator[WebhookSink]:
    sink = WebhookSink(SinkSettings("webhook", url, **{"timeout": 5.0, **settings}), 0.01)
    yield sink
    sink.close(0.0)


def test_a_notification_is_as_alertmanagers(hook: Hook) -> None:
    with sending(hook.url) as sink:
        sink.tell([an_alert(), an_alert("drift", State.RESOLVED)])
        assert sink.flush(10)
        assert sink.sent == 1
    (body,) = hook.bodies
    assert body["version"] == "4"
    assert body["status"] == "firing"
    assert body["commonLabels"] == {
        "severity": "warning", "feature_view": "users", "feature": "spend", "channel": "served",
        "metric": "null_share", "owner": "users@example.com",
    }  # fmt: skip
    firing, resolved = body["alerts"]
    assert firing == {
        "status": "firing",
        "labels": {"alertname": "nulls", **body["commonLabels"]},
        "annotations": {"summary": an_alert().summary},
        "startsAt": "1970-01-01T00:26:40Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "",
        "fingerprint": an_alert().fingerprint,
    }
    assert resolved["status"] == "resolved"
    assert resolved["endsAt"] == "1970-01-01T00:33:20Z"


def test_what_may_pass_is_tried_again(hook: Hook) -> None:
    hook.codes = [500, 429, 200]
    with sending(hook.url) as sink:
        sink.tell([an_alert()])
        assert sink.flush(10)
        assert (sink.sent, sink.dropped, len(hook.bodies)) == (1, 0, 3)


@pytest.mark.parametrize(("codes", "tries"), [([404], 1), ([302], 1), ([503] * 3, 3)])
def test_what_is_given_up(
    hook: Hook, caplog: pytest.LogCaptureFixture, codes: list[int], tries: int
) -> None:
    hook.codes = list(codes)
    with caplog.at_level(logging.DEBUG), sending(hook.url, retries=2) as sink:
        sink.tell([an_alert()])
        assert sink.flush(10)
        assert (sink.sent, sink.dropped, len(hook.bodies)) == (0, 1, tries)
    assert f"webhook at 127.0.0.1 is given up: it answered {codes[0]}" in caplog.text
    assert SECRET not in caplog.text


def test_nobody_is_there(caplog: pytest.LogCaptureFixture) -> None:
    with sending(f"http://127.0.0.1:1/{SECRET}", retries=1) as sink:
        sink.tell([an_alert()])
        assert sink.flush(10)
        assert sink.dropped == 1
    assert "ConnectionRefusedError" in caplog.text
    assert SECRET not in caplog.text


def test_a_slow_hook_holds_nobody_up_and_what_waits_is_bounded(hook: Hook) -> None:
    hook.let_go.clear()
    with sending(hook.url, queue=2) as sink:
        for number in range(6):
            sink.tell([an_alert(f"rule {number}")])
        # One at most is under way, two wait, and all others have made way for them.
        assert sink.dropped >= 3
        hook.let_go.set()
        assert sink.flush(10)
        assert sink.sent + sink.dropped == 6
    # The newest are those that are kept.
    assert [b["alerts"][0]["labels"]["alertname"] for b in hook.bodies][-2:] == ["rule 4", "rule 5"]


def test_a_hook_that_does_not_answer_in_time(hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    hook.let_go.clear()
    with sending(hook.url, timeout=0.05, retries=0) as sink:
        sink.tell([an_alert()])
        assert sink.flush(10)
        assert sink.dropped == 1
    assert "TimeoutError" in caplog.text


def test_the_end_does_not_wait_for_the_next_try(hook: Hook) -> None:
    hook.codes = [500] * 10
    sink = WebhookSink(SinkSettings("webhook", hook.url), first_wait=60.0)
    sink.tell([an_alert()])
    sink.close(0.1)
    assert sink.dropped == 1


def test_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        LogSink().tell(
            [
                an_alert(),
                an_alert("freshness", severity="critical"),
                an_alert("drift", State.RESOLVED),
            ]
        )
    assert [(r.levelname, r.getMessage().partition(":")[0]) for r in caplog.records] == [
        ("WARNING", "alert nulls firing"),
        ("ERROR", "alert freshness firing"),
        ("INFO", "alert drift resolved"),
    ]


def test_sinks_as_a_file_names_them() -> None:
    log, hook = open_sinks([SinkSettings(), SinkSettings("webhook", "http://127.0.0.1:1/x")])
    assert isinstance(log, LogSink)
    assert isinstance(hook, WebhookSink)
    hook.close(0.0)
