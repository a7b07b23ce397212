"""What definitions have to say of themselves: unit, window, owner, description.

The unit of a number is said by a word of its name (`revenue_usd`, `visits_count`, `hit_rate`), by
the tag `unit`, or in the description by `[usd]` or `unit: usd`; the window of an aggregate by a
word of its name (`_7d`, `_24h`, `_lifetime`) or by the tag `window`.

An aggregate is a stored number whose name has a word such as `count`, `sum`, `avg` or `purchases`.
What an on-demand view computes is of the moment of the request, and needs no window; Feast does not
apply tags and descriptions of its fields.
"""

import re
from collections.abc import Iterator, Mapping

from hotfeast.server.lint.findings import Fault, Kind
from hotfeast.server.lint.subject import NUMERIC, Subject, words_of
from hotfeast.server.monitoring.report.catalogue import ON_DEMAND, Entity, Feature, Service, View

# Money, time, numbers of things and without a dimension, and others.
_UNITS = """
usd eur gbp chf jpy cny inr cents dollars euros pounds currency
ns us ms s sec secs second seconds minute minutes mins hour hours day days week weeks month months
year years
count counts num number id index rank position percent pct percentile share ratio rate fraction
probability prob score factor multiplier
bytes kb mb gb tb kib mib gib km m cm mm miles meters metres kg g grams lb lbs oz celsius fahrenheit
kelvin degrees deg watts kwh kw volts pixels px
"""
_AGGREGATIONS = """
count counts sum total avg mean average median std stddev variance distinct
purchases orders clicks visits sessions logins views events transactions payments
"""
UNITS = frozenset(_UNITS.split())
"""Words that say a unit."""
AGGREGATIONS = frozenset(_AGGREGATIONS.split())
"""Words of aggregated features."""

_WINDOW = re.compile(r"\d+(s|m|min|h|d|w|mo|y)")
_WINDOW_WORDS = frozenset({"lifetime", "alltime", "ever", "today", "ytd", "mtd", "wtd"})
_UNIT_IN_TEXT = re.compile(r"\[[^\]\s]+\]|\bunit:\s*\S+", re.IGNORECASE)


def units(subject: Subject) -> Iterator[Fault]:
    """Numbers without a unit."""
    known = UNITS | subject.settings.units
    for view in subject.catalogue.views.values():
        for feature in view.features:
            if (
                feature.type in NUMERIC
                and not feature.tags.get("unit")
                and not known & set(words_of(feature.name))
                and not _UNIT_IN_TEXT.search(feature.description)
            ):
                fix = "end the name in its unit, such as _usd or _count"
                if view.kind != ON_DEMAND:
                    fix += ", or set the field's tag 'unit'"
                yield Fault(Kind.view, view.name, feature.name, "is a number and says no unit", fix)


def windows(subject: Subject) -> Iterator[Fault]:
    """Aggregates without a window."""
    known = AGGREGATIONS | subject.settings.aggregations
    for view in subject.stored_views():
        for feature in view.features:
            words = words_of(feature.name)
            aggregated = sorted(known & set(words))
            if feature.type in NUMERIC and aggregated and not _says_window(feature, words):
                yield Fault(
                    Kind.view,
                    view.name,
                    feature.name,
                    f"is aggregated, by the word {aggregated[0]!r}, and says no window",
                    "end the name in its window, such as _7d or _lifetime, or set the field's tag "
                    "'window'",
                )


def owners(subject: Subject) -> Iterator[Fault]:
    """Views, services and entities without an owner."""
    for kind, name, thing in _owned(subject):
        if not thing.owner.strip():
            yield Fault(kind, name, "", "has no owner", "set owner to who is asked about it")


def descriptions(subject: Subject) -> Iterator[Fault]:
    """Views, services, entities and features without a description."""
    for kind, name, thing in _owned(subject):
        if not thing.description.strip():
            yield Fault(kind, name, "", "has no description", "set description")
    for view in subject.stored_views():
        for feature in view.features:
            if not feature.description.strip():
                yield Fault(
                    Kind.view,
                    view.name,
                    feature.name,
                    "has no description",
                    "set the field's description",
                )


def _owned(subject: Subject) -> Iterator[tuple[Kind, str, Entity | View | Service]]:
    catalogue = subject.catalogue
    kinds: tuple[tuple[Kind, Mapping[str, Entity | View | Service]], ...] = (
        (Kind.entity, catalogue.entities),
        (Kind.view, catalogue.views),
        (Kind.service, catalogue.services),
    )
    for kind, things in kinds:
        for name, thing in things.items():
            yield kind, name, thing


def _says_window(feature: Feature, words: list[str]) -> bool:
    if feature.tags.get("window"):
        return True
    return any(word in _WINDOW_WORDS or _WINDOW.fullmatch(word) for word in words)
