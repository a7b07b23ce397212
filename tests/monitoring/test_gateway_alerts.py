"""An alert of a whole gateway, from rows that are pushed and read to who is told of it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alerting import Hook
from feast import FeatureStore
from figures import scrape
from processes import Process, eventually

from hotfeast.clients import FeatureClient

SKUS = [f"alerted {number}" for number in range(20)]
RULES = """\
rules:
  - name: empty_price
    metric: null_share
    above: 50%
    clear: 20%
    features: ["product_stats:price"]
    channels: [served]
    severity: critical
    minimum_rows: 20
  - {name: nulls, disabled: true}
  - {name: freshness, disabled: true}
sinks:
  - type: webhook
    url: ${ALERTED}
"""
FIRING = 'hotfeast_alerts_firing{rule="empty_price",severity="critical"}'


def test_an_alert_fires_and_is_resolved(
    market_store: FeatureStore, tmp_path: Path, hook: Hook, monkeypatch: Any
) -> None:
    rules = tmp_path / "alerts.yaml"
    rules.write_text(RULES)
    monkeypatch.setenv("ALERTED", hook.url)
    options = (
        *("--workers", "2", "--metrics", "127.0.0.1:0", "--monitor", "--monitor-rate", "1"),
        *("--alert-rules", str(rules), "--alert-interval", "1"),
    )
    with Process(Path(market_store.repo_path), *options) as process:
        url = process.wait_for("metrics on").split(" on ")[1]
        with FeatureClient(process.address()) as client:

            def push(price: float | None) -> None:
                columns = {
                    "sku": SKUS,
                    "price": [price] * len(SKUS),
                    "stock": [1] * len(SKUS),
                    "event_timestamp": [datetime.now(UTC)] * len(SKUS),
                }
                client.push(columns, feature_view="product_stats").raise_for_failures()

            def told(notifications: int) -> bool:
                client.get_online_features(["product_stats:price"], {"sku": SKUS})
                return len(hook.bodies) == notifications

            push(None)
            eventually(lambda: told(1), timeout=60)
            assert scrape(url)[FIRING] == 1
            # Whoever pushes has mended it: more and more of what is read has a value.
            push(2.5)
            eventually(lambda: told(2), timeout=60)
        eventually(lambda: FIRING not in scrape(url))
        assert process.stop() == 0
    fired, resolved = hook.bodies
    assert [body["status"] for body in hook.bodies] == ["firing", "resolved"]
    (alert,), (same,) = fired["alerts"], resolved["alerts"]
    assert alert["labels"] == {
        "alertname": "empty_price", "severity": "critical", "feature_view": "product_stats",
        "feature": "price", "channel": "served", "metric": "null_share",
    }  # fmt: skip
    assert "null share 100.0%" in alert["annotations"]["summary"]
    assert (same["fingerprint"], same["startsAt"]) == (alert["fingerprint"], alert["startsAt"])
    assert same["endsAt"] > same["startsAt"]
