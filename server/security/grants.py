"""What a principal may do: decided once for each plan, and then only looked up."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import grpc

from hotfeast.hotpath.request import Request
from hotfeast.server.errors import RequestFailure, UnknownName
from hotfeast.server.plan import PlanBook, ServingPlan, parse_reference
from hotfeast.server.push_plan import Destination
from hotfeast.server.registry import Definitions
from hotfeast.server.security.feast_permissions import (
    DESCRIBE,
    READ_ONLINE,
    SERVICE,
    WRITE_OFFLINE,
    WRITE_ONLINE,
    allowed_by,
)
from hotfeast.server.security.policy import Action, FeastPermissions, Policy
from hotfeast.server.security.principals import Principal
from hotfeast.server.traffic.personal import personal_views

# Decisions that are kept of one principal; with more they are made anew.
_MOST_DECISIONS = 512
# Names in a message.
_MOST_NAMES = 3
_UNDECIDED = object()


class Denied(RequestFailure):
    """PERMISSION_DENIED, with what is missing.

    Attributes:
        principal: Who.
        missing: What, for the log.
    """

    def __init__(self, principal: Principal, missing: str) -> None:
        super().__init__(grpc.StatusCode.PERMISSION_DENIED, f"{principal.text} lacks {missing}")
        self.principal = principal
        self.missing = missing


class Grants:
    """What one principal may do by one policy, in any thread.

    What a principal may not know it is not told: for what it has no grant of, a name that there is
    not is refused as one that there is.

    Attributes:
        principal: Who.
    """

    def __init__(self, principal: Principal, policy: Policy, project: str) -> None:
        """
        Args:
            principal: Who.
            policy: What is granted.
            project: The project that is served.
        """
        self.principal = principal
        self._feast = policy.feast_permissions
        self._granted = {
            action: tuple(g for g in policy.grants_to(principal, project) if g.does(action))
            for action in Action
        }
        # Swapped as one, so that no thread takes a decision for another book's.
        self._decided: tuple[PlanBook | None, dict[Any, str | None]] = (None, {})

    def _weighed(
        self, granted: bool, what: str, definitions: Definitions, feast: Callable[[], bool]
    ) -> str | None:
        """What is missing, by grants and by Feast's permissions; None where nothing is.

        Args:
            granted: Whether grants allow it.
            what: What is to be done.
            definitions: The state of the registry.
            feast: Whether Feast's permissions do.
        """
        heeded = self._feast is not FeastPermissions.ignore and bool(definitions.permissions)
        if not heeded or (granted and self._feast is FeastPermissions.suffice):
            return None if granted else f"the grant {what}"
        if not granted and self._feast is FeastPermissions.require:
            return f"the grant {what}"
        return None if feast() else f"a permission in Feast's registry for {what}"

    def _feast_service(self, definitions: Definitions, name: str, action: str) -> bool:
        service = definitions.services.get(name)
        return service is not None and allowed_by(
            definitions.permissions, self.principal, SERVICE, name, service.tags, action
        )

    def _feast_view(self, definitions: Definitions, name: str, action: str) -> bool:
        view = definitions.views.get(name)
        return view is not None and allowed_by(
            definitions.permissions, self.principal, view.kind, name, view.tags, action
        )

    def _decide(self, book: PlanBook, key: Any, decide: Callable[[], str | None]) -> None:
        of, decided = self._decided
        if of is not book or len(decided) > _MOST_DECISIONS:
            decided = {}
            self._decided = (book, decided)
        missing: Any = decided.get(key, _UNDECIDED)
        if missing is _UNDECIDED:
            missing = decided[key] = decide()
        if missing is not None:
            raise Denied(self.principal, missing)

    # ------------------------------------------------------------ reads

    def check_read(
        self, book: PlanBook, key: Any, plan: ServingPlan, alias: str | None = None
    ) -> None:
        """Lets a request for features pass, or not.

        Args:
            book: The plans of the moment.
            key: What stands for the plan and the alias; is hashed by its identity.
            plan: The request's.
            alias: The name that was asked for in place of the plan's; None for none.

        Raises:
            Denied: It may not be answered.
        """
        of, decided = self._decided
        if of is book and decided.get(key, _UNDECIDED) is None:
            return
        self._decide(book, key, partial(self._missing_read, book.definitions, plan, alias))

    def _missing_read(
        self, definitions: Definitions, plan: ServingPlan, alias: str | None
    ) -> str | None:
        names = [name for name in (alias, plan.service) if name is not None]
        views = tuple(dict.fromkeys(feature.view for feature in plan.served))
        reads = self._granted[Action.read]
        by_name = [g for g in reads if any(map(g.covers_service, names))]
        uncovered = [v for v in views if not any(g.covers_view(v) for g in reads)]
        if names:
            what = f"'read' on feature service {names[0]!r}"
        else:
            what = f"'read' on feature view {_listed(uncovered or views)}"
        missing = self._weighed(
            bool(by_name) or not uncovered,
            what,
            definitions,
            partial(self._feast_reads, definitions, plan, views),
        )
        if missing is not None:
            return missing
        for view in personal_views(definitions, plan):
            granted = [*by_name, *(g for g in reads if g.covers_view(view))]
            if not any(g.pii for g in granted):
                return f"the grant {what}, with 'pii: true'"
        return None

    def _feast_reads(
        self, definitions: Definitions, plan: ServingPlan, views: Iterable[str]
    ) -> bool:
        if plan.service is not None:
            return self._feast_service(definitions, plan.service, READ_ONLINE)
        inputs = [source.view for read in plan.on_demand for source in read.view.sources]
        return all(
            self._feast_view(definitions, view, READ_ONLINE)
            for view in dict.fromkeys([*views, *inputs])
        )

    def instead_of(
        self, failure: RequestFailure, definitions: Definitions, request: Request, alias: bool
    ) -> RequestFailure:
        """What is said of a request that has no plan: as much as may be known.

        Args:
            failure: Why it has none.
            definitions: The state of the registry.
            request: The request.
            alias: Whether it names an alias, of which Feast knows nothing.
        """
        missing: str | None = None
        if request.by_service:
            name = request.selection_bytes.decode("utf-8", "replace")
            missing = self._weighed(
                any(g.covers_service(name) for g in self._granted[Action.read]),
                f"'read' on feature service {name!r}",
                definitions,
                lambda: alias or self._feast_service(definitions, name, READ_ONLINE),
            )
        else:
            for reference in request.features:
                try:
                    view, _, _ = parse_reference(reference)
                except RequestFailure as malformed:
                    return malformed
                missing = self._weighed(
                    any(g.covers_view(view) for g in self._granted[Action.read]),
                    f"'read' on feature view {view!r}",
                    definitions,
                    partial(self._feast_view, definitions, view, READ_ONLINE),
                )
                if missing is not None:
                    break
        return self._told(failure, missing, definitions)

    def _told(
        self, failure: RequestFailure, missing: str | None, definitions: Definitions
    ) -> RequestFailure:
        if missing is not None:
            return Denied(self.principal, missing)
        if isinstance(failure, UnknownName) and not self._knows_all(definitions):
            return failure.without_hint()
        return failure

    # ------------------------------------------------------------ pushes

    def check_push(
        self,
        book: PlanBook,
        destination: Destination,
        by_push_source: bool,
        name: str,
        actions: Sequence[str],
    ) -> None:
        """Lets rows be written, or not.

        Args:
            book: The plans of the moment.
            destination: Where they go.
            by_push_source: Whether the name is a push source's; else a view's.
            name: What was named.
            actions: Feast's names of what is to be done, such as `WRITE_ONLINE`.

        Raises:
            Denied: They may not be written.
        """
        views = [write.name for write in destination.writes]
        key = (by_push_source, name, *actions)
        self._decide(
            book, key,
            partial(self._missing_push, book.definitions, views, by_push_source, name, actions),
        )  # fmt: skip

    def _missing_push(
        self,
        definitions: Definitions,
        views: Sequence[str],
        by_push_source: bool,
        name: str,
        actions: Sequence[str],
    ) -> str | None:
        pushes = self._granted[Action.push]
        kind = "push source" if by_push_source else "feature view"
        return self._weighed(
            all(any(g.covers_view(view) for g in pushes) for view in views),
            f"'push' on {kind} {name!r}",
            definitions,
            lambda: all(
                self._feast_view(definitions, view, action) for view in views for action in actions
            ),
        )

    def instead_of_push(
        self,
        failure: RequestFailure,
        definitions: Definitions,
        by_push_source: bool,
        name: str,
        actions: Sequence[str],
    ) -> RequestFailure:
        """What is said of a push that goes nowhere: as much as may be known.

        Args:
            failure: Why it does.
            definitions: The state of the registry.
            by_push_source, name, actions: As for `check_push`.
        """
        views = [name]
        if by_push_source:
            views = [
                view.name
                for view in definitions.views.values()
                if view.source is not None and view.source.push_source == name
            ]
        missing: str | None
        if views:
            missing = self._missing_push(definitions, views, by_push_source, name, actions)
        elif any(g.of_everything for g in self._granted[Action.push]):
            missing = None
        else:
            missing = f"the grant 'push' on push source {name!r}"
        return self._told(failure, missing, definitions)

    # ------------------------------------------------------------ definitions, and the rest

    def may_describe_service(self, definitions: Definitions, name: str) -> bool:
        """Whether the definition of a feature service may be seen."""
        granted = any(g.covers_service(name) for g in self._granted[Action.describe])
        feast = partial(self._feast_service, definitions, name, DESCRIBE)
        return self._weighed(granted, "", definitions, feast) is None

    def may_describe_view(self, definitions: Definitions, name: str) -> bool:
        """The same of a feature view."""
        granted = any(g.covers_view(name) for g in self._granted[Action.describe])
        feast = partial(self._feast_view, definitions, name, DESCRIBE)
        return self._weighed(granted, "", definitions, feast) is None

    def _knows_all(self, definitions: Definitions) -> bool:
        return any(g.of_everything for g in self._granted[Action.describe]) and (
            self._feast is FeastPermissions.ignore or not definitions.permissions
        )

    def may(self, action: Action) -> bool:
        """Whether anything is granted of an action."""
        return bool(self._granted[action])

    def could(self, action: Action) -> bool:
        """Whether an action may be allowed of anything, be it by Feast's permissions alone."""
        return self.may(action) or self._feast is FeastPermissions.suffice

    def check(self, action: Action) -> None:
        """Lets something be done that is about nothing in particular, or not.

        Raises:
            Denied: It may not be done.
        """
        if not self.may(action):
            raise Denied(self.principal, f"the grant {action.value!r}")


def push_actions(online: bool, offline: bool) -> tuple[str, ...]:
    """Feast's names of what a push does."""
    return (WRITE_ONLINE,) * online + (WRITE_OFFLINE,) * offline


def _listed(names: Sequence[str]) -> str:
    said = ", ".join(map(repr, names[:_MOST_NAMES]))
    return said if len(names) <= _MOST_NAMES else f"{said} and {len(names) - _MOST_NAMES} more"
