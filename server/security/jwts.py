"""JSON Web Tokens: whose they are, by the keys of their issuer."""

from collections.abc import Mapping, Sequence
from typing import Any

import jwt

from hotfeast.server.security.identity import LONGEST_NAME
from hotfeast.server.security.keys import Keys
from hotfeast.server.security.policy import JwtRules
from hotfeast.server.security.principals import Principal, Verified

# Roles, groups or namespaces of one token.
_MOST_NAMES = 256


class InvalidToken(Exception):
    """A token that is not valid; the message says why, and nothing of its content."""


def verify(token: str, rules: JwtRules, keys: Keys) -> Verified:
    """Whose a token is.

    Args:
        token: What came behind `Bearer`.
        rules: How it is judged.
        keys: Its issuer's.

    Raises:
        InvalidToken: It is not valid.
        KeysPending: That cannot be told yet.
    """
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        raise InvalidToken("it is no JWT") from None
    algorithm, name = header.get("alg"), header.get("kid")
    if algorithm not in rules.algorithms:
        raise InvalidToken("its algorithm is not allowed")
    key = keys.find(name)
    if key is None:
        raise InvalidToken("it is signed with a key that is not known")
    if key.algorithm not in (None, algorithm):
        raise InvalidToken("its algorithm is not that of its key")
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key.key,
            algorithms=[algorithm],
            audience=rules.audience,
            issuer=rules.issuer,
            leeway=rules.leeway,
            options={"require": ["exp", "iss", "aud"]},
        )
    except jwt.ExpiredSignatureError:
        raise InvalidToken("it has expired") from None
    except jwt.ImmatureSignatureError:
        raise InvalidToken("it is not valid yet") from None
    except jwt.InvalidAudienceError:
        raise InvalidToken("it is for another audience") from None
    except jwt.InvalidIssuerError:
        raise InvalidToken("it is of another issuer") from None
    except jwt.MissingRequiredClaimError as error:
        raise InvalidToken(f"it has no claim {error.claim!r}") from None
    except (jwt.PyJWTError, ValueError, TypeError):
        raise InvalidToken("its signature or form is not valid") from None
    who = claim(claims, rules.name)
    if not isinstance(who, str) or not 0 < len(who) <= LONGEST_NAME or not who.isprintable():
        raise InvalidToken(
            f"its claim {rules.name!r} is no name of up to {LONGEST_NAME} characters"
        )
    principal = Principal(
        "jwt",
        who,
        (who,),
        _names(claims, rules.roles),
        _names(claims, rules.groups),
        _names(claims, rules.namespaces),
    )
    return Verified(principal, float(claims["exp"]) + rules.leeway)


def claim(claims: Mapping[str, Any], path: str) -> Any:
    """A claim, by its name or by names with dots between, which go into it; None for none."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def _names(claims: Mapping[str, Any], paths: Sequence[str]) -> tuple[str, ...]:
    """Names that claims have, as lists or with blanks between."""
    names: dict[str, None] = {}
    for path in paths:
        said = claim(claims, path)
        if isinstance(said, str):
            said = said.split()
        if isinstance(said, list):
            names.update(dict.fromkeys(each for each in said if isinstance(each, str)))
    if len(names) > _MOST_NAMES or any(len(name) > LONGEST_NAME for name in names):
        raise InvalidToken(
            f"it has more than {_MOST_NAMES} roles or groups, or one of more than {LONGEST_NAME} "
            "characters"
        )
    return tuple(names)
