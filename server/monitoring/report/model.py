"""What the page shows, as plain dataclasses that JSON can hold: times in seconds since 1970, shares
from 0 to 1, None where a thing is not known."""

from dataclasses import dataclass, field

from hotfeast.server.monitoring.report.catalogue import Described, Marks, ViewFacts
from hotfeast.server.monitoring.report.lineage import Lineage

LEVELS = ("none", "ok", "warning", "critical")
"""How bad things are, from `none`, of which nothing is known."""


@dataclass(frozen=True, slots=True)
class AlertRow:
    """An alert that fires.

    Attributes:
        rule: Its rule's name.
        level: One of `LEVELS`.
        view: Of the feature.
        feature: None where it is about the whole view.
        about: What the rule looks at, such as `null_share` or `freshness`.
        since: When it began.
        brief: In a word or two.
        message: In words.
    """

    rule: str
    level: str
    view: str
    feature: str | None
    about: str
    since: float | None
    brief: str
    message: str


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a feature.

    Attributes:
        kind: `alert`, `drift` or `late`.
        level: One of `LEVELS`.
        brief: In a word or two.
        words: In full.
    """

    kind: str
    level: str
    brief: str
    words: str


@dataclass(frozen=True, slots=True)
class DriftFigures:
    """A comparison with the reference.

    Attributes:
        wasserstein: In standard deviations of the reference.
        drifted: Whether the values or the share of rows without one have drifted.
        values_drifted: Whether the values have.
        empty, empty_reference: Shares of rows without a value.
    """

    test: str
    statistic: float | None
    p_value: float | None
    adjusted_p: float | None
    effect: float | None
    psi: float | None
    wasserstein: float | None
    drifted: bool
    values_drifted: bool
    empty: float | None
    empty_reference: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """What was seen of a feature on one channel.

    Attributes:
        rows: How many values, nulls and missing ones included.
        null_share, missing_share, stale_share: Of the rows.
        outlier_share: Of the numbers; None where it has none.
        drift: None where there is no reference.
        trend: Null shares over time, oldest first; None where nothing was seen.
    """

    rows: int
    null_share: float | None
    missing_share: float | None
    stale_share: float | None
    outlier_share: float | None
    drift: DriftFigures | None
    trend: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """A feature in the table.

    Attributes:
        view, name: Which it is.
        type: Name in Feast's `ValueType`.
        services: Feature services that take it, as it is or through an on-demand view.
        level: The worst of its problems; `ok` where it has none and was seen, else `none`.
        state: The same in words.
        figures: By channel.
    """

    view: str
    name: str
    type: str
    description: str
    tags: dict[str, str]
    marks: Marks
    services: tuple[str, ...]
    level: str
    state: str
    problems: tuple[Problem, ...]
    figures: dict[str, Figures]


@dataclass(frozen=True, slots=True)
class ViewRow(ViewFacts):
    """A feature view.

    Attributes:
        features: How many.
        services: Feature services that take from it.
        age: Seconds since the event time of the newest row that was seen.
        freshness: `fresh`, `aging` (older than half of the TTL), `late` (older than it) or
            `unknown`.
    """

    features: int
    services: tuple[str, ...]
    age: float | None
    freshness: str


@dataclass(frozen=True, slots=True)
class ServiceRow(Described):
    """A feature service.

    Attributes:
        features: How many it takes.
        rows: Values that were seen served for it; None where reads are not watched.
        callers: Who asked, as far as they say.
    """

    views: tuple[str, ...]
    features: int
    rows: int | None
    callers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EntityRow(Described):
    """An entity."""

    join_key: str
    type: str
    views: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SourceRow(Described):
    """A data source; `views` are those that it feeds."""

    kind: str
    views: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """All that is seen at once.

    Attributes:
        made_at: What ages are judged at.
        figures: Where figures come from, in words.
        interval: Seconds between two looks of a live page; None for a file.
        channels: Those with figures, the one to begin with first.
    """

    project: str
    made_at: float
    figures: str
    interval: float | None
    channels: tuple[str, ...]
    alerts: tuple[AlertRow, ...]
    features: tuple[FeatureRow, ...]
    views: tuple[ViewRow, ...]
    services: tuple[ServiceRow, ...]
    entities: tuple[EntityRow, ...]
    sources: tuple[SourceRow, ...]
    lineage: Lineage


@dataclass(frozen=True, slots=True)
class Shape:
    """A distribution, beside the reference's.

    Attributes:
        kind: `number` or `category`.
        text: In words.
        current: Shares, by bin or value.
        reference: The same of the reference; None where there is none.
        edges: Of the bins of a `number`, one more than there are bins.
        values: The most frequent ones of a `category`.
        times: Whether the edges are times.
    """

    kind: str
    text: str
    current: tuple[float, ...]
    reference: tuple[float, ...] | None
    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()
    times: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """Figures over time, one list each, of equal lengths; None where nothing is known."""

    time: tuple[float, ...]
    null_share: tuple[float | None, ...]
    missing_share: tuple[float | None, ...]
    stale_share: tuple[float | None, ...]
    mean: tuple[float | None, ...]
    std: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Statistic:
    """A line of the table of statistics.

    Attributes:
        unit: How the page writes it: `number`, `count`, `share` or `time`.
    """

    label: str
    now: float | None
    reference: float | None
    unit: str


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and standard deviation of the reference."""

    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class ChannelDetails:
    """What is seen of a feature on one channel, when it is opened.

    Attributes:
        values: How many the distribution is of.
        hidden: Whether its values are kept out of the page, since it is tagged PII.
        null_limit: The null share that a rule allows; None where there is no rule.
    """

    values: int
    hidden: bool
    distribution: Shape | None
    history: History | None
    null_limit: float | None
    reference_name: str
    reference_mean: Spread | None
    drift: DriftFigures | None
    statistics: tuple[Statistic, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """Values of a feature that were served for a service and a caller; empty where unknown."""

    service: str
    caller: str
    rows: int


@dataclass(frozen=True, slots=True)
class FeatureDetails:
    """What is seen of a feature when it is opened."""

    lineage: Lineage
    readers: tuple[Reading, ...] = ()
    channels: dict[str, ChannelDetails] = field(default_factory=dict)
