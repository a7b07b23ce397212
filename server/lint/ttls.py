"""TTLs beside the cadence of the source.

A view's cadence is how often its source gets new rows: by its tag `cadence`, else by the tag of one
of its sources, a word (`hourly`, `daily`, `weekly`, `monthly`, `quarterly`, `yearly`) or a duration
such as `6h`. Words for a source without one are `static`, `streaming`, `on_push` and `on_request`.
With `--data` the cadence of a source without the tag is measured: the median time between two of
its snapshots.
"""

from collections.abc import Iterator
from typing import NamedTuple

from hotfeast.server.lint.findings import Fault, Kind
from hotfeast.server.lint.subject import Subject
from hotfeast.server.monitoring.report.catalogue import View
from hotfeast.server.monitoring.rules import duration
from hotfeast.server.spans import span_words

CADENCE_TAG = "cadence"
"""The tag of a view or data source that says how often it gets new rows."""

_DAY = 86400.0
_WORDS = {
    "hourly": 3600.0,
    "daily": _DAY,
    "weekly": 7 * _DAY,
    "monthly": 31 * _DAY,
    "quarterly": 92 * _DAY,
    "yearly": 366 * _DAY,
}
_NO_CADENCE = frozenset({"static", "streaming", "on_push", "on_request"})


class Cadence(NamedTuple):
    """How often a source gets new rows.

    Attributes:
        seconds: That.
        words: The same, and where it is from, for messages.
    """

    seconds: float
    words: str


def missing(subject: Subject) -> Iterator[Fault]:
    """Stored views whose rows never expire."""
    for view in subject.stored_views():
        if _is_online(subject, view) and not view.ttl_seconds:
            yield Fault(
                Kind.view,
                view.name,
                "",
                "has no TTL: a row is served however old it is, also long after its source stopped",
                "set ttl to the source's cadence and the time that it may be late",
            )


def short(subject: Subject) -> Iterator[Fault]:
    """TTLs that pass before the next rows come."""
    for view, cadence in _with_cadence(subject):
        if view.ttl_seconds and view.ttl_seconds <= cadence.seconds:
            yield Fault(
                Kind.view,
                view.name,
                "",
                f"has a TTL of {span_words(view.ttl_seconds)} and gets rows {cadence.words}: "
                "its rows are OUTSIDE_MAX_AGE before the next ones come",
                "set ttl to the cadence and the time that the source may be late",
            )


def long(subject: Subject) -> Iterator[Fault]:
    """TTLs that hide that the source is late."""
    factor = subject.settings.ttl_factor
    for view, cadence in _with_cadence(subject):
        if view.ttl_seconds > factor * cadence.seconds:
            yield Fault(
                Kind.view,
                view.name,
                "",
                f"has a TTL of {span_words(view.ttl_seconds)} and gets rows {cadence.words}: "
                f"rows are served as fresh after more than {factor:g} of them did not come",
                "shorten ttl to the cadence and the time that the source may be late",
            )


def cadences(subject: Subject) -> Iterator[Fault]:
    """Tags that say no cadence."""
    tagged = [(Kind.view, view.name, view.tags) for view in subject.catalogue.views.values()]
    tagged += [(Kind.source, s.name, s.tags) for s in subject.catalogue.sources.values()]
    for kind, name, tags in tagged:
        text = tags.get(CADENCE_TAG)
        if text is not None and text not in _NO_CADENCE and _seconds(text) is None:
            yield Fault(
                kind,
                name,
                "",
                f"has the tag {CADENCE_TAG}={text!r}, which says no cadence",
                f"use {', '.join((*_WORDS, *sorted(_NO_CADENCE)))}, or a duration such as 6h",
            )


def _seconds(text: str) -> float | None:
    """The seconds of a cadence; None for a text that says none."""
    if text in _WORDS:
        return _WORDS[text]
    try:
        return duration(text) or None
    except ValueError:
        return None


def _is_online(subject: Subject, view: View) -> bool:
    return subject.definitions.views[view.name].online


def _with_cadence(subject: Subject) -> Iterator[tuple[View, Cadence]]:
    for view in subject.stored_views():
        if not _is_online(subject, view):
            continue
        cadence = _tagged(subject, view)
        if cadence is None and subject.data is not None and view.name in subject.data:
            source = subject.data[view.name]
            if source.cadence:
                words = f"every {span_words(source.cadence)}, by the event times of {source.name}"
                cadence = Cadence(source.cadence, words)
        if cadence is not None:
            yield view, cadence


def _tagged(subject: Subject, view: View) -> Cadence | None:
    """The cadence by a view's own tag, or else by the first of its sources that has one."""
    tags = [(view.name, view.tags.get(CADENCE_TAG))]
    for name in view.sources:
        source = subject.catalogue.sources[name]
        tags.append((name, source.tags.get(CADENCE_TAG)))
        if source.batch_source:
            batch = subject.catalogue.sources[source.batch_source]
            tags.append((batch.name, batch.tags.get(CADENCE_TAG)))
    for name, text in tags:
        if text is not None and (seconds := _seconds(text)) is not None:
            return Cadence(seconds, f"every {span_words(seconds)}, by the tag of {name}")
    return None
