"""What a policy says of a repository, for people."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from hotfeast.server.errors import RequestFailure, StartFailure
from hotfeast.server.plan import PlanBook
from hotfeast.server.push_plan import Destinations
from hotfeast.server.registry import Definitions, read_definitions
from hotfeast.server.repository import open_repository, reading_registry
from hotfeast.server.security.grants import Denied, Grants, push_actions
from hotfeast.server.security.keys import KeysUnreadable, read_keys
from hotfeast.server.security.policy import (
    Action,
    Policy,
    PolicyError,
    patterns_of,
    read_policy,
)
from hotfeast.server.security.principals import ANONYMOUS, NOBODY, Principal
from hotfeast.server.security.tokens import TokenError, Tokens, read_tokens


class Examined(NamedTuple):
    """A policy that has been looked at.

    Attributes:
        summary: What it has.
        idle: Patterns that nothing in the repository matches, with their places.
    """

    summary: str
    idle: tuple[str, ...]


def _read(auth: Path) -> tuple[Policy, Tokens]:
    try:
        policy = read_policy(auth)
        tokens = Tokens(()) if policy.tokens is None else read_tokens(policy.tokens)[0]
    except (PolicyError, TokenError) as error:
        raise StartFailure(str(error)) from None
    return policy, tokens


def _definitions(repo: Path) -> Definitions:
    store = open_repository(repo)
    with reading_registry(store):
        return read_definitions(store)


def examine(auth: Path, repo: Path) -> Examined:
    """Looks at a policy.

    Args:
        auth: Its file.
        repo: The repository that it is for.

    Raises:
        StartFailure: Something is not valid, or cannot be read.
    """
    policy, tokens = _read(auth)
    keys = 0
    if policy.jwt is not None:
        try:
            keys = len(read_keys(policy.jwt.jwks)[1])
        except KeysUnreadable as error:
            raise StartFailure(f"jwt.jwks: {error}") from None
    definitions = _definitions(repo)
    known = {"feature service": set(definitions.services), "feature view": set(definitions.views)}
    idle = tuple(
        f"{place}: no {kind} matches {pattern!r}"
        for place, kind, pattern in patterns_of(policy)
        if not any(fnmatchcase(name, pattern) for name in known[kind])
    )
    summary = (
        f"{len(policy.grants)} grants, {len(policy.roles)} roles, {len(tokens.principals)} tokens, "
        f"{keys} keys of an issuer, {len(definitions.permissions)} permissions in the registry "
        f"({policy.feast_permissions})"
    )
    return Examined(summary, idle)


def decide(
    auth: Path,
    repo: Path,
    who: str,
    do: str,
    what: str | None,
    roles: Sequence[str] = (),
    groups: Sequence[str] = (),
) -> str | None:
    """Whether somebody may do something.

    Args:
        auth: The policy.
        repo: The repository.
        who: A principal, as policies name them.
        do: The action.
        what: What it is about; None for nothing in particular.
        roles: Of a JWT.
        groups: Likewise.

    Returns:
        What is missing; None where nothing is.

    Raises:
        StartFailure: It cannot be told.
    """
    policy, tokens = _read(auth)
    if do not in list(Action):
        raise StartFailure(f"{do!r} is no action; use {', '.join(Action)}")
    action = Action(do)
    definitions = _definitions(repo)
    grants = Grants(_principal(tokens, who, roles, groups), policy, definitions.project)
    try:
        if action is Action.traffic:
            grants.check(action)
        elif what is None:
            raise StartFailure(f"{do!r} is about something: name it")
        elif action is Action.read:
            _check_read(grants, definitions, what)
        elif action is Action.push:
            _check_push(grants, definitions, what)
        else:
            return _missing_description(grants, definitions, what)
    except Denied as denied:
        return denied.missing
    except RequestFailure as failure:
        raise StartFailure(failure.message) from None
    return None


def _principal(tokens: Tokens, who: str, roles: Sequence[str], groups: Sequence[str]) -> Principal:
    kind, _, name = who.partition(":")
    if who == ANONYMOUS:
        return NOBODY
    if kind == "token":
        found = next((each for each in tokens.principals if each.name == name), None)
        if found is None:
            raise StartFailure(f"the file of tokens has none named {name!r}")
        return found
    if kind in ("jwt", "certificate") and name:
        return Principal(kind, name, (name,), tuple(roles), tuple(groups))
    raise StartFailure(
        f"{who!r} is nobody: use token:NAME, jwt:NAME, certificate:NAME or anonymous"
    )


def _check_read(grants: Grants, definitions: Definitions, what: str) -> None:
    book = PlanBook(definitions, generation=1)
    plan = (
        book.find_list(what.split(","), full_feature_names=True)
        if ":" in what
        else book.find_target(what, True)
    )
    grants.check_read(book, plan.compiled, plan)


def _check_push(grants: Grants, definitions: Definitions, what: str) -> None:
    by_push_source = what not in definitions.views
    destination = Destinations(0).find(definitions, by_push_source, what, online=True)
    book = PlanBook(definitions, generation=1)
    grants.check_push(book, destination, by_push_source, what, push_actions(True, False))


def _missing_description(grants: Grants, definitions: Definitions, what: str) -> str | None:
    if what in definitions.services:
        may = grants.may_describe_service(definitions, what)
    elif what in definitions.views:
        may = grants.may_describe_view(definitions, what)
    else:
        raise StartFailure(f"there is no feature service or view {what!r}")
    return None if may else f"a grant or permission for 'describe' on {what!r}"
