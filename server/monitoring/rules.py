"""Alert rules: what is measured, of which features, and from when on it is alarming.

Rules come from a YAML file and are checked as a whole when they are loaded, against the names that
the registry has: a rule that names nothing would never alarm, and nobody would see that.

    rules:
      - name: empty_baskets
        metric: null_share          # one of `METRICS`
        above: 20%                  # or below, or equals
        clear: 15%                  # ends once it is no longer above this
        features: ["user_purchase_stats:avg_basket_*"]
        channels: [served]
        for: 10m
        severity: critical
        minimum_rows: 500
      - name: drift                 # a default rule: what is not said stays as it is
        disabled: true
    sinks:
      - type: webhook
        url: ${ALERT_WEBHOOK}
"""

import difflib
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

import yaml

RULES_FILE = "alerts.yaml"
"""Name of the file beside feature_store.yaml that is read where none is named."""

FRESHNESS_TAG = "hotfeast.freshness"
"""The tag of a view that says how old its newest row may be, as a duration such as `8d`; without it
that is half of the view's TTL."""

CHANNELS = ("served", "pushed", "materialized")
"""Where values are seen."""

SEVERITIES = ("info", "warning", "critical")


class Metric(StrEnum):
    """What a rule may look at. Shares are from 0 to 1, of all rows of a feature in the channel."""

    NULL_SHARE = "null_share"
    MISSING_SHARE = "missing_share"
    STALE_SHARE = "stale_share"
    OUTLIER_SHARE = "outlier_share"
    DRIFT = "drift"
    """The adjusted p-value against the reference profile, where the effect is large enough."""
    DRIFT_EFFECT = "drift_effect"
    MEAN = "mean"
    STD = "std"
    MINIMUM = "minimum"
    MAXIMUM = "maximum"
    DISTINCT = "distinct"
    ROWS = "rows"
    FRESHNESS = "freshness"
    """Age of a view's newest row, in parts of what it may be (`FRESHNESS_TAG`)."""
    AGE = "age"
    """Age of a view's newest row, in seconds."""


SHARES = frozenset(
    {Metric.NULL_SHARE, Metric.MISSING_SHARE, Metric.STALE_SHARE, Metric.OUTLIER_SHARE}
)
VIEW_METRICS = frozenset({Metric.FRESHNESS, Metric.AGE})
"""Those of a view as a whole, whatever channel."""

DRIFT_METRICS = frozenset({Metric.DRIFT, Metric.DRIFT_EFFECT})


class Comparison(StrEnum):
    """When a value is alarming, seen from the threshold."""

    ABOVE = "above"
    BELOW = "below"
    EQUALS = "equals"


class RuleError(ValueError):
    """Why rules cannot be loaded; names the file, the line and what would be right."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        name: Its name, which no other rule has.
        metric: What it looks at.
        comparison: Whether values above, below or at the threshold are alarming.
        threshold: In the metric's unit.
        clear: An alert ends once its value is no longer on the alarming side of this.
        beyond_reference: Whether the value of the reference profile, if there is one, is taken off
            first: what is null in training may be null in serving.
        effect: The least effect of drift that counts; None for what the comparison itself asks for.
        views: Names or patterns (`*`, `?`, `[...]`) of views; none for all.
        features: The same of features, also as `view:feature`.
        services: The same of feature services, whose features are meant.
        tags: Tags with patterns of their values, which the view or the feature has.
        channels: Where values are seen.
        for_seconds: How long it has to be so before the alert fires.
        severity: `info`, `warning` or `critical`.
        minimum_rows: Fewer rows say nothing.
        disabled: Whether it is not looked at.
        description: What it means, for whoever is called.
    """

    name: str
    metric: Metric
    comparison: Comparison
    threshold: float
    clear: float
    beyond_reference: bool = False
    effect: float | None = None
    views: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    channels: tuple[str, ...] = CHANNELS
    for_seconds: float = 0.0
    severity: str = "warning"
    minimum_rows: int = 0
    disabled: bool = False
    description: str = ""

    def alarming(self, value: float, firing: bool = False) -> bool:
        """Whether a value is alarming.

        Args:
            value: The value.
            firing: Whether the alert fires already; then it has to be well again.
        """
        limit = self.clear if firing else self.threshold
        if self.comparison is Comparison.ABOVE:
            return value > limit
        if self.comparison is Comparison.BELOW:
            return value < limit
        return value == self.threshold


@dataclass(frozen=True, slots=True)
class KnownView:
    """A view that rules may name.

    Attributes:
        features: Its features, each with its tags.
        tags: Its own.
        ttl_seconds: 0 where rows do not expire.
        owner: Who answers for it.
        services: For each feature service that takes from it, which of its features.
    """

    features: Mapping[str, Mapping[str, str]]
    tags: Mapping[str, str] = field(default_factory=dict)
    ttl_seconds: float = 0.0
    owner: str = ""
    services: Mapping[str, Collection[str]] = field(default_factory=dict)


class Known:
    """All that rules may name."""

    def __init__(self, views: Mapping[str, KnownView]) -> None:
        """
        Args:
            views: By name.

        Raises:
            RuleError: A view's tag says no duration.
        """
        self.views = dict(views)
        self._allowed = {name: self._allowed_age(name) for name in self.views}

    @property
    def services(self) -> set[str]:
        """Names of feature services."""
        return {service for view in self.views.values() for service in view.services}

    @property
    def tags(self) -> set[str]:
        """Names of tags of views and features."""
        names = {tag for view in self.views.values() for tag in view.tags}
        every = (tags for view in self.views.values() for tags in view.features.values())
        return names | {tag for tags in every for tag in tags}

    def allowed_age(self, view: str) -> float | None:
        """Seconds that a view's newest row may be old; None where nothing says so."""
        return self._allowed.get(view)

    def _allowed_age(self, name: str) -> float | None:
        view = self.views[name]
        tag = view.tags.get(FRESHNESS_TAG)
        if tag is not None:
            try:
                return duration(tag)
            except ValueError as error:
                raise RuleError(f"feature view {name!r}: tag {FRESHNESS_TAG}: {error}") from None
        return view.ttl_seconds / 2 or None

    def covers(self, rule: Rule, view: str, feature: str) -> bool:
        """Whether a rule is for a feature.

        Args:
            rule: The rule.
            view: The feature's view.
            feature: The feature; empty for the view as a whole.
        """
        known = self.views.get(view)
        if known is None:
            return False
        if rule.views and not _any(rule.views, view):
            return False
        if rule.features and not any(
            fnmatchcase(name, pattern)
            for pattern in rule.features
            for name in (feature, f"{view}:{feature}")
        ):
            return False
        if rule.services and not any(
            not feature or feature in taken
            for service, taken in known.services.items()
            if _any(rule.services, service)
        ):
            return False
        tags = {**known.tags, **known.features.get(feature, {})}
        return all(
            name in tags and fnmatchcase(tags[name], pattern) for name, pattern in rule.tags.items()
        )

    def features_of(self, rule: Rule) -> list[tuple[str, str]]:
        """Views and features that a rule is for; with an empty feature for one of views."""
        if rule.metric in VIEW_METRICS:
            return [(view, "") for view in sorted(self.views) if self.covers(rule, view, "")]
        return [
            (view, feature)
            for view, known in sorted(self.views.items())
            for feature in known.features
            if self.covers(rule, view, feature)
        ]


def _any(patterns: Iterable[str], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


@dataclass(frozen=True, slots=True)
class SinkSettings:
    """Where alerts are told.

    Attributes:
        kind: `log` or `webhook`.
        url: Of a webhook. It may hold a secret: never print it.
        timeout: Seconds for one try.
        retries: Tries after the first.
        queue: Notifications that may wait.
    """

    kind: str = "log"
    url: str = field(default="", repr=False)
    timeout: float = 5.0
    retries: int = 5
    queue: int = 100


@dataclass(frozen=True, slots=True)
class RuleSet:
    """All rules, and who is told.

    Attributes:
        rules: Those that are not disabled, by name.
        sinks: Where alerts are told.
    """

    rules: Mapping[str, Rule]
    sinks: tuple[SinkSettings, ...] = (SinkSettings(),)


DEFAULT_RULES: tuple[Rule, ...] = (
    Rule(
        "nulls", Metric.NULL_SHARE, Comparison.ABOVE, 0.10, 0.09,
        beyond_reference=True, for_seconds=600.0, minimum_rows=100,
        description="More values are null than in the reference.",
    ),
    Rule(
        "outliers", Metric.OUTLIER_SHARE, Comparison.ABOVE, 0.05, 0.045,
        beyond_reference=True, for_seconds=600.0, minimum_rows=100,
        description="More values than in the reference are beyond three standard deviations.",
    ),
    Rule(
        "drift", Metric.DRIFT, Comparison.BELOW, 0.05, 0.05,
        for_seconds=600.0, minimum_rows=100,
        description="Values are distributed otherwise than in the reference.",
    ),
    Rule(
        "freshness", Metric.FRESHNESS, Comparison.ABOVE, 1.0, 1.0, severity="critical",
        description="The view's newest row is older than it should be: is it still written?",
    ),
)  # fmt: skip
"""What is looked at where no file says otherwise."""


def default_rules() -> RuleSet:
    """The rules where there is no file; alerts go to the log."""
    return RuleSet({rule.name: rule for rule in DEFAULT_RULES})


def load_rules(path: Path, known: Known, environment: Mapping[str, str] = os.environ) -> RuleSet:
    """Reads rules from a file. Those of `DEFAULT_RULES` count, too, as far as it says nothing else
    of them.

    Args:
        path: The file.
        known: What rules may name.
        environment: What `${NAME}` stands for in the settings of sinks.

    Raises:
        RuleError: It cannot be read, or a rule is not valid.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RuleError(f"{path}: {error}") from error
    return parse_rules(text, str(path), known, environment)


def repository_rules(repo: Path, path: Path | None, known: Known) -> tuple[RuleSet, Path | None]:
    """The rules of a repository.

    Args:
        repo: Its folder.
        path: A file of rules; if None, `RULES_FILE` in the folder, if it is there.
        known: What rules may name.

    Returns:
        The rules, and the file that they are of; None for the default ones.

    Raises:
        RuleError: The file cannot be read, or a rule is not valid.
    """
    file = repo / RULES_FILE if path is None else path
    if path is None and not file.exists():
        return default_rules(), None
    return load_rules(file, known), file


def parse_rules(
    text: str, name: str, known: Known, environment: Mapping[str, str] = os.environ
) -> RuleSet:
    """Reads rules from the text of a file; arguments and errors as of `load_rules`.

    Args:
        text: The YAML.
        name: What it is called in messages.
        known: What rules may name.
        environment: What `${NAME}` stands for in the settings of sinks.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = mark.line + 1 if mark is not None else 1
        raise RuleError(f"{name}:{line}: no YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise RuleError(f"{name}: no YAML: {error}") from error
    reader = _Reader(name, known, environment)
    rules = {rule.name: rule for rule in DEFAULT_RULES}
    sinks: tuple[SinkSettings, ...] = (SinkSettings(),)
    if root is not None:
        top = reader.mapping(root, ("rules", "sinks"), "the file")
        if "rules" in top:
            rules |= reader.rules(top["rules"], rules)
        if "sinks" in top:
            sinks = tuple(reader.sink(node) for node in reader.sequence(top["sinks"], "sinks"))
    return RuleSet({n: rule for n, rule in rules.items() if not rule.disabled}, sinks)


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")


def duration(text: str) -> float:
    """Seconds of a duration such as `90s`, `1h30m` or `2d`; a bare number is seconds.

    Raises:
        ValueError: It is none.
    """
    stripped = text.strip()
    try:
        seconds = float(stripped)
    except ValueError:
        parts = _DURATION.findall(stripped)
        if not parts or "".join(number + unit for number, unit in parts) != stripped:
            raise ValueError(
                f"{text!r} is no duration; write a number of seconds, or such as 90s, 5m, 1h30m, 2d"
            ) from None
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{text!r} is no duration: it must be finite and not negative")
    return seconds


_RULE_KEYS = (
    "name", "metric", "above", "below", "equals", "clear", "beyond_reference", "effect", "views",
    "features", "services", "tags", "channels", "for", "severity", "minimum_rows", "disabled",
    "description",
)  # fmt: skip
_SINK_KEYS = ("type", "url", "timeout", "retries", "queue")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


class _Reader:
    """Makes rules of YAML nodes, which know their lines."""

    def __init__(self, name: str, known: Known, environment: Mapping[str, str]) -> None:
        self._name = name
        self._known = known
        self._environment = environment

    def fail(self, node: yaml.Node, message: str) -> NoReturn:
        raise RuleError(f"{self._name}:{node.start_mark.line + 1}: {message}")

    def unknown(self, node: yaml.Node, kind: str, name: str, known: Iterable[str]) -> NoReturn:
        names = sorted(map(str, known))
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        if near:
            hint = f"; did you mean {near[0]!r}?"
        else:
            hint = f"; there are {', '.join(names[:20])}" if names else "; there are none"
        self.fail(node, f"there is no {kind} {name!r}{hint}")

    def mapping(self, node: yaml.Node, keys: Sequence[str], what: str) -> dict[str, yaml.Node]:
        """The entries of a mapping with certain keys only."""
        found = self.entries(node, what)
        for key, (key_node, _) in found.items():
            if key not in keys:
                self.unknown(key_node, f"setting of {what} called", key, keys)
        return {key: value for key, (_, value) in found.items()}

    def entries(self, node: yaml.Node, what: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode):
            self.fail(node, f"{what} must be a mapping of names to values")
        found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            name = self.text(key, f"a name in {what}")
            if name in found:
                self.fail(key, f"{name!r} is there twice in {what}")
            found[name] = key, value
        return found

    def sequence(self, node: yaml.Node, what: str) -> list[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode):
            self.fail(node, f"{what} must be a list")
        return list(node.value)

    def text(self, node: yaml.Node, what: str) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag == "tag:yaml.org,2002:null":
            self.fail(node, f"{what} must be a text")
        return str(node.value)

    def names(self, node: yaml.Node, what: str) -> list[tuple[str, yaml.Node]]:
        """One name or several."""
        nodes = self.sequence(node, what) if isinstance(node, yaml.SequenceNode) else [node]
        return [(self.text(each, what), each) for each in nodes]

    def number(self, node: yaml.Node, what: str) -> float:
        """A number, or a share as `10%`."""
        text = self.text(node, what).strip()
        percent = text.endswith("%")
        try:
            value = float(text.removesuffix("%"))
        except ValueError:
            self.fail(node, f"{what} must be a number, and is {text!r}")
        if value != value or abs(value) == float("inf"):
            self.fail(node, f"{what} must be finite, and is {text!r}")
        return value / 100 if percent else value

    def seconds(self, node: yaml.Node, what: str) -> float:
        try:
            return duration(self.text(node, what))
        except ValueError as error:
            self.fail(node, f"{what}: {error}")

    def flag(self, node: yaml.Node, what: str) -> bool:
        if node.tag != "tag:yaml.org,2002:bool":
            self.fail(node, f"{what} must be true or false")
        return bool(yaml.SafeLoader.bool_values[node.value.lower()])

    def count(self, node: yaml.Node, what: str) -> int:
        value = self.number(node, what)
        if value < 0 or value != int(value):
            self.fail(node, f"{what} must be a whole number that is not negative")
        return int(value)

    def rules(self, node: yaml.Node, defaults: Mapping[str, Rule]) -> dict[str, Rule]:
        found: dict[str, Rule] = {}
        for each in self.sequence(node, "rules"):
            entries = self.mapping(each, _RULE_KEYS, "a rule")
            if "name" not in entries:
                self.fail(each, "a rule needs a name")
            name = self.text(entries["name"], "name")
            if not name:
                self.fail(entries["name"], "a rule's name must not be empty")
            if name in found:
                self.fail(entries["name"], f"there are two rules called {name!r}")
            found[name] = self.rule(each, name, entries, defaults.get(name))
        return found

    def rule(
        self, node: yaml.Node, name: str, entries: Mapping[str, yaml.Node], default: Rule | None
    ) -> Rule:
        rule = default
        if "metric" in entries:
            text = self.text(entries["metric"], "metric")
            if text not in list(Metric):
                self.unknown(entries["metric"], "metric", text, Metric)
            metric = Metric(text)
            if rule is None or rule.metric is not metric:
                rule = None
        elif rule is not None:
            metric = rule.metric
        else:
            self.fail(node, f"rule {name!r} needs a metric: one of {', '.join(Metric)}")
        limits = [c for c in Comparison if c.value in entries]
        if len(limits) > 1:
            self.fail(node, f"rule {name!r} has more than one of above, below and equals")
        if limits:
            rule = self._limited(name, metric, limits[0], entries[limits[0].value], rule)
        elif rule is None:
            self.fail(node, f"rule {name!r} needs a threshold: above, below or equals")
        rule = replace(rule, **self._scope(entries), **self._rest(metric, entries))
        if "clear" in entries:
            rule = replace(rule, clear=self._limit(metric, entries["clear"], "clear"))
            wrong = {
                Comparison.ABOVE: rule.clear > rule.threshold,
                Comparison.BELOW: rule.clear < rule.threshold,
                Comparison.EQUALS: True,
            }[rule.comparison]
            if wrong:
                self.fail(
                    entries["clear"],
                    f"clear of rule {name!r} must be on the good side of its threshold "
                    f"{rule.threshold:g}, and there is none for equals",
                )
        if not rule.disabled and not self._known.features_of(rule):
            self.fail(node, f"rule {name!r} is for no feature: no one has all that it asks for")
        return rule

    def _limited(
        self,
        name: str,
        metric: Metric,
        comparison: Comparison,
        node: yaml.Node,
        rule: Rule | None,
    ) -> Rule:
        if metric is Metric.DRIFT and comparison is not Comparison.BELOW:
            self.fail(node, f"rule {name!r}: drift is a p-value: say below which, such as 0.05")
        threshold = self._limit(metric, node, comparison.value)
        slack = 0.0 if metric in (Metric.DRIFT, Metric.ROWS) else abs(threshold) / 10
        clear = {
            Comparison.ABOVE: threshold - slack,
            Comparison.BELOW: threshold + slack,
            Comparison.EQUALS: threshold,
        }[comparison]
        if rule is None:
            rows = 100 if metric in SHARES | DRIFT_METRICS else 0
            return Rule(name, metric, comparison, threshold, clear, minimum_rows=rows)
        return replace(rule, comparison=comparison, threshold=threshold, clear=clear)

    def _limit(self, metric: Metric, node: yaml.Node, what: str) -> float:
        if metric is Metric.AGE:
            return self.seconds(node, what)
        value = self.number(node, what)
        if metric in SHARES | {Metric.DRIFT} and not 0 <= value <= 1:
            self.fail(node, f"{what} of {metric} must be from 0 to 1, or a percentage")
        return value

    def _scope(self, entries: Mapping[str, yaml.Node]) -> dict[str, Any]:
        known = self._known
        scope: dict[str, Any] = {}
        if "views" in entries:
            scope["views"] = self._known_names(
                entries["views"], "views", "feature view", known.views
            )
        if "services" in entries:
            scope["services"] = self._known_names(
                entries["services"], "services", "feature service", known.services
            )
        if "features" in entries:
            short = {name for view in known.views.values() for name in view.features}
            full = {f"{view}:{name}" for view, k in known.views.items() for name in k.features}
            names = self.names(entries["features"], "features")
            for name, node in names:
                self._is_known(node, "feature", name, full if ":" in name else short)
            scope["features"] = tuple(name for name, _ in names)
        if "tags" in entries:
            tags = self.entries(entries["tags"], "tags")
            for name, (node, _) in tags.items():
                if name not in known.tags:
                    self.unknown(node, "tag", name, known.tags)
            scope["tags"] = {
                name: self.text(value, f"tag {name}") for name, (_, value) in tags.items()
            }
        if "channels" in entries:
            scope["channels"] = self._known_names(
                entries["channels"], "channels", "channel", CHANNELS
            )
        return scope

    def _known_names(
        self, node: yaml.Node, what: str, kind: str, known: Collection[str]
    ) -> tuple[str, ...]:
        names = self.names(node, what)
        for name, each in names:
            self._is_known(each, kind, name, known)
        return tuple(name for name, _ in names)

    def _is_known(self, node: yaml.Node, kind: str, name: str, known: Collection[str]) -> None:
        if not any(fnmatchcase(each, name) for each in known):
            self.unknown(node, kind, name, known)

    def _rest(self, metric: Metric, entries: Mapping[str, yaml.Node]) -> dict[str, Any]:
        rest: dict[str, Any] = {}
        if "beyond_reference" in entries:
            rest["beyond_reference"] = self.flag(entries["beyond_reference"], "beyond_reference")
            if metric in VIEW_METRICS | DRIFT_METRICS | {Metric.ROWS}:
                self.fail(entries["beyond_reference"], f"a reference has no {metric}")
        if "effect" in entries:
            if metric is not Metric.DRIFT:
                self.fail(entries["effect"], "effect is a setting of rules for drift")
            rest["effect"] = self.number(entries["effect"], "effect")
        if "for" in entries:
            rest["for_seconds"] = self.seconds(entries["for"], "for")
        if "severity" in entries:
            severity = self.text(entries["severity"], "severity")
            if severity not in SEVERITIES:
                self.unknown(entries["severity"], "severity", severity, SEVERITIES)
            rest["severity"] = severity
        if "minimum_rows" in entries:
            rest["minimum_rows"] = self.count(entries["minimum_rows"], "minimum_rows")
        if "disabled" in entries:
            rest["disabled"] = self.flag(entries["disabled"], "disabled")
        if "description" in entries:
            rest["description"] = self.text(entries["description"], "description")
        return rest

    def sink(self, node: yaml.Node) -> SinkSettings:
        entries = self.mapping(node, _SINK_KEYS, "a sink")
        if "type" not in entries:
            self.fail(node, "a sink needs a type: log or webhook")
        kind = self.text(entries["type"], "type")
        if kind not in ("log", "webhook"):
            self.unknown(entries["type"], "sink of type", kind, ("log", "webhook"))
        if (kind == "webhook") != ("url" in entries):
            self.fail(node, "a webhook needs a url, and a log has none")
        settings: dict[str, Any] = {"kind": kind}
        if "url" in entries:
            settings["url"] = self._url(entries["url"])
        if "timeout" in entries:
            settings["timeout"] = self.seconds(entries["timeout"], "timeout")
        for name in ("retries", "queue"):
            if name in entries:
                settings[name] = self.count(entries[name], name)
        return SinkSettings(**settings)

    def _url(self, node: yaml.Node) -> str:
        def value(match: re.Match[str]) -> str:
            name = match.group(1)
            if name not in self._environment:
                self.fail(node, f"the environment has no variable {name!r}")
            return self._environment[name]

        url = _VARIABLE.sub(value, self.text(node, "url"))
        if not url.startswith(("http://", "https://")):
            # Not the url itself, which may hold a secret.
            self.fail(node, "url must begin with http:// or https://")
        return url
