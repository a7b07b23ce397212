"""What a repository says of how it is to be linted, under `hotfeast` in feature_store.yaml:

hotfeast:
  lint:
    ignore: [ttl-long]          # rules that are off
    units: [fit]                # words in names that say a unit, beside the known ones
    aggregations: [returns]     # words in names of aggregated features, beside the known ones
    personal: [loyalty]         # words in names of personal data, beside the known ones
    ttl_factor: 10              # a TTL of more cadences than this hides a late source
"""

import difflib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from hotfeast.server.errors import StartFailure
from hotfeast.server.feast_api import RepoConfig

IGNORE_TAG = "lint.ignore"
"""The tag of a view, field, service, entity or data source that says which rules are off for it:
their ids, between commas."""

_PLACE = "hotfeast.lint in feature_store.yaml"
_LISTS = ("ignore", "units", "aggregations", "personal")
_FACTOR = "ttl_factor"


@dataclass(frozen=True, slots=True)
class LintSettings:
    """How a repository is linted.

    Attributes:
        ignore: Rules that are off.
        units: Words that say a unit, beside the known ones.
        aggregations: Words of aggregated features, beside the known ones.
        personal: Words of personal data, beside the known ones.
        ttl_factor: How many cadences a TTL may be.
    """

    ignore: frozenset[str] = frozenset()
    units: frozenset[str] = frozenset()
    aggregations: frozenset[str] = frozenset()
    personal: frozenset[str] = frozenset()
    ttl_factor: float = 10.0


def read_settings(config: RepoConfig, rules: Collection[str]) -> LintSettings:
    """The settings of a repository.

    Args:
        config: Its feature_store.yaml.
        rules: The ids of all rules.

    Raises:
        StartFailure: A setting or a rule is not known, or a value is of the wrong kind.
    """
    section: Any = getattr(config, "hotfeast", None)
    given = section.get("lint") if isinstance(section, dict) else None
    if given is None:
        return LintSettings()
    if not isinstance(given, dict):
        raise StartFailure(f"{_PLACE} must be a mapping, and is {given!r}")
    for name in given:
        if name not in (*_LISTS, _FACTOR):
            raise StartFailure(
                f"{_PLACE} has no setting {name!r}{_nearest(name, [*_LISTS, _FACTOR])}"
            )
    words: dict[str, frozenset[str]] = {}
    for name in _LISTS:
        value = given.get(name, [])
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise StartFailure(f"{_PLACE}: {name} must be a list of words, and is {value!r}")
        words[name] = frozenset(value)
    check_rules(words["ignore"], rules, f"{_PLACE}: ignore")
    factor = given.get(_FACTOR, LintSettings().ttl_factor)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not factor > 1:
        raise StartFailure(f"{_PLACE}: {_FACTOR} must be a number above 1, and is {factor!r}")
    units, aggregations, personal = (
        frozenset(word.lower() for word in words[name]) for name in _LISTS[1:]
    )
    return LintSettings(words["ignore"], units, aggregations, personal, float(factor))


def check_rules(ids: Iterable[str], rules: Collection[str], place: str) -> None:
    """Refuses rules that there are not.

    Args:
        ids: What is named.
        rules: The ids of all rules.
        place: Where it is named, for the message.

    Raises:
        StartFailure: One is not a rule.
    """
    for name in sorted(ids):
        if name not in rules:
            raise StartFailure(
                f"{place}: there is no rule {name!r}{_nearest(name, rules)}; "
                "hotfeast lint --rules lists them"
            )


def ignored_by(tags: dict[str, str]) -> frozenset[str]:
    """The rules that the tags of something turn off for it."""
    words = (word.strip() for word in tags.get(IGNORE_TAG, "").split(","))
    return frozenset(word for word in words if word)


def _nearest(name: object, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
