"""The methods of `Traffic`: aliases listed, changed and compared."""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hotfeast.server.errors import RequestFailure, invalid, not_servable, unknown_name
from hotfeast.server.traffic.aliases import Alias, AliasError, parse_alias
from hotfeast.server.traffic.changes import Change
from hotfeast.server.traffic.comparison import (
    ADDED,
    CHANGED,
    COMPARED,
    DIFFERENT,
    DROPPED,
    EQUAL,
    FAILED,
    MISSING,
    Comparison,
    Key,
    read_comparisons,
)
from hotfeast.server.traffic.store import Author, Stored
from hotfeast.server.traffic.watch import AliasWatch
from hotfeast.serving.v1 import traffic_pb2

_MOST_CHANGES = 100
# Characters of a reason, and of a caller's name, in the record.
_LONGEST = 1000

Method = Callable[[Any, Any], Any]


class TrafficService:
    """Answers `Traffic`, in one worker."""

    def __init__(
        self,
        watch: AliasWatch | None,
        folder: Path | None,
        caller_of: Callable[[Any], bytes | None],
    ) -> None:
        """
        Args:
            watch: The aliases; None where the gateway has no file of them.
            folder: Where workers keep what shadow reads found.
            caller_of: Says who makes a call, of its context.
        """
        self._watch = watch
        self._folder = folder
        self._caller_of = caller_of

    @property
    def methods(self) -> dict[str, tuple[Method, Any]]:
        """By name, with the class of its request."""
        return {
            "ListAliases": (self._told(self.list), traffic_pb2.ListAliasesRequest),
            "SetAlias": (self._told(self.set), traffic_pb2.SetAliasRequest),
            "RemoveAlias": (self._told(self.remove), traffic_pb2.RemoveAliasRequest),
            "RollbackAlias": (self._told(self.roll_back), traffic_pb2.RollbackAliasRequest),
            "ListAliasChanges": (self._told(self.changes), traffic_pb2.ListAliasChangesRequest),
            "CompareShadows": (self._told(self.compare), traffic_pb2.CompareShadowsRequest),
        }

    def list(self, _: Any, __: Any) -> Any:
        """Answers `ListAliases`."""
        watch = self._aliases()
        stored, error = watch.state
        return traffic_pb2.ListAliasesResponse(
            aliases=[_alias(stored, name) for name in sorted(stored.aliases)],
            path=str(watch.store.path),
            error=error,
        )

    def set(self, request: Any, context: Any) -> Any:
        """Answers `SetAlias`."""
        alias = _asked(request.alias)
        stored = self._aliases().set(alias, _expected(request), self._author(request, context))
        return traffic_pb2.SetAliasResponse(alias=_alias(stored, alias.name))

    def remove(self, request: Any, context: Any) -> Any:
        """Answers `RemoveAlias`."""
        watch = self._aliases()
        watch.remove(request.name, _expected(request), self._author(request, context))
        return traffic_pb2.RemoveAliasResponse()

    def roll_back(self, request: Any, context: Any) -> Any:
        """Answers `RollbackAlias`."""
        revision = request.to_revision if request.HasField("to_revision") else None
        stored = self._aliases().roll_back(
            request.name, revision, _expected(request), self._author(request, context)
        )
        return traffic_pb2.RollbackAliasResponse(alias=_alias(stored, request.name))

    def changes(self, request: Any, _: Any) -> Any:
        """Answers `ListAliasChanges`."""
        record = self._aliases().state.stored.record
        changes = record.of(request.name) if request.name else record.changes
        newest = list(reversed(changes))[: request.limit or _MOST_CHANGES]
        return traffic_pb2.ListAliasChangesResponse(changes=[_change(each) for each in newest])

    def compare(self, request: Any, _: Any) -> Any:
        """Answers `CompareShadows`."""
        stored = self._aliases().state.stored
        if request.name and request.name not in stored.aliases:
            raise unknown_name("alias", request.name, stored.aliases)
        wanted = [each for each in shadows_of(stored) if request.name in ("", each[0])]
        found = {} if self._folder is None else read_comparisons(self._folder, wanted)
        return traffic_pb2.CompareShadowsResponse(
            comparisons=[_comparison(key, found[key]) for key in sorted(found)]
        )

    def _aliases(self) -> AliasWatch:
        if self._watch is None:
            raise not_servable("this gateway has no aliases: start it with --aliases FILE")
        return self._watch

    def _author(self, request: Any, context: Any) -> Author:
        who = (self._caller_of(context) or b"").decode("utf-8", "replace")
        return Author(who[:_LONGEST], context.peer(), request.reason[:_LONGEST])

    def _told(self, method: Method) -> Method:
        """A method whose failures are statuses."""

        def answer(request: Any, context: Any) -> Any:
            try:
                return method(request, context)
            except AliasError as error:
                failure = invalid(str(error))
            except RequestFailure as error:
                failure = error
            context.abort(failure.code, failure.message)
            raise AssertionError("abort() returned")

        return answer


def shadows_of(stored: Stored) -> Sequence[tuple[str, str, int]]:
    """What is compared: alias, shadow, and the alias's revision since which it is.

    Args:
        stored: The aliases, and the record of their changes.
    """
    return [
        (alias.name, alias.shadow.target, stored.record.shadowed_since(alias))
        for alias in stored.aliases.values()
        if alias.shadow is not None
    ]


def _expected(request: Any) -> int | None:
    return request.expected_revision if request.HasField("expected_revision") else None


def _asked(message: Any) -> Alias:
    """An alias of a request.

    Raises:
        AliasError: It is not valid.
    """
    names = [target.name for target in message.targets]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise AliasError(f"alias {message.name!r}: target {twice!r} is there twice")
    said: dict[str, Any] = {
        "targets": {target.name: target.share for target in message.targets},
        "sticky_by": list(message.sticky_by),
    }
    if message.HasField("shadow"):
        said["shadow"] = {"target": message.shadow.target, "share": message.shadow.share}
    return parse_alias(message.name, said)


def _message(alias: Alias, revision: int) -> Any:
    message = traffic_pb2.Alias(
        name=alias.name,
        targets=[traffic_pb2.AliasTarget(name=name, share=share) for name, share in alias.targets],
        sticky_by=alias.sticky_by,
        revision=revision,
    )
    if alias.shadow is not None:
        message.shadow.target = alias.shadow.target
        message.shadow.share = alias.shadow.share
    return message


def _alias(stored: Stored, name: str) -> Any:
    return _message(stored.aliases[name], stored.record.revision(name))


def _change(change: Change) -> Any:
    message = traffic_pb2.AliasChange(
        alias=change.alias,
        revision=change.revision,
        action=change.action,
        who=change.who,
        peer=change.peer,
        reason=change.reason,
    )
    message.time.FromDatetime(datetime.fromisoformat(change.time))
    if change.old is not None:
        message.before.CopyFrom(
            _message(parse_alias(change.alias, change.old), change.revision - 1)
        )
    if change.new is not None:
        message.after.CopyFrom(_message(parse_alias(change.alias, change.new), change.revision))
    return message


def _comparison(key: Key, comparison: Comparison) -> Any:
    message = traffic_pb2.ShadowComparison(
        alias=key.alias,
        target=key.target,
        shadow=key.shadow,
        compared=comparison.requests[COMPARED],
        changed=comparison.requests[CHANGED],
        failed=comparison.requests[FAILED],
        dropped=comparison.requests[DROPPED],
        last_error=comparison.last_error,
    )
    for name, counts in comparison.features.items():
        feature = message.features.add(
            name=name,
            equal=counts.cells[EQUAL],
            different=counts.cells[DIFFERENT],
            missing=counts.cells[MISSING],
            added=counts.cells[ADDED],
        )
        for example in counts.examples:
            told = feature.examples.add(
                entity=example.entity, answer=example.answer, shadow=example.shadow
            )
            told.time.FromNanoseconds(int(example.time * 1e9))
    return message
