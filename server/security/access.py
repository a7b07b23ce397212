"""Who calls, and what they may do, for every call: looked up, and decided where it is new.

A token is looked at once and then known by its bytes; so is a certificate by its connection. What
they may do is decided once for each plan. The file of the policy, that of the tokens and the keys
are followed while serving; what is not valid leaves those before in force.
"""

import logging
import threading
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import grpc

from hotfeast.hotpath.request import Request
from hotfeast.server.errors import RequestFailure, StartFailure
from hotfeast.server.monitoring.turns import Turns
from hotfeast.server.peers import peer_of
from hotfeast.server.plan import PlanBook, ServingPlan
from hotfeast.server.push_plan import Destination
from hotfeast.server.registry import Definitions
from hotfeast.server.security.grants import Denied, Grants
from hotfeast.server.security.identity import Identity
from hotfeast.server.security.jwts import InvalidToken, verify
from hotfeast.server.security.keys import Keys, KeysPending
from hotfeast.server.security.policy import Action, Policy, PolicyError, read_policy
from hotfeast.server.security.principals import (
    NOBODY,
    Credentials,
    Principal,
    Verified,
    of_certificate,
)
from hotfeast.server.security.refusals import Reason, Refusals
from hotfeast.server.security.tokens import TokenError, Tokens, read_tokens

logger = logging.getLogger(__name__)

LONGEST_TOKEN = 8192
"""Bytes of an `authorization` that are looked at."""

# Tokens, certificates and principals that are remembered; with more the oldest are forgotten.
_MOST_TOKENS = 8192
_MOST_PRINCIPALS = 2048
# Seconds between two looks at the files.
_LOOKS = 1.0
_SCHEME = b"bearer "

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Known(NamedTuple):
    """Credentials that have been looked at."""

    grants: Grants
    ends: float


class AccessState(NamedTuple):
    """Whether inputs, as they are now, are in force.

    Attributes:
        policy: The file of the policy and that of the tokens.
        keys: The keys of an issuer; None where there is none.
    """

    policy: bool
    keys: bool | None


class _Rules:
    """One state of the files, and what was found by it."""

    def __init__(self, policy: Policy, tokens: Tokens | None, keys: Keys | None, project: str):
        self.policy = policy
        self.keys = keys
        self._tokens = tokens
        self._project = project
        self.known: dict[bytes, _Known] = {}
        self._generation = 0
        self.certificates: dict[Identity, Grants] = {}
        self._grants: dict[Principal, Grants] = {}
        self._lock = threading.Lock()
        self.anonymous = self.grants_to(NOBODY) if policy.takes_anonymous else None

    def grants_to(self, principal: Principal) -> Grants:
        """What somebody may do."""
        with self._lock:
            found = self._grants.get(principal)
            if found is None:
                found = Grants(principal, self.policy, self._project)
                _remember(self._grants, principal, found, _MOST_PRINCIPALS)
            return found

    def verify(self, authorization: bytes) -> _Known:
        """Looks at a token.

        Raises:
            InvalidToken: It is not valid.
            KeysPending: That cannot be told yet.
        """
        if len(authorization) > LONGEST_TOKEN:
            raise InvalidToken(f"it is longer than {LONGEST_TOKEN} bytes")
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            raise InvalidToken("authorization must be 'Bearer TOKEN'")
        token = authorization[len(_SCHEME) :].strip()
        generation = self._generation
        verified = self._tokens.find(token) if self._tokens is not None else None
        if verified is None:
            verified = self._verify_jwt(token)
        if verified.ends <= time.time():
            raise InvalidToken("it has expired")
        known = _Known(self.grants_to(verified.principal), verified.ends)
        with self._lock:
            if generation == self._generation:
                _remember(self.known, authorization, known, _MOST_TOKENS)
        return known

    def forget(self) -> None:
        """Has all tokens be looked at again."""
        with self._lock:
            self._generation += 1
            self.known.clear()

    def _verify_jwt(self, token: bytes) -> Verified:
        rules = self.policy.jwt
        if rules is None or self.keys is None or token.count(b".") != 2:
            raise InvalidToken("it is not known")
        try:
            text = token.decode("ascii")
        except UnicodeDecodeError:
            raise InvalidToken("it is no JWT") from None
        return verify(text, rules, self.keys)

    def of_certificate(self, identity: Identity) -> Grants:
        """What the owner of a certificate may do."""
        found = self.certificates.get(identity)
        if found is None:
            found = self.grants_to(of_certificate(identity))
            with self._lock:
                _remember(self.certificates, identity, found, _MOST_PRINCIPALS)
        return found


def _remember(known: dict[K, V], key: K, value: V, most: int) -> None:
    while len(known) >= most:
        del known[next(iter(known))]
    known[key] = value


class Access:
    """Lets calls pass, or not; in any thread."""

    def __init__(
        self,
        path: Path,
        project: str,
        refusals: Refusals,
        tell: Callable[[AccessState], None] = lambda _: None,
    ) -> None:
        """Reads the files.

        Args:
            path: The file of the policy.
            project: The project that is served.
            refusals: Is told of who is refused.
            tell: Is told whether the files are in force, now and after each look.

        Raises:
            StartFailure: One of them is not valid.
        """
        self._path = path
        self._project = project
        self._refusals = refusals
        self._tell = tell
        self._error = ""
        self._seen = b""
        self._started = False
        try:
            self._rules = self._read(None)
        except (PolicyError, TokenError) as error:
            raise StartFailure(f"--auth: {error}") from None
        self._turns = Turns("access-watch", lambda _: self.look(), _LOOKS)
        tell(self.state)

    @property
    def state(self) -> AccessState:
        """Whether the files are in force."""
        keys = self._rules.keys
        return AccessState(not self._error, None if keys is None else keys.valid)

    # ------------------------------------------------------------ who calls

    def knows(self, call: Credentials) -> bool:
        """Whether who calls is known without a look that may take long."""
        authorization = call.authorization
        return authorization is None or authorization in self._rules.known

    def grants(self, call: Credentials | None) -> Grants:
        """What the caller may do.

        Args:
            call: The call; None for one without credentials.

        Raises:
            RequestFailure: UNAUTHENTICATED: it is not known who calls; or UNAVAILABLE: that cannot
                be told yet.
        """
        rules = self._rules
        authorization = None if call is None else call.authorization
        if authorization is not None:
            known = rules.known.get(authorization)
            if known is not None and known.ends <= time.time():
                # So that it is looked at in a thread from now on.
                rules.known.pop(authorization, None)
                known = None
            if known is None:
                known = self._verify(rules, authorization, call)
            return known.grants
        identity = None if call is None else call.identity
        if identity is not None and rules.policy.certificates:
            return rules.certificates.get(identity) or rules.of_certificate(identity)
        if rules.anonymous is not None:
            return rules.anonymous
        self._refusals.note(Reason.missing, "", _peer(call), "no credentials")
        raise RequestFailure(
            grpc.StatusCode.UNAUTHENTICATED,
            "who calls is not known: send the metadata 'authorization: Bearer TOKEN'",
        )

    def _verify(self, rules: _Rules, authorization: bytes, call: Credentials | None) -> _Known:
        try:
            return rules.verify(authorization)
        except KeysPending:
            raise RequestFailure(
                grpc.StatusCode.UNAVAILABLE,
                "the key that the token is signed with is not known yet; try again",
            ) from None
        except InvalidToken as error:
            self._refusals.note(Reason.invalid, "", _peer(call), f"token: {error}")
            raise RequestFailure(
                grpc.StatusCode.UNAUTHENTICATED, f"the token is not valid: {error}"
            ) from None

    # ------------------------------------------------------------ what they may do

    def check_read(
        self,
        grants: Grants,
        call: Credentials | None,
        book: PlanBook,
        key: Any,
        plan: ServingPlan,
        alias: str | None,
    ) -> None:
        """As `Grants.check_read`, and tells of refusals."""
        try:
            grants.check_read(book, key, plan, alias)
        except Denied as denied:
            raise self._told(denied, call) from None

    def instead_of(
        self,
        grants: Grants,
        call: Credentials | None,
        failure: RequestFailure,
        definitions: Definitions,
        request: Request,
        alias: bool,
    ) -> RequestFailure:
        """As `Grants.instead_of`, and tells of refusals."""
        return self._told(grants.instead_of(failure, definitions, request, alias), call)

    def check_push(
        self,
        grants: Grants,
        call: Credentials,
        book: PlanBook,
        destination: Destination,
        by_push_source: bool,
        name: str,
        actions: tuple[str, ...],
    ) -> None:
        """As `Grants.check_push`, and tells of refusals."""
        try:
            grants.check_push(book, destination, by_push_source, name, actions)
        except Denied as denied:
            raise self._told(denied, call) from None

    def instead_of_push(
        self,
        grants: Grants,
        call: Credentials,
        failure: RequestFailure,
        definitions: Definitions,
        by_push_source: bool,
        name: str,
        actions: tuple[str, ...],
    ) -> RequestFailure:
        """As `Grants.instead_of_push`, and tells of refusals."""
        said = grants.instead_of_push(failure, definitions, by_push_source, name, actions)
        return self._told(said, call)

    def check(self, call: Credentials, action: Action) -> Grants:
        """What the caller may do, who may do something that is about nothing in particular.

        Raises:
            RequestFailure: As of `grants`; or PERMISSION_DENIED.
        """
        grants = self.grants(call)
        try:
            grants.check(action)
        except Denied as denied:
            raise self._told(denied, call) from None
        return grants

    def check_method(self, call: Credentials, action: Action | None) -> None:
        """Refuses who may not call a method at all, whatever it asks for.

        Args:
            call: The call.
            action: What the method does; None where whoever is known may call it.

        Raises:
            RequestFailure: As of `grants`; or PERMISSION_DENIED.
        """
        grants = self.grants(call)
        if action is not None and not grants.could(action):
            raise self._told(Denied(grants.principal, f"the grant {action.value!r}"), call)

    def _told(self, failure: RequestFailure, call: Credentials | None) -> RequestFailure:
        if isinstance(failure, Denied):
            self._refusals.note(
                Reason.denied, failure.principal.text, _peer(call), f"lacks {failure.missing}"
            )
        return failure

    # ------------------------------------------------------------ the files

    def start(self) -> None:
        """Starts following the files."""
        self._started = True
        if self._rules.keys is not None:
            self._rules.keys.start()
        self._turns.start()

    def stop(self) -> None:
        """Ends that."""
        self._turns.stop()
        if self._rules.keys is not None:
            self._rules.keys.stop()

    def look(self) -> None:
        """Puts the files in force, if they have changed."""
        try:
            rules = self._read(self._rules)
        except (PolicyError, TokenError, StartFailure) as error:
            if str(error) != self._error:
                self._error = str(error)
                logger.error("the policy before stays in force: %s", error)
        else:
            if rules is not self._rules:
                self._put_in_force(rules)
                logger.info("the policy of %s is in force", self._path)
            self._error = ""
        self._tell(self.state)

    def _put_in_force(self, rules: _Rules) -> None:
        before, self._rules = self._rules, rules
        if before.keys is not None and before.keys is not rules.keys:
            before.keys.stop()
        if rules.keys is not None and rules.keys is not before.keys and self._started:
            rules.keys.start()

    def _read(self, before: _Rules | None) -> _Rules:
        """The files' rules; those before where nothing has changed.

        Raises:
            PolicyError, TokenError, StartFailure: They are not valid.
        """
        policy = read_policy(self._path)
        tokens, seen = None, policy.text.encode()
        if policy.tokens is not None:
            tokens, text = read_tokens(policy.tokens)
            seen += b"\0" + text.encode()
        if before is not None and seen == self._seen:
            return before
        keys = None
        if policy.jwt is not None:
            same = before is not None and before.policy.jwt == policy.jwt
            if same:
                assert before is not None
                keys = before.keys
            else:
                keys = Keys(policy.jwt.jwks, policy.jwt.refresh, lambda: self._rules.forget())
        self._seen = seen
        return _Rules(policy, tokens, keys, self._project)


def _peer(call: Credentials | None) -> str:
    if call is None:
        return ""
    address = call.address
    return address if isinstance(address, str) else peer_of(address)
