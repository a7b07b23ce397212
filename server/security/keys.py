"""The keys that an issuer signs tokens with: a JSON Web Key Set, in step with its file or URL.

Nobody waits for them: a thread fetches, every few minutes and when somebody comes with a key that
is not known, but then not more often than `LEAST_PAUSE`. What cannot be fetched leaves those before
in use.
"""

import http.client
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jwt

from hotfeast.server.errors import StartFailure

logger = logging.getLogger(__name__)

LEAST_PAUSE = 10.0
"""Seconds between two fetches at least."""

# Bytes of the largest set, and the most keys in it.
_LARGEST = 2**20
_MOST_KEYS = 100
# Seconds for one fetch.
_TIMEOUT = 5.0
# Seconds between two looks at a file.
_FILE_LOOKS = 1.0
_ASYMMETRIC = {"RSA", "EC", "OKP"}


class KeysUnreadable(Exception):
    """Why keys cannot be had, in words for the operator."""


class KeysPending(Exception):
    """A key is not known yet: the set is about to be fetched again."""


class Key(NamedTuple):
    """One of them.

    Attributes:
        algorithm: The only one that it is for; None for any that suits it.
        key: The public key, as `jwt.decode` takes it.
    """

    algorithm: str | None
    key: Any


class Keys:
    """A set, in any thread."""

    def __init__(
        self,
        place: str,
        refresh: float,
        changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads the set.

        Args:
            place: Its URL or file.
            refresh: Seconds between two fetches of a URL.
            changed: Is called when other keys are in use.
            clock: Monotonic seconds.

        Raises:
            StartFailure: It cannot be had.
        """
        self.place = place
        self.valid = True
        self._refresh = refresh if "://" in place else _FILE_LOOKS
        self._pause = min(self._refresh, LEAST_PAUSE)
        self._changed = changed
        self._clock = clock
        self._lock = threading.Lock()
        self._stopping = False
        self._wake = threading.Event()
        self._wanted = False
        self._error = ""
        self._tried = clock()
        try:
            self._data, self._keys = read_keys(place)
        except KeysUnreadable as error:
            raise StartFailure(f"jwt.jwks: {error}") from None
        self._thread = threading.Thread(target=self._run, name="jwks", daemon=True)

    def find(self, name: str | None) -> Key | None:
        """A key; None where the set has no such one.

        Args:
            name: Its `kid`; None where a token names none, which suits a set with a single key.

        Raises:
            KeysPending: There may be one in a moment.
        """
        keys = self._keys
        if name is None:
            return next(iter(keys.values())) if len(keys) == 1 else None
        found = keys.get(name)
        if found is None:
            with self._lock:
                if not self._wanted and self._clock() - self._tried >= self._pause:
                    self._wanted = True
                    self._wake.set()
                if self._wanted:
                    raise KeysPending
        return found

    def start(self) -> None:
        """Starts keeping step."""
        self._thread.start()

    def stop(self) -> None:
        """Ends that; a fetch that is under way ends by itself."""
        self._stopping = True
        self._wake.set()

    def look(self) -> None:
        """Reads the set again."""
        try:
            data, keys = read_keys(self.place)
        except KeysUnreadable as error:
            self.valid = False
            if str(error) != self._error:
                self._error = str(error)
                logger.error("the keys before stay in use: %s", error)
        else:
            if self._error:
                logger.info("the keys can be read again: %s", self.place)
            self._error = ""
            self.valid = True
            if data != self._data:
                self._data, self._keys = data, keys
                logger.info("the keys of %s have changed; there are %d", self.place, len(keys))
                self._changed()
        finally:
            with self._lock:
                self._tried = self._clock()
                self._wanted = False

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(self._refresh)
            self._wake.clear()
            if not self._stopping:
                try:
                    self.look()
                except Exception:
                    # Those before stay in use.
                    logger.exception("a look at the keys of %s has failed", self.place)


def read_keys(place: str) -> tuple[bytes, dict[str, Key]]:
    """Reads a set.

    Returns:
        Its bytes, and its keys by name: those that sign, and are no shared secret.

    Raises:
        KeysUnreadable: It cannot be had, or is none.
    """
    data = _fetch(place) if "://" in place else _read(place)
    if len(data) > _LARGEST:
        raise KeysUnreadable(f"{place} is larger than {_LARGEST} bytes")
    try:
        said = json.loads(data)["keys"]
        if not isinstance(said, list) or not all(isinstance(each, dict) for each in said):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise KeysUnreadable(f"{place} is no JSON Web Key Set: it has no list 'keys'") from None
    if len(said) > _MOST_KEYS:
        raise KeysUnreadable(f"{place} has more than {_MOST_KEYS} keys")
    keys: dict[str, Key] = {}
    for each in said:
        if each.get("kty") not in _ASYMMETRIC or each.get("use", "sig") != "sig":
            continue
        try:
            made = jwt.PyJWK.from_dict(each)
        except jwt.PyJWTError:
            # Of a kind that is not known here; the others are of use.
            continue
        algorithm = each.get("alg")
        keys[str(each.get("kid", ""))] = Key(
            algorithm if isinstance(algorithm, str) else None, made.key
        )
    if not keys:
        raise KeysUnreadable(f"{place} has no public key that signs (RSA, EC or OKP)")
    return data, keys


def _read(place: str) -> bytes:
    try:
        with Path(place).open("rb") as file:
            return file.read(_LARGEST + 1)
    except OSError as error:
        raise KeysUnreadable(f"{place} cannot be read: {error.strerror}") from None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """None is followed: the keys are had from where the operator says, or not at all."""
        return


def _fetch(place: str) -> bytes:
    opener = urllib.request.build_opener(_NoRedirects)
    try:
        with opener.open(place, timeout=_TIMEOUT) as answer:
            data: bytes = answer.read(_LARGEST + 1)
            return data
    except urllib.error.HTTPError as error:
        raise KeysUnreadable(f"{place} answers {error.code}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "reason", error)
        raise KeysUnreadable(f"{place} cannot be fetched: {why}") from None
