"""The file that says who is known how, and who may do what.

    tokens: tokens.yaml               # written by `hotfeast token new`
    jwt:
      jwks: https://issuer.example.com/keys.json    # or a file
      issuer: https://issuer.example.com/
      audience: hotfeast
      algorithms: [RS256]
    roles:
      scorers: ["token:scorer", "role:ml-scorer", "certificate:spiffe://prod/scorer/*"]
    grants:
      - to: [scorers]
        do: [read]
        feature_services: ["reco_*"]
      - to: ["jwt:alice@example.com"]
        do: [read, push]
        feature_views: ["user_*"]
        pii: true

Nothing is allowed that no grant allows. It is checked as a whole when it is read.
"""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hotfeast.server import yaml_text
from hotfeast.server.security.faults import faults_of
from hotfeast.server.security.principals import ANONYMOUS, Principal

EVERYBODY = "*"
"""In a grant: whoever has credentials."""

# Those that need no secret of ours; `none` is not among them.
ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip

# Keys may come from this machine unencrypted.
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
_MEMBERS = ("token", "jwt", "certificate", "role", "group")


class PolicyError(ValueError):
    """A file that says nothing valid; the message names the place and what would be right."""


class Action(StrEnum):
    """What somebody may do."""

    read = "read"
    """Ask for features; implies `describe`."""
    push = "push"
    """Write rows."""
    describe = "describe"
    """See definitions: names, types, owners, tags."""
    traffic = "traffic"
    """List, change and compare aliases."""


class FeastPermissions(StrEnum):
    """What becomes of the `Permission` objects of the registry."""

    require = "require"
    """Where there are any they have to allow it, too."""
    suffice = "suffice"
    """What they allow needs no grant, but for personal data and `traffic`."""
    ignore = "ignore"


_Names = Annotated[list[str], Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class JwtRules(_Strict):
    """How tokens of an issuer are judged."""

    jwks: str
    """URL, or file, of its keys."""
    issuer: str
    audience: str | list[str]
    algorithms: _Names
    leeway: float = Field(default=10.0, ge=0, le=300)
    """Seconds that clocks may differ by."""
    refresh: float = Field(default=300.0, ge=30)
    """Seconds between two fetches of the keys."""
    name: str = "sub"
    """The claim that principals are named by."""
    roles: list[str] = Field(default_factory=lambda: ["roles"])
    """Claims with roles; a dot goes into a claim."""
    groups: list[str] = Field(default_factory=lambda: ["groups"])
    namespaces: list[str] = Field(default_factory=lambda: ["namespaces"])

    @field_validator("algorithms")
    @classmethod
    def _known(cls, said: list[str]) -> list[str]:
        for each in said:
            if each not in ALGORITHMS:
                raise ValueError(f"{each!r} is not allowed; use {', '.join(ALGORITHMS)}")
        return said

    @field_validator("jwks")
    @classmethod
    def _safe(cls, said: str) -> str:
        url = urlsplit(said)
        if (
            "://" in said
            and url.scheme != "https"
            and not (url.scheme == "http" and url.hostname in _LOOPBACK)
        ):
            raise ValueError("keys must come over https://, or from a file")
        return said


class Grant(_Strict):
    """What somebody is allowed.

    Without feature services and views it is all of the project.
    """

    to: _Names
    do: list[Annotated[Action, Field(strict=False)]] = Field(min_length=1)
    projects: list[str] | None = None
    feature_services: _Names | None = None
    feature_views: _Names | None = None
    pii: bool = False
    """Whether features that are tagged as personal data are meant, too."""

    @property
    def of_everything(self) -> bool:
        """Whether it is of all that the project has."""
        return self.feature_services is None and self.feature_views is None

    def does(self, action: Action) -> bool:
        """Whether it is a grant of an action."""
        return action in self.do or (action is Action.describe and Action.read in self.do)

    def covers_service(self, name: str) -> bool:
        """Whether it is about a feature service."""
        return self.of_everything or _matches(name, self.feature_services)

    def covers_view(self, name: str) -> bool:
        """Whether it is about a feature view."""
        return self.of_everything or _matches(name, self.feature_views)


class _File(_Strict):
    tokens: str | None = None
    jwt: JwtRules | None = None
    certificates: bool = True
    roles: dict[str, _Names] = Field(default_factory=dict)
    grants: list[Grant] = Field(default_factory=list)
    feast_permissions: FeastPermissions = Field(default=FeastPermissions.require, strict=False)


class Policy:
    """What a file says.

    Attributes:
        text: The file.
        tokens: The file of tokens; None for no tokens.
        jwt: How JWTs are judged; None for none.
        certificates: Whether clients' certificates say who calls.
        feast_permissions: What becomes of the registry's permissions.
        roles: Patterns of their members, by name.
        grants: All of them.
    """

    def __init__(self, said: _File, folder: Path, text: str) -> None:
        """
        Args:
            said: What the file says.
            folder: What paths in it begin at.
            text: The file.
        """
        self.text = text
        self.tokens = None if said.tokens is None else folder / said.tokens
        self.jwt = said.jwt
        if said.jwt is not None and "://" not in said.jwt.jwks:
            self.jwt = said.jwt.model_copy(update={"jwks": str(folder / said.jwt.jwks)})
        self.certificates = said.certificates
        self.feast_permissions = said.feast_permissions
        self.roles = said.roles
        self.grants = tuple(said.grants)

    @property
    def takes_anonymous(self) -> bool:
        """Whether anything is granted to callers without credentials."""
        return any(ANONYMOUS in self._members(each) for grant in self.grants for each in grant.to)

    def grants_to(self, principal: Principal, project: str) -> tuple[Grant, ...]:
        """What somebody is granted in a project."""
        return tuple(
            grant
            for grant in self.grants
            if (grant.projects is None or _matches(project, grant.projects))
            and any(
                is_member(principal, pattern)
                for each in grant.to
                for pattern in self._members(each)
            )
        )

    def _members(self, name: str) -> Sequence[str]:
        return self.roles.get(name, (name,))


def is_member(principal: Principal, pattern: str) -> bool:
    """Whether a pattern of a policy means somebody.

    Args:
        principal: Who.
        pattern: `*`, `anonymous`, or one of `token:`, `jwt:`, `certificate:`, `role:` and `group:`
            with a name, in which `*`, `?` and `[...]` stand for others.
    """
    if principal.kind == ANONYMOUS:
        return pattern == ANONYMOUS
    if pattern == EVERYBODY:
        return True
    kind, _, name = pattern.partition(":")
    if kind == "role":
        return any(fnmatchcase(role, name) for role in principal.roles)
    if kind == "group":
        return any(fnmatchcase(group, name) for group in principal.groups)
    return kind == principal.kind and any(fnmatchcase(each, name) for each in principal.names)


def read_policy(path: Path) -> Policy:
    """Reads a file.

    Raises:
        PolicyError: It cannot be read, or is not valid.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path} cannot be read: {error}") from None
    return parse_policy(text, path)


def parse_policy(text: str, path: Path) -> Policy:
    """Reads what a file has.

    Args:
        text: YAML.
        path: The file, which paths in it are beside.

    Raises:
        PolicyError: It is not valid.
    """
    try:
        said = yaml_text.load(text)
    except yaml.YAMLError as error:
        raise PolicyError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(said, dict):
        raise PolicyError(f"{path} must have a mapping with 'grants'")
    try:
        file = _File.model_validate(said)
    except ValidationError as error:
        raise PolicyError(f"{path}: {'; '.join(faults_of(error))}") from None
    problem = next(_wrong_members(file), None)
    if problem is not None:
        raise PolicyError(f"{path}: {problem}")
    return Policy(file, path.parent, text)


def _wrong_members(file: _File) -> Iterator[str]:
    for role, members in file.roles.items():
        if ":" in role or role in (EVERYBODY, ANONYMOUS):
            yield f"roles.{role}: a role's name has no colon, and is not '*' or 'anonymous'"
        for number, member in enumerate(members):
            yield from _wrong_member(f"roles.{role}[{number}]", member)
    for number, grant in enumerate(file.grants):
        for at, member in enumerate(grant.to):
            if member not in file.roles:
                yield from _wrong_member(f"grants[{number}].to[{at}]", member)


def _wrong_member(place: str, said: str) -> Iterator[str]:
    kind, colon, name = said.partition(":")
    if said not in (EVERYBODY, ANONYMOUS) and not (colon and name and kind in _MEMBERS):
        yield (
            f"{place}: {said!r} is no role of this file, and none of "
            f"{', '.join(f'{each}:NAME' for each in _MEMBERS)}, anonymous and *"
        )


def _matches(name: str, patterns: Sequence[str] | None) -> bool:
    return patterns is not None and any(fnmatchcase(name, pattern) for pattern in patterns)


def patterns_of(policy: Policy) -> Iterator[tuple[str, str, str]]:
    """What grants name: the place in the file, `feature service` or `feature view`, the pattern."""
    for number, grant in enumerate(policy.grants):
        named: Any = (
            ("feature service", "feature_services", grant.feature_services),
            ("feature view", "feature_views", grant.feature_views),
        )
        for kind, key, patterns in named:
            for at, pattern in enumerate(patterns or ()):
                yield f"grants[{number}].{key}[{at}]", kind, pattern
