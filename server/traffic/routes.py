"""Aliases and plans put together: which request goes to which target, by which plan.

Routes are made anew when the aliases or the definitions change, and only looked up by requests.
"""

import logging
import random
from collections.abc import Mapping
from typing import Any, Protocol

import grpc

from hotfeast.hotpath.http2 import header_block
from hotfeast.hotpath.request import Request
from hotfeast.hotpath.split import Split
from hotfeast.server.errors import RequestFailure
from hotfeast.server.plan import PlanBook, ServingPlan
from hotfeast.server.traffic.aliases import Alias, AliasError
from hotfeast.server.traffic.deprecation import metadata_value
from hotfeast.server.traffic.figures import TargetFigures
from hotfeast.server.traffic.notes import Caller, Reads
from hotfeast.serving.v1 import serving_pb2

logger = logging.getLogger(__name__)

ANSWERED_BY = b"hotfeast-feature-service"
"""The metadata of a call that has failed that say which target of an alias it went to."""


class Shadows(Protocol):
    """Reads from another version beside the answer."""

    def offer(self, side: "Side", request: Request, answer: bytes) -> None:
        """Takes an answer to compare with."""


class Side:
    """One target of an alias, for one way of naming features; the note of calls that go there.

    Attributes:
        alias: The alias's name.
        target: The target's.
        book: The plans that it is of.
        failure: Why it cannot be served; None where it can.
        shadow: The plan of what is read beside it; None for nothing.
        shadow_target: Its name; empty for nothing.
        shadow_since: The alias's revision since which it is.
        said: Which target it is, as a field of an answer's metadata.
        metadata, trailers, failure_metadata, failure_trailers: As a `Note` has them.
    """

    __slots__ = (
        "_chance", "_figures", "_plan", "_reads", "_shadows", "alias", "book", "failure",
        "failure_metadata", "failure_trailers", "metadata", "said", "shadow", "shadow_since",
        "shadow_target", "target", "trailers",
    )  # fmt: skip

    def __init__(
        self,
        alias: Alias,
        target: str,
        book: PlanBook,
        full_feature_names: bool,
        figures: TargetFigures | None,
        reads: Reads | None,
        shadows: Shadows | None,
        shadow_since: int,
    ) -> None:
        """
        Args:
            alias: The alias.
            target: The name of its target.
            book: The plans of the moment.
            full_feature_names: Whether features are named `view__feature`.
            figures: Counts its calls; nobody if None.
            reads: Counts reads of what is deprecated; nobody if None.
            shadows: Reads its shadow; nobody if None.
            shadow_since: The alias's revision since which it has had its shadow.
        """
        self.alias = alias.name
        self.target = target
        self.book = book
        self._figures = figures
        self._reads = reads
        self._shadows = shadows
        self._plan: ServingPlan | None = None
        self.failure: RequestFailure | None = None
        try:
            self._plan = book.find_target(target, full_feature_names)
        except RequestFailure as failure:
            self.failure = _failure(alias.name, target, failure)
        self.shadow: ServingPlan | None = None
        self.shadow_target = ""
        self.shadow_since = shadow_since
        self._chance = 0.0
        wanted = alias.shadow
        if shadows is not None and wanted is not None and wanted.target != target:
            try:
                self.shadow = book.find_target(wanted.target, full_feature_names)
                self.shadow_target = wanted.target
                self._chance = wanted.share / 100
            except RequestFailure as failure:
                logger.warning(
                    "alias %r has no shadow: %r cannot be served: %s",
                    alias.name, wanted.target, failure.message,
                )  # fmt: skip
        self.said = serving_pb2.GetOnlineFeaturesResponseMetadata(
            feature_service=target
        ).SerializeToString()
        deprecations = self._plan.deprecations if self._plan is not None else None
        self.metadata = deprecations.metadata if deprecations is not None else ()
        self.trailers = deprecations.trailers if deprecations is not None else b""
        self.failure_metadata = ((ANSWERED_BY, metadata_value(target)), *self.metadata)
        self.failure_trailers = header_block(self.failure_metadata)

    @property
    def plan(self) -> ServingPlan:
        """Its plan.

        Raises:
            RequestFailure: It cannot be served.
        """
        if self._plan is None:
            assert self.failure is not None
            # A new exception each time: one object would gather the tracebacks of all threads.
            raise RequestFailure(self.failure.code, self.failure.message)
        return self._plan

    def answered(self, request: Request, rows: int, answer: bytes) -> None:
        """A request has its answer, which is about to be sent."""
        if self._figures is not None:
            self._figures.answered(rows, answer, len(self.plan.output_names))
        if self._chance and self._shadows is not None and random.random() < self._chance:
            self._shadows.offer(self, request, answer)

    def over(self, call: Caller, code: grpc.StatusCode, seconds: float) -> None:
        """Counts a call that has ended."""
        if self._figures is not None:
            self._figures.over(code, seconds)
        if self._reads is not None and self._plan is not None:
            deprecations = self._plan.deprecations
            if deprecations is not None:
                self._reads.count(deprecations, call.caller, code)


def _failure(alias: str, target: str, failure: RequestFailure) -> RequestFailure:
    code = failure.code
    if code is grpc.StatusCode.NOT_FOUND:
        # The caller has asked for something that is there.
        code = grpc.StatusCode.FAILED_PRECONDITION
    return RequestFailure(
        code, f"alias {alias!r}: its target {target!r} cannot be served: {failure.message}"
    )


class Route:
    """An alias, for one way of naming features."""

    __slots__ = ("_choose", "_sides")

    def __init__(self, split: Split, sides: tuple[Side, ...]) -> None:
        """
        Args:
            split: Chooses among the targets.
            sides: The targets, in the same order.
        """
        self._choose = split.choose
        self._sides = sides

    def side(self, request: Request) -> Side:
        """Where a request goes."""
        return self._sides[self._choose(request)]


Table = Mapping[tuple[bytes, bool], Route]
"""By an alias's name in UTF-8, and whether names of features are full."""


class SideMaker(Protocol):
    """Makes the sides of routes."""

    def __call__(
        self, alias: Alias, target: str, book: PlanBook, full_feature_names: bool
    ) -> Side: ...


def make_table(aliases: Mapping[str, Alias], book: PlanBook, make_side: SideMaker) -> Table:
    """Routes for all aliases.

    Args:
        aliases: The aliases.
        book: The plans of the moment.
        make_side: Makes a target's side.
    """
    table: dict[tuple[bytes, bool], Route] = {}
    for alias in aliases.values():
        for full in (False, True):
            sides = tuple(make_side(alias, target, book, full) for target, _ in alias.targets)
            table[alias.name.encode(), full] = Route(_split(alias, sides), sides)
            for side in sides:
                if full and side.failure is not None:
                    logger.warning("%s", side.failure.message)
    return table


def _split(alias: Alias, sides: tuple[Side, ...]) -> Split:
    """Chooses by the keys that the alias names, or else by those that all targets have."""
    names: dict[str, tuple[str, ...]] = {}
    common: set[str] | None = None
    for side in sides:
        if side.failure is None:
            keys = _join_keys(side.plan)
            names.update(keys)
            common = set(keys) if common is None else common & set(keys)
    chosen = alias.sticky_by or tuple(common or ())
    return Split(alias.name, alias.targets, [names.get(key, (key,)) for key in chosen])


def _join_keys(plan: ServingPlan) -> dict[str, tuple[str, ...]]:
    """The join keys that a request must have: names that the column of each may come under."""
    keys = plan.compiled.definition.join_keys
    return {key.name: (key.name, *key.aliases) for key in keys if key.required}


def check_alias(alias: Alias, book: PlanBook) -> None:
    """Judges an alias by the definitions.

    Args:
        alias: The alias.
        book: The plans of the moment.

    Raises:
        AliasError: A target cannot be served, or targets cannot be asked with the same request.
    """
    first: tuple[str, dict[str, Any]] | None = None
    for target in alias.names:
        try:
            plan = book.find_target(target, True)
        except RequestFailure as failure:
            raise AliasError(
                f"alias {alias.name!r}: target {target!r} cannot be served: {failure.message}; "
                "name a feature service of the registry, or a view's version as 'view@v2'"
            ) from failure
        asked = {
            "join keys": sorted(_join_keys(plan)),
            "request data": sorted(field.name for field in plan.request_fields),
        }
        if first is None:
            first = target, asked
        for what, names in asked.items():
            if names != first[1][what]:
                raise AliasError(
                    f"alias {alias.name!r}: no request suits all of its targets: {first[0]!r} "
                    f"needs the {what} {_listed(first[1][what])}, {target!r} needs {_listed(names)}"
                )
    assert first is not None
    for key in alias.sticky_by:
        if key not in first[1]["join keys"]:
            raise AliasError(
                f"alias {alias.name!r}: sticky_by has {key!r}, which is no join key of its "
                f"targets; use {_listed(first[1]['join keys'])}"
            )


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names)) if names else "none"
