"""What changes about feature services: their plans before and after, as the gateway makes them."""

from collections.abc import Iterator
from dataclasses import dataclass

from hotfeast.server.diff.changes import Change, Comparison, Kind, Severity
from hotfeast.server.errors import RequestFailure
from hotfeast.server.plan import ServingPlan, plan_service
from hotfeast.server.registry import Definitions


def compare_services(comparison: Comparison) -> Iterator[Change]:
    """All changes of services."""
    before = comparison.before.definitions.services
    after = comparison.after.definitions.services
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            read_by = comparison.readers_of_service(name)
            yield Change(
                comparison.loss((), read_by),
                Kind.service,
                name,
                "",
                "is removed",
                "requests for it are answered NOT_FOUND",
                (name,),
                read_by,
            )
        elif name not in before:
            yield Change(Severity.safe, Kind.service, name, "", "is new", "it can be asked for")
        else:
            yield from _Pair(
                comparison,
                name,
                _planned(comparison.before.definitions, name),
                _planned(comparison.after.definitions, name),
            ).changes()


@dataclass(frozen=True, slots=True)
class _Planned:
    """What becomes of a service.

    Attributes:
        plan: Its plan; None where it is refused.
        refusal: Why; empty where it is not.
        short: Whether features may go by their short names.
    """

    plan: ServingPlan | None
    refusal: str = ""
    short: bool = True


def _planned(definitions: Definitions, name: str) -> _Planned:
    try:
        return _Planned(plan_service(definitions, name, full_feature_names=False))
    except RequestFailure:
        # Short names may clash where full ones do not.
        try:
            plan = plan_service(definitions, name, full_feature_names=True)
            return _Planned(plan, short=False)
        except RequestFailure as failure:
            return _Planned(None, failure.message)


@dataclass(frozen=True, slots=True)
class _Pair:
    """A service before and after."""

    comparison: Comparison
    name: str
    was: _Planned
    becomes: _Planned

    def changes(self) -> Iterator[Change]:
        old, new = self.was.plan, self.becomes.plan
        if old is not None and new is None:
            effect = f"requests are refused: {self.becomes.refusal}"
            yield self._change(Severity.breaking, "cannot be served any more", effect)
        if old is None and new is not None:
            yield self._change(Severity.safe, "can be served", f"it could not: {self.was.refusal}")
        if old is None or new is None:
            yield from self._texts()
            return
        yield from self._answers(old, new)
        yield from self._requests(old, new)
        if self.was.short and not self.becomes.short:
            yield self._change(
                Severity.breaking,
                "takes two features of one name",
                "requests without full_feature_names are refused",
            )
        yield from self._versions()
        yield from self._texts()

    def _change(self, severity: Severity, what: str, effect: str, field: str = "") -> Change:
        read_by = self.comparison.readers_of_service(self.name)
        return Change(severity, Kind.service, self.name, field, what, effect, (self.name,), read_by)

    def _answers(self, old: ServingPlan, new: ServingPlan) -> Iterator[Change]:
        """Features of the answer, and how they are called."""
        before = {(f.view, f.feature, f.prefix) for f in old.served}
        after = {(f.view, f.feature, f.prefix) for f in new.served}
        gone, added = before - after, after - before
        for view, feature, prefix in sorted(gone):
            again = sorted(p for v, f, p in added if (v, f) == (view, feature))
            if again:
                yield self._change(
                    Severity.breaking,
                    f"calls {view}:{feature} {again[0]}__{feature} in place of {prefix}__{feature}",
                    "answers with full_feature_names have it under the new name",
                )
                added.discard((view, feature, again[0]))
            else:
                yield self._change(
                    Severity.breaking,
                    f"does not take {view}:{feature} any more",
                    "answers are without it",
                )
        for view, feature, _ in sorted(added):
            yield self._change(
                Severity.safe, f"takes {view}:{feature}", "answers have it beside the others"
            )
        order = list(dict.fromkeys((f.view, f.feature) for f in old.served))
        order_then = list(dict.fromkeys((f.view, f.feature) for f in new.served))
        kept = set(order) & set(order_then)
        if [f for f in order if f in kept] != [f for f in order_then if f in kept]:
            yield self._change(
                Severity.risky,
                "has its features in another order",
                "who takes them by place, and not by name, gets others",
            )

    def _requests(self, old: ServingPlan, new: ServingPlan) -> Iterator[Change]:
        """What requests have to send."""
        fields = (
            ("join key", _join_keys(old), _join_keys(new)),
            ("request data", _request_data(old), _request_data(new)),
        )
        for what, before, after in fields:
            for name in sorted(before.keys() | after.keys()):
                if name not in before:
                    words, effect = "has to be sent", "requests without it are refused"
                elif name not in after:
                    words, effect = "is not asked for", "requests that send it are refused"
                elif before[name] != after[name]:
                    words = "has another type"
                    effect = "requests that send the type of before are refused, unless it converts"
                else:
                    continue
                yield self._change(Severity.breaking, f"{what} {name} {words}", effect)

    def _versions(self) -> Iterator[Change]:
        before, after = (
            {p.view: p.version for p in state.definitions.services[self.name].projections}
            for state in (self.comparison.before, self.comparison.after)
        )
        for view in sorted(before.keys() & after.keys()):
            if before[view] != after[view]:
                words = [
                    "the current version" if v is None else f"version {v}"
                    for v in (after[view], before[view])
                ]
                yield self._change(
                    Severity.risky,
                    f"reads {words[0]} of {view} in place of {words[1]}",
                    "values are those of that version's rows",
                )

    def _texts(self) -> Iterator[Change]:
        old = self.comparison.before.catalogue.services[self.name]
        new = self.comparison.after.catalogue.services[self.name]
        if old.marks.deprecated != new.marks.deprecated or old.marks.sunset != new.marks.sunset:
            until = f", to go on {new.marks.sunset}" if new.marks.sunset else ""
            what = f"is deprecated{until}" if new.marks.deprecated else f"is not deprecated{until}"
            yield self._change(Severity.safe, what, "it is served as before")
        names = ("description", "owner", "tags")
        texts = [name for name in names if getattr(old, name) != getattr(new, name)]
        if texts:
            yield Change(
                Severity.safe,
                Kind.service,
                self.name,
                "",
                f"has another {' and '.join(texts)}",
                "nothing",
                (self.name,),
            )


def _request_data(plan: ServingPlan) -> dict[str, int]:
    return {field.name: field.value_type for field in plan.request_fields}


def _join_keys(plan: ServingPlan) -> dict[str, int]:
    return {key.name: key.value_type for key in plan.compiled.definition.join_keys if key.required}
