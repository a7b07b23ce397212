"""What changes about feature views."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from hotfeast.server.diff.changes import (
    Change,
    Comparison,
    Kind,
    Severity,
    State,
    changed_keys,
    time_words,
)
from hotfeast.server.errors import RequestFailure
from hotfeast.server.kernels import code_key
from hotfeast.server.layouts import LAYOUT_TAG, view_layout
from hotfeast.server.monitoring.report.catalogue import Feature, View
from hotfeast.server.registry import FieldDefinition, ViewDefinition
from hotfeast.server.rules import RULE_TAGS
from hotfeast.server.spans import span_words
from hotfeast.server.staleness import CACHE_TAG

_MARKS = ("deprecated", "sunset")
_SPECIAL_TAGS = frozenset({LAYOUT_TAG, CACHE_TAG, *_MARKS})


def not_applied(comparison: Comparison, intended: State) -> Iterator[Change]:
    """What the files say and Feast does not apply: it compares a definition with the registry's in
    part, and leaves what it does not see.

    Args:
        comparison: What is compared.
        intended: The definitions as in a registry that had nothing before.
    """
    applied = comparison.after.definitions.views
    views = {
        name: replace(
            view,
            # What a registry adds in the course of time.
            version=applied[name].version,
            problem=applied[name].problem,
            materialized_until=applied[name].materialized_until,
        )
        for name, view in intended.definitions.views.items()
    }
    meant = replace(intended, definitions=replace(intended.definitions, views=views))
    left = Comparison(comparison.after, meant, comparison.now, comparison.traffic)
    for change in compare_views(left):
        yield replace(
            change,
            severity=Severity.risky,
            what=f"{change.what}, by the files only",
            effect="Feast does not apply this change to a view that is registered: the registry "
            "keeps what it has",
        )


def compare_views(comparison: Comparison) -> Iterator[Change]:
    """All changes of views."""
    before, after = comparison.before.catalogue.views, comparison.after.catalogue.views
    gone = {name: view for name, view in before.items() if name not in after}
    new = {name: view for name, view in after.items() if name not in before}
    renamed = {name: _successor(view, new) for name, view in gone.items()}
    for name in gone:
        yield _removed(comparison, name, renamed[name])
    for name in new:
        origin = next((old for old, successor in renamed.items() if successor == name), "")
        yield Change(
            Severity.safe,
            Kind.view,
            name,
            "",
            f"is new, and looks like {origin} renamed" if origin else "is new",
            "it has no rows until it is materialized or pushed to"
            if comparison.after.definitions.views[name].stored
            else "it can be asked for",
            comparison.services_of(name),
        )
    for name in before.keys() & after.keys():
        yield from _Pair(
            comparison,
            name,
            before[name],
            after[name],
            comparison.before.definitions.views[name],
            comparison.after.definitions.views[name],
        ).changes()


def _successor(gone: View, new: dict[str, View]) -> str:
    """The new view that a removed one looks renamed to; empty where there is none."""
    shape = _shape(gone)
    return next((name for name, view in new.items() if _shape(view) == shape), "")


def _shape(view: View) -> object:
    features = frozenset((feature.name, feature.type) for feature in view.features)
    return view.kind, frozenset(key.name for key in view.join_keys), features


def _removed(comparison: Comparison, name: str, successor: str) -> Change:
    services = comparison.services_of(name)
    read_by = comparison.readers_of(name)
    view = comparison.before.definitions.views[name]
    effect = "requests for its features are answered NOT_FOUND"
    if view.stored:
        effect += "; applying deletes its rows from Redis, where Feast is set to scan for them"
    if successor:
        effect += f"; rows are found by the name, so {successor} has none until it is filled"
    return Change(
        Severity.safe if view.problem else comparison.loss(services, read_by),
        Kind.view,
        name,
        "",
        f"is renamed to {successor}, it seems" if successor else "is removed",
        effect,
        services,
        read_by,
    )


@dataclass(frozen=True, slots=True)
class _Pair:
    """A view before and after."""

    comparison: Comparison
    name: str
    old: View
    new: View
    was: ViewDefinition
    becomes: ViewDefinition

    def changes(self) -> Iterator[Change]:
        for change in self._all():
            # What nobody could read and nobody can is nobody's loss.
            hidden = self.was.problem and self.becomes.problem
            yield replace(change, severity=Severity.safe) if hidden else change

    def _all(self) -> Iterator[Change]:
        yield from self._servable()
        if not self.becomes.problem or self.was.problem:
            yield from self._storage()
        if self.was.problem and not self.was.features:
            # It could not be loaded, and what it was is not known.
            return
        yield from self._features()
        yield from self._ttl()
        if self.was.on_demand is not None and self.becomes.on_demand is not None:
            yield from self._function()
        yield from self._source()
        yield from self._tags()

    def _change(
        self, severity: Severity, what: str, effect: str, field: str = "", readers: bool = True
    ) -> Change:
        return Change(
            severity,
            Kind.view,
            self.name,
            field,
            what,
            effect,
            self.comparison.services_of(self.name, field),
            self.comparison.readers_of(self.name, field) if readers else None,
        )

    def _servable(self) -> Iterator[Change]:
        if self.becomes.problem and not self.was.problem:
            effect = f"requests are answered FAILED_PRECONDITION: {self.becomes.problem}"
            yield self._change(Severity.breaking, "cannot be served any more", effect)
        elif self.was.problem and not self.becomes.problem:
            yield self._change(Severity.safe, "can be served", f"it could not: {self.was.problem}")

    def _storage(self) -> Iterator[Change]:
        """Whether the rows that are stored are still found."""
        if self.was.stored != self.becomes.stored:
            if self.becomes.stored:
                what, effect = "is stored", "it has no rows until it is materialized or pushed to"
            else:
                what, effect = "is computed for each request", "rows that are stored are not read"
            yield self._change(Severity.breaking, f"{what} from now on", effect)
            return
        if not self.becomes.stored:
            return
        keys, keys_then = _keys(self.was), _keys(self.becomes)
        if keys != keys_then:
            yield self._change(
                Severity.breaking,
                f"has the join keys {_key_words(self.new)} in place of {_key_words(self.old)}",
                "stored rows are not found: NOT_FOUND until they are written by the new keys, "
                "which requests have to send",
            )
        apart = self.comparison.after.definitions.versioned_storage
        if apart and self.was.version != self.becomes.version:
            yield self._change(
                Severity.breaking,
                f"becomes version {self.becomes.version} and was {self.was.version}",
                "rows of versions are kept apart: NOT_FOUND until the new one is materialized, "
                "except for services that are pinned to a version",
            )
        layout, layout_then = (
            _layout(view, state.definitions.layout)
            for view, state in (
                (self.was, self.comparison.before),
                (self.becomes, self.comparison.after),
            )
        )
        if layout != layout_then:
            unreadable = layout_then == "packed"
            yield self._change(
                Severity.risky if unreadable else Severity.safe,
                f"has the layout {layout_then} in place of {layout}",
                "rows that are written from now on are stored so, and those that are stored are "
                f"read as they are until hotfeast repack --to {layout_then}"
                + ("; Feast's SDK cannot read packed rows" if unreadable else ""),
            )

    def _features(self) -> Iterator[Change]:
        old = {feature.name: feature for feature in self.was.features}
        new = {feature.name: feature for feature in self.becomes.features}
        described = {feature.name: feature for feature in self.new.features}
        gone = [f for name, f in old.items() if name not in new]
        added = [f for name, f in new.items() if name not in old]
        successors = _renamed(gone, added)
        for feature in gone:
            successor = successors.get(feature.name, "")
            services = self.comparison.services_of(self.name, feature.name)
            read_by = self.comparison.readers_of(self.name, feature.name)
            yield Change(
                Severity.safe if self.was.problem else self.comparison.loss(services, read_by),
                Kind.view,
                self.name,
                feature.name,
                f"is renamed to {successor}, it seems" if successor else "is removed",
                "requests that name it are answered NOT_FOUND"
                + (f"; {successor} is null until rows are written" if successor else ""),
                services,
                read_by,
            )
        for feature in added:
            effect = "it is null in rows that are stored, until they are written again"
            if not self.becomes.stored:
                effect = "it can be asked for"
            yield self._change(Severity.safe, "is new", effect, feature.name, readers=False)
        for name, feature in old.items():
            if name in new and feature.value_type != new[name].value_type:
                types = f"{described[name].type} in place of {self._type_before(name)}"
                effect = "answers have the new type from the next look at the registry on"
                if self.becomes.stored:
                    effect = (
                        "stored values are answered in the type that they were written in, until "
                        "their rows are written again"
                    )
                yield self._change(Severity.breaking, f"has the type {types}", effect, name)

    def _type_before(self, name: str) -> str:
        feature = self.old.feature(name)
        return feature.type if feature is not None else "unknown"

    def _ttl(self) -> Iterator[Change]:
        old, new = self.was.ttl_seconds, self.becomes.ttl_seconds
        if old == new:
            return
        what = f"has a TTL of {_ttl_words(new)} in place of {_ttl_words(old)}"
        if new and (not old or new < old):
            yield self._shorter_ttl(what, new)
            return
        older = f"between {span_words(old)} and {span_words(new)}" if new else "of any age"
        yield self._change(
            Severity.risky, what, f"rows that were OUTSIDE_MAX_AGE, {older}, are PRESENT again"
        )

    def _shorter_ttl(self, what: str, ttl: float) -> Change:
        """When rows become too old. What is materialized is no newer than the end of the run; what
        is pushed is known from the monitoring only."""
        now = self.comparison.now
        effect = f"rows of before {time_words(now - ttl)} are OUTSIDE_MAX_AGE at once"
        severity = Severity.risky
        traffic = self.comparison.traffic
        seen = traffic.newest_events.get(self.name) if traffic is not None else None
        materialized = self.becomes.materialized_until
        newest, words = seen, "the newest row that was seen is"
        if newest is None and materialized is not None:
            newest, words = materialized.timestamp(), "what was materialized is at the latest"
        if newest is not None:
            end = newest + ttl
            effect += f"; {words} of {time_words(newest)}, so that all is from {time_words(end)} on"
            if end <= now:
                severity = Severity.breaking
        return self._change(severity, what, effect)

    def _function(self) -> Iterator[Change]:
        changes = [*self._code(), *self._taken()]
        if not changes and _text(self.was.on_demand) != _text(self.becomes.on_demand):
            # With the text of its decorator, so that what is taken would be told twice.
            changes.append(
                self._change(
                    Severity.safe,
                    "has other comments or layout in its function",
                    "values stay what they are",
                )
            )
        yield from changes

    def _code(self) -> Iterator[Change]:
        old, new = self.was.on_demand, self.becomes.on_demand
        if _code(old) != _code(new):
            when = "in rows that are written from now on" if self.becomes.stored else "at once"
            yield self._change(
                Severity.risky,
                "is computed by other code",
                f"values change {when}; models were trained on those of the code before",
            )
        for what in ("mode", "singleton"):
            if getattr(old, what) != getattr(new, what):
                words = f"{getattr(new, what)} in place of {getattr(old, what)}"
                yield self._change(
                    Severity.risky, f"has the {what} {words}", "values may be computed otherwise"
                )

    def _taken(self) -> Iterator[Change]:
        """What it is computed from."""
        inputs, inputs_then = _inputs(self.was), _inputs(self.becomes)
        if inputs != inputs_then:
            added, gone = sorted(inputs_then - inputs), sorted(inputs - inputs_then)
            taken = [f"takes {', '.join(added)}"] if added else []
            taken += [f"takes {', '.join(gone)} no more"] if gone else []
            yield self._change(
                Severity.risky, " and ".join(taken), "values are computed from something else"
            )
        fields = {field.name: field.value_type for field in self.was.request_fields}
        fields_then = {field.name: field.value_type for field in self.becomes.request_fields}
        for name in changed_keys(fields, fields_then):
            if name not in fields:
                what, effect = "needs", "requests without it are refused"
            elif name not in fields_then:
                what, effect = "does not need", "requests that send it only for this are refused"
            else:
                what, effect = "needs another type of", "requests that send that of before may fail"
            yield self._change(Severity.breaking, f"{what} request data {name}", effect)

    def _source(self) -> Iterator[Change]:
        old, new = self.was.source, self.becomes.source
        if old is None or new is None:
            return
        if old.push_source != new.push_source:
            what = f"is pushed to by {new.push_source or 'no push source'}"
            if old.push_source:
                yield self._change(
                    Severity.breaking,
                    f"{what} in place of {old.push_source}",
                    f"pushes to {old.push_source} do not reach it",
                )
            else:
                yield self._change(Severity.safe, what, "it can be pushed to")
        columns = ("timestamp_field", "created_timestamp_column", "field_mapping")
        changed = [name for name in columns if getattr(old, name) != getattr(new, name)]
        sources = [s for s in self.old.sources if s not in self.new.sources]
        if changed or (sources and old.push_source == new.push_source):
            named = [f"source {', '.join(self.new.sources)}"] if sources else []
            yield self._change(
                Severity.risky,
                f"has another {' and '.join([*named, *changed])}",
                "rows come from elsewhere from the next materialization on",
            )

    def _tags(self) -> Iterator[Change]:
        if self.old.marks != self.new.marks:
            yield from self._marks("", self.old, self.new)
        if self.old.tags.get(CACHE_TAG) != self.new.tags.get(CACHE_TAG):
            said = self.new.tags.get(CACHE_TAG)
            words = f"may be answered from the cache for {said} s" if said else "has no cache tag"
            yield self._change(Severity.safe, words, "answers are as old as that at most")
        texts = self._text_changes()
        for feature in self.new.features:
            before = self.old.feature(feature.name)
            if before is None:
                continue
            own = (before.marks, feature.marks) != (self.old.marks, self.new.marks)
            if before.marks != feature.marks and own:
                yield from self._marks(feature.name, before, feature)
            tags = changed_keys(before.tags, feature.tags)
            rules = [tag for tag in tags if tag in RULE_TAGS]
            if rules:
                words = ", ".join(f"{tag}={feature.tags.get(tag, 'nothing')}" for tag in rules)
                yield self._change(
                    Severity.risky,
                    f"is held to {words}",
                    "rows that break a rule are rejected when they are written",
                    feature.name,
                )
        if texts:
            yield self._change(
                Severity.safe, f"has another {' and '.join(texts)}", "nothing", readers=False
            )

    def _text_changes(self) -> list[str]:
        """What changes that requests do not see."""
        texts = [name for name in ("description", "owner") if _differs(self.old, self.new, name)]
        quiet = set(changed_keys(self.old.tags, self.new.tags)) - _SPECIAL_TAGS - {"pii"}
        if quiet:
            texts.append(f"tag {', '.join(sorted(quiet))}")
        of_fields = set()
        for feature in self.new.features:
            before = self.old.feature(feature.name)
            if before is not None:
                if _differs(before, feature, "description"):
                    of_fields.add("description")
                of_fields |= (
                    set(changed_keys(before.tags, feature.tags))
                    - _SPECIAL_TAGS
                    - {"pii", *RULE_TAGS}
                )
        if of_fields:
            texts.append(f"{', '.join(sorted(of_fields))} of fields")
        return texts

    def _marks(self, field: str, old: View | Feature, new: View | Feature) -> Iterator[Change]:
        for mark in _MARKS:
            said = getattr(new.marks, mark)
            if getattr(old.marks, mark) == said:
                continue
            if mark == "sunset":
                what = f"is to go on {said}" if said else "is not to go any more"
            else:
                words = f" ({said})" if said.lower() != "true" else ""
                what = f"is deprecated{words}" if said else "is not deprecated any more"
            yield self._change(Severity.safe, what, "it is served as before", field)
        if old.marks.pii != new.marks.pii:
            what = "is marked as personal data" if new.marks.pii else "is not marked as personal"
            shown = "not shown" if new.marks.pii else "shown"
            severity = Severity.safe if new.marks.pii else Severity.risky
            effect = f"its values are {shown} in reports and audits"
            yield self._change(severity, what, effect, field, readers=False)


def _differs(old: View | Feature, new: View | Feature, name: str) -> bool:
    return bool(getattr(old, name) != getattr(new, name))


def _keys(view: ViewDefinition) -> frozenset[tuple[str, int]]:
    return frozenset((key.name, key.value_type) for key in view.join_keys)


def _key_words(view: View) -> str:
    return ", ".join(sorted(f"{key.name} ({key.type})" for key in view.join_keys)) or "none"


def _ttl_words(seconds: float) -> str:
    return span_words(seconds) if seconds else "none"


def _layout(view: ViewDefinition, default: str) -> str:
    try:
        return view_layout(view.name, view.tags, default)
    except RequestFailure:
        # Refused by name when the service is planned.
        return view.tags[LAYOUT_TAG]


def _renamed(gone: list[FieldDefinition], added: list[FieldDefinition]) -> dict[str, str]:
    """Which of the removed features look like which of the new: of one type, with one description
    or with no other to choose from."""
    found: dict[str, str] = {}
    for old in gone:
        for new in added:
            same = old.description and old.description == new.description
            only = len(gone) == len(added) == 1
            if (
                old.value_type == new.value_type
                and (same or only)
                and new.name not in found.values()
            ):
                found[old.name] = new.name
                break
    return found


def _text(view: Any) -> Any:
    transformation = view.feature_transformation
    text = getattr(transformation, "udf_string", None)
    return text if text is not None else getattr(transformation, "substrait_plan", None)


def _code(view: Any) -> Any:
    """A function's code, where it is one of Python; else what stands for it."""
    code = code_key(getattr(view.feature_transformation, "udf", None))
    return code if code is not None else _text(view)


def _inputs(view: ViewDefinition) -> frozenset[str]:
    return frozenset(f"{source.name}:{name}" for source in view.sources for name in source.features)
