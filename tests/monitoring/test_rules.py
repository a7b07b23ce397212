"""Alert rules as files say them."""

from pathlib import Path

import pytest
from alerting import KNOWN

from hotfeast.server.monitoring.rules import (
    CHANNELS,
    FRESHNESS_TAG,
    Comparison,
    Known,
    KnownView,
    Metric,
    RuleError,
    default_rules,
    duration,
    load_rules,
    parse_rules,
)

RULE = "rules:\n- name: r\n"
MEAN = RULE + "  metric: mean\n  above: 1\n  "


def parse(text: str, **environment: str) -> dict[str, object]:
    rules = parse_rules(text, "alerts.yaml", KNOWN, environment)
    return {**rules.rules, "sinks": rules.sinks}


def test_defaults_without_a_file_and_with_an_empty_one() -> None:
    rules = default_rules()
    limits = {
        name: (r.metric, r.comparison, r.threshold, r.beyond_reference)
        for name, r in rules.rules.items()
    }
    assert limits == {
        "nulls": (Metric.NULL_SHARE, Comparison.ABOVE, 0.10, True),
        "outliers": (Metric.OUTLIER_SHARE, Comparison.ABOVE, 0.05, True),
        "drift": (Metric.DRIFT, Comparison.BELOW, 0.05, False),
        "freshness": (Metric.FRESHNESS, Comparison.ABOVE, 1.0, False),
    }
    assert parse_rules("", "alerts.yaml", KNOWN) == rules
    assert [sink.kind for sink in rules.sinks] == ["log"]


def test_a_rule_with_all_settings() -> None:
    rule = parse_rules(
        """
rules:
  - name: empty
    metric: null_share
    above: 20%
    clear: 0.15
    beyond_reference: true
    views: users
    features: ["users:sp*", visits]
    services: [ranking]
    tags: {unit: usd*}
    channels: [served, pushed]
    for: 1h30m
    severity: critical
    minimum_rows: 500
    description: Nothing is bought.
""",
        "alerts.yaml",
        KNOWN,
    ).rules["empty"]
    assert (rule.threshold, rule.clear, rule.for_seconds) == (0.2, 0.15, 5400.0)
    assert rule.views == ("users",)
    assert rule.features == ("users:sp*", "visits")
    assert rule.channels == ("served", "pushed")
    assert (rule.severity, rule.minimum_rows, rule.beyond_reference) == ("critical", 500, True)
    assert KNOWN.features_of(rule) == [("users", "spend")]


def test_a_default_rule_is_changed_or_turned_off() -> None:
    rules = parse_rules(
        "rules: [{name: nulls, above: 0.3}, {name: drift, disabled: true}]", "a", KNOWN
    ).rules
    assert set(rules) == {"nulls", "outliers", "freshness"}
    assert rules["nulls"].threshold == 0.3
    assert rules["nulls"].clear == pytest.approx(0.27)
    # What is not said stays.
    assert rules["nulls"].beyond_reference
    assert rules["nulls"].for_seconds == 600.0


def test_scopes() -> None:
    def covered(scope: str, metric: str = "null_share") -> set[tuple[str, str]]:
        text = f"rules: [{{name: r, metric: {metric}, above: 0.1, {scope}}}]"
        rule = parse_rules(text, "a", KNOWN).rules["r"]
        return set(KNOWN.features_of(rule))

    assert covered("views: 'user*'") == {("users", "spend"), ("users", "visits")}
    assert covered("services: ranking") == {("users", "spend"), ("shops", "stock")}
    assert covered("tags: {domain: people}") == {("users", "spend"), ("users", "visits")}
    assert covered("tags: {unit: usd}") == {("users", "spend")}
    assert covered("features: stock") == {("shops", "stock")}
    assert covered("severity: info, channels: [pushed]") == {
        (view, name) for view, known in KNOWN.views.items() for name in known.features
    }
    assert covered("tags: {domain: people}", "freshness") == {("users", "")}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (
            "rules:\n- {name: r, metric: nul_share, above: 1}",
            2,
            "no metric 'nul_share'; did you mean 'null_share'",
        ),
        (MEAN + "views: [usres]", 5, "no feature view 'usres'; did you mean 'users'"),
        (MEAN + "features:\n  - spent", 6, "no feature 'spent'; did you mean 'spend'"),
        (MEAN + "features: users:stok", 5, "no feature 'users:stok'"),
        (MEAN + "features: ['x*']", 5, "no feature 'x\\*'"),
        (MEAN + "services: rankin", 5, "did you mean 'ranking'"),
        (MEAN + "tags: {domian: x}", 5, "no tag 'domian'; did you mean 'domain'"),
        (MEAN + "channels: serve", 5, "no channel 'serve'; did you mean 'served'"),
        (MEAN + "severity: loud", 5, "there are critical, info, warning"),
        (
            RULE + "  metric: mean\n  abov: 1",
            4,
            "setting of a rule called 'abov'; did you mean 'above'",
        ),
        (RULE + "  metric: mean", 2, "needs a threshold"),
        (RULE + "  above: 1", 2, "needs a metric"),
        ("rules:\n- metric: mean", 2, "needs a name"),
        (MEAN + "below: 0", 2, "more than one of"),
        (RULE + "  metric: mean\n  above: much", 4, "must be a number, and is 'much'"),
        (RULE + "  metric: mean\n  above: .inf", 4, "must be a number"),
        (RULE + "  metric: mean\n  above: inf", 4, "must be finite"),
        (RULE + "  metric: null_share\n  above: 10", 4, "from 0 to 1, or a percentage"),
        (MEAN + "clear: 2", 5, "good side of its threshold"),
        (MEAN + "for: soon", 5, "'soon' is no duration"),
        (MEAN + "disabled: maybe", 5, "must be true or false"),
        (MEAN + "minimum_rows: -1", 5, "not negative"),
        (RULE + "  metric: drift\n  above: 0.1", 4, "drift is a p-value"),
        (MEAN + "effect: 1", 5, "setting of rules for drift"),
        (RULE + "  metric: age\n  above: 1h\n  beyond_reference: true", 5, "has no age"),
        (
            "rules:\n- {name: r, metric: mean, above: 1}\n- {name: r, metric: std, above: 1}",
            3,
            "two rules called 'r'",
        ),
        (
            "rules:\n- {name: r, metric: mean, above: 1, views: users, features: stock}",
            2,
            "for no feature",
        ),
        ("rules: {a: b}", 1, "rules must be a list"),
        ("rules:\n- name: [", 2, "no YAML"),
        ("rule: []", 1, "called 'rule'; did you mean 'rules'"),
        ("rules: []\nrules: []", 2, "'rules' is there twice"),
        ("- a", 1, "must be a mapping"),
        ("sinks:\n- type: mail", 2, "no sink of type 'mail'"),
        ("sinks:\n- {}", 2, "needs a type"),
        ("sinks:\n- type: webhook", 2, "a webhook needs a url"),
        ("sinks:\n- type: webhook\n  url: ftp://s3cret", 3, "must begin with http"),
        ("sinks:\n- type: webhook\n  url: ${HOOK}", 3, "no variable 'HOOK'"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(RuleError, match=message) as failure:
        parse(text)
    assert str(failure.value).startswith(f"alerts.yaml:{line}: ")
    assert "s3cret" not in str(failure.value)


def test_webhooks_take_their_secrets_from_the_environment_and_do_not_show_them() -> None:
    text = """
sinks:
  - {type: log}
  - {type: webhook, url: "https://host/${TOKEN}", timeout: 2s, retries: 3, queue: 7}
"""
    log, hook = parse_rules(text, "a", KNOWN, {"TOKEN": "s3cret"}).sinks
    assert log.kind == "log"
    assert (hook.url, hook.timeout, hook.retries, hook.queue) == ("https://host/s3cret", 2.0, 3, 7)
    assert "s3cret" not in repr(hook)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match=r"none\.yaml"):
        load_rules(tmp_path / "none.yaml", KNOWN)
    path = tmp_path / "alerts.yaml"
    path.write_text("rules: [{name: nulls, above: 50%}]")
    assert load_rules(path, KNOWN).rules["nulls"].threshold == 0.5


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1.5", 1.5),
        ("90s", 90),
        ("1h30m", 5400),
        ("2d", 172800),
        ("1w", 604800),
        ("250ms", 0.25),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "1x", "1h 30m", "-1", "nan", "inf", "h1"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        duration(text)


def test_how_old_a_views_newest_row_may_be() -> None:
    assert KNOWN.allowed_age("users") == 86400.0
    assert KNOWN.allowed_age("shops") == 8 * 86400.0
    assert KNOWN.allowed_age("world") is None
    with pytest.raises(RuleError, match=f"'v': tag {FRESHNESS_TAG}: 'daily' is no duration"):
        Known({"v": KnownView({}, {FRESHNESS_TAG: "daily"})})


def test_channels_are_all_unless_said() -> None:
    assert all(rule.channels == CHANNELS for rule in default_rules().rules.values())
