"""The same rules for Prometheus, over the figures that a gateway exposes.

What a rule says of names, services and tags becomes label matchers of the features that it is for
now, so the file is to be made again when definitions, rules or profiles have changed.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from hotfeast.server.monitoring.rules import (
    CHANNELS,
    FRESHNESS_TAG,
    SHARES,
    VIEW_METRICS,
    Comparison,
    Known,
    Metric,
    Rule,
    RuleSet,
)

NULL_SHARE = "hotfeast_feature_null_share"
MISSING_SHARE = "hotfeast_feature_missing_share"
STALE_SHARE = "hotfeast_feature_stale_share"
OUTLIER_SHARE = "hotfeast_feature_outlier_share"
DRIFT_P_VALUE = "hotfeast_feature_drift_p_value"
DRIFT_EFFECT = "hotfeast_feature_drift_effect"
ROWS = "hotfeast_feature_rows"
FRESHNESS = "hotfeast_feature_view_freshness_seconds"
TTL = "hotfeast_feature_view_ttl_seconds"
"""Names of the figures; those of features have the labels `channel`, `feature_view` and `feature`,
those of views `feature_view`."""

FIGURES: Mapping[Metric, str] = {
    Metric.NULL_SHARE: NULL_SHARE,
    Metric.MISSING_SHARE: MISSING_SHARE,
    Metric.STALE_SHARE: STALE_SHARE,
    Metric.OUTLIER_SHARE: OUTLIER_SHARE,
    Metric.DRIFT: DRIFT_P_VALUE,
    Metric.DRIFT_EFFECT: DRIFT_EFFECT,
    Metric.ROWS: ROWS,
    Metric.FRESHNESS: FRESHNESS,
    Metric.AGE: FRESHNESS,
}
"""The figure of each metric that Prometheus sees."""

_LABELS = "channel, feature_view, feature"
_SIGNS = {Comparison.ABOVE: ">", Comparison.BELOW: "<", Comparison.EQUALS: "=="}

References = Mapping[tuple[str, str], Mapping[Metric, float]]
"""What the reference profile has of features, by view and feature."""


@dataclass(frozen=True, slots=True)
class PrometheusRules:
    """A rules file.

    Attributes:
        text: Its YAML.
        left_out: For each rule that cannot be said to Prometheus, why.
    """

    text: str
    left_out: dict[str, str]


def prometheus_rules(
    rules: RuleSet,
    known: Known,
    references: References | None = None,
    least_effect: float = 0.0,
) -> PrometheusRules:
    """Makes a rules file.

    Args:
        rules: The rules.
        known: What they are for.
        references: The reference profile, for rules that count from it.
        least_effect: The least effect of drift where a rule does not say.
    """
    made: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    for rule in rules.rules.values():
        if rule.metric not in FIGURES:
            left_out[rule.name] = f"no figure of Prometheus has {rule.metric}"
            continue
        made.append(
            {
                "alert": rule.name,
                "expr": _expression(rule, known, references or {}, least_effect),
                **({"for": _duration(rule.for_seconds)} if rule.for_seconds else {}),
                "labels": {"severity": rule.severity},
                "annotations": _annotations(rule),
            }
        )
    document = {"groups": [{"name": "hotfeast", "rules": made}]}
    text = yaml.safe_dump(document, sort_keys=False, width=100, allow_unicode=True)
    return PrometheusRules(text, left_out)


def _expression(rule: Rule, known: Known, references: References, least_effect: float) -> str:
    if rule.metric in VIEW_METRICS:
        return " or ".join(_of_views(rule, known))
    parts = []
    for shift, selector in _selectors(rule, known, references):
        figure = f"{FIGURES[rule.metric]}{selector}"
        sign = _SIGNS[rule.comparison]
        part = f"{figure} {sign} {_number(rule.threshold + shift)}"
        if rule.clear != rule.threshold:
            firing = f'ALERTS{{alertname={_quoted(rule.name)}, alertstate="firing"}}'
            held = f"{figure} {sign} {_number(rule.clear + shift)} and on ({_LABELS}) {firing}"
            part = f"({part} or {held})"
        parts.append(part)
    whole = " or ".join(parts)
    if len(parts) > 1:
        whole = f"({whole})"
    if rule.metric is Metric.DRIFT:
        least = least_effect if rule.effect is None else rule.effect
        whole = f"{whole} and on ({_LABELS}) {DRIFT_EFFECT} >= {_number(least)}"
    if rule.minimum_rows:
        whole = f"{whole} and on ({_LABELS}) {ROWS} >= {rule.minimum_rows}"
    return whole


def _selectors(rule: Rule, known: Known, references: References) -> list[tuple[float, str]]:
    """Label matchers of a rule's features, by what their reference adds to the threshold."""
    channels = _channels(rule)
    groups: dict[float, dict[str, list[str]]] = {}
    for view, feature in known.features_of(rule):
        shift = 0.0
        if rule.beyond_reference:
            shift = round(references.get((view, feature), {}).get(rule.metric, 0.0), 4)
        groups.setdefault(shift, {}).setdefault(view, []).append(feature)
    everything = sum(len(view.features) for view in known.views.values())
    found: list[tuple[float, str]] = []
    for shift, views in sorted(groups.items()):
        if sum(map(len, views.values())) == everything:
            found.append((shift, _selector(channels)))
            continue
        # Views of which all features are meant share a matcher.
        whole = [v for v, names in views.items() if len(names) == len(known.views[v].features)]
        if whole:
            found.append((shift, _selector([_matcher("feature_view", whole), *channels])))
        for view, names in views.items():
            if view not in whole:
                matchers = [_matcher("feature_view", [view]), _matcher("feature", names)]
                found.append((shift, _selector([*matchers, *channels])))
    return found


def _of_views(rule: Rule, known: Known) -> list[str]:
    """Comparisons of the ages of views."""
    views = [view for view, _ in known.features_of(rule)]
    sign = _SIGNS[rule.comparison]
    if rule.metric is Metric.AGE:
        matchers = [] if len(views) == len(known.views) else [_matcher("feature_view", views)]
        return [f"{FRESHNESS}{_selector(matchers)} {sign} {_number(rule.threshold)}"]
    tagged = {view for view in views if FRESHNESS_TAG in known.views[view].tags}
    parts = []
    others = [view for view in views if view not in tagged]
    if others:
        matchers = [_matcher("feature_view", others)]
        if len(views) == len(known.views):
            # Views that are added later are meant, too.
            matchers = [_matcher("feature_view", sorted(tagged), negated=True)] if tagged else []
        parts.append(
            f"{FRESHNESS}{_selector(matchers)} {sign} on (feature_view) "
            f"({_number(rule.threshold / 2)} * ({TTL} > 0))"
        )
    for view in sorted(tagged):
        allowed = known.allowed_age(view) or 0.0
        selector = _selector([_matcher("feature_view", [view])])
        parts.append(f"{FRESHNESS}{selector} {sign} {_number(rule.threshold * allowed)}")
    return parts


def _channels(rule: Rule) -> list[str]:
    return [] if set(rule.channels) >= set(CHANNELS) else [_matcher("channel", rule.channels)]


def _matcher(label: str, values: Sequence[str], negated: bool = False) -> str:
    if len(values) == 1:
        return f"{label}{'!=' if negated else '='}{_quoted(values[0])}"
    # RE2 knows what Python's `re.escape` makes; matchers are for the whole value.
    either = "|".join(re.escape(value) for value in values)
    return f"{label}{'!~' if negated else '=~'}{_quoted(either)}"


def _selector(matchers: Sequence[str]) -> str:
    return f"{{{', '.join(matchers)}}}" if matchers else ""


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _number(value: float) -> str:
    return f"{round(value, 9):.10g}"


def _duration(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms" if seconds % 1 else f"{int(seconds)}s"


def _annotations(rule: Rule) -> dict[str, str]:
    if rule.metric in VIEW_METRICS:
        summary = (
            "{{ $labels.feature_view }}: its newest row is {{ $value | humanizeDuration }} old"
        )
    else:
        form = "humanizePercentage" if rule.metric in SHARES else "humanize"
        what = "drift p" if rule.metric is Metric.DRIFT else str(rule.metric).replace("_", " ")
        summary = (
            "{{ $labels.feature_view }}:{{ $labels.feature }} ({{ $labels.channel }}): "
            f"{what} {{{{ $value | {form} }}}}"
        )
    described = {"description": rule.description} if rule.description else {}
    return {"summary": summary, **described}
