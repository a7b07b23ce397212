"""Bearer tokens that people are given: a file has what they hash to, and never a token.

    - name: scorer
      sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
      roles: [ml-scorer]
      expires: 2027-01-31T00:00:00Z

A token is 256 random bits, so that a plain hash of it is as good as one that takes long.
"""

import hashlib
import hmac
import math
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from hotfeast.server import yaml_text
from hotfeast.server.security.faults import faults_of
from hotfeast.server.security.identity import LONGEST_NAME
from hotfeast.server.security.principals import Principal, Verified
from hotfeast.server.whole_files import replace_file

LEAST_CHARACTERS = 32
"""Of a token that is not made here."""

_PREFIX = "hft_"
_BYTES = 32

_Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]


class TokenError(ValueError):
    """A file of tokens that is not valid, or cannot be written; the message says why."""


class Token(BaseModel):
    """What a file has of a token."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: _Name
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    roles: list[_Name] = Field(default_factory=list, max_length=256)
    groups: list[_Name] = Field(default_factory=list, max_length=256)
    namespaces: list[_Name] = Field(default_factory=list, max_length=256)
    expires: datetime | None = None
    """Without a zone it is UTC."""


_TOKENS: TypeAdapter[list[Token]] = TypeAdapter(list[Token])


class Tokens:
    """The tokens of a file."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        """
        Args:
            tokens: All of them.
        """
        self._known = [(bytes.fromhex(token.sha256), _verified(token)) for token in tokens]

    @property
    def principals(self) -> list[Principal]:
        """Whose they are."""
        return [verified.principal for _, verified in self._known]

    def find(self, token: bytes) -> Verified | None:
        """Whose a token is; None for nobody's. Takes as long whichever it is."""
        digest = hashlib.sha256(token).digest()
        found: Verified | None = None
        for known, verified in self._known:
            if hmac.compare_digest(known, digest):
                found = verified
        return found


def _verified(token: Token) -> Verified:
    ends = math.inf
    if token.expires is not None:
        at = token.expires
        ends = (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    principal = Principal(
        "token",
        token.name,
        (token.name,),
        tuple(token.roles),
        tuple(token.groups),
        tuple(token.namespaces),
    )
    return Verified(principal, ends)


def parse_tokens(text: str, path: Path) -> list[Token]:
    """Reads what a file has.

    Args:
        text: YAML; an empty file has no token.
        path: The file, for the error.

    Raises:
        TokenError: It is not valid.
    """
    try:
        said = yaml_text.load(text)
    except yaml.YAMLError as error:
        # Its words quote the file, which may have what should not be in it.
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise TokenError(f"{path} is not valid YAML{where}") from None
    try:
        tokens = _TOKENS.validate_python(said or [])
    except ValidationError as error:
        raise TokenError(f"{path}: {'; '.join(faults_of(error))}") from None
    for what in ("name", "sha256"):
        values = [getattr(token, what) for token in tokens]
        twice = next((number for number, v in enumerate(values) if v in values[:number]), None)
        if twice is not None:
            raise TokenError(f"{path}: [{twice}].{what} is that of another token, too")
    return tokens


def read_tokens(path: Path) -> tuple[Tokens, str]:
    """Reads a file.

    Returns:
        Its tokens, and its text.

    Raises:
        TokenError: It cannot be read, or is not valid.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenError(f"{path} cannot be read: {_words(error)}") from None
    return Tokens(parse_tokens(text, path)), text


def new_token() -> str:
    """A token that nobody has."""
    return _PREFIX + secrets.token_urlsafe(_BYTES)


def hash_of(token: str) -> str:
    """What a file has of a token.

    Raises:
        TokenError: It is too short to be safe.
    """
    if len(token) < LEAST_CHARACTERS:
        raise TokenError(
            f"a token must have at least {LEAST_CHARACTERS} characters, and be random; "
            "'hotfeast token new' makes one"
        )
    return hashlib.sha256(token.encode()).hexdigest()


def add_token(path: Path, token: Token) -> None:
    """Enters a token in a file, which is made if it is not there, for its owner only.

    Raises:
        TokenError: The file is not valid, has one of that name, or cannot be written.
    """
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if token.name in [known.name for known in parse_tokens(text, path)]:
            raise TokenError(f"{path} has a token named {token.name!r} already")
        said: dict[str, Any] = token.model_dump(exclude_defaults=True)
        entry = yaml.safe_dump([said], sort_keys=False, allow_unicode=True)
        if text and not text.endswith("\n"):
            text += "\n"
        replace_file(path, text + entry)
    except OSError as error:
        raise TokenError(f"{path} cannot be written: {_words(error)}") from None


def _words(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
