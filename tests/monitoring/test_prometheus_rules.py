"""Rules for Prometheus, judged by Prometheus' own promtool."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from alerting import DAY, KNOWN

from hotfeast.server.monitoring.prometheus_rules import (
    DRIFT_EFFECT,
    DRIFT_P_VALUE,
    FRESHNESS,
    NULL_SHARE,
    OUTLIER_SHARE,
    ROWS,
    TTL,
    prometheus_rules,
)
from hotfeast.server.monitoring.rules import Metric, default_rules, parse_rules

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed (apt-get install prometheus)"
)

Alerts = dict[tuple[str, str], list[dict[str, str]]]
"""By time and rule the labels of the alerts that fire."""


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        [PROMTOOL or "", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def series(figure: str, values: str, **labels: str) -> dict[str, str]:
    inside = ", ".join(f'{name}="{value}"' for name, value in labels.items())
    return {"series": f"{figure}{{{inside}}}", "values": values}


def of(view: str, feature: str, channel: str = "served") -> dict[str, str]:
    return {"channel": channel, "feature_view": view, "feature": feature}


def firing(folder: Path, rules: str, inputs: Sequence[dict[str, str]], expected: Alerts) -> None:
    """Has promtool run rules on series with a sample a minute, and compare the alerts."""
    (folder / "rules.yml").write_text(rules)
    tests = []
    severities = {
        rule["alert"]: rule["labels"]["severity"]
        for rule in yaml.safe_load(rules)["groups"][0]["rules"]
    }
    for (time, name), alerts in expected.items():
        tests.append(
            {
                "eval_time": time,
                "alertname": name,
                "exp_alerts": [
                    {"exp_labels": {**labels, "severity": severities[name]}} for labels in alerts
                ],
            }
        )
    document = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": list(inputs), "alert_rule_test": tests}],
    }
    (folder / "test.yml").write_text(yaml.safe_dump(document))
    # Of what an alert says only its labels are compared here.
    made = yaml.safe_load(rules)
    for rule in made["groups"][0]["rules"]:
        del rule["annotations"]
    (folder / "rules.yml").write_text(yaml.safe_dump(made))
    assert "SUCCESS" in promtool("test", "rules", folder / "test.yml")


@needs_promtool
def test_default_rules_fire(tmp_path: Path) -> None:
    made = prometheus_rules(default_rules(), KNOWN, least_effect=0.1)
    assert made.left_out == {}
    spend, visits, stock = of("users", "spend"), of("users", "visits"), of("shops", "stock")
    rare = of("world", "rate")
    inputs = [
        *(series(ROWS, "1000x60", **each) for each in (spend, visits, stock)),
        series(ROWS, "50x60", **rare),
        # Above, in between, and well again.
        series(NULL_SHARE, "0.2x20 0.095x20 0.05x20", **spend),
        series(NULL_SHARE, "0.095x60", **visits),
        series(NULL_SHARE, "0.9x60", **rare),
        series(OUTLIER_SHARE, "0.06x60", **stock),
        series(DRIFT_P_VALUE, "0.001x60", **spend),
        series(DRIFT_EFFECT, "0.5x60", **spend),
        series(DRIFT_P_VALUE, "0.001x60", **visits),
        series(DRIFT_EFFECT, "0.05x60", **visits),
        series(TTL, f"{2 * DAY}x60", feature_view="users"),
        series(TTL, f"{2 * DAY}x60", feature_view="shops"),
        series(TTL, "0x60", feature_view="world"),
        series(FRESHNESS, f"{1.5 * DAY}x60", feature_view="users"),
        # Half of its TTL is past, and its tag allows eight days.
        series(FRESHNESS, f"{7 * DAY}x30 {9 * DAY}x30", feature_view="shops"),
        series(FRESHNESS, f"{900 * DAY}x60", feature_view="world"),
    ]
    users, shops = {"feature_view": "users"}, {"feature_view": "shops"}
    firing(
        tmp_path,
        made.text,
        inputs,
        {
            ("5m", "nulls"): [],
            ("12m", "nulls"): [spend],
            ("30m", "nulls"): [spend],
            ("50m", "nulls"): [],
            ("12m", "outliers"): [stock],
            ("12m", "drift"): [spend],
            ("12m", "freshness"): [users],
            ("45m", "freshness"): [users, shops],
        },
    )


@needs_promtool
def test_scopes_references_and_comparisons_fire(tmp_path: Path) -> None:
    rules = parse_rules(
        """
rules:
  - {name: nulls, for: 0s, tags: {domain: people}}
  - {name: served_only, metric: stale_share, above: 0.5, channels: [served, pushed]}
  - {name: silent, metric: rows, equals: 0, features: "shops:*"}
  - {name: few, metric: rows, below: 10, services: ranking, for: 90s}
  - {name: old, metric: age, above: 3h, views: users}
  - {name: outliers, disabled: true}
  - {name: effect, metric: drift_effect, above: 0.9, minimum_rows: 0}
""",
        "alerts.yaml",
        KNOWN,
    )
    made = prometheus_rules(rules, KNOWN, {("users", "visits"): {Metric.NULL_SHARE: 0.4}})
    spend, visits, stock = of("users", "spend"), of("users", "visits"), of("shops", "stock")
    inputs = [
        *(series(ROWS, "1000x10", **each) for each in (spend, visits)),
        series(ROWS, "0x10", **stock),
        series(NULL_SHARE, "0.45x10", **spend),
        series(NULL_SHARE, "0.45x10", **visits),
        series(NULL_SHARE, "0.45x10", **stock),
        *(
            series("hotfeast_feature_stale_share", "1x10", **of("users", "spend", channel))
            for channel in ("served", "materialized")
        ),
        *(
            series(ROWS, "1000x10", **of("users", "spend", channel))
            for channel in ("materialized",)
        ),
        series(FRESHNESS, "14400x10", feature_view="users"),
        series(FRESHNESS, "14400x10", feature_view="shops"),
        series(DRIFT_EFFECT, "0.95x10", **stock),
    ]
    firing(
        tmp_path,
        made.text,
        inputs,
        {
            ("5m", "nulls"): [spend],
            ("5m", "served_only"): [spend],
            ("5m", "silent"): [stock],
            ("1m", "few"): [],
            ("5m", "few"): [stock],
            ("5m", "old"): [{"feature_view": "users"}],
            ("5m", "effect"): [stock],
        },
    )


@needs_promtool
def test_the_file_is_one_of_prometheus(tmp_path: Path) -> None:
    path = tmp_path / "rules.yml"
    path.write_text(prometheus_rules(default_rules(), KNOWN).text)
    assert "SUCCESS: 4 rules found" in promtool("check", "rules", path)
    # What an alert says is made by Prometheus' templates.
    spend = of("users", "spend")
    document = {
        "rule_files": ["rules.yml"],
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    series(ROWS, "1000x20", **spend),
                    series(NULL_SHARE, "0.25x20", **spend),
                ],
                "alert_rule_test": [
                    {
                        "eval_time": "15m",
                        "alertname": "nulls",
                        "exp_alerts": [
                            {
                                "exp_labels": {**spend, "severity": "warning"},
                                "exp_annotations": {
                                    "summary": "users:spend (served): null share 25%",
                                    "description": "More values are null than in the reference.",
                                },
                            }
                        ],
                    }
                ],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(document))
    promtool("test", "rules", tmp_path / "test.yml")


def test_what_prometheus_does_not_see_is_left_out() -> None:
    rules = parse_rules("rules: [{name: low, metric: mean, below: 5}]", "a", KNOWN)
    made = prometheus_rules(rules, KNOWN)
    assert made.left_out == {"low": "no figure of Prometheus has mean"}
    names = [rule["alert"] for rule in yaml.safe_load(made.text)["groups"][0]["rules"]]
    assert names == ["nulls", "outliers", "drift", "freshness"]
